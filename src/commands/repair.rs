//! `repair`: mends what `verify` finds, and fetches what could not be had before.

use std::{
    collections::{BTreeSet, HashSet},
    future::{self, Future},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use jiff::Timestamp;
use tokio::{
    sync::mpsc,
    time::{self, Instant},
};

use super::{connect_to, metrics, missing_csv, start_media};
use crate::{
    api::Pace,
    archive::{Archive, LockedArchive, RunFile, Swap},
    asset::AssetKind,
    blocking::blocking,
    config::{MediaConfig, Provider, Rate},
    error::{Error, Result},
    event::{Event, MissingReason},
    exit::ExitStatus,
    export::{self, Asker, Kinds, Manners, Mended, Mender, Patient, Signal},
    journal::{self, JournalWriter, SegmentLimits},
    repair::{self, CutShort, Ended, Plan},
    report::{self, Reporter},
    run_id::RunId,
    run_summary::RunSummary,
    simulator::SimulatedProvider,
    tables::{self, TASKS},
    verify::{self, Depth, Report},
};

/// Events of a check that may wait to be shown.
const MOST_WAITING: usize = 256;

/// Tasks that are mended at once: memory holds their answers.
const AT_ONCE: usize = 500;

/// Everything a repair needs to know.
#[derive(Clone, Debug)]
pub struct RepairConfig {
    /// The archive's folder.
    pub archive: PathBuf,
    /// The provider.
    pub provider: Provider,
    /// The most requests in a span of time.
    pub rate: Rate,
    /// Requests of each of the provider's windows that are left to others who share the key.
    pub reserve: u32,
    /// The most requests in flight.
    pub concurrency: u16,
    /// How long to poll tasks that are not finished.
    pub wait: Duration,
    /// Between two polls of one task.
    pub poll_interval: Duration,
    /// The limit of one request.
    pub timeout: Duration,
    /// When to end whatever is left to do.
    pub stop_after: Option<Duration>,
    /// What to download, and how.
    pub media: MediaConfig,
    /// Where to leave the figures for Prometheus.
    pub metrics_file: Option<PathBuf>,
}

/// How a repair ended.
#[derive(Debug)]
pub struct Outcome {
    /// What the process should end with.
    pub status: ExitStatus,
    /// What went wrong beside the repair, if anything did.
    pub error: Option<Error>,
    /// The text to print.
    pub words: String,
}

/// What a repair would do. It sends nothing and changes nothing.
///
/// # Errors
/// As of [`repair()`].
pub async fn plan(config: &RepairConfig, reporter: &mut dyn Reporter) -> Result<Outcome> {
    let mut log = Log { summary: RunSummary::default(), reporter };
    let plan = look(config, verify::check_to_plan, &mut log).await?;
    let words = report::repair_plan_table(&plan, &config.archive.display().to_string());
    Ok(Outcome { status: ExitStatus::Complete, error: None, words })
}

/// Mends an archive: sets aside what is damaged, and puts the tasks that lost something through the pipeline
/// again, from the answer that the archive has or from a new one.
///
/// `stop` ends it in good order once the mending has begun: what is mended is kept, and the next repair goes on.
///
/// # Errors
/// [`Error::Usage`] if there is no such archive,
/// [`Error::Held`] if a run has it,
/// [`Error::Storage`] if it cannot be read or written.
pub async fn repair(
    config: &RepairConfig,
    stop: impl Future<Output = Signal>,
    reporter: &mut dyn Reporter,
) -> Result<Outcome> {
    let (started, clock) = (Timestamp::now(), Instant::now());
    let held = Arc::new(LockedArchive::open(&config.archive, &tables::TABLES, started).await?);
    let run_id = RunId::new(started);
    let mut log = Log { summary: RunSummary::default(), reporter };
    let archive = config.archive.display().to_string();
    log.tell(&Event::Started { run_id: run_id.clone(), archive, at: started });
    let stop_at = config.stop_after.map(|limit| clock + limit);
    let ended = run(config, &held, &run_id, stop_at, stop, &mut log).await;
    let status = ended.as_ref().map_or_else(ExitStatus::from, Ended::status);
    log.tell(&Event::Finished { at: Timestamp::now(), exit_code: status.code(), interrupted: status.is_signal() });
    let measured = match &config.metrics_file {
        Some(file) => metrics::leave(file, &held.archive, &log.summary).await,
        None => Ok(()),
    };
    let ended = ended?;
    let refused = ended.error();
    let words = report::repair_table(&ended, &config.archive.display().to_string());
    match measured {
        Ok(()) => Ok(Outcome { status, error: refused, words }),
        Err(error) => Ok(Outcome { status: ExitStatus::Failed, error: Some(error), words }),
    }
}

/// The repair from the moment that it holds the archive.
async fn run(
    config: &RepairConfig,
    held: &Arc<LockedArchive>,
    run_id: &RunId,
    stop_at: Option<Instant>,
    stop: impl Future<Output = Signal>,
    log: &mut Log<'_>,
) -> Result<Ended> {
    let mut media = start_media(&config.media, &config.provider, held).await?;
    let left = export::recover(held, &mut media, stop_at, &mut |event| log.tell(&event)).await?;
    let plan = tokio::select! {
        looked = look(config, verify::check_held, log) => looked?,
        () = reached(stop_at) => return Ok(Ended { left, ..Ended::out_of_time() }),
    };
    let plan = prepare(held, plan, run_id).await?;

    let (client, simulator) = connect_to(&config.provider, config.timeout, SimulatedProvider::every()).await?;
    let asker = Asker::new(client, Pace::new(config.rate, config.reserve), manners(config));
    let writer = JournalWriter::new(&held.archive.journal_folder(), run_id.clone(), SegmentLimits::default());
    let mut tell = |event: Event| log.tell(&event);
    let mut mender = Mender::new(held.clone(), asker, media, writer, &mut tell);
    let cut_short = tokio::select! {
        mended = mend_all(&mut mender, config, held, &plan) => mended.map(|()| None)?,
        signal = stop => Some(CutShort::Signal(signal)),
        () = reached(stop_at) => Some(CutShort::TimeIsUp),
    };
    if cut_short.is_some() {
        mender.wind_down().await?;
    }
    let mended = mender.finish().await?;
    drop(simulator);
    export::write_views(held).await?;
    let rest = plan.rest(&mended);
    let list = leave_list(held, run_id, &rest, &mended).await?;
    if rest.tasks.is_empty() { held.end_repair() } else { held.note_repair(&rest) }?;
    // Whoever goes on may go on with a download that was begun.
    if cut_short.is_none() && journal::segments(&held.archive.journal_folder())?.is_empty() {
        held.sweep_partials()?;
    }
    Ok(Ended { plan, mended, left, cut_short, list })
}

/// Names the tasks that are lost still, in a list that is itself an input; gives its path, if there are any.
async fn leave_list(held: &LockedArchive, run_id: &RunId, rest: &Plan, mended: &Mended) -> Result<Option<String>> {
    let lost: BTreeSet<&String> = rest.lost.iter().filter(|task| !rest.unsure.contains(*task)).collect();
    if lost.is_empty() {
        return Ok(None);
    }
    let named = lost.into_iter().map(|task| match mended.failed.get(task) {
        Some(reason) => (task.as_str(), MissingReason::Error, reason.as_str()),
        None => (task.as_str(), MissingReason::Interrupted, "the repair was stopped before it reached this task"),
    });
    let path = RunFile::Unfinished.path(run_id);
    held.put_sealed(&path, missing_csv(named)).await?;
    Ok(Some(path))
}

fn manners(config: &RepairConfig) -> Manners {
    Manners {
        retries: config.media.retries,
        concurrency: config.concurrency.into(),
        wait: config.wait,
        poll_interval: config.poll_interval,
    }
}

async fn mend_all(
    mender: &mut Mender<'_>,
    config: &RepairConfig,
    held: &Arc<LockedArchive>,
    plan: &Arc<Plan>,
) -> Result<()> {
    let wanted: BTreeSet<AssetKind> = config.media.kinds.iter().collect();
    for tasks in in_order(held, plan).await?.chunks(AT_ONCE) {
        let tasks = tasks.iter().cloned().collect();
        mender.mend(patients(held, plan, tasks, wanted.clone()).await?).await?;
    }
    Ok(())
}

/// Ready at that instant; without one, never.
async fn reached(instant: Option<Instant>) {
    match instant {
        Some(instant) => time::sleep_until(instant).await,
        None => future::pending().await,
    }
}

/// The repair's events on their way to the figures and the reporter.
struct Log<'a> {
    summary: RunSummary,
    reporter: &'a mut dyn Reporter,
}

