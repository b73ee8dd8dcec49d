//! The grammar, event by event: what it lets through, and that everything else is an error which names its place.

use bson::DateTime;

use super::*;
use crate::config::Sources;
use crate::source::wire_events::{Server, UUID, query_body};

fn assembler() -> Assembler {
    let settings = [
        ("MYSQL_ADDR", "db:3306"),
        ("MYSQL_USER", "sdl"),
        ("MONGO_URI", "mongodb://m/?replicaSet=rs0"),
        ("EXCLUDE_REGEX", r"^shop\.secret$"),
    ];
    let config = Config::from_sources(&Sources::from_environment(settings)).unwrap();
    Assembler::new(&config, Flavor::Mysql, GtidSet::new(), None)
}

fn feed(assembler: &mut Assembler, events: &[Event]) -> Result<Vec<Item>> {
    let mut chunk = Chunk::default();
    for event in events {
        assembler.event(event, &mut chunk)?;
    }
    Ok(chunk.items)
}

fn refused(events: &[Event]) -> Error {
    feed(&mut assembler(), events).unwrap_err()
}

fn documents(items: &[Item]) -> Vec<String> {
    let meta = |event: &crate::event::ChangeEvent| {
        let op = event.document.get_str("op").unwrap().to_owned();
        let meta = event.document.get_document("meta").unwrap();
        format!(
            "{op} {}.{}",
            meta.get_str("db").unwrap(),
            meta.get_str("tbl").unwrap()
        )
    };
    items
        .iter()
        .filter_map(|item| match item {
            Item::Change(event) => Some(meta(event)),
            _ => None,
        })
        .collect()
}

#[test]
fn a_schema_change_is_a_transaction_by_itself() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let items = feed(
        &mut assembler,
        &[server.gtid(1, 0), server.query("CREATE TABLE t (a INT)")],
    )
    .unwrap();
    assert_eq!(documents(&items), ["ddl shop.t"]);
    assert!(
        matches!(items.first(), Some(Item::Begin(_))) && matches!(items.last(), Some(Item::End(_)))
    );
    assert_eq!(assembler.read().to_string(), format!("{UUID}:1"));
}

#[test]
fn markers_make_no_documents_and_an_empty_transaction_moves_the_position() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let events = [
        server.gtid(1, 0),
        server.query("BEGIN"),
        server.query("SAVEPOINT `a`"),
        server.query("ROLLBACK TO `a`"),
        server.query("COMMIT"),
        server.gtid(2, 0),
        server.query("BEGIN"),
        server.xid(),
    ];
    let items = feed(&mut assembler, &events).unwrap();
    assert!(documents(&items).is_empty());
    assert_eq!(assembler.read().to_string(), format!("{UUID}:1-2"));
}

#[test]
fn a_filtered_table_is_left_out_and_its_transaction_is_not() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let items = feed(
        &mut assembler,
        &[server.gtid(1, 0), server.query("DROP TABLE secret")],
    )
    .unwrap();
    assert!(documents(&items).is_empty());
    assert_eq!(assembler.transactions(), 1);
}

#[test]
fn a_statement_inside_a_transaction_is_recorded_as_its_text() {
    let mut server = Server::new();
    let events = [
        server.gtid(1, 0),
        server.query("BEGIN"),
        server.query("UPDATE t SET a = 1"),
        server.query("COMMIT"),
    ];
    assert_eq!(
        documents(&feed(&mut assembler(), &events).unwrap()),
        ["statement shop."]
    );
}

#[test]
fn xa_rows_are_prepared_and_decided_in_two_transactions() {
    let mut server = Server::new();
    let events = [
        server.gtid(1, 0),
        server.query("XA START X'61',X'',1"),
        server.query("XA END X'61',X'',1"),
        server.event(event_type::XA_PREPARE, &[0; 14]),
        server.gtid(2, 0),
        server.query("XA COMMIT X'61',X'',1"),
        server.gtid(3, 0),
        server.query("XA ROLLBACK X'62',X'',1"),
    ];
    let items = feed(&mut assembler(), &events).unwrap();
    assert_eq!(documents(&items), ["xa_commit shop.", "xa_rollback shop."]);
    assert_eq!(
        items
            .iter()
            .filter(|item| matches!(item, Item::End(_)))
            .count(),
        3
    );
}

