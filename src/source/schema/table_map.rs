//! The body of a TABLE_MAP event, taken apart.

use super::column::{Column, ColumnKind, Label, StringShape};
use super::wire_type::{WireType, type_code, wire_types};
use crate::position::Flavor;
use crate::source::decode::wire::{Reader, bit_is_set, bit_is_set_high_first};
use crate::source::decode::{Charset, DecodeError};

/// What a TABLE_MAP event says.
pub(super) struct Parts {
    pub(super) database: String,
    pub(super) table: String,
    pub(super) columns: Vec<Column>,
    pub(super) key: Vec<usize>,
    pub(super) resolved: bool,
}

/// The kinds of optional metadata (`Table_map_event::Optional_metadata_field_type`).
mod metadata {
    pub(super) const SIGNEDNESS: u8 = 1;
    pub(super) const DEFAULT_CHARSET: u8 = 2;
    pub(super) const COLUMN_CHARSET: u8 = 3;
    pub(super) const COLUMN_NAME: u8 = 4;
    pub(super) const SET_STR_VALUE: u8 = 5;
    pub(super) const ENUM_STR_VALUE: u8 = 6;
    pub(super) const GEOMETRY_TYPE: u8 = 7;
    pub(super) const SIMPLE_PRIMARY_KEY: u8 = 8;
    pub(super) const PRIMARY_KEY_WITH_PREFIX: u8 = 9;
    pub(super) const ENUM_AND_SET_DEFAULT_CHARSET: u8 = 10;
    pub(super) const ENUM_AND_SET_COLUMN_CHARSET: u8 = 11;
    pub(super) const COLUMN_VISIBILITY: u8 = 12;
    pub(super) const VECTOR_DIMENSIONALITY: u8 = 13;
}

/// The optional metadata, not yet laid over the columns.
#[derive(Default)]
struct OptionalMetadata<'a> {
    /// Whether there is none at all.
    is_empty: bool,
    signedness: Option<&'a [u8]>,
    charsets: Option<CharsetList>,
    enum_and_set_charsets: Option<CharsetList>,
    names: Option<Vec<&'a [u8]>>,
    set_labels: Option<Vec<Vec<&'a [u8]>>>,
    enum_labels: Option<Vec<Vec<&'a [u8]>>>,
    geometry_types: Option<Vec<u64>>,
    dimensions: Option<Vec<u64>>,
    key: Vec<usize>,
    visibility: Option<&'a [u8]>,
}

/// Collation ids over the columns that have a character set.
enum CharsetList {
    /// One for all but the listed ones; the indexes count the columns that have a character set only.
    Default(u64, Vec<(usize, u64)>),
    Each(Vec<u64>),
}

impl CharsetList {
    fn of(&self, index: usize) -> Option<u64> {
        match self {
            Self::Default(default, exceptions) => {
                let exception = exceptions.iter().find(|(exception, _)| *exception == index);
                Some(exception.map_or(*default, |(_, collation)| *collation))
            }
            Self::Each(collations) => collations.get(index).copied(),
        }
    }
}

pub(super) fn parse(flavor: Flavor, body: &[u8]) -> Result<Parts, DecodeError> {
    let mut reader = Reader::new(body);
    reader.bytes(6, "table id")?;
    reader.u16("table map flags")?;
    let database = name(&mut reader, "database name")?;
    let table = name(&mut reader, "table name")?;
    let within_table = |problem| DecodeError::Table {
        table: format!("{database}.{table}").into_boxed_str(),
        problem: Box::new(problem),
    };
    let (columns, key, resolved) = parse_columns(flavor, reader).map_err(within_table)?;
    Ok(Parts {
        database,
        table,
        columns,
        key,
        resolved,
    })
}

fn name(reader: &mut Reader<'_>, what: &'static str) -> Result<String, DecodeError> {
    let bytes = reader.length_encoded_bytes(what)?;
    reader.u8(what)?;
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::NotUtf8(what))
}

