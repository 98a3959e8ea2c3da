//! The engine of a run, which executes a plan and archives the responses.
//!
//! ```text
//! plan ─▶ coordinator ─▶ journal stage ─────────▶ publish stage
//!          ▲   │ ▲  ▲ │      │ (acknowledged)          │ (published)
//!          └───┘ └──┼─┼──────┴─────────────────────────┘
//!         requests  │ └─▶ media stage: downloads for acknowledged tasks
//!                   └──────────┘ download outcomes, for the journal
//! ```
//!
//! The coordinator owns the run's state and emits the run's events. The stages run concurrently and communicate with
//! the coordinator through channels. The coordinator limits the amount of work in progress. Stages do not depend on
//! each other. Only this module defines the order of the stages.

mod coordinator;
mod forecast;
mod item;
mod journal_stage;
mod keyed_mutex;
mod ledger;
mod list_state;
mod media_stage;
mod plan;
mod publish;
mod queue;
mod raw;
mod recovered_run;
mod recovery;
mod replace;
mod stored;
mod superseded;

pub use coordinator::Signal;
pub(crate) use coordinator::{Coordinator, RunContext, RunResult, StopReason};
pub(crate) use item::{Item, ResponseSource, RowEffect, Salvage, WantedKinds};
pub(crate) use ledger::{Ledger, MissingTask};
pub(crate) use list_state::{ListState, NotFoundPolicy, failed_assets, tasks_lacking_assets};
pub(crate) use media_stage::MediaStage;
pub(crate) use plan::Plan;
pub(crate) use publish::write_views;
pub(crate) use recovery::recover;
pub(crate) use stored::{ids_in_responses, salvageable};

use std::time::Duration;

use crate::event::Event;

/// A callback that receives the events of a run.
pub(crate) type EventSink<'a> = &'a mut (dyn FnMut(Event) + Send);

/// The time that in-flight requests and downloads have to complete after a signal or the `--stop-after` limit. Aborting
/// requests at once would waste the quota that they have already used.
const GRACE_PERIOD: Duration = Duration::from_secs(5);

/// The number of consecutive failed tasks or 429 responses after which the run treats the provider as down and ends. At
/// the default rate and retry limit, 100 failed tasks amount to 600 failed requests in about five minutes. Five minutes
/// are more than a proxy restart takes, but much less than an overnight run takes.
const MAX_CONSECUTIVE_FAILURES: u32 = 100;
