//! The tables of the property test: every type that a server has, by the ways to make and to show its values.

use super::columns::*;
use crate::common::Flavor;
use fastrand::Rng;
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

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
