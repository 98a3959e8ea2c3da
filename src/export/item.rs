//! The work for one task: the source of its response, the wanted kinds of assets, and the effect of the new rows on the
//! task's archived rows.

use crate::asset::AssetKinds;

/// The work for one task in a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) source: ResponseSource,
    pub(crate) kinds: WantedKinds,
    pub(crate) rows: RowEffect,
    /// The number of rows that the clips table still contains for the task, if the task's row in the tasks table is
    /// lost.
    pub(crate) remaining_clips: Option<i32>,
    /// The data that can be salvaged from a damaged part, if the task's row in the tasks table is lost.
    pub(crate) salvage: Option<Salvage>,
}

/// The source of a task's response.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum ResponseSource {
    /// The response is requested from the provider.
    #[default]
    Provider,
    /// The response is read from the task's row in the archive.
    Tables,
}

/// The kinds of assets to download for a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum WantedKinds {
    /// The kinds that the run is configured to download.
    #[default]
    Configured,
    /// Exactly these kinds, regardless of the run's configuration.
    Explicit(AssetKinds),
    /// The kinds that the run is configured to download, and the kinds that the archive has files for. Used for tasks
    /// that may have lost their asset rows.
    ConfiguredAndExisting,
}

/// The effect of a task's new rows on its archived rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RowEffect {
    /// The archive has no rows for the task.
    #[default]
    New,
    /// The new rows replace the archived rows.
    Replace,
    /// The new rows replace a `not_found` row. If the task is still not found, the `not_found` row stays.
    ReplaceNotFound,
    /// The new rows are asset rows of additional kinds. All archived rows of the task stay unchanged.
    AddAssets,
}

/// The data that can be salvaged from a task's row in a damaged part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Salvage {
    /// The task's row has the status `not_found`.
    NotFound,
    /// The task's row contains a response.
    Response,
}

impl Item {
    /// The item for a task that is not archived and must be fetched.
    pub(crate) const NEW: Self = Self {
        source: ResponseSource::Provider,
        kinds: WantedKinds::Configured,
        rows: RowEffect::New,
        remaining_clips: None,
        salvage: None,
    };

    /// Returns the item for an archived task that lacks asset rows for these kinds.
    pub(crate) fn for_missing_assets(kinds: AssetKinds) -> Self {
        let (source, kinds) = (ResponseSource::Tables, WantedKinds::Explicit(kinds));
        Self { source, kinds, rows: RowEffect::AddAssets, ..Self::NEW }
    }

    /// Whether the new rows replace archived rows.
    pub(super) fn replaces(&self) -> bool {
        matches!(self.rows, RowEffect::Replace | RowEffect::ReplaceNotFound)
    }

    /// Whether the task's response has fewer clips than the clips table still contains for the task. `clips` returns
    /// the number of clips in the response.
    pub(super) fn has_fewer_clips(&self, clips: impl FnOnce() -> usize) -> bool {
        self.remaining_clips
            .is_some_and(|remaining| usize::try_from(remaining).is_ok_and(|remaining| clips() < remaining))
    }
}
