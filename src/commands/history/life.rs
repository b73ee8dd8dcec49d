//! The life of a row, folded from its changes: what became of it. Pure.

use bson::{Bson, Document, doc};

use super::key::canonical;
use crate::commands::show;

/// What became of a row under one key.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// It is there, and looks like this.
    Present(Document),
    /// It was deleted.
    Deleted,
    /// An update gave it this key.
    Moved(Bson),
    /// It went with its table, by this `n`.
    Gone(i64),
}

/// A key, and what became of the row that had it.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) key: Bson,
    pub(super) state: State,
    /// The `n` of something later that may have changed it.
    pub(super) doubt: Option<i64>,
}

/// What a statement that is recorded as its text does to the rows of its table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Interruption {
    /// They are gone.
    Ends,
    /// They may be others.
    MayChange,
    /// Nothing.
    None,
}

/// All keys that the row had.
#[derive(Debug, Default)]
pub(super) struct Life(Vec<Row>);

impl Life {
    /// Takes in the next change. `moved_to`: the key that an update gave the row.
    pub(super) fn take_in(&mut self, change: &Document, moved_to: Option<&Bson>) {
        let meta = change.get_document("meta").cloned().unwrap_or_default();
        let image = |name| change.get_document(name).cloned().unwrap_or_default();
        let n = change.get_i64("n").unwrap_or_default();
        match (change.get_str("op").unwrap_or_default(), meta.get("pk")) {
            ("insert", Some(key)) => self.set(key, State::Present(image("after"))),
            ("delete", Some(key)) => self.set(key, State::Deleted),
            ("update", Some(key)) => {
                let (before, after) = (image("before"), image("after"));
                let is_opaque = |image: &Document| image.len() == 1 && image.contains_key("$bson");
                let mut row = match self.find(key).map(|row| &row.state) {
                    Some(State::Present(row)) if !is_opaque(row) => row.clone(),
                    _ => Document::new(),
                };
                if is_opaque(&after) {
                    row = Document::new();
                }
                // An image may lack columns that did not change.
                for (name, value) in before
                    .into_iter()
                    .filter(|(name, _)| name != "$bson")
                    .chain(after)
                {
                    row.insert(name, value);
                }
                match moved_to {
                    None => self.set(key, State::Present(row)),
                    Some(new) => {
                        self.set(key, State::Moved(new.clone()));
                        self.set(new, State::Present(row));
                    }
                }
            }
            (operation, _) => {
                let query = meta.get_str("query").unwrap_or_default();
                let interruption = interruption(operation, query);
                for row in &mut self.0 {
                    match (interruption, &row.state) {
                        (Interruption::Ends, State::Present(_)) => row.state = State::Gone(n),
                        (Interruption::MayChange, _) => row.doubt = Some(n),
                        _ => {}
                    }
                }
            }
        }
    }

    /// What there is, in the order in which the keys came up.
    pub(super) fn rows(&self) -> &[Row] {
        &self.0
    }

    fn find(&self, key: &Bson) -> Option<&Row> {
        let wanted = canonical(key);
        self.0.iter().find(|row| canonical(&row.key) == wanted)
    }

    fn set(&mut self, key: &Bson, state: State) {
        let wanted = canonical(key);
        let row = Row {
            key: key.clone(),
            state,
            doubt: None,
        };
        match self.0.iter_mut().find(|row| canonical(&row.key) == wanted) {
            Some(known) => *known = row,
            None => self.0.push(row),
        }
    }
}

impl Row {
    /// As `--json` tells it.
    pub(super) fn document(&self) -> Document {
        let (state, row) = match &self.state {
            State::Present(row) => ("present", Some(("row", Bson::Document(row.clone())))),
            State::Deleted => ("deleted", None),
            State::Moved(key) => ("moved", Some(("to", key.clone()))),
            State::Gone(n) => ("gone", Some(("by", Bson::Int64(*n)))),
        };
        let mut document = doc! { "key": self.key.clone(), "state": state };
        document.extend(row.map(|(name, value)| (name.to_owned(), value)));
        document.extend(
            self.doubt
                .map(|n| ("doubtful_since".to_owned(), Bson::Int64(n))),
        );
        document
    }
}

