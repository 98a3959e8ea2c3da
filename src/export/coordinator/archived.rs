//! Handles stored responses. A stored response is written to the journal only after each of its assets has a final
//! outcome. If the run ends earlier, nothing is lost, because the response is still stored. If a download fails, the
//! stored URL may have expired, so the run requests the task again to get fresh URLs. Responses in quarantined parts
//! are read last, and only for tasks without a response from the provider.

use jiff::Timestamp;

use super::{
    super::{
        Item, ResponseSource, RowEffect, WantedKinds,
        journal_stage::Entry,
        media_stage::{AssetRequest, DeferPolicy, MediaJob},
        stored::{StoredResponse, StoredStage},
    },
    Coordinator, MAX_STORED_TASKS, MAX_UNACKNOWLEDGED, StopReason,
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
    /// The outcomes of the task's assets.
    assets: Vec<Asset>,
}

impl Coordinator<'_> {
    /// Whether the coordinator can accept another stored response without exceeding its limits.
    pub(super) fn can_accept_stored_response(&self) -> bool {
        self.stored.is_some()
            && self.stored_unsettled.len() + self.refreshing.len() < MAX_STORED_TASKS
            && self.unacknowledged < MAX_UNACKNOWLEDGED
    }

    /// Stops accepting stored responses.
    pub(super) fn stop_accepting_stored(&mut self) {
        if let Some(stage) = &mut self.stored {
            stage.responses.close();
        }
    }

    pub(super) async fn handle_stored(&mut self, stored: Option<(TaskIndex, Option<StoredResponse>)>) {
        match stored {
            Some((task, Some(stored))) if self.is_salvaging => self.handle_salvaged(task, stored).await,
            Some((task, Some(stored))) => self.handle_archived(task, stored).await,
            Some((task, None)) if self.run.plan.item(task).rows == RowEffect::Replace && !self.is_salvaging => {
                self.ledger.mark_failed(task, "the task's row can no longer be read".into());
            }
            Some((_, None)) => {}
            None => self.finish_stored_stage().await,
        }
    }

    async fn finish_stored_stage(&mut self) {
        let Some(stage) = self.stored.take() else { return };
        if let Err(error) = super::outcome(stage.handle).await {
            self.fail(error);
        }
    }

    async fn handle_archived(&mut self, task: TaskIndex, stored: StoredResponse) {
        match &self.run.plan.item(task).kinds {
            WantedKinds::Explicit(kinds) if self.run.plan.item(task).rows == RowEffect::AddAssets => {
                let asset_requests = self
                    .media
                    .requests(stored.response.as_deref().unwrap_or_default(), &kinds.iter().collect::<Vec<_>>());
                self.settle_assets(task, StoredTask { record: None, assets: Vec::new() }, asset_requests).await;
            }
            _ => self.settle_record(task, stored).await,
        }
    }

    /// Handles a response that was salvaged from a damaged part, for a task without a response from the provider.
    async fn handle_salvaged(&mut self, task: TaskIndex, stored: StoredResponse) {
        let reason = self.ledger.describe_missing(task);
        let task_id = self.run.plan.tasks.id(task).to_string();
        (self.emit)(Event::Salvaged { task_id, reason });
        self.settle_record(task, stored).await;
    }

    async fn settle_record(&mut self, task: TaskIndex, stored: StoredResponse) {
        let StoredResponse { status, fetched_at, response, error } = stored;
        let (record, asset_requests) = match response {
            Some(data) => self.task_record(task, status, fetched_at, data, None),
            None => {
                let (task_id, remaining_clips) =
                    (self.run.plan.tasks.id(task).to_string(), self.run.plan.item(task).remaining_clips);
                (Record::NotFound { task_id, fetched_at, message: error, replaces: true, remaining_clips }, Vec::new())
            }
        };
        self.settle_assets(task, StoredTask { record: Some(record), assets: Vec::new() }, asset_requests).await;
    }

    async fn settle_assets(&mut self, task: TaskIndex, stored: StoredTask, asset_requests: Vec<AssetRequest>) {
        if asset_requests.is_empty() {
            return self.journal_stored_task(task, stored).await;
        }
        self.stored_unsettled.insert(task, stored);
        let task_id = self.run.plan.tasks.id(task).to_string();
        self.download(MediaJob { task_id, part: None, asset_requests, defer_policy: DeferPolicy::Never });
    }

    /// Handles a task with a stored response after each of its assets has a final outcome.
    pub(super) async fn handle_stored_settled(&mut self, task: TaskIndex, assets: Vec<Asset>) {
        let Some(stored) = self.stored_unsettled.remove(&task) else { return };
        let has_failed = assets.iter().any(|asset| asset.status == AssetStatus::Failed);
        let stored = StoredTask { assets, ..stored };
        // If there is no record, the run only adds assets to the archived task. Only an export does this, and an export
        // does not request archived tasks again.
        if has_failed && stored.record.is_some() && self.is_running() && !self.is_salvaging {
            self.refreshing.insert(task, stored);
            self.queue.add(task);
            self.first_pass_remaining += 1;
        } else {
            self.journal_stored_task(task, stored).await;
        }
    }

    /// Handles the new response for a task whose assets could not be downloaded from the stored URLs.
    pub(super) async fn handle_refreshed(&mut self, task: TaskIndex, stored: StoredTask, response: TaskResponse) {
        match response {
            TaskResponse::Final { status, data, original_body } if !loses_data(status, &data, &stored) => {
                let (record, asset_requests) = self.task_record(task, status, timestamp::now(), data, original_body);
                self.journal(Entry::TaskResponse { task, status: Some(status), record, asset_requests }).await;
            }
            _ => self.journal_stored_task(task, stored).await,
        }
    }

    /// Writes the remaining stored responses to the journal if the run has no time left to request fresh URLs.
    pub(super) async fn journal_tasks_without_refresh(&mut self) {
        for (task, stored) in std::mem::take(&mut self.refreshing) {
            self.journal_stored_task(task, stored).await;
        }
    }

    pub(super) async fn journal_stored_task(&mut self, task: TaskIndex, stored: StoredTask) {
        let task_id = self.run.plan.tasks.id(task).to_string();
        let StoredTask { record, assets } = stored;
        let records = match record {
            None if assets.is_empty() => return,
            None => vec![Record::AddedAssets { task_id, assets }],
            Some(record) if assets.is_empty() => vec![record],
            Some(record) => vec![record, Record::Assets { task_id, assets }],
        };
        self.journal(Entry::Settled { task, records }).await;
    }

    /// Starts reading quarantined parts for tasks without a response from the provider. Returns `false` if there are no
    /// such tasks or the run must end now.
    pub(super) fn begin_salvage(&mut self) -> bool {
        let has_time = matches!(
            self.stop_reason,
            None | Some(StopReason::Done | StopReason::KeyRejected | StopReason::Failed(Error::Unreachable(_)))
        );
        let plan = self.run.plan;
        let tasks: Vec<TaskIndex> = plan.salvageable().filter(|task| !self.ledger.is_answered(*task)).collect();
        if !has_time || tasks.is_empty() {
            return false;
        }
        self.is_salvaging = true;
        self.stored = Some(StoredStage::read_quarantine(self.run.archive.format, plan, tasks));
        true
    }

    /// Returns the record of a final response and the requests for its wanted assets.
    pub(super) fn task_record(
        &self,
        task: TaskIndex,
        status: FinalStatus,
        fetched_at: Timestamp,
        data: String,
        original_body: Option<String>,
    ) -> (Record, Vec<AssetRequest>) {
        let (task_id, item) = (self.run.plan.tasks.id(task).to_string(), self.run.plan.item(task));
        let kinds: Vec<AssetKind> = self.wanted_kinds(item, &task_id, &data).iter().collect();
        let asset_requests = self.media.requests(&data, &kinds);
        let assets = if asset_requests.is_empty() { Vec::new() } else { kinds };
        let replaces = item.replaces() || item.source == ResponseSource::Tables;
        (Record::Task { task_id, status, fetched_at, data, original_body, assets, replaces }, asset_requests)
    }

    fn wanted_kinds(&self, item: &Item, task_id: &str, data: &str) -> AssetKinds {
        let configured = &self.run.config.media.kinds;
        match &item.kinds {
            WantedKinds::Configured => configured.clone(),
            WantedKinds::Explicit(kinds) => kinds.clone(),
            WantedKinds::ConfiguredAndExisting => {
                configured.iter().chain(self.kinds_with_files(task_id, data)).collect()
            }
        }
    }

    /// Returns the kinds of the task's assets that have a file in the archive.
    fn kinds_with_files(&self, task_id: &str, data: &str) -> Vec<AssetKind> {
        let exists = |request: &AssetRequest| {
            self.run.archive.open_media(&request.name(task_id), media::extensions(request.kind())).is_some()
        };
        let all = self.media.requests(data, &AssetKind::ALL);
        all.iter().filter(|request| exists(request)).map(AssetRequest::kind).collect()
    }
}

/// Whether a new response has a different status or lacks clips that the stored response contains.
fn loses_data(status: FinalStatus, data: &str, stored: &StoredTask) -> bool {
    let Some(Record::Task { status: stored_status, data: stored_data, .. }) = &stored.record else { return true };
    let clips: Vec<Option<String>> = tables::clip_urls(data).into_iter().map(|clip| clip.clip_id).collect();
    status != *stored_status || tables::clip_urls(stored_data).iter().any(|clip| !clips.contains(&clip.clip_id))
}
