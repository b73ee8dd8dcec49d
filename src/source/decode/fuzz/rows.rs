//! Table maps and the rows behind them.
//!
//! An input is a list of events, each a type, a length (4 bytes, little-endian) and a body: table maps, rows events.

use std::collections::HashMap;

use super::super::{DecodedRow, Limits, RowsEvent, RowsKind, Scratch};
use crate::bson_writer::element;
use crate::fuzz::{
    Captured, Choices, IMAGE_LEVELS, MARIADB, MYSQL, Random, Target, assert_document, choices,
    mutate,
};
use crate::large_value::LargeValue;
use crate::position::Flavor;
use crate::source::schema::{ColumnKind, TableSchema};

const TABLE_MAP: u8 = 19;

fn is_rows_event(kind: u8) -> bool {
    matches!(kind, 23..=25 | 30..=32 | 39)
}

fn append_event(input: &mut Vec<u8>, kind: u8, body: &[u8]) {
    input.push(kind);
    input.extend_from_slice(&(body.len() as u32).to_le_bytes());
    input.extend_from_slice(body);
}

fn events(mut input: &[u8]) -> Vec<(u8, &[u8])> {
    let mut events = Vec::new();
    while let Some((head, rest)) = input.split_first_chunk::<5>() {
        let length = u32::from_le_bytes([head[1], head[2], head[3], head[4]]) as usize;
        let (body, behind) = rest.split_at(length.min(rest.len()));
        events.push((head[0], body));
        input = behind;
    }
    events
}

/// Rows events of the captured binlogs with the table maps before them.
fn captured() -> &'static [(Captured, Captured)] {
    static PAIRS: std::sync::OnceLock<Vec<(Captured, Captured)>> = std::sync::OnceLock::new();
    PAIRS.get_or_init(|| {
        let mut pairs = Vec::new();
        for file in [MYSQL, MARIADB] {
            let mut table_maps = HashMap::new();
            for event in Captured::all(file) {
                if event.kind == TABLE_MAP {
                    table_maps.insert(event.body[..6].to_vec(), event);
                } else if is_rows_event(event.kind) {
                    pairs.push((table_maps[&event.body[..6]], event));
                }
            }
        }
        assert!(
            pairs.len() > 40,
            "{} rows events were captured",
            pairs.len()
        );
        pairs
    })
}

fn damaged_capture(random: &mut Random) -> Vec<u8> {
    let pairs = captured();
    let (table_map, rows) = pairs[random.usize(..pairs.len())];
    let (other_map, other_rows) = pairs[random.usize(..pairs.len())];
    let (mut map_body, mut rows_body) = (table_map.body.to_vec(), rows.body.to_vec());
    match random.u8(0..8) {
        0 => {}
        1..=2 => mutate(random, &mut map_body, other_map.body),
        3 => {
            mutate(random, &mut map_body, other_map.body);
            mutate(random, &mut rows_body, other_rows.body);
        }
        4 => rows_body = other_rows.body.to_vec(),
        _ => mutate(random, &mut rows_body, other_rows.body),
    }
    let kind = if random.u8(0..20) == 0 {
        other_rows.kind
    } else {
        rows.kind
    };
    let mut input = Vec::new();
    append_event(&mut input, TABLE_MAP, &map_body);
    append_event(&mut input, kind, &rows_body);
    input
}

/// The BSON types that a column's values may have beside NULL: one column definition gives one type, but for unsigned
/// numbers that Int64 cannot hold, for text without characters and for what is too large.
fn types_of(kind: &ColumnKind) -> &'static [u8] {
    use element::*;
    match kind {
        ColumnKind::Integer {
            width: 8,
            unsigned: true,
        }
        | ColumnKind::Bit { .. } => &[INT64, DECIMAL128],
        ColumnKind::Integer { width: 8, .. }
        | ColumnKind::Integer {
            width: 4,
            unsigned: true,
        } => &[INT64],
        ColumnKind::Integer { .. } | ColumnKind::Year => &[INT32],
        // What could be either of two numbers is kept as its bytes.
        ColumnKind::IntegerOfUnknownSign { .. } => &[INT32, INT64, BINARY],
        ColumnKind::Float | ColumnKind::Double => &[DOUBLE],
        ColumnKind::Decimal {
            precision: ..=34, ..
        } => &[DECIMAL128],
        ColumnKind::Text { .. } => &[STRING, BINARY, DOCUMENT],
        ColumnKind::Bytes { .. } => &[BINARY, DOCUMENT],
        ColumnKind::Enum { labels: None, .. } => &[INT32],
        ColumnKind::Enum { .. } => &[STRING, BINARY],
        ColumnKind::Set { labels: None, .. } => &[INT64, DECIMAL128],
        ColumnKind::Set { .. } => &[ARRAY],
        ColumnKind::Json { .. } => &[
            DOUBLE, STRING, DOCUMENT, ARRAY, BINARY, BOOLEAN, INT32, INT64, DECIMAL128,
        ],
        ColumnKind::Geometry { .. } => &[DOCUMENT],
        ColumnKind::Vector { .. } => &[ARRAY, DOCUMENT],
        _ => &[STRING],
    }
}

