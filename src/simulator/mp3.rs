//! An MP3 written by hand: a plucked melody, one note at a time.
//!
//! Every frame can be decoded alone, so that frames can be repeated, and a file that lacks some still plays. The bits
//! are defined in ISO/IEC 11172-3; the comments name its sections.

use fastrand::Rng;

/// The bytes of a frame at 32 kbit/s and 48 kHz, 144 · 32000 / 48000: whole, so none is padded (2.4.3.1).
pub(super) const FRAME: usize = 96;

/// A frame plays two granules of 576 samples.
const FRAME_SECONDS: f64 = 2.0 * 576.0 / 48_000.0;

/// Sync word, MPEG-1, Layer III, no checksum; 32 kbit/s, 48 kHz, no padding; one channel (2.4.1.3).
const HEADER: [u8; 4] = [0xff, 0xfb, 0x14, 0xc0];

/// The gain of a note's first frame; a step is 1.5 dB, and 210 is full scale (2.4.3.4).
const LOUD: u32 = 202;

/// The frames of a random melody, at least this long.
pub(super) fn melody(chance: &mut Rng, seconds: f64) -> Vec<u8> {
    let beat = chance.usize(6..14);
    let notes: Vec<u32> = (0..8).map(|_| chance.u32(5..32)).collect();
    let frames = ((seconds / FRAME_SECONDS).ceil() as usize).max(1);
    let beats = notes.iter().cycle().flat_map(|line| (0..beat).map(move |late| (*line, LOUD - late as u32)));
    beats
        .zip([false, true].into_iter().cycle())
        .take(frames)
        .flat_map(|((line, gain), down)| frame(line, gain, down))
        .collect()
}

/// An ID3v2.4 tag with a title.
pub(super) fn tag(title: &str) -> Vec<u8> {
    // The text begins with its encoding, 3 for UTF-8.
    let text = [&[3], title.as_bytes()].concat();
    let frame = [b"TIT2".as_slice(), &seven_bits(text.len()), &[0, 0], &text].concat();
    [b"ID3\x04\x00\x00".as_slice(), &seven_bits(frame.len()), &frame].concat()
}

/// A length in the tag's encoding: seven bits a byte, so that no byte looks like a sync word.
fn seven_bits(length: usize) -> [u8; 4] {
    [21, 14, 7, 0].map(|shift| (length >> shift & 0x7f) as u8)
}

/// A frame with a single spectral line in both of its granules: a tone of (line + 1/2) · 41.7 Hz.
///
/// The phase of a steady tone advances by a quarter turn per granule: two granules up, then two down.
fn frame(line: u32, gain: u32, down: bool) -> Vec<u8> {
    let mut bits = Bits { bytes: HEADER.into(), free: 0 };
    let silent = line / 2;
    // The line's pair is (1, 0) or (0, 1), then its sign; the pairs before it are a bit each.
    let (code, width) = if line.is_multiple_of(2) { (0b01, 2) } else { (0b001, 3) };
    // Side information (2.4.1.7): main data begins right after it; private bits; no scale factors are shared.
    bits.put(0, 9 + 5 + 4);
    for _granule in 0..2 {
        // Bits of main data, pairs that are not all zero, gain, no bits for scale factors, long blocks.
        bits.put(silent + width + 1, 12);
        bits.put(silent + 1, 9);
        bits.put(gain, 8);
        bits.put(0, 4 + 1);
        // Huffman table 1 for all three regions, so that their bounds do not matter; three flags off.
        bits.put(0b00001_00001_00001, 15);
        bits.put(0, 4 + 3 + 3);
    }
    // Main data (2.4.1.7): Huffman table 1 (table 3-B.7) writes (0, 0) as 1.
    for _granule in 0..2 {
        for _pair in 0..silent {
            bits.put(1, 1);
        }
        bits.put(code, width);
        bits.put(u32::from(down), 1);
    }
    bits.bytes.resize(FRAME, 0);
    bits.bytes
}

/// Bits, the highest of a byte first.
struct Bits {
    bytes: Vec<u8>,
    /// The bits that the last byte has room for.
    free: u32,
}

impl Bits {
    fn put(&mut self, value: u32, width: u32) {
        for place in (0..width).rev() {
            if self.free == 0 {
                self.bytes.push(0);
                self.free = 8;
            }
            self.free -= 1;
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> place & 1) as u8) << self.free;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_melody_has_whole_frames_and_the_requested_length() {
        let melody = melody(&mut Rng::with_seed(1), 12.0);
        assert_eq!(melody.len(), 500 * FRAME);
        assert!(melody.chunks(FRAME).all(|frame| frame.starts_with(&HEADER)));
    }

    #[test]
    fn a_frame_has_the_bits_of_the_standard() {
        // Line 4: two pairs of zeros, then (1, 0) with a sign: 1 1 01 1, in both granules.
        let frame = frame(4, 210, true);
        let written: Vec<u8> = frame[4 + 17..].iter().copied().take_while(|byte| *byte != 0).collect();
        assert_eq!(written, [0b1101_1110, 0b1100_0000]);
    }
}
