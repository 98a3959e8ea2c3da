//! The command line. The doc comments on the arguments are the help text.

#![expect(clippy::disallowed_methods, reason = "reads the API key file")]
#![expect(clippy::doc_markdown, reason = "backticks would be printed in the help text")]

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    builder::{OsStringValueParser, TypedValueParser},
    value_parser,
};
use clap_complete::Shell;

use crate::{
    api,
    archive::{Archive, Location},
    asset::AssetKinds,
    commands::{
        simulate::SimulateOptions,
        summary::{AccountAccess, OutputFormat, SummaryOptions},
    },
    config::{self, ApiKey, ExportConfig, MediaConfig, Provider, Rate, RunConfig},
    error::{Error, Result},
    format::TableFormat,
    input::{self, Headers, InputOptions, InvalidRowPolicy},
    proxies::Proxies,
    report::{ProgressStyle, Verbosity},
    simulator,
    verify::{Depth, SampleShare, Slice},
};

/// Archive sunor.cc tasks (Suno and Udio music) as media files and Parquet or CSV tables.
///
/// Reads task IDs from a CSV file, fetches each task within the API's rate limit, downloads audio and covers, and
/// stores the tasks and the original responses in tables that DuckDB and other tools can query. A rerun fetches only
/// tasks that are not archived yet.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Fetch every task in a list and archive its metadata and media
    ///
    /// Requests each task, and then polls the unfinished tasks. Downloads audio and covers at the same
    /// time. Every response is written to a journal immediately, so a run can be stopped or killed at any time: the next
    /// run resumes and repeats only requests that were in flight.
    Export(Box<ExportArgs>),
    /// Show archive contents and recent runs
    ///
    /// Counts the rows in the tables and totals the results of all runs. Writes nothing, so it is safe to use during a run.
    Summary(SummaryArgs),
    /// Verify archive integrity
    ///
    /// Finds parts, manifests and media files that are missing, damaged, incomplete or stray, and rows whose task is
    /// missing. Takes no lock and writes nothing: the archive may be read-only, and a run may be writing to it.
    Verify(VerifyArgs),
    /// Repair damage and retry failed downloads
    ///
    /// Quarantines damaged files in .sunor/damaged and deletes nothing. Restores lost rows and files, and retries failed
    /// downloads. Uses the stored responses, and fetches a task again only if its stored response is lost or the URLs in it
    /// have expired.
    Repair(Box<RepairArgs>),
    /// Merge many small parts of the tables into a few large ones
    ///
    /// Each run adds a small part to each table, so after a year of daily runs a query has to open hundreds of files. This
    /// command merges small parts into large parts that DuckDB reads fast. The large parts contain the same rows,
    /// sorted by time in Parquet tables. Readers see either the old parts or the new ones. The command can be killed at any time, and needs disk space
    /// for both the old and the new parts.
    Compact(CompactArgs),
    /// Regenerate the clips and lyrics tables from stored responses, offline
    ///
    /// Every response is stored in the response column of the tasks table. The clips and lyrics tables can therefore be
    /// regenerated after an upgrade that adds columns, or if one of them is lost. Sends no requests.
    Rebuild(RebuildArgs),
    /// Run a local simulator of the provider; no key needed
    ///
    /// Prints the base URL of the simulator on stdout and serves requests until it is stopped. Accepts any key and applies
    /// the provider's rate limit.
    Simulate(SimulateArgs),
    /// Print a shell completion script
    Completions {
        /// Shell for which to print the script
        shell: Shell,
        /// Print only the script
        #[arg(short, long)]
        quiet: bool,
    },
}

