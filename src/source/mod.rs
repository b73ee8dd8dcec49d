//! The source: MySQL's binlog in, audit documents out. One task, and the only place that names the MySQL driver.
//!
//! It guarantees that every event is either understood, known to be harmless, or an error that names its place; that rows
//! come in commit order with their transaction around them; and that it never goes on past something missing. It resumes from
//! what it has read, which is at least what is committed: the GTID set of complete transactions. A transaction that was
//! interrupted is sent again from its beginning, and the batcher drops what it had of it.
//!
//! In the order in which an event passes: [`connect`] and [`preflight`], [`stream`] (checks on the bytes), [`group`] (the
//! grammar of a transaction), [`schema`] (TABLE_MAP → names and types), [`decode`] (row → BSON), [`document`] (all of it → an
//! audit document).

mod connect;
pub mod decode;
mod document;
mod event_type;
#[cfg(test)]
mod fuzz;
mod group;
mod guard;
mod mariadb;
pub mod preflight;
pub mod schema;
mod statement;
mod stream;
mod unlogged;
#[cfg(test)]
mod wire_events;

use std::sync::Arc;
use std::time::Duration;

use mysql_async::Conn;
use mysql_common::binlog::events::Event;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use crate::batch::Item;
use crate::config::{Config, MysqlAddress};
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::position::{BinlogPosition, Flavor};
use crate::retry::Failures;
use group::Assembler;
use schema::information_schema::InformationSchema;
use stream::Stream;

/// Bytes of documents after which a chunk goes to the batcher even when more is ready: large enough that the channel costs
/// nothing, small enough that the reader is never more than about a megabyte ahead.
const CHUNK_BYTES: usize = 256 * 1024;

/// Items after which it goes: transactions without documents have no bytes.
const CHUNK_ITEMS: usize = 1024;

/// How long a connection may send nothing but heartbeats before the server is asked whether there is nothing: three
/// heartbeats.
const QUIET_CHECK: Duration = Duration::from_secs(30);

/// What the reader sends at a time.
#[derive(Debug, Default)]
pub struct Chunk {
    /// In binlog order.
    pub items: Vec<Item>,
    bytes: usize,
}

impl Chunk {
    pub(self) fn push(&mut self, item: Item) {
        if let Item::Change(event) = &item {
            self.bytes += event.bytes();
        }
        self.items.push(item);
    }

    fn is_full(&self) -> bool {
        self.bytes >= CHUNK_BYTES || self.items.len() >= CHUNK_ITEMS
    }
}

/// Where a source that was never read begins (START_FROM). Waits for a server that is not there yet.
///
/// # Errors
/// Only what an operator must mend.
pub async fn first_offset(config: &Config) -> Result<Offset> {
    let mut failures = Failures::new(config.retry, "connect to mysql");
    loop {
        let attempt = async {
            let (_, _, facts) = connect_any(config, config.mysql_flavor).await?;
            let gtid = preflight::first_position(&facts, &config.start_from);
            preflight::judge(&facts, &gtid)?;
            let position = BinlogPosition::at(gtid);
            Ok(Offset {
                position,
                server_uuid: facts.server_uuid,
                flavor: facts.flavor,
                batch: 0,
                n: 0,
                epoch: 0,
                last: None,
            })
        };
        match attempt.await {
            Ok(offset) => return Ok(offset),
            Err(error) if Error::is_transient(&error) => failures.wait(&error).await,
            Err(error) => return Err(error),
        }
    }
}

/// Reads the binlog after `offset` and sends it on, until `stopped` says so. Reconnects for as long as it takes. `epoch` is
/// the run's, and tells its connections from those of other runs.
///
/// # Errors
/// Only what an operator must mend; whatever was sent before is good.
pub async fn read(
    config: Arc<Config>,
    epoch: i64,
    offset: Offset,
    chunks: mpsc::Sender<Chunk>,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    if let Some(named) = config.mysql_flavor
        && named != offset.flavor
    {
        return Err(Error::new(
            Kind::WrongServer,
            format!(
                "MYSQL_FLAVOR is {named}, but the saved offset of this source is of a {} server; a server of the other kind is \
                 another source: give it a SOURCE_ID of its own",
                offset.flavor
            ),
        ));
    }
    let mut reader = Reader {
        flavor: offset.flavor,
        looked_at: String::new(),
        assembler: Assembler::new(&config, offset.flavor, offset.position.gtid, offset.last),
        config,
        epoch,
        chunks,
    };
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stop| *stop) => Ok(()),
        result = reader.run() => result,
    }
}

