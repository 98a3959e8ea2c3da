//! Tasks that are archived, and of which something is missing, are put through the pipeline again: from
//! the answer that the archive has, or from a new one. Their new rows take the place of the old ones, and
//! files that are whole are found where they are.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;
use tokio::time::{self, Instant};

use super::{
    EventSink, GRACE,
    asker::{Asker, Tally, Told},
    media_stage::{AssetRequest, DownloadEvent, Job, MediaStage, RetryBudget},
    publish,
};
use crate::{
    archive::LockedArchive,
    asset::{Asset, AssetKind, AssetStatus},
    error::{Error, Result},
    event::Event,
    journal::{JournalWriter, Record},
    json::Object,
    media,
    status::FinalStatus,
    tables,
    task::is_same_id,
    timestamp,
};

/// A task to be mended.
#[derive(Clone, Debug)]
pub(crate) struct Patient {
    pub(crate) task_id: String,
    pub(crate) assets: Kinds,
    /// What the archive has of it.
    pub(crate) stored: Option<Stored>,
    /// What a damaged part says of it: better than nothing, should the provider have none.
    pub(crate) salvaged: Option<Stored>,
    /// Whether any of its rows is left in another table, and how many of those are clips.
    pub(crate) clips_left: Option<i32>,
}

/// The kinds of a task's assets.
#[derive(Clone, Debug)]
pub(crate) enum Kinds {
    /// Its rows name them.
    Known(BTreeSet<AssetKind>),
    /// Its rows are lost: these are wanted, and those that there are files of.
    Lost(BTreeSet<AssetKind>),
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
        task.map_or(self.status == FinalStatus::NotFound, |task| task.is_some_and(|id| is_same_id(&id, task_id)))
    }
}

/// What became of the tasks.
#[derive(Debug, Default)]
pub(crate) struct Mended {
    /// Tasks whose rows are new, and whose assets are all there.
    pub(crate) whole: u64,
    /// Tasks whose rows are new.
    pub(crate) published: u64,
    /// Those of which there is nothing left to try.
    pub(crate) done: HashSet<String>,
    /// Those that are kept as a damaged part has them.
    pub(crate) salvaged: HashSet<String>,
    /// Requests to the API.
    pub(crate) requests: u64,
    /// What could not be mended: by task, why.
    pub(crate) failed: BTreeMap<String, String>,
    /// The provider refused the key.
    pub(crate) key_refused: bool,
    /// Why the provider is not asked any more: it does not answer.
    pub(crate) unreachable: Option<String>,
}

/// Puts tasks through the pipeline again.
pub(crate) struct Mender<'a> {
    held: Arc<LockedArchive>,
    asker: Asker,
    media: MediaStage,
    writer: JournalWriter,
    tell: EventSink<'a>,
    /// Tasks that are asked for, since the archive has no answer.
    lost: HashMap<String, Patient>,
    whole: u64,
    done: HashSet<String>,
    salvaged: HashSet<String>,
    /// What could not be mended: by task, why.
    failed: BTreeMap<String, String>,
    /// Tasks that the provider does not know and of which nothing else is left, and what it said.
    not_found: Vec<(Patient, Option<String>)>,
}

/// A task with the answer to mend it from.
struct Answered {
    patient: Patient,
    record: Record,
    /// The part of the journal that holds the answer, if it is the provider's.
    kept_in: Option<u32>,
}

/// What is said of a task that the provider does not know.
const FORGOTTEN: &str = "the provider does not know it any more";

impl<'a> Mender<'a> {
    pub(crate) fn new(
        held: Arc<LockedArchive>,
        asker: Asker,
        media: MediaStage,
        writer: JournalWriter,
        tell: EventSink<'a>,
    ) -> Self {
        Self {
            held,
            asker,
            media,
            writer,
            tell,
            lost: HashMap::new(),
            whole: 0,
            done: HashSet::new(),
            salvaged: HashSet::new(),
            failed: BTreeMap::new(),
            not_found: Vec::new(),
        }
    }

    /// Mends some tasks. Memory holds their answers, so they should be some hundreds at a time. Whoever lets go
    /// of it in the middle, and winds down then, loses no answer about a task that is lost.
    pub(crate) async fn mend(&mut self, patients: Vec<Patient>) -> Result<()> {
        let (mut answers, mut lost) = (Vec::new(), Vec::new());
        for patient in patients {
            match patient.stored.clone() {
                Some(stored) => {
                    let record = self.stored_record(&patient, stored);
                    answers.push(Answered { patient, record, kept_in: None });
                }
                None => lost.push(patient),
            }
        }
        answers.extend(self.ask_for_lost(lost).await?);
        let settled = self.settle(&answers).await?;
        let mut expired = Vec::new();
        for (answer, assets) in answers.into_iter().zip(settled) {
            // The address may have expired: the provider has a fresh one.
            let has_failed = assets.iter().any(|asset| asset.status == AssetStatus::Failed);
            if has_failed && answer.kept_in.is_none() {
                expired.push((answer, assets));
            } else {
                self.keep(answer, assets)?;
            }
        }
        self.mend_with_fresh_addresses(expired).await
    }