const EXPORT_EXAMPLES: &str = "\
Examples:
  Try it without a key:
    sunor-archive export samples/tasks.csv --out library --simulate
  Every night, from a growing list:
    SUNOR_API_KEY=… sunor-archive export tasks.csv --out ~/library
  From a database query, as CSV tables:
    psql --csv -c 'SELECT task_id FROM jobs' | sunor-archive export - --out library --format csv
  Tables only, without the music:
    sunor-archive export tasks.csv --out library --assets none
  With metrics for Prometheus' node exporter, and alerts on them (samples/alerts.yml):
    sunor-archive export tasks.csv --out library --metrics-file export.prom
  Export the tasks that a run could not archive:
    sunor-archive export library/runs/<run_id>-unfinished.csv --out library

Exit status: 0 all archived, 1 stopped by an error, 2 usage error, 3 something is missing,
  4 the provider refused the API key, 5 another run has locked the archive,
  129, 130 and 143 stopped by a signal.";

/// The options of `export`.
#[derive(Args, Debug)]
#[command(after_help = EXPORT_EXAMPLES)]
#[expect(clippy::struct_excessive_bools, reason = "one field per flag; later code uses the validated options")]
pub struct ExportArgs {
    /// CSV file with the task IDs, plain or compressed with gzip or zstd; - reads standard input
    tasks: PathBuf,

    /// Archive folder; created if absent, otherwise new tasks are added to it
    #[arg(long, value_name = "ARCHIVE", value_parser = OsStringValueParser::new().try_map(archive_folder))]
    out: Location,

    /// Column with the task IDs [default: task_id, taskId or id in any case, else the only column]
    #[arg(long, value_name = "NAME|NUMBER", help_heading = "Input")]
    column: Option<String>,

    /// Treat the first row as data, not as column names
    #[arg(long, help_heading = "Input")]
    no_headers: bool,

    /// Field delimiter: a single character, or "tab" [default: from a sep= line, else detected as , ; tab or |]
    #[arg(long, value_name = "C", value_parser = delimiter, help_heading = "Input")]
    delimiter: Option<u8>,

    /// Table format, fixed when the archive is created [default: parquet]
    #[arg(long, value_enum)]
    format: Option<TableFormat>,

    /// Retry tasks that are archived as not_found
    #[arg(long, help_heading = "Input")]
    retry_not_found: bool,

    /// Reject the list if a row has an invalid ID
    #[arg(long, help_heading = "Input")]
    strict: bool,

    /// Show what would be fetched and the estimated time; send and write nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    run: RunArgs,
}

/// The options that `export` and `repair` share.
#[derive(Args, Debug)]
struct RunArgs {
    #[command(flatten)]
    provider: ProviderArgs,

    #[command(flatten)]
    pace: PaceArgs,

    #[command(flatten)]
    assets: AssetArgs,

    /// Write metrics to this file at the end of the run, in Prometheus text format
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    metrics_file: Option<PathBuf>,

    #[command(flatten)]
    output: OutputArgs,
}

/// The provider to use, and its API key.
#[derive(Args, Debug)]
struct ProviderArgs {
    /// Read the API key from this file instead of $SUNOR_API_KEY
    #[arg(long, value_name = "FILE", help_heading = "Provider")]
    api_key_file: Option<PathBuf>,

    /// Root URL of the API
    #[arg(long, value_name = "URL", env = "SUNOR_BASE_URL", default_value = config::DEFAULT_BASE_URL, help_heading = "Provider")]
    base_url: String,

    /// Use the embedded simulator, which accepts any task ID; no key needed
    #[arg(long, help_heading = "Provider")]
    simulate: bool,
}

/// The limits on the rate, number and duration of API requests.
#[derive(Args, Debug)]
struct PaceArgs {
    /// Maximum request rate: N/s, N/m, N/h or unlimited
    #[arg(long, default_value = config::DEFAULT_RATE, help_heading = "Requests")]
    rate: Rate,

    /// Reserve N requests per rate-limit window for other users of the key
    #[arg(long, value_name = "N", default_value_t = 0, help_heading = "Requests")]
    reserve: u32,

