//! MariaDB's column types: table maps and rows straight out of a binlog file, against what SELECT shows.
//!
//! tests/values.rs sends random values of every type through the daemon; here are the types and attributes that one server
//! writes and the other does not, and the tables that cannot be read.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::sync::Arc;

use bson::{Bson, Document, doc};
use common::{Flavor, Mysqld, on_flavor};
use sdl::error::Kind;
use sdl::position::Flavor as SourceFlavor;
use sdl::source::decode::{DecodeError, Limits, RowsEvent, Scratch};
use sdl::source::schema::{ColumnKind, SchemaCache, TableSchema, refused};

on_flavor! { on_mariadb_10, Mariadb10,
    every_type_is_read,
    columns_that_cannot_be_read_are_found_with_the_statement_that_mends_them
}
on_flavor! { on_mariadb_11, Mariadb11,
    every_type_is_read,
    columns_that_cannot_be_read_are_found_with_the_statement_that_mends_them
}

/// The rows that were inserted into a table, with the schema of each: from the first binlog file.
fn inserted(
    mysqld: &Mysqld,
    table: &str,
) -> Result<Vec<(Arc<TableSchema>, Document)>, DecodeError> {
    const TABLE_MAP: u8 = 19;
    const WRITE_ROWS_V1: u8 = 23;
    const CHECKSUM: usize = 4;
    let file = std::fs::read(mysqld.datadir().join("binlog.000001")).unwrap();
    let mut cache = SchemaCache::new();
    let mut scratch = Scratch::new();
    let mut rows = Vec::new();
    let mut at = 4;
    while at < file.len() {
        let kind = file[at + 4];
        let size = u32::from_le_bytes(file[at + 9..at + 13].try_into().unwrap()) as usize;
        let body = &file[at + 19..at + size - CHECKSUM];
        match kind {
            TABLE_MAP => {
                cache.table_map(SourceFlavor::Mariadb, body)?;
            }
            WRITE_ROWS_V1 => {
                let mut event = RowsEvent::parse(kind, body)?;
                let schema = cache.by_table_id(event.table_id()).unwrap();
                while schema.full_name == table
                    && let Some(row) = event.next_row(schema, &Limits::default(), &mut scratch)?
                {
                    let row = bson::deserialize_from_slice(row.after.unwrap()).unwrap();
                    rows.push((Arc::clone(schema), row));
                }
            }
            _ => {}
        }
        at += size;
    }
    Ok(rows)
}

fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    })
}

async fn every_type_is_read(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    mysqld
        .exec(
            "CREATE DATABASE m; CREATE TABLE m.t (id INT UNSIGNED PRIMARY KEY, u UUID, i6 INET6, i4 INET4, b16 BINARY(16), \
             c CHAR(5) CHARACTER SET latin1, v VARCHAR(20) CHARACTER SET cp1251 COLLATE cp1251_general_nopad_ci, g GEOMETRY, \
             tx TEXT CHARACTER SET koi8r, uca VARCHAR(9) CHARACTER SET utf16 COLLATE uca1400_german2_ai_ci, p POINT, \
             e ENUM('a', 'ö') CHARACTER SET latin2, s SET('x', 'ü') CHARACTER SET utf8mb4, j JSON, bi BIT(9), y2 YEAR(2), \
             y4 YEAR, ti TIME, ti3 TIME(3), dt DATETIME, dt6 DATETIME(6), ts TIMESTAMP NULL, ts2 TIMESTAMP(2) NULL, da DATE, \
             mi MEDIUMINT UNSIGNED, lt LONGTEXT CHARACTER SET utf32, hidden INT INVISIBLE, v2 INT AS (mi + 1) VIRTUAL, \
             z VARBINARY(9))",
        )
        .await;
    mysqld
        .exec(
            "INSERT INTO m.t (id, u, i6, i4, b16, c, v, g, tx, uca, p, e, s, j, bi, y2, y4, ti, ti3, dt, dt6, ts, ts2, da, mi, lt, \
             hidden, z) VALUES (4000000000, 'ffeeddcc-bbaa-1234-8765-001122334400', '2001:db8::', '10.1.2.0', \
             x'00112233445566778899aabbccddee00', 'é', 'Я', ST_GeomFromText('POINT(1 2)', 4326), 'я', 'ß', \
             ST_GeomFromText('POINT(0 0)'), 'ö', 'x,ü', '{\"a\": 1.50}', b'101010101', 69, 2069, '-01:02:03', '-01:02:03.5', \
             '2020-01-02 03:04:05', '2020-01-02 03:04:05.678901', '2020-01-02 03:04:05', '2020-01-02 03:04:05.67', \
             '0000-00-00', 16777215, '€', 7, x'0100')",
        )
        .await;
    let rows = inserted(&mysqld, "m.t").unwrap();
    let [(schema, row)] = &rows[..] else {
        panic!("{} rows", rows.len())
    };
    assert!(schema.resolved);
    assert_eq!(schema.key, [0]);
    let point = |srid: i64, x: f64, y: f64| {
        let mut wkb = vec![1, 1, 0, 0, 0];
        wkb.extend_from_slice(&x.to_le_bytes());
        wkb.extend_from_slice(&y.to_le_bytes());
        doc! { "srid": srid, "wkb": binary(&wkb) }
    };
    let expected = doc! {
        "id": 4_000_000_000_i64,
        // What these are stands in information_schema only.
        "u": binary(b"\xff\xee\xdd\xcc\xbb\xaa\x12\x34\x87\x65\x00\x11\x22\x33\x44\x00"),
        "i6": binary(b"\x20\x01\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\0"),
        "i4": binary(&[10, 1, 2, 0]),
        "b16": binary(b"\x00\x11\x22\x33\x44\x55\x66\x77\x88\x99\xaa\xbb\xcc\xdd\xee\x00"),
        "c": "é",
        "v": "Я",
        "g": point(4326, 1.0, 2.0),
        "tx": "я",
        "uca": "ß",
        "p": point(0, 0.0, 0.0),
        "e": "ö",
        "s": ["x", "ü"],
        "j": "{\"a\": 1.50}",
        "bi": 341_i64,
        "y2": 2069,
        "y4": 2069,
        "ti": "-01:02:03",
        "ti3": "-01:02:03.500",
        "dt": "2020-01-02 03:04:05",
        "dt6": "2020-01-02 03:04:05.678901",
        "ts": "2020-01-02T03:04:05Z",
        "ts2": "2020-01-02T03:04:05.67Z",
        "da": "0000-00-00",
        "mi": 16_777_215,
        "lt": "€",
        "hidden": 7,
        "v2": 16_777_216,
        "z": binary(&[1, 0]),
    };
    for (name, value) in &expected {
        assert_eq!(row.get(name), Some(value), "{name}");
    }
    assert_eq!(row.len(), expected.len());
    let kind = |name: &str| {
        let column = schema.columns.iter().find(|column| column.name == name);
        &column.unwrap().kind
    };
    assert!(matches!(kind("p"), ColumnKind::Geometry { subtype: 1, .. }));
    assert!(matches!(kind("g"), ColumnKind::Geometry { subtype: 0, .. }));
}

