//! What must hold on the server before its binlog is read: asked at start and again at every reconnect.
//!
//! A server can be restored, replaced, or reconfigured while the daemon is away, and it streams without an error what is no
//! longer a complete history. So nothing is read before [`judge`] has compared what the server says ([`Facts`]) with what was
//! recorded. Settings that only weaken the audit trail's content are as much a reason to stop as a gap: without
//! `binlog_row_metadata=FULL` a value could stand under a wrong name.
//!
//! What is asked differs by flavor ([`mysql`], [`mariadb`]); the judgement does not.

mod mariadb;
mod mysql;

use std::collections::HashMap;
use std::str::FromStr;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error as DriverFailure};

use super::connect::classify_after_login;
use crate::config::StartFrom;
use crate::error::{Error, Kind, Result};
use crate::position::mariadb::BinlogState;
use crate::position::{Flavor, GtidParseError, GtidSet};

/// What a server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Which kind of server it is.
    pub flavor: Flavor,
    /// `@@version`.
    pub version: String,
    /// `@@server_uuid`; of a MariaDB server, its `server_id`.
    pub server_uuid: String,
    /// Every transaction it has.
    pub executed: GtidSet,
    /// Those whose binlog it no longer has.
    pub purged: GtidSet,
    /// Which server wrote what into each domain; MariaDB only.
    pub state: Option<BinlogState>,
    /// The required variables, by name, as far as the server has them.
    pub variables: HashMap<String, String>,
}

/// A variable that must have one value.
struct Required {
    name: &'static str,
    value: &'static str,
    /// What is lost with another value.
    reason: &'static str,
    /// The statements that set it.
    remedy: &'static str,
}

/// Asks the server, which is to be of the flavor `expected` where that is known (MYSQL_FLAVOR, the saved offset).
///
/// # Errors
/// When it does not answer, is of the other flavor, or the user may not ask.
pub async fn ask(connection: &mut Conn, expected: Option<Flavor>) -> Result<Facts> {
    let version: Option<String> = connection
        .query_first("SELECT @@global.version")
        .await
        .map_err(failed)?;
    let version = version.unwrap_or_default();
    let flavor = if version.to_ascii_lowercase().contains("mariadb") {
        Flavor::Mariadb
    } else {
        Flavor::Mysql
    };
    if let Some(expected) = expected
        && expected != flavor
    {
        return Err(Error::new(
            Kind::WrongServer,
            format!(
                "expected a {expected} server, as MYSQL_FLAVOR or the saved offset says, found {flavor} ({version}); point \
                 MYSQL_ADDR at the right server, or give this one a SOURCE_ID of its own and set MYSQL_FLAVOR={flavor}"
            ),
        ));
    }
    match flavor {
        Flavor::Mysql => mysql::ask(connection, version).await,
        Flavor::Mariadb => mariadb::ask(connection, version).await,
    }
}

fn failed(error: DriverFailure) -> Error {
    classify_after_login("ask the server about its settings", &error)
}

/// Reads a text that a server printed.
fn parse<T: FromStr<Err = GtidParseError>>(name: &str, text: &str) -> Result<T> {
    text.parse().map_err(|error| {
        Error::new(
            Kind::SourceSetting,
            format!("cannot read {name} of the server: {error}"),
        )
    })
}

async fn variables(
    connection: &mut Conn,
    required: &[Required],
) -> Result<HashMap<String, String>> {
    let names: Vec<String> = required
        .iter()
        .map(|required| format!("'{}'", required.name))
        .collect();
    let query = format!(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})",
        names.join(", ")
    );
    let variables: Vec<(String, String)> = connection.query(query).await.map_err(failed)?;
    Ok(variables.into_iter().collect())
}

impl Facts {
    fn required(&self) -> &'static [Required] {
        match self.flavor {
            Flavor::Mysql => mysql::REQUIRED,
            Flavor::Mariadb => mariadb::REQUIRED,
        }
    }

    /// What of `recorded` the server does not have, in words.
    pub(super) fn lacks(&self, recorded: &GtidSet) -> Option<String> {
        let Some(state) = &self.state else {
            return recorded.beyond(&self.executed);
        };
        if recorded.is_foreign_to(self.flavor) {
            return recorded.beyond(&self.executed);
        }
        let unknown: Vec<String> = recorded
            .mariadb()
            .iter()
            .filter(|gtid| !state.has(gtid))
            .map(ToString::to_string)
            .collect();
        (!unknown.is_empty()).then(|| format!("transaction(s) {}", unknown.join(", ")))
    }
}

/// Whether the server's binlog continues what is recorded up to `recorded`.
///
/// # Errors
/// All reasons against it in one message, each with the statement that mends it.
pub fn judge(facts: &Facts, recorded: &GtidSet) -> Result<()> {
    judge_settings(facts)?;
    continues(facts, recorded)
}

