//! A column's type as the TABLE_MAP event has it: one byte, and up to two of metadata.
//!
//! Which columns an optional list of the event counts follows from the types alone, and differs between the servers:
//! `is_numeric_type`, `is_character_type` in MySQL's libs/mysql/binlog/event/rows_event.cpp; in MariaDB what each field's
//! `binlog_type_info()` says (sql/field.cc), read by `Table_map_log_event::init_metadata_fields` in sql/log_event_server.cc.

use crate::position::Flavor;
use crate::source::decode::DecodeError;
use crate::source::decode::wire::Reader;

/// The types (`enum_field_types` in include/field_types.h; in MariaDB, include/mysql_com.h).
pub(super) mod type_code {
    pub(in crate::source::schema) const TINY: u8 = 1;
    pub(in crate::source::schema) const SHORT: u8 = 2;
    pub(in crate::source::schema) const LONG: u8 = 3;
    pub(in crate::source::schema) const FLOAT: u8 = 4;
    pub(in crate::source::schema) const DOUBLE: u8 = 5;
    pub(in crate::source::schema) const TIMESTAMP: u8 = 7;
    pub(in crate::source::schema) const LONGLONG: u8 = 8;
    pub(in crate::source::schema) const INT24: u8 = 9;
    pub(in crate::source::schema) const DATE: u8 = 10;
    pub(in crate::source::schema) const TIME: u8 = 11;
    pub(in crate::source::schema) const DATETIME: u8 = 12;
    pub(in crate::source::schema) const YEAR: u8 = 13;
    pub(in crate::source::schema) const NEWDATE: u8 = 14;
    pub(in crate::source::schema) const VARCHAR: u8 = 15;
    pub(in crate::source::schema) const BIT: u8 = 16;
    pub(in crate::source::schema) const TIMESTAMP2: u8 = 17;
    pub(in crate::source::schema) const DATETIME2: u8 = 18;
    pub(in crate::source::schema) const TIME2: u8 = 19;
    pub(in crate::source::schema) const TYPED_ARRAY: u8 = 20;
    pub(in crate::source::schema) const BLOB_COMPRESSED: u8 = 140;
    pub(in crate::source::schema) const VARCHAR_COMPRESSED: u8 = 141;
    pub(in crate::source::schema) const VECTOR: u8 = 242;
    pub(in crate::source::schema) const JSON: u8 = 245;
    pub(in crate::source::schema) const NEWDECIMAL: u8 = 246;
    pub(in crate::source::schema) const ENUM: u8 = 247;
    pub(in crate::source::schema) const SET: u8 = 248;
    pub(in crate::source::schema) const TINY_BLOB: u8 = 249;
    pub(in crate::source::schema) const BLOB: u8 = 252;
    pub(in crate::source::schema) const VAR_STRING: u8 = 253;
    pub(in crate::source::schema) const STRING: u8 = 254;
    pub(in crate::source::schema) const GEOMETRY: u8 = 255;
}

/// A column's type byte, with STRING resolved to what it really is, and its metadata.
#[derive(Clone, Copy)]
pub(super) struct WireType {
    pub(super) code: u8,
    /// Meaning depends on the type: fractional digits, a length, a width, precision and scale.
    pub(super) first: u8,
    pub(super) second: u8,
}

impl WireType {
    pub(super) fn is_numeric(self) -> bool {
        use type_code::*;
        matches!(
            self.code,
            TINY | SHORT | INT24 | LONG | LONGLONG | FLOAT | DOUBLE | NEWDECIMAL | YEAR
        )
    }

    /// Which columns the list of character sets counts. Both servers: those of strings, also of bytes; MySQL (since 9) VECTOR,
    /// MariaDB GEOMETRY and what is compressed. MariaDB's own types come as strings of bytes and count as such.
    pub(super) fn is_character(self, flavor: Flavor) -> bool {
        use type_code::*;
        match self.code {
            STRING | VAR_STRING | VARCHAR | TINY_BLOB..=BLOB => true,
            VECTOR => flavor == Flavor::Mysql,
            GEOMETRY | BLOB_COMPRESSED | VARCHAR_COMPRESSED => flavor == Flavor::Mariadb,
            _ => false,
        }
    }

    pub(super) fn is_enum_or_set(self) -> bool {
        matches!(self.code, type_code::ENUM | type_code::SET)
    }

    /// VARCHAR's length: little-endian, unlike the other pairs.
    pub(super) fn length(self) -> u32 {
        u32::from(u16::from_le_bytes([self.first, self.second]))
    }
}

/// The types from the event's list of type bytes and the metadata behind it.
pub(super) fn wire_types(
    flavor: Flavor,
    types: &[u8],
    type_metadata: &[u8],
) -> Result<Vec<WireType>, DecodeError> {
    use type_code::*;
    let mut reader = Reader::new(type_metadata);
    let mut result = Vec::with_capacity(types.len());
    for &code in types {
        let (first, second) = match code {
            FLOAT | DOUBLE | TIMESTAMP2..=TIME2 | VECTOR | JSON | TINY_BLOB..=BLOB | GEOMETRY => {
                (reader.u8("column metadata")?, 0)
            }
            VARCHAR | BIT | NEWDECIMAL | ENUM | SET | VAR_STRING | STRING => {
                (reader.u8("column metadata")?, reader.u8("column metadata")?)
            }
            TINY | SHORT | LONG | LONGLONG | INT24 | DATE | NEWDATE | TIME | DATETIME
            | TIMESTAMP | YEAR => (0, 0),
            BLOB_COMPRESSED if flavor == Flavor::Mariadb => (reader.u8("column metadata")?, 0),
            VARCHAR_COMPRESSED if flavor == Flavor::Mariadb => {
                (reader.u8("column metadata")?, reader.u8("column metadata")?)
            }
            TYPED_ARRAY => {
                let hint = ": the hidden column of a multi-valued index, which servers since 8.0.23 do not log";
                return Err(DecodeError::UnsupportedType {
                    type_code: code,
                    hint,
                });
            }
            _ => {
                return Err(DecodeError::UnsupportedType {
                    type_code: code,
                    hint: "",
                });
            }
        };
        // ENUM and SET say so in the first metadata byte of a STRING; so does a CHAR, whose bits 4 and 5 of that byte may
        // in addition hold, inverted, bits 8 and 9 of its length.
        let wire_type = match (code, first) {
            (STRING, ENUM | SET) => WireType {
                code: first,
                first,
                second,
            },
            _ => WireType {
                code,
                first,
                second,
            },
        };
        result.push(wire_type);
    }
    Ok(result)
}
