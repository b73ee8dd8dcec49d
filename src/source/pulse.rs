//! How the server that is read is doing: a short question now and then, on a connection of its own.
//!
//! The stream itself cannot be asked anything. The connection is kept from one look to the next and given up when an answer does not
//! come in time; it follows the reader to whichever server that reads. It never tries an account that the reader has not got in with,
//! and not again one that was refused: failed logins count, and may lock the account.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::connect;
use super::headroom::{Binlog, Binlogs, Retention};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::position::Flavor;

/// Longest wait for all answers of one look. A healthy server takes milliseconds, thousands of binlogs a second.
const LIMIT: Duration = Duration::from_secs(5);

/// What one short question brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// From the question to the answer.
    pub ping: Duration,
    /// The server's clock, in milliseconds since 1970.
    pub clock: i64,
    /// When the answer came.
    pub at: Instant,
}

/// A connection to the server that is read, for questions.
#[derive(Debug)]
pub struct Pulse {
    config: Arc<Config>,
    connection: Option<(String, Conn)>,
}

impl Pulse {
    /// Not connected yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            connection: None,
        }
    }

    /// Asks the server at `address`, one of MYSQL_ADDR, for its time.
    ///
    /// # Errors
    /// When it does not answer in time, or refuses the account.
    pub async fn beat(&mut self, address: &str) -> Result<Beat> {
        self.asking(address, async |connection| {
            let began = Instant::now();
            // The session is in UTC, where no hour comes twice.
            let clock: Option<i64> = connection
                .query_first("SELECT CAST(UNIX_TIMESTAMP(NOW(6)) * 1000 AS SIGNED)")
                .await
                .map_err(failed)?;
            Ok(Beat {
                ping: began.elapsed(),
                clock: clock.unwrap_or_default(),
                at: Instant::now(),
            })
        })
        .await
    }

    /// Asks it for its binlogs, and how long it keeps them.
    ///
    /// # Errors
    /// As [`beat`](Self::beat), and when the account may not ask.
    pub async fn binlogs(&mut self, address: &str) -> Result<Binlogs> {
        self.asking(address, async |connection| {
            let files: Vec<Row> = connection.query("SHOW BINARY LOGS").await.map_err(failed)?;
            let files = files
                .iter()
                .filter_map(|row| {
                    Some(Binlog {
                        name: row.get(0)?,
                        bytes: row.get(1)?,
                    })
                })
                .collect();
            let variables: Vec<(String, String)> = connection
                .query(
                    "SHOW GLOBAL VARIABLES WHERE Variable_name IN ('server_uuid', 'server_id', 'binlog_expire_logs_seconds', \
                     'expire_logs_days', 'binlog_expire_logs_auto_purge', 'max_binlog_total_size')",
                )
                .await
                .map_err(failed)?;
            Ok(read(files, &variables.into_iter().collect()))
        })
        .await
    }

    async fn asking<T>(
        &mut self,
        address: &str,
        ask: impl AsyncFnOnce(&mut Conn) -> Result<T>,
    ) -> Result<T> {
        // A connection whose question was given up is not used again.
        let kept = self.connection.take().filter(|(to, _)| to == address);
        let work = async {
            let mut connection = match kept {
                Some((_, connection)) => connection,
                None => self.connect(address).await?,
            };
            let answer = ask(&mut connection).await?;
            Ok((answer, connection))
        };
        let (answer, connection) = tokio::time::timeout(LIMIT, work).await.map_err(|_| {
            Error::new(
                Kind::SourceUnavailable,
                format!("mysql {address}: no answer within {} s", LIMIT.as_secs()),
            )
        })??;
        self.connection = Some((address.to_owned(), connection));
        Ok(answer)
    }

    async fn connect(&self, address: &str) -> Result<Conn> {
        let known = self
            .config
            .mysql_addresses
            .iter()
            .find(|known| known.to_string() == address)
            .ok_or_else(|| Error::new(Kind::Internal, format!("{address} is not in MYSQL_ADDR")))?;
        let mut connection = connect::connect(&self.config, known).await?;
        connection
            .query_drop("SET time_zone = '+00:00'")
            .await
            .map_err(failed)?;
        Ok(connection)
    }
}

