//! Parses, starts the runtime, calls the library, prints what it says, and ends with its exit status.

use std::{
    io::{self, Write},
    process::ExitCode,
};

use sunor_archive::{
    Signal,
    cli::{self, Command, ExportArgs, SimulateArgs, SummaryArgs},
    commands,
    error::{Error, Result},
    exit::ExitStatus,
    report::{self, Verbosity},
};
use tokio::{
    runtime::Runtime,
    signal::unix::{Signal as UnixSignal, SignalKind, signal},
    sync::oneshot,
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
            complain(&error);
            ExitStatus::from(&error).into()
        }
    }
}

fn run(command: Command) -> Result<ExitStatus> {
    let runtime = Runtime::new().map_err(|error| Error::Unreachable(format!("cannot start: {error}")))?;
    let status = match command {
        Command::Export(args) => runtime.block_on(export(&args)),
        Command::Summary(args) => runtime.block_on(summary(&args)),
        Command::Simulate(args) => runtime.block_on(simulate(&args)),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            cli::completions(shell, &mut script);
            print(&String::from_utf8_lossy(&script));
            Ok(ExitStatus::Complete)
        }
    };
    // Standard input may still be read by a thread of its own, which nobody waits for.
    runtime.shutdown_background();
    status
}

async fn export(args: &ExportArgs) -> Result<ExitStatus> {
    let config = args.config()?;
    let stop = signals();
    let mut reporter = report::reporter(args.progress(), args.verbosity());
    let stop = async { stop.await.unwrap_or(Signal::Terminate) };
    let outcome = commands::export::export(&config, stop, reporter.as_mut()).await?;
    if let Some(error) = &outcome.error {
        complain(error);
    }
    if args.verbosity() != Verbosity::Quiet || outcome.status != ExitStatus::Complete {
        print(&outcome.words);
    }
    Ok(outcome.status)
}

async fn summary(args: &SummaryArgs) -> Result<ExitStatus> {
    print(&commands::summary::summary(&args.archive, args.run.as_deref(), args.style()).await?);
    Ok(ExitStatus::Complete)
}

async fn simulate(args: &SimulateArgs) -> Result<ExitStatus> {
    let ready = |base_url: &str| {
        let base_url = base_url.trim_end_matches('/');
        print(&format!("{base_url}\n"));
        eprintln!("the simulator answers there until it is stopped (Ctrl-C); any key will do");
        eprintln!("its task IDs: {base_url}/simulator/tasks.csv, what it was asked: {base_url}/simulator/stats");
    };
    commands::simulate::simulate(args.options(), signals(), ready).await?;
    Ok(ExitStatus::Complete)
}

/// The first SIGINT or SIGTERM; the second ends the process at once.
fn signals() -> oneshot::Receiver<Signal> {
    let (tell, first) = oneshot::channel();
    let streams = signal(SignalKind::interrupt()).and_then(|int| Ok((int, signal(SignalKind::terminate())?)));
    if let Ok((mut interrupt, mut terminate)) = streams {
        tokio::spawn(async move {
            let _ = tell.send(next(&mut interrupt, &mut terminate).await);
            let second = next(&mut interrupt, &mut terminate).await;
            std::process::exit(second.exit_status().code().into());
        });
    }
    first
}

async fn next(interrupt: &mut UnixSignal, terminate: &mut UnixSignal) -> Signal {
    tokio::select! {
        _ = interrupt.recv() => Signal::Interrupt,
        _ = terminate.recv() => Signal::Terminate,
    }
}

/// A reader that has seen enough (`| head`) is no error.
fn print(text: &str) {
    let _ = io::stdout().write_all(text.as_bytes()).and_then(|()| io::stdout().flush());
}

fn complain(error: &Error) {
    let _ = writeln!(io::stderr(), "sunor-archive: {error}");
}
