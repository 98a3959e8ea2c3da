//! Determines whether a URL in a response refers to a downloadable asset. This module performs no I/O.

use url::Url;

use crate::{http::excerpt, json::Object};

/// The host from which suno streams unfinished songs. A stream is not a finished file.
const STREAMING_HOST: &str = "audiopipe.suno.ai";

/// The file extensions of streaming playlists (HLS and DASH).
const PLAYLISTS: [&str; 3] = [".m3u8", ".m3u", ".mpd"];

/// The final statuses of a clip. The provider documents only `complete` and `error` for clips, but elsewhere in its API
/// uses the other values in this list as final statuses.
const FINAL_STATUSES: [&str; 7] = ["complete", "completed", "success", "error", "failed", "failure", "timeout"];

/// The state of a clip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClipState {
    /// The generation of the clip has ended, or the clip has no status.
    Ended,
    /// The clip is still being generated. The value is the status of the clip.
    InProgress(String),
}

impl ClipState {
    /// Reads the state from the JSON object of a clip. A clip without a status counts as ended, because its task has
    /// ended.
    pub(crate) fn from_clip(clip: &str) -> Self {
        let status = Object::parse(clip).and_then(|clip| clip.text("status"));
        let has_ended = |status: &str| FINAL_STATUSES.iter().any(|ended| ended.eq_ignore_ascii_case(status));
        match status.filter(|status| !status.trim().is_empty() && !has_ended(status.trim())) {
            Some(status) => Self::InProgress(status),
            None => Self::Ended,
        }
    }
}

/// The scheme of the API's URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

impl Scheme {
    /// The scheme of a URL.
    pub(crate) fn from_url(url: &Url) -> Self {
        if url.scheme() == "http" { Self::Http } else { Self::Https }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// The classification of the URL of an asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// The asset is a file to download.
    File(Url),
    /// The clip does not have the asset. The value is the reason.
    Absent(String),
    /// The URL of the asset cannot be requested. The value is the reason.
    Unusable(String),
    /// The asset is not finished yet. The value is the reason.
    InProgress(String),
}

impl Source {
    /// Classifies the URL of an asset, given the state of its clip. A URL without a scheme, such as `//host/path`, uses
    /// the scheme of the API's URL.
    pub(crate) fn classify(url: Option<&str>, clip: &ClipState, scheme: Scheme) -> Self {
        if let ClipState::InProgress(status) = clip {
            return Self::InProgress(format!("the clip is not finished: its status is {}", excerpt(status)));
        }
        let Some(url) = url.map(str::trim).filter(|url| !url.is_empty()) else {
            return Self::Absent("the clip has no URL for this asset".into());
        };
        let parsed =
            if url.starts_with("//") { Url::parse(&format!("{}:{url}", scheme.as_str())) } else { Url::parse(url) };
        match parsed {
            // An invalid URL such as `None.mp3` may be a placeholder for a missing asset.
            Err(_) if is_placeholder(url) => Self::Absent("the URL is a placeholder (None)".into()),
            Err(error) => Self::Unusable(format!("invalid URL: {error}")),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                Self::Unusable(format!("unsupported URL scheme: {}", url.scheme()))
            }
            Ok(url) if is_placeholder(url.path()) => Self::Absent("the URL is a placeholder (None)".into()),
            Ok(url) if is_stream(&url) => Self::InProgress("the URL is a stream, not the finished file".into()),
            Ok(url) => Self::File(url),
        }
    }
}

fn is_stream(url: &Url) -> bool {
    let path = url.path().to_ascii_lowercase();
    url.host_str() == Some(STREAMING_HOST) || PLAYLISTS.iter().any(|extension| path.ends_with(extension))
}

/// Whether a path has `None` in place of a file name, as in `…/None.mp3` or `…/image_None.jpeg`. The provider returns
/// such URLs for failed generations.
fn is_placeholder(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file.split_once('.').map_or(file, |(stem, _)| stem);
    stem == "None" || stem.ends_with("_None")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn classify(url: &str) -> Source {
        Source::classify(Some(url), &ClipState::Ended, Scheme::Http)
    }

    #[test]
    fn a_placeholder_url_is_not_an_asset() {
        for placeholder in [
            "",
            "  ",
            "https://cdn1.suno.ai/None.mp3",
            "https://cdn2.suno.ai/image_None.jpeg?x",
            "None.mp3",
            "/None.mp3",
            "None",
        ] {
            assert!(matches!(classify(placeholder), Source::Absent(_)), "{placeholder}");
        }
        assert!(matches!(Source::classify(None, &ClipState::Ended, Scheme::Http), Source::Absent(_)));
    }

    #[test]
    fn an_asset_in_progress_is_not_downloaded_yet() {
        for status in ["streaming", "queued", "Submitted", "7"] {
            let clip = ClipState::from_clip(&format!(r#"{{"status":"{status}"}}"#));
            assert!(
                matches!(
                    Source::classify(Some("https://cdn1.suno.ai/a.mp3"), &clip, Scheme::Http),
                    Source::InProgress(_)
                ),
                "{status}"
            );
            assert!(matches!(Source::classify(None, &clip, Scheme::Http), Source::InProgress(_)), "{status}");
        }
        assert!(matches!(classify("https://audiopipe.suno.ai/?item_id=1"), Source::InProgress(_)));
    }

    #[test]
    fn an_unusable_url_is_reported() {
        for unusable in ["file:///etc/passwd", "ftp://h/a.mp3", "data:audio/mpeg,x", "/a.mp3", "cdn1.suno.ai/a.mp3"] {
            assert!(matches!(classify(unusable), Source::Unusable(_)), "{unusable}");
        }
    }

    #[test]
    fn any_other_url_is_a_file() {
        for file in ["https://cdn1.suno.ai/a.mp3", " http://h/Nonesuch.mp3 ", "https://h/?file=None.mp3"] {
            assert!(matches!(classify(file), Source::File(_)), "{file}");
        }
        for clip in
            [r#"{"status":"complete"}"#, r#"{"status":"ERROR"}"#, "{}", r#"{"status":""}"#, r#"{"status":null}"#]
        {
            assert_eq!(ClipState::from_clip(clip), ClipState::Ended, "{clip}");
        }
    }
}
