//! Everything that must hold on a MySQL or MariaDB server, asked beforehand and told row by row: for `sdl check` and `sdl status`.
//!
//! It guarantees that the judgement is the daemon's own: settings, position and gaps by [`preflight`] and [`servers`], what a binlog leaves
//! out by [`unlogged`], the retention by [`headroom`]. What is added here only warns: settings that weaken durability or content without a
//! reason to stop, rights, clocks. It never begins a dump, so a daemon that runs is not disturbed; one question that fails costs its own row
//! and those that build on it.

mod rights;

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use super::connect::{self, classify_after_login};
use super::headroom::{self, HALF, Needed, TENTH, span};
use super::preflight::{self, Facts};
use super::pulse::{Beat, Pulse};
use super::replicas::Replicas;
use super::servers::{self, Recorded, bounded};
use super::{refuse_filters, schema, unlogged};
use crate::config::{Config, MysqlAddress, TlsMode};
use crate::error::{Error, Kind, Result};
use crate::finding::{self, Finding, Group, Level};
use crate::offset::Offset;
use crate::position::{Flavor, GtidSet};

/// Binlogs that are kept for less are gone after a long weekend.
const SHORT_RETENTION: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// What is known of the saved offset.
#[derive(Debug, Clone, Copy)]
pub enum Saved<'a> {
    /// It could not be read.
    Unknown,
    /// The source was never read.
    Never,
    /// This one.
    At(&'a Offset),
}

/// A setting that sdl runs without.
struct Recommended {
    name: &'static str,
    value: &'static str,
    reason: &'static str,
    remedy: &'static str,
}

/// Of MySQL. Manual: "Binary Logging Options and Variables", "InnoDB Startup Options and System Variables".
const MYSQL: &[Recommended] = &[
    Recommended {
        name: "enforce_gtid_consistency",
        value: "ON",
        reason: "a statement that cannot have one GTID is refused",
        remedy: "SET PERSIST enforce_gtid_consistency=ON",
    },
    Recommended {
        name: "innodb_flush_log_at_trx_commit",
        value: "1",
        reason: "else a crash of its machine takes transactions out of the tables that sdl has recorded",
        remedy: "SET PERSIST innodb_flush_log_at_trx_commit=1",
    },
    Recommended {
        name: "binlog_checksum",
        value: "CRC32",
        reason: "else damage on the way or on the disk is not noticed",
        remedy: "SET PERSIST binlog_checksum=CRC32",
    },
    Recommended {
        name: "binlog_rows_query_log_events",
        value: "ON",
        reason: "else the statement is not recorded (meta.query)",
        remedy: "SET PERSIST binlog_rows_query_log_events=ON",
    },
];

/// Of MariaDB, whose protocol gives sdl no statement text.
const MARIADB: &[Recommended] = &[
    Recommended {
        name: "gtid_strict_mode",
        value: "ON",
        reason: "the numbers of a domain then only grow, as sdl needs them to",
        remedy: "SET GLOBAL gtid_strict_mode=ON, and the same in my.cnf",
    },
    Recommended {
        name: "innodb_flush_log_at_trx_commit",
        value: "1",
        reason: "else a crash of its machine takes transactions out of the tables that sdl has recorded",
        remedy: "SET GLOBAL innodb_flush_log_at_trx_commit=1, and the same in my.cnf",
    },
    Recommended {
        name: "binlog_checksum",
        value: "CRC32",
        reason: "else damage on the way or on the disk is not noticed",
        remedy: "SET GLOBAL binlog_checksum=CRC32, and the same in my.cnf",
    },
];

/// The rows that need a connection, for one that there is none of.
const ALL: [&str; 14] = [
    "server",
    "replication_slave",
    "replication_client",
    "references",
    "settings",
    "sync_binlog",
    "binlog_error_action",
    "retention",
    "position",
    "purge_headroom",
    "server_id",
    "filters",
    "left_out",
    "clock",
];