/// What a decoded row is, in one piece: to be compared.
type Row = (
    Option<Vec<u8>>,
    Option<Vec<u8>>,
    Vec<usize>,
    Option<(u8, Vec<u8>)>,
    Vec<LargeValue>,
    u32,
);

fn checked(row: DecodedRow<'_>, schema: &TableSchema, kind: RowsKind) -> Row {
    assert_eq!(row.before.is_some(), kind != RowsKind::Insert);
    assert_eq!(row.after.is_some(), kind != RowsKind::Delete);
    let mut columns: Vec<_> = schema.columns.iter().map(|column| &*column.name).collect();
    columns.sort_unstable();
    let unique = columns.windows(2).all(|names| names[0] != names[1]);
    for image in [row.before, row.after].into_iter().flatten() {
        assert!(assert_document(image) <= IMAGE_LEVELS);
        let document = bson::RawDocument::from_bytes(image).unwrap();
        for element in document.iter_elements() {
            let element = element.unwrap();
            let column = schema
                .columns
                .iter()
                .find(|column| column.name == element.key().as_str());
            let column = column.expect("a column of the table");
            let found = element.element_type() as u8;
            if unique {
                let allowed = types_of(&column.kind);
                assert!(
                    found == element::NULL || allowed.contains(&found),
                    "{found} of {:?}",
                    column.kind
                );
            }
        }
    }
    assert!(
        row.changed
            .iter()
            .all(|index| *index < schema.columns.len())
    );
    if let Some(key) = row.key {
        let mut document = Vec::new();
        let start = crate::bson_writer::begin_document(&mut document);
        crate::bson_writer::encoded_field(&mut document, key.element_type, b"k\0", key.bytes);
        crate::bson_writer::end_document(&mut document, start);
        assert_document(&document);
    }
    (
        row.before.map(<[u8]>::to_vec),
        row.after.map(<[u8]>::to_vec),
        row.changed.to_vec(),
        row.key.map(|key| (key.element_type, key.bytes.to_vec())),
        row.large_values,
        row.undecodable_text,
    )
}

/// Both flavors read it, since an event does not tell of which it is; true when one takes it for right.
fn check(input: &[u8]) -> bool {
    [Flavor::Mysql, Flavor::Mariadb]
        .map(|flavor| check_as(flavor, input))
        .contains(&true)
}

fn check_as(flavor: Flavor, input: &[u8]) -> bool {
    let mut schema = None;
    let mut scratch = Scratch::new();
    let mut right = false;
    for (kind, body) in events(input) {
        if kind == TABLE_MAP {
            let Ok(parsed) = TableSchema::parse(flavor, body) else {
                return false;
            };
            assert_document(&bson::serialize_to_vec(&parsed.document()).unwrap());
            schema = Some(parsed);
            continue;
        }
        let (Some(schema), Ok(event)) = (&schema, RowsEvent::parse(kind, body)) else {
            return false;
        };
        right = rows(schema, event.clone(), &Limits::default(), &mut scratch);
        // Nearly everything is too large for its document now.
        rows(schema, event, &Limits { max_value_bytes: 8 }, &mut scratch);
    }
    right
}

