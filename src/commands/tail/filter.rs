//! Which changes are wanted: by table and by operation. Pure.

use bson::{Document, RawDocument, doc};
use regex::Regex;

use crate::event::Operation;

/// A pattern of table names: `shop.*`, `*.orders`, `orders` (of any database), or a regular expression between slashes.
#[derive(Debug, Clone)]
pub(super) struct TablePattern {
    text: String,
    matches: Regex,
    /// The expressions of database and table, where the pattern has them apart.
    parts: Option<(String, String)>,
}

impl PartialEq for TablePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for TablePattern {}

impl TablePattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let regex = |expression: &str| Regex::new(expression).map_err(|error| error.to_string());
        if text.is_empty() {
            return Err("it is empty; expected a table as in shop.orders, shop.*, orders, or /^shop[.](orders|items)$/".to_owned());
        }
        let inner = text
            .strip_prefix('/')
            .and_then(|text| text.strip_suffix('/'));
        let (matches, parts) = match inner {
            Some(expression) => (regex(expression)?, None),
            None => {
                let (database, table) = text.split_once('.').unwrap_or(("*", text));
                let (database, table) = (glob(database), glob(table));
                let whole = regex(&format!("(?s)^{database}[.]{table}$"))?;
                (
                    whole,
                    Some((format!("(?s)^{database}$"), format!("(?s)^{table}$"))),
                )
            }
        };
        Ok(Self {
            text: text.to_owned(),
            matches,
            parts,
        })
    }
}

/// The regular expression of a glob.
fn glob(text: &str) -> String {
    let mut expression = String::new();
    for character in text.chars() {
        match character {
            '*' => expression.push_str(".*"),
            '?' => expression.push('.'),
            other => expression.push_str(&regex::escape(&other.to_string())),
        }
    }
    expression
}

/// What is wanted; nothing said: everything.
#[derive(Debug, Default)]
pub(super) struct Filter<'a> {
    /// Of these tables.
    pub tables: &'a [TablePattern],
    /// Of these operations.
    pub operations: &'a [String],
}

impl Filter<'_> {
    /// What MongoDB can leave out by itself; it may give more than is wanted.
    pub(super) fn for_mongodb(&self) -> Document {
        let mut filter = Document::new();
        if !self.operations.is_empty() {
            filter.insert("op", doc! { "$in": self.operations });
        }
        let parts: Option<Vec<_>> = self
            .tables
            .iter()
            .map(|table| table.parts.as_ref())
            .collect();
        if let Some(parts) = parts.filter(|parts| !parts.is_empty()) {
            let mut any = vec![doc! { "op": Operation::Gap.name() }];
            any.extend(parts.iter().map(|(database, table)| {
                doc! { "meta.db": { "$regex": database }, "meta.tbl": { "$regex": table } }
            }));
            filter.insert("$or", any);
        }
        filter
    }

    /// Whether a change is wanted. What is missing may be of any table, so a gap is of all.
    pub(super) fn wants(&self, change: &RawDocument) -> bool {
        let operation = change.get_str("op").unwrap_or_default();
        if !self.operations.is_empty() && !self.operations.iter().any(|wanted| wanted == operation)
        {
            return false;
        }
        if self.tables.is_empty() || operation == Operation::Gap.name() {
            return true;
        }
        let Ok(meta) = change.get_document("meta") else {
            return true;
        };
        let part = |name| meta.get_str(name).unwrap_or_default();
        let table = format!("{}.{}", part("db"), part("tbl"));
        self.tables
            .iter()
            .any(|pattern| pattern.matches.is_match(&table))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::RawDocumentBuf;

    fn change(op: &str, database: &str, table: &str) -> RawDocumentBuf {
        let document = doc! { "op": op, "meta": { "db": database, "tbl": table } };
        RawDocumentBuf::try_from(&document).unwrap()
    }

    #[test]
    fn patterns_match_as_they_look() {
        for (pattern, database, table, is_wanted) in [
            ("shop.orders", "shop", "orders", true),
            ("shop.orders", "shop", "orders2", false),
            ("shop.*", "shop", "orders", true),
            ("shop.*", "shop", "", true),
            ("shop.*", "shop", "a.b", true),
            ("shop.*", "workshop", "orders", false),
            ("orders", "any", "orders", true),
            ("orders", "any", "reorders", false),
            ("*.order?", "any", "orders", true),
            ("s[a]op.*", "saop", "orders", false),
            ("/^shop[.]o/", "shop", "orders", true),
            ("/orders$/", "shop", "items", false),
        ] {
            let tables = [TablePattern::parse(pattern).unwrap()];
            let filter = Filter {
                tables: &tables,
                operations: &[],
            };
            let wanted = filter.wants(&change("insert", database, table));
            assert_eq!(wanted, is_wanted, "{pattern} and {database}.{table}");
            assert!(filter.wants(&change("gap", "", "")));
        }
        for wrong in ["", "/(/"] {
            assert!(TablePattern::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn an_operation_that_was_not_asked_for_is_left_out() {
        let operations = ["delete".to_owned()];
        let filter = Filter {
            tables: &[],
            operations: &operations,
        };
        assert!(filter.wants(&change("delete", "a", "b")));
        assert!(!filter.wants(&change("insert", "a", "b")));
        assert!(!filter.wants(&change("gap", "", "")));
    }
}
