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
///
/// The two words may also end a comment, a text, or a query (`… FROM start transaction`, a table and its alias).
pub(super) fn opens_transaction(text: &str) -> bool {
    const LAST: &str = "TRANSACTION";
    let end = text.trim_end();
    let ends_so = end
        .len()
        .checked_sub(LAST.len())
        .and_then(|start| end.get(start..))
        .is_some_and(|end| end.eq_ignore_ascii_case(LAST));
    if !ends_so {
        return false;
    }
    let mut words = Words { rest: text };
    if words.exact_keyword("CREATE").is_none() || words.exact_keyword("TABLE").is_none() {
        return false;
    }
    let mut last = [String::new(), String::new()];
    while let Some(word) = words.next() {
        // The server's own words define columns and have no query.
        if word == "SELECT" {
            return false;
        }
        last = [std::mem::take(&mut last[1]), word];
    }
    last == ["START", LAST]
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
///
/// All of them: of a statement that moves rows from one table to another, either may be the one that a filter lets through.
pub(super) fn tables(text: &str) -> Vec<TableName> {
    let mut words = Words { rest: text };
    read_tables(&mut words).unwrap_or_default()
}

/// The grammar of MySQL's statements and of MariaDB's additions to them (OR REPLACE, IF EXISTS, SEQUENCE, CONVERT, WAIT).
fn read_tables(words: &mut Words<'_>) -> Option<Vec<TableName>> {
    let verb = words.keyword()?;
    match verb.as_str() {
        "CREATE" => {
            words.skip_phrase(&["OR", "REPLACE"]);
            match words
                .keyword_behind(&["TEMPORARY", "UNIQUE", "FULLTEXT", "SPATIAL", "VECTOR"])?
                .as_str()
            {
                "TABLE" | "SEQUENCE" => words
                    .skip_phrase(&["IF", "NOT", "EXISTS"])
                    .name()
                    .map(|name| vec![name]),
                "INDEX" => words.skip_phrase(&["IF", "NOT", "EXISTS"]).after_on(),
                _ => None,
            }
        }
        "ALTER" => match words
            .keyword_behind(&["ONLINE", "OFFLINE", "IGNORE"])?
            .as_str()
        {
            "TABLE" | "SEQUENCE" => {
                let mut names = vec![words.skip_phrase(&["IF", "EXISTS"]).name()?];
                words.other_tables_of_alter(&mut names);
                Some(names)
            }
            _ => None,
        },
        "DROP" => match words.keyword_behind(&["TEMPORARY"])?.as_str() {
            "TABLE" | "TABLES" | "SEQUENCE" => words.skip_phrase(&["IF", "EXISTS"]).list(),
            "INDEX" => words.skip_phrase(&["IF", "EXISTS"]).after_on(),
            _ => None,
        },
        "TRUNCATE" => words.skip_phrase(&["TABLE"]).name().map(|name| vec![name]),
        "RENAME" => match words.keyword()?.as_str() {
            "TABLE" | "TABLES" => {
                words.skip_phrase(&["IF", "EXISTS"]);
                let mut names = Vec::new();
                loop {
                    names.push(words.name()?);
                    // MariaDB: WAIT n or NOWAIT.
                    while words.keyword()? != "TO" {}
                    names.push(words.name()?);
                    if words.symbol(',').is_none() {
                        return Some(names);
                    }
                }
            }
            _ => None,
        },
        "ANALYZE" | "OPTIMIZE" | "REPAIR" => {
            match words
                .keyword_behind(&["NO_WRITE_TO_BINLOG", "LOCAL"])?
                .as_str()
            {
                "TABLE" | "TABLES" => words.list(),
                _ => None,
            }
        }
        _ => None,
    }
}

/// What follows the head of a comment that the server executes: `/*!80023 INVISIBLE */`, MariaDB's `/*M! … */`. Its end,
/// `*/`, stands where a blank may.
fn executable_comment(text: &str) -> Option<&str> {
    let code = text
        .strip_prefix("/*!")
        .or_else(|| text.strip_prefix("/*M!"))?;
    Some(code.trim_start_matches(|letter: char| letter.is_ascii_digit()))
}

/// Words of a statement, comments left out.
struct Words<'a> {
    rest: &'a str,
}

impl<'a> Words<'a> {
    /// `--` before a blank; elsewhere it is two minus signs.
    fn is_line_comment(&self) -> bool {
        let behind = self.rest.strip_prefix("--");
        behind.is_some_and(|rest| !rest.starts_with(|letter: char| !letter.is_whitespace()))
    }

