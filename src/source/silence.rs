//! What a silent stream means: nothing to send, a server that searches, a history that was reset, or nobody there.
//!
//! It guarantees that no wait of the reader is without an end. An open dump sends a heartbeat every ten seconds, and without any
//! for thirty it is dead ([`super::stream`]). That leaves two silences, and both are settled by asking the server on a connection
//! of its own, beside the stream, so that the question does not delay what arrives:
//!
//! - Heartbeats and nothing else. After RESET BINARY LOGS AND GTIDS a dump goes on sending them, whatever is committed. The server
//!   says what it has executed; what it should have sent and has not, twice, is a stream to be given up.
//! - Nothing at all since the dump was requested. The server may be searching its binlogs for the position, which takes minutes
//!   where there are many, and sends nothing meanwhile. Its list of threads says whether it does.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use mysql_async::Row;
use mysql_async::prelude::Queryable;
use tokio::time::Instant;

use super::connect::classify_after_login;
use super::preflight::Facts;
use super::servers::bounded;
use super::stream::SILENCE;
use super::{connect, event_type, servers};
use crate::config::{Config, MysqlAddress};
use crate::error::{Error, Kind, Result};
use crate::position::Flavor;

/// How long a connection may send nothing but heartbeats before the server is asked whether there is nothing: three heartbeats.
const QUIET_CHECK: Duration = SILENCE;

/// How long nothing may come after the request of a dump before the server is asked whether it searches: two heartbeats.
const SEARCH_CHECK: Duration = Duration::from_secs(20);

/// How long that answer may take: with the wait before it, three heartbeats.
const SEARCH_ANSWER: Duration = Duration::from_secs(10);

/// What the server says.
pub(super) enum Answer {
    /// About itself, when only heartbeats come.
    Facts(Box<Facts>),
    /// That it still searches.
    Searching,
}

/// Watches over one dump.
pub(super) struct Silence {
    config: Arc<Config>,
    flavor: Flavor,
    address: MysqlAddress,
    /// The dump's thread in the server.
    thread: u32,
    is_started: bool,
    /// Since when nothing but heartbeats came; before the first event, when the server last said that it searches.
    since: Instant,
    /// Whether anything but a heartbeat came since then.
    heard: bool,
    /// Whether the server had executed something unsent at the last look.
    suspicious: bool,
    asked: Option<BoxFuture<'static, Result<Option<Answer>>>>,
}

impl Silence {
    pub(super) fn new(
        config: &Arc<Config>,
        flavor: Flavor,
        address: &MysqlAddress,
        thread: u32,
    ) -> Self {
        Self {
            config: Arc::clone(config),
            flavor,
            address: address.clone(),
            thread,
            is_started: false,
            since: Instant::now(),
            heard: false,
            suspicious: false,
            asked: None,
        }
    }

    /// Notes an event, and says whether it is a heartbeat: a transaction may take longer than any limit to arrive, and all of its
    /// events are signs of life.
    pub(super) fn note(&mut self, event_type: u8) -> bool {
        let is_heartbeat = matches!(event_type, event_type::HEARTBEAT | event_type::HEARTBEAT_V2);
        self.heard |= !is_heartbeat;
        is_heartbeat
    }

    /// Nothing is ready. After [`QUIET_CHECK`] with only heartbeats, or a suspicious look, the server is to be asked.
    pub(super) fn begins(&mut self, is_started: bool) {
        self.is_started = is_started;
        if self.heard {
            self.heard = false;
            self.suspicious = false;
            self.since = Instant::now();
            self.asked = None;
        }
        let is_due = self.suspicious || self.since.elapsed() >= QUIET_CHECK;
        if is_started && is_due && self.asked.is_none() {
            self.since = Instant::now();
            let (config, address) = (Arc::clone(&self.config), self.address.clone());
            self.asked = Some(Box::pin(ask_for_facts(config, self.flavor, address)));
        }
    }

