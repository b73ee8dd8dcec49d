//! The batcher against what it promises: transactions whole, order kept, a restarted transaction exact.

use bson::{RawDocumentBuf, doc};

use super::*;
use crate::position::{BinlogPosition, Flavor};

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

fn gtid(number: u64) -> Arc<Gtid> {
    Arc::new(format!("{UUID}:{number}").parse().unwrap())
}

fn event(number: u64, row: u64) -> ChangeEvent {
    let id = format!("{number:020}{row:020}");
    let meta = doc! { "row": i64::try_from(row).unwrap() };
    let document = RawDocumentBuf::try_from(&doc! { "_id": id, "n": 0_i64, "meta": meta }).unwrap();
    ChangeEvent::from_document(document).unwrap()
}

fn end() -> Item {
    Item::End(TransactionEnd {
        file: "binlog.000001".into(),
        position: 4,
        server_uuid: UUID.into(),
        timestamp: DateTime::from_millis(0),
    })
}

fn start() -> Offset {
    Offset {
        position: BinlogPosition::default(),
        server_uuid: String::new(),
        flavor: Flavor::Mysql,
        batch: 0,
        n: 0,
        epoch: 1,
        last: None,
    }
}

/// Sends transaction `number` with `rows` rows.
fn transaction(batcher: &mut Batcher, number: u64, rows: u64) -> Vec<Batch> {
    let mut batches = Vec::new();
    batches.extend(batcher.push(Item::Begin(gtid(number))).unwrap());
    for row in 0..rows {
        batches.extend(batcher.push(Item::Change(event(number, row))).unwrap());
    }
    batches.extend(batcher.push(end()).unwrap());
    batches
}

fn rows(batch: &Batch) -> Vec<(u64, u64)> {
    batch
        .events
        .iter()
        .map(|event| (event.id()[..20].parse().unwrap(), event.row))
        .collect()
}

fn is_partial(event: &ChangeEvent) -> bool {
    event
        .document
        .get_document("meta")
        .unwrap()
        .get_bool("partial")
        .unwrap_or(false)
}

#[test]
fn a_batch_ends_where_a_transaction_ends() {
    let mut batcher = Batcher::new(start(), 10, usize::MAX);
    assert!(transaction(&mut batcher, 1, 6).is_empty());
    let batches = transaction(&mut batcher, 2, 6);
    assert_eq!(batches.len(), 1);
    assert_eq!(
        rows(&batches[0]),
        (0..6).map(|row| (1, row)).collect::<Vec<_>>()
    );
    assert_eq!(
        batches[0].next.position.gtid.to_string(),
        format!("{UUID}:1")
    );
    let rest = batcher.take_complete().unwrap();
    assert_eq!(rows(&rest), (0..6).map(|row| (2, row)).collect::<Vec<_>>());
    assert_eq!((rest.first_n, rest.next.n, rest.number()), (7, 12, 2));
    assert!(rest.follows(&batches[0].next.position));
    assert!(!rest.events.iter().any(is_partial));
}

#[test]
fn a_transaction_of_exactly_a_batch_is_not_cut() {
    let mut batcher = Batcher::new(start(), 5, usize::MAX);
    let batches = transaction(&mut batcher, 1, 5);
    assert_eq!(batches.len(), 1);
    assert_eq!(batches[0].events.len(), 5);
    assert!(batches[0].next.position.partial.is_none());
    assert!(!batches[0].events.iter().any(is_partial));
}

#[test]
fn a_transaction_larger_than_a_batch_is_cut_and_every_part_says_so() {
    let mut batcher = Batcher::new(start(), 5, usize::MAX);
    transaction(&mut batcher, 1, 1);
    let batches = transaction(&mut batcher, 2, 12);
    let sizes: Vec<_> = batches.iter().map(|batch| batch.events.len()).collect();
    assert_eq!(
        sizes,
        [1, 5, 5],
        "the transaction before it is not mixed into its first part"
    );
    assert!(!is_partial(&batches[0].events[0]));
    let mark = batches[1].next.position.partial.clone().unwrap();
    assert_eq!((&mark.gtid, mark.rows), (&*gtid(2), 5));
    assert_eq!(
        batches[1].next.position.gtid.to_string(),
        format!("{UUID}:1"),
        "it is not executed yet"
    );
    let last = batcher.take_complete().unwrap();
    assert_eq!(last.events.len(), 2);
    assert!(last.next.position.partial.is_none());
    assert_eq!(last.next.position.gtid.to_string(), format!("{UUID}:1-2"));
    for batch in [&batches[1], &batches[2], &last] {
        assert!(batch.events.iter().all(is_partial));
    }
}

