//! How a repair ended.

use std::sync::Arc;

use super::Plan;
use crate::{
    error::Error,
    exit::ExitStatus,
    export::{Mended, Signal},
};

/// Why a repair ended before all was tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CutShort {
    Signal(Signal),
    /// The time it was given was over.
    TimeIsUp,
}

/// What was to be done, and what was done.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) plan: Arc<Plan>,
    pub(crate) mended: Mended,
    /// Tasks of earlier runs that wait in the journal still.
    pub(crate) left: u64,
    pub(crate) cut_short: Option<CutShort>,
    /// Where tasks that are lost still are named.
    pub(crate) list: Option<String>,
}

impl Ended {
    /// One that had no time for more than a check.
    pub(crate) fn out_of_time() -> Self {
        Self {
            plan: Arc::default(),
            mended: Mended::default(),
            left: 0,
            cut_short: Some(CutShort::TimeIsUp),
            list: None,
        }
    }

    /// Why the provider was not asked any more, if so.
    pub(crate) fn error(&self) -> Option<Error> {
        let reason = self.mended.unreachable.as_ref()?;
        Some(Error::Unreachable(format!("the provider is not asked any more: {reason}; run repair again later")))
    }

    /// What the process should end with.
    pub(crate) fn status(&self) -> ExitStatus {
        let Self { plan, mended, left, cut_short, .. } = self;
        let is_whole = mended.failed.is_empty() && plan.is_mendable();
        match cut_short {
            _ if mended.key_refused => ExitStatus::KeyRefused,
            Some(CutShort::Signal(signal)) => signal.exit_status(),
            _ if mended.unreachable.is_some() => ExitStatus::Failed,
            None if is_whole && !plan.has_more && *left == 0 => ExitStatus::Complete,
            None | Some(CutShort::TimeIsUp) => ExitStatus::Incomplete,
        }
    }
}
