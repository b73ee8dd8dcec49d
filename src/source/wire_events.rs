//! Binlog events made by hand, for the tests of the grammar and of the checks: bytes as a server writes them, read by the
//! same crate that reads a server's.

#![allow(clippy::unwrap_used)]

use mysql_common::binlog::EventStreamReader;
use mysql_common::binlog::consts::{BinlogChecksumAlg, BinlogVersion};
use mysql_common::binlog::events::{Event, GtidEvent};
use mysql_common::proto::MySerialize;

use super::event_type;

/// The server's UUID in every GTID here.
pub(super) const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

const HEADER: usize = 19;
const CHECKSUM: usize = 4;
const ALGORITHM_CRC32: u8 = 1;

/// A server that writes events one after the other.
pub(super) struct Server {
    reader: EventStreamReader,
    position: u32,
}

impl Server {
    /// A server that begins a binlog file with its format description.
    pub(super) fn new() -> Self {
        let mut server = Self {
            reader: EventStreamReader::new(BinlogVersion::Version4),
            position: 4,
        };
        let mut body = vec![4, 0];
        let mut version = [0; 50];
        version[..5].copy_from_slice(b"9.7.4");
        body.extend_from_slice(&version);
        body.extend_from_slice(&[0; 4]);
        body.push(19);
        body.extend_from_slice(&[
            0, 13, 0, 8, 0, 0, 0, 0, 4, 0, 4, 0, 0, 0, 98, 0, 4, 26, 8, 0, 0, 0, 8, 8, 8, 2, 0, 0,
            0, 10, 10, 10, 42, 42, 0, 18, 52, 0, 10, 40, 0,
        ]);
        body.push(ALGORITHM_CRC32);
        server.event(event_type::FORMAT_DESCRIPTION, &body);
        server
    }

    fn bytes(
        &self,
        kind: u8,
        flags: u16,
        body: &[u8],
        checksum: Option<[u8; CHECKSUM]>,
    ) -> Vec<u8> {
        let size = HEADER + body.len() + checksum.map_or(0, |_| CHECKSUM);
        let mut bytes = Vec::new();
        bytes.extend_from_slice(&1_700_000_000_u32.to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&1_u32.to_le_bytes());
        bytes.extend_from_slice(&u32::try_from(size).unwrap().to_le_bytes());
        bytes.extend_from_slice(&(self.position + u32::try_from(size).unwrap()).to_le_bytes());
        bytes.extend_from_slice(&flags.to_le_bytes());
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(&checksum.unwrap_or_default()[..checksum.map_or(0, |_| CHECKSUM)]);
        bytes
    }

    /// An event with a right checksum.
    pub(super) fn event(&mut self, kind: u8, body: &[u8]) -> Event {
        self.flagged(kind, 0, body)
    }

    /// An event with flags in its header.
    pub(super) fn flagged(&mut self, kind: u8, flags: u16, body: &[u8]) -> Event {
        let draft = self.bytes(kind, flags, body, Some([0; CHECKSUM]));
        let draft = self.reader.read(&draft[..]).unwrap().unwrap();
        let checksum = draft.calc_checksum(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32);
        self.with_checksum(kind, flags, body, checksum.to_le_bytes())
    }

    /// An event with this checksum, right or wrong.
    pub(super) fn with_checksum(
        &mut self,
        kind: u8,
        flags: u16,
        body: &[u8],
        checksum: [u8; CHECKSUM],
    ) -> Event {
        let bytes = self.bytes(kind, flags, body, Some(checksum));
        self.position += u32::try_from(bytes.len()).unwrap();
        self.reader.read(&bytes[..]).unwrap().unwrap()
    }

    /// An event as it comes out of a compressed payload: without a checksum.
    pub(super) fn unpacked(&mut self, kind: u8, body: &[u8]) -> Event {
        let bytes = self.bytes(kind, 0, body, None);
        self.reader.read_decompressed(&bytes[..]).unwrap().unwrap()
    }

    /// A GTID event that announces a transaction of `length` bytes, itself included; 0 announces nothing.
    pub(super) fn gtid(&mut self, number: u64, length: u64) -> Event {
        let event = GtidEvent::new(crate::position::parse_uuid(UUID).unwrap(), number)
            .with_lc_typecode()
            .with_immediate_commit_timestamp(1_700_000_000_123_456)
            .with_original_commit_timestamp(1_700_000_000_123_456)
            .with_tx_length(length)
            .with_original_server_version(90_704)
            .with_immediate_server_version(90_704);
        let mut body = Vec::new();
        event.serialize(&mut body);
        self.event(event_type::GTID, &body)
    }

    /// A MariaDB GTID event of server 1 with these flags.
    pub(super) fn mariadb_gtid(&mut self, domain: u32, sequence: u64, flags: u8) -> Event {
        let body = Self::mariadb_gtid_body(domain, sequence, flags);
        self.event(event_type::MARIADB_GTID, &body)
    }

    /// The body of a MariaDB GTID event.
    pub(super) fn mariadb_gtid_body(domain: u32, sequence: u64, flags: u8) -> Vec<u8> {
        let mut body = sequence.to_le_bytes().to_vec();
        body.extend_from_slice(&domain.to_le_bytes());
        body.push(flags);
        body.extend_from_slice(&[0; 6]);
        body
    }

    /// A QUERY event of a session whose default database is `shop`.
    pub(super) fn query(&mut self, text: &str) -> Event {
        let body = query_body(text);
        self.event(event_type::QUERY, &body)
    }

    /// The end of an InnoDB transaction.
    pub(super) fn xid(&mut self) -> Event {
        self.event(event_type::XID, &7_u64.to_le_bytes())
    }
}

/// The body of a QUERY event.
pub(super) fn query_body(text: &str) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&77_u32.to_le_bytes()); // thread id
    body.extend_from_slice(&[0; 4]); // execution time
    body.push(4); // length of the database's name
    body.extend_from_slice(&[0; 2]); // error code
    body.extend_from_slice(&[0; 2]); // length of the status variables
    body.extend_from_slice(b"shop\0");
    body.extend_from_slice(text.as_bytes());
    body
}
