//! Tables of MariaDB whose rows cannot be read: looked for at start, so that no row has to come first.
//!
//! Two kinds of column: COMPRESSED ones, of included tables; and times of MariaDB 5.3's format with fractional digits
//! (`mysql56_temporal_format=OFF`, or a table that was made before 10.1 and never rebuilt), of any table: the binlog does not
//! tell how many digits, and so neither how long such a row is nor how many rows come with it.
//!
//! It guarantees nothing about tables that are made later, nor about those that were altered since their rows were written:
//! the stream looks at each table for itself. So where information_schema gives no answer in time, the start goes on without.
//!
//! Where the marks come from: `Field::sql_type` and its likes in MariaDB's sql/field.cc, which write them as comments.

use std::collections::BTreeMap;
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::error::{Error, Kind, Result};
use crate::source::connect::classify_after_login;

/// Longest wait for information_schema. It opens each table: 10,000 take some seconds with cold caches. Less than the reader
/// waits for all of its looking.
const PATIENCE: Duration = Duration::from_secs(15);

/// Tables that are named with the statement that mends them; of more only the number.
const TABLES_NAMED: usize = 20;

const COMPRESSED: &str = "/*M!100301 COMPRESSED*/";
const OLD_TIME: &str = "/* mariadb-5.3 */";

/// Candidates: a label of an ENUM may hold the marks as well.
const QUERY: &str = "SELECT TABLE_SCHEMA, TABLE_NAME, COLUMN_NAME, COLUMN_TYPE FROM information_schema.COLUMNS \
     WHERE TABLE_SCHEMA NOT IN ('mysql', 'sys', 'information_schema', 'performance_schema') \
     AND COLUMN_TYPE LIKE '%*/' ORDER BY 1, 2, ORDINAL_POSITION";

const TABLE_TYPE: &str =
    "SELECT TABLE_TYPE FROM information_schema.TABLES WHERE TABLE_SCHEMA = ? AND TABLE_NAME = ?";

/// What is wrong with a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refused {
    Compressed,
    OldFraction,
}

/// What COLUMN_TYPE says.
fn refused(column_type: &str) -> Option<Refused> {
    let column_type = column_type.trim_end();
    if column_type.ends_with(COMPRESSED) {
        return Some(Refused::Compressed);
    }
    let old_time = column_type.strip_suffix(OLD_TIME)?.trim_end();
    old_time.ends_with(')').then_some(Refused::OldFraction)
}

/// Asks a MariaDB server for tables that cannot be read; `includes` is asked with `database.table`.
///
/// # Errors
/// [`Kind::SourceSetting`] with the tables, their columns and the statements that mend them.
pub async fn check(connection: &mut Conn, includes: impl Fn(&str) -> bool) -> Result<()> {
    match tokio::time::timeout(PATIENCE, find(connection, includes)).await {
        Ok(Ok(problems)) if problems.is_empty() => Ok(()),
        Ok(Ok(problems)) => {
            let (named, others) = problems.split_at(problems.len().min(TABLES_NAMED));
            let mut text = named.join("; ");
            if !others.is_empty() {
                text.push_str(&format!("; and {} more tables", others.len()));
            }
            Err(Error::new(
                Kind::SourceSetting,
                format!("the mariadb server has tables that sdl cannot read: {text}"),
            ))
        }
        Ok(Err(error)) => Err(error),
        Err(_) => {
            tracing::warn!(
                "information_schema.COLUMNS gave no answer within {} s: not looked for tables with compressed columns; one \
                 that is written to will stop the stream",
                PATIENCE.as_secs()
            );
            Ok(())
        }
    }
}

