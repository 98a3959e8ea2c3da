//! Decompresses a list that is compressed with gzip or zstd. The compression format is detected from the first bytes
//! and not from a file name, so that standard input can be compressed too.

use std::{
    cell::Cell,
    io::{self, BufRead, BufReader, Cursor, Read},
};

use flate2::bufread::GzDecoder;

const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Decompresses a stream. Sets `has_trailing_garbage` if bytes after the last gzip member are ignored.
pub(super) fn decompress<'a>(
    mut source: impl BufRead + 'a,
    has_trailing_garbage: &'a Cell<bool>,
) -> io::Result<Box<dyn BufRead + 'a>> {
    let start = source.fill_buf()?;
    if start.starts_with(&GZIP) {
        let members = GzipMembers { member: Some(GzDecoder::new(Box::new(source))), has_trailing_garbage };
        Ok(Box::new(BufReader::new(members)))
    } else if is_zstd(start) {
        Ok(Box::new(BufReader::new(zstd::Decoder::with_buffer(source)?)))
    } else {
        Ok(Box::new(source))
    }
}

/// Whether the input starts with a zstd frame, or with a skippable frame as written by `pzstd` (RFC 8878, sections
/// 3.1.1 and 3.1.2).
fn is_zstd(start: &[u8]) -> bool {
    matches!(start, [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

/// Reads all members of a gzip file. As in `gzip -d`, zero bytes between and after members are treated as padding,
/// and any other data after the last member is ignored with a warning.
struct GzipMembers<'a> {
    member: Option<GzDecoder<Box<dyn BufRead + 'a>>>,
    has_trailing_garbage: &'a Cell<bool>,
}

impl<'a> GzipMembers<'a> {
    fn next_member(&self, rest: Box<dyn BufRead + 'a>) -> io::Result<Option<GzDecoder<Box<dyn BufRead + 'a>>>> {
        let Some(mut rest) = skip_zeros(rest)? else { return Ok(None) };
        let mut start = Vec::new();
        rest.by_ref().take(GZIP.len() as u64).read_to_end(&mut start)?;
        // If only the first byte of the gzip magic number is left, the last member is truncated.
        if !GZIP.starts_with(&start) {
            self.has_trailing_garbage.set(true);
            return Ok(None);
        }
        Ok(Some(GzDecoder::new(Box::new(Cursor::new(start).chain(rest)))))
    }
}

impl Read for GzipMembers<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while let Some(member) = &mut self.member {
            let read = member.read(buffer)?;
            if read > 0 || buffer.is_empty() {
                return Ok(read);
            }
            let Some(ended) = self.member.take() else { break };
            self.member = self.next_member(ended.into_inner())?;
        }
        Ok(0)
    }
}

/// Skips leading zero bytes. Returns the rest of the source, or `None` if the source contains only zero bytes.
fn skip_zeros<R: BufRead>(mut source: R) -> io::Result<Option<R>> {
    loop {
        let start = source.fill_buf()?;
        let (zeros, len) = (start.iter().take_while(|byte| **byte == 0).count(), start.len());
        source.consume(zeros);
        match len {
            0 => return Ok(None),
            _ if zeros < len => return Ok(Some(source)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{Compression, write::GzEncoder};

    use super::*;

    fn gzip(text: &str) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(text.as_bytes()).unwrap();
        encoder.finish().unwrap()
    }

    fn decompressed(bytes: &[u8]) -> (io::Result<String>, bool) {
        let has_trailing_garbage = Cell::new(false);
        let mut text = String::new();
        let read = decompress(Cursor::new(bytes), &has_trailing_garbage)
            .and_then(|mut source| source.read_to_string(&mut text));
        (read.map(|_| text), has_trailing_garbage.get())
    }

    #[test]
    fn gzip_padding_and_zstd_skippable_frames_are_skipped() {
        let padded = [gzip("task_id\n"), vec![0; 700], gzip("t1\n"), vec![0; 9]].concat();
        let frame = zstd::encode_all(&b"task_id\nt1\n"[..], 1).unwrap();
        let skippable = [b"\x50\x2a\x4d\x18\x04\0\0\0abcd".to_vec(), frame].concat();
        for packed in [padded, skippable] {
            let (text, has_trailing_garbage) = decompressed(&packed);
            assert_eq!((text.unwrap().as_str(), has_trailing_garbage), ("task_id\nt1\n", false));
        }
    }

    #[test]
    fn trailing_garbage_is_ignored_and_a_truncated_member_is_an_error() {
        for garbage in [&b"-----BEGIN"[..], b"\0\0x", b"\x1f-"] {
            let (text, was_ignored) = decompressed(&[&gzip("t1\n"), garbage].concat());
            assert_eq!((text.unwrap().as_str(), was_ignored), ("t1\n", true), "{garbage:?}");
        }
        for cut in [&b"\x1f"[..], b"\x1f\x8b", b"\0\x1f\x8b\x08"] {
            assert!(decompressed(&[&gzip("t1\n"), cut].concat()).0.is_err(), "{cut:?}");
        }
    }
}