    /// Takes what comes of the requests in flight, for a moment, and sends nothing more.
    pub(crate) async fn wind_down(&mut self) -> Result<()> {
        let end = Instant::now() + GRACE;
        while let Ok(Some((task_id, told))) = time::timeout_at(end, self.asker.next_in_flight(&mut *self.tell)).await {
            if let (Some(patient), Ok(told)) = (self.lost.remove(&task_id), told) {
                self.hear(patient, told)?;
            }
        }
        Ok(())
    }

    /// Publishes all that was mended.
    pub(crate) async fn finish(mut self) -> Result<Mended> {
        self.media.abort();
        self.media.ended().await?;
        self.keep_not_found()?;
        let mut published = 0;
        for segment in self.writer.close()? {
            let done = publish::publish(&self.held, segment).await?.published;
            published += done.rows.tasks;
            (self.tell)(Event::Published(done));
        }
        let Tally { requests, key_refused, unreachable, .. } = self.asker.tally;
        let Self { whole, done, salvaged, failed, .. } = self;
        Ok(Mended { whole, published, done, salvaged, requests, failed, key_refused, unreachable })
    }

    async fn mend_with_fresh_addresses(&mut self, expired: Vec<(Answered, Vec<Asset>)>) -> Result<()> {
        let task = |old: (Answered, Vec<Asset>)| (old.0.patient.task_id.clone(), old);
        let mut asked: HashMap<String, (Answered, Vec<Asset>)> = expired.into_iter().map(task).collect();
        for task_id in asked.keys() {
            self.asker.add(task_id.clone());
        }
        let mut fresh = Vec::new();
        while let Some((task_id, told)) = self.asker.next(&mut *self.tell).await {
            let Some((old, assets)) = asked.remove(&task_id) else { continue };
            match told {
                Ok(Told::Final { status, data, sent }) => {
                    let record = self.task_record(&old.patient, status, timestamp::now(), data, sent);
                    if tells_less(&record, &old.record) {
                        self.keep(old, assets)?;
                    } else {
                        fresh.push(self.answered(old.patient, record)?);
                    }
                }
                Ok(Told::NotFound { .. } | Told::Unreadable { .. }) | Err(_) => self.keep(old, assets)?,
            }
        }
        let settled = self.settle(&fresh).await?;
        fresh.into_iter().zip(settled).try_for_each(|(answer, assets)| self.keep(answer, assets))
    }

    /// Asks the provider for tasks of which the archive has no answer.
    async fn ask_for_lost(&mut self, lost: Vec<Patient>) -> Result<Vec<Answered>> {
        for patient in lost {
            self.asker.add(patient.task_id.clone());
            self.lost.insert(patient.task_id.clone(), patient);
        }
        let mut answers = Vec::new();
        while let Some((task_id, told)) = self.asker.next(&mut *self.tell).await {
            let Some(patient) = self.lost.remove(&task_id) else { continue };
            answers.extend(match told {
                Ok(told) => self.hear(patient, told)?,
                Err(reason) => self.salvage(patient, reason)?,
            });
        }
        Ok(answers)
    }

    /// Takes what the provider says of a lost task; a final answer goes to the journal.
    fn hear(&mut self, patient: Patient, told: Told) -> Result<Option<Answered>> {
        match told {
            Told::Final { status, data, sent } => {
                let clips = tables::clip_links(&data).len();
                if patient.clips_left.is_some_and(|left| usize::try_from(left).is_ok_and(|left| clips < left)) {
                    return self
                        .salvage(patient, "the provider's answer tells less than the rows that are left".into());
                }
                let record = self.task_record(&patient, status, timestamp::now(), data, sent);
                self.answered(patient, record).map(Some)
            }
            // It says the same as before.
            Told::NotFound { message } if patient.salvaged.as_ref().is_some_and(|old| old.response.is_none()) => {
                let record = not_found(&patient, timestamp::now(), message);
                self.answered(patient, record).map(Some)
            }
            Told::NotFound { .. } if patient.salvaged.is_some() => {
                self.done.insert(patient.task_id.clone());
                self.salvage(patient, FORGOTTEN.into())
            }
            Told::NotFound { message } => {
                self.not_found.push((patient, message));
                if self.asker.tally.knows_any { self.keep_not_found().map(|()| None) } else { Ok(None) }
            }
            Told::Unreadable { reason, body } => {
                self.writer.append([&Record::Unreadable { task_id: patient.task_id.clone(), body }])?;
                self.salvage(patient, reason)
            }
        }
    }

