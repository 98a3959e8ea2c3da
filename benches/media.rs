//! Measures the time, CPU time per gigabyte and peak memory of downloads, and compares them with curl.
//!
//! The benchmark runs the built program against a simulator in the benchmark's own process, and then downloads the same
//! files from the simulator with `curl -Z`. Unlike curl, the program hashes, syncs and journals its downloads. The
//! benchmark prints figures and ratios, but enforces no thresholds. Run the benchmark with `cargo bench --bench media`.

use std::{collections::HashMap, error::Error, fmt::Write, fs, path::Path, process::Command, time::Instant};

use nix::sys::resource::{UsageWho, getrusage};
use sunor_archive::simulator::{FaultPlan, KnownTasks, SimulatedProvider, Simulator};

/// The number of files in each workload, and the size of each file in MiB.
const WORKLOADS: [(u64, u64); 2] = [(256, 4), (8, 200)];

/// The number of concurrent downloads from the simulator. The program runs at most three quarters of its [`PLACES`]
/// concurrent downloads, rounded up, from the same host.
const CONCURRENCY: &str = "8";
const PLACES: &str = "10";

fn main() -> Result<(), Box<dyn Error>> {
    println!(
        "{:>5} {:>8} {:>9} {:>8} {:>12} {:>9} {:>14} {:>9}",
        "files", "MiB each", "program s", "curl s", "curl/program", "cpu s/GB", "curl cpu s/GB", "peak MiB"
    );
    let runtime = tokio::runtime::Runtime::new()?;
    for (files, mib) in WORKLOADS {
        let faults = FaultPlan { media_bytes: Some(mib << 20), ..FaultPlan::default() };
        let provider = SimulatedProvider {
            tasks: KnownTasks::Documents,
            documents: documents(files),
            faults,
            ..SimulatedProvider::default()
        };
        let simulator = runtime.block_on(Simulator::start(provider))?;
        let folder = tempfile::tempdir()?;
        let program = export(&simulator, files, folder.path())?;
        // The kernel reports the peak memory of the largest child process so far. The file sizes should therefore
        // increase from one workload to the next. curl uses less memory than the program.
        let peak_mib = getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() as f64 / 1024.0;
        let curl = curl(&simulator, files, folder.path())?;
        let gigabytes = (files * (mib << 20)) as f64 / 1e9;
        println!(
            "{files:>5} {mib:>8} {:>9.2} {:>8.2} {:>12.2} {:>9.2} {:>14.2} {peak_mib:>9.0}",
            program.seconds,
            curl.seconds,
            curl.seconds / program.seconds,
            program.cpu_seconds / gigabytes,
            curl.cpu_seconds / gigabytes,
        );
    }
    Ok(())
}

struct Measurements {
    seconds: f64,
    cpu_seconds: f64,
}

/// Returns `files` task documents, each with one song.
fn documents(files: u64) -> HashMap<String, String> {
    let document = |n| {
        let clip = format!(r#"{{"id":"f{n}","audio_url":"{{cdn}}/f{n}.mp3"}}"#);
        let task = format!(r#"{{"task_id":"t{n}","type":"music","status":"success","output":{{"result":[{clip}]}}}}"#);
        (format!("t{n}"), format!(r#"{{"code":200,"data":{task}}}"#))
    };
    (0..files).map(document).collect()
}

fn export(simulator: &Simulator, files: u64, folder: &Path) -> Result<Measurements, Box<dyn Error>> {
    let list = folder.join("tasks.csv");
    let mut text = String::from("task_id\n");
    (0..files).try_for_each(|n| writeln!(text, "t{n}"))?;
    fs::write(&list, text)?;
    let mut export = Command::new(env!("CARGO_BIN_EXE_sunor-archive"));
    export.arg("export").arg(&list).arg("--out").arg(folder.join("library"));
    export.args(["--assets", "audio", "--asset-concurrency", PLACES, "--rate", "unlimited", "-q"]);
    export.args(["--base-url", simulator.base_url().as_str()]).env("SUNOR_API_KEY", "any");
    time(export)
}

fn curl(simulator: &Simulator, files: u64, folder: &Path) -> Result<Measurements, Box<dyn Error>> {
    let (config, downloads) = (folder.join("curl"), folder.join("downloads"));
    fs::create_dir(&downloads)?;
    let mut text = String::new();
    for n in 0..files {
        writeln!(
            text,
            "url = \"{}f{n}.mp3\"\noutput = \"{}\"",
            simulator.cdn_url(),
            downloads.join(format!("f{n}")).display()
        )?;
    }
    fs::write(&config, text)?;
    let mut curl = Command::new("curl");
    curl.args(["-Z", "--parallel-max", CONCURRENCY, "--no-progress-meter", "-K"]).arg(&config);
    time(curl)
}

fn time(mut command: Command) -> Result<Measurements, Box<dyn Error>> {
    let (start, before) = (Instant::now(), cpu_seconds()?);
    let status = command.status()?;
    if !status.success() {
        return Err(format!("{} ended with {status}", command.get_program().display()).into());
    }
    Ok(Measurements { seconds: start.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds()? - before })
}

fn cpu_seconds() -> nix::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
