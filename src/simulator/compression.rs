//! Compresses response bodies with the content encodings that real servers use.

use std::io::{self, Write};

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};

use super::faults::Encoding;

impl Encoding {
    /// Returns the value of the `Content-Encoding` header.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::XGzip => "X-GZip",
            Self::Deflate | Self::RawDeflate => "deflate",
            Self::Zstd => "zstd",
            Self::Brotli => "br",
        }
    }

    pub(super) fn compress(self, text: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip | Self::XGzip => {
                let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text)?;
                encoder.finish()
            }
            Self::Deflate => {
                let mut encoder = ZlibEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text)?;
                encoder.finish()
            }
            Self::RawDeflate => {
                let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
                encoder.write_all(text)?;
                encoder.finish()
            }
            Self::Zstd => zstd::encode_all(text, 1),
            Self::Brotli => {
                let mut compressed = Vec::new();
                brotli::BrotliCompress(&mut &*text, &mut compressed, &brotli::enc::BrotliEncoderParams::default())?;
                Ok(compressed)
            }
        }
    }
}
