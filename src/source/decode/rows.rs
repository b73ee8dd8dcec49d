//! Rows events: WRITE, UPDATE and DELETE of versions 1 and 2, and PARTIAL_UPDATE.
//!
//! Where the format comes from: `Rows_event` in the server's libs/mysql/binlog/event/rows_event.h and .cpp, `unpack_row` in
//! sql/rpl_record.cc. An event is: table id (6 bytes), flags (2), in version 2 an extra part that tells its own length,
//! the number of columns, a bitmap of the columns in the image (an update has two), then the rows. A row's image is a
//! bitmap of NULLs, one bit for each column in the image, and the values that are not NULL. The image after a partial
//! update begins with options and, when they say so, one bit for each JSON column of the table, whether in the image or not.
//!
//! Guarantees: what comes out of [`RowsEvent::next_row`] is complete and exact, or an error; after an error there are no
//! more rows. Which values are taken out of a document depends on the row and the limits only, so that a row that is decoded
//! again, after a crash, gives the same document.

mod row;

use self::row::RowReader;
use super::error::DecodeError;
use super::wire::{Reader, bit_is_set};
use crate::bson_writer::{self, element};
use crate::large_value::LargeValue;
use crate::source::schema::TableSchema;

/// Flag of a statement's last rows event: `STMT_END_F`.
const STATEMENT_END: u16 = 1;

/// The table id of an event without rows that only ends a statement.
const NO_TABLE: u64 = 0x00ff_ffff;

/// What the rows of an event are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RowsKind {
    /// Rows have an `after` image only.
    Insert,
    /// Rows have both.
    Update,
    /// Rows have a `before` image only.
    Delete,
}

/// A rows event: its front taken apart, its rows to be taken one after the other.
#[derive(Debug, Clone)]
pub struct RowsEvent<'a> {
    table_id: u64,
    kind: RowsKind,
    ends_statement: bool,
    is_partial: bool,
    width: usize,
    before: ImageShape<'a>,
    after: ImageShape<'a>,
    /// All rows, for the places of JSON values in them.
    rows: &'a [u8],
    /// The rows not yet taken.
    rest: Reader<'a>,
    is_one_empty_row: bool,
}

/// Which columns an image has.
#[derive(Debug, Clone, Copy)]
struct ImageShape<'a> {
    /// Bitmap of the columns in the image.
    columns: &'a [u8],
    /// Length of the NULL bitmap.
    null_bytes: usize,
}

impl<'a> ImageShape<'a> {
    fn new(columns: &'a [u8], width: usize) -> Self {
        let count = (0..width)
            .filter(|index| bit_is_set(columns, *index))
            .count();
        Self {
            columns,
            null_bytes: count.div_ceil(8),
        }
    }
}

