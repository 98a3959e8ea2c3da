//! The depth of a check: whether the contents of all, some or none of the files are verified.

use std::str::FromStr;

use serde::Serialize;
use sha2::{Digest, Sha256};

/// The depth of a check, which selects the files whose contents are verified by SHA-256. At every depth, a check also
/// confirms that listed files exist, that media files have the recorded size, and that the rows of different tables are
/// consistent. A check of one slice reports only findings for files in the slice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Depth {
    /// Verifies the contents of all files.
    #[default]
    Full,
    /// Does not verify the contents of any file.
    Quick,
    /// Verifies the contents of a share of the files, selected at random for each check.
    Sample(SampleShare),
    /// Verifies the contents of the files in one slice.
    Slice(Slice),
}

/// A share of the files, as a number greater than 0 and at most 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(transparent)]
pub struct SampleShare(f64);

/// One slice of the files. Every file is in exactly one slice, which depends only on the path of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Slice {
    /// The number of the slice, starting at 1.
    pub index: u32,
    /// The total number of slices.
    #[serde(rename = "of")]
    pub count: u32,
}

impl Depth {
    /// Whether the contents of a file are verified. For [`Depth::Sample`], each call returns a random result.
    pub(super) fn selects(self, path: &str) -> bool {
        match self {
            Self::Full => true,
            Self::Quick => false,
            Self::Sample(SampleShare(share)) => fastrand::f64() < share,
            Self::Slice(slice) => slice.contains(path),
        }
    }

    /// Whether findings for a file are reported: a check of one slice reports only findings for files in the slice.
    pub(super) fn reports(self, path: &str) -> bool {
        match self {
            Self::Slice(slice) => slice.contains(path),
            Self::Full | Self::Quick | Self::Sample(_) => true,
        }
    }
}

impl Slice {
    /// Whether a file is in the slice. The slice is determined by the first eight bytes of the SHA-256 of the file's
    /// path, read as a big-endian number, modulo the number of slices. The slice of a file never changes, so checking a
    /// different slice every night eventually covers all files.
    fn contains(self, path: &str) -> bool {
        let digest = Sha256::digest(path);
        let number = digest.iter().take(8).fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
        number % u64::from(self.count) == u64::from(self.index - 1)
    }
}

impl FromStr for SampleShare {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.strip_suffix('%').unwrap_or(text).parse().ok();
        let percent = percent.filter(|percent| *percent > 0.0 && *percent <= 100.0);
        percent.map(|percent: f64| Self(percent / 100.0)).ok_or_else(|| format!("invalid share `{text}`; use e.g. 10%"))
    }
}

impl SampleShare {
    /// Returns the share as a percentage.
    #[must_use]
    pub fn percent(self) -> f64 {
        self.0 * 100.0
    }
}

impl FromStr for Slice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (index, count) = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?))).unzip();
        match (index, count) {
            (Some(index), Some(count)) if (1..=count).contains(&index) => Ok(Self { index, count }),
            _ => Err(format!("invalid slice `{text}`; use e.g. 3/7 for the third of seven slices")),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_invalid_share_or_slice_is_rejected() {
        for (text, percent) in [("10%", 10.0), ("0.5%", 0.5), ("100", 100.0)] {
            assert!((text.parse::<SampleShare>().unwrap().percent() - percent).abs() < 1e-9);
        }
        for bad in ["", "%", "0%", "101%", "-1%", "NaN", "ten"] {
            assert!(bad.parse::<SampleShare>().is_err(), "{bad}");
        }
        assert_eq!("3/7".parse(), Ok(Slice { index: 3, count: 7 }));
        for bad in ["0/7", "8/7", "3", "3/0", "/", "-1/7", "1/99999999999"] {
            assert!(bad.parse::<Slice>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_slice_of_a_file_is_stable() {
        // The expected slice is the output of `printf tasks/a.parquet | sha256sum | head -c 16`, read as a hexadecimal
        // number, modulo 7, plus 1.
        let count = 7;
        let containing: Vec<u32> =
            (1..=count).filter(|index| Slice { index: *index, count }.contains("tasks/a.parquet")).collect();
        assert_eq!(containing, [5]);
    }

    proptest! {
        #[test]
        fn every_file_is_in_exactly_one_slice(path in "\\PC{0,40}", count in 1_u32..40) {
            let slice = |index| Depth::Slice(Slice { index, count });
            let containing = (1..=count).filter(|index| slice(*index).selects(&path)).count();
            prop_assert_eq!(containing, 1);
        }
    }
}
