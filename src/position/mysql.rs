//! MySQL's identifiers: `source-uuid:number` or `source-uuid:tag:number`, and sets of intervals of them.
//!
//! The text forms are the server's own: the manual's "GTID Sets" (Replication, "GTID Format and Storage") and
//! `sql/rpl_gtid_set.cc`; tags came with MySQL 8.3 (`libs/mysql/gtid/tag.h`).

mod gtid;
mod gtid_set;

pub use gtid::{Gtid, MAX_TAG_LENGTH, MAX_TRANSACTION_NUMBER, Tag, format_uuid, parse_uuid};
pub use gtid_set::{GtidSet, Interval, SourceIntervals};