    /// Maximum number of retries after a transient failure
    #[arg(long, value_name = "N", default_value_t = config::DEFAULT_RETRIES, help_heading = "Requests")]
    retries: u32,

    /// Timeout per API request, and for downloads that receive no data
    #[arg(long, value_name = "DURATION", default_value = config::DEFAULT_TIMEOUT, value_parser = timeout, help_heading = "Requests")]
    timeout: Duration,

    /// Maximum number of API requests in flight
    #[arg(long, value_name = "N", default_value_t = config::DEFAULT_CONCURRENCY, value_parser = value_parser!(u16).range(1..), help_heading = "Requests")]
    concurrency: u16,

    /// How long to poll unfinished tasks after the first pass; with 0s, each task is requested only once
    #[arg(long, value_name = "DURATION", default_value = config::DEFAULT_WAIT, value_parser = duration, help_heading = "Requests")]
    wait: Duration,

    /// Interval between polls of the same task, at least 1s
    #[arg(long, value_name = "DURATION", default_value = config::DEFAULT_POLL_INTERVAL, value_parser = poll_interval, help_heading = "Requests")]
    poll_interval: Duration,

    /// Stop cleanly after this time, keep all results, and leave the remaining work for the next run (exit status 3)
    #[arg(long, value_name = "DURATION", value_parser = duration, help_heading = "Requests")]
    stop_after: Option<Duration>,
}

/// The assets to download, and the limits on downloads.
#[derive(Args, Debug)]
struct AssetArgs {
    /// Assets to download for each clip: audio, image, video (comma-separated), all or none
    #[arg(long, value_name = "KINDS", default_value = config::DEFAULT_ASSETS, help_heading = "Assets")]
    assets: AssetKinds,

    /// Maximum number of concurrent downloads; at most three quarters of them from one host
    #[arg(long, value_name = "N", default_value_t = config::DEFAULT_ASSET_CONCURRENCY, value_parser = value_parser!(u16).range(1..), help_heading = "Assets")]
    asset_concurrency: u16,

    /// Maximum size of an asset, e.g. 500MB or 2GiB; larger assets are refused
    #[arg(long, value_name = "SIZE", default_value = config::DEFAULT_MAX_ASSET_SIZE, value_parser = size, help_heading = "Assets")]
    max_asset_size: u64,

    /// Allow assets from loopback, link-local and private addresses [default: only if the API host has such an address]
    #[arg(long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", hide_possible_values = true, help_heading = "Assets")]
    allow_private_hosts: Option<bool>,
}

#[derive(Args, Debug)]
#[command(next_help_heading = "Output")]
struct OutputArgs {
    /// Progress on stderr: auto shows bars on a terminal and plain lines elsewhere; json prints one line per event
    #[arg(long, value_enum, default_value_t)]
    progress: ProgressStyle,

    /// Print nothing on success
    #[arg(short, long)]
    quiet: bool,

    /// Print a line for every task, file or part
    #[arg(short, long, conflicts_with = "quiet")]
    verbose: bool,
}

const SUMMARY_EXAMPLES: &str = "\
Examples:
  Show the archive's contents:
    sunor-archive summary ~/library
  How much of the account is archived (one request):
    SUNOR_API_KEY=… sunor-archive summary ~/library --account
  Only the coverage, for a script:
    sunor-archive summary ~/library --account --json | jq .account.coverage

Exit status: 0 success, 1 the archive or the provider cannot be read, 2 usage error,
  4 the provider refused the API key.";

/// The options of `summary`.
#[derive(Args, Debug)]
#[command(after_help = SUMMARY_EXAMPLES)]
pub struct SummaryArgs {
    /// Archive folder
    #[arg(value_parser = OsStringValueParser::new().try_map(archive_folder))]
    archive: Location,

    /// Show this run instead of the whole archive
    #[arg(long, value_name = "RUN_ID")]
    run: Option<String>,

