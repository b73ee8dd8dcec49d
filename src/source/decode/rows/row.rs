//! One row: its images walked over, or decoded into the scratch buffers.

use super::{ImageBuffer, ImageShape, Limits, Place, RowsKind, Scratch};
use crate::bson_writer::{self, element};
use crate::large_value::LargeValue;
use crate::source::decode::error::DecodeError;
use crate::source::decode::value::{self, Target};
use crate::source::decode::wire::{Reader, bit_is_set};
use crate::source::schema::{Column, ColumnKind, TableSchema};

/// Option of a partial update's after image: some JSON columns hold changes, not values.
const PARTIAL_JSON: u64 = 1;

/// While `before` and `after` together are larger than this, in bytes, the largest values that are left become
/// [`LargeValue`]s. 4 MiB: a document of that size leaves room in MongoDB's 16 MiB for the staging document around it.
const MAX_IMAGES_BYTES: usize = 4 << 20;

/// What a pass over a row is about: one image.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Before,
    After,
}

/// A value as it stands in an image.
enum WireValue<'a> {
    Null,
    /// To be taken from the reader.
    Whole,
    /// Changes of a JSON value.
    Changes(&'a [u8]),
}

/// The front of an image: what has to be known before its first value.
struct ImageHead<'a> {
    nulls: &'a [u8],
    /// One bit for each JSON column of the table: whether it holds changes.
    partial_columns: &'a [u8],
    columns_seen: usize,
    json_columns_seen: usize,
}

/// Reads one row.
pub(super) struct RowReader<'e, 'a> {
    pub(super) schema: &'e TableSchema,
    pub(super) kind: RowsKind,
    pub(super) is_partial: bool,
    pub(super) before: ImageShape<'a>,
    pub(super) after: ImageShape<'a>,
    /// All rows of the event.
    pub(super) rows: &'a [u8],
    /// This row and what follows; behind it once it is read.
    pub(super) rest: Reader<'a>,
}

impl<'e, 'a> RowReader<'e, 'a> {
    #[cold]
    fn in_column(&self, column: &Column, problem: DecodeError) -> DecodeError {
        DecodeError::Column {
            table: self.schema.full_name.as_str().into(),
            column: column.name.as_str().into(),
            problem: Box::new(problem),
        }
    }

