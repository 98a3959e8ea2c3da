//! The command-line program, which parses the arguments, starts the runtime, calls the library, prints the result,
//! and exits with the resulting status.

use std::{
    future::Future,
    io::{self, Write},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use sunor_archive::{
    Signal,
    cli::{self, Command, CompactArgs, ExportArgs, RebuildArgs, RepairArgs, SimulateArgs, SummaryArgs, VerifyArgs},
    commands,
    error::{Error, Result},
    exit::ExitStatus,
    filesystem,
    report::{self, Verbosity},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal as UnixSignal, SignalKind, signal},
    sync::mpsc,
};

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { ExitStatus::Usage } else { ExitStatus::Complete }.into();
        }
    };
    match run(cli.command) {
        Ok(status) => status.into(),
        Err(error) => {
            print_error(&error);
            ExitStatus::from(&error).into()
        }
    }
}

fn run(command: Command) -> Result<ExitStatus> {
    let runtime = Runtime::new().map_err(|error| Error::Internal(format!("cannot start the runtime: {error}")))?;
    // `compact` and `rebuild` are synchronous, but their signal handlers need the runtime.
    let entered = runtime.enter();
    handle_file_size_signal()?;
    let status = match command {
        Command::Export(args) => runtime.block_on(export(&args)),
        Command::Summary(args) => runtime.block_on(summary(&args)),
        Command::Verify(args) => verify(&args),
        Command::Repair(args) => runtime.block_on(repair(&args)),
        Command::Compact(args) => compact(&args),
        Command::Rebuild(args) => rebuild(&args),
        Command::Simulate(args) => runtime.block_on(simulate(&args)),
        Command::Completions { shell, .. } => {
            let mut script = Vec::new();
            cli::completions(shell, &mut script);
            print(&String::from_utf8_lossy(&script)).map(|()| ExitStatus::Complete)
        }
    };
    drop(entered);
    for limitation in filesystem::limitations() {
        let _ = writeln!(io::stderr(), "warning: {limitation}");
    }
    // Give other threads a short time to finish, but do not wait for a slow DNS lookup.
    runtime.shutdown_timeout(Duration::from_millis(500));
    status
}

async fn export(args: &ExportArgs) -> Result<ExitStatus> {
    let config = args.config()?;
    if args.is_dry_run() {
        let mut reporter = report::reporter(args.progress(), args.verbosity());
        print(&commands::dry_run::dry_run(&config, reporter.as_mut())?)?;
        return Ok(ExitStatus::Complete);
    }
    let stop = signals()?;
    let mut reporter = report::reporter(args.progress(), args.verbosity());
    let outcome = commands::export::export(&config, stop, reporter.as_mut()).await?;
    drop(reporter);
    if let Some(error) = &outcome.error {
        print_error(error);
    }
    if args.verbosity() != Verbosity::Quiet || outcome.status != ExitStatus::Complete {
        print(&outcome.message)?;
    }
    Ok(outcome.status)
}

async fn summary(args: &SummaryArgs) -> Result<ExitStatus> {
    let message = commands::summary::summary(&args.options()?).await?;
    if args.is_quiet() { Ok(()) } else { print(&message) }.map(|()| ExitStatus::Complete)
}

fn verify(args: &VerifyArgs) -> Result<ExitStatus> {
    let mut reporter = report::reporter(args.progress(), args.verbosity());
    let outcome = commands::verify::verify(&args.archive, args.depth(), args.output_format(), reporter.as_mut())?;
    drop(reporter);
    if args.verbosity() != Verbosity::Quiet || outcome.status != ExitStatus::Complete {
        print(&outcome.message)?;
    }
    Ok(outcome.status)
}

async fn repair(args: &RepairArgs) -> Result<ExitStatus> {
    let config = args.config()?;
    let stop = signals()?;
    let mut reporter = report::reporter(args.progress(), args.verbosity());
    let outcome = if args.is_dry_run() {
        commands::repair::plan(&config, reporter.as_mut()).await?
    } else {
        commands::repair::repair(&config, stop, reporter.as_mut()).await?
    };
    drop(reporter);
    if let Some(error) = &outcome.error {
        print_error(error);
    }
    if args.verbosity() != Verbosity::Quiet || outcome.status != ExitStatus::Complete {
        print(&outcome.message)?;
    }
    Ok(outcome.status)
}

