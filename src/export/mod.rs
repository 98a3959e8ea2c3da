//! A run: what is to be asked, in which order, and the way of an answer into the archive.
//!
//! ```text
//! plan ─▶ coordinator ─▶ journal stage ─────────▶ publish stage
//!          ▲   │ ▲  ▲ │      │ (acknowledged)          │ (in place)
//!          └───┘ └──┼─┼──────┴─────────────────────────┘
//!         requests  │ └─▶ media stage: downloads of what is acknowledged
//!                   └──────────┘ what became of them, on to the journal
//! ```
//!
//! The coordinator owns the run's state and is the only one that says what happened. The stages behind it
//! run side by side with it, joined by channels; what may be in them is bounded by what the coordinator
//! lets be under way. No stage knows another; only this module knows their order.

mod coordinator;
mod forecast;
mod in_flight;
mod item;
mod journal_stage;
mod known;
mod ledger;
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
pub(crate) use coordinator::{Asked, Coordinator, Ending, RunContext};
pub(crate) use item::{AnswerSource, Item, RowEffect, Salvage, WantedKinds};
pub(crate) use known::{Known, NotFound, failed_assets, lacking_assets};
pub(crate) use ledger::{Ledger, Missing};
pub(crate) use media_stage::MediaStage;
pub(crate) use plan::Plan;
pub(crate) use publish::write_views;
pub(crate) use recovery::recover;
pub(crate) use stored::{contradicted_ids, salvageable};

use std::time::Duration;

use crate::event::Event;

/// Where the events of a run go.
pub(crate) type EventSink<'a> = &'a mut (dyn FnMut(Event) + Send);

/// After a signal or at the end of its time, how long requests in flight may still take: their answers are paid for.
const GRACE: Duration = Duration::from_secs(5);

/// After this many tasks in a row were given up, and none answered, the provider is down and the run ends.
/// At the default pace and retries that is five minutes of nothing but failures, 600 requests: longer
/// than a proxy takes to restart, and little of a night.
const DOWN: u32 = 100;
