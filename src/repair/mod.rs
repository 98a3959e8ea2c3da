//! Plans a repair from the findings of `verify`. Planning reads the tables and changes nothing, so `--dry-run` can
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
    export::{Item, ResponseSource, RowEffect, Salvage, WantedKinds},
    verify::{Finding, FindingKind, MAX_LISTED_FOR_REPAIR, Report, Severity, Subject},
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
    /// Damaged run summaries and damaged lists of missing tasks. A repair cannot regenerate such files, but the archive
    /// is complete without them.
    pub(crate) run_files: BTreeSet<String>,
    /// Manifests to regenerate.
    pub(crate) manifests: BTreeSet<String>,
    /// Whether the checksum file, which covers small files that no manifest lists, must be regenerated.
    #[serde(rename = "checksums")]
    pub(crate) rewrite_checksums: bool,
    /// Tasks to repair.
    pub(crate) tasks: BTreeSet<String>,
    /// The tasks to repair whose row in the tasks table is lost. The responses for these tasks must be requested again
    /// from the provider.
    pub(crate) lost: HashSet<String>,
    /// For each task, the kinds of assets for which the assets table has rows.
    pub(crate) kinds: HashMap<String, AssetKinds>,
    /// For each task with rows in the clips, lyrics or assets table, the number of its clip rows.
    #[serde(rename = "clips_left")]
    pub(crate) remaining_clips: HashMap<String, i32>,
    /// Tasks that may have lost their rows in the assets table.
    #[serde(rename = "without_assets")]
    pub(crate) may_lack_asset_rows: HashSet<String>,
    /// Tasks whose row was salvaged from a damaged part, and that are requested again because the provider may have a
    /// better response.
    #[serde(rename = "unsure")]
    pub(crate) salvaged: HashSet<String>,
    /// The number of assets that failed in earlier runs.
    pub(crate) failed_assets: u64,
    /// The paths of quarantined copies of damaged parts of the tasks table.
    #[serde(rename = "kept")]
    pub(crate) quarantined_copies: BTreeSet<PathBuf>,
    /// Parts of the tasks table that could not be read completely.
    #[serde(rename = "unknown")]
    pub(crate) truncated_parts: BTreeSet<String>,
    /// Whether there are more findings than one repair can handle.
    pub(crate) has_more: bool,
    /// Findings that cannot be repaired.
    #[serde(skip)]
    pub(crate) unrepairable: Vec<Finding>,
}

impl Plan {
    /// Creates the plan from the findings and the tables. `interrupted` is the plan of an interrupted repair, which
    /// contains data that can no longer be derived from the archive. Performs blocking I/O.
    pub(crate) fn new(archive: &Archive, report: &Report, interrupted: Option<Self>) -> Result<Self> {
        let mut plan = Self::default();
        for finding in &report.findings {
            plan.add_finding(finding);
        }
        let listed_findings = report.findings.len() as u64;
        plan.has_more =
            report.kinds.values().sum::<u64>() > listed_findings || report.findings.iter().any(has_more_tasks);
        let survey = Survey::read(archive, &plan)?;
        survey.drop_corrupted_ids(&mut plan);
        let interrupted = interrupted.unwrap_or_default();
        plan.tasks.extend(interrupted.tasks.iter().cloned());
        survey.add_affected_tasks(archive, &mut plan)?;
        plan.merge_interrupted(interrupted);
        Ok(plan)
    }

    fn merge_interrupted(&mut self, interrupted: Self) {
        for (task, kinds) in interrupted.kinds {
            let merged_kinds = self.kinds.entry(task).or_default();
            kinds.iter().for_each(|kind| merged_kinds.insert(kind));
        }
        for (task, clips) in interrupted.remaining_clips {
            self.remaining_clips.entry(task).or_insert(clips);
        }
        self.may_lack_asset_rows.extend(interrupted.may_lack_asset_rows);
        // Salvaged tasks have a row in the tasks table, but are requested again like lost tasks.
        self.lost.extend(interrupted.salvaged.iter().cloned());
        self.salvaged.extend(interrupted.salvaged);
        self.truncated_parts.extend(interrupted.truncated_parts);
        self.quarantined_copies.extend(interrupted.quarantined_copies);
        self.has_more |= interrupted.has_more;
    }

    /// Whether every finding can be repaired.
    pub(crate) fn is_repairable(&self) -> bool {
        self.unrepairable.is_empty() && self.truncated_parts.is_empty() && self.run_files.is_empty()
    }

