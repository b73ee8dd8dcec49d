//! mysql_cdc, an independent decoder of the same binlog: it agrees on the types that it supports, and the second test shows
//! what it drops, which is why it does not read the binlog for sdl (docs/decisions.md).

use std::collections::BTreeMap;

use super::{run, stored_rows};
use crate::common::Mysqld;
use crate::common::mysql::{PASSWORD, USER};
use mongodb::bson::{Bson, Document};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use mysql_cdc::binlog_client::BinlogClient;
use mysql_cdc::binlog_options::BinlogOptions;
use mysql_cdc::events::binlog_event::BinlogEvent;
use mysql_cdc::events::row_events::mysql_value::MySqlValue;
use mysql_cdc::events::row_events::row_data::RowData;
use mysql_cdc::replica_options::ReplicaOptions;

/// What mysql_cdc makes of a server's binlog from a file on: its rows events, and the error that ended it, if one did.
async fn read(mysqld: &Mysqld, file: String) -> (Vec<BinlogEvent>, Option<String>) {
    // The server remembers who connected in a safe way; mysql_cdc has no TLS to do so itself.
    mysqld.connect(USER, PASSWORD).await.unwrap();
    let port = mysqld.port();
    let thread = tokio::task::spawn_blocking(move || {
        let options = ReplicaOptions {
            port,
            hostname: "127.0.0.1".to_owned(),
            username: USER.to_owned(),
            password: PASSWORD.to_owned(),
            // Up to the last event, then the end.
            blocking: false,
            binlog: BinlogOptions::from_position(file, 4),
            ..ReplicaOptions::default()
        };
        let mut events = Vec::new();
        for event in BinlogClient::new(options)
            .replicate()
            .expect("mysql_cdc connects")
        {
            match event {
                Ok((_, event)) => events.push(event),
                Err(error) => return (events, Some(format!("{error:?}"))),
            }
        }
        (events, None)
    });
    thread.await.expect("mysql_cdc does not panic")
}

fn inserted(events: &[BinlogEvent]) -> Vec<&RowData> {
    let rows = events.iter().filter_map(|event| match event {
        BinlogEvent::WriteRowsEvent(event) => Some(event.rows.iter()),
        _ => None,
    });
    rows.flatten().collect()
}

async fn current_file(connection: &mut Conn) -> String {
    let (file,): (String,) = connection
        .query_first::<mysql_async::Row, _>("SHOW BINARY LOG STATUS")
        .await
        .unwrap()
        .map(|row| (row.get(0).unwrap(),))
        .unwrap();
    file
}

/// The types that both support, with values that both can tell.
const TABLE: &str = "CREATE TABLE i.t (id INT PRIMARY KEY, i1 TINYINT, i2 SMALLINT, i4 INT, i8 BIGINT, f FLOAT, d DOUBLE, \
    de DECIMAL(12,3), c CHAR(9), v VARCHAR(300), bl BLOB, y YEAR, da DATE, t TIME(3), dt DATETIME(3), ts TIMESTAMP(3), \
    b BIT(11), e ENUM('a','b','c'), s SET('p','q','r'))";

/// A stored value in the form that mysql_cdc has for the column.
fn as_mysql_cdc(name: &str, value: &Bson) -> String {
    match (name, value) {
        (_, Bson::Null) => "NULL".to_owned(),
        ("e", Bson::String(label)) => ["a", "b", "c"]
            .iter()
            .position(|known| known == label)
            .map_or(0, |place| place + 1)
            .to_string(),
        ("s", Bson::Array(labels)) => labels
            .iter()
            .map(|label| {
                1_u64
                    << ["p", "q", "r"]
                        .iter()
                        .position(|known| *known == label.as_str().unwrap())
                        .unwrap()
            })
            .sum::<u64>()
            .to_string(),
        ("f", Bson::Double(value)) => (*value as f32).to_string(),
        (_, Bson::Int32(value)) => value.to_string(),
        (_, Bson::Int64(value)) => value.to_string(),
        (_, Bson::Double(value)) => value.to_string(),
        (_, Bson::Decimal128(value)) => super::columns::decimal128_text(value),
        (_, Bson::Binary(value)) => format!("{:?}", value.bytes),
        (_, Bson::String(text)) => text.clone(),
        (name, other) => panic!("{name}: {other:?}"),
    }
}

