//! Media files from unknown hosts: which URLs are assets, where they may lead, and how a file is downloaded
//! completely. Where the file is placed, and its row, are the export's concern.

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
pub(crate) use download::{Download, DownloadUpdate, Downloader, Limits, Outcome};
pub(crate) use guard::{HostPolicy, is_private_host};
pub(crate) use source::{ClipState, Scheme, Source};
pub(crate) use tries::Sent;
