//! What only a MariaDB binlog holds: its GTID event, and events whose contents are compressed one by one.
//!
//! It guarantees what [`super::decode`] does: no bytes make this panic, and a length that an event announces is believed only
//! as far as the event's own bytes can carry it.
//!
//! Formats: `Gtid_log_event` and `query_event_uncompress`, `row_log_event_uncompress` in MariaDB's `sql/log_event.cc`; the
//! MariaDB manual's "Replication Protocol" pages ("GTID_EVENT", "QUERY_COMPRESSED_EVENT", "Rows Event").

use std::io::Read;

use flate2::read::ZlibDecoder;

use super::decode::DecodeError;
use super::decode::wire::Reader;
use super::event_type;
use crate::hex::hex;

/// The group is one statement by itself, and nothing ends it.
const FLAG_STANDALONE: u8 = 0x01;
/// A commit id follows.
const FLAG_GROUP_COMMIT_ID: u8 = 0x02;
/// The group's statement is a schema change.
const FLAG_DDL: u8 = 0x20;
/// The group prepares an XA transaction; its id follows.
const FLAG_PREPARED_XA: u8 = 0x40;
/// The group commits or rolls back a prepared XA transaction; its id follows.
const FLAG_COMPLETED_XA: u8 = 0x80;

/// `flags_extra`: the number of engines follows.
const EXTRA_MULTI_ENGINE: u8 = 0x01;
/// `flags_extra`: an ALTER TABLE begins that is decided by a later group (binlog_alter_two_phase).
const EXTRA_START_ALTER: u8 = 0x02;
/// `flags_extra`: such an ALTER TABLE took effect.
const EXTRA_COMMIT_ALTER: u8 = 0x04;
/// `flags_extra`: such an ALTER TABLE came to nothing.
const EXTRA_ROLLBACK_ALTER: u8 = 0x08;

/// `flags_extra`: the id of the connection that ran it follows (MariaDB 11.5 and later).
const EXTRA_THREAD_ID: u8 = 0x10;

/// The event that opens every MariaDB transaction.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct GtidEvent {
    pub(super) domain: u32,
    pub(super) sequence: u64,
    flags: u8,
    extra: u8,
    /// The connection that ran it; 0 where the server does not tell.
    pub(super) thread_id: u32,
    /// The XA transaction that is prepared or decided, as the server prints it.
    pub(super) xid: Option<String>,
}

impl GtidEvent {
    /// Parses the body of an event of type 162.
    pub(super) fn parse(body: &[u8]) -> Result<Self, DecodeError> {
        const WHAT: &str = "GTID event";
        let mut reader = Reader::new(body);
        let sequence = reader.u64(WHAT)?;
        let domain = reader.u32(WHAT)?;
        let flags = reader.u8(WHAT)?;
        if flags & FLAG_GROUP_COMMIT_ID != 0 {
            reader.u64(WHAT)?;
        }
        let mut xid = None;
        if flags & (FLAG_PREPARED_XA | FLAG_COMPLETED_XA) != 0 {
            let format = reader.u32("XA format id")?;
            let global = usize::from(reader.u8("XA id length")?);
            let branch = usize::from(reader.u8("XA id length")?);
            let global = hex(reader.bytes(global, "XA id")?);
            let branch = hex(reader.bytes(branch, "XA id")?);
            xid = Some(format!("X'{global}',X'{branch}',{format}"));
        }
        // What is left without extra flags is padding of zeros.
        let extra = if reader.is_empty() {
            0
        } else {
            reader.u8(WHAT)?
        };
        if extra & EXTRA_MULTI_ENGINE != 0 {
            reader.u8("number of engines")?;
        }
        if extra & (EXTRA_COMMIT_ALTER | EXTRA_ROLLBACK_ALTER) != 0 {
            reader.u64("number of the ALTER TABLE that is decided")?;
        }
        let thread_id = if extra & EXTRA_THREAD_ID != 0 {
            reader.u32("thread id")?
        } else {
            0
        };
        Ok(Self {
            domain,
            sequence,
            flags,
            extra,
            thread_id,
            xid,
        })
    }

    /// Whether rows and statements may follow up to a terminator; else the group is one statement.
    pub(super) fn opens_transaction(&self) -> bool {
        self.flags & (FLAG_STANDALONE | FLAG_COMPLETED_XA) == 0
    }

    /// Whether its statement is a schema change even where rows follow it (CREATE TABLE … SELECT).
    pub(super) fn is_schema_change(&self) -> bool {
        self.flags & FLAG_DDL != 0
    }

    /// Whether its statement changes nothing: the beginning of an ALTER TABLE that a later group decides, or its end without
    /// effect.
    pub(super) fn has_no_effect(&self) -> bool {
        self.extra & (EXTRA_START_ALTER | EXTRA_ROLLBACK_ALTER) != 0
            && self.extra & EXTRA_COMMIT_ALTER == 0
    }
}