fn failed(error: mysql_async::Error) -> Error {
    connect::classify("ask the mysql server how it is doing", &error)
}

/// What the answers say. A variable that a server does not have is not in them.
fn read(files: Vec<Binlog>, variables: &HashMap<String, String>) -> Binlogs {
    let number = |name: &str| {
        variables
            .get(name)
            .and_then(|value| value.parse::<f64>().ok())
            .filter(|value| *value > 0.0)
    };
    // MySQL 8.0.29 and later can leave purging to somebody else.
    let purges = variables
        .get("binlog_expire_logs_auto_purge")
        .is_none_or(|value| value.eq_ignore_ascii_case("ON"));
    let retention = |variable, unit: f64| {
        number(variable).map(|value| Retention {
            variable,
            time: Duration::from_secs_f64((value * unit).min(1e10)),
        })
    };
    let (flavor, server_uuid) = match (variables.get("server_uuid"), variables.get("server_id")) {
        (Some(uuid), _) => (Flavor::Mysql, uuid.clone()),
        (None, id) => (
            Flavor::Mariadb,
            format!("server_id {}", id.map_or("0", String::as_str)),
        ),
    };
    Binlogs {
        server_uuid,
        flavor,
        // Where a server has both, the seconds win; on MariaDB they are two names of one value.
        retention: retention("binlog_expire_logs_seconds", 1.0)
            .or_else(|| retention("expire_logs_days", 86_400.0))
            .filter(|_| purges),
        max_total_bytes: number("max_binlog_total_size").map(|bytes| bytes as u64),
        files,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_of(variables: &[(&str, &str)]) -> Binlogs {
        let variables = variables
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        read(Vec::new(), &variables)
    }

    fn retention(variables: &[(&str, &str)]) -> Option<u64> {
        read_of(variables)
            .retention
            .map(|retention| retention.time.as_secs())
    }

    #[test]
    fn the_retention_is_read_from_whichever_variable_the_server_has() {
        let seconds = ("binlog_expire_logs_seconds", "3600");
        let days = ("expire_logs_days", "0.5");
        assert_eq!(retention(&[seconds]), Some(3600));
        assert_eq!(retention(&[seconds, days]), Some(3600));
        assert_eq!(retention(&[days]), Some(43_200));
        assert_eq!(
            retention(&[("binlog_expire_logs_seconds", "0"), days]),
            Some(43_200)
        );
        assert_eq!(retention(&[("binlog_expire_logs_seconds", "0")]), None);
        assert_eq!(
            retention(&[seconds, ("binlog_expire_logs_auto_purge", "OFF")]),
            None
        );
        assert_eq!(retention(&[]), None);
    }

    #[test]
    fn servers_are_named_as_the_offset_names_them() {
        let mysql = read_of(&[("server_uuid", "3e11fa47"), ("server_id", "1")]);
        assert_eq!(
            (mysql.flavor, mysql.server_uuid.as_str()),
            (Flavor::Mysql, "3e11fa47")
        );
        let mariadb = read_of(&[("server_id", "7")]);
        assert_eq!(
            (mariadb.flavor, mariadb.server_uuid.as_str()),
            (Flavor::Mariadb, "server_id 7")
        );
    }

    #[test]
    fn a_limit_of_the_total_size_is_none_when_it_is_zero() {
        assert_eq!(
            read_of(&[("max_binlog_total_size", "0")]).max_total_bytes,
            None
        );
        let limited = read_of(&[("max_binlog_total_size", "1048576")]);
        assert_eq!(limited.max_total_bytes, Some(1_048_576));
    }
}
