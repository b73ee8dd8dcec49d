mod damage;
mod disk;

use std::sync::atomic::{AtomicU32, Ordering};

use bson::{DateTime, RawDocumentBuf, doc};

use super::place::with_suffix;
use super::*;
use crate::bson_writer::element;
use crate::event::{Change, ChangeEvent, Operation, SchemaVersion, TransactionContext};
use crate::large_value::{LargeKind, LargeValue};
use crate::offset::LastTransaction;
use crate::position::{Flavor, Gtid, GtidSet};

const SOURCE: &str = "mysql://db.example:3306";
const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const MIB: u64 = 1024 * 1024;

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("sdl-spool-{}-{count}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn settings(&self, max_bytes: u64) -> SpoolSettings {
        SpoolSettings {
            directory: self.0.join("spool"),
            max_bytes,
        }
    }

    async fn open(&self) -> Spool {
        Spool::open(&self.settings(256 * MIB), SOURCE)
            .await
            .unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn gtid(number: i64) -> Gtid {
    format!("{UUID}:{number}").parse().unwrap()
}

fn set(last: i64) -> GtidSet {
    match last {
        0 => GtidSet::new(),
        _ => format!("{UUID}:1-{last}").parse().unwrap(),
    }
}

fn schema(name: &str) -> Arc<SchemaVersion> {
    Arc::new(SchemaVersion {
        id: name.to_owned(),
        document: doc! { "_id": name, "columns": [ { "name": "id", "type": "int" }, { "name": name, "type": "text" } ] },
    })
}

fn event(
    transaction: i64,
    row: u64,
    text: &str,
    schema: Option<&Arc<SchemaVersion>>,
    large_values: Vec<LargeValue>,
) -> ChangeEvent {
    let context = TransactionContext::new(
        SOURCE.into(),
        gtid(transaction).to_string().into(),
        DateTime::from_millis(1_700_000_000_000 + transaction),
        1,
    );
    let after = RawDocumentBuf::try_from(&doc! { "id": transaction, "text": text }).unwrap();
    let key = transaction.to_le_bytes();
    let change = Change {
        operation: Operation::Insert,
        database: "shop",
        table: "orders",
        key: Some((element::INT64, &key)),
        row,
        statement: 0,
        file: "binlog.000001",
        position: 4711,
        schema,
        resolved: true,
        query: None,
        user: None,
        before: None,
        after: Some(after.as_bytes()),
        changed: None,
    };
    ChangeEvent::new(&context, &change, large_values).unwrap()
}

/// Batch `number` holds transaction `number`.
fn batch_of(number: i64, events: Vec<ChangeEvent>) -> Batch {
    let bytes = events.iter().map(ChangeEvent::bytes).sum();
    let mut batch = Batch {
        events,
        first_n: 0,
        previous: BinlogPosition::at(set(number - 1)),
        next: Offset {
            position: BinlogPosition {
                gtid: set(number),
                file: "binlog.000001".to_owned(),
                position: 1000 + number as u64,
                partial: None,
            },
            server_uuid: UUID.to_owned(),
            flavor: Flavor::Mysql,
            batch: number,
            n: 0,
            epoch: 0,
            last: Some(LastTransaction {
                gtid: gtid(number),
                timestamp: DateTime::from_millis(1_700_000_000_000 + number),
                predecessor: None,
            }),
        },
        bytes,
    };
    batch.number_events(number * 10_000);
    batch
}

fn batch(number: i64, events: u64, text: &str) -> Batch {
    let version = schema("orders-1");
    batch_of(
        number,
        (0..events)
            .map(|row| event(number, row, text, Some(&version), Vec::new()))
            .collect(),
    )
}

fn assert_equal(found: &Batch, expected: &Batch) {
    assert_eq!(found.events.len(), expected.events.len());
    for (found, expected) in found.events.iter().zip(&expected.events) {
        assert_eq!(found.document, expected.document);
        assert_eq!(found.row, expected.row);
        assert_eq!(found.schema, expected.schema);
        assert_eq!(found.large_values, expected.large_values);
    }
    assert_eq!(found.first_n, expected.first_n);
    assert!(found.follows(&expected.previous));
    assert_eq!(found.next, expected.next);
    assert_eq!(found.bytes, expected.bytes);
}

#[tokio::test]
async fn batches_come_back_in_order_and_equal() {
    let directory = Directory::new();
    let spool = directory.open().await;
    assert_eq!(spool.numbers(), None);
    assert_eq!(spool.ends().await.unwrap(), None);
    for number in 7..=12 {
        spool
            .append(&batch(number, 20, "some text"), 3)
            .await
            .unwrap();
    }
    assert_eq!(spool.numbers(), Some((7, 12)));
    let (first, last) = spool.ends().await.unwrap().unwrap();
    assert_eq!((first.number, last.number), (7, 12));
    assert_eq!(last, Summary::of(&batch(12, 20, "some text")));
    assert_eq!(spool.figures().events, 120);
    for number in 7..=12 {
        assert_equal(
            &spool.read(number).await.unwrap(),
            &batch(number, 20, "some text"),
        );
        spool.remove_through(number).await.unwrap();
    }
    assert_eq!(spool.numbers(), None);
    assert_eq!(spool.figures().events, 0);
}

#[tokio::test]
async fn it_goes_on_after_a_restart() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 1..=3 {
        spool.append(&batch(number, 5, "a"), 1).await.unwrap();
    }
    spool.remove_through(1).await.unwrap();
    drop(spool);
    let spool = directory.open().await;
    assert_eq!(spool.numbers(), Some((2, 3)));
    assert_eq!(spool.figures().events, 10);
    spool.append(&batch(4, 5, "a"), 1).await.unwrap();
    assert_equal(&spool.read(2).await.unwrap(), &batch(2, 5, "a"));
    assert_equal(&spool.read(4).await.unwrap(), &batch(4, 5, "a"));
}

