//! Table maps captured from a server, and damaged ones.

use std::sync::Arc;

use super::*;
use crate::source::decode::captured::{self, bytes};

fn parse(hex: &str) -> TableSchema {
    TableSchema::parse(Flavor::Mysql, &bytes(hex)).unwrap()
}

#[test]
fn full_metadata_gives_names_types_labels_and_key() {
    let schema = parse(captured::ALL_TYPES);
    assert_eq!(schema.full_name, "t2.f1");
    assert!(schema.resolved);
    assert_eq!(
        schema
            .key
            .iter()
            .map(|index| schema.columns[*index].name.as_str())
            .collect::<Vec<_>>(),
        ["v", "id"]
    );
    let types: Vec<(&str, String)> = schema
        .columns
        .iter()
        .map(|column| (column.name.as_str(), column.kind.type_text()))
        .collect();
    let expected = [
        ("id", "int"),
        ("m", "mediumint"),
        ("big", "bigint"),
        ("y", "year"),
        ("f", "float"),
        ("de", "decimal(10,2)"),
        ("de65", "decimal(40,2)"),
        ("b9", "bit(9)"),
        ("da", "date"),
        ("t1", "time(1)"),
        ("dt", "datetime(3)"),
        ("ts", "timestamp(6)"),
        ("c", "char(5)"),
        ("v", "varchar(300)"),
        ("bi", "binary(4)"),
        ("bl", "blob"),
        ("tx", "text"),
        ("e", "enum"),
        ("s", "set"),
        ("j", "json"),
        ("g", "point"),
        ("vec", "vector(2)"),
        ("inv", "int"),
    ];
    assert_eq!(types, expected.map(|(name, text)| (name, text.to_owned())));
    let invisible: Vec<&str> = schema
        .columns
        .iter()
        .filter(|column| !column.visible)
        .map(|column| column.name.as_str())
        .collect();
    assert_eq!(invisible, ["inv"]);
    assert!(!schema.columns[0].nullable && schema.columns[1].nullable);
}

#[test]
fn the_document_is_what_the_id_is_the_hash_of() {
    let schema = parse(captured::ALL_TYPES);
    let document = schema.document();
    assert_eq!(document.get_str("_id").unwrap(), schema.id);
    assert_eq!(schema.id.len(), 16);
    let columns = document.get_array("columns").unwrap();
    assert_eq!(
        columns[2].as_document().unwrap(),
        &bson::doc! { "name": "big", "type": "bigint", "unsigned": true }
    );
    assert_eq!(
        columns[17].as_document().unwrap(),
        &bson::doc! { "name": "e", "type": "enum", "charset": "utf8mb4", "labels": ["x", "ö"] }
    );
    assert_eq!(
        document.get_array("key").unwrap(),
        &vec!["v".into(), "id".into()]
    );
    // The id depends on neither the table's id nor its name, but on every column.
    let mut other = bytes(captured::ALL_TYPES);
    other[0] ^= 1;
    other[9] = b'u';
    let renamed = TableSchema::parse(Flavor::Mysql, &other).unwrap();
    assert_eq!((renamed.database.as_str(), &renamed.id), ("u2", &schema.id));
    let place = other.windows(3).position(|bytes| bytes == b"big").unwrap();
    other[place] = b'p';
    assert_ne!(
        TableSchema::parse(Flavor::Mysql, &other).unwrap().id,
        schema.id
    );
}

#[test]
fn charset_and_sign_lists_count_the_columns_that_the_server_counts() {
    let schema = parse(captured::CHARSETS);
    let charsets: Vec<(&str, &str)> = schema
        .columns
        .iter()
        .filter_map(|column| match &column.kind {
            ColumnKind::Text { charset, .. } => Some((column.name.as_str(), charset.name())),
            ColumnKind::Bytes { .. } => Some((column.name.as_str(), "binary")),
            ColumnKind::Enum { charset, .. } | ColumnKind::Set { charset, .. } => {
                Some((column.name.as_str(), charset.unwrap().name()))
            }
            _ => None,
        })
        .collect();
    let expected = [
        ("a", "latin1"),
        ("b", "latin1"),
        ("c", "latin1"),
        ("e", "utf8mb4"),
        ("h", "latin1"),
        ("bb", "binary"),
        ("e1", "latin1"),
        ("s1", "latin1"),
        ("e2", "utf8mb4"),
        ("e3", "latin1"),
    ];
    assert_eq!(charsets, expected);
    let unsigned = |name: &str| {
        let column = schema
            .columns
            .iter()
            .find(|column| column.name == name)
            .unwrap();
        matches!(column.kind, ColumnKind::Integer { unsigned: true, .. })
    };
    assert!(unsigned("uu") && !unsigned("n") && !unsigned("d"));
}