fn rows(
    schema: &TableSchema,
    event: RowsEvent<'_>,
    limits: &Limits,
    scratch: &mut Scratch,
) -> bool {
    let kind = event.kind();
    let mut count = 0;
    let mut decoding = event.clone();
    loop {
        let mut again = decoding.clone();
        match decoding.next_row(schema, limits, scratch) {
            Ok(Some(row)) => {
                let row = checked(row, schema, kind);
                // The same row gives the same document, whatever was decoded before.
                let mut fresh = Scratch::new();
                let second = again.next_row(schema, limits, &mut fresh).unwrap().unwrap();
                assert!(
                    checked(second, schema, kind) == row,
                    "a row is decoded in two ways"
                );
                count += 1;
            }
            Ok(None) => break,
            Err(error) => {
                assert!(decoding.is_empty(), "rows are left behind {error}");
                assert!(error.to_string().starts_with("table "), "{error}");
                return false;
            }
        }
    }
    assert_eq!(event.clone().count_rows(schema), Ok(count));
    count > 0
}

#[test]
fn captured_rows() {
    Target {
        name: "source::decode::fuzz::rows::captured_rows",
        make: damaged_capture,
        check,
        memory: 2048,
    }
    .run(20_000);
}

/// A table of up to 12 columns of any types, and rows that fit it, but for their values' bytes.
fn made(input: &[u8]) -> Vec<u8> {
    let mut choices = Choices(input);
    let (mut types, mut metadata, mut values): (Vec<u8>, Vec<u8>, Vec<Length>) = Default::default();
    let (mut numeric, mut character, mut labelled) = (0, 0, Vec::new());
    for _ in 0..1 + choices.below(12) {
        let (code, length) = column(&mut choices, &mut metadata);
        types.push(code);
        values.push(length);
        match metadata.len().checked_sub(2).map(|at| metadata[at]) {
            Some(real @ (247 | 248)) if code == 254 => labelled.push(real),
            _ if matches!(code, 1..=5 | 8 | 9 | 13 | 246) => numeric += 1,
            _ if matches!(code, 15 | 242 | 252 | 254) => character += 1,
            _ => {}
        }
    }
    let mut map = vec![1, 0, 0, 0, 0, 0, 1, 0, 1, b'd', 0, 1, b't', 0];
    map.push(types.len() as u8);
    map.extend_from_slice(&types);
    map.push(metadata.len() as u8);
    map.extend_from_slice(&metadata);
    map.extend(choices.take(types.len().div_ceil(8)));
    let mut optional = |kind: u8, value: &[u8]| {
        map.push(kind);
        map.push(value.len() as u8);
        map.extend_from_slice(value);
    };
    if numeric > 0 {
        optional(1, &choices.take(usize::div_ceil(numeric, 8)));
    }
    if character > 0 {
        let each: Vec<u8> = (0..character).map(|_| choices.below(250) as u8).collect();
        optional(3, &each);
    }
    let names: Vec<u8> = (0..types.len())
        .flat_map(|index| [1, b'a' + index as u8])
        .collect();
    let named = choices.below(4) > 0;
    if named {
        optional(4, &names);
        for (kind, field) in [(248, 5), (247, 6)] {
            let count = labelled.iter().filter(|real| **real == kind).count();
            if count > 0 {
                let labels: Vec<u8> = [3, 1, b'x', 0, 2, 0xc3, 0xa9].repeat(count);
                optional(field, &labels);
            }
        }
        if !labelled.is_empty() {
            optional(10, &[choices.below(250) as u8]);
        }
        optional(8, &[choices.below(types.len()) as u8]);
    }
    let kind = [23, 24, 25, 30, 31, 32, 39][choices.below(7)];
    let mut rows = vec![1, 0, 0, 0, 0, 0, 1, 0];
    if kind > 25 {
        rows.extend_from_slice(&[2, 0]);
    }
    rows.push(types.len() as u8);
    let is_update = matches!(kind, 24 | 31 | 39);
    let images: Vec<Vec<u8>> = (0..1 + usize::from(is_update))
        .map(|_| match choices.below(3) {
            0 => choices.take(types.len().div_ceil(8)),
            _ => vec![0xff; types.len().div_ceil(8)],
        })
        .collect();
    images
        .iter()
        .for_each(|image| rows.extend_from_slice(image));
    for _ in 0..choices.below(4) {
        for (index, image) in images.iter().enumerate() {
            if kind == 39 && index == 1 {
                rows.push(0);
            }
            let is_in = |column: usize| image[column / 8] >> (column % 8) & 1 == 1;
            let present: Vec<usize> = (0..types.len()).filter(|column| is_in(*column)).collect();
            let nulls = match choices.below(2) {
                0 => vec![0; present.len().div_ceil(8)],
                _ => choices.take(present.len().div_ceil(8)),
            };
            rows.extend_from_slice(&nulls);
            for (place, column) in present.into_iter().enumerate() {
                if nulls[place / 8] >> (place % 8) & 1 == 1 {
                    continue;
                }
                match values[column] {
                    Length::Fixed(length) => rows.extend(choices.take(length)),
                    Length::Told(width) => {
                        let length = choices.below(24);
                        rows.extend_from_slice(&length.to_le_bytes()[..width]);
                        rows.extend(choices.take(length));
                    }
                }
            }
        }
    }
    let mut made = Vec::new();
    append_event(&mut made, TABLE_MAP, &map);
    append_event(&mut made, kind, &rows);
    made
}

