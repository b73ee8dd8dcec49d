//! What is damaged is noticed, set aside, and what is good is kept.

use super::*;
use crate::recovery::settle_spool;

#[tokio::test]
async fn a_flipped_bit_is_noticed_and_the_batches_before_it_are_kept() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 1..=6 {
        spool
            .append(&batch(number, 3, &format!("the text of batch {number}")), 4)
            .await
            .unwrap();
    }
    let path = spool.path().to_owned();
    drop(spool);
    damage(&path, b"the text of batch 4");
    let spool = directory.open().await;
    assert_eq!(spool.numbers(), Some((1, 6)), "only reading it tells");
    let error = spool.read(4).await.unwrap_err();
    assert_eq!(error.kind(), Kind::SpoolDamaged);
    assert!(error.to_string().contains("batch 4"), "{error}");
    assert!(error.to_string().contains(&gtid(4).to_string()), "{error}");
    assert!(!error.to_string().contains("the text"), "{error}");
    assert_equal(
        &spool.read(5).await.unwrap(),
        &batch(5, 3, "the text of batch 5"),
    );

    let aside = spool.keep_before(4, &error.to_string()).await.unwrap();
    assert!(
        aside.to_str().unwrap().contains(".damaged-"),
        "{}",
        aside.display()
    );
    assert_eq!(spool.numbers(), Some((1, 3)));
    assert_eq!(spool.figures().events, 9);
    for number in 1..=3 {
        assert_equal(
            &spool.read(number).await.unwrap(),
            &batch(number, 3, &format!("the text of batch {number}")),
        );
    }
    assert_eq!(
        query::<i64>(&spool, "select epoch from batches where batch = 3"),
        4
    );
    spool.append(&batch(4, 3, "read again"), 4).await.unwrap();
    let kept: i64 = Connection::open(&aside)
        .unwrap()
        .query_row("select count(*) from batches", [], |row| row.get(0))
        .unwrap();
    assert_eq!(kept, 6, "nothing is deleted");
}

#[tokio::test]
async fn damage_to_what_a_batch_refers_to_is_noticed() {
    let directory = Directory::new();
    for (needle, length) in [
        (&b"needle in a value"[..], 9 * MIB as usize),
        (b"orders-schema", 10),
    ] {
        let spool = directory.open().await;
        let mut bytes = noise(length, 3);
        bytes.extend_from_slice(b"needle in a value");
        let value = LargeValue::new(LargeKind::Binary, bytes);
        let version = schema("orders-schema");
        let mut only = batch_of(1, vec![event(1, 0, "a", Some(&version), vec![value])]);
        spool.append(&only, 1).await.unwrap();
        // One more, since the last batch is verified at start.
        only = batch(2, 1, "a");
        spool.append(&only, 1).await.unwrap();
        let path = spool.path().to_owned();
        drop(spool);
        damage(&path, needle);
        let spool = directory.open().await;
        let error = spool.read(1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::SpoolDamaged, "{error}");
        assert_eq!(spool.ends().await.unwrap_err().kind(), Kind::SpoolDamaged);
        spool.keep_before(1, "test").await.unwrap();
        assert_eq!(spool.numbers(), None);
    }
}

#[tokio::test]
async fn a_batch_whose_reference_vanished_is_damaged() {
    let directory = Directory::new();
    let spool = directory.open().await;
    let value = LargeValue::new(LargeKind::String, b"some text".to_vec());
    let version = schema("orders-1");
    for table in ["batch_values", "batch_schemas", "pieces", "schemas"] {
        let only = batch_of(
            1,
            vec![event(1, 0, "a", Some(&version), vec![value.clone()])],
        );
        spool.append(&only, 1).await.unwrap();
        Connection::open(spool.path())
            .unwrap()
            .execute(&format!("delete from {table}"), [])
            .unwrap();
        let error = spool.read(1).await.unwrap_err();
        assert_eq!(error.kind(), Kind::SpoolDamaged, "{table}: {error}");
        spool.remove_through(1).await.unwrap();
    }
}

