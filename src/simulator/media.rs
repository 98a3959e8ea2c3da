//! Generates the media files of the simulated CDN. The same seed and file name always give the same file.

use std::{iter, ops::Range};

use bytes::Bytes;
use fastrand::Rng;

use super::{cover, documents::hash, faults::FaultPlan, mp3};

/// The default duration of a song in seconds.
const DEFAULT_SONG_SECONDS: f64 = 12.0;

/// The maximum size of a generated chunk in bytes.
pub(super) const CHUNK: u64 = 256 << 10;

/// The `Last-Modified` date of every file variant except [`FileVariant::Changed`].
const MODIFIED: &str = "Wed, 15 Jan 2025 12:00:00 GMT";

/// The `Last-Modified` date of [`FileVariant::Changed`].
const CHANGED_MODIFIED: &str = "Thu, 16 Jan 2025 12:00:00 GMT";

/// The file stem from which every [`FileVariant::Identical`] file is generated, regardless of the requested name.
const IDENTICAL_STEM: &str = "same";

/// The padding that is appended to images and videos. Decoders ignore it.
const ZEROS: &[u8] = &[0; CHUNK as usize];

/// A generated file: a head, followed by a block that repeats until the end of the file. A large file therefore never
/// has to fit in memory.
#[derive(Clone, Debug)]
pub(super) struct File {
    pub(super) content_type: &'static str,
    /// The value of the `ETag` header.
    pub(super) etag: String,
    pub(super) modified: &'static str,
    pub(super) len: u64,
    head: Bytes,
    block: Bytes,
}

/// How a fault changes a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileVariant {
    /// The file is unchanged.
    Original,
    /// All file names with the same extension refer to the same file.
    Identical,
    /// The bytes of the file differ from those of the original file.
    Changed,
    /// The file is this many bytes longer. A song is extended by whole frames.
    Extended(u64),
}

impl File {
    /// Generates the file `name` from the seed. Returns `None` if the CDN has no files with this extension.
    pub(super) fn new(seed: u64, name: &str, variant: FileVariant, faults: &FaultPlan) -> Option<Self> {
        let (stem, kind) = name.rsplit_once('.')?;
        let stem = if variant == FileVariant::Identical { IDENTICAL_STEM } else { stem };
        let seed = if variant == FileVariant::Changed { !seed } else { seed };
        let padding = if let FileVariant::Extended(bytes) = variant { bytes } else { 0 };
        let mut rng = Rng::with_seed(hash(seed, stem));
        let file = match kind {
            "mp3" => song(stem, &mut rng, faults, padding),
            "jpeg" | "jpg" => padded_file("image/jpeg", cover::jpeg(&mut rng), padding),
            "png" => padded_file("image/png", cover::png(&mut rng), padding),
            "mp4" => padded_file("video/mp4", video(stem, &mut rng), padding),
            _ => return None,
        };
        let etag = format!("\"{:016x}\"", hash(seed, &format!("{stem}.{kind} {}", file.len)));
        Some(Self { etag, modified: if variant == FileVariant::Changed { CHANGED_MODIFIED } else { MODIFIED }, ..file })
    }