#[test]
fn an_xa_transaction_of_one_phase_is_decided_where_it_ends() {
    let mut server = Server::new();
    let mut body = [0; 14];
    body[0] = 1;
    let events = [
        server.gtid(1, 0),
        server.query("XA START X'61',X'',1"),
        server.query("XA END X'61',X'',1"),
        server.event(event_type::XA_PREPARE, &body),
    ];
    let items = feed(&mut assembler(), &events).unwrap();
    assert_eq!(documents(&items), ["xa_commit shop."]);
}

#[test]
fn a_transaction_with_the_announced_length_passes() {
    let mut server = Server::new();
    let sizes = |events: &[Event]| {
        events
            .iter()
            .map(|event| u64::from(event.header().event_size()))
            .sum::<u64>()
    };
    let draft = [server.gtid(1, 200), server.query("BEGIN"), server.xid()];
    let length = sizes(&draft);
    let mut server = Server::new();
    let events = [server.gtid(1, length), server.query("BEGIN"), server.xid()];
    assert_eq!(sizes(&events), length);
    feed(&mut assembler(), &events).unwrap();
}

#[test]
fn a_transaction_shorter_than_announced_lost_a_part() {
    let mut server = Server::new();
    let error = refused(&[server.gtid(1, 250), server.query("BEGIN"), server.xid()]);
    assert_eq!(error.kind(), Kind::SourceDamaged);
    assert!(
        error
            .to_string()
            .contains("its GTID event announced 250: a part of it is missing"),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .contains(&format!("in transaction {UUID}:1")),
        "{error}"
    );
}

#[test]
fn a_transaction_without_its_end_is_noticed_at_the_next_one() {
    let mut server = Server::new();
    let error = refused(&[server.gtid(1, 0), server.query("BEGIN"), server.gtid(2, 0)]);
    assert!(
        error.to_string().contains("begins before this one ended"),
        "{error}"
    );
}

#[test]
fn a_file_that_ends_inside_a_transaction_is_noticed() {
    let mut server = Server::new();
    let mut rotate = 4_u64.to_le_bytes().to_vec();
    rotate.extend_from_slice(b"binlog.000002");
    let error = refused(&[
        server.gtid(1, 0),
        server.query("BEGIN"),
        server.event(event_type::ROTATE, &rotate),
    ]);
    assert!(
        error
            .to_string()
            .contains("the binlog file ends before the transaction does"),
        "{error}"
    );
}

#[test]
fn errors_name_file_and_position() {
    let mut server = Server::new();
    let mut rotate = 4_u64.to_le_bytes().to_vec();
    rotate.extend_from_slice(b"binlog.000042");
    let begin = server.query("COMMIT");
    let position = begin.header().log_pos() - begin.header().event_size();
    let error = refused(&[server.event(event_type::ROTATE, &rotate), begin]);
    assert!(
        error
            .to_string()
            .starts_with(&format!("binlog binlog.000042 at position {position}, ")),
        "{error}"
    );
}

#[test]
fn every_event_out_of_place_is_an_error() {
    let rows = [1_u8, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1, 1];
    let mut table: Vec<(&str, Vec<Event>)> = Vec::new();
    let mut server = Server::new();
    table.push((
        "rows outside",
        vec![server.event(event_type::WRITE_ROWS, &rows)],
    ));
    table.push((
        "rows before BEGIN",
        vec![
            server.gtid(1, 0),
            server.event(event_type::WRITE_ROWS, &rows),
        ],
    ));
    table.push((
        "rows without a table map",
        vec![
            server.gtid(1, 0),
            server.query("BEGIN"),
            server.event(event_type::WRITE_ROWS, &rows),
        ],
    ));
    table.push(("XID outside", vec![server.xid()]));
    table.push((
        "statement outside",
        vec![server.query("CREATE TABLE t (a INT)")],
    ));
    table.push((
        "COMMIT without BEGIN",
        vec![server.gtid(1, 0), server.query("COMMIT")],
    ));
    table.push((
        "BEGIN twice",
        vec![
            server.gtid(1, 0),
            server.query("BEGIN"),
            server.query("BEGIN"),
        ],
    ));
    table.push((
        "XA COMMIT inside",
        vec![
            server.gtid(1, 0),
            server.query("BEGIN"),
            server.query("XA COMMIT X'61',X'',1"),
        ],
    ));
    table.push((
        "a rollback of what was logged",
        vec![
            server.gtid(1, 0),
            server.query("BEGIN"),
            server.query("UPDATE t SET a = 1"),
            server.query("ROLLBACK"),
        ],
    ));
    table.push((
        "a table map cut short",
        vec![server.gtid(1, 0), server.event(event_type::ROWS_QUERY, &[])],
    ));
    table.push((
        "INCIDENT",
        vec![server.event(event_type::INCIDENT, &[1, 0, 0])],
    ));
    table.push(("an unknown type", vec![server.event(99, &[])]));
    for (name, events) in table {
        let error = refused(&events);
        assert_eq!(error.kind(), Kind::SourceDamaged, "{name}: {error}");
    }
}

