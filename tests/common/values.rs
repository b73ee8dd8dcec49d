//! What a value that MySQL returns must look like in an audit document: the value table of the design, written a second time
//! from SELECT's side, so that the daemon's decoder is not its own judge.

use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Bson, Decimal128, Document, doc};
use mysql_async::consts::{ColumnFlags, ColumnType};
use mysql_async::prelude::Queryable;
use mysql_async::{Column, Conn, Row, Value};

/// The number of the character set `binary`: bytes, not text.
const BINARY: u16 = 63;

/// All rows of a query as documents. The connection must be in UTC, as [`Mysqld::root`](super::Mysqld::root) is.
pub async fn select(connection: &mut Conn, sql: &str) -> Vec<Document> {
    // As a prepared statement: the text protocol rounds FLOAT to six digits.
    let rows: Vec<Row> = connection
        .exec(sql, ())
        .await
        .unwrap_or_else(|error| panic!("MySQL refused: {error}\nin: {sql}"));
    rows.into_iter().map(to_document).collect()
}

/// A row as the `after` of its document.
pub fn to_document(row: Row) -> Document {
    let columns = row.columns();
    let values = row.unwrap();
    columns
        .iter()
        .zip(values)
        .map(|(column, value)| (column.name_str().into_owned(), to_bson(column, value)))
        .collect()
}

/// A value, given the column of the result it came in (binary protocol).
pub fn to_bson(column: &Column, value: Value) -> Bson {
    use ColumnType as Type;
    let kind = column.column_type();
    let digits = usize::from(column.decimals());
    match (kind, value) {
        (_, Value::NULL) => Bson::Null,
        (
            Type::MYSQL_TYPE_TINY
            | Type::MYSQL_TYPE_SHORT
            | Type::MYSQL_TYPE_INT24
            | Type::MYSQL_TYPE_YEAR,
            value,
        ) => Bson::Int32(i32::try_from(integer(&value)).expect("a small integer")),
        (Type::MYSQL_TYPE_LONG, value) if !column.flags().contains(ColumnFlags::UNSIGNED_FLAG) => {
            Bson::Int32(i32::try_from(integer(&value)).expect("a 32-bit integer"))
        }
        (Type::MYSQL_TYPE_LONG | Type::MYSQL_TYPE_LONGLONG, value) => integer_64(integer(&value)),
        (Type::MYSQL_TYPE_BIT, Value::Bytes(bytes)) => integer_64(
            bytes
                .iter()
                .fold(0, |bits, byte| bits << 8 | i128::from(*byte)),
        ),
        (_, Value::Float(number)) => Bson::Double(shortest(number)),
        (_, Value::Double(number)) => Bson::Double(number),
        (Type::MYSQL_TYPE_DATE, Value::Date(year, month, day, ..)) => {
            Bson::String(format!("{year:04}-{month:02}-{day:02}"))
        }
        (
            Type::MYSQL_TYPE_TIMESTAMP,
            Value::Date(year, month, day, hour, minute, second, micros),
        ) if year != 0 => {
            let fraction = fraction(micros, digits);
            Bson::String(format!(
                "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}{fraction}Z"
            ))
        }
        (_, Value::Date(year, month, day, hour, minute, second, micros)) => {
            let fraction = fraction(micros, digits);
            Bson::String(format!(
                "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}{fraction}"
            ))
        }
        (_, Value::Time(negative, days, hours, minutes, seconds, micros)) => {
            let (sign, hours, fraction) = (
                if negative { "-" } else { "" },
                days * 24 + u32::from(hours),
                fraction(micros, digits),
            );
            Bson::String(format!(
                "{sign}{hours:02}:{minutes:02}:{seconds:02}{fraction}"
            ))
        }
        (Type::MYSQL_TYPE_NEWDECIMAL | Type::MYSQL_TYPE_DECIMAL, Value::Bytes(bytes)) => {
            let text = text(bytes);
            if precision(column) > 34 {
                Bson::String(text)
            } else {
                Bson::Decimal128(
                    text.parse()
                        .unwrap_or_else(|error| panic!("the decimal {text}: {error}")),
                )
            }
        }
        (Type::MYSQL_TYPE_JSON, Value::Bytes(bytes)) => {
            let json = serde_json::from_slice(&bytes)
                .unwrap_or_else(|error| panic!("the JSON {}: {error}", text(bytes.clone())));
            from_json(json)
        }
        (Type::MYSQL_TYPE_GEOMETRY, Value::Bytes(bytes)) => {
            let (srid, wkb) = bytes
                .split_first_chunk::<4>()
                .expect("a geometry starts with its SRID");
            Bson::Document(
                doc! { "srid": i64::from(u32::from_le_bytes(*srid)), "wkb": binary(wkb.to_vec()) },
            )
        }
        (Type::MYSQL_TYPE_VECTOR, Value::Bytes(bytes)) => Bson::Array(
            bytes
                .as_chunks::<4>()
                .0
                .iter()
                .map(|chunk| Bson::Double(shortest(f32::from_le_bytes(*chunk))))
                .collect(),
        ),
        (_, Value::Bytes(bytes)) if column.flags().contains(ColumnFlags::SET_FLAG) => Bson::Array(
            text(bytes)
                .split(',')
                .filter(|label| !label.is_empty())
                .map(Bson::from)
                .collect(),
        ),
        (_, Value::Bytes(bytes)) if column.flags().contains(ColumnFlags::ENUM_FLAG) => {
            Bson::String(text(bytes))
        }
        (_, Value::Bytes(bytes)) if column.character_set() == BINARY => binary(bytes),
        (_, Value::Bytes(bytes)) => Bson::String(text(bytes)),
        (kind, value) => panic!(
            "column {} of type {kind:?} came as {value:?}",
            column.name_str()
        ),
    }
}

