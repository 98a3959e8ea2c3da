//! The provider's API: one request and the meaning of its response, and when the next may be sent. Which task to
//! request is the export's concern.

mod client;
mod pace;
mod response;
mod window;

pub(crate) use client::{Client, Reply};
pub(crate) use pace::{Pace, spare_per_minute};
#[cfg(fuzzing)]
pub(crate) use response::classify;
pub(crate) use response::{TaskResponse, Usage};
