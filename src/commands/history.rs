//! `sdl history`: the life of one row.
//!
//! It guarantees that everything recorded of the key is shown, oldest first: each change by the index on `meta.pk`; the statements that
//! may have taken the row away without a trace of it (TRUNCATE, DROP, ALTER, what was logged as a statement, a gap) where they stand between; and, where an
//! update gave the row another key, its life under that one. What the row is at the end is folded from these.
//!
//! `meta.pk` of an update is the key before it, so a row is followed forwards; whose key it was before cannot be found by an index.

mod key;
mod life;

use std::collections::BTreeSet;

use bson::{Bson, DateTime, Document, doc};
use clap::Args;

use self::key::{canonical, kind, meanings};
use self::life::{Interruption, Life, Row, State, interruption};
use super::show::{self, Detail, Line};
use super::tail::tell_of_nothing;
use super::when::When;
use crate::config::Config;
use crate::error::{EXIT_CLEAN, EXIT_CONFIGURATION, EXIT_FAILURE, Error, Kind, Result};
use crate::store::{Reader, Walk};
use crate::terminal::{BAD, DIM, Failure, GOOD, HEADING, Outcome, Terminal, WARNING};

/// Changes in memory at a time; each may have 4 MiB.
const PAGE: usize = 20;

const EXAMPLES: &str = "\
KEY is the primary key's value: a number, a text, bytes as 0x00ff, a UUID. Of several columns: column=value for each, or a JSON object. All types \
that it can mean are looked for, and the one that was found is told; a JSON string is never a number. Texts must be written as they are stored, \
also where MySQL compares them without case.

Below each change stands who made it (server, connection, and the user where the server logs one) and its statement, where the server logs it. With --json each line is a \
document, with \"statement\" where it stood on another one, and the last line is {\"now\": [ {key, state, row} ]}.

Exit codes:
  0   something is recorded of the row
  1   nothing is, or MongoDB is away
  3   MongoDB refuses the user, or is no replica set
  64  wrong settings or arguments

Examples:
  sdl history shop.orders 4711
  sdl history shop.items order_id=4711 item=3 --since 2026-11-01
  sdl history shop.accounts 0x3e11fa4771ca11e19e33c80aa9429562 --json";

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = EXAMPLES)]
pub struct Arguments {
    /// The table
    #[arg(value_name = "DB.TABLE", value_parser = table)]
    table: (String, String),
    /// The row's primary key
    #[arg(required = true, num_args = 1.., allow_negative_numbers = true)]
    key: Vec<String>,
    /// Show only what was committed then or later: 10m, 2h, today, 2026-11-21, 2026-11-21T10:30, …
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    since: Option<When>,
    /// Show what was committed until then, and the row as it was then
    #[arg(long, value_name = "WHEN", value_parser = When::parse)]
    until: Option<When>,
    /// One column a line, and nothing shortened
    #[arg(long, conflicts_with = "json")]
    full: bool,
    /// Print one JSON text a line
    #[arg(long)]
    json: bool,
}

fn table(text: &str) -> std::result::Result<(String, String), String> {
    text.split_once('.')
        .filter(|(database, table)| !database.is_empty() && !table.is_empty())
        .map(|(database, table)| (database.to_owned(), table.to_owned()))
        .ok_or_else(|| "expected DB.TABLE, as in shop.orders".to_owned())
}

/// Prints it; the exit code.
///
/// # Errors
/// When MongoDB cannot be read, or nothing can be printed.
pub async fn run(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    let at = |when: &Option<When>| {
        when.as_ref()
            .map(|when| when.at(&terminal.now()))
            .transpose()
    };
    let wanted = (
        at(&arguments.since),
        at(&arguments.until),
        meanings(&arguments.key),
    );
    let (since, until, keys) = match wanted {
        (Ok(since), Ok(until), Ok(keys)) => (since, until, keys),
        (Err(problem), ..) | (_, Err(problem), _) => {
            return Ok(refuse(&format!("the time: {problem}")));
        }
        (.., Err(problem)) => return Ok(refuse(&format!("KEY: {problem}"))),
    };
    let reader = Reader::connect(config).await?;
    let mut search = Search {
        walk: reader.walk().await?,
        reader,
        table: arguments.table.clone(),
        key_columns: None,
        statement: None,
    };
    let own = search.of_keys(&keys).await?;
    let Some(first) = own.first().copied() else {
        search.tell_of_no_row(&keys).await?;
        return Ok(EXIT_FAILURE);
    };
    let mut numbers: BTreeSet<i64> = own.iter().copied().collect();
    search.follow(&own, &mut numbers).await?;
    numbers.extend(search.interruptions(first).await?);
    let mut printer = Printer {
        terminal,
        detail: Detail::of(terminal, arguments.full),
        json: arguments.json,
        since,
        shown: 0,
    };
    let numbers: Vec<_> = numbers.into_iter().collect();
    let life = search.tell(&numbers, until, &mut printer).await?;
    printer.end(life.rows())?;
    Ok(EXIT_CLEAN)
}

