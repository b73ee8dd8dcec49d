//! What `sdl` does for an administrator besides running: one file a command, each with its arguments.
//!
//! They read the daemon's settings, and need no daemon that runs; where one does, they say what it says. Each ends with one of the exit
//! codes of `sdl --help`, prints results to standard output and everything else to standard error.

pub mod accept_gap;
pub mod check;
pub mod daemon;
pub mod history;
mod list;
pub mod replay;
pub mod show;
pub mod staging;
pub mod status;
pub mod tail;
pub mod when;

use crate::cli::Command;
use crate::config::Config;
use crate::error::EXIT_CLEAN;
use crate::terminal::{Failure, Terminal};

/// Does what was asked for; the exit code. [`Command::Run`] is not among it.
pub async fn execute(config: &Config, command: &Command) -> u8 {
    let terminal = Terminal::new(config.time_zone.clone());
    let outcome = match command {
        Command::Run => return EXIT_CLEAN,
        Command::AcceptGap(arguments) => accept_gap::run(config, arguments, &terminal).await,
        Command::Check(arguments) => check::run(config, arguments, &terminal).await,
        Command::Status(arguments) => status::run(config, arguments, &terminal).await,
        Command::Tail(arguments) => tail::run(config, arguments, &terminal).await,
        Command::History(arguments) => history::run(config, arguments, &terminal).await,
        Command::Replay(arguments) => replay::run(config, arguments, &terminal).await,
        Command::Staging(arguments) => staging::run(config, arguments, &terminal).await,
    };
    match outcome {
        Ok(code) => code,
        Err(Failure::Closed) => EXIT_CLEAN,
        Err(Failure::Failed(error)) => {
            tracing::error!(exit = error.exit_code(), "{error}");
            error.exit_code()
        }
    }
}
