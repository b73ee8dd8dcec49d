//! One column: its name, and all that the decoder has to know about its values, worked out once for each table map.

use crate::source::decode::{Charset, DecodeError, label_value};

/// A column of a table.
#[derive(Debug, Clone)]
pub struct Column {
    /// The column's name, or `@` and its number from 1 when the event has no names.
    pub name: String,
    /// The type of its values.
    pub kind: ColumnKind,
    /// Whether it can be NULL.
    pub nullable: bool,
    /// Whether `SELECT *` shows it.
    pub visible: bool,
    /// The name with a NUL behind it, as BSON wants it before each value.
    pub(crate) bson_key: Box<[u8]>,
}

/// A column's type, with everything that its values' bytes depend on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ColumnKind {
    /// TINYINT to BIGINT.
    Integer {
        /// Bytes of a value: 1, 2, 3, 4 or 8.
        width: u8,
        /// Whether the column is UNSIGNED.
        unsigned: bool,
    },
    /// TINYINT to BIGINT, when the event does not tell whether it is UNSIGNED: MariaDB's `binlog_row_metadata=NO_LOG`.
    IntegerOfUnknownSign {
        /// Bytes of a value: 1, 2, 3, 4 or 8.
        width: u8,
    },
    /// FLOAT, in 4 bytes.
    Float,
    /// DOUBLE, in 8 bytes.
    Double,
    /// DECIMAL.
    Decimal {
        /// Digits in all, 1 to 65.
        precision: u8,
        /// Digits behind the point, 0 to 30.
        scale: u8,
    },
    /// YEAR, in 1 byte.
    Year,
    /// BIT.
    Bit {
        /// 1 to 64.
        bits: u8,
    },
    /// DATE, in 3 bytes.
    Date,
    /// TIME.
    Time {
        /// Fractional digits, 0 to 6.
        fraction_digits: u8,
    },
    /// DATETIME.
    DateTime {
        /// Fractional digits, 0 to 6.
        fraction_digits: u8,
    },
    /// TIMESTAMP.
    Timestamp {
        /// Fractional digits, 0 to 6.
        fraction_digits: u8,
    },
    /// TIME of a table made before MySQL 5.6: 3 bytes, no fraction.
    OldTime,
    /// DATETIME of a table made before MySQL 5.6: 8 bytes, no fraction.
    OldDateTime,
    /// TIMESTAMP of a table made before MySQL 5.6: 4 bytes, no fraction.
    OldTimestamp,
    /// TIME, DATETIME or TIMESTAMP in the format of MariaDB 5.3, of which the event does not tell the fractional digits, and with
    /// them the length. Rows with it cannot even be counted.
    OldOfUnknownLength {
        /// The event's type byte: 7 TIMESTAMP, 11 TIME, 12 DATETIME.
        type_code: u8,
    },
    /// CHAR, VARCHAR or TEXT, also in a character set that cannot be decoded.
    Text {
        /// Bytes of a value's length: 1 to 4.
        length_bytes: u8,
        /// CHAR, VARCHAR or TEXT.
        shape: StringShape,
        /// The column's character set.
        charset: Charset,
    },
    /// BINARY, VARBINARY or BLOB.
    Bytes {
        /// Bytes of a value's length: 1 to 4.
        length_bytes: u8,
        /// BINARY, VARBINARY or BLOB.
        shape: StringShape,
    },
    /// MariaDB's VARCHAR, TEXT, VARBINARY or BLOB with the attribute COMPRESSED. It can be passed over, not decoded.
    Compressed {
        /// Bytes of a value's length: 1 to 4.
        length_bytes: u8,
        /// VARCHAR or TEXT, or the like of bytes.
        shape: StringShape,
    },
    /// MariaDB's UUID. The event has it as BINARY(16), in the order of its text.
    Uuid,
    /// MariaDB's INET6. The event has it as BINARY(16).
    Inet6,
    /// MariaDB's INET4. The event has it as BINARY(4).
    Inet4,
    /// ENUM.
    Enum {
        /// Bytes of a value: 1 or 2.
        width: u8,
        /// The labels, number 1 first; None when the event does not tell.
        labels: Option<Vec<Label>>,
        /// The labels' character set, when the event tells.
        charset: Option<Charset>,
    },
    /// SET.
    Set {
        /// Bytes of a value: 1 to 8.
        width: u8,
        /// The labels, the lowest bit's first; None when the event does not tell.
        labels: Option<Vec<Label>>,
        /// The labels' character set, when the event tells.
        charset: Option<Charset>,
    },
    /// JSON, in MySQL's binary form.
    Json {
        /// Bytes of a value's length: 1 to 4.
        length_bytes: u8,
    },
    /// GEOMETRY and its subtypes.
    Geometry {
        /// Bytes of a value's length: 1 to 4.
        length_bytes: u8,
        /// The subtype's number: 0 GEOMETRY, 1 POINT … 7 GEOMETRYCOLLECTION.
        subtype: u64,
    },
    /// VECTOR.
    Vector {
        /// Bytes of a value's length: 1 to 4.
        length_bytes: u8,
        /// How many numbers a value has at most, when the event tells.
        dimensions: Option<u64>,
    },
}

