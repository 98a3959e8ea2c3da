//! Detects the delimiter of a list from a `sep=` line or from the first rows, unless an option sets the delimiter.

use std::cmp::Reverse;

use csv::{ByteRecord, ReaderBuilder};

/// The candidate delimiters, in order of preference.
const CANDIDATES: [u8; 4] = [b',', b';', b'\t', b'|'];

/// Returns the delimiter from a first line such as `sep=;`, which spreadsheet programs write. If a spreadsheet program
/// saved this line as an ordinary row, the line may be quoted or have trailing delimiters.
pub(super) fn parse_sep_line(line: &[u8]) -> Option<u8> {
    let line = match line.strip_prefix(b"\"") {
        Some(quoted) => quoted.strip_suffix(b"\"")?,
        None => line,
    };
    let (name, value) = line.split_at_checked(4)?;
    let delimiter = *value.first()?;
    let is_delimiter = delimiter.is_ascii() && !delimiter.is_ascii_alphanumeric() && delimiter != b'"';
    let is_alone = value.iter().all(|byte| *byte == delimiter);
    (name.eq_ignore_ascii_case(b"sep=") && is_delimiter && is_alone).then_some(delimiter)
}

/// Returns the first candidate delimiter with which the first row of `head` contains the ID column. If no candidate
/// yields the ID column, returns the candidate that splits the first rows into the most fields; ties are resolved in
/// order of preference.
pub(super) fn detect(head: &[u8], has_id_column: impl Fn(&ByteRecord) -> bool) -> u8 {
    let rows = CANDIDATES.map(|delimiter| (delimiter, first_rows(head, delimiter)));
    let with_id_column = rows.iter().find(|(_, rows)| rows.first().is_some_and(&has_id_column));
    let widest = || rows.iter().min_by_key(|(_, rows)| Reverse(rows.iter().map(ByteRecord::len).min()));
    with_id_column.or_else(widest).map_or(b',', |(delimiter, _)| *delimiter)
}

/// Returns the first two rows that are not blank. A single row is not enough to detect the delimiter, because a column
/// name may contain a candidate delimiter; two rows rarely contain the same number of such delimiters by chance.
fn first_rows(head: &[u8], delimiter: u8) -> Vec<ByteRecord> {
    let mut reader = ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(head);
    let rows = reader.byte_records().map_while(Result::ok);
    rows.filter(|row| !super::is_blank(row)).take(2).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sep_line_specifies_one_delimiter() {
        for (line, delimiter) in [
            (&b"sep=;"[..], b';'),
            (b"\"sep=;\"", b';'),
            (b"SEP=,", b','),
            (b"sep=\t", b'\t'),
            (b"sep=||", b'|'),
            (b"sep=,,,", b','),
        ] {
            assert_eq!(parse_sep_line(line), Some(delimiter), "{line:?}");
        }
        for line in [&b"sep="[..], b"sep=;,", b"sep=x", b"separator", b"\"sep=;", b"sep=\xc2\xa7", b"sep=\"", b""] {
            assert_eq!(parse_sep_line(line), None, "{line:?}");
        }
    }

    #[test]
    fn the_delimiter_is_detected_by_column_name_then_by_field_count() {
        let has_id = |row: &ByteRecord| row.iter().any(|title| title == b"id");
        for (head, delimiter) in [
            (&b"id,a;b\n"[..], b','),
            (b"a,b;id\n1,2;t1\n", b';'),
            (b"a|\"b\nc\"|id\n", b'|'),
            (b"a\tb\n1\t2\n", b'\t'),
            (b"songs; old and new\nt1\n", b','),
            (b"t1,x;y\nt2,x\n", b','),
            (b"", b','),
        ] {
            assert_eq!(detect(head, has_id), delimiter, "{}", String::from_utf8_lossy(head));
        }
    }
}
