//! Counts the unpublished responses in the journal. Unpublished responses belong to runs that were killed, or that
//! ended before their downloads were complete.

use std::collections::BTreeMap;

use crate::{
    archive::{Archive, RunFile},
    error::Result,
    journal::{self, Leftover},
    report::UnpublishedRun,
};

/// Returns the runs with unpublished responses in the journal, oldest first. Returns an empty list while a run is in
/// progress, because that run will publish the responses itself.
pub(super) fn unpublished_runs(archive: &Archive) -> Result<Vec<UnpublishedRun>> {
    if archive.holder().is_some() {
        return Ok(Vec::new());
    }
    let mut responses = BTreeMap::new();
    for segment in journal::segments(&archive.journal_folder())? {
        let (run_id, count) = Leftover::count_responses(&segment)?;
        *responses.entry(run_id).or_default() += count;
    }
    let mut unpublished = Vec::new();
    for (run_id, responses) in responses {
        let has_ended = archive.store.exists(&RunFile::Summary.path(&run_id))?;
        unpublished.push(UnpublishedRun {
            started_at: run_id.start(),
            run_id: run_id.to_string(),
            responses,
            has_ended,
        });
    }
    Ok(unpublished)
}
