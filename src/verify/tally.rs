//! How far a check has come, told now and then.

use std::time::{Duration, Instant};

use crate::event::{Checking, Event};

/// How often it is told.
const TICK: Duration = Duration::from_secs(1);

/// Counts, and tells.
pub(super) struct Tally<'t> {
    tell: &'t mut dyn FnMut(&Event),
    now: Checking,
    due: Instant,
}

impl<'t> Tally<'t> {
    pub(super) fn new(tell: &'t mut dyn FnMut(&Event)) -> Self {
        Self { tell, now: Checking { what: "parts", done: 0, of: 0, bytes: 0 }, due: Instant::now() + TICK }
    }

    /// Begins something of which there is so much to do.
    pub(super) fn expect(&mut self, what: &'static str, of: u64) {
        self.now = Checking { what, done: 0, of, bytes: self.now.bytes };
        self.tell_now();
    }

    /// One file is done.
    pub(super) fn done(&mut self, path: &str) {
        (self.tell)(&Event::Checked { path: path.to_owned() });
        self.now.done += 1;
        self.tick();
    }

    /// Bytes of a file were read and found or not found to be what they were.
    pub(super) fn read(&mut self, bytes: u64) {
        self.now.bytes += bytes;
    }

    /// Bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.now.bytes
    }

    /// Tells, if it is time.
    pub(super) fn tick(&mut self) {
        if Instant::now() >= self.due {
            self.tell_now();
        }
    }

    fn tell_now(&mut self) {
        self.due = Instant::now() + TICK;
        (self.tell)(&Event::Checking(self.now.clone()));
    }
}
