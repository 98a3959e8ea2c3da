//! Measures the requests, time, CPU time and peak memory of exports with lists of increasing length.
//!
//! The benchmark runs the built program without a rate limit, against a simulator in the benchmark's own process. It
//! prints figures and ratios, but enforces no thresholds. Run the benchmark with `cargo bench --bench export`, or with
//! custom list lengths: `cargo bench --bench export -- 10000 1000000`.

use std::{
    error::Error,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    process::Command,
    time::Instant,
};

use nix::sys::resource::{UsageWho, getrusage};
use sunor_archive::simulator::{FaultPlan, SimulatedProvider, Simulator};

fn main() -> Result<(), Box<dyn Error>> {
    let lengths: Vec<u64> = std::env::args().skip(1).filter_map(|argument| argument.parse().ok()).collect();
    let lengths = if lengths.is_empty() { vec![10_000, 100_000] } else { lengths };
    println!(
        "{:>9} {:>9} {:>13} {:>8} {:>18} {:>9} {:>9}",
        "tasks", "seconds", "requests/task", "tasks/s", "cpu s/10,000 tasks", "peak MiB", "MiB/first"
    );
    let mut first_peak = None;
    for length in lengths {
        let measurements = export(length)?;
        let first = *first_peak.get_or_insert(measurements.peak_mib);
        println!(
            "{length:>9} {:>9.1} {:>13.3} {:>8.0} {:>18.2} {:>9.0} {:>9.2}",
            measurements.seconds,
            measurements.requests as f64 / length as f64,
            length as f64 / measurements.seconds,
            measurements.cpu_seconds / length as f64 * 10_000.0,
            measurements.peak_mib,
            measurements.peak_mib / first,
        );
    }
    Ok(())
}

struct Measurements {
    seconds: f64,
    requests: u64,
    cpu_seconds: f64,
    peak_mib: f64,
}

fn export(length: u64) -> Result<Measurements, Box<dyn Error>> {
    let folder = tempfile::tempdir()?;
    let list = folder.path().join("tasks.csv");
    write_list(&list, length)?;
    let runtime = tokio::runtime::Runtime::new()?;
    let faults = FaultPlan { unfinished: Some(0.0), ..FaultPlan::default() };
    let simulator = runtime.block_on(Simulator::start(SimulatedProvider { faults, ..SimulatedProvider::default() }))?;

    let (start, before) = (Instant::now(), cpu_seconds()?);
    let mut export = Command::new(env!("CARGO_BIN_EXE_sunor-archive"));
    export.arg("export").arg(&list).arg("--out").arg(folder.path().join("library"));
    // No assets are downloaded, because downloads have a separate benchmark.
    export.args(["--assets", "none", "--rate", "unlimited", "--concurrency", "64", "-q"]);
    export.args(["--base-url", simulator.base_url().as_str()]);
    let status = export.env("SUNOR_API_KEY", "any").status()?;
    if !status.success() {
        return Err(format!("the export ended with {status}").into());
    }
    Ok(Measurements {
        seconds: start.elapsed().as_secs_f64(),
        requests: simulator.stats().requests,
        cpu_seconds: cpu_seconds()? - before,
        // The kernel reports the peak memory of the largest child process so far. Each list should therefore be longer
        // than the previous list.
        peak_mib: getrusage(UsageWho::RUSAGE_CHILDREN)?.max_rss() as f64 / 1024.0,
    })
}

fn write_list(path: &Path, length: u64) -> std::io::Result<()> {
    let mut list = BufWriter::new(File::create(path)?);
    writeln!(list, "task_id")?;
    for n in 0..length {
        writeln!(list, "{:08x}-0000-4000-8000-{n:012x}", n.wrapping_mul(0x9e37_79b9) & 0xffff_ffff)?;
    }
    list.flush()
}

fn cpu_seconds() -> nix::Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