/// How a string column keeps its values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StringShape {
    /// CHAR or BINARY of that many bytes at most.
    Fixed(u32),
    /// VARCHAR or VARBINARY of that many bytes at most.
    Variable(u32),
    /// TEXT or BLOB.
    Large,
}

/// An ENUM's or SET's label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The label as text; None when its bytes have no text in the column's character set.
    pub text: Option<String>,
    /// The type of the BSON value.
    pub(crate) element_type: u8,
    /// The BSON value, ready to be copied.
    pub(crate) value: Box<[u8]>,
}

impl Label {
    /// The labels of one column from their bytes. All of a column's labels are Strings, or, when one cannot be decoded,
    /// all are Binary: one column gives one BSON type.
    pub(crate) fn list(labels: &[&[u8]], charset: Charset) -> Vec<Label> {
        let texts: Vec<Option<String>> = labels.iter().map(|label| charset.decode(label)).collect();
        let all_text = texts.iter().all(Option::is_some);
        let pairs = labels.iter().zip(texts);
        pairs
            .map(|(bytes, text)| {
                let (element_type, value) =
                    label_value(bytes, text.as_deref().filter(|_| all_text));
                Label {
                    text,
                    element_type,
                    value: value.into_boxed_slice(),
                }
            })
            .collect()
    }
}

impl Column {
    pub(crate) fn new(name: String, kind: ColumnKind, nullable: bool, visible: bool) -> Self {
        let bson_key = name.bytes().chain([0]).collect();
        Self {
            name,
            kind,
            nullable,
            visible,
            bson_key,
        }
    }

    /// Why rows with this column cannot be read, and the statement that mends it; `included` is whether they are wanted.
    pub(crate) fn check(
        &self,
        database: &str,
        table: &str,
        included: bool,
    ) -> Result<(), DecodeError> {
        const BEHIND: &str = "what was written before that cannot be recorded: start behind it with a new SOURCE_ID and START_FROM";
        let quoted = |name: &str| format!("`{}`", name.replace('`', "``"));
        // Made only where it is told: this is asked of every column at every TABLE_MAP.
        let alter = || format!("ALTER TABLE {}.{}", quoted(database), quoted(table));
        let (what, remedy) = match self.kind {
            ColumnKind::Compressed { .. } if included => (
                "is COMPRESSED, which sdl does not read",
                format!(
                    "{} MODIFY {} … with its definition as SHOW CREATE TABLE gives it, without COMPRESSED; {BEHIND}",
                    alter(),
                    quoted(&self.name)
                ),
            ),
            ColumnKind::OldOfUnknownLength { .. } => (
                "has the format of MariaDB 5.3, of which the binlog does not tell the fractional digits, and the server does not \
                 have it without any now",
                format!(
                    "SET GLOBAL mysql56_temporal_format=ON; {} FORCE; {BEHIND}",
                    alter()
                ),
            ),
            _ => return Ok(()),
        };
        Err(DecodeError::Refused {
            column: self.name.as_str().into(),
            what,
            remedy: remedy.into(),
        })
    }

    /// The column as it stands in row_changes_schemas.
    pub(crate) fn document(&self) -> bson::Document {
        let mut document = bson::doc! { "name": &self.name, "type": self.kind.type_text() };
        match &self.kind {
            ColumnKind::Integer { unsigned: true, .. } => {
                document.insert("unsigned", true);
            }
            ColumnKind::IntegerOfUnknownSign { .. } => {
                document.insert("unsigned", bson::Bson::Null);
            }
            ColumnKind::Text { charset, .. } => {
                document.insert("charset", charset.name());
            }
            ColumnKind::Enum {
                labels, charset, ..
            }
            | ColumnKind::Set {
                labels, charset, ..
            } => {
                if let Some(charset) = charset {
                    document.insert("charset", charset.name());
                }
                if let Some(labels) = labels {
                    document.insert(
                        "labels",
                        labels.iter().map(Label::as_bson).collect::<Vec<_>>(),
                    );
                }
            }
            _ => {}
        }
        document
    }
}

