//! Everything that must hold in MongoDB, looked at beforehand and told row by row: for `sdl check`. [`progress`] is what `sdl status` asks.
//!
//! It guarantees to leave nothing behind and to disturb nobody: no collection, no index, no epoch, no lease. The two probes write nothing: an
//! update that matches no document still waits until a majority has all that was written before it, and a transaction that only reads
//! is ended as it began. It needs no right beyond the daemon's; what only other rights show (disk, oplog, the list of indexes) is
//! skipped, with the right that would show it.

mod indexes;
pub mod progress;
mod rights;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use futures_util::future::join_all;
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, ServerAddress, Tls, WriteConcern,
};
use mongodb::{Client, Database};

use super::ownership::parse_offset;
use super::reader::of_a_majority;
use super::{parse_uri, reach, settle};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::finding::{self, Finding, Group, Level, size};
use crate::offset::Offset;

/// How MongoDB's currentOp and log name it.
const APP_NAME: &str = "sdl-check";

/// Longest wait for a host.
const LIMIT: Duration = Duration::from_secs(5);

/// The oldest version whose transactions and indexes are as sdl needs them: a collection can be made beside a transaction.
const OLDEST_VERSION: (u32, u32) = (4, 4);

/// The oldest that is tested.
const TESTED_VERSION: (u32, u32) = (6, 0);

/// Below this share of the disk, it is full before somebody looks.
const LOW_DISK: f64 = 0.15;

/// A member that was away for longer than the oplog reaches must be copied anew.
const SHORT_OPLOG: Duration = Duration::from_secs(24 * 60 * 60);

/// An oplog fuller than this has reached its size, and what it holds is its window.
const FULL_OPLOG: f64 = 0.9;

/// A document that no source has: its id would be one without a host.
const NO_DOCUMENT: &str = "sdl check: no such source";

/// The rows behind the first three.
const ALL: [&str; 11] = [
    "version",
    "replica_set",
    "write_concern",
    "transactions",
    "privileges",
    "indexes",
    "staging_ttl",
    "saved_offset",
    "disk",
    "oplog",
    "clock",
];

/// What was found, and the offset of the source if it could be read.
#[derive(Debug)]
pub struct Inspection {
    /// The rows.
    pub group: Group,
    /// The outer is none where it could not be read, the inner where there is none.
    pub offset: Option<Option<Offset>>,
}

/// Looks at the MongoDB of MONGO_URI.
pub async fn store(config: &Config) -> Inspection {
    let mut findings = Vec::new();
    let offset = look(config, &mut findings).await;
    Inspection {
        group: Group {
            name: "mongodb",
            server: Some(config.mongo_hosts.clone()),
            findings,
        },
        offset,
    }
}

async fn look(config: &Config, findings: &mut Vec<Finding>) -> Option<Option<Offset>> {
    let began = Instant::now();
    let (client, options) = match connect(config).await {
        Ok(connected) => connected,
        Err(error) => {
            not_connected(&error, findings);
            return None;
        }
    };
    findings.push(Finding::ok(
        "connection",
        format!("answers after {} ms", began.elapsed().as_millis()),
    ));
    findings.push(tls(&options));
    let admin = client.database("admin");
    let database = client.database(&config.mongo_database);
    rights::look(&admin, config, &options, findings).await;
    findings.push(answer("version", version(&admin).await));
    let began = Instant::now();
    match hello(&admin).await {
        Ok(hello) => {
            if let Some(Bson::DateTime(time)) = hello.get("localTime") {
                let half = i64::try_from(began.elapsed().as_millis() / 2).unwrap_or(0);
                let now = bson::DateTime::now().timestamp_millis();
                findings.push(finding::clock(
                    "clock",
                    time.timestamp_millis() + half - now,
                ));
            }
            findings.push(members(&hello, &options).await);
        }
        Err(error) => findings.push(Finding::of("replica_set", Level::Fail, &error)),
    }
    findings.push(answer(
        "write_concern",
        write_concern(&database, config).await,
    ));
    findings.push(answer("transactions", transactions(&client, config).await));
    indexes::look(&database, config, findings).await;
    let offset = offset(&database, config).await;
    findings.push(saved(&offset));
    findings.push(answer("disk", disk(&database).await));
    findings.push(answer("oplog", oplog(&client).await));
    offset.ok()
}