fn refuse(problem: &str) -> u8 {
    eprintln!("sdl: {problem}");
    EXIT_CONFIGURATION
}

/// Finds what is to be told.
struct Search {
    reader: Reader,
    walk: Walk,
    table: (String, String),
    /// Of the schema version asked for last.
    key_columns: Option<(String, Vec<String>)>,
    /// The text of the statement asked for last, by GTID and number.
    statement: Option<((String, i64), Option<Bson>)>,
}

impl Search {
    fn of_table(&self, keys: Bson) -> Document {
        let (database, table) = &self.table;
        doc! { "meta.pk": keys, "meta.db": database, "meta.tbl": table }
    }

    async fn of_keys(&self, keys: &[Bson]) -> Result<Vec<i64>> {
        self.reader
            .numbers(self.of_table(doc! { "$in": keys }.into()))
            .await
    }

    /// Adds what became of the row under the keys that updates gave it, until it is deleted or has yet another one.
    async fn follow(&mut self, own: &[i64], numbers: &mut BTreeSet<i64>) -> Result<()> {
        let mut moves = Vec::new();
        for page in own.chunks(PAGE) {
            for change in self.page(page).await? {
                moves.extend(self.moved_to(&change).await?);
            }
        }
        while let Some((new, behind)) = moves.pop() {
            let found = self.of_keys(std::slice::from_ref(&new)).await?;
            let found: Vec<_> = found.into_iter().filter(|n| *n > behind).collect();
            'life: for page in found.chunks(PAGE) {
                for change in self.page(page).await? {
                    let is_new = numbers.insert(change.get_i64("n").unwrap_or_default());
                    let moved = self.moved_to(&change).await?;
                    if moved.is_some()
                        || !is_new
                        || change.get_str("op").is_ok_and(|op| op == "delete")
                    {
                        moves.extend(moved.filter(|_| is_new));
                        break 'life;
                    }
                }
            }
        }
        Ok(())
    }

    /// The key that an update gave the row, and the update's `n`.
    async fn moved_to(&mut self, change: &Document) -> Result<Option<(Bson, i64)>> {
        let (Ok(meta), Ok(after), Ok(changed)) = (
            change.get_document("meta"),
            change.get_document("after"),
            change.get_array("changed"),
        ) else {
            return Ok(None);
        };
        let (Some(old), Ok(schema)) = (meta.get("pk"), meta.get_str("schema")) else {
            return Ok(None);
        };
        let columns = match &self.key_columns {
            Some((known, columns)) if known == schema => columns.clone(),
            _ => self.reader.key_columns(schema).await?,
        };
        self.key_columns = Some((schema.to_owned(), columns.clone()));
        let is_key = |name: &Bson| {
            name.as_str()
                .is_some_and(|name| columns.iter().any(|column| column == name))
        };
        if !changed.iter().any(is_key) {
            return Ok(None);
        }
        let before = change.get_document("before").ok();
        let value = |name: &String| after.get(name).or_else(|| before?.get(name)).cloned();
        let new = match &columns[..] {
            [single] => value(single),
            several => several
                .iter()
                .map(|name| Some((name.clone(), value(name)?)))
                .collect::<Option<Document>>()
                .map(Bson::Document),
        };
        let n = change.get_i64("n").unwrap_or_default();
        Ok(new
            .filter(|new| canonical(new) != canonical(old))
            .map(|new| (new, n)))
    }

    /// What may have changed the rows of the table without a document for each, after `first`.
    async fn interruptions(&self, first: i64) -> Result<Vec<i64>> {
        let (database, table) = &self.table;
        let named = format!(r"(?i)(^|[^\w$]){}($|[^\w$])", regex::escape(table));
        let drops = r"(?i)^\s*DROP\s+(DATABASE|SCHEMA)\s";
        // Those without a key have an entry in the index too.
        let filter = doc! {
            "meta.pk": null,
            "meta.db": { "$in": [database, ""] },
            "op": { "$in": ["ddl", "statement", "gap", "incident"] },
            "n": { "$gt": first },
            "$or": [
                { "meta.tbl": table },
                { "op": { "$in": ["gap", "incident"] } },
                { "meta.query": { "$regex": named } },
                { "meta.query": { "$regex": drops } },
            ],
        };
        self.reader.numbers(filter).await
    }

    async fn page(&mut self, numbers: &[i64]) -> Result<Vec<Document>> {
        let mut page = Vec::with_capacity(numbers.len());
        self.walk
            .visit_numbers(numbers, |change| {
                let document = Document::try_from(change).map_err(|error| {
                    Error::new(
                        Kind::StoreRefused,
                        format!("a document is not BSON: {error}"),
                    )
                })?;
                page.push(document);
                Ok::<_, Error>(())
            })
            .await?;
        Ok(page)
    }

    /// The statement of a row's change.
    async fn statement_of(&mut self, change: &Document) -> Result<Option<Bson>> {
        let meta = change.get_document("meta").ok();
        let of = |meta: &Document| {
            Some((
                meta.get_str("gtid").ok()?.to_owned(),
                meta.get_i64("stmt").ok()?,
            ))
        };
        let Some(statement) = meta.and_then(of) else {
            return Ok(None);
        };
        match &self.statement {
            Some((known, text)) if *known == statement => Ok(text.clone()),
            _ => {
                let text = self.walk.statement(change).await?;
                self.statement = Some((statement, text.clone()));
                Ok(text)
            }
        }
    }

    /// Tells all of it.
    async fn tell(
        &mut self,
        numbers: &[i64],
        until: Option<DateTime>,
        printer: &mut Printer<'_>,
    ) -> std::result::Result<Life, Failure> {
        let mut life = Life::default();
        for page in numbers.chunks(PAGE) {
            for change in self.page(page).await? {
                let time = change.get_datetime("ts").copied().unwrap_or(DateTime::MIN);
                if until.is_some_and(|until| time > until) {
                    continue;
                }
                let is_first = life.rows().is_empty();
                let moved_to = self.moved_to(&change).await?.map(|(key, _)| key);
                life.take_in(&change, moved_to.as_ref());
                if is_first {
                    printer.begin(&self.table, &change)?;
                }
                if printer.since.is_none_or(|since| time >= since) {
                    let statement = self.statement_of(&change).await?;
                    printer.change(change, statement, moved_to.as_ref())?;
                }
            }
        }
        Ok(life)
    }

    /// Says what was looked for, and why it may not have been found.
    async fn tell_of_no_row(&mut self, keys: &[Bson]) -> Result<()> {
        if self.walk.last().await? == 0 {
            return tell_of_nothing(&self.reader).await;
        }
        let (database, table) = &self.table;
        let name = show::visible(&format!("{database}.{table}"));
        let kinds: BTreeSet<_> = keys
            .iter()
            .map(kind)
            .map(|kind| if kind == "Decimal128" { "number" } else { kind })
            .collect();
        let kinds: Vec<_> = kinds.into_iter().collect();
        eprintln!(
            "sdl: nothing is recorded of a row of {name} with this key (looked for as {})",
            kinds.join(", ")
        );
        let mut keyless = self.of_table(Bson::Null);
        keyless.insert("op", doc! { "$in": ["insert", "update", "delete"] });
        if self.walk.has(keyless).await? {
            eprintln!(
                "sdl: {name} has, or had, no primary key, so its rows cannot be told apart by one; look for them by their values, in mongosh: \
                 db.row_changes.find({{ \"meta.pk\": null, \"meta.db\": \"{}\", \"meta.tbl\": \"{}\", \"after.COLUMN\": VALUE }})",
                show::visible(database),
                show::visible(table)
            );
        }
        Ok(())
    }
}