    /// Waits until the server has said something that settles the silence; may be dropped and called again.
    ///
    /// # Errors
    /// When it says, or does not say, what makes the stream a dead one.
    pub(super) async fn look(&mut self) -> Result<Answer> {
        loop {
            if let Some(asked) = &mut self.asked {
                let answer = asked.await;
                self.asked = None;
                if let Some(answer) = answer? {
                    return Ok(answer);
                }
            } else if self.is_started {
                std::future::pending::<()>().await;
            } else {
                tokio::time::sleep_until(self.since + SEARCH_CHECK).await;
                self.since = Instant::now();
                let (config, address) = (Arc::clone(&self.config), self.address.clone());
                self.asked = Some(Box::pin(ask_whether_it_searches(
                    config,
                    self.flavor,
                    address,
                    self.thread,
                )));
            }
        }
    }

    /// Judges what the server has executed and not sent, in words.
    ///
    /// # Errors
    /// When there was something at the look before, too.
    pub(super) fn compare(&mut self, unsent: Option<String>) -> Result<()> {
        let Some(unsent) = unsent else {
            self.suspicious = false;
            return Ok(());
        };
        // What was committed this very moment may be on its way: only at the second look is it missing.
        if !std::mem::replace(&mut self.suspicious, true) {
            return Ok(());
        }
        Err(Error::new(
            Kind::SourceUnavailable,
            format!(
                "the server has executed {unsent}, but its binlog stream is silent: connecting anew"
            ),
        ))
    }
}

/// `None` when the server does not answer: the stream itself tells whether it is there.
async fn ask_for_facts(
    config: Arc<Config>,
    flavor: Flavor,
    address: MysqlAddress,
) -> Result<Option<Answer>> {
    let asked = async {
        let (connection, facts) = servers::ask(&config, &address, Some(flavor)).await?;
        let leaving = async { Ok(connection.disconnect().await) };
        let _ = bounded("leave", leaving).await;
        Ok(facts)
    };
    match asked.await {
        Ok(facts) => Ok(Some(Answer::Facts(Box::new(facts)))),
        Err(error) if Error::is_transient(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

async fn ask_whether_it_searches(
    config: Arc<Config>,
    flavor: Flavor,
    address: MysqlAddress,
    thread: u32,
) -> Result<Option<Answer>> {
    let doing = "ask whether the server searches its binlogs";
    let dead = |why: &str| {
        Error::new(
            Kind::SourceUnavailable,
            format!(
                "read the binlog: nothing came in {} s since the dump was requested, and {why}: the connection is dead",
                SEARCH_CHECK.as_secs()
            ),
        )
    };
    let asked = async {
        let mut connection = connect::connect(&config, &address).await?;
        let threads: Vec<Row> = connection
            .query("SHOW PROCESSLIST")
            .await
            .map_err(|error| classify_after_login(doing, &error))?;
        let _ = connection.disconnect().await;
        Ok(threads)
    };
    let threads = match tokio::time::timeout(SEARCH_ANSWER, asked).await {
        Ok(Ok(threads)) => threads,
        Ok(Err(error)) if Error::is_transient(&error) => {
            return Err(dead(&format!(
                "the server does not answer another connection either ({error})"
            )));
        }
        Ok(Err(error)) => return Err(error),
        Err(_) => return Err(dead("the server does not answer another connection either")),
    };
    let text = |row: &Row, column| row.get_opt::<String, _>(column).and_then(|text| text.ok());
    let state = threads
        .iter()
        .find(|row| row.get_opt::<u32, _>("Id").and_then(|id| id.ok()) == Some(thread))
        .filter(|row| {
            text(row, "Command").is_some_and(|command| command.starts_with("Binlog Dump"))
        })
        .map(|row| text(row, "State").unwrap_or_default());
    match state {
        None => Err(dead("the server does not know of it, or not any longer")),
        // "Source has sent all binlog to replica; waiting for more updates", "Sending binlog event to replica", and older words. The
        // latter is what MariaDB does, too, while it passes over the beginning of a file.
        Some(state)
            if state.contains("sent all binlog")
                || flavor == Flavor::Mysql && state.contains("binlog event") =>
        {
            Err(dead(&format!("the server has begun to send ({state})")))
        }
        Some(state) => {
            tracing::info!(state, "the server searches its binlogs for the position");
            Ok(Some(Answer::Searching))
        }
    }
}
