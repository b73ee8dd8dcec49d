//! The grammar of a binlog: GTID, then a schema change, or BEGIN, rows, and a terminator.
//!
//! It guarantees that nothing in the stream is passed over unseen. An event type is either handled here, known to hold no
//! change, or an error; a group that ends without its terminator, or whose events do not add up to the length that its GTID
//! event announced (`transaction_length`, which also catches a compressed payload that was dropped on the way), is an error
//! too. Errors name file, position and GTID.
//!
//! It resumes by the set of complete transactions ([`Assembler::read`]); an open group is forgotten at a reconnect.
//!
//! MariaDB's grammar differs in its opening only: its GTID event says whether a transaction begins or a single statement
//! follows, and there is no BEGIN ([`opening`]).
//!
//! Formats: `libs/mysql/binlog/event/` in the server's source; the manual's "MySQL Internals: Replication Protocol"; for
//! MariaDB, [`mariadb`].

pub(in crate::source) mod opening;
mod statements;

use std::sync::Arc;
use std::time::{Duration, Instant};

use mysql_common::binlog::events::{Event, RotateEvent, RowsQueryEvent};
use mysql_common::proto::MySerialize;

use super::Chunk;
use super::decode::DecodeError;
use super::document::{Documents, Place, RowContext, StatementText};
use super::guard::guarded;
use super::schema::information_schema::Answer;
use super::schema::lookup::Wanted;
use super::stream::is_unpacked;
use super::{event_type, mariadb};
use crate::batch::{Item, TransactionEnd};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::event::TransactionContext;
use crate::offset::LastTransaction;
use crate::position::{Flavor, Gtid, GtidSet};

/// Bytes before the name in a ROTATE event: the position to go on at.
const ROTATE_POST_HEADER: usize = 8;

/// Turns checked events into items for the batcher.
pub(super) struct Assembler {
    source_id: Arc<str>,
    /// Every transaction read to its end.
    read: GtidSet,
    /// The last of them: what a new connection is asked for again, to see that its history is the one that was read.
    last: Option<LastTransaction>,
    transactions: u64,
    /// The binlog file being read, and the server.
    file: Arc<str>,
    server_uuid: Arc<str>,
    /// Where the event being read begins and ends; inside a compressed payload, where the payload does.
    position: u64,
    end_position: u64,
    group: Option<Group>,
    documents: Documents,
    /// Data changes that were logged as their statements.
    statements_as_text: Repeated,
}

/// How often a thing that may happen at every transaction is told.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Counts something, and says when to tell it: at the first time, and then no more often than [`TELL_EVERY`].
#[derive(Default)]
struct Repeated {
    count: u64,
    told: Option<Instant>,
}

impl Repeated {
    /// One more; the number of all when it is time to tell.
    fn note(&mut self) -> Option<u64> {
        self.count += 1;
        if self.told.is_some_and(|told| told.elapsed() < TELL_EVERY) {
            return None;
        }
        self.told = Some(Instant::now());
        Some(self.count)
    }
}

/// A transaction of which the end has not been read.
struct Group {
    gtid: Arc<Gtid>,
    context: TransactionContext,
    /// Sum of its events' sizes so far, and what the GTID event announced (0: nothing announced).
    bytes: u64,
    announced: u64,
    /// Whether BEGIN, XA START or CREATE … START TRANSACTION was read, or a GTID event that says as much.
    begun: bool,
    /// Whether its GTID event says that its statement is a schema change, though rows follow it (MariaDB).
    schema_change: bool,
    /// Whether its statement takes no effect: the first half of an ALTER TABLE that MariaDB logs in two, or an abandoned one.
    no_effect: bool,
    /// The default database of the session at XA START.
    xa_database: Vec<u8>,
    /// The savepoints set so far, each with the index of the row after it.
    savepoints: Vec<(String, u64)>,
    /// Rows so far, before any filter.
    rows: u64,
    /// Statements ended so far.
    statements: u64,
    /// The text of the current statement, until its first document.
    text: Option<StatementText>,
    /// Whether it was read before and is only looked at again: it leaves no items.
    known: bool,
}