/// Looks at one server of MYSQL_ADDR.
pub async fn server(config: &Arc<Config>, address: &MysqlAddress, saved: Saved<'_>) -> Group {
    let mut findings = Vec::new();
    look(config, address, saved, &mut findings).await;
    Group {
        name: "mysql",
        server: Some(address.to_string()),
        findings,
    }
}

async fn look(
    config: &Arc<Config>,
    address: &MysqlAddress,
    saved: Saved<'_>,
    findings: &mut Vec<Finding>,
) {
    let began = Instant::now();
    let connected = bounded("connect to mysql", connect::connect(config, address)).await;
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(error) => return not_connected(&error, findings),
    };
    findings.push(Finding::ok(
        "connection",
        format!("answers after {} ms", began.elapsed().as_millis()),
    ));
    findings.push(or_failed(
        "tls",
        tls(&mut connection, config, address).await,
    ));
    let account = rights::account(&mut connection).await;
    findings.push(match &account {
        Ok(account) => Finding::ok("login", account.name.clone()),
        Err(error) => Finding::of("login", Level::Fail, error),
    });

    let flavor = match saved {
        Saved::At(offset) => Some(offset.flavor),
        _ => config.mysql_flavor,
    };
    let asked = bounded(
        "ask the server about itself",
        preflight::ask(&mut connection, flavor),
    );
    let facts = match asked.await {
        Ok(facts) => facts,
        Err(error) => {
            findings.push(Finding::of("server", Level::Fail, &error));
            if let Ok(account) = &account {
                findings.extend(rights::judge(account));
            }
            let why = "the server did not say what it is";
            let rest = ALL
                .iter()
                .filter(|name| !findings.iter().any(|finding| finding.check == **name));
            let rest: Vec<Finding> = rest.map(|name| Finding::skipped(name, why)).collect();
            findings.extend(rest);
            return;
        }
    };
    findings.push(Finding::ok(
        "server",
        format!("{} {}, {}", facts.flavor, facts.version, facts.server_uuid),
    ));
    if let Ok(account) = &account {
        findings.extend(rights::judge(account));
    }
    findings.extend(preflight::settings(&facts).map(required));
    match recommended(&mut connection, facts.flavor).await {
        Ok(found) => findings.extend(found),
        Err(error) => findings.push(Finding::of("settings", Level::Warn, &error)),
    }
    let warnings = unlogged::look(config, address).await;
    findings.extend(left_out(facts.flavor, warnings));
    if facts.flavor == Flavor::Mariadb {
        findings.push(columns(&mut connection, config).await);
    }
    findings.push(server_id(&mut connection, config).await);
    if config.mysql_addresses.len() > 1 {
        let refusal = refuse_filters(&mut connection, facts.flavor);
        findings.push(
            match bounded("ask for replication filters", refusal).await {
                Ok(()) => Finding::ok("filters", "it leaves nothing out as a replica"),
                Err(error) => Finding::of("filters", Level::Fail, &error),
            },
        );
    }
    findings.push(position(&facts, saved));
    let _ = connection.disconnect().await;
    binlogs(config, address, &facts, saved, findings).await;
}

/// Which of the first rows it was that failed; the others could not be asked.
fn not_connected(error: &Error, findings: &mut Vec<Finding>) {
    let rows = ["connection", "tls", "login"];
    let failed = match error.kind() {
        Kind::Privilege => 2,
        Kind::SourceSetting => 1,
        _ => 0,
    };
    for (index, name) in rows.into_iter().enumerate() {
        findings.push(match index.cmp(&failed) {
            std::cmp::Ordering::Less if name == "connection" => Finding::ok(name, "answers"),
            std::cmp::Ordering::Less => Finding::ok(name, "agreed on"),
            std::cmp::Ordering::Equal => Finding::of(name, Level::Fail, error),
            std::cmp::Ordering::Greater => Finding::skipped(name, "there is no connection"),
        });
    }
    findings.extend(
        ALL.iter()
            .map(|name| Finding::skipped(name, "there is no connection")),
    );
}

fn or_failed(check: &'static str, answer: Result<Finding>) -> Finding {
    answer.unwrap_or_else(|error| Finding::of(check, Level::Fail, &error))
}