/// Connects as the daemon does, but does not wait for a server that is away.
async fn connect(config: &Config) -> Result<(Client, ClientOptions)> {
    let mut options = parse_uri(config.mongo_uri.expose()).await?;
    options.app_name = Some(APP_NAME.to_owned());
    options.max_pool_size = Some(2);
    options.min_pool_size = None;
    let shorter = |time: Option<Duration>| Some(time.map_or(LIMIT, |time| time.min(LIMIT)));
    options.server_selection_timeout = shorter(options.server_selection_timeout);
    options.connect_timeout = shorter(options.connect_timeout);
    let (client, _) = reach(options.clone()).await?;
    Ok((client, options))
}

/// Which of the first rows it was that failed.
fn not_connected(error: &Error, findings: &mut Vec<Finding>) {
    let text = error.to_string();
    let failed = match error.kind() {
        Kind::Privilege => "login",
        Kind::StoreSetting if text.contains("TLS") => "tls",
        Kind::StoreSetting if text.contains("replica set") => "replica_set",
        _ => "connection",
    };
    findings.push(Finding::of(failed, Level::Fail, error));
    let rest = ["connection", "tls", "login"].into_iter().chain(ALL);
    findings.extend(
        rest.filter(|name| *name != failed)
            .map(|name| Finding::skipped(name, "there is no connection that could be asked")),
    );
}

/// A question that a missing right leaves open is no fault of its own: the row about the rights tells of those that sdl needs.
fn answer(check: &'static str, answer: Result<Finding>) -> Finding {
    match answer {
        Ok(finding) => finding,
        Err(error) if error.kind() == Kind::Privilege => {
            Finding::skipped(check, "the user of MONGO_URI has no right to ask")
        }
        Err(error) => Finding::of(check, Level::Fail, &error),
    }
}

fn is_local(options: &ClientOptions) -> bool {
    options.hosts.iter().all(|host| match host {
        ServerAddress::Tcp { host, .. } => {
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|host| host.is_loopback())
        }
        _ => true,
    })
}

fn tls(options: &ClientOptions) -> Finding {
    match &options.tls {
        Some(Tls::Enabled(tls)) if tls.allow_invalid_certificates != Some(true) => Finding::ok(
            "tls",
            format!(
                "authority and name verified, by {}",
                tls.ca_file_path.as_ref().map_or_else(
                    || "the web's authorities".to_owned(),
                    |path| path.display().to_string()
                )
            ),
        ),
        Some(Tls::Enabled(_)) => Finding::warn("tls", "tlsInsecure: the server is not verified")
            .expected("a verified server: else another one can stand in for it")
            .remedy("take tlsInsecure out of MONGO_URI, and name the authority: tlsCAFile=FILE"),
        _ if is_local(options) => Finding::ok("tls", "none; the server is on this host"),
        _ => Finding::warn("tls", "none: the audit passes in the clear")
            .expected("TLS with a verified server")
            .remedy(
                "tls=true&tlsCAFile=FILE in MONGO_URI, and net.tls.mode: requireTLS in mongod.conf",
            ),
    }
}

async fn version(admin: &Database) -> Result<Finding> {
    let info = settle(
        "ask for the version",
        admin.run_command(doc! { "buildInfo": 1 }),
    )
    .await?;
    let version = info.get_str("version").unwrap_or_default().to_owned();
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    let found = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    Ok(if found < OLDEST_VERSION {
        Finding::fail("version", version)
            .expected("4.4 or later")
            .remedy("upgrade MongoDB")
    } else if found < TESTED_VERSION {
        Finding::warn("version", version)
            .expected("6.0 or later, which sdl is tested with")
            .remedy("upgrade MongoDB")
    } else {
        Finding::ok("version", version)
    })
}

async fn hello(admin: &Database) -> Result<Document> {
    settle("say hello", admin.run_command(doc! { "hello": 1 })).await
}