impl Group {
    fn row_context<'a>(&'a mut self, place: Place<'a>) -> RowContext<'a> {
        RowContext {
            transaction: &self.context,
            row: &mut self.rows,
            statement: self.statements,
            text: &mut self.text,
            place,
        }
    }
}

impl Assembler {
    /// An assembler that goes on after the transactions in `read`, of which `last` was the last.
    pub(super) fn new(
        config: &Config,
        flavor: Flavor,
        read: GtidSet,
        last: Option<LastTransaction>,
    ) -> Self {
        Self {
            source_id: config.source_id.as_str().into(),
            read,
            last,
            transactions: 0,
            file: "".into(),
            server_uuid: "".into(),
            position: 0,
            end_position: 0,
            group: None,
            documents: Documents::new(config, flavor),
            statements_as_text: Repeated::default(),
        }
    }

    /// The transactions read to their end.
    pub(super) fn read(&self) -> &GtidSet {
        &self.read
    }

    /// The last transaction, by which a server's history is recognized; `None` where there is none, where its binlog is `purged`
    /// already, or where it is to be read again (an offset that was set back by hand).
    pub(super) fn witness(&self, purged: &GtidSet) -> Option<&LastTransaction> {
        let last = self.last.as_ref();
        last.filter(|last| self.read.contains(&last.gtid) && !purged.contains(&last.gtid))
    }

    /// Of the transaction being read: whether it was read before and is only looked at again.
    pub(super) fn looks_again(&self) -> Option<bool> {
        self.group.as_ref().map(|group| group.known)
    }

    /// Whether a transaction has no place in what is read, being recorded already; the last one is looked at again.
    pub(super) fn passes_over(&self, gtid: &Gtid) -> bool {
        let is_last = self.last.as_ref().is_some_and(|last| last.gtid == *gtid);
        self.read.contains(gtid) && !is_last
    }

    /// How many transactions were read to their end in this run.
    pub(super) fn transactions(&self) -> u64 {
        self.transactions
    }

    /// How many text values were recorded as Binary, their bytes being no text.
    pub(super) fn undecodable_values(&self) -> u64 {
        self.documents.undecodable_values()
    }

    /// A new connection: whatever was open comes again from its beginning.
    pub(super) fn reconnected(&mut self, server_uuid: &str) {
        self.group = None;
        self.documents.reconnected();
        if *self.server_uuid != *server_uuid {
            self.server_uuid = server_uuid.into();
        }
    }

