//! Collects the tasks and files that a repair could not restore, with the reasons, from the events of the repair.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    asset::{AssetKind, AssetStatus},
    event::{Event, MissingReason},
    status::FinalStatus,
};

/// The tasks and files that a repair could not restore.
#[derive(Debug, Default)]
pub(crate) struct Failures {
    /// Tasks that could not be restored, including salvaged tasks, each with the reason.
    tasks: BTreeMap<String, String>,
    /// Tasks that the repair did not finish, each with the reason.
    unfinished: BTreeMap<String, String>,
    /// Failed assets by task, each with the reason.
    assets: BTreeMap<String, BTreeMap<AssetName, String>>,
    /// Tasks that were salvaged from a damaged part.
    salvaged: BTreeSet<String>,
    /// Lost tasks, except tasks that a damaged part records as `not_found`. Each value indicates whether the lost task
    /// has rows in other tables.
    lost: HashMap<String, bool>,
}

/// Identifies an asset of a task by the clip ID, if the clip has one, and by the kind of asset.
type AssetName = (Option<String>, AssetKind);

impl Failures {
    /// Creates an empty record. For each lost task, `lost` indicates whether the task has rows in other tables.
    pub(crate) fn new(lost: HashMap<String, bool>) -> Self {
        Self { lost, ..Self::default() }
    }

    /// Records a task whose ID is invalid.
    pub(crate) fn add_invalid(&mut self, task_id: String) {
        self.tasks.insert(task_id, "invalid ID".into());
    }

    /// Updates the record of failures with an event.
    pub(crate) fn observe(&mut self, event: &Event) {
        match event {
            Event::ResponseReceived { task_id, status: FinalStatus::NotFound } => self.record_not_found(task_id),
            Event::Salvaged { task_id, reason } => {
                self.tasks.insert(task_id.clone(), format!("{reason}; salvaged from a damaged part"));
                self.salvaged.insert(task_id.clone());
            }
            Event::AssetSettled { task_id, clip_id, kind, status, error, .. } => {
                let assets = self.assets.entry(task_id.clone()).or_default();
                let name = (clip_id.clone(), *kind);
                match (status, error) {
                    (AssetStatus::Failed, error) => {
                        assets.insert(name, format!("{kind}: {}", error.as_deref().unwrap_or_default()))
                    }
                    _ => assets.remove(&name),
                };
                if assets.is_empty() {
                    self.assets.remove(task_id);
                }
            }
            Event::Missing { task_id, reason: MissingReason::Error | MissingReason::Unreadable, detail } => {
                self.tasks.insert(task_id.clone(), detail.clone());
            }
            Event::Missing { task_id, detail, .. } => {
                self.unfinished.insert(task_id.clone(), detail.clone());
            }
            _ => {}
        }
    }

    /// Records a lost task that the provider no longer has. The task is archived as not found, so that later runs do
    /// not request it again. The repair reports the loss of the original data as a failure.
    fn record_not_found(&mut self, task_id: &str) {
        let Some(has_rows) = self.lost.get(task_id) else { return };
        let rest = if *has_rows { ", with its remaining rows" } else { "" };
        let reason = format!("the provider no longer has this task; archived as not found{rest}");
        self.tasks.insert(task_id.to_owned(), reason);
    }

    /// Whether the task or one of its assets could not be restored.
    pub(crate) fn contains(&self, task_id: &str) -> bool {
        self.tasks.contains_key(task_id) || self.assets.contains_key(task_id)
    }

    /// Whether the repair restored every task and every file.
    pub(crate) fn is_empty(&self) -> bool {
        self.tasks.is_empty() && self.unfinished.is_empty() && self.assets.is_empty()
    }

    /// Whether the task was salvaged from a damaged part.
    pub(crate) fn is_salvaged(&self, task_id: &str) -> bool {
        self.salvaged.contains(task_id)
    }

    /// Returns each task that could not be restored, with the reason. Omits the tasks that an interrupted repair did
    /// not finish.
    pub(crate) fn into_reasons(self, was_interrupted: bool) -> BTreeMap<String, String> {
        let first = |mut assets: BTreeMap<AssetName, String>| assets.pop_first().map(|(_, reason)| reason);
        let mut reasons = if was_interrupted { BTreeMap::new() } else { self.unfinished };
        reasons.extend(self.assets.into_iter().filter_map(|(task, assets)| Some((task, first(assets)?))));
        reasons.extend(self.tasks);
        reasons
    }
}
