//! The connection to MySQL: options, TLS, login, and the driver's errors → [`Kind`], once, here.
//!
//! It guarantees that what another try cannot mend (a certificate, a password, a missing right) is told at once and never
//! taken for a network that is down, and the other way round. Each kind says what was found, and what to change.
//!
//! MYSQL_TLS follows `--ssl-mode` (manual: "Configuring MySQL to Use Encrypted Connections"). The files are read anew for each
//! connection, so that a certificate that was renewed is used at the next one. Error numbers stand in the manual's "Server
//! Error Message Reference", MariaDB's in its "Error Codes".

mod refused;

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use mysql_async::{
    ClientIdentity, Conn, DriverError, Error as DriverFailure, IoError, Opts, OptsBuilder,
    ServerError, SslOpts,
};

use crate::config::{Config, MysqlAddress, MysqlTls, TlsMode};
use crate::error::{Error, Kind, Result};
use crate::position::Flavor;
use crate::tls;

/// Longest wait for a connection with its login. A healthy server takes milliseconds; a name server that is slow, seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest packet that is accepted, 1 GiB: MySQL's own limit. With the crate's default a large row would cut the connection
/// on every attempt.
const MAX_ALLOWED_PACKET: usize = 1 << 30;

/// Idle time after which TCP asks the other side whether it is still there. Heartbeats notice a dead stream sooner; this is
/// for the statements before it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// The host name that verify-ca asks the driver to look for. Its `danger_skip_domain_validation` overlooks an error of rustls
/// whose text holds this word; since rustls prints a sentence with both names instead, the name that was asked for has to be
/// the word. Only the comparison of names quotes it, and that comes after the authority was verified. (mysql_async 0.37,
/// src/io/tls/rustls_io.rs; tests/connection/tls.rs tells when this changes.)
const ANY_NAME: &str = "NotValidForName";

/// How often an account is tried whose password a server refuses. The driver drops a last zero byte of what MariaDB's ed25519
/// and parsec sign (mysql_common 0.37, `AuthSwitchRequest::plugin_data`), so that one login of 256 is refused with a right
/// password; three in a row are one of 16 million. Where MYSQL_FLAVOR says mysql, one refusal is the answer: MySQL has
/// neither of the two, and accounts that lock after some failed logins.
const LOGINS: usize = 3;

/// Error 1045, access denied for user; 1698, the same without a password.
const ACCESS_DENIED: &[u16] = &[1045, 1698];
/// Errors 1142, 1143, 1227, 1044: a missing right.
const MISSING_PRIVILEGE: &[u16] = &[1044, 1142, 1143, 1227];
/// Error 4052 of MariaDB: another replica with the same server_id has come (MySQL says it with 1236).
const SAME_REPLICA: u16 = 4052;
/// Error 1236: the dump thread cannot go on; its text says why.
pub(super) const DUMP_FAILED: u16 = 1236;

/// Connects to one server.
///
/// # Errors
/// [`Kind::SourceUnavailable`] when it does not answer, [`Kind::Privilege`] when it refuses the user, and
/// [`Kind::SourceSetting`] when its TLS is not what MYSQL_TLS asks for.
pub(super) async fn connect(config: &Config, address: &MysqlAddress) -> Result<Conn> {
    let mut login = Login {
        config,
        address,
        encrypted: config.mysql_tls.mode != TlsMode::Disabled,
    };
    let mut attempt = login.attempt().await;
    if matches!(attempt, Err(Failed::NoTls)) && config.mysql_tls.mode == TlsMode::Preferred {
        if is_news(address, true) {
            tracing::warn!(
                address = %address,
                "the mysql server offers no TLS: this connection is not encrypted; give the server a certificate (ssl_cert, \
                 ssl_key) and set MYSQL_TLS=verify-identity, or say that it is meant: MYSQL_TLS=disabled"
            );
        }
        login.encrypted = false;
        attempt = login.attempt().await;
    } else if attempt.is_ok() && login.encrypted {
        is_news(address, false);
    }
    attempt.map_err(|failed| login.explain(&failed))
}

/// Notes whether a server was met without TLS, and says whether that is another state than before: a warning for each of
/// the connections that look after a quiet server would be noise.
fn is_news(address: &MysqlAddress, plaintext: bool) -> bool {
    static WITHOUT_TLS: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    let mut known = WITHOUT_TLS.lock().unwrap_or_else(PoisonError::into_inner);
    if plaintext {
        known.insert(address.to_string())
    } else {
        known.remove(&address.to_string())
    }
}

/// One way to come in.
struct Login<'a> {
    config: &'a Config,
    address: &'a MysqlAddress,
    encrypted: bool,
}

/// Why one attempt failed.
enum Failed {
    /// The one case that `preferred` falls back from.
    NoTls,
    TimedOut,
    Driver(DriverFailure),
}

impl Failed {
    fn denies_access(&self) -> bool {
        matches!(self, Self::Driver(DriverFailure::Server(server)) if ACCESS_DENIED.contains(&server.code))
    }
}

