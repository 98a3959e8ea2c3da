//! Reads task IDs from a CSV file or from standard input. The input may be compressed with gzip or zstd.

#![expect(clippy::disallowed_methods, reason = "reads a file that the user specifies")]

mod compression;
mod delimiter;

use std::{
    cell::Cell,
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, BufRead, BufReader, Cursor, Read},
    path::{Path, PathBuf},
    str,
};

use csv::{ByteRecord, ReaderBuilder};

use crate::{
    error::{Error, Result},
    event::Event,
    http::excerpt,
    task::{InvalidTaskId, TaskId, TaskList, is_uuid, trim_invisible},
};

/// The options for reading a list of task IDs.
#[derive(Clone, Debug)]
pub struct InputOptions {
    /// The path of the list; `-` means standard input.
    pub path: PathBuf,
    /// The name or 1-based number of the ID column. `None` selects a column with a default name, or the only column of
    /// the list.
    pub column: Option<String>,
    /// Whether the first row is a header.
    pub headers: Headers,
    /// The field delimiter. If this is `None`, the delimiter is read from a `sep=` line or detected from the first
    /// rows.
    pub delimiter: Option<u8>,
    /// How to handle rows with an invalid ID.
    pub invalid_rows: InvalidRowPolicy,
}

/// How to handle the rows of a list that have an invalid ID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InvalidRowPolicy {
    /// Report, count and skip each row with an invalid ID.
    Skip,
    /// Report all rows with an invalid ID, and reject the list.
    Reject,
}

/// Whether the first row of a list is a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Headers {
    /// The first row contains the column names.
    Present,
    /// The first row contains data.
    Absent,
}

/// The task IDs in a list, and counts of its rows.
#[derive(Debug, Default)]
pub struct Input {
    /// The distinct valid IDs, in the order of the list.
    pub tasks: TaskList,
    /// The number of data rows, excluding blank lines.
    pub rows: u64,
    /// The number of rows with a missing or invalid ID.
    pub invalid: u64,
    /// The number of rows that repeat an earlier ID.
    pub duplicates: u64,
}

/// The default names of the ID column, in order of preference.
const DEFAULT_COLUMNS: [&str; 3] = ["task_id", "taskId", "id"];

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Generates the end mark, a record that is appended to the list. If the CSV reader does not return the end mark as a
/// separate record, the list contains an unclosed quote. The end mark is random, so that no list contains it by chance.
fn end_marker() -> Vec<u8> {
    format!("\x01end of input {:016x}\x01", RandomState::new().build_hasher().finish()).into_bytes()
}

/// The number of bytes at the start of a list that are read to detect the delimiter.
const DETECTION_BYTES: u64 = 64 * 1024;

/// Reads the whole list. Reports invalid rows, a detected delimiter and other warnings to `events`.
///
/// # Errors
/// Returns [`Error::Usage`] if the input cannot be read, is empty, is encoded in UTF-16, lacks the requested column,
/// contains an unclosed quote, or has invalid rows that the options reject.
pub fn read(options: &InputOptions, events: &mut dyn FnMut(Event)) -> Result<Input> {
    let name = display_name(&options.path);
    let has_trailing_garbage = Cell::new(false);
    let bytes = open(&options.path, &has_trailing_garbage).map_err(|error| unreadable(&name, &error))?;
    let input = read_csv(bytes, &name, options, events)?;
    if has_trailing_garbage.get() {
        events(Event::TrailingGarbage);
    }
    if input.rows == 0 {
        events(Event::EmptyList);
    }
    Ok(input)
}

/// Returns an error if the list is missing or is a folder. Does not open the list, because a pipe can be read only
/// once.
pub(crate) fn check_present(path: &Path) -> Result<()> {
    if path == Path::new("-") {
        return Ok(());
    }
    match path.metadata() {
        Ok(metadata) if metadata.is_dir() => Err(Error::usage(format!("{} is a folder, not a list", path.display()))),
        Ok(_) => Ok(()),
        Err(error) => Err(unreadable(&display_name(path), &error)),
    }
}

fn unreadable(name: &str, error: &dyn std::fmt::Display) -> Error {
    Error::usage(format!("cannot read {name}: {error}"))
}

