//! `sdl staging`: what waits for its commit, and what recovery set aside.
//!
//! `list` and `show` change nothing. `retry` guarantees what every start does, since it is the same pass: a pending batch that goes on exactly where the offset
//! ends is committed, any other is archived, and nothing is written twice. It takes the source over for that, so it refuses to as long as it
//! sees a daemon of this source: one that it does not see is fenced, and ends without harm to the audit.

mod retry;

use anstyle::Style;
use bson::{Bson, Document};
use clap::{Args, Subcommand};

use super::list::{self as rows, Row};
use super::show::{self, Detail, Line};
use crate::config::Config;
use crate::error::{EXIT_CLEAN, EXIT_FAILURE};
use crate::store::{Reader, StagedBatch};
use crate::terminal::{BAD, DIM, Failure, GOOD, HEADING, Outcome, Terminal};

const EXAMPLES: &str = "\
A batch is pending from when it is read until it is committed, usually for milliseconds; what is pending while no daemon runs is committed by the next \
start, or by retry. An archived one was set aside by a start, for the reason in its note: its changes were committed already, or could not be \
trusted to follow the offset and were read again from the binlog. It expires after 7 days. Nothing commits an archived batch: its changes are recorded, or were \
read under other numbers, and written once more they would be doubled or out of order. To make sure, look for their ids: \
db.row_changes.find({ _id: \"…\" }).

Examples:
  sdl staging list
  sdl staging show 4711
  sdl staging retry";

const EXIT_CODES: &str = "\
Exit codes:
  0   done
  1   there is no such batch, MongoDB is away, or a pending batch remains
  3   an sdl runs that owns the source, or MongoDB refuses the user
  64  wrong settings or arguments

Example:
  ";

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES, subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    action: Action,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
enum Action {
    /// List the batches, pending and archived
    #[command(after_help = format!("{EXIT_CODES}sdl staging list --json | jq .status"))]
    List,
    /// Show one batch: where it goes on from and leads to, whether its checksum holds, and its changes
    #[command(after_help = format!("{EXIT_CODES}sdl staging show 4711"))]
    Show {
        /// The batch's number
        batch: i64,
        /// One column a line, and nothing shortened
        #[arg(long, conflicts_with = "json")]
        full: bool,
    },
    /// Commit what is pending, as the next start would, and archive what cannot be; while no daemon runs
    #[command(after_help = format!("{EXIT_CODES}systemctl stop sdl && sudo -u sdl sdl staging retry"))]
    Retry,
}

/// Does it; the exit code.
///
/// # Errors
/// When MongoDB cannot be read or written, or nothing can be printed.
pub async fn run(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    let reader = Reader::connect(config).await?;
    match &arguments.action {
        Action::List => list(&reader, arguments.json, terminal).await,
        Action::Show { batch, full } => {
            let detail = Detail::of(terminal, *full);
            show_one(&reader, *batch, detail, arguments.json, terminal).await
        }
        Action::Retry => retry::run(config, &reader, arguments.json, terminal).await,
    }
}

async fn list(reader: &Reader, as_json: bool, terminal: &Terminal) -> Outcome {
    let batches = reader.staged_batches().await?;
    if as_json {
        for batch in &batches {
            terminal.line(show::json(&described(batch)))?;
        }
        return Ok(EXIT_CLEAN);
    }
    if batches.is_empty() {
        terminal.line(format!("nothing is staged of {}", reader.source_id()))?;
        return Ok(EXIT_CLEAN);
    }
    let heads = ["BATCH", "STATUS", "EVENTS", "BYTES", "CREATED"].map(str::to_owned);
    let mut table = vec![row(HEADING, heads, "NOTE".to_owned())];
    table.extend(batches.iter().map(|batch| {
        let created_at = batch.created_at.map(|time| terminal.time(time));
        let cells = [
            batch.batch.to_string(),
            show::visible(&batch.status),
            batch.count.to_string(),
            batch.bytes.to_string(),
            created_at.unwrap_or_default(),
        ];
        let note = show::visible(batch.note.as_deref().unwrap_or_default());
        row(Style::new(), cells, note)
    }));
    for numbers in [0, 2, 3] {
        rows::align_right(&mut table, numbers);
    }
    rows::print(&table, terminal)?;
    Ok(EXIT_CLEAN)
}

fn row(style: Style, cells: [String; 5], text: String) -> Row {
    let cells = cells.map(|cell| (style, cell)).to_vec();
    Row { cells, text }
}

/// A batch of the list, as `--json` tells it.
fn described(batch: &StagedBatch) -> Document {
    let time = |time: Option<bson::DateTime>| time.map_or(Bson::Null, Bson::DateTime);
    bson::doc! {
        "batch": batch.batch,
        "status": &batch.status,
        "count": batch.count,
        "bytes": batch.bytes,
        "createdAt": time(batch.created_at),
        "epoch": batch.epoch,
        "note": batch.note.clone(),
    }
}

async fn show_one(
    reader: &Reader,
    batch: i64,
    detail: Detail,
    as_json: bool,
    terminal: &Terminal,
) -> Outcome {
    let Some(found) = reader.staged_batch(batch).await? else {
        eprintln!(
            "sdl: batch {batch} of {} is not staged: it is committed, or was never read, or has expired; see sdl staging list",
            reader.source_id()
        );
        return Ok(EXIT_FAILURE);
    };
    let document = found.document;
    if as_json {
        let mut document = document;
        document.insert("problem", found.problem);
        terminal.line(show::json(&document))?;
        return Ok(EXIT_CLEAN);
    }
    let line = |line: Line| -> Result<(), Failure> { terminal.line(line.cut(detail.width)) };
    let text = |name: &str| show::visible(document.get_str(name).unwrap_or("?"));
    let integer = |name: &str| document.get_i64(name).unwrap_or_default();
    line(
        Line::of(HEADING, format!("batch {batch}: {}", text("status"))).with(
            DIM,
            format!(
                ", {} events, staged {} in epoch {}",
                integer("count"),
                document
                    .get_datetime("createdAt")
                    .map_or_else(|_| "?".to_owned(), |time| terminal.time(*time)),
                integer("epoch")
            ),
        ),
    )?;
    if document.contains_key("note") {
        terminal.line(format!("note:      {}", text("note")))?;
    }
    line(match &found.problem {
        None => Line::of(GOOD, "checksum:  holds"),
        Some(problem) => Line::of(
            BAD,
            format!("checksum:  not intact: {}", show::visible(problem)),
        ),
    })?;
    for (name, title) in [("follows", "goes on from:"), ("next", "leads to:")] {
        if let Ok(position) = document.get_document(name) {
            line(Line::of(HEADING, title))?;
            for (name, value) in position {
                line(Line::of(
                    DIM,
                    format!("    {}: {}", show::visible(name), show::value(value, true)),
                ))?;
            }
        }
    }
    let events = document.get_array("events").ok();
    for event in events.into_iter().flatten().filter_map(Bson::as_document) {
        for shown in show::change(event, terminal, detail) {
            terminal.line(shown)?;
        }
    }
    Ok(EXIT_CLEAN)
}
