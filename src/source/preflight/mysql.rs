//! What is asked of a MySQL server, and what must be set there.
//!
//! Manual: "Replication and Binary Logging Options and Variables", "GTID System Variables".

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::{Facts, Required, failed, parse, variables};
use crate::error::Result;
use crate::position::{Flavor, mysql};

/// Settings without which the binlog is no complete history.
pub(super) const REQUIRED: &[Required] = &[
    Required {
        name: "log_bin",
        value: "ON",
        reason: "there is no binlog to read",
        remedy: "start mysqld with log_bin=binlog (my.cnf, [mysqld]) and restart it",
    },
    Required {
        name: "gtid_mode",
        value: "ON",
        reason: "a transaction can only be recognized by its GTID",
        remedy: "SET PERSIST enforce_gtid_consistency=ON; SET PERSIST gtid_mode=OFF_PERMISSIVE; SET PERSIST gtid_mode=ON_PERMISSIVE; \
         SET PERSIST gtid_mode=ON; what was committed without a GTID is not in the audit, compare those tables",
    },
    Required {
        name: "binlog_format",
        value: "ROW",
        reason: "statements do not say which rows they changed",
        remedy: "SET PERSIST binlog_format=ROW",
    },
    Required {
        name: "binlog_row_image",
        value: "FULL",
        reason: "other images leave columns out",
        remedy: "SET PERSIST binlog_row_image=FULL",
    },
    Required {
        name: "binlog_row_metadata",
        value: "FULL",
        reason: "only then does the binlog itself name the columns",
        remedy: "SET PERSIST binlog_row_metadata=FULL",
    },
];

pub(super) async fn ask(connection: &mut Conn, version: String) -> Result<Facts> {
    // Not through SHOW VARIABLES, which cuts a value after 1024 characters.
    let identity: Option<(String, String, String)> = connection
        .query_first("SELECT @@global.server_uuid, @@global.gtid_executed, @@global.gtid_purged")
        .await
        .map_err(failed)?;
    let (server_uuid, executed, purged) = identity.unwrap_or_default();
    let executed: mysql::GtidSet = parse("gtid_executed", &executed)?;
    let purged: mysql::GtidSet = parse("gtid_purged", &purged)?;
    Ok(Facts {
        flavor: Flavor::Mysql,
        version,
        server_uuid,
        executed: executed.into(),
        purged: purged.into(),
        state: None,
        variables: variables(connection, REQUIRED).await?,
    })
}