fn text(value: Option<&MySqlValue>) -> String {
    let Some(value) = value else {
        return "NULL".to_owned();
    };
    match value {
        // It knows no sign: the bits are the same.
        MySqlValue::TinyInt(value) => value.cast_signed().to_string(),
        MySqlValue::SmallInt(value) => value.cast_signed().to_string(),
        MySqlValue::MediumInt(value) | MySqlValue::Int(value) => value.cast_signed().to_string(),
        MySqlValue::BigInt(value) => value.cast_signed().to_string(),
        MySqlValue::Float(value) => value.to_string(),
        MySqlValue::Double(value) => value.to_string(),
        MySqlValue::Decimal(value) | MySqlValue::String(value) => value.clone(),
        MySqlValue::Bit(bits) => bits
            .iter()
            .fold(0_u64, |value, bit| value << 1 | u64::from(*bit))
            .to_string(),
        MySqlValue::Enum(value) => value.to_string(),
        MySqlValue::Set(value) => value.to_string(),
        MySqlValue::Blob(value) => format!("{value:?}"),
        MySqlValue::Year(value) => value.to_string(),
        MySqlValue::Date(value) => format!("{:04}-{:02}-{:02}", value.year, value.month, value.day),
        MySqlValue::Time(value) => {
            format!(
                "{:02}:{:02}:{:02}.{:03}",
                value.hour, value.minute, value.second, value.millis
            )
        }
        MySqlValue::DateTime(value) => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}.{:03}",
            value.year,
            value.month,
            value.day,
            value.hour,
            value.minute,
            value.second,
            value.millis
        ),
        MySqlValue::Timestamp(millis) => {
            let time = mongodb::bson::DateTime::from_millis(i64::try_from(*millis).unwrap());
            let text = time.try_to_rfc3339_string().unwrap();
            let (text, fraction) = text
                .trim_end_matches('Z')
                .split_once('.')
                .map_or((&text[..19], ""), |parts| parts);
            format!("{text}.{fraction:0<3}Z")
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_independent_decoder_agrees_on_what_it_supports() {
    let mysqld = Mysqld::start().await;
    mysqld.exec("CREATE DATABASE i").await;
    let mut random = fastrand::Rng::with_seed(super::seed());
    let mut file = String::new();
    let stored = stored_rows(&mysqld, "i", async |connection: &mut Conn| {
        run(connection, "FLUSH BINARY LOGS").await;
        file = current_file(connection).await;
        run(connection, TABLE).await;
        for id in 0..500 {
            let mut row = vec![id.to_string()];
            row.extend([
                random.i8(..).to_string(),
                random.i16(..).to_string(),
                random.i32(..).to_string(),
            ]);
            row.extend([
                random.i64(..).to_string(),
                format!("{:e}", random.i32(..) as f32 / 64.0),
            ]);
            row.extend([
                format!("{:e}", super::columns::double(&mut random)),
                super::columns::decimal_text(&mut random, 12, 3),
            ]);
            row.extend([
                super::columns::text_literal(&mut random, 9),
                super::columns::text_literal(&mut random, 60),
            ]);
            row.extend([
                super::columns::hex_literal(&mut random, 40),
                random.u16(1901..2155).to_string(),
            ]);
            row.push(format!(
                "'{:04}-{:02}-{:02}'",
                random.u16(1000..9999),
                random.u8(1..13),
                random.u8(1..29)
            ));
            row.push(format!(
                "'{:02}:{:02}:{:02}.{:03}'",
                random.u16(..838),
                random.u8(..60),
                random.u8(..60),
                random.u16(..1000)
            ));
            for years in [1000..9999, 1971..2037] {
                let (hour, minute, second) = (random.u8(..24), random.u8(..60), random.u8(..60));
                let (month, day, millis) = (random.u8(1..13), random.u8(1..29), random.u16(..1000));
                let year = random.u16(years);
                row.push(format!(
                    "'{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}.{millis:03}'"
                ));
            }
            row.extend([
                random.u16(..1 << 11).to_string(),
                random.u8(1..4).to_string(),
                random.u8(..8).to_string(),
            ]);
            for value in row.iter_mut().skip(1) {
                if random.u8(..10) == 0 {
                    *value = "NULL".to_owned();
                }
            }
            run(
                connection,
                &format!("INSERT INTO i.t VALUES ({})", row.join(", ")),
            )
            .await;
        }
    })
    .await;
    let (events, error) = read(&mysqld, file).await;
    assert_eq!(error, None);
    let rows = inserted(&events);
    assert_eq!((rows.len(), stored.len()), (500, 500));
    for row in rows {
        let theirs: Vec<String> = row.cells.iter().map(|cell| text(cell.as_ref())).collect();
        let id: i64 = theirs[0].parse().unwrap();
        let after: &Document = stored[&("t".to_owned(), id)][0]
            .get_document("after")
            .unwrap();
        let ours: BTreeMap<usize, String> = after
            .iter()
            .enumerate()
            .map(|(place, (name, value))| (place, as_mysql_cdc(name, value)))
            .collect();
        assert_eq!(ours.into_values().collect::<Vec<_>>(), theirs, "row {id}");
    }
}

/// Runs statements into a binlog file of their own, and lets mysql_cdc read it.
async fn read_after(mysqld: &Mysqld, statements: &[&str]) -> (Vec<BinlogEvent>, Option<String>) {
    let mut connection = mysqld.root().await;
    run(&mut connection, "FLUSH BINARY LOGS").await;
    let file = current_file(&mut connection).await;
    for statement in statements {
        run(&mut connection, statement).await;
    }
    read(mysqld, file).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_mysql_cdc_drops() {
    let mysqld = Mysqld::start().await;
    mysqld.exec("CREATE DATABASE m; CREATE TABLE m.j (id INT PRIMARY KEY, j JSON); \
        INSERT INTO m.j VALUES (1, '{\"a\": 1, \"pad\": \"abcdefghijklmnopqrstuvwxyzabcdefghijklmnopqrstuvwxyz\"}')").await;
    // These end its stream for good.
    for (what, statements) in [
        (
            "a VARBINARY that is not UTF-8",
            [
                "CREATE TABLE m.a (v VARBINARY(9))",
                "INSERT INTO m.a VALUES (x'ff')",
            ],
        ),
        (
            "latin1",
            [
                "CREATE TABLE m.b (v VARCHAR(9) CHARACTER SET latin1)",
                "INSERT INTO m.b VALUES ('é')",
            ],
        ),
        (
            "a negative TIME",
            [
                "CREATE TABLE m.c (t TIME)",
                "INSERT INTO m.c VALUES ('-01:00:00')",
            ],
        ),
        (
            "a VECTOR column",
            [
                "CREATE TABLE m.d (v VECTOR(3))",
                "INSERT INTO m.d VALUES (NULL)",
            ],
        ),
    ] {
        let (events, error) = read_after(&mysqld, &statements).await;
        assert!(
            error.is_some() && inserted(&events).is_empty(),
            "{what}: {events:?}"
        );
    }
    // These it drops in silence: no error, and no row.
    let compressed = [
        "SET binlog_transaction_compression = ON",
        "CREATE TABLE m.e (id INT)",
        "INSERT INTO m.e VALUES (1)",
    ];
    let (events, error) = read_after(&mysqld, &compressed).await;
    assert!(
        error.is_none() && inserted(&events).is_empty(),
        "a compressed transaction: {error:?} {events:?}"
    );
    let partial = [
        "SET binlog_row_value_options = PARTIAL_JSON",
        "UPDATE m.j SET j = JSON_SET(j, '$.a', 2)",
    ];
    let (events, error) = read_after(&mysqld, &partial).await;
    let updates = events
        .iter()
        .filter(|event| matches!(event, BinlogEvent::UpdateRowsEvent(_)))
        .count();
    assert!(
        error.is_none() && updates == 0,
        "a PARTIAL_JSON update: {error:?} {events:?}"
    );
    // Microseconds become milliseconds, JSON stays MySQL's binary.
    let cut = [
        "CREATE TABLE m.f (t DATETIME(6), j JSON)",
        "INSERT INTO m.f VALUES ('2026-01-01 00:00:00.123456', 'true')",
    ];
    let (events, error) = read_after(&mysqld, &cut).await;
    let rows = inserted(&events);
    assert_eq!((error, rows.len()), (None, 1));
    assert_eq!(text(rows[0].cells[0].as_ref()), "2026-01-01 00:00:00.123");
    assert_eq!(text(rows[0].cells[1].as_ref()), "[4, 1]");
}
