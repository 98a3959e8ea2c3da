//! Detects file types by content. HTTP headers and file names are ignored, because an error page may have status 200
//! and a file name may have the wrong extension. This module performs no I/O.

use crate::asset::AssetKind;

/// The number of leading bytes that are needed to detect the type of a file.
pub(crate) const SNIFF_LENGTH: u64 = 4096;

/// A detected file type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Content {
    /// The file extension.
    pub(crate) extension: &'static str,
    /// The MIME type.
    pub(crate) mime: &'static str,
}

/// The possible file extensions of an asset kind.
pub(crate) fn extensions(kind: AssetKind) -> &'static [&'static str] {
    match kind {
        // An audio file may use a container that can also hold video.
        AssetKind::Audio => &[
            "mp3", "wav", "m4a", "opus", "ogg", "flac", "aac", "aiff", "amr", "ape", "dsf", "midi", "mp4", "webm",
            "m4v", "mov", "mkv", "wma", "caf", "au", "wv",
        ],
        AssetKind::Image => &[
            "jpeg", "png", "webp", "gif", "avif", "heif", "bmp", "tif", "jxl", "jxr", "jp2", "ico", "psd", "cr2",
            "ora", "djvu", "dwg",
        ],
        AssetKind::Video => &["mp4", "webm", "m4v", "mov", "mkv", "avi", "wmv", "mpg", "flv"],
    }
}

/// Detects the type of a file from its first bytes. If the content is not of the expected kind, the error describes the
/// content.
pub(crate) fn detect(kind: AssetKind, head: &[u8]) -> Result<Content, String> {
    let found = infer::get(head)
        .map(|found| Content { extension: normalize_extension(found.extension()), mime: found.mime_type() })
        .or_else(|| mp4_with_other_brand(head));
    let found = if kind == AssetKind::Audio { rare_audio(head).or(found) } else { found };
    match found.filter(|found| extensions(kind).contains(&found.extension)) {
        Some(found) => Ok(found),
        None if kind == AssetKind::Audio && is_mpeg_audio(without_padding(head)) => {
            Ok(Content { extension: "mp3", mime: "audio/mpeg" })
        }
        None => Err(describe_unexpected_content(kind, head)),
    }
}

/// Detects audio formats that the `infer` crate does not detect or reports as video. The formats are identified by
/// their magic numbers.
fn rare_audio(head: &[u8]) -> Option<Content> {
    const FORMATS: [(&[u8], &str, &str); 6] = [
        (b"RF64", "wav", "audio/wav"),
        (b"APETAGEX", "mp3", "audio/mpeg"),
        (b"\x30\x26\xb2\x75\x8e\x66\xcf\x11", "wma", "audio/x-ms-wma"),
        (b"caff", "caf", "audio/x-caf"),
        (b".snd", "au", "audio/basic"),
        (b"wvpk", "wv", "audio/wavpack"),
    ];
    let format = FORMATS.iter().find(|(magic, ..)| head.starts_with(magic));
    format.map(|(_, extension, mime)| Content { extension, mime })
}

