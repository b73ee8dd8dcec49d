//! Where the reader stands in the source's history: pure values, no I/O.
//!
//! A position is the *set* of transactions already taken in, not a place in a file: servers purge, rename and renumber
//! their binlog files, and after a failover the same transaction lies elsewhere. [`GtidSet`] is that set, [`Gtid`] one
//! member of it, and [`BinlogPosition`] what is stored with every committed batch.
//!
//! The two flavors identify transactions by different rules, each in a room of its own: [`mysql`] (sets of intervals) and
//! [`mariadb`] (the newest of each domain). Only the source, which speaks with the servers, looks into them.

mod gtid;
pub mod mariadb;
pub mod mysql;
mod text;

pub use gtid::{Flavor, Gtid, GtidSet};
pub use mysql::{format_uuid, parse_uuid};
pub use text::GtidParseError;

/// Where the reader resumes after a reconnect or a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinlogPosition {
    /// Every source transaction that was read to its end. Needed for correctness: it is what the server is asked to
    /// leave out of the next dump. Filtered and empty transactions count too, or a purge would overtake the position.
    pub gtid: GtidSet,
    /// The binlog file of the last event read. For people and log lines only; nothing is decided by it.
    pub file: String,
    /// The byte position behind the last event read, in `file`. For people only; it is 0 where the server does not
    /// tell (inside compressed payloads).
    pub position: u64,
    /// A transaction of which some rows were taken in and some not. Needed for correctness: the server sends the
    /// whole transaction again, and this many of its rows are to be left out.
    pub partial: Option<PartialTransaction>,
}

/// A source transaction larger than a batch, of which the first rows are already taken in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PartialTransaction {
    /// The transaction; it is not yet a member of [`BinlogPosition::gtid`].
    pub gtid: Gtid,
    /// How many of its rows, counted from its first and before any filter, are already taken in.
    pub rows: u64,
}

impl BinlogPosition {
    /// The position of a reader that has taken in exactly `gtid`, in a file not yet known.
    #[must_use]
    pub fn at(gtid: GtidSet) -> Self {
        Self {
            gtid,
            ..Self::default()
        }
    }
}