/// How a value's length is found.
#[derive(Clone, Copy)]
enum Length {
    Fixed(usize),
    /// It stands before the value, in so many bytes.
    Told(usize),
}

/// A column's type byte and its values' length; its metadata is appended.
fn column(choices: &mut Choices<'_>, metadata: &mut Vec<u8>) -> (u8, Length) {
    const FIXED: [(u8, usize); 14] = [
        (1, 1),
        (2, 2),
        (3, 4),
        (8, 8),
        (9, 3),
        (13, 1),
        (10, 3),
        (14, 3),
        (11, 3),
        (12, 8),
        (7, 4),
        (13, 1),
        (1, 1),
        (3, 4),
    ];
    match choices.below(12) {
        0..=2 => {
            let (code, length) = FIXED[choices.below(FIXED.len())];
            (code, Length::Fixed(length))
        }
        3 => {
            let (code, length) = [(4, 4), (5, 8)][choices.below(2)];
            metadata.push(length as u8);
            (code, Length::Fixed(length))
        }
        4 | 5 => {
            let digits = choices.below(7);
            metadata.push(digits as u8);
            let (code, whole) = [(17, 4), (18, 5), (19, 3)][choices.below(3)];
            (code, Length::Fixed(whole + digits.div_ceil(2)))
        }
        6 => {
            let precision = 1 + choices.below(65) as u8;
            let scale = choices.below(usize::from(precision.min(30)) + 1) as u8;
            metadata.extend_from_slice(&[precision, scale]);
            (
                246,
                Length::Fixed(super::super::decimal::length(precision, scale)),
            )
        }
        7 => {
            let bits = 1 + choices.below(64);
            metadata.extend_from_slice(&[(bits % 8) as u8, (bits / 8) as u8]);
            (16, Length::Fixed(bits.div_ceil(8)))
        }
        8 => {
            let (real, widest) = [(247, 2), (248, 8)][choices.below(2)];
            let width = 1 + choices.below(widest);
            metadata.extend_from_slice(&[real, width as u8]);
            (254, Length::Fixed(width))
        }
        9 => {
            let length = choices.below(600);
            metadata.extend_from_slice(&(length as u16).to_le_bytes());
            (15, Length::Told(if length > 255 { 2 } else { 1 }))
        }
        10 => {
            metadata.extend_from_slice(&[254, choices.byte()]);
            (254, Length::Told(1))
        }
        _ => {
            let width = 1 + choices.below(4);
            metadata.push(width as u8);
            ([245, 255, 242, 252][choices.below(4)], Length::Told(width))
        }
    }
}

#[test]
fn made_rows() {
    Target {
        name: "source::decode::fuzz::rows::made_rows",
        make: choices,
        check: |input| check(&made(input)),
        memory: 8192,
    }
    .run(20_000);
}

#[test]
fn damaged_made_rows() {
    Target {
        name: "source::decode::fuzz::rows::damaged_made_rows",
        make: |random| {
            let mut input = made(&choices(random));
            let other = made(&choices(random));
            mutate(random, &mut input, &other);
            input
        },
        check,
        memory: 2048,
    }
    .run(20_000);
}

/// The captured events themselves are right, so that what is damaged had something to lose.
#[test]
fn what_a_server_wrote_is_taken_for_right() {
    for (table_map, rows) in captured().iter() {
        let mut input = Vec::new();
        append_event(&mut input, TABLE_MAP, table_map.body);
        append_event(&mut input, rows.kind, rows.body);
        assert!(check(&input), "{}", crate::hex::hex(rows.body));
    }
}
