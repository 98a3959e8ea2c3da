//! Downloads media files from untrusted hosts. The submodules determine which URLs refer to assets and which hosts are
//! allowed, and download each file completely. The `export` module decides where a media file is stored, and creates
//! its row in the `assets` table.

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