fn query<T: rusqlite::types::FromSql>(spool: &Spool, sql: &str) -> T {
    Connection::open(spool.path())
        .unwrap()
        .query_row(sql, [], |row| row.get(0))
        .unwrap()
}

fn bytes_on_disk(spool: &Spool) -> u64 {
    place::file_bytes(spool.path()) + place::file_bytes(&with_suffix(spool.path(), "-wal"))
}

/// Bytes that no compression and no page cache makes small.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Text that packing makes little smaller.
fn text(length: usize, seed: u64) -> String {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..length).map(|_| random.char(' '..='~')).collect()
}

/// About 740 KB on disk.
fn large_batch(number: i64) -> Batch {
    let version = schema("orders-1");
    let event = |row| {
        let text = text(9000, 1000 * number as u64 + row);
        event(number, row, &text, Some(&version), Vec::new())
    };
    batch_of(number, (0..100).map(event).collect())
}

/// Flips one byte of the first place where `needle` stands in the file.
fn damage(path: &std::path::Path, needle: &[u8]) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = bytes
        .windows(needle.len())
        .position(|window| window == needle)
        .expect("what is to be damaged stands in the file");
    bytes[at + needle.len() / 2] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Names of the files in the spool's directory that end with or contain `part`.
fn files(spool: &Spool, part: &str) -> Vec<PathBuf> {
    std::fs::read_dir(spool.path().parent().unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().contains(part))
        .collect()
}

#[tokio::test]
async fn a_batch_that_does_not_continue_the_last_one_is_a_defect() {
    let directory = Directory::new();
    let spool = directory.open().await;
    spool.append(&batch(1, 1, "a"), 1).await.unwrap();
    let mut elsewhere = batch(2, 1, "a");
    elsewhere.previous = BinlogPosition::at(set(9));
    for wrong in [batch(1, 1, "a"), batch(3, 1, "a"), elsewhere] {
        let error = spool.append(&wrong, 1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::Internal, "{error}");
    }
    assert_eq!(spool.numbers(), Some((1, 1)));
    assert_eq!(spool.read(2).await.unwrap_err().kind(), Kind::Internal);
    spool.append(&batch(2, 1, "a"), 1).await.unwrap();
}