    /// Show how many of the account's tasks are archived; sends one request
    #[arg(long, conflicts_with = "run")]
    account: bool,

    /// Read the account's API key from this file instead of $SUNOR_API_KEY
    #[arg(long, value_name = "FILE", requires = "account")]
    api_key_file: Option<PathBuf>,

    /// Root URL of the API, for --account
    #[arg(long, value_name = "URL", env = "SUNOR_BASE_URL", default_value = config::DEFAULT_BASE_URL)]
    base_url: String,

    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,

    /// Print nothing on success, except with --json
    #[arg(short, long)]
    quiet: bool,
}

const VERIFY_EXAMPLES: &str = "\
Examples:
  Everything, byte by byte:
    sunor-archive verify library
  A seventh of the files every night, all files in a week:
    sunor-archive verify library --slice $(date +%u)/7 -q
  A quick check, without reading contents:
    sunor-archive verify library --quick
  The paths of all findings, for a script:
    sunor-archive verify library --json | jq -r '.findings[].path'

Exit status: 0 no damage (there may be notes), 1 the archive cannot be read, 2 usage error,
  3 damage.";

/// The options of `verify`.
#[derive(Args, Debug)]
#[command(after_help = VERIFY_EXAMPLES)]
pub struct VerifyArgs {
    /// Archive folder
    #[arg(value_parser = OsStringValueParser::new().try_map(archive_folder))]
    pub archive: Location,

    /// Check only presence, sizes and consistency; skip checksums
    #[arg(long, conflicts_with_all = ["sample", "slice"])]
    quick: bool,

    /// Verify a random sample of the files, e.g. 10%
    #[arg(long, value_name = "P%", conflicts_with = "slice")]
    sample: Option<SampleShare>,

    /// Verify the I-th of N fixed slices of the files, e.g. 3/7
    #[arg(long, value_name = "I/N")]
    slice: Option<Slice>,

    /// Print the result as one JSON document
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    output: OutputArgs,
}

const REPAIR_EXAMPLES: &str = "\
Examples:
  Show the plan:
    sunor-archive repair library --dry-run
  Repair, and leave half of the key's rate limit for other users:
    SUNOR_API_KEY=… sunor-archive repair library --reserve 60

Exit status: 0 repair complete, 1 stopped by an error, 2 usage error,
  3 something could not be repaired, 4 the provider refused the API key,
  5 another run has locked the archive, 129, 130 and 143 stopped by a signal.
An interrupted repair keeps its results; the next repair resumes it.";

/// The options of `repair`.
#[derive(Args, Debug)]
#[command(after_help = REPAIR_EXAMPLES)]
pub struct RepairArgs {
    /// Archive folder
    #[arg(value_parser = OsStringValueParser::new().try_map(archive_folder))]
    archive: Location,

    /// Show what would be repaired; send and change nothing
    #[arg(long)]
    dry_run: bool,

    #[command(flatten)]
    run: RunArgs,
}

/// The options of `compact`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  Once a month:\n    sunor-archive compact ~/library -q\n  \
    Preview:\n    sunor-archive compact ~/library --dry-run\n\n\
    Exit status: 0 done or nothing to do, 1 stopped by an error, 2 usage error,\n  \
    5 another run has locked the archive.")]
pub struct CompactArgs {
    /// Archive folder
    #[arg(value_parser = OsStringValueParser::new().try_map(archive_folder))]
    pub archive: Location,

    /// Show what would be merged; write nothing
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// The options of `rebuild`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  After an update of this program:\n    sunor-archive rebuild ~/library\n  \
    Preview, with the number of rows before and after:\n    sunor-archive rebuild ~/library --dry-run\n\n\
    Exit status: 0 done, 1 stopped by an error, 2 usage error,\n  \
    5 another run has locked the archive.")]
pub struct RebuildArgs {
    /// Archive folder
    #[arg(value_parser = OsStringValueParser::new().try_map(archive_folder))]
    pub archive: Location,