/// What a document without rows does to the rows of a table that it names.
pub(super) fn interruption(operation: &str, query: &str) -> Interruption {
    match operation {
        "gap" | "statement" | "incident" => return Interruption::MayChange,
        "ddl" => {}
        _ => return Interruption::None,
    }
    let mut text = query.trim_start();
    while let Some(comment) = text
        .strip_prefix("/*")
        .filter(|text| !text.starts_with('!'))
    {
        text = comment
            .split_once("*/")
            .map_or("", |(_, rest)| rest)
            .trim_start();
    }
    let mut words = text.split_whitespace().map(str::to_ascii_uppercase);
    let words = [
        words.next().unwrap_or_default(),
        words.next().unwrap_or_default(),
    ];
    match [words[0].as_str(), words[1].as_str()] {
        ["TRUNCATE", _] | ["DROP", "TABLE" | "TABLES" | "DATABASE" | "SCHEMA"] => {
            Interruption::Ends
        }
        // OR REPLACE
        ["CREATE", "OR"] if show::visible(text).to_ascii_uppercase().contains(" TABLE ") => {
            Interruption::Ends
        }
        ["ALTER" | "RENAME", _] => Interruption::MayChange,
        _ => Interruption::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(
        n: i64,
        op: &str,
        key: i32,
        before: Option<Document>,
        after: Option<Document>,
    ) -> Document {
        let mut change = doc! { "n": n, "op": op, "meta": { "pk": key } };
        change.extend(before.map(|image| ("before".to_owned(), image.into())));
        change.extend(after.map(|image| ("after".to_owned(), image.into())));
        change
    }

    #[test]
    fn what_became_of_a_row_is_folded_from_its_changes() {
        let mut life = Life::default();
        life.take_in(
            &change(1, "insert", 1, None, Some(doc! { "id": 1, "v": "a" })),
            None,
        );
        // An image that has only what changed.
        life.take_in(
            &change(
                2,
                "update",
                1,
                Some(doc! { "id": 1 }),
                Some(doc! { "v": "b" }),
            ),
            None,
        );
        let row = doc! { "id": 1, "v": "b" };
        assert_eq!(life.rows()[0].state, State::Present(row));
        let moved = change(
            3,
            "update",
            1,
            Some(doc! { "id": 1, "v": "b" }),
            Some(doc! { "id": 2, "v": "b" }),
        );
        life.take_in(&moved, Some(&Bson::Int32(2)));
        let alter =
            doc! { "n": 4_i64, "op": "ddl", "meta": { "query": "ALTER TABLE t ADD x INT" } };
        life.take_in(&alter, None);
        let states: Vec<_> = life.rows().iter().map(|row| row.state.clone()).collect();
        assert_eq!(
            states,
            [
                State::Moved(Bson::Int32(2)),
                State::Present(doc! { "id": 2, "v": "b" })
            ]
        );
        assert_eq!(life.rows()[1].doubt, Some(4));
        life.take_in(&change(5, "insert", 1, None, Some(doc! { "id": 1 })), None);
        life.take_in(&change(6, "delete", 1, Some(doc! { "id": 1 }), None), None);
        let truncate = doc! { "n": 7_i64, "op": "ddl", "meta": { "query": "TRUNCATE t" } };
        life.take_in(&truncate, None);
        let states: Vec<_> = life.rows().iter().map(|row| row.state.clone()).collect();
        assert_eq!(states, [State::Deleted, State::Gone(7)]);
    }

    #[test]
    fn statements_that_take_rows_away_are_known() {
        for (query, expected) in [
            ("TRUNCATE TABLE t", Interruption::Ends),
            ("/* ApplicationName=x */ truncate t", Interruption::Ends),
            (
                "DROP TABLE `t` /* generated by server */",
                Interruption::Ends,
            ),
            ("drop database shop", Interruption::Ends),
            ("CREATE OR REPLACE TABLE t (id INT)", Interruption::Ends),
            ("CREATE OR REPLACE VIEW t AS SELECT 1", Interruption::None),
            ("ALTER TABLE t DROP PARTITION p0", Interruption::MayChange),
            ("RENAME TABLE t TO u", Interruption::MayChange),
            ("CREATE TABLE t (id INT)", Interruption::None),
            ("ANALYZE TABLE t", Interruption::None),
        ] {
            assert_eq!(interruption("ddl", query), expected, "{query}");
        }
        assert_eq!(interruption("gap", ""), Interruption::MayChange);
    }
}