    fn skip_blank(&mut self) {
        loop {
            self.rest = self.rest.trim_start();
            let end = if let Some(code) = executable_comment(self.rest) {
                Some(self.rest.len() - code.len())
            } else if self.rest.starts_with("*/") {
                Some(2)
            } else if self.rest.starts_with("/*") {
                let end = self.rest.find("*/").map(|at| at + 2);
                Some(end.unwrap_or(self.rest.len()))
            } else if self.rest.starts_with('#') || self.is_line_comment() {
                let end = self.rest.find('\n').map(|at| at + 1);
                Some(end.unwrap_or(self.rest.len()))
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

    /// The first keyword that is none of `skipped`.
    fn keyword_behind(&mut self, skipped: &[&str]) -> Option<String> {
        loop {
            let word = self.keyword()?;
            if !skipped.contains(&word.as_str()) {
                return Some(word);
            }
        }
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

    /// Passes over one word, quoted text or symbol; gives the word, in upper case.
    fn next(&mut self) -> Option<String> {
        self.skip_blank();
        let quote = self.rest.chars().next()?;
        if ['`', '"', '\''].contains(&quote) {
            // In text a backslash may take the meaning from a quote; where it does not (NO_BACKSLASH_ESCAPES), too much is
            // passed over, or too little: at worst a table more is found.
            let mut escaped = false;
            let end = self.rest.char_indices().skip(1).find(|(_, letter)| {
                let closes = *letter == quote && !escaped;
                escaped = *letter == '\\' && quote != '`' && !escaped;
                closes
            });
            self.rest = end.map_or("", |(at, _)| self.rest.get(at + 1..).unwrap_or(""));
            return Some(String::new());
        }
        match self.keyword() {
            Some(word) => Some(word),
            None => {
                self.rest = self.rest.get(quote.len_utf8()..)?;
                Some(String::new())
            }
        }
    }

    /// In the rest of an ALTER TABLE: the table's new name, and one that it exchanges rows with.
    fn other_tables_of_alter(&mut self, names: &mut Vec<TableName>) {
        let mut previous = String::new();
        while let Some(word) = self.next() {
            let is_name_next = match (previous.as_str(), word.as_str()) {
                // RENAME [TO | AS | =] name, but not RENAME COLUMN, INDEX, KEY.
                (_, "RENAME") => {
                    let before = self.rest;
                    let what = self.keyword();
                    match what.as_deref() {
                        Some("TO" | "AS") => true,
                        Some("COLUMN" | "INDEX" | "KEY") => false,
                        _ => {
                            self.rest = before;
                            let _ = self.symbol('=');
                            true
                        }
                    }
                }
                // EXCHANGE PARTITION p WITH TABLE name; MariaDB's CONVERT PARTITION p TO TABLE name, CONVERT TABLE name TO …
                ("WITH" | "TO" | "CONVERT", "TABLE") => true,
                _ => false,
            };
            if is_name_next {
                names.extend(self.name());
            }
            previous = word;
        }
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
            ("DROP INDEX IF EXISTS i ON a.t", vec![(Some("a"), "t")]),
            (
                "DROP TEMPORARY TABLE `a` /* generated by server */",
                vec![(None, "a")],
            ),
            (
                "DROP /*!40005 TEMPORARY */ TABLE IF EXISTS `ti2`, `b`",
                vec![(None, "ti2"), (None, "b")],
            ),
            ("CREATE OR REPLACE TABLE t (a INT)", vec![(None, "t")]),
            ("CREATE SEQUENCE IF NOT EXISTS a.s", vec![(Some("a"), "s")]),
            ("CREATE VECTOR INDEX i ON t (a)", vec![(None, "t")]),
            (
                "ALTER ONLINE TABLE IF EXISTS t ADD b INT",
                vec![(None, "t")],
            ),
            (
                "ALTER TABLE t ADD c INT COMMENT 'it''s \\' RENAME TO x', RENAME COLUMN a TO b, RENAME INDEX i TO j, RENAME TO a.u",
                vec![(None, "t"), (Some("a"), "u")],
            ),
            ("ALTER TABLE t RENAME = `u`", vec![(None, "t"), (None, "u")]),
            ("ALTER TABLE t RENAME u", vec![(None, "t"), (None, "u")]),
            (
                "ALTER TABLE p EXCHANGE PARTITION p1 WITH TABLE `x`.y WITHOUT VALIDATION",
                vec![(None, "p"), (Some("x"), "y")],
            ),
            (
                "ALTER TABLE p CONVERT PARTITION p1 TO TABLE y",
                vec![(None, "p"), (None, "y")],
            ),
            (
                "ALTER TABLE p CONVERT TABLE y TO PARTITION p1 VALUES LESS THAN (5)",
                vec![(None, "p"), (None, "y")],
            ),
            (
                "ALTER TABLE t CONVERT TO CHARACTER SET utf16",
                vec![(None, "t")],
            ),
            (
                "ALTER TABLE t COMMENT 'unclosed RENAME TO x",
                vec![(None, "t")],
            ),
            (
                "ALTER TABLE t ADD c INT DEFAULT (5--3), -- one\n RENAME TO u --",
                vec![(None, "t"), (None, "u")],
            ),
            (
                "RENAME TABLE IF EXISTS a WAIT 5 TO b",
                vec![(None, "a"), (None, "b")],
            ),
            (
                "ANALYZE NO_WRITE_TO_BINLOG TABLE a, b.c",
                vec![(None, "a"), (Some("b"), "c")],
            ),
            ("OPTIMIZE TABLE t", vec![(None, "t")]),
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
            "CREATE TABLE `t` (`a` int) START TRANSACTION"
        ));
        assert!(opens_transaction(
            "CREATE TABLE IF NOT EXISTS `t` (\n `select` int DEFAULT '#' /*!80023 INVISIBLE */\n) START TRANSACTION"
        ));
        for text in [
            "CREATE TABLE `t` (`a` int)",
            "CREATE TABLE t (a INT) # START TRANSACTION",
            "CREATE TABLE t (a INT) -- START TRANSACTION",
            "CREATE TABLE t (a INT) /* START TRANSACTION",
            "CREATE TABLE t SELECT * FROM start transaction",
            "CREATE VIEW v AS SELECT * FROM start transaction",
            "RANSACTION",
            "TRANSACTION",
        ] {
            assert!(!opens_transaction(text), "{text}");
        }
    }
}
