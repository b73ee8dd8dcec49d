//! Who sdl is among the replicas of a server, whether another one goes under its server_id, and whether the server is a replica that
//! leaves something out.
//!
//! It guarantees that two replicas with one MYSQL_SERVER_ID are told apart from a bad connection, and do not cut each other off by
//! turns: whoever is thrown out for the other (error 1236 of MySQL, 4052 of MariaDB, classified in [`super::connect`]) ends, exit 3.
//!
//! MySQL ends an older dump only when a newer one comes with the same `@replica_uuid`, or when neither has one and the server_id is
//! the same (`kill_zombie_dump_threads`, sql/rpl_source.cc). So a run's own dead dump is ended by its next one, and another replica
//! with sdl's server_id disturbs nobody; but it is a mistake that hurts elsewhere (SHOW REPLICAS knows one replica of each server_id,
//! the one that registered last). MariaDB ends the older dump of the same server_id, whosever it is. Therefore another one is looked
//! for before a run's first dump, where somebody is watching and nobody has been thrown out yet; later, on MySQL, it is only told.
//!
//! The question needs what a MySQL replica may do anyway; on MariaDB the right REPLICATION MASTER ADMIN, and without it, sdl learns of
//! the other one when one of the two is thrown out.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error as DriverFailure, Row};
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use super::connect::classify_after_login;
use super::servers::bounded;
use super::stream::SILENCE;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::hex::hex;
use crate::position::{Flavor, format_uuid};

/// Error 1064: the server does not know the statement.
const SYNTAX: u16 = 1064;
/// Errors 1142 and 1227: the account may not ask.
const MAY_NOT: [u16; 2] = [1142, 1227];

/// What a failing question was for.
const ASKING: &str = "ask for the other replicas";

/// How often it is looked again whether the other replica is still there.
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// Bytes of the UUID that say which source and store a replica is of; the others, which of its runs.
const IDENTITY_BYTES: usize = 12;

/// When this process began to read; with its id and its host it tells a run from all others.
static STARTED: LazyLock<SystemTime> = LazyLock::new(SystemTime::now);

/// By what a server and its DBA recognize sdl.
pub(super) struct Identity {
    /// The same for all runs of a source and store.
    source: [u8; IDENTITY_BYTES],
    run: [u8; 16 - IDENTITY_BYTES],
}

/// sdl as a replica.
pub(super) struct Replicas {
    server_id: u32,
    identity: Identity,
    /// Whether this run has read from a server before.
    was_attached: bool,
}

/// Another replica, as SHOW REPLICAS lists it.
#[derive(Debug, PartialEq)]
struct Replica {
    server_id: u32,
    host: String,
    uuid: String,
}

impl Identity {
    /// The same at each reconnect of one run, and another for each run: with one for all, two daemons of a source would cut each
    /// other off by turns before either can notice that the other took over. What the runs of a source and store have in common is
    /// in the first part, so that the dead dump of a killed run is not taken for somebody else.
    fn new(config: &Config) -> Self {
        let name = format!(
            "{}\n{}\n{}",
            config.source_id, config.mongo_hosts, config.mongo_database
        );
        let (mut source, mut run) = ([0; IDENTITY_BYTES], [0; 16 - IDENTITY_BYTES]);
        source.copy_from_slice(&Sha256::digest(&name)[..IDENTITY_BYTES]);
        let of_run = Sha256::digest(format!(
            "{name}\n{}\n{}\n{:?}",
            crate::host::name(),
            std::process::id(),
            *STARTED
        ));
        run.copy_from_slice(&of_run[..16 - IDENTITY_BYTES]);
        Self { source, run }
    }

    /// `@replica_uuid`.
    pub(super) fn uuid(&self) -> String {
        let mut uuid = [0; 16];
        uuid[..IDENTITY_BYTES].copy_from_slice(&self.source);
        uuid[IDENTITY_BYTES..].copy_from_slice(&self.run);
        format_uuid(&uuid)
    }

    /// The host name that sdl registers with: on MariaDB, which knows no UUID of a replica, what its runs have in common.
    pub(super) fn name(&self) -> String {
        format!("sdl-{}", hex(&self.source))
    }
}

impl Replicas {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            server_id: config.mysql_server_id,
            identity: Identity::new(config),
            was_attached: false,
        }
    }

    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The dump has begun: from now on another replica with this server_id is only told.
    pub(super) fn attached(&mut self) {
        self.was_attached = true;
    }

    /// Looks for another replica that goes under sdl's server_id. One that is listed may be dead without the server knowing, so
    /// it is looked for again until the server must have noticed.
    ///
    /// # Errors
    /// [`Kind::DuplicateReplica`] when there is one and this run has not read anything yet.
    pub(super) async fn look(&self, connection: &mut Conn) -> Result<()> {
        let patience = if self.was_attached {
            Duration::ZERO
        } else {
            SILENCE
        };
        let is_other =
            |replica: &Replica| self.is_other(replica).then(|| self.describe_other(replica));
        match remains(connection, patience, is_other).await? {
            None => Ok(()),
            Some(what) if self.was_attached => {
                tracing::warn!("{what}; each should have its own");
                Ok(())
            }
            Some(what) => Err(Error::new(
                Kind::DuplicateReplica,
                format!(
                    "{what}; servers that tell replicas apart by it would throw each of the two out in turn; set \
                     MYSQL_SERVER_ID to a number that no server and no other replica of this source has (SHOW REPLICAS lists \
                     those that are attached)"
                ),
            )),
        }
    }

    /// Another replica that is listed under sdl's server_id, in words; it may be dead.
    ///
    /// # Errors
    /// When the server does not answer.
    pub(super) async fn listed_other(&self, connection: &mut Conn) -> Result<Option<String>> {
        let is_other =
            |replica: &Replica| self.is_other(replica).then(|| self.describe_other(replica));
        remains(connection, Duration::ZERO, is_other).await
    }

    /// Makes sure that no run of this source and store is attached.
    ///
    /// # Errors
    /// [`Kind::DuplicateReplica`] when there is one.
    pub(super) async fn refuse_other_runs(&self, connection: &mut Conn) -> Result<()> {
        let name = self.identity.name();
        let is_run = |replica: &Replica| {
            let id = replica.server_id;
            (replica.host == name)
                .then(|| format!("an sdl of this source is attached under server_id {id}"))
        };
        match remains(connection, SILENCE, is_run).await? {
            None => Ok(()),
            Some(what) => Err(Error::new(
                Kind::DuplicateReplica,
                format!("{what} and may have read what is purged now; stop sdl first"),
            )),
        }
    }

    fn describe_other(&self, other: &Replica) -> String {
        format!(
            "another replica is attached under server_id {} (replica uuid {:?}, host {:?}), which is MYSQL_SERVER_ID",
            self.server_id, other.uuid, other.host
        )
    }

    /// Whether it goes under the same server_id, and is no run of this source and store.
    fn is_other(&self, replica: &Replica) -> bool {
        replica.server_id == self.server_id && replica.host != self.identity.name()
    }
}