/// What the connection is encrypted with, and what of the server was verified.
async fn tls(connection: &mut Conn, config: &Config, address: &MysqlAddress) -> Result<Finding> {
    let status: Vec<(String, String)> = connection
        .query("SHOW SESSION STATUS WHERE Variable_name IN ('Ssl_version', 'Ssl_cipher')")
        .await
        .map_err(|error| classify_after_login("ask for the cipher", &error))?;
    let status: HashMap<String, String> = status.into_iter().collect();
    let of = |name: &str| status.get(name).cloned().unwrap_or_default();
    let is_local = address.host == "localhost"
        || address
            .host
            .parse::<IpAddr>()
            .is_ok_and(|address| address.is_loopback());
    let (version, cipher) = (of("Ssl_version"), of("Ssl_cipher"));
    let remedy = "MYSQL_TLS=verify-identity, and MYSQL_TLS_CA=FILE with the authority that signed the server's certificate";
    if version.is_empty() {
        return Ok(match is_local {
            true => Finding::ok("tls", "none; the server is on this host"),
            false => Finding::warn("tls", "none: rows and their values pass in the clear")
                .expected("TLS with a verified server")
                .remedy(remedy),
        });
    }
    let verified = match config.mysql_tls.mode {
        TlsMode::VerifyIdentity => Some("authority and name verified"),
        TlsMode::VerifyCa => Some("authority verified, the name is not"),
        TlsMode::Disabled | TlsMode::Preferred | TlsMode::Required => None,
    };
    Ok(match verified {
        Some(verified) => Finding::ok("tls", format!("{version}, {cipher}; {verified}")),
        None if is_local => Finding::ok(
            "tls",
            format!("{version}, {cipher}; not verified, the server is on this host"),
        ),
        None => Finding::warn(
            "tls",
            format!("{version}, {cipher}; the server is not verified"),
        )
        .expected("a verified server: else another one can stand in for it")
        .remedy(remedy),
    })
}

fn required(setting: preflight::Setting) -> Finding {
    if setting.is_right {
        return Finding::ok(setting.name, setting.found);
    }
    Finding::fail(setting.name, setting.found)
        .expected(format!("{}: {}", setting.expected, setting.reason))
        .remedy(setting.remedy)
}

async fn recommended(connection: &mut Conn, flavor: Flavor) -> Result<Vec<Finding>> {
    let wanted = match flavor {
        Flavor::Mysql => MYSQL,
        Flavor::Mariadb => MARIADB,
    };
    let names: Vec<String> = wanted
        .iter()
        .map(|recommended| format!("'{}'", recommended.name))
        .collect();
    let query = format!(
        "SHOW GLOBAL VARIABLES WHERE Variable_name IN ({})",
        names.join(", ")
    );
    let found: Vec<(String, String)> = connection
        .query(query)
        .await
        .map_err(|error| classify_after_login("ask for settings", &error))?;
    let found: HashMap<String, String> = found.into_iter().collect();
    Ok(wanted
        .iter()
        .map(|recommended| {
            let value = found
                .get(recommended.name)
                .map_or("no such variable", String::as_str);
            if value.eq_ignore_ascii_case(recommended.value) {
                return Finding::ok(recommended.name, value);
            }
            Finding::warn(recommended.name, value)
                .expected(format!("{}: {}", recommended.value, recommended.reason))
                .remedy(recommended.remedy)
        })
        .collect())
}