/// Who is in the replica set, and who of them answers: each is asked directly, for which no right is needed.
async fn members(hello: &Document, options: &ClientOptions) -> Finding {
    let Ok(name) = hello.get_str("setName") else {
        return Finding::ok("replica_set", "a sharded cluster, by mongos");
    };
    let list = |key: &str| -> Vec<String> {
        let hosts = hello.get_array(key).map(Vec::as_slice).unwrap_or_default();
        hosts
            .iter()
            .filter_map(|host| host.as_str().map(str::to_owned))
            .collect()
    };
    let (mut data, arbiters) = (list("hosts"), list("arbiters"));
    data.extend(list("passives"));
    let answers = join_all(data.iter().map(|host| is_there(host, options))).await;
    let away: Vec<&str> = data
        .iter()
        .zip(&answers)
        .filter(|(_, is_there)| !**is_there)
        .map(|(host, _)| host.as_str())
        .collect();
    let there = data.len() - away.len();
    let found = format!(
        "{name}: {there} of {} members with data answer{}; primary {}",
        data.len(),
        match away.is_empty() {
            true => String::new(),
            false => format!(" (not {})", away.join(", ")),
        },
        hello.get_str("primary").unwrap_or("unknown"),
    );
    let voters = data.len() + arbiters.len();
    if !arbiters.is_empty() {
        let found = format!("{found}; arbiter {}", arbiters.join(", "));
        return Finding::warn("replica_set", found)
            .expected("members that hold data: with an arbiter, one that is away stops what a majority must confirm, and so sdl")
            .remedy(format!("rs.add(HOST) for a member with data, then rs.remove(\"{}\")", arbiters[0]));
    }
    if 2 * there <= voters {
        return Finding::fail("replica_set", found)
            .expected("a majority: without it nothing is confirmed, and sdl waits")
            .remedy("start the members that are away; rs.status() tells of each");
    }
    match (away.is_empty(), data.len()) {
        (false, _) => Finding::warn("replica_set", found)
            .expected("all members")
            .remedy("start the members that are away; rs.status() tells of each"),
        (true, 1) => Finding::ok(
            "replica_set",
            format!("{found}; there is no other copy of the audit"),
        ),
        (true, _) => Finding::ok("replica_set", found),
    }
}

async fn is_there(host: &str, options: &ClientOptions) -> bool {
    let Ok(address) = ServerAddress::parse(host) else {
        return false;
    };
    let mut options = options.clone();
    options.hosts = vec![address];
    options.repl_set_name = None;
    options.direct_connection = Some(true);
    let Ok(client) = Client::with_options(options) else {
        return false;
    };
    let answers = hello(&client.database("admin")).await.is_ok();
    client.shutdown().immediate(true).await;
    answers
}

/// Whether a majority confirms, in its journals.
async fn write_concern(database: &Database, config: &Config) -> Result<Finding> {
    let concern = WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .w_timeout(LIMIT)
        .build();
    let options = CollectionOptions::builder().write_concern(concern).build();
    let offsets =
        database.collection_with_options::<Document>(&config.collections.offsets, options);
    let began = Instant::now();
    let update = offsets.update_one(doc! { "_id": NO_DOCUMENT }, doc! { "$set": { "x": 1 } });
    settle("wait for a majority", update).await?;
    Ok(Finding::ok(
        "write_concern",
        format!(
            "a majority confirms in its journals, after {} ms",
            began.elapsed().as_millis()
        ),
    ))
}

async fn transactions(client: &Client, config: &Config) -> Result<Finding> {
    let doing = "begin a transaction";
    let mut session = settle(doing, client.start_session()).await?;
    settle(doing, session.start_transaction()).await?;
    let offsets = client
        .database(&config.mongo_database)
        .collection::<Document>(&config.collections.offsets);
    let read = offsets
        .find_one(doc! { "_id": NO_DOCUMENT })
        .session(&mut session);
    let read = settle("read in a transaction", read).await;
    let ended = settle("end a transaction", session.abort_transaction()).await;
    read?;
    ended?;
    Ok(Finding::ok("transactions", "one was begun and ended"))
}

