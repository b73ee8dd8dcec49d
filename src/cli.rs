//! The command line: what `sdl` can be asked to do, and what its help says.
//!
//! Settings come from the environment and not from here ([`config`](crate::config)); arguments only say what this one call is for.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::commands::{accept_gap, check, history, replay, staging, status, tail};
use crate::config;

/// The exit codes of all commands.
pub const EXIT_CODES: &str = "\
Exit codes:
  0   done: a clean stop, or the command did what it was asked
  1   anything that has no better one; `accept-gap`: there is no gap, or it cannot be told, and nothing was changed
  3   an operator must decide; the last log line says what was found and what mends it
  64  wrong settings or arguments";

/// The arguments of one call.
#[derive(Debug, Parser)]
#[command(
    name = "sdl",
    version,
    about = "MySQL binlog to MongoDB: every row change as an audit document, exactly once, in order"
)]
struct Arguments {
    /// The settings file [default: .env in the working directory, else /etc/sdl/sdl.env]
    #[arg(long, global = true, value_name = "FILE")]
    env_file: Option<PathBuf>,

    #[command(subcommand)]
    command: Option<Command>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run in the foreground until SIGTERM (the default)
    #[command(
        after_help = "SIGTERM and SIGINT flush what was read and end it; a second one ends it at once. SIGHUP takes over a changed RUST_LOG.\n\n\
                      Example:\n  sdl run --env-file /etc/sdl/sdl.env"
    )]
    Run,
    /// Check what must hold on both servers, and say what mends it
    Check(check::Arguments),
    /// Show how far the daemon is, and how it is doing
    Status(status::Arguments),
    /// Print changes as they are recorded
    Tail(tail::Arguments),
    /// Print the life of one row
    History(history::Arguments),
    /// Record what binlog files on disk hold
    Replay(replay::Arguments),
    /// List, show or commit what is staged
    Staging(staging::Arguments),
    /// Go on behind transactions that no server has any more, and record that they are missing
    #[command(
        after_help = "It reads the same settings as the daemon, which must be stopped. Only where every server of MYSQL_ADDR has \
                      purged what comes next, it writes a document with op \"gap\" (the missing transactions, the reason, who ran it, when) \
                      and moves the saved offset behind them, both in one MongoDB transaction. Otherwise it changes nothing, says why, and \
                      exits with 1.\n\nExample:\n  \
                      sdl accept-gap --reason 'binlogs purged during the outage of 2026-11-21, ticket 4711'"
    )]
    AcceptGap(accept_gap::Arguments),
}

impl Command {
    /// Whether it is called for what it prints, so that a log would only be in the way.
    pub fn prints_results(&self) -> bool {
        !matches!(self, Self::Run | Self::Replay(_) | Self::AcceptGap(_))
    }
}

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// What is to be done.
    pub command: Command,
    /// `--env-file`.
    pub env_file: Option<PathBuf>,
}

/// All that can be asked for, as clap describes it: manual pages and completions are made from it (deploy/package/pages.rs).
#[must_use]
pub fn command() -> clap::Command {
    Arguments::command()
}

/// Reads the arguments, the program's name first.
///
/// # Errors
/// What is wrong with them; or what was asked for, where that is the help or the version.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Call, clap::Error> {
    let matches = command()
        .after_help(format!("{EXIT_CODES}\n\n{}", config::help_text()))
        .try_get_matches_from(arguments)?;
    let arguments = Arguments::from_arg_matches(&matches)?;
    Ok(Call {
        command: arguments.command.unwrap_or(Command::Run),
        env_file: arguments.env_file,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Command, clap::Error> {
        let name = std::iter::once("sdl");
        let call = parse(name.chain(arguments.iter().copied()).map(OsString::from));
        call.map(|call| call.command)
    }

    #[test]
    fn without_arguments_it_runs() {
        assert_eq!(parsed(&[]).unwrap(), Command::Run);
        assert_eq!(parsed(&["run"]).unwrap(), Command::Run);
    }

    #[test]
    fn the_reason_is_kept_as_it_is_and_must_say_something() {
        let reason = "purged, ticket 4711".to_owned();
        assert_eq!(
            parsed(&["accept-gap", "--reason", " purged, ticket 4711 "]).unwrap(),
            Command::AcceptGap(accept_gap::Arguments {
                reason,
                json: false
            })
        );
        for wrong in [
            &["accept-gap"][..],
            &["accept-gap", "--reason"],
            &["accept-gap", "--reason", " "],
            &["accept-gap", "purged"],
            &["unknown"],
            &["run", "accept-gap"],
        ] {
            let error = parsed(wrong).unwrap_err();
            assert!(error.use_stderr(), "{wrong:?}");
        }
    }

    #[test]
    fn help_tells_settings_and_exit_codes() {
        for arguments in [&["--help"][..], &["-h"], &["help"]] {
            let help = parsed(arguments).unwrap_err();
            assert!(!help.use_stderr());
            let text = help.to_string();
            for part in ["accept-gap", "MYSQL_ADDR", "Exit codes", "64"] {
                assert!(text.contains(part), "{part}: {text}");
            }
        }
        let text = parsed(&["accept-gap", "--help"]).unwrap_err().to_string();
        assert!(text.contains("Example:"), "{text}");
    }
}
