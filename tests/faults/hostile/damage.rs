//! Damage on the wire, of every kind: the daemon names file, position and transaction, reads it a second time, and leaves the
//! rest to an operator (exit 3). What stood before it is recorded, nothing behind it is, no panic is in the log; and when the
//! damage is gone, the next start goes on exactly.

use super::wire::{Damage, Line, Packet, body, event};
use super::*;

/// For a daemon to meet the damage twice, whatever else the machine does.
const VERDICT: Duration = Duration::from_secs(60);

const QUERY: u8 = 2;
const XID: u8 = 16;
const TABLE_MAP: u8 = 19;
const INCIDENT: u8 = 26;
const WRITE_ROWS: u8 = 30;
const GTID: u8 = 33;
const PAYLOAD: u8 = 40;
const UNKNOWN: u8 = 99;

const IGNORABLE: u16 = 0x80;

/// A server with five transactions of one row, of which the second and the compressed fourth will be damaged.
struct Source {
    mysqld: Mysqld,
    uuid: String,
    /// The number of the first of the five.
    first: u64,
}

impl Source {
    async fn start() -> Self {
        let mysqld = Mysqld::start().await;
        mysqld
            .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, note VARCHAR(40), j JSON, b LONGBLOB)")
            .await;
        let uuid: String = mysqld.query_one("SELECT @@server_uuid").await;
        let executed = mysqld.executed_gtid().await;
        let last = executed.rsplit(['-', ':']).next().unwrap();
        let first = last.parse::<u64>().unwrap() + 1;
        let mut session = mysqld.root().await;
        for id in 1..=5 {
            let compression = if id == 4 { "ON" } else { "OFF" };
            for statement in [
                format!("SET SESSION binlog_transaction_compression = {compression}"),
                format!(
                    r#"INSERT INTO shop.t VALUES ({id}, 'planted-value', '{{"a": [1, "two"]}}', REPEAT('planted', 40))"#
                ),
            ] {
                session.query_drop(statement).await.unwrap();
            }
        }
        Self {
            mysqld,
            uuid,
            first,
        }
    }
}

/// One kind of damage.
struct Case {
    name: &'static str,
    /// Which of the five transactions it hits.
    hits: u64,
    /// What becomes of the events of that type in it.
    kind: u8,
    makes: fn(&[u8]) -> Vec<Packet>,
    /// What the last message says, beside the place.
    says: &'static str,
    noticed: Noticed,
}

/// Where damage is noticed.
#[derive(Clone, Copy)]
enum Noticed {
    There,
    Behind,
}

fn one(event: Vec<u8>) -> Vec<Packet> {
    vec![Packet::Event(event)]
}

/// The event with its body changed, and its length and checksum right.
fn changed(like: &[u8], change: impl FnOnce(&mut Vec<u8>)) -> Vec<Packet> {
    let mut changed = body(like).to_vec();
    change(&mut changed);
    one(event(like, like[4], 0, &changed))
}

/// Another event before this one, as if it began where this one does.
fn before(like: &[u8], kind: u8, flags: u16, body: &[u8]) -> Vec<Packet> {
    vec![
        Packet::Event(event(like, kind, flags, body)),
        Packet::Event(like.to_vec()),
    ]
}

/// The event with another length in its header, and nothing else changed.
fn announced(like: &[u8], length: u32) -> Vec<Packet> {
    let mut event = like.to_vec();
    event[9..13].copy_from_slice(&length.to_le_bytes());
    one(event)
}

/// Replaces the first `from` in the bytes.
fn replace(bytes: &mut [u8], from: &[u8], to: &[u8]) {
    let at = bytes
        .windows(from.len())
        .position(|window| window == from)
        .expect("it is there");
    bytes[at..at + to.len()].copy_from_slice(to);
}

/// The JSON value `{"a": [1, "two"]}` begins so: small object, one member, its length.
const JSON_BEGINS: &[u8] = &[0, 1, 0];

