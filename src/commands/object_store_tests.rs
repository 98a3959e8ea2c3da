//! Tests that every command behaves the same on an in-memory object store as on a local folder.

#![expect(clippy::disallowed_methods, reason = "a test writes a list")]

use std::{collections::BTreeSet, fs, future::pending, path::Path, sync::Arc};

use object_store::memory::InMemory;
use tempfile::TempDir;

use super::{
    compact, export, rebuild, repair,
    summary::{self, OutputFormat, SummaryOptions},
    verify,
};
use crate::{
    archive::{Archive, Location, LockedArchive, Store, object_store::ObjectStoreBackend},
    cli,
    config::ExportConfig,
    exit::ExitStatus,
    format::TableFormat,
    report::{self, ProgressStyle, Reporter, Verbosity},
    simulator::{FaultPlan, SimulatedProvider, Simulator},
    tables,
    verify::Depth,
};

/// Columns whose values depend on the run that wrote the row, not only on the task.
const RUN_COLUMNS: [&str; 5] = ["fetched_at", "downloaded_at", "run_id", "http_status", "attempts"];

/// A simulated provider, and an archive of its tasks.
struct TestArchive {
    simulator: Simulator,
    folder: TempDir,
    location: Location,
    format: TableFormat,
}

impl TestArchive {
    async fn new(location: impl FnOnce(&Path) -> Location, format: TableFormat) -> Self {
        let faults = FaultPlan { unfinished: Some(0.0), ..FaultPlan::default() };
        let simulator = Simulator::start(SimulatedProvider { faults, ..SimulatedProvider::default() });
        let folder = tempfile::tempdir().unwrap();
        Self { simulator: simulator.await.unwrap(), location: location(folder.path()), folder, format }
    }

    fn config(&self, tasks: std::ops::Range<u32>) -> ExportConfig {
        let path = |name: &str| self.folder.path().join(name).display().to_string();
        let ids: Vec<String> = tasks.map(|n| format!("t{n}")).collect();
        fs::write(path("tasks.csv"), format!("task_id\n{}\n", ids.join("\n"))).unwrap();
        fs::write(path("key"), "k").unwrap();
        let (base_url, format) = (self.simulator.base_url().to_string(), self.format.to_string());
        let (list, out, key) = (path("tasks.csv"), path("unused"), path("key"));
        let arguments = [
            ["sunor-archive", "export"],
            [&list, "-q"],
            ["--out", &out],
            ["--base-url", &base_url],
            ["--api-key-file", &key],
            ["--format", &format],
            ["--rate", "unlimited"],
        ];
        let parsed = cli::parse(arguments.as_flattened().iter().map(|text| (*text).into())).unwrap();
        let cli::Command::Export(args) = parsed.command else { panic!("not an export") };
        let mut config = args.config().unwrap();
        config.run.archive = self.location.clone();
        config
    }

    async fn export(&self, tasks: std::ops::Range<u32>) -> super::Outcome {
        export::export(&self.config(tasks), pending(), quiet().as_mut()).await.unwrap()
    }

    async fn repair(&self) -> super::Outcome {
        repair::repair(&self.config(0..1).run, pending(), quiet().as_mut()).await.unwrap()
    }

    fn damage_count(&self) -> u64 {
        verify::verify(&self.location, Depth::Full, OutputFormat::Text, quiet().as_mut()).unwrap().report.damage
    }

    /// The rows of all tables, without the columns in `RUN_COLUMNS`. The assets table contains the SHA-256 of each
    /// media file, so equal rows imply equal media files.
    fn content(&self) -> BTreeSet<String> {
        let archive = Archive::open(&self.location).unwrap();
        let mut content = BTreeSet::new();
        for schema in tables::schemas() {
            let columns: Vec<&str> =
                schema.columns.iter().map(|(name, _)| *name).filter(|name| !RUN_COLUMNS.contains(name)).collect();
            for path in archive.parts(schema.name).unwrap() {
                let file = archive.store.open(&path).unwrap();
                let mut on_row = |cells: &[Option<&str>]| content.extend([format!("{} {cells:?}", schema.name)]);
                tables::scan(file, archive.format, &columns, &mut on_row).unwrap();
            }
        }
        content
    }

