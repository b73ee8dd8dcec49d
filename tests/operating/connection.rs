//! The connections that a company demands: TLS in every mode, the logins its servers ask for, and accounts with the least
//! rights that work; and that what is refused says which of them it was.
//!
//! Certificates are made by the tests, each by an authority of its own ([`certificates`]). What must not be said anywhere is
//! planted: every secret of a test holds [`PLANTED`], and no line of a daemon may, whatever RUST_LOG says.
mod certificates;
#[path = "connection/documented.rs"]
mod documented_account;
mod logins;
#[path = "connection/mongo.rs"]
mod mongo_accounts;
mod tap;
mod tls;

use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up};

/// A start, an exit, or a reconnect; all of them take a second, except where a driver waits for a server of a certain kind.
const SOON: Duration = Duration::from_secs(40);

/// Part of every secret, and of no line that a daemon prints.
const PLANTED: &str = "planted";

const SHOP: &str = "CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY)";

/// A daemon that tells everything it would ever tell.
fn talkative(settings: &Settings) -> Daemon {
    Daemon::start(&settings.clone().set("RUST_LOG", "trace"))
}

/// The one line with which a daemon ended for an operator's sake, soon and without a second try.
async fn refusal(settings: &Settings) -> String {
    refusal_of(&talkative(settings)).await
}

async fn refusal_of(daemon: &Daemon) -> String {
    let (code, _) = daemon.wait_exit(SOON).await;
    let logs = daemon.logs();
    assert_eq!(code, 3, "{logs:#?}");
    let mut told: Vec<_> = logs.iter().filter(|line| line.contains("exit=3")).collect();
    assert_eq!(told.len(), 1, "one message: {logs:#?}");
    assert!(
        !daemon.has_logged("trying again"),
        "another try changes nothing: {logs:#?}"
    );
    assert_silent_about_secrets(daemon);
    told.remove(0).clone()
}

fn assert_silent_about_secrets(daemon: &Daemon) {
    for line in daemon.logs() {
        assert!(!line.contains(PLANTED), "{line}");
    }
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// A running daemon that reads.
async fn reading(settings: &Settings) -> Daemon {
    let daemon = talkative(settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    daemon
}

/// The daemon reads and records: what is written now arrives. Gives it back, running.
async fn records(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) -> Daemon {
    let daemon = reading(settings).await;
    mysqld.exec("INSERT INTO shop.t VALUES ()").await;
    caught_up(mysqld, mongod, settings.database()).await;
    assert_silent_about_secrets(&daemon);
    daemon
}

/// Ends a daemon in an orderly way.
async fn stop(daemon: Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    assert_silent_about_secrets(&daemon);
}

/// What stands between the lines "```language" and "```" of the documentation, one text for each block.
fn documented(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(path).unwrap();
    let accounts = text
        .split("\n## ")
        .find(|section| section.starts_with("Accounts"))
        .unwrap();
    accounts
        .split(&format!("```{language}\n"))
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}
