//! Rows, from the binlog's bytes to BSON.
//!
//! Guarantees: lossless (a value is what SELECT returns, with all its digits; what BSON cannot hold is kept in another form
//! that can be read back), exact (one column definition gives one BSON type), safe (no bytes, however malformed, make this
//! panic or read outside them; the first error ends an event, since the row behind a broken one has no known offset), and
//! fast: one pass, each value copied once, into buffers that are used again for every row.
//!
//! In reading order:
//! - `wire`: checked reads of bytes; `error`: what can be wrong with them;
//! - `rows`: a rows event taken apart, and its rows one after the other;
//! - `value`: one value, by its column's type; `temporal`, `decimal`, `uuid_inet`, `charset` (with `charset_tables`) for those that
//!   need more than a line;
//! - `json`, `json_bson`, `json_text`, `json_diff`: MySQL's binary JSON, written as BSON or as text, and its changes;
//! - beside this, `bson_writer` and `large_value`: BSON into a byte vector, values too large for their document.
//!
//! Why not mysql_common's `BinlogRow`: it is wrong for some types (MEDIUMINT, TIME with a fraction, BINARY) and several
//! times slower; docs/decisions.md has the figures.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

#[cfg(test)]
pub(crate) mod captured;
mod charset;
mod charset_tables;
mod decimal;
mod error;
#[cfg(test)]
mod fuzz;
mod json;
mod json_bson;
mod json_diff;
mod json_text;
mod rows;
mod temporal;
mod uuid_inet;
mod value;
pub(crate) mod wire;

pub use self::charset::Charset;
pub use self::error::DecodeError;
pub use self::rows::{DecodedRow, EncodedValue, Limits, RowsEvent, RowsKind, Scratch};

/// A label of an ENUM or SET as the type and the bytes of a BSON value: a String, or Binary when there is no text.
pub(crate) fn label_value(bytes: &[u8], text: Option<&str>) -> (u8, Vec<u8>) {
    let mut value = Vec::new();
    match text {
        Some(text) => {
            crate::bson_writer::string(&mut value, text);
            (crate::bson_writer::element::STRING, value)
        }
        None => {
            crate::bson_writer::binary(&mut value, bytes);
            (crate::bson_writer::element::BINARY, value)
        }
    }
}