async fn columns_that_cannot_be_read_are_found_with_the_statement_that_mends_them(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    mysqld
        .exec(
            "CREATE DATABASE m; CREATE TABLE m.`a``b` (id INT PRIMARY KEY, `c,1` TEXT COMPRESSED NOT NULL COMMENT 'kept', \
             v VARCHAR(300) COMPRESSED DEFAULT 'it''s', plain TEXT, e ENUM('/*M!100301 COMPRESSED*/'));\
             CREATE TABLE m.left_out (c BLOB COMPRESSED); \
             CREATE VIEW m.v AS SELECT * FROM m.`a``b`; \
             SET GLOBAL mysql56_temporal_format = OFF; \
             CREATE TABLE m.old (id INT PRIMARY KEY, t0 TIMESTAMP NULL, t3 TIME(3), d6 DATETIME(6)); \
             CREATE TABLE m.old_without_fraction (id INT PRIMARY KEY, t0 TIMESTAMP NULL, d0 DATETIME); \
             CREATE VIEW m.w AS SELECT * FROM m.old; \
             SET GLOBAL mysql56_temporal_format = ON",
        )
        .await;
    let mut connection = mysqld
        .connect(common::mysql::USER, common::mysql::PASSWORD)
        .await
        .unwrap();
    let error = refused::check(&mut connection, |name| name != "m.left_out")
        .await
        .unwrap_err();
    assert_eq!(error.kind(), Kind::SourceSetting);
    let text = error.to_string();
    for part in [
        "m.a`b has COMPRESSED column(s) c,1, v: ALTER TABLE `m`.`a``b` MODIFY `c,1` text",
        "m.old has column(s) t3, d6 with a fraction",
    ] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
    for part in ["left_out", "m.v ", "m.w ", "plain", "without_fraction"] {
        assert!(!text.contains(part), "{text} says {part}");
    }
    // The statements that it names, as it names them, mend it.
    for name in ["`m`.`a``b`", "`m`.`old`"] {
        let start = text.find(&format!("ALTER TABLE {name}")).unwrap();
        let statement = text[start..].split("; m.").next().unwrap();
        mysqld.exec(statement).await;
    }
    refused::check(&mut connection, |name| name != "m.left_out")
        .await
        .unwrap();
    let (_, definition): (String, String) = mysqld.query_one("SHOW CREATE TABLE m.`a``b`").await;
    for part in ["COMMENT 'kept'", "DEFAULT 'it''s'"] {
        assert!(definition.contains(part), "{definition}");
    }
}
