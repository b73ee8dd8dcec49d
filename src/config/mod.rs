//! Every setting: its name, its default and the reason for it; all are read, then judged, then told at once.
//!
//! What this guarantees: a [`Config`] that exists is right in itself (each value in its range, no two collections of one
//! name, TLS files that can be read), so nothing behind it checks a setting again. A start with mistakes gives one
//! [`ConfigErrors`] that lists every one of them, and neither it nor the `Debug` form of anything here shows a secret.
//!
//! Where a setting comes from, first found first taken: the environment (`NAME`, for secrets also `NAME_FILE`),
//! systemd's credentials directory (secrets only), the settings file (`.env` of the working directory; see `sources`). An empty value is as good
//! as none. The table of all settings is [`SETTINGS`]; `--help`, the README and `.env.example` follow it.
//!
//! In reading order: `settings` (the table), `sources` (finding the values), `parse` (one value each), `addresses`
//! (the texts with hosts in them), `mistakes` (what is told), and below the whole.

mod addresses;
mod dotenv;
mod mistakes;
mod parse;
mod secret;
mod settings;
mod sources;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use jiff::tz::TimeZone;
use regex::Regex;
use sha2::{Digest, Sha256};

use crate::position::{Flavor, GtidSet};

pub use addresses::MysqlAddress;
pub use mistakes::{ConfigErrors, Mistake};
pub use secret::Secret;
pub use settings::{DEFAULT_FILTER, DefaultValue, SETTINGS, Setting, help_text};
pub use sources::Sources;

use sources::Reader;

/// The settings of one run, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// MYSQL_ADDR: the servers in failover order; at least one.
    pub mysql_addresses: Vec<MysqlAddress>,
    /// MYSQL_USER.
    pub mysql_user: String,
    /// MYSQL_PASS; the empty text for an account without a password.
    pub mysql_password: Secret,
    /// MYSQL_FLAVOR; none: the server is asked.
    pub mysql_flavor: Option<Flavor>,
    /// MYSQL_SERVER_ID; at least 1.
    pub mysql_server_id: u32,
    /// MYSQL_TLS and its files.
    pub mysql_tls: MysqlTls,
    /// MONGO_URI.
    pub mongo_uri: Secret,
    /// The hosts of MONGO_URI, which are no secret: for log lines.
    pub mongo_hosts: String,
    /// MONGO_DB.
    pub mongo_database: String,
    /// MONGO_COLL, MONGO_OFFSETS_COLL, MONGO_STAGING_COLL and what is derived from them.
    pub collections: CollectionNames,
    /// Which tables are recorded.
    pub tables: TableFilter,
    /// TZ: the zone of the times in log lines. Stored times are UTC.
    pub time_zone: TimeZone,
    /// SOURCE_ID: the `_id` of the offset document; part of every event's id.
    pub source_id: String,
    /// START_FROM: where a source without a saved offset begins.
    pub start_from: StartFrom,
    /// BATCH_SIZE: events.
    pub batch_size: usize,
    /// BATCH_BYTES.
    pub batch_bytes: usize,
    /// FLUSH_INTERVAL.
    pub flush_interval: Duration,
    /// PIPELINE_DEPTH: batches that may be staged while one commits.
    pub pipeline_depth: usize,
    /// MAX_VALUE_BYTES: a larger value is stored in pieces of its own.
    pub max_value_bytes: usize,
    /// RETRY_MAX_ATTEMPTS, RETRY_INITIAL, RETRY_MAX_DELAY.
    pub retry: RetrySettings,
    /// BREAKER_FAILURES and BREAKER_OPEN.
    pub breaker: BreakerSettings,
    /// SPOOL_DIR and SPOOL_MAX_BYTES; none: no spool.
    pub spool: Option<SpoolSettings>,
    /// SHUTDOWN_TIMEOUT.
    pub shutdown_timeout: Duration,
    /// LEASE and LEASE_TTL; none: a single daemon.
    pub lease_ttl: Option<Duration>,
    /// METRICS_ADDR; none: nothing is served.
    pub metrics_address: Option<SocketAddr>,
    /// LOG_FORMAT.
    pub log_format: LogFormat,
    /// RUST_LOG: directives that `tracing_subscriber::EnvFilter` takes; checked.
    pub log_filter: String,
    /// The files that secrets may have come from; some may not be there.
    pub secret_files: Vec<PathBuf>,
    /// What looks like a mistake but need not be one (a variable one letter away from a setting): to be logged.
    pub warnings: Vec<String>,
}

