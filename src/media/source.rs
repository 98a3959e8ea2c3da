//! Whether an address in a document is an asset. Pure.

use url::Url;

use crate::json::Object;

/// Where the upstream provider plays a song that is still being made: not yet the finished file.
const STREAMING_HOST: &str = "audiopipe.suno.ai";

/// What clips say while they are being made.
const UNDER_WAY: [&str; 6] = ["submitted", "queued", "pending", "processing", "running", "streaming"];

/// What a clip says about itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ClipState {
    /// Nothing that speaks against its files.
    Finished,
    /// It is still being made; the word it has for that.
    UnderWay(String),
}

impl ClipState {
    /// Reads the state out of a clip's own object.
    pub(crate) fn of(clip: &str) -> Self {
        let status = Object::parse(clip).and_then(|clip| clip.text("status"));
        match status.filter(|status| UNDER_WAY.contains(&status.as_str())) {
            Some(status) => Self::UnderWay(status),
            None => Self::Finished,
        }
    }
}

/// What an address stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// A file to download.
    File(Url),
    /// No asset, and why.
    Nothing(String),
    /// An asset that cannot be asked for, and why.
    Unusable(String),
}

impl Source {
    /// Reads the address of a clip in that state.
    pub(crate) fn of(address: Option<&str>, clip: &ClipState) -> Self {
        let Some(address) = address.map(str::trim).filter(|address| !address.is_empty()) else {
            return Self::Nothing("the clip has no address for it".into());
        };
        if let ClipState::UnderWay(status) = clip {
            return Self::Nothing(format!("the clip is not finished: its status is {status}"));
        }
        match Url::parse(address) {
            // Without a host before it, too.
            Err(_) if names_nothing(address) => Self::Nothing("the address names no file: None".into()),
            Err(error) => Self::Unusable(format!("the address is no URL: {error}")),
            Ok(url) if !matches!(url.scheme(), "http" | "https") => {
                Self::Unusable(format!("the address is not http or https but {}", url.scheme()))
            }
            Ok(url) if names_nothing(url.path()) => Self::Nothing("the address names no file: None".into()),
            Ok(url) if url.host_str() == Some(STREAMING_HOST) => {
                Self::Nothing("the address is a stream, not the finished file".into())
            }
            Ok(url) => Self::File(url),
        }
    }
}

/// A failed generation has `None` where the file's name should be: `…/None.mp3`, `…/image_None.jpeg`.
fn names_nothing(path: &str) -> bool {
    let file = path.rsplit('/').next().unwrap_or_default();
    let stem = file.split_once('.').map_or(file, |(stem, _)| stem);
    stem == "None" || stem.ends_with("_None")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(address: &str) -> Source {
        Source::of(Some(address), &ClipState::Finished)
    }

    #[test]
    fn what_names_no_file_is_no_asset() {
        for nothing in [
            "",
            "  ",
            "https://cdn1.suno.ai/None.mp3",
            "https://cdn2.suno.ai/image_None.jpeg?x",
            "https://audiopipe.suno.ai/?item_id=1",
            "None.mp3",
            "/None.mp3",
            "None",
        ] {
            assert!(matches!(of(nothing), Source::Nothing(_)), "{nothing}");
        }
        assert!(matches!(Source::of(None, &ClipState::Finished), Source::Nothing(_)));
        let clip = ClipState::of(r#"{"status":"streaming"}"#);
        assert!(matches!(Source::of(Some("https://cdn1.suno.ai/a.mp3"), &clip), Source::Nothing(_)));
    }

    #[test]
    fn what_cannot_be_asked_for_is_said_not_dropped() {
        for unusable in ["file:///etc/passwd", "ftp://h/a.mp3", "data:audio/mpeg,x", "/a.mp3", "cdn1.suno.ai/a.mp3"] {
            assert!(matches!(of(unusable), Source::Unusable(_)), "{unusable}");
        }
    }

    #[test]
    fn any_other_address_is_a_file() {
        for file in ["https://cdn1.suno.ai/a.mp3", " http://h/Nonesuch.mp3 ", "https://h/?file=None.mp3"] {
            assert!(matches!(of(file), Source::File(_)), "{file}");
        }
        for clip in [r#"{"status":"complete"}"#, r#"{"status":"error"}"#, "{}", r#"{"status":7}"#] {
            assert_eq!(ClipState::of(clip), ClipState::Finished, "{clip}");
        }
    }
}