#[tokio::test]
async fn a_batch_without_events_keeps_its_place() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 1..=3 {
        spool
            .append(&batch(number, u64::from(number != 2), "a"), 1)
            .await
            .unwrap();
    }
    assert_equal(&spool.read(2).await.unwrap(), &batch(2, 0, ""));
    let shown: String = query(&spool, "select last_gtid from batches where batch = 2");
    assert_eq!(shown, gtid(2).to_string());
}

#[tokio::test]
async fn a_crash_leaves_what_was_appended_and_nothing_of_what_was_not() {
    let directory = Directory::new();
    let spool = directory.open().await;
    let crashed = |name: &str| SpoolSettings {
        directory: directory.0.join(name),
        max_bytes: 256 * MIB,
    };
    let copy = |name: &str, cut: u64| {
        let to = crashed(name).directory;
        std::fs::create_dir_all(&to).unwrap();
        for suffix in ["", "-wal"] {
            let from = with_suffix(spool.path(), suffix);
            let to = to.join(from.file_name().unwrap());
            std::fs::copy(&from, &to).unwrap();
            if suffix == "-wal" {
                let file = std::fs::OpenOptions::new().write(true).open(to).unwrap();
                file.set_len(file.metadata().unwrap().len() - cut).unwrap();
            }
        }
    };
    for number in 1..=5 {
        spool
            .append(&batch(number, 50, &text(500, 1)), 1)
            .await
            .unwrap();
    }
    copy("whole", 0);
    copy("torn", 1000);
    for (name, last) in [("whole", 5), ("torn", 4)] {
        let spool = Spool::open(&crashed(name), SOURCE).await.unwrap();
        assert_eq!(spool.numbers(), Some((1, last)), "{name}");
        for number in 1..=last {
            assert_equal(
                &spool.read(number).await.unwrap(),
                &batch(number, 50, &text(500, 1)),
            );
        }
        spool.append(&batch(last + 1, 1, "a"), 1).await.unwrap();
    }
}

#[tokio::test]
async fn large_values_and_schema_versions_come_back_and_go_with_the_last_batch_that_needs_them() {
    let directory = Directory::new();
    let spool = directory.open().await;
    let huge = LargeValue::new(LargeKind::Binary, noise(20 * MIB as usize + 7, 1));
    let small = LargeValue::new(LargeKind::Json, b"{\"a\": 1}".to_vec());
    let same_bytes = LargeValue::new(LargeKind::String, b"{\"a\": 1}".to_vec());
    let (one, two) = (schema("orders-1"), schema("orders-2"));
    let make = |number| match number {
        1 => batch_of(
            1,
            vec![
                event(
                    1,
                    0,
                    "a",
                    Some(&one),
                    vec![huge.clone(), small.clone(), same_bytes.clone()],
                ),
                event(1, 1, "b", None, Vec::new()),
                event(1, 2, "c", Some(&two), vec![small.clone()]),
            ],
        ),
        _ => batch_of(
            2,
            vec![
                event(2, 0, "d", Some(&two), Vec::new()),
                event(2, 1, "e", Some(&two), vec![huge.clone()]),
            ],
        ),
    };
    spool.append(&make(1), 1).await.unwrap();
    spool.append(&make(2), 1).await.unwrap();
    assert_eq!(query::<i64>(&spool, "select count(*) from pieces"), 3 + 1);
    assert_eq!(query::<i64>(&spool, "select count(*) from schemas"), 2);
    drop(spool);
    let spool = directory.open().await;
    for number in 1..=2 {
        assert_equal(&spool.read(number).await.unwrap(), &make(number));
    }
    spool.remove_through(1).await.unwrap();
    assert_eq!(query::<i64>(&spool, "select count(*) from pieces"), 3);
    assert_eq!(query::<i64>(&spool, "select count(*) from schemas"), 1);
    assert_equal(&spool.read(2).await.unwrap(), &make(2));
    spool.remove_through(2).await.unwrap();
    for table in [
        "pieces",
        "schemas",
        "batch_values",
        "batch_schemas",
        "batches",
    ] {
        assert_eq!(
            query::<i64>(&spool, &format!("select count(*) from {table}")),
            0,
            "{table}"
        );
    }
    assert!(
        bytes_on_disk(&spool) < MIB,
        "the file shrinks after an outage"
    );
}

