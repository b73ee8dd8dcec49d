//! Fuzz targets of the stream and of the grammar: `crate::fuzz` says how they are run.
//!
//! An input is a list of events, each a length (4 bytes, little-endian) and the bytes of a whole event.

use mysql_common::binlog::EventStreamReader;
use mysql_common::binlog::consts::BinlogVersion;
use mysql_common::binlog::events::{Event, TransactionPayloadEvent};

use super::group::Assembler;
use super::guard::guarded;
use super::statement::{self, Statement};
use super::stream::{Payload, check_crc, check_length, is_unreadable};
use super::{Chunk, event_type};
use crate::batch::Item;
use crate::config::{Config, Sources};
use crate::error::Kind;
use crate::fuzz::{
    Captured, IMAGE_LEVELS, MARIADB, MYSQL, Random, Target, assert_document, mutate,
};
use crate::position::{Flavor, GtidSet};

const HEADER: usize = 19;

/// Where an event's bytes have its type, its length, its flags.
const TYPE_AT: usize = 4;
const LENGTH_AT: std::ops::Range<usize> = 9..13;
const FLAGS_AT: usize = 17;

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            1 => crc >> 1 ^ 0xedb8_8320,
            _ => crc >> 1,
        })
    })
}

/// Makes an event's length and checksum right again, so that what is wrong in it is read.
fn seal(event: &mut [u8]) {
    let Some(end) = event.len().checked_sub(4).filter(|end| *end >= HEADER) else {
        return;
    };
    let length = event.len() as u32;
    event[LENGTH_AT].copy_from_slice(&length.to_le_bytes());
    let checksum = crc32(&event[..end]);
    event[end..].copy_from_slice(&checksum.to_le_bytes());
}

/// One to three transactions of a captured binlog, behind its format description, with something wrong about them.
fn damaged_transactions(random: &mut Random) -> Vec<u8> {
    let file = if random.u8(0..4) == 0 { MARIADB } else { MYSQL };
    let captured = Captured::all(file);
    let begins =
        |event: &Captured| matches!(event.kind, event_type::GTID | event_type::GTID_TAGGED | 162);
    let starts: Vec<usize> = (0..captured.len())
        .filter(|index| begins(&captured[*index]))
        .collect();
    let first = random.usize(..starts.len());
    let behind = (first + random.usize(1..4)).min(starts.len() - 1);
    let end = if behind > first {
        starts[behind]
    } else {
        captured.len()
    };
    let mut events: Vec<Vec<u8>> = captured[starts[first]..end]
        .iter()
        .map(|event| event.bytes.to_vec())
        .collect();
    for _ in 0..random.u8(0..4) {
        let at = random.usize(..events.len());
        let other = captured[random.usize(..captured.len())].bytes;
        match random.u8(0..12) {
            0 => drop(events.remove(at)),
            1 => events.insert(at, events[at].clone()),
            2 => {
                let with = random.usize(..events.len());
                events.swap(at, with);
            }
            3 => events.insert(at, other.to_vec()),
            4 => {
                if let Some(kind) = events[at].get_mut(TYPE_AT) {
                    *kind = random.u8(..60);
                }
                seal(&mut events[at]);
            }
            5 => {
                if let Some(flags) = events[at].get_mut(FLAGS_AT) {
                    *flags ^= 1 << random.u8(0..8);
                }
                seal(&mut events[at]);
            }
            // As it is, so that the checksum is wrong.
            6 => mutate(random, &mut events[at], other),
            _ => {
                let header = HEADER.min(events[at].len());
                let mut body = events[at].split_off(header);
                mutate(random, &mut body, other);
                events[at].extend(body);
                seal(&mut events[at]);
            }
        }
        if events.is_empty() {
            break;
        }
    }
    events.insert(0, captured[0].bytes.to_vec());
    let framed = events
        .iter()
        .flat_map(|event| [&(event.len() as u32).to_le_bytes(), &event[..]].concat());
    framed.collect()
}

/// What the driver makes of an event's bytes, as far as sdl lets it.
fn read(reader: &mut EventStreamReader, bytes: &[u8]) -> Option<Vec<Event>> {
    let announced = u32::from_le_bytes(bytes.get(LENGTH_AT)?.try_into().ok()?);
    // The driver would allocate what is announced, and not find it; stream/tests.rs has that.
    if announced as usize > bytes.len() {
        return None;
    }
    let event = match guarded(|| reader.read(bytes)) {
        Ok(Ok(event)) => event?,
        Ok(Err(error)) => {
            assert!(
                is_unreadable(&error),
                "{error:?} is taken for a lost connection"
            );
            return None;
        }
        Err(panic) => {
            assert!(panic.to_string().contains("mysql_common"), "{panic}");
            return None;
        }
    };
    let mut events = vec![event];
    if bytes[TYPE_AT] == event_type::TRANSACTION_PAYLOAD {
        // What a damaged one costs is the driver's: it allocates what is announced, and the window that zstd is told.
        let body = &bytes[HEADER..bytes.len() - 4];
        if Captured::all(MYSQL).iter().all(|event| event.body != body) {
            return None;
        }
        let whole = guarded(|| events[0].read_event::<TransactionPayloadEvent<'_>>());
        let unpacked = whole.ok()?.ok()?.danger_decompress();
        let mut rest = &unpacked[..];
        while let Some(event) = guarded(|| reader.read_decompressed(&mut rest)).ok()?.ok()? {
            events.push(event);
        }
    }
    Some(events)
}

fn config() -> &'static Config {
    static CONFIG: std::sync::OnceLock<Config> = std::sync::OnceLock::new();
    CONFIG.get_or_init(|| {
        let settings = [
            ("MYSQL_ADDR", "db:3306"),
            ("MYSQL_USER", "sdl"),
            ("MONGO_URI", "mongodb://m/?replicaSet=rs0"),
        ];
        Config::from_sources(&Sources::from_environment(settings)).unwrap()
    })
}

