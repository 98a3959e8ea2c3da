//! Manages partial files. Received bytes are hashed while they are written to the disk. The next attempt or run resumes
//! the download if the server confirms that the file has not changed.
//!
//! If the process is killed, all written bytes remain in the partial file, but a power failure may lose some of them.
//! The resume state beside the partial file therefore contains the ID of the current boot, and after a reboot the
//! download starts over. On a system without boot IDs, only the same process can resume a download.

#![expect(clippy::disallowed_methods, reason = "partial downloads are always local")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, IoSlice, Seek, Write},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    content::SNIFF_LENGTH,
    resume::{MissingRange, Validator},
};
use crate::checksum::{self, FileDigest, Hasher};

static BOOT_ID: LazyLock<String> = LazyLock::new(|| {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_else(|_| format!("process {:032x}", fastrand::u128(..)))
});

/// A partial file. Methods that access the disk are blocking.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    url: Url,
    file: File,
    hash: RunningHash,
    validator: Option<Validator>,
    /// Whether the resume state may exist on the disk.
    has_resume_state: bool,
}

/// The resume state, a JSON file beside the partial file.
#[derive(Serialize, Deserialize)]
struct ResumeState {
    url: Url,
    #[serde(rename = "mark")]
    validator: Validator,
    boot: String,
}

impl Partial {
    /// Opens the partial file for a URL. Existing bytes are kept only if the download can be resumed.
    pub(super) fn open(path: &Path, url: &Url) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let bytes = fs::read(resume_state_path(path));
        let has_resume_state = !bytes.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let state = bytes.ok().and_then(|text| serde_json::from_slice::<ResumeState>(&text).ok());
        let state = state.filter(|state| state.url == *url && state.boot == *BOOT_ID);
        let validator = state.map(|state| state.validator);
        let (path, url, hash) = (path.to_owned(), url.clone(), RunningHash::default());
        let mut partial = Self { path, url, file, hash, validator, has_resume_state };
        match partial.validator {
            Some(_) => checksum::for_each_chunk(&mut partial.file, |piece| partial.hash.update(piece))?,
            None => partial.restart(None)?,
        }
        Ok(partial)
    }

    /// Discards all bytes and sets the validator of the new download. A download without a validator cannot be resumed.
    pub(super) fn restart(&mut self, validator: Option<Validator>) -> io::Result<()> {
        // Remove the resume state before truncating the file, so that the resume state never describes another version
        // of the file.
        self.remove_resume_state()?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hash = RunningHash::default();
        self.validator = validator;
        Ok(())
    }

    /// Appends received bytes to the file. Writes the resume state first, so that the download can be resumed.
    pub(super) fn write(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        self.write_resume_state()?;
        self.append(chunks)
    }

    /// Appends the last bytes to the file, which is then complete and needs no resume state.
    pub(super) fn append(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        write_all(&mut self.file, chunks)?;
        for chunk in chunks {
            self.hash.update(chunk);
        }
        Ok(())
    }

    fn write_resume_state(&mut self) -> io::Result<()> {
        if let Some(validator) = self.validator.clone().filter(|_| !self.has_resume_state) {
            let state = ResumeState { url: self.url.clone(), validator, boot: BOOT_ID.clone() };
            fs::write(
                resume_state_path(&self.path),
                serde_json::to_vec(&state).expect("the resume state has string keys only"),
            )?;
            self.has_resume_state = true;
        }
        Ok(())
    }

    fn remove_resume_state(&mut self) -> io::Result<()> {
        if std::mem::take(&mut self.has_resume_state) { remove(&resume_state_path(&self.path)) } else { Ok(()) }
    }

    /// The number of bytes received so far.
    pub(super) fn len(&self) -> u64 {
        self.hash.hasher.bytes()
    }

    /// The missing part of the file, if the download can be resumed.
    pub(super) fn missing_range(&self) -> Option<MissingRange> {
        self.validator
            .clone()
            .filter(|_| self.len() > 0)
            .map(|validator| MissingRange { offset: self.len(), validator })
    }

    /// The first bytes of the file, from which its type is detected.
    pub(super) fn head(&self) -> &[u8] {
        &self.hash.head
    }

    /// Removes the resume state, and returns the digest of the complete file.
    pub(super) fn finish(&mut self) -> io::Result<FileDigest> {
        self.remove_resume_state()?;
        Ok(self.hash.hasher.digest())
    }

    /// Removes the partial file and its resume state.
    pub(super) fn discard(path: &Path) -> io::Result<()> {
        remove(&resume_state_path(path))?;
        remove(path)
    }
}

/// Writes all chunks with as few calls as possible. The kernel caches one large write in larger units than many small
/// writes, which halves the system time for large files.
fn write_all(file: &mut File, chunks: &[Bytes]) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = chunks.iter().map(|chunk| IoSlice::new(chunk)).collect();
    let mut remaining = slices.as_mut_slice();
    IoSlice::advance_slices(&mut remaining, 0);
    while !remaining.is_empty() {
        match file.write_vectored(remaining) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut remaining, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes a file if it exists.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn resume_state_path(path: &Path) -> PathBuf {
    path.with_extension("json")
}

/// The running checksum and the first bytes of a file.
#[derive(Clone, Debug, Default)]
struct RunningHash {
    hasher: Hasher,
    head: Vec<u8>,
}

impl RunningHash {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        let missing = (SNIFF_LENGTH as usize).saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(missing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn validator() -> Validator {
        Validator { value: "\"v1\"".into(), length: Some(4) }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_download_resumes_only_for_the_same_url_and_with_a_validator() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audio-x.part");
        let mut partial = Partial::open(&path, &url("http://h/x")).unwrap();
        partial.restart(Some(validator())).unwrap();
        partial.write(&[Bytes::from_static(b"ab"), Bytes::from_static(b"c")]).unwrap();
        drop(partial);

        let mut reopened = Partial::open(&path, &url("http://h/x")).unwrap();
        assert_eq!(reopened.missing_range(), Some(MissingRange { offset: 3, validator: validator() }));
        reopened.write(&[Bytes::from_static(b"d")]).unwrap();
        assert_eq!(reopened.finish().unwrap(), checksum::digest(&mut b"abcd".as_slice()).unwrap());
        assert_eq!((reopened.head(), fs::read(&path).unwrap().as_slice()), (b"abcd".as_slice(), b"abcd".as_slice()));

        reopened.restart(Some(validator())).unwrap();
        reopened.write(&[Bytes::from_static(b"abc")]).unwrap();
        let other = Partial::open(&path, &url("http://h/y")).unwrap();
        assert_eq!((other.missing_range(), fs::read(&path).unwrap().len()), (None, 0));

        let mut without_validator = Partial::open(&path, &url("http://h/x")).unwrap();
        without_validator.restart(None).unwrap();
        without_validator.write(&[Bytes::from_static(b"abc")]).unwrap();
        assert_eq!(Partial::open(&path, &url("http://h/x")).unwrap().len(), 0);
    }

    #[test]
    fn a_partial_file_from_another_boot_is_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audio-x.part");
        let mut partial = Partial::open(&path, &url("http://h/x")).unwrap();
        partial.restart(Some(validator())).unwrap();
        partial.write(&[Bytes::from_static(b"abc")]).unwrap();
        let state = fs::read_to_string(resume_state_path(&path)).unwrap().replace(BOOT_ID.trim(), "before");
        fs::write(resume_state_path(&path), state).unwrap();
        assert_eq!(Partial::open(&path, &url("http://h/x")).unwrap().len(), 0);
    }
}
