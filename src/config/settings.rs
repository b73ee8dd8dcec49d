//! The table of all settings. The parsers take their defaults from it, `--help` prints it, and a test compares it with
//! `.env.example` and the README, so there is one place to change.
//!
//! The reason of a default stands in its `help`.

/// What a setting is when it is not given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DefaultValue {
    /// It must be given.
    Required,
    /// This text, read as if it were given.
    Text(&'static str),
    /// Worked out; this says how.
    Derived(&'static str),
    /// Nothing; this says what that means.
    Unset(&'static str),
}

impl DefaultValue {
    /// The default as the documents print it.
    #[must_use]
    pub fn describe(self) -> &'static str {
        match self {
            Self::Required => "required",
            Self::Text(text) | Self::Derived(text) | Self::Unset(text) => text,
        }
    }
}

/// One setting, as an administrator meets it.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The heading it stands under.
    pub group: &'static str,
    /// The variable's name.
    pub name: &'static str,
    /// What it is when it is not given.
    pub default: DefaultValue,
    /// A value that is right.
    pub example: &'static str,
    /// Whether its content must never be shown; such a setting may be given as `NAME_FILE` or as a credential.
    pub secret: bool,
    /// What it does, its range, and why the default is what it is.
    pub help: &'static str,
}

/// What RUST_LOG is when it is not given.
pub const DEFAULT_FILTER: &str = "info";

const fn setting(
    group: &'static str,
    name: &'static str,
    default: DefaultValue,
    example: &'static str,
    help: &'static str,
) -> Setting {
    Setting {
        group,
        name,
        default,
        example,
        secret: false,
        help,
    }
}

const fn secret(setting: Setting) -> Setting {
    Setting {
        secret: true,
        ..setting
    }
}

use DefaultValue::{Derived, Required, Text, Unset};

const MYSQL: &str = "MySQL, the source";
const MONGO: &str = "MongoDB, where the audit documents go";
const WHAT: &str = "What is recorded, and from where";
const BATCHES: &str = "Batches";
const FAILURES: &str = "Failures and stopping";
const STANDBY: &str = "Active and standby";
const SEEING: &str = "Metrics and health";
const LOG: &str = "Log";

