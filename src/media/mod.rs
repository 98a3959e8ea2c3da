//! Media files from hosts that nobody here knows: which addresses are assets at all, whom they may be
//! asked of, and how one comes whole to a file on this disk. Where the file goes then, and what is
//! written about it, is the export's business.

mod client;
mod content;
mod download;
mod guard;
mod hosts;
mod partial;
mod rest;
mod source;
mod tries;

pub(crate) use client::{Access, Failure};
pub(crate) use content::{Content, HEAD, endings, recognise};
pub(crate) use download::{Download, Downloader, Limits, Outcome, Told};
pub(crate) use guard::{HostPolicy, is_private_host};
pub(crate) use source::{ClipState, Scheme, Source};
pub(crate) use tries::Sent;