/// Where the optional metadata begins: behind the nullable bitmap.
fn without_metadata_kinds(hex: &str, dropped: &[u8]) -> Vec<u8> {
    let body = bytes(hex);
    let schema = parse(hex);
    let mut at = 8 + 1 + schema.database.len() + 1 + 1 + schema.table.len() + 1;
    at += 1 + schema.columns.len();
    at += 1 + usize::from(body[at]) + schema.columns.len().div_ceil(8);
    let mut out = body[..at].to_vec();
    while at < body.len() {
        let end = at + 2 + usize::from(body[at + 1]);
        if !dropped.contains(&body[at]) {
            out.extend_from_slice(&body[at..end]);
        }
        at = end;
    }
    out
}

#[test]
fn without_names_columns_are_numbered_and_labels_unknown() {
    // What binlog_row_metadata=MINIMAL leaves out.
    let body = without_metadata_kinds(captured::ALL_TYPES, &[4, 5, 6, 8, 9, 10, 11, 12]);
    let schema = TableSchema::parse(Flavor::Mysql, &body).unwrap();
    assert!(!schema.resolved);
    assert_eq!(
        (
            schema.columns[0].name.as_str(),
            schema.columns[22].name.as_str()
        ),
        ("@1", "@23")
    );
    assert!(schema.key.is_empty());
    assert!(matches!(
        schema.columns[17].kind,
        ColumnKind::Enum { labels: None, .. }
    ));
    assert!(matches!(
        schema.columns[2].kind,
        ColumnKind::Integer { unsigned: true, .. }
    ));
}

#[test]
fn lists_without_which_values_would_be_misread_must_be_there() {
    for kind in [1, 2, 3, 5, 6] {
        let body = without_metadata_kinds(captured::ALL_TYPES, &[kind]);
        let is_there = bytes(captured::ALL_TYPES) != body;
        let error = TableSchema::parse(Flavor::Mysql, &body);
        assert_eq!(error.is_err(), is_there, "kind {kind}");
        if let Err(error) = error {
            assert!(
                error
                    .to_string()
                    .starts_with("table t2.f1: the table map's "),
                "{error}"
            );
        }
    }
}

#[test]
fn a_key_that_names_a_column_twice_is_an_error() {
    const SIMPLE_PRIMARY_KEY: u8 = 8;
    let without_key = without_metadata_kinds(captured::ALL_TYPES, &[8, 9]);
    let with_key = |columns: &[u8]| {
        let mut body = without_key.clone();
        body.extend_from_slice(&[SIMPLE_PRIMARY_KEY, columns.len() as u8]);
        body.extend_from_slice(columns);
        TableSchema::parse(Flavor::Mysql, &body)
    };
    assert_eq!(with_key(&[0, 2]).unwrap().key, [0, 2]);
    let error = with_key(&[0, 2, 0]).unwrap_err().to_string();
    assert!(error.contains("each column once"), "{error}");
}

#[test]
fn damaged_table_maps_are_errors_and_never_panic() {
    let mut random = fastrand::Rng::with_seed(3);
    for hex in [captured::ALL_TYPES, captured::CHARSETS, captured::JSON] {
        let body = bytes(hex);
        for length in 0..body.len() {
            let _ = TableSchema::parse(Flavor::Mysql, &body[..length]);
        }
        for _ in 0..20_000 {
            let mut damaged = body.clone();
            for _ in 0..random.usize(1..4) {
                let place = random.usize(..damaged.len());
                damaged[place] = random.u8(..);
            }
            if let Ok(schema) = TableSchema::parse(Flavor::Mysql, &damaged) {
                let _ = schema.document();
            }
        }
    }
}

#[test]
fn the_cache_parses_a_content_once() {
    let mut cache = SchemaCache::new();
    let body = bytes(captured::JSON);
    let schema = cache.table_map(Flavor::Mysql, &body).unwrap();
    let mut again = body.clone();
    again[0] ^= 0xff;
    assert!(Arc::ptr_eq(
        &schema,
        &cache.table_map(Flavor::Mysql, &body).unwrap()
    ));
    assert!(Arc::ptr_eq(
        &schema,
        &cache.table_map(Flavor::Mysql, &again).unwrap()
    ));
    let table_id = |body: &[u8]| {
        u64::from_le_bytes([body[0], body[1], body[2], body[3], body[4], body[5], 0, 0])
    };
    assert!(Arc::ptr_eq(
        &schema,
        cache.by_table_id(table_id(&again)).unwrap()
    ));
    cache.forget_table_ids();
    assert!(cache.by_table_id(table_id(&body)).is_none());
    assert!(Arc::ptr_eq(
        &schema,
        &cache.table_map(Flavor::Mysql, &body).unwrap()
    ));
    // The latest table maps are known, however many came.
    for id in 0..20_000_u32 {
        again[..4].copy_from_slice(&id.to_le_bytes());
        let _ = cache.table_map(Flavor::Mysql, &again).unwrap();
        assert!(cache.by_table_id(table_id(&again)).is_some());
    }
}