/// Prints what is told.
struct Printer<'a> {
    terminal: &'a Terminal,
    detail: Detail,
    json: bool,
    since: Option<DateTime>,
    shown: usize,
}

type Printed = std::result::Result<(), Failure>;

impl Printer<'_> {
    fn lines(&self, lines: impl IntoIterator<Item = Line>) -> Printed {
        lines
            .into_iter()
            .try_for_each(|line| self.terminal.line(line.cut(self.detail.width)))
    }

    fn begin(&self, (database, table): &(String, String), first: &Document) -> Printed {
        if self.json {
            return Ok(());
        }
        let key = first
            .get_document("meta")
            .ok()
            .and_then(|meta| meta.get("pk"));
        let title = Line::of(HEADING, show::visible(&format!("{database}.{table}")))
            .with(
                HEADING,
                format!(" {}", show::key(first).unwrap_or_default()),
            )
            .with(DIM, format!("  ({})", key.map_or("", kind)));
        self.lines([title])?;
        if first.get_str("op").is_ok_and(|op| op != "insert") {
            let before = "    what came before was not recorded, or had another key";
            self.lines([Line::of(DIM, before)])?;
        }
        Ok(())
    }

    fn change(
        &mut self,
        mut change: Document,
        statement: Option<Bson>,
        moved_to: Option<&Bson>,
    ) -> Printed {
        self.shown += 1;
        if self.json {
            let own = change
                .get_document("meta")
                .is_ok_and(|meta| meta.contains_key("query"));
            if let Some(statement) = statement.filter(|_| !own) {
                change.insert("statement", statement);
            }
            return self.terminal.line(show::json(&change));
        }
        let operation = change.get_str("op").unwrap_or_default().to_owned();
        let is_row = ["insert", "update", "delete"].contains(&operation.as_str());
        let mut query = String::new();
        if let Ok(meta) = change.get_document_mut("meta") {
            query = meta.get_str("query").unwrap_or_default().to_owned();
            if is_row {
                meta.remove("query");
            }
        }
        let mut lines = show::change(&change, self.terminal, self.detail);
        let told = |text: String, style| Line::of(style, format!("    {text}"));
        lines.extend(moved_to.map(|key| {
            told(
                format!("its key is {} from here on", show::value(key, false)),
                WARNING,
            )
        }));
        lines.extend(match interruption(&operation, &query) {
            Interruption::Ends => Some(told(
                "rows that were there are gone, without a document for each".to_owned(),
                BAD,
            )),
            Interruption::MayChange => Some(told(
                "may have changed the row, without a document".to_owned(),
                WARNING,
            )),
            Interruption::None => None,
        });
        lines.push(told(who(&change), DIM));
        if let Some(statement) = statement.filter(|_| is_row) {
            lines.push(Line::of(DIM, "    ").and(show::statement(&statement, self.detail)));
        }
        self.lines(lines)
    }

    fn end(&self, rows: &[Row]) -> Printed {
        if self.json {
            let rows: Vec<_> = rows.iter().map(Row::document).collect();
            return self.terminal.line(show::json(&doc! { "now": rows }));
        }
        for row in rows {
            let key = show::value(&row.key, false);
            let head = Line::of(HEADING, format!("= {key}: "));
            let line = match &row.state {
                State::Present(_) => head.with(GOOD, "is there"),
                State::Deleted => head.with(BAD, "deleted"),
                State::Moved(new) => head.with(
                    WARNING,
                    format!("its key is {} now", show::value(new, false)),
                ),
                State::Gone(n) => head.with(BAD, format!("gone with n = {n}")),
            };
            let line = match row.doubt {
                Some(n) => line.with(WARNING, format!(", but n = {n} may have changed it")),
                None => line,
            };
            self.lines([line])?;
            if let State::Present(row) = &row.state {
                let columns = show::image(row, GOOD, self.detail);
                self.lines(
                    columns
                        .into_iter()
                        .map(|line| Line::of(DIM, "    ").and(line)),
                )?;
            }
        }
        Ok(())
    }
}

/// Who made a change, as far as the binlog says.
fn who(change: &Document) -> String {
    let meta = change.get_document("meta").cloned().unwrap_or_default();
    let number = |name| meta.get_i64(name).ok().filter(|number| *number > 0);
    let mut parts = Vec::new();
    if let Ok(user) = meta.get_str("user") {
        parts.push(format!("by {}", show::visible(user)));
    }
    parts.extend(number("server_id").map(|id| format!("on server {id}")));
    parts.extend(number("thread_id").map(|id| format!("in connection {id}")));
    parts.extend(change.get_i64("n").ok().map(|n| format!("n = {n}")));
    parts.join(", ")
}
