//! The columns of the property test: for each type how to make a random value, how to ask the server for it as text, and what
//! BSON value that text stands for.

use super::common::Flavor;
use fastrand::Rng;
use mongodb::bson::{Bson, Decimal128};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
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
    fn new(
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
                        hex(&value.bytes) == bytes && (is_lost || is_cut)
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
fn is_shortest(double: f64, float: f32) -> bool {
    float.to_string().parse::<f64>().unwrap().to_bits() == double.to_bits()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
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

fn fraction(random: &mut Rng, digits: usize) -> String {
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
fn newest_timestamp(flavor: Flavor) -> (u32, &'static str) {
    if flavor == Flavor::Mariadb11 {
        (2106, "2106-02-07 06:28:15")
    } else {
        (2038, "2038-01-19 03:14:07")
    }
}

fn timestamp_text(random: &mut Rng, digits: usize, newest: (u32, &str)) -> String {
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

fn float(random: &mut Rng) -> f32 {
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

fn integer(low: i128, high: i128) -> impl Fn(&mut Rng) -> String + Send + Sync {
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

// --- the tables

/// The tables by name.
pub(crate) async fn tables(
    flavor: Flavor,
    connection: &mut Conn,
) -> Vec<(&'static str, Vec<Column>)> {
    vec![
        ("numbers", numbers()),
        ("times", times(flavor)),
        ("texts", texts(connection).await),
        ("others", others(flavor)),
    ]
}

fn numbers() -> Vec<Column> {
    let mut columns = Vec::new();
    for (name, bits, signed, unsigned) in [
        ("tinyint", 8, Shown::Int32, Shown::Int32),
        ("smallint", 16, Shown::Int32, Shown::Int32),
        ("mediumint", 24, Shown::Int32, Shown::Int32),
        ("int", 32, Shown::Int32, Shown::Int64),
        ("bigint", 64, Shown::Int64, Shown::Unsigned),
    ] {
        let half = 1_i128 << (bits - 1);
        columns.push(Column::new(
            format!("{name}_s"),
            name,
            signed,
            integer(-half, half - 1),
        ));
        columns.push(Column::new(
            format!("{name}_u"),
            format!("{name} UNSIGNED"),
            unsigned,
            integer(0, 2 * half - 1),
        ));
    }
    for bits in 1..=64_u32 {
        let literal = integer(0, (1 << bits) - 1);
        columns.push(Column::new(
            format!("bit{bits}"),
            format!("BIT({bits})"),
            Shown::Unsigned,
            literal,
        ));
    }
    for (precision, scale) in [
        (10, 2),
        (1, 0),
        (1, 1),
        (9, 9),
        (18, 9),
        (19, 0),
        (20, 10),
        (27, 1),
        (30, 30),
        (34, 0),
        (34, 30),
        (35, 0),
        (38, 2),
        (65, 0),
        (65, 30),
    ] {
        let shown = if precision <= 34 {
            Shown::Decimal128
        } else {
            Shown::DecimalText
        };
        columns.push(Column::new(
            format!("decimal{precision}_{scale}"),
            format!("DECIMAL({precision},{scale})"),
            shown,
            move |random| match random.u8(..12) {
                0 => "0".to_owned(),
                1 => "-0.000000000000000000000000000001".to_owned(),
                _ => decimal_text(random, precision, scale),
            },
        ));
    }
    columns.push(Column::new(
        "decimal_u",
        "DECIMAL(12,3) UNSIGNED",
        Shown::Decimal128,
        |random| decimal_text(random, 12, 3).replace('-', ""),
    ));
    columns.push(Column::new("float_s", "FLOAT", Shown::Float, |random| {
        format!("{:e}", float(random))
    }));
    columns.push(Column::new("double_s", "DOUBLE", Shown::Double, |random| {
        format!("{:e}", double(random))
    }));
    columns.push(Column::new(
        "double_u",
        "DOUBLE UNSIGNED NOT NULL",
        Shown::Double,
        |random| format!("{:e}", double(random).abs()),
    ));
    columns
}

fn times(flavor: Flavor) -> Vec<Column> {
    let mut columns = vec![
        Column::new("date", "DATE", Shown::Printed, |random| {
            format!("'{}'", date_text(random))
        }),
        Column::new("year", "YEAR", Shown::Year, |random| match random.u8(..4) {
            0 => "'0000'".to_owned(),
            1 => "1901".to_owned(),
            _ => random.u32(1901..=2155).to_string(),
        }),
    ];
    for digits in 0..=6 {
        let quoted = |text: fn(&mut Rng, usize) -> String| {
            move |random: &mut Rng| format!("'{}'", text(random, digits))
        };
        let add = |name: &str, shown, text| {
            Column::new(
                format!("{name}{digits}"),
                format!("{name}({digits})"),
                shown,
                quoted(text),
            )
        };
        columns.push(add("time", Shown::Printed, time_text));
        columns.push(add("datetime", Shown::Printed, datetime_text));
        let timestamp = format!("TIMESTAMP({digits}) NULL");
        columns.push(Column::new(
            format!("timestamp{digits}"),
            timestamp,
            Shown::Timestamp,
            move |random: &mut Rng| {
                let newest = newest_timestamp(flavor);
                format!("'{}'", timestamp_text(random, digits, newest))
            },
        ));
    }
    columns
}

/// A VARCHAR in every character set that the server has, and the other kinds of text in some.
async fn texts(connection: &mut Conn) -> Vec<Column> {
    let charsets: Vec<(String, u32)> = connection
        .query(
            "SELECT CHARACTER_SET_NAME, MAXLEN FROM information_schema.CHARACTER_SETS ORDER BY 1",
        )
        .await
        .unwrap();
    assert!(charsets.len() >= 40, "{charsets:?}");
    let mut columns = Vec::new();
    for (name, longest) in charsets {
        let shown = if name == "binary" {
            Shown::Bytes
        } else {
            Shown::Text
        };
        let definition = |kind: &str| format!("{kind} CHARACTER SET {name}");
        let literal = move |random: &mut Rng| match random.u8(..4) {
            // Any bytes that the server lets pass; it cuts a text where it is not well-formed.
            0 => {
                let count = random.usize(..4) * longest as usize;
                hex_literal(random, count)
            }
            _ => text_literal(random, 20),
        };
        columns.push(Column::new(
            format!("varchar_{name}"),
            definition("VARCHAR(20)"),
            shown,
            literal,
        ));
        if [
            "utf8mb4", "latin1", "cp1251", "gbk", "sjis", "ucs2", "utf16", "utf32", "gb18030",
            "ujis",
        ]
        .contains(&&*name)
        {
            // MySQL pads and strips on its own side, so CHAR says what it keeps.
            columns.push(Column::new(
                format!("char_{name}"),
                definition("CHAR(10)"),
                Shown::Text,
                |random| text_literal(random, 10),
            ));
            columns.push(Column::new(
                format!("text_{name}"),
                definition("TEXT"),
                Shown::Text,
                |random| text_literal(random, 400),
            ));
            let labels = if name == "latin1" {
                "'a','é','c''d'"
            } else {
                "'a','Ж','c''d'"
            };
            let labels = if name == "ujis" || name == "sjis" {
                "'a','テ','c''d'"
            } else {
                labels
            };
            let number = |random: &mut Rng| random.u8(..=3).to_string();
            columns.push(Column::new(
                format!("enum_{name}"),
                definition(&format!("ENUM({labels})")),
                Shown::Text,
                number,
            ));
            let mask = |random: &mut Rng| random.u8(..8).to_string();
            columns.push(Column::new(
                format!("set_{name}"),
                definition(&format!("SET({labels})")),
                Shown::Set,
                mask,
            ));
        }
    }
    for kind in [
        "TINYTEXT",
        "MEDIUMTEXT",
        "LONGTEXT",
        "CHAR(255)",
        "VARCHAR(400)",
    ] {
        let name = kind.to_lowercase().replace(['(', ')'], "_");
        columns.push(Column::new(
            name,
            format!("{kind} NOT NULL"),
            Shown::Text,
            |random| text_literal(random, 60),
        ));
    }
    columns
}

fn others(flavor: Flavor) -> Vec<Column> {
    let bytes = |longest: usize| {
        move |random: &mut Rng| {
            let length = random.usize(..=longest);
            // Trailing zero bytes are what gets lost.
            let zeros = random.usize(..=length);
            let literal = hex_literal(random, length - zeros);
            format!("{}{}'", &literal[..literal.len() - 1], "00".repeat(zeros))
        }
    };
    let mut columns = vec![
        Column::new("binary1", "BINARY(1)", Shown::Bytes, bytes(1)),
        Column::new("binary16", "BINARY(16)", Shown::Bytes, bytes(16)),
        Column::new("binary255", "BINARY(255)", Shown::Bytes, bytes(255)),
        Column::new("varbinary40", "VARBINARY(40)", Shown::Bytes, bytes(40)),
        Column::new("varbinary300", "VARBINARY(300)", Shown::Bytes, bytes(300)),
        Column::new("tinyblob", "TINYBLOB", Shown::Bytes, bytes(255)),
        Column::new("blob", "BLOB", Shown::Bytes, bytes(2000)),
        Column::new("mediumblob", "MEDIUMBLOB", Shown::Bytes, bytes(300)),
        Column::new("longblob", "LONGBLOB", Shown::Bytes, bytes(300)),
        Column::new("geometry", "GEOMETRY", Shown::Geometry, |random| {
            let (x, y) = (random.i32(-80..80), random.i32(-80..80));
            match random.u8(..3) {
                0 => format!("ST_GeomFromText('LINESTRING({x} {y}, {y} {x}, 1 1)')"),
                1 => format!(
                    "ST_GeomFromText('GEOMETRYCOLLECTION(POINT({x} {y}), MULTIPOINT({y} 1, 2 2))', 3857)"
                ),
                _ => format!(
                    "ST_GeomFromText('POLYGON((0 0, {}.5 0, 3 3, 0 0))')",
                    random.u8(1..100)
                ),
            }
        }),
        Column::new(
            "point",
            if flavor.is_mariadb() {
                "POINT REF_SYSTEM_ID=4326 NOT NULL"
            } else {
                "POINT NOT NULL SRID 4326"
            },
            Shown::Geometry,
            |random| {
                format!(
                    "ST_GeomFromText('POINT({}.25 {})', 4326)",
                    random.i32(-89..89),
                    random.i32(-179..179)
                )
            },
        ),
        Column::new(
            "generated",
            "VARCHAR(50) AS (CONCAT(id, ' é')) STORED",
            Shown::Text,
            |_| String::new(),
        ),
        Column::new(
            "computed",
            "BIGINT AS (id * -3) VIRTUAL",
            Shown::Int64,
            |_| String::new(),
        ),
        Column::new(
            "invisible",
            "INT DEFAULT 7 INVISIBLE",
            Shown::Int32,
            integer(-5, 5),
        ),
        Column::new("$dollar.dot", "INT", Shown::Int32, integer(-5, 5)),
    ];
    columns.extend(if flavor.is_mariadb() {
        only_in_mariadb(flavor)
    } else {
        only_in_mysql()
    });
    // 300 labels take two bytes, 64 all bits of eight.
    let labels = |count: usize| {
        (0..count)
            .map(|index| format!("'l{index}'"))
            .collect::<Vec<_>>()
            .join(",")
    };
    columns.push(Column::new(
        "enum300",
        format!("ENUM({})", labels(300)),
        Shown::Text,
        |random| random.u16(..=300).to_string(),
    ));
    columns.push(Column::new(
        "set64",
        format!("SET({})", labels(64)),
        Shown::Set,
        |random| match random.u8(..4) {
            0 => u64::MAX.to_string(),
            _ => random.u64(..).to_string(),
        },
    ));
    columns.push(Column::new(
        "set9",
        format!("SET({})", labels(9)),
        Shown::Set,
        |random| random.u16(..512).to_string(),
    ));
    columns
}

fn only_in_mysql() -> Vec<Column> {
    vec![
        // Out of an array, so that numbers and texts become JSON too.
        Column::new("json", "JSON", Shown::Json, |random| {
            format!(
                "JSON_EXTRACT(JSON_ARRAY({}), '$[0]')",
                super::json::literal(random)
            )
        }),
        Column::new("vector", "VECTOR(16)", Shown::Vector, |random| {
            let numbers: Vec<u8> = (0..random.usize(1..=16))
                .flat_map(|_| float(random).to_le_bytes())
                .collect();
            format!("x'{}'", hex(&numbers))
        }),
    ]
}

fn only_in_mariadb(flavor: Flavor) -> Vec<Column> {
    // Zero bytes at the end are what gets lost; the binlog does not hold them.
    let zeros = |random: &mut Rng, count: usize, bits: u128| match random.u8(..8) {
        0 => 0,
        1 => u128::MAX >> (128 - bits),
        2 => 1 << random.u32(..bits as u32),
        _ => {
            random.u128(..) >> (128 - bits) >> (8 * random.usize(..count))
                << (8 * random.usize(..count))
        }
    };
    let mut columns = vec![
        // Text that must be JSON.
        Column::new("json", "JSON", Shown::Text, |random| {
            let text = text_literal(random, 20);
            match random.u8(..4) {
                0 => "'null'".to_owned(),
                1 => format!("JSON_ARRAY({text}, 1.50, TRUE)"),
                _ => format!("JSON_OBJECT({text}, {text}, 'b', {})", random.i64(..)),
            }
        }),
        Column::new("uuid", "UUID", Shown::Printed, move |random| {
            // Those of versions 6 and 7, and those that are none, are kept in another order.
            let digits = format!("{:032x}", zeros(random, 16, 128));
            let version = random.u8(1..=7);
            format!(
                "'{}-{}-{version}{}-{}{}-{}'",
                &digits[..8],
                &digits[8..12],
                &digits[13..16],
                ["8", "9", "a", "b"][random.usize(..4)],
                &digits[17..20],
                &digits[20..]
            )
        }),
        Column::new("uuid_any", "UUID NOT NULL", Shown::Printed, move |random| {
            format!("'{:032x}'", zeros(random, 16, 128))
        }),
        Column::new("inet6", "INET6", Shown::Printed, move |random| {
            let bits = zeros(random, 16, 128);
            let address = match random.u8(..4) {
                0 => std::net::Ipv4Addr::from_bits(bits as u32).to_ipv6_mapped(),
                1 => std::net::Ipv4Addr::from_bits(bits as u32).to_ipv6_compatible(),
                _ => std::net::Ipv6Addr::from_bits(bits),
            };
            format!("'{address}'")
        }),
        Column::new("inet4", "INET4", Shown::Printed, move |random| {
            let bits = zeros(random, 4, 32) as u32;
            format!("'{}'", std::net::Ipv4Addr::from_bits(bits))
        }),
    ];
    if flavor == Flavor::Mariadb11 {
        // Never fewer numbers than the column has.
        columns.push(Column::new(
            "vector",
            "VECTOR(5)",
            Shown::Vector,
            |random| {
                let numbers: Vec<u8> = (0..5).flat_map(|_| float(random).to_le_bytes()).collect();
                format!("x'{}'", hex(&numbers))
            },
        ));
    }
    columns
}
