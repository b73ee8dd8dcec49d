//! The connection to MySQL: options, TLS, and MySQL's errors → [`Kind`], once, here.
//!
//! Error numbers stand in the manual's "Server Error Message Reference".

use std::time::Duration;

use mysql_async::{
    ClientIdentity, Conn, DriverError, Error as DriverFailure, IoError, Opts, OptsBuilder,
    ServerError, SslOpts,
};

use crate::config::{Config, MysqlAddress, MysqlTls, TlsMode};
use crate::error::{Error, Kind, Result};

/// Longest wait for a connection with its login. A healthy server takes milliseconds; a name server that is slow, seconds.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Largest packet that is accepted, 1 GiB: MySQL's own limit. With the crate's default a large row would cut the connection
/// on every attempt.
const MAX_ALLOWED_PACKET: usize = 1 << 30;

/// Idle time after which TCP asks the other side whether it is still there. Heartbeats notice a dead stream sooner; this is
/// for the statements before it.
const TCP_KEEPALIVE: Duration = Duration::from_secs(30);

/// Error 1045, access denied for user; 1698, the same without a password.
const ACCESS_DENIED: &[u16] = &[1045, 1698, 3118];
/// Errors 1142, 1143, 1227, 1044: a missing right.
const MISSING_PRIVILEGE: &[u16] = &[1044, 1142, 1143, 1227];
/// Error 1236: the dump thread cannot go on; its text says why.
pub(super) const DUMP_FAILED: u16 = 1236;

/// Connects to one server.
///
/// # Errors
/// [`Kind::SourceUnavailable`] when it does not answer, [`Kind::Privilege`] when it refuses the user.
pub(super) async fn connect(config: &Config, address: &MysqlAddress) -> Result<Conn> {
    let tls = tls_options(&config.mysql_tls);
    match try_connect(config, address, tls.clone()).await {
        Err(Attempt::NoTls) if config.mysql_tls.mode == TlsMode::Preferred => {
            try_connect(config, address, None)
                .await
                .map_err(|attempt| attempt.into_error(address))
        }
        other => other.map_err(|attempt| attempt.into_error(address)),
    }
}

/// Why one attempt failed: the one case that `preferred` falls back from, and all others.
enum Attempt {
    NoTls,
    Failed(Error),
}

impl Attempt {
    fn into_error(self, address: &MysqlAddress) -> Error {
        match self {
            Self::NoTls => Error::new(
                Kind::SourceSetting,
                format!(
                    "mysql {address}: the server offers no TLS, and MYSQL_TLS asks for it; give the server a certificate \
                     (ssl_cert, ssl_key), or set MYSQL_TLS=preferred"
                ),
            ),
            Self::Failed(error) => error,
        }
    }
}

async fn try_connect(
    config: &Config,
    address: &MysqlAddress,
    tls: Option<SslOpts>,
) -> std::result::Result<Conn, Attempt> {
    let options: Opts = OptsBuilder::default()
        .ip_or_hostname(address.host.clone())
        .tcp_port(address.port)
        .user(Some(config.mysql_user.clone()))
        .pass(Some(config.mysql_password.expose().to_owned()))
        .prefer_socket(false)
        .tcp_keepalive(Some(TCP_KEEPALIVE))
        .max_allowed_packet(Some(MAX_ALLOWED_PACKET))
        .wait_timeout(Some(24 * 60 * 60))
        .ssl_opts(tls)
        .into();
    let doing = format!("connect to mysql {address} as {}", config.mysql_user);
    match tokio::time::timeout(CONNECT_TIMEOUT, Conn::new(options)).await {
        Ok(Ok(connection)) => Ok(connection),
        Ok(Err(DriverFailure::Driver(DriverError::NoClientSslFlagFromServer))) => {
            Err(Attempt::NoTls)
        }
        Ok(Err(error)) => Err(Attempt::Failed(classify(&doing, &error))),
        Err(_) => Err(Attempt::Failed(Error::new(
            Kind::SourceUnavailable,
            format!("{doing}: no answer within {} s", CONNECT_TIMEOUT.as_secs()),
        ))),
    }
}

fn tls_options(tls: &MysqlTls) -> Option<SslOpts> {
    let mut options = match tls.mode {
        TlsMode::Disabled => return None,
        TlsMode::Preferred | TlsMode::Required => SslOpts::default()
            .with_danger_accept_invalid_certs(true)
            .with_danger_skip_domain_validation(true),
        TlsMode::VerifyCa => SslOpts::default().with_danger_skip_domain_validation(true),
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
    Some(options)
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
        DriverFailure::Server(server) if ACCESS_DENIED.contains(&server.code) => Error::new(
            Kind::Privilege,
            format!(
                "{doing}: {} (error {}); check MYSQL_USER and MYSQL_PASS, and from which hosts the user may come",
                server.message, server.code
            ),
        ),
        DriverFailure::Server(server) if MISSING_PRIVILEGE.contains(&server.code) => {
            missing_privilege(doing, server)
        }
        DriverFailure::Server(server)
            if server.code == DUMP_FAILED
                && server.message.contains("same server_uuid/server_id") =>
        {
            Error::new(
                Kind::SourceUnavailable,
                format!(
                    "{doing}: {} (error {}); another replica uses this MYSQL_SERVER_ID: give each its own",
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