    /// Adds where the stream stood to an error of the stream itself: behind the last event that came out of it.
    pub(super) fn locate(&self, error: Error) -> Error {
        match error.kind() {
            Kind::SourceDamaged => self.damaged_at(self.end_position, error),
            _ => error,
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        self.damaged_at(self.position, what)
    }

    fn damaged_at(&self, position: u64, what: impl std::fmt::Display) -> Error {
        let gtid = match &self.group {
            Some(group) => format!("in transaction {}", group.gtid),
            None => format!("after transactions {}", self.read),
        };
        Error::new(
            Kind::SourceDamaged,
            format!(
                "binlog {} at position {position}, {gtid}: {what}",
                self.file
            ),
        )
    }

    /// What has to be asked of information_schema before this event.
    pub(super) fn wants(&mut self, event: &Event, now: Instant) -> Option<Wanted> {
        let is_new = self.group.as_ref().is_some_and(|group| !group.known);
        let is_table_map = event.header().event_type_raw() == event_type::TABLE_MAP;
        if !is_new || !is_table_map {
            return None;
        }
        self.documents.wants(event.data(), now)
    }

    /// Takes in the answer, or that there was none.
    pub(super) fn learn(&mut self, wanted: &Wanted, answer: Option<Answer>, now: Instant) {
        self.documents.learn(wanted, answer, &self.read, now);
    }

    /// What was read is damaged, or is whole and of a kind that is not read.
    fn undecodable(&self, error: DecodeError) -> Error {
        let is_refusal = error.is_refusal();
        let error = self.damaged(error);
        if is_refusal {
            Error::new(Kind::SourceSetting, error.to_string())
        } else {
            error
        }
    }

    /// Takes the next event; what it yields goes into `out`.
    ///
    /// # Errors
    /// [`Kind::SourceDamaged`] when it does not fit the grammar or cannot be decoded; [`Kind::SourceSetting`] when the server
    /// writes something that is no audit trail.
    pub(super) fn event(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        let known = self.group.as_ref().is_some_and(|group| group.known);
        let handled = guarded(|| match known {
            true => self.handle(event, &mut Chunk::default()),
            false => self.handle(event, out),
        });
        handled.unwrap_or_else(|panic| Err(self.damaged(panic)))
    }

    fn handle(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        let header = event.header();
        let kind = header.event_type_raw();
        let size = u64::from(header.event_size());
        if !is_unpacked(event) {
            let counts = !matches!(
                kind,
                event_type::HEARTBEAT
                    | event_type::HEARTBEAT_V2
                    | event_type::ROTATE
                    | event_type::FORMAT_DESCRIPTION
            );
            self.end_position = match u64::from(header.log_pos()) {
                // MariaDB since 11.4 writes no position into the events of a transaction.
                0 if counts => self.end_position + size,
                position => position,
            };
            self.position = self.end_position.saturating_sub(size);
            if let Some(group) = &mut self.group
                && counts
            {
                group.bytes += size;
            }
        }
        match kind {
            event_type::GTID | event_type::GTID_TAGGED => self.gtid(event, out),
            event_type::MARIADB_GTID => self.mariadb_gtid(event, out),
            event_type::QUERY => self.query(event, event.data(), out),
            event_type::QUERY_COMPRESSED => {
                let plain = mariadb::uncompressed_query(event.data()).map_err(|error| self.damaged(error))?;
                self.query(event, &plain, out)
            }
            event_type::TABLE_MAP => {
                let gtid = Arc::clone(&self.group_for("TABLE_MAP")?.gtid);
                let taken = self.documents.table_map(event.data(), &self.read, &gtid);
                taken.map_err(|error| self.undecodable(error))
            }
            event_type::WRITE_ROWS_V1..=event_type::DELETE_ROWS_V1
            | event_type::WRITE_ROWS..=event_type::DELETE_ROWS
            | event_type::PARTIAL_UPDATE_ROWS => self.rows(kind, event.data(), out),
            event_type::WRITE_ROWS_COMPRESSED_V1..=event_type::DELETE_ROWS_COMPRESSED => {
                let plain = mariadb::uncompressed_rows_type(kind);
                let body = mariadb::uncompressed_rows(plain, event.data()).map_err(|error| self.damaged(error))?;
                self.rows(plain, &body, out)
            }
            event_type::ROWS_QUERY => self.rows_query(event),
            event_type::ANNOTATE_ROWS => {
                self.group_for("a statement's text")?.text = Some(StatementText::of_rows(event.data()));
                Ok(())
            }
            event_type::XID => self.end(out),
            event_type::XA_PREPARE => self.xa_prepare(event, out),
            event_type::EXECUTE_LOAD_QUERY => self.load_query(event, out),
            event_type::ROTATE => self.rotate(event),
            event_type::HEARTBEAT | event_type::HEARTBEAT_V2 => {
                out.push(Item::Heartbeat);
                Ok(())
            }
            // Values that a statement's text refers to; the statement itself is recorded.
            event_type::INTVAR | event_type::RAND | event_type::USER_VAR | event_type::BEGIN_LOAD_QUERY => {
                self.group_for("a statement's variable").map(|_| ())
            }
            // No change in them: the frame around other events, or the group replication's own bookkeeping.
            event_type::FORMAT_DESCRIPTION
            | event_type::PREVIOUS_GTIDS
            | event_type::STOP
            | event_type::IGNORABLE
            | event_type::TRANSACTION_CONTEXT
            | event_type::VIEW_CHANGE
            | event_type::TRANSACTION_PAYLOAD
            | event_type::BINLOG_CHECKPOINT
            | event_type::GTID_LIST
            | event_type::START_ENCRYPTION => Ok(()),
            event_type::ANONYMOUS_GTID => Err(Error::new(
                Kind::SourceSetting,
                format!(
                    "binlog {} at position {}: a transaction without a GTID; it was written with gtid_mode off or \
                     permissive, and cannot be recorded exactly once: SET PERSIST gtid_mode=ON, and start behind it",
                    self.file, self.position
                ),
            )),
            event_type::INCIDENT => Err(self.damaged(
                "INCIDENT event: the server says that its binlog lacks changes here (LOST_EVENTS); compare the tables",
            )),
            _ if header.flags_raw() & event_type::IGNORABLE_FLAG != 0 => Ok(()),
            other => Err(self.damaged(format!("event of unknown type {other}"))),
        }
    }

    fn group_for(&mut self, what: &str) -> Result<&mut Group> {
        if self.group.is_none() {
            return Err(self.damaged(format!("{what} outside a transaction")));
        }
        self.group
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Internal, "no group"))
    }

    fn rows_query(&mut self, event: &Event) -> Result<()> {
        let query: RowsQueryEvent<'_> = event
            .read_event()
            .map_err(|error| self.damaged(format!("ROWS_QUERY event: {error}")))?;
        let text = StatementText::of_rows(query.query_raw());
        self.group_for("a statement's text")?.text = Some(text);
        Ok(())
    }

    fn rows(&mut self, kind: u8, data: &[u8], out: &mut Chunk) -> Result<()> {
        match &self.group {
            Some(group) if group.begun => {}
            _ => return Err(self.damaged("rows outside a transaction")),
        }
        let Some(group) = &mut self.group else {
            return Ok(());
        };
        let place = Place {
            file: &self.file,
            position: self.position,
        };
        let decoded = self
            .documents
            .rows(kind, data, group.row_context(place), |event| {
                out.push(Item::Change(event))
            });
        match decoded {
            Ok(statement_ended) => {
                if statement_ended {
                    group.statements += 1;
                    group.text = None;
                }
                Ok(())
            }
            Err(error) => Err(self.damaged(error)),
        }
    }

    /// The open group is whole.
    fn end(&mut self, out: &mut Chunk) -> Result<()> {
        self.group_for("the end of a transaction")?;
        let Some(group) = self.group.take() else {
            return Ok(());
        };
        if group.announced > 0 && group.bytes != group.announced {
            let what = format!(
                "its events have {} bytes, but its GTID event announced {}: a part of it is missing",
                group.bytes, group.announced
            );
            self.group = Some(group);
            return Err(self.damaged(what));
        }
        if group.known {
            return Ok(());
        }
        let predecessor = self.read.predecessor(&group.gtid);
        self.read.add(&group.gtid);
        self.last = Some(LastTransaction {
            gtid: Gtid::clone(&group.gtid),
            timestamp: group.context.timestamp,
            predecessor,
        });
        self.transactions += 1;
        out.push(Item::End(TransactionEnd {
            file: Arc::clone(&self.file),
            position: self.end_position,
            server_uuid: Arc::clone(&self.server_uuid),
            timestamp: group.context.timestamp,
        }));
        Ok(())
    }

    fn rotate(&mut self, event: &Event) -> Result<()> {
        let rotate: RotateEvent<'_> = event
            .read_event()
            .map_err(|error| self.damaged(format!("ROTATE event: {error}")))?;
        self.begin_file(&without_checksum(event, &rotate))
    }

    /// What comes next stands in this file.
    ///
    /// # Errors
    /// When a transaction is open.
    pub(super) fn begin_file(&mut self, name: &str) -> Result<()> {
        if self.group.is_some() {
            return Err(self.damaged("the binlog file ends before the transaction does"));
        }
        self.file = name.into();
        // Table ids are the server's own counter, and a restarted server counts afresh.
        self.documents.forget_table_ids();
        Ok(())
    }
}

/// The file's name. MariaDB sends the first ROTATE, which comes before the format description, with a checksum that the
/// driver cannot know of yet and leaves at the end of the name.
fn without_checksum(event: &Event, rotate: &RotateEvent<'_>) -> String {
    let name = rotate.name();
    let Some((head, tail)) = event.data().split_last_chunk::<4>() else {
        return name.into_owned();
    };
    let mut header = Vec::new();
    event.header().serialize(&mut header);
    let mut crc = flate2::Crc::new();
    crc.update(&header);
    crc.update(head);
    match head.get(ROTATE_POST_HEADER..) {
        Some(name) if crc.sum().to_le_bytes() == *tail => {
            String::from_utf8_lossy(name).into_owned()
        }
        _ => name.into_owned(),
    }
}

#[cfg(test)]
mod tests;
