//! Measures the time and peak memory that an export needs before its first request, for archives and lists of various
//! sizes. Before its first request, an export determines which tasks are already archived.
//!
//! The benchmark creates a compacted archive of each size, and runs the built program on lists whose tasks are all
//! archived or all new. It prints figures, but enforces no thresholds. Run the benchmark with `cargo bench --bench
//! startup`, or with custom archive sizes followed by the list length: `cargo bench --bench startup -- 10000000
//! 1000000`.

use std::{
    error::Error,
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    time::Instant,
};

use arrow_array::{Array, ArrayRef, RecordBatch, StringArray, new_null_array};
use nix::sys::resource::{UsageWho, getrusage};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use sunor_archive::simulator::{FaultPlan, SimulatedProvider, Simulator};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sunor-archive");

/// The argument that makes the benchmark measure a single child process. The benchmark runs itself with this argument.
const MEASURE: &str = "measure";

/// The number of tasks in each part before compaction.
const PART_TASKS: u64 = 100_000;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).skip_while(|argument| argument == "--bench").peekable();
    if arguments.next_if_eq(MEASURE).is_some() {
        return measure(&arguments.collect::<Vec<_>>());
    }
    let sizes: Vec<u64> = arguments.filter_map(|argument| argument.parse().ok()).collect();
    let (archives, length) = match sizes.as_slice() {
        [archives @ .., length] if !archives.is_empty() => (archives.to_vec(), *length),
        _ => (vec![100_000, 1_000_000], 100_000),
    };
    println!(
        "{:>10} {:>9} {:>22} {:>9} {:>9} {:>10}",
        "archived", "list", "of which archived", "seconds", "peak MiB", "MiB/first"
    );
    let mut first_peak = None;
    for archived in archives {
        let folder = tempfile::tempdir()?;
        create_archive(folder.path(), archived)?;
        for List { length, archived: text, ids, option } in lists(archived, length) {
            let path = folder.path().join("tasks.csv");
            write_list(&path, ids)?;
            let (seconds, peak_mib) = measure_export(folder.path(), option)?;
            let first = *first_peak.get_or_insert(peak_mib);
            println!("{archived:>10} {length:>9} {text:>22} {seconds:>9.2} {peak_mib:>9.0} {:>10.2}", peak_mib / first);
        }
    }
    Ok(())
}

/// The task list for one measurement.
struct List {
    length: u64,
    /// The printed label for how many of the listed tasks are archived: `all` or `none`.
    archived: &'static str,
    /// The numbers that [`id`] converts to the task IDs in the list.
    ids: Box<dyn Iterator<Item = u64>>,
    /// `--dry-run` if the list contains new tasks. A dry run also looks up which tasks are archived, but sends no
    /// requests.
    option: Option<&'static str>,
}

fn lists(archived: u64, length: u64) -> [List; 3] {
    let step = (archived / length).max(1);
    let nothing = |length: u64| List {
        length,
        archived: "none",
        ids: Box::new(2 * archived..2 * archived + length),
        option: Some("--dry-run"),
    };
    let ids = Box::new((0..length).map(move |n| n * step % archived));
    [List { length, archived: "all", ids, option: None }, nothing(length), nothing(100)]
}

/// Runs an export, and returns its duration in seconds and its peak memory in MiB.
fn measure_export(folder: &Path, option: Option<&str>) -> Result<(f64, f64)> {
    let measured = Command::new(std::env::current_exe()?)
        .current_dir(folder)
        .args([MEASURE, "export", "tasks.csv", "--out", "library", "-q"])
        .args(option)
        .output()?;
    let text = String::from_utf8(measured.stdout)?;
    let measurements: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match measurements.as_slice() {
        [seconds, peak_mib] => Ok((*seconds, *peak_mib)),
        _ => Err(String::from_utf8_lossy(&measured.stderr).into()),
    }
}

/// Runs the program as the only child process, and prints the program's duration in seconds and peak memory in MiB.
fn measure(arguments: &[String]) -> Result<()> {
    let start = Instant::now();
    let ended = Command::new(PROGRAM).env("SUNOR_API_KEY", "any").args(arguments).output()?;
    if !ended.status.success() {
        return Err(String::from_utf8_lossy(&ended.stderr).into());
    }
    println!("{} {}", start.elapsed().as_secs_f64(), getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() as f64 / 1024.0);
    Ok(())
}

/// Creates an archive that contains a few exported tasks and `tasks` synthetic tasks. The rows of synthetic tasks
/// contain only IDs and statuses, because an export reads no other columns before its first request.
fn create_archive(folder: &Path, tasks: u64) -> Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    let faults = FaultPlan { unfinished: Some(0.0), ..FaultPlan::default() };
    let simulator = runtime.block_on(Simulator::start(SimulatedProvider { faults, ..SimulatedProvider::default() }))?;
    write_list(&folder.join("tasks.csv"), tasks..tasks + 20)?;
    let (library, base_url) = (folder.join("library"), simulator.base_url().as_str());
    let list = ["tasks.csv", "--assets", "image", "--base-url", base_url, "-q", "--out", "library"];
    run(Command::new(PROGRAM).current_dir(folder).arg("export").args(list))?;
    for (table, status, rows_per_task) in [("tasks", "success", 1), ("assets", "ok", 4)] {
        let template = first_part(&library.join(table))?;
        for first in (0..tasks).step_by(PART_TASKS as usize) {
            let ids = (first..tasks.min(first + PART_TASKS)).flat_map(|n| (0..rows_per_task).map(move |_| id(n)));
            write_part(&template, &library.join(table).join(format!("{first}.parquet")), ids.collect(), status)?;
        }
    }
    run(Command::new(PROGRAM).current_dir(folder).args(["compact", "library", "-q"]))
}

fn run(command: &mut Command) -> Result<()> {
    let ended = command.env("SUNOR_API_KEY", "any").output()?;
    if ended.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&ended.stderr).into()) }
}

fn first_part(folder: &Path) -> Result<PathBuf> {
    Ok(fs::read_dir(folder)?.next().ok_or("the table has no part")??.path())
}

fn write_part(template: &Path, path: &Path, ids: StringArray, status: &str) -> Result<()> {
    let schema = ParquetRecordBatchReaderBuilder::try_new(File::open(template)?)?.schema().clone();
    let rows = ids.len();
    let (ids, status): (ArrayRef, ArrayRef) = (Arc::new(ids), Arc::new(StringArray::from(vec![status; rows])));
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "task_id" => ids.clone(),
        "status" => status.clone(),
        _ => new_null_array(field.data_type(), rows),
    });
    let batch = RecordBatch::try_new(schema.clone(), columns.collect())?;
    let mut writer = ArrowWriter::try_new(File::create(path)?, schema, None)?;
    writer.write(&batch)?;
    writer.close()?;
    Ok(())
}

fn write_list(path: &Path, ids: impl IntoIterator<Item = u64>) -> std::io::Result<()> {
    let mut list = BufWriter::new(File::create(path)?);
    writeln!(list, "task_id")?;
    ids.into_iter().try_for_each(|n| writeln!(list, "{}", id(n).unwrap_or_default()))?;
    list.flush()
}

/// Returns a unique ID in the provider's format.
#[expect(clippy::unnecessary_wraps, reason = "a column's cells may be null")]
fn id(n: u64) -> Option<String> {
    let mixed = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    Some(format!("{:08x}-{:04x}-4000-8000-{n:012x}", mixed >> 32, mixed >> 16 & 0xffff))
}