/// One text for each table with such columns.
async fn find(connection: &mut Conn, includes: impl Fn(&str) -> bool) -> Result<Vec<String>> {
    let doing = "ask the mariadb server for columns that cannot be read";
    let failed = |error| classify_after_login(doing, &error);
    let rows: Vec<(String, String, String, String)> =
        connection.query(QUERY).await.map_err(failed)?;
    let mut tables: BTreeMap<(String, String), Vec<(String, Refused)>> = BTreeMap::new();
    for (database, table, column, column_type) in rows {
        match refused(&column_type) {
            Some(Refused::Compressed) if !includes(&format!("{database}.{table}")) => {}
            Some(refused) => {
                let columns = tables.entry((database, table)).or_default();
                columns.push((column, refused));
            }
            None => {}
        }
    }
    let mut problems = Vec::new();
    for ((database, table), columns) in tables {
        // A view shows the types of its tables.
        let of_table = (&database, &table);
        let table_type: Option<String> = connection
            .exec_first(TABLE_TYPE, of_table)
            .await
            .map_err(failed)?;
        if table_type.is_none_or(|table_type| table_type == "VIEW") {
            continue;
        }
        // What MODIFY leaves out of a definition is lost, so it is taken from the table's own.
        let name = format!("{}.{}", quoted(&database), quoted(&table));
        let created: Option<(String, String)> = connection
            .query_first(format!("SHOW CREATE TABLE {name}"))
            .await
            .map_err(failed)?;
        let definition = created.unwrap_or_default().1;
        problems.push(problem(&database, &table, &columns, &definition));
    }
    Ok(problems)
}

fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

/// What is wrong with a table, with the statement that mends it. `definition` is that of SHOW CREATE TABLE.
fn problem(database: &str, table: &str, columns: &[(String, Refused)], definition: &str) -> String {
    let name = format!("{}.{}", quoted(database), quoted(table));
    let names = |wanted: Refused| {
        let names = columns.iter().filter(|(_, refused)| *refused == wanted);
        let names: Vec<&str> = names.map(|(name, _)| name.as_str()).collect();
        names.join(", ")
    };
    let compressed = names(Refused::Compressed);
    let mut parts = Vec::new();
    if !compressed.is_empty() {
        let changes: Vec<String> = columns
            .iter()
            .filter(|(_, refused)| *refused == Refused::Compressed)
            .map(|(column, _)| format!("MODIFY {}", without_compression(column, definition)))
            .collect();
        parts.push(format!(
            "COMPRESSED column(s) {compressed}: ALTER TABLE {name} {}",
            changes.join(", ")
        ));
    }
    let old = names(Refused::OldFraction);
    if !old.is_empty() {
        parts.push(format!(
            "column(s) {old} with a fraction in the format of MariaDB 5.3, of which the binlog does not tell the digits: SET \
             GLOBAL mysql56_temporal_format=ON; ALTER TABLE {name} FORCE"
        ));
    }
    format!("{database}.{table} has {}", parts.join(" and "))
}

/// A column's line of SHOW CREATE TABLE without the mark.
fn without_compression(column: &str, definition: &str) -> String {
    let start = format!("  {} ", quoted(column));
    match definition.lines().find(|line| line.starts_with(&start)) {
        Some(line) => line
            .trim()
            .trim_end_matches(',')
            .replacen(&format!(" {COMPRESSED}"), "", 1),
        None => format!("{} … without COMPRESSED", quoted(column)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_taken_from_the_end_of_the_type() {
        for (column_type, expected) in [
            ("text /*M!100301 COMPRESSED*/", Some(Refused::Compressed)),
            (
                "varchar(300) /*M!100301 COMPRESSED*/",
                Some(Refused::Compressed),
            ),
            ("time(3) /* mariadb-5.3 */", Some(Refused::OldFraction)),
            ("timestamp /* mariadb-5.3 */", None),
            ("enum('/*M!100301 COMPRESSED*/')", None),
            ("set('time(3) /* mariadb-5.3 */')", None),
            ("longtext", None),
        ] {
            assert_eq!(refused(column_type), expected, "{column_type}");
        }
    }

    #[test]
    fn the_statement_keeps_the_rest_of_the_definition() {
        let definition = "CREATE TABLE `t` (\n  `id` int(11) NOT NULL,\n  `a``b` text /*M!100301 COMPRESSED*/ CHARACTER SET \
             latin1 NOT NULL DEFAULT 'x, /*M!100301 COMPRESSED*/',\n  PRIMARY KEY (`id`)\n)";
        let columns = [
            ("a`b".to_owned(), Refused::Compressed),
            ("ts".to_owned(), Refused::OldFraction),
        ];
        let text = problem("shop", "t", &columns, definition);
        assert!(
            text.contains(
                "ALTER TABLE `shop`.`t` MODIFY `a``b` text CHARACTER SET latin1 NOT NULL DEFAULT 'x, /*M!100301 COMPRESSED*/' \
                 and column(s) ts with"
            ),
            "{text}"
        );
        assert!(text.ends_with("ALTER TABLE `shop`.`t` FORCE"), "{text}");
    }
}
