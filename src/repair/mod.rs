//! Plans the repair of what a check has found. Reads the tables and changes nothing: `--dry-run` prints the
//! plan.

mod failures;
mod outcome;
mod survey;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    path::PathBuf,
};

use serde::{Deserialize, Serialize};

use crate::{
    archive::{Archive, MEDIA, StoredFile},
    asset::AssetKinds,
    checksum,
    error::Result,
    export::{AnswerSource, Item, RowEffect, Salvage, WantedKinds},
    verify::{Finding, Kind, MOST_REPAIRED, Report, Severity, Subject},
};

pub(crate) use self::failures::Failures;
pub(crate) use self::outcome::{Interruption, RepairOutcome};
use self::survey::Survey;

/// The plan of a repair.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Plan {
    /// Damaged and missing parts, by table.
    pub(crate) parts: BTreeMap<String, BTreeSet<String>>,
    /// Damaged and missing media files.
    pub(crate) media: HashSet<String>,
    /// Intact files that no manifest lists.
    pub(crate) unlisted: BTreeSet<String>,
    /// Files that readers take for parts, and that no run wrote.
    pub(crate) strays: BTreeSet<String>,
    /// Runs' summaries and lists that are damaged. They cannot be regenerated; the archive is complete without them.
    pub(crate) run_files: BTreeSet<String>,
    /// Manifests to regenerate.
    pub(crate) manifests: BTreeSet<String>,
    /// Whether the checksum file of the runs' own files is to be regenerated.
    pub(crate) checksums: bool,
    /// Tasks to process again.
    pub(crate) tasks: BTreeSet<String>,
    /// Those of them that have lost their row: only the provider has their response.
    pub(crate) lost: HashSet<String>,
    /// The kinds of assets that a task has rows of.
    pub(crate) kinds: HashMap<String, AssetKinds>,
    /// Tasks with rows in other tables, and how many of those rows are clips.
    pub(crate) clips_left: HashMap<String, i32>,
    /// Tasks that may have lost their asset rows.
    pub(crate) without_assets: HashSet<String>,
    /// Tasks with a salvaged row: the provider may have a better response.
    pub(crate) unsure: HashSet<String>,
    /// Assets that failed in earlier runs.
    pub(crate) failed_assets: u64,
    /// The quarantined parts of the tasks table.
    pub(crate) kept: BTreeSet<PathBuf>,
    /// Parts of the tasks table that could not be read to their end.
    pub(crate) unknown: BTreeSet<String>,
    /// Whether there are more findings than one repair handles.
    pub(crate) has_more: bool,
    /// Findings that cannot be repaired here.
    #[serde(skip)]
    pub(crate) beyond: Vec<Finding>,
}

impl Plan {
    /// Makes the plan from the findings and the tables. `begun` is the plan of an interrupted repair, parts of which
    /// can no longer be derived from the archive. Blocks.
    pub(crate) fn new(archive: &Archive, report: &Report, begun: Option<Self>) -> Result<Self> {
        let mut plan = Self::default();
        for finding in &report.findings {
            plan.take(finding);
        }
        let told = report.findings.len() as u64;
        plan.has_more = report.kinds.values().sum::<u64>() > told || report.findings.iter().any(has_more_tasks);
        let survey = Survey::of(archive, &plan)?;
        survey.drop_invented(&mut plan);
        let begun = begun.unwrap_or_default();
        plan.tasks.extend(begun.tasks.iter().cloned());
        survey.complete(archive, &mut plan)?;
        plan.take_over(begun);
        Ok(plan)
    }

    fn take_over(&mut self, begun: Self) {
        for (task, kinds) in begun.kinds {
            let known = self.kinds.entry(task).or_default();
            kinds.iter().for_each(|kind| known.insert(kind));
        }
        for (task, clips) in begun.clips_left {
            self.clips_left.entry(task).or_insert(clips);
        }
        self.without_assets.extend(begun.without_assets);
        // They have rows, and the provider may have a better response.
        self.lost.extend(begun.unsure.iter().cloned());
        self.unsure.extend(begun.unsure);
        self.unknown.extend(begun.unknown);
        self.kept.extend(begun.kept);
        self.has_more |= begun.has_more;
    }

    /// Whether everything that was found can be repaired.
    pub(crate) fn is_repairable(&self) -> bool {
        self.beyond.is_empty() && self.unknown.is_empty() && self.run_files.is_empty()
    }

