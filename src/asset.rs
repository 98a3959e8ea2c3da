//! Assets: audio, covers and videos, as in the assets table.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A kind of asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssetKind {
    /// The music.
    Audio,
    /// The cover.
    Image,
    /// The video.
    Video,
}

impl AssetKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Audio, Self::Image, Self::Video];

    /// Parses a word of the tables.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == word)
    }

    /// The word in the tables, in the names of folders and in `--assets`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Audio => "audio",
            Self::Image => "image",
            Self::Video => "video",
        }
    }
}

impl fmt::Display for AssetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A set of kinds, such as those that a run downloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetKinds(BTreeSet<AssetKind>);

impl AssetKinds {
    /// Whether there is anything to download.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a kind.
    pub(crate) fn insert(&mut self, kind: AssetKind) {
        self.0.insert(kind);
    }

    /// The kinds, in a fixed order.
    pub fn iter(&self) -> impl Iterator<Item = AssetKind> + '_ {
        self.0.iter().copied()
    }
}

impl FromIterator<AssetKind> for AssetKinds {
    fn from_iter<I: IntoIterator<Item = AssetKind>>(kinds: I) -> Self {
        Self(kinds.into_iter().collect())
    }
}

impl FromStr for AssetKinds {
    type Err = String;

    /// Parses a list such as `audio,image`, or `all`, or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let words: Vec<&str> = text.split(',').map(str::trim).collect();
        match words.as_slice() {
            ["none"] => return Ok(Self::default()),
            ["all"] => return Ok(Self(AssetKind::ALL.into())),
            _ => {}
        }
        let kind = |word: &&str| {
            AssetKind::parse(word)
                .ok_or_else(|| format!("unknown kind of asset `{word}`; use audio, image, video, all or none"))
        };
        words.iter().map(kind).collect::<Result<_, _>>().map(Self)
    }
}

/// The `status` of an asset's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssetStatus {
    /// Its file is complete.
    Ok,
    /// It could not be downloaded.
    Failed,
    /// There is none.
    Skipped,
}

impl AssetStatus {
    const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Skipped];

    /// Parses a word of the tables.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The word in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// An asset of a task and its outcome, as in the journal and the assets table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asset {
    pub(crate) clip_id: Option<String>,
    pub(crate) kind: AssetKind,
    /// The URL, as the provider sent it.
    pub(crate) url: Option<String>,
    pub(crate) status: AssetStatus,
    /// The file's path in the archive, if there is a file.
    pub(crate) path: Option<String>,
    pub(crate) bytes: Option<u64>,
    /// In hex.
    pub(crate) sha256: Option<String>,
    /// The type of the bytes, or, of a failed asset, the server's `Content-Type`.
    pub(crate) content_type: Option<String>,
    /// The last one.
    pub(crate) http_status: Option<u16>,
    /// Requests for it, not counting redirects.
    pub(crate) attempts: u32,
    /// The reason why there is no file, or a remark about it.
    pub(crate) error: Option<String>,
    pub(crate) downloaded_at: Option<Timestamp>,
    /// Bytes received for it, discarded ones included.
    pub(crate) received: u64,
}

impl Asset {
    /// An asset with a status and nothing else.
    pub(crate) fn new(clip_id: Option<String>, kind: AssetKind, url: Option<String>, status: AssetStatus) -> Self {
        Self {
            clip_id,
            kind,
            url,
            status,
            path: None,
            bytes: None,
            sha256: None,
            content_type: None,
            http_status: None,
            attempts: 0,
            error: None,
            downloaded_at: None,
            received: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_a_list_or_all_or_none() {
        let kinds = |text: &str| text.parse::<AssetKinds>().map(|kinds| kinds.iter().collect::<Vec<_>>());
        assert_eq!(kinds("audio,image"), Ok(vec![AssetKind::Audio, AssetKind::Image]));
        assert_eq!(kinds("video, audio,audio"), Ok(vec![AssetKind::Audio, AssetKind::Video]));
        assert_eq!(kinds("all"), Ok(AssetKind::ALL.to_vec()));
        assert_eq!(kinds("none"), Ok(vec![]));
        for bad in ["", "audio,", "none,audio", "all,audio", "cover"] {
            assert!(kinds(bad).is_err(), "{bad}");
        }
    }
}
