//! Reports the progress of a check once per second.

use std::time::{Duration, Instant};

use crate::event::{Checking, Event};

/// The interval between progress reports.
const TICK: Duration = Duration::from_secs(1);

/// Counts checked files and bytes, and reports progress.
pub(super) struct Tally<'t> {
    tell: &'t mut dyn FnMut(&Event),
    now: Checking,
    due: Instant,
}

impl<'t> Tally<'t> {
    pub(super) fn new(tell: &'t mut dyn FnMut(&Event)) -> Self {
        Self { tell, now: Checking { what: "parts", done: 0, of: 0, bytes: 0 }, due: Instant::now() + TICK }
    }

    /// Starts a phase in which `of` files are checked.
    pub(super) fn expect(&mut self, what: &'static str, of: u64) {
        self.now = Checking { what, done: 0, of, bytes: self.now.bytes };
        self.report_now();
    }

    /// Counts a checked file.
    pub(super) fn done(&mut self, path: &str) {
        (self.tell)(&Event::Checked { path: path.to_owned() });
        self.now.done += 1;
        self.tick();
    }

    /// Counts bytes that were read and compared.
    pub(super) fn read(&mut self, bytes: u64) {
        self.now.bytes += bytes;
    }

    /// The number of bytes read so far.
    pub(super) fn bytes(&self) -> u64 {
        self.now.bytes
    }

    /// Reports progress if the interval has elapsed.
    pub(super) fn tick(&mut self) {
        if Instant::now() >= self.due {
            self.report_now();
        }
    }

    fn report_now(&mut self) {
        self.due = Instant::now() + TICK;
        (self.tell)(&Event::Checking(self.now.clone()));
    }
}