impl Log<'_> {
    fn tell(&mut self, event: &Event) {
        self.summary.observe(event);
        self.reporter.observe(event);
    }
}

/// Notes what is to be done, so that the next repair can end it, and sets aside what cannot be trusted.
async fn prepare(held: &Arc<LockedArchive>, mut plan: Plan, run_id: &RunId) -> Result<Arc<Plan>> {
    let preparing = held.clone();
    let plan = blocking(move || {
        // The manifests first: the others are read to their last line.
        plan.manifests.iter().try_for_each(|manifest| preparing.renew_manifest(manifest))?;
        preparing.set_aside(&plan.run_files.iter().cloned().collect())?;
        if plan.seals {
            preparing.renew_seals()?;
        }
        if let Some(parts) = plan.parts.get(TASKS.name) {
            plan.kept.extend(preparing.keep_aside(parts)?);
        }
        if !plan.is_empty() {
            preparing.note_repair(&plan)?;
        }
        Ok(Arc::new(plan))
    })
    .await?;
    set_aside(held, &plan, run_id).await?;
    relist(held, &plan, run_id).await?;
    Ok(plan)
}

/// A way to check an archive.
type Check = fn(&Path, Depth, &mut dyn FnMut(&Event)) -> Result<Report>;

/// Checks the archive, and plans what to do about what is found.
async fn look(config: &RepairConfig, check: Check, log: &mut Log<'_>) -> Result<Plan> {
    let folder = config.archive.clone();
    let (send, mut told) = mpsc::channel(MOST_WAITING);
    let looking = tokio::spawn(blocking(move || {
        // Whoever no longer listens has ended the repair.
        let report = check(&folder, Depth::Full, &mut |event| drop(send.blocking_send(event.clone())))?;
        let archive = Archive::open(&folder)?;
        let mut plan = Plan::new(&archive, &report)?;
        if let Some(begun) = archive.begun_repair()? {
            plan.take_over(begun);
        }
        Ok(plan)
    }));
    while let Some(event) = told.recv().await {
        log.tell(&event);
    }
    looking.await.unwrap_or_else(|panic| Err(Error::Internal(format!("the check of a repair failed: {panic}"))))
}

