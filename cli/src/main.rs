//! `arc`: an erasure-coded archive on a handful of machines or disks.
//!
//! One binary is client, coordinator and storage server. Here are the runtime,
//! the signals and the exit code; `commands` has one file for each command.

// A program exports nothing: `pub` means pub within it.
#![allow(unreachable_pub)]

mod commands;
mod config;
mod drill;
mod exit;
mod explain;
mod fetch;
mod pull;
mod push;
mod rescue;
mod secret;
mod snapshots;
mod tree;
mod ui;
mod vault;
mod verify;

use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use commands::{Cli, Command};
use exit::{Exit, Failure};
use ui::Ui;

/// What blocking work may take to end after a command; the rest ends with the process.
const SHUTDOWN: Duration = Duration::from_millis(200);

fn main() -> ExitCode {
    server::tls::install_provider();
    let cli = match commands::parse(std::env::args_os().collect()) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version come this way too, on stdout and as a success.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Done };
            // A closed terminal cannot be told of it.
            let _ = error.print();
            return ExitCode::from(exit.code());
        }
    };
    let ui = Ui::new(&cli.ui);
    if cli.command.takes_stdout() {
        ui.take_stdout();
    }
    ui.json(
        "start",
        serde_json::json!({ "command": cli.command.name(), "arc": env!("CARGO_PKG_VERSION") }),
    );
    let result = log_to(&ui, &cli).and_then(|()| run(cli, &ui));
    let exit = result.unwrap_or_else(|failure| {
        ui.failure(&failure);
        failure.code
    });
    ExitCode::from(ui.exit(&[exit]).code())
}

/// A restore keeps a few thousand files and folders open, and 1,024 are allowed by default.
fn allow_open_files() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it is not allowed, the default may do.
    let _ = setrlimit(Resource::Nofile, limit);
}

fn run(cli: Cli, ui: &Ui) -> Result<Exit, Failure> {
    allow_open_files();
    let workers = std::thread::available_parallelism().map_or(2, |n| n.get().max(2));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .map_err(|e| Failure::new(Exit::Failed, "cannot start the runtime").why(e.to_string()))?;
    let result = runtime.block_on(async {
        report_on_usr1(ui)?;
        let serves = matches!(cli.command, Command::Serve(_));
        let goes_on = cli.command.goes_on();
        let command = commands::run(cli, ui);
        // Services end in an order of their own.
        if serves { command.await } else { until_signal(command, goes_on).await }
    });
    runtime.shutdown_timeout(SHUTDOWN);
    result
}

/// Runs a client's command; a signal drops it where it stands. A push's lease then runs out by
/// itself. One that goes on until then says nothing of it.
async fn until_signal(
    command: impl Future<Output = Result<Exit, Failure>>,
    goes_on: bool,
) -> Result<Exit, Failure> {
    let mut interrupt = signal(SignalKind::interrupt()).map_err(no_signals)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(no_signals)?;
    let stopped = |exit, what| match goes_on {
        true => Ok(exit),
        false => Err(Failure::new(exit, what)
            .state("what was committed stays; the same command run again goes on from there")),
    };
    tokio::select! {
        result = command => result,
        _ = interrupt.recv() => stopped(Exit::Interrupted, "interrupted"),
        _ = terminate.recv() => stopped(Exit::Terminated, "terminated"),
    }
}

/// SIGUSR1 asks how far things are.
fn report_on_usr1(ui: &Ui) -> Result<(), Failure> {
    let mut asked = signal(SignalKind::user_defined1()).map_err(no_signals)?;
    let ui = ui.clone();
    tokio::spawn(async move {
        while asked.recv().await.is_some() {
            ui.report();
        }
    });
    Ok(())
}

fn no_signals(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, "cannot listen for signals").why(error.to_string())
}

/// Services log from `info` on. Commands tell what matters themselves: their log is for `-v`.
fn log_to(ui: &Ui, cli: &Cli) -> Result<(), Failure> {
    let default = match (&cli.command, ui.verbose()) {
        (Command::Serve(_), 0) | (_, 1) => "info",
        (_, 0) => "off",
        _ => "debug,hyper=info,reqwest=info",
    };
    let filter = EnvFilter::try_new(cli.log.as_deref().unwrap_or(default)).map_err(|e| {
        Failure::new(Exit::Usage, "--log is not a filter").why(e.to_string()).next("--log info")
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_target(false)
        .with_ansi(false)
        .with_writer(ui.clone())
        .init();
    Ok(())
}
