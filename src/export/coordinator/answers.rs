//! Handles the provider's responses.

use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use super::{
    super::{DOWN, Salvage, journal_stage::Entry, media_stage::AssetRequest, queue::PendingRequest},
    Coordinator, Discovery, Ending, Settled,
};
use crate::{
    api::TaskResponse,
    error::Error,
    event::Event,
    journal::Record,
    status::FinalStatus,
    tables,
    task::TaskIndex,
    timestamp::{self, Moment},
};

/// If the first responses of a run are all 404, the run emits an early warning after this many responses.
const SUSPICIOUS: usize = 20;

impl Coordinator<'_> {
    pub(super) async fn settle(&mut self, request: PendingRequest, answer: TaskResponse) -> Settled {
        let task = request.task;
        self.unconnected = matches!(answer, TaskResponse::Unconnected { .. });
        match answer {
            TaskResponse::RateLimited { pause } => {
                self.rate_limited(request, pause);
                return Settled::NotYet;
            }
            TaskResponse::Transient { reason } => {
                self.answers += 1;
                return self.retry_or_give_up(request, reason).await;
            }
            TaskResponse::Malformed { reason, body } => {
                self.answers += 1;
                let is_refreshed = self.refreshing.contains_key(&task);
                let settled = self.retry_or_give_up(request, reason.clone()).await;
                if settled == Settled::Yes && !is_refreshed {
                    self.keep(task, TaskResponse::Unreadable { reason, body }).await;
                }
                return settled;
            }
            TaskResponse::Silent { reason } | TaskResponse::Unconnected { reason } => {
                let settled = self.retry_or_give_up(request, reason.clone()).await;
                // If the run has received no response so far, the address may be wrong. Otherwise, the failure is
                // transient.
                if settled == Settled::Yes && self.answers == 0 {
                    self.unreachable(&reason, "check the network, the proxy settings and --base-url, and rerun");
                }
                return settled;
            }
            TaskResponse::Untrusted { reason } => {
                self.give_up(task, reason.clone()).await;
                self.unreachable(&reason, "for a private CA, set SSL_CERT_FILE to its certificate");
            }
            TaskResponse::KeyRefused { reason } => {
                self.answered();
                self.give_up(task, reason.clone()).await;
                self.end(
                    Ending::KeyRefused,
                    format!("the provider refused the key ({reason}); no more requests will be sent"),
                );
            }
            TaskResponse::Rejected { reason } => {
                self.answered();
                self.give_up(task, reason).await;
            }
            TaskResponse::Final { .. }
            | TaskResponse::Unfinished { .. }
            | TaskResponse::NotFound { .. }
            | TaskResponse::Unreadable { .. } => {
                self.answered();
                match self.refreshing.remove(&task) {
                    Some(held) => self.refreshed(task, held, answer).await,
                    None => self.keep(task, answer).await,
                }
            }
        }
        Settled::Yes
    }

    /// Handles a response that describes a task.
    async fn keep(&mut self, task: TaskIndex, answer: TaskResponse) {
        let task_id = self.run.plan.tasks.id(task).to_string();
        match answer {
            TaskResponse::Final { status, data, sent } => {
                self.found().await;
                self.keep_final(task, status, data, sent).await;
            }
            TaskResponse::Unfinished { status, created_at } => {
                self.found().await;
                let detail =
                    status.as_ref().map_or("it has no status".into(), |status| format!("its status is {status}"));
                (self.emit)(Event::Unfinished { task_id, status });
                self.poll(task, created_at, detail);
            }
            TaskResponse::NotFound { message } => {
                let fetched_at = timestamp::now();
                match &mut self.discovery {
                    Discovery::Found => self.not_found(task, fetched_at, message).await,
                    Discovery::NoneYet(waiting) => {
                        waiting.push((task, fetched_at, message));
                        let plan = self.run.plan;
                        if waiting.len() == SUSPICIOUS && waiting.iter().all(|(task, ..)| !plan.is_asked_again(*task)) {
                            (self.emit)(Event::NoneFound { answers: SUSPICIOUS as u64 });
                        }
                    }
                }
            }
            TaskResponse::Unreadable { reason, body } => {
                self.ledger.unreadable(task, reason);
                let record = Record::Unreadable { task_id, body };
                self.journal(Entry::TaskResponse { task, status: None, record, wanted: Vec::new() }).await;
            }
            _ => {}
        }
    }

    /// Journals a final response, unless the archive has rows for more clips or a wanted asset is still in progress.
    async fn keep_final(&mut self, task: TaskIndex, status: FinalStatus, data: String, sent: Option<String>) {
        if self.run.plan.item(task).is_poorer(tables::clip_links(&data).len()) {
            let reason = "the provider's response has fewer clips than the remaining rows";
            return self.ledger.gave_up(task, reason.into());
        }
        let (record, wanted) = self.task_record(task, status, timestamp::now(), data, sent);
        if let Some(detail) = wanted.iter().find_map(AssetRequest::in_progress)
            && let Record::Task { status: FinalStatus::Success, data, fetched_at, .. } = &record
            && let times = tables::task_times(data)
            && times.may_change(*fetched_at)
        {
            let (task_id, status) = (self.run.plan.tasks.id(task).to_string(), Some(status.as_str().into()));
            (self.emit)(Event::Unfinished { task_id, status });
            return self.poll(task, times.created_at, detail.to_owned());
        }
        self.journal(Entry::TaskResponse { task, status: Some(status), record, wanted }).await;
    }

    /// Schedules a poll of the task.
    fn poll(&mut self, task: TaskIndex, created_at: Option<Moment>, detail: String) {
        self.ledger.unfinished(task, detail);
        self.queue.poll(task, created_at, Instant::now() + self.poll_interval());
    }

    /// Counts a response and resets the counters of consecutive failures.
    fn answered(&mut self) {
        self.answers += 1;
        self.given_up_in_a_row = 0;
        self.refused_in_a_row = 0;
    }

    /// Pauses all requests after a 429, which does not count against the retry limit. A provider that sends only 429
    /// responses counts as down.
    fn rate_limited(&mut self, request: PendingRequest, pause: Duration) {
        self.answers += 1;
        self.refused_in_a_row += 1;
        self.pace.pause(pause);
        self.ledger.failing(request.task, "rate limited (HTTP 429)".into());
        (self.emit)(Event::RateLimited { wait_seconds: pause.as_secs_f64() });
        self.queue.refused(request);
        if self.refused_in_a_row == DOWN {
            let host = self.client.host();
            self.fail(Error::Unreachable(format!(
                "{host} rate limited {DOWN} requests in a row (HTTP 429); fetched data is kept, rerun later"
            )));
        }
    }

    async fn retry_or_give_up(&mut self, request: PendingRequest, reason: String) -> Settled {
        let failures = request.failures + 1;
        let Some(wait) = self.backoff.wait(failures) else {
            self.give_up(request.task, format!("{reason} (attempts: {failures})")).await;
            self.given_up_in_a_row += 1;
            if self.given_up_in_a_row == DOWN && self.first_pass_left > 1 {
                self.provider_is_down(&reason);
            }
            return Settled::Yes;
        };
        self.ledger.failing(request.task, reason.clone());
        let task_id = self.run.plan.tasks.id(request.task).to_string();
        (self.emit)(Event::Retrying { task_id, reason, wait_seconds: wait.as_secs_f64() });
        self.queue.retry(PendingRequest { failures, ..request }, Instant::now() + wait);
        Settled::NotYet
    }

    /// Records that the provider has no usable response for the task.
    async fn give_up(&mut self, task: TaskIndex, reason: String) {
        match self.refreshing.remove(&task) {
            Some(held) => self.journal_stored(task, held).await,
            None => self.ledger.gave_up(task, reason),
        }
    }

    fn provider_is_down(&mut self, reason: &str) {
        let host = self.client.host();
        self.fail(Error::Unreachable(format!(
            "{DOWN} tasks in a row failed at {host}, the last with: {reason}; fetched data is kept, rerun when the host is back"
        )));
    }

    async fn not_found(&mut self, task: TaskIndex, fetched_at: Timestamp, message: Option<String>) {
        let item = self.run.plan.item(task);
        if item.salvage == Some(Salvage::Response) {
            return self.ledger.forgotten(task);
        }
        let (task_id, replaces) = (self.run.plan.tasks.id(task).to_string(), item.replaces());
        let record = Record::NotFound { task_id, fetched_at, message, replaces, clips_left: item.clips_left };
        let status = Some(FinalStatus::NotFound);
        self.journal(Entry::TaskResponse { task, status, record, wanted: Vec::new() }).await;
    }

    /// Records that a task was found. The key belongs to the right account, so the earlier 404 responses are final.
    async fn found(&mut self) {
        let Discovery::NoneYet(waiting) = std::mem::replace(&mut self.discovery, Discovery::Found) else { return };
        for (task, fetched_at, message) in waiting {
            self.not_found(task, fetched_at, message).await;
        }
    }

    /// Settles the 404 responses of a run that found no task.
    pub(super) fn settle_not_found(&mut self) {
        let Discovery::NoneYet(waiting) = std::mem::replace(&mut self.discovery, Discovery::Found) else { return };
        let (archived, unknown): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|(task, ..)| self.run.plan.is_asked_again(*task));
        // A 404 for a task that is archived as `not_found` does not suggest a wrong key.
        if !unknown.is_empty() {
            (self.emit)(Event::NoneFound { answers: unknown.len() as u64 });
        }
        if !archived.is_empty() {
            // The `not_found` rows of these tasks stay unchanged.
            (self.emit)(Event::StillNotFound { tasks: archived.len() as u64 });
        }
        for (task, ..) in archived {
            self.ledger.archived(task);
        }
        for (task, ..) in unknown {
            self.ledger.gave_up(
                task,
                "not found, like every task of the run; does the key belong to a different account?".into(),
            );
        }
    }
}