fn integer(value: &Value) -> i128 {
    match value {
        Value::Int(number) => i128::from(*number),
        Value::UInt(number) => i128::from(*number),
        other => panic!("an integer column came as {other:?}"),
    }
}

/// Int64 when it fits, else Decimal128: they compare as numbers.
fn integer_64(number: i128) -> Bson {
    match i64::try_from(number) {
        Ok(number) => Bson::Int64(number),
        Err(_) => Bson::Decimal128(
            number
                .to_string()
                .parse()
                .expect("20 digits fit a Decimal128"),
        ),
    }
}

/// The double that prints as the float does, not the one with the same bits: 0.1, not 0.10000000149011612.
fn shortest(number: f32) -> f64 {
    number
        .to_string()
        .parse()
        .expect("Rust reads what it prints")
}

fn fraction(micros: u32, digits: usize) -> String {
    // 31 is the server's word for "not a fixed number of digits".
    if digits == 0 || digits > 6 {
        String::new()
    } else {
        format!(
            ".{:0digits$}",
            micros / 10_u32.pow(6 - u32::try_from(digits).expect("at most 6"))
        )
    }
}

/// The p of DECIMAL(p, s), from the display length that the server reports.
fn precision(column: &Column) -> u32 {
    let sign = u32::from(!column.flags().contains(ColumnFlags::UNSIGNED_FLAG));
    let point = u32::from(column.decimals() > 0);
    column.column_length() - sign - point
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).expect("the connection is in utf8mb4")
}

fn binary(bytes: Vec<u8>) -> Bson {
    Bson::Binary(Binary {
        subtype: BinarySubtype::Generic,
        bytes,
    })
}

fn from_json(json: serde_json::Value) -> Bson {
    use serde_json::Value as Json;
    match json {
        Json::Null => Bson::Null,
        Json::Bool(value) => Bson::Boolean(value),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Bson::Int64(number),
            (None, Some(number)) => integer_64(i128::from(number)),
            (None, None) => Bson::Double(number.as_f64().expect("a JSON number")),
        },
        Json::String(text) => Bson::String(text),
        Json::Array(items) => Bson::Array(items.into_iter().map(from_json).collect()),
        Json::Object(members) => Bson::Document(
            members
                .into_iter()
                .map(|(key, value)| (key, from_json(value)))
                .collect(),
        ),
    }
}

// --- comparing ------------------------------------------------------------------------------------------------------

/// A row as one string: equal strings, equal rows, whatever the order of the columns.
pub fn canonical_row(row: &Document) -> String {
    let mut out = String::new();
    canonical_document(row, &mut out);
    out
}

/// A value as one string. Numbers are compared as numbers: SELECT prints JSON's 1 and 1.0, Int32, Int64 and Decimal128
/// in ways that do not tell their BSON types apart. The types themselves are the property test's business.
pub fn canonical(value: &Bson) -> String {
    let mut out = String::new();
    write(value, &mut out);
    out
}

fn canonical_document(document: &Document, out: &mut String) {
    let mut members: Vec<_> = document.iter().collect();
    members.sort_by_key(|(name, _)| *name);
    out.push('{');
    for (name, value) in members {
        out.push_str(&format!("{name:?}:"));
        write(value, out);
        out.push(',');
    }
    out.push('}');
}

fn write(value: &Bson, out: &mut String) {
    match value {
        Bson::Null => out.push_str("null"),
        Bson::Int32(number) => out.push_str(&number.to_string()),
        Bson::Int64(number) => out.push_str(&number.to_string()),
        // Never with an exponent, and without ".0": as an integer or a decimal of the same value prints.
        Bson::Double(number) => out.push_str(&if *number == 0.0 {
            "0".to_owned()
        } else {
            number.to_string()
        }),
        Bson::Decimal128(number) => out.push_str(&plain(number)),
        Bson::String(text) => out.push_str(&format!("{text:?}")),
        Bson::Binary(binary) => {
            out.push('x');
            binary
                .bytes
                .iter()
                .for_each(|byte| out.push_str(&format!("{byte:02x}")));
        }
        Bson::Array(items) => {
            out.push('[');
            for item in items {
                write(item, out);
                out.push(',');
            }
            out.push(']');
        }
        Bson::Document(document) => canonical_document(document, out),
        other => out.push_str(&format!("{other:?}")),
    }
}

/// A decimal without exponent and without zeros that do not change its value.
fn plain(number: &Decimal128) -> String {
    let text = number.to_string();
    let (mantissa, exponent) = text.split_once(['E', 'e']).unwrap_or((&text, "0"));
    let (sign, mantissa) = mantissa
        .strip_prefix('-')
        .map_or(("", mantissa), |rest| ("-", rest));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let Ok(exponent) = exponent.parse::<i64>() else {
        return text;
    };
    let digits = format!("{whole}{fraction}");
    if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return text; // NaN, Infinity
    }
    let point = whole.len() as i64 + exponent; // where the decimal point stands in `digits`
    let padded = if point <= 0 {
        format!("{}{digits}", "0".repeat(1 + point.unsigned_abs() as usize))
    } else {
        digits
    };
    let point = point.max(1) as usize;
    let padded = format!("{padded:0<point$}");
    let whole = padded[..point].trim_start_matches('0');
    let fraction = padded[point..].trim_end_matches('0');
    match (whole, fraction) {
        ("", "") => "0".to_owned(),
        (whole, "") => format!("{sign}{whole}"),
        ("", fraction) => format!("{sign}0.{fraction}"),
        (whole, fraction) => format!("{sign}{whole}.{fraction}"),
    }
}