    fn parts(&self) -> usize {
        let archive = Archive::open(&self.location).unwrap();
        tables::TABLES.iter().map(|table| archive.parts(table).unwrap().len()).sum()
    }

    /// Flips one bit in the middle of the first file in a folder or in its first subfolder.
    fn flip_bit(&self, folder: &str) {
        let now = jiff::Timestamp::now();
        let archive = LockedArchive::open(&self.location, &tables::TABLES, now).unwrap();
        let store = &archive.store;
        let mut folder = folder.to_owned();
        let path = loop {
            let first = store.list(&folder).unwrap().remove(0);
            if !first.is_folder {
                break first.path;
            }
            folder = first.path;
        };
        let mut bytes = store.get(&path).unwrap().unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        archive.put(&path, bytes).unwrap();
    }
}

fn quiet() -> Box<dyn Reporter> {
    report::reporter(ProgressStyle::Off, Verbosity::Quiet)
}

fn in_memory(state: &Path) -> Location {
    Store::with_files(Arc::new(ObjectStoreBackend::new(Arc::new(InMemory::new()))), state).into()
}

fn in_folder(folder: &Path) -> Location {
    folder.join("library").into()
}

/// Runs `export`, `verify`, `repair`, `compact`, `rebuild` and `summary` on an archive, and checks their results.
/// Returns the rows that the archive contains after the last command.
async fn exercise_commands(test_archive: &TestArchive) -> BTreeSet<String> {
    let first = test_archive.export(0..30).await;
    assert_eq!((first.status, first.summary.tasks.archived()), (ExitStatus::Complete, 30), "{}", first.message);
    assert_eq!(test_archive.damage_count(), 0);
    let content = test_archive.content();

    let second = test_archive.export(0..30).await;
    assert_eq!((second.summary.requests.total, second.summary.input.already_archived), (0, 30));

    for folder in ["clips", "media/audio", "tasks"] {
        test_archive.flip_bit(folder);
    }
    assert!(test_archive.damage_count() >= 3);
    let repaired = test_archive.repair().await;
    assert_eq!(test_archive.damage_count(), 0, "{}", repaired.message);
    test_archive.export(0..30).await;
    assert_eq!(test_archive.content().symmetric_difference(&content).next(), None, "{}", repaired.message);

    test_archive.export(0..40).await;
    let (content, parts) = (test_archive.content(), test_archive.parts());
    compact::compact(&test_archive.location, quiet().as_mut()).unwrap();
    assert!(test_archive.parts() < parts && test_archive.content() == content);
    rebuild::rebuild(&test_archive.location, quiet().as_mut()).unwrap();
    assert!(test_archive.content() == content);
    assert_eq!(test_archive.damage_count(), 0);

    let (archive, output_format) = (test_archive.location.clone(), OutputFormat::Text);
    let message = summary::summary(&SummaryOptions { archive, run: None, account: None, output_format }).await.unwrap();
    assert!(message.contains("40 tasks"), "{message}");
    content
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_writes_the_same_rows_to_an_object_store_as_to_a_folder() {
    for format in [TableFormat::Parquet, TableFormat::Csv] {
        let folder = TestArchive::new(in_folder, format).await;
        let in_folder = exercise_commands(&folder).await;
        let memory = TestArchive::new(in_memory, format).await;
        let in_memory = exercise_commands(&memory).await;
        let cdn_url = |test_archive: &TestArchive| test_archive.simulator.cdn_url().to_string();
        let (memory_url, folder_url) = (cdn_url(&memory), cdn_url(&folder));
        let in_memory: BTreeSet<String> = in_memory.iter().map(|row| row.replace(&memory_url, &folder_url)).collect();
        let mut differences = in_memory.symmetric_difference(&in_folder);
        assert_eq!(differences.next(), None, "{format}");
        assert!(!memory.folder.path().join("tasks").exists() && memory.folder.path().join(".sunor").exists());
    }
}
