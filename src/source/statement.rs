//! What a QUERY event says: the markers of a transaction, or a statement, and which tables a schema change is about.
//!
//! The markers are written by the server itself, always in the same words (`sql/binlog.cc`); a client's own `begin` never
//! reaches the binlog as text. Schema changes are the client's text. Only the tables that they name are looked for, to fill
//! `meta.db` and `meta.tbl` and to apply the filters; what is not recognized has no table and is always recorded.

/// A QUERY event's text, by what it means for the transaction it stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Statement<'a> {
    Begin,
    Commit,
    Rollback,
    /// With the savepoint's name, as the server prints it.
    Savepoint(&'a str),
    ReleaseSavepoint,
    /// With the savepoint's name.
    RollbackToSavepoint(&'a str),
    /// With the XA transaction's id, as the server prints it.
    XaStart(&'a str),
    XaEnd,
    XaCommit(&'a str),
    XaRollback(&'a str),
    /// Anything else: a schema change, or a data change logged as its text.
    Other,
}

/// Reads a QUERY event's text.
pub(super) fn classify(text: &str) -> Statement<'_> {
    // All markers are short; a statement of megabytes is not looked at.
    let head = text.get(..16).unwrap_or(text).to_ascii_uppercase();
    match head.as_str() {
        "BEGIN" => return Statement::Begin,
        "COMMIT" => return Statement::Commit,
        "ROLLBACK" => return Statement::Rollback,
        _ => {}
    }
    let after = |prefix: &str| {
        if head.starts_with(prefix) {
            text.get(prefix.len()..).map(str::trim)
        } else {
            None
        }
    };
    if let Some(id) = after("XA START ") {
        Statement::XaStart(id)
    } else if let Some(id) = after("XA COMMIT ") {
        Statement::XaCommit(id)
    } else if let Some(id) = after("XA ROLLBACK ") {
        Statement::XaRollback(id)
    } else if head.starts_with("XA END ") {
        Statement::XaEnd
    } else if let Some(name) = after("SAVEPOINT ") {
        Statement::Savepoint(name)
    } else if head.starts_with("RELEASE SAVEPOIN") {
        Statement::ReleaseSavepoint
    } else if let Some(name) = after("ROLLBACK TO ") {
        Statement::RollbackToSavepoint(name)
    } else {
        Statement::Other
    }
}

/// Whether a schema change opens a transaction of rows: CREATE TABLE … SELECT is logged as
/// `CREATE TABLE … START TRANSACTION` with the rows after it (manual: "Atomic Data Definition Statement Support").
pub(super) fn opens_transaction(text: &[u8]) -> bool {
    const SUFFIX: &[u8] = b"START TRANSACTION";
    let text = text.trim_ascii_end();
    text.len()
        .checked_sub(SUFFIX.len())
        .and_then(|start| text.get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(SUFFIX))
}

/// A table that a statement names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct TableName {
    /// The database, where the statement says it; else the session's default holds.
    pub(super) database: Option<String>,
    /// The table.
    pub(super) table: String,
}

/// The tables that a schema change is about; empty when it is about something else, or is not understood.
pub(super) fn tables(text: &str) -> Vec<TableName> {
    let mut words = Words { rest: text };
    read_tables(&mut words).unwrap_or_default()
}

fn read_tables(words: &mut Words<'_>) -> Option<Vec<TableName>> {
    match words.keyword()?.as_str() {
        "CREATE" => {
            let mut word = words.keyword()?;
            while ["TEMPORARY", "UNIQUE", "FULLTEXT", "SPATIAL"].contains(&word.as_str()) {
                word = words.keyword()?;
            }
            match word.as_str() {
                "TABLE" => words
                    .skip_phrase(&["IF", "NOT", "EXISTS"])
                    .name()
                    .map(|name| vec![name]),
                "INDEX" => words.after_on(),
                _ => None,
            }
        }
        "ALTER" => match words.keyword()?.as_str() {
            "TABLE" => words.name().map(|name| vec![name]),
            _ => None,
        },
        "DROP" => match words.keyword()?.as_str() {
            "TABLE" => words.skip_phrase(&["IF", "EXISTS"]).list(),
            "INDEX" => words.after_on(),
            _ => None,
        },
        "TRUNCATE" => words.skip_phrase(&["TABLE"]).name().map(|name| vec![name]),
        "RENAME" => match words.keyword()?.as_str() {
            "TABLE" | "TABLES" => {
                let mut names = Vec::new();
                loop {
                    names.push(words.name()?);
                    words.exact_keyword("TO")?;
                    names.push(words.name()?);
                    if words.symbol(',').is_none() {
                        return Some(names);
                    }
                }
            }
            _ => None,
        },
        _ => None,
    }
}

/// Words of a statement, comments left out.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let end = if self.rest.starts_with("/*") && !self.rest.starts_with("/*!") {
                self.rest.find("*/").map(|at| at + 2)
            } else if self.rest.starts_with("-- ") || self.rest.starts_with('#') {
                self.rest.find('\n').map(|at| at + 1)
            } else {
                None
            };
            match end.and_then(|end| self.rest.get(end..)) {
                Some(rest) => self.rest = rest,
                None => return,
            }
        }
    }

    fn bare(&mut self) -> Option<&'a str> {
        self.skip_blank();
        let end = self
            .rest
            .find(|letter: char| {
                !(letter.is_alphanumeric() || letter == '_' || letter == '$' || !letter.is_ascii())
            })
            .unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at_checked(end)?;
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn keyword(&mut self) -> Option<String> {
        self.bare().map(str::to_ascii_uppercase)
    }

    fn exact_keyword(&mut self, expected: &str) -> Option<()> {
        (self.keyword()? == expected).then_some(())
    }

    fn symbol(&mut self, symbol: char) -> Option<()> {
        self.skip_blank();
        self.rest = self.rest.strip_prefix(symbol)?;
        Some(())
    }

    fn skip_phrase(&mut self, phrase: &[&str]) -> &mut Self {
        let before = self.rest;
        if !phrase.iter().all(|word| self.exact_keyword(word).is_some()) {
            self.rest = before;
        }
        self
    }

    fn identifier(&mut self) -> Option<String> {
        self.skip_blank();
        for quote in ['`', '"'] {
            let Some(mut rest) = self.rest.strip_prefix(quote) else {
                continue;
            };
            let mut name = String::new();
            loop {
                let (part, after) = rest.split_once(quote)?;
                name.push_str(part);
                // A doubled quote stands for itself.
                match after.strip_prefix(quote) {
                    Some(more) => {
                        name.push(quote);
                        rest = more;
                    }
                    None => {
                        self.rest = after;
                        return Some(name);
                    }
                }
            }
        }
        self.bare().map(str::to_owned)
    }

    fn name(&mut self) -> Option<TableName> {
        let first = self.identifier()?;
        if self.symbol('.').is_some() {
            return Some(TableName {
                database: Some(first),
                table: self.identifier()?,
            });
        }
        Some(TableName {
            database: None,
            table: first,
        })
    }

    fn list(&mut self) -> Option<Vec<TableName>> {
        let mut names = vec![self.name()?];
        while self.symbol(',').is_some() {
            names.push(self.name()?);
        }
        Some(names)
    }

    /// `INDEX name [USING …] ON table`.
    fn after_on(&mut self) -> Option<Vec<TableName>> {
        self.identifier()?;
        loop {
            if self.keyword()? == "ON" {
                return self.name().map(|name| vec![name]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_markers_are_recognized_and_a_statement_is_not_one() {
        let table = [
            ("BEGIN", Statement::Begin),
            ("COMMIT", Statement::Commit),
            ("ROLLBACK", Statement::Rollback),
            ("SAVEPOINT `a`", Statement::Savepoint("`a`")),
            ("RELEASE SAVEPOINT `a`", Statement::ReleaseSavepoint),
            ("ROLLBACK TO `a`", Statement::RollbackToSavepoint("`a`")),
            ("XA START X'61',X'',1", Statement::XaStart("X'61',X'',1")),
            ("XA END X'61',X'',1", Statement::XaEnd),
            ("XA COMMIT X'61',X'',1", Statement::XaCommit("X'61',X'',1")),
            (
                "XA ROLLBACK X'61',X'',1",
                Statement::XaRollback("X'61',X'',1"),
            ),
            ("BEGIN_NOT", Statement::Other),
            ("COMMITTEE", Statement::Other),
            ("", Statement::Other),
            ("ééééééééééééééééééé", Statement::Other),
        ];
        for (text, expected) in table {
            assert_eq!(classify(text), expected, "{text}");
        }
    }

    #[test]
    fn the_tables_of_a_schema_change_are_found() {
        let table = [
            ("CREATE TABLE t (a INT)", vec![(None, "t")]),
            (
                "create table if not exists shop.`or``der` (a int)",
                vec![(Some("shop"), "or`der")],
            ),
            (
                "/* tool */ ALTER TABLE `käse`.`größe` ADD b INT",
                vec![(Some("käse"), "größe")],
            ),
            (
                "DROP TABLE IF EXISTS `a`, b.c /* generated by server */",
                vec![(None, "a"), (Some("b"), "c")],
            ),
            ("TRUNCATE t", vec![(None, "t")]),
            ("TRUNCATE TABLE t", vec![(None, "t")]),
            (
                "RENAME TABLE a TO b, c TO d.e",
                vec![(None, "a"), (None, "b"), (None, "c"), (Some("d"), "e")],
            ),
            (
                "CREATE UNIQUE INDEX i USING BTREE ON t (a)",
                vec![(None, "t")],
            ),
            ("DROP INDEX i ON t", vec![(None, "t")]),
            ("CREATE USER u", vec![]),
            ("GRANT ALL ON *.* TO u", vec![]),
            ("CREATE TABLE", vec![]),
            ("ALTER TABLE `unclosed", vec![]),
            ("", vec![]),
        ];
        for (text, expected) in table {
            let found = tables(text);
            let found: Vec<_> = found
                .iter()
                .map(|name| (name.database.as_deref(), name.table.as_str()))
                .collect();
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn only_create_table_select_opens_a_transaction_of_rows() {
        assert!(opens_transaction(
            b"CREATE TABLE `t` (`a` int) START TRANSACTION"
        ));
        assert!(!opens_transaction(b"CREATE TABLE `t` (`a` int)"));
        assert!(!opens_transaction(b"RANSACTION"));
    }
}
