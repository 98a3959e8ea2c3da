//! Compresses response bodies in the encodings that real servers use.

use std::io::{self, Write};

use flate2::{
    Compression,
    write::{DeflateEncoder, GzEncoder, ZlibEncoder},
};

use super::faults::Encoding;

impl Encoding {
    /// The value of the `Content-Encoding` header.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::XGzip => "X-GZip",
            Self::Deflate | Self::RawDeflate => "deflate",
            Self::Zstd => "zstd",
            Self::Brotli => "br",
        }
    }

    /// Compresses the text.
    pub(super) fn pack(self, text: &[u8]) -> io::Result<Vec<u8>> {
        match self {
            Self::Gzip | Self::XGzip => {
                let mut packer = GzEncoder::new(Vec::new(), Compression::fast());
                packer.write_all(text)?;
                packer.finish()
            }
            Self::Deflate => {
                let mut packer = ZlibEncoder::new(Vec::new(), Compression::fast());
                packer.write_all(text)?;
                packer.finish()
            }
            Self::RawDeflate => {
                let mut packer = DeflateEncoder::new(Vec::new(), Compression::fast());
                packer.write_all(text)?;
                packer.finish()
            }
            Self::Zstd => zstd::encode_all(text, 1),
            Self::Brotli => {
                let mut packed = Vec::new();
                brotli::BrotliCompress(&mut &*text, &mut packed, &brotli::enc::BrotliEncoderParams::default())?;
                Ok(packed)
            }
        }
    }
}