struct Reader {
    flavor: Flavor,
    /// The server whose tables were looked at.
    looked_at: String,
    config: Arc<Config>,
    epoch: i64,
    assembler: Assembler,
    chunks: mpsc::Sender<Chunk>,
}

impl Reader {
    async fn run(&mut self) -> Result<()> {
        let config = Arc::clone(&self.config);
        let mut failures = Failures::new(config.retry, "read the mysql binlog");
        let mut last_damage: Option<String> = None;
        loop {
            let transactions = self.assembler.transactions();
            let Err(error) = self.connect_and_stream().await;
            if self.assembler.transactions() > transactions {
                failures.over();
                last_damage = None;
            }
            if error.kind() == Kind::SourceDamaged {
                let text = error.to_string();
                if last_damage.as_ref() == Some(&text) {
                    return Err(error.repeated());
                }
                last_damage = Some(text);
            } else if !error.is_transient() {
                return Err(error);
            }
            failures.wait(&error).await;
        }
    }

    /// One connection, until it fails.
    async fn connect_and_stream(&mut self) -> Result<std::convert::Infallible> {
        let config = Arc::clone(&self.config);
        let (address, mut connection, facts) = connect_any(&config, Some(self.flavor)).await?;
        preflight::judge(&facts, self.assembler.read())?;
        self.look_at_tables(address, &mut connection, &facts)
            .await?;
        let leave_out = self.assembler.leave_out(&facts.purged);
        let mut stream =
            Stream::open(connection, self.flavor, &config, self.epoch, &leave_out).await?;
        self.assembler.reconnected(&facts.server_uuid);
        tracing::info!(
            address = %address,
            server_uuid = facts.server_uuid,
            version = facts.version,
            gtid = %self.assembler.read(),
            "Connected to MySQL"
        );
        let mut information = InformationSchema::new(&config, address, self.flavor);
        let mut quiet = Quiet::new();
        let mut chunk = Chunk::default();
        loop {
            let event = tokio::select! {
                biased;
                event = stream.next() => event,
                // Nothing is ready: what there is goes on at once.
                () = std::future::ready(()), if !chunk.items.is_empty() => {
                    self.send(&mut chunk).await?;
                    if quiet.is_due() {
                        self.check_quiet_server(address, &mut quiet).await?;
                    }
                    continue;
                }
            };
            crash_point("after-read");
            let outcome = match event {
                Ok(event) => {
                    quiet.note(event.header().event_type_raw());
                    self.look_up(&mut information, &event, &mut chunk).await?;
                    self.assembler.event(&event, &mut chunk)
                }
                Err(error) => Err(self.assembler.locate(error)),
            };
            if outcome.is_err() || chunk.is_full() {
                self.send(&mut chunk).await?;
            }
            outcome?;
        }
    }

    /// Asks once at start, and again of another server, for tables that cannot be read, and for changes that its binlog will
    /// not hold.
    async fn look_at_tables(
        &mut self,
        address: &MysqlAddress,
        connection: &mut Conn,
        facts: &preflight::Facts,
    ) -> Result<()> {
        if self.looked_at == facts.server_uuid {
            return Ok(());
        }
        if facts.flavor == Flavor::Mariadb {
            let config = Arc::clone(&self.config);
            schema::refused::check(connection, |table| config.tables.includes(table)).await?;
        }
        unlogged::look_at(address, &self.config);
        self.looked_at.clone_from(&facts.server_uuid);
        Ok(())
    }