/// How the connection to MySQL is secured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MysqlTls {
    /// How much is asked of the server.
    pub mode: TlsMode,
    /// MYSQL_TLS_CA: certificates to trust (PEM or DER); none: the web's certificate authorities, with `VerifyIdentity` only.
    pub ca: Option<PathBuf>,
    /// MYSQL_TLS_CERT and MYSQL_TLS_KEY: the client's certificate and its key, always together.
    pub client: Option<ClientCertificate>,
}

/// A certificate with which the client shows who it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientCertificate {
    /// MYSQL_TLS_CERT: the certificate chain.
    pub certificate: PathBuf,
    /// MYSQL_TLS_KEY: its private key.
    pub key: PathBuf,
}

/// MYSQL_TLS, with the meanings of the MySQL clients' `--ssl-mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TlsMode {
    /// Never TLS.
    Disabled,
    /// TLS where the server offers it, unverified; else none.
    Preferred,
    /// TLS, unverified; no connection without.
    Required,
    /// TLS with a certificate from a trusted authority.
    VerifyCa,
    /// As `VerifyCa`, and the certificate names the host.
    VerifyIdentity,
}

/// The collections sdl writes; no two are the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectionNames {
    /// MONGO_COLL: the audit documents.
    pub changes: String,
    /// MONGO_OFFSETS_COLL: one document per source.
    pub offsets: String,
    /// MONGO_STAGING_COLL: batches not yet committed.
    pub staging: String,
    /// MONGO_COLL + `_schemas`: table schemas by their hash.
    pub schemas: String,
    /// MONGO_COLL + `_values`: the pieces of large values.
    pub values: String,
}

/// START_FROM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// What the server has executed at this moment: history is left out.
    Current,
    /// The oldest transaction the server still has.
    Earliest,
    /// Behind these transactions.
    Gtid(GtidSet),
}

/// How often and how fast a transient error is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetrySettings {
    /// RETRY_MAX_ATTEMPTS: attempts in all; at least 1.
    pub max_attempts: u32,
    /// RETRY_INITIAL: the first pause; it doubles from try to try.
    pub initial: Duration,
    /// RETRY_MAX_DELAY: the longest pause; not below `initial`.
    pub max_delay: Duration,
}

/// When MongoDB is no longer waited for at each call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BreakerSettings {
    /// BREAKER_FAILURES: failures in a row after which it opens; at least 1.
    pub failures: u32,
    /// BREAKER_OPEN: the time until MongoDB is tried again.
    pub open: Duration,
}

/// Where batches wait while MongoDB is away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpoolSettings {
    /// SPOOL_DIR.
    pub directory: PathBuf,
    /// SPOOL_MAX_BYTES, on disk.
    pub max_bytes: u64,
}

/// LOG_FORMAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line per record.
    Text,
    /// One JSON object per record.
    Json,
}

/// Which tables are recorded, by their `database.table`.
#[derive(Clone, Debug)]
pub struct TableFilter {
    /// INCLUDE_REGEX: only tables that it matches are recorded.
    pub include: Regex,
    /// EXCLUDE_REGEX: of those, the tables that it matches are not.
    pub exclude: Regex,
}

impl TableFilter {
    /// Whether changes of a table are recorded.
    #[must_use]
    pub fn includes(&self, table: &str) -> bool {
        self.include.is_match(table) && !self.exclude.is_match(table)
    }
}

impl Config {
    /// Reads every setting from `sources`, then judges all of them.
    pub fn from_sources(sources: &Sources) -> Result<Self, ConfigErrors> {
        let mut reader = Reader::read(sources);
        let config = Self::judge(&mut reader);
        match (config, reader.into_errors()) {
            (Some(config), None) => Ok(Self {
                secret_files: sources.secret_files(),
                ..config
            }),
            (_, errors) => Err(errors.unwrap_or_default()),
        }
    }