impl Label {
    fn as_bson(&self) -> bson::Bson {
        match &self.text {
            Some(text) => bson::Bson::String(text.clone()),
            // Behind the four bytes of the length and the subtype stand the label's own bytes.
            None => bson::Bson::Binary(bson::Binary {
                subtype: bson::spec::BinarySubtype::Generic,
                bytes: self.value.get(5..).unwrap_or_default().to_vec(),
            }),
        }
    }
}

impl ColumnKind {
    /// The type as `CREATE TABLE` writes it, without UNSIGNED and character set: `varchar(20)`, `time(3)`.
    pub fn type_text(&self) -> String {
        let with_fraction = |name: &str, digits: u8| match digits {
            0 => name.to_owned(),
            digits => format!("{name}({digits})"),
        };
        match self {
            Self::Integer { width, .. } | Self::IntegerOfUnknownSign { width } => match width {
                1 => "tinyint".to_owned(),
                2 => "smallint".to_owned(),
                3 => "mediumint".to_owned(),
                4 => "int".to_owned(),
                _ => "bigint".to_owned(),
            },
            Self::Float => "float".to_owned(),
            Self::Double => "double".to_owned(),
            Self::Decimal { precision, scale } => format!("decimal({precision},{scale})"),
            Self::Year => "year".to_owned(),
            Self::Bit { bits } => format!("bit({bits})"),
            Self::Date => "date".to_owned(),
            Self::Time { fraction_digits } => with_fraction("time", *fraction_digits),
            Self::DateTime { fraction_digits } => with_fraction("datetime", *fraction_digits),
            Self::Timestamp { fraction_digits } => with_fraction("timestamp", *fraction_digits),
            Self::OldTime => "time".to_owned(),
            Self::OldDateTime => "datetime".to_owned(),
            Self::OldTimestamp => "timestamp".to_owned(),
            Self::OldOfUnknownLength { type_code } => format!("time of type {type_code}"),
            Self::Text {
                length_bytes,
                shape,
                charset,
            } => {
                let per_character = charset.max_bytes_per_character();
                match shape {
                    StringShape::Fixed(bytes) => format!("char({})", bytes / per_character),
                    StringShape::Variable(bytes) => format!("varchar({})", bytes / per_character),
                    StringShape::Large => format!("{}text", size_prefix(*length_bytes)),
                }
            }
            Self::Bytes {
                length_bytes,
                shape,
            } => match shape {
                StringShape::Fixed(bytes) => format!("binary({bytes})"),
                StringShape::Variable(bytes) => format!("varbinary({bytes})"),
                StringShape::Large => format!("{}blob", size_prefix(*length_bytes)),
            },
            Self::Compressed {
                length_bytes,
                shape,
            } => match shape {
                StringShape::Large => format!("{}blob compressed", size_prefix(*length_bytes)),
                StringShape::Fixed(bytes) | StringShape::Variable(bytes) => {
                    format!("varbinary({bytes}) compressed")
                }
            },
            Self::Uuid => "uuid".to_owned(),
            Self::Inet6 => "inet6".to_owned(),
            Self::Inet4 => "inet4".to_owned(),
            Self::Enum { .. } => "enum".to_owned(),
            Self::Set { .. } => "set".to_owned(),
            Self::Json { .. } => "json".to_owned(),
            Self::Geometry { subtype, .. } => match subtype {
                1 => "point".to_owned(),
                2 => "linestring".to_owned(),
                3 => "polygon".to_owned(),
                4 => "multipoint".to_owned(),
                5 => "multilinestring".to_owned(),
                6 => "multipolygon".to_owned(),
                7 => "geometrycollection".to_owned(),
                _ => "geometry".to_owned(),
            },
            Self::Vector { dimensions, .. } => match dimensions {
                Some(dimensions) => format!("vector({dimensions})"),
                None => "vector".to_owned(),
            },
        }
    }
}

/// TINYTEXT, TEXT, MEDIUMTEXT and LONGTEXT differ in the bytes of their length.
fn size_prefix(length_bytes: u8) -> &'static str {
    match length_bytes {
        1 => "tiny",
        2 => "",
        3 => "medium",
        _ => "long",
    }
}