fn rollback_to(row: u64, marker: u64) -> Item {
    Item::RollbackTo {
        row,
        marker: event(1, marker),
    }
}

#[test]
fn rows_behind_a_savepoint_are_taken_back_while_they_are_here() {
    let mut batcher = Batcher::new(start(), 100, usize::MAX);
    transaction(&mut batcher, 9, 2);
    batcher.push(Item::Begin(gtid(1))).unwrap();
    for row in 0..6 {
        batcher.push(Item::Change(event(1, row))).unwrap();
    }
    assert!(batcher.push(rollback_to(2, 6)).unwrap().is_none());
    batcher.push(Item::Change(event(1, 7))).unwrap();
    batcher.push(end()).unwrap();
    let batch = batcher.take_complete().unwrap();
    assert_eq!(rows(&batch), [(9, 0), (9, 1), (1, 0), (1, 1), (1, 7)]);
    let bytes: usize = batch.events.iter().map(ChangeEvent::bytes).sum();
    assert_eq!(batch.bytes, bytes);
}

#[test]
fn a_rollback_behind_rows_that_are_handed_out_is_recorded() {
    let mut batcher = Batcher::new(start(), 3, usize::MAX);
    batcher.push(Item::Begin(gtid(1))).unwrap();
    let mut out = Vec::new();
    for row in 0..5 {
        out.extend(batcher.push(Item::Change(event(1, row))).unwrap());
    }
    out.extend(batcher.push(rollback_to(1, 5)).unwrap());
    out.extend(batcher.push(end()).unwrap());
    out.extend(batcher.take_complete());
    let recorded: Vec<_> = out.iter().flat_map(rows).map(|(_, row)| row).collect();
    assert_eq!(recorded, [0, 1, 2, 3, 4, 5]);
}

#[test]
fn bytes_close_a_batch_and_a_single_larger_change_has_its_own() {
    let size = event(1, 0).bytes();
    let mut batcher = Batcher::new(start(), 1000, size * 2);
    let batches: Vec<_> = (1..=5)
        .flat_map(|number| transaction(&mut batcher, number, 1))
        .collect();
    assert_eq!(
        batches
            .iter()
            .map(|batch| batch.events.len())
            .collect::<Vec<_>>(),
        [2, 2]
    );
    let mut tiny = Batcher::new(start(), 1000, 1);
    assert_eq!(transaction(&mut tiny, 1, 1).len(), 1);
}

#[test]
fn a_reconnect_in_the_middle_of_a_transaction_doubles_nothing() {
    let mut batcher = Batcher::new(start(), 4, usize::MAX);
    batcher.push(Item::Begin(gtid(1))).unwrap();
    let mut out = Vec::new();
    for row in 0..6 {
        out.extend(batcher.push(Item::Change(event(1, row))).unwrap());
    }
    // Rows 0..4 are handed out, 4 and 5 are not; now the connection breaks and the transaction comes again.
    out.extend(transaction(&mut batcher, 1, 10));
    out.extend(batcher.take_complete());
    let seen: Vec<_> = out.iter().flat_map(rows).collect();
    assert_eq!(seen, (0..10).map(|row| (1, row)).collect::<Vec<_>>());
    assert!(out.iter().flat_map(|batch| &batch.events).all(is_partial));
}

#[test]
fn an_interrupted_transaction_that_was_not_cut_may_come_later() {
    let mut batcher = Batcher::new(start(), 100, usize::MAX);
    transaction(&mut batcher, 1, 1);
    batcher.push(Item::Begin(gtid(2))).unwrap();
    batcher.push(Item::Change(event(2, 0))).unwrap();
    transaction(&mut batcher, 3, 1);
    transaction(&mut batcher, 2, 2);
    let batch = batcher.take_complete().unwrap();
    assert_eq!(rows(&batch), [(1, 0), (3, 0), (2, 0), (2, 1)]);
}

