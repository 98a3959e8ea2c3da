//! How a repair ended.

use std::{collections::BTreeMap, sync::Arc};

use super::{Failures, Plan};
use crate::export::Signal;

/// The reason why a repair ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    Signal(Signal),
    /// `--stop-after` elapsed.
    TimeIsUp,
}

/// The plan of a repair, and its outcome.
#[derive(Debug)]
pub(crate) struct RepairOutcome {
    pub(crate) plan: Arc<Plan>,
    /// Tasks that are restored with all their assets.
    pub(crate) restored: u64,
    /// Tasks that could not be restored, and why.
    pub(crate) failed: BTreeMap<String, String>,
    /// Tasks that were recovered from the journal of an interrupted run.
    pub(crate) recovered: u64,
    /// Files that were downloaded, and their bytes.
    pub(crate) downloaded: (u64, u64),
    /// Tasks of earlier runs that remain in the journal.
    pub(crate) left: u64,
    pub(crate) interruption: Option<Interruption>,
    /// The list of tasks that are still lost.
    pub(crate) list: Option<String>,
}

impl RepairOutcome {
    /// A repair whose time was over after the check.
    pub(crate) fn out_of_time(left: u64) -> Self {
        Self {
            plan: Arc::default(),
            restored: 0,
            failed: BTreeMap::new(),
            recovered: 0,
            downloaded: (0, 0),
            left,
            interruption: Some(Interruption::TimeIsUp),
            list: None,
        }
    }

    /// Whether anything is left to repair.
    pub(crate) fn is_incomplete(plan: &Plan, failures: Option<&Failures>, left: u64) -> bool {
        failures.is_some_and(|failures| !failures.is_empty()) || !plan.is_repairable() || plan.has_more || left > 0
    }
}