fn display_name(path: &Path) -> String {
    if path == Path::new("-") { "standard input".into() } else { path.display().to_string() }
}

fn open<'a>(path: &Path, has_trailing_garbage: &'a Cell<bool>) -> io::Result<Box<dyn BufRead + 'a>> {
    let source: Box<dyn Read> =
        if path == Path::new("-") { Box::new(io::stdin()) } else { Box::new(File::open(path)?) };
    compression::decompress(BufReader::new(source), has_trailing_garbage)
}

/// Reads a list from memory.
#[cfg(fuzzing)]
pub(crate) fn read_bytes(bytes: Vec<u8>, options: &InputOptions) -> Result<Input> {
    let has_trailing_garbage = Cell::new(false);
    let decompressed = compression::decompress(Cursor::new(bytes), &has_trailing_garbage)
        .map_err(|error| unreadable("the list", &error))?;
    read_csv(decompressed, "the list", options, &mut |_| {})
}

fn read_csv<'a>(
    mut source: Box<dyn BufRead + 'a>,
    name: &str,
    options: &InputOptions,
    events: &mut dyn FnMut(Event),
) -> Result<Input> {
    check_format(&mut source, name)?;
    let List { text, delimiter, lines_before } =
        List::open(source, options, events).map_err(|error| unreadable(name, &error))?;
    let end_marker = end_marker();
    let is_end = |record: &ByteRecord| record.len() == 1 && record.get(0) == Some(&end_marker[..]);
    let terminated = text.chain(Cursor::new([b"\n", &end_marker[..], b"\n"].concat()));
    let mut reader =
        ReaderBuilder::new().has_headers(false).flexible(true).delimiter(delimiter).from_reader(terminated);

    let mut input = Input::default();
    let (mut column, mut header) = (None, None);
    let mut record = ByteRecord::new();
    while reader.read_byte_record(&mut record).map_err(|error| unreadable(name, &error))? && !is_end(&record) {
        let breaks = line_breaks(&record);
        // The CSV reader has already consumed the line feed after the record, so the reader is on the next line.
        let line = lines_before + reader.position().line().saturating_sub(1 + breaks);
        if breaks > 0 && record.iter().any(|field| contains(field, &end_marker)) {
            // No line feed follows a record with an unclosed quote, so `line` is one too low.
            return Err(Error::usage(format!("{name}, line {}: unclosed quote", line + 1)));
        }
        if is_blank(&record) {
            continue;
        }
        let index = match column {
            Some(index) => index,
            None => {
                let index = find_column(&record, name, options, events)?;
                column = Some(index);
                if options.headers == Headers::Present {
                    header = options.column_index(&titles(&record)).and_then(|_| title(&record, index));
                    continue;
                }
                index
            }
        };
        if header.is_some() && title(&record, index) == header {
            // A list that was concatenated from several lists repeats the header.
            continue;
        }
        add_row(record.get(index), line, &mut input, events);
    }
    if options.invalid_rows == InvalidRowPolicy::Reject && input.invalid > 0 {
        let rows = if input.invalid == 1 { "1 row".into() } else { format!("{} rows", input.invalid) };
        return Err(Error::usage(format!("{name} has {rows} with an invalid ID, which --strict does not allow")));
    }
    if column.is_none() {
        return Err(Error::usage(format!("{name} is empty; expected one task ID per row")));
    }
    Ok(input)
}

/// The text of a list from its first row onwards, and the parameters for parsing the text.
struct List<'a> {
    text: Box<dyn Read + 'a>,
    delimiter: u8,
    /// The number of lines before the first row: 1 if the list starts with a `sep=` line, otherwise 0.
    lines_before: u64,
}

