//! A map of the code.
//!
//! `sunor-archive` fetches tasks (AI music: suno and udio) from the sunor.cc API. It archives the responses in
//! tables and the media as files, at the provider's rate limit and without fetching anything twice.
//! This page says where everything is; each module's own page says how it works.
//!
//! # One engine
//!
//! A run works on a plan of items, no matter what made the plan. An item names a task, where its response comes from
//! (the provider, the tables, a quarantined part), which kinds of assets are wanted, and what its rows do to
//! the rows that the archive has.
//!
//! ```text
//!   export: a list minus what is archived       repair: what verify found
//!                        └──────────┬─────────────────────┘
//!                             export::plan, export::item
//!            ┌──────────────────────┴───────────────────────────┐
//!    to fetch: export::queue                           stored: export::stored
//!    api::pace: a permit for every request             responses in the tables, or in
//!    api::client ── GET ──▶ api::response              quarantined parts
//!            │                                                  │
//!            └────────▶ export::coordinator ◀───────────────────┘
//!      final         unfinished       transient         401, 403        unreadable
//!        │           polled after     retried after     the run ends    listed in
//!        │           the first pass   a backoff         cleanly         -unfinished.csv
//!        ▼
//!     journal: appended, synced, acknowledged; only now the task counts as answered
//!        │    ▲ the outcome of its assets
//!        │    └── export::media_stage: media::source ─▶ media::download ─▶ archive::media
//!        │ the segment is full or the run is over, and every task in it is settled
//!        ▼
//!     export::publish: tables::flatten ─▶ tables::part ─▶ archive::store: lyrics, clips, assets, tasks
//! ```
//!
//! Three ideas carry it. **Requests are the scarce resource**: a response, once received, is never requested
//! again. **Crash-only**: there is one way from a response to a table, and it starts at the journal;
//! recovery after a crash settles and publishes the segments that are still there
//! (`export::recovery`). **Everything that happens is an [`event`]**: the summary, the bars, the
//! machine-readable stream and the metrics are folds over the same events.
//!
//! # Glossary
//!
//! | word | meaning |
//! | --- | --- |
//! | run | one execution of `export` or `repair` on an archive; `compact` and `rebuild` leave a record too |
//! | task, clip, asset | what the provider made: a task has clips, a clip has assets (audio, image, video) |
//! | item, plan | what a run does about one task; all items of a run |
//! | request | one HTTP request to the API: the initial one, a *poll* of an unfinished task, or a *retry* |
//! | response | what the API returned for a task; *stored* once it is in the tables |
//! | first pass | the initial requests for all tasks, before any poll |
//! | back off | wait before a retry, longer each time |
//! | settled | said of an asset: downloaded, failed, or skipped; said of a task: all its assets are |
//! | journal, segment | the write-ahead log of a run; one file of it, which becomes one part of each table |
//! | leftover | a segment of a run that was cut short; the next run *recovers* it |
//! | publish | write a segment's rows into the tables |
//! | part | one file of a table |
//! | staging file | a file under a temporary name, `<name>#<n>`, on its way to its final name |
//! | swap | the replacement of parts by others, as one step for readers |
//! | manifest | `runs/<run_id>.sha256`, the checksums of the files that a run added |
//! | checksum file | `.sunor/checksums`, the checksums of small files that no manifest lists |
//! | quarantine | `.sunor/damaged`, where repair moves what is damaged; *salvage*: what can still be read there |
//! | lock, holder | the right to write an archive, and the process that has it |
//!
//! # The archive
//!
//! ```text
//! library/
//!   archive.json                   archive          the format version and the tables' format
//!   tasks|clips|lyrics|assets/<part>  tables        the rows; columns in tables::schema
//!   media/<kind>/<ab>/<clip_id>.…  archive::media   audio and covers
//!   runs/<run_id>.json             run_summary      how a run went; of a killed run: export::recovered_run
//!   runs/<run_id>.sha256           archive::manifest  checksums of what the run added
//!   runs/<run_id>-raw.jsonl        export::raw      bodies that could not be archived as sent
//!   runs/<run_id>-unfinished.csv   export::ledger   the tasks that are not archived, itself a list to export
//!   views.sql                      tables::views    DuckDB views
//!   .sunor/lock, journal/          archive::lock, journal
//!   .sunor/checksums                   archive::document_checksums   checksums of what no manifest lists
//!   .sunor/partial/                media::partial   downloads in progress
//!   .sunor/repair.json             archive::quarantine   what a repair has still to do
//!   .sunor/swap.json, swap/        archive::swap    parts that are about to replace others
//! ```
//!
//! # Where a change belongs
//!
//! | to change | go to |
//! | --- | --- |
//! | an option, its help | [`cli`], then its meaning and default in [`config`] |
//! | how a list is read | [`input`] |
//! | what an API response means | `api::response`; what the run does about it: `export::coordinator` |
//! | when requests are sent, how they are retried | `api::pace`, `backoff`; in which order: `export::queue` |
//! | how a body is decoded, which proxies are used | `body`, [`proxies`] |
//! | which URLs are assets, and where they may lead | `media::source`, `media::guard` |
//! | when a download is retried | `media::client`, `media::download` |
//! | how a media file is named | `archive::media` |
//! | a column | `tables::schema`, `tables::flatten` and `docs/archive-format.md`, which a test compares |
//! | a view | `tables::views` |
//! | which row groups are skipped | `tables::prune` |
//! | the order of rows in large parts | `tables::sort`; by which column: `tables::schema` |
//! | which names belong to the archive | `archive::layout`, [`run_id`] |
//! | how parts replace others | `archive::swap`; what is copied into them: `tables::copy` |
//! | how rows are read from an archive | `rows`, over `tables::reader` |
//! | where an archive can be | `archive::location`, then an `archive::backend` |
//! | what a file system may lack | [`filesystem`] |
//! | which parts are merged, how large a part is | `rewrite`, `commands::compact` |
//! | what is counted | [`event`], then the fold in [`run_summary`] |
//! | what Prometheus gets | `report::metrics`; when: `commands::metrics` |
//! | messages for the user | `report::messages`, `report::archive_messages`, `report::repairs`, `report::sentence` |
//! | what `summary` counts | `commands::summary::standing`; of the account: `commands::summary::account` |
//! | what is repaired, and how | `repair` makes the plan; `export::stored` and `export::replace` carry it out |
//! | what a run leaves behind | `commands::run` |
//! | what damage is, and what to do about it | [`verify`]: `verify::finding` has the words |
//! | an exit status | [`exit`] |
//! | what the simulated provider does | [`simulator`] |
//! | a new command | a file in [`commands`] |
//!
//! Arrows point one way: `main` → `cli` → `commands` → `export` → the stages (`api`, `journal`, `media`,
//! `tables`, `archive`) → the root files. No stage knows another; only `export` knows their order.
//! `verify` stands beside `export`: it reads what the stages wrote, and writes nothing; `repair`
//! plans by its findings, and the same coordinator carries the plan out. `compact` and `rebuild` are commands
//! over `archive` and `tables`, which `rewrite` puts together. `report` reads events and findings, and is read
//! by `commands`; `simulator` stands alone, and only `commands` and the tests start it.
//!
//! # The storage seam
//!
//! Where an archive is, only `archive` knows. Everything else asks `archive::store` for parts, media and small files
//! by their paths in the archive, and reads them by ranges (`ranged`). The store asks an `archive::backend`: a local
//! folder (`archive::local`), or an object store (`archive::objects`, so far for tests only). What a place may lack,
//! such as an exchange of folders, is a method of the backend with a default. `archive::conformance` holds every
//! backend to its promises, and `commands::conformance` runs every command over an object store in memory.
//!
//! Only these modules may touch the file system, and clippy's `disallowed_methods` holds it: `archive`; `journal` and
//! `media::partial`, which are always local; [`filesystem`], which knows what a file system may lack; scratch files
//! of `tables::sort`; and files of the user's own: [`input`], [`config`], [`cli`], `commands::metrics`,
//! `commands::simulate`.
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
