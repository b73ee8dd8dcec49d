//! Rows events captured from a server, and damaged ones.

use bson::{Bson, Document, doc};

use super::*;
use crate::large_value::LargeKind;
use crate::position::Flavor;
use crate::source::decode::captured::{self, bytes};

fn schema(hex: &str) -> TableSchema {
    TableSchema::parse(Flavor::Mysql, &bytes(hex)).unwrap()
}

#[derive(Debug)]
struct Row {
    before: Option<Document>,
    after: Option<Document>,
    changed: Vec<usize>,
    key: Option<Bson>,
    large_values: Vec<LargeValue>,
}

fn decode(
    event_type: u8,
    body: &[u8],
    schema: &TableSchema,
    limits: &Limits,
) -> Result<Vec<Row>, DecodeError> {
    let mut event = RowsEvent::parse(event_type, body)?;
    let mut scratch = Scratch::new();
    let mut rows = Vec::new();
    while let Some(row) = event.next_row(schema, limits, &mut scratch)? {
        let document = |bytes: &[u8]| Document::from_reader(bytes).unwrap();
        let key = row.key.map(|key| {
            let mut out = Vec::new();
            let start = bson_writer::begin_document(&mut out);
            bson_writer::element(&mut out, key.element_type, b"key\0");
            out.extend_from_slice(key.bytes);
            bson_writer::end_document(&mut out, start);
            document(&out).get("key").unwrap().clone()
        });
        rows.push(Row {
            before: row.before.map(document),
            after: row.after.map(document),
            changed: row.changed.to_vec(),
            key,
            large_values: row.large_values,
        });
    }
    Ok(rows)
}

fn decimal(text: &str) -> Bson {
    Bson::Decimal128(text.parse().unwrap())
}

fn binary(bytes: &[u8]) -> Bson {
    Bson::Binary(bson::Binary {
        subtype: bson::spec::BinarySubtype::Generic,
        bytes: bytes.to_vec(),
    })
}