    /// Show row counts before and after; write nothing
    #[arg(long)]
    pub dry_run: bool,

    #[command(flatten)]
    output: OutputArgs,
}

/// The options of `simulate`.
#[derive(Args, Debug)]
#[command(after_help = "Example:\n  sunor-archive simulate --port 8600 --tasks 1000\n  \
    curl -s http://127.0.0.1:8600/simulator/tasks.csv >tasks.csv\n  \
    SUNOR_API_KEY=any sunor-archive export tasks.csv --out library --base-url http://127.0.0.1:8600")]
pub struct SimulateArgs {
    /// Port on 127.0.0.1; 0 picks a free port
    #[arg(long, value_name = "N", default_value_t = 0)]
    port: u16,

    /// Number of tasks, listed at /simulator/tasks.csv [default: any task ID is accepted]
    #[arg(long, value_name = "N")]
    tasks: Option<u32>,

    /// Random seed: the same seed gives the same tasks
    #[arg(long, value_name = "N", default_value_t = simulator::DEFAULT_SEED)]
    seed: u64,

    /// TOML file with faults and a rate limit [default: no faults, the provider's rate limit]
    #[arg(long, value_name = "FILE")]
    faults: Option<PathBuf>,

    /// Print only the base URL
    #[arg(short, long)]
    pub quiet: bool,
}

impl ExportArgs {
    /// Returns the validated options. Reads the API key from a file or the environment.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if options are invalid or contradict each other.
    pub fn config(&self) -> Result<ExportConfig> {
        // Report an invalid path before a missing key.
        input::check_present(&self.tasks)?;
        Archive::open_if_present(&self.out, self.format)?;
        Ok(ExportConfig {
            input: InputOptions {
                path: self.tasks.clone(),
                column: self.column.clone(),
                headers: if self.no_headers { Headers::Absent } else { Headers::Present },
                delimiter: self.delimiter,
                invalid_rows: if self.strict { InvalidRowPolicy::Reject } else { InvalidRowPolicy::Skip },
            },
            run: self.run.config(&self.out, self.dry_run)?,
            format: self.format,
            retry_not_found: self.retry_not_found,
        })
    }

    /// Whether to show the plan without executing it.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Returns the style in which progress is shown.
    #[must_use]
    pub fn progress(&self) -> ProgressStyle {
        self.run.output.progress
    }

    /// Returns how much output to print.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        self.run.output.verbosity()
    }
}

impl RunArgs {
    fn config(&self, archive: &Location, is_dry_run: bool) -> Result<RunConfig> {
        let Self { provider, pace, assets, metrics_file, .. } = self;
        let (reserve, metrics_file) =
            (pace.reserve()?, metrics_file.as_deref().map(config::validate_metrics_file).transpose()?);
        Ok(RunConfig {
            archive: archive.clone(),
            media: assets.config(pace),
            // A dry run sends nothing, so it needs no key.
            provider: if is_dry_run { Provider::Simulated } else { provider.provider()? },
            rate: pace.rate,
            reserve,
            concurrency: pace.concurrency,
            poll_limit: pace.wait,
            poll_interval: pace.poll_interval,
            retries: pace.retries,
            timeout: pace.timeout,
            stop_after: pace.stop_after,
            metrics_file,
        })
    }
}

impl OutputArgs {
    fn verbosity(&self) -> Verbosity {
        match self {
            Self { quiet: true, .. } => Verbosity::Quiet,
            Self { verbose: true, .. } => Verbosity::Verbose,
            Self { .. } => Verbosity::Normal,
        }
    }
}

impl VerifyArgs {
    /// Returns the verification depth, which determines which files are read.
    #[must_use]
    pub fn depth(&self) -> Depth {
        match (self.sample, self.slice) {
            _ if self.quick => Depth::Quick,
            (Some(share), _) => Depth::Sample(share),
            (None, Some(slice)) => Depth::Slice(slice),
            (None, None) => Depth::Full,
        }
    }

