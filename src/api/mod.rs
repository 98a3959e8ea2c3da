//! The provider: one request and what its answer means, and when the next may be sent. Which task to
//! ask for, and when, is the export's business.

mod client;
mod pace;
mod response;
mod window;

pub(crate) use client::{Client, Reply};
pub(crate) use pace::{Pace, spare_per_minute};
#[cfg(fuzzing)]
pub(crate) use response::classify;
pub(crate) use response::{TaskResponse, Usage};
