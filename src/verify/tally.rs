//! The progress of a check, reported once a second.

use std::time::{Duration, Instant};

use crate::event::{Checking, Event};

/// How often progress is reported.
const TICK: Duration = Duration::from_secs(1);

/// Counts files and bytes, and reports them.
pub(super) struct Tally<'t> {
    tell: &'t mut dyn FnMut(&Event),
    now: Checking,
    due: Instant,
}

impl<'t> Tally<'t> {
    pub(super) fn new(tell: &'t mut dyn FnMut(&Event)) -> Self {
        Self { tell, now: Checking { what: "parts", done: 0, of: 0, bytes: 0 }, due: Instant::now() + TICK }
    }

    /// Begins a phase with this many steps.
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

    /// The bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.now.bytes
    }

    /// Reports progress if the interval has passed.
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