fn check(mut input: &[u8]) -> bool {
    let mut reader = EventStreamReader::new(BinlogVersion::Version4);
    let mut payload = Payload::default();
    let of_mariadb = input
        .windows(7)
        .take(100)
        .any(|window| window == b"MariaDB");
    let flavor = if of_mariadb {
        Flavor::Mariadb
    } else {
        Flavor::Mysql
    };
    let mut assembler = Assembler::new(config(), flavor, GtidSet::new(), None);
    let mut ends = 0;
    let mut inside = false;
    while let Some((length, rest)) = input.split_first_chunk::<4>() {
        let length = (u32::from_le_bytes(*length) as usize).min(rest.len());
        let (bytes, behind) = rest.split_at(length);
        input = behind;
        let Some(events) = read(&mut reader, bytes) else {
            return false;
        };
        for event in events {
            let checked = check_length(&event)
                .and_then(|()| check_crc(&event))
                .and_then(|()| payload.check(&event));
            if let Err(error) = checked {
                let error = assembler.locate(error).to_string();
                assert!(error.starts_with("binlog "), "{error}");
                return false;
            }
            let mut chunk = Chunk::default();
            let outcome = assembler.event(&event, &mut chunk);
            for item in chunk.items {
                match item {
                    Item::Begin(_) => assert!(!std::mem::replace(&mut inside, true), "begun twice"),
                    Item::Change(change) => {
                        assert!(inside, "a change outside of a transaction");
                        assert!(assert_document(change.document.as_bytes()) <= IMAGE_LEVELS + 1);
                    }
                    Item::End(_) => {
                        assert!(
                            std::mem::replace(&mut inside, false),
                            "an end without a beginning"
                        );
                        ends += 1;
                    }
                    _ => {}
                }
            }
            assert_eq!(assembler.transactions(), ends);
            if flavor == Flavor::Mysql {
                assert_eq!(assembler.read().mysql().count(), u128::from(ends));
            }
            if let Err(error) = outcome {
                let text = error.to_string();
                match error.kind() {
                    Kind::SourceDamaged | Kind::SourceSetting => {
                        assert!(text.starts_with("binlog "), "{text}");
                    }
                    // The same GTID with another time.
                    Kind::WrongServer => {}
                    other => panic!("{other:?}: {text}"),
                }
                assert!(
                    !text.contains("gave up at") || text.contains("mysql_common"),
                    "{text}"
                );
                return false;
            }
        }
    }
    !inside
}

#[test]
fn transactions() {
    Target {
        name: "source::fuzz::transactions",
        make: damaged_transactions,
        check,
        memory: 2048,
    }
    .run(5_000);
}

/// What servers wrote is read to its end: what the damage above is done to is right.
#[test]
fn whole_binlogs_of_servers_are_taken_for_right() {
    for file in [MYSQL, MARIADB] {
        let framed: Vec<u8> = Captured::all(file)
            .iter()
            .flat_map(|event| [&(event.bytes.len() as u32).to_le_bytes(), event.bytes].concat())
            .collect();
        assert!(check(&framed));
    }
}

const STATEMENTS: [&str; 10] = [
    "BEGIN",
    "ROLLBACK TO `a b`",
    "RELEASE SAVEPOINT `a`",
    "XA START X'61',X'',1",
    "XA COMMIT X'6272616e6368',X'',7",
    "CREATE TABLE `a``b`.\"größe\" (`id` INT) START TRANSACTION",
    "/* tool */ -- why\nRENAME TABLE a TO `b`.`c`, d TO e # done",
    "CREATE UNIQUE INDEX i USING BTREE ON `shop`.`t` (a, b)",
    "DROP TABLE IF EXISTS `a`, b . c /* generated by server */",
    "/*!40000 ALTER TABLE t DISABLE KEYS */",
];

#[test]
fn statements() {
    Target {
        name: "source::fuzz::statements",
        make: |random| {
            let mut text = STATEMENTS[random.usize(..STATEMENTS.len())]
                .as_bytes()
                .to_vec();
            let other = STATEMENTS[random.usize(..STATEMENTS.len())].as_bytes();
            mutate(random, &mut text, other);
            text
        },
        check: |input| {
            let text = String::from_utf8_lossy(input);
            let tables = statement::tables(&text);
            for name in &tables {
                assert!(
                    !name.table.is_empty() || text.contains("``") || text.contains("\"\""),
                    "{text}"
                );
            }
            match statement::classify(&text) {
                Statement::XaStart(id) | Statement::XaCommit(id) | Statement::XaRollback(id) => {
                    assert!(text.ends_with(id) || text.trim_end().ends_with(id));
                }
                Statement::Other => {
                    return statement::opens_transaction(&text) || !tables.is_empty();
                }
                _ => {}
            }
            true
        },
        memory: 256,
    }
    .run(20_000);
}
