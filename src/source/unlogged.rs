//! What no binlog holds, as far as a server can be asked for it: told in the log, with the tables it is about.
//!
//! Some changes never reach the binlog (docs/recorded.md, "What no binlog holds"), and no reader of it can notice that. So
//! the server is asked, once a start and again after each change of server, for the definitions and settings that make
//! such changes: [`ask`] collects the [`Facts`], [`judge`] says what they mean. It warns and does nothing else: it runs
//! beside the stream, on a connection of its own, for a bounded time, with whatever rights the account has; where these do
//! not suffice, it says what it could not see.
//!
//! Manual: "FOREIGN KEY Constraints", "Binary Logging Options and Variables", "Alternative Storage Engines".

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::connect;
use super::replicas::filters_among;
use crate::config::{Config, MysqlAddress};
use crate::error::Result;

/// Longest look at a server. It takes milliseconds; on a MariaDB with very many tables, which are opened one by one for it,
/// it may take longer than anybody wants it to.
const LIMIT: Duration = Duration::from_secs(30);

/// How many tables a warning names; the others are counted.
const NAMED_TABLES: usize = 10;

/// Rules by which a foreign key changes rows of its own table.
const CASCADING: &str = "('CASCADE', 'SET NULL', 'SET DEFAULT')";

/// Databases that hold nobody's data.
const SYSTEM: &str = "('mysql', 'sys', 'information_schema', 'performance_schema')";

/// Storage engines whose tables change in ways that this server's binlog does not have: name, what is missing.
const ENGINES: &[(&str, &str)] = &[
    (
        "BLACKHOLE",
        "only what is inserted is recorded; an UPDATE or DELETE finds no rows",
    ),
    (
        "CONNECT",
        "what is changed where its rows are, and not through this server, is not recorded",
    ),
    (
        "FEDERATED",
        "what is changed where its rows are, and not through this server, is not recorded",
    ),
    (
        "MEMORY",
        "the rows that a restart of the server takes away are not recorded, only that the table was emptied",
    ),
    (
        "ndbcluster",
        "what other servers and programs of the cluster change is recorded only if this server logs it (ndb_log_bin)",
    ),
    (
        "SPIDER",
        "what is changed where its rows are, and not through this server, is not recorded",
    ),
];

/// Variables that are asked for, as far as the server has them; the old names are MariaDB's and those before MySQL 8.0.26.
const VARIABLES: &[&str] = &[
    "binlog_error_action",
    "gtid_slave_pos",
    "innodb_native_foreign_keys",
    "log_replica_updates",
    "log_slave_updates",
    "sync_binlog",
];

/// Looks at a server, in a task of its own, and logs what its binlog will not hold.
pub(super) fn look_at(address: &MysqlAddress, config: &Arc<Config>) {
    let (address, config) = (address.clone(), Arc::clone(config));
    tokio::spawn(async move {
        let warnings = look(&config, &address).await;
        for warning in &warnings {
            tracing::warn!(address = %address, "the binlog may not hold every change: {warning}");
        }
        tracing::debug!(address = %address, warnings = warnings.len(), "asked what the binlog leaves out");
    });
}

/// What its binlog will not hold, each with what can be done.
pub(super) async fn look(config: &Config, address: &MysqlAddress) -> Vec<String> {
    let asked = async {
        let mut connection = connect::connect(config, address).await?;
        let facts = ask(&mut connection, |table| config.tables.includes(table)).await?;
        let _ = connection.disconnect().await;
        Ok::<_, crate::error::Error>(facts)
    };
    let why = match tokio::time::timeout(LIMIT, asked).await {
        Ok(Ok(facts)) => return judge(&facts),
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("no answer within {} s", LIMIT.as_secs()),
    };
    vec![format!(
        "what it leaves out could not be asked, which changes nothing of what is read: {why}"
    )]
}

/// Some tables: the first names, and how many there are.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Tables {
    names: Vec<String>,
    count: usize,
    last: String,
}