/// What a binlog leaves out: the settings as rows of their own, the rest as it is told in the log.
fn left_out(flavor: Flavor, warnings: Vec<String>) -> Vec<Finding> {
    const SETTINGS: &[(&str, &str)] = &[
        ("sync_binlog", "1"),
        ("binlog_error_action", "ABORT_SERVER"),
    ];
    let settings = match flavor {
        Flavor::Mysql => SETTINGS,
        // It has no such variable.
        Flavor::Mariadb => &SETTINGS[..1],
    };
    let is_about = |warning: &str, name: &str| warning.starts_with(&format!("{name} is "));
    let mut findings = Vec::new();
    for (name, expected) in settings {
        let warning = warnings.iter().find(|warning| is_about(warning, name));
        findings.push(match warning {
            Some(warning) => Finding::told(name, Level::Warn, warning).expected(*expected),
            None => Finding::ok(name, *expected),
        });
    }
    let rest: Vec<&String> = warnings
        .iter()
        .filter(|warning| !SETTINGS.iter().any(|(name, _)| is_about(warning, name)))
        // The row about the right tells this.
        .filter(|warning| !warning.starts_with("the account may not see"))
        .collect();
    if rest.is_empty() {
        findings.push(Finding::ok(
            "left_out",
            "nothing is known that its binlog would not hold",
        ));
    }
    findings.extend(
        rest.into_iter()
            .map(|warning| Finding::told("left_out", Level::Warn, warning)),
    );
    findings
}

async fn columns(connection: &mut Conn, config: &Config) -> Finding {
    let check = schema::refused::check(connection, |table| config.tables.includes(table));
    match bounded("look at the tables", check).await {
        Ok(()) => Finding::ok("columns", "none that cannot be read"),
        Err(error) => Finding::of("columns", Level::Fail, &error),
    }
}

/// Whether anybody else goes under MYSQL_SERVER_ID.
async fn server_id(connection: &mut Conn, config: &Config) -> Finding {
    let ours = config.mysql_server_id;
    let remedy = "set MYSQL_SERVER_ID to a number that no server and no other replica of this source has (SHOW REPLICAS lists those that \
                  are attached)";
    let own: mysql_async::Result<Option<u32>> =
        connection.query_first("SELECT @@global.server_id").await;
    match own {
        Ok(Some(own)) if own == ours => {
            return Finding::fail("server_id", format!("{ours} is the server's own number"))
                .remedy(remedy);
        }
        Ok(_) => {}
        Err(error) => {
            let error = classify_after_login("ask for its number", &error);
            return Finding::of("server_id", Level::Warn, &error);
        }
    }
    match Replicas::new(config).listed_other(connection).await {
        Ok(None) => Finding::ok("server_id", format!("{ours}, and nobody else has it")),
        Ok(Some(what)) => Finding::fail("server_id", what).remedy(remedy),
        Err(error) => Finding::of("server_id", Level::Warn, &error),
    }
}

/// Whether it continues what is recorded.
fn position(facts: &Facts, saved: Saved<'_>) -> Finding {
    let offset = match saved {
        Saved::Unknown => {
            return Finding::skipped("position", "the saved offset could not be read");
        }
        Saved::Never => {
            return Finding::ok(
                "position",
                "nothing is recorded yet; START_FROM says where it begins",
            );
        }
        Saved::At(offset) => offset,
    };
    match servers::continues(facts, recorded(offset)) {
        Ok(()) => Finding::ok(
            "position",
            format!(
                "it has what is recorded, and the {} transactions that come next",
                transactions_beyond(&facts.executed, &offset.position.gtid)
            ),
        ),
        Err(error) => Finding::of("position", Level::Fail, &error),
    }
}

fn recorded(offset: &Offset) -> Recorded<'_> {
    Recorded {
        read: &offset.position.gtid,
        cut: offset
            .position
            .partial
            .as_ref()
            .map(|partial| &partial.gtid),
    }
}

