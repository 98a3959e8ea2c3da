//! The attributes of a folder: owner, group, mode, access control lists and other extended
//! attributes. A folder that takes the place of another must not lose them.

use std::{fs, io, path::Path};

/// Gives a folder the owner, group, mode and extended attributes of another.
///
/// # Errors
/// Attributes that this process may not set, or that the file system does not support.
#[cfg(target_os = "linux")]
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown};

    let (wanted, present) = (fs::metadata(from)?, fs::metadata(to)?);
    if (wanted.uid(), wanted.gid()) != (present.uid(), present.gid()) {
        chown(to, Some(wanted.uid()), Some(wanted.gid()))?;
    }
    extended::copy(from, to)?;
    // Last, since a new owner clears bits of it.
    fs::set_permissions(to, wanted.permissions())
}

/// Elsewhere no folder takes the place of another.
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

    /// Attributes by name.
    type Attributes = BTreeMap<CString, Vec<u8>>;

    pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
        let (wanted, present) = (read(from)?, read(to)?);
        for name in present.keys().filter(|name| !wanted.contains_key(*name)) {
            removexattr(to, name.as_c_str())?;
        }
        for (name, value) in wanted.iter().filter(|(name, value)| present.get(*name) != Some(value)) {
            setxattr(to, name.as_c_str(), value, XattrFlags::empty())?;
        }
        Ok(())
    }

    /// All attributes; none on a file system that holds none.
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