    /// Returns a plan item for each task to repair. `salvage` contains the tasks that are readable in quarantined
    /// parts.
    pub(crate) fn items<'a>(
        &'a self,
        salvage: &'a HashMap<String, Salvage>,
    ) -> impl Iterator<Item = (String, Item)> + 'a {
        self.tasks.iter().map(|task| {
            let is_lost = self.lost.contains(task);
            let kinds = if self.may_lack_asset_rows.contains(task) {
                WantedKinds::ConfiguredAndExisting
            } else {
                WantedKinds::Explicit(self.kinds.get(task).cloned().unwrap_or_default())
            };
            let item = Item {
                source: if is_lost { ResponseSource::Provider } else { ResponseSource::Tables },
                kinds,
                rows: RowEffect::Replace,
                remaining_clips: self.remaining_clips.get(task).copied(),
                salvage: salvage.get(task).copied().filter(|_| is_lost),
            };
            (task.clone(), item)
        })
    }

    /// Creates an empty record of the failures of this repair.
    pub(crate) fn failures(&self, salvage: &HashMap<String, Salvage>) -> Failures {
        let is_not_found = |task: &&String| salvage.get(*task) == Some(&Salvage::NotFound);
        let lost = self.lost.iter().filter(|task| !is_not_found(task));
        Failures::new(lost.map(|task| (task.clone(), self.remaining_clips.contains_key(task))).collect())
    }

    /// Returns the plan for the next repair, which contains the tasks that this repair did not complete. Lost tasks
    /// that were salvaged are added to `salvaged`.
    pub(crate) fn remaining(&self, is_done: impl Fn(&str) -> bool, is_salvaged: impl Fn(&str) -> bool) -> Self {
        let mut remaining = Self {
            quarantined_copies: self.quarantined_copies.clone(),
            truncated_parts: self.truncated_parts.clone(),
            ..Self::default()
        };
        let is_remaining = |task: &&String| !is_done(task);
        remaining.tasks = self.tasks.iter().filter(is_remaining).cloned().collect();
        remaining.lost = self.lost.iter().filter(is_remaining).cloned().collect();
        remaining.may_lack_asset_rows = self.may_lack_asset_rows.iter().filter(is_remaining).cloned().collect();
        remaining.salvaged = remaining.lost.iter().filter(|task| is_salvaged(task)).cloned().collect();
        let clips = self.remaining_clips.iter().filter(|(task, _)| is_remaining(task));
        remaining.remaining_clips.extend(clips.map(|(task, clips)| (task.clone(), *clips)));
        remaining.kinds.extend(
            self.kinds.iter().filter(|(task, _)| is_remaining(task)).map(|(task, kinds)| (task.clone(), kinds.clone())),
        );
        remaining
    }

    /// Whether there is nothing to repair.
    pub(crate) fn is_empty(&self) -> bool {
        let is_unchanged =
            self.parts.is_empty() && self.strays.is_empty() && self.media.is_empty() && self.tasks.is_empty();
        is_unchanged
            && self.unlisted.is_empty()
            && self.manifests.is_empty()
            && !self.rewrite_checksums
            && self.run_files.is_empty()
    }

    /// Whether a part of the table is damaged or missing.
    fn has_damaged_part(&self, table: &str) -> bool {
        self.parts.contains_key(table)
    }

    /// Whether a part can be read, because the plan does not list it as damaged or missing.
    fn is_intact(&self, table: &str, part: &str) -> bool {
        !self.parts.get(table).is_some_and(|parts| parts.contains(part))
    }

    fn add_finding(&mut self, finding: &Finding) {
        let path = finding.path.clone();
        match finding.kind {
            FindingKind::PartMissing | FindingKind::PartDamaged | FindingKind::PartColumnsDiffer => {
                match &finding.subject {
                    Subject::Part { table } | Subject::Rows { table, .. } => {
                        self.parts.entry((*table).to_owned()).or_default().insert(path);
                    }
                    _ => self.unrepairable.push(finding.clone()),
                }
            }
            // If no row refers to a missing file, the repair only removes the file's line from the manifest that lists
            // the file.
            FindingKind::MediaMissing | FindingKind::MediaDamaged | FindingKind::FileMissing => {
                self.media.insert(path);
                self.add_tasks_of(&finding.subject);
            }
            FindingKind::InvalidAssetRow
            | FindingKind::ConflictingAssetRows
            | FindingKind::DuplicateTask
            | FindingKind::ClipCountMismatch
            | FindingKind::DuplicateRows
            | FindingKind::RowsWithoutTask => {
                self.add_tasks_of(&finding.subject);
            }
            FindingKind::PartUnlisted if finding.subject == Subject::File => {
                self.strays.insert(path);
            }
            FindingKind::PartUnlisted | FindingKind::MediaUnlisted => {
                self.unlisted.insert(path);
            }
            FindingKind::ManifestDamaged => {
                self.manifests.insert(path);
            }
            FindingKind::ChecksumsDamaged => self.rewrite_checksums = true,
            FindingKind::RunFileDamaged => {
                self.run_files.insert(path);
            }
            FindingKind::StagingFile if path.starts_with(MEDIA) => {
                self.media.insert(path);
            }
            // Every repair rewrites the views and removes staging files.
            FindingKind::ViewsDamaged | FindingKind::OutdatedViews | FindingKind::StagingFile => {}
            kind if kind.severity() == Severity::Damage => self.unrepairable.push(finding.clone()),
            _ => {}
        }
    }

    fn add_tasks_of(&mut self, subject: &Subject) {
        match subject {
            Subject::Asset { task_id, .. } => {
                self.tasks.insert(task_id.clone());
            }
            Subject::Rows { task_ids, .. } => self.tasks.extend(task_ids.iter().cloned()),
            Subject::File | Subject::Part { .. } => {}
        }
    }
}

/// Whether a finding affects more tasks than it lists.
fn has_more_tasks(finding: &Finding) -> bool {
    matches!(&finding.subject, Subject::Rows { rows, task_ids, .. } if task_ids.len() >= MAX_LISTED_FOR_REPAIR && *rows > task_ids.len() as u64)
}

/// Computes the manifest line of a file. Returns `None` if the file cannot be opened. Performs blocking I/O.
pub(crate) fn manifest_entry(archive: &Archive, path: &str) -> Result<Option<StoredFile>> {
    let Ok(mut file) = archive.read(path) else { return Ok(None) };
    let digested = checksum::digest(&mut file).map_err(|error| archive.store.storage_error("read", path, &error))?;
    Ok(Some(StoredFile { path: path.to_owned(), sha256: digested.sha256 }))
}
