//! The fold: the audit documents, replayed in order of `n`, must give the tables exactly as they are in MySQL.
//!
//! It is strict on the way too: an update or delete must find the very row that its `before` describes. Rows are compared
//! whole and counted, so a table without a key is no special case.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use mongodb::bson::{Bson, Document};

use super::mongo::{self, Deployment};
use super::mysql::Mysqld;
use super::values;

/// How many examples a report names of each kind of difference.
const EXAMPLES: usize = 5;

/// The rows of a table, each with the number of times it is there.
#[derive(Clone, Debug, Default)]
pub struct Table {
    rows: BTreeMap<String, (Document, usize)>,
}

impl Table {
    pub fn insert(&mut self, row: &Document) {
        self.rows
            .entry(values::canonical_row(row))
            .or_insert_with(|| (row.clone(), 0))
            .1 += 1;
    }

    /// Whether the row was there.
    pub fn remove(&mut self, row: &Document) -> bool {
        let key = values::canonical_row(row);
        match self.rows.get_mut(&key) {
            None => false,
            Some((_, 1)) => self.rows.remove(&key).is_some(),
            Some((_, count)) => {
                *count -= 1;
                true
            }
        }
    }

    pub fn clear(&mut self) {
        self.rows.clear();
    }

    /// The number of rows.
    pub fn len(&self) -> usize {
        self.rows.values().map(|(_, count)| count).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The rows, each as often as it is there.
    pub fn rows(&self) -> impl Iterator<Item = &Document> {
        self.rows
            .values()
            .flat_map(|(row, count)| std::iter::repeat_n(row, *count))
    }

    /// Changes every row, as an ALTER TABLE does.
    pub fn alter(&mut self, change: impl Fn(&mut Document)) {
        let rows: Vec<Document> = self.rows().cloned().collect();
        self.clear();
        for mut row in rows {
            change(&mut row);
            self.insert(&row);
        }
    }

    /// What differs, with a few examples; empty when nothing does.
    pub fn differences(&self, actual: &Self) -> Vec<String> {
        let count = |table: &Self, key: &str| table.rows.get(key).map_or(0, |(_, count)| *count);
        let keys: BTreeSet<&String> = self.rows.keys().chain(actual.rows.keys()).collect();
        let different: Vec<_> = keys
            .into_iter()
            .filter(|key| count(self, key) != count(actual, key))
            .collect();
        let mut lines: Vec<String> = different
            .iter()
            .take(2 * EXAMPLES)
            .map(|key| {
                format!(
                    "{} times in the fold, {} times in MySQL: {key}",
                    count(self, key),
                    count(actual, key)
                )
            })
            .collect();
        if different.len() > lines.len() {
            lines.push(format!("and {} more", different.len() - lines.len()));
        }
        lines
    }
}

/// Tables by `db.table`.
pub type Tables = BTreeMap<String, Table>;

/// What a DDL document does to the tables, beyond what [`fold`] knows by itself.
pub type Ddl<'a> = &'a dyn Fn(&mut Tables, &Document);

/// The result of replaying documents.
#[derive(Debug, Default)]
pub struct Fold {
    pub tables: Tables,
    /// Documents that cannot follow the ones before them.
    pub problems: Vec<String>,
}

/// Replays documents, which must be in the order of `n`.
///
/// TRUNCATE, DROP TABLE, DROP DATABASE and RENAME TABLE are understood; after DDL that changes the columns of rows that are
/// there already, use [`fold_with`].
pub fn fold(changes: &[Document]) -> Fold {
    fold_with(changes, &|_, _| ())
}

/// [`fold`], with what the test's own DDL does to the rows, for example
/// `tables.entry("shop.t".into()).or_default().alter(|row| { row.insert("colour", Bson::Null); })`.
pub fn fold_with(changes: &[Document], ddl: Ddl<'_>) -> Fold {
    let mut fold = Fold::default();
    for change in changes {
        fold.apply(change, ddl);
    }
    fold
}

impl Fold {
    /// Replays one more document.
    pub fn apply(&mut self, change: &Document, ddl: Ddl<'_>) {
        if let Err(problem) = apply(&mut self.tables, change, ddl) {
            self.problems.push(format!("{problem}: {change}"));
        }
    }
}

fn apply(tables: &mut Tables, change: &Document, ddl: Ddl<'_>) -> Result<(), String> {
    let op = change
        .get_str("op")
        .map_err(|error| format!("no op ({error})"))?;
    match op {
        "insert" | "update" | "delete" => apply_row(tables, change, op),
        "ddl" => {
            apply_ddl(tables, change)?;
            ddl(tables, change);
            Ok(())
        }
        "xa_commit" | "xa_rollback" | "gap" => Ok(()), // nothing that a table shows by itself
        other => Err(format!("the fold does not know op {other:?}")),
    }
}

fn apply_row(tables: &mut Tables, change: &Document, op: &str) -> Result<(), String> {
    let image = |name: &str| {
        change
            .get_document(name)
            .map_err(|error| format!("{op} without {name} ({error})"))
    };
    let meta = change
        .get_document("meta")
        .map_err(|error| format!("no meta ({error})"))?;
    let (Ok(database), Ok(table)) = (meta.get_str("db"), meta.get_str("tbl")) else {
        return Err("no meta.db and meta.tbl".to_owned());
    };
    let table = tables.entry(format!("{database}.{table}")).or_default();
    if op != "insert" && !table.remove(image("before")?) {
        return Err(format!("{op} of a row that is not there"));
    }
    if op != "delete" {
        table.insert(image("after")?);
    }
    Ok(())
}

fn apply_ddl(tables: &mut Tables, change: &Document) -> Result<(), String> {
    let meta = change
        .get_document("meta")
        .map_err(|error| format!("no meta ({error})"))?;
    let query = meta
        .get_str("query")
        .map_err(|error| format!("ddl without meta.query ({error})"))?;
    let words = words(query);
    let mut rest: Vec<&str> = words.iter().map(String::as_str).collect();
    let verb = rest.first().map(|word| word.to_uppercase());
    let object = rest.get(1).map(|word| word.to_uppercase());
    rest.retain(|word| {
        !["IF", "EXISTS", "TABLE", "TABLES"].contains(&word.to_uppercase().as_str())
    });
    let rest = rest.get(1..).unwrap_or_default();
    let name = |word: &str| {
        if word.contains('.') {
            word.to_owned()
        } else {
            format!("{}.{word}", meta.get_str("db").unwrap_or_default())
        }
    };
    match (verb.as_deref(), object.as_deref()) {
        (Some("TRUNCATE"), _) => {
            tables.remove(&name(rest.first().ok_or("truncate of nothing")?));
        }
        // CREATE OR REPLACE TABLE, MariaDB
        (Some("CREATE"), Some("OR")) => {
            let table = rest.get(2).ok_or("a replacement of nothing")?;
            let table = table.split('(').next().unwrap_or(table);
            tables.remove(&name(table));
        }
        (Some("DROP"), Some("TABLE" | "TABLES")) => {
            rest.iter().filter(|word| **word != ",").for_each(|word| {
                tables.remove(&name(word));
            })
        }
        (Some("DROP"), Some("DATABASE" | "SCHEMA")) => {
            let prefix = format!("{}.", rest.get(1).ok_or("drop of nothing")?);
            tables.retain(|table, _| !table.starts_with(&prefix));
        }
        (Some("RENAME"), Some("TABLE" | "TABLES")) => {
            for pair in rest.split(|word| *word == ",") {
                let [from, _to, to] = pair else {
                    return Err("a rename that the fold cannot read".to_owned());
                };
                if let Some(table) = tables.remove(&name(from)) {
                    tables.insert(name(to), table);
                }
            }
        }
        _ => (),
    }
    Ok(())
}

/// The words of a statement, without comments, back-quotes and the final semicolon; a comma is a word.
fn words(query: &str) -> Vec<String> {
    let mut text = String::new();
    let mut rest = query;
    while let Some((before, comment)) = rest.split_once("/*") {
        text.push_str(before);
        text.push(' ');
        rest = comment.split_once("*/").map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    text.replace(',', " , ")
        .replace([';', '`'], "")
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}

/// A table of MySQL as it is now.
pub async fn table_now(mysqld: &Mysqld, name: &str) -> Table {
    let quoted = name
        .split('.')
        .map(|part| format!("`{part}`"))
        .collect::<Vec<_>>()
        .join(".");
    let mut table = Table::default();
    for row in values::select(&mut mysqld.root().await, &format!("SELECT * FROM {quoted}")).await {
        table.insert(&row);
    }
    table
}

/// Everything that must hold once the daemon has caught up; what does not hold, one line each.
///
/// - `n` is 1, 2, 3 … N, and (gtid, row) is unique
/// - the documents folded in that order give the named tables as they are in MySQL
/// - no batch is pending in staging
/// - the saved offset is exactly what MySQL has executed, and its `n` is N
pub async fn check(
    mysqld: &Mysqld,
    mongod: &dyn Deployment,
    database: &str,
    tables: &[&str],
    ddl: Ddl<'_>,
) -> Vec<String> {
    let database = mongo::connect(&mongod.uri()).await.database(database);
    let changes = mongo::changes(&database).await;
    let mut problems = sequence(&changes);

    let fold = fold_with(&changes, ddl);
    problems.extend(fold.problems.iter().take(EXAMPLES).cloned());
    let missing = Table::default();
    for name in tables {
        let actual = table_now(mysqld, name).await;
        let differences = fold
            .tables
            .get(*name)
            .unwrap_or(&missing)
            .differences(&actual);
        problems.extend(
            differences
                .into_iter()
                .map(|difference| format!("{name}: {difference}")),
        );
    }

    let pending = mongo::pending(&database).await;
    if pending != 0 {
        problems.push(format!("{pending} batches are pending in staging"));
    }
    problems.extend(offset(mysqld, &database, changes.len()).await);
    problems
}

/// [`check`] without DDL of its own; panics with everything that does not hold.
pub async fn assert_exact(
    mysqld: &Mysqld,
    mongod: &dyn Deployment,
    database: &str,
    tables: &[&str],
) {
    assert_exact_with(mysqld, mongod, database, tables, &|_, _| ()).await;
}

/// [`check`]; panics with everything that does not hold.
pub async fn assert_exact_with(
    mysqld: &Mysqld,
    mongod: &dyn Deployment,
    database: &str,
    tables: &[&str],
    ddl: Ddl<'_>,
) {
    let problems = check(mysqld, mongod, database, tables, ddl).await;
    assert!(
        problems.is_empty(),
        "the audit is not exact:\n{}",
        problems.join("\n")
    );
}

/// `n` is 1…N without a gap, and (gtid, row) is unique.
pub fn sequence(changes: &[Document]) -> Vec<String> {
    let mut problems = Vec::new();
    let mut seen = BTreeMap::new();
    for (change, expected) in changes.iter().zip(1_i64..) {
        match change.get("n") {
            Some(Bson::Int64(n)) if *n == expected => (),
            other => {
                problems.push(format!("n is {other:?} where {expected} should stand (later ones are not looked at): {change}"));
                break;
            }
        }
    }
    for change in changes {
        let Ok(meta) = change.get_document("meta") else {
            continue;
        };
        let (Ok(gtid), Some(row)) = (meta.get_str("gtid"), meta.get("row")) else {
            continue;
        };
        if let Some(first) = seen.insert((gtid, values::canonical(row)), change.get("n")) {
            let mut line = format!("gtid {gtid} row {row} is there twice");
            let _ = write!(line, ": n = {first:?} and {:?}", change.get("n"));
            problems.push(line);
        }
    }
    problems.truncate(2 * EXAMPLES);
    problems
}

/// The saved offset is what MySQL has executed, neither less nor more.
async fn offset(mysqld: &Mysqld, database: &mongodb::Database, count: usize) -> Vec<String> {
    let Some(offset) = mongo::offset(database).await else {
        return vec!["there is no offset document".to_owned()];
    };
    let mut problems = Vec::new();
    let saved = offset.get_str("gtid").unwrap_or_default();
    let executed = mysqld.executed_gtid().await;
    if !(mysqld.gtid_subset(saved, &executed).await && mysqld.gtid_subset(&executed, saved).await) {
        problems.push(format!(
            "the saved offset is {saved:?}, MySQL has executed {executed:?}"
        ));
    }
    if offset.get("n") != Some(&Bson::Int64(count as i64)) {
        problems.push(format!(
            "the offset's n is {:?}, there are {count} documents",
            offset.get("n")
        ));
    }
    problems
}
