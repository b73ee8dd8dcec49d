//! What must hold on the MySQL server before its binlog is read: asked at start and again at every reconnect.
//!
//! A server can be restored, replaced, or reconfigured while the daemon is away, and it streams without an error what is no
//! longer a complete history. So nothing is read before [`judge`] has compared what the server says ([`Facts`]) with what was
//! recorded. Settings that only weaken the audit trail's content are as much a reason to stop as a gap: without
//! `binlog_row_metadata=FULL` a value could stand under a wrong name.
//!
//! Manual: "Replication and Binary Logging Options and Variables", "GTID System Variables".

use std::collections::HashMap;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::connect::classify_after_login;
use crate::config::StartFrom;
use crate::error::{Error, Kind, Result};
use crate::position::GtidSet;

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// `@@version`.
    pub version: String,
    /// `@@server_uuid`.
    pub server_uuid: String,
    /// `@@gtid_executed`: every transaction it has.
    pub executed: GtidSet,
    /// `@@gtid_purged`: those whose binlog it no longer has.
    pub purged: GtidSet,
    /// The variables of [`REQUIRED`], by name, as far as the server has them.
    pub variables: HashMap<String, String>,
}

/// Variables that must have one value: name, value, why, and the statements that set it.
const REQUIRED: &[(&str, &str, &str, &str)] = &[
    (
        "log_bin",
        "ON",
        "there is no binlog to read",
        "start mysqld with log_bin=binlog (my.cnf, [mysqld]) and restart it",
    ),
    (
        "gtid_mode",
        "ON",
        "a transaction can only be recognized by its GTID",
        "SET PERSIST enforce_gtid_consistency=ON; SET PERSIST gtid_mode=OFF_PERMISSIVE; SET PERSIST gtid_mode=ON_PERMISSIVE; \
         SET PERSIST gtid_mode=ON; what was committed without a GTID is not in the audit, compare those tables",
    ),
    (
        "binlog_format",
        "ROW",
        "statements do not say which rows they changed",
        "SET PERSIST binlog_format=ROW",
    ),
    (
        "binlog_row_image",
        "FULL",
        "other images leave columns out",
        "SET PERSIST binlog_row_image=FULL",
    ),
    (
        "binlog_row_metadata",
        "FULL",
        "only then does the binlog itself name the columns",
        "SET PERSIST binlog_row_metadata=FULL",
    ),
];

/// Asks the server.
///
/// # Errors
/// When it does not answer, is no MySQL, or the user may not ask.
pub async fn ask(connection: &mut Conn) -> Result<Facts> {
    let doing = "ask the mysql server about its settings";
    let failed = |error| classify_after_login(doing, &error);
    let version: Option<String> = connection
        .query_first("SELECT @@global.version")
        .await
        .map_err(failed)?;
    let version = version.unwrap_or_default();
    if version.to_ascii_lowercase().contains("mariadb") {
        return Err(Error::new(
            Kind::SourceSetting,
            format!(
                "found a MariaDB server ({version}); this version of sdl reads MySQL 8.0 and later"
            ),
        ));
    }
    let names: Vec<String> = REQUIRED
        .iter()
        .map(|(name, ..)| format!("'{name}'"))
        .collect();
    let query = format!(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})",
        names.join(", ")
    );
    let variables: Vec<(String, String)> = connection.query(query).await.map_err(failed)?;
    // Not through SHOW VARIABLES, which cuts a value after 1024 characters.
    let identity: Option<(String, String, String)> = connection
        .query_first("SELECT @@global.server_uuid, @@global.gtid_executed, @@global.gtid_purged")
        .await
        .map_err(failed)?;
    let (server_uuid, executed, purged) = identity.unwrap_or_default();
    let parse = |name: &str, text: &str| -> Result<GtidSet> {
        text.parse().map_err(|error| {
            Error::new(
                Kind::SourceSetting,
                format!("cannot read @@{name} of the mysql server: {error}"),
            )
        })
    };
    Ok(Facts {
        version,
        executed: parse("gtid_executed", &executed)?,
        purged: parse("gtid_purged", &purged)?,
        server_uuid,
        variables: variables.into_iter().collect(),
    })
}

