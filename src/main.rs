//! The `sdl` binary: arguments → settings → log → runtime → run → exit code.

use std::process::ExitCode;
use std::sync::Arc;

use futures_util::StreamExt;
use sdl::cli::{self, Command};
use sdl::commands;
use sdl::config::Config;
use sdl::error::{EXIT_CLEAN, EXIT_CONFIGURATION, EXIT_FAILURE, Error};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::Notify;

/// Threads of the runtime: one reads and decodes, one stages and commits; more would only move work between caches.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    let command = match cli::parse(std::env::args_os()) {
        Ok(command) => command,
        Err(mistake) if mistake.use_stderr() => {
            eprint!("{mistake}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
        Err(answer) => {
            print(&answer.to_string());
            return ExitCode::from(EXIT_CLEAN);
        }
    };
    let config = match Config::load() {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    sdl::logging::start(&config, command.prints_results());
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    ExitCode::from(execute(config, command))
}

/// Does what was asked for; the exit code.
fn execute(config: Config, command: Command) -> u8 {
    #[cfg(feature = "failpoints")]
    let _scenario = fail::FailScenario::setup();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKER_THREADS)
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start the runtime");
            return EXIT_FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match command {
            Command::Run => run(config).await,
            command => commands::execute(&config, &command).await,
        }
    });
    // Whatever still runs has nothing left to lose: it is staged, or in the binlog. It ends with the process and not before:
    // shut down in any order, a task of the MongoDB driver that asks another one panics, and the journal would have that.
    std::mem::forget(runtime);
    result
}

/// The daemon, until it is told to stop.
async fn run(config: Config) -> u8 {
    let stop = match stop_signal() {
        Ok(stop) => stop,
        Err(error) => {
            tracing::error!(%error, "cannot listen for signals");
            return EXIT_FAILURE;
        }
    };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        source = config.source_id,
        server_id = config.mysql_server_id,
        "sdl starts"
    );
    match sdl::run::run(config, async move { stop.notified().await }).await {
        Ok(()) => EXIT_CLEAN,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> u8 {
    tracing::error!(exit = error.exit_code(), "{error}");
    error.exit_code()
}

/// Notifies at the first SIGTERM or SIGINT; the second one ends the process at once.
fn stop_signal() -> std::io::Result<Arc<Notify>> {
    let mut signals = Signals::new([SIGTERM, SIGINT])?;
    let stop = Arc::new(Notify::new());
    let notify = Arc::clone(&stop);
    tokio::spawn(async move {
        if let Some(signal) = signals.next().await {
            tracing::info!(signal, "asked to stop");
            notify.notify_one();
        }
        if let Some(signal) = signals.next().await {
            tracing::warn!(
                signal,
                "asked to stop again: ending at once; the next start recovers what is staged"
            );
            std::process::exit(i32::from(EXIT_FAILURE));
        }
    });
    Ok(stop)
}

/// Prints without minding a reader that has gone, as in `sdl --help | head`.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
