//! The `sdl` binary: arguments → settings → log → runtime → run → exit code.

use std::process::ExitCode;
use std::sync::Arc;

use futures_util::StreamExt;
use sdl::config::{self, Config};
use sdl::error::{EXIT_CLEAN, EXIT_CONFIGURATION, EXIT_FAILURE};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;
use tokio::sync::Notify;

/// Threads of the runtime: one reads and decodes, one stages and commits; more would only move work between caches.
const WORKER_THREADS: usize = 2;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None | Some("run") => {}
        Some("--help" | "-h" | "help") => {
            print(&help());
            return ExitCode::from(EXIT_CLEAN);
        }
        Some("--version" | "-V") => {
            print(&format!("sdl {}\n", env!("CARGO_PKG_VERSION")));
            return ExitCode::from(EXIT_CLEAN);
        }
        Some(other) => {
            eprintln!(
                "sdl: unknown command `{other}`; expected `run` (the default), --help or --version"
            );
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    }
    let config = match Config::load() {
        Ok(config) => config,
        Err(mistakes) => {
            eprintln!("{mistakes}");
            return ExitCode::from(EXIT_CONFIGURATION);
        }
    };
    sdl::logging::start(&config);
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    ExitCode::from(run(config))
}

fn run(config: Config) -> u8 {
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
            Err(error) => {
                tracing::error!(exit = error.exit_code(), "{error}");
                error.exit_code()
            }
        }
    });
    // Whatever still runs has nothing left to lose: it is staged, or in the binlog. It ends with the process and not before:
    // shut down in any order, a task of the MongoDB driver that asks another one panics, and the journal would have that.
    std::mem::forget(runtime);
    result
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

fn help() -> String {
    format!(
        "sdl {} - MySQL binlog to MongoDB: every row change as an audit document, exactly once, in order\n\n\
         usage: sdl [run]       run in the foreground until SIGTERM\n       \
                sdl --help      this text\n       \
                sdl --version   the version\n\n\
         exit codes: 0 clean stop; 3 an operator must decide (the last log line says what); 64 wrong settings; 1 anything else\n\n{}",
        env!("CARGO_PKG_VERSION"),
        config::help_text()
    )
}

/// Prints without minding a reader that has gone, as in `sdl --help | head`.
fn print(text: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(text.as_bytes());
}
