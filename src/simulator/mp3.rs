//! A minimal MP3 encoder that generates a melody of plucked notes.
//!
//! Every frame can be decoded independently. Frames can therefore be repeated, and a file with missing frames still
//! plays. ISO/IEC 11172-3 defines the format, and the comments cite its section numbers.

use fastrand::Rng;

/// The size of a frame in bytes at 32 kbit/s and 48 kHz: 144 · 32000 / 48000. The result is an integer, so no frame
/// needs padding (2.4.3.1).
pub(super) const FRAME_BYTES: usize = 96;

/// The duration of a frame in seconds: two granules of 576 samples each at 48 kHz.
const FRAME_SECONDS: f64 = 2.0 * 576.0 / 48_000.0;

/// The frame header: sync word, MPEG-1, Layer III, no checksum, 32 kbit/s, 48 kHz, no padding, one channel (2.4.1.3).
const HEADER: [u8; 4] = [0xff, 0xfb, 0x14, 0xc0];

/// The gain of a note's first frame, in steps of 1.5 dB. A gain of 210 corresponds to full scale (2.4.3.4).
const INITIAL_GAIN: u32 = 202;

/// Generates the frames of a random melody that lasts at least `seconds` seconds.
pub(super) fn melody(rng: &mut Rng, seconds: f64) -> Vec<u8> {
    let beat = rng.usize(6..14);
    let notes: Vec<u32> = (0..8).map(|_| rng.u32(5..32)).collect();
    let frames = ((seconds / FRAME_SECONDS).ceil() as usize).max(1);
    let beats = notes.iter().cycle().flat_map(|line| (0..beat).map(move |late| (*line, INITIAL_GAIN - late as u32)));
    beats
        .zip([false, true].into_iter().cycle())
        .take(frames)
        .flat_map(|((line, gain), down)| frame(line, gain, down))
        .collect()
}

/// Generates an ID3v2.4 tag with a title.
pub(super) fn tag(title: &str) -> Vec<u8> {
    // The first byte of a text frame specifies the text encoding, which is 3 for UTF-8.
    let text = [&[3], title.as_bytes()].concat();
    let frame = [b"TIT2".as_slice(), &synchsafe(text.len()), &[0, 0], &text].concat();
    [b"ID3\x04\x00\x00".as_slice(), &synchsafe(frame.len()), &frame].concat()
}

/// Encodes a length as a synchsafe integer, which has only seven bits per byte and therefore never contains an MP3 sync
/// word.
fn synchsafe(length: usize) -> [u8; 4] {
    [21, 14, 7, 0].map(|shift| (length >> shift & 0x7f) as u8)
}

/// Encodes a frame with a single spectral line in both granules: a tone of (line + 1/2) · 41.7 Hz.
///
/// The phase of a steady tone advances by a quarter turn per granule. The sign of the spectral line is therefore
/// positive for two granules and negative for the next two.
fn frame(line: u32, gain: u32, negative: bool) -> Vec<u8> {
    let mut bits = BitWriter { bytes: HEADER.into(), unused_bits: 0 };
    let silent = line / 2;
    // The pair that contains the spectral line is (1, 0) or (0, 1), and a sign bit follows it. Each preceding (0, 0)
    // pair takes one bit.
    let (code, width) = if line.is_multiple_of(2) { (0b01, 2) } else { (0b001, 3) };
    // Side information (2.4.1.7): `main_data_begin`, `private_bits` and `scfsi` are all zero.
    bits.put(0, 9 + 5 + 4);
    for _granule in 0..2 {
        // Write `part2_3_length`, `big_values` and `global_gain`, then zeros for `scalefac_compress` and
        // `window_switching_flag`.
        bits.put(silent + width + 1, 12);
        bits.put(silent + 1, 9);
        bits.put(gain, 8);
        bits.put(0, 4 + 1);
        // All three regions use Huffman table 1, so the region boundaries do not matter. The last three bits are flags.
        bits.put(0b00001_00001_00001, 15);
        bits.put(0, 4 + 3 + 3);
    }
    // Main data (2.4.1.7): Huffman table 1 (table 3-B.7) encodes the pair (0, 0) as a single 1 bit.
    for _granule in 0..2 {
        for _pair in 0..silent {
            bits.put(1, 1);
        }
        bits.put(code, width);
        bits.put(u32::from(negative), 1);
    }
    bits.bytes.resize(FRAME_BYTES, 0);
    bits.bytes
}

/// A bit writer that fills each byte from the most significant bit.
struct BitWriter {
    bytes: Vec<u8>,
    /// The number of unused bits in the last byte.
    unused_bits: u32,
}

impl BitWriter {
    fn put(&mut self, value: u32, width: u32) {
        for bit in (0..width).rev() {
            if self.unused_bits == 0 {
                self.bytes.push(0);
                self.unused_bits = 8;
            }
            self.unused_bits -= 1;
            if let Some(last) = self.bytes.last_mut() {
                *last |= ((value >> bit & 1) as u8) << self.unused_bits;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_song_has_complete_frames_and_the_requested_length() {
        let melody = melody(&mut Rng::with_seed(1), 12.0);
        assert_eq!(melody.len(), 500 * FRAME_BYTES);
        assert!(melody.chunks(FRAME_BYTES).all(|frame| frame.starts_with(&HEADER)));
    }

    #[test]
    fn a_frame_is_encoded_as_the_standard_requires() {
        // Line 4 is encoded as two (0, 0) pairs, a (1, 0) pair and a sign bit: the bits 1, 1, 01 and 1 in each granule.
        let frame = frame(4, 210, true);
        let written: Vec<u8> = frame[4 + 17..].iter().copied().take_while(|byte| *byte != 0).collect();
        assert_eq!(written, [0b1101_1110, 0b1100_0000]);
    }
}
