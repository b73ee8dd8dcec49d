//! The grammar of a binlog: GTID, then a schema change, or BEGIN, rows, and a terminator.
//!
//! It guarantees that nothing in the stream is passed over unseen. An event type is either handled here, known to hold no
//! change, or an error; a group that ends without its terminator, or whose events do not add up to the length that its GTID
//! event announced (`transaction_length`, which also catches a compressed payload that was dropped on the way), is an error
//! too. Errors name file, position and GTID.
//!
//! It resumes by the set of complete transactions ([`Assembler::read`]); an open group is forgotten at a reconnect.
//!
//! Formats: `libs/mysql/binlog/event/` in the server's source; the manual's "MySQL Internals: Replication Protocol".

use std::sync::Arc;

use bson::DateTime;
use mysql_common::binlog::events::{Event, GtidEvent, QueryEvent, RotateEvent, RowsQueryEvent};

use super::Chunk;
use super::document::{Documents, Place, RowContext, StatementText};
use super::event_type;
use super::statement::{self, Statement};
use super::stream::is_unpacked;
use crate::batch::{Item, TransactionEnd};
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::event::{Operation, TransactionContext};
use crate::offset::LastTransaction;
use crate::position::{Gtid, GtidSet, Tag};

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
}

/// A transaction of which the end has not been read.
struct Group {
    gtid: Arc<Gtid>,
    context: TransactionContext,
    /// Sum of its events' sizes so far, and what the GTID event announced (0: nothing announced).
    bytes: u64,
    announced: u64,
    /// Whether BEGIN, XA START or CREATE … START TRANSACTION was read.
    begun: bool,
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
    pub(super) fn new(config: &Config, read: GtidSet, last: Option<LastTransaction>) -> Self {
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
            documents: Documents::new(config),
        }
    }

    /// The transactions read to their end.
    pub(super) fn read(&self) -> &GtidSet {
        &self.read
    }

    /// What to leave out of a dump: all that was read but the last transaction, which is to come again and be compared.
    /// Where its binlog is `purged` already, it cannot be compared, and is left out as well.
    pub(super) fn leave_out(&self, purged: &GtidSet) -> GtidSet {
        match &self.last {
            Some(last) if !purged.contains(&last.gtid) => {
                let mut witness = GtidSet::new();
                witness.add(&last.gtid);
                self.read.subtract(&witness)
            }
            _ => self.read.clone(),
        }
    }

    /// How many transactions were read to their end in this run.
    pub(super) fn transactions(&self) -> u64 {
        self.transactions
    }

    /// A new connection: whatever was open comes again from its beginning.
    pub(super) fn reconnected(&mut self, server_uuid: &str) {
        self.group = None;
        self.documents.forget_table_ids();
        if *self.server_uuid != *server_uuid {
            self.server_uuid = server_uuid.into();
        }
    }

    /// Adds where the stream stood to an error of the stream itself.
    pub(super) fn locate(&self, error: Error) -> Error {
        match error.kind() {
            Kind::SourceDamaged => self.damaged(error.to_string()),
            _ => error,
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        let gtid = match &self.group {
            Some(group) => format!("in transaction {}", group.gtid),
            None => format!("after transactions {}", self.read),
        };
        Error::new(
            Kind::SourceDamaged,
            format!(
                "binlog {} at position {}, {gtid}: {what}",
                self.file, self.position
            ),
        )
    }

    /// Takes the next event; what it yields goes into `out`.
    ///
    /// # Errors
    /// [`Kind::SourceDamaged`] when it does not fit the grammar or cannot be decoded; [`Kind::SourceSetting`] when the server
    /// writes something that is no audit trail.
    pub(super) fn event(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        if self.group.as_ref().is_some_and(|group| group.known) {
            return self.handle(event, &mut Chunk::default());
        }
        self.handle(event, out)
    }

    fn handle(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        let header = event.header();
        let kind = header.event_type_raw();
        let size = u64::from(header.event_size());
        if !is_unpacked(event) {
            self.end_position = u64::from(header.log_pos());
            self.position = self.end_position.saturating_sub(size);
            let counts = !matches!(
                kind,
                event_type::HEARTBEAT
                    | event_type::HEARTBEAT_V2
                    | event_type::ROTATE
                    | event_type::FORMAT_DESCRIPTION
            );
            if let Some(group) = &mut self.group
                && counts
            {
                group.bytes += size;
            }
        }
        match kind {
            event_type::GTID | event_type::GTID_TAGGED => self.gtid(event, size, out),
            event_type::QUERY => self.query(event, out),
            event_type::TABLE_MAP => {
                self.group_for("TABLE_MAP")?;
                self.documents.table_map(event.data()).map_err(|error| self.damaged(error))
            }
            event_type::WRITE_ROWS_V1..=event_type::DELETE_ROWS_V1
            | event_type::WRITE_ROWS..=event_type::DELETE_ROWS
            | event_type::PARTIAL_UPDATE_ROWS => self.rows(kind, event.data(), out),
            event_type::ROWS_QUERY => self.rows_query(event),
            event_type::XID => self.end(out),
            event_type::XA_PREPARE => self.end(out),
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
            | event_type::TRANSACTION_PAYLOAD => Ok(()),
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

    fn gtid(&mut self, event: &Event, size: u64, out: &mut Chunk) -> Result<()> {
        if self.group.is_some() {
            return Err(self.damaged(
                "a new transaction begins before this one ended; a part of it is missing",
            ));
        }
        let gtid: GtidEvent = event
            .read_event()
            .map_err(|error| self.damaged(format!("GTID event: {error}")))?;
        let tag = gtid
            .tag()
            .map(|tag| Tag::new(tag.as_str()))
            .transpose()
            .map_err(|error| self.damaged(format!("GTID event: {error}")))?;
        let name = Gtid::new(gtid.sid(), tag, gtid.gno())
            .map_err(|error| self.damaged(format!("GTID event: {error}")))?;
        let microseconds = gtid.original_commit_timestamp();
        let timestamp = if microseconds > 0 {
            DateTime::from_millis(i64::try_from(microseconds / 1000).unwrap_or(i64::MAX))
        } else {
            DateTime::from_millis(i64::from(event.header().timestamp()) * 1000)
        };
        let known = self.read.contains(&name);
        if known {
            self.compare_with_last(&name, timestamp)?;
        }
        let text: Arc<str> = name.to_string().into();
        let gtid_name = Arc::new(name);
        if !known {
            out.push(Item::Begin(Arc::clone(&gtid_name)));
        }
        self.group = Some(Group {
            gtid: gtid_name,
            context: TransactionContext::new(
                Arc::clone(&self.source_id),
                text,
                timestamp,
                event.header().server_id(),
            ),
            bytes: size,
            announced: gtid.tx_length(),
            begun: false,
            rows: 0,
            statements: 0,
            text: None,
            known,
        });
        Ok(())
    }

    /// A transaction comes a second time: right for the last one, if it is still the same.
    fn compare_with_last(&self, gtid: &Gtid, timestamp: DateTime) -> Result<()> {
        match &self.last {
            Some(last) if last.gtid == *gtid && last.timestamp == timestamp => Ok(()),
            Some(last) if last.gtid == *gtid => Err(Error::new(
                Kind::WrongServer,
                format!(
                    "the server has another history than the recorded one: transaction {gtid} was committed at {} when it was \
                     recorded, and at {timestamp} here; its binlogs were reset (RESET BINARY LOGS AND GTIDS) or it was \
                     restored, and GTIDs were used again; what they stand for now is not recorded; give the server a new \
                     SOURCE_ID",
                    last.timestamp
                ),
            )),
            _ => Err(self.damaged(format!("transaction {gtid} comes a second time"))),
        }
    }

    fn query(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        let query: QueryEvent<'_> = event
            .read_event()
            .map_err(|error| self.damaged(format!("QUERY event: {error}")))?;
        let text = StatementText::of_query(&query);
        let thread_id = query.thread_id();
        let group = self.group_for("a statement")?;
        group.context.thread_id = thread_id;
        let meaning = text.as_str().map_or(Statement::Other, statement::classify);
        match meaning {
            Statement::Begin if !group.begun => {
                group.begun = true;
                Ok(())
            }
            Statement::XaStart(id) if !group.begun => {
                group.begun = true;
                group.context.xid = Some(id.into());
                Ok(())
            }
            Statement::XaEnd | Statement::Savepoint if group.begun => Ok(()),
            Statement::Commit if group.begun => self.end(out),
            Statement::Rollback | Statement::RollbackToSavepoint if group.rows > 0 => Err(self.damaged(
                "a rollback after rows; they were logged and undone, which row-based logging of transactional tables never does: \
                 look for tables of a non-transactional engine in this transaction",
            )),
            Statement::RollbackToSavepoint if group.begun => Ok(()),
            Statement::Rollback if group.begun => self.end(out),
            Statement::XaCommit(id) if !group.begun => {
                group.context.xid = Some(id.into());
                self.lone(Operation::XaCommit, text, &query, out)
            }
            Statement::XaRollback(id) if !group.begun => {
                group.context.xid = Some(id.into());
                self.lone(Operation::XaRollback, text, &query, out)
            }
            Statement::Other if !group.begun && text.as_str().is_some_and(statement::opens_transaction) => {
                group.begun = true;
                self.statement(Operation::Ddl, text, &query, out)
            }
            Statement::Other if !group.begun => self.lone(Operation::Ddl, text, &query, out),
            Statement::Other if text.as_str().is_some_and(statement::opens_transaction) => {
                self.statement(Operation::Ddl, text, &query, out)
            }
            Statement::Other => {
                tracing::warn!(
                    gtid = %group.gtid,
                    "a data change was logged as its statement, not as rows (a session set binlog_format); recorded as its text"
                );
                self.statement(Operation::Statement, text, &query, out)
            }
            other => {
                let name = format!("{other:?}");
                let word = name.split('(').next().unwrap_or_default();
                Err(self.damaged(format!("{word} at a place where the grammar of a transaction has none")))
            }
        }
    }

    /// A statement that is a transaction by itself.
    fn lone(
        &mut self,
        operation: Operation,
        text: StatementText,
        query: &QueryEvent<'_>,
        out: &mut Chunk,
    ) -> Result<()> {
        self.statement(operation, text, query, out)?;
        self.end(out)
    }

    /// Records a statement's text as a document.
    fn statement(
        &mut self,
        operation: Operation,
        text: StatementText,
        query: &QueryEvent<'_>,
        out: &mut Chunk,
    ) -> Result<()> {
        let Some(group) = &mut self.group else {
            return Ok(());
        };
        let place = Place {
            file: &self.file,
            position: self.position,
        };
        let document = self
            .documents
            .statement(operation, text, query, &group.row_context(place));
        group.rows += 1;
        group.statements += 1;
        match document {
            Ok(event) => {
                if let Some(event) = event {
                    out.push(Item::Change(event));
                }
                Ok(())
            }
            Err(error) => Err(self.damaged(error)),
        }
    }

    fn load_query(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        use mysql_common::binlog::events::ExecuteLoadQueryEvent;
        let load: ExecuteLoadQueryEvent<'_> = event
            .read_event()
            .map_err(|error| self.damaged(format!("EXECUTE_LOAD_QUERY event: {error}")))?;
        let query = QueryEvent::new(load.status_vars_raw().to_vec(), load.schema_raw().to_vec())
            .with_query(load.query_raw().to_vec())
            .with_thread_id(load.thread_id());
        let text = StatementText::of_query(&query);
        self.group_for("LOAD DATA")?;
        self.statement(Operation::Statement, text, &query, out)
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
        self.read.add(&group.gtid);
        self.last = Some(LastTransaction {
            gtid: Gtid::clone(&group.gtid),
            timestamp: group.context.timestamp,
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
        if self.group.is_some() {
            return Err(self.damaged("the binlog file ends before the transaction does"));
        }
        self.file = rotate.name().as_ref().into();
        // Table ids are the server's own counter, and a restarted server counts afresh.
        self.documents.forget_table_ids();
        Ok(())
    }
}

#[cfg(test)]
mod tests;
