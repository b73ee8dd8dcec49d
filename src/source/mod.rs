//! The source: MySQL's binlog in, audit documents out. One task, and the only place that names the MySQL driver.
//!
//! It guarantees that every event is either understood, known to be harmless, or an error that names its place; that rows
//! come in commit order with their transaction around them; and that it never goes on past something missing. It resumes from
//! what it has read, which is at least what is committed: the GTID set of complete transactions. A transaction that was
//! interrupted is sent again from its beginning, and the batcher drops what it had of it.
//!
//! In the order in which an event passes: [`connect`] and [`preflight`], [`servers`] (which server is read), [`replicas`] (who
//! else reads it), [`stream`] (checks on the bytes), [`group`] (the grammar of a transaction), [`schema`] (TABLE_MAP → names and
//! types), [`decode`] (row → BSON), [`document`] (all of it → an audit document). [`silence`] looks after a stream that brings
//! nothing; [`pulse`] asks the server how it is doing, and [`headroom`] how long what is needed will be kept. [`inspect`]
//! asks all of it beforehand, for a person; [`files`] takes the same events from files on disk.

pub mod attached;
mod connect;
pub mod decode;
mod document;
mod event_type;
pub mod files;
#[cfg(test)]
mod fuzz;
pub mod gap;
mod group;
mod guard;
pub mod headroom;
pub mod inspect;
mod mariadb;
pub mod preflight;
pub mod pulse;
mod replicas;
pub mod schema;
mod servers;
mod silence;
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
use crate::board::Board;
use crate::config::{Config, MysqlAddress};
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::position::{BinlogPosition, Flavor, Gtid};
use crate::retry::{Failures, Retry};
use group::Assembler;
use preflight::Facts;
use replicas::Replicas;
use schema::information_schema::InformationSchema;
use servers::{Next, Recorded, Servers, bounded};
use silence::{Answer, Silence};
use stream::Stream;

/// Bytes of documents after which a chunk goes to the batcher even when more is ready: large enough that the channel costs
/// nothing, small enough that the reader is never more than about a megabyte ahead.
const CHUNK_BYTES: usize = 256 * 1024;

/// Items after which it goes: transactions without documents have no bytes.
const CHUNK_ITEMS: usize = 1024;

/// How long a stream that counts as dead is looked at once more. A process that was suspended finds its timers expired before it has
/// read its socket; that takes a millisecond, and nobody waits for a tenth of a second after three heartbeats.
const LAST_LOOK: Duration = Duration::from_millis(100);

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
    let retry = Retry::new(config.retry);
    let mut failures = Failures::new(&retry, "connect to mysql");
    let mut servers = Servers::new(&config.mysql_addresses);
    loop {
        let attempt = async {
            let (_, facts) = servers::ask(config, servers.current(), config.mysql_flavor).await?;
            let gtid = preflight::first_position(&facts, &config.start_from);
            let recorded = Recorded {
                read: &gtid,
                cut: None,
            };
            servers.judge(&facts, recorded, Instant::now())?;
            servers.tell_passed_over();
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
            Err(error) => match servers.failed(error, false, Instant::now()) {
                Next::Server => {}
                Next::Wait(error) => failures.wait(&error).await,
                Next::Stop(error) => return Err(error),
            },
        }
    }
}

/// Reads the binlog after `offset` and sends it on, until `stopped` says so. Reconnects for as long as it takes.
///
/// # Errors
/// Only what an operator must mend; whatever was sent before is good.
pub async fn read(
    config: Arc<Config>,
    board: Arc<Board>,
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
    let open = offset.position.partial.map(|partial| OpenTransaction {
        gtid: Arc::new(partial.gtid),
        changes: 0,
        bytes: 0,
        is_cut: true,
    });
    let mut reader = Reader {
        board,
        flavor: offset.flavor,
        looked_at: String::new(),
        assembler: Assembler::new(&config, offset.flavor, offset.position.gtid, offset.last),
        replicas: Replicas::new(&config),
        config,
        open,
        chunks,
        heartbeats: 0,
        undecodable: 0,
    };
    tokio::select! {
        biased;
        _ = stopped.wait_for(|stop| *stop) => Ok(()),
        result = reader.run() => result,
    }
}

struct Reader {
    board: Arc<Board>,
    flavor: Flavor,
    /// The server whose tables were looked at.
    looked_at: String,
    config: Arc<Config>,
    assembler: Assembler,
    replicas: Replicas,
    /// What was sent of a transaction whose end was not.
    open: Option<OpenTransaction>,
    chunks: mpsc::Sender<Chunk>,
    /// Heartbeats of this connection.
    heartbeats: u32,
    /// Undecodable values that the board knows of.
    undecodable: u64,
}