    /// Takes every setting, so that each mistake is noted, and only then looks whether there is a whole. `None` only
    /// where a mistake was noted.
    fn judge(reader: &mut Reader<'_>) -> Option<Self> {
        let mysql_addresses = reader.take("MYSQL_ADDR", addresses::mysql_addresses);
        let mysql_user = reader.take("MYSQL_USER", parse::text);
        let mysql_password = reader.take_optional("MYSQL_PASS", parse::text);
        let mysql_flavor = reader.take_optional("MYSQL_FLAVOR", parse::flavor);
        let mysql_tls = judge_tls(reader);
        let source_id = judge_source_id(reader, mysql_addresses.as_deref());
        let lease_ttl = judge_lease(reader);
        let mysql_server_id =
            judge_server_id(reader, source_id.as_deref(), lease_ttl.flatten().is_some());

        let mongo_uri = reader.take("MONGO_URI", addresses::mongo_uri);
        let mongo_database = reader.take("MONGO_DB", parse::database_name);
        let collections = judge_collections(reader, mongo_database.as_deref());

        let include = reader.take("INCLUDE_REGEX", parse::regular_expression);
        let exclude = reader.take("EXCLUDE_REGEX", parse::regular_expression);
        let time_zone = reader.take_optional("TZ", parse::time_zone);
        let start_from = reader.take("START_FROM", parse::start_from);

        let batch_size = reader.take("BATCH_SIZE", parse::whole(1..=100_000));
        let batch_bytes = reader.take("BATCH_BYTES", parse::bytes(64 * KIB..=12 * MIB));
        let flush_interval = reader.take("FLUSH_INTERVAL", parse::duration(MILLISECOND..=MINUTE));
        let pipeline_depth = reader.take("PIPELINE_DEPTH", parse::whole(1..=64));
        let max_value_bytes = reader.take("MAX_VALUE_BYTES", parse::bytes(64 * KIB..=8 * MIB));
        let retry = judge_retry(reader);
        let breaker = judge_breaker(reader);
        let spool = judge_spool(reader);
        let shutdown_timeout = reader.take("SHUTDOWN_TIMEOUT", parse::duration(SECOND..=HOUR));
        let metrics_address = reader.take("METRICS_ADDR", parse::metrics_address);

        let log_format = reader.take("LOG_FORMAT", parse::log_format);
        let log_filter = reader.take("RUST_LOG", parse::log_filter);

        let mongo_uri = mongo_uri?;
        Some(Self {
            mysql_addresses: mysql_addresses?,
            mysql_user: mysql_user?,
            mysql_password: Secret::new(mysql_password?.unwrap_or_default()),
            mysql_flavor: mysql_flavor?,
            mysql_server_id: mysql_server_id?,
            mysql_tls: mysql_tls?,
            mongo_uri: mongo_uri.uri,
            mongo_hosts: mongo_uri.hosts,
            mongo_database: mongo_database?,
            collections: collections?,
            tables: TableFilter {
                include: include?,
                exclude: exclude?,
            },
            time_zone: time_zone?.unwrap_or_else(parse::system_time_zone),
            source_id: source_id?,
            start_from: start_from?,
            batch_size: batch_size?,
            batch_bytes: batch_bytes?,
            flush_interval: flush_interval?,
            pipeline_depth: pipeline_depth?,
            max_value_bytes: max_value_bytes?,
            retry: retry?,
            breaker: breaker?,
            spool: spool?,
            shutdown_timeout: shutdown_timeout?,
            lease_ttl: lease_ttl?,
            metrics_address: metrics_address?,
            log_format: log_format?,
            log_filter: log_filter?,
            secret_files: Vec::new(),
            warnings: reader.warnings(),
        })
    }
}

// The limits the table's help texts name.
const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;
const PIB: usize = 1 << 50;
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// The longest `database.collection` a sharded cluster takes, in bytes (manual: "MongoDB Limits and Thresholds").
const LONGEST_NAMESPACE: usize = 235;