impl Login<'_> {
    async fn attempt(&self) -> std::result::Result<Conn, Failed> {
        let logins = match self.config.mysql_flavor {
            Some(Flavor::Mysql) => 1,
            _ => LOGINS,
        };
        for _ in 1..logins {
            match self.login().await {
                Err(failed) if failed.denies_access() => {
                    tracing::debug!(address = %self.address, "the server refused the login: once more");
                }
                ended => return ended,
            }
        }
        self.login().await
    }

    async fn login(&self) -> std::result::Result<Conn, Failed> {
        let config = self.config;
        let tls = self.encrypted.then(|| tls_options(&config.mysql_tls));
        let options: Opts = OptsBuilder::default()
            .ip_or_hostname(self.address.host.clone())
            .tcp_port(self.address.port)
            .user(Some(config.mysql_user.clone()))
            .pass(Some(config.mysql_password.expose().to_owned()))
            .prefer_socket(false)
            .tcp_keepalive(Some(TCP_KEEPALIVE))
            .max_allowed_packet(Some(MAX_ALLOWED_PACKET))
            .wait_timeout(Some(24 * 60 * 60))
            .ssl_opts(tls)
            .into();
        match tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(DriverFailure::Driver(DriverError::NoClientSslFlagFromServer))) => {
                Err(Failed::NoTls)
            }
            Ok(Err(error)) => Err(Failed::Driver(error)),
            Err(_) => Err(Failed::TimedOut),
        }
    }
}

fn tls_options(tls: &MysqlTls) -> SslOpts {
    let mut options = match tls.mode {
        TlsMode::Disabled | TlsMode::Preferred | TlsMode::Required => SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true),
        TlsMode::VerifyCa => SslOpts::default()
            .with_danger_skip_domain_validation(true)
            .with_danger_tls_hostname_override(Some(ANY_NAME)),
        TlsMode::VerifyIdentity => SslOpts::default(),
    };
    if let Some(authority) = &tls.ca {
        options = options
            .with_root_certs(vec![authority.clone().into()])
            .with_disable_built_in_roots(true);
    }
    if let Some(client) = &tls.client {
        let identity =
            ClientIdentity::new(client.certificate.clone().into(), client.key.clone().into());
        options = options.with_client_identity(Some(identity));
    }
    options
}

/// Classifies a failure on a connection that is logged in. There, "access denied" cannot be about the password any more: it is
/// how COM_REGISTER_SLAVE says that a right is missing.
pub(super) fn classify_after_login(doing: &str, error: &DriverFailure) -> Error {
    match error {
        DriverFailure::Server(server) if ACCESS_DENIED.contains(&server.code) => {
            missing_privilege(doing, server)
        }
        other => classify(doing, other),
    }
}

fn missing_privilege(doing: &str, server: &ServerError) -> Error {
    Error::new(
        Kind::Privilege,
        format!(
            "{doing}: {} (error {}); the account of MYSQL_USER lacks a right; grant it: GRANT REPLICATION SLAVE, REPLICATION \
             CLIENT ON *.* TO MYSQL_USER",
            server.message, server.code
        ),
    )
}

/// Classifies a failure of the driver; `doing` says what was attempted.
pub(super) fn classify(doing: &str, error: &DriverFailure) -> Error {
    match error {
        DriverFailure::Server(server) if MISSING_PRIVILEGE.contains(&server.code) => {
            missing_privilege(doing, server)
        }
        DriverFailure::Server(server)
            if server.code == SAME_REPLICA
                || server.code == DUMP_FAILED
                    && server.message.contains("same server_uuid/server_id") =>
        {
            Error::new(
                Kind::DuplicateReplica,
                format!(
                    "{doing}: {} (error {}); another replica, or another sdl, has come under the same MYSQL_SERVER_ID, and the \
                     server has thrown this one out for it; the two would do so by turns: give each replica of the source a \
                     MYSQL_SERVER_ID of its own, and each source one sdl",
                    server.message, server.code
                ),
            )
        }
        DriverFailure::Server(server)
            if server.code == DUMP_FAILED && server.message.contains("anonymous transaction") =>
        {
            Error::new(
                Kind::SourceSetting,
                format!(
                    "{doing}: {} (error {}); the binlog holds a transaction that was committed without a GTID (gtid_mode was \
                     not ON), and cannot be recorded exactly once: SET PERSIST gtid_mode=ON, and begin behind it with a new \
                     SOURCE_ID and START_FROM=current",
                    server.message, server.code
                ),
            )
        }
        DriverFailure::Server(server) if server.code == DUMP_FAILED => Error::new(
            Kind::SourceDamaged,
            format!("{doing}: {} (error {})", server.message, server.code),
        ),
        DriverFailure::Server(server) => Error::new(
            Kind::SourceUnavailable,
            format!("{doing}: {} (error {})", server.message, server.code),
        ),
        // A TLS record damaged on its way is the network's, and says nothing about the binlog.
        DriverFailure::Io(IoError::Io(error)) if tls::is_in(error) => {
            Error::new(Kind::SourceUnavailable, format!("{doing}: TLS: {error}"))
        }
        // The binlog crate reports what it cannot parse as an I/O error of these kinds.
        DriverFailure::Io(IoError::Io(error))
            if matches!(
                error.kind(),
                std::io::ErrorKind::InvalidData | std::io::ErrorKind::Other
            ) =>
        {
            Error::new(Kind::SourceDamaged, format!("{doing}: {error}"))
        }
        DriverFailure::Driver(
            error @ (DriverError::UnexpectedPacket { .. } | DriverError::PacketOutOfOrder),
        ) => {
            // The text of an unexpected packet holds its bytes, and those may be row values.
            let what = match error {
                DriverError::PacketOutOfOrder => "packet out of order",
                _ => "unexpected packet",
            };
            Error::new(Kind::SourceDamaged, format!("{doing}: {what}"))
        }
        other => Error::new(Kind::SourceUnavailable, format!("{doing}: {other}")),
    }
}
