//! What a run does about one task: where its answer comes from, which assets are wanted, and what its rows
//! are to those that the archive has.

use crate::asset::AssetKinds;

/// One task of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) source: AnswerSource,
    pub(crate) kinds: WantedKinds,
    pub(crate) rows: RowEffect,
    /// Of a task whose own row is lost, and that has rows in other tables: how many of those are clips.
    pub(crate) clips_left: Option<i32>,
    /// What a damaged part says of a task whose own row is lost.
    pub(crate) salvage: Option<Salvage>,
}

/// Where the answer about a task comes from.
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
    /// Those that the run downloads, and those that the archive has files of: the rows that named them are lost.
    OfRunAndFiles,
}

/// What a task's rows are to those that the archive has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum RowEffect {
    /// The archive has none.
    #[default]
    New,
    /// They replace them.
    Replace,
    /// They replace one that says that the task was not found, which stays if it still is not.
    ReplaceNotFound,
    /// Rows of further kinds of assets; the task's other rows stay.
    AddAssets,
}

/// What a damaged part says of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Salvage {
    /// It was not found.
    NotFound,
    /// It has a response.
    Response,
}

impl Item {
    /// A task that the archive has no row of: it is asked for.
    pub(crate) const NEW: Self = Self {
        source: AnswerSource::Ask,
        kinds: WantedKinds::OfRun,
        rows: RowEffect::New,
        clips_left: None,
        salvage: None,
    };

    /// A task that is archived, and lacks rows of these kinds of assets.
    pub(crate) fn lacking(kinds: AssetKinds) -> Self {
        let (source, kinds) = (AnswerSource::Stored, WantedKinds::These(kinds));
        Self { source, kinds, rows: RowEffect::AddAssets, ..Self::NEW }
    }

    /// Whether its rows replace others.
    pub(super) fn replaces(&self) -> bool {
        matches!(self.rows, RowEffect::Replace | RowEffect::ReplaceNotFound)
    }

    /// Whether rows are left of it that say more than an answer with so many clips.
    pub(super) fn is_poorer(&self, clips: usize) -> bool {
        self.clips_left.is_some_and(|left| usize::try_from(left).is_ok_and(|left| clips < left))
    }
}
