//! Downloads media files from unknown hosts. The submodules determine which URLs are assets, which hosts are allowed,
//! and how a file is downloaded completely. The `export` module decides where a file is stored, and creates its row.

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