fn normalize_extension(detected: &'static str) -> &'static str {
    match detected {
        "jpg" => "jpeg",
        "aif" => "aiff",
        other => other,
    }
}

/// Whether the bytes begin with an MPEG audio frame of layer III (ISO/IEC 11172-3, 2.4.1.3). The frame header begins
/// with eleven set bits, followed by a version that is not reserved and the layer bits `01`.
fn is_mpeg_audio(head: &[u8]) -> bool {
    matches!(head, [0xff, second, ..] if second & 0xe6 == 0xe2 && second & 0x18 != 0x08)
}

/// Skips zero padding before the first frame of an MP3 file.
fn without_padding(head: &[u8]) -> &[u8] {
    let zeros = head.iter().take_while(|byte| **byte == 0).count();
    head.get(zeros..).unwrap_or_default()
}

/// Detects a file of the MP4 family (ISO/IEC 14496-12, 4.3) with a brand that the `infer` crate does not recognize,
/// such as `dash`. Some image formats use the same container, with brands from ISO/IEC 23008-12, AVIF and Canon's CR3.
fn mp4_with_other_brand(head: &[u8]) -> Option<Content> {
    let brand = head.get(4..12)?.strip_prefix(b"ftyp")?;
    match brand {
        b"M4A " | b"M4B " | b"M4P " | b"F4A " | b"F4B " => Some(Content { extension: "m4a", mime: "audio/mp4" }),
        b"avif" | b"avis" => Some(Content { extension: "avif", mime: "image/avif" }),
        b"mif1" | b"mif2" | b"msf1" | b"miaf" | b"heic" | b"heix" | b"heim" | b"heis" | b"hevc" | b"hevx" | b"hevm"
        | b"hevs" | b"avci" | b"avcs" | b"j2ki" | b"j2is" | b"jpeg" | b"jpgs" => {
            Some(Content { extension: "heif", mime: "image/heif" })
        }
        b"crx " => None,
        _ if brand.iter().all(|byte| matches!(byte, b' '..=b'~')) => {
            Some(Content { extension: "mp4", mime: "video/mp4" })
        }
        _ => None,
    }
}

fn describe_unexpected_content(kind: AssetKind, head: &[u8]) -> String {
    let text = String::from_utf8_lossy(head);
    let text = text.trim_start_matches('\u{feff}').trim_start();
    let starts_with = |with: &str| text.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    if head.is_empty() {
        "the response is empty".into()
    } else if starts_with("<!doctype html") || starts_with("<html") || starts_with("<head") || starts_with("<body") {
        "an HTML page instead of media".into()
    } else if starts_with("<") {
        format!("an XML document instead of media{}", error_code(text))
    } else if starts_with("{") || starts_with("[") {
        "a JSON document instead of media".into()
    } else {
        format!("not a recognized {kind} format")
    }
}

/// The error code from an object store's error document: `<Error><Code>AccessDenied</Code>…`.
fn error_code(text: &str) -> String {
    let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>")).map(|(code, _)| code);
    match code {
        Some(code) if code.len() <= 40 && code.bytes().all(|byte| byte.is_ascii_alphanumeric()) => format!(" ({code})"),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_are_detected_by_content() {
        use AssetKind::{Audio, Image, Video};
        for (kind, head, extension) in [
            (Audio, b"ID3\x04\0\0\0\0\0\0\0\0".as_slice(), "mp3"),
            (Audio, b"\xff\xfb\x90\x00\0\0\0\0", "mp3"),
            (Audio, b"\xff\xf3\x90\x00\0\0\0\0", "mp3"),
            (Audio, b"\xff\xe2\x90\x00\0\0\0\0", "mp3"),
            (Audio, b"RIFF\0\0\0\0WAVEfmt ", "wav"),
            (Audio, b"OggS\0\x02\0\0", "ogg"),
            (Audio, b"fLaC\0\0\0\x22", "flac"),
            (Audio, b"\0\0\0\x20ftypM4A \0\0\0\0", "m4a"),
            (Audio, b"\0\0\0\x20ftypisom\0\0\0\0", "mp4"),
            (Audio, b"\0\0\0\x20ftypdash\0\0\0\0", "mp4"),
            (Audio, b"\0\0\0\x20ftypM4B \0\0\0\0", "m4a"),
            (Audio, b"\0\0\0\x20ftypF4A \0\0\0\0", "m4a"),
            (Audio, b"MThd\0\0\0\x06", "midi"),
            (Audio, b"RF64\xff\xff\xff\xffWAVEds64", "wav"),
            (Audio, b"APETAGEX\xd0\x07\0\0", "mp3"),
            (Audio, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "wma"),
            (Video, b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9", "wmv"),
            (Audio, b"caff\0\x01\0\0", "caf"),
            (Audio, b".snd\0\0\0\x18", "au"),
            (Audio, b"wvpk\0\0\0\0", "wv"),
            (Audio, b"FORM\0\0\0\0AIFF\0", "aiff"),
            (Audio, b"\xff\xf1\x50\x80\0\0", "aac"),
            (Image, b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf", "heif"),
            (Audio, b"\0\0\0\0\0\xff\xfb\x90\x00\0\0\0\0", "mp3"),
            (Audio, b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x13OpusHead\x01", "opus"),
            (Image, b"\xff\xd8\xff\xe0\0\x10JFIF", "jpeg"),
            (Image, b"\x89PNG\r\n\x1a\n", "png"),
            (Image, b"RIFF\0\0\0\0WEBPVP8 ", "webp"),
            (Video, b"\0\0\0\x20ftypisom\0\0\0\0", "mp4"),
        ] {
            assert_eq!(detect(kind, head).map(|content| content.extension), Ok(extension), "{head:?}");
        }
    }

    #[test]
    fn content_that_is_not_media_is_described() {
        use AssetKind::{Audio, Image, Video};
        for (kind, head, message) in [
            (Audio, b"".as_slice(), "the response is empty"),
            (Audio, b"\n <!DOCTYPE html><html>", "an HTML page instead of media"),
            (Image, b"<html>busy</html>", "an HTML page instead of media"),
            (
                Image,
                b"<?xml version=\"1.0\"?><Error><Code>AccessDenied</Code></Error>",
                "an XML document instead of media (AccessDenied)",
            ),
            (Audio, b"{\"error\":1}", "a JSON document instead of media"),
            (Audio, b"\x89PNG\r\n\x1a\n", "not a recognized audio format"),
            (Image, b"ID3\x04\0\0\0\0\0\0", "not a recognized image format"),
            (Audio, b"\xff\xef\0\0", "not a recognized audio format"),
            (Audio, b"\0\0\0\x18ftypmif1\0\0\0\0mif1miaf", "not a recognized audio format"),
            (Video, b"\0\0\0\x18ftypheis\0\0\0\0mif1heis", "not a recognized video format"),
            (Audio, b"\0\0\0\x18ftypcrx \0\0\0\x01crx isom", "not a recognized audio format"),
            (Audio, b"PK\x03\x04\x14\0\0\0", "not a recognized audio format"),
            (Image, b"\x1f\x8b\x08\0\0\0\0\0", "not a recognized image format"),
            (Audio, b"\0\0\0\0", "not a recognized audio format"),
        ] {
            assert_eq!(detect(kind, head), Err(message.into()), "{head:?}");
        }
    }
}