fn parse_columns(
    flavor: Flavor,
    mut reader: Reader<'_>,
) -> Result<(Vec<Column>, Vec<usize>, bool), DecodeError> {
    let types = reader.length_encoded_bytes("column types")?;
    let type_metadata = reader.length_encoded_bytes("column metadata")?;
    let nullable = reader.bytes(types.len().div_ceil(8), "nullable columns")?;
    let types = wire_types(flavor, types, type_metadata)?;
    let optional = optional_metadata(reader)?;
    let columns = build_columns(flavor, &types, nullable, &optional)?;
    // Each key column is copied into each document, so a list without end would be a document without end.
    let mut key = optional.key.clone();
    key.sort_unstable();
    let twice = key.windows(2).find(|pair| pair.first() == pair.last());
    if let Some([column, ..]) = twice {
        return Err(DecodeError::Unexpected {
            what: "primary key column",
            found: *column as u64,
            expected: "each column once",
        });
    }
    if let Some(index) = optional.key.iter().find(|index| **index >= columns.len()) {
        return Err(DecodeError::Unexpected {
            what: "primary key column",
            found: *index as u64,
            expected: "the index of a column",
        });
    }
    Ok((columns, optional.key, optional.names.is_some()))
}

fn optional_metadata(mut reader: Reader<'_>) -> Result<OptionalMetadata<'_>, DecodeError> {
    let mut optional = OptionalMetadata {
        is_empty: reader.is_empty(),
        ..OptionalMetadata::default()
    };
    while !reader.is_empty() {
        let kind = reader.u8("optional metadata")?;
        let value = reader.length_encoded_bytes("optional metadata")?;
        let field = Reader::new(value);
        match kind {
            metadata::SIGNEDNESS => optional.signedness = Some(value),
            metadata::DEFAULT_CHARSET => optional.charsets = Some(default_charset(field)?),
            metadata::COLUMN_CHARSET => {
                optional.charsets = Some(CharsetList::Each(integers(field)?))
            }
            metadata::COLUMN_NAME => optional.names = Some(strings(field)?),
            metadata::SET_STR_VALUE => optional.set_labels = Some(label_lists(field)?),
            metadata::ENUM_STR_VALUE => optional.enum_labels = Some(label_lists(field)?),
            metadata::GEOMETRY_TYPE => optional.geometry_types = Some(integers(field)?),
            metadata::SIMPLE_PRIMARY_KEY => {
                optional.key = integers(field)?.into_iter().map(column_index).collect()
            }
            metadata::PRIMARY_KEY_WITH_PREFIX => {
                // The prefix length is of no use here: the event has the whole value.
                optional.key = pairs(field)?
                    .into_iter()
                    .map(|(index, _prefix)| index)
                    .collect();
            }
            metadata::ENUM_AND_SET_DEFAULT_CHARSET => {
                optional.enum_and_set_charsets = Some(default_charset(field)?)
            }
            metadata::ENUM_AND_SET_COLUMN_CHARSET => {
                optional.enum_and_set_charsets = Some(CharsetList::Each(integers(field)?));
            }
            metadata::COLUMN_VISIBILITY => optional.visibility = Some(value),
            metadata::VECTOR_DIMENSIONALITY => optional.dimensions = Some(integers(field)?),
            // Made to be skipped: a kind that a later server adds describes columns further, it does not change the rows.
            _ => {}
        }
    }
    Ok(optional)
}

/// An index that does not fit the address space is no column's, and is found out as such.
fn column_index(index: u64) -> usize {
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn integers(mut reader: Reader<'_>) -> Result<Vec<u64>, DecodeError> {
    let mut result = Vec::new();
    while !reader.is_empty() {
        result.push(reader.length_encoded("optional metadata")?);
    }
    Ok(result)
}

fn pairs(mut reader: Reader<'_>) -> Result<Vec<(usize, u64)>, DecodeError> {
    let mut result = Vec::new();
    while !reader.is_empty() {
        let index = column_index(reader.length_encoded("optional metadata")?);
        result.push((index, reader.length_encoded("optional metadata")?));
    }
    Ok(result)
}

fn default_charset(mut reader: Reader<'_>) -> Result<CharsetList, DecodeError> {
    let default = reader.length_encoded("default charset")?;
    Ok(CharsetList::Default(default, pairs(reader)?))
}

fn strings(mut reader: Reader<'_>) -> Result<Vec<&[u8]>, DecodeError> {
    let mut result = Vec::new();
    while !reader.is_empty() {
        result.push(reader.length_encoded_bytes("column name")?);
    }
    Ok(result)
}

fn label_lists(mut reader: Reader<'_>) -> Result<Vec<Vec<&[u8]>>, DecodeError> {
    let mut result = Vec::new();
    while !reader.is_empty() {
        let count = reader.length("label count")?;
        let mut labels = Vec::new();
        for _ in 0..count {
            labels.push(reader.length_encoded_bytes("label")?);
        }
        result.push(labels);
    }
    Ok(result)
}

/// Which entry of each list the next column takes.
#[derive(Default)]
struct Taken {
    numeric: usize,
    character: usize,
    enum_or_set: usize,
    enums: usize,
    sets: usize,
    geometries: usize,
    vectors: usize,
}

fn build_columns(
    flavor: Flavor,
    types: &[WireType],
    nullable: &[u8],
    optional: &OptionalMetadata<'_>,
) -> Result<Vec<Column>, DecodeError> {
    if let Some(names) = &optional.names
        && names.len() != types.len()
    {
        return Err(DecodeError::MetadataCount {
            what: "column names",
            found: names.len(),
            expected: types.len(),
        });
    }
    // MariaDB's binlog_row_metadata=NO_LOG, its default: nothing but the types.
    if flavor == Flavor::Mysql || !optional.is_empty {
        check_counts(flavor, types, optional)?;
    }
    let mut taken = Taken::default();
    let mut columns = Vec::with_capacity(types.len());
    for (index, wire_type) in types.iter().enumerate() {
        let name = match optional.names.as_ref().and_then(|names| names.get(index)) {
            Some(bytes) => column_name(bytes)?,
            None => format!("@{}", index + 1),
        };
        let kind = column_kind(flavor, *wire_type, optional, &mut taken)?;
        let visible = optional
            .visibility
            .is_none_or(|bits| bit_is_set_high_first(bits, index));
        columns.push(Column::new(
            name,
            kind,
            bit_is_set(nullable, index),
            visible,
        ));
    }
    Ok(columns)
}

fn column_name(bytes: &[u8]) -> Result<String, DecodeError> {
    // No identifier of MySQL holds U+0000, and no BSON key can.
    if bytes.contains(&0) {
        return Err(DecodeError::Unexpected {
            what: "column name",
            found: 0,
            expected: "no NUL byte",
        });
    }
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::NotUtf8("column name"))
}

/// The lists without which a value would be misread have to be there and complete: INT UNSIGNED taken for INT is a wrong
/// number, and a list that is shifted by one column is worse.
fn check_counts(
    flavor: Flavor,
    types: &[WireType],
    optional: &OptionalMetadata<'_>,
) -> Result<(), DecodeError> {
    let numeric = types
        .iter()
        .filter(|wire_type| wire_type.is_numeric())
        .count();
    let signedness = optional.signedness.map_or(0, <[u8]>::len);
    if signedness != numeric.div_ceil(8) {
        return Err(DecodeError::MetadataCount {
            what: "signedness",
            found: signedness * 8,
            expected: numeric,
        });
    }
    let character = types
        .iter()
        .filter(|wire_type| wire_type.is_character(flavor))
        .count();
    let enum_or_set = types
        .iter()
        .filter(|wire_type| wire_type.is_enum_or_set())
        .count();
    check_charsets("charset list", optional.charsets.as_ref(), character, true)?;
    check_charsets(
        "enum and set charset list",
        optional.enum_and_set_charsets.as_ref(),
        enum_or_set,
        false,
    )?;
    for (what, code, labels) in [
        ("enum labels", type_code::ENUM, &optional.enum_labels),
        ("set labels", type_code::SET, &optional.set_labels),
    ] {
        let expected = types
            .iter()
            .filter(|wire_type| wire_type.code == code)
            .count();
        match labels {
            Some(labels) if labels.len() != expected => {
                return Err(DecodeError::MetadataCount {
                    what,
                    found: labels.len(),
                    expected,
                });
            }
            None if expected > 0 && optional.names.is_some() => {
                return Err(DecodeError::MetadataCount {
                    what,
                    found: 0,
                    expected,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_charsets(
    what: &'static str,
    list: Option<&CharsetList>,
    expected: usize,
    always_there: bool,
) -> Result<(), DecodeError> {
    let found = match list {
        Some(CharsetList::Each(collations)) => collations.len(),
        Some(CharsetList::Default(_, exceptions)) => {
            // One entry serves all columns; the exceptions must name columns that are there.
            exceptions
                .iter()
                .map(|(index, _)| index.saturating_add(1))
                .max()
                .unwrap_or(0)
                .max(expected)
        }
        None if always_there => 0,
        None => expected,
    };
    if found == expected {
        Ok(())
    } else {
        Err(DecodeError::MetadataCount {
            what,
            found,
            expected,
        })
    }
}

/// The index of the next entry; counts on.
fn next(counter: &mut usize) -> usize {
    let index = *counter;
    *counter += 1;
    index
}

fn column_kind(
    flavor: Flavor,
    wire_type: WireType,
    optional: &OptionalMetadata<'_>,
    taken: &mut Taken,
) -> Result<ColumnKind, DecodeError> {
    use type_code::*;
    let WireType {
        code,
        first,
        second,
    } = wire_type;
    let unsigned = match optional.signedness {
        Some(bits) if wire_type.is_numeric() => {
            Some(bit_is_set_high_first(bits, next(&mut taken.numeric)))
        }
        _ => None,
    };
    let charset = if wire_type.is_character(flavor) {
        let index = next(&mut taken.character);
        let collation = optional.charsets.as_ref().and_then(|list| list.of(index));
        collation.map_or_else(Charset::unknown, |id| Charset::of_collation(flavor, id))
    } else {
        Charset::unknown()
    };
    let fraction_digits = |digits| in_range("fractional digits", digits, 0..=6, "0 to 6");
    let length_bytes = |bytes| in_range("length of a length", bytes, 1..=4, "1 to 4");
    let integer = |width| {
        Ok(match unsigned {
            Some(unsigned) => ColumnKind::Integer { width, unsigned },
            None => ColumnKind::IntegerOfUnknownSign { width },
        })
    };
    match code {
        TINY => integer(1),
        SHORT => integer(2),
        INT24 => integer(3),
        LONG => integer(4),
        LONGLONG => integer(8),
        FLOAT => Ok(ColumnKind::Float),
        DOUBLE => Ok(ColumnKind::Double),
        NEWDECIMAL => Ok(ColumnKind::Decimal {
            precision: in_range("decimal precision", first, 1..=65, "1 to 65")?,
            scale: in_range(
                "decimal scale",
                second,
                0..=first.min(30),
                "0 to 30 and not above the precision",
            )?,
        }),
        YEAR => Ok(ColumnKind::Year),
        BIT => {
            // Whole bytes in the second byte, the bits beyond them in the first.
            let bits = u32::from(second) * 8 + u32::from(first);
            let bits = u8::try_from(bits).unwrap_or(u8::MAX);
            Ok(ColumnKind::Bit {
                bits: in_range("bits", bits, 1..=64, "1 to 64")?,
            })
        }
        DATE | NEWDATE => Ok(ColumnKind::Date),
        TIME2 => Ok(ColumnKind::Time {
            fraction_digits: fraction_digits(first)?,
        }),
        DATETIME2 => Ok(ColumnKind::DateTime {
            fraction_digits: fraction_digits(first)?,
        }),
        TIMESTAMP2 => Ok(ColumnKind::Timestamp {
            fraction_digits: fraction_digits(first)?,
        }),
        TIME | DATETIME | TIMESTAMP if flavor == Flavor::Mariadb => {
            Ok(ColumnKind::OldOfUnknownLength { type_code: code })
        }
        TIME => Ok(ColumnKind::OldTime),
        DATETIME => Ok(ColumnKind::OldDateTime),
        TIMESTAMP => Ok(ColumnKind::OldTimestamp),
        ENUM | SET => enum_or_set(flavor, wire_type, optional, taken),
        JSON => Ok(ColumnKind::Json {
            length_bytes: length_bytes(first)?,
        }),
        GEOMETRY => {
            let index = next(&mut taken.geometries);
            let subtype = optional
                .geometry_types
                .as_ref()
                .and_then(|types| types.get(index))
                .copied();
            Ok(ColumnKind::Geometry {
                length_bytes: length_bytes(first)?,
                subtype: subtype.unwrap_or(0),
            })
        }
        VECTOR => {
            let index = next(&mut taken.vectors);
            let dimensions = optional
                .dimensions
                .as_ref()
                .and_then(|list| list.get(index))
                .copied();
            Ok(ColumnKind::Vector {
                length_bytes: length_bytes(first)?,
                dimensions,
            })
        }
        TINY_BLOB..=BLOB => Ok(string(length_bytes(first)?, StringShape::Large, charset)),
        VARCHAR | VAR_STRING => {
            let length = wire_type.length();
            Ok(string(
                bytes_of_length(length),
                StringShape::Variable(length),
                charset,
            ))
        }
        BLOB_COMPRESSED => Ok(ColumnKind::Compressed {
            length_bytes: length_bytes(first)?,
            shape: StringShape::Large,
        }),
        VARCHAR_COMPRESSED => {
            // A byte of its own says how the value is compressed.
            let length = wire_type.length();
            Ok(ColumnKind::Compressed {
                length_bytes: bytes_of_length(length),
                shape: StringShape::Variable(length.saturating_sub(1)),
            })
        }
        // What is left is STRING. Bits 4 and 5 of the first byte, inverted, are bits 8 and 9 of the length.
        _ => {
            let length = u32::from((first & 0x30) ^ 0x30) << 4 | u32::from(second);
            Ok(string(
                bytes_of_length(length),
                StringShape::Fixed(length),
                charset,
            ))
        }
    }
}

/// How many bytes tell the length of a value of at most `length` bytes.
fn bytes_of_length(length: u32) -> u8 {
    if length > 255 { 2 } else { 1 }
}

fn string(length_bytes: u8, shape: StringShape, charset: Charset) -> ColumnKind {
    if charset.is_binary() {
        ColumnKind::Bytes {
            length_bytes,
            shape,
        }
    } else {
        ColumnKind::Text {
            length_bytes,
            shape,
            charset,
        }
    }
}

fn enum_or_set(
    flavor: Flavor,
    wire_type: WireType,
    optional: &OptionalMetadata<'_>,
    taken: &mut Taken,
) -> Result<ColumnKind, DecodeError> {
    let index = next(&mut taken.enum_or_set);
    let charset = optional
        .enum_and_set_charsets
        .as_ref()
        .and_then(|list| list.of(index))
        .map(|id| Charset::of_collation(flavor, id));
    // Without a character set the labels stay bytes.
    let decode = |lists: &Option<Vec<Vec<&[u8]>>>, index: usize| {
        let labels = lists.as_ref().and_then(|lists| lists.get(index))?;
        Some(Label::list(
            labels,
            charset.unwrap_or_else(Charset::unknown),
        ))
    };
    if wire_type.code == type_code::ENUM {
        let labels = decode(&optional.enum_labels, next(&mut taken.enums));
        let width = in_range("width of an ENUM", wire_type.second, 1..=2, "1 or 2")?;
        Ok(ColumnKind::Enum {
            width,
            labels,
            charset,
        })
    } else {
        let labels = decode(&optional.set_labels, next(&mut taken.sets));
        let width = in_range("width of a SET", wire_type.second, 1..=8, "1 to 8")?;
        Ok(ColumnKind::Set {
            width,
            labels,
            charset,
        })
    }
}

fn in_range(
    what: &'static str,
    value: u8,
    range: std::ops::RangeInclusive<u8>,
    expected: &'static str,
) -> Result<u8, DecodeError> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(DecodeError::Unexpected {
            what,
            found: u64::from(value),
            expected,
        })
    }
}