impl<'a> List<'a> {
    fn open(source: Box<dyn BufRead + 'a>, options: &InputOptions, events: &mut dyn FnMut(Event)) -> io::Result<Self> {
        let mut rest = NormalizedLineEndings::new(source);
        let mut head = Vec::new();
        rest.by_ref().take(DETECTION_BYTES).read_to_end(&mut head)?;
        while head.starts_with(BYTE_ORDER_MARK) {
            head.drain(..BYTE_ORDER_MARK.len());
        }
        let first_line = head.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let sep_delimiter = delimiter::parse_sep_line(first_line);
        if sep_delimiter.is_some() {
            let end = first_line.len() + 1;
            head.drain(..end.min(head.len()));
        }
        let delimiter = options.delimiter.unwrap_or_else(|| {
            let found = sep_delimiter
                .unwrap_or_else(|| delimiter::detect(&head, |row| options.column_index(&titles(row)).is_some()));
            if found != b',' {
                events(Event::Delimiter { delimiter: found.into() });
            }
            found
        });
        Ok(Self {
            text: Box::new(Cursor::new(head).chain(rest)),
            delimiter,
            lines_before: sep_delimiter.is_some().into(),
        })
    }
}

fn add_row(field: Option<&[u8]>, line: u64, input: &mut Input, events: &mut dyn FnMut(Event)) {
    input.rows += 1;
    let text = str::from_utf8(field.unwrap_or_default()).map_err(|_| InvalidTaskId::NotUtf8);
    match text.and_then(|text| TaskId::parse(trim_field(text))) {
        Ok(id) if input.tasks.insert(id) => {}
        Ok(_) => input.duplicates += 1,
        Err(reason) => {
            input.invalid += 1;
            events(Event::InvalidRow { line, reason: reason.to_string() });
        }
    }
}

/// Returns an error if the list is encoded in UTF-16 or is not a CSV file.
fn check_format(source: &mut dyn BufRead, name: &str) -> Result<()> {
    let start = source.fill_buf().map_err(|error| Error::usage(format!("cannot read {name}: {error}")))?;
    let utf16 = start.starts_with(b"\xff\xfe")
        || start.starts_with(b"\xfe\xff")
        || matches!(start, [0, first, ..] | [first, 0, ..] if *first != 0);
    if utf16 {
        return Err(Error::usage(format!("{name} is encoded in UTF-16; save it as UTF-8 and rerun")));
    }
    if let Some(format) = detect_foreign_format(start) {
        return Err(Error::usage(format!("{name} is {format}, not a CSV list; export its task IDs as CSV and rerun")));
    }
    Ok(())
}

/// Detects the format of a file that is not a CSV file, from its first bytes.
fn detect_foreign_format(start: &[u8]) -> Option<&'static str> {
    const FORMATS: [(&[u8], &str); 13] = [
        (b"\xfd7zXZ\0", "an xz file"),
        (b"BZh", "a bzip2 file"),
        (b"\x04\x22\x4d\x18", "an lz4 file"),
        (b"\x1f\x9d", "a compress (.Z) file"),
        (b"PK\x05\x06", "an empty zip archive"),
        (b"Rar!\x1a", "a RAR archive"),
        (b"Obj\x01", "an Avro file"),
        (b"%PDF-", "a PDF"),
        (b"PK\x03\x04", "a zip archive or a spreadsheet"),
        (b"7z\xbc\xaf\x27\x1c", "a 7z archive"),
        (b"PAR1", "a Parquet file"),
        (b"ORC\n", "an ORC file"),
        (b"SQLite format 3\0", "an SQLite database"),
    ];
    let first_line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let binary_format = FORMATS.iter().find(|(magic, _)| start.starts_with(magic)).map(|(_, name)| *name);
    // In a JSON text sequence (RFC 7464), a record separator precedes each document.
    let lossy = String::from_utf8_lossy(start);
    let text = trim_invisible(lossy.trim_start_matches('\u{1e}')).as_bytes();
    let text_format = match text {
        [b'{' | b'[', ..] => Some("a JSON file"),
        [b'<', ..] => Some("an HTML or XML document"),
        _ if text.starts_with(b"-----BEGIN ") => Some("a key or certificate"),
        _ => None,
    };
    // A NUL in the first line shows that the file is binary, but a NUL in a later line only makes the ID in that line
    // invalid. Up to two control characters other than NUL are accepted in the first line, because the first line of a
    // list without a header can be an invalid ID.
    let controls = first_line.iter().filter(|byte| matches!(byte, 1..=8 | 14..=26)).count();
    binary_format.or(text_format).or_else(|| (controls > 2 || first_line.contains(&0)).then_some("a binary file"))
}

