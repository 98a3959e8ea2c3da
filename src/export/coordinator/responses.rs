//! Handles the provider's responses.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::{
        MAX_CONSECUTIVE_FAILURES, Salvage, journal_stage::Entry, media_stage::AssetRequest, queue::PendingRequest,
    },
    Coordinator, Discovery, RequestState, StopReason,
};
use crate::{
    api::TaskResponse,
    error::Error,
    event::Event,
    journal::Record,
    status::FinalStatus,
    tables,
    task::TaskIndex,
    timestamp::{self, MicrosTimestamp},
};

/// If the first responses of a run are all 404, the run emits an early warning after this many responses.
const NOT_FOUND_WARNING_COUNT: usize = 20;

impl Coordinator<'_> {
    pub(super) async fn handle_response(&mut self, request: PendingRequest, response: TaskResponse) -> RequestState {
        let task = request.task;
        self.last_connect_failed = matches!(response, TaskResponse::ConnectionFailed { .. });
        match response {
            TaskResponse::RateLimited { pause } => {
                self.handle_rate_limit(request, pause);
                return RequestState::Retrying;
            }
            TaskResponse::Transient { reason } => {
                self.responses += 1;
                return self.retry_or_give_up(request, reason).await;
            }
            TaskResponse::Malformed { reason, body } => {
                self.responses += 1;
                let is_refreshed = self.refreshing.contains_key(&task);
                let settled = self.retry_or_give_up(request, reason.clone()).await;
                if settled == RequestState::Settled && !is_refreshed {
                    self.handle_task_response(task, TaskResponse::Unreadable { reason, body }).await;
                }
                return settled;
            }
            TaskResponse::NoResponse { reason } | TaskResponse::ConnectionFailed { reason } => {
                let settled = self.retry_or_give_up(request, reason.clone()).await;
                // If the run has received no response so far, the base URL may be wrong, so the run ends. Otherwise,
                // the failure is probably transient.
                if settled == RequestState::Settled && self.responses == 0 {
                    self.fail_unreachable(&reason, "check the network, the proxy settings and --base-url, and rerun");
                }
                return settled;
            }
            TaskResponse::UntrustedCertificate { reason } => {
                self.give_up(task, reason.clone()).await;
                self.fail_unreachable(&reason, "for a private CA, set SSL_CERT_FILE to its certificate");
            }
            TaskResponse::KeyRejected { reason } => {
                self.record_response();
                self.give_up(task, reason.clone()).await;
                self.begin_stopping(
                    StopReason::KeyRejected,
                    format!("the provider refused the API key ({reason}); no more requests will be sent"),
                );
            }
            TaskResponse::Rejected { reason } => {
                self.record_response();
                self.give_up(task, reason).await;
            }
            TaskResponse::Final { .. }
            | TaskResponse::Unfinished { .. }
            | TaskResponse::NotFound { .. }
            | TaskResponse::Unreadable { .. } => {
                self.record_response();
                match self.refreshing.remove(&task) {
                    Some(stored) => self.handle_refreshed(task, stored, response).await,
                    None => self.handle_task_response(task, response).await,
                }
            }
        }
        RequestState::Settled
    }

    /// Handles a final, unfinished, not-found or unreadable response for a task.
    async fn handle_task_response(&mut self, task: TaskIndex, response: TaskResponse) {
        let task_id = self.run.plan.tasks.id(task).to_string();
        match response {
            TaskResponse::Final { status, data, original_body } => {
                self.record_found().await;
                self.handle_final(task, status, data, original_body).await;
            }
            TaskResponse::Unfinished { status, created_at } => {
                self.record_found().await;
                let detail =
                    status.as_ref().map_or("it has no status".into(), |status| format!("its status is {status}"));
                (self.emit)(Event::Unfinished { task_id, status });
                self.schedule_poll(task, created_at, detail);
            }
            TaskResponse::NotFound { message } => {
                let fetched_at = timestamp::now();
                match &mut self.discovery {
                    Discovery::Found => self.handle_not_found(task, fetched_at, message).await,
                    Discovery::NoneYet(not_found_tasks) => {
                        not_found_tasks.push((task, fetched_at, message));
                        let plan = self.run.plan;
                        if not_found_tasks.len() == NOT_FOUND_WARNING_COUNT
                            && not_found_tasks.iter().all(|(task, ..)| !plan.is_refetched(*task))
                        {
                            (self.emit)(Event::NoneFound { responses: NOT_FOUND_WARNING_COUNT as u64 });
                        }
                    }
                }
            }
            TaskResponse::Unreadable { reason, body } => {
                self.ledger.mark_unreadable(task, reason);
                let record = Record::Unreadable { task_id, body };
                self.journal(Entry::TaskResponse { task, status: None, record, asset_requests: Vec::new() }).await;
            }
            _ => {}
        }
    }

    /// Writes a final response to the journal. If the response has fewer clips than the archive still contains for the
    /// task, the task is marked as failed instead. If a wanted asset is still in progress, a poll is scheduled instead.
    async fn handle_final(
        &mut self,
        task: TaskIndex,
        status: FinalStatus,
        data: String,
        original_body: Option<String>,
    ) {
        if self.run.plan.item(task).has_fewer_clips(|| tables::clip_urls(&data).len()) {
            let reason = "the provider's response has fewer clips than the archive still contains";
            return self.ledger.mark_failed(task, reason.into());
        }
        let (record, asset_requests) = self.task_record(task, status, timestamp::now(), data, original_body);
        if let Some(detail) = asset_requests.iter().find_map(AssetRequest::in_progress)
            && let Record::Task { status: FinalStatus::Success, data, fetched_at, .. } = &record
            && let times = tables::task_times(data)
            && times.may_change(*fetched_at)
        {
            let (task_id, status) = (self.run.plan.tasks.id(task).to_string(), Some(status.as_str().into()));
            (self.emit)(Event::Unfinished { task_id, status });
            return self.schedule_poll(task, times.created_at, detail.to_owned());
        }
        self.journal(Entry::TaskResponse { task, status: Some(status), record, asset_requests }).await;
    }

    /// Records that the task is unfinished, and schedules a poll.
    fn schedule_poll(&mut self, task: TaskIndex, created_at: Option<MicrosTimestamp>, detail: String) {
        self.ledger.mark_unfinished(task, detail);
        self.queue.schedule_poll(task, created_at, Instant::now() + self.poll_interval());
    }

    /// Counts a response and resets the counters of consecutive failures and consecutive 429 responses.
    fn record_response(&mut self) {
        self.responses += 1;
        self.consecutive_failures = 0;
        self.consecutive_rate_limits = 0;
    }

    /// Pauses all requests after a 429 response and schedules a retry, which does not count against the retry limit.
    /// Ends the run after too many consecutive 429 responses.
    fn handle_rate_limit(&mut self, request: PendingRequest, pause: Duration) {
        self.responses += 1;
        self.consecutive_rate_limits += 1;
        self.limiter.pause(pause);
        self.ledger.mark_retrying(request.task, "rate limited (HTTP 429)".into());
        (self.emit)(Event::RateLimited { wait_seconds: pause.as_secs_f64() });
        self.queue.requeue_rate_limited(request);
        if self.consecutive_rate_limits == MAX_CONSECUTIVE_FAILURES {
            let host = self.client.host();
            self.fail(Error::Unreachable(format!(
                "{host} rate limited {MAX_CONSECUTIVE_FAILURES} requests in a row (HTTP 429); fetched data is kept; rerun later"
            )));
        }
    }

    async fn retry_or_give_up(&mut self, request: PendingRequest, reason: String) -> RequestState {
        let failures = request.failures + 1;
        let Some(wait) = self.backoff.wait(failures) else {
            self.give_up(request.task, format!("{reason} (attempts: {failures})")).await;
            self.consecutive_failures += 1;
            if self.consecutive_failures == MAX_CONSECUTIVE_FAILURES && self.first_pass_remaining > 1 {
                self.fail_provider_down(&reason);
            }
            return RequestState::Settled;
        };
        self.ledger.mark_retrying(request.task, reason.clone());
        let task_id = self.run.plan.tasks.id(request.task).to_string();
        (self.emit)(Event::Retrying { task_id, reason, wait_seconds: wait.as_secs_f64() });
        self.queue.schedule_retry(PendingRequest { failures, ..request }, Instant::now() + wait);
        RequestState::Retrying
    }

    /// Records that the provider returned no usable response for the task. If the task has a stored response, that
    /// response is written to the journal instead.
    async fn give_up(&mut self, task: TaskIndex, reason: String) {
        match self.refreshing.remove(&task) {
            Some(stored) => self.journal_stored_task(task, stored).await,
            None => self.ledger.mark_failed(task, reason),
        }
    }

    fn fail_provider_down(&mut self, reason: &str) {
        let host = self.client.host();
        self.fail(Error::Unreachable(format!(
            "{MAX_CONSECUTIVE_FAILURES} tasks in a row failed at {host}; last error: {reason}; fetched data is kept; rerun when the host is available"
        )));
    }

    async fn handle_not_found(&mut self, task: TaskIndex, fetched_at: Timestamp, message: Option<String>) {
        let item = self.run.plan.item(task);
        if item.salvage == Some(Salvage::Response) {
            return self.ledger.mark_deleted_by_provider(task);
        }
        let (task_id, replaces) = (self.run.plan.tasks.id(task).to_string(), item.replaces());
        let record = Record::NotFound { task_id, fetched_at, message, replaces, remaining_clips: item.remaining_clips };
        let status = Some(FinalStatus::NotFound);
        self.journal(Entry::TaskResponse { task, status, record, asset_requests: Vec::new() }).await;
    }

    /// Records that the provider found a task. This shows that the key belongs to the right account, so earlier 404
    /// responses are now treated as final.
    async fn record_found(&mut self) {
        let Discovery::NoneYet(not_found_tasks) = std::mem::replace(&mut self.discovery, Discovery::Found) else {
            return;
        };
        for (task, fetched_at, message) in not_found_tasks {
            self.handle_not_found(task, fetched_at, message).await;
        }
    }

    /// Processes the 404 responses of a run in which no task was found.
    pub(super) fn settle_not_found(&mut self) {
        let Discovery::NoneYet(not_found_tasks) = std::mem::replace(&mut self.discovery, Discovery::Found) else {
            return;
        };
        let (archived, unknown): (Vec<_>, Vec<_>) =
            not_found_tasks.into_iter().partition(|(task, ..)| self.run.plan.is_refetched(*task));
        // A 404 for a task that is archived as `not_found` does not indicate that the key is wrong.
        if !unknown.is_empty() {
            (self.emit)(Event::NoneFound { responses: unknown.len() as u64 });
        }
        if !archived.is_empty() {
            // The `not_found` rows of these tasks stay unchanged.
            (self.emit)(Event::StillNotFound { tasks: archived.len() as u64 });
        }
        for (task, ..) in archived {
            self.ledger.mark_archived(task);
        }
        for (task, ..) in unknown {
            self.ledger.mark_failed(
                task,
                "not found, like every other task in the run; does the key belong to a different account?".into(),
            );
        }
    }
}
