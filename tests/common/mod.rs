//! Shared test fixtures: a simulated provider, a temporary folder, and commands that run the built program.

#![allow(
    dead_code,
    unreachable_pub,
    missing_docs,
    clippy::allow_attributes,
    reason = "each test file uses only some of these functions"
)]
#![expect(clippy::unwrap_used, reason = "a failed helper fails the test")]

use std::{
    collections::HashMap,
    fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use parquet::{
    file::reader::{FileReader, SerializedFileReader},
    record::Row,
};
use sunor_archive::simulator::{Fault, FaultFilter, FaultKind, FaultPlan, SimulatedProvider, Simulator, Stats};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// The API key that all tests use. No output may contain this key.
pub const API_KEY: &str = "sk-hush-0123456789";

/// A simulated provider and a temporary folder. Dropping the value stops the provider and deletes the folder.
pub struct TestEnv {
    runtime: Runtime,
    simulator: Option<Simulator>,
    base_url: String,
    cdn_url: String,
    folder: TempDir,
}

/// The exit status and the output of the program.
#[derive(Debug)]
pub struct CommandOutput {
    pub status: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl TestEnv {
    /// Creates a provider with the given faults. By default, every task is already finished.
    pub fn with_faults(faults: FaultPlan) -> Self {
        Self::with_provider(SimulatedProvider {
            faults: FaultPlan { unfinished: faults.unfinished.or(Some(0.0)), ..faults },
            ..SimulatedProvider::default()
        })
    }

    /// Creates a provider with a single fault.
    pub fn with_fault(kind: FaultKind, filter: FaultFilter) -> Self {
        Self::with_faults(FaultPlan { faults: vec![Fault { kind, filter }], ..FaultPlan::default() })
    }

    /// Creates a provider without faults.
    pub fn new() -> Self {
        Self::with_faults(FaultPlan::default())
    }

    /// Starts a simulated provider and creates an empty folder.
    pub fn with_provider(provider: SimulatedProvider) -> Self {
        let runtime = Runtime::new().unwrap();
        let simulator = runtime.block_on(Simulator::start(provider)).unwrap();
        let base_url = simulator.base_url().to_string();
        let cdn_url = simulator.cdn_url().as_str().trim_end_matches('/').to_owned();
        Self { runtime, simulator: Some(simulator), base_url, cdn_url, folder: tempfile::tempdir().unwrap() }
    }

    /// Returns the path of a file in the temporary folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn archive(&self) -> PathBuf {
        self.path("library")
    }

    pub fn stats(&self) -> Stats {
        self.simulator.as_ref().unwrap().stats()
    }

    /// Sends a request as another client with the same key, and returns the response.
    pub fn send_request(&self, path: &str) -> String {
        let host = self.base_url.trim_start_matches("http://").trim_end_matches('/');
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {host}\r\nx-api-key: {API_KEY}\r\nConnection: close\r\n\r\n")
            .unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).unwrap();
        response
    }

    pub fn base_url(&self) -> &str {
        &self.base_url
    }

    /// The base URL of the CDN, without a trailing slash.
    pub fn cdn_url(&self) -> &str {
        &self.cdn_url
    }

    /// Downloads a file from the CDN.
    pub fn download_from_cdn(&self, name: &str) -> Vec<u8> {
        let host = self.cdn_url.trim_start_matches("http://");
        let mut stream = std::net::TcpStream::connect(host).unwrap();
        write!(stream, "GET /{name} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n").unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let head = response.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        response.split_off(head + 4)
    }

    /// Stops the provider. Connections to its address then fail.
    pub fn stop_simulator(&mut self) {
        self.simulator = None;
    }

    /// Writes the given task IDs to `tasks.csv`, and returns the path of the file.
    pub fn write_list<I: AsRef<str>>(&self, ids: impl IntoIterator<Item = I>) -> PathBuf {
        let mut text = String::from("task_id\n");
        for id in ids {
            text.push_str(id.as_ref());
            text.push('\n');
        }
        self.write_file("tasks.csv", text.as_bytes())
    }

    pub fn write_file(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    /// Returns a command that runs the program with the test key, the simulated provider and no proxy variables.
    pub fn program(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sunor-archive"));
        for name in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name);
        }
        command.env("SUNOR_API_KEY", API_KEY).env("SUNOR_BASE_URL", &self.base_url);
        command.current_dir(self.folder.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Returns the command `export tasks.csv --out library --rate unlimited --assets none`. The arguments are appended,
    /// and can override `--rate` and `--assets`.
    pub fn export_command(&self, arguments: &[&str]) -> Command {
        let mut command = self.program();
        command.args(["export", "tasks.csv", "--out", "library"]);
        if !arguments.contains(&"--rate") {
            command.args(["--rate", "unlimited"]);
        }
        if !arguments.contains(&"--assets") {
            command.args(["--assets", "none"]);
        }
        command.args(arguments);
        command
    }

    pub fn export(&self, arguments: &[&str]) -> CommandOutput {
        CommandOutput::wait_for(self.export_command(arguments).spawn().unwrap())
    }

    /// Runs the program with the given arguments, and without default arguments.
    pub fn run(&self, arguments: &[&str]) -> CommandOutput {
        CommandOutput::wait_for(self.program().args(arguments).spawn().unwrap())
    }

    /// Runs the program with the given arguments, and with `input` on standard input.
    pub fn run_with_stdin(&self, arguments: &[&str], input: &[u8]) -> CommandOutput {
        let mut child = self.program().args(arguments).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        CommandOutput::wait_for(child)
    }

    /// Returns the rows of a table as maps from column name to value. How a value is written depends on the table
    /// format.
    pub fn rows(&self, table: &str) -> Vec<HashMap<String, String>> {
        let mut rows = Vec::new();
        for path in files(&self.archive().join(table), ".csv") {
            let mut reader = csv::Reader::from_path(path).unwrap();
            rows.extend(reader.deserialize().map(Result::<HashMap<String, String>, _>::unwrap));
        }
        for path in files(&self.archive().join(table), ".parquet") {
            let reader = SerializedFileReader::new(fs::File::open(path).unwrap()).unwrap();
            let cells = |row: Row| row.get_column_iter().map(|(name, cell)| (name.clone(), cell.to_string())).collect();
            rows.extend(reader.get_row_iter(None).unwrap().map(|row| cells(row.unwrap())));
        }
        rows
    }

    /// Returns the task IDs in the tasks table, sorted.
    pub fn archived_ids(&self) -> Vec<String> {
        let mut ids: Vec<String> =
            self.rows("tasks").into_iter().map(|mut row| row.remove("task_id").unwrap()).collect();
        ids.sort();
        ids
    }

    /// Returns the summary of the latest run.
    pub fn summary(&self) -> serde_json::Value {
        let last = files(&self.archive().join("runs"), ".json").pop().unwrap();
        serde_json::from_slice(&fs::read(last).unwrap()).unwrap()
    }

    /// Returns the ID and the reason of each task in the latest list of unfinished tasks.
    pub fn unfinished(&self) -> Vec<(String, String)> {
        let last = files(&self.archive().join("runs"), "-unfinished.csv").pop().unwrap();
        let mut reader = csv::Reader::from_path(last).unwrap();
        reader
            .records()
            .map(|record| record.unwrap())
            .map(|record| (record.get(0).unwrap().to_owned(), record.get(1).unwrap().to_owned()))
            .collect()
    }
}

impl CommandOutput {
    pub fn wait_for(child: Child) -> Self {
        let output = child.wait_with_output().unwrap();
        Self {
            status: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts that the exit status is `status`. If it is not, the test fails and prints the output.
    #[track_caller]
    pub fn expect_status(self, status: i32) -> Self {
        assert_eq!(self.status, Some(status), "stdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that the output contains `text`. If it does not, the test fails and prints the output.
    #[track_caller]
    pub fn expect_output(self, text: &str) -> Self {
        let found = self.stdout.contains(text) || self.stderr.contains(text);
        assert!(found, "the output does not contain `{text}`\nstdout:\n{}\nstderr:\n{}", self.stdout, self.stderr);
        self
    }
}

/// Waits until a condition is true, and fails the test after 10 seconds.
#[track_caller]
pub fn wait_until(condition: impl Fn() -> bool) {
    for _ in 0..2000 {
        if condition() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("the condition did not become true within 10 seconds");
}

/// Lists the entries of a folder whose names end with `suffix`, sorted.
pub fn files(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.to_string_lossy().ends_with(suffix));
    paths.sort();
    paths
}

/// Lists all files in a folder and its subfolders.
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    files(folder, "").into_iter().flat_map(|path| if path.is_dir() { walk(&path) } else { vec![path] }).collect()
}

/// Returns the seed for a randomized test: `SUNOR_TEST_SEED` if it is set, otherwise a random number.
pub fn seed() -> u64 {
    std::env::var("SUNOR_TEST_SEED").map_or_else(|_| fastrand::u64(..), |seed| seed.parse().unwrap())
}

/// Returns the IDs `<prefix>1` to `<prefix><count>`, in order.
pub fn ids(prefix: &str, count: usize) -> Vec<String> {
    (1..=count).map(|n| format!("{prefix}{n}")).collect()
}

/// The path of the `samples` folder.
pub fn samples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("samples")
}

/// Returns the sample documents, keyed by task ID.
pub fn sample_documents() -> HashMap<String, String> {
    let name = |path: &PathBuf| format!("doc-{}", path.file_stem().unwrap().to_string_lossy());
    files(&samples().join("documents"), ".json")
        .into_iter()
        .map(|path| (name(&path), fs::read_to_string(path).unwrap()))
        .collect()
}

/// The path of the Python interpreter in the virtual environment that `./tests/run.sh` creates. The environment
/// contains the third-party readers.
pub fn python() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/venv/bin/python")
}

/// Runs a script from `tests/foreign` and returns its output. If the script fails, the test fails.
pub fn run_checker(script: &str, arguments: &[&Path]) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/foreign").join(script);
    let output = Command::new(python()).arg(script).args(arguments).output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{stderr}\n{stdout}");
    stdout
}