const CASES: &[Case] = &[
    Case {
        noticed: Noticed::There,
        name: "a bad checksum",
        hits: 2,
        kind: WRITE_ROWS,
        says: "checksum does not hold",
        makes: |event| {
            let mut event = event.to_vec();
            event[60] ^= 4;
            one(event)
        },
    },
    Case {
        noticed: Noticed::There,
        name: "a packet cut short",
        hits: 2,
        kind: WRITE_ROWS,
        says: "the event cannot be read",
        makes: |event| one(event[..event.len() - 10].to_vec()),
    },
    Case {
        noticed: Noticed::There,
        name: "an event shorter than its header",
        hits: 2,
        kind: TABLE_MAP,
        says: "failed to fill whole buffer",
        makes: |event| one(event[..12].to_vec()),
    },
    Case {
        noticed: Noticed::There,
        name: "an event shorter than its checksum",
        hits: 2,
        kind: XID,
        says: "the event cannot be read",
        makes: |event| {
            let mut event = event[..21].to_vec();
            event[9..13].copy_from_slice(&21_u32.to_le_bytes());
            one(event)
        },
    },
    Case {
        noticed: Noticed::There,
        name: "a length shorter than the header",
        hits: 2,
        kind: QUERY,
        says: "the event cannot be read",
        makes: |event| announced(event, 5),
    },
    Case {
        noticed: Noticed::There,
        name: "a length shorter than the event",
        hits: 2,
        kind: WRITE_ROWS,
        says: "checksum does not hold",
        makes: |event| announced(event, event.len() as u32 - 30),
    },
    Case {
        noticed: Noticed::There,
        name: "a length longer than the event",
        hits: 2,
        kind: WRITE_ROWS,
        says: "the event cannot be read",
        makes: |event| announced(event, event.len() as u32 + 1),
    },
    Case {
        noticed: Noticed::There,
        name: "a length of 4 GiB",
        hits: 2,
        kind: WRITE_ROWS,
        says: "the event cannot be read",
        makes: |event| announced(event, u32::MAX),
    },
    Case {
        noticed: Noticed::There,
        name: "a GTID event shorter than its post-header",
        hits: 2,
        kind: GTID,
        says: "GTID event: ",
        makes: |event| changed(event, |body| body.truncate(20)),
    },
    Case {
        noticed: Noticed::There,
        name: "a QUERY event shorter than its post-header",
        hits: 2,
        kind: QUERY,
        says: "QUERY event: ",
        makes: |event| changed(event, |body| body.truncate(9)),
    },
    Case {
        noticed: Noticed::There,
        name: "a TABLE_MAP event shorter than its post-header",
        hits: 2,
        kind: TABLE_MAP,
        says: "buf doesn't have enough data",
        makes: |event| changed(event, |body| body.truncate(5)),
    },
    Case {
        noticed: Noticed::There,
        name: "a TABLE_MAP event cut in its metadata",
        hits: 2,
        kind: TABLE_MAP,
        says: "table shop.t: ",
        makes: |event| changed(event, |body| body.truncate(body.len() - 4)),
    },
    Case {
        noticed: Noticed::There,
        name: "a rows event shorter than its post-header",
        hits: 2,
        kind: WRITE_ROWS,
        says: "rows event flags needs 2 bytes, found 1",
        makes: |event| changed(event, |body| body.truncate(7)),
    },
    Case {
        noticed: Noticed::There,
        name: "a row cut short",
        hits: 2,
        kind: WRITE_ROWS,
        says: "table shop.t, column b: value needs 280 bytes, found 279",
        makes: |event| changed(event, |body| body.truncate(body.len() - 1)),
    },
    Case {
        noticed: Noticed::There,
        name: "rows of another width",
        hits: 2,
        kind: WRITE_ROWS,
        says: "table shop.t: the rows event has 3 columns, its table map 4",
        makes: |event| changed(event, |body| body[10] = 3),
    },
    Case {
        noticed: Noticed::There,
        name: "rows of no table",
        hits: 2,
        kind: WRITE_ROWS,
        says: "no table map came for table id",
        makes: |event| changed(event, |body| body[0] ^= 0x55),
    },
    Case {
        noticed: Noticed::There,
        name: "rows without columns",
        hits: 2,
        kind: WRITE_ROWS,
        says: "no column is in their images",
        makes: |event| changed(event, |body| body[11] = 0),
    },
    Case {
        noticed: Noticed::There,
        name: "a value of 4 GiB",
        hits: 2,
        kind: WRITE_ROWS,
        says: "column b: value needs 4294967295 bytes, found 280",
        makes: |event| {
            changed(event, |body| {
                replace(body, &280_u32.to_le_bytes(), &[0xff; 4])
            })
        },
    },
    Case {
        noticed: Noticed::There,
        name: "JSON of an unknown type",
        hits: 2,
        kind: WRITE_ROWS,
        says: "column j: binary JSON: a type that is not known",
        makes: |event| changed(event, |body| replace(body, JSON_BEGINS, &[0x77])),
    },
    Case {
        noticed: Noticed::There,
        name: "JSON with more members than bytes",
        hits: 2,
        kind: WRITE_ROWS,
        says: "column j: binary JSON: a container with more elements than bytes",
        makes: |event| changed(event, |body| replace(body, JSON_BEGINS, &[0, 0xff, 0xff])),
    },
    Case {
        noticed: Noticed::There,
        name: "an event of an unknown type",
        hits: 2,
        kind: GTID,
        says: "event of unknown type 99",
        makes: |event| before(event, UNKNOWN, 0, b"news"),
    },
    Case {
        noticed: Noticed::There,
        name: "an event of an unknown type in a transaction",
        hits: 2,
        kind: TABLE_MAP,
        says: "event of unknown type 99",
        makes: |event| before(event, UNKNOWN, 0, b"news"),
    },
    Case {
        noticed: Noticed::There,
        name: "an incident",
        hits: 2,
        kind: GTID,
        says: "INCIDENT event",
        makes: |event| before(event, INCIDENT, 0, &[1, 0, 4, b'l', b'o', b's', b't']),
    },
    Case {
        noticed: Noticed::There,
        name: "an incident in a transaction",
        hits: 2,
        kind: XID,
        says: "INCIDENT event",
        makes: |event| before(event, INCIDENT, 0, &[1, 0, 0]),
    },
    Case {
        noticed: Noticed::Behind,
        name: "rows that are lost",
        hits: 2,
        kind: WRITE_ROWS,
        says: "a part of it is missing",
        makes: |_| Vec::new(),
    },
    Case {
        noticed: Noticed::Behind,
        name: "an end that is lost",
        hits: 2,
        kind: XID,
        says: "a new transaction begins before this one ended",
        makes: |_| Vec::new(),
    },
    Case {
        noticed: Noticed::There,
        name: "a packet that is no event",
        hits: 2,
        kind: WRITE_ROWS,
        says: "unexpected packet",
        makes: |_| vec![Packet::Raw(b"planted-value".to_vec())],
    },
    Case {
        noticed: Noticed::There,
        name: "a compressed payload cut short",
        hits: 4,
        kind: PAYLOAD,
        says: "compressed transaction ending at position",
        makes: |event| changed(event, |body| body.truncate(body.len() - 9)),
    },
    Case {
        noticed: Noticed::Behind,
        name: "a damaged compressed payload",
        hits: 4,
        kind: PAYLOAD,
        says: "bytes of its events are missing",
        // The frame's magic number: elsewhere it may hit a literal, and what is unpacked is merely another text.
        makes: |event| {
            changed(event, |body| {
                replace(body, &[0x28, 0xb5, 0x2f, 0xfd], &[0x28, 0xb5, 0x2f, 0x00]);
            })
        },
    },
    Case {
        noticed: Noticed::There,
        name: "a compression that is not known",
        hits: 4,
        kind: PAYLOAD,
        says: "the event cannot be read",
        makes: |event| changed(event, |body| replace(body, &[2, 1, 0], &[2, 1, 7])),
    },
    Case {
        noticed: Noticed::Behind,
        name: "a compressed payload that is lost",
        hits: 4,
        kind: PAYLOAD,
        says: "a new transaction begins before this one ended",
        makes: |_| Vec::new(),
    },
];