/// Every setting this version reads, in the order in which they are documented and mistakes are told.
pub const SETTINGS: &[Setting] = &[
    setting(
        MYSQL,
        "MYSQL_ADDR",
        Required,
        "db1.example.com:3306,db2.example.com:3306",
        "Server as host:port; several with commas are tried in this order (failover). The port is 3306 where none is \
         given; an IPv6 address stands in brackets: [::1]:3306.",
    ),
    setting(
        MYSQL,
        "MYSQL_USER",
        Required,
        "repl_user",
        "Account with REPLICATION SLAVE and REPLICATION CLIENT.",
    ),
    secret(setting(
        MYSQL,
        "MYSQL_PASS",
        Unset("no password"),
        "the-password",
        "Its password. Better out of the environment: MYSQL_PASS_FILE=/path, or systemd's LoadCredential=MYSQL_PASS:/path.",
    )),
    setting(
        MYSQL,
        "MYSQL_FLAVOR",
        Derived("ask the server"),
        "mariadb",
        "mysql or mariadb: refuse to read from the other one.",
    ),
    setting(
        MYSQL,
        "MYSQL_SERVER_ID",
        Derived("from SOURCE_ID"),
        "2222",
        "The server_id sdl has as a replica, 1 to 4294967295; no server or other replica of the source may have the \
         same, they would cut each other off. The default is a hash of SOURCE_ID in the upper half of the range: the \
         same at every start, and far from the small numbers people give their servers.",
    ),
    setting(
        MYSQL,
        "MYSQL_TLS",
        Text("preferred"),
        "verify-identity",
        "disabled, preferred (TLS if the server has it), required (TLS, unverified), verify-ca (certificate from the \
         authority of MYSQL_TLS_CA) or verify-identity (and for the host name or address of MYSQL_ADDR), as the MySQL \
         clients' --ssl-mode. The default works with every server; across a network use verify-identity.",
    ),
    setting(
        MYSQL,
        "MYSQL_TLS_CA",
        Unset("the web's certificate authorities"),
        "/etc/sdl/mysql-ca.pem",
        "File with the authorities to trust. verify-ca needs it; verify-identity without it trusts the web's \
         authorities, for servers with a public certificate.",
    ),
    setting(
        MYSQL,
        "MYSQL_TLS_CERT",
        Unset("no client certificate"),
        "/etc/sdl/client-cert.pem",
        "File with the client's certificate, where the account asks for one (REQUIRE X509); goes with MYSQL_TLS_KEY.",
    ),
    setting(
        MYSQL,
        "MYSQL_TLS_KEY",
        Unset("no client certificate"),
        "/etc/sdl/client-key.pem",
        "File with the private key of MYSQL_TLS_CERT.",
    ),
    secret(setting(
        MONGO,
        "MONGO_URI",
        Required,
        "mongodb://127.0.0.1:27017/?replicaSet=rs0",
        "Replica set or sharded cluster (transactions need one), with user and password if it asks for them: \
         mongodb://user:password@host:port/?replicaSet=rs0 or mongodb+srv://. Also MONGO_URI_FILE=/path or \
         LoadCredential=MONGO_URI:/path.",
    )),
    setting(
        MONGO,
        "MONGO_DB",
        Text("audit"),
        "audit",
        "Database of all collections. Not admin, config or local: MongoDB takes no transactions there.",
    ),
    setting(
        MONGO,
        "MONGO_COLL",
        Text("row_changes"),
        "row_changes",
        "Collection of the audit documents. Table schemas and the pieces of large values go to this name with _schemas \
         and _values.",
    ),
    setting(
        MONGO,
        "MONGO_OFFSETS_COLL",
        Text("binlog_offsets"),
        "binlog_offsets",
        "Collection with one document per source: how far it was read.",
    ),
    setting(
        MONGO,
        "MONGO_STAGING_COLL",
        Text("row_changes_staging"),
        "row_changes_staging",
        "Collection of batches that are not committed yet.",
    ),
    setting(
        WHAT,
        "INCLUDE_REGEX",
        Text(r".*\..*"),
        r"^shop\.",
        "Regular expression on `db.table`; only tables it matches are recorded. The default is every table.",
    ),
    setting(
        WHAT,
        "EXCLUDE_REGEX",
        Text(r"^(mysql|performance_schema|information_schema|sys)\..*"),
        r"^(mysql|sys|shop)\.(sessions|cache_.*)$",
        "Of those, tables it matches are not recorded. The default leaves out the server's own tables; to leave out \
         nothing give ^$.",
    ),
    setting(
        WHAT,
        "SOURCE_ID",
        Derived("mysql://HOST:PORT of the first MYSQL_ADDR"),
        "mysql://db1.example.com:3306",
        "Name of the source: it is part of every document's _id and the key of its saved offset. Set it before the \
         first start where addresses may change; with another name sdl begins anew.",
    ),
    setting(
        WHAT,
        "START_FROM",
        Text("current"),
        "earliest",
        "Where a source without a saved offset begins: current (changes from now on), earliest (the oldest with a GTID that the server \
         still has), or behind a GTID set such as 3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5, or 0-1-100 on MariaDB. Ignored once an offset is \
         saved. The default records nothing nobody asked for.",
    ),
    setting(
        BATCHES,
        "BATCH_SIZE",
        Text("1000"),
        "5000",
        "Most events in a batch, 1 to 100000. A batch also closes at BATCH_BYTES, after FLUSH_INTERVAL, and at once \
         when nothing more is waiting. Larger ones gained a tenth in throughput when measured, at more memory.",
    ),
    setting(
        BATCHES,
        "BATCH_BYTES",
        Text("8MiB"),
        "4MiB",
        "Most bytes in a batch, 64KiB to 12MiB. A batch is one staging document, which must stay below MongoDB's 16 \
         MiB, and one transaction, which small caches refuse when it is large.",
    ),
    setting(
        BATCHES,
        "FLUSH_INTERVAL",
        Text("100ms"),
        "500ms",
        "Longest a change waits for its batch to fill, 1ms to 1m. A tenth of a second is not felt, and still lets a \
         busy source fill its batches.",
    ),
    setting(
        BATCHES,
        "PIPELINE_DEPTH",
        Text("4"),
        "8",
        "Batches that may be staged while one commits, 1 to 64. One already lets staging and committing overlap; four \
         ride out a slow commit. Each costs up to BATCH_BYTES of memory.",
    ),
    setting(
        BATCHES,
        "MAX_VALUE_BYTES",
        Text("1MiB"),
        "512KiB",
        "A larger value is stored in pieces beside its document, 64KiB to 8MiB. Below, documents lose readable values \
         for nothing; above, a few values would burst a document.",
    ),
    setting(
        FAILURES,
        "RETRY_MAX_ATTEMPTS",
        Text("5"),
        "10",
        "Attempts at one MongoDB operation that fails for a passing reason, 1 to 1000; then the circuit breaker opens, whatever \
         BREAKER_FAILURES says.",
    ),
    setting(
        FAILURES,
        "RETRY_INITIAL",
        Text("100ms"),
        "250ms",
        "Pause before the second attempt, 1ms to 1m; it doubles each time. Short, since most failures last a moment.",
    ),
    setting(
        FAILURES,
        "RETRY_MAX_DELAY",
        Text("10s"),
        "30s",
        "Longest pause between two attempts, 1ms to 1h, also when reconnecting to MySQL. It bounds how long sdl takes \
         to notice that a server is back.",
    ),
    setting(
        FAILURES,
        "BREAKER_FAILURES",
        Text("5"),
        "3",
        "Failures of MongoDB in a row after which the circuit breaker opens, 1 to 1000: batches then go to the spool, or where \
         there is none, reading pauses. Five are about 40 seconds without an answer, which an election does not take.",
    ),
    setting(
        FAILURES,
        "BREAKER_OPEN",
        Text("30s"),
        "10s",
        "How long an open breaker waits before MongoDB is tried again, 100ms to 1h. It bounds how long the spool goes on \
         growing after MongoDB is back.",
    ),
    setting(
        FAILURES,
        "SPOOL_DIR",
        Unset("no spool: reading pauses while MongoDB is away"),
        "/var/lib/sdl",
        "Directory on a local disk for batches that MongoDB cannot take for the moment. With it, an outage of MongoDB may be \
         longer than MySQL keeps its binlogs.",
    ),
    setting(
        FAILURES,
        "SPOOL_MAX_BYTES",
        Text("10GiB"),
        "100GiB",
        "Most bytes of the spool on disk, 16MiB to 1048576GiB; when it is full, reading pauses. An event takes about 700 bytes, a tenth of that when many come at once.",
    ),
    setting(
        FAILURES,
        "SHUTDOWN_TIMEOUT",
        Text("25s"),
        "1m",
        "Longest a stop may take to flush, 1s to 1h; what is left is recovered at the next start. Below systemd's \
         TimeoutStopSec, and below the 30 seconds many supervisors allow.",
    ),
    setting(
        STANDBY,
        "LEASE",
        Text("off"),
        "on",
        "on: two or more daemons, on hosts of their own, serve this source; the one that holds the lease records, the others \
         stand by. Each then needs a MYSQL_SERVER_ID of its own; the default makes one of SOURCE_ID and the host's name. off: \
         a second daemon takes the source from the first, which ends.",
    ),
    setting(
        STANDBY,
        "LEASE_TTL",
        Text("10s"),
        "5s",
        "How long a standby sees no sign of the holder before it takes over, 1s to 5m; the holder gives one every third of it. \
         Short enough that nobody waits, longer than an election in MongoDB.",
    ),
    setting(
        SEEING,
        "METRICS_ADDR",
        Text("127.0.0.1:9750"),
        "0.0.0.0:9750",
        "Where /metrics (Prometheus), /healthz and /readyz are served, as address:port; off: nowhere. They hold no values and no \
         secrets, but ask for no password either: hence the default.",
    ),
    setting(LOG, "LOG_FORMAT", Text("text"), "json", "text or json."),
    setting(
        LOG,
        "RUST_LOG",
        Text(DEFAULT_FILTER),
        "info,sdl=debug",
        "What is logged: error, warn, info, debug, trace or off, also per module.",
    ),
    setting(
        LOG,
        "TZ",
        Derived("the system's, else UTC"),
        "Asia/Kolkata",
        "Time zone (IANA name) of the times in log lines and command output. Stored times are UTC.",
    ),
];

/// The setting of that name.
pub(super) fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.name == name)
}

/// Line length of `--help`, in characters.
const HELP_WIDTH: usize = 100;

/// The settings part of `sdl --help`.
#[must_use]
pub fn help_text() -> String {
    let mut text = String::from(
        "Settings, from the environment or from a file (the environment wins): --env-file; without it .env\n\
         in the working directory, else /etc/sdl/sdl.env. A secret of NAME.env may stand in a file of its\n\
         name in NAME.credentials/ beside it.\n\
         Durations carry a unit (100ms, 25s, 5m, 1h), sizes may (512KiB, 8MiB, plain bytes).\n",
    );
    let mut group = "";
    for setting in SETTINGS {
        if setting.group != group {
            group = setting.group;
            text.push_str(&format!("\n{group}\n"));
        }
        text.push_str(&format!(
            "\n  {} ({})\n",
            setting.name,
            setting.default.describe()
        ));
        for line in wrap(setting.help, HELP_WIDTH - 6) {
            text.push_str(&format!("      {line}\n"));
        }
    }
    text
}

/// Breaks a text at its spaces into lines of at most `width` characters; a longer word has a line of its own.
pub(super) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.chars().count() + 1 + word.chars().count() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
