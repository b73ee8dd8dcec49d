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
