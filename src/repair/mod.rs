//! Plans a repair from the findings of a check. Planning reads the tables and changes nothing, so that `--dry-run` can
//! print the plan.

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
    /// Foreign files that readers of a table would treat as parts, although no run has written them.
    pub(crate) strays: BTreeSet<String>,
    /// Damaged run summaries and lists of missing tasks. These files cannot be regenerated, but the archive is
    /// complete without them.
    pub(crate) run_files: BTreeSet<String>,
    /// Manifests to regenerate.
    pub(crate) manifests: BTreeSet<String>,
    /// Whether the checksum file, which covers small files that no manifest lists, must be regenerated.
    pub(crate) checksums: bool,
    /// Tasks to repair.
    pub(crate) tasks: BTreeSet<String>,
    /// Tasks to repair that have lost their row in the tasks table. The responses for these tasks must be requested
    /// from the provider.
    pub(crate) lost: HashSet<String>,
    /// For each task, the kinds of assets for which the assets table has rows.
    pub(crate) kinds: HashMap<String, AssetKinds>,
    /// For each task with rows in the clips, lyrics or assets table, the number of its clip rows.
    pub(crate) clips_left: HashMap<String, i32>,
    /// Tasks that may have lost their asset rows.
    pub(crate) without_assets: HashSet<String>,
    /// Tasks whose row was salvaged from a damaged part. The provider may have a better response.
    pub(crate) unsure: HashSet<String>,
    /// The number of assets that failed in earlier runs.
    pub(crate) failed_assets: u64,
    /// The paths of quarantined copies of damaged parts of the tasks table.
    pub(crate) kept: BTreeSet<PathBuf>,
    /// Parts of the tasks table that could not be read completely.
    pub(crate) unknown: BTreeSet<String>,
    /// Whether there are more findings than one repair can handle.
    pub(crate) has_more: bool,
    /// Findings that cannot be repaired.
    #[serde(skip)]
    pub(crate) beyond: Vec<Finding>,
}

impl Plan {
    /// Creates the plan from the findings and the tables. `begun` is the plan of an interrupted repair, which contains
    /// data that can no longer be derived from the archive. Performs blocking I/O.
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
        // Salvaged tasks have rows, but are requested again because the provider may have a better response.
        self.lost.extend(begun.unsure.iter().cloned());
        self.unsure.extend(begun.unsure);
        self.unknown.extend(begun.unknown);
        self.kept.extend(begun.kept);
        self.has_more |= begun.has_more;
    }

    /// Whether every finding can be repaired.
    pub(crate) fn is_repairable(&self) -> bool {
        self.beyond.is_empty() && self.unknown.is_empty() && self.run_files.is_empty()
    }

    /// Returns the item of each task to repair. `salvage` contains the tasks that are readable in quarantined parts.
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

    /// Creates the record of the repair's failures, which is initially empty.
    pub(crate) fn failures(&self, salvage: &HashMap<String, Salvage>) -> Failures {
        let is_not_found = |task: &&String| salvage.get(*task) == Some(&Salvage::NotFound);
        let lost = self.lost.iter().filter(|task| !is_not_found(task));
        Failures::new(lost.map(|task| (task.clone(), self.clips_left.contains_key(task))).collect())
    }

    /// Returns the plan for the next repair, which contains the tasks that are not done. Lost tasks that were salvaged
    /// are marked as `unsure`.
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

    /// Whether there is nothing to repair.
    pub(crate) fn is_empty(&self) -> bool {
        let nothing = self.parts.is_empty() && self.strays.is_empty() && self.media.is_empty() && self.tasks.is_empty();
        nothing && self.unlisted.is_empty() && self.manifests.is_empty() && !self.checksums && self.run_files.is_empty()
    }

    /// Whether a part of the table is damaged or missing.
    fn has_lost(&self, table: &str) -> bool {
        self.parts.contains_key(table)
    }

    /// Whether the plan treats a part as intact, so that the part may be read.
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
            // For a missing file without a row, the repair only removes the file's line from its manifest.
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
            // The repair run always rewrites the views and removes staging files.
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

/// Whether a finding concerns more tasks than it lists.
fn has_more_tasks(finding: &Finding) -> bool {
    matches!(&finding.about, Subject::Rows { rows, task_ids, .. } if task_ids.len() >= MOST_REPAIRED && *rows > task_ids.len() as u64)
}

/// Computes the manifest line of a file. Returns `None` if the file cannot be opened. Performs blocking I/O.
pub(crate) fn listed(archive: &Archive, path: &str) -> Result<Option<StoredFile>> {
    let Ok(mut file) = archive.read(path) else { return Ok(None) };
    let digested = checksum::digest(&mut file).map_err(|error| archive.store.failed("read", path, &error))?;
    Ok(Some(StoredFile { path: path.to_owned(), sha256: digested.sha256 }))
}