/// Whether the server's binlog continues what is recorded up to `recorded`.
///
/// # Errors
/// All reasons against it in one message, each with the statement that mends it.
pub fn judge(facts: &Facts, recorded: &GtidSet) -> Result<()> {
    judge_settings(facts)?;
    if !recorded.is_subset(&facts.executed) {
        let unknown = recorded.subtract(&facts.executed);
        return Err(Error::new(
            Kind::WrongServer,
            format!(
                "the server is behind the saved position: wrong or restored server; server {} does not have {} transaction(s) \
                 that are recorded already: {unknown}; expected a server whose gtid_executed holds them; point MYSQL_ADDR at \
                 it, or give the new server a new SOURCE_ID",
                facts.server_uuid,
                unknown.count()
            ),
        ));
    }
    let missing = facts.purged.subtract(recorded);
    if !missing.is_empty() {
        return Err(Error::new(
            Kind::Gap,
            format!(
                "binlog gap: server {} has purged {} transaction(s) that are not recorded yet: {missing}; nothing was skipped; \
                 point MYSQL_ADDR at a server that still has them (its gtid_purged does not hold them), or restore the purged \
                 binlogs, and keep them longer: SET PERSIST binlog_expire_logs_seconds=1209600",
                facts.server_uuid,
                missing.count()
            ),
        ));
    }
    Ok(())
}

fn judge_settings(facts: &Facts) -> Result<()> {
    let mut problems = Vec::new();
    for (name, expected, reason, remedy) in REQUIRED {
        let found = facts
            .variables
            .get(*name)
            .map_or("no such variable", String::as_str);
        // A server without the variable has the one value that was left when it was removed, binlog_format=ROW.
        let removed = *name == "binlog_format" && !facts.variables.contains_key(*name);
        if !found.eq_ignore_ascii_case(expected) && !removed {
            problems.push(format!(
                "{name} is {found}, expected {expected}, because {reason}: {remedy}"
            ));
        }
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::new(
            Kind::SourceSetting,
            format!(
                "the mysql server ({}) is not set up for an audit trail: {}; sessions that are open keep their old setting \
                 until they reconnect",
                facts.version,
                problems.join("; ")
            ),
        ))
    }
}

/// Where a source that was never read begins.
pub fn first_position(facts: &Facts, start: &StartFrom) -> GtidSet {
    match start {
        StartFrom::Current => facts.executed.clone(),
        StartFrom::Earliest => facts.purged.clone(),
        StartFrom::Gtid(set) => set.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const OTHER: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn facts(executed: &str, purged: &str) -> Facts {
        Facts {
            version: "9.7.4".to_owned(),
            server_uuid: UUID.to_owned(),
            executed: executed.parse().unwrap(),
            purged: purged.parse().unwrap(),
            variables: REQUIRED
                .iter()
                .map(|(name, value, ..)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    fn at(set: &str) -> GtidSet {
        set.parse().unwrap()
    }

    #[test]
    fn a_server_that_continues_the_recorded_set_is_read() {
        judge(
            &facts(&format!("{UUID}:1-100"), &format!("{UUID}:1-40")),
            &at(&format!("{UUID}:1-40")),
        )
        .unwrap();
        judge(&facts("", ""), &at("")).unwrap();
    }

    #[test]
    fn a_purge_past_the_position_names_the_missing_transactions() {
        let error = judge(
            &facts(&format!("{UUID}:1-100"), &format!("{UUID}:1-60")),
            &at(&format!("{UUID}:1-40")),
        );
        let error = error.unwrap_err();
        assert_eq!(error.kind(), Kind::Gap);
        assert!(error.to_string().contains("binlog gap"));
        assert!(error.to_string().contains(&format!(
            "20 transaction(s) that are not recorded yet: {UUID}:41-60"
        )));
    }

    #[test]
    fn a_server_without_our_transactions_is_the_wrong_one_even_with_another_uuid() {
        let error = judge(
            &facts(&format!("{OTHER}:1-100"), ""),
            &at(&format!("{UUID}:1-40")),
        )
        .unwrap_err();
        assert_eq!(error.kind(), Kind::WrongServer);
        assert!(error.to_string().contains(&format!("{UUID}:1-40")));
    }

    #[test]
    fn every_wrong_setting_is_told_in_one_message_with_its_remedy() {
        let mut facts = facts("", "");
        for (name, value) in [
            ("gtid_mode", "OFF"),
            ("binlog_format", "MIXED"),
            ("binlog_row_metadata", "MINIMAL"),
        ] {
            facts.variables.insert(name.to_owned(), value.to_owned());
        }
        let error = judge(&facts, &at("")).unwrap_err();
        assert_eq!(error.kind(), Kind::SourceSetting);
        for part in [
            "gtid_mode is OFF",
            "binlog_format is MIXED",
            "SET PERSIST binlog_row_metadata=FULL",
        ] {
            assert!(
                error.to_string().contains(part),
                "{error} does not say {part}"
            );
        }
    }

    #[test]
    fn start_from_chooses_the_first_position() {
        let facts = facts(&format!("{UUID}:1-100"), &format!("{UUID}:1-60"));
        assert_eq!(first_position(&facts, &StartFrom::Current), facts.executed);
        assert_eq!(first_position(&facts, &StartFrom::Earliest), facts.purged);
    }
}
