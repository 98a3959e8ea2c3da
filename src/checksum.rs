//! Computes the SHA-256 checksums of files, as 64 lower-case hex digits, together with the file sizes.

use std::io::{self, Read};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// The size in bytes of the chunks in which files are read.
const CHUNK_SIZE: usize = 256 << 10;

/// The checksum and size of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FileDigest {
    /// The SHA-256 checksum of the file, in hex.
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// Computes a checksum incrementally.
#[derive(Clone, Debug, Default)]
pub(crate) struct Hasher {
    digest: Sha256,
    bytes: u64,
}

impl Hasher {
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.bytes += bytes.len() as u64;
    }

    /// Returns the number of bytes hashed so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Returns the checksum and the size of the data hashed so far.
    pub(crate) fn digest(&self) -> FileDigest {
        let sha256 = format!("{:x}", Bytes::copy_from_slice(&self.digest.clone().finalize()));
        FileDigest { sha256, bytes: self.bytes }
    }
}

/// Returns the SHA-256 checksum of a string or byte slice, in hex.
pub(crate) fn sha256(text: impl AsRef<[u8]>) -> String {
    let mut hasher = Hasher::default();
    hasher.update(text.as_ref());
    hasher.digest().sha256
}

/// Computes the checksum of a file. Blocks the current thread.
pub(crate) fn digest(file: &mut impl Read) -> io::Result<FileDigest> {
    let mut hasher = Hasher::default();
    for_each_chunk(file, |chunk| hasher.update(chunk))?;
    Ok(hasher.digest())
}

/// Reads a file in chunks and calls `visit` with each chunk. Blocks the current thread.
pub(crate) fn for_each_chunk(file: &mut impl Read, mut visit: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK_SIZE];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            read => visit(chunk.get(..read).unwrap_or_default()),
        }
    }
}