#[tokio::test]
async fn a_full_spool_says_so_takes_nothing_half_and_has_room_again_after_draining() {
    let directory = Directory::new();
    let limit = 16 * MIB;
    let spool = Spool::open(&directory.settings(limit), SOURCE)
        .await
        .unwrap();
    let make = |number| large_batch(number);
    let mut number = 1;
    let error = loop {
        match spool.append(&make(number), 1).await {
            Ok(()) => number += 1,
            Err(error) => break error,
        }
        assert!(bytes_on_disk(&spool) <= limit);
    };
    assert_eq!(error.kind(), Kind::SpoolUnavailable);
    for part in [
        "SPOOL_MAX_BYTES",
        &spool.path().display().to_string(),
        "batch",
    ] {
        assert!(error.to_string().contains(part), "{error}");
    }
    assert!(number > 10, "most of the space is used: {number} batches");
    let figures = spool.figures();
    assert!(figures.is_refusing);
    assert!(figures.bytes <= limit && figures.max_bytes == limit);
    let last = number - 1;
    assert_eq!(spool.numbers(), Some((1, last)));
    assert_eq!(query::<i64>(&spool, "select max(batch) from batches"), last);
    // Drained from one end while the other takes what is read meanwhile: the room is used again.
    for drained in 1..=3 * last {
        assert_equal(&spool.read(drained).await.unwrap(), &make(drained));
        spool.remove_through(drained).await.unwrap();
        spool.append(&make(last + drained), 1).await.unwrap();
        assert!(bytes_on_disk(&spool) <= limit);
    }
    assert!(!spool.figures().is_refusing);
    spool.remove_through(4 * last).await.unwrap();
    assert_eq!(spool.numbers(), None);
    assert!(bytes_on_disk(&spool) < MIB);
    // A batch that never fits is told as well.
    let huge = LargeValue::new(LargeKind::Binary, noise(20 * MIB as usize, 2));
    let huge = batch_of(1, vec![event(1, 0, "a", None, vec![huge])]);
    assert_eq!(
        spool.append(&huge, 1).await.unwrap_err().kind(),
        Kind::SpoolUnavailable
    );
    spool.append(&make(1), 1).await.unwrap();
}

#[tokio::test]
async fn a_lower_limit_than_what_is_spooled_only_stops_what_comes() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 1..=40 {
        spool.append(&large_batch(number), 1).await.unwrap();
    }
    drop(spool);
    let spool = Spool::open(&directory.settings(16 * MIB), SOURCE)
        .await
        .unwrap();
    let error = spool.append(&batch(41, 1, "a"), 1).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SpoolUnavailable);
    for number in 1..=40 {
        spool.read(number).await.unwrap();
        spool.remove_through(number).await.unwrap();
    }
    spool.append(&batch(41, 1, "a"), 1).await.unwrap();
}

#[tokio::test]
async fn a_spool_that_another_daemon_has_open_is_refused() {
    let directory = Directory::new();
    let spool = directory.open().await;
    let error = Spool::open(&directory.settings(256 * MIB), SOURCE)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::SpoolUnavailable);
    assert!(error.to_string().contains("another sdl"), "{error}");
    assert!(
        error.to_string().contains(spool.path().to_str().unwrap()),
        "{error}"
    );
    // Another source is another file.
    Spool::open(&directory.settings(256 * MIB), "mysql://other:3306")
        .await
        .unwrap();
    drop(spool);
    directory.open().await;
}

