//! Binlogs of real servers, the root of most inputs.
//!
//! Each `corpus/NAME.binlog` was written by that server while it ran `corpus/*.sql` after RESET BINARY LOGS AND GTIDS, with
//! `gtid_mode=ON` (MySQL), `binlog_row_metadata=FULL`, `binlog_rows_query_log_events=ON` and checksums. The file is what
//! lies in the server's data directory, byte for byte.

/// MySQL 9.7.4: every column type, row images of all kinds, PARTIAL_JSON, compression, XA, tags, statements.
pub(crate) const MYSQL: &[u8] = include_bytes!("corpus/mysql-9.7.4.binlog");

/// MariaDB 10.11.18: its own types, domains, XA, compressed events.
pub(crate) const MARIADB: &[u8] = include_bytes!("corpus/mariadb-10.11.binlog");

/// The magic number in front of the events (`BINLOG_MAGIC`).
const MAGIC: usize = 4;
const HEADER: usize = 19;
const CHECKSUM: usize = 4;

/// An event as it stands in the file.
#[derive(Clone, Copy)]
pub(crate) struct Captured {
    pub(crate) kind: u8,
    /// With header and checksum.
    pub(crate) bytes: &'static [u8],
    /// Without them.
    pub(crate) body: &'static [u8],
}

impl Captured {
    /// The events of a file.
    pub(crate) fn all(file: &'static [u8]) -> Vec<Self> {
        let mut rest = &file[MAGIC..];
        let mut events = Vec::new();
        while !rest.is_empty() {
            let length = u32::from_le_bytes(rest[9..13].try_into().expect("four bytes"));
            let (bytes, behind) = rest.split_at(length as usize);
            events.push(Self {
                kind: bytes[4],
                bytes,
                body: &bytes[HEADER..bytes.len() - CHECKSUM],
            });
            rest = behind;
        }
        events
    }
}
