//! Table maps captured from MariaDB 10.11.

use super::*;
use crate::source::decode::captured::bytes;
use crate::source::decode::{Charset, Limits, RowsEvent, Scratch};

/// `p.t`, a column of most types, UUID and INET among them; binlog_row_metadata=FULL.
const ALL_TYPES: &str = "\
    15000000000001000170000174001f03fefefefefefefefe0f0ffcfcfefeffff100d0dfcf604051312110a09fcfc28fe10fe10fe04fe10fe\
    04fefffe05cefc14001e000202f701f80104040101040a0204080306020104feffff7f0101fa020d3f0608072d08330a070e2e1036070200\
    01045802696401750269360269340362313602623404623235350163026375017602766202747802626c0165017301670270740262690279\
    32027934016a0164016602646202746902647403747374026461026d69027462026c740b02092d05050201780179060502016101f6080100";

/// WRITE_ROWS_V1 (23) into `p.t`.
const ALL_TYPES_INSERT: &str = "\
    15000000000001001fffffff7f0000008000286bee10ffeeddccbbaa123487650011223344551020010db800000000000000000000000104\
    0a0102030f00112233445566778899aabbccddee020102017101e90200c3bc01df0276620100d10200626c02031900000000000000010100\
    0000000000000000f03f000000000000004019000000000000000101000000000000000000084000000000000010400155a9a9080000007b\
    2261223a20317d8000000c320000c03f00000000000004407fef7cec7899a54431050a5bf55e0d5da54343ca0fffffff0274620400000000\
    6c0074";

/// The same table under another name, with NO_LOG and with MINIMAL.
const NO_METADATA: &str = "\
    1a00000000000100017000026e6c001f03fefefefefefefefe0f0ffcfcfefeffff100d0dfcf604051312110a09fcfc28fe10fe10fe04fe10\
    fe04fefffe05cefc14001e000202f701f80104040101040a0204080306020104feffff7f";
const MINIMAL_METADATA: &str = "\
    1a00000000000100017000026e6c001f03fefefefefefefefe0f0ffcfcfefeffff100d0dfcf604051312110a09fcfc28fe10fe10fe04fe10\
    fe04fefffe05cefc14001e000202f701f80104040101040a0204080306020104feffff7f0101fa020d3f0608072d08330a070e2e10360702\
    0001";

/// `p.co (id INT PRIMARY KEY, a TEXT COMPRESSED, b VARCHAR(300) COMPRESSED, c BLOB COMPRESSED, d VARBINARY(30) COMPRESSED, …)`.
const COMPRESSED: &str = "\
    180000000000010001700002636f0009038c8d8c8d8c8c0f030a02b104021f0003020a00fe0101010003072d2d3f3f2d0808041302696401\
    6101620163016401650166016c017a080100";

fn parse(hex: &str) -> TableSchema {
    TableSchema::parse(Flavor::Mariadb, &bytes(hex)).unwrap()
}

/// Name, type and character set of each column.
fn columns(schema: &TableSchema) -> Vec<(&str, String, &str)> {
    schema
        .columns
        .iter()
        .map(|column| {
            let charset = match &column.kind {
                ColumnKind::Text { charset, .. } => charset.name(),
                ColumnKind::Enum { charset, .. } | ColumnKind::Set { charset, .. } => {
                    charset.as_ref().map_or("", Charset::name)
                }
                ColumnKind::Integer { unsigned: true, .. } => "unsigned",
                _ => "",
            };
            (column.name.as_str(), column.kind.type_text(), charset)
        })
        .collect()
}

#[test]
fn mariadb_counts_geometry_among_the_columns_with_a_character_set() {
    let schema = parse(ALL_TYPES);
    let expected = [
        ("id", "int", "unsigned"),
        ("u", "binary(16)", ""),
        ("i6", "binary(16)", ""),
        ("i4", "binary(4)", ""),
        ("b16", "binary(16)", ""),
        ("b4", "binary(4)", ""),
        ("b255", "binary(255)", ""),
        ("c", "char(5)", "latin1"),
        ("cu", "char(255)", "utf8mb4"),
        ("v", "varchar(20)", "cp1251"),
        ("vb", "varbinary(30)", ""),
        ("tx", "text", "koi8r"),
        ("bl", "blob", ""),
        ("e", "enum", "latin2"),
        ("s", "set", "utf8mb4"),
        ("g", "geometry", ""),
        ("pt", "point", ""),
        ("bi", "bit(9)", ""),
        ("y2", "year", ""),
        ("y4", "year", ""),
        ("j", "longtext", "utf8mb4"),
        ("d", "decimal(10,2)", ""),
        ("f", "float", ""),
        ("db", "double", ""),
        ("ti", "time(3)", ""),
        ("dt", "datetime(6)", ""),
        ("tst", "timestamp(2)", ""),
        ("da", "date", ""),
        ("mi", "mediumint", "unsigned"),
        ("tb", "tinyblob", ""),
        ("lt", "longtext", "utf16"),
    ];
    let expected = expected.map(|(name, text, charset)| (name, text.to_owned(), charset));
    assert_eq!(columns(&schema), expected);
    assert_eq!(schema.key, [0]);
    // MySQL's rule shifts the list: the JSON column behind the geometries would lose its character set.
    assert!(TableSchema::parse(Flavor::Mysql, &bytes(ALL_TYPES)).is_err());
}

