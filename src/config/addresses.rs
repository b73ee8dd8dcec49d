//! The settings with hosts in them. Both may hold a password (MONGO_URI rightly, MYSQL_ADDR by mistake), so no reason
//! here repeats any part of the text.

use std::fmt;
use std::net::Ipv6Addr;

use super::secret::Secret;
use super::sources::Wrong;

/// The port MySQL listens on where none is given.
const MYSQL_PORT: u16 = 3306;

/// One MySQL server. Printed as `host:port`, an IPv6 host in brackets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MysqlAddress {
    /// Name or address, without brackets.
    pub host: String,
    /// TCP port; never 0.
    pub port: u16,
}

impl fmt::Display for MysqlAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(formatter, "[{}]:{}", self.host, self.port)
        } else {
            write!(formatter, "{}:{}", self.host, self.port)
        }
    }
}

/// Reads `host:port,[ipv6]:port,host`.
pub(super) fn mysql_addresses(text: &str) -> Result<Vec<MysqlAddress>, Wrong> {
    text.split(',')
        .map(|part| mysql_address(part.trim()))
        .collect()
}

fn mysql_address(text: &str) -> Result<MysqlAddress, Wrong> {
    if text.is_empty() {
        return Err("expected host:port on both sides of each comma".into());
    }
    if text.contains('@') || text.contains("://") {
        return Err(
            "expected host:port alone; user and password have settings of their own".into(),
        );
    }
    if text.starts_with('/') {
        return Err("expected host:port: a binlog is read over TCP, not over a socket file".into());
    }
    let (host, port) = split_port(text)?;
    Ok(MysqlAddress {
        host: host.to_owned(),
        port: port.unwrap_or(MYSQL_PORT),
    })
}

/// Splits `host`, `host:port`, `[ipv6]` or `[ipv6]:port`; the host comes without brackets.
fn split_port(text: &str) -> Result<(&str, Option<u16>), Wrong> {
    let (host, port) = if let Some(rest) = text.strip_prefix('[') {
        let (host, rest) = rest
            .split_once(']')
            .ok_or("the bracket of the IPv6 address is not closed")?;
        if host.parse::<Ipv6Addr>().is_err() {
            return Err("expected an IPv6 address between the brackets".into());
        }
        match rest.strip_prefix(':') {
            Some(port) => (host, Some(port)),
            None if rest.is_empty() => (host, None),
            None => return Err("expected :port behind the bracket".into()),
        }
    } else {
        let (host, port) = match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        if port.is_some_and(|port| port.contains(':')) {
            return Err(
                "more than one colon: an IPv6 address stands in brackets, [::1]:3306".into(),
            );
        }
        let valid =
            |character: char| character.is_ascii_alphanumeric() || "-._".contains(character);
        if host.is_empty() || !host.chars().all(valid) {
            return Err("expected a host name or address before the port".into());
        }
        (host, port)
    };
    match port.map(str::parse::<u16>) {
        None => Ok((host, None)),
        Some(Ok(port)) if port > 0 => Ok((host, Some(port))),
        Some(_) => Err("expected a port from 1 to 65535 behind the colon".into()),
    }
}

/// A connection string whose form is right; what its options mean is the driver's business.
pub(super) struct MongoUri {
    pub(super) uri: Secret,
    /// The hosts alone, for log lines.
    pub(super) hosts: String,
}

/// Checks the form of a connection string (manual: "Connection Strings").
pub(super) fn mongo_uri(text: &str) -> Result<MongoUri, Wrong> {
    let (rest, service_record) = match (
        text.strip_prefix("mongodb://"),
        text.strip_prefix("mongodb+srv://"),
    ) {
        (Some(rest), _) => (rest, false),
        (_, Some(rest)) => (rest, true),
        _ => return Err("expected mongodb:// or mongodb+srv:// at its beginning".into()),
    };
    if rest.contains(|character: char| character.is_whitespace() || character.is_control()) {
        return Err("there is white space in it: in user and password write it as %20".into());
    }
    let authority_end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(authority_end);
    // A `/` or `?` in a password ends the authority early, and the `@` lands behind it.
    let path = tail.split('?').next().unwrap_or_default();
    let hosts = match authority.rsplit_once('@') {
        Some((credentials, hosts)) => {
            check_credentials(credentials)?;
            hosts
        }
        None if path.contains('@') || (tail.starts_with('?') && tail.contains('@')) => {
            return Err("an `@` stands behind a `/` or `?`: in user and password write % / ? : @ as %25 %2F %3F %3A %40".into());
        }
        None => authority,
    };
    if hosts.is_empty() {
        return Err("expected a host behind the scheme and the credentials".into());
    }
    let list: Vec<_> = hosts.split(',').collect();
    for host in &list {
        // Socket files are given percent-encoded.
        if host.to_ascii_lowercase().starts_with("%2f") && !service_record {
            continue;
        }
        let (_, port) = split_port(host)?;
        if service_record && (port.is_some() || list.len() > 1) {
            return Err("mongodb+srv:// takes one host name without a port".into());
        }
    }
    check_options(tail)?;
    Ok(MongoUri {
        uri: Secret::new(text.to_owned()),
        hosts: hosts.to_owned(),
    })
}

fn check_credentials(credentials: &str) -> Result<(), Wrong> {
    if credentials.contains('@') || credentials.matches(':').count() > 1 {
        return Err(
            "user or password has a `:` or `@` of its own: write % / ? : @ as %25 %2F %3F %3A %40"
                .into(),
        );
    }
    if credentials.is_empty() || credentials.starts_with(':') {
        return Err("expected a user before the `@`".into());
    }
    let mut rest = credentials;
    while let Some((_, behind)) = rest.split_once('%') {
        let code = behind.as_bytes().get(..2).unwrap_or_default();
        if code.len() < 2 || !code.iter().all(u8::is_ascii_hexdigit) {
            return Err("a `%` in user or password is not followed by two hexadecimal digits: write it as %25".into());
        }
        rest = behind;
    }
    Ok(())
}

/// Each option is `name=value`.
fn check_options(tail: &str) -> Result<(), Wrong> {
    let Some((_, options)) = tail.split_once('?') else {
        return Ok(());
    };
    let wrong = options
        .split('&')
        .filter(|option| !option.is_empty())
        .any(|option| !matches!(option.split_once('='), Some((name, value)) if !name.is_empty() && !value.is_empty()));
    if wrong {
        return Err("expected name=value between each `&` behind the `?`".into());
    }
    Ok(())
}