/// The same without the settings.
///
/// # Errors
/// [`Kind::WrongServer`] or [`Kind::Gap`].
pub(super) fn continues(facts: &Facts, recorded: &GtidSet) -> Result<()> {
    if let Some(unknown) = facts.lacks(recorded) {
        return Err(Error::new(
            Kind::WrongServer,
            format!(
                "the server is behind the saved position: wrong or restored server; {} does not have what is recorded already: \
                 {unknown}; expected a server that has executed it; point MYSQL_ADDR at it, or give the new server a new \
                 SOURCE_ID",
                facts.server_uuid
            ),
        ));
    }
    if let Some(missing) = facts.purged.beyond(recorded) {
        let keep_longer = match facts.flavor {
            Flavor::Mysql => "SET PERSIST binlog_expire_logs_seconds=1209600",
            Flavor::Mariadb => {
                "SET GLOBAL binlog_expire_logs_seconds=1209600, and the same in my.cnf"
            }
        };
        return Err(Error::new(
            Kind::Gap,
            format!(
                "binlog gap: {} no longer has in its binlog what is not recorded yet: {missing}; nothing was skipped; point \
                 MYSQL_ADDR at a server that still has it, or record it from copies of the purged binlogs (sdl replay FILE …), and keep \
                 them longer: {keep_longer}; where they are gone for good, sdl accept-gap --reason TEXT records that and goes on behind them",
                facts.server_uuid
            ),
        ));
    }
    Ok(())
}

/// One of the required variables, as a server has it.
pub(super) struct Setting {
    pub(super) name: &'static str,
    pub(super) found: String,
    pub(super) expected: &'static str,
    pub(super) reason: &'static str,
    pub(super) remedy: &'static str,
    pub(super) is_right: bool,
}

/// All required variables.
pub(super) fn settings(facts: &Facts) -> impl Iterator<Item = Setting> {
    facts.required().iter().map(|required| {
        let found = facts.variables.get(required.name);
        // A server without the variable has the one value that was left when it was removed, binlog_format=ROW.
        let removed = required.name == "binlog_format" && found.is_none();
        let found = found.map_or("no such variable", String::as_str);
        Setting {
            name: required.name,
            is_right: found.eq_ignore_ascii_case(required.value) || removed,
            found: found.to_owned(),
            expected: required.value,
            reason: required.reason,
            remedy: required.remedy,
        }
    })
}

fn judge_settings(facts: &Facts) -> Result<()> {
    let problems: Vec<String> = settings(facts)
        .filter(|setting| !setting.is_right)
        .map(|setting| {
            format!(
                "{} is {}, expected {}, because {}: {}",
                setting.name, setting.found, setting.expected, setting.reason, setting.remedy
            )
        })
        .collect();
    if problems.is_empty() {
        Ok(())
    } else {
        Err(Error::new(
            Kind::SourceSetting,
            format!(
                "the server ({}) is not set up for an audit trail: {}; sessions that are open keep their old setting \
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
pub(super) mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const OTHER: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    pub(in crate::source) fn facts(executed: &str, purged: &str) -> Facts {
        Facts {
            flavor: Flavor::Mysql,
            version: "9.7.4".to_owned(),
            server_uuid: UUID.to_owned(),
            executed: executed.parse().unwrap(),
            purged: purged.parse().unwrap(),
            state: None,
            variables: as_required(mysql::REQUIRED),
        }
    }

    fn mariadb_facts(state: &str, purged: &str) -> Facts {
        let state: BinlogState = state.parse().unwrap();
        Facts {
            flavor: Flavor::Mariadb,
            version: "10.11.18-MariaDB-log".to_owned(),
            server_uuid: "server_id 1".to_owned(),
            executed: state.position().into(),
            purged: purged.parse().unwrap(),
            state: Some(state),
            variables: as_required(mariadb::REQUIRED),
        }
    }

    fn as_required(required: &[Required]) -> HashMap<String, String> {
        required
            .iter()
            .map(|required| (required.name.to_owned(), required.value.to_owned()))
            .collect()
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
            "not recorded yet: 20 transaction(s), {UUID}:41-60"
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
    fn a_mariadb_server_is_judged_by_what_each_server_wrote_into_a_domain() {
        let facts = mariadb_facts("0-1-100,0-2-150,7-1-5", "0-1-60");
        judge(&facts, &at("0-2-150,7-1-5")).unwrap();
        judge(&facts, &at("0-1-60")).unwrap();
        let diverged = judge(&facts, &at("0-1-120")).unwrap_err();
        assert_eq!(diverged.kind(), Kind::WrongServer);
        assert!(diverged.to_string().contains("0-1-120"), "{diverged}");
        let unknown_domain = judge(&facts, &at("0-1-100,9-1-1")).unwrap_err();
        assert_eq!(unknown_domain.kind(), Kind::WrongServer);
        let gap = judge(&facts, &at("0-1-40,7-1-5")).unwrap_err();
        assert_eq!(gap.kind(), Kind::Gap);
        assert!(
            gap.to_string()
                .contains("the transactions after 0-1-40 up to 0-1-60"),
            "{gap}"
        );
        let never_read = judge(&facts, &at("7-1-5")).unwrap_err();
        assert_eq!(never_read.kind(), Kind::Gap);
    }

    #[test]
    fn a_position_of_the_other_flavor_is_no_position() {
        let of_mysql = at(&format!("{UUID}:1-5"));
        let error = judge(&mariadb_facts("0-1-100", ""), &of_mysql).unwrap_err();
        assert_eq!(error.kind(), Kind::WrongServer);
        let error = judge(&facts(&format!("{UUID}:1-100"), ""), &at("0-1-5")).unwrap_err();
        assert_eq!(error.kind(), Kind::WrongServer);
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