/// Clock, retention, and what is left of it.
async fn binlogs(
    config: &Arc<Config>,
    address: &MysqlAddress,
    facts: &Facts,
    saved: Saved<'_>,
    findings: &mut Vec<Finding>,
) {
    let mut pulse = Pulse::new(Arc::clone(config));
    let address = address.to_string();
    let beat = match pulse.beat(&address).await {
        Ok(beat) => {
            findings.push(finding::clock("clock", ahead(&beat)));
            Some(beat)
        }
        Err(error) => {
            findings.push(Finding::of("clock", Level::Warn, &error));
            None
        }
    };
    let binlogs = match pulse.binlogs(&address).await {
        Ok(binlogs) => binlogs,
        Err(error) => {
            findings.push(Finding::of("retention", Level::Warn, &error));
            findings.push(Finding::skipped(
                "purge_headroom",
                "the binlogs could not be listed",
            ));
            return;
        }
    };
    let bytes = binlogs.files.iter().map(|file| file.bytes).sum();
    let has = format!(
        "it has {} binlogs, {}",
        binlogs.files.len(),
        finding::size(bytes)
    );
    findings.push(match binlogs.retention {
        None => Finding::ok("retention", format!("binlogs are not purged by age; {has}")),
        Some(retention) => {
            let found = format!(
                "{} ({}={}); {has}",
                span(retention.time),
                retention.variable,
                retention.time.as_secs()
            );
            match retention.time < SHORT_RETENTION {
                false => Finding::ok("retention", found),
                true => Finding::warn("retention", found)
                    .expected(format!(
                        "{} at least: an outage that is longer is a gap",
                        span(SHORT_RETENTION)
                    ))
                    .remedy(binlogs.keep_longer()),
            }
        }
    });
    let Saved::At(offset) = saved else {
        findings.push(Finding::skipped(
            "purge_headroom",
            "there is no saved offset to compare with",
        ));
        return;
    };
    let now = beat.map_or_else(now, |beat| beat.clock);
    let (headroom, needed) = headroom_of(&binlogs, facts, offset, now);
    let text = binlogs.describe(&needed, &headroom);
    findings.push(match headroom.share {
        None => Finding::ok("purge_headroom", "nothing is purged by itself"),
        Some(share) if share >= HALF => Finding::ok(
            "purge_headroom",
            format!(
                "{:.0} %{}",
                share * 100.0,
                headroom
                    .remaining
                    .map_or(String::new(), |left| format!(", {}", span(left)))
            ),
        ),
        Some(share) if share >= TENTH => Finding::told("purge_headroom", Level::Warn, &text),
        Some(_) => Finding::told("purge_headroom", Level::Fail, &text),
    });
}

/// What is left until a needed binlog is purged. Where nothing is missing, nothing is needed that stands behind this moment.
fn headroom_of(
    binlogs: &headroom::Binlogs,
    facts: &Facts,
    offset: &Offset,
    now: i64,
) -> (headroom::Headroom, Needed) {
    let is_done = transactions_beyond(&facts.executed, &offset.position.gtid) == 0;
    let name = |file: &headroom::Binlog| file.name.clone();
    let is_there = |name: &String| binlogs.files.iter().any(|file| file.name == *name);
    let saved = (offset.server_uuid == binlogs.server_uuid && !offset.position.file.is_empty())
        .then(|| offset.position.file.clone());
    // What is recorded to its end may be purged; the next begins in the oldest file then, unless there is a gap.
    let is_passed = saved.as_ref().is_some_and(|saved| !is_there(saved))
        && preflight::continues(facts, &offset.position.gtid).is_ok();
    let saved = match is_passed {
        true => binlogs.oldest().map(name),
        false => saved,
    };
    let needed = Needed {
        file: if is_done {
            binlogs.active().map(name)
        } else {
            saved
        },
        since: match is_done {
            true => Some(now),
            false => offset
                .last
                .as_ref()
                .map(|last| last.timestamp.timestamp_millis()),
        },
    };
    (headroom::headroom(binlogs, &needed, now), needed)
}

fn now() -> i64 {
    bson::DateTime::now().timestamp_millis()
}

/// How far the server's clock is ahead of this host's, in milliseconds.
fn ahead(beat: &Beat) -> i64 {
    let half = i64::try_from((beat.ping / 2 + beat.at.elapsed()).as_millis()).unwrap_or(0);
    beat.clock + half - now()
}