#[test]
fn what_the_server_marks_as_ignorable_is_passed_over() {
    let mut server = Server::new();
    let event = server.flagged(99, event_type::IGNORABLE_FLAG, &[]);
    assert!(feed(&mut assembler(), &[event]).unwrap().is_empty());
}

#[test]
fn a_transaction_without_a_gtid_is_the_servers_setting() {
    let mut server = Server::new();
    let error = refused(&[server.event(event_type::ANONYMOUS_GTID, &[0; 42])]);
    assert_eq!(error.kind(), Kind::SourceSetting);
    assert!(error.to_string().contains("gtid_mode=ON"), "{error}");
}

#[test]
fn the_last_transaction_is_looked_at_again_and_leaves_nothing() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let transactions = [
        server.gtid(1, 0),
        server.query("CREATE TABLE t (a INT)"),
        server.gtid(2, 0),
        server.query("CREATE TABLE u (a INT)"),
    ];
    feed(&mut assembler, &transactions).unwrap();
    let last = assembler.witness(&GtidSet::new()).unwrap();
    assert_eq!(last.gtid.to_string(), format!("{UUID}:2"));
    assert!(
        assembler.witness(assembler.read()).is_none(),
        "it is purged"
    );
    assembler.reconnected(UUID);
    let again = feed(&mut assembler, &transactions[2..]).unwrap();
    assert!(again.is_empty(), "{again:?}");
    let next = feed(
        &mut assembler,
        &[server.gtid(3, 0), server.query("DROP TABLE t")],
    )
    .unwrap();
    assert_eq!(documents(&next), ["ddl shop.t"]);
    assert_eq!(assembler.read().to_string(), format!("{UUID}:1-3"));
}

#[test]
fn a_reset_history_is_recognized_by_its_last_transaction() {
    let mut server = Server::new();
    let settings_of_the_last = LastTransaction {
        gtid: format!("{UUID}:5").parse().unwrap(),
        timestamp: DateTime::from_millis(1_600_000_000_000),
        predecessor: None,
    };
    let mut assembler = assembler();
    assembler.read = format!("{UUID}:1-5").parse().unwrap();
    assembler.last = Some(settings_of_the_last);
    let error = feed(&mut assembler, &[server.gtid(5, 0)]).unwrap_err();
    assert_eq!(error.kind(), Kind::WrongServer);
    assert!(error.to_string().contains("another history"), "{error}");
}

#[test]
fn a_rollback_to_a_savepoint_takes_back_the_rows_after_it() {
    let mut server = Server::new();
    let events = [
        server.gtid(1, 0),
        server.query("BEGIN"),
        server.query("INSERT INTO t VALUES (1)"),
        server.query("SAVEPOINT `a`"),
        server.query("INSERT INTO t VALUES (2)"),
        server.query("SAVEPOINT `b`"),
        server.query("ROLLBACK TO `b`"),
        server.query("ROLLBACK TO `a`"),
        server.xid(),
    ];
    let items = feed(&mut assembler(), &events).unwrap();
    let undone: Vec<_> = items
        .iter()
        .filter_map(|item| match item {
            Item::RollbackTo { row, marker } => Some((*row, marker.row)),
            _ => None,
        })
        .collect();
    assert_eq!(undone, [(1, 2)], "after `b` nothing was logged");
    let unknown = [
        server.gtid(2, 0),
        server.query("BEGIN"),
        server.query("ROLLBACK TO `c`"),
    ];
    assert!(refused(&unknown).to_string().contains("was not set: `c`"));
}

