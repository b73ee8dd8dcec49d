//! `sdl tail`: changes as they are recorded.
//!
//! It guarantees that each change that is wanted is printed once, in the order of `n`, and none is passed over, whatever is committed
//! meanwhile and whether MongoDB is away in between: it goes on behind the last `n` that it has looked at ([`crate::store::Walk`]). It
//! asks again four times a second, which needs no right but `find`; a change stream would need one of its own.

mod filter;

use std::time::Duration;

use bson::{Document, RawDocument};
use clap::Args;
use clap::builder::PossibleValuesParser;
use futures_util::StreamExt;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook_tokio::Signals;

use self::filter::{Filter, TablePattern};
use super::show::{self, Detail};
use super::when::When;
use crate::config::Config;
use crate::error::{EXIT_CLEAN, EXIT_CONFIGURATION, Error, Kind, Result};
use crate::store::{Reader, Walk};
use crate::terminal::{Failure, Outcome, Terminal};

/// How often it is asked whether there is more.
const POLL: Duration = Duration::from_millis(250);

/// How long MongoDB is left alone when it is away.
const AWAY: Duration = Duration::from_secs(1);

/// The last changes that are shown where nothing says how many, as tail(1) does.
const LAST: usize = 10;

/// How far back those are looked for.
const LOOK_BACK: i64 = 100_000;

const EXAMPLES: &str = "\
A change is shown as its operation, commit time (in TZ), table, key and GTID, and what is different below it. In a terminal long values \
are shortened; in a pipe they are not. A table is a glob (shop.orders, shop.*, orders) or a regular expression (/^shop[.]o/). With --json each \
line is a document as it stands in MongoDB, in relaxed Extended JSON. Gaps are of all tables.

Exit codes:
  0   done: Ctrl-C, a reader that has gone, or --no-follow and all is shown
  1   MongoDB is away (at the start, or with --no-follow)
  3   MongoDB refuses the user, or is no replica set
  64  wrong settings or arguments

Examples:
  sdl tail
  sdl tail --table 'shop.*' --op delete --since today
  sdl tail --since 2h --no-follow --json | jq .meta.gtid";

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// Only changes of tables that match; may be given several times
    #[arg(long = "table", value_name = "PATTERN", value_parser = TablePattern::parse)]
    tables: Vec<TablePattern>,
    /// Only these operations; may be given several times
    #[arg(long = "op", value_name = "OP", value_delimiter = ',', value_parser = PossibleValuesParser::new(operations()))]
    operations: Vec<String>,
    /// Begin with what was committed then or later: 10m, 2h, today, 10:30, 2026-11-21, 2026-11-21T10:30, …T10:30:00Z
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    since: Option<When>,
    /// Begin with the last COUNT changes [default: 10; with --since: all]
    #[arg(
        short = 'n',
        long = "lines",
        value_name = "COUNT",
        overrides_with = "count"
    )]
    count: Option<usize>,
    /// End when everything recorded so far is shown
    #[arg(long)]
    no_follow: bool,
    /// One column a line, nothing shortened, and the statements
    #[arg(long, conflicts_with = "json")]
    full: bool,
    /// Print one document a line as JSON
    #[arg(long)]
    json: bool,
}

fn operations() -> [&'static str; 8] {
    use crate::event::Operation::{
        Ddl, Delete, Gap, Insert, Statement, Update, XaCommit, XaRollback,
    };
    [
        Insert, Update, Delete, Ddl, Statement, XaCommit, XaRollback, Gap,
    ]
    .map(|operation| operation.name())
}

/// Prints until it is told to stop; the exit code.
///
/// # Errors
/// When MongoDB cannot be read, or nothing can be printed.
pub async fn run(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    let mut signals = Signals::new([SIGTERM, SIGINT]).map_err(|error| {
        Error::new(
            Kind::Internal,
            format!("cannot listen for signals: {error}"),
        )
    })?;
    tokio::select! {
        biased;
        _ = signals.next() => Ok(EXIT_CLEAN),
        outcome = print(config, arguments, terminal) => outcome,
    }
}

