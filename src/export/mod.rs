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

mod asker;
mod coordinator;
mod forecast;
mod in_flight;
mod journal_stage;
mod known;
mod ledger;
mod media_stage;
mod mend;
mod plan;
mod publish;
mod queue;
mod raw;
mod recovery;
mod replace;

pub(crate) use asker::{Asker, Manners};
pub use coordinator::Signal;
pub(crate) use coordinator::{Asked, Coordinator, Ending, Settings};
pub(crate) use known::{Known, NotFound, failed_assets};
pub(crate) use ledger::{Ledger, Missing};
pub(crate) use media_stage::MediaStage;
pub(crate) use mend::{Mended, Mender, Patient, Stored};
pub(crate) use plan::Plan;
pub(crate) use publish::write_views;
pub(crate) use recovery::recover;

use crate::event::Event;

/// Where the events of a run go.
pub(crate) type Tell<'a> = &'a mut (dyn FnMut(Event) + Send);
