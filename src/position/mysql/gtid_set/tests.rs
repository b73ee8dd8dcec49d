use std::collections::HashSet;

use super::*;
use crate::position::mysql::{MAX_TRANSACTION_NUMBER, format_uuid};

const ONE: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
const TWO: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

fn set(text: &str) -> GtidSet {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn gtid(text: &str) -> Gtid {
    text.parse()
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn what_servers_print_reads_and_prints_in_one_form() {
    for (text, printed) in [
        (String::new(), String::new()),
        (" \n\t".to_owned(), String::new()),
        // 5.7, 8.0: several servers, a line break behind the comma.
        (
            format!("{ONE}:1-5:7-9,\n{TWO}:3"),
            format!("{ONE}:1-5:7-9,{TWO}:3"),
        ),
        // 8.3 and later: the tags behind the untagged intervals.
        (
            format!("{ONE}:1-54:tag1:1-3:5:tag2:7"),
            format!("{ONE}:1-54:tag1:1-3:5:tag2:7"),
        ),
        (format!("{ONE}:tag1:1"), format!("{ONE}:tag1:1")),
        // What people write: order, case, white space, repeats, overlaps, neighbours.
        (format!("{TWO}:1,{ONE}:1"), format!("{ONE}:1,{TWO}:1")),
        (
            format!("{}:B:2:a:1:B:3:5", ONE.to_uppercase()),
            format!("{ONE}:a:1:b:2-3:5"),
        ),
        (
            format!(" {ONE} : 7 - 9 : 1 - 5 ,\r\n {ONE} : 6 "),
            format!("{ONE}:1-9"),
        ),
        (
            format!("{ONE}:1-10:3-4:9-12:20:21:5"),
            format!("{ONE}:1-12:20-21"),
        ),
        (format!("{ONE}:t:1,{ONE}:1"), format!("{ONE}:1:t:1")),
        (
            format!("{ONE}:1-{MAX_TRANSACTION_NUMBER}"),
            format!("{ONE}:1-{MAX_TRANSACTION_NUMBER}"),
        ),
    ] {
        let read = set(&text);
        assert_eq!(read.to_string(), printed, "{text}");
        assert_eq!(set(&printed), read, "{text}");
        assert_eq!(set(&printed.replace(',', ",\n")), read, "{text}");
    }
}

#[test]
fn wrong_sets_are_errors_that_show_the_part() {
    for (text, part) in [
        ("nonsense".to_owned(), "`nonsense`"),
        (ONE.to_owned(), "no transaction number"),
        (format!("{ONE}:"), "``"),
        (format!("{ONE}:1:"), "``"),
        (format!("{ONE}:1,"), "is the text complete?"),
        (format!(",{ONE}:1"), "is the text complete?"),
        (format!("{ONE}:1,,{TWO}:1"), "is the text complete?"),
        (format!("{ONE}:0"), "`0`"),
        (format!("{ONE}:0-5"), "`0`"),
        (format!("{ONE}:5-4"), "`5-4` ends before it begins"),
        (format!("{ONE}:5-"), "``"),
        (format!("{ONE}:5-6-7"), "`6-7`"),
        (format!("{ONE}:-5"), "`-5`"),
        (format!("{ONE}:1 2"), "`1 2`"),
        (format!("{ONE}:1e3"), "`1e3`"),
        (
            format!("{ONE}:9223372036854775807"),
            "`9223372036854775807`",
        ),
        (
            format!("{ONE}:1-99999999999999999999999"),
            "`99999999999999999999999`",
        ),
        (format!("{ONE}:tag"), "no transaction number"),
        (format!("{ONE}:1:tag1:tag2:3"), "no transaction number"),
        (format!("{ONE}:1:tag-1:3"), "`tag-1`"),
        (format!("{ONE}:{}:3", "t".repeat(33)), "ttt"),
        (format!("{ONE}:1 {TWO}:1"), "`1 4e11"),
        (format!("{ONE}:1;{TWO}:1"), "`1;4e11"),
        (ONE.replace('-', "") + ":1", "3e11fa4771ca"),
        // MariaDB's form.
        ("0-1-100,1-1-5".to_owned(), "`0-1-100`"),
    ] {
        let error = text.parse::<GtidSet>().expect_err(&text).to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn adding_extends_fills_and_reports_news() {
    let mut executed = GtidSet::new();
    for (number, news, printed) in [
        (5, true, "5"),
        (5, false, "5"),
        (6, true, "5-6"),
        (9, true, "5-6:9"),
        (1, true, "1:5-6:9"),
        (8, true, "1:5-6:8-9"),
        (7, true, "1:5-9"),
        (2, true, "1-2:5-9"),
        (6, false, "1-2:5-9"),
        (4, true, "1-2:4-9"),
        (3, true, "1-9"),
        (MAX_TRANSACTION_NUMBER, true, "1-9:9223372036854775806"),
    ] {
        let added = gtid(&format!("{ONE}:{number}"));
        assert_eq!(executed.contains(&added), !news, "{number}");
        assert_eq!(executed.add(&added), news, "{number}");
        assert_eq!(executed.to_string(), format!("{ONE}:{printed}"));
        assert!(executed.contains(&added));
    }
    assert_eq!(executed.count(), 10);
    assert!(!executed.contains(&gtid(&format!("{ONE}:tag:5"))));
    assert!(!executed.contains(&gtid(&format!("{TWO}:5"))));
}

#[test]
fn the_dump_request_gets_exclusive_ends() {
    let executed = set(&format!("{ONE}:1-5:7:tag1:2-3,{TWO}:9"));
    let parts: Vec<_> = executed
        .iter()
        .map(|source| {
            let ends: Vec<_> = source
                .intervals()
                .iter()
                .map(|interval| (interval.start, interval.end))
                .collect();
            (
                format_uuid(&source.uuid()),
                source.tag().map(ToString::to_string),
                ends,
            )
        })
        .collect();
    assert_eq!(
        parts,
        [
            (ONE.to_owned(), None, vec![(1, 6), (7, 8)]),
            (ONE.to_owned(), Some("tag1".to_owned()), vec![(2, 4)]),
            (TWO.to_owned(), None, vec![(9, 10)]),
        ]
    );
}

#[test]
fn purged_and_executed_compare_as_the_server_does() {
    let saved = set(&format!("{ONE}:1-10:tag:1-2"));
    assert!(GtidSet::new().is_subset(&saved));
    assert!(!saved.is_subset(&GtidSet::new()));
    assert!(saved.is_subset(&saved));
    // The missing range of a binlog gap is what is purged and was never read.
    let purged = set(&format!("{ONE}:1-15:tag:1,{TWO}:1-3"));
    assert!(!purged.is_subset(&saved));
    let missing = purged.subtract(&saved);
    assert_eq!(missing, set(&format!("{ONE}:11-15,{TWO}:1-3")));
    assert_eq!(missing.count(), 8);
    assert_eq!(saved.subtract(&saved), GtidSet::new());
    assert_eq!(
        saved.union(&purged).to_string(),
        format!("{ONE}:1-15:tag:1-2,{TWO}:1-3")
    );
}

#[test]
fn many_servers_together_pass_64_bits() {
    let all: Vec<_> = (0..4_u8)
        .map(|byte| format!("{}:1-{MAX_TRANSACTION_NUMBER}", format_uuid(&[byte; 16])))
        .collect();
    let all = set(&all.join(","));
    assert_eq!(all.count(), 4 * u128::from(MAX_TRANSACTION_NUMBER));
    assert!(all.count() > u128::from(u64::MAX));
}

/// Sources and numbers are few, so random sets overlap, touch and nest.
fn random_gtid(random: &mut fastrand::Rng) -> Gtid {
    let tags = [None, Some("a"), Some("b_2")];
    let tag = tags[random.usize(..tags.len())].map(|tag| Tag::new(tag).unwrap());
    Gtid::new([random.u8(0..2); 16], tag, random.u64(1..=24)).unwrap()
}

fn random_pair(random: &mut fastrand::Rng) -> (GtidSet, HashSet<Gtid>) {
    let (mut set, mut model) = (GtidSet::new(), HashSet::new());
    for _ in 0..random.usize(..120) {
        let gtid = random_gtid(random);
        assert_eq!(set.add(&gtid), model.insert(gtid));
    }
    (set, model)
}

fn assert_same(set: &GtidSet, model: &HashSet<Gtid>) {
    assert_eq!(set.count(), model.len() as u128);
    assert!(model.iter().all(|gtid| set.contains(gtid)));
    assert_eq!(set.is_empty(), model.is_empty());
    // The one form: sorted sources, none empty; sorted intervals, none empty, none touching.
    assert!(set.sources.is_sorted_by(|one, two| one.key() < two.key()));
    for source in &set.sources {
        assert!(!source.intervals.is_empty());
        assert!(source.intervals.iter().all(|one| one.start < one.end));
        assert!(
            source
                .intervals
                .is_sorted_by(|one, two| one.end < two.start)
        );
    }
    assert_eq!(set.to_string().parse::<GtidSet>().as_ref(), Ok(set));
}

#[test]
fn random_sets_behave_like_plain_sets() {
    let mut random = fastrand::Rng::with_seed(20_240_601);
    for _ in 0..800 {
        let (one, one_model) = random_pair(&mut random);
        let (two, two_model) = random_pair(&mut random);
        assert_same(&one, &one_model);
        assert_same(&one.union(&two), &(&one_model | &two_model));
        assert_same(&one.subtract(&two), &(&one_model - &two_model));
        assert_eq!(one.is_subset(&two), one_model.is_subset(&two_model));
        assert_eq!(one == two, one_model == two_model);
        // Random sets are seldom subsets of each other; these are.
        let part = one.subtract(&two);
        assert!(part.is_subset(&one));
        assert!(one.is_subset(&one.union(&two)));
        assert_eq!(part.is_subset(&two), part.is_empty());
        assert_eq!(part.union(&two), one.union(&two));
        for _ in 0..10 {
            let gtid = random_gtid(&mut random);
            assert_eq!(one.contains(&gtid), one_model.contains(&gtid));
        }
    }
}

#[test]
fn the_order_of_adding_does_not_matter() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..200 {
        let (set, model) = random_pair(&mut random);
        let mut gtids: Vec<_> = model.into_iter().collect();
        random.shuffle(&mut gtids);
        let mut again = GtidSet::new();
        for gtid in &gtids {
            again.add(gtid);
        }
        assert_eq!(again, set);
        assert_eq!(again.to_string(), set.to_string());
    }
}

#[test]
fn random_text_never_panics() {
    let mut random = fastrand::Rng::with_seed(11);
    let pieces = [
        ONE,
        TWO,
        ":",
        "-",
        ",",
        "1",
        "5",
        "0",
        "tag",
        "_",
        " ",
        "\n",
        "é",
        "9223372036854775806",
        "9223372036854775807",
    ];
    for _ in 0..10_000 {
        let text: String = (0..random.usize(..12))
            .map(|_| pieces[random.usize(..pieces.len())])
            .collect();
        if let Ok(set) = text.parse::<GtidSet>() {
            assert_eq!(set.to_string().parse::<GtidSet>(), Ok(set), "{text:?}");
        }
    }
}