#[test]
fn a_marker_is_known_whatever_the_character_set_around_it() {
    let mut server = Server::new();
    let query = |text: &str| {
        // Status variable Q_CHARSET_CODE: a client collation that is not known.
        let mut body = query_body(text);
        body.splice(11..13, [7, 0]);
        body.splice(13..13, [4, 0xff, 0xfe, 0, 0, 0, 0]);
        body
    };
    let markers = [
        "BEGIN",
        "SAVEPOINT `\u{e9}`",
        "ROLLBACK TO `\u{e9}`",
        "COMMIT",
    ];
    let mut events = vec![server.gtid(1, 0)];
    for marker in markers {
        events.push(server.event(event_type::QUERY, &query(marker)));
    }
    let mut assembler = assembler();
    assert!(documents(&feed(&mut assembler, &events).unwrap()).is_empty());
    assert_eq!(assembler.transactions(), 1);
}

#[test]
fn mariadb_opens_a_transaction_without_begin() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let events = [
        server.mariadb_gtid(0, 10, 0x0c),
        server.query("INSERT INTO t VALUES (1)"),
        server.xid(),
        server.mariadb_gtid(7, 3, 0x29),
        server.query("CREATE TABLE t (a INT)"),
        server.mariadb_gtid(0, 11, 0x28),
        server.query("CREATE TABLE u (a INT)"),
        server.event(event_type::BINLOG_CHECKPOINT, &[1, 0, 0, 0, b'b']),
        server.xid(),
        server.mariadb_gtid(0, 12, 0x0c),
        server.query("COMMIT"),
    ];
    let items = feed(&mut assembler, &events).unwrap();
    assert_eq!(
        documents(&items),
        ["statement shop.", "ddl shop.t", "ddl shop.u"]
    );
    assert_eq!(assembler.read().to_string(), "0-1-12,7-1-3");
    let last = assembler.witness(&GtidSet::new()).unwrap();
    assert_eq!(last.gtid.to_string(), "0-1-12");
    assert_eq!(last.predecessor.as_ref().unwrap().to_string(), "0-1-11");
}

#[test]
fn half_of_an_alter_table_that_mariadb_logs_in_two_changes_nothing() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let mut half = |sequence, extra| {
        let mut body = Server::mariadb_gtid_body(0, sequence, 0x29);
        body.truncate(13);
        body.push(extra);
        body.extend_from_slice(&[0; 8]);
        server.event(event_type::MARIADB_GTID, &body)
    };
    let gtids = [half(1, 0x02), half(2, 0x08), half(3, 0x02), half(4, 0x04)];
    let alter = server.query("ALTER TABLE t ADD COLUMN b INT");
    let mut items = Vec::new();
    for gtid in gtids {
        items.extend(feed(&mut assembler, &[gtid, alter.clone()]).unwrap());
    }
    assert_eq!(documents(&items), ["ddl shop.t"]);
    assert_eq!(assembler.read().to_string(), "0-1-4");
}

#[test]
fn mariadb_numbers_that_do_not_grow_are_an_error() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let events = [
        server.mariadb_gtid(0, 10, 0x0c),
        server.xid(),
        server.mariadb_gtid(0, 20, 0x0c),
        server.xid(),
    ];
    feed(&mut assembler, &events).unwrap();
    let error = feed(&mut assembler, &[server.mariadb_gtid(0, 15, 0x0c)]).unwrap_err();
    assert!(error.to_string().contains("gtid_strict_mode=ON"), "{error}");
}

#[test]
fn an_older_transaction_that_comes_again_is_an_error() {
    let mut server = Server::new();
    let mut assembler = assembler();
    let first = [server.gtid(1, 0), server.query("BEGIN"), server.xid()];
    feed(&mut assembler, &first).unwrap();
    feed(
        &mut assembler,
        &[server.gtid(2, 0), server.query("BEGIN"), server.xid()],
    )
    .unwrap();
    let error = feed(&mut assembler, &[server.gtid(1, 0)]).unwrap_err();
    assert!(error.to_string().contains("comes a second time"), "{error}");
}
