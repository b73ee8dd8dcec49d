//! The event types of a MySQL binlog, by number (`libs/mysql/binlog/event/binlog_event.h`, enum Log_event_type).
#![allow(missing_docs)]

pub(super) const QUERY: u8 = 2;
pub(super) const STOP: u8 = 3;
pub(super) const ROTATE: u8 = 4;
pub(super) const INTVAR: u8 = 5;
pub(super) const RAND: u8 = 13;
pub(super) const USER_VAR: u8 = 14;
pub(super) const FORMAT_DESCRIPTION: u8 = 15;
pub(super) const XID: u8 = 16;
pub(super) const BEGIN_LOAD_QUERY: u8 = 17;
pub(super) const EXECUTE_LOAD_QUERY: u8 = 18;
pub(super) const TABLE_MAP: u8 = 19;
pub(super) const WRITE_ROWS_V1: u8 = 23;
pub(super) const DELETE_ROWS_V1: u8 = 25;
pub(super) const INCIDENT: u8 = 26;
pub(super) const HEARTBEAT: u8 = 27;
pub(super) const IGNORABLE: u8 = 28;
pub(super) const ROWS_QUERY: u8 = 29;
pub(super) const WRITE_ROWS: u8 = 30;
pub(super) const DELETE_ROWS: u8 = 32;
pub(super) const GTID: u8 = 33;
pub(super) const ANONYMOUS_GTID: u8 = 34;
pub(super) const PREVIOUS_GTIDS: u8 = 35;
pub(super) const TRANSACTION_CONTEXT: u8 = 36;
pub(super) const VIEW_CHANGE: u8 = 37;
pub(super) const XA_PREPARE: u8 = 38;
pub(super) const PARTIAL_UPDATE_ROWS: u8 = 39;
pub(super) const TRANSACTION_PAYLOAD: u8 = 40;
pub(super) const HEARTBEAT_V2: u8 = 41;
pub(super) const GTID_TAGGED: u8 = 42;

/// LOG_EVENT_IGNORABLE_F: the server says that a reader which does not know the type may pass it over.
pub(super) const IGNORABLE_FLAG: u16 = 0x80;
