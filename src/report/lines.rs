//! Plain lines on stderr, for logs and pipes.

use std::{
    io::Write,
    time::{Duration, Instant},
};

use super::{
    Reporter,
    sentence::{Weight, sentence},
};
use crate::{asset::AssetStatus, event::Event};

/// The interval of progress lines: a log needs to show that a run is alive, not every second of it.
const PROGRESS_EVERY: Duration = Duration::from_secs(30);

/// How much is written.
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
        Self { detail, progress_due: Instant::now() + PROGRESS_EVERY, limit: RepeatLimit::default() }
    }

    fn wants(&mut self, event: &Event, weight: Weight) -> bool {
        if matches!(event, Event::Progress(_) | Event::Checking(_) | Event::Rewriting(_)) {
            let due = self.detail >= Detail::Milestones && Instant::now() >= self.progress_due;
            if due {
                self.progress_due = Instant::now() + PROGRESS_EVERY;
            }
            return due;
        }
        match weight {
            Weight::Warning => true,
            Weight::Milestone => self.detail >= Detail::Milestones,
            Weight::Detail => self.detail >= Detail::Everything,
        }
    }
}

impl Reporter for Lines {
    fn observe(&mut self, event: &Event) {
        let Some((weight, sentence)) = sentence(event) else { return };
        if self.wants(event, weight) {
            self.limit.say(event, sentence, |line| {
                // A closed pipe must not end the run.
                let _ = writeln!(std::io::stderr(), "{line}");
            });
        }
    }
}

/// Writes nothing on success, and every warning otherwise.
#[derive(Default)]
pub(super) struct Quiet {
    warnings: Vec<String>,
    limit: RepeatLimit,
}

impl Reporter for Quiet {
    fn observe(&mut self, event: &Event) {
        let warnings = &mut self.warnings;
        match (event, sentence(event)) {
            (Event::Finished { exit_code: 0, .. }, _) => warnings.clear(),
            (_, Some((Weight::Warning, line))) => self.limit.say(event, line, |line| warnings.push(line)),
            _ => {}
        }
    }
}

impl Drop for Quiet {
    /// Warnings that no successful end has cleared: the run may have ended before it started.
    fn drop(&mut self) {
        for line in &self.warnings {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// Limits repeated messages about bad rows or failed downloads: the first are listed, then one line says that more
/// follow.
#[derive(Default)]
pub(super) struct RepeatLimit {
    bad_rows: u32,
    failed_assets: u32,
}

impl RepeatLimit {
    const NAMED: u32 = 20;

    pub(super) fn say(&mut self, event: &Event, sentence: String, mut write: impl FnMut(String)) {
        let (count, further) = match event {
            Event::BadRow { .. } => {
                (&mut self.bad_rows, "further bad rows are counted, and named with --progress json")
            }
            Event::AssetSettled { status: AssetStatus::Failed, .. } => {
                (&mut self.failed_assets, "further failed downloads are counted, and named in the assets table")
            }
            _ => return write(sentence),
        };
        *count += 1;
        match *count {
            ..=Self::NAMED => write(sentence),
            n if n == Self::NAMED + 1 => write(further.into()),
            _ => {}
        }
    }
}
