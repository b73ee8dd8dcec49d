//! Which answers are used for which rows.

use super::super::information_schema::{ColumnNow, column_kind};
use super::*;
use crate::position::Flavor;
use crate::source::decode::captured::bytes;

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// `t2.f2 (id INT PRIMARY KEY, a JSON, k INT, b JSON)` of MySQL, table id 0x7b, binlog_row_metadata=MINIMAL.
const MINIMAL: &str = "7b00000000000100027432000266320004 03f503f5 020404 0e 010100";

/// `p.t (id INT, u …, v …, d …)` of MariaDB: INT, BINARY(16), VARBINARY(12), BINARY(4); FULL.
const BINARIES: &str = "150000000000010001700001740004 03fe0ffe 06 fe10 0c00 fe04 0e 010100 02013f 0409 02696401750176 0164";

fn event(hex: &str, flavor: Flavor) -> Arc<TableSchema> {
    Arc::new(TableSchema::parse(flavor, &bytes(hex)).unwrap())
}

fn minimal() -> Arc<TableSchema> {
    event(MINIMAL, Flavor::Mysql)
}

fn set(last: u64) -> GtidSet {
    match last {
        0 => GtidSet::new(),
        last => format!("{UUID}:1-{last}").parse().unwrap(),
    }
}

fn gtid(number: u64) -> Gtid {
    format!("{UUID}:{number}").parse().unwrap()
}

fn table(columns: &[(&str, &str, bool)]) -> TableNow {
    let columns = columns.iter().map(|(name, column_type, nullable)| {
        let octets = column_type
            .split_once("binary(")
            .and_then(|(_, rest)| rest.trim_end_matches(')').parse().ok());
        ColumnNow {
            name: (*name).to_owned(),
            kind: column_kind(Flavor::Mariadb, column_type, octets, None),
            nullable: *nullable,
            visible: true,
        }
    });
    TableNow {
        columns: columns.collect(),
        key: vec![0],
    }
}

const F2: [(&str, &str, bool); 4] = [
    ("id", "int", false),
    ("a", "json", true),
    ("k", "int", true),
    ("b", "json", true),
];

fn answer(before: u64, after: u64, columns: &[(&str, &str, bool)]) -> Option<Answer> {
    Some(Answer {
        before: set(before),
        after: set(after),
        table: (!columns.is_empty()).then(|| table(columns)),
    })
}

/// A lookup that has asked for `t2.f2` while transactions to `read` were read.
fn asked(answer: Option<Answer>, read: u64) -> Lookup {
    let mut lookup = Lookup::default();
    let now = Instant::now();
    let wanted = lookup.wants(&minimal(), 0x7b, true, now).unwrap();
    assert!(wanted.names && !wanted.is_required);
    lookup.learn(&wanted, answer, &set(read), now);
    lookup
}

/// The names that a row of transaction `number` gets, when all before it were read.
fn names(lookup: &mut Lookup, number: u64) -> String {
    let schema = lookup.complete(minimal(), 0x7b, &set(number - 1), &gtid(number));
    let names: Vec<&str> = schema
        .columns
        .iter()
        .map(|column| &column.name[..])
        .collect();
    names.join(" ")
}

const NUMBERED: &str = "@1 @2 @3 @4";

#[test]
fn on_a_quiet_server_the_first_row_has_its_names() {
    // Whether or not the row's own transaction counts as executed yet.
    for executed in [6, 7] {
        let mut lookup = asked(answer(6, executed, &F2), 6);
        assert_eq!(names(&mut lookup, 7), "id a k b");
    }
    let mut lookup = asked(answer(7, 7, &F2), 6);
    let schema = lookup.complete(minimal(), 0x7b, &set(6), &gtid(7));
    assert!(schema.resolved && schema.is_complete());
    assert_eq!(schema.key, [0]);
    // The same answer and the same event give the same schema.
    let again = lookup.complete(minimal(), 0x7b, &set(7), &gtid(8));
    assert_eq!(again.id, schema.id);
}

#[test]
fn names_wait_until_all_that_they_may_show_was_read() {
    let mut lookup = asked(answer(20, 25, &F2), 6);
    for number in [7, 8, 24] {
        assert_eq!(names(&mut lookup, number), NUMBERED);
    }
    assert_eq!(names(&mut lookup, 25), "id a k b");
    assert_eq!(names(&mut lookup, 90), "id a k b");
}

#[test]
fn a_schema_change_that_the_answer_need_not_show_ends_it() {
    for (changed_by, kept) in [(20, true), (21, false), (26, false)] {
        let mut lookup = asked(answer(20, 25, &F2), 6);
        lookup.statement(&gtid(changed_by));
        let expected = if kept { "id a k b" } else { NUMBERED };
        assert_eq!(names(&mut lookup, 30), expected, "{changed_by}");
        let wanted = lookup.wants(&minimal(), 0x7b, true, Instant::now());
        assert_eq!(wanted.is_none(), kept);
    }
}

