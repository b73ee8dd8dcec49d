//! What is said of a login that failed: what the server or TLS found, and the statement or setting that mends it.

use mysql_async::{DriverError, Error as DriverFailure, IoError, ServerError, TlsError};

use super::{CONNECT_TIMEOUT, Failed, Login, classify};
use crate::error::{Error, Kind};
use crate::tls::{self, Fault, Refusal};

impl Login<'_> {
    pub(super) fn explain(&self, failed: &Failed) -> Error {
        let doing = format!(
            "connect to mysql {} as {}",
            self.address, self.config.mysql_user
        );
        let told = |kind, text: String| Error::new(kind, format!("{doing}: {text}"));
        match failed {
            Failed::TimedOut => told(
                Kind::SourceUnavailable,
                format!("no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            ),
            Failed::NoTls => told(
                Kind::SourceSetting,
                "the server offers no TLS, and MYSQL_TLS asks for it; give the server a certificate (ssl_cert, ssl_key), or \
                 set MYSQL_TLS=preferred"
                    .to_owned(),
            ),
            Failed::Driver(DriverFailure::Server(server)) => self.refused(&doing, server),
            Failed::Driver(DriverFailure::Io(IoError::Tls(error))) => match tls_refusal(error) {
                Some(refusal) => told(Kind::SourceSetting, self.tls_advice(&refusal)),
                None => told(
                    Kind::SourceSetting,
                    format!("{error}; check the files of MYSQL_TLS_CA, MYSQL_TLS_CERT and MYSQL_TLS_KEY"),
                ),
            },
            Failed::Driver(DriverFailure::Io(IoError::Io(error))) => {
                match tls::refusal_in(error) {
                    Some(refusal) => told(Kind::SourceSetting, self.tls_advice(&refusal)),
                    None => told(Kind::SourceUnavailable, error.to_string()),
                }
            }
            Failed::Driver(DriverFailure::Driver(error)) => match login_method(error) {
                Some(text) => told(Kind::Privilege, text),
                // The text of an unexpected packet holds its bytes.
                None => told(
                    Kind::SourceUnavailable,
                    match error {
                        DriverError::UnexpectedPacket { .. } => "unexpected packet".to_owned(),
                        other => other.to_string(),
                    },
                ),
            },
            Failed::Driver(other) => told(Kind::SourceUnavailable, other.to_string()),
        }
    }

    /// What the server said about the account, and the statement that mends it.
    fn refused(&self, doing: &str, server: &ServerError) -> Error {
        let user = &self.config.mysql_user;
        let advice = match server.code {
            1045 | 1698 => format!(
                "check MYSQL_USER and MYSQL_PASS, and from which hosts the user may come; or the account asks for more than \
                 a password (SHOW CREATE USER tells): {}",
                self.what_else()
            ),
            1130 => format!(
                "the server knows no account for this host: CREATE USER '{user}'@'HOST OF SDL' IDENTIFIED BY …, with the grants \
                 of the documentation"
            ),
            1820 | 1862 => format!(
                "the password has expired: ALTER USER '{user}'@'HOST' IDENTIFIED BY 'NEW PASSWORD' PASSWORD EXPIRE NEVER, and \
                 set MYSQL_PASS to it"
            ),
            // 3118, 3955: MySQL; 4150, 4151: MariaDB.
            3118 | 3955 | 4151 => {
                format!("the account is locked: ALTER USER '{user}'@'HOST' ACCOUNT UNLOCK")
            }
            4150 => "too many failed logins blocked the account: FLUSH PRIVILEGES".to_owned(),
            3159 => "the server takes encrypted connections only: set MYSQL_TLS=verify-identity, or at least required".to_owned(),
            1251 | 1524 => format!(
                "sdl and the server have no login in common for this account: ALTER USER '{user}'@'HOST' IDENTIFIED WITH \
                 caching_sha2_password BY 'PASSWORD'"
            ),
            _ => return classify(doing, &DriverFailure::Server(server.clone())),
        };
        Error::new(
            Kind::Privilege,
            format!(
                "{doing}: {} (error {}); {advice}",
                server.message, server.code
            ),
        )
    }

    /// What an account may ask for, and this connection does not have: the server says "access denied" for each of them.
    fn what_else(&self) -> &'static str {
        match (self.encrypted, &self.config.mysql_tls.client) {
            (false, _) => {
                "REQUIRE SSL needs a connection with TLS, and this one has none; REQUIRE X509, SUBJECT or ISSUER a client \
                 certificate as well (MYSQL_TLS_CERT, MYSQL_TLS_KEY)"
            }
            (true, None) => {
                "REQUIRE X509, SUBJECT or ISSUER needs a client certificate, and none was shown: set MYSQL_TLS_CERT and \
                 MYSQL_TLS_KEY"
            }
            (true, Some(_)) => {
                "REQUIRE SUBJECT or ISSUER may name another one than the certificate of MYSQL_TLS_CERT; compare with openssl \
                 x509 -noout -subject -issuer -in FILE"
            }
        }
    }

    fn tls_advice(&self, refusal: &Refusal) -> String {
        let host = &self.address.host;
        let ca = self.config.mysql_tls.ca.as_ref().map_or_else(
            || "the web's authorities (MYSQL_TLS_CA is not set)".to_owned(),
            |path| format!("those in MYSQL_TLS_CA, {}", path.display()),
        );
        let advice = match refusal.fault {
            Fault::Authority => format!(
                "trusted are {ca}; set MYSQL_TLS_CA to a copy of the authority that signed the server's certificate \
                 (SELECT @@ssl_ca on the server names its file), unless it is another server that answers"
            ),
            Fault::Name => format!(
                "name the server in MYSQL_ADDR as its certificate does, or give it one with subjectAltName {host}, unless it \
                 is another server that answers; MYSQL_TLS=verify-ca verifies the authority and no name"
            ),
            Fault::Certificate => {
                "give the server a new certificate (ssl_cert, ssl_key), then: ALTER INSTANCE RELOAD TLS (MariaDB: FLUSH SSL)".to_owned()
            }
            Fault::Client => {
                "check MYSQL_TLS_CERT and MYSQL_TLS_KEY: a certificate signed by the server's authority (SELECT @@ssl_ca), not \
                 expired, and its own key"
                    .to_owned()
            }
            Fault::Protocol => {
                "let the server offer one (tls_version=TLSv1.2,TLSv1.3; no ssl_cipher that excludes ECDHE with AES-GCM or \
                 ChaCha20), or go without: MYSQL_TLS=disabled"
                    .to_owned()
            }
        };
        format!("TLS: {}; {advice}", refusal.found)
    }
}

/// A login that the driver does not know or does not do; nothing of it mends itself.
fn login_method(error: &DriverError) -> Option<String> {
    let method = match error {
        DriverError::UnknownAuthPlugin { name } => name.as_str(),
        DriverError::MysqlOldPasswordDisabled => "mysql_old_password",
        DriverError::CleartextPluginDisabled => "mysql_clear_password",
        _ => return None,
    };
    Some(format!(
        "the server asks for a login by {method}, which sdl does not do; it does caching_sha2_password, mysql_native_password \
         and MariaDB's ed25519 and parsec: ALTER USER … IDENTIFIED WITH caching_sha2_password BY 'PASSWORD' (MariaDB: \
         IDENTIFIED VIA ed25519 USING PASSWORD('PASSWORD')); but check MYSQL_USER first: for a user who does not exist the \
         server asks for any login"
    ))
}

fn tls_refusal(error: &TlsError) -> Option<Refusal> {
    match error {
        TlsError::Tls(error) => tls::refusal(error),
        _ => None,
    }
}
