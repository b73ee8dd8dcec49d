//! MariaDB's column types: table maps and rows straight out of a binlog file, against what SELECT shows.
//!
//! tests/recording/values.rs sends random values of every type through the daemon; here are the types and attributes that one server
//! writes and the other does not, and the tables that cannot be read.
use std::sync::Arc;

use crate::common::{CATCH_UP, Daemon, Flavor, Mongod, Mysqld, Settings, caught_up, on_flavor};
use bson::{Bson, Document, doc};
use sdl::error::Kind;
use sdl::position::Flavor as SourceFlavor;
use sdl::source::decode::{DecodeError, Limits, RowsEvent, Scratch};
use sdl::source::schema::{ColumnKind, SchemaCache, TableSchema, refused};

on_flavor! { on_mariadb_10, Mariadb10,
    every_type_is_read,
    columns_that_cannot_be_read_are_found_with_the_statement_that_mends_them,
    uuid_and_inet_are_recorded_as_text_whatever_they_were_once,
    a_compressed_column_is_refused_by_name_unless_its_table_is_left_out,
    times_of_the_old_format_are_read_where_their_length_is_known
}
on_flavor! { on_mariadb_11, Mariadb11,
    every_type_is_read,
    columns_that_cannot_be_read_are_found_with_the_statement_that_mends_them,
    uuid_and_inet_are_recorded_as_text_whatever_they_were_once,
    a_compressed_column_is_refused_by_name_unless_its_table_is_left_out,
    times_of_the_old_format_are_read_where_their_length_is_known,
    a_vector_is_recorded_as_numbers
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
        .connect(crate::common::mysql::USER, crate::common::mysql::PASSWORD)
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

fn settings(mysqld: &Mysqld, mongod: &Mongod) -> Settings {
    Settings::new(mysqld, mongod)
        .set("START_FROM", "earliest")
        .set("INCLUDE_REGEX", r"^m\.")
}

/// The `after` images in order, when the daemon has read all.
async fn images(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) -> Vec<Document> {
    caught_up(mysqld, mongod, settings.database()).await;
    let changes = mongod.changes(settings.database()).await;
    let images = changes
        .iter()
        .filter_map(|change| change.get_document("after").ok());
    images.cloned().collect()
}

async fn uuid_and_inet_are_recorded_as_text_whatever_they_were_once(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    for sql in [
        "CREATE DATABASE m",
        "CREATE TABLE m.t (u UUID PRIMARY KEY, i6 INET6, i4 INET4, b BINARY(16), was BINARY(16))",
        "INSERT INTO m.t VALUES ('ffeeddcc-bbaa-1234-8765-001122334400', '2001:db8::', '10.1.0.0', x'01', \
         x'00112233445566778899aabbccddee00')",
        // The rows before it are recorded as what the column is now: one type for all.
        "ALTER TABLE m.t MODIFY was UUID",
    ] {
        mysqld.exec(sql).await;
    }
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    for sql in [
        "INSERT INTO m.t VALUES ('00000000-0000-0000-0000-000000000000', '::', '0.0.0.0', x'', NULL)",
        "UPDATE m.t SET i4 = '255.255.255.255' WHERE i6 = '::'",
        // Each is told again.
        "ALTER TABLE m.t MODIFY b UUID, MODIFY i6 BINARY(16)",
        "INSERT INTO m.t VALUES ('123e4567-e89b-12d3-a456-426655440000', x'20', NULL, '123e4567-e89b-12d3-a456-426655440001', NULL)",
        "CREATE TABLE m.dropped (u UUID)",
        "INSERT INTO m.dropped VALUES ('123e4567-e89b-12d3-a456-426655440000')",
    ] {
        mysqld.exec(sql).await;
        caught_up(&mysqld, mongod, settings.database()).await;
    }
    let images = images(&mysqld, mongod, &settings).await;
    let padded = |byte: u8| binary(&[byte, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let zero = "00000000-0000-0000-0000-000000000000";
    let expected = [
        doc! {
            "u": "ffeeddcc-bbaa-1234-8765-001122334400", "i6": "2001:db8::", "i4": "10.1.0.0", "b": padded(1),
            "was": "00112233-4455-6677-8899-aabbccddee00"
        },
        doc! { "u": zero, "i6": "::", "i4": "0.0.0.0", "b": padded(0), "was": Bson::Null },
        doc! { "u": zero, "i6": "::", "i4": "255.255.255.255", "b": padded(0), "was": Bson::Null },
        doc! {
            "u": "123e4567-e89b-12d3-a456-426655440000", "i6": padded(0x20), "i4": Bson::Null,
            "b": "123e4567-e89b-12d3-a456-426655440001", "was": Bson::Null
        },
        doc! { "u": "123e4567-e89b-12d3-a456-426655440000" },
    ];
    assert_eq!(images, expected);
    let changes = mongod.changes(settings.database()).await;
    let update = changes
        .iter()
        .find(|change| change.get_str("op").unwrap() == "update")
        .unwrap();
    assert_eq!(
        update.get_document("meta").unwrap().get_str("pk").unwrap(),
        zero
    );

    // Of a table that is gone nobody knows: an account that starts now records its UUIDs as bytes.
    mysqld.exec("DROP TABLE m.dropped").await;
    let later = Settings::new(&mysqld, mongod)
        .set("START_FROM", "earliest")
        .set("SOURCE_ID", "later")
        .set("INCLUDE_REGEX", r"^m\.dropped");
    let _second = Daemon::start(&later);
    let images = self::images(&mysqld, mongod, &later).await;
    assert_eq!(
        images,
        [doc! { "u": binary(b"\x12\x3e\x45\x67\xe8\x9b\x12\xd3\xa4\x56\x42\x66\x55\x44\x00\x00") }]
    );
    assert!(daemon.is_running());
}

async fn a_vector_is_recorded_as_numbers(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec(
            "CREATE DATABASE m; CREATE TABLE m.t (id INT PRIMARY KEY, v VECTOR(3) NOT NULL, w VECTOR(100), b VARBINARY(12)); \
             INSERT INTO m.t VALUES (1, VEC_FROMTEXT('[0.1,-2,3]'), VEC_FROMTEXT(CONCAT('[0', REPEAT(',1', 99), ']')), x'00')",
        )
        .await;
    let settings = settings(&mysqld, mongod);
    let _daemon = Daemon::start(&settings);
    let images = images(&mysqld, mongod, &settings).await;
    let mut long = vec![1.0; 100];
    long[0] = 0.0;
    assert_eq!(
        images,
        [doc! { "id": 1, "v": [0.1, -2.0, 3.0], "w": long, "b": binary(&[0]) }]
    );
}

async fn a_compressed_column_is_refused_by_name_unless_its_table_is_left_out(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec("CREATE DATABASE m; CREATE TABLE m.c (id INT PRIMARY KEY, t TEXT COMPRESSED); CREATE TABLE m.t (id INT PRIMARY KEY)")
        .await;
    let told = |daemon: &Daemon| {
        for part in ["m.c", "ALTER TABLE `m`.`c` MODIFY `t`"] {
            assert!(daemon.has_logged(part), "nothing logged of {part}");
        }
    };
    // At start.
    let at_start = Daemon::start(&settings(&mysqld, mongod));
    assert_eq!(at_start.wait_exit(CATCH_UP).await.0, 3);
    told(&at_start);

    // Left out, its rows count all the same: meta.row does not depend on the filter.
    let left_out = settings(&mysqld, mongod).set("EXCLUDE_REGEX", "^m[.]c$");
    let daemon = Daemon::start(&left_out);
    mysqld
        .exec("BEGIN; INSERT INTO m.c VALUES (1, REPEAT('a', 500)), (2, 'b'), (3, NULL); INSERT INTO m.t VALUES (1); COMMIT")
        .await;
    assert_eq!(images(&mysqld, mongod, &left_out).await, [doc! { "id": 1 }]);
    let changes = mongod.changes(left_out.database()).await;
    let meta = changes.last().unwrap().get_document("meta").unwrap();
    assert_eq!(
        meta.get_i64("row")
            .or(meta.get_i32("row").map(i64::from))
            .unwrap(),
        3
    );
    assert!(daemon.is_running());

    // Met in the stream.
    mysqld.exec("DROP TABLE m.c").await;
    let from_now = settings(&mysqld, mongod).set("START_FROM", "current");
    let met = Daemon::start(&from_now);
    caught_up(&mysqld, mongod, from_now.database()).await;
    met.wait_for_log("Connected to MySQL", CATCH_UP).await;
    mysqld
        .exec("CREATE TABLE m.c (id INT PRIMARY KEY, t TEXT COMPRESSED); INSERT INTO m.c VALUES (1, 'x')")
        .await;
    assert_eq!(met.wait_exit(CATCH_UP).await.0, 3);
    told(&met);
}

async fn times_of_the_old_format_are_read_where_their_length_is_known(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &["--mysql56-temporal-format=OFF"]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec(
            "CREATE DATABASE m; CREATE TABLE m.t (id INT PRIMARY KEY, ti TIME, dt DATETIME, ts TIMESTAMP NULL); \
             INSERT INTO m.t VALUES (1, '-01:02:03', '2020-01-02 03:04:05', '2020-01-02 03:04:05'), (2, NULL, NULL, NULL)",
        )
        .await;
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    assert_eq!(
        images(&mysqld, mongod, &settings).await,
        [
            doc! { "id": 1, "ti": "-01:02:03", "dt": "2020-01-02 03:04:05", "ts": "2020-01-02T03:04:05Z" },
            doc! { "id": 2, "ti": Bson::Null, "dt": Bson::Null, "ts": Bson::Null },
        ]
    );
    // With a fraction a row has no known length, and so the rows of even a table that is left out cannot be counted.
    mysqld
        .exec("CREATE DATABASE other; CREATE TABLE other.o (id INT PRIMARY KEY, ti TIME(3)); INSERT INTO other.o VALUES (1, '01:00:00')")
        .await;
    assert_eq!(daemon.wait_exit(CATCH_UP).await.0, 3);
    assert!(daemon.has_logged("ALTER TABLE `other`.`o` FORCE"));
    // The next start says so before it reads.
    let again = Daemon::start(&settings);
    assert_eq!(again.wait_exit(CATCH_UP).await.0, 3);
    assert!(again.has_logged("other.o has column(s) ti with a fraction"));
}