impl InputOptions {
    /// Finds the index of the ID column by name.
    fn column_index(&self, titles: &[String]) -> Option<usize> {
        let find = |wanted: &str| {
            let exact = titles.iter().position(|title| title == wanted);
            exact.or_else(|| titles.iter().position(|title| title.eq_ignore_ascii_case(wanted)))
        };
        match (&self.column, self.headers) {
            (_, Headers::Absent) => None,
            (Some(wanted), Headers::Present) => find(wanted),
            (None, Headers::Present) => DEFAULT_COLUMNS.iter().find_map(|name| find(name)),
        }
    }
}

/// Returns the column name at an index of a header row, in lower case.
fn title(row: &ByteRecord, index: usize) -> Option<String> {
    row.get(index).map(|field| trim_field(&String::from_utf8_lossy(field)).to_ascii_lowercase())
}

fn titles(first: &ByteRecord) -> Vec<String> {
    first.iter().map(|title| trim_field(&String::from_utf8_lossy(title)).to_owned()).collect()
}

fn find_column(first: &ByteRecord, name: &str, options: &InputOptions, events: &mut dyn FnMut(Event)) -> Result<usize> {
    let titles = titles(first);
    let numbered = |wanted: &str| wanted.parse::<usize>().ok()?.checked_sub(1).filter(|index| *index < titles.len());
    let missing = |what: String| Error::usage(format!("{name}: {what}; select a column with --column"));
    match (&options.column, options.headers) {
        (Some(wanted), Headers::Present) => {
            options.column_index(&titles).or_else(|| numbered(wanted)).ok_or_else(|| {
                missing(format!(
                    "there is no column `{}`; the columns are {}",
                    excerpt(wanted),
                    excerpt(&titles.join(", "))
                ))
            })
        }
        (Some(wanted), Headers::Absent) => numbered(wanted).ok_or_else(|| {
            missing(format!(
                "without headers, --column must be a number from 1 to {}, not `{}`",
                titles.len(),
                excerpt(wanted)
            ))
        }),
        (None, Headers::Absent) if titles.len() == 1 => Ok(0),
        (None, Headers::Absent) => Err(missing(format!("the rows have {} columns and no headers", titles.len()))),
        (None, Headers::Present) => match (options.column_index(&titles), titles.as_slice()) {
            (Some(index), _) => Ok(index),
            (None, [_]) if str::from_utf8(first.as_slice()).is_err() => {
                Err(missing("the first row is not UTF-8 text; is the file a CSV list?".into()))
            }
            // If the first row were treated as a header, the task ID in this row would be skipped silently. The error
            // message does not quote the row, because the user may have passed the API key file instead of a list.
            (None, [title]) if looks_like_id(title) => Err(Error::usage(format!(
                "{name}: the first row is a task ID, not a header; use --no-headers, or add the header task_id"
            ))),
            (None, [_]) => {
                events(Event::AmbiguousHeader);
                Ok(0)
            }
            (None, _) => {
                let ([first, second, third], titles) = (DEFAULT_COLUMNS, excerpt(&titles.join(", ")));
                Err(missing(format!("none of the columns {titles} is named {first}, {second} or {third}")))
            }
        },
    }
}

/// Removes whitespace and invisible characters around a field. Also removes quotes around the field, because the CSV
/// reader does not treat a quote after a space or an invisible character as an opening quote.
fn trim_field(field: &str) -> &str {
    let trimmed = trim_invisible(field);
    trimmed.strip_prefix('"').and_then(|quoted| quoted.strip_suffix('"')).map_or(trimmed, trim_invisible)
}