/// Unpacks the body of a compressed QUERY event (165) into that of a plain one.
pub(super) fn uncompressed_query(body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    const WHAT: &str = "compressed QUERY event";
    let mut reader = Reader::new(body);
    reader.bytes(8, WHAT)?; // thread id, execution time
    let schema = usize::from(reader.u8(WHAT)?);
    reader.u16(WHAT)?; // error code
    let variables = usize::from(reader.u16(WHAT)?);
    reader.bytes(variables, WHAT)?;
    reader.bytes(schema + 1, WHAT)?;
    uncompressed_after(body, reader)
}

/// The type of the plain rows event that a compressed one (166 to 171) unpacks to.
pub(super) fn uncompressed_rows_type(kind: u8) -> u8 {
    if kind >= event_type::WRITE_ROWS_COMPRESSED {
        kind - event_type::WRITE_ROWS_COMPRESSED + event_type::WRITE_ROWS
    } else {
        kind - event_type::WRITE_ROWS_COMPRESSED_V1 + event_type::WRITE_ROWS_V1
    }
}

/// Unpacks the body of a compressed rows event into that of the plain event of type `plain`.
pub(super) fn uncompressed_rows(plain: u8, body: &[u8]) -> Result<Vec<u8>, DecodeError> {
    const WHAT: &str = "compressed rows event";
    let mut reader = Reader::new(body);
    reader.bytes(8, WHAT)?; // table id, flags
    if plain >= event_type::WRITE_ROWS {
        // The length of the extra data counts itself.
        let extra = usize::from(reader.u16(WHAT)?);
        reader.bytes(extra.saturating_sub(2), WHAT)?;
    }
    let columns = reader.length(WHAT)?;
    let bitmap = columns.div_ceil(8);
    reader.bytes(bitmap, WHAT)?;
    if matches!(plain, event_type::UPDATE_ROWS | event_type::UPDATE_ROWS_V1) {
        reader.bytes(bitmap, WHAT)?;
    }
    uncompressed_after(body, reader)
}

