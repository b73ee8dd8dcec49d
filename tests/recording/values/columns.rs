//! A column of the property test: how to make a random value of its type, how to ask the server for it as text, and what BSON
//! value that text stands for.

use crate::common::Flavor;
use fastrand::Rng;
use mongodb::bson::{Bson, Decimal128};
use std::sync::Arc;

/// Makes a value as SQL.
type Literal = Arc<dyn Fn(&mut Rng) -> String + Send + Sync>;

/// A column.
#[derive(Clone)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) definition: String,
    pub(crate) nullable: bool,
    pub(crate) literal: Literal,
    pub(crate) shown: Shown,
}

impl Column {
    pub(crate) fn new(
        name: impl Into<String>,
        definition: impl Into<String>,
        shown: Shown,
        literal: impl Fn(&mut Rng) -> String + Send + Sync + 'static,
    ) -> Self {
        let definition = definition.into();
        let nullable = !definition.contains("NOT NULL");
        Self {
            name: name.into(),
            definition,
            nullable,
            literal: Arc::new(literal),
            shown,
        }
    }

    pub(crate) fn is_generated(&self) -> bool {
        self.definition.contains(" AS (")
    }
}

/// What a column's values look like, on either side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shown {
    Int32,
    Int64,
    /// Int64, Decimal128 above 2^63-1.
    Unsigned,
    Decimal128,
    DecimalText,
    Float,
    Double,
    Year,
    /// Dates and times, as text.
    Printed,
    Timestamp,
    Text,
    Bytes,
    Set,
    Json,
    Geometry,
    Vector,
}

impl Shown {
    /// The SQL that gives the value as text.
    pub(crate) fn expression(self, name: &str) -> String {
        match self {
            Self::Text => {
                format!("CONCAT(HEX(CONVERT(`{name}` USING utf8mb4)), '/', HEX(`{name}`))")
            }
            Self::Set => format!("CONVERT(`{name}` USING utf8mb4)"),
            Self::Bytes | Self::Geometry | Self::Vector => format!("HEX(`{name}`)"),
            Self::Unsigned => format!("CAST(`{name}` + 0 AS CHAR)"),
            // As a double it is printed with all its digits.
            Self::Float => format!("CAST(CAST(`{name}` AS DOUBLE) AS CHAR)"),
            _ => format!("CAST(`{name}` AS CHAR CHARACTER SET utf8mb4)"),
        }
    }

    /// Whether the stored value is the one that SELECT shows as `text`.
    pub(crate) fn matches(self, text: Option<&str>, stored: &Bson) -> bool {
        let Some(text) = text else {
            return *stored == Bson::Null;
        };
        match (self, stored) {
            (Self::Int32, Bson::Int32(value)) => value.to_string() == text,
            (Self::Int64 | Self::Unsigned, Bson::Int64(value)) => value.to_string() == text,
            (Self::Unsigned, Bson::Decimal128(value)) => {
                text.parse::<u64>()
                    .is_ok_and(|number| number > i64::MAX as u64)
                    && decimal128_text(value) == text
            }
            (Self::Decimal128, Bson::Decimal128(value)) => decimal128_text(value) == text,
            (Self::DecimalText | Self::Printed, Bson::String(value)) => value == text,
            (Self::Double, Bson::Double(value)) => {
                text.parse::<f64>().unwrap().to_bits() == value.to_bits()
            }
            (Self::Float, Bson::Double(value)) => {
                is_shortest(*value, text.parse::<f64>().unwrap() as f32)
            }
            (Self::Year, Bson::Int32(value)) => format!("{value:04}") == text,
            (Self::Timestamp, Bson::String(value)) if text.starts_with("0000") => value == text,
            (Self::Timestamp, Bson::String(value)) => {
                *value == format!("{}Z", text.replacen(' ', "T", 1))
            }
            (Self::Text, stored) => {
                let (characters, bytes) = text.split_once('/').unwrap();
                match stored {
                    Bson::String(value) => hex(value.as_bytes()) == characters,
                    // Bytes without a character: the server shows a question mark or U+FFFD, or, at a surrogate in ucs2,
                    // ends the text.
                    Bson::Binary(value) => {
                        let is_surrogate = |unit: &[u8; 2]| matches!(unit[0], 0xd8..=0xdf);
                        let is_lost = characters.contains("3F") || characters.contains("EFBFBD");
                        let is_cut = value.bytes.as_chunks::<2>().0.iter().any(is_surrogate);
                        // MariaDB takes a surrogate in utf8mb3 for a character, and gives its three bytes as utf8mb4.
                        let is_no_text = std::str::from_utf8(&unhex(characters)).is_err();
                        hex(&value.bytes) == bytes && (is_lost || is_cut || is_no_text)
                    }
                    _ => false,
                }
            }
            (Self::Bytes, Bson::Binary(value)) => hex(&value.bytes) == text,
            (Self::Set, Bson::Array(labels)) => {
                labels
                    .iter()
                    .map(|label| label.as_str().unwrap())
                    .collect::<Vec<_>>()
                    .join(",")
                    == text
            }
            (Self::Json, stored) => super::json::matches(text, stored),
            (Self::Geometry, Bson::Document(value)) => {
                let srid = u32::try_from(value.get_i64("srid").unwrap()).unwrap();
                let wkb = value.get_binary_generic("wkb").unwrap();
                hex(&[&srid.to_le_bytes()[..], wkb].concat()) == text
            }
            (Self::Vector, Bson::Array(numbers)) => {
                let floats = numbers.iter().map(|number| number.as_f64().unwrap() as f32);
                let bytes: Vec<u8> = floats.flat_map(f32::to_le_bytes).collect();
                hex(&bytes) == text
                    && numbers.iter().all(|number| {
                        let number = number.as_f64().unwrap();
                        is_shortest(number, number as f32)
                    })
            }
            _ => false,
        }
    }
}