    /// The row's images, in order.
    fn sides(&self) -> &'static [Side] {
        match self.kind {
            RowsKind::Insert => &[Side::After],
            RowsKind::Update => &[Side::Before, Side::After],
            RowsKind::Delete => &[Side::Before],
        }
    }

    fn shape(&self, side: Side) -> ImageShape<'a> {
        match side {
            Side::Before => self.before,
            Side::After => self.after,
        }
    }

    fn image_head(&mut self, side: Side) -> Result<ImageHead<'a>, DecodeError> {
        let mut partial_columns = &[][..];
        if self.is_partial && side == Side::After {
            let options = self.rest.length_encoded("value options")?;
            if options & !PARTIAL_JSON != 0 {
                let expected = "0 or 1, partial JSON";
                return Err(DecodeError::Unexpected {
                    what: "value options",
                    found: options,
                    expected,
                });
            }
            if options & PARTIAL_JSON != 0 {
                let is_json = |column: &&Column| matches!(column.kind, ColumnKind::Json { .. });
                let json_columns = self.schema.columns.iter().filter(is_json).count();
                partial_columns = self
                    .rest
                    .bytes(json_columns.div_ceil(8), "partial JSON columns")?;
            }
        }
        let nulls = self
            .rest
            .bytes(self.shape(side).null_bytes, "NULL bitmap")?;
        Ok(ImageHead {
            nulls,
            partial_columns,
            columns_seen: 0,
            json_columns_seen: 0,
        })
    }

    /// What the image has for a column; None when the column is not in it.
    #[inline]
    fn wire_value(
        &mut self,
        head: &mut ImageHead<'a>,
        columns: &[u8],
        index: usize,
        column: &Column,
    ) -> Result<Option<WireValue<'a>>, DecodeError> {
        // The bit for changes is there whether or not the column is in the image.
        let has_changes =
            if !head.partial_columns.is_empty() && matches!(column.kind, ColumnKind::Json { .. }) {
                head.json_columns_seen += 1;
                bit_is_set(head.partial_columns, head.json_columns_seen - 1)
            } else {
                false
            };
        if !bit_is_set(columns, index) {
            return Ok(None);
        }
        let is_null = bit_is_set(head.nulls, head.columns_seen);
        head.columns_seen += 1;
        Ok(Some(if is_null {
            WireValue::Null
        } else if has_changes {
            let length = self.rest.u32("length of JSON changes")?;
            WireValue::Changes(self.rest.bytes(length as usize, "JSON changes")?)
        } else {
            WireValue::Whole
        }))
    }

    /// Passes over a row; `seen` is told each column's index and its value's length in bytes.
    pub(super) fn walk(&mut self, mut seen: impl FnMut(usize, usize)) -> Result<(), DecodeError> {
        let schema = self.schema;
        for &side in self.sides() {
            let columns = self.shape(side).columns;
            let mut head = self.image_head(side)?;
            for (index, column) in schema.columns.iter().enumerate() {
                match self.wire_value(&mut head, columns, index, column) {
                    Ok(Some(WireValue::Whole)) => match value::take(&column.kind, &mut self.rest) {
                        Ok(bytes) => seen(index, bytes.len()),
                        Err(problem) => return Err(self.in_column(column, problem)),
                    },
                    Ok(Some(WireValue::Changes(bytes))) => seen(index, bytes.len()),
                    Ok(Some(WireValue::Null) | None) => {}
                    Err(problem) => return Err(self.in_column(column, problem)),
                }
            }
        }
        Ok(())
    }

    /// Decodes the row's images into the scratch buffers, again with more values taken out as long as they are too large.
    pub(super) fn decode(
        &mut self,
        limits: &Limits,
        scratch: &mut Scratch,
    ) -> Result<(Vec<LargeValue>, u32), DecodeError> {
        let row_start = self.rest;
        scratch.forced.clear();
        let mut room = MAX_IMAGES_BYTES;
        let mut ceiling = MAX_IMAGES_BYTES;
        loop {
            let mut large_values = Vec::new();
            let mut undecodable = 0;
            if self.decode_images(
                limits,
                ceiling,
                scratch,
                &mut large_values,
                &mut undecodable,
            )? {
                return Ok((large_values, undecodable));
            }
            // Lengths on the wire are a measure of lengths in BSON, no more: when it was wrong, aim lower.
            self.rest = row_start;
            if !self.force_largest(&mut room, scratch)? {
                // All that can leave has left; the rest has to stand.
                ceiling = usize::MAX;
            }
            self.rest = row_start;
        }
    }

    /// Marks the columns with the most bytes in both images, until the rest fits `room`; lowers `room` so that the next call
    /// marks more. False when there was no column left to mark.
    fn force_largest(
        &mut self,
        room: &mut usize,
        scratch: &mut Scratch,
    ) -> Result<bool, DecodeError> {
        let columns = &self.schema.columns;
        let mut lengths: Vec<(usize, usize)> = (0..columns.len()).map(|index| (0, index)).collect();
        self.walk(|index, length| {
            if let Some((sum, _)) = lengths.get_mut(index) {
                *sum += length;
            }
        })?;
        let all: usize = lengths.iter().map(|(length, _)| length).sum();
        lengths.retain(|(length, index)| {
            *length > 0
                && columns
                    .get(*index)
                    .is_some_and(|column| value::can_be_large(&column.kind))
        });
        lengths.sort_unstable_by(|(a, first), (b, second)| b.cmp(a).then(first.cmp(second)));
        scratch.forced.resize(columns.len(), false);
        loop {
            let mut left = all;
            let mut is_new = false;
            for (length, index) in lengths.iter().copied() {
                if left <= *room {
                    break;
                }
                if let Some(forced) = scratch.forced.get_mut(index) {
                    is_new |= !*forced;
                    *forced = true;
                    left -= length;
                }
            }
            let was_all = *room == 0;
            *room = *room / 8 * 7;
            if is_new || was_all {
                return Ok(is_new);
            }
        }
    }

    /// Decodes the row's images. False when they come to more than `ceiling` bytes.
    fn decode_images(
        &mut self,
        limits: &Limits,
        ceiling: usize,
        scratch: &mut Scratch,
        large: &mut Vec<LargeValue>,
        undecodable: &mut u32,
    ) -> Result<bool, DecodeError> {
        let Scratch {
            before,
            after,
            forced,
            json_before,
            ..
        } = scratch;
        before.document.clear();
        before.places.clear();
        after.document.clear();
        after.places.clear();
        json_before.clear();
        let schema = self.schema;
        let mut used = 0;
        for &side in self.sides() {
            let ImageBuffer { document, places } = match side {
                Side::Before => &mut *before,
                Side::After => &mut *after,
            };
            let columns = self.shape(side).columns;
            let mut head = self.image_head(side)?;
            let start = bson_writer::begin_document(document);
            for (index, column) in schema.columns.iter().enumerate() {
                let wire_value = self.wire_value(&mut head, columns, index, column);
                let Some(wire_value) =
                    wire_value.map_err(|problem| self.in_column(column, problem))?
                else {
                    places.push(None);
                    if self.is_partial && side == Side::Before {
                        json_before.push(None);
                    }
                    continue;
                };
                let element_start = document.len();
                let is_forced = forced.get(index).copied().unwrap_or(false);
                let max_value_bytes = if is_forced {
                    value::forced_limit(limits.max_value_bytes)
                } else {
                    limits.max_value_bytes
                };
                let mut target = Target {
                    out: document,
                    large,
                    undecodable,
                    max_value_bytes,
                };
                let value_start = self.rows.len() - self.rest.rest().len();
                let written = match wire_value {
                    WireValue::Null => {
                        bson_writer::element(target.out, element::NULL, &column.bson_key);
                        Ok(())
                    }
                    WireValue::Whole => value::append(column, &mut self.rest, &mut target),
                    WireValue::Changes(changes) => {
                        let before = json_before.get(index).cloned().flatten();
                        let before = before.and_then(|range| self.rows.get(range));
                        value::append_json_diff(column, before, changes, &mut target)
                    }
                };
                written.map_err(|problem| self.in_column(column, problem))?;
                if self.is_partial && side == Side::Before {
                    json_before.push(self.json_place(column, value_start));
                }
                let value = element_start + 1 + column.bson_key.len();
                places.push(Some(Place {
                    start: element_start,
                    value,
                    end: document.len(),
                }));
                if used + document.len() > ceiling {
                    return Ok(false);
                }
            }
            bson_writer::end_document(document, start);
            used += document.len();
        }
        Ok(true)
    }

    /// Where the JSON value that was just read stands, without its length.
    fn json_place(&self, column: &Column, value_start: usize) -> Option<std::ops::Range<usize>> {
        let ColumnKind::Json { length_bytes } = column.kind else {
            return None;
        };
        let range =
            value_start + usize::from(length_bytes)..self.rows.len() - self.rest.rest().len();
        // Behind a NULL nothing was read.
        (range.start <= range.end).then_some(range)
    }
}