fn judge_tls(reader: &mut Reader<'_>) -> Option<MysqlTls> {
    let mode = reader.take("MYSQL_TLS", parse::tls_mode);
    let ca = reader.take_optional("MYSQL_TLS_CA", parse::certificate_file);
    let certificate = reader.take_optional("MYSQL_TLS_CERT", parse::certificate_file);
    let key = reader.take_optional("MYSQL_TLS_KEY", parse::key_file);

    // A file that is left unused would make the operator believe in a protection that is not there.
    if mode == Some(TlsMode::Disabled) {
        for name in ["MYSQL_TLS_CA", "MYSQL_TLS_CERT", "MYSQL_TLS_KEY"] {
            if reader.is_given(name) {
                reader.refuse(
                    name,
                    "is given, but MYSQL_TLS=disabled uses no TLS".to_owned(),
                );
            }
        }
    }
    if let (Some(mode @ (TlsMode::Preferred | TlsMode::Required)), true) =
        (mode, reader.is_given("MYSQL_TLS_CA"))
    {
        let name = match mode {
            TlsMode::Preferred => "preferred",
            _ => "required",
        };
        reader.refuse(
            "MYSQL_TLS",
            format!(
                "`{name}` does not verify the server, but MYSQL_TLS_CA is given: expected verify-ca or verify-identity"
            ),
        );
    }
    // Whoever owns any name of the web has a certificate of its authorities; without the name it says nothing.
    if mode == Some(TlsMode::VerifyCa) && !reader.is_given("MYSQL_TLS_CA") {
        reader.refuse(
            "MYSQL_TLS_CA",
            "is not set, but MYSQL_TLS=verify-ca trusts whatever the authority signed: name your own authority's file, or \
             set verify-identity"
                .to_owned(),
        );
    }
    for (name, other) in [
        ("MYSQL_TLS_CERT", "MYSQL_TLS_KEY"),
        ("MYSQL_TLS_KEY", "MYSQL_TLS_CERT"),
    ] {
        if !reader.is_given(name) && reader.is_given(other) {
            reader.refuse(
                name,
                format!("is not set, but {other} is: they go together"),
            );
        }
    }
    let client = match (certificate?, key?) {
        (Some(certificate), Some(key)) => Some(ClientCertificate { certificate, key }),
        _ => None,
    };
    Some(MysqlTls {
        mode: mode?,
        ca: ca?,
        client,
    })
}

fn judge_source_id(reader: &mut Reader<'_>, addresses: Option<&[MysqlAddress]>) -> Option<String> {
    match reader.take_optional("SOURCE_ID", parse::source_id)? {
        Some(given) => Some(given),
        None => addresses?.first().map(|first| format!("mysql://{first}")),
    }
}

/// Daemons that stand by for each other are replicas of their own, so the host's name is in a derived id too.
fn judge_server_id(
    reader: &mut Reader<'_>,
    source_id: Option<&str>,
    has_standby: bool,
) -> Option<u32> {
    match reader.take_optional("MYSQL_SERVER_ID", parse::whole(1..=u32::MAX))? {
        Some(given) => Some(given),
        None if has_standby => source_id
            .map(|source_id| derived_server_id(&format!("{source_id}\n{}", crate::host::name()))),
        None => source_id.map(derived_server_id),
    }
}

fn judge_lease(reader: &mut Reader<'_>) -> Option<Option<Duration>> {
    let is_on = reader.take("LEASE", parse::switch);
    let ttl = reader.take("LEASE_TTL", parse::duration(SECOND..=5 * MINUTE));
    let (is_on, ttl) = (is_on?, ttl?);
    Some(is_on.then_some(ttl))
}

fn judge_breaker(reader: &mut Reader<'_>) -> Option<BreakerSettings> {
    let failures = reader.take("BREAKER_FAILURES", parse::whole(1..=1000));
    let open = reader.take("BREAKER_OPEN", parse::duration(100 * MILLISECOND..=HOUR));
    Some(BreakerSettings {
        failures: failures?,
        open: open?,
    })
}