/// Moves what cannot be trusted out of the way, and its lines out of the manifests.
async fn set_aside(held: &Arc<LockedArchive>, plan: &Arc<Plan>, run_id: &RunId) -> Result<()> {
    let (held, plan, run_id) = (held.clone(), plan.clone(), run_id.clone());
    blocking(move || {
        held.set_aside(&plan.media)?;
        for (table, parts) in &plan.parts {
            if table != TASKS.name {
                held.keep_aside(parts)?;
            }
            let parts: Vec<String> = parts.iter().cloned().collect();
            Swap::begin(&held, table, &run_id)?.commit(&parts)?;
        }
        Ok(())
    })
    .await
}

/// Lists what no manifest lists.
async fn relist(held: &Arc<LockedArchive>, plan: &Arc<Plan>, run_id: &RunId) -> Result<()> {
    let (reading, listing) = (held.clone(), plan.clone());
    let files = blocking(move || {
        let listed = listing.unlisted.iter().map(|path| repair::listed(&reading.archive, path));
        Ok(listed.collect::<Result<Vec<_>>>()?.into_iter().flatten().collect::<Vec<_>>())
    })
    .await?;
    if files.is_empty() { Ok(()) } else { held.add_to_manifest(&RunFile::Manifest.path(run_id), files).await }
}

/// The tasks to be mended, neighbours together.
async fn in_order(held: &Arc<LockedArchive>, plan: &Arc<Plan>) -> Result<Vec<String>> {
    let (held, plan) = (held.clone(), plan.clone());
    blocking(move || repair::in_order(&held.archive, &plan)).await
}

/// Tasks with what the archive has of them. `wanted` are the kinds of assets of those that have lost theirs.
async fn patients(
    held: &Arc<LockedArchive>,
    plan: &Arc<Plan>,
    tasks: HashSet<String>,
    wanted: BTreeSet<AssetKind>,
) -> Result<Vec<Patient>> {
    let (held, plan) = (held.clone(), plan.clone());
    blocking(move || {
        let mut stored = repair::stored(&held.archive, &plan, &tasks)?;
        let mut salvaged = repair::salvaged(held.archive.format, &plan.kept, &tasks);
        let patient = |task_id: String| {
            let assets = if plan.without_assets.contains(&task_id) {
                Kinds::Lost(wanted.clone())
            } else {
                Kinds::Known(plan.kinds.get(&task_id).cloned().unwrap_or_default())
            };
            let (stored, salvaged) = (stored.remove(&task_id), salvaged.remove(&task_id));
            let (stored, salvaged) =
                if plan.unsure.contains(&task_id) { (None, stored.or(salvaged)) } else { (stored, salvaged) };
            let clips_left = plan.clips_left.get(&task_id).copied();
            Patient { task_id, assets, stored, salvaged, clips_left }
        };
        Ok(tasks.into_iter().map(patient).collect())
    })
    .await
}
