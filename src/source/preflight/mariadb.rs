//! What is asked of a MariaDB server, and what must be set there.
//!
//! MariaDB has no set of purged transactions. What it no longer has is where its oldest binlog begins:
//! `BINLOG_GTID_POS(file, 4)`. A replica made from a backup does not have in its binlog what the backup held either; its
//! `gtid_slave_pos` tells. MariaDB manual: "Global Transaction ID", "BINLOG_GTID_POS", "gtid_binlog_state".

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};

use super::{Facts, Required, failed, parse, variables};
use crate::error::Result;
use crate::position::Flavor;
use crate::position::mariadb::{BinlogState, GtidPosition};

/// Settings without which the binlog is no complete history. MariaDB keeps what SET GLOBAL sets until it restarts.
pub(super) const REQUIRED: &[Required] = &[
    Required {
        name: "log_bin",
        value: "ON",
        reason: "there is no binlog to read",
        remedy: "start mariadbd with log_bin=binlog (my.cnf, [mysqld]) and restart it",
    },
    Required {
        name: "binlog_format",
        value: "ROW",
        reason: "statements do not say which rows they changed",
        remedy: "SET GLOBAL binlog_format=ROW, and binlog_format=ROW in my.cnf, [mysqld]",
    },
    Required {
        name: "binlog_row_image",
        value: "FULL",
        reason: "other images leave columns out",
        remedy: "SET GLOBAL binlog_row_image=FULL, and binlog_row_image=FULL in my.cnf, [mysqld]",
    },
    Required {
        name: "binlog_row_metadata",
        value: "FULL",
        reason: "only then does the binlog itself name the columns",
        remedy: "SET GLOBAL binlog_row_metadata=FULL, and binlog_row_metadata=FULL in my.cnf, [mysqld]",
    },
];

/// Byte position of the first event in a binlog file.
const FIRST_POSITION: u32 = 4;

pub(super) async fn ask(connection: &mut Conn, version: String) -> Result<Facts> {
    let variables = variables(connection, REQUIRED).await?;
    let logs = variables
        .get("log_bin")
        .is_some_and(|value| value.eq_ignore_ascii_case("ON"));
    let query = "SELECT @@global.gtid_binlog_state, @@global.gtid_slave_pos, @@global.server_id";
    let identity: Option<(String, String, u32)> =
        connection.query_first(query).await.map_err(failed)?;
    let (state, applied, server_id) = identity.unwrap_or_default();
    let mut state: BinlogState = parse("gtid_binlog_state", &state)?;
    let applied: BinlogState = parse("gtid_slave_pos", &applied)?;
    let mut purged = GtidPosition::default();
    if logs {
        let begin = oldest_position(connection).await?;
        purged = parse::<BinlogState>("BINLOG_GTID_POS", &begin)?.position();
    }
    for gtid in state.not_logged(&applied.position()) {
        state.add(gtid);
        purged.add(&gtid);
    }
    Ok(Facts {
        flavor: Flavor::Mariadb,
        version,
        server_uuid: format!("server_id {server_id}"),
        executed: state.position().into(),
        purged: purged.into(),
        state: Some(state),
        variables,
    })
}

/// The GTID position at which the oldest binlog file begins. A file may be purged between the two questions.
async fn oldest_position(connection: &mut Conn) -> Result<String> {
    for _ in 0..3 {
        let oldest: Option<Row> = connection
            .query_first("SHOW BINARY LOGS")
            .await
            .map_err(failed)?;
        let Some(file) = oldest.and_then(|row| row.get::<String, _>(0)) else {
            break;
        };
        let query = format!(
            "SELECT BINLOG_GTID_POS('{}', {FIRST_POSITION})",
            file.replace('\'', "''")
        );
        let position: Option<Option<String>> =
            connection.query_first(query).await.map_err(failed)?;
        if let Some(Some(position)) = position {
            return Ok(position);
        }
    }
    Err(crate::error::Error::new(
        crate::error::Kind::SourceUnavailable,
        "the mariadb server does not say where its oldest binlog begins (SHOW BINARY LOGS, BINLOG_GTID_POS)",
    ))
}
