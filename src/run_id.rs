//! The ID of a run, which consists of the start time and a suffix. The suffix distinguishes runs that start in the same
//! millisecond.

use std::fmt;

use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// The maximum length of the suffix of a valid run ID. The suffix of a new ID has six characters.
const MAX_SUFFIX_LENGTH: usize = 16;

/// A run ID in the format `YYYYMMDDTHHMMSSmmmZ-xxxxxx`: the start time in UTC with milliseconds, and a random suffix.
/// Run IDs sort by start time.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RunId(String);

impl RunId {
    /// Creates an ID for a run that starts at `start`.
    #[must_use]
    pub fn new(start: Timestamp) -> Self {
        let start = start.to_zoned_datetime(TimeZone::UTC);
        let suffix: String = (0..6).map(|_| fastrand::alphanumeric().to_ascii_lowercase()).collect();
        Self(format!("{}{:03}Z-{suffix}", start.strftime("%Y%m%dT%H%M%S"), start.millisecond()))
    }

    /// Parses a run ID in exactly the format that [`fmt::Display`] produces. A file belongs to a run only if its name
    /// contains a valid run ID.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let id = Self(text.to_owned());
        let suffix = text.split_once('-')?.1;
        let is_suffix = !suffix.is_empty() && suffix.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        (is_suffix && suffix.len() <= MAX_SUFFIX_LENGTH && id.start().is_some()).then_some(id)
    }

    /// Parses the run ID and the number in `stem`, the name of a part or segment without its extension.
    pub(crate) fn parse_numbered(stem: &str) -> Option<(Self, u32)> {
        let (run_id, number) = stem.rsplit_once('-')?;
        let is_number = number.len() >= 4 && number.bytes().all(|b| b.is_ascii_digit());
        Some((Self::parse(run_id)?, number.parse().ok().filter(|_| is_number)?))
    }

    /// A run ID for tests.
    #[cfg(test)]
    pub(crate) fn example() -> Self {
        Self("20260101T000000000Z-abcdef".into())
    }

    /// The start time of the run, or `None` if the ID does not contain a valid time.
    #[must_use]
    pub fn start(&self) -> Option<Timestamp> {
        let (start, millis) = self.0.split_once('-')?.0.strip_suffix('Z')?.split_at_checked("YYYYMMDDTHHMMSS".len())?;
        let is_digits = |digits: &str| digits.bytes().all(|b| b.is_ascii_digit());
        if millis.len() != 3 || !is_digits(millis) || !is_digits(&start.replacen('T', "", 1)) {
            return None;
        }
        let start = TimeZone::UTC.to_timestamp(DateTime::strptime("%Y%m%dT%H%M%S", start).ok()?).ok()?;
        start.checked_add(SignedDuration::from_millis(millis.parse().ok()?)).ok()
    }

    /// The ID as a string.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RunId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_is_the_utc_start_in_milliseconds_and_a_suffix() {
        let id = RunId::new("2026-11-23T22:17:05.042Z".parse().unwrap()).to_string();
        assert!(id.starts_with("20261123T221705042Z-"), "{id}");
        assert_eq!(RunId::parse(&id).unwrap().as_str(), id);
        assert_eq!(RunId::parse(&id).unwrap().start(), "2026-11-23T22:17:05.042Z".parse().ok());
        for invalid in [
            "../x",
            "r",
            "20261123T221705042Z",
            "20261123T221705042Z-",
            "._20261123T221705042Z-abcdef",
            "20261123T221705042Z-abcdef 2",
            "20261323T221705042Z-abcdef",
            "20261123T221705+42Z-abcdef",
            "20261123T221705042Z-abc-ef",
        ] {
            assert_eq!(RunId::parse(invalid), None, "{invalid}");
        }
    }
}