impl<'a> RowsEvent<'a> {
    /// Parses the body of a rows event: what follows the 19-byte header, without the checksum. `event_type` is the header's.
    ///
    /// # Errors
    /// When the type is not a rows event's, or the body ends before the rows.
    pub fn parse(event_type: u8, body: &'a [u8]) -> Result<Self, DecodeError> {
        let (kind, is_second_version, is_partial) = match event_type {
            23 => (RowsKind::Insert, false, false),
            24 => (RowsKind::Update, false, false),
            25 => (RowsKind::Delete, false, false),
            30 => (RowsKind::Insert, true, false),
            31 => (RowsKind::Update, true, false),
            32 => (RowsKind::Delete, true, false),
            39 => (RowsKind::Update, true, true),
            other => return Err(DecodeError::NotARowsEvent(other)),
        };
        let mut reader = Reader::new(body);
        let table_id = reader.unsigned(6, "table id")?;
        let flags = reader.u16("rows event flags")?;
        if is_second_version {
            // Partition ids and NDB's own data; the length counts its own two bytes.
            let length = reader.u16("extra row data length")?;
            let Some(length) = length.checked_sub(2) else {
                let found = u64::from(length);
                return Err(DecodeError::Unexpected {
                    what: "extra row data length",
                    found,
                    expected: "at least 2",
                });
            };
            reader.bytes(usize::from(length), "extra row data")?;
        }
        let width = reader.length("number of columns")?;
        let mut image = |has_image: bool| -> Result<ImageShape<'a>, DecodeError> {
            let columns = if has_image {
                reader.bytes(width.div_ceil(8), "columns in the image")?
            } else {
                &[]
            };
            Ok(ImageShape::new(columns, if has_image { width } else { 0 }))
        };
        let before = image(kind != RowsKind::Insert)?;
        let after = image(kind != RowsKind::Delete)?;
        let rows = reader.rest();
        // Images without a column take no bytes: then the event is one row. One without a table has no row at all.
        let takes_no_bytes = before.null_bytes + after.null_bytes == 0 && !is_partial;
        if takes_no_bytes && !rows.is_empty() {
            return Err(DecodeError::Unexpected {
                what: "bytes of rows",
                found: rows.len() as u64,
                expected: "none, since no column is in their images",
            });
        }
        let is_one_empty_row = takes_no_bytes && table_id != NO_TABLE;
        Ok(Self {
            table_id,
            kind,
            ends_statement: flags & STATEMENT_END != 0,
            is_partial,
            width,
            before,
            after,
            rows,
            rest: reader,
            is_one_empty_row,
        })
    }

    /// The id by which the event refers to its table map.
    pub fn table_id(&self) -> u64 {
        self.table_id
    }

    /// What its rows are.
    pub fn kind(&self) -> RowsKind {
        self.kind
    }

    /// Whether this is the statement's last rows event; table maps are void behind it.
    pub fn ends_statement(&self) -> bool {
        self.ends_statement
    }

    /// Whether there are no rows, or none left. An event of table id 0x00ffffff has none from the start: it only ends a
    /// statement.
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty() && !self.is_one_empty_row
    }

    /// Decodes the next row; None behind the last. `schema` is that of the table map with this event's table id, `scratch`
    /// the buffers that the result borrows from.
    ///
    /// # Errors
    /// When the row's bytes are malformed, or event and schema differ in the number of columns. There are no more rows then:
    /// what follows has no known place.
    pub fn next_row<'s>(
        &mut self,
        schema: &TableSchema,
        limits: &Limits,
        scratch: &'s mut Scratch,
    ) -> Result<Option<DecodedRow<'s>>, DecodeError> {
        if self.is_empty() {
            return Ok(None);
        }
        let mut reader = self.row_reader(schema)?;
        match reader.decode(limits, scratch) {
            Ok((large_values, undecodable_text)) => {
                self.passed(reader.rest);
                scratch.note_changes(self.kind);
                let key_type = scratch.note_key(&schema.key);
                let (before, after) = (&scratch.before.document[..], &scratch.after.document[..]);
                Ok(Some(DecodedRow {
                    before: (self.kind != RowsKind::Insert).then_some(before),
                    after: (self.kind != RowsKind::Delete).then_some(after),
                    changed: &scratch.changed,
                    key: key_type.map(|element_type| EncodedValue {
                        element_type,
                        bytes: &scratch.key,
                    }),
                    large_values,
                    undecodable_text,
                }))
            }
            Err(error) => Err(self.failed(schema, error)),
        }
    }

    /// Passes over the next row without decoding it; false behind the last. Bounds are checked as in decoding.
    ///
    /// # Errors
    /// As [`RowsEvent::next_row`].
    pub fn skip_row(&mut self, schema: &TableSchema) -> Result<bool, DecodeError> {
        if self.is_empty() {
            return Ok(false);
        }
        let mut reader = self.row_reader(schema)?;
        match reader.walk(|_, _| {}) {
            Ok(()) => {
                self.passed(reader.rest);
                Ok(true)
            }
            Err(error) => Err(self.failed(schema, error)),
        }
    }

    /// How many rows are left; passes over them without decoding.
    ///
    /// # Errors
    /// As [`RowsEvent::next_row`].
    pub fn count_rows(&mut self, schema: &TableSchema) -> Result<u64, DecodeError> {
        let mut count = 0;
        while self.skip_row(schema)? {
            count += 1;
        }
        Ok(count)
    }

    fn row_reader<'e>(
        &mut self,
        schema: &'e TableSchema,
    ) -> Result<RowReader<'e, 'a>, DecodeError> {
        if self.width != schema.columns.len() {
            let problem = DecodeError::ColumnCount {
                event: self.width as u64,
                table_map: schema.columns.len(),
            };
            return Err(self.failed(schema, problem));
        }
        Ok(RowReader {
            schema,
            kind: self.kind,
            is_partial: self.is_partial,
            before: self.before,
            after: self.after,
            rows: self.rows,
            rest: self.rest,
        })
    }

    fn passed(&mut self, rest: Reader<'a>) {
        self.rest = rest;
        self.is_one_empty_row = false;
    }

    #[cold]
    fn failed(&mut self, schema: &TableSchema, error: DecodeError) -> DecodeError {
        self.passed(Reader::new(&[]));
        match error {
            located @ (DecodeError::Column { .. } | DecodeError::Table { .. }) => located,
            problem => DecodeError::Table {
                table: schema.full_name.as_str().into(),
                problem: Box::new(problem),
            },
        }
    }
}