    /// Returns the bytes in `range` as chunks of at most `max_len` bytes, which are generated lazily.
    pub(super) fn chunks(&self, mut range: Range<u64>, max_len: u64) -> impl Iterator<Item = Bytes> + use<> {
        let file = self.clone();
        iter::from_fn(move || {
            let chunk = file.chunk(&range, max_len);
            range.start += chunk.len() as u64;
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    /// Returns the longest prefix of `range` that is contiguous in memory, limited to `max_len` bytes.
    fn chunk(&self, range: &Range<u64>, max_len: u64) -> Bytes {
        let (source, start) = match range.start.checked_sub(self.head.len() as u64) {
            None => (&self.head, range.start),
            Some(after) => (&self.block, after % self.block.len() as u64),
        };
        let wanted = range.end.min(self.len).saturating_sub(range.start).min(max_len);
        let end = (start + wanted).min(source.len() as u64);
        source.slice(start as usize..end as usize)
    }
}

/// Generates a song: an ID3 tag and a melody. The melody repeats until the song reaches the minimum size in the fault
/// plan.
fn song(title: &str, rng: &mut Rng, faults: &FaultPlan, padding: u64) -> File {
    let melody = mp3::melody(rng, faults.media_seconds.unwrap_or(DEFAULT_SONG_SECONDS));
    let head = mp3::tag(title);
    let min_frame_bytes = faults.media_bytes.unwrap_or(0).saturating_sub(head.len() as u64);
    let frames = (min_frame_bytes.max(melody.len() as u64) + padding).next_multiple_of(mp3::FRAME_BYTES as u64);
    let block = melody.repeat((CHUNK as usize).div_ceil(melody.len()));
    File { block: block.into(), ..padded_file("audio/mpeg", head, frames) }
}

/// Returns a file that contains `bytes`, followed by `padding` zero bytes.
fn padded_file(content_type: &'static str, bytes: Vec<u8>, padding: u64) -> File {
    let (len, head, block) = (bytes.len() as u64 + padding, bytes.into(), Bytes::from_static(ZEROS));
    File { content_type, etag: String::new(), modified: MODIFIED, len, head, block }
}

/// Generates a video that has the boxes of an MP4 file (ISO/IEC 14496-12) but no playable track.
fn video(title: &str, rng: &mut Rng) -> Vec<u8> {
    let mp4_box =
        |kind: &[u8; 4], content: &[u8]| [&(content.len() as u32 + 8).to_be_bytes(), kind.as_slice(), content].concat();
    let frames: Vec<u8> = iter::repeat_with(|| rng.u8(..)).take(4096).collect();
    [mp4_box(b"ftyp", b"isom\x00\x00\x02\x00isommp41"), mp4_box(b"free", title.as_bytes()), mp4_box(b"mdat", &frames)]
        .concat()
}

#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "a test reads and writes files")]
mod tests {
    use super::*;

    fn file(name: &str, variant: FileVariant, faults: &FaultPlan) -> File {
        File::new(1, name, variant, faults).unwrap()
    }

    fn bytes(file: &File, range: Range<u64>) -> Vec<u8> {
        file.chunks(range, u64::MAX).flatten().collect()
    }

    #[test]
    fn a_name_always_gives_the_same_file() {
        let original = FaultPlan::default();
        for kind in ["mp3", "jpeg", "png", "mp4"] {
            let generate = |name, variant| {
                let file = file(&format!("{name}.{kind}"), variant, &original);
                let bytes = bytes(&file, 0..file.len);
                assert_eq!(bytes.len() as u64, file.len);
                (file.etag, bytes)
            };
            assert_eq!(generate("a", FileVariant::Original), generate("a", FileVariant::Original));
            assert_eq!(generate("a", FileVariant::Identical), generate("b", FileVariant::Identical));
            for other in [
                generate("b", FileVariant::Original),
                generate("a", FileVariant::Changed),
                generate("a", FileVariant::Extended(100)),
            ] {
                let original = generate("a", FileVariant::Original);
                assert!(original.0 != other.0 && original.1 != other.1, "{kind}");
            }
        }
        assert!(File::new(1, "a.html", FileVariant::Original, &original).is_none());
    }

    #[test]
    fn a_long_song_has_the_same_bytes_from_any_offset() {
        let long = FaultPlan { media_bytes: Some(1_000_000), media_seconds: Some(0.5), ..FaultPlan::default() };
        let file = file("a.mp3", FileVariant::Original, &long);
        assert!((1_000_000..1_000_000 + mp3::FRAME_BYTES as u64).contains(&file.len));
        let full = bytes(&file, 0..file.len);
        for from in [1, 20, 100, 300_000, 999_999, file.len - 1] {
            assert!(bytes(&file, from..file.len) == full[from as usize..], "{from}");
        }
        assert_eq!(bytes(&file, 10..700_000), full[10..700_000]);
        assert_eq!(bytes(&file, file.len..file.len + 1), b"");
    }

    #[test]
    #[ignore = "needs PyAV and Pillow; run ./tests/run.sh"]
    fn other_programs_decode_every_song_and_cover() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("media")).unwrap();
        let long = FaultPlan { media_bytes: Some(300_000), media_seconds: Some(1.0), ..FaultPlan::default() };
        let original = FaultPlan::default();
        let write = |name: &str, variant, faults| {
            let file = file(name, variant, faults);
            std::fs::write(folder.path().join("media").join(name), bytes(&file, 0..file.len)).unwrap();
        };
        for n in 0..8 {
            for kind in ["mp3", "jpeg", "png", "mp4"] {
                write(&format!("fair-{n}.{kind}"), FileVariant::Original, &original);
                write(&format!("changed-{n}.{kind}"), FileVariant::Changed, &original);
                write(&format!("long-{n}.{kind}"), FileVariant::Extended(1000), &long);
            }
        }
        let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut checker = std::process::Command::new(root.join("target/venv/bin/python"));
        let output = checker.arg(root.join("tests/foreign/media.py")).arg(folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    #[test]
    fn files_start_with_the_magic_bytes_of_their_type() {
        let original = FaultPlan::default();
        for (name, start) in [("a.mp3", b"ID3".as_slice()), ("a.jpg", b"\xff\xd8\xff"), ("a.png", b"\x89PNG\r\n")] {
            assert!(bytes(&file(name, FileVariant::Original, &original), 0..10).starts_with(start), "{name}");
        }
        assert_eq!(file("a.mp3", FileVariant::Original, &original).len / 1000, 48);
    }
}
