//! Timestamps as stored in the tables: in UTC, with microsecond precision, in the years 1 to 9999.

use std::fmt;

use jiff::{Timestamp, ToSpan, civil::DateTime};

/// A timestamp, in microseconds since 1970-01-01T00:00:00Z.
///
/// The [`Timestamp`] type of jiff is not used, because its range ends one day before the end of the year 9999. The end
/// of the year 9999 is a common value for "never".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MicrosTimestamp(i64);

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);

impl MicrosTimestamp {
    /// Parses an RFC 3339 timestamp and truncates it to microseconds.
    ///
    /// A space may replace the `T`, and the offset may be written as `+0530` or `+05`. A timestamp without an offset is
    /// in UTC. Returns `None` for any other text, such as a date without a time, another ISO 8601 format or an invalid
    /// date. Also returns `None` for a timestamp outside the years 1 to 9999 in UTC.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (civil, rest) = text.split_at_checked("2025-01-15T10:30:00".len())?;
        let is_well_formed = civil.bytes().zip(b"dddd-dd-ddTdd:dd:dd").all(|(byte, shape)| match shape {
            b'd' => byte.is_ascii_digit(),
            b'T' => matches!(byte, b'T' | b't' | b' '),
            _ => byte == *shape,
        });
        let (micros, zone) = fraction(rest)?;
        let offset = offset_seconds(zone)?;
        let civil: DateTime = is_well_formed.then(|| civil.replace(['t', ' '], "T"))?.parse().ok()?;
        let utc = civil.checked_sub(offset.seconds()).ok()?;
        (utc.year() >= 1).then(|| Self(utc.duration_since(EPOCH).as_secs() * 1_000_000 + micros))
    }

    /// Creates a timestamp from the number of microseconds since 1970-01-01T00:00:00Z.
    pub(crate) fn from_microsecond(microseconds: i64) -> Self {
        Self(microseconds)
    }

    /// The number of microseconds since 1970-01-01T00:00:00Z.
    pub(crate) fn as_microsecond(self) -> i64 {
        self.0
    }
}

/// The current time, truncated to microseconds as in the tables.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

impl From<Timestamp> for MicrosTimestamp {
    fn from(time: Timestamp) -> Self {
        Self(time.as_microsecond())
    }
}

impl fmt::Display for MicrosTimestamp {
    /// Formats the timestamp in RFC 3339 format with the suffix `Z`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let civil = EPOCH.checked_add(self.0.microseconds()).map_err(|_| fmt::Error)?;
        write!(f, "{civil}Z")
    }
}

/// Parses the fraction of a second in a string such as `.123456789Z`. Returns the whole microseconds and the rest of
/// the string, which is the offset.
fn fraction(text: &str) -> Option<(i64, &str)> {
    let Some(digits) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = digits.bytes().take_while(u8::is_ascii_digit).count();
    let (digits, zone) = digits.split_at_checked(end).filter(|(digits, _)| !digits.is_empty())?;
    let micros: String = digits.chars().chain("000000".chars()).take(6).collect();
    Some((micros.parse().ok()?, zone))
}

fn offset_seconds(zone: &str) -> Option<i64> {
    if matches!(zone, "" | "Z" | "z") {
        return Some(0);
    }
    let sign = match zone.as_bytes().first()? {
        b'+' => 1,
        b'-' => -1,
        _ => return None,
    };
    let digits = zone.get(1..)?;
    let (hours, minutes) = match digits.split_once(':') {
        Some(both) => both,
        None if digits.len() == 2 => (digits, "00"),
        None => digits.split_at_checked(2)?,
    };
    let number = |digits: &str, limit: i64| {
        let two = digits.len() == 2 && digits.bytes().all(|b| b.is_ascii_digit());
        digits.parse::<i64>().ok().filter(|number| two && *number <= limit)
    };
    Some(sign * (number(hours, 23)? * 3600 + number(minutes, 59)? * 60))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_rfc_3339_in_utc_and_truncated_to_microseconds() {
        for (text, expected) in [
            ("2025-01-15T10:30:00.000Z", Some("2025-01-15T10:30:00Z")),
            ("2025-01-15 10:30:00", Some("2025-01-15T10:30:00Z")),
            ("2025-01-15t10:30:00.123456789z", Some("2025-01-15T10:30:00.123456Z")),
            ("2025-01-15T10:30:00.9999999999999+05:30", Some("2025-01-15T05:00:00.999999Z")),
            ("1969-12-31T23:59:59.5Z", Some("1969-12-31T23:59:59.5Z")),
            ("9999-12-31T23:59:59.999999Z", Some("9999-12-31T23:59:59.999999Z")),
            ("0001-01-01T00:00:00Z", Some("0001-01-01T00:00:00Z")),
            ("2025-01-15T10:30:00-0530", Some("2025-01-15T16:00:00Z")),
            ("2025-01-15T10:30:00+0530", Some("2025-01-15T05:00:00Z")),
            ("2025-01-15T10:30:00+05", Some("2025-01-15T05:30:00Z")),
            ("9999-12-31T23:59:59-01:00", None),
            ("0001-01-01T00:00:00+08:00", None),
            ("0000-01-01T00:00:00+08:00", None),
            ("0000-12-31T23:00:00-02:00", Some("0001-01-01T01:00:00Z")),
            ("2025-01-15T10:30:00+053", None),
            ("2025-01-15", None),
            ("20250115T103000Z", None),
            ("2025-02-30T10:30:00Z", None),
            ("2025-01-15T10:30:00.Z", None),
            ("2025-01-15T10:30:00+5:30", None),
            ("2025-01-15T10:30:00[UTC]", None),
            ("1736937000", None),
            ("", None),
        ] {
            assert_eq!(
                MicrosTimestamp::parse(text).map(|timestamp| timestamp.to_string()).as_deref(),
                expected,
                "{text}"
            );
        }
    }

    proptest! {
        #[test]
        fn no_timestamp_text_causes_a_panic(text in "\\PC*") {
            let _ = MicrosTimestamp::parse(&text);
        }

        #[test]
        fn a_formatted_time_round_trips(micros in -62_135_596_800_000_000_i64..253_402_300_800_000_000) {
            let time = MicrosTimestamp(micros);
            prop_assert_eq!(MicrosTimestamp::parse(&time.to_string()), Some(time));
        }
    }
}
