//! Handles stored responses. A stored response is journalled only after its assets are settled, because a run that
//! ends earlier loses nothing. If an asset fails, the stored URL may have expired, so the run requests a fresh URL
//! from the provider. Responses in quarantined parts are read last, and only for tasks without a response from the
//! provider.

use jiff::Timestamp;

use super::{
    super::{
        AnswerSource, Item, RowEffect, WantedKinds,
        journal_stage::Entry,
        media_stage::{AssetRequest, Job, RetryBudget},
        stored::{StoredAnswer, StoredStage},
    },
    Coordinator, Ending, MOST_STORED, MOST_UNACKNOWLEDGED,
};
use crate::{
    api::TaskResponse,
    asset::{Asset, AssetKind, AssetKinds, AssetStatus},
    error::Error,
    event::Event,
    journal::Record,
    media,
    status::FinalStatus,
    tables,
    task::TaskIndex,
    timestamp,
};

/// A stored response that is not in the journal yet.
pub(super) struct StoredTask {
    /// The record of the task, or `None` if the task's rows stay unchanged.
    record: Option<Record>,
    /// The settled assets of the task.
    assets: Vec<Asset>,
}

impl Coordinator<'_> {
    /// Whether the limits allow another stored response.
    pub(super) fn has_room_for_stored(&self) -> bool {
        self.stored.is_some()
            && self.stored_unsettled.len() + self.refreshing.len() < MOST_STORED
            && self.unacknowledged < MOST_UNACKNOWLEDGED
    }

    /// Stops accepting stored responses.
    pub(super) fn stop_reading(&mut self) {
        if let Some(stage) = &mut self.stored {
            stage.answers.close();
        }
    }

    pub(super) async fn take_stored(&mut self, answer: Option<(TaskIndex, Option<StoredAnswer>)>) {
        match answer {
            Some((task, Some(answer))) if self.is_salvaging => self.take_salvaged(task, answer).await,
            Some((task, Some(answer))) => self.take_archived(task, answer).await,
            Some((task, None)) if self.run.plan.item(task).rows == RowEffect::Replace && !self.is_salvaging => {
                self.ledger.gave_up(task, "its row is no longer readable".into());
            }
            Some((_, None)) => {}
            None => self.stored_stage_ended().await,
        }
    }

    async fn stored_stage_ended(&mut self) {
        let Some(stage) = self.stored.take() else { return };
        if let Err(error) = super::outcome(stage.ended).await {
            self.fail(error);
        }
    }

    async fn take_archived(&mut self, task: TaskIndex, answer: StoredAnswer) {
        match &self.run.plan.item(task).kinds {
            WantedKinds::These(kinds) if self.run.plan.item(task).rows == RowEffect::AddAssets => {
                let wanted = self
                    .media
                    .requests(answer.response.as_deref().unwrap_or_default(), &kinds.iter().collect::<Vec<_>>());
                self.hold(task, StoredTask { record: None, assets: Vec::new() }, wanted).await;
            }
            _ => self.hold_record(task, answer).await,
        }
    }

    /// Salvages the response in a damaged part for a task without a response from the provider.
    async fn take_salvaged(&mut self, task: TaskIndex, answer: StoredAnswer) {
        let reason = self.ledger.why(task);
        let task_id = self.run.plan.tasks.id(task).to_string();
        (self.emit)(Event::Salvaged { task_id, reason });
        self.hold_record(task, answer).await;
    }

    async fn hold_record(&mut self, task: TaskIndex, answer: StoredAnswer) {
        let StoredAnswer { status, fetched_at, response, error } = answer;
        let (record, wanted) = match response {
            Some(data) => self.task_record(task, status, fetched_at, data, None),
            None => {
                let (task_id, clips_left) =
                    (self.run.plan.tasks.id(task).to_string(), self.run.plan.item(task).clips_left);
                (Record::NotFound { task_id, fetched_at, message: error, replaces: true, clips_left }, Vec::new())
            }
        };
        self.hold(task, StoredTask { record: Some(record), assets: Vec::new() }, wanted).await;
    }

    async fn hold(&mut self, task: TaskIndex, held: StoredTask, wanted: Vec<AssetRequest>) {
        if wanted.is_empty() {
            return self.journal_stored(task, held).await;
        }
        self.stored_unsettled.insert(task, held);
        let task_id = self.run.plan.tasks.id(task).to_string();
        self.download(Job { task_id, part: None, wanted, retry_budget: RetryBudget::Last });
    }

    /// Handles a task with a stored response after its assets are settled.
    pub(super) async fn stored_settled(&mut self, task: TaskIndex, assets: Vec<Asset>) {
        let Some(held) = self.stored_unsettled.remove(&task) else { return };
        let has_failed = assets.iter().any(|asset| asset.status == AssetStatus::Failed);
        let held = StoredTask { assets, ..held };
        // Items that only add assets belong to an export, which does not request archived tasks again.
        if has_failed && held.record.is_some() && self.is_running() && !self.is_salvaging {
            self.refreshing.insert(task, held);
            self.queue.add(task);
            self.first_pass_left += 1;
        } else {
            self.journal_stored(task, held).await;
        }
    }

    /// Handles the fresh response for a task with failed assets.
    pub(super) async fn refreshed(&mut self, task: TaskIndex, held: StoredTask, answer: TaskResponse) {
        match answer {
            TaskResponse::Final { status, data, sent } if !is_poorer(status, &data, &held) => {
                let (record, wanted) = self.task_record(task, status, timestamp::now(), data, sent);
                self.journal(Entry::TaskResponse { task, status: Some(status), record, wanted }).await;
            }
            _ => self.journal_stored(task, held).await,
        }
    }

    /// Journals the tasks for which the run had no time to request fresh URLs.
    pub(super) async fn journal_unrefreshed(&mut self) {
        for (task, held) in std::mem::take(&mut self.refreshing) {
            self.journal_stored(task, held).await;
        }
    }

    pub(super) async fn journal_stored(&mut self, task: TaskIndex, held: StoredTask) {
        let task_id = self.run.plan.tasks.id(task).to_string();
        let StoredTask { record, assets } = held;
        let records = match record {
            None if assets.is_empty() => return,
            None => vec![Record::AddedAssets { task_id, assets }],
            Some(record) if assets.is_empty() => vec![record],
            Some(record) => vec![record, Record::Assets { task_id, assets }],
        };
        self.journal(Entry::Settled { task, records }).await;
    }

    /// Starts reading quarantined parts for tasks without a response from the provider. Returns false if there are no
    /// such tasks or the run has no time left.
    pub(super) fn begin_salvage(&mut self) -> bool {
        let has_time = matches!(
            self.ending,
            None | Some(Ending::Done | Ending::KeyRefused | Ending::Failed(Error::Unreachable(_)))
        );
        let plan = self.run.plan;
        let tasks: Vec<TaskIndex> = plan.salvageable().filter(|task| !self.ledger.is_answered(*task)).collect();
        if !has_time || tasks.is_empty() {
            return false;
        }
        self.is_salvaging = true;
        self.stored = Some(StoredStage::of_quarantine(self.run.held.archive.format, plan, tasks));
        true
    }

    /// Returns the record of a final response and the requests for its wanted assets.
    pub(super) fn task_record(
        &self,
        task: TaskIndex,
        status: FinalStatus,
        fetched_at: Timestamp,
        data: String,
        sent: Option<String>,
    ) -> (Record, Vec<AssetRequest>) {
        let (task_id, item) = (self.run.plan.tasks.id(task).to_string(), self.run.plan.item(task));
        let kinds: Vec<AssetKind> = self.kinds(item, &task_id, &data).iter().collect();
        let wanted = self.media.requests(&data, &kinds);
        let assets = if wanted.is_empty() { Vec::new() } else { kinds };
        let replaces = item.replaces() || item.source == AnswerSource::Stored;
        (Record::Task { task_id, status, fetched_at, data, sent, assets, replaces }, wanted)
    }

    fn kinds(&self, item: &Item, task_id: &str, data: &str) -> AssetKinds {
        let of_run = &self.run.config.media.kinds;
        match &item.kinds {
            WantedKinds::OfRun => of_run.clone(),
            WantedKinds::These(kinds) => kinds.clone(),
            WantedKinds::OfRunAndFiles => of_run.iter().chain(self.kinds_of_files(task_id, data)).collect(),
        }
    }

    /// Returns the kinds of assets that the archive has files for.
    fn kinds_of_files(&self, task_id: &str, data: &str) -> Vec<AssetKind> {
        let is_there =
            |wanted: &AssetRequest| self.run.held.media(&wanted.name(task_id), media::endings(wanted.kind())).is_some();
        let all = self.media.requests(data, &AssetKind::ALL);
        all.iter().filter(|wanted| is_there(wanted)).map(AssetRequest::kind).collect()
    }
}

/// Whether a new response differs in status from the stored response or lacks some of its clips.
fn is_poorer(status: FinalStatus, data: &str, held: &StoredTask) -> bool {
    let Some(Record::Task { status: status_before, data: before, .. }) = &held.record else { return true };
    let clips: Vec<Option<String>> = tables::clip_links(data).into_iter().map(|clip| clip.clip_id).collect();
    status != *status_before || tables::clip_links(before).iter().any(|clip| !clips.contains(&clip.clip_id))
}
