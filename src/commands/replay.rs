//! `sdl replay`: arguments, progress and summary; [`run::replay`](crate::run::replay) does it.

mod bar;

use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use futures_util::StreamExt;
use serde_json::{Value, json};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use crate::config::Config;
use crate::error::{EXIT_CLEAN, EXIT_FAILURE, Error, Kind};
use crate::offset::Offset;
use crate::run::replay::{End, Replayed, Request, replay};
use crate::source::files::Progress;
use crate::terminal::{Outcome, Terminal};
use bar::Bar;

const HELP: &str = "\
For transactions that no server has any more (the log says 'binlog gap'), while copies of the purged binlogs exist: from a backup, or \
fetched by mysqlbinlog --read-from-remote-server --raw. The files are named in the order in which the server wrote them, from the one in \
which the saved offset stands, without a gap. They are looked through before anything is written, so that a file which is damaged, cut \
short, of another server or in the wrong place is told of first. What is recorded already is passed over. Stop sdl before; afterwards \
'sdl run' goes on from the server. Stopped or killed at any moment, the same command is simply run again.

A source without a saved offset begins with the first file when START_FROM=earliest.

Exit codes:
  0   all that the files hold is recorded (with --dry-run: can be recorded)
  1   stopped before the end, or MongoDB was away: run it again
  3   the files cannot be recorded, for the reason told, or another sdl runs
  64  wrong settings or arguments

Example:
  sdl replay --dry-run /backup/binlog.000007 /backup/binlog.000008
  sdl replay /backup/binlog.000007 /backup/binlog.000008";

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Binlog files, the oldest first
    #[arg(required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Look through the files and hold them against the saved offset; write nothing
    #[arg(long)]
    pub dry_run: bool,
    /// Record the last file up to its last whole transaction though its server never ended it: of a server that is gone for good
    #[arg(long)]
    pub allow_unfinished: bool,
    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,
}

/// Does it; the exit code.
///
/// # Errors
/// When it cannot be done.
pub async fn run(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    let request = Request {
        paths: arguments.files.clone(),
        dry_run: arguments.dry_run,
        allow_unfinished: arguments.allow_unfinished,
    };
    let progress = Arc::new(Progress::default());
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| {
        Error::new(
            Kind::Internal,
            format!("cannot listen for signals: {error}"),
        )
    })?;
    let stop = async move {
        if let Some(signal) = signals.next().await {
            tracing::info!(signal, "asked to stop");
        }
    };
    let bar = Bar::start(Arc::clone(&progress));
    let replayed = replay(config.clone(), request, Arc::clone(&progress), stop).await;
    bar.end();
    let replayed = replayed?;
    if arguments.json {
        terminal.json(&summary(&replayed, &progress))?;
    } else {
        terminal.line(told(&replayed, &progress))?;
    }
    Ok(match replayed.end {
        End::Recorded | End::NothingNew | End::Fits => EXIT_CLEAN,
        End::Stopped => EXIT_FAILURE,
    })
}

fn n(offset: Option<&Offset>) -> i64 {
    offset.map_or(0, |offset| offset.n)
}

fn gtid(offset: Option<&Offset>) -> String {
    offset.map_or_else(String::new, |offset| offset.position.gtid.to_string())
}

/// For a program.
fn summary(replayed: &Replayed, progress: &Progress) -> Value {
    let place = |offset: Option<&Offset>| {
        offset.map(|offset| {
            json!({
                "gtid": offset.position.gtid.to_string(),
                "file": offset.position.file,
                "pos": offset.position.position,
                "n": offset.n,
            })
        })
    };
    let figures = progress.figures();
    json!({
        "result": match replayed.end {
            End::Recorded => "recorded",
            End::NothingNew => "nothing_new",
            End::Fits => "fits",
            End::Stopped => "stopped",
        },
        "transactions_in_files": replayed.transactions,
        "transactions": figures.transactions,
        "skipped": figures.passed_over,
        "events": n(replayed.to.as_ref()) - n(replayed.from.as_ref()),
        "from": place(replayed.from.as_ref()),
        "to": place(replayed.to.as_ref()),
    })
}

/// For a person.
fn told(replayed: &Replayed, progress: &Progress) -> String {
    let figures = progress.figures();
    let to = gtid(replayed.to.as_ref());
    let events = n(replayed.to.as_ref()) - n(replayed.from.as_ref());
    match replayed.end {
        End::Recorded => format!(
            "recorded: {events} events of {} transactions ({} were recorded before); the saved offset is now {to}; 'sdl run' goes on \
             from there",
            figures.transactions, figures.passed_over
        ),
        End::NothingNew => format!(
            "nothing to do: all {} transactions of the files are recorded; the saved offset is {to}",
            replayed.transactions
        ),
        End::Fits => format!(
            "the files are whole and continue what is recorded: {} transactions; nothing was written",
            replayed.transactions
        ),
        End::Stopped => format!(
            "stopped: {events} events are recorded, up to {to}; run the same command again to go on"
        ),
    }
}