    /// Keeps an answer at once, so that it is not asked for again.
    fn answered(&mut self, patient: Patient, record: Record) -> Result<Answered> {
        let part = self.writer.append([&record])?;
        Ok(Answered { patient, record, kept_in: Some(part) })
    }

    /// Archives what the provider does not know as not found, so that it is not asked for again and again.
    /// What it was once is lost, and is named all the same.
    fn keep_not_found(&mut self) -> Result<()> {
        for (patient, message) in std::mem::take(&mut self.not_found) {
            let mut reason = FORGOTTEN.to_owned();
            if self.asker.tally.knows_any {
                self.writer.append([&not_found(&patient, timestamp::now(), message)])?;
                self.done.insert(patient.task_id.clone());
                reason += "; it is archived as not found";
                if patient.clips_left.is_some() {
                    reason += ", with the rows that are left of it";
                }
            }
            self.failed.insert(patient.task_id, reason);
        }
        Ok(())
    }

    /// Takes what a damaged part says of a task that the provider has no answer for.
    fn salvage(&mut self, patient: Patient, reason: String) -> Result<Option<Answered>> {
        let Some(salvaged) = patient.salvaged.clone() else {
            self.failed.insert(patient.task_id, reason);
            return Ok(None);
        };
        let reason = format!("{reason}; it is kept as a damaged part has it");
        self.failed.insert(patient.task_id.clone(), reason);
        self.salvaged.insert(patient.task_id.clone());
        let record = self.stored_record(&patient, salvaged);
        self.answered(patient, record).map(Some)
    }

    /// Journals what is known of a task now; all of it is published at the end.
    fn keep(&mut self, answer: Answered, assets: Vec<Asset>) -> Result<()> {
        let Answered { patient: Patient { task_id, .. }, record, kept_in } = answer;
        // One that is kept as a damaged part has it has been named, and is asked for again another time.
        let is_salvaged = self.salvaged.contains(&task_id);
        if !is_salvaged {
            self.done.insert(task_id.clone());
        }
        match assets.iter().find(|asset| asset.status == AssetStatus::Failed) {
            Some(asset) => {
                let reason = asset.error.clone().unwrap_or_default();
                self.failed.insert(task_id.clone(), format!("{}: {reason}", asset.kind));
            }
            None => self.whole += u64::from(!is_salvaged),
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
                let wanted = AssetRequest::of(data, assets);
                self.media.settle(Job { task_id: task_id.clone(), part, wanted, chances: RetryBudget::Last });
                under_way += 1;
            }
        }
        while under_way > 0 {
            match self.media.news.recv().await {
                Some(DownloadEvent::Happened(event)) => (self.tell)(event),
                Some(DownloadEvent::Settled { part, assets, .. }) => {
                    settled.insert(part, assets);
                    under_way -= 1;
                }
                Some(DownloadEvent::Unsettled) | None => {
                    self.media.ended().await?;
                    return Err(Error::Internal("the downloads ended too soon".into()));
                }
            }
        }
        Ok((0..).zip(answers).map(|(part, _)| settled.remove(&part).unwrap_or_default()).collect())
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
        let kinds: Vec<AssetKind> = match &patient.assets {
            Kinds::Known(kinds) => kinds.iter().copied().collect(),
            Kinds::Lost(wanted) => wanted.union(&self.kinds_of_files(patient, &data)).copied().collect(),
        };
        let assets = if AssetRequest::of(&data, &kinds).is_empty() { Vec::new() } else { kinds };
        Record::Task { task_id: patient.task_id.clone(), status, fetched_at, data, sent, assets, replaces: true }
    }

    /// The kinds of which the archive has a file of the task.
    fn kinds_of_files(&self, patient: &Patient, data: &str) -> BTreeSet<AssetKind> {
        let is_there = |wanted: &AssetRequest| {
            self.held.media(&wanted.name(&patient.task_id), media::endings(wanted.kind())).is_some()
        };
        AssetRequest::of(data, &AssetKind::ALL)
            .iter()
            .filter(|wanted| is_there(wanted))
            .map(AssetRequest::kind)
            .collect()
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
    Record::NotFound {
        task_id: patient.task_id.clone(),
        fetched_at,
        message,
        replaces: true,
        clips_left: patient.clips_left,
    }
}
