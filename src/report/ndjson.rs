//! Writes events to stderr in a machine-readable format, with one JSON object per line.

use std::io::Write;

use super::Reporter;
use crate::event::Event;

pub(super) struct Ndjson;

impl Reporter for Ndjson {
    fn observe(&mut self, event: &Event) {
        if let Ok(line) = serde_json::to_string(event) {
            // A closed pipe must not end the run.
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}