impl Case {
    fn damage(&self, source: &Source) -> Box<Damage> {
        let (transaction, kind, makes) = (source.first + self.hits - 1, self.kind, self.makes);
        Box::new(
            move |number, event| match number == transaction && event[4] == kind {
                true => makes(event),
                false => one(event.to_vec()),
            },
        )
    }

    async fn run(&self, source: &Source, mongod: &Mongod) {
        let name = self.name;
        let line = Line::to(&source.mysqld, self.damage(source)).await;
        let settings = Settings::new(&source.mysqld, mongod)
            .set("MYSQL_ADDR", &line.address)
            .set("MYSQL_TLS", "disabled")
            .set("SOURCE_ID", "damaged");
        // Each start meets it anew, and nothing moves.
        for _ in 0..2 {
            let met = line.damaged().len();
            let daemon = Daemon::start(&settings);
            let (code, _) = daemon.wait_exit(VERDICT).await;
            let log = daemon.logs().join("\n");
            assert_eq!(code, 3, "{name}:\n{log}");
            let places = line.damaged();
            assert!(
                places.len() >= met + 2,
                "{name}: it was not read again:\n{log}"
            );
            let last = log.lines().rev().find(|line| line.contains("exit=3"));
            let last = last.unwrap_or_else(|| panic!("{name}: no last word:\n{log}"));
            let gtid = format!("{}:", source.uuid);
            // What is missing is noticed further on.
            let place = match self.noticed {
                Noticed::There => format!("binlog binlog.000001 at position {}, ", places[met]),
                Noticed::Behind => "binlog binlog.000001 at position ".to_owned(),
            };
            for part in [&place, &gtid, self.says, "read again with the same result"] {
                assert!(last.contains(part), "{name}: {part:?} is not in: {last}");
            }
            assert!(
                !log.contains("panicked") && !log.contains("planted"),
                "{name}:\n{log}"
            );
            let target = mongod.database(settings.database()).await;
            let rows = rows_of(&target, "shop").await;
            let ids: Vec<u64> = rows
                .iter()
                .map(|row| after(row).get_i32("id").unwrap() as u64)
                .collect();
            assert_eq!(
                ids,
                (1..self.hits).collect::<Vec<_>>(),
                "{name}: what stood before it, and no more"
            );
            let saved = mongo::saved_gtid(&target).await.unwrap();
            let before = format!("{}:1-{}", source.uuid, source.first + self.hits - 2);
            assert_eq!(saved, before, "{name}");
        }
        // The damage was on the line: without it the next start goes on.
        let settings = settings.set("MYSQL_ADDR", source.mysqld.addr());
        let daemon = Daemon::start(&settings);
        caught_up(&source.mysqld, mongod, settings.database()).await;
        fold::assert_exact(&source.mysqld, mongod, settings.database(), &["shop.t"]).await;
        stop(&daemon).await;
    }
}