/// Whether a column name is a UUID in a common notation.
fn looks_like_id(title: &str) -> bool {
    let digits = title.trim_start_matches("urn:uuid:").trim_matches(['{', '}', '\'', '"']);
    is_uuid(digits) || (digits.len() == 32 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
}

fn is_blank(record: &ByteRecord) -> bool {
    record.iter().all(|field| field.trim_ascii().is_empty())
}

fn line_breaks(record: &ByteRecord) -> u64 {
    record.iter().flatten().map(|byte| u64::from(*byte == b'\n')).sum()
}

fn contains(field: &[u8], mark: &[u8]) -> bool {
    field.windows(mark.len()).any(|window| window == mark)
}

/// Converts CRLF and lone CR to LF, so that line numbers do not depend on the line endings of the list. Line endings in
/// quoted fields are converted too, which is harmless because no valid ID contains a line break.
struct NormalizedLineEndings<R> {
    source: R,
    after_return: bool,
}

impl<R: BufRead> NormalizedLineEndings<R> {
    fn new(source: R) -> Self {
        Self { source, after_return: false }
    }
}

impl<R: BufRead> Read for NormalizedLineEndings<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        loop {
            let available = self.source.fill_buf()?;
            let consumed = available.len().min(out.len());
            if consumed == 0 {
                return Ok(0);
            }
            let mut written = 0;
            for &byte in available.iter().take(consumed) {
                let after_return = std::mem::replace(&mut self.after_return, byte == b'\r');
                if byte == b'\n' && after_return {
                    continue;
                }
                if let Some(slot) = out.get_mut(written) {
                    *slot = if byte == b'\r' { b'\n' } else { byte };
                    written += 1;
                }
            }
            self.source.consume(consumed);
            if written > 0 {
                return Ok(written);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(column: Option<&str>, headers: Headers) -> InputOptions {
        InputOptions {
            path: "tasks.csv".into(),
            column: column.map(Into::into),
            headers,
            delimiter: None,
            invalid_rows: InvalidRowPolicy::Skip,
        }
    }

    fn parse(bytes: &[u8], options: &InputOptions) -> (Result<Input>, Vec<Event>) {
        let mut events = Vec::new();
        let has_trailing_garbage = Cell::new(false);
        let source = compression::decompress(Cursor::new(bytes), &has_trailing_garbage).unwrap();
        let input = read_csv(source, "tasks.csv", options, &mut |event| events.push(event));
        (input, events)
    }

    fn ids(bytes: &[u8], options: &InputOptions) -> Vec<String> {
        let input = parse(bytes, options).0.unwrap();
        input.tasks.indices().map(|index| input.tasks.id(index).to_string()).collect()
    }

    fn error_message(bytes: &[u8], options: &InputOptions) -> String {
        parse(bytes, options).0.unwrap_err().to_string()
    }

    #[test]
    fn default_columns_are_found_in_any_case_and_in_order() {
        let defaults = options(None, Headers::Present);
        assert_eq!(ids(b"ID,Task_Id\n1,a\n2,b\n", &defaults), ["a", "b"]);
        assert_eq!(ids(b"x,TASKID\r\n1,a\r\n", &defaults), ["a"]);
        assert_eq!(ids(b"\xef\xbb\xbfid\na", &defaults), ["a"]);
        assert_eq!(ids(b"whatever\na\n", &defaults), ["a"]);
        assert!(error_message(b"x,y\n1,2\n", &defaults).contains("none of the columns x, y is named task_id"));
    }

    #[test]
    fn a_column_is_selected_by_name_or_number() {
        assert_eq!(ids(b"2,other\na,b\n", &options(Some("2"), Headers::Present)), ["a"]);
        assert_eq!(ids(b"x,other\na,b\n", &options(Some("2"), Headers::Present)), ["b"]);
        assert_eq!(ids(b"a,b\n", &options(Some("2"), Headers::Absent)), ["b"]);
        assert_eq!(ids(b"a\nb\n", &options(None, Headers::Absent)), ["a", "b"]);
        assert!(error_message(b"x\na\n", &options(Some("0"), Headers::Present)).contains("no column `0`"));
        assert!(error_message(b"a,b\n", &options(None, Headers::Absent)).contains("2 columns and no headers"));
    }

    #[test]
    fn every_row_is_counted_and_bad_rows_are_reported_with_their_line() {
        let csv = b"task_id,note\r\n\r\n a ,\"two\r\nlines\"\r\n   \r\na,again\r\n,absent\r\nb/c,bad\r\nb,\xff,longer\r\n\xff,x\r\n";
        let (input, events) = parse(csv, &options(None, Headers::Present));
        let input = input.unwrap();
        assert_eq!((input.rows, input.invalid, input.duplicates, input.tasks.len()), (6, 3, 1, 2));
        let lines: Vec<u64> = events
            .iter()
            .filter_map(|event| if let Event::InvalidRow { line, .. } = event { Some(*line) } else { None })
            .collect();
        assert_eq!(lines, [7, 8, 10]);
    }

    #[test]
    fn an_unclosed_quote_is_rejected_with_its_line() {
        for csv in [&b"task_id\na\n\"b\nc\n"[..], b"task_id\na\n\"", b"task_id\na\n\"b,"] {
            assert_eq!(error_message(csv, &options(None, Headers::Present)), "tasks.csv, line 3: unclosed quote");
        }
        assert_eq!(ids(b"task_id\n\"a\"", &options(None, Headers::Present)), ["a"]);
    }

    #[test]
    fn empty_and_utf_16_input_is_rejected_and_a_header_alone_is_an_empty_list() {
        let defaults = options(None, Headers::Present);
        for empty in [&b""[..], b"\n \n", b"\xef\xbb\xbf"] {
            assert!(error_message(empty, &defaults).contains("is empty"));
        }
        assert!(error_message(b"\xff\xfei\0d\0", &defaults).contains("UTF-16"));
        assert!(error_message(b"i\0d\0", &defaults).contains("UTF-16"));
        assert!(ids(b"task_id,reason,detail\n", &defaults).is_empty());
    }

    #[test]
    fn a_file_that_is_not_a_csv_is_reported_with_its_format() {
        for (start, format) in [
            (&b"\xfd7zXZ\0\0"[..], "an xz file"),
            (b"BZh9", "a bzip2 file"),
            (b"PK\x03\x04", "a zip archive or a spreadsheet"),
            (b"PAR1", "a Parquet file"),
            (b"\x7fELF\x02\x01\x01\0\0\0", "a binary file"),
            (b"ORC\x0a\x12\x08\x01", "ORC"),
            (b"\x08\x01\x12\x08tasks", "a binary file"),
            (b"\n<!DOCTYPE html><title>Sign in</title>", "HTML"),
            (b"-----BEGIN PRIVATE KEY-----\nMIIEvQ\n", "a key"),
            (b"\n [{\"task_id\":\"t1\"}]", "a JSON file"),
            (b"\xef\xbb\xbf{\"task_id\":\"t1\"}\n", "a JSON file"),
        ] {
            let error_message = check_format(&mut &start[..], "list").unwrap_err().to_string();
            assert!(error_message.contains(format), "{error_message}");
        }
    }

    #[test]
    fn compressed_input_is_read_and_truncation_is_an_error() {
        use std::io::Write;
        let csv = b"task_id\na\n";
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(csv).unwrap();
        for compression in [gzip.finish().unwrap(), zstd::encode_all(&csv[..], 1).unwrap()] {
            assert_eq!(ids(&compression, &options(None, Headers::Present)), ["a"]);
            assert!(
                error_message(&compression[..compression.len() - 6], &options(None, Headers::Present))
                    .contains("cannot read")
            );
        }
    }

    #[test]
    fn a_uuid_in_the_first_row_is_an_id_and_not_a_header() {
        let list = b"0b0a5f1e-1111-4222-8333-444455556666\n0b0a5f1e-1111-4222-8333-444455557777\n";
        assert!(error_message(list, &options(None, Headers::Present)).contains("--no-headers"));
        assert_eq!(ids(list, &options(None, Headers::Absent)).len(), 2);
        for first in ["0b0a5f1e111142228333444455556666", "urn:uuid:0b0a5f1e-1111-4222-8333-444455556666"] {
            let list = format!("{first}\nb\n");
            assert!(
                error_message(list.as_bytes(), &options(None, Headers::Present)).contains("--no-headers"),
                "{first}"
            );
        }
    }

    #[test]
    fn a_row_that_resembles_the_end_mark_does_not_end_the_list() {
        let list = b"task_id\na\n\x01end of input\x01\nb\n";
        let (input, _) = parse(list, &options(None, Headers::Present));
        let input = input.unwrap();
        assert_eq!((input.rows, input.invalid), (3, 1));
    }

    #[test]
    fn a_single_column_with_another_name_is_reported_as_the_header() {
        let (_, events) = parse(b"f47ac10b\nb\n", &options(None, Headers::Present));
        assert!(matches!(events.as_slice(), [Event::AmbiguousHeader]));
    }
}
