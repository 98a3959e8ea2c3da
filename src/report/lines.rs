//! Writes events as plain lines to stderr, for logs and pipes.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use super::{
    Reporter,
    event_messages::{Importance, render},
};
use crate::{asset::AssetStatus, event::Event};

/// The interval between progress lines, which show in a log that the run is still active.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(30);

/// The level of detail of the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Detail {
    Warnings,
    Milestones,
    Everything,
}

pub(super) struct Lines {
    detail: Detail,
    progress_due: Instant,
    limit: RepeatLimit,
}

impl Lines {
    pub(super) fn new(detail: Detail) -> Self {
        Self { detail, progress_due: Instant::now() + PROGRESS_INTERVAL, limit: RepeatLimit::default() }
    }

    fn should_show(&mut self, event: &Event, importance: Importance) -> bool {
        if matches!(event, Event::Progress(_) | Event::Checking(_) | Event::Rewriting(_)) {
            let due = self.detail >= Detail::Milestones && Instant::now() >= self.progress_due;
            if due {
                self.progress_due = Instant::now() + PROGRESS_INTERVAL;
            }
            return due;
        }
        match importance {
            Importance::Warning => true,
            Importance::Milestone => self.detail >= Detail::Milestones,
            Importance::Verbose => self.detail >= Detail::Everything,
        }
    }
}

impl Reporter for Lines {
    fn observe(&mut self, event: &Event) {
        let Some((importance, text)) = render(event) else { return };
        if self.should_show(event, importance) {
            self.limit.write_limited(event, text, |line| {
                // A closed pipe must not end the run.
                let _ = writeln!(std::io::stderr(), "{line}");
            });
        }
    }
}

/// Writes the warnings of a run only if the run is unsuccessful.
#[derive(Default)]
pub(super) struct Quiet {
    warnings: Vec<String>,
    limit: RepeatLimit,
}

impl Reporter for Quiet {
    fn observe(&mut self, event: &Event) {
        let warnings = &mut self.warnings;
        match (event, render(event)) {
            (Event::Finished { exit_code: 0, .. }, _) => warnings.clear(),
            (_, Some((Importance::Warning, line))) => self.limit.write_limited(event, line, |line| warnings.push(line)),
            _ => {}
        }
    }
}

impl Drop for Quiet {
    /// Writes the warnings of an unsuccessful run. The warnings are written on drop, because a run that fails early
    /// emits no [`Event::Finished`].
    fn drop(&mut self) {
        for line in &self.warnings {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// Limits repeated messages about invalid rows and failed downloads. After `MAX_LISTED` messages of the same kind, a
/// single line announces that further messages of this kind are omitted.
#[derive(Default)]
pub(super) struct RepeatLimit {
    invalid_rows: u32,
    failed_assets: u32,
}

impl RepeatLimit {
    const MAX_LISTED: u32 = 20;

    pub(super) fn write_limited(&mut self, event: &Event, text: String, mut write: impl FnMut(String)) {
        let (count, overflow_notice) = match event {
            Event::InvalidRow { .. } => {
                (&mut self.invalid_rows, "further invalid rows are not listed; use --progress json to list them")
            }
            Event::AssetSettled { status: AssetStatus::Failed, .. } => {
                (&mut self.failed_assets, "further failed downloads are not listed; see the assets table")
            }
            _ => return write(text),
        };
        *count += 1;
        match *count {
            ..=Self::MAX_LISTED => write(text),
            n if n == Self::MAX_LISTED + 1 => write(overflow_notice.into()),
            _ => {}
        }
    }
}