/// A transaction of which the end was not sent.
struct OpenTransaction {
    gtid: Arc<Gtid>,
    /// Changes of it that were sent, and their bytes.
    changes: usize,
    bytes: usize,
    /// Whether it is larger than a batch, so that some of its changes are recorded.
    is_cut: bool,
}

impl Reader {
    async fn run(&mut self) -> Result<()> {
        let config = Arc::clone(&self.config);
        let retry = Retry::new(config.retry);
        let mut failures = Failures::new(&retry, "read the mysql binlog");
        let mut servers = Servers::new(&config.mysql_addresses);
        loop {
            let transactions = self.assembler.transactions();
            self.heartbeats = 0;
            let Err(error) = self.connect_and_stream(&mut servers).await;
            self.note_connected(None);
            // New transactions, or three heartbeats: it was good, and what ended it says nothing about the server.
            let was_read = self.assembler.transactions() > transactions || self.heartbeats >= 3;
            if was_read {
                failures.over();
            }
            match servers.failed(error, was_read, Instant::now()) {
                Next::Server => {}
                Next::Wait(error) => failures.wait(&error).await,
                Next::Stop(error) => return Err(error),
            }
        }
    }

    /// One connection, until it fails.
    async fn connect_and_stream(
        &mut self,
        servers: &mut Servers<'_>,
    ) -> Result<std::convert::Infallible> {
        let config = Arc::clone(&self.config);
        let address = servers.current();
        let (mut connection, facts) = servers::ask(&config, address, Some(self.flavor)).await?;
        servers.judge(&facts, self.recorded(), Instant::now())?;
        if config.mysql_addresses.len() > 1 {
            let refusal = refuse_filters(&mut connection, self.flavor);
            bounded("ask for replication filters", refusal).await?;
        }
        let tables = self.look_at_tables(address, &facts);
        bounded("look at the tables", tables).await?;
        self.replicas.look(&mut connection).await?;
        self.recognize(address, &facts).await?;
        let mut silence = Silence::new(&config, self.flavor, address, connection.id());
        let identity = self.replicas.identity();
        let read = self.assembler.read();
        let dump = Stream::open(connection, self.flavor, &config, identity, read);
        let mut stream = bounded("start the binlog dump", dump).await?;
        self.assembler.reconnected(&facts.server_uuid);
        servers.tell_passed_over();
        tracing::info!(
            address = %address,
            server_uuid = facts.server_uuid,
            version = facts.version,
            gtid = %self.assembler.read(),
            "Connected to MySQL"
        );
        self.replicas.attached();
        self.note_connected(Some(address));
        let mut information = InformationSchema::new(&config, address, self.flavor);
        let mut chunk = Chunk::default();
        loop {
            let event = self.next_event(&mut stream, &mut chunk, &mut silence).await;
            crash_point("after-read");
            let outcome = match event {
                Ok(event) => {
                    self.heartbeats += u32::from(silence.note(event.header().event_type_raw()));
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
    async fn look_at_tables(&mut self, address: &MysqlAddress, facts: &Facts) -> Result<()> {
        if self.looked_at == facts.server_uuid {
            return Ok(());
        }
        if facts.flavor == Flavor::Mariadb {
            let config = Arc::clone(&self.config);
            // A connection of its own: a question that is given up leaves it unusable.
            let mut connection = connect::connect(&config, address).await?;
            schema::refused::check(&mut connection, |table| config.tables.includes(table)).await?;
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
        let answer = match bounded("ask information_schema", information.ask(&wanted)).await {
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

    /// Compares the last transaction with what the server has under its GTID, before anything of that server is read: in a dump of
    /// its own, since something unread may stand before it, be it because this server applied them in another order, or because
    /// its history is another one altogether.
    async fn recognize(&mut self, address: &MysqlAddress, facts: &Facts) -> Result<()> {
        let Some(last) = self.assembler.witness(&facts.purged) else {
            return Ok(());
        };
        let gtid = last.gtid.clone();
        let others = facts.executed.without(&gtid, last.predecessor.as_ref());
        let config = Arc::clone(&self.config);
        let doing = format!("connect to mysql {address}");
        let connection = bounded(&doing, connect::connect(&config, address)).await?;
        let mut silence = Silence::new(&config, self.flavor, address, connection.id());
        let identity = self.replicas.identity();
        let dump = Stream::open(connection, self.flavor, &config, identity, &others);
        let mut stream = bounded("start the binlog dump", dump).await?;
        self.assembler.reconnected(&facts.server_uuid);
        let mut nothing = Chunk::default();
        loop {
            let event = self
                .next_event(&mut stream, &mut nothing, &mut silence)
                .await?;
            silence.note(event.header().event_type_raw());
            self.assembler.event(&event, &mut Chunk::default())?;
            match self.assembler.looks_again() {
                Some(true) => return Ok(()),
                Some(false) => {
                    return Err(Error::new(
                        Kind::SourceUnavailable,
                        format!(
                            "the server sends something else when it is asked for transaction {gtid}"
                        ),
                    ));
                }
                None => {}
            }
        }
    }

    /// The next event. While none is ready, what there is goes on, and a stream that stays silent is looked after.
    async fn next_event(
        &mut self,
        stream: &mut Stream,
        chunk: &mut Chunk,
        silence: &mut Silence,
    ) -> Result<Event> {
        tokio::select! {
            biased;
            event = stream.next() => return event,
            // Nothing is ready: what there is goes on at once.
            () = std::future::ready(()) => {}
        }
        if !chunk.items.is_empty() {
            self.send(chunk).await?;
        }
        silence.begins(stream.is_started());
        // One wait from here on, so that questions do not lengthen it.
        let next = stream.next();
        tokio::pin!(next);
        loop {
            tokio::select! {
                biased;
                event = &mut next => return event,
                answer = silence.look() => match answer {
                    Ok(Answer::Searching) => {}
                    Ok(Answer::Facts(facts)) => {
                        preflight::judge(&facts, self.assembler.read())?;
                        silence.compare(facts.executed.beyond(self.assembler.read()))?;
                    }
                    // What came while this very process stood still lies in the socket, and may be purged at the server by now.
                    Err(error) => {
                        return match tokio::time::timeout(LAST_LOOK, &mut next).await {
                            Ok(event) => event,
                            Err(_) => Err(error),
                        };
                    }
                },
            }
        }
    }

    /// Tells the board that a stream is open, or that none is any more.
    fn note_connected(&self, address: Option<&MysqlAddress>) {
        self.board.update(|facts| {
            let source = &mut facts.source;
            if address.is_some() || source.connected.is_some() {
                source.since = Some(std::time::Instant::now());
            }
            source.connections += u64::from(address.is_some());
            source.connected = address.map(ToString::to_string);
            if source.connected.is_some() {
                source.address.clone_from(&source.connected);
            }
        });
    }

    fn recorded(&self) -> Recorded<'_> {
        Recorded {
            read: self.assembler.read(),
            cut: self
                .open
                .as_ref()
                .filter(|open| open.is_cut)
                .map(|open| &*open.gtid),
        }
    }

    async fn send(&mut self, chunk: &mut Chunk) -> Result<()> {
        let full = std::mem::take(chunk);
        self.note_sent(&full.items);
        self.note_undecodable();
        self.chunks
            .send(full)
            .await
            .map_err(|_| Error::new(Kind::Internal, "the pipeline behind the reader has ended"))
    }

    fn note_undecodable(&mut self) {
        let more = self.assembler.undecodable_values() - self.undecodable;
        if more > 0 {
            self.undecodable += more;
            self.board.update(|facts| facts.values_undecodable += more);
        }
    }

    /// Keeps account of the transaction that is under way: what the batcher cuts is recorded in part.
    fn note_sent(&mut self, items: &[Item]) {
        for item in items {
            match item {
                Item::Begin(gtid) => {
                    let is_cut = self
                        .open
                        .as_ref()
                        .is_some_and(|open| open.is_cut && open.gtid == *gtid);
                    self.open = Some(OpenTransaction {
                        gtid: Arc::clone(gtid),
                        changes: 0,
                        bytes: 0,
                        is_cut,
                    });
                }
                Item::Change(event) => {
                    if let Some(open) = &mut self.open {
                        open.changes += 1;
                        open.bytes += event.bytes();
                        open.is_cut |= open.changes > self.config.batch_size
                            || open.bytes > self.config.batch_bytes;
                    }
                }
                Item::End(_) => self.open = None,
                Item::RollbackTo { .. } | Item::Heartbeat => {}
            }
        }
    }
}

/// A replica that leaves something out cannot stand in for another server. (A single one may be what is wanted; [`unlogged`] tells.)
async fn refuse_filters(connection: &mut Conn, flavor: Flavor) -> Result<()> {
    let Some(filters) = replicas::filters(connection, flavor).await? else {
        return Ok(());
    };
    Err(Error::new(
        Kind::SourceSetting,
        format!(
            "the server leaves out a part when it replicates: {filters}; it has the GTIDs of what it leaves out, and nothing in \
             its binlog shows it: take the filters away and rebuild it, or take it out of MYSQL_ADDR"
        ),
    ))
}
