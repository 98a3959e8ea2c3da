//! Decompresses response bodies that are encoded with gzip, deflate, Brotli or Zstandard (RFC 9110, section 8.4).
//! Accepts every name for these encodings that browsers and curl accept.

use std::{fmt, io, pin::Pin};

use async_compression::tokio::bufread::{BrotliDecoder, DeflateDecoder, GzipDecoder, ZlibDecoder, ZstdDecoder};
use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt;
use reqwest::{Response, header::CONTENT_ENCODING};
use tokio::io::{AsyncBufRead, AsyncRead, AsyncReadExt, BufReader};
use tokio_util::io::StreamReader;

use crate::http;

/// The value of the `Accept-Encoding` header, which lists all supported encodings.
pub(crate) const ACCEPT_ENCODING: &str = "gzip, deflate, br, zstd";

/// The maximum size of a chunk of decompressed data, in bytes.
const CHUNK_SIZE: usize = 64 << 10;

/// The maximum number of compression layers. Each layer can multiply the size of a body, so a body with more layers
/// than this is rejected as a possible attack.
const MAX_LAYERS: usize = 3;

/// A response body that is read in chunks.
pub(crate) enum Body {
    /// An uncompressed body.
    Plain(Response),
    /// A body that is decompressed while it is read.
    Compressed(Pin<Box<dyn AsyncRead + Send>>),
}

/// The reason why a body could not be read completely.
#[derive(Debug)]
pub(crate) enum BodyError {
    /// The connection failed.
    Connection(reqwest::Error),
    /// The `Content-Encoding` is unsupported, the body does not match it, or the body is truncated.
    Encoding(String),
}

/// A content encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Gzip,
    Deflate,
    Brotli,
    Zstd,
}

impl Body {
    /// Returns the body of a response. An unknown encoding is an error.
    pub(crate) fn from_response(response: Response) -> Result<Self, BodyError> {
        let encodings = encodings(&response)?;
        if encodings.is_empty() {
            return Ok(Self::Plain(response));
        }
        let compressed = StreamReader::new(response.bytes_stream().map_err(io::Error::other));
        let mut reader: Pin<Box<dyn AsyncBufRead + Send>> = Box::pin(compressed);
        for encoding in encodings.into_iter().rev() {
            reader = Box::pin(BufReader::new(encoding.decode(reader)));
        }
        Ok(Self::Compressed(Box::pin(reader)))
    }

    /// Whether the body is compressed. The `Content-Length` and the ranges of a compressed response refer to the
    /// compressed bytes.
    pub(crate) fn is_compressed(&self) -> bool {
        matches!(self, Self::Compressed(_))
    }

    /// Returns the next chunk of the body, or `None` at its end. This method is cancel safe: a cancelled call loses no
    /// bytes.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, BodyError> {
        match self {
            Self::Plain(response) => response.chunk().await.map_err(BodyError::Connection),
            Self::Compressed(reader) => {
                let mut chunk = BytesMut::with_capacity(CHUNK_SIZE);
                let read = reader.read_buf(&mut chunk).await.map_err(BodyError::from)?;
                Ok((read > 0).then(|| chunk.freeze()))
            }
        }
    }
}

impl From<io::Error> for BodyError {
    fn from(error: io::Error) -> Self {
        match error.downcast::<reqwest::Error>() {
            Ok(connection) => Self::Connection(connection),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
                Self::Encoding("the response is truncated".into())
            }
            Err(error) => Self::Encoding(format!("the response does not match its Content-Encoding: {error}")),
        }
    }
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection(error) => f.write_str(&http::root_cause(error)),
            Self::Encoding(reason) => f.write_str(reason),
        }
    }
}

impl Encoding {
    fn parse(name: &str) -> Option<Self> {
        let name = name.to_ascii_lowercase();
        Some(match name.strip_prefix("x-").unwrap_or(&name) {
            "gzip" => Self::Gzip,
            "deflate" => Self::Deflate,
            "br" => Self::Brotli,
            "zstd" => Self::Zstd,
            _ => return None,
        })
    }