impl Tables {
    /// Adds a table; they come in order, one with several foreign keys several times.
    fn add(&mut self, name: String) {
        if self.last == name {
            return;
        }
        if self.names.len() < NAMED_TABLES {
            self.names.push(name.clone());
        }
        self.count += 1;
        self.last = name;
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.names.join(", "))?;
        match self.count - self.names.len() {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

/// What a server says about itself.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Facts {
    is_mariadb: bool,
    /// Of [`VARIABLES`], those that it has.
    variables: HashMap<String, String>,
    /// The account's rights on all databases.
    rights: Vec<String>,
    /// Recorded tables with a foreign key that changes or deletes their rows.
    cascading: Tables,
    /// Recorded tables of [`ENGINES`], by engine.
    engines: BTreeMap<String, Tables>,
    /// `binlog_do_db` and `binlog_ignore_db`.
    logged_databases: String,
    ignored_databases: String,
    /// Whether it is a replica; `None` when the account may not know.
    is_replica: Option<bool>,
    /// Its replication filters, as `name=value`.
    replication_filters: Vec<String>,
}

/// Asks a server; `includes` says whether a `database.table` is recorded.
async fn ask(connection: &mut Conn, includes: impl Fn(&str) -> bool + Sync) -> Result<Facts> {
    let failed = |error| connect::classify_after_login("ask what the binlog leaves out", &error);
    let version: Option<String> = connection
        .query_first("SELECT @@global.version")
        .await
        .map_err(failed)?;
    let is_mariadb =
        version.is_some_and(|version| version.to_ascii_lowercase().contains("mariadb"));
    // What is given up here, the server is to give up as well.
    let seconds = LIMIT.as_secs();
    let limit = if is_mariadb {
        format!("SET SESSION max_statement_time = {seconds}")
    } else {
        format!("SET SESSION max_execution_time = {}", seconds * 1000)
    };
    connection.query_drop(limit).await.map_err(failed)?;
    let names: Vec<String> = VARIABLES.iter().map(|name| format!("'{name}'")).collect();
    let variables = format!(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({}) OR Variable_name LIKE 'replicate\\_%'",
        names.join(", ")
    );
    let variables: Vec<(String, String)> = connection.query(variables).await.map_err(failed)?;
    let variables: HashMap<String, String> = variables.into_iter().collect();
    let rights = "SELECT privilege_type FROM information_schema.user_privileges WHERE grantee = \
                  CONCAT('''', SUBSTRING_INDEX(CURRENT_USER(), '@', 1), '''@''', SUBSTRING_INDEX(CURRENT_USER(), '@', -1), '''')";
    let mut facts = Facts {
        is_mariadb,
        rights: connection.query(rights).await.map_err(failed)?,
        ..Facts::default()
    };

    let cascading = format!(
        "SELECT constraint_schema, table_name FROM information_schema.referential_constraints \
         WHERE (delete_rule IN {CASCADING} OR update_rule IN {CASCADING}) AND constraint_schema NOT IN {SYSTEM} ORDER BY 1, 2"
    );
    facts.cascading = connection
        .query_fold(cascading, Tables::default(), |mut tables, row: Row| {
            let name = format!("{}.{}", text(&row, 0), text(&row, 1));
            if includes(&name) {
                tables.add(name);
            }
            tables
        })
        .await
        .map_err(failed)?;
    let engines: Vec<String> = ENGINES
        .iter()
        .map(|(name, _)| format!("'{name}'"))
        .collect();
    let engines = format!(
        "SELECT table_schema, table_name, engine FROM information_schema.tables WHERE engine IN ({}) AND table_schema NOT IN \
         {SYSTEM} ORDER BY 1, 2",
        engines.join(", ")
    );
    facts.engines = connection
        .query_fold(engines, BTreeMap::new(), |mut engines, row: Row| {
            let name = format!("{}.{}", text(&row, 0), text(&row, 1));
            if includes(&name) {
                let tables: &mut Tables = engines.entry(text(&row, 2)).or_default();
                tables.add(name);
            }
            engines
        })
        .await
        .map_err(failed)?;

    // The statement's new name came with MySQL 8.2, and the old one went with 8.4.
    let mut status = None;
    for statement in ["SHOW BINARY LOG STATUS", "SHOW MASTER STATUS"] {
        status = connection
            .query_first::<Row, _>(statement)
            .await
            .ok()
            .flatten();
        if status.is_some() {
            break;
        }
    }
    if let Some(status) = status {
        facts.logged_databases = text(&status, 2);
        facts.ignored_databases = text(&status, 3);
    }
    if is_mariadb {
        // SHOW REPLICA STATUS needs a right there that reading the binlog does not.
        facts.is_replica = variables
            .get("gtid_slave_pos")
            .map(|position| !position.is_empty());
        facts.replication_filters = filters_among(variables.iter());
    } else if let Ok(sources) = connection.query::<Row, _>("SHOW REPLICA STATUS").await {
        facts.is_replica = Some(!sources.is_empty());
        let columns = sources.iter().flat_map(|row| {
            let names = row.columns_ref().iter().map(|column| column.name_str());
            names
                .enumerate()
                .map(|(index, name)| (name.into_owned(), text(row, index)))
        });
        let columns: Vec<(String, String)> = columns.collect();
        facts.replication_filters =
            filters_among(columns.iter().map(|(name, value)| (name, value)));
    }
    facts.variables = variables;
    Ok(facts)
}

/// A column of a result as text; NULL and what is no text are empty.
fn text(row: &Row, index: usize) -> String {
    let bytes = row.get_opt::<Option<Vec<u8>>, _>(index);
    let bytes = bytes.and_then(std::result::Result::ok).flatten();
    String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
}

/// What the binlog of such a server does not hold, each with what can be done.
fn judge(facts: &Facts) -> Vec<String> {
    let variable = |name: &str| facts.variables.get(name).map(String::as_str);
    let has = |right: &str| {
        facts
            .rights
            .iter()
            .any(|granted| granted.eq_ignore_ascii_case(right))
    };
    let mut warnings = Vec::new();

    // The variable came with the server's own cascades, which it logs.
    let logs_cascades = variable("innodb_native_foreign_keys")
        .is_some_and(|native| native.eq_ignore_ascii_case("OFF") || native == "0");
    if !logs_cascades && facts.cascading.count > 0 {
        let remedy = match variable("innodb_native_foreign_keys") {
            Some(_) => "start mysqld with innodb_native_foreign_keys=OFF, and they are",
            None if facts.is_mariadb => {
                "change these rows by statements of your own before those they refer to"
            }
            None => {
                "MySQL logs them from 9.6 on; until then, change these rows by statements of your own before those they refer to"
            }
        };
        warnings.push(format!(
            "rows that a foreign key deletes or changes by itself (CASCADE, SET NULL) are not recorded, in {}; {remedy}",
            facts.cascading
        ));
    }
    // MariaDB shows a foreign key only to who has another right on its table than SELECT.
    let sees_engines = has("SELECT") || has("REFERENCES");
    let sees_keys = has("REFERENCES") || (has("SELECT") && !facts.is_mariadb);
    if !sees_engines || (!sees_keys && !logs_cascades) {
        warnings.push(
            "the account may not see every table's definition, so there may be foreign keys or storage engines whose changes \
             are not recorded and not told here; GRANT REFERENCES ON *.* TO MYSQL_USER shows definitions and no row"
                .to_owned(),
        );
    }
    for (engine, tables) in &facts.engines {
        let missing = ENGINES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(engine));
        if let Some((_, missing)) = missing {
            warnings.push(format!("of {engine} tables {missing}: {tables}"));
        }
    }
    if !facts.logged_databases.is_empty() {
        warnings.push(format!(
            "the server logs the databases {} and no others (binlog_do_db); take the option out of its configuration",
            facts.logged_databases
        ));
    }
    if !facts.ignored_databases.is_empty() {
        warnings.push(format!(
            "the server does not log the databases {} (binlog_ignore_db); take the option out of its configuration",
            facts.ignored_databases
        ));
    }
    let passes_on = variable("log_replica_updates").or_else(|| variable("log_slave_updates"));
    if passes_on.is_some_and(|value| value.eq_ignore_ascii_case("OFF"))
        && facts.is_replica != Some(false)
    {
        let is = match facts.is_replica {
            Some(_) => "the server is a replica and",
            None => "if the server is a replica, it",
        };
        warnings.push(format!(
            "{is} does not log what it receives (log_replica_updates=OFF): read its source, or start it with \
             log_replica_updates=ON (MariaDB: log_slave_updates)"
        ));
    }
    if facts.is_replica != Some(false) && !facts.replication_filters.is_empty() {
        warnings.push(format!(
            "the server is a replica that leaves changes of its source out ({}): they are not recorded when it is read; \
             take it out of MYSQL_ADDR, or the filters out of its configuration",
            facts.replication_filters.join(", ")
        ));
    }
    if variable("sync_binlog").is_some_and(|value| value != "1") {
        warnings.push(format!(
            "sync_binlog is {}: a crash of the server's machine may take transactions out of the binlog that tables or \
             sdl have already; SET GLOBAL sync_binlog=1, and in its configuration",
            variable("sync_binlog").unwrap_or_default()
        ));
    }
    if variable("binlog_error_action")
        .is_some_and(|value| value.eq_ignore_ascii_case("IGNORE_ERROR"))
    {
        warnings.push(
            "binlog_error_action is IGNORE_ERROR: a server that cannot write its binlog goes on without one; SET PERSIST \
             binlog_error_action=ABORT_SERVER"
                .to_owned(),
        );
    }
    warnings
}

#[cfg(test)]
mod tests;
