//! Tasks that are archived, and of which something is missing, are put through the pipeline again: from
//! the answer that the archive has, or from a new one. Their new rows take the place of the old ones, and
//! files that are whole are found where they are.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use super::{
    Tell,
    media_stage::{Chances, Job, MediaStage, News, Wanted},
    publish,
};
use crate::{
    api::{Answer, Client, Pace},
    archive::HeldArchive,
    asset::{Asset, AssetKind, AssetStatus},
    backoff::Backoff,
    error::{Error, Result},
    event::{Event, RequestKind},
    journal::{JournalWriter, Record},
    json::Object,
    media, moment,
    status::FinalStatus,
    tables,
    task::TaskId,
};

/// So many tasks in a row without an answer, each after all its tries, and the provider is down.
const MOST_SILENT: u32 = 3;

/// A task to be mended.
#[derive(Clone, Debug)]
pub(crate) struct Patient {
    pub(crate) task_id: String,
    /// The kinds of assets that its rows name; those it should have, if it has lost them.
    pub(crate) assets: BTreeSet<AssetKind>,
    /// What the archive has of it.
    pub(crate) stored: Option<Stored>,
    /// What a damaged part says of it: better than nothing, should the provider have none.
    pub(crate) salvaged: Option<Stored>,
}

/// An answer that the archive has.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    pub(crate) status: FinalStatus,
    pub(crate) fetched_at: Timestamp,
    /// Absent for a task that the provider does not know.
    pub(crate) response: Option<String>,
    pub(crate) error: Option<String>,
}

impl Stored {
    /// Whether it says more of the task than another row: that it was found, that it ended well, and what is
    /// newer.
    pub(crate) fn is_better_than(&self, other: &Self) -> bool {
        let rank =
            |stored: &Self| (stored.response.is_some(), stored.status == FinalStatus::Success, stored.fetched_at);
        rank(self) > rank(other)
    }

    /// Whether it is an answer about that task, and not what damage has made of one.
    pub(crate) fn is_of(&self, task_id: &str) -> bool {
        let task = self.response.as_deref().map(|response| Object::parse(response)?.text("task_id"));
        task.map_or(self.status == FinalStatus::NotFound, |task| task.as_deref() == Some(task_id))
    }
}

/// What became of the tasks.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// Tasks whose rows are new, and whose assets are all there.
    pub(crate) whole: u64,
    /// Requests to the API.
    pub(crate) requests: u64,
    /// What could not be mended: by task, why.
    pub(crate) failed: BTreeMap<String, String>,
    /// The provider refused the key.
    pub(crate) key_refused: bool,
    /// Why the provider is not asked any more: it does not answer.
    pub(crate) unreachable: Option<String>,
    /// Tasks in a row for which it gave no answer.
    silent: u32,
    /// Whether it knows any of the tasks: else the key may be another account's.
    knows_any: bool,
    /// Tasks that it does not know and of which nothing else is left, and what it said.
    not_found: Vec<(Patient, Option<String>)>,
}

/// Puts tasks through the pipeline again.
pub(crate) struct Mender<'a> {
    pub(crate) held: Arc<HeldArchive>,
    pub(crate) client: Client,
    pub(crate) pace: Pace,
    pub(crate) retries: u32,
    pub(crate) media: MediaStage,
    pub(crate) writer: JournalWriter,
    pub(crate) tell: Tell<'a>,
    pub(crate) mended: Mended,
}

/// A task with the answer to mend it from.
struct Answered {
    patient: Patient,
    record: Record,
    /// The part of the journal that holds the answer, if it is the provider's.
    kept_in: Option<u32>,
}

/// What the provider says of a task.
enum Asked {
    /// It has ended, and the journal holds the answer in that part.
    Final(Record, u32),
    /// It does not know the task.
    NotFound(Option<String>),
    /// There is no answer that would be better than none.
    Nothing(String),
}

/// What an answer of the provider came to.
enum Reply {
    /// The task has ended: its status, the `data` object, and the body if that is not the same.
    Final(FinalStatus, String, Option<String>),
    NotFound(Option<String>),
}

/// What is said of a task that the provider does not know.
const FORGOTTEN: &str = "the provider does not know it any more";

