//! JSON as MySQL prints it, from the BSON value that was stored: the way back, to be compared with the server's text.

use fastrand::Rng;
use mongodb::bson::Bson;

/// A random JSON value as an SQL expression.
pub(crate) fn literal(random: &mut Rng) -> String {
    match random.u8(..60) {
        // What BSON cannot hold.
        0 => "JSON_OBJECT(CONCAT('a', CHAR(0 USING utf8mb4), 'b'), 1, 'x', CAST(1.50 AS DECIMAL(5,2)))".to_owned(),
        1 => {
            let depth = random.usize(88..100);
            format!("CAST(CONCAT(REPEAT('[', {depth}), '1.5e300, \"é\"', REPEAT(']', {depth})) AS JSON)")
        }
        // More than 65,535 bytes: MySQL's large containers.
        2 => {
            let length = random.usize(60_000..70_000);
            format!("JSON_OBJECT('s', REPEAT('é', {length}), 'i', -70000, 'u', 3000000000, 'a', JSON_ARRAY(true, 70000, 1))")
        }
        _ => value(random, 4),
    }
}

fn value(random: &mut Rng, levels: usize) -> String {
    match random.u8(..if levels == 0 { 16 } else { 22 }) {
        0 => "CAST('null' AS JSON)".to_owned(),
        1 => "CAST('true' AS JSON)".to_owned(),
        2 => "CAST('false' AS JSON)".to_owned(),
        3 => random.i32(-40_000..40_000).to_string(),
        4 => random.i64(..).to_string(),
        5 => [
            "32767",
            "-32768",
            "65535",
            "2147483647",
            "-2147483648",
            "4294967295",
            "9223372036854775807",
        ][random.usize(..7)]
        .to_owned(),
        6 => format!("CAST({} AS UNSIGNED)", random.u64(..)),
        7 => format!("{:e}", super::columns::double(random)),
        8 => format!(
            "CAST({}.{:05} AS DECIMAL(20,{}))",
            random.i64(-1_000_000_000_000..1_000_000_000_000),
            random.u32(..100_000),
            random.u8(..10)
        ),
        9 => format!(
            "CAST('{}' AS DECIMAL(65,30))",
            super::columns::decimal_text(random, 65, 30)
        ),
        10 => format!("CAST('{}' AS DATE)", super::columns::date_text(random)),
        11 => format!(
            "CAST('{}' AS TIME(6))",
            super::columns::time_text(random, 6)
        ),
        12 => format!(
            "CAST('{}' AS DATETIME(6))",
            super::columns::datetime_text(random, 6)
        ),
        // Bytes: an opaque value, with a line break in its base64 when long.
        13 => {
            let length = random.usize(..130);
            super::columns::hex_literal(random, length)
        }
        14 | 15 => super::columns::text_literal(random, 30),
        16..=18 => {
            let elements: Vec<String> = (0..random.usize(..6))
                .map(|_| value(random, levels - 1))
                .collect();
            format!("JSON_ARRAY({})", elements.join(", "))
        }
        _ => {
            let members: Vec<String> = (0..random.usize(..6))
                .map(|_| format!("{}, {}", key(random), value(random, levels - 1)))
                .collect();
            format!("JSON_OBJECT({})", members.join(", "))
        }
    }
}

fn key(random: &mut Rng) -> String {
    const KEYS: [&str; 12] = [
        "''",
        "'a'",
        "'$a'",
        "'$ref'",
        "'a.b'",
        "'.'",
        "'_id'",
        "'\"'",
        "'\\\\'",
        "'ключ'",
        "'$numberLong'",
        "'0'",
    ];
    if random.bool() {
        KEYS[random.usize(..KEYS.len())].to_owned()
    } else {
        super::columns::text_literal(random, 8)
    }
}

/// Whether a stored value is the JSON that MySQL prints as `text`.
pub(crate) fn matches(text: &str, stored: &Bson) -> bool {
    // The type number of an opaque value is all that BSON does not keep.
    let mut expected = String::new();
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("base64:type") {
        expected.push_str(before);
        expected.push_str("base64:");
        rest = behind.split_once(':').unwrap().1;
    }
    expected.push_str(rest);
    let mut out = String::new();
    match stored {
        Bson::Document(document) if document.len() == 1 && document.contains_key("$json") => {
            return document.get_str("$json").unwrap() == text;
        }
        other => print(other, &mut out),
    }
    out == expected
}

fn print(value: &Bson, out: &mut String) {
    match value {
        Bson::Null => out.push_str("null"),
        Bson::Boolean(value) => out.push_str(&value.to_string()),
        Bson::Int32(value) => out.push_str(&value.to_string()),
        Bson::Int64(value) => {
            assert!(
                i32::try_from(*value).is_err(),
                "Int64 {value} fits an Int32"
            );
            out.push_str(&value.to_string());
        }
        Bson::Double(value) => out.push_str(&super::columns::mysql_double(*value)),
        Bson::Decimal128(value) => out.push_str(&super::columns::decimal128_text(value)),
        Bson::String(text) => out.push_str(&quoted(text)),
        Bson::Binary(binary) => {
            out.push_str("\"base64:");
            out.push_str(&super::columns::base64(&binary.bytes));
            out.push('"');
        }
        Bson::Array(elements) => {
            out.push('[');
            for (index, element) in elements.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                print(element, out);
            }
            out.push(']');
        }
        Bson::Document(members) => {
            out.push('{');
            for (index, (key, member)) in members.iter().enumerate() {
                if index > 0 {
                    out.push_str(", ");
                }
                out.push_str(&quoted(key));
                out.push_str(": ");
                print(member, out);
            }
            out.push('}');
        }
        other => panic!("JSON is never stored as {other:?}"),
    }
}

/// serde_json escapes as MySQL does, but for U+007F and the letters of \u.
fn quoted(text: &str) -> String {
    // A decimal of more than 34 digits is stored as a String, and printed by MySQL without quotes.
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    let is_number = digits > 30
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || byte == b'.' || byte == b'-');
    if is_number {
        text.to_owned()
    } else {
        serde_json::to_string(text).unwrap()
    }
}
