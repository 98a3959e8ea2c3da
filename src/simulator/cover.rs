//! Generates cover images: small colour patterns in the image formats that the provider uses.

use fastrand::Rng;
use jpeg_encoder::ColorType;

/// The width and height of a cover in pixels.
const IMAGE_SIZE: u16 = 96;

/// Generates a random JPEG image.
pub(super) fn jpeg(rng: &mut Rng) -> Vec<u8> {
    let mut file = Vec::new();
    let encoder = jpeg_encoder::Encoder::new(&mut file, 85);
    encoder.encode(&pattern(rng), IMAGE_SIZE, IMAGE_SIZE, ColorType::Rgb).expect("writing to memory cannot fail");
    file
}

/// Generates a random PNG image.
pub(super) fn png(rng: &mut Rng) -> Vec<u8> {
    let mut file = Vec::new();
    let mut encoder = png::Encoder::new(&mut file, IMAGE_SIZE.into(), IMAGE_SIZE.into());
    encoder.set_color(png::ColorType::Rgb);
    let written = encoder.write_header().and_then(|mut writer| writer.write_image_data(&pattern(rng)));
    written.expect("writing to memory cannot fail");
    file
}

/// Generates the RGB pixels of a random colour pattern, in row-major order.
fn pattern(rng: &mut Rng) -> Vec<u8> {
    let xor_mask = rng.u16(..) & 0x7f;
    let slopes = [(); 3].map(|()| [rng.u16(..256), rng.u16(1..6), rng.u16(1..6)]);
    let points = (0..IMAGE_SIZE).flat_map(|y| (0..IMAGE_SIZE).map(move |x| (x, y)));
    let colours = points
        .flat_map(|(x, y)| slopes.map(|[base, across, down]| (base + x * across + y * down) ^ (x ^ y) & xor_mask));
    colours.map(|colour| (colour & 0xff) as u8).collect()
}