#[test]
fn without_metadata_nothing_is_guessed() {
    let schema = parse(NO_METADATA);
    assert!(!schema.resolved && schema.key.is_empty());
    let columns = columns(&schema);
    assert_eq!(columns[0], ("@1", "int".to_owned(), ""));
    assert_eq!(columns[7], ("@8", "char(5)".to_owned(), "unknown"));
    let kind = &schema.columns[0].kind;
    assert!(matches!(
        kind,
        ColumnKind::IntegerOfUnknownSign { width: 4 }
    ));

    let rows = bytes(ALL_TYPES_INSERT);
    let mut event = RowsEvent::parse(23, &rows).unwrap();
    let mut scratch = Scratch::new();
    let row = event
        .next_row(&schema, &Limits::default(), &mut scratch)
        .unwrap()
        .unwrap();
    let row: bson::Document = bson::deserialize_from_slice(row.after.unwrap()).unwrap();
    let binary = |bytes: &[u8]| {
        bson::Bson::Binary(bson::Binary {
            subtype: bson::spec::BinarySubtype::Generic,
            bytes: bytes.to_vec(),
        })
    };
    // 4000000000 UNSIGNED, or -294967296: the bytes.
    assert_eq!(row.get("@1").unwrap(), &binary(&[0, 0x28, 0x6b, 0xee]));
    assert_eq!(row.get("@10").unwrap(), &binary(&[0xdf]));
    // ENUM's index.
    assert_eq!(row.get("@14").unwrap(), &bson::Bson::Int32(2));
    // MEDIUMINT 16777215, or -1.
    assert_eq!(row.get("@29").unwrap(), &binary(&[0xff, 0xff, 0xff]));
    // What MySQL never writes is damage there.
    assert!(TableSchema::parse(Flavor::Mysql, &bytes(NO_METADATA)).is_err());
}

#[test]
fn minimal_metadata_has_all_that_values_depend_on() {
    let schema = parse(MINIMAL_METADATA);
    assert!(!schema.resolved);
    let columns = columns(&schema);
    assert_eq!(columns[0], ("@1", "int".to_owned(), "unsigned"));
    assert_eq!(columns[20], ("@21", "longtext".to_owned(), "utf8mb4"));
    assert_eq!(columns[13], ("@14", "enum".to_owned(), ""));
}

#[test]
fn a_compressed_column_is_refused_with_the_statement_that_mends_it() {
    let schema = parse(COMPRESSED);
    assert_eq!(schema.columns[1].kind.type_text(), "blob compressed");
    assert_eq!(
        schema.columns[4].kind.type_text(),
        "varbinary(30) compressed"
    );
    let error = schema.check(true).unwrap_err();
    assert!(error.is_refusal());
    let text = error.to_string();
    for part in ["table p.co", "column a", "ALTER TABLE `p`.`co` MODIFY `a`"] {
        assert!(text.contains(part), "{text} does not say {part}");
    }
    schema.check(false).unwrap();
    parse(ALL_TYPES).check(true).unwrap();
}

#[test]
fn damaged_table_maps_are_errors_and_never_panic() {
    let mut random = fastrand::Rng::with_seed(4);
    for hex in [ALL_TYPES, NO_METADATA, COMPRESSED] {
        let body = bytes(hex);
        for length in 0..body.len() {
            let _ = TableSchema::parse(Flavor::Mariadb, &body[..length]);
        }
        for _ in 0..20_000 {
            let mut damaged = body.clone();
            for _ in 0..random.usize(1..4) {
                let place = random.usize(..damaged.len());
                damaged[place] = random.u8(..);
            }
            if let Ok(schema) = TableSchema::parse(Flavor::Mariadb, &damaged) {
                let _ = schema.document();
            }
        }
    }
}

#[test]
fn a_time_of_unknown_length_is_refused_even_in_a_table_that_is_left_out() {
    // `p.old (id INT, ti TIME)` with mysql56_temporal_format=OFF.
    let schema = parse("16000000000001000170 00036f6c6400 02030b 00 02 010100 0406 02696402 7469");
    let error = schema.check(false).unwrap_err();
    assert!(error.is_refusal());
    for part in ["column ti", "ALTER TABLE `p`.`old` FORCE"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}