#[test]
fn an_answer_from_before_what_was_read_is_none() {
    // A server sends a transaction a moment before it counts it as executed; it may be the renaming one.
    let mut lookup = asked(answer(5, 5, &F2), 6);
    assert_eq!(names(&mut lookup, 7), NUMBERED);
    let now = Instant::now();
    assert_eq!(lookup.wants(&minimal(), 0x7b, true, now), None);
    let later = now + PAUSE_FOR_EXECUTED;
    assert!(lookup.wants(&minimal(), 0x7b, true, later).is_some());
}

#[test]
fn a_table_of_another_number_is_asked_for_again() {
    let mut lookup = asked(answer(6, 7, &F2), 6);
    let schema = lookup.complete(minimal(), 0x7c, &set(7), &gtid(8));
    assert!(!schema.resolved);
    let now = Instant::now();
    assert!(lookup.wants(&minimal(), 0x7c, true, now).is_some());
    assert!(lookup.wants(&minimal(), 0x7b, true, now).is_none());
}

#[test]
fn what_does_not_agree_is_not_used() {
    let changed = |index: usize, column: (&'static str, &'static str, bool)| {
        let mut columns = F2.to_vec();
        columns[index] = column;
        columns
    };
    let mut longer = F2.to_vec();
    longer.push(("c", "int", true));
    for columns in [
        F2[..3].to_vec(),
        longer,
        Vec::new(),
        changed(0, ("id", "int unsigned", false)),
        changed(0, ("id", "bigint", false)),
        changed(1, ("a", "longtext", true)),
        changed(2, ("k", "int", false)),
        changed(2, ("k", "money", true)),
    ] {
        let mut lookup = asked(answer(6, 7, &columns), 6);
        assert_eq!(names(&mut lookup, 7), NUMBERED, "{columns:?}");
        // And it is no use to ask again before something changes.
        assert_eq!(lookup.wants(&minimal(), 0x7b, true, Instant::now()), None);
    }
}

#[test]
fn a_table_without_an_answer_is_left_alone_for_a_while() {
    let lookup = asked(None, 6);
    let now = Instant::now();
    assert_eq!(lookup.wants(&minimal(), 0x7b, true, now), None);
    let later = now + PAUSE_AFTER_FAILURE;
    assert!(lookup.wants(&minimal(), 0x7b, true, later).is_some());
}

#[test]
fn what_tells_enough_or_is_left_out_is_not_asked_for() {
    let lookup = Lookup::default();
    let now = Instant::now();
    let full = event(crate::source::decode::captured::JSON, Flavor::Mysql);
    assert_eq!(lookup.wants(&full, 1, true, now), None);
    assert_eq!(lookup.wants(&minimal(), 1, false, now), None);
    // BINARY(16) of MySQL is what it says.
    let binaries = event(BINARIES, Flavor::Mysql);
    assert_eq!(lookup.wants(&binaries, 1, true, now), None);
}

#[test]
fn types_are_taken_by_the_columns_name_where_the_form_is_the_same() {
    let binaries = event(BINARIES, Flavor::Mariadb);
    let mut lookup = Lookup::default();
    let now = Instant::now();
    let wanted = lookup.wants(&binaries, 0x15, true, now).unwrap();
    assert!(wanted.is_required && !wanted.names);
    // A hidden column more, another order, and one of the types has another form.
    let columns = [
        ("id", "int(11)", false),
        ("d", "uuid", true),
        ("v", "vector(3)", true),
        ("u", "inet6", true),
        ("hidden", "int(11)", true),
    ];
    // What was executed, and whether it was read, does not matter.
    lookup.learn(&wanted, answer(3, 90, &columns), &set(6), now);
    let schema = lookup.complete(Arc::clone(&binaries), 0x15, &set(6), &gtid(7));
    let types: Vec<String> = schema
        .columns
        .iter()
        .map(|column| column.kind.type_text())
        .collect();
    assert_eq!(types, ["int", "inet6", "vector(3)", "binary(4)"]);
    assert_ne!(schema.id, binaries.id);
    let again = lookup.complete(Arc::clone(&binaries), 0x16, &set(7), &gtid(8));
    assert!(Arc::ptr_eq(&schema, &again));
    assert_eq!(lookup.wants(&binaries, 0x16, true, now), None);
    lookup.statement(&gtid(4));
    assert!(lookup.wants(&binaries, 0x16, true, now).is_some());
}
