//! The engine of a run: it carries out a plan of items, and brings responses into the archive.
//!
//! ```text
//! plan ─▶ coordinator ─▶ journal stage ─────────▶ publish stage
//!          ▲   │ ▲  ▲ │      │ (acknowledged)          │ (in place)
//!          └───┘ └──┼─┼──────┴─────────────────────────┘
//!         requests  │ └─▶ media stage: downloads of what is acknowledged
//!                   └──────────┘ their outcome, on to the journal
//! ```
//!
//! The coordinator owns the run's state and is the only one that emits events. The stages behind it run
//! concurrently, joined by channels; the coordinator bounds what is in progress. No stage knows another; only
//! this module knows their order.

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
pub(crate) use coordinator::{Coordinator, Ending, RunContext, RunResult};
pub(crate) use item::{AnswerSource, Item, RowEffect, Salvage, WantedKinds};
pub(crate) use known::{Known, NotFound, failed_assets, tasks_lacking_assets};
pub(crate) use ledger::{Ledger, Missing};
pub(crate) use media_stage::MediaStage;
pub(crate) use plan::Plan;
pub(crate) use publish::write_views;
pub(crate) use recovery::recover;
pub(crate) use stored::{ids_in_responses, salvageable};

use std::time::Duration;

use crate::event::Event;

/// Where the events of a run go.
pub(crate) type EventSink<'a> = &'a mut (dyn FnMut(Event) + Send);

/// After a signal or `--stop-after`, how long requests in flight may still take: they count against the rate
/// limit already.
const GRACE: Duration = Duration::from_secs(5);

/// After this many failed tasks in a row without a response, the provider is down and the run ends. At the
/// default pace and retries that is 600 requests, or five minutes of failures: longer than a proxy takes to
/// restart, and a small part of a night.
const DOWN: u32 = 100;
