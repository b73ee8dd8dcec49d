//! What can be wrong with the bytes of a table map or of a rows event.
//!
//! Every one of these is definite: the same bytes fail the same way again, so a retry is of no use. The reader stops the
//! stream on the first (a row after a broken one has no known offset) and says which file, position and GTID it was.

/// Why bytes from the binlog could not be decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The bytes ended inside something.
    #[error("{what} needs {needed} bytes, found {left}")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// How many bytes it takes.
        needed: usize,
        /// How many were left.
        left: usize,
    },
    /// A number that the format does not allow in that place.
    #[error("{what}: found {found}, expected {expected}")]
    Unexpected {
        /// What was being read.
        what: &'static str,
        /// The number found.
        found: u64,
        /// What the format allows, in words.
        expected: &'static str,
    },
    /// An event that is no rows event, or a rows event of a kind that is not known.
    #[error("event type {0} is not a rows event that is known: expected 23 to 25, 30 to 32 or 39")]
    NotARowsEvent(u8),
    /// A column type that cannot be decoded: its length is unknown, so nothing behind it can be read either.
    #[error("column type {type_code} is not supported{hint}")]
    UnsupportedType {
        /// The type byte of the table map.
        type_code: u8,
        /// What it is and what to do, or nothing.
        hint: &'static str,
    },
    /// A column of a kind that sdl does not read, though the server writes it as it should: a table to be altered.
    #[error("column {column} {what}: {remedy}")]
    Refused {
        /// The column's name.
        column: Box<str>,
        /// What it is.
        what: &'static str,
        /// The statement that mends it.
        remedy: Box<str>,
    },
    /// The rows event and the table map do not agree on the number of columns.
    #[error("the rows event has {event} columns, its table map {table_map}")]
    ColumnCount {
        /// Columns according to the rows event.
        event: u64,
        /// Columns according to the table map.
        table_map: usize,
    },
    /// A rows event whose table map did not come before it.
    #[error("no table map came for table id {table_id}")]
    UnknownTable {
        /// The id that the rows event names.
        table_id: u64,
    },
    /// A list of the table map's metadata is shorter or longer than the columns it describes.
    #[error("the table map's {what} describes {found} columns, expected {expected}")]
    MetadataCount {
        /// Which list.
        what: &'static str,
        /// How many entries it has.
        found: usize,
        /// How many columns it should describe.
        expected: usize,
    },
    /// A document larger than BSON can hold.
    #[error("the document is not valid BSON: {0}")]
    Document(String),
    /// Bytes that must be UTF-8 are not.
    #[error("{0} is not UTF-8")]
    NotUtf8(&'static str),
    /// MySQL's binary JSON breaks its own rules.
    #[error("binary JSON: {0}")]
    Json(&'static str),
    /// A JSON diff of a PARTIAL_UPDATE_ROWS event is malformed, or does not fit the value it changes.
    #[error("JSON diff: {0}")]
    JsonDiff(&'static str),
    /// One of the above, in the value of a column.
    #[error("table {table}, column {column}: {problem}")]
    Column {
        /// `database.table`.
        table: Box<str>,
        /// The column's name.
        column: Box<str>,
        /// What is wrong with the value.
        problem: Box<DecodeError>,
    },
    /// One of the above, in a table's event but in no single column.
    #[error("table {table}: {problem}")]
    Table {
        /// `database.table`.
        table: Box<str>,
        /// What is wrong.
        problem: Box<DecodeError>,
    },
}

impl DecodeError {
    /// Whether the bytes are as they should be, and the table is to be altered.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Refused { .. } => true,
            Self::Column { problem, .. } | Self::Table { problem, .. } => problem.is_refusal(),
            _ => false,
        }
    }
}

impl From<bson::error::Error> for DecodeError {
    fn from(error: bson::error::Error) -> Self {
        Self::Document(error.to_string())
    }
}
