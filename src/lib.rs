//! A map of the code.
//!
//! `sunor-archive` fetches AI-music tasks (suno and udio) from the sunor.cc API, and archives the responses in tables
//! and the media as files. The program respects the provider's rate limit and fetches nothing twice. This page
//! describes the structure of the code. The documentation of each module describes how the module works.
//!
//! # One engine
//!
//! Every run executes a plan, regardless of which command created the plan. A plan consists of items. An item specifies
//! a task, the source of its response (the provider, the tables, or a quarantined part), the kinds of assets to
//! download, and how the task's new rows affect the archived rows.
//!
//! ```text
//!   export: a list minus archived tasks         repair: the findings of verify
//!                        └──────────┬─────────────────────┘
//!                             export::plan, export::item
//!            ┌──────────────────────┴───────────────────────────┐
//!    to fetch: export::queue                           stored: export::stored
//!    api::request_limiter: a permit per request        responses in the tables, or in
//!    api::client ── GET ──▶ api::response              quarantined parts
//!            │                                                  │
//!            └────────▶ export::coordinator ◀───────────────────┘
//!      final         unfinished       transient         401, 403        unreadable
//!        │           polled after     retried after     the run ends    listed in
//!        │           the first pass   a backoff         cleanly         -unfinished.csv
//!        ▼
//!     journal: appended, synced, acknowledged; only then does the task count as answered
//!        │    ▲ the outcome of its assets
//!        │    └── export::media_stage: media::source ─▶ media::download ─▶ archive::media
//!        │ the segment is full or the run has ended, and every task in the segment is settled
//!        ▼
//!     export::publish: tables::flatten ─▶ tables::part ─▶ archive::store: lyrics, clips, assets, tasks
//! ```
//!
//! The design follows three principles:
//!
//! - **Requests are the scarce resource.** A task is not requested again if its response is already in the tables or in
//!   a journal.
//! - **Crash-only design.** Every response reaches the tables through the journal. Recovery after a crash
//!   (`export::recovery`) processes the remaining assets and publishes the remaining segments, as in a normal run.
//! - **Everything that happens is an [`event`].** The summary, the progress bars, the machine-readable stream and the
//!   metrics are folds over the same events.
//!
//! # Glossary
//!
//! | word | meaning |
//! | --- | --- |
//! | run | one execution of `export` or `repair` on an archive; `compact` and `rebuild` also write a run summary |
//! | task, clip, asset | what the provider generated: a task has clips, and a clip has assets (audio, image, video) |
//! | item | the work that a run does for one task |
//! | plan | the list of all items of a run |
//! | request | one HTTP request to the API: the initial request, a *poll* of an unfinished task, or a *retry* |
//! | response | what the API returned for a task; a response is *stored* once it is in the tables |
//! | first pass | the initial requests for all tasks, before any poll |
//! | back off | wait before a retry, longer each time |
//! | settled | an asset that is downloaded, failed or skipped; a task whose assets are all settled |
//! | journal | the write-ahead log of a run |
//! | segment | one file of the journal, which becomes one part of each table |
//! | leftover | a segment that an interrupted run did not publish; the next run *recovers* the segment |
//! | publish | write the rows of a segment to the tables |
//! | part | one file of a table |
//! | staging file | a file that has a temporary name, `<name>#<n>`, until it is renamed to its final name |
//! | swap | the atomic replacement of parts: readers see either the old parts or the new ones |
//! | manifest | `runs/<run_id>.sha256`, the checksums of the files that a run added |
//! | checksum file | `.sunor/checksums`, the checksums of small files that no manifest lists |
//! | quarantine | `.sunor/damaged`, the folder for damaged files |
//! | salvage | recover readable data from damaged files |
//! | lock | the right to write to an archive |
//! | holder | the process that has the lock |
//!
//! # The archive
//!
//! ```text
//! library/
//!   archive.json                   archive          the format version and the table format
//!   tasks|clips|lyrics|assets/<part>  tables        the rows; columns are defined in tables::schema
//!   media/<kind>/<ab>/<clip_id>.…  archive::media   audio, covers and videos
//!   runs/<run_id>.json             run_summary      run summaries; for killed runs: export::recovered_run
//!   runs/<run_id>.sha256           archive::manifest  the checksums of the files that the run added
//!   runs/<run_id>-raw.jsonl        export::raw      bodies that could not be archived unchanged
//!   runs/<run_id>-unfinished.csv   export::ledger   the tasks that are not archived, as a list for export
//!   views.sql                      tables::views    DuckDB views
//!   .sunor/lock, journal/          archive::lock, journal
//!   .sunor/checksums                   archive::checksum_file   the checksums of files that no manifest lists
//!   .sunor/partial/                media::partial   downloads in progress
//!   .sunor/repair.json             archive::quarantine   the pending work of a repair
//!   .sunor/swap.json, swap/        archive::swap    parts that will replace other parts
//! ```
//!
//! # Where a change belongs
//!
//! | to change | go to |
//! | --- | --- |
//! | an option or its help text | [`cli`], and [`config`] for its meaning and default |
//! | how a list of task IDs is read | [`input`] |
//! | the interpretation of an API response | `api::response`, and `export::coordinator` for handling the result |
//! | when requests are sent or retried | `api::request_limiter`, `backoff`, and `export::queue` for the request order |
//! | how a body is decoded, and which proxies are used | `body`, [`proxies`] |
//! | which URLs refer to assets, and which hosts are allowed | `media::source`, `media::guard` |
//! | when a download is retried | `media::client`, `media::download` |
//! | the name of a media file | `archive::media` |
//! | a column | `tables::schema`, `tables::flatten` and `docs/archive-format.md`, which a test checks |
//! | a view | `tables::views` |
//! | which row groups a search skips | `tables::prune` |
//! | the order of rows in large parts | `tables::sort`, and `tables::schema` for the sort column |
//! | which file names belong to the archive | `archive::layout`, [`run_id`] |
//! | how parts replace other parts | `archive::swap`, and `tables::copy` for the rows of the new parts |
//! | how rows are read from an archive | `rows`, which uses `tables::reader` |
//! | the possible locations of an archive | `archive::location`, and an implementation of `archive::backend` |
//! | what happens if a file system does not support an operation | [`filesystem`] |
//! | which parts are merged, and the size of large parts | `rewrite`, `commands::compact` |
//! | what a run counts | [`event`], and the fold over the events in [`run_summary`] |
//! | the Prometheus metrics | `report::metrics`, and `commands::metrics` for when the metrics are written |
//! | messages for the user | `report::messages`, `archive_messages`, `event_messages` and `repairs` |
//! | what `summary` counts | `commands::summary::archive_counts`, and `commands::summary::account` for usage |
//! | what is repaired, and how | `repair` for the plan, and `export::stored` and `export::replace` for its execution |
//! | the files that a run writes at its end | `commands::run` |
//! | what counts as damage, and the advice for each finding | [`verify`], and `verify::finding` for the messages |
//! | an exit status | [`exit`] |
//! | the simulated provider | [`simulator`] |
//! | a new command | a file in [`commands`] |
//!
//! Dependencies point in one direction: `main` → `cli` → `commands` → `export` → the stages (`api`, `journal`, `media`,
//! `tables`, `archive`) → the root files. The stages do not depend on each other, and only `export` defines their
//! order. `verify` is independent of `export`: `verify` reads the output of the stages and writes nothing. `repair`
//! makes a plan from the findings of `verify`, and the coordinator of `export` executes the plan. `compact` and
//! `rebuild` are commands that use `archive` and `tables` through `rewrite`. `report` formats events and findings for
//! `commands`. `simulator` is independent of the engine, and only `commands` and the tests start it.
//!
//! # The storage layer
//!
//! Only `archive` depends on where an archive is stored. All other modules use `archive::store` to access parts, media
//! and small files by their paths in the archive, and read byte ranges of files through `ranged`. The store uses an
//! `archive::backend`: a local folder (`archive::local`) or an object store (`archive::object_store`, currently used
//! only in tests). An operation that a backend may not support, such as the atomic exchange of two folders, is a trait
//! method with a default implementation. `archive::conformance` tests the guarantees of every backend.
//! `commands::object_store_tests` runs every command on an in-memory object store.
//!
//! Only the following modules may access the file system. Clippy's `disallowed_methods` lint enforces this rule:
//!
//! - `archive`
//! - `journal` and `media::partial`, whose files are always local
//! - [`filesystem`], which handles operations that a file system does not support
//! - `tables::sort`, for its scratch files
//! - [`input`], [`config`], [`cli`], `commands::metrics` and `commands::simulate`, for the user's own files
//!
//! # Using the crate as a library
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

#![warn(clippy::disallowed_methods)]

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
mod ranged;
mod repair;
pub mod report;
mod rewrite;
mod rows;
pub mod run_id;
pub mod run_summary;
pub mod simulator;
pub mod status;
mod tables;
pub mod task;
mod timestamp;
pub mod verify;

pub use archive::Location;

pub use export::Signal;
