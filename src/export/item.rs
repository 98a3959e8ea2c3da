//! The work on one task: where its response comes from, which assets are wanted, and how its rows
//! relate to the rows that the archive has.

use crate::asset::AssetKinds;

/// One task of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) source: AnswerSource,
    pub(crate) kinds: WantedKinds,
    pub(crate) rows: RowEffect,
    /// For a task whose own row is lost: how many of its rows in other tables are clips.
    pub(crate) clips_left: Option<i32>,
    /// For a task whose own row is lost: what a damaged part still holds.
    pub(crate) salvage: Option<Salvage>,
}

/// Where the response for a task comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum AnswerSource {
    /// The provider.
    #[default]
    Ask,
    /// The archive, which has the task's row.
    Stored,
}

/// The kinds of assets that are wanted of a task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum WantedKinds {
    /// Those that the run downloads.
    #[default]
    OfRun,
    /// These, whatever the run downloads.
    These(AssetKinds),
    /// Those that the run downloads, and those that the archive has files of, because the asset rows are lost.
    OfRunAndFiles,
}

/// How a task's new rows relate to those that the archive has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RowEffect {
    /// The archive has none.
    #[default]
    New,
    /// The new rows replace the old ones.
    Replace,
    /// The new rows replace a `not_found` row, which stays if the task is still not found.
    ReplaceNotFound,
    /// The new rows are assets of further kinds; the task's other rows stay.
    AddAssets,
}

/// The values of a task that a damaged part still holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Salvage {
    /// It was not found.
    NotFound,
    /// It has a response.
    Response,
}

impl Item {
    /// A task without a row in the archive: it is fetched.
    pub(crate) const NEW: Self = Self {
        source: AnswerSource::Ask,
        kinds: WantedKinds::OfRun,
        rows: RowEffect::New,
        clips_left: None,
        salvage: None,
    };

    /// An archived task without asset rows of these kinds.
    pub(crate) fn lacking(kinds: AssetKinds) -> Self {
        let (source, kinds) = (AnswerSource::Stored, WantedKinds::These(kinds));
        Self { source, kinds, rows: RowEffect::AddAssets, ..Self::NEW }
    }

    /// Whether its rows replace existing ones.
    pub(super) fn replaces(&self) -> bool {
        matches!(self.rows, RowEffect::Replace | RowEffect::ReplaceNotFound)
    }

    /// Whether the remaining rows hold more clips than a response with this many.
    pub(super) fn is_poorer(&self, clips: impl FnOnce() -> usize) -> bool {
        self.clips_left.is_some_and(|left| usize::try_from(left).is_ok_and(|left| clips() < left))
    }
}
