//! What a running daemon says of itself, asked at METRICS_ADDR: for commands that do without one if they must.
//!
//! Plain HTTP/1.1 with a body of a known length, from this host, so nothing but the standard library is needed.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// Longest wait for the daemon. It answers from memory.
const LIMIT: Duration = Duration::from_secs(3);

/// More is no answer of sdl.
const LARGEST_ANSWER: u64 = 1024 * 1024;

/// Who answered.
#[derive(Debug)]
pub enum Answer {
    /// A daemon: its /readyz.
    Daemon(Value),
    /// Something else, in words.
    Other(String),
    /// Nobody, in words.
    Nobody(String),
}

/// Asks whoever listens there for /readyz.
pub async fn ask(address: SocketAddr) -> Answer {
    tokio::task::spawn_blocking(move || ask_blocking(address))
        .await
        .unwrap_or_else(|error| Answer::Nobody(error.to_string()))
}

fn ask_blocking(address: SocketAddr) -> Answer {
    let answer = match get(reachable(address), "/readyz") {
        Ok(answer) => answer,
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
            return Answer::Nobody(format!("nobody listens at {address}"));
        }
        Err(error) => return Answer::Other(format!("it does not answer: {error}")),
    };
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match serde_json::from_str::<Value>(body) {
        Ok(ready) if ready["source"].is_string() && ready["role"].is_string() => {
            Answer::Daemon(ready)
        }
        _ => Answer::Other("something that is no sdl answers".to_owned()),
    }
}

/// Where one that listens at every address is found.
fn reachable(address: SocketAddr) -> SocketAddr {
    let host = match address.ip() {
        IpAddr::V4(host) if host.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(host) if host.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        host => host,
    };
    SocketAddr::new(host, address.port())
}

fn get(address: SocketAddr, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n"
    )?;
    let mut answer = String::new();
    stream.take(LARGEST_ANSWER).read_to_string(&mut answer)?;
    Ok(answer)
}