    fn decode(self, compressed: Pin<Box<dyn AsyncBufRead + Send>>) -> Pin<Box<dyn AsyncRead + Send>> {
        match self {
            Self::Gzip => {
                let mut decoder = GzipDecoder::new(compressed);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
            Self::Deflate => Box::pin(inflate(compressed)),
            Self::Brotli => Box::pin(BrotliDecoder::new(compressed)),
            Self::Zstd => {
                let mut decoder = ZstdDecoder::new(compressed);
                decoder.multiple_members(true);
                Box::pin(decoder)
            }
        }
    }
}

/// Decodes `deflate` as zlib or as raw deflate, depending on the first two bytes. The HTTP standard requires zlib, but
/// many servers send raw deflate.
fn inflate(mut compressed: Pin<Box<dyn AsyncBufRead + Send>>) -> impl AsyncRead + Send {
    let decoding = async move {
        let mut start = [0; 2];
        let mut read = 0;
        while read < start.len() {
            match compressed.read(start.get_mut(read..).unwrap_or_default()).await? {
                0 => break,
                count => read += count,
            }
        }
        let decoded = io::Cursor::new(start.into_iter().take(read).collect::<Vec<u8>>()).chain(compressed);
        let decoder: Pin<Box<dyn AsyncRead + Send>> =
            if is_zlib(start) { Box::pin(ZlibDecoder::new(decoded)) } else { Box::pin(DeflateDecoder::new(decoded)) };
        Ok::<_, io::Error>(tokio_util::io::ReaderStream::with_capacity(decoder, CHUNK_SIZE))
    };
    StreamReader::new(Box::pin(futures_util::stream::once(decoding).try_flatten()))
}

/// Whether two bytes are a valid zlib header (RFC 1950, section 2.2).
fn is_zlib([method, flags]: [u8; 2]) -> bool {
    method & 0x0f == 8 && u16::from_be_bytes([method, flags]) % 31 == 0
}

/// Values of `Content-Encoding` that servers send with an uncompressed body: `none`, a character set or a transfer
/// encoding. S3 may send `aws-chunked` for an object that was uploaded in chunks.
const IDENTITY: [&str; 9] = ["", "identity", "none", "utf-8", "utf8", "binary", "7bit", "8bit", "aws-chunked"];

fn is_identity(name: &str) -> bool {
    IDENTITY.iter().any(|known| name.eq_ignore_ascii_case(known))
}

/// Returns the encodings of the body in the order in which they were applied.
fn encodings(response: &Response) -> Result<Vec<Encoding>, BodyError> {
    let mut encodings = Vec::new();
    for value in response.headers().get_all(CONTENT_ENCODING) {
        let names = value.to_str().unwrap_or("?").split(',').map(str::trim);
        for name in names.filter(|name| !is_identity(name)) {
            let unknown = || BodyError::Encoding(format!("unsupported Content-Encoding: {}", http::excerpt(name)));
            encodings.push(Encoding::parse(name).ok_or_else(unknown)?);
        }
    }
    if encodings.len() > MAX_LAYERS {
        return Err(BodyError::Encoding(format!("too many layers of Content-Encoding: {}", encodings.len())));
    }
    Ok(encodings)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::{
        Compression,
        write::{DeflateEncoder, GzEncoder, ZlibEncoder},
    };

    use super::*;

    const TEXT: &[u8] = b"{\"code\": 200} and more, and more, and more";

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib() -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    }

    fn raw() -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(TEXT).unwrap();
        encoder.finish().unwrap()
    }

    async fn read(headers: &[&str], body: Vec<u8>) -> Result<Vec<u8>, String> {
        let response = hyper::Response::builder();
        let response = headers.iter().fold(response, |response, value| response.header(CONTENT_ENCODING, *value));
        let mut body = Body::from_response(response.body(body).unwrap().into()).map_err(|error| error.to_string())?;
        let mut decoded = Vec::new();
        while let Some(chunk) = body.chunk().await.map_err(|error| error.to_string())? {
            decoded.extend(chunk);
        }
        Ok(decoded)
    }

    #[tokio::test]
    async fn every_encoding_that_curl_supports_is_decoded() {
        for (headers, body) in [
            (vec![], TEXT.to_vec()),
            (vec!["identity"], TEXT.to_vec()),
            (vec!["none"], TEXT.to_vec()),
            (vec!["UTF-8"], TEXT.to_vec()),
            (vec!["aws-chunked,gzip"], gzip(TEXT)),
            (vec![""], TEXT.to_vec()),
            (vec!["GZIP"], gzip(TEXT)),
            (vec![" x-gzip "], gzip(TEXT)),
            (vec!["gzip"], [gzip(&TEXT[..9]), gzip(&TEXT[9..])].concat()),
            (vec!["gzip, gzip"], gzip(&gzip(TEXT))),
            (vec!["deflate", "gzip"], gzip(&zlib())),
            (vec!["Deflate"], zlib()),
            (vec!["deflate"], raw()),
            (vec!["zstd"], zstd::encode_all(TEXT, 1).unwrap()),
        ] {
            assert_eq!(read(&headers, body).await.as_deref(), Ok(TEXT), "{headers:?}");
        }
    }

    #[tokio::test]
    async fn a_wrong_encoding_or_a_truncated_body_is_an_error() {
        assert!(read(&["gzip"], TEXT.to_vec()).await.unwrap_err().contains("does not match its Content-Encoding"));
        let cut = |body: Vec<u8>| body[..body.len() - 9].to_vec();
        assert_eq!(read(&["gzip"], cut(gzip(TEXT))).await, Err("the response is truncated".into()));
        assert!(read(&["deflate"], cut(zlib())).await.is_err());
        assert!(read(&["rot13"], TEXT.to_vec()).await.unwrap_err().contains("unsupported Content-Encoding: rot13"));
        assert!(
            read(&["gzip, gzip, gzip, gzip"], Vec::new()).await.unwrap_err().contains("layers of Content-Encoding: 4")
        );
    }
}
