//! Copies the owner, group, mode, access control lists and other extended attributes from one folder to another. The
//! staging folder of a swap replaces the table folder, so both folders must have the same attributes.

use std::{fs, io, path::Path};

/// Copies the owner, group, mode and extended attributes of the folder `from` to the folder `to`.
///
/// # Errors
/// Fails if this process is not permitted to set an attribute, or if the file system does not support the attribute.
#[cfg(target_os = "linux")]
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};

    let (source, target) = (fs::metadata(from)?, fs::metadata(to)?);
    if (source.uid(), source.gid()) != (target.uid(), target.gid()) {
        chown(to, Some(source.uid()), Some(source.gid()))?;
    }
    extended::copy(from, to)?;
    // The mode is set last, because changing the owner can clear mode bits.
    fs::set_permissions(to, source.permissions())
}

/// Copies only the permissions. The owner and the extended attributes matter only for the exchange of folders, which is
/// available only on Linux.
#[cfg(not(target_os = "linux"))]
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::set_permissions(to, fs::metadata(from)?.permissions())
}

#[cfg(target_os = "linux")]
mod extended {
    use std::{collections::BTreeMap, ffi::CString, io, path::Path};

    use rustix::{
        fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr},
        io::Errno,
    };

    /// Maps the name of each extended attribute to its value.
    type Attributes = BTreeMap<CString, Vec<u8>>;

    pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
        let (source, target) = (read(from)?, read(to)?);
        for name in target.keys().filter(|name| !source.contains_key(*name)) {
            removexattr(to, name.as_c_str())?;
        }
        for (name, value) in source.iter().filter(|(name, value)| target.get(*name) != Some(value)) {
            setxattr(to, name.as_c_str(), value, XattrFlags::empty())?;
        }
        Ok(())
    }

    /// Reads all extended attributes of a folder. Returns an empty map if the file system does not support extended
    /// attributes.
    fn read(path: &Path) -> io::Result<Attributes> {
        let mut names = vec![0; 64 << 10];
        let length = match listxattr(path, &mut names[..]) {
            Err(Errno::NOTSUP | Errno::NOSYS) => return Ok(Attributes::new()),
            length => length?,
        };
        names.truncate(length);
        let mut attributes = Attributes::new();
        for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
            let name = CString::new(name)?;
            let mut value = vec![0; 64 << 10];
            let length = getxattr(path, name.as_c_str(), &mut value[..])?;
            value.truncate(length);
            attributes.insert(name, value);
        }
        Ok(attributes)
    }
}
