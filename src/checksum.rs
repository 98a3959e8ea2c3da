//! Checksums: the SHA-256 of a file, in 64 lower-case hex digits, and its size.

use std::io::{self, Read};

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// Files are read in chunks of this size.
const CHUNK: usize = 256 << 10;

/// A file's checksum and size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Digested {
    /// In hex.
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

/// A running checksum.
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

    /// The number of bytes so far.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The checksum of the bytes so far.
    pub(crate) fn digested(&self) -> Digested {
        let sha256 = format!("{:x}", Bytes::copy_from_slice(&self.digest.clone().finalize()));
        Digested { sha256, bytes: self.bytes }
    }
}

/// The SHA-256 of a text, in hex.
pub(crate) fn sha256(text: impl AsRef<[u8]>) -> String {
    let mut hasher = Hasher::default();
    hasher.update(text.as_ref());
    hasher.digested().sha256
}

/// Reads a file to its end. Blocks.
pub(crate) fn digest(file: &mut impl Read) -> io::Result<Digested> {
    let mut hasher = Hasher::default();
    each_piece(file, |chunk| hasher.update(chunk))?;
    Ok(hasher.digested())
}

/// Calls `take` with one chunk of a file after the other. Blocks.
pub(crate) fn each_piece(file: &mut impl Read, mut take: impl FnMut(&[u8])) -> io::Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(()),
            read => take(chunk.get(..read).unwrap_or_default()),
        }
    }
}