/// Whether a replica is attached that `describe` describes, and still is after `patience`: one that is listed may be dead, and the
/// server notices that within [`SILENCE`].
async fn remains(
    connection: &mut Conn,
    patience: Duration,
    describe: impl Fn(&Replica) -> Option<String>,
) -> Result<Option<String>> {
    let started = Instant::now();
    let mut told = false;
    loop {
        let listed = bounded(ASKING, list(connection)).await?;
        let Some(what) = listed.iter().find_map(&describe) else {
            return Ok(None);
        };
        if started.elapsed() >= patience {
            return Ok(Some(what));
        }
        if !std::mem::replace(&mut told, true) {
            tracing::warn!(
                "{what}; waiting for up to {} s to see whether its connection is dead",
                SILENCE.as_secs()
            );
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The replicas attached to the server, as far as it and the account tell.
async fn list(connection: &mut Conn) -> Result<Vec<Replica>> {
    let mut listed = connection.query("SHOW REPLICAS").await;
    // Before 8.0.22, and on MariaDB, it has the older name only.
    if is_refused(&listed, &[SYNTAX]) {
        listed = connection.query("SHOW SLAVE HOSTS").await;
    }
    if is_refused(&listed, &MAY_NOT) {
        return Ok(Vec::new());
    }
    let rows: Vec<Row> = listed.map_err(|error| classify_after_login(ASKING, &error))?;
    Ok(rows.iter().filter_map(replica).collect())
}

/// Server_Id, Host, Port, Source_Id, Replica_UUID.
fn replica(row: &Row) -> Option<Replica> {
    let text = |index| row.get_opt::<String, _>(index)?.ok();
    Some(Replica {
        server_id: row.get_opt(0)?.ok()?,
        host: text(1).unwrap_or_default(),
        uuid: text(4).unwrap_or_default(),
    })
}

/// What a server leaves out as a replica, in words; `None` when nothing, or when the account may not ask. It has the GTIDs of what it
/// leaves out, and nothing in its binlog shows it.
pub(super) async fn filters(connection: &mut Conn, flavor: Flavor) -> Result<Option<String>> {
    let settings: Vec<(String, String)> = match flavor {
        Flavor::Mysql => {
            let mut channels = connection.query("SHOW REPLICA STATUS").await;
            if is_refused(&channels, &[SYNTAX]) {
                channels = connection.query("SHOW SLAVE STATUS").await;
            }
            if is_refused(&channels, &MAY_NOT) {
                return Ok(None);
            }
            let channels = channels.map_err(|error| classify_after_login(ASKING, &error))?;
            channels.iter().flat_map(columns).collect()
        }
        // There the status needs a right that reading the binlog does not.
        Flavor::Mariadb => connection
            .query("SHOW GLOBAL VARIABLES LIKE 'replicate\\_%'")
            .await
            .map_err(|error| classify_after_login(ASKING, &error))?,
    };
    let found = filters_among(settings.iter().map(|(name, value)| (name, value)));
    Ok((!found.is_empty()).then(|| found.join(", ")))
}

/// Those settings that say what a replica leaves out.
pub(super) fn filters_among<'a>(
    settings: impl Iterator<Item = (&'a String, &'a String)>,
) -> Vec<String> {
    let mut filters: Vec<String> = settings
        .map(|(name, value)| (name.to_ascii_lowercase(), value))
        .filter(|(name, value)| {
            let leaves_out = ["_do_db", "_ignore_db", "_do_table", "_ignore_table"];
            name.starts_with("replicate_")
                && leaves_out.iter().any(|end| name.ends_with(end))
                && !value.is_empty()
        })
        .map(|(name, value)| format!("{name}={value}"))
        .collect();
    filters.sort_unstable();
    filters.dedup();
    filters
}

fn is_refused<T>(answer: &mysql_async::Result<T>, codes: &[u16]) -> bool {
    matches!(answer, Err(DriverFailure::Server(error)) if codes.contains(&error.code))
}

/// The columns of a row that are texts, by name.
fn columns(row: &Row) -> Vec<(String, String)> {
    let names = row.columns_ref().iter().enumerate();
    names
        .filter_map(|(index, column)| {
            let value = row.get_opt::<String, _>(index)?.ok()?;
            Some((column.name_str().into_owned(), value))
        })
        .collect()
}