/// Sizes from which values are taken out of a document; in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A value longer than this becomes a [`LargeValue`]. Setting MAX_VALUE_BYTES; default 1 MiB.
    pub max_value_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_value_bytes: 1 << 20,
        }
    }
}

/// Buffers that rows are decoded into, used again for every row.
#[derive(Debug, Default)]
pub struct Scratch {
    before: ImageBuffer,
    after: ImageBuffer,
    changed: Vec<usize>,
    key: Vec<u8>,
    /// Columns whose values have to leave an oversized document.
    forced: Vec<bool>,
    /// Where in the rows each JSON value of the before image stands, by column, for the changes of a partial update.
    json_before: Vec<Option<std::ops::Range<usize>>>,
}

impl Scratch {
    /// Empty buffers.
    pub fn new() -> Self {
        Self::default()
    }

    fn note_changes(&mut self, kind: RowsKind) {
        self.changed.clear();
        if kind != RowsKind::Update {
            return;
        }
        for index in 0..self.after.places.len() {
            let Some((_, after)) = self.after.element_at(index) else {
                continue;
            };
            // A column that only the image after has was set by the statement, to what was there or to something else.
            let was = self.before.element_at(index);
            if was.is_none_or(|(_, before)| before != after) {
                self.changed.push(index);
            }
        }
    }

    /// Copies the key's value from the first image that has all of it; gives back its type.
    fn note_key(&mut self, columns: &[usize]) -> Option<u8> {
        let Self {
            before, after, key, ..
        } = self;
        key.clear();
        if columns.is_empty() {
            return None;
        }
        let has_key = |image: &ImageBuffer| {
            columns
                .iter()
                .all(|index| image.element_at(*index).is_some())
        };
        let image = [before, after].into_iter().find(|image| has_key(image))?;
        if let [index] = columns {
            let (_, value) = image.element_at(*index)?;
            key.extend_from_slice(value.bytes);
            return Some(value.element_type);
        }
        let start = bson_writer::begin_document(key);
        for index in columns {
            let (place, _) = image.element_at(*index)?;
            key.extend_from_slice(image.document.get(place.start..place.end)?);
        }
        bson_writer::end_document(key, start);
        Some(element::DOCUMENT)
    }
}

/// An image under construction.
#[derive(Debug, Default)]
struct ImageBuffer {
    document: Vec<u8>,
    /// By column; columns that are not in the image have none.
    places: Vec<Option<Place>>,
}

/// Where an element stands in its document.
#[derive(Debug, Clone, Copy)]
struct Place {
    start: usize,
    value: usize,
    end: usize,
}

impl ImageBuffer {
    fn element_at(&self, index: usize) -> Option<(Place, EncodedValue<'_>)> {
        let place = self.places.get(index).copied().flatten()?;
        let element_type = *self.document.get(place.start)?;
        Some((
            place,
            EncodedValue {
                element_type,
                bytes: self.document.get(place.value..place.end)?,
            },
        ))
    }
}

/// A BSON value: to write it as an element, put the type, a key with a NUL behind it, and the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EncodedValue<'s> {
    /// The element type of BSON.
    pub element_type: u8,
    /// The value.
    pub bytes: &'s [u8],
}

/// One row, decoded. Borrows from the [`Scratch`] it was decoded into.
#[derive(Debug)]
pub struct DecodedRow<'s> {
    /// The row before the change, a whole BSON document: column name to value. Absent for an insert.
    pub before: Option<&'s [u8]>,
    /// The row after the change, likewise. Absent for a delete.
    pub after: Option<&'s [u8]>,
    /// Of an update: the columns, as indexes into the schema's, that differ, and those that only the image after has
    /// (`binlog_row_image=MINIMAL`, `NOBLOB`): the statement set them, and nothing says that they are what they were.
    pub changed: &'s [usize],
    /// The primary key: of one column its value, of several a document in key order. It is the key by which the statement
    /// found the row (of `before`), for an insert that of `after`. Absent when the table has none or the images lack it.
    pub key: Option<EncodedValue<'s>>,
    /// Values that the images hold a reference to only. They must be stored before the row is.
    pub large_values: Vec<LargeValue>,
    /// How many text values were stored as Binary since their bytes have no text.
    pub undecodable_text: u32,
}

#[cfg(test)]
mod tests;