/// What was read of `body` as it is, then the rest of it unpacked: a byte of flags, the length in 1 to 4 bytes (big-endian),
/// and a zlib stream.
fn uncompressed_after(body: &[u8], mut reader: Reader<'_>) -> Result<Vec<u8>, DecodeError> {
    /// zlib cannot pack better than this (zlib's technical details: "Maximum Compression Factor").
    const BEST_RATIO: usize = 1032;
    const WHAT: &str = "compressed event";
    let plain = body.len() - reader.rest().len();
    let header = reader.u8(WHAT)?;
    let unexpected = |what: &'static str, found: u64, expected| DecodeError::Unexpected {
        what,
        found,
        expected,
    };
    if header & 0x80 == 0 || header >> 4 & 0x07 != 0 {
        return Err(unexpected(
            "flags of a compressed event",
            u64::from(header),
            "0x81 to 0x84: zlib, with a length of 1 to 4 bytes",
        ));
    }
    let mut length: usize = 0;
    for byte in reader.bytes(usize::from(header & 0x07).min(5), WHAT)? {
        length = length << 8 | usize::from(*byte);
    }
    let packed = reader.rest();
    if length > packed.len().saturating_mul(BEST_RATIO) {
        return Err(unexpected(
            "length that a compressed event announces",
            length as u64,
            "no more than its bytes can hold",
        ));
    }
    let mut unpacked = Vec::with_capacity(plain + length);
    unpacked.extend_from_slice(body.get(..plain).unwrap_or_default());
    // One byte more than announced is enough to see that there are more.
    let limit = length as u64 + 1;
    ZlibDecoder::new(packed)
        .take(limit)
        .read_to_end(&mut unpacked)
        .map_err(|_| unexpected("compressed event", packed.len() as u64, "a zlib stream"))?;
    let found = unpacked.len() - plain;
    if found != length {
        return Err(unexpected(
            "bytes in a compressed event",
            found as u64,
            "as many as it announces",
        ));
    }
    Ok(unpacked)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::ZlibEncoder;

    use super::*;

    fn gtid_body(flags: u8, rest: &[u8]) -> Vec<u8> {
        let mut body = 77_u64.to_le_bytes().to_vec();
        body.extend_from_slice(&3_u32.to_le_bytes());
        body.push(flags);
        body.extend_from_slice(rest);
        body
    }

    #[test]
    fn gtid_events_of_every_kind_are_read() {
        let transaction = GtidEvent::parse(&gtid_body(0x0c, &[0; 6])).unwrap();
        assert_eq!((transaction.domain, transaction.sequence), (3, 77));
        assert!(transaction.opens_transaction() && !transaction.is_schema_change());
        let grouped = GtidEvent::parse(&gtid_body(0x0e, &[0; 8])).unwrap();
        assert!(grouped.opens_transaction());
        let ddl = GtidEvent::parse(&gtid_body(0x29, &[0; 6])).unwrap();
        assert!(!ddl.opens_transaction() && ddl.is_schema_change() && !ddl.has_no_effect());
        let with_rows = GtidEvent::parse(&gtid_body(0x28, &[0; 6])).unwrap();
        assert!(with_rows.opens_transaction() && with_rows.is_schema_change());
        let xid = [1, 0, 0, 0, 2, 1, b'a', b'b', b'c'];
        let prepared = GtidEvent::parse(&gtid_body(0x4c, &xid)).unwrap();
        assert_eq!(prepared.xid.as_deref(), Some("X'6162',X'63',1"));
        assert!(prepared.opens_transaction());
        let decided = GtidEvent::parse(&gtid_body(0x8c, &xid)).unwrap();
        assert!(!decided.opens_transaction());
        let begun = GtidEvent::parse(&gtid_body(0x29, &[0x02, 0, 0, 0, 0, 0])).unwrap();
        assert!(begun.has_no_effect());
        let undone = [0x18, 0x29, 0, 0, 0, 0, 0, 0, 0, 0x58, 0, 0, 0];
        let undone = GtidEvent::parse(&gtid_body(0x29, &undone)).unwrap();
        assert!(undone.has_no_effect());
        assert_eq!(undone.thread_id, 0x58);
        let engines = GtidEvent::parse(&gtid_body(0x0c, &[0x11, 2, 7, 0, 0, 0])).unwrap();
        assert_eq!(engines.thread_id, 7);
        assert!(GtidEvent::parse(&gtid_body(0x4c, &xid[..8])).is_err());
        assert!(GtidEvent::parse(&[0; 12]).is_err());
    }

    fn packed(announced: usize, contents: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(contents).unwrap();
        let announced = u32::try_from(announced).unwrap().to_be_bytes();
        let mut packed = vec![0x80 | 4];
        packed.extend_from_slice(&announced);
        packed.extend_from_slice(&encoder.finish().unwrap());
        packed
    }

    /// A v1 rows event of 10 columns; an update has two bitmaps.
    fn rows_prefix(bitmaps: usize) -> Vec<u8> {
        let mut prefix = vec![9, 0, 0, 0, 0, 0, 1, 0, 10];
        prefix.resize(prefix.len() + 2 * bitmaps, 0xff);
        prefix
    }

    #[test]
    fn rows_are_unpacked_behind_their_bitmaps() {
        let contents = b"row row row".repeat(50);
        for (compressed, plain, bitmaps) in [(166, 23, 1), (167, 24, 2), (168, 25, 1)] {
            assert_eq!(uncompressed_rows_type(compressed), plain);
            let prefix = rows_prefix(bitmaps);
            let body = [prefix.clone(), packed(contents.len(), &contents)].concat();
            let expected = [prefix, contents.clone()].concat();
            assert_eq!(uncompressed_rows(plain, &body).unwrap(), expected);
        }
        assert_eq!([169, 170, 171].map(uncompressed_rows_type), [30, 31, 32]);
        let prefix = [vec![9, 0, 0, 0, 0, 0, 1, 0, 4, 0, 7, 7], vec![10, 0xff, 3]].concat();
        let body = [prefix.clone(), packed(contents.len(), &contents)].concat();
        assert_eq!(
            uncompressed_rows(30, &body).unwrap(),
            [prefix, contents].concat()
        );
    }

    #[test]
    fn a_statement_is_unpacked_behind_its_database() {
        let mut prefix = vec![0; 8];
        prefix.push(4);
        prefix.extend_from_slice(&[0, 0, 3, 0, 1, 2, 3]);
        prefix.extend_from_slice(b"shop\0");
        let text = b"ALTER TABLE t ADD COLUMN c INT";
        let body = [prefix.clone(), packed(text.len(), text)].concat();
        assert_eq!(
            uncompressed_query(&body).unwrap(),
            [prefix, text.to_vec()].concat()
        );
    }

    #[test]
    fn a_compressed_event_must_give_exactly_what_it_announces() {
        let contents = b"row row row".repeat(50);
        let body = |announced| [rows_prefix(1), packed(announced, &contents)].concat();
        for announced in [0, 1, contents.len() - 1, contents.len() + 1, 1 << 30] {
            assert!(
                uncompressed_rows(23, &body(announced)).is_err(),
                "{announced}"
            );
        }
        let mut wrong = body(contents.len());
        let last = wrong.len() - 20;
        wrong[last] ^= 0x55;
        assert!(uncompressed_rows(23, &wrong).is_err());
        for cut in 0..body(contents.len()).len() {
            assert!(
                uncompressed_rows(23, &body(contents.len())[..cut]).is_err(),
                "{cut}"
            );
        }
        let mut algorithm = body(contents.len());
        algorithm[rows_prefix(1).len()] |= 0x10;
        assert!(uncompressed_rows(23, &algorithm).is_err());
    }
}