fn judge_spool(reader: &mut Reader<'_>) -> Option<Option<SpoolSettings>> {
    let directory = reader.take_optional("SPOOL_DIR", parse::absolute_path);
    let max_bytes = reader.take("SPOOL_MAX_BYTES", parse::bytes(16 * MIB..=PIB));
    if let (Some(None), true) = (&directory, reader.is_given("SPOOL_MAX_BYTES")) {
        reader.refuse(
            "SPOOL_DIR",
            "is not set, but SPOOL_MAX_BYTES is: they go together".to_owned(),
        );
    }
    let (directory, max_bytes) = (directory?, max_bytes?);
    Some(directory.map(|directory| SpoolSettings {
        directory,
        max_bytes: max_bytes as u64,
    }))
}

/// A server id that stays the same from start to start. The upper half of the range: people number their servers from
/// the lower end, and two replicas of one id cut each other off.
fn derived_server_id(source_id: &str) -> u32 {
    let digest = Sha256::digest(source_id);
    let low = digest
        .iter()
        .take(4)
        .fold(0_u32, |id, byte| id << 8 | u32::from(*byte));
    low | 1 << 31
}

fn judge_collections(reader: &mut Reader<'_>, database: Option<&str>) -> Option<CollectionNames> {
    let changes = reader.take("MONGO_COLL", parse::collection_name);
    let offsets = reader.take("MONGO_OFFSETS_COLL", parse::collection_name);
    let staging = reader.take("MONGO_STAGING_COLL", parse::collection_name);
    let suffixed = |suffix: &str| changes.as_ref().map(|name| format!("{name}{suffix}"));
    let (schemas, values) = (suffixed("_schemas"), suffixed("_values"));

    // Judged among the names that are right, so that one wrong name hides no other mistake.
    let mut taken: Vec<(&str, &String)> = Vec::new();
    for (setting, described, name) in [
        ("MONGO_COLL", "MONGO_COLL", &changes),
        ("MONGO_COLL", "MONGO_COLL with _schemas", &schemas),
        ("MONGO_COLL", "MONGO_COLL with _values", &values),
        ("MONGO_OFFSETS_COLL", "MONGO_OFFSETS_COLL", &offsets),
        ("MONGO_STAGING_COLL", "MONGO_STAGING_COLL", &staging),
    ] {
        let Some(name) = name else { continue };
        if let Some((other, _)) = taken.iter().find(|(_, other)| *other == name) {
            reader.refuse(
                setting,
                format!("`{name}` is the collection of {other} too: each needs a name of its own"),
            );
        }
        taken.push((described, name));
    }
    for (setting, name) in [
        ("MONGO_COLL", &schemas),
        ("MONGO_OFFSETS_COLL", &offsets),
        ("MONGO_STAGING_COLL", &staging),
    ] {
        let length = database.map_or(0, str::len) + 1 + name.as_ref().map_or(0, String::len);
        if length > LONGEST_NAMESPACE {
            reader.refuse(
                setting,
                format!("MONGO_DB and this name make {length} bytes: at most {LONGEST_NAMESPACE}"),
            );
        }
    }
    Some(CollectionNames {
        changes: changes?,
        offsets: offsets?,
        staging: staging?,
        schemas: schemas?,
        values: values?,
    })
}

fn judge_retry(reader: &mut Reader<'_>) -> Option<RetrySettings> {
    let max_attempts = reader.take("RETRY_MAX_ATTEMPTS", parse::whole(1..=1000));
    let initial = reader.take("RETRY_INITIAL", parse::duration(MILLISECOND..=MINUTE));
    let max_delay = reader.take("RETRY_MAX_DELAY", parse::duration(MILLISECOND..=HOUR));
    if let (Some(initial), Some(max_delay)) = (initial, max_delay)
        && max_delay < initial
    {
        reader.refuse(
            "RETRY_MAX_DELAY",
            format!(
                "`{}` is shorter than RETRY_INITIAL, which is {}",
                parse::duration_text(max_delay),
                parse::duration_text(initial)
            ),
        );
    }
    Some(RetrySettings {
        max_attempts: max_attempts?,
        initial: initial?,
        max_delay: max_delay?,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
