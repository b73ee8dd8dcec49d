//! What a TLS handshake failed of, in words for an operator.
//!
//! Both drivers speak TLS through rustls and hand its error on inside an I/O error, where it looks like a network that is
//! down. It is not: another try meets the same certificate. [`refusal`] says whether a failure is of that kind, what was
//! found and which side has to change something; what to do about it has other names for MySQL and for MongoDB, and is said
//! by `source/connect.rs` and `store/classify.rs`.
//!
//! RFC 5280 (certificates), RFC 8446 section 6 (alerts).

use std::io;

use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError};

/// What has to change before a handshake can succeed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The authority: the server's certificate is not signed by one that is trusted here.
    Authority,
    /// The name: the certificate is another host's.
    Name,
    /// The certificate itself: it expired, or cannot be used as it is.
    Certificate,
    /// The client's own certificate: the server asks for another one, or for one at all.
    Client,
    /// The two sides have no TLS version, cipher or signature in common.
    Protocol,
}

/// A handshake that will fail again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Who is to change something.
    pub fault: Fault,
    /// What was found, as in "wrong name: …".
    pub found: String,
}

/// Whether an I/O error is one of TLS.
pub fn is_in(error: &io::Error) -> bool {
    of(error).is_some()
}

fn of(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// The refusal inside an I/O error of a driver; `None` when the error is the network's, and may pass.
pub fn refusal_in(error: &io::Error) -> Option<Refusal> {
    refusal(of(error)?)
}

/// Whether rustls refuses for good, and why.
pub fn refusal(error: &rustls::Error) -> Option<Refusal> {
    let (fault, found) = match error {
        rustls::Error::InvalidCertificate(problem) => certificate(problem),
        rustls::Error::NoCertificatesPresented => (
            Fault::Certificate,
            "the server shows no certificate".to_owned(),
        ),
        rustls::Error::PeerIncompatible(problem) => (
            Fault::Protocol,
            format!(
                "nothing in common: the server offers no TLS 1.2 or 1.3 that sdl speaks ({problem:?})"
            ),
        ),
        rustls::Error::InconsistentKeys(_) => (
            Fault::Client,
            "the client's key does not belong to the client's certificate".to_owned(),
        ),
        rustls::Error::AlertReceived(alert) => received(*alert)?,
        _ => return None,
    };
    Some(Refusal { fault, found })
}

fn certificate(problem: &CertificateError) -> (Fault, String) {
    match problem {
        CertificateError::UnknownIssuer => (
            Fault::Authority,
            "wrong authority: the server's certificate is signed by none of the trusted authorities".to_owned(),
        ),
        // Found by its name, so the chain ends at another authority of that name: MySQL gives each server one of its own.
        CertificateError::BadSignature => (
            Fault::Authority,
            "wrong authority: the server's certificate is signed by an authority of the same name as a trusted one, but \
             with another key"
                .to_owned(),
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let names = presented
                .iter()
                .map(|name| plain_name(name))
                .collect::<Vec<_>>()
                .join(", ");
            let names = if names.is_empty() {
                "no host at all (it has no subjectAltName, and its common name is not looked at)"
            } else {
                &names
            };
            (
                Fault::Name,
                format!(
                    "wrong name: the server's certificate is for {names}, not for {}",
                    expected.to_str()
                ),
            )
        }
        CertificateError::ExpiredContext { time, not_after } => (
            Fault::Certificate,
            format!(
                "expired: the server's certificate ended on {}, and it is {} here",
                date(not_after),
                date(time)
            ),
        ),
        CertificateError::NotValidYetContext { time, not_before } => (
            Fault::Certificate,
            format!(
                "not valid yet: the server's certificate begins on {}, and it is {} here",
                date(not_before),
                date(time)
            ),
        ),
        other => {
            let text = format!("{other:?}");
            let reason = if text.contains("UnsupportedCertVersion") {
                "it is of X.509 version 1, as `openssl x509 -req` makes them without -extfile; expected version 3".to_owned()
            } else if text.contains("CaUsedAsEndEntity") {
                "it is an authority's own (CA:TRUE); expected one that an authority signed for this server".to_owned()
            } else {
                text
            };
            (
                Fault::Certificate,
                format!("the server's certificate cannot be used: {reason}"),
            )
        }
    }
}

/// What an alert of the server means. Most others are the end of a connection, which may pass.
fn received(alert: AlertDescription) -> Option<(Fault, String)> {
    match alert {
        AlertDescription::CertificateRequired => Some((
            Fault::Client,
            "the server demands a client certificate, and none was shown".to_owned(),
        )),
        AlertDescription::BadCertificate
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::CertificateRevoked
        | AlertDescription::CertificateExpired
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnknownCA
        | AlertDescription::AccessDenied
        | AlertDescription::DecryptError => Some((
            Fault::Client,
            format!("the server does not accept the client certificate ({alert:?})"),
        )),
        AlertDescription::HandshakeFailure
        | AlertDescription::ProtocolVersion
        | AlertDescription::InsufficientSecurity => Some((
            Fault::Protocol,
            format!(
                "nothing in common: the server refuses TLS 1.2 and 1.3 as sdl offers them ({alert:?})"
            ),
        )),
        _ => None,
    }
}

/// rustls gives a certificate's names in their debug form: `DnsName("db1")`, `IpAddress(127.0.0.1)`.
fn plain_name(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

fn date(time: &UnixTime) -> String {
    i64::try_from(time.as_secs())
        .ok()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| format!("{} s", time.as_secs()), |time| time.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::pki_types::ServerName;

    #[test]
    fn a_refused_certificate_is_found_inside_an_io_error_and_a_lost_connection_is_none() {
        let refused = io::Error::new(
            io::ErrorKind::InvalidData,
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer),
        );
        assert_eq!(refusal_in(&refused).unwrap().fault, Fault::Authority);
        for passing in [
            io::Error::from(io::ErrorKind::ConnectionReset),
            io::Error::new(io::ErrorKind::InvalidData, "anything else"),
            io::Error::new(
                io::ErrorKind::InvalidData,
                rustls::Error::AlertReceived(AlertDescription::InternalError),
            ),
        ] {
            assert_eq!(refusal_in(&passing), None, "{passing}");
        }
    }

    #[test]
    fn each_refusal_says_which_it_is_and_what_was_found() {
        let name = |presented: &[&str]| CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("db1.example.com").unwrap(),
            presented: presented.iter().map(|name| (*name).to_owned()).collect(),
        };
        let at = |seconds| UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        let table = [
            (
                name(&["DnsName(\"other\")", "IpAddress(127.0.0.1)"]),
                "is for other, 127.0.0.1, not for db1.example.com",
            ),
            (name(&[]), "no subjectAltName"),
            (
                CertificateError::ExpiredContext {
                    time: at(86_400),
                    not_after: at(0),
                },
                "expired: the server's certificate ended on 1970-01-01T00:00:00Z, and it is 1970-01-02T00:00:00Z here",
            ),
            (CertificateError::BadSignature, "but with another key"),
            (CertificateError::Revoked, "cannot be used: Revoked"),
        ];
        for (problem, expected) in table {
            let refusal = refusal(&rustls::Error::InvalidCertificate(problem)).unwrap();
            assert!(
                refusal.found.contains(expected),
                "{} does not say {expected}",
                refusal.found
            );
        }
    }
}
