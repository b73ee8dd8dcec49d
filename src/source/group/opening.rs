//! How a transaction begins: MySQL's GTID event, or MariaDB's.

use std::fmt::Display;
use std::sync::Arc;

use bson::DateTime;
use mysql_common::binlog::events::{Event, GtidEvent};

use super::{Assembler, Group};
use crate::batch::Item;
use crate::error::{Error, Kind, Result};
use crate::event::TransactionContext;
use crate::position::mysql::{Gtid as MysqlGtid, Tag};
use crate::position::{Gtid, mariadb as mariadb_position};
use crate::source::{Chunk, event_type, mariadb};

/// What a GTID event says about the transaction it opens.
#[derive(Default)]
struct Opening {
    /// The length of all of its events; 0: not said.
    announced: u64,
    /// Whether rows may follow at once.
    begun: bool,
    schema_change: bool,
    no_effect: bool,
    xid: Option<Arc<str>>,
    /// The connection that ran it, where it is told here.
    thread_id: u32,
}

impl Assembler {
    pub(super) fn gtid(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        let gtid: GtidEvent = event
            .read_event()
            .map_err(|error| self.damaged(format!("GTID event: {error}")))?;
        let name = mysql_name(&gtid).map_err(|error| self.damaged(error))?;
        let microseconds = gtid.original_commit_timestamp();
        let timestamp = if microseconds > 0 {
            DateTime::from_millis(i64::try_from(microseconds / 1000).unwrap_or(i64::MAX))
        } else {
            header_time(event)
        };
        let opening = Opening {
            announced: gtid.tx_length(),
            ..Opening::default()
        };
        self.begin(name, timestamp, event, opening, out)
    }

    pub(super) fn mariadb_gtid(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        let gtid = mariadb::GtidEvent::parse(event.data()).map_err(|error| self.damaged(error))?;
        let name = mariadb_name(&gtid, event);
        let opening = Opening {
            announced: 0,
            begun: gtid.opens_transaction(),
            schema_change: gtid.is_schema_change(),
            no_effect: gtid.has_no_effect(),
            xid: gtid.xid.map(Into::into),
            thread_id: gtid.thread_id,
        };
        self.begin(name, header_time(event), event, opening, out)
    }

    fn begin(
        &mut self,
        gtid: Gtid,
        timestamp: DateTime,
        event: &Event,
        opening: Opening,
        out: &mut Chunk,
    ) -> Result<()> {
        if self.group.is_some() {
            return Err(self.damaged(
                "a new transaction begins before this one ended; a part of it is missing",
            ));
        }
        let known = self.read.contains(&gtid);
        if known {
            self.compare_with_last(&gtid, timestamp)?;
        }
        let mut context = TransactionContext::new(
            Arc::clone(&self.source_id),
            gtid.to_string().into(),
            timestamp,
            event.header().server_id(),
        );
        context.xid = opening.xid;
        context.thread_id = opening.thread_id;
        let gtid = Arc::new(gtid);
        if !known {
            out.push(Item::Begin(Arc::clone(&gtid)));
        }
        self.group = Some(Group {
            gtid,
            context,
            bytes: u64::from(event.header().event_size()),
            announced: opening.announced,
            begun: opening.begun,
            schema_change: opening.schema_change,
            no_effect: opening.no_effect,
            xa_database: Vec::new(),
            savepoints: Vec::new(),
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
                     recorded, and at {timestamp} here; its binlogs were reset ({}) or it was \
                     restored, and GTIDs were used again; what they stand for now is not recorded; give the server a new \
                     SOURCE_ID",
                    last.timestamp,
                    match gtid {
                        Gtid::Mysql(_) => "RESET BINARY LOGS AND GTIDS",
                        Gtid::Mariadb(_) => "RESET MASTER",
                    }
                ),
            )),
            // Read again, it would be the same; and the server, whose newest is no longer the recorded one, would be taken
            // for a wrong one.
            _ if matches!(gtid, Gtid::Mariadb(_)) => Err(Error::new(
                Kind::WrongServer,
                format!(
                    "transaction {gtid} comes after a later one of its domain; with numbers that do not grow nothing can be \
                     recorded exactly once: SET GLOBAL gtid_strict_mode=ON, let one server at a time write into a domain, \
                     and give the source a new SOURCE_ID"
                ),
            )),
            _ => Err(self.damaged(format!("transaction {gtid} comes a second time"))),
        }
    }
}

/// What a GTID event says of its transaction, as far as it takes to tell one from the next.
pub(in crate::source) struct Opened {
    pub(in crate::source) gtid: Gtid,
    /// The length of all of its events; 0: not said.
    pub(in crate::source) announced: u64,
    /// Whether it is one statement by itself (MariaDB).
    pub(in crate::source) is_standalone: bool,
}

/// The transaction that an event opens; `None` for an event of another type.
///
/// # Errors
/// What cannot be read in it.
pub(in crate::source) fn opened(event: &Event) -> std::result::Result<Option<Opened>, String> {
    match event.header().event_type_raw() {
        event_type::GTID | event_type::GTID_TAGGED => {
            let gtid: GtidEvent = event.read_event().map_err(unreadable)?;
            Ok(Some(Opened {
                gtid: mysql_name(&gtid)?,
                announced: gtid.tx_length(),
                is_standalone: false,
            }))
        }
        event_type::MARIADB_GTID => {
            let gtid = mariadb::GtidEvent::parse(event.data()).map_err(unreadable)?;
            Ok(Some(Opened {
                gtid: mariadb_name(&gtid, event),
                announced: 0,
                is_standalone: !gtid.opens_transaction(),
            }))
        }
        _ => Ok(None),
    }
}

fn mysql_name(gtid: &GtidEvent) -> std::result::Result<Gtid, String> {
    let tag = gtid.tag().map(|tag| Tag::new(tag.as_str()));
    let tag = tag.transpose().map_err(unreadable)?;
    MysqlGtid::new(gtid.sid(), tag, gtid.gno())
        .map(Gtid::Mysql)
        .map_err(unreadable)
}

fn mariadb_name(gtid: &mariadb::GtidEvent, event: &Event) -> Gtid {
    Gtid::Mariadb(mariadb_position::Gtid {
        domain: gtid.domain,
        server: event.header().server_id(),
        sequence: gtid.sequence,
    })
}

fn unreadable(error: impl Display) -> String {
    format!("GTID event: {error}")
}

/// The second that stands in every event's header.
fn header_time(event: &Event) -> DateTime {
    DateTime::from_millis(i64::from(event.header().timestamp()) * 1000)
}