#[tokio::test]
async fn the_file_of_another_source_or_version_or_program_is_refused_and_left_alone() {
    let directory = Directory::new();
    let spool = directory.open().await;
    spool.append(&batch(1, 1, "a"), 1).await.unwrap();
    let path = spool.path().to_owned();
    drop(spool);
    for (sql, part) in [
        (
            "update about set source_id = 'mysql://other:3306'",
            "mysql://other:3306",
        ),
        ("pragma user_version = 2", "format 2"),
        ("pragma application_id = 1", "no spool of sdl"),
    ] {
        let changed = Connection::open(&path).unwrap();
        changed.execute_batch(sql).unwrap();
        changed.close().unwrap();
        let before = std::fs::read(&path).unwrap();
        let error = Spool::open(&directory.settings(256 * MIB), SOURCE)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::SpoolUnavailable);
        assert!(error.to_string().contains(part), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let changed = Connection::open(&path).unwrap();
        changed
            .execute_batch("update about set source_id = 'mysql://db.example:3306'; pragma user_version = 1; pragma application_id = 0x73646c53")
            .unwrap();
    }
    assert_eq!(directory.open().await.numbers(), Some((1, 1)));
}

#[tokio::test]
async fn an_operator_sees_all_of_it_with_the_sqlite3_shell_beside_the_daemon() {
    use std::os::unix::fs::PermissionsExt;
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 3..=5 {
        spool.append(&batch(number, 4, "a"), 9).await.unwrap();
    }
    let shell = Connection::open(spool.path()).unwrap();
    let row: (i64, String, i64, i64, i64, String, String, String, i64, String) = shell
        .query_row(
            "select batch, created_at, epoch, events, bytes, first_gtid, last_gtid, file, position, sha256 from batches where batch = 4",
            [],
            |row| {
                Ok((
                    row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?, row.get(7)?,
                    row.get(8)?, row.get(9)?,
                ))
            },
        )
        .unwrap();
    let expected = batch(4, 4, "a");
    assert_eq!(
        (row.0, row.2, row.3, row.4),
        (4, 9, 4, expected.bytes as i64)
    );
    row.1.parse::<jiff::Timestamp>().unwrap();
    assert_eq!((row.5, row.6), (gtid(4).to_string(), gtid(4).to_string()));
    assert_eq!(
        (row.7.as_str(), row.8, row.9.len()),
        ("binlog.000001", 1004, 64)
    );
    let overview: (i64, i64, i64, i64, String, String) = shell
        .query_row(
            "select batches, events, first_batch, last_batch, first_gtid, last_gtid from overview",
            [],
            |row| {
                Ok((
                    row.get(0)?,
                    row.get(1)?,
                    row.get(2)?,
                    row.get(3)?,
                    row.get(4)?,
                    row.get(5)?,
                ))
            },
        )
        .unwrap();
    assert_eq!(
        overview,
        (3, 12, 3, 5, gtid(3).to_string(), gtid(5).to_string())
    );
    // Row values: nobody else may read them.
    for path in files(&spool, "spool-") {
        assert_eq!(
            path.metadata().unwrap().permissions().mode() & 0o777,
            0o600,
            "{}",
            path.display()
        );
    }
    let directory = spool.path().parent().unwrap();
    assert_eq!(
        directory.metadata().unwrap().permissions().mode() & 0o777,
        0o700
    );
    let name = spool.path().file_name().unwrap().to_str().unwrap();
    assert!(
        name.starts_with("spool-mysql-db-example-3306-") && name.ends_with(".sqlite3"),
        "{name}"
    );
}