/// How many transactions `executed` has beyond `recorded`. MariaDB numbers them in each domain.
pub fn transactions_beyond(executed: &GtidSet, recorded: &GtidSet) -> u64 {
    let mysql = executed.mysql().subtract(recorded.mysql()).count();
    let mariadb: u64 = executed
        .mariadb()
        .iter()
        .map(|newest| {
            let before = recorded.mariadb().newest(newest.domain);
            newest
                .sequence
                .saturating_sub(before.map_or(0, |before| before.sequence))
        })
        .sum();
    u64::try_from(mysql)
        .unwrap_or(u64::MAX)
        .saturating_add(mariadb)
}

/// Where a server stands against the saved offset: what `sdl status` tells of it.
#[derive(Debug)]
pub struct Standing {
    /// Kind and version.
    pub version: String,
    /// Transactions that it has and that are not recorded; none: there is no saved offset.
    pub transactions: Option<u64>,
    /// The age of the oldest of them at least, in seconds: since the last recorded one.
    pub seconds: Option<f64>,
    /// What is left of the retention; none: it is not known.
    pub headroom: Option<(Option<Duration>, Option<f64>, String)>,
    /// Why it cannot be read on from the offset.
    pub refusal: Option<Error>,
}

/// Asks one server where it stands.
///
/// # Errors
/// When it does not answer, or refuses the account.
pub async fn standing(
    config: &Arc<Config>,
    address: &MysqlAddress,
    offset: Option<&Offset>,
) -> Result<Standing> {
    let flavor = offset.map(|offset| offset.flavor).or(config.mysql_flavor);
    let (connection, facts) = servers::ask(config, address, flavor).await?;
    let _ = connection.disconnect().await;
    let mut standing = Standing {
        version: format!("{} {}", facts.flavor, facts.version),
        transactions: None,
        seconds: None,
        headroom: None,
        refusal: None,
    };
    let Some(offset) = offset else {
        return Ok(standing);
    };
    let beyond = transactions_beyond(&facts.executed, &offset.position.gtid);
    standing.transactions = Some(beyond);
    standing.refusal = servers::judge(&facts, recorded(offset)).err();
    let mut pulse = Pulse::new(Arc::clone(config));
    let address = address.to_string();
    let clock = pulse.beat(&address).await?.clock;
    standing.seconds = match (&offset.last, beyond) {
        (_, 0) => Some(0.0),
        (Some(last), _) => Some((clock - last.timestamp.timestamp_millis()).max(0) as f64 / 1000.0),
        (None, _) => None,
    };
    // It takes a right that the account may lack.
    if let Ok(binlogs) = pulse.binlogs(&address).await {
        let (headroom, needed) = headroom_of(&binlogs, &facts, offset, clock);
        let text = binlogs.describe(&needed, &headroom);
        standing.headroom = Some((headroom.remaining, headroom.share, text));
    }
    Ok(standing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transactions_are_counted_by_either_rule() {
        const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
        let at = |set: &str| set.parse::<GtidSet>().unwrap();
        for (executed, recorded, count) in [
            (format!("{UUID}:1-100"), format!("{UUID}:1-40"), 60),
            (format!("{UUID}:1-100"), format!("{UUID}:1-100"), 0),
            ("0-1-100,7-1-5".to_owned(), "0-2-40".to_owned(), 65),
            (String::new(), String::new(), 0),
        ] {
            let beyond = transactions_beyond(&at(&executed), &at(&recorded));
            assert_eq!(beyond, count, "{executed} beyond {recorded}");
        }
    }

    #[test]
    fn settings_among_what_is_left_out_have_rows_of_their_own() {
        let warnings = vec![
            "sync_binlog is 0: a crash; SET GLOBAL sync_binlog=1, and in its configuration"
                .to_owned(),
            "the account may not see every table's definition; GRANT".to_owned(),
            "the server does not log the databases a (binlog_ignore_db); take it out".to_owned(),
        ];
        let found: Vec<_> = left_out(Flavor::Mysql, warnings)
            .into_iter()
            .map(|finding| (finding.check, finding.status))
            .collect();
        assert_eq!(
            found,
            [
                ("sync_binlog", Level::Warn),
                ("binlog_error_action", Level::Ok),
                ("left_out", Level::Warn)
            ]
        );
    }
}