#[test]
fn every_type_of_an_inserted_row() {
    let schema = schema(captured::ALL_TYPES);
    let rows = decode(
        30,
        &bytes(captured::ALL_TYPES_INSERT),
        &schema,
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(rows.len(), 2);
    let mut point = vec![1, 1, 0, 0, 0];
    point.extend(20_f64.to_le_bytes());
    point.extend(10_f64.to_le_bytes());
    let expected = doc! {
        "id": 1,
        "m": -5,
        "big": decimal("18446744073709551615"),
        "y": 2024,
        "f": 0.1,
        "de": decimal("-12.30"),
        "de65": "-12345678901234567890123456789012345678.05",
        "b9": 257_i64,
        "da": "2024-02-29",
        "t1": "-01:02:03.5",
        "dt": "0000-00-00 00:00:00.000",
        "ts": "2026-11-21T02:36:00.123456Z",
        "c": "ab",
        "v": "çé€",
        "bi": binary(&[1, 2, 0, 0]),
        "bl": binary(&[0, 0xff]),
        "tx": "你好",
        "e": "ö",
        "s": ["p", "q"],
        "j": { "a": [1, 2.5, "x"], "d": decimal("18446744073709551615") },
        "g": { "srid": 4326_i64, "wkb": binary(&point) },
        "vec": [1.0, 0.1],
        "inv": 7,
    };
    assert_eq!(rows[0].after.as_ref().unwrap(), &expected);
    assert_eq!(rows[0].before, None);
    assert_eq!(
        rows[0].key,
        Some(Bson::Document(doc! { "v": "çé€", "id": 1 }))
    );
    let second = rows[1].after.as_ref().unwrap();
    assert_eq!(second.len(), 23);
    assert_eq!(
        second
            .values()
            .filter(|value| **value == Bson::Null)
            .count(),
        20
    );
}

#[test]
fn an_update_has_both_images_and_names_what_changed() {
    let schema = schema(captured::ALL_TYPES);
    let rows = decode(
        31,
        &bytes(captured::ALL_TYPES_UPDATE),
        &schema,
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(rows.len(), 1);
    let names: Vec<&str> = rows[0]
        .changed
        .iter()
        .map(|index| schema.columns[*index].name.as_str())
        .collect();
    assert_eq!(names, ["m", "j"]);
    let after = rows[0].after.as_ref().unwrap();
    assert_eq!(after.get_i32("m").unwrap(), 6);
    let json = doc! {
        "e": decimal("1.50"),
        "f": "2020-01-02",
        "g": binary(&[0, 1, 0xff]),
        "h": true,
        "i": -70000,
        "k": [Bson::Null, 5_000_000_000_i64, "-01:00:00.000000"],
    };
    assert_eq!(after.get_document("j").unwrap(), &json);
    assert_eq!(rows[0].before.as_ref().unwrap().get_i32("m").unwrap(), -5);
}

#[test]
fn a_delete_has_the_before_image_only() {
    let schema = schema(captured::ALL_TYPES);
    let rows = decode(
        32,
        &bytes(captured::ALL_TYPES_DELETE),
        &schema,
        &Limits::default(),
    )
    .unwrap();
    assert_eq!(rows.len(), 1);
    assert_eq!(rows[0].after, None);
    assert_eq!(
        rows[0].key,
        Some(Bson::Document(doc! { "v": "k", "id": 2 }))
    );
}

#[test]
fn partial_json_is_applied_to_the_before_image() {
    let schema = schema(captured::JSON);
    let rows = decode(
        39,
        &bytes(captured::JSON_PARTIAL),
        &schema,
        &Limits::default(),
    )
    .unwrap();
    let pad = "0123456789012345678901234567890123456789";
    let expected = doc! {
        "id": 1,
        "a": { "o": { "p q": {} }, "x": [1, 22, 3], "y": [1], "pad": pad },
        "k": 2,
        "b": {},
    };
    assert_eq!(rows[0].after.as_ref().unwrap(), &expected);
    assert_eq!(rows[0].changed, [1, 2]);
}

#[test]
fn partial_json_without_a_before_image_is_kept_as_the_change() {
    let schema = schema(captured::JSON);
    let rows = decode(
        39,
        &bytes(captured::JSON_PARTIAL_MINIMAL),
        &schema,
        &Limits::default(),
    )
    .unwrap();
    let expected =
        doc! { "a": { "$jsonDiff": [{ "op": "replace", "path": "$.x[1]", "value": 23 }] } };
    assert_eq!(rows[0].after.as_ref().unwrap(), &expected);
    assert_eq!(rows[0].before.as_ref().unwrap(), &doc! { "id": 1 });
}

#[test]
fn skipping_counts_the_rows_that_decoding_gives() {
    let schema = schema(captured::ALL_TYPES);
    let body = bytes(captured::ALL_TYPES_INSERT);
    let mut event = RowsEvent::parse(30, &body).unwrap();
    assert_eq!(
        (event.kind(), event.ends_statement(), event.is_empty()),
        (RowsKind::Insert, true, false)
    );
    assert_eq!(event.count_rows(&schema), Ok(2));
    assert!(event.is_empty());
    assert_eq!(event.count_rows(&schema), Ok(0));
}

#[test]
fn an_event_that_only_ends_a_statement_has_no_rows() {
    let mut event = RowsEvent::parse(30, &[0xff, 0xff, 0xff, 0, 0, 0, 1, 0, 2, 0, 0]).unwrap();
    assert!(event.is_empty() && event.ends_statement());
    assert_eq!(event.table_id(), 0x00ff_ffff);
    assert_eq!(event.skip_row(&schema(captured::JSON)), Ok(false));
}

#[test]
fn rows_without_columns_are_never_endless() {
    // One column that is not in the image, and yet a byte of rows: each row would take nothing of it.
    for kind in [30, 31, 32] {
        let images = if kind == 31 { 2 } else { 1 };
        let mut body = vec![1, 0, 0, 0, 0, 0, 1, 0, 2, 0, 1];
        body.extend(std::iter::repeat_n(0, images));
        RowsEvent::parse(kind, &body).unwrap();
        body.push(7);
        let error = RowsEvent::parse(kind, &body).unwrap_err().to_string();
        assert!(error.contains("no column is in their images"), "{error}");
    }
}

#[test]
fn a_schema_of_another_table_is_refused() {
    let error = decode(
        30,
        &bytes(captured::ALL_TYPES_INSERT),
        &schema(captured::JSON),
        &Limits::default(),
    );
    assert_eq!(
        error.unwrap_err().to_string(),
        "table t2.f2: the rows event has 23 columns, its table map 4"
    );
}

#[test]
fn an_error_names_table_and_column_and_ends_the_event() {
    let schema = schema(captured::ALL_TYPES);
    let body = bytes(captured::ALL_TYPES_INSERT);
    let cut = &body[..60];
    let mut event = RowsEvent::parse(30, cut).unwrap();
    let mut scratch = Scratch::new();
    let error = event
        .next_row(&schema, &Limits::default(), &mut scratch)
        .unwrap_err();
    assert!(
        error.to_string().starts_with("table t2.f1, column "),
        "{error}"
    );
    assert!(
        event
            .next_row(&schema, &Limits::default(), &mut scratch)
            .unwrap()
            .is_none()
    );
    assert!(matches!(
        RowsEvent::parse(29, cut),
        Err(DecodeError::NotARowsEvent(29))
    ));
}

#[test]
fn large_values_leave_their_document() {
    let schema = schema(captured::ALL_TYPES);
    let limits = Limits { max_value_bytes: 3 };
    let rows = decode(31, &bytes(captured::ALL_TYPES_UPDATE), &schema, &limits).unwrap();
    let row = &rows[0];
    let kinds: Vec<LargeKind> = row.large_values.iter().map(|value| value.kind).collect();
    // v, bi stays (its two bytes are padded), tx, j, g, vec of each image.
    let image = [
        LargeKind::String,
        LargeKind::String,
        LargeKind::Json,
        LargeKind::Binary,
        LargeKind::Binary,
    ];
    assert_eq!(kinds, [image, image].concat());
    let json = &row.large_values[2];
    assert_eq!(
        *json.bytes,
        br#"{"a": [1, 2.5, "x"], "d": 18446744073709551615}"#
    );
    let reference =
        doc! { "$value": json.sha256_hex(), "bytes": json.bytes.len() as i64, "type": "json" };
    assert_eq!(
        row.before.as_ref().unwrap().get_document("j").unwrap(),
        &reference
    );
    let after = &row.large_values[7];
    let text = r#"{"e": 1.50, "f": "2020-01-02", "g": "base64:type15:AAH/", "h": true, "i": -70000, "k": [null, 5000000000, "-01:00:00.000000"]}"#;
    assert_eq!(std::str::from_utf8(&after.bytes).unwrap(), text);
    // Equal values have equal references: only m and j differ.
    assert_eq!(row.changed, [1, 19]);
}

/// A table map and a row of `count` BLOB columns.
fn blobs(lengths: &[usize]) -> (TableSchema, Vec<u8>) {
    let mut map = vec![0; 8];
    map.extend(b"\x01d\0\x01t\0");
    map.push(lengths.len() as u8);
    map.extend(lengths.iter().map(|_| 252));
    map.push(lengths.len() as u8);
    map.extend(lengths.iter().map(|_| 4));
    map.push(0xff);
    map.extend([2, 1, 63]);
    let names: Vec<u8> = (0..lengths.len())
        .flat_map(|index| [1, b'a' + index as u8])
        .collect();
    map.extend([4, names.len() as u8]);
    map.extend(names);
    let mut row = vec![0; 8];
    row.extend([2, 0, lengths.len() as u8, 0xff, 0]);
    for (index, length) in lengths.iter().enumerate() {
        row.extend((*length as u32).to_le_bytes());
        row.resize(row.len() + length, index as u8);
    }
    (TableSchema::parse(Flavor::Mysql, &map).unwrap(), row)
}

#[test]
fn while_a_row_is_too_large_its_largest_values_leave() {
    const MEBIBYTE: usize = 1 << 20;
    let lengths = [MEBIBYTE - 1, 900_000, MEBIBYTE, 800_000, 1000, 700_000];
    let (schema, body) = blobs(&lengths);
    let rows = decode(30, &body, &schema, &Limits::default()).unwrap();
    let gone: Vec<usize> = rows[0]
        .large_values
        .iter()
        .map(|value| value.bytes.len())
        .collect();
    assert_eq!(gone, [MEBIBYTE]);
    let after = rows[0].after.as_ref().unwrap();
    assert_eq!(
        after.get_document("c").unwrap().get_i64("bytes").unwrap(),
        MEBIBYTE as i64
    );
    assert_eq!(after.get_binary_generic("f").unwrap().len(), 700_000);

    let (schema, body) = blobs(&[MEBIBYTE; 8]);
    let rows = decode(30, &body, &schema, &Limits::default()).unwrap();
    assert_eq!(rows[0].large_values.len(), 5);
    assert!(
        bson::serialize_to_vec(rows[0].after.as_ref().unwrap())
            .unwrap()
            .len()
            <= 4 * MEBIBYTE
    );
}

#[test]
fn a_row_that_grows_in_bson_is_kept_small_too() {
    // Eight JSON arrays of 16-bit integers: 5 bytes an element on the wire, 11 in BSON.
    const ELEMENTS: u32 = 90_000;
    let (_, body) = blobs(&[]);
    let mut array = vec![3];
    array.extend(ELEMENTS.to_le_bytes());
    array.extend((8 + 5 * ELEMENTS).to_le_bytes());
    array.extend((0..ELEMENTS).flat_map(|_| [5, 1, 0, 0, 0]));
    let mut map = vec![0; 8];
    map.extend(b"\x01d\0\x01t\0\x08");
    map.extend([245; 8]);
    map.push(8);
    map.extend([4; 8]);
    map.push(0xff);
    let schema = TableSchema::parse(Flavor::Mysql, &map).unwrap();
    let mut row = body[..8].to_vec();
    row.extend([2, 0, 8, 0xff, 0]);
    for _ in 0..8 {
        row.extend((array.len() as u32).to_le_bytes());
        row.extend_from_slice(&array);
    }
    let rows = decode(30, &row, &schema, &Limits::default()).unwrap();
    assert_eq!(rows[0].large_values.len(), 4);
    assert!(
        rows[0]
            .large_values
            .iter()
            .all(|value| value.bytes.starts_with(b"[1, 1, "))
    );
    assert!(
        bson::serialize_to_vec(rows[0].after.as_ref().unwrap())
            .unwrap()
            .len()
            <= 4 << 20
    );
}

#[test]
fn damaged_rows_are_errors_and_never_panic() {
    let mut random = fastrand::Rng::with_seed(5);
    for (event_type, map, body) in [
        (30, captured::ALL_TYPES, captured::ALL_TYPES_INSERT),
        (31, captured::ALL_TYPES, captured::ALL_TYPES_UPDATE),
        (32, captured::ALL_TYPES, captured::ALL_TYPES_DELETE),
        (39, captured::JSON, captured::JSON_PARTIAL),
        (39, captured::JSON, captured::JSON_PARTIAL_MINIMAL),
    ] {
        let (schema, body) = (schema(map), bytes(body));
        let mut scratch = Scratch::new();
        let mut try_all = |bytes: &[u8], limits: &Limits| {
            let Ok(event) = RowsEvent::parse(event_type, bytes) else {
                return;
            };
            let counted = event.clone().count_rows(&schema);
            let mut event = event;
            let mut decoded = 0;
            let complete = loop {
                match event.next_row(&schema, limits, &mut scratch) {
                    Ok(Some(row)) => {
                        decoded += 1;
                        for image in [row.before, row.after].into_iter().flatten() {
                            Document::from_reader(image).unwrap();
                        }
                    }
                    Ok(None) => break true,
                    Err(_) => break false,
                }
            };
            if complete {
                assert_eq!(counted, Ok(decoded));
            }
        };
        for length in 0..body.len() {
            try_all(&body[..length], &Limits::default());
        }
        for round in 0..20_000 {
            let mut damaged = body.clone();
            for _ in 0..random.usize(1..4) {
                let place = random.usize(..damaged.len());
                damaged[place] = random.u8(..);
            }
            try_all(
                &damaged,
                &Limits {
                    max_value_bytes: if round % 2 == 0 { 1 << 20 } else { 8 },
                },
            );
        }
    }
}