fn compact(args: &CompactArgs) -> Result<ExitStatus> {
    // A signal ends the process immediately, without leaving partial changes.
    let _signals = signals()?;
    if args.dry_run {
        print(&commands::compact::dry_run(&args.archive)?)?;
        return Ok(ExitStatus::Complete);
    }
    let mut reporter = report::reporter(args.progress(), args.verbosity());
    let message = commands::compact::compact(&args.archive, reporter.as_mut())?;
    drop(reporter);
    if args.verbosity() == Verbosity::Quiet { Ok(()) } else { print(&message) }.map(|()| ExitStatus::Complete)
}

fn rebuild(args: &RebuildArgs) -> Result<ExitStatus> {
    let _signals = signals()?;
    let mut reporter = report::reporter(args.progress(), args.verbosity());
    let message = if args.dry_run {
        commands::rebuild::dry_run(&args.archive, reporter.as_mut())?
    } else {
        commands::rebuild::rebuild(&args.archive, reporter.as_mut())?
    };
    drop(reporter);
    let is_quiet = args.verbosity() == Verbosity::Quiet && !args.dry_run;
    if is_quiet { Ok(()) } else { print(&message) }.map(|()| ExitStatus::Complete)
}

async fn simulate(args: &SimulateArgs) -> Result<ExitStatus> {
    let ready = |base_url: &str| {
        let base_url = base_url.trim_end_matches('/');
        // Ignore write errors. The reader of stdout or stderr may have exited, as with `| head`, but the simulator
        // continues to serve requests.
        let _ = print(&format!("{base_url}\n"));
        if args.quiet {
            return;
        }
        let _ = writeln!(
            io::stderr(),
            "serving until stopped with Ctrl-C; any key is accepted\n\
             task IDs: {base_url}/simulator/tasks.csv\nrequest counts: {base_url}/simulator/stats"
        );
    };
    commands::simulate::simulate(args.options(), signals()?, ready).await?;
    Ok(ExitStatus::Complete)
}

/// Returns a future that completes on SIGINT, SIGTERM or SIGHUP. SIGHUP is not handled if this process was started with
/// SIGHUP ignored. The first signal during a run stops the run cleanly. A signal before the run ends the process
/// immediately, because there is nothing to save yet. A second signal also ends the process immediately.
fn signals() -> Result<impl Future<Output = Signal>> {
    let failed = |error: io::Error| Error::Internal(format!("cannot listen for signals: {error}"));
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut hang_up = if is_hang_up_ignored() { None } else { Some(signal(SignalKind::hangup()).map_err(failed)?) };
    let (sender, mut receiver) = mpsc::channel(1);
    let is_waiting = Arc::new(AtomicBool::new(false));
    let listening = is_waiting.clone();
    tokio::spawn(async move {
        loop {
            let signal = next_signal(&mut interrupt, &mut terminate, hang_up.as_mut()).await;
            if !listening.swap(false, Ordering::SeqCst) || sender.send(signal).await.is_err() {
                std::process::exit(signal.exit_status().code().into());
            }
        }
    });
    Ok(async move {
        is_waiting.store(true, Ordering::SeqCst);
        match receiver.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    })
}

async fn next_signal(
    interrupt: &mut UnixSignal,
    terminate: &mut UnixSignal,
    hang_up: Option<&mut UnixSignal>,
) -> Signal {
    let hung_up = async {
        match hang_up {
            Some(signal) => signal.recv().await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = interrupt.recv() => Signal::Interrupt,
        _ = terminate.recv() => Signal::Terminate,
        _ = hung_up => Signal::HangUp,
    }
}

/// The signal number of SIGXFSZ, which reports that the file-size limit (`ulimit -f`) was exceeded. The number is 25 on
/// all but a few old architectures.
const SIGXFSZ: i32 = 25;

/// Makes a write beyond the file-size limit return an error. Without a handler, SIGXFSZ would end the process without
/// a message.
fn handle_file_size_signal() -> Result<()> {
    let listener = signal(SignalKind::from_raw(SIGXFSZ));
    // The handler remains installed after the listener is dropped.
    listener.map(drop).map_err(|error| Error::Internal(format!("cannot listen for signals: {error}")))
}

/// Whether this process was started with SIGHUP ignored, for example by `nohup`. A signal listener would override this
/// setting. Linux lists ignored signals in `/proc/self/status`. If this file cannot be read, SIGHUP is assumed to be
/// ignored.
fn is_hang_up_ignored() -> bool {
    let Ok(status) = std::fs::read_to_string("/proc/self/status") else { return true };
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_none_or(|mask| mask & 1 == 1)
}

/// Prints to stdout. A reader that exits early, as with `| head`, is not an error.
fn print(text: &str) -> Result<()> {
    match io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(Error::stdout(&error)),
        _ => Ok(()),
    }
}

fn print_error(error: &Error) {
    let _ = writeln!(io::stderr(), "sunor-archive: {error}");
}
