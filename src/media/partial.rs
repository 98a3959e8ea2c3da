//! Partial files. Received bytes are hashed while they are written to the disk. The next attempt or run resumes the
//! download if the server confirms that the file has not changed.
//!
//! All bytes that a killed process has written remain in the file, but a power loss may lose some of them. The notes
//! beside the file therefore record the ID of the current boot, and after a reboot the download starts over. If the
//! system has no boot IDs, a download can be resumed only by the same process.

#![expect(clippy::disallowed_methods, reason = "partial downloads are always local")]

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Seek, Write},
    path::{Path, PathBuf},
    sync::LazyLock,
};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use url::Url;

use super::{
    content::HEAD,
    rest::{Rest, Validator},
};
use crate::checksum::{self, Digested, Hasher};

static BOOT: LazyLock<String> = LazyLock::new(|| {
    let named = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    named.unwrap_or_else(|_| format!("process {:032x}", fastrand::u128(..)))
});

/// A partial file. All methods that access the disk block.
#[derive(Debug)]
pub(super) struct Partial {
    path: PathBuf,
    url: Url,
    file: File,
    hashed: Hashed,
    mark: Option<Validator>,
}

/// The notes that are stored beside a partial file.
#[derive(Serialize, Deserialize)]
struct Notes {
    url: Url,
    mark: Validator,
    boot: String,
}

impl Partial {
    /// Opens the partial file for a URL. Existing bytes are retained only if they can be resumed.
    pub(super) fn open(path: &Path, url: &Url) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let notes = fs::read(notes_of(path)).ok().and_then(|text| serde_json::from_slice::<Notes>(&text).ok());
        let notes = notes.filter(|notes| notes.url == *url && notes.boot == *BOOT);
        let mark = notes.map(|notes| notes.mark);
        let mut partial = Self { path: path.to_owned(), url: url.clone(), file, hashed: Hashed::default(), mark };
        match partial.mark {
            Some(_) => checksum::each_piece(&mut partial.file, |piece| partial.hashed.update(piece))?,
            None => partial.begin(None)?,
        }
        Ok(partial)
    }

    /// Discards all bytes. With a validator, the new download can be resumed later.
    pub(super) fn begin(&mut self, mark: Option<Validator>) -> io::Result<()> {
        // The notes are removed first and written last, so they never describe the bytes of another file.
        remove(&notes_of(&self.path))?;
        self.file.set_len(0)?;
        self.file.rewind()?;
        self.hashed = Hashed::default();
        self.mark = mark;
        if let Some(mark) = self.mark.clone() {
            let notes = Notes { url: self.url.clone(), mark, boot: BOOT.clone() };
            fs::write(notes_of(&self.path), serde_json::to_vec(&notes).expect("notes have string keys only"))?;
        }
        Ok(())
    }

    /// Appends received bytes to the file.
    pub(super) fn write(&mut self, chunks: &[Bytes]) -> io::Result<()> {
        for chunk in chunks {
            self.file.write_all(chunk)?;
            self.hashed.update(chunk);
        }
        Ok(())
    }

    /// The number of bytes received so far.
    pub(super) fn len(&self) -> u64 {
        self.hashed.hasher.bytes()
    }

    /// The missing part of the file, if the download can be resumed.
    pub(super) fn rest(&self) -> Option<Rest> {
        self.mark.clone().filter(|_| self.len() > 0).map(|mark| Rest { from: self.len(), mark })
    }

    /// The first bytes of the file.
    pub(super) fn head(&self) -> &[u8] {
        &self.hashed.head
    }

    /// Removes the notes and returns the checksum of the complete file.
    pub(super) fn finish(&self) -> io::Result<Digested> {
        remove(&notes_of(&self.path))?;
        Ok(self.hashed.hasher.digested())
    }

    /// Removes the partial file and its notes.
    pub(super) fn discard(path: &Path) -> io::Result<()> {
        remove(&notes_of(path))?;
        remove(path)
    }
}

/// Removes a file if it exists.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn notes_of(path: &Path) -> PathBuf {
    path.with_extension("json")
}

/// The running checksum and the first bytes of a file.
#[derive(Clone, Debug, Default)]
struct Hashed {
    hasher: Hasher,
    head: Vec<u8>,
}

impl Hashed {
    fn update(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        let missing = (HEAD as usize).saturating_sub(self.head.len());
        self.head.extend(bytes.iter().take(missing));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark() -> Validator {
        Validator { validator: "\"v1\"".into(), length: Some(4) }
    }

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn a_download_resumes_only_for_the_same_url_and_with_a_validator() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audio-x.part");
        let mut partial = Partial::open(&path, &url("http://h/x")).unwrap();
        partial.begin(Some(mark())).unwrap();
        partial.write(&[Bytes::from_static(b"ab"), Bytes::from_static(b"c")]).unwrap();
        drop(partial);

        let mut again = Partial::open(&path, &url("http://h/x")).unwrap();
        assert_eq!(again.rest(), Some(Rest { from: 3, mark: mark() }));
        again.write(&[Bytes::from_static(b"d")]).unwrap();
        assert_eq!(again.finish().unwrap(), checksum::digest(&mut b"abcd".as_slice()).unwrap());
        assert_eq!((again.head(), fs::read(&path).unwrap().as_slice()), (b"abcd".as_slice(), b"abcd".as_slice()));

        again.begin(Some(mark())).unwrap();
        again.write(&[Bytes::from_static(b"abc")]).unwrap();
        let other = Partial::open(&path, &url("http://h/y")).unwrap();
        assert_eq!((other.rest(), fs::read(&path).unwrap().len()), (None, 0));

        let mut without = Partial::open(&path, &url("http://h/x")).unwrap();
        without.begin(None).unwrap();
        without.write(&[Bytes::from_static(b"abc")]).unwrap();
        assert_eq!(Partial::open(&path, &url("http://h/x")).unwrap().len(), 0);
    }

    #[test]
    fn a_partial_file_from_another_boot_is_discarded() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audio-x.part");
        let mut partial = Partial::open(&path, &url("http://h/x")).unwrap();
        partial.begin(Some(mark())).unwrap();
        partial.write(&[Bytes::from_static(b"abc")]).unwrap();
        let notes = fs::read_to_string(notes_of(&path)).unwrap().replace(BOOT.trim(), "before");
        fs::write(notes_of(&path), notes).unwrap();
        assert_eq!(Partial::open(&path, &url("http://h/x")).unwrap().len(), 0);
    }
}
