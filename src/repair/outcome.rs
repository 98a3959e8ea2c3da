//! The outcome of a repair.

use std::{collections::BTreeMap, sync::Arc};

use super::{Failures, Plan};
use crate::export::Signal;

/// The reason why a repair ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interruption {
    Signal(Signal),
    /// The time limit of `--stop-after` elapsed.
    DeadlineReached,
}

/// The plan and the outcome of a repair.
#[derive(Debug)]
pub(crate) struct RepairOutcome {
    pub(crate) plan: Arc<Plan>,
    /// The number of tasks that were restored with all their assets.
    pub(crate) restored: u64,
    /// The tasks that could not be restored, each with the reason.
    pub(crate) failed: BTreeMap<String, String>,
    /// The number of tasks that were recovered from the journal of an interrupted run.
    pub(crate) recovered: u64,
    /// The number of downloaded files, and their total size in bytes.
    pub(crate) downloaded: (u64, u64),
    /// The number of tasks that earlier runs fetched and that are still in the journal.
    pub(crate) still_journalled: u64,
    pub(crate) interruption: Option<Interruption>,
    /// The path of the list of tasks that are still lost, relative to the archive.
    pub(crate) missing_list_path: Option<String>,
}

impl RepairOutcome {
    /// Returns the outcome of a repair whose time limit elapsed before its plan was ready.
    pub(crate) fn deadline_reached(still_journalled: u64) -> Self {
        Self {
            plan: Arc::default(),
            restored: 0,
            failed: BTreeMap::new(),
            recovered: 0,
            downloaded: (0, 0),
            still_journalled,
            interruption: Some(Interruption::DeadlineReached),
            missing_list_path: None,
        }
    }

    /// Whether work is left for another repair.
    pub(crate) fn is_incomplete(plan: &Plan, failures: Option<&Failures>, still_journalled: u64) -> bool {
        failures.is_some_and(|failures| !failures.is_empty())
            || !plan.is_repairable()
            || plan.has_more
            || still_journalled > 0
    }
}
