//! The checks on single events: checksums, and compressed payloads that give less or more than they announce.

use mysql_common::binlog::events::TransactionPayloadEvent;
use mysql_common::proto::MySerialize;

use super::*;
use crate::source::wire_events::{Server, query_body};

#[test]
fn a_right_checksum_passes_and_one_wrong_bit_does_not() {
    let mut server = Server::new();
    check_crc(&server.query("BEGIN")).unwrap();
    let body = query_body("BEGIN");
    let damaged = server.with_checksum(event_type::QUERY, 0, &body, [1, 2, 3, 4]);
    let error = check_crc(&damaged).unwrap_err();
    assert_eq!(error.kind(), Kind::SourceDamaged);
    assert!(
        error
            .to_string()
            .contains("checksum does not hold: expected 01020304"),
        "{error}"
    );
}

#[test]
fn events_of_a_payload_have_no_checksum_of_their_own() {
    let mut server = Server::new();
    let event = server.unpacked(event_type::QUERY, &query_body("BEGIN"));
    assert!(is_unpacked(&event));
    check_crc(&event).unwrap();
}

/// A payload that announces `bytes` of events.
fn payload(server: &mut Server, bytes: u64) -> mysql_common::binlog::events::Event {
    let event = TransactionPayloadEvent::new(4, Compression::ZSTD, bytes, &b"zstd"[..]);
    let mut body = Vec::new();
    event.serialize(&mut body);
    server.event(event_type::TRANSACTION_PAYLOAD, &body)
}

#[test]
fn a_payload_must_give_exactly_what_it_announced() {
    let mut server = Server::new();
    let inner = server.unpacked(event_type::QUERY, &query_body("BEGIN"));
    let size = u64::from(inner.header().event_size());
    let next = server.query("BEGIN");

    let mut whole = Payload::default();
    whole.check(&payload(&mut server, size)).unwrap();
    whole.check(&inner).unwrap();
    whole.check(&next).unwrap();

    let mut dropped = Payload::default();
    dropped.check(&payload(&mut server, size)).unwrap();
    let error = dropped.check(&next).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("{size} bytes of its events are missing")),
        "{error}"
    );

    let mut plain = Payload::default();
    let event = TransactionPayloadEvent::new(
        size,
        Compression::NONE,
        0,
        vec![0; usize::try_from(size).unwrap()],
    );
    let mut body = Vec::new();
    event.serialize(&mut body);
    plain
        .check(&server.event(event_type::TRANSACTION_PAYLOAD, &body))
        .unwrap();
    plain.check(&inner).unwrap();
    plain.check(&next).unwrap();

    let mut longer = Payload::default();
    longer.check(&payload(&mut server, size - 1)).unwrap();
    let error = longer.check(&inner).unwrap_err();
    assert!(
        error.to_string().contains("longer than it announced"),
        "{error}"
    );
}

/// What the driver makes of an event that announces `size` bytes and has `bytes`.
fn read(size: u32, bytes: usize) -> std::io::Result<Event> {
    let mut event = vec![0; bytes];
    event[4] = event_type::QUERY;
    event[9..13].copy_from_slice(&size.to_le_bytes());
    let mut reader = mysql_common::binlog::EventStreamReader::new(
        mysql_common::binlog::consts::BinlogVersion::Version4,
    );
    let event = guarded(|| reader.read(&event[..])).map_err(std::io::Error::other)?;
    Ok(event?.unwrap())
}

#[test]
fn an_event_that_the_driver_cannot_read_is_damage() {
    for (size, bytes) in [(18, 18), (19, 18), (31, 30), (u32::MAX, 30)] {
        let error = read(size, bytes).unwrap_err();
        assert!(is_unreadable(&error), "{size} in {bytes}: {error:?}");
    }
    for size in [0, 5, 18] {
        let error = check_length(&read(size, 30).unwrap()).unwrap_err();
        assert_eq!(error.kind(), Kind::SourceDamaged);
    }
    check_length(&read(19, 19).unwrap()).unwrap();
}

#[test]
fn a_connection_that_ends_is_no_damage_wherever_it_ends() {
    use std::io::Error;
    for error in [
        Error::new(ErrorKind::UnexpectedEof, "connection closed"),
        Error::other("bytes remaining on stream"),
        Error::new(
            ErrorKind::UnexpectedEof,
            "peer closed connection without sending TLS close_notify: https://docs.rs/rustls",
        ),
        Error::from_raw_os_error(104),
        ErrorKind::TimedOut.into(),
    ] {
        assert!(!is_unreadable(&error), "{error:?}");
    }
}