    /// Returns the output format, JSON or text.
    #[must_use]
    pub fn output_format(&self) -> OutputFormat {
        if self.json { OutputFormat::Json } else { OutputFormat::Text }
    }

    /// Returns the style in which progress is shown.
    #[must_use]
    pub fn progress(&self) -> ProgressStyle {
        self.output.progress
    }

    /// Returns how much output to print.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        self.output.verbosity()
    }
}

impl CompactArgs {
    /// Returns the style in which progress is shown.
    #[must_use]
    pub fn progress(&self) -> ProgressStyle {
        self.output.progress
    }

    /// Returns how much output to print.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        self.output.verbosity()
    }
}

impl RebuildArgs {
    /// Returns the style in which progress is shown.
    #[must_use]
    pub fn progress(&self) -> ProgressStyle {
        self.output.progress
    }

    /// Returns how much output to print.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        self.output.verbosity()
    }
}

impl ProviderArgs {
    fn provider(&self) -> Result<Provider> {
        if self.simulate {
            return Ok(Provider::Simulated);
        }
        let (base_url, proxies) = (config::parse_base_url(&self.base_url)?, Box::new(Proxies::from_env()?));
        Ok(Provider::Remote { base_url, key: self.key()?, proxies })
    }

    fn key(&self) -> Result<ApiKey> {
        api_key(self.api_key_file.as_deref(), " (or try --simulate, which needs no key)")
    }
}

impl PaceArgs {
    fn reserve(&self) -> Result<u32> {
        if api::available_per_minute(self.rate, self.reserve) <= 0.0 {
            return Err(Error::usage(format!(
                "--reserve {} leaves no requests within the provider's rate limit",
                self.reserve
            )));
        }
        Ok(self.reserve)
    }
}

impl AssetArgs {
    fn config(&self, pace: &PaceArgs) -> MediaConfig {
        MediaConfig {
            kinds: self.assets.clone(),
            concurrency: self.asset_concurrency,
            max_size: self.max_asset_size,
            allow_private_hosts: self.allow_private_hosts,
            retries: pace.retries,
            idle_timeout: pace.timeout,
        }
    }
}

impl RepairArgs {
    /// Returns the validated options. Reads the API key from a file or the environment.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if options are invalid or contradict each other.
    pub fn config(&self) -> Result<RunConfig> {
        // Report an invalid path before a missing key.
        Archive::open(&self.archive)?;
        self.run.config(&self.archive, self.dry_run)
    }

    /// Whether to show the plan without executing it.
    #[must_use]
    pub fn is_dry_run(&self) -> bool {
        self.dry_run
    }

    /// Returns the style in which progress is shown.
    #[must_use]
    pub fn progress(&self) -> ProgressStyle {
        self.run.output.progress
    }

    /// Returns how much output to print.
    #[must_use]
    pub fn verbosity(&self) -> Verbosity {
        self.run.output.verbosity()
    }
}

impl SummaryArgs {
    /// Whether to print nothing on success.
    #[must_use]
    pub fn is_quiet(&self) -> bool {
        self.quiet && !self.json
    }

    /// Returns the validated options. With `--account`, reads the API key from a file or the environment.
    ///
    /// # Errors
    /// Returns [`Error::Usage`] if options are invalid or contradict each other.
    pub fn options(&self) -> Result<SummaryOptions> {
        // Report an invalid path before a missing key.
        Archive::open(&self.archive)?;
        let account = if self.account {
            let (base_url, proxies) = (config::parse_base_url(&self.base_url)?, Proxies::from_env()?);
            Some(AccountAccess { base_url, key: api_key(self.api_key_file.as_deref(), "")?, proxies })
        } else {
            None
        };
        let output_format = if self.json { OutputFormat::Json } else { OutputFormat::Text };
        Ok(SummaryOptions { archive: self.archive.clone(), run: self.run.clone(), account, output_format })
    }
}