impl Mender<'_> {
    /// Mends some tasks. Memory holds their answers, so they should be some hundreds at a time.
    pub(crate) async fn mend(&mut self, patients: Vec<Patient>) -> Result<()> {
        let mut answers = Vec::new();
        for patient in patients {
            answers.extend(self.answer(patient).await?);
        }
        let settled = self.settle(&answers).await?;
        let mut again = Vec::new();
        for (answer, assets) in answers.into_iter().zip(settled) {
            // The address may have expired: the provider has a fresh one.
            let has_failed = assets.iter().any(|asset| asset.status == AssetStatus::Failed);
            if has_failed && answer.kept_in.is_none() {
                again.push((answer, assets));
            } else {
                self.keep(answer, assets)?;
            }
        }
        self.mend_with_fresh_addresses(again).await
    }

    /// Publishes all that was mended.
    pub(crate) async fn finish(mut self) -> Result<Mended> {
        self.keep_not_found()?;
        for segment in self.writer.close()? {
            let published = publish::publish(&self.held, segment).await?;
            (self.tell)(Event::Published(published.published));
        }
        self.media.abort();
        self.media.ended().await?;
        Ok(self.mended)
    }

    async fn mend_with_fresh_addresses(&mut self, patients: Vec<(Answered, Vec<Asset>)>) -> Result<()> {
        let mut fresh = Vec::new();
        for (old, assets) in patients {
            match self.ask(&old.patient, Some(&old.record)).await? {
                Asked::Final(record, part) => {
                    fresh.push(Answered { patient: old.patient, record, kept_in: Some(part) });
                }
                Asked::NotFound(_) | Asked::Nothing(_) => self.keep(old, assets)?,
            }
        }
        let settled = self.settle(&fresh).await?;
        fresh.into_iter().zip(settled).try_for_each(|(answer, assets)| self.keep(answer, assets))
    }

    /// The answer to mend a task from: what the archive has, else what the provider says.
    async fn answer(&mut self, patient: Patient) -> Result<Option<Answered>> {
        if let Some(stored) = patient.stored.clone() {
            let record = self.stored_record(&patient, stored);
            return Ok(Some(Answered { patient, record, kept_in: None }));
        }
        match self.ask(&patient, None).await? {
            Asked::Final(record, part) => Ok(Some(Answered { patient, record, kept_in: Some(part) })),
            Asked::NotFound(message) if patient.salvaged.is_none() => {
                self.mended.not_found.push((patient, message));
                Ok(None)
            }
            Asked::NotFound(_) => self.salvage(patient, FORGOTTEN.into()),
            Asked::Nothing(reason) => self.salvage(patient, reason),
        }
    }

    /// Archives what the provider does not know as not found, so that it is not asked for again and again.
    /// What it was once is lost, and is named all the same.
    fn keep_not_found(&mut self) -> Result<()> {
        for (patient, message) in std::mem::take(&mut self.mended.not_found) {
            let mut reason = FORGOTTEN.to_owned();
            if self.mended.knows_any {
                self.writer.append([&not_found(&patient, moment::now(), message)])?;
                reason += "; it is archived as not found";
            }
            self.mended.failed.insert(patient.task_id, reason);
        }
        Ok(())
    }

    /// Takes what a damaged part says of a task that the provider has no answer for.
    fn salvage(&mut self, patient: Patient, reason: String) -> Result<Option<Answered>> {
        let Some(salvaged) = patient.salvaged.clone() else {
            self.mended.failed.insert(patient.task_id, reason);
            return Ok(None);
        };
        let reason = format!("{reason}; it is kept as a damaged part has it");
        self.mended.failed.insert(patient.task_id.clone(), reason);
        let record = self.stored_record(&patient, salvaged);
        let part = self.writer.append([&record])?;
        Ok(Some(Answered { patient, record, kept_in: Some(part) }))
    }

    /// Journals what is known of a task now; all of it is published at the end.
    fn keep(&mut self, answer: Answered, assets: Vec<Asset>) -> Result<()> {
        let Answered { patient: Patient { task_id, .. }, record, kept_in } = answer;
        match assets.iter().find(|asset| asset.status == AssetStatus::Failed) {
            Some(asset) => {
                let reason = asset.error.clone().unwrap_or_default();
                self.mended.failed.insert(task_id.clone(), format!("{}: {reason}", asset.kind));
            }
            None => self.mended.whole += 1,
        }
        let awaits_assets = matches!(&record, Record::Task { assets, .. } if !assets.is_empty());
        let part = match kept_in {
            Some(part) => part,
            None => self.writer.append([&record])?,
        };
        if awaits_assets {
            self.writer.append_to(part, [&Record::Assets { task_id, assets }])?;
        }
        Ok(())
    }

    /// Settles the assets of each of these tasks, in their order.
    async fn settle(&mut self, answers: &[Answered]) -> Result<Vec<Vec<Asset>>> {
        let mut settled: BTreeMap<u32, Vec<Asset>> = BTreeMap::new();
        let mut under_way = 0;
        for (part, answer) in (0..).zip(answers) {
            if let Record::Task { task_id, data, assets, .. } = &answer.record
                && !assets.is_empty()
            {
                let wanted = Wanted::of(data, assets);
                self.media.settle(Job { task_id: task_id.clone(), part, wanted, chances: Chances::Last });
                under_way += 1;
            }
        }
        while under_way > 0 {
            match self.media.news.recv().await {
                Some(News::Happened(event)) => (self.tell)(event),
                Some(News::Settled { part, assets, .. }) => {
                    settled.insert(part, assets);
                    under_way -= 1;
                }
                Some(News::Unsettled) | None => {
                    self.media.ended().await?;
                    return Err(Error::Internal("the downloads ended too soon".into()));
                }
            }
        }
        Ok((0..).zip(answers).map(|(part, _)| settled.remove(&part).unwrap_or_default()).collect())
    }

    /// Asks the provider for a task, and keeps a final answer at once: it is not asked for again. One that
    /// tells less than what the archive has is no answer.
    async fn ask(&mut self, patient: &Patient, old: Option<&Record>) -> Result<Asked> {
        Ok(match self.question(&patient.task_id).await {
            Ok(Reply::NotFound(message)) => Asked::NotFound(message),
            Ok(Reply::Final(status, data, sent)) => {
                self.mended.knows_any = true;
                let record = self.task_record(patient, status, moment::now(), data, sent);
                if old.is_some_and(|old| tells_less(&record, old)) {
                    return Ok(Asked::Nothing("the provider's answer has become poorer".into()));
                }
                let part = self.writer.append([&record])?;
                Asked::Final(record, part)
            }
            Err(reason) => Asked::Nothing(reason),
        })
    }

    fn stored_record(&self, patient: &Patient, stored: Stored) -> Record {
        let Stored { status, fetched_at, response, error } = stored;
        match response {
            Some(data) => self.task_record(patient, status, fetched_at, data, None),
            None => not_found(patient, fetched_at, error),
        }
    }

    fn task_record(
        &self,
        patient: &Patient,
        status: FinalStatus,
        fetched_at: Timestamp,
        data: String,
        sent: Option<String>,
    ) -> Record {
        let kinds: Vec<AssetKind> = patient.assets.union(&self.kinds_of_files(patient, &data)).copied().collect();
        let assets = if Wanted::of(&data, &kinds).is_empty() { Vec::new() } else { kinds };
        Record::Task { task_id: patient.task_id.clone(), status, fetched_at, data, sent, assets, replaces: true }
    }

    /// The kinds of which the archive has a file of the task, whether a row is left of it or not.
    fn kinds_of_files(&self, patient: &Patient, data: &str) -> BTreeSet<AssetKind> {
        let is_there =
            |wanted: &Wanted| self.held.media(&wanted.name(&patient.task_id), media::endings(wanted.kind())).is_some();
        Wanted::of(data, &AssetKind::ALL).iter().filter(|wanted| is_there(wanted)).map(Wanted::kind).collect()
    }

    /// A task got no answer after all its tries. Some of those in a row, and the provider is not asked any more.
    fn no_answer(&mut self, reason: String) -> String {
        self.mended.silent += 1;
        if self.mended.silent == MOST_SILENT {
            self.mended.unreachable = Some(reason.clone());
        }
        reason
    }

    /// Asks within the pace, as often as it makes sense: a final answer, or why there is none.
    async fn question(&mut self, task_id: &str) -> Result<Reply, String> {
        let id = TaskId::parse(task_id).map_err(|_| "its ID cannot be asked for")?;
        let mut backoff = Backoff::new(self.retries, fastrand::Rng::new());
        let mut failures = 0;
        loop {
            if self.mended.key_refused {
                return Err("the provider refused the key".into());
            }
            if let Some(reason) = &self.mended.unreachable {
                return Err(reason.clone());
            }
            self.pace.permit().await;
            self.mended.requests += 1;
            (self.tell)(Event::Requested { kind: RequestKind::First });
            let reply = self.client.ask(id).await;
            self.pace.observe(&reply.allowance);
            match reply.answer {
                Answer::Final { status, data, sent } => {
                    self.mended.silent = 0;
                    return Ok(Reply::Final(status, data, sent));
                }
                Answer::RateLimited { silence } => {
                    (self.tell)(Event::RateLimited { wait_seconds: silence.as_secs_f64() });
                    self.pace.silence(silence);
                }
                Answer::Transient { reason } | Answer::Silent { reason } | Answer::Unconnected { reason } => {
                    failures += 1;
                    match backoff.wait(failures) {
                        Some(wait) => tokio::time::sleep(wait).await,
                        None => return Err(self.no_answer(reason)),
                    }
                }
                Answer::KeyRefused { reason } => {
                    self.mended.key_refused = true;
                    return Err(format!("the provider refused the key ({reason})"));
                }
                Answer::NotFound { message } => {
                    self.mended.silent = 0;
                    return Ok(Reply::NotFound(message));
                }
                Answer::Unfinished { .. } => return Err("the provider says that it is not finished".into()),
                Answer::Untrusted { reason } => {
                    self.mended.unreachable = Some(reason.clone());
                    return Err(reason);
                }
                Answer::Rejected { reason } | Answer::Unreadable { reason, .. } => return Err(reason),
            }
        }
    }
}

/// Whether an answer has another status than an older one, or lacks clips that the older one had.
fn tells_less(new: &Record, old: &Record) -> bool {
    let (Record::Task { status, data, .. }, Record::Task { status: status_before, data: data_before, .. }) = (new, old)
    else {
        return false;
    };
    let clips = |data| tables::clip_links(data).into_iter().map(|clip| clip.clip_id).collect::<HashSet<_>>();
    status != status_before || !clips(data_before).is_subset(&clips(data))
}

fn not_found(patient: &Patient, fetched_at: Timestamp, message: Option<String>) -> Record {
    Record::NotFound { task_id: patient.task_id.clone(), fetched_at, message, replaces: true }
}