/// The offset of the source, as a majority has it.
async fn offset(database: &Database, config: &Config) -> Result<Option<Offset>> {
    let offsets = of_a_majority(database, &config.collections.offsets);
    let by_source = doc! { "_id": &config.source_id };
    let found = settle("read the offset", offsets.find_one(by_source)).await?;
    found
        .map(|document| parse_offset(&document, offsets.name()))
        .transpose()
}

fn saved(offset: &Result<Option<Offset>>) -> Finding {
    match offset {
        Ok(Some(offset)) => Finding::ok(
            "saved_offset",
            format!(
                "batch {}, n {}, {}",
                offset.batch, offset.n, offset.position.gtid
            ),
        ),
        Ok(None) => Finding::ok("saved_offset", "none: the source was never read"),
        Err(error) => Finding::of("saved_offset", Level::Fail, error),
    }
}

/// What is free on the disk of the primary. fsUsedSize and fsTotalSize: manual, "dbStats".
async fn disk(database: &Database) -> Result<Finding> {
    let stats = settle(
        "ask for the size of the disk",
        database.run_command(doc! { "dbStats": 1 }),
    )
    .await?;
    let figure = |name: &str| match stats.get(name) {
        Some(Bson::Double(value)) => Some(*value),
        Some(Bson::Int64(value)) => Some(*value as f64),
        Some(Bson::Int32(value)) => Some(f64::from(*value)),
        _ => None,
    };
    let (Some(used), Some(total)) = (figure("fsUsedSize"), figure("fsTotalSize")) else {
        return Ok(Finding::skipped(
            "disk",
            "mongodb does not say how full its disk is",
        ));
    };
    if total <= 0.0 {
        return Ok(Finding::skipped(
            "disk",
            "there is no such database yet; it is made at the next start",
        ));
    }
    let (free, share) = (total - used, (total - used) / total);
    let found = format!(
        "{} of {} free ({:.0} %); the audit takes {}",
        size(free as u64),
        size(total as u64),
        share * 100.0,
        size(figure("totalSize").unwrap_or_default() as u64)
    );
    Ok(match share < LOW_DISK {
        false => Finding::ok("disk", found),
        true => Finding::warn("disk", found)
            .expected(format!(
                "{:.0} % at least: a full disk stops sdl",
                LOW_DISK * 100.0
            ))
            .remedy("enlarge the disk of mongod, or move older documents to an archive"),
    })
}

/// How far back the oplog reaches.
async fn oplog(client: &Client) -> Result<Finding> {
    let local = client.database("local");
    let doing = "look at the oplog";
    let stats = settle(doing, local.run_command(doc! { "collStats": "oplog.rs" })).await?;
    let oplog = local.collection::<Document>("oplog.rs");
    let mut ends = Vec::new();
    for direction in [1, -1] {
        let end = oplog.find_one(doc! {}).sort(doc! { "$natural": direction });
        let end = settle(doing, end).await?;
        ends.extend(end.and_then(|end| end.get_timestamp("ts").ok()));
    }
    let [first, last] = ends[..] else {
        return Ok(Finding::skipped("oplog", "there is none"));
    };
    let window = Duration::from_secs(u64::from(last.time.saturating_sub(first.time)));
    let figure = |name: &str| match stats.get(name) {
        Some(Bson::Int64(value)) => *value as f64,
        Some(Bson::Int32(value)) => f64::from(*value),
        Some(Bson::Double(value)) => *value,
        _ => 0.0,
    };
    let (used, limit) = (figure("size"), figure("maxSize"));
    let found = format!(
        "{} in {} of {}",
        finding::span(window),
        size(used as u64),
        size(limit as u64)
    );
    Ok(match window < SHORT_OPLOG && used > limit * FULL_OPLOG {
        false => Finding::ok("oplog", found),
        true => Finding::warn("oplog", found)
            .expected("24 h at least: a member that was away for longer must be copied anew")
            .remedy(format!(
                "db.adminCommand({{ replSetResizeOplog: 1, size: {:.0} }}), in MiB, on each member",
                limit / 1024.0 / 1024.0 * 4.0
            )),
    })
}
