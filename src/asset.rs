//! Assets (audio, covers and videos) as recorded in the assets table.

use std::{collections::BTreeSet, fmt, str::FromStr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The kind of an asset.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssetKind {
    /// The audio of a clip.
    Audio,
    /// The cover of a clip.
    Image,
    /// The video of a clip.
    Video,
}

impl AssetKind {
    /// All kinds of assets.
    pub const ALL: [Self; 3] = [Self::Audio, Self::Image, Self::Video];

    /// Parses the name of a kind, as written in the tables.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.as_str() == text)
    }

    /// Returns the name of the kind, as used in the tables, in folder names and in `--assets`.
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

/// A set of asset kinds, such as the kinds that a run downloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct AssetKinds(BTreeSet<AssetKind>);

impl AssetKinds {
    /// Whether the set is empty, in which case nothing is downloaded.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a kind to the set.
    pub(crate) fn insert(&mut self, kind: AssetKind) {
        self.0.insert(kind);
    }

    /// Returns the kinds in the set, in a fixed order.
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

    /// Parses a comma-separated list such as `audio,image`, or the word `all` or `none`.
    fn from_str(text: &str) -> Result<Self, String> {
        let names: Vec<&str> = text.split(',').map(str::trim).collect();
        match names.as_slice() {
            ["none"] => return Ok(Self::default()),
            ["all"] => return Ok(Self(AssetKind::ALL.into())),
            _ => {}
        }
        let kind = |name: &&str| {
            AssetKind::parse(name)
                .ok_or_else(|| format!("unknown kind of asset `{name}`; use audio, image, video, all or none"))
        };
        names.iter().map(kind).collect::<Result<_, _>>().map(Self)
    }
}

/// The value of the `status` column in the assets table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AssetStatus {
    /// The file was downloaded completely.
    Ok,
    /// The file could not be downloaded.
    Failed,
    /// The clip has no asset of this kind.
    Skipped,
}

impl AssetStatus {
    const ALL: [Self; 3] = [Self::Ok, Self::Failed, Self::Skipped];

    /// Parses the name of a status, as written in the tables.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    /// Returns the name of the status, as written in the tables.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// An asset of a task and its outcome, as recorded in the journal and the assets table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asset {
    pub(crate) clip_id: Option<String>,
    pub(crate) kind: AssetKind,
    /// The URL as sent by the provider.
    pub(crate) url: Option<String>,
    pub(crate) status: AssetStatus,
    /// The path of the file in the archive, if there is a file.
    pub(crate) path: Option<String>,
    pub(crate) bytes: Option<u64>,
    /// The SHA-256 checksum of the file, in hex.
    pub(crate) sha256: Option<String>,
    /// The MIME type detected from the file's content. For a failed asset, the `Content-Type` that the server sent.
    pub(crate) content_type: Option<String>,
    /// The HTTP status of the last response.
    pub(crate) http_status: Option<u16>,
    /// The number of requests for the asset, not counting redirects.
    pub(crate) attempts: u32,
    /// The reason why there is no file, or a remark about the file.
    pub(crate) error: Option<String>,
    pub(crate) downloaded_at: Option<Timestamp>,
    /// The number of bytes received for the asset, including discarded bytes.
    pub(crate) received: u64,
}

impl Asset {
    /// Creates an asset with a status but without a file.
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
    fn asset_kinds_are_parsed_from_a_list_or_all_or_none() {
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
