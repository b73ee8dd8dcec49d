//! A change as lines: what happened to which row of which table, and what of it is different now.

use anstyle::Style;
use bson::{Bson, Document};

use super::line::Line;
use super::value::{value, visible};
use crate::terminal::{BAD, DIM, GOOD, HEADING, Terminal, WARNING};

/// A style of its own for nothing.
const PLAIN: Style = Style::new();

/// What stands before the lines that belong to a change.
const INDENT: &str = "    ";

/// How much of a change is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Detail {
    /// Lines are cut here; None: nowhere, and values are shown whole.
    pub width: Option<u16>,
    /// One column a line, and the statement.
    pub full: bool,
}

impl Detail {
    /// Shortened where a person looks at a terminal, and nothing is shortened in a file or a pipe.
    pub fn of(terminal: &Terminal, full: bool) -> Self {
        let width = (!full).then(|| terminal.cut_at()).flatten();
        Self { width, full }
    }

    fn whole(self) -> bool {
        self.width.is_none()
    }
}

/// A change: when, what, where, which row and transaction on the first line, then what is different.
pub fn change(document: &Document, terminal: &Terminal, detail: Detail) -> Vec<Line> {
    let operation = document.get_str("op").unwrap_or("?");
    let (mark, style) = appearance(operation);
    let time = document
        .get_datetime("ts")
        .map_or_else(|_| "?".to_owned(), |time| terminal.time(*time));
    let mut head = Line::of(style, format!("{mark} "))
        .with(DIM, format!("{time} "))
        .with(style, format!("{:6}", visible(operation)));
    if let Some(table) = table(document) {
        head = head.with(HEADING, format!(" {table}"));
    }
    if let Some(key) = key(document) {
        head = head.with(PLAIN, format!(" {key}"));
    }
    let meta = document.get_document("meta").ok();
    for (flag, text) in [
        ("partial", "part of a larger transaction"),
        ("opaque", "as BSON"),
        ("schema_unresolved", "names unknown"),
    ] {
        if meta.is_some_and(|meta| meta.get_bool(flag).unwrap_or(false)) {
            head = head.with(WARNING, format!(" ({text})"));
        }
    }
    let gtid = meta
        .and_then(|meta| meta.get_str("gtid").ok())
        .unwrap_or("?");
    let head = head.with(DIM, format!("  {}", visible(gtid)));
    std::iter::once(head.cut(detail.width))
        .chain(details(document, detail))
        .collect()
}

/// What is different, below the first line.
fn details(document: &Document, detail: Detail) -> Vec<Line> {
    let meta = document.get_document("meta").ok();
    let mut lines = match document.get_str("op").unwrap_or_default() {
        "insert" => fields(document, "after", GOOD, detail),
        "delete" => fields(document, "before", BAD, detail),
        "update" => differences(document, detail),
        "gap" => match meta.and_then(|meta| meta.get_document("gap").ok()) {
            Some(gap) => fold(
                gap.iter()
                    .map(|(name, item)| pair(name, item, WARNING, detail)),
                detail,
            ),
            None => Vec::new(),
        },
        _ => match meta.and_then(|meta| meta.get("xid")) {
            Some(xid) => vec![Line::of(
                PLAIN,
                format!("xid {}", value(xid, detail.whole())),
            )],
            None => Vec::new(),
        },
    };
    let is_row =
        ["insert", "update", "delete"].contains(&document.get_str("op").unwrap_or_default());
    if let Some(query) = meta.and_then(|meta| meta.get("query"))
        && (!is_row || detail.full)
    {
        lines.push(statement(query, detail));
    }
    lines
        .into_iter()
        .map(|line| Line::of(PLAIN, INDENT).and(line).cut(detail.width))
        .collect()
}

/// A statement's text on one line.
pub fn statement(query: &Bson, detail: Detail) -> Line {
    let text = match query {
        Bson::String(text) if detail.whole() => visible(text),
        Bson::String(text) => {
            let words: Vec<&str> = text.split_whitespace().take(200).collect();
            visible(&words.join(" "))
        }
        other => value(other, detail.whole()),
    };
    Line::of(DIM, text)
}

/// A row's columns.
pub fn image(row: &Document, style: Style, detail: Detail) -> Vec<Line> {
    match row.get("$bson") {
        Some(_) if row.len() == 1 => vec![Line::of(
            style,
            value(&Bson::Document(row.clone()), detail.whole()),
        )],
        _ => fold(
            row.iter()
                .map(|(name, item)| pair(name, item, style, detail)),
            detail,
        ),
    }
}

/// The row's key: `17`, or `order_id=5 item=3`.
pub fn key(document: &Document) -> Option<String> {
    match document.get_document("meta").ok()?.get("pk")? {
        Bson::Document(columns) if !columns.contains_key("$value") => {
            let parts: Vec<_> = columns
                .iter()
                .map(|(name, item)| format!("{}={}", visible(name), value(item, false)))
                .collect();
            Some(parts.join(" "))
        }
        single => Some(value(single, false)),
    }
}

fn table(document: &Document) -> Option<String> {
    let meta = document.get_document("meta").ok()?;
    let database = meta.get_str("db").ok().filter(|name| !name.is_empty())?;
    match meta.get_str("tbl").ok().filter(|name| !name.is_empty()) {
        Some(table) => Some(visible(&format!("{database}.{table}"))),
        None => Some(visible(database)),
    }
}

fn appearance(operation: &str) -> (char, Style) {
    match operation {
        "insert" => ('+', GOOD),
        "update" => ('~', WARNING),
        "delete" => ('-', BAD),
        "gap" | "incident" | "statement" => ('!', BAD),
        _ => ('*', HEADING),
    }
}

fn fields(document: &Document, name: &str, style: Style, detail: Detail) -> Vec<Line> {
    document
        .get_document(name)
        .map_or_else(|_| Vec::new(), |row| image(row, style, detail))
}

fn differences(document: &Document, detail: Detail) -> Vec<Line> {
    let before = document.get_document("before").ok();
    let after = document.get_document("after").ok();
    let changed = document.get_array("changed").ok();
    let is_opaque = |row: Option<&Document>| row.is_some_and(|row| row.contains_key("$bson"));
    if is_opaque(before) || is_opaque(after) {
        let mut lines = fields(document, "before", BAD, detail);
        lines.extend(fields(document, "after", GOOD, detail));
        return lines;
    }
    let shown = |row: Option<&Document>, name: &str| {
        row.and_then(|row| row.get(name))
            .map_or_else(|| "?".to_owned(), |item| value(item, detail.whole()))
    };
    let columns = changed.into_iter().flatten().filter_map(Bson::as_str);
    let lines = columns.map(|name| {
        Line::of(PLAIN, format!("{}: ", visible(name)))
            .with(BAD, shown(before, name))
            .with(DIM, " → ")
            .with(GOOD, shown(after, name))
    });
    let lines = fold(lines, detail);
    if lines.is_empty() {
        return vec![Line::of(DIM, "no column changed")];
    }
    lines
}

fn pair(name: &str, item: &Bson, style: Style, detail: Detail) -> Line {
    Line::of(PLAIN, format!("{}: ", visible(name))).with(style, value(item, detail.whole()))
}

/// One line for all, or one line each.
fn fold(parts: impl Iterator<Item = Line>, detail: Detail) -> Vec<Line> {
    if detail.full {
        return parts.collect();
    }
    let joined = parts.reduce(|line, part| line.with(DIM, ", ").and(part));
    joined.into_iter().collect()
}