#[tokio::test]
async fn someone_who_reads_beside_the_daemon_stops_nothing() {
    let directory = Directory::new();
    let limit = 16 * MIB;
    let spool = Spool::open(&directory.settings(limit), SOURCE)
        .await
        .unwrap();
    spool.append(&large_batch(1), 1).await.unwrap();
    let mut shell = Connection::open(spool.path()).unwrap();
    let reading = shell.transaction().unwrap();
    let count: i64 = reading
        .query_row("select count(*) from batches", [], |row| row.get(0))
        .unwrap();
    assert_eq!(count, 1);
    for number in 2..=4 {
        spool.append(&large_batch(number), 1).await.unwrap();
    }
    drop(reading);
    spool.remove_through(4).await.unwrap();
    assert_eq!(spool.numbers(), None);
}

/// Whatever is done in whatever order, with restarts in between: the spool holds what a list would hold.
#[tokio::test]
async fn random_use_and_restarts_agree_with_a_model() {
    let seed = std::env::var("SDL_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or(20261121);
    eprintln!("SDL_SEED={seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let directory = Directory::new();
    let limit = 16 * MIB;
    let settings = directory.settings(limit);
    let mut spool = Spool::open(&settings, SOURCE).await.unwrap();
    let mut model: std::collections::VecDeque<Batch> = std::collections::VecDeque::new();
    let mut next = 1;
    let (mut refused, mut aside) = (0, 0);
    for _ in 0..400 {
        match random.u32(..100) {
            0..60 => {
                let version = schema(&format!("schema-{}", random.u32(..4)));
                let events = (0..random.u64(..40))
                    .map(|row| {
                        let values = (0..random.usize(..40).saturating_sub(38))
                            .map(|_| {
                                LargeValue::new(
                                    LargeKind::Binary,
                                    noise(random.usize(1..400_000), random.u64(..5)),
                                )
                            })
                            .collect();
                        let schema = random.bool().then_some(&version);
                        let text = text(random.usize(..60_000), random.u64(..));
                        event(next, row, &text, schema, values)
                    })
                    .collect();
                let batch = batch_of(next, events);
                match spool.append(&batch, 1).await {
                    Ok(()) => {
                        model.push_back(batch);
                        next += 1;
                    }
                    Err(error) => {
                        assert_eq!(error.kind(), Kind::SpoolUnavailable, "{error}");
                        refused += 1;
                    }
                }
            }
            60..75 => {
                let count = random.usize(..=model.len().min(6));
                if let Some(last) = count.checked_sub(1).and_then(|index| model.get(index)) {
                    spool.remove_through(last.number()).await.unwrap();
                    model.drain(..count);
                }
            }
            75..85 => {
                drop(spool);
                spool = Spool::open(&settings, SOURCE).await.unwrap();
            }
            85..87 if !model.is_empty() => {
                let at = random.usize(model.len() / 2..model.len());
                let number = model[at].number();
                spool.keep_before(number, "test").await.unwrap();
                model.truncate(at);
                next = number;
                aside += 1;
            }
            _ => {
                if !model.is_empty() {
                    let expected = &model[random.usize(..model.len())];
                    assert_equal(&spool.read(expected.number()).await.unwrap(), expected);
                }
            }
        }
        let ends = model.front().zip(model.back());
        assert_eq!(
            spool.numbers(),
            ends.map(|(first, last)| (first.number(), last.number()))
        );
        let figures = spool.figures();
        assert_eq!(figures.batches, model.len() as u64);
        assert_eq!(
            figures.events,
            model
                .iter()
                .map(|batch| batch.events.len() as u64)
                .sum::<u64>()
        );
        assert!(
            bytes_on_disk(&spool) <= limit,
            "{} bytes",
            bytes_on_disk(&spool)
        );
    }
    for expected in &model {
        assert_equal(&spool.read(expected.number()).await.unwrap(), expected);
    }
    assert!(
        refused > 0 && aside > 0,
        "seed {seed}: {refused} refused, {aside} set aside"
    );
}