#[test]
fn a_cut_transaction_must_go_on_and_no_other() {
    let mut batcher = Batcher::new(start(), 2, usize::MAX);
    batcher.push(Item::Begin(gtid(7))).unwrap();
    for row in 0..3 {
        batcher.push(Item::Change(event(7, row))).unwrap();
    }
    let error = batcher.push(Item::Begin(gtid(8))).unwrap_err();
    assert!(
        error
            .to_string()
            .contains(&format!("{UUID}:7 is recorded up to row 2")),
        "{error}"
    );
}

#[test]
fn a_restart_resumes_a_cut_transaction_behind_its_last_committed_row() {
    let mut offset = start();
    offset.n = 4;
    offset.batch = 1;
    offset.position.partial = Some(PartialTransaction {
        gtid: Gtid::clone(&gtid(1)),
        rows: 4,
    });
    let mut batcher = Batcher::new(offset, 100, usize::MAX);
    transaction(&mut batcher, 1, 6);
    let batch = batcher.take_complete().unwrap();
    assert_eq!(rows(&batch), [(1, 4), (1, 5)]);
    assert_eq!((batch.first_n, batch.number()), (5, 2));
    assert!(batch.events.iter().all(is_partial));
    let numbers: Vec<_> = batch
        .events
        .iter()
        .map(|event| event.document.get_i64("n").unwrap())
        .collect();
    assert_eq!(numbers, [5, 6]);
}

#[test]
fn empty_transactions_move_the_offset_without_a_document() {
    let mut batcher = Batcher::new(start(), 100, usize::MAX);
    assert!(batcher.take_complete().is_none());
    transaction(&mut batcher, 1, 0);
    assert!(batcher.has_progress() && !batcher.has_complete_events());
    let batch = batcher.take_complete().unwrap();
    assert!(batch.events.is_empty());
    assert_eq!(batch.next.position.gtid.to_string(), format!("{UUID}:1"));
    assert!(batcher.take_complete().is_none());
    assert_eq!(batcher.touch().unwrap().number(), 2);
}

#[test]
fn a_change_without_its_transaction_is_an_error() {
    let mut batcher = Batcher::new(start(), 100, usize::MAX);
    assert_eq!(
        batcher.push(Item::Change(event(1, 0))).unwrap_err(),
        BatchError::NoTransaction
    );
    assert_eq!(batcher.push(end()).unwrap_err(), BatchError::NoTransaction);
}

/// Random transactions, random limits, random interruptions: every row comes out once, in order, and no batch but a cut one
/// ends inside a transaction.
#[test]
fn random_interruptions_never_lose_or_double_a_row() {
    for seed in 0..500 {
        let mut random = fastrand::Rng::with_seed(seed);
        let mut batcher = Batcher::new(start(), random.usize(1..8), usize::MAX);
        let mut out: Vec<Batch> = Vec::new();
        let mut expected = Vec::new();
        for number in 1..20 {
            let rows = random.u64(0..15);
            expected.extend((0..rows).map(|row| (number, row)));
            while random.bool() {
                out.extend(batcher.push(Item::Begin(gtid(number))).unwrap());
                for row in 0..random.u64(0..=rows) {
                    out.extend(batcher.push(Item::Change(event(number, row))).unwrap());
                }
            }
            out.extend(transaction(&mut batcher, number, rows));
            if random.bool() {
                out.extend(batcher.take_complete());
            }
        }
        out.extend(batcher.take_complete());
        assert_eq!(
            out.iter().flat_map(rows).collect::<Vec<_>>(),
            expected,
            "seed {seed}"
        );
        let numbers: Vec<_> = out
            .iter()
            .flat_map(|b| &b.events)
            .map(|event| event.document.get_i64("n").unwrap())
            .collect();
        assert_eq!(
            numbers,
            (1..=i64::try_from(expected.len()).unwrap()).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert!(
            out.windows(2)
                .all(|pair| pair[1].follows(&pair[0].next.position)),
            "seed {seed}"
        );
    }
}
