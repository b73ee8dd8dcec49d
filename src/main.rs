//! The `sdl` binary: arguments → settings → log → runtime → run → exit code.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;

use futures_util::StreamExt;
use sdl::cli::{self, Call, Command};
use sdl::commands;
use sdl::config::{Config, Sources};
use sdl::error::{EXIT_CLEAN, EXIT_CONFIGURATION, EXIT_FAILURE, Error};
use sdl::logging::LAST_WORDS;
use sdl::service::{Reload, Service};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::Notify;

/// Threads of the runtime: one reads and decodes, one stages and commits; more would only move work between caches.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    let Call { command, env_file } = match cli::parse(std::env::args_os()) {
        Ok(call) => call,
        Err(mistake) if mistake.use_stderr() => {
            eprint!("{mistake}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
        Err(answer) => {
            print(&answer.to_string());
            return ExitCode::from(EXIT_CLEAN);
        }
    };
    let sources = Sources::from_process(env_file.as_deref());
    let config = match Config::from_sources(&sources) {
        Ok(config) => config,
        Err(mistakes) => {
            sdl::logging::complain(&mistakes.to_string());
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    let filter = sdl::logging::start(&config, command.prints_results());
    if let Some(file) = sources.file() {
        tracing::info!(file = %file.display(), "settings");
    }
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let reload = Reload::new(env_file, sources, filter);
    ExitCode::from(execute(config, command, reload))
}

/// Does what was asked for; the exit code.
fn execute(config: Config, command: Command, reload: Reload) -> u8 {
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
            Command::Run => run(config, reload).await,
            command => commands::execute(&config, &command).await,
        }
    });
    // Whatever still runs has nothing left to lose: it is staged, or in the binlog. It ends with the process and not before:
    // shut down in any order, a task of the MongoDB driver that asks another one panics, and the journal would have that.
    std::mem::forget(runtime);
    result
}

/// The daemon, until it is told to stop.
async fn run(config: Config, reload: Reload) -> u8 {
    let service = Arc::new(Service::from_environment());
    let stop = match stop_signal(Arc::clone(&service), reload) {
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
    match sdl::run::run(config, &service, async move { stop.notified().await }).await {
        Ok(()) => EXIT_CLEAN,
        Err(error) => failed(&error),
    }
}

fn failed(error: &Error) -> u8 {
    tracing::error!(target: LAST_WORDS, exit = error.exit_code(), "{error}");
    error.exit_code()
}

/// Notifies at the first SIGTERM or SIGINT; the second one ends the process at once. SIGHUP is a reload; where sdl was started in a
/// terminal, it says that the terminal is gone, and ends it like the others.
fn stop_signal(service: Arc<Service>, reload: Reload) -> std::io::Result<Arc<Notify>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGHUP])?;
    let stop = Arc::new(Notify::new());
    let notify = Arc::clone(&stop);
    let has_terminal = std::io::stdin().is_terminal();
    tokio::spawn(async move {
        let mut is_asked = false;
        while let Some(signal) = signals.next().await {
            if signal == SIGHUP && !has_terminal {
                service.reload(|| reload.reload());
            } else if !std::mem::replace(&mut is_asked, true) {
                tracing::info!(signal, "asked to stop");
                notify.notify_one();
            } else {
                tracing::warn!(
                    signal,
                    "asked to stop again: ending at once; the next start recovers what is staged"
                );
                std::process::exit(i32::from(EXIT_FAILURE));
            }
        }
    });
    Ok(stop)
}

/// Prints without minding a reader that has gone, as in `sdl --help | head`.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