    /// The item of each task. `salvage` names the tasks that quarantined parts still hold.
    pub(crate) fn items<'a>(
        &'a self,
        salvage: &'a HashMap<String, Salvage>,
    ) -> impl Iterator<Item = (String, Item)> + 'a {
        self.tasks.iter().map(|task| {
            let is_lost = self.lost.contains(task);
            let kinds = if self.without_assets.contains(task) {
                WantedKinds::OfRunAndFiles
            } else {
                WantedKinds::These(self.kinds.get(task).cloned().unwrap_or_default())
            };
            let item = Item {
                source: if is_lost { AnswerSource::Ask } else { AnswerSource::Stored },
                kinds,
                rows: RowEffect::Replace,
                clips_left: self.clips_left.get(task).copied(),
                salvage: salvage.get(task).copied().filter(|_| is_lost),
            };
            (task.clone(), item)
        })
    }

    /// The failures of this repair: none yet.
    pub(crate) fn failures(&self, salvage: &HashMap<String, Salvage>) -> Failures {
        let is_not_found = |task: &&String| salvage.get(*task) == Some(&Salvage::NotFound);
        let lost = self.lost.iter().filter(|task| !is_not_found(task));
        Failures::new(lost.map(|task| (task.clone(), self.clips_left.contains_key(task))).collect())
    }

    /// The plan that is left to the next repair: the tasks that are not done, and among them the salvaged ones.
    pub(crate) fn rest(&self, is_done: impl Fn(&str) -> bool, is_salvaged: impl Fn(&str) -> bool) -> Self {
        let mut rest = Self { kept: self.kept.clone(), unknown: self.unknown.clone(), ..Self::default() };
        let is_left = |task: &&String| !is_done(task);
        rest.tasks = self.tasks.iter().filter(is_left).cloned().collect();
        rest.lost = self.lost.iter().filter(is_left).cloned().collect();
        rest.without_assets = self.without_assets.iter().filter(is_left).cloned().collect();
        rest.unsure = rest.lost.iter().filter(|task| is_salvaged(task)).cloned().collect();
        let clips = self.clips_left.iter().filter(|(task, _)| is_left(task));
        rest.clips_left.extend(clips.map(|(task, clips)| (task.clone(), *clips)));
        rest.kinds.extend(
            self.kinds.iter().filter(|(task, _)| is_left(task)).map(|(task, kinds)| (task.clone(), kinds.clone())),
        );
        rest
    }

    /// Whether there is nothing to do.
    pub(crate) fn is_empty(&self) -> bool {
        let nothing = self.parts.is_empty() && self.strays.is_empty() && self.media.is_empty() && self.tasks.is_empty();
        nothing && self.unlisted.is_empty() && self.manifests.is_empty() && !self.checksums && self.run_files.is_empty()
    }

    /// Whether a table has lost a part.
    fn has_lost(&self, table: &str) -> bool {
        self.parts.contains_key(table)
    }

    /// Whether a part is to be read.
    fn trusts(&self, table: &str, part: &str) -> bool {
        !self.parts.get(table).is_some_and(|parts| parts.contains(part))
    }

    fn take(&mut self, finding: &Finding) {
        let path = finding.path.clone();
        match finding.kind {
            Kind::PartMissing | Kind::PartDamaged | Kind::PartColumns => match &finding.about {
                Subject::Part { table } | Subject::Rows { table, .. } => {
                    self.parts.entry((*table).to_owned()).or_default().insert(path);
                }
                _ => self.beyond.push(finding.clone()),
            },
            // Of a file without a row, only its line in a manifest is left.
            Kind::MediaMissing | Kind::MediaDamaged | Kind::FileMissing => {
                self.media.insert(path);
                self.take_task(&finding.about);
            }
            Kind::AssetRow
            | Kind::AssetsDisagree
            | Kind::TaskRepeated
            | Kind::ClipCount
            | Kind::RowsRepeated
            | Kind::RowsWithoutTask => {
                self.take_task(&finding.about);
            }
            Kind::PartUnlisted if finding.about == Subject::File => {
                self.strays.insert(path);
            }
            Kind::PartUnlisted | Kind::MediaUnlisted => {
                self.unlisted.insert(path);
            }
            Kind::ManifestDamaged => {
                self.manifests.insert(path);
            }
            Kind::ChecksumsDamaged => self.checksums = true,
            Kind::RunFileDamaged => {
                self.run_files.insert(path);
            }
            Kind::HalfFinished if path.starts_with(MEDIA) => {
                self.media.insert(path);
            }
            // This run rewrites or sweeps them anyway.
            Kind::ViewsDamaged | Kind::OtherViews | Kind::HalfFinished => {}
            kind if kind.severity() == Severity::Damage => self.beyond.push(finding.clone()),
            _ => {}
        }
    }

    fn take_task(&mut self, about: &Subject) {
        match about {
            Subject::Asset { task_id, .. } => {
                self.tasks.insert(task_id.clone());
            }
            Subject::Rows { task_ids, .. } => self.tasks.extend(task_ids.iter().cloned()),
            Subject::File | Subject::Part { .. } => {}
        }
    }
}

/// Whether a finding concerns more tasks than it names.
fn has_more_tasks(finding: &Finding) -> bool {
    matches!(&finding.about, Subject::Rows { rows, task_ids, .. } if task_ids.len() >= MOST_REPAIRED && *rows > task_ids.len() as u64)
}

/// The manifest line of a file. Blocks.
pub(crate) fn listed(archive: &Archive, path: &str) -> Result<Option<StoredFile>> {
    let Ok(mut file) = archive.read(path) else { return Ok(None) };
    let digested = checksum::digest(&mut file).map_err(|error| archive.store.failed("read", path, &error))?;
    Ok(Some(StoredFile { path: path.to_owned(), sha256: digested.sha256 }))
}
