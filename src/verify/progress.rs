//! Reports the progress of a check once per second.

use std::time::{Duration, Instant};

use crate::event::{Checking, Event};

/// The interval between progress reports.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);

/// Counts checked files and verified bytes, and reports the progress of a check.
pub(super) struct CheckProgress<'t> {
    emit: &'t mut dyn FnMut(&Event),
    current: Checking,
    due: Instant,
}

impl<'t> CheckProgress<'t> {
    pub(super) fn new(emit: &'t mut dyn FnMut(&Event)) -> Self {
        Self {
            emit,
            current: Checking { phase: "parts", done: 0, total: 0, bytes: 0 },
            due: Instant::now() + REPORT_INTERVAL,
        }
    }

    /// Starts a phase in which `total` files are checked.
    pub(super) fn start_phase(&mut self, phase: &'static str, total: u64) {
        self.current = Checking { phase, done: 0, total, bytes: self.current.bytes };
        self.report();
    }

    /// Counts a checked file.
    pub(super) fn finish_file(&mut self, path: &str) {
        (self.emit)(&Event::Checked { path: path.to_owned() });
        self.current.done += 1;
        self.tick();
    }

    /// Counts bytes that were read to verify checksums.
    pub(super) fn add_bytes(&mut self, bytes: u64) {
        self.current.bytes += bytes;
    }

    /// The number of bytes counted so far.
    pub(super) fn bytes(&self) -> u64 {
        self.current.bytes
    }

    /// Reports progress if `REPORT_INTERVAL` has elapsed since the last report.
    pub(super) fn tick(&mut self) {
        if Instant::now() >= self.due {
            self.report();
        }
    }

    fn report(&mut self) {
        self.due = Instant::now() + REPORT_INTERVAL;
        (self.emit)(&Event::Checking(self.current.clone()));
    }
}
