//! What a table looked like when its rows were written: the schema, read from the TABLE_MAP event itself.
//!
//! Guarantees: a schema is parsed from the very event that precedes the rows it describes, so no later ALTER TABLE can shift
//! a column; what the event does not tell is never guessed. With `binlog_row_metadata=FULL` the event has the names, the
//! key and the labels; without names ([`TableSchema::resolved`] is false) the columns are `@1`, `@2` … as mysqlbinlog
//! writes them, ENUM is its index and SET its mask.
//!
//! Where the format comes from: `Table_map_event` in the server's libs/mysql/binlog/event/rows_event.h and .cpp, and
//! `Table_map_log_event::init_metadata_fields` in sql/log_event.cc (MariaDB: sql/log_event_server.cc). What is worth knowing:
//! - signedness is one bit for each numeric column, the highest bit first; YEAR counts as numeric, BIT does not;
//! - the list of character sets is over the character columns, and the servers count differently (see `wire_type`);
//! - ENUM and SET arrive as STRING with the real type in the metadata, and have a list of character sets of their own;
//! - generated and invisible columns are there, the hidden columns behind functional indexes are not; MariaDB does not tell
//!   which are invisible;
//! - MariaDB's default, `binlog_row_metadata=NO_LOG`, tells neither signedness nor character sets: such integers are stored as
//!   numbers as long as both readings agree and else as their bytes, such strings as their bytes; nothing is guessed;
//! - MariaDB's UUID, INET4, INET6 and VECTOR look like BINARY(n) and VARBINARY(n), its JSON is LONGTEXT. A COMPRESSED column has
//!   a type of its own, and is refused. A time in the format of MariaDB 5.3 has a length that the event does not tell.
//!
//! What an event leaves open is asked from the server's information_schema (`lookup` says when the answer holds,
//! `information_schema` asks); what is left unanswered stays open as said.

#![cfg_attr(not(test), warn(clippy::indexing_slicing))]

mod cache;
mod column;
pub(in crate::source) mod information_schema;
pub(in crate::source) mod lookup;
pub mod refused;
mod table_map;
mod wire_type;

use sha2::{Digest, Sha256};

pub use self::cache::SchemaCache;
pub use self::column::{Column, ColumnKind, Label, StringShape};

use super::decode::DecodeError;
use crate::position::Flavor;

/// A table's columns and key at the time its rows were written. Meant to be shared in an `Arc`; never changed.
#[derive(Debug)]
pub struct TableSchema {
    /// The database's name.
    pub database: String,
    /// The table's name.
    pub table: String,
    /// `database.table`: what the filters match and what error messages say.
    pub full_name: String,
    /// The columns in table order; as many as a rows event has bits for.
    pub columns: Vec<Column>,
    /// The primary key: indexes into `columns` in key order. Empty without a key, or when the event does not tell.
    pub key: Vec<usize>,
    /// The schema version: the first 16 hex digits of the SHA-256 of `columns` and `key` as they stand in
    /// [`TableSchema::document`]. Tables that look the same share it, whatever their names.
    pub id: String,
    /// Whether the columns have their names. When false, names are `@1`, `@2` … and labels and key are unknown.
    pub resolved: bool,
    /// What the event leaves open, for `lookup` to find out.
    pub(crate) unknown: Unknown,
}

/// What an event leaves open; each includes those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unknown {
    /// Nothing.
    Nothing,
    /// MariaDB: whether some column of bytes is a UUID, INET4, INET6 or VECTOR.
    Types,
    /// The columns' names, their key, and labels; in MariaDB perhaps also signs and character sets.
    Names,
    /// MariaDB: how long some values are.
    Lengths,
}

impl TableSchema {
    /// Parses the body of a TABLE_MAP event of that flavor: what follows the 19-byte header, without the checksum.
    ///
    /// # Errors
    /// When the body ends early, its lists do not fit its columns, or a column has a type that cannot be decoded.
    pub fn parse(flavor: Flavor, body: &[u8]) -> Result<Self, DecodeError> {
        let parts = table_map::parse(flavor, body)?;
        let may_be_other = |column: &Column| match column.kind {
            ColumnKind::Bytes {
                shape: StringShape::Fixed(bytes),
                ..
            } => matches!(bytes, 4 | 16),
            ColumnKind::Bytes {
                shape: StringShape::Variable(bytes),
                ..
            } => bytes > 0 && bytes % 4 == 0,
            _ => false,
        };
        let is_open =
            |column: &Column| matches!(column.kind, ColumnKind::OldOfUnknownLength { .. });
        let unknown = if parts.columns.iter().any(is_open) {
            Unknown::Lengths
        } else if !parts.resolved {
            Unknown::Names
        } else if flavor == Flavor::Mariadb && parts.columns.iter().any(may_be_other) {
            Unknown::Types
        } else {
            Unknown::Nothing
        };
        Ok(Self {
            full_name: format!("{}.{}", parts.database, parts.table),
            database: parts.database,
            table: parts.table,
            id: version(&parts.columns, &parts.key),
            columns: parts.columns,
            key: parts.key,
            resolved: parts.resolved,
            unknown,
        })
    }

    /// Whether the event told all that there is to know.
    pub(in crate::source) fn is_complete(&self) -> bool {
        self.unknown == Unknown::Nothing
    }

    /// The same table with what the event did not tell.
    fn with(&self, columns: Vec<Column>, key: Vec<usize>) -> Self {
        Self {
            full_name: self.full_name.clone(),
            database: self.database.clone(),
            table: self.table.clone(),
            id: version(&columns, &key),
            columns,
            key,
            resolved: true,
            unknown: Unknown::Nothing,
        }
    }

    /// Whether rows of this table can be read; when they are not `included`, whether they can be counted.
    ///
    /// # Errors
    /// [`DecodeError::Refused`] within the table.
    pub fn check(&self, included: bool) -> Result<(), DecodeError> {
        let check = |column: &Column| column.check(&self.database, &self.table, included);
        self.columns
            .iter()
            .try_for_each(check)
            .map_err(|refused| DecodeError::Table {
                table: self.full_name.as_str().into(),
                problem: Box::new(refused),
            })
    }

    /// The schema as row_changes_schemas keeps it: `{ _id, columns: [ { name, type, unsigned?, charset?, labels? } ],
    /// key: [ name … ] }`. A function of what `id` is the hash of, and of nothing else.
    pub fn document(&self) -> bson::Document {
        let (columns, key) = described(&self.columns, &self.key);
        bson::doc! { "_id": &self.id, "columns": columns, "key": key }
    }
}

/// The id of a schema version.
fn version(columns: &[Column], key: &[usize]) -> String {
    let (columns, key) = described(columns, key);
    let described = bson::doc! { "columns": columns, "key": key };
    // A document of strings and integers: it always serializes, and an empty id would be seen at once.
    let bytes = bson::serialize_to_vec(&described).unwrap_or_default();
    let digest = Sha256::digest(&bytes);
    digest
        .iter()
        .take(8)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn described(columns: &[Column], key: &[usize]) -> (Vec<bson::Document>, Vec<String>) {
    let key = key
        .iter()
        .filter_map(|index| columns.get(*index))
        .map(|column| column.name.clone())
        .collect();
    (columns.iter().map(Column::document).collect(), key)
}

#[cfg(test)]
mod mariadb_tests;
#[cfg(test)]
mod tests;
