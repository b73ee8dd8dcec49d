//! What the daemon serves, read as strictly as the formats say.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::Daemon;

const SOON: Duration = Duration::from_secs(60);

/// Where the daemon serves, by its log.
pub(crate) async fn address(daemon: &Daemon) -> String {
    let line = daemon.wait_for_log("Serving metrics", SOON).await;
    let (_, address) = line.split_once("address=").expect("an address");
    address
        .split_whitespace()
        .next()
        .expect("an address")
        .to_owned()
}

/// Status, content type and body of one answer.
pub(crate) async fn get(address: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(address).await.expect("it listens");
    let request = format!("GET {path} HTTP/1.1\r\nHost: sdl\r\nConnection: close\r\n\r\n");
    stream
        .write_all(request.as_bytes())
        .await
        .expect("it reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .await
        .expect("it answers in text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
    let code = head.split(' ').nth(1).expect("a status line");
    let content_type = head
        .lines()
        .find_map(|line| line.strip_prefix("content-type: "))
        .unwrap_or_default();
    (
        code.parse().expect("a status code"),
        content_type.to_owned(),
        body.to_owned(),
    )
}

/// The status code of /readyz, and what it says.
pub(crate) async fn ready(address: &str) -> (u16, Value) {
    let (code, content_type, body) = get(address, "/readyz").await;
    assert_eq!(content_type, "application/json");
    let body: Value = serde_json::from_str(&body).expect("JSON");
    let is_ready = matches!(body["status"].as_str(), Some("healthy" | "degraded"));
    assert_eq!(code, if is_ready { 200 } else { 503 }, "{body}");
    (code, body)
}

/// The series of /metrics by name and labels; panics at whatever OpenMetrics 1.0 or Prometheus' naming does not allow.
pub(crate) async fn metrics(address: &str) -> BTreeMap<String, f64> {
    let (code, content_type, body) = get(address, "/metrics").await;
    assert_eq!(code, 200, "{body}");
    assert!(
        content_type.starts_with("application/openmetrics-text"),
        "{content_type}"
    );
    parse(&body)
}

fn parse(body: &str) -> BTreeMap<String, f64> {
    let body = body.strip_suffix("# EOF\n").expect("the end of the text");
    let mut series = BTreeMap::new();
    let mut families = BTreeSet::new();
    let (mut family, mut kind, mut has_help) = (String::new(), String::new(), false);
    for line in body.lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        match words[..] {
            ["#", "HELP", name, text] => {
                assert!(families.insert(name.to_owned()), "{name} comes twice");
                assert!(text.len() > 10, "{name} is not explained: {text}");
                (family, kind, has_help) = (name.to_owned(), String::new(), true);
            }
            ["#", "TYPE", name, what] => {
                assert_eq!(name, family, "{line}");
                kind = what.to_owned();
            }
            ["#", "UNIT", name, unit] => {
                assert_eq!(name, family, "{line}");
                assert!(name.ends_with(&format!("_{unit}")), "{line}");
            }
            _ => {
                let (name, value) = line.rsplit_once(' ').expect("a sample");
                let bare = name.split('{').next().expect("a name");
                let suffix = match kind.as_str() {
                    "gauge" => "",
                    "counter" => "_total",
                    "info" => "_info",
                    other => panic!("{line}: type {other:?}"),
                };
                assert!(has_help, "{line} has no HELP");
                assert_eq!(bare, format!("{family}{suffix}"), "{line}");
                assert!(
                    bare.starts_with("sdl_") || bare.starts_with("process_"),
                    "{line}"
                );
                let value: f64 = value.parse().expect("a number");
                assert!(value.is_finite(), "{line}");
                assert_eq!(
                    series.insert(name.to_owned(), value),
                    None,
                    "{line} comes twice"
                );
            }
        }
    }
    series
}