    /// Asks information_schema what an event does not tell, where that is worth it.
    async fn look_up(
        &mut self,
        information: &mut InformationSchema<'_>,
        event: &Event,
        chunk: &mut Chunk,
    ) -> Result<()> {
        let Some(wanted) = self.assembler.wants(event, std::time::Instant::now()) else {
            return Ok(());
        };
        // What is read already does not wait for the answer.
        if !chunk.items.is_empty() {
            self.send(chunk).await?;
        }
        let answer = match information.ask(&wanted).await {
            Ok(answer) => Some(answer),
            Err(error) if wanted.is_required => return Err(error),
            Err(error) => {
                tracing::warn!(error = %error, "the names of columns cannot be looked up; recorded as @1, @2 …");
                None
            }
        };
        self.assembler
            .learn(&wanted, answer, std::time::Instant::now());
        Ok(())
    }

    /// Asks a server that has sent nothing for a while, on another connection, whether there is nothing. After RESET BINARY
    /// LOGS AND GTIDS a dump goes on sending heartbeats, and nothing else, whatever is committed.
    async fn check_quiet_server(&self, address: &MysqlAddress, quiet: &mut Quiet) -> Result<()> {
        let asked = async {
            let mut connection = connect::connect(&self.config, address).await?;
            let facts = preflight::ask(&mut connection, Some(self.flavor)).await?;
            let _ = connection.disconnect().await;
            Ok(facts)
        };
        let facts = match asked.await {
            Ok(facts) => facts,
            // The stream itself tells whether the server is there.
            Err(error) if Error::is_transient(&error) => return Ok(()),
            Err(error) => return Err(error),
        };
        preflight::judge(&facts, self.assembler.read())?;
        let Some(unsent) = facts.executed.beyond(self.assembler.read()) else {
            quiet.suspicious = false;
            return Ok(());
        };
        // What was committed this very moment may be on its way: only at the second look is it missing.
        if !std::mem::replace(&mut quiet.suspicious, true) {
            return Ok(());
        }
        Err(Error::new(
            Kind::SourceUnavailable,
            format!(
                "the server has executed {unsent}, but its binlog stream is silent: connecting anew"
            ),
        ))
    }

    async fn send(&mut self, chunk: &mut Chunk) -> Result<()> {
        let full = std::mem::take(chunk);
        self.chunks
            .send(full)
            .await
            .map_err(|_| Error::new(Kind::Internal, "the pipeline behind the reader has ended"))
    }
}

/// When a connection that only sends heartbeats is to be looked at.
struct Quiet {
    since: Instant,
    /// Whether anything but a heartbeat came since then.
    heard: bool,
    /// Whether the server had executed something unsent at the last look.
    suspicious: bool,
}

impl Quiet {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            heard: false,
            suspicious: false,
        }
    }

    /// Notes an event: a transaction may take longer than any limit to arrive, and all of its events are signs of life.
    fn note(&mut self, event_type: u8) {
        self.heard |= !matches!(event_type, event_type::HEARTBEAT | event_type::HEARTBEAT_V2);
    }

    /// Whether nothing but heartbeats came for [`QUIET_CHECK`], or since a suspicious look; asked when the stream pauses.
    fn is_due(&mut self) -> bool {
        if self.heard {
            *self = Self::new();
        }
        let due = self.suspicious || self.since.elapsed() >= QUIET_CHECK;
        if due {
            self.since = Instant::now();
        }
        due
    }
}

/// Connects to the first server that answers, and asks it about itself.
async fn connect_any(
    config: &Config,
    flavor: Option<Flavor>,
) -> Result<(&MysqlAddress, Conn, preflight::Facts)> {
    let mut last = Error::new(Kind::SourceUnavailable, "MYSQL_ADDR names no server");
    for address in &config.mysql_addresses {
        let attempt = async {
            let mut connection = connect::connect(config, address).await?;
            let facts = preflight::ask(&mut connection, flavor).await?;
            Ok((address, connection, facts))
        };
        match attempt.await {
            Ok(connected) => return Ok(connected),
            Err(error) if Error::is_transient(&error) => last = error,
            Err(error) => return Err(error),
        }
    }
    Err(last)
}