async fn print(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    let since = match arguments
        .since
        .as_ref()
        .map(|when| when.at(&terminal.now()))
        .transpose()
    {
        Ok(since) => since,
        Err(problem) => {
            eprintln!("sdl: --since: {problem}");
            return Ok(EXIT_CONFIGURATION);
        }
    };
    let reader = Reader::connect(config).await?;
    let mut walk = reader.walk().await?;
    let filter = Filter {
        tables: &arguments.tables,
        operations: &arguments.operations,
    };
    let wanted = filter.for_mongodb();
    let end = walk.last().await?;
    if end == 0 {
        tell_of_nothing(&reader).await?;
    }
    let mut after = begin(&mut walk, arguments, &filter, &wanted, since, end).await?;
    let detail = Detail::of(terminal, arguments.full);
    let mut show = |change: &RawDocument| -> std::result::Result<(), Failure> {
        match filter.wants(change) {
            true => show(change, arguments.json, detail, terminal),
            false => Ok(()),
        }
    };
    // What is recorded already may be older than asked for; what comes from now on is shown whenever it was committed.
    let mut recorded = |change: &RawDocument| match is_since(change, since) {
        true => show(change),
        false => Ok(()),
    };
    let mut away = Away::default();
    loop {
        match walk.visit(&mut after, end, &wanted, &mut recorded).await {
            Ok(()) => break,
            Err(failure) if arguments.no_follow => return Err(failure),
            Err(failure) => away.wait(failure, terminal).await?,
        }
    }
    if arguments.no_follow {
        return Ok(EXIT_CLEAN);
    }
    loop {
        match more(&mut walk, &mut after, &wanted, &mut show).await {
            Ok(()) => {
                away.over();
                terminal.check_reader()?;
                tokio::time::sleep(POLL).await;
            }
            Err(failure) => away.wait(failure, terminal).await?,
        }
    }
}

/// The `n` behind which it begins.
async fn begin(
    walk: &mut Walk,
    arguments: &Arguments,
    filter: &Filter<'_>,
    wanted: &Document,
    since: Option<bson::DateTime>,
    end: i64,
) -> Result<i64> {
    let oldest = match since {
        None => 0,
        Some(since) => walk.since(since).await?.map_or(end, |first| first - 1),
    };
    let (count, oldest) = match (arguments.count, since) {
        (Some(count), _) => (count, oldest),
        (None, Some(_)) => return Ok(oldest),
        (None, None) => (LAST, (end - LOOK_BACK).max(0)),
    };
    let is_wanted = |change: &RawDocument| filter.wants(change) && is_since(change, since);
    walk.before_the_last(count, (oldest, end), wanted, is_wanted)
        .await
}

fn is_since(change: &RawDocument, since: Option<bson::DateTime>) -> bool {
    since.is_none_or(|since| change.get_datetime("ts").is_ok_and(|time| time >= since))
}

/// What was recorded since the last call.
async fn more(
    walk: &mut Walk,
    after: &mut i64,
    wanted: &Document,
    show: impl FnMut(&RawDocument) -> std::result::Result<(), Failure>,
) -> std::result::Result<(), Failure> {
    let end = walk.last().await?;
    if end < *after {
        eprintln!(
            "sdl: the last change is n = {end} now and was n = {after}: MongoDB was restored, or the source is read anew; going on there"
        );
        *after = end;
    }
    walk.visit(after, end, wanted, show).await
}

/// Prints one change.
fn show(
    change: &RawDocument,
    as_json: bool,
    detail: Detail,
    terminal: &Terminal,
) -> std::result::Result<(), Failure> {
    // Not through serde, which takes a member `$numberLong` of a stored JSON value for extended JSON.
    let document = Document::try_from(change).map_err(|error| {
        Error::new(
            Kind::StoreRefused,
            format!("a document is not BSON: {error}"),
        )
    })?;
    if as_json {
        return terminal.line(show::json(&document));
    }
    for line in show::change(&document, terminal, detail) {
        terminal.line(line)?;
    }
    Ok(())
}

/// Whether MongoDB is away, and was said to be.
#[derive(Debug, Default)]
struct Away(bool);

impl Away {
    /// Waits, where waiting helps.
    async fn wait(
        &mut self,
        failure: Failure,
        terminal: &Terminal,
    ) -> std::result::Result<(), Failure> {
        match failure {
            Failure::Failed(error) if error.is_transient() => {
                if !std::mem::replace(&mut self.0, true) {
                    eprintln!("sdl: {error}; waiting for mongodb");
                }
            }
            other => return Err(other),
        }
        terminal.check_reader()?;
        tokio::time::sleep(AWAY).await;
        Ok(())
    }

    fn over(&mut self) {
        if std::mem::take(&mut self.0) {
            eprintln!("sdl: mongodb is back");
        }
    }
}

/// An empty screen may mean that the source goes by another name.
pub(super) async fn tell_of_nothing(reader: &Reader) -> Result<()> {
    let own = reader.source_id();
    let others: Vec<_> = reader.sources().await?;
    let known = match &others[..] {
        [] => "no source is".to_owned(),
        names => format!("these sources are: {}", show::visible(&names.join(", "))),
    };
    eprintln!(
        "sdl: nothing is recorded of {own} yet ({known}; SOURCE_ID, MONGO_DB and MONGO_COLL say what is looked at)"
    );
    Ok(())
}