impl SimulateArgs {
    /// Returns the options of the simulator.
    #[must_use]
    pub fn options(&self) -> SimulateOptions {
        SimulateOptions { port: self.port, tasks: self.tasks, seed: self.seed, faults: self.faults.clone() }
    }
}

/// Writes the completion script for a shell.
pub fn completions(shell: Shell, out: &mut dyn std::io::Write) {
    clap_complete::generate(shell, &mut Cli::command(), "sunor-archive", &mut { out });
}

/// Reads the API key from a file or the environment. The key is not accepted as a command-line argument, because
/// process lists would show it.
fn api_key(file: Option<&Path>, hint: &str) -> Result<ApiKey> {
    if let Some(path) = file {
        return ApiKey::new(&read_key(path)?);
    }
    match std::env::var_os("SUNOR_API_KEY") {
        Some(key) => ApiKey::new(&key.to_string_lossy()),
        None => Err(Error::usage(format!("no API key; set SUNOR_API_KEY or use --api-key-file{hint}"))),
    }
}

fn read_key(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|error| Error::usage(format!("cannot read the key from {}: {error}", path.display())))
}

/// Parses the location of an archive, which must be a local folder. The URL of an object store is rejected, so that the
/// program does not create a local folder with that name.
fn archive_folder(text: OsString) -> Result<Location, String> {
    let is_scheme = |scheme: &str| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
    };
    // Accept a single slash, because some programs collapse the two slashes of a URL. A single letter is a Windows
    // drive, not a scheme.
    match text.to_str().and_then(|text| text.trim_start().split_once(":/")) {
        Some((scheme, _)) if scheme.len() > 1 && is_scheme(scheme) => {
            Err(format!("this build does not support `{scheme}://` archives; use a folder on this machine"))
        }
        _ if text.is_empty() => Err("the archive path is empty; is a variable unset?".into()),
        _ => Ok(PathBuf::from(text).into()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text)
        .map_err(|_| format!("invalid duration `{text}`; use e.g. 90s, 10m or 1h 30m"))?;
    if duration > config::MAX_DURATION { Err("the maximum is one year".into()) } else { Ok(duration) }
}

fn size(text: &str) -> Result<u64, String> {
    let size: Result<bytesize::ByteSize, _> = text.parse();
    size.map(|size| size.as_u64())
        .map_err(|_| format!("invalid size `{text}`; use e.g. 500MB, 1GiB or a number of bytes"))
}

fn poll_interval(text: &str) -> Result<Duration, String> {
    let interval = duration(text)?;
    if interval < config::MIN_POLL_INTERVAL {
        return Err("the minimum is 1s, a limit set by the provider".into());
    }
    Ok(interval)
}

fn timeout(text: &str) -> Result<Duration, String> {
    Some(duration(text)?).filter(|limit| !limit.is_zero()).ok_or_else(|| "the timeout must be greater than zero".into())
}

fn delimiter(text: &str) -> Result<u8, String> {
    match text.as_bytes() {
        b"tab" | b"\\t" => Ok(b'\t'),
        [byte] if byte.is_ascii() && !matches!(byte, b'"' | b'\r' | b'\n') => Ok(*byte),
        _ => Err("use a single ASCII character, or \"tab\"".into()),
    }
}

/// Parses the command-line arguments. The first argument is the name of the program.
///
/// # Errors
/// Returns a clap error if the arguments are invalid, or if they request the help text or the version.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_delimiter_is_one_character() {
        assert_eq!(delimiter(";"), Ok(b';'));
        assert_eq!(delimiter("tab"), Ok(b'\t'));
        for bad in ["", ";;", "é", "\"", "\n"] {
            assert!(delimiter(bad).is_err(), "{bad:?}");
        }
    }
}
