//! A map of the code.
//!
//! `sunor-archive` fetches tasks (AI music: suno and udio) from the sunor.cc API. It archives the responses in
//! tables and the media as files, at the provider's rate limit and without fetching anything twice.
//! This page says where everything is; each module's own page says how it works.
//!
//! # The way of a task ID
//!
//! ```text
//! tasks.csv ─ input ─▶ task::TaskList ─ export::plan: minus export::known ──▶ export::queue
//!                                                                               │ what to ask next
//!   api::pace ── a permit for every request ──▶ api::client ── GET ──▶ api::response: what it means
//!                                                                               │
//!        ┌───────────────┬──────────────────┬────────────────────┬──────────────┴───┐
//!      final         unfinished          may pass             401, 403          no task
//!        │          back into the     back into the         the run ends      named in
//!        │          queue, polled     queue, after          in good order     -unfinished.csv
//!        │          after the first   backoff
//!        ▼          pass
//!     journal: appended, synced, acknowledged; only now it counts as answered
//!        │    ▲ what became of its assets
//!        │    └── export::media_stage: media::source ─▶ media::download ─▶ archive::media
//!        │ segment full or run over, and every task in it settled
//!        ▼
//!     export::publish: tables::flatten ─▶ tables::part ─▶ archive::store: lyrics, clips, assets, tasks
//! ```
//!
//! Three ideas carry it. **Requests are the money**: a response, once received, is never requested
//! again. **Crash-only**: there is one way from a response to a table, and it starts at the journal;
//! recovery after a crash is settling and publishing the segments that are still there
//! (`export::recovery`). **Everything that happens is an [`event`]**: the summary, the bars, the
//! machine-readable stream and the metrics are folds over the same events.
//!
//! # The archive
//!
//! ```text
//! library/
//!   archive.json                   archive          what makes the folder an archive: version, tables' format
//!   tasks|clips|lyrics|assets/<part>  tables        the rows; columns in tables::schema
//!   media/<kind>/<ab>/<clip_id>.…  archive::media   audio and covers, each whole under its name
//!   runs/<run_id>.json             run_summary      how a run went
//!   runs/<run_id>.sha256           archive::manifest  checksums of what the run added
//!   runs/<run_id>-raw.jsonl        export::raw      bodies that could not be archived as they came
//!   runs/<run_id>-unfinished.csv   export::ledger   what is missing, itself a list to export
//!   views.sql                      tables::views    DuckDB views
//!   .sunor/lock, journal/          archive::lock, journal
//!   .sunor/seals                   archive::document_checksums   checksums of what no manifest lists
//!   .sunor/partial/                media::partial   downloads in progress
//!   .sunor/swap.json, swap/        archive::swap    parts that are about to take the place of others
//! ```
//!
//! # Where a change belongs
//!
//! | to change | go to |
//! | --- | --- |
//! | an option, its help | [`cli`], then its meaning and default in [`config`] |
//! | what an API response means | `api::response` |
//! | when requests leave, how they are repeated | `api::pace`, `backoff`; in which order: `export::queue` |
//! | which addresses are assets, and whom they may lead to | `media::source`, `media::guard` |
//! | when a download is retried | `media::client`, `media::download` |
//! | what a media file is called | `archive::media` |
//! | a column | `tables::schema`, `tables::flatten` and `docs/archive-format.md`, which a test compares |
//! | a view | `tables::views` |
//! | what need not be read of a part | `tables::prune` |
//! | the order of rows in large parts | `tables::sort`; by which column: `tables::schema` |
//! | a file of the archive | `archive::layout` |
//! | how parts take the place of others | `archive::swap`; what is copied into them: `tables::copy` |
//! | which parts are merged, how large a part is | `rewrite`, `commands::compact` |
//! | what is counted | [`event`], then the fold in [`run_summary`] |
//! | what Prometheus gets | `report::metrics`; when: `commands::metrics` |
//! | messages for the user | `report::words`, `report::archive_messages`, `report::sentence` |
//! | what `summary` counts | `commands::summary::standing`; of the account: `commands::summary::account` |
//! | what is repaired, and how | `repair`, then `export::mend` and `export::replace`; how lost tasks are requested: `export::asker` |
//! | what damage is, and what to do about it | [`verify`]: `verify::finding` has the words |
//! | an exit status | [`exit`] |
//! | what the simulated provider does | [`simulator`] |
//! | a new command | a file in [`commands`] |
//!
//! Arrows point one way: `main` → `cli` → `commands` → `export` → the stages (`api`, `journal`, `media`,
//! `tables`, `archive`) → the root files. No stage knows another; only `export` knows their order.
//! `verify` stands beside `export`: it reads what the stages left, and writes nothing; [`repair`](commands::repair)
//! plans by what it finds, and lets `export::mend` do it. `compact` and `rebuild` are commands over `archive`
//! and `tables`, which `rewrite` puts together. `report` reads events and findings, and is read by
//! `commands`; `simulator` stands alone, and only `commands` and the tests start it. An object store will be
//! another backend of `archive::store`.
//!
//! # Using it as a library
//!
//! ```no_run
//! use sunor_archive::{cli, commands, report};
//!
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! let arguments = ["sunor-archive", "export", "tasks.csv", "--out", "library", "--simulate"];
//! let cli::Command::Export(args) = cli::parse(arguments.map(Into::into))?.command else { return Ok(()) };
//! let mut reporter = report::reporter(args.progress(), args.verbosity());
//! let never = std::future::pending();
//! let outcome = commands::export::export(&args.config()?, never, reporter.as_mut()).await?;
//! println!("{} tasks archived", outcome.summary.rows.tasks);
//! # Ok(())
//! # }
//! ```

mod api;
mod archive;
pub mod asset;
mod backoff;
mod blocking;
mod body;
mod checksum;
pub mod cli;
pub mod commands;
pub mod config;
pub mod error;
pub mod event;
pub mod exit;
mod export;
pub mod filesystem;
pub mod format;
#[cfg(fuzzing)]
pub mod fuzzing;
mod http;
pub mod input;
mod journal;
mod json;
mod media;
pub mod proxies;
mod repair;
pub mod report;
mod rewrite;
pub mod run_id;
pub mod run_summary;
pub mod simulator;
pub mod status;
mod tables;
pub mod task;
mod timestamp;
pub mod verify;

pub use export::Signal;
