//! Entry points for the fuzz targets in `fuzz/`, compiled only for fuzzing. Each function panics if an invariant is
//! violated.

use std::io::Cursor;

use crate::{
    api::{TaskResponse, classify},
    input::{self, Headers, InputOptions, InvalidRowPolicy},
    journal::{Record, SegmentReader},
    run_id::RunId,
    tables::{self, FetchInfo},
    task::TaskId,
};

/// Treats arbitrary bytes as the response for the task `t`. Classifying and flattening the response must not panic,
/// and the `response` column must contain the complete response.
pub fn fuzz_response(body: &[u8]) {
    let Ok(id) = TaskId::parse("t") else { return };
    let TaskResponse::Final { status, data, original_body } = classify(id, 200, None, body) else { return };
    let info = FetchInfo {
        task_id: "t".into(),
        status,
        fetched_at: jiff::Timestamp::UNIX_EPOCH.into(),
        run_id: RunId::new(jiff::Timestamp::UNIX_EPOCH),
    };
    let rows = tables::flatten(&info, &data);
    assert_eq!(rows.task.response.as_deref(), Some(data.as_str()));
    assert_eq!(rows.clips.len(), usize::try_from(rows.task.clip_count).unwrap_or_default());
    assert!(serde_json::from_str::<&serde_json::value::RawValue>(&data).is_ok());
    if original_body.is_none() {
        assert!(String::from_utf8_lossy(body).contains(&data));
    }
}

/// Reads arbitrary bytes as a task list. Either the list is refused, or every row is counted and every ID is valid.
pub fn fuzz_list(bytes: &[u8]) {
    let options = InputOptions {
        path: "-".into(),
        column: None,
        headers: Headers::Present,
        delimiter: None,
        invalid_rows: InvalidRowPolicy::Skip,
    };
    let Ok(input) = input::read_bytes(bytes.to_vec(), &options) else { return };
    assert_eq!(input.rows, input.invalid + input.duplicates + input.tasks.len() as u64);
    for index in input.tasks.indices() {
        let id = input.tasks.id(index);
        assert_eq!(TaskId::parse(id.as_str()).map(|id| id.to_string()), Ok(id.to_string()));
    }
}

/// Reads arbitrary bytes as a journal segment. Every record must be unchanged after it is written and parsed again, and
/// every line that is not a record must be counted as damaged.
pub fn fuzz_journal(bytes: &[u8]) {
    let Some(run_id) = RunId::parse("20260101T000000000Z-abcdef") else { return };
    let mut segment = SegmentReader::from_bytes(Cursor::new(bytes.to_vec()), run_id, 1);
    let mut records = 0;
    while let Ok(Some(record)) = segment.next_record() {
        assert_eq!(Record::from_line(record.to_line().trim_ascii_end()), Some(record));
        records += 1;
    }
    let lines = bytes.iter().map(|byte| u64::from(*byte == b'\n')).sum::<u64>();
    assert_eq!(records + segment.damaged, lines);
}
