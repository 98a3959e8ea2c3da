//! The client for the provider's API, which sends requests, interprets responses and enforces the rate limit. The
//! `export` module decides which tasks are requested.

mod client;
mod request_limiter;
mod response;
mod window;

pub(crate) use client::{Client, Reply};
pub(crate) use request_limiter::{RequestLimiter, available_per_minute};
#[cfg(fuzzing)]
pub(crate) use response::classify;
pub(crate) use response::{TaskResponse, Usage};
