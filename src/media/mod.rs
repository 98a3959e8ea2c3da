//! Downloads media files from unknown hosts. The submodules determine which URLs are assets, which hosts are allowed,
//! and how a file is downloaded completely. The `export` module decides where a file is stored, and creates its row.

mod client;
mod content;
mod download;
mod guard;
mod hosts;
mod partial;
mod resume;
mod retry;
mod source;

pub(crate) use client::{Access, Failure};
pub(crate) use content::{Content, SNIFF_LENGTH, detect, extensions};
pub(crate) use download::{Download, DownloadUpdate, Downloader, Limits, Outcome};
pub(crate) use guard::{HostPolicy, is_private_host};
pub(crate) use retry::Traffic;
pub(crate) use source::{ClipState, Scheme, Source};
