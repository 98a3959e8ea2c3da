//! Reads byte ranges of a file, which may be on a disk or in an object store.

use std::{
    fmt,
    fs::File,
    io::{self, BufReader, Read, Seek, SeekFrom},
    sync::Arc,
};

use bytes::Bytes;
use jiff::Timestamp;
use parquet::file::reader::{ChunkReader, Length};

/// A source of bytes that can be read by range. Every call blocks.
pub(crate) trait ReadAt: fmt::Debug + Send + Sync {
    /// Reads bytes at `offset` into `buffer`. Returns the number of bytes read, which is 0 at the end of the source.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// The size of the source in bytes.
    fn size(&self) -> io::Result<u64>;

    /// The time of the last modification, if known.
    fn modified(&self) -> Option<Timestamp>;
}

impl ReadAt for File {
    #[cfg(unix)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::unix::fs::FileExt::read_at(self, buffer, offset)
    }

    #[cfg(windows)]
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        std::os::windows::fs::FileExt::seek_read(self, buffer, offset)
    }

    fn size(&self) -> io::Result<u64> {
        self.metadata().map(|metadata| metadata.len())
    }

    fn modified(&self) -> Option<Timestamp> {
        self.metadata().ok()?.modified().ok()?.try_into().ok()
    }
}

#[cfg(test)]
impl ReadAt for Vec<u8> {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.get(offset as usize..).unwrap_or_default().read(buffer)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn modified(&self) -> Option<Timestamp> {
        None
    }
}

/// An open file with a read position. Clones share the file, but each clone has its own position.
#[derive(Clone, Debug)]
pub(crate) struct RangedFile {
    source: Arc<dyn ReadAt>,
    position: u64,
}

impl RangedFile {
    /// Creates a ranged file for `source`, positioned at the beginning.
    pub(crate) fn new(source: impl ReadAt + 'static) -> Self {
        Self { source: Arc::new(source), position: 0 }
    }

    /// The time of the last modification, if known.
    pub(crate) fn modified(&self) -> Option<Timestamp> {
        self.source.modified()
    }

    fn at(&self, position: u64) -> Self {
        Self { source: self.source.clone(), position }
    }
}

impl Read for RangedFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read_at(buffer, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for RangedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.source.size()?.checked_add_signed(offset),
        };
        self.position = position.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl Length for RangedFile {
    /// Returns 0 if the size cannot be read. Subsequent reads return the error.
    fn len(&self) -> u64 {
        self.source.size().unwrap_or_default()
    }
}

impl ChunkReader for RangedFile {
    type T = BufReader<Self>;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        Ok(BufReader::new(self.at(start)))
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        // Check the range before allocating a buffer, because a damaged footer may specify an arbitrary length.
        if start.checked_add(length as u64).is_none_or(|end| end > self.len()) {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        let mut bytes = vec![0; length];
        self.at(start).read_exact(&mut bytes)?;
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn each_clone_has_an_independent_position() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"0123456789").unwrap();
        let mut one = RangedFile::new(file);
        let mut other = one.clone();
        one.seek(SeekFrom::End(-3)).unwrap();
        assert_eq!((io::read_to_string(&mut one).unwrap().as_str(), one.len()), ("789", 10));
        assert_eq!(io::read_to_string(&mut other).unwrap(), "0123456789");
        assert_eq!(other.get_bytes(2, 3).unwrap(), "234");
        assert!(other.get_bytes(8, 3).is_err(), "a range beyond the end is an error");
        assert!(other.seek(SeekFrom::Current(-11)).is_err());
    }
}