/// Whether `double` is the shortest decimal that reads back to `float`.
pub(crate) fn is_shortest(double: f64, float: f32) -> bool {
    float.to_string().parse::<f64>().unwrap().to_bits() == double.to_bits()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn unhex(digits: &str) -> Vec<u8> {
    let pairs = digits.as_bytes().chunks(2);
    pairs
        .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
        .collect()
}

// --- random values

pub(crate) fn hex_literal(random: &mut Rng, length: usize) -> String {
    let bytes: Vec<u8> = (0..length).map(|_| random.u8(..)).collect();
    format!("x'{}'", hex(&bytes))
}

/// A text of many scripts, quoted.
pub(crate) fn text_literal(random: &mut Rng, longest: usize) -> String {
    const RANGES: [std::ops::Range<u32>; 10] = [
        0x20..0x7f,
        0x20..0x7f,
        0xa0..0x180,
        0x391..0x3c9,
        0x410..0x44f,
        0x5d0..0x5ea,
        0x3041..0x3096,
        0x4e00..0x9fa5,
        0xac00..0xd7a3,
        0x1f300..0x1f64f,
    ];
    let range = RANGES[random.usize(..RANGES.len())].clone();
    let length = random.usize(..=longest);
    let text: String = (0..length)
        .filter_map(|_| char::from_u32(random.u32(range.clone())))
        .collect();
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}

pub(crate) fn decimal_text(random: &mut Rng, precision: usize, scale: usize) -> String {
    let whole = random.usize(..=precision - scale);
    let mut digits = |count: usize, nine: bool| -> String {
        (0..count)
            .map(|_| {
                if nine {
                    '9'
                } else {
                    char::from(b'0' + random.u8(..10))
                }
            })
            .collect()
    };
    let nine = whole == precision - scale;
    let text = format!("{}.{}", digits(whole.max(1), nine), digits(scale, nine));
    if random.bool() {
        format!("-{text}")
    } else {
        text
    }
}

pub(crate) fn date_text(random: &mut Rng) -> String {
    match random.u8(..12) {
        0 => "0000-00-00".to_owned(),
        1 => "9999-12-31".to_owned(),
        2 => "1000-01-01".to_owned(),
        3 => format!("{:04}-00-00", random.u32(1..9999)),
        4 => format!("{:04}-{:02}-00", random.u32(1..9999), random.u32(1..13)),
        _ => format!(
            "{:04}-{:02}-{:02}",
            random.u32(1..9999),
            random.u32(1..13),
            random.u32(1..29)
        ),
    }
}

pub(crate) fn fraction(random: &mut Rng, digits: usize) -> String {
    match (digits, random.u8(..4)) {
        (0, _) => String::new(),
        (_, 0) => format!(".{}", "0".repeat(digits)),
        (_, 1) => format!(".{}1", "0".repeat(digits - 1)),
        _ => format!(
            ".{}",
            (0..digits)
                .map(|_| char::from(b'0' + random.u8(..10)))
                .collect::<String>()
        ),
    }
}

pub(crate) fn time_text(random: &mut Rng, digits: usize) -> String {
    let sign = if random.bool() { "-" } else { "" };
    match random.u8(..12) {
        0 => format!("{sign}838:59:59"),
        1 => format!("{sign}838:59:58{}", fraction(random, digits)),
        2 => format!("{sign}00:00:00{}", fraction(random, digits)),
        _ => format!(
            "{sign}{:02}:{:02}:{:02}{}",
            random.u32(..838),
            random.u32(..60),
            random.u32(..60),
            fraction(random, digits)
        ),
    }
}

pub(crate) fn datetime_text(random: &mut Rng, digits: usize) -> String {
    match random.u8(..12) {
        0 => "0000-00-00 00:00:00".to_owned(),
        _ => {
            let (hour, minute, second) = (random.u32(..24), random.u32(..60), random.u32(..60));
            format!(
                "{} {hour:02}:{minute:02}:{second:02}{}",
                date_text(random),
                fraction(random, digits)
            )
        }
    }
}

/// A TIMESTAMP of the newer MariaDB has 32 bits for the seconds, all others 31.
pub(crate) fn newest_timestamp(flavor: Flavor) -> (u32, &'static str) {
    if flavor == Flavor::Mariadb11 {
        (2106, "2106-02-07 06:28:15")
    } else {
        (2038, "2038-01-19 03:14:07")
    }
}

pub(crate) fn timestamp_text(random: &mut Rng, digits: usize, newest: (u32, &str)) -> String {
    match random.u8(..12) {
        0 => "0000-00-00 00:00:00".to_owned(),
        1 => format!("1970-01-01 00:00:01{}", fraction(random, digits)),
        2 => newest.1.to_owned(),
        _ => format!(
            "{:04}-{:02}-{:02} {:02}:{:02}:{:02}{}",
            random.u32(1971..newest.0),
            random.u32(1..13),
            random.u32(1..29),
            random.u32(..24),
            random.u32(..60),
            random.u32(..60),
            fraction(random, digits)
        ),
    }
}

pub(crate) fn double(random: &mut Rng) -> f64 {
    match random.u8(..6) {
        0 => [
            0.0,
            -0.0,
            f64::MAX,
            f64::MIN,
            2.2250738585072014e-308,
            5e-324,
            1e15,
            1e14,
            1e-15,
            1e-16,
        ][random.usize(..10)],
        1 => random.i32(..) as f64 / 100.0,
        2 => random.f64() * 10_f64.powi(random.i32(-20..20)),
        _ => loop {
            let number = f64::from_bits(random.u64(..));
            if number.is_finite() {
                break number;
            }
        },
    }
}

pub(crate) fn float(random: &mut Rng) -> f32 {
    match random.u8(..4) {
        0 => [
            0.0,
            -0.0,
            f32::MAX,
            f32::MIN,
            f32::MIN_POSITIVE,
            1e-45,
            16_777_216.0,
        ][random.usize(..7)],
        1 => random.i32(-1_000_000..1_000_000) as f32 / 100.0,
        _ => loop {
            let number = f32::from_bits(random.u32(..));
            if number.is_finite() {
                break number;
            }
        },
    }
}

pub(crate) fn integer(low: i128, high: i128) -> impl Fn(&mut Rng) -> String + Send + Sync {
    move |random| match random.u8(..8) {
        0 => low.to_string(),
        1 => high.to_string(),
        2 => "0".to_owned(),
        3 => (low / 2).to_string(),
        4 => random.i8(0..=127).to_string(),
        _ => random.i128(low..=high).to_string(),
    }
}

// --- the other way: stored values as text

/// A Decimal128 without an exponent, read from its bits.
pub(crate) fn decimal128_text(value: &Decimal128) -> String {
    let bits = u128::from_le_bytes(value.bytes());
    let scale =
        usize::try_from(6176 - (bits >> 113 & 0x3fff) as i64).expect("no positive exponent");
    let digits = format!("{:0>width$}", bits & ((1 << 113) - 1), width = scale + 1);
    let (whole, fraction) = digits.split_at(digits.len() - scale);
    let sign = if bits >> 127 == 1 { "-" } else { "" };
    if scale == 0 {
        format!("{sign}{whole}")
    } else {
        format!("{sign}{whole}.{fraction}")
    }
}

/// A double inside JSON, as `my_gcvt` writes it.
pub(crate) fn mysql_double(value: f64) -> String {
    let scientific = (0..17)
        .map(|places| format!("{value:.places$e}"))
        .find(|text| text.parse() == Ok(value))
        .unwrap();
    let (mantissa, exponent) = scientific.split_once('e').unwrap();
    let places = mantissa
        .split_once('.')
        .map_or(0, |(_, fraction)| fraction.len() as i32);
    let exponent: i32 = exponent.parse().unwrap();
    if exponent < -15 || exponent > 14 && places <= exponent {
        return scientific;
    }
    // As many digits behind the point as the mantissa leaves there.
    format!(
        "{value:.places$}",
        places = usize::try_from(places - exponent).unwrap_or(0).max(1)
    )
}

/// Base64 as MySQL breaks it, the line feed escaped.
pub(crate) fn base64(bytes: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for (index, group) in bytes.chunks(3).enumerate() {
        if index > 0 && index * 4 % 76 == 0 {
            out.push_str("\\n");
        }
        let bits = group.iter().enumerate().fold(0, |bits, (place, byte)| {
            bits | u32::from(*byte) << (16 - 8 * place)
        });
        for place in 0..4 {
            let digit = ALPHABET[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place > group.len() {
                '='
            } else {
                char::from(digit)
            });
        }
    }
    out
}