#[tokio::test]
async fn a_damaged_file_is_set_aside_at_start_and_its_good_batches_are_kept() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 1..=6 {
        spool
            .append(
                &batch(number, 100, &format!("the text of batch {number}")),
                1,
            )
            .await
            .unwrap();
    }
    // In the middle of its packed events.
    let middle = "select substr(content, length(content) / 2, 16) from batches where batch = 6";
    let needle: Vec<u8> = query(&spool, middle);
    let path = spool.path().to_owned();
    drop(spool);
    damage(&path, &needle);
    let spool = directory.open().await;
    assert_eq!(
        spool.numbers(),
        Some((1, 5)),
        "the last batch is verified at start"
    );
    assert_eq!(files(&spool, ".damaged-").len(), 1);
    spool.append(&batch(6, 1, "a"), 1).await.unwrap();
    drop(spool);

    // Cut off: what lies before the cut is kept.
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    let spool = directory.open().await;
    assert_eq!(files(&spool, ".damaged-").len(), 2);
    let kept = spool.numbers().map_or(0, |(first, last)| {
        assert_eq!(first, 1);
        last
    });
    assert!(kept < 6);
    for number in 1..=kept {
        assert_equal(
            &spool.read(number).await.unwrap(),
            &batch(number, 100, &format!("the text of batch {number}")),
        );
    }
    spool.append(&batch(kept + 1, 1, "a"), 1).await.unwrap();
    drop(spool);

    // Nothing of SQLite at all.
    std::fs::write(&path, noise(100_000, 4)).unwrap();
    let spool = directory.open().await;
    assert_eq!(spool.numbers(), None);
    assert_eq!(files(&spool, ".damaged-").len(), 3);
    spool.append(&batch(1, 1, "a"), 1).await.unwrap();
}

#[tokio::test]
async fn a_crash_while_a_file_is_replaced_is_finished_at_the_next_start() {
    let directory = Directory::new();
    let spool = directory.open().await;
    spool.append(&batch(1, 1, "a"), 1).await.unwrap();
    let path = spool.path().to_owned();
    drop(spool);
    // The old file is renamed, the new one not yet.
    std::fs::rename(&path, with_suffix(&path, ".new")).unwrap();
    let spool = directory.open().await;
    assert_eq!(spool.numbers(), Some((1, 1)));
    drop(spool);
    // Both are there: the new one is unfinished.
    std::fs::write(with_suffix(&path, ".new"), b"unfinished").unwrap();
    let spool = directory.open().await;
    assert_eq!(spool.numbers(), Some((1, 1)));
    assert!(!with_suffix(&path, ".new").exists());
}

#[tokio::test]
async fn what_is_set_aside_is_kept_under_a_new_name() {
    let directory = Directory::new();
    let spool = directory.open().await;
    let mut names = Vec::new();
    for _ in 0..3 {
        spool.append(&batch(5, 2, "a"), 1).await.unwrap();
        let aside = spool
            .set_aside("it does not continue the offset")
            .await
            .unwrap();
        assert!(aside.to_str().unwrap().contains(".superseded-"));
        assert_eq!((spool.numbers(), spool.figures().events), (None, 0));
        let count: i64 = Connection::open(&aside)
            .unwrap()
            .query_row("select count(*) from batches", [], |row| row.get(0))
            .unwrap();
        assert_eq!(count, 1);
        names.push(aside);
    }
    names.dedup();
    assert_eq!(names.len(), 3);
}

/// Covered batches may still be there when the one behind them is damaged: reading goes on where MongoDB's offset ends, and not where
/// the spool once did.
#[tokio::test]
async fn what_is_damaged_behind_the_offset_is_not_jumped() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 2..=8 {
        let text = format!("the text of batch {number}");
        spool.append(&batch(number, 3, &text), 1).await.unwrap();
    }
    let path = spool.path().to_owned();
    drop(spool);
    damage(&path, b"the text of batch 5");
    let spool = directory.open().await;
    let offset = batch(4, 3, "").next;
    let end = settle_spool(&offset, &spool).await.unwrap();
    assert_eq!(end, None, "the binlog is read from the offset on");
    assert_eq!(spool.numbers(), None);
    assert_eq!(files(&spool, ".damaged-").len(), 1);
}

#[tokio::test]
async fn a_whole_spool_goes_on_from_the_offset_to_its_end() {
    let directory = Directory::new();
    let spool = directory.open().await;
    for number in 2..=8 {
        spool.append(&batch(number, 3, "text"), 1).await.unwrap();
    }
    let offset = batch(4, 3, "").next;
    let end = settle_spool(&offset, &spool).await.unwrap().unwrap();
    assert_eq!(end.position.gtid, set(8));
    assert_eq!(spool.numbers(), Some((5, 8)));
}