/// Runs every `step`th case from `from` on; each takes seconds, mostly of waiting.
async fn run_cases(from: usize, step: usize) {
    let (source, mongod) = tokio::join!(Source::start(), Mongod::shared());
    for case in CASES.iter().skip(from).step_by(step) {
        case.run(&source, mongod).await;
    }
}

#[tokio::test]
async fn damage_on_the_wire_stops_the_daemon_with_its_place() {
    run_cases(0, 2).await;
}

#[tokio::test]
async fn damage_on_the_wire_stops_the_daemon_with_its_place_second_half() {
    run_cases(1, 2).await;
}

#[tokio::test]
async fn an_unknown_event_that_may_be_ignored_is() {
    let (source, mongod) = tokio::join!(Source::start(), Mongod::shared());
    let ignorable = Case {
        noticed: Noticed::There,
        name: "ignorable",
        hits: 2,
        kind: GTID,
        makes: |event| before(event, UNKNOWN, IGNORABLE, b"news"),
        says: "",
    };
    let line = Line::to(&source.mysqld, ignorable.damage(&source)).await;
    let settings = Settings::new(&source.mysqld, mongod)
        .set("MYSQL_ADDR", &line.address)
        .set("MYSQL_TLS", "disabled");
    let daemon = Daemon::start(&settings);
    caught_up(&source.mysqld, mongod, settings.database()).await;
    fold::assert_exact(&source.mysqld, mongod, settings.database(), &["shop.t"]).await;
    assert_eq!(line.damaged().len(), 1);
    stop(&daemon).await;
}
