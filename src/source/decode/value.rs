//! One value of a row: from the binlog's bytes to a BSON element.
//!
//! Guarantees: one column gives one BSON type, whatever the value (text whose bytes have no character is the one exception,
//! and is counted); no digit, no trailing 0x00, no sign is lost. The table of types is in the design, section 3. Where the
//! formats come from: `Field_*::pack` in the server's sql/field.cc, `calc_field_size` in libs/mysql/binlog/event/
//! binary_log_funcs.cpp and `log_event_print_value` in sql/log_event.cc.

use super::charset::Charset;
use super::error::DecodeError;
use super::json::{Binary, Budget, Node};
use super::json_bson::{self, Stop};
use super::wire::{Reader, big_endian, bit_is_set, little_endian};
use super::{decimal, json_diff, json_text, temporal, uuid_inet};
use crate::bson_writer::{self, element};
use crate::large_value::{LargeKind, LargeValue};
use crate::source::schema::{Column, ColumnKind, Label, StringShape};

/// A value shorter than this, in bytes, stays in its document even while that is too large: the reference that would
/// replace it takes some 130 bytes.
const SMALLEST_LARGE_VALUE: usize = 1024;

/// MariaDB's BLOB COMPRESSED; VARCHAR COMPRESSED is the next.
const COMPRESSED_TYPE: u8 = 140;

/// Where values go.
pub(crate) struct Target<'t> {
    /// The document.
    pub(crate) out: &'t mut Vec<u8>,
    /// Values that were taken out of the document.
    pub(crate) large: &'t mut Vec<LargeValue>,
    /// Text values that were stored as Binary.
    pub(crate) undecodable: &'t mut u32,
    /// In bytes; a value longer than that is taken out.
    pub(crate) max_value_bytes: usize,
}

impl Target<'_> {
    fn is_large(&self, length: usize) -> bool {
        length > self.max_value_bytes
    }

    fn large_value(&mut self, column: &Column, kind: LargeKind, bytes: Vec<u8>) {
        let value = LargeValue::new(kind, bytes);
        value.append_reference(&column.bson_key, self.out);
        self.large.push(value);
    }

    fn binary(&mut self, column: &Column, bytes: &[u8], padded_length: usize) {
        if self.is_large(bytes.len()) {
            self.large_value(column, LargeKind::Binary, bytes.to_vec());
        } else {
            bson_writer::element(self.out, element::BINARY, &column.bson_key);
            bson_writer::binary_padded(self.out, bytes, padded_length);
        }
    }

    /// A String element whose characters `append` writes.
    #[inline]
    fn string(
        &mut self,
        column: &Column,
        append: impl FnOnce(&mut Vec<u8>) -> Result<(), DecodeError>,
    ) -> Result<(), DecodeError> {
        bson_writer::element(self.out, element::STRING, &column.bson_key);
        let start = bson_writer::begin_string(self.out);
        append(self.out)?;
        bson_writer::end_string(self.out, start);
        Ok(())
    }

    #[inline]
    fn int32(&mut self, column: &Column, value: i32) {
        bson_writer::element(self.out, element::INT32, &column.bson_key);
        bson_writer::int32(self.out, value);
    }

    #[inline]
    fn int64(&mut self, column: &Column, value: i64) {
        bson_writer::element(self.out, element::INT64, &column.bson_key);
        bson_writer::int64(self.out, value);
    }

    /// Int64 where it fits, else Decimal128: the two compare as numbers in MongoDB.
    #[inline]
    fn unsigned(&mut self, column: &Column, value: u64) {
        match i64::try_from(value) {
            Ok(value) => self.int64(column, value),
            Err(_) => {
                bson_writer::element(self.out, element::DECIMAL128, &column.bson_key);
                self.out
                    .extend_from_slice(&decimal::decimal128(false, u128::from(value), 0));
            }
        }
    }

    fn text(&mut self, column: &Column, charset: &Charset, bytes: &[u8]) {
        if !charset.is_text() {
            return self.binary(column, bytes, bytes.len());
        }
        if let Some(text) = charset.as_utf8(bytes) {
            if self.is_large(text.len()) {
                return self.large_value(column, LargeKind::String, bytes.to_vec());
            }
            bson_writer::element(self.out, element::STRING, &column.bson_key);
            return bson_writer::string(self.out, text);
        }
        let element_start = self.out.len();
        bson_writer::element(self.out, element::STRING, &column.bson_key);
        let start = bson_writer::begin_string(self.out);
        let characters = self.out.len();
        if !charset.append_utf8(bytes, self.out) {
            self.out.truncate(element_start);
            *self.undecodable += 1;
            return self.binary(column, bytes, bytes.len());
        }
        if self.is_large(self.out.len() - characters) {
            let text = self.out.split_off(characters);
            self.out.truncate(element_start);
            return self.large_value(column, LargeKind::String, text);
        }
        bson_writer::end_string(self.out, start);
    }
}

/// Whether a column's values can be taken out of the document: what is bounded by its type stays.
pub(crate) fn can_be_large(kind: &ColumnKind) -> bool {
    matches!(
        kind,
        ColumnKind::Text { .. }
            | ColumnKind::Bytes { .. }
            | ColumnKind::Json { .. }
            | ColumnKind::Geometry { .. }
            | ColumnKind::Vector { .. }
    )
}

/// The limit for a value that has to go because its document is too large.
pub(crate) fn forced_limit(max_value_bytes: usize) -> usize {
    max_value_bytes.min(SMALLEST_LARGE_VALUE)
}

/// Takes a value's bytes from the reader, without its length where it has one.
#[inline]
pub(crate) fn take<'a>(
    kind: &ColumnKind,
    reader: &mut Reader<'a>,
) -> Result<&'a [u8], DecodeError> {
    let width = match kind {
        ColumnKind::Integer { width, .. } | ColumnKind::IntegerOfUnknownSign { width } => {
            usize::from(*width)
        }
        ColumnKind::Float | ColumnKind::OldTimestamp => 4,
        ColumnKind::Double | ColumnKind::OldDateTime => 8,
        ColumnKind::Decimal { precision, scale } => decimal::length(*precision, *scale),
        ColumnKind::Year => 1,
        ColumnKind::Bit { bits } => usize::from(bits.div_ceil(8)),
        ColumnKind::Date | ColumnKind::OldTime => 3,
        ColumnKind::Time { fraction_digits } => 3 + temporal::fraction_length(*fraction_digits),
        ColumnKind::DateTime { fraction_digits } => 5 + temporal::fraction_length(*fraction_digits),
        ColumnKind::Timestamp { fraction_digits } => {
            4 + temporal::fraction_length(*fraction_digits)
        }
        ColumnKind::Enum { width, .. } | ColumnKind::Set { width, .. } => usize::from(*width),
        ColumnKind::Text { length_bytes, .. }
        | ColumnKind::Bytes { length_bytes, .. }
        | ColumnKind::Json { length_bytes }
        | ColumnKind::Geometry { length_bytes, .. }
        | ColumnKind::Compressed { length_bytes, .. }
        | ColumnKind::Vector { length_bytes, .. } => {
            let length = reader.unsigned(*length_bytes, "length of a value")?;
            usize::try_from(length).unwrap_or(usize::MAX)
        }
        ColumnKind::Uuid | ColumnKind::Inet6 | ColumnKind::Inet4 => {
            usize::from(reader.u8("length of a value")?)
        }
        ColumnKind::OldOfUnknownLength { type_code } => return Err(unreadable(*type_code)),
    };
    reader.bytes(width, "value")
}

/// Takes a value from the reader and appends it as an element.
#[inline]
pub(crate) fn append(
    column: &Column,
    reader: &mut Reader<'_>,
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    match &column.kind {
        ColumnKind::Integer { width, unsigned } => {
            append_integer(column, *width, *unsigned, reader, target)?
        }
        ColumnKind::IntegerOfUnknownSign { width } => {
            append_integer_of_unknown_sign(column, *width, reader, target)?
        }
        ColumnKind::Float => {
            let value = shortest_double(f32::from_le_bytes(reader.array("float")?));
            bson_writer::element(target.out, element::DOUBLE, &column.bson_key);
            bson_writer::double(target.out, value);
        }
        ColumnKind::Double => {
            bson_writer::element(target.out, element::DOUBLE, &column.bson_key);
            target.out.extend_from_slice(reader.bytes(8, "double")?);
        }
        ColumnKind::Decimal { precision, scale } => {
            let bytes = take(&column.kind, reader)?;
            if *precision <= decimal::DECIMAL128_DIGITS {
                bson_writer::element(target.out, element::DECIMAL128, &column.bson_key);
                target
                    .out
                    .extend_from_slice(&decimal::to_decimal128(*precision, *scale, bytes)?);
            } else {
                target.string(column, |out| {
                    decimal::append_text(*precision, *scale, bytes, out)
                })?;
            }
        }
        // 0 is the year 0000, the others count from 1900.
        ColumnKind::Year => match reader.u8("year")? {
            0 => target.int32(column, 0),
            year => target.int32(column, 1900 + i32::from(year)),
        },
        ColumnKind::Bit { .. } => {
            let value = big_endian(take(&column.kind, reader)?);
            target.unsigned(column, value);
        }
        ColumnKind::Date => target.string(column, |out| temporal::append_date(reader, out))?,
        ColumnKind::Time { fraction_digits } => {
            target.string(column, |out| {
                temporal::append_time(reader, *fraction_digits, out)
            })?;
        }
        ColumnKind::DateTime { fraction_digits } => {
            target.string(column, |out| {
                temporal::append_datetime(reader, *fraction_digits, out)
            })?;
        }
        ColumnKind::Timestamp { fraction_digits } => {
            target.string(column, |out| {
                temporal::append_timestamp(reader, *fraction_digits, out)
            })?;
        }
        ColumnKind::OldTime => {
            target.string(column, |out| temporal::append_old_time(reader, out))?
        }
        ColumnKind::OldDateTime => {
            target.string(column, |out| temporal::append_old_datetime(reader, out))?
        }
        ColumnKind::OldTimestamp => {
            target.string(column, |out| temporal::append_old_timestamp(reader, out))?
        }
        ColumnKind::Text { charset, .. } => {
            let bytes = take(&column.kind, reader)?;
            target.text(column, charset, bytes);
        }
        ColumnKind::Bytes { shape, .. } => {
            let bytes = take(&column.kind, reader)?;
            // The server cuts trailing 0x00 off a BINARY(n).
            let padded_length = match shape {
                StringShape::Fixed(length) => *length as usize,
                _ => bytes.len(),
            };
            target.binary(column, bytes, padded_length);
        }
        ColumnKind::Uuid => {
            let bytes = take(&column.kind, reader)?;
            target.string(column, |out| uuid_inet::append_uuid(bytes, out))?;
        }
        ColumnKind::Inet6 => {
            let bytes = take(&column.kind, reader)?;
            target.string(column, |out| uuid_inet::append_inet6(bytes, out))?;
        }
        ColumnKind::Inet4 => {
            let bytes = take(&column.kind, reader)?;
            target.string(column, |out| uuid_inet::append_inet4(bytes, out))?;
        }
        // The table is refused before its rows come.
        ColumnKind::Compressed { .. } => return Err(unreadable(COMPRESSED_TYPE)),
        ColumnKind::OldOfUnknownLength { type_code } => return Err(unreadable(*type_code)),
        ColumnKind::Enum { labels, .. } => append_enum(column, labels.as_deref(), reader, target)?,
        ColumnKind::Set { labels, .. } => append_set(column, labels.as_deref(), reader, target)?,
        ColumnKind::Json { .. } => {
            let binary = Binary::parse(take(&column.kind, reader)?);
            append_json(column, &Node::Binary(binary), binary.byte_count(), target)?;
        }
        ColumnKind::Geometry { .. } => {
            append_geometry(column, take(&column.kind, reader)?, target)?
        }
        ColumnKind::Vector { .. } => append_vector(column, take(&column.kind, reader)?, target)?,
    }
    Ok(())
}

#[inline]
fn append_integer(
    column: &Column,
    width: u8,
    unsigned: bool,
    reader: &mut Reader<'_>,
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    const WHAT: &str = "integer";
    match (width, unsigned) {
        (1, true) => target.int32(column, i32::from(reader.u8(WHAT)?)),
        (1, false) => target.int32(column, i32::from(reader.u8(WHAT)?.cast_signed())),
        (2, true) => target.int32(column, i32::from(reader.u16(WHAT)?)),
        (2, false) => target.int32(column, i32::from(reader.u16(WHAT)?.cast_signed())),
        (3, _) => {
            let [low, middle, high] = reader.array(WHAT)?;
            // Shifted up and back, the highest bit becomes the sign.
            let value = u32::from_le_bytes([0, low, middle, high]);
            target.int32(
                column,
                if unsigned {
                    (value >> 8).cast_signed()
                } else {
                    value.cast_signed() >> 8
                },
            );
        }
        (4, true) => target.int64(column, i64::from(reader.u32(WHAT)?)),
        (4, false) => target.int32(column, reader.u32(WHAT)?.cast_signed()),
        (_, true) => target.unsigned(column, reader.u64(WHAT)?),
        (_, false) => target.int64(column, reader.u64(WHAT)?.cast_signed()),
    }
    Ok(())
}

/// A number as long as it is the same whether the column is UNSIGNED or not; else its bytes, the lowest first, from which
/// either can be had.
fn append_integer_of_unknown_sign(
    column: &Column,
    width: u8,
    reader: &mut Reader<'_>,
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    let bytes = reader.bytes(usize::from(width), "integer")?;
    if bytes.last().is_some_and(|highest| *highest >= 0x80) {
        target.binary(column, bytes, bytes.len());
        return Ok(());
    }
    append_integer(column, width, false, &mut Reader::new(bytes), target)
}

/// The double that the shortest decimal which reads back to `value` stands for: 0.1 for the FLOAT 0.1, where a plain
/// conversion gives 0.10000000149011612.
#[inline]
pub(crate) fn shortest_double(value: f32) -> f64 {
    const POWERS: [f64; 11] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10];
    let exact = f64::from(value);
    // For numbers of everyday size: the fewest digits behind the point that read back. Below 2^24 and with at most ten digits
    // the product is exact, and the quotient is the double nearest to the decimal.
    if exact.abs() < 16_777_216.0 && exact.abs() >= 1e-3 || exact == 0.0 {
        for power in POWERS {
            let scaled = exact * power;
            let digits = scaled.round();
            // Half-way between two candidates the general way decides.
            if (scaled - digits).abs() == 0.5 {
                break;
            }
            let candidate = digits / power;
            if candidate as f32 == value {
                return if value == 0.0 { exact } else { candidate };
            }
        }
    }
    value.to_string().parse().unwrap_or(exact)
}

#[cold]
fn unreadable(type_code: u8) -> DecodeError {
    DecodeError::UnsupportedType {
        type_code,
        hint: " (COMPRESSED, or a time in the format of MariaDB 5.3)",
    }
}

#[cold]
fn bad_label(what: &'static str, found: u64) -> DecodeError {
    DecodeError::Unexpected {
        what,
        found,
        expected: "the number of a label",
    }
}

fn append_enum(
    column: &Column,
    labels: Option<&[Label]>,
    reader: &mut Reader<'_>,
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    let number = little_endian(take(&column.kind, reader)?);
    let Some(labels) = labels else {
        target.int32(column, number as i32);
        return Ok(());
    };
    // Number 0 is the error value '', which has no label.
    let Some(index) = (number as usize).checked_sub(1) else {
        let (element_type, value) = match labels.first() {
            Some(label) if label.element_type == element::BINARY => (element::BINARY, &[0; 5][..]),
            _ => (element::STRING, &[1, 0, 0, 0, 0][..]),
        };
        bson_writer::element(target.out, element_type, &column.bson_key);
        target.out.extend_from_slice(value);
        return Ok(());
    };
    let label = labels.get(index).ok_or_else(|| bad_label("enum", number))?;
    bson_writer::element(target.out, label.element_type, &column.bson_key);
    target.out.extend_from_slice(&label.value);
    Ok(())
}

fn append_set(
    column: &Column,
    labels: Option<&[Label]>,
    reader: &mut Reader<'_>,
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    let bytes = take(&column.kind, reader)?;
    let mask = little_endian(bytes);
    let Some(labels) = labels else {
        target.unsigned(column, mask);
        return Ok(());
    };
    bson_writer::element(target.out, element::ARRAY, &column.bson_key);
    let start = bson_writer::begin_document(target.out);
    let mut written = 0;
    for bit in 0..bytes.len() * 8 {
        if bit_is_set(bytes, bit) {
            let label = labels.get(bit).ok_or_else(|| bad_label("set", mask))?;
            bson_writer::array_element(target.out, label.element_type, written);
            target.out.extend_from_slice(&label.value);
            written += 1;
        }
    }
    bson_writer::end_document(target.out, start);
    Ok(())
}

/// JSON as BSON; as text where BSON cannot hold it; taken out, as text, where it is large. `bytes` bounds the work.
fn append_json(
    column: &Column,
    node: &Node<'_>,
    bytes: usize,
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    let element_start = target.out.len();
    let value_start = element_start + 1 + column.bson_key.len();
    let mut writer = json_bson::Writer {
        out: target.out,
        end: value_start.saturating_add(target.max_value_bytes),
        budget: Budget::new(bytes),
        undecodable: 0,
    };
    let too_large = match writer.element(&column.bson_key, node) {
        Ok(()) => {
            *target.undecodable += writer.undecodable;
            return Ok(());
        }
        Err(Stop::Malformed(error)) => return Err(error),
        Err(Stop::TooLarge) => true,
        Err(Stop::NotBson) => false,
    };
    target.out.truncate(element_start);
    let mut text = Vec::new();
    *target.undecodable += json_text::append(node, bytes, &mut text)?;
    if too_large || target.is_large(text.len()) {
        target.large_value(column, LargeKind::Json, text);
        return Ok(());
    }
    bson_writer::element(target.out, element::DOCUMENT, &column.bson_key);
    append_json_text_document(&text, target.out);
    Ok(())
}

/// `{ $json: text }`.
fn append_json_text_document(text: &[u8], out: &mut Vec<u8>) {
    let document = bson_writer::begin_document(out);
    bson_writer::element(out, element::STRING, b"$json\0");
    let start = bson_writer::begin_string(out);
    out.extend_from_slice(text);
    bson_writer::end_string(out, start);
    bson_writer::end_document(out, document);
}

/// A JSON value of which the event has the changes only: the whole value where `before` is known, else the changes.
pub(crate) fn append_json_diff(
    column: &Column,
    before: Option<&[u8]>,
    diffs: &[u8],
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    match before {
        Some(before) => {
            let node = json_diff::apply(before, diffs)?;
            append_json(
                column,
                &node,
                before.len().saturating_add(diffs.len()).saturating_add(1),
                target,
            )
        }
        None => append_changes(column, diffs, target),
    }
}

/// `{ $jsonDiff: [ { op, path, value } ] }`: what is left to say when the value before the changes is not in the event.
fn append_changes(
    column: &Column,
    diffs: &[u8],
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    let element_start = target.out.len();
    bson_writer::element(target.out, element::DOCUMENT, &column.bson_key);
    let document = bson_writer::begin_document(target.out);
    bson_writer::element(target.out, element::ARRAY, b"$jsonDiff\0");
    let array = bson_writer::begin_document(target.out);
    let mut reader = Reader::new(diffs);
    let mut index = 0;
    while let Some(diff) = json_diff::next_diff(&mut reader)? {
        bson_writer::array_element(target.out, element::DOCUMENT, index);
        let change = bson_writer::begin_document(target.out);
        bson_writer::element(target.out, element::STRING, b"op\0");
        bson_writer::string(target.out, diff.operation.name());
        bson_writer::element(target.out, element::STRING, b"path\0");
        bson_writer::string(target.out, diff.path);
        if let Some(value) = diff.value {
            append_changed_value(&Node::Binary(value), value.byte_count(), target)?;
        }
        bson_writer::end_document(target.out, change);
        index += 1;
    }
    bson_writer::end_document(target.out, array);
    bson_writer::end_document(target.out, document);
    if target.is_large(target.out.len() - element_start) {
        target.out.truncate(element_start);
        let text = changes_text(diffs)?;
        target.large_value(column, LargeKind::Json, text);
    }
    Ok(())
}

fn append_changed_value(
    node: &Node<'_>,
    bytes: usize,
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    let element_start = target.out.len();
    let budget = Budget::new(bytes);
    let mut writer = json_bson::Writer {
        out: target.out,
        end: usize::MAX,
        budget,
        undecodable: 0,
    };
    match writer.element(b"value\0", node) {
        Ok(()) => *target.undecodable += writer.undecodable,
        Err(Stop::Malformed(error)) => return Err(error),
        Err(Stop::NotBson | Stop::TooLarge) => {
            target.out.truncate(element_start);
            let mut text = Vec::new();
            *target.undecodable += json_text::append(node, bytes, &mut text)?;
            bson_writer::element(target.out, element::DOCUMENT, b"value\0");
            append_json_text_document(&text, target.out);
        }
    }
    Ok(())
}

/// The changes as a JSON array of objects.
fn changes_text(diffs: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let mut out = b"[".to_vec();
    let mut reader = Reader::new(diffs);
    while let Some(diff) = json_diff::next_diff(&mut reader)? {
        out.extend_from_slice(if out.len() > 1 {
            b", {\"op\": \""
        } else {
            b"{\"op\": \""
        });
        out.extend_from_slice(diff.operation.name().as_bytes());
        out.extend_from_slice(b"\", \"path\": ");
        json_text::append_string(diff.path, &mut out);
        if let Some(value) = diff.value {
            out.extend_from_slice(b", \"value\": ");
            json_text::append(&Node::Binary(value), value.byte_count(), &mut out)?;
        }
        out.push(b'}');
    }
    out.push(b']');
    Ok(out)
}

fn append_geometry(
    column: &Column,
    bytes: &[u8],
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    if target.is_large(bytes.len()) {
        target.large_value(column, LargeKind::Binary, bytes.to_vec());
        return Ok(());
    }
    let mut reader = Reader::new(bytes);
    // An empty value comes from INSERT IGNORE into a NOT NULL column: no geometry at all.
    let spatial_reference = if bytes.is_empty() {
        0
    } else {
        reader.u32("spatial reference id")?
    };
    bson_writer::element(target.out, element::DOCUMENT, &column.bson_key);
    let document = bson_writer::begin_document(target.out);
    // SRIDs are unsigned 32-bit numbers, and one field has one type.
    bson_writer::element(target.out, element::INT64, b"srid\0");
    bson_writer::int64(target.out, i64::from(spatial_reference));
    bson_writer::element(target.out, element::BINARY, b"wkb\0");
    bson_writer::binary(target.out, reader.rest());
    bson_writer::end_document(target.out, document);
    Ok(())
}

fn append_vector(
    column: &Column,
    bytes: &[u8],
    target: &mut Target<'_>,
) -> Result<(), DecodeError> {
    if target.is_large(bytes.len()) {
        target.large_value(column, LargeKind::Binary, bytes.to_vec());
        return Ok(());
    }
    let (numbers, []) = bytes.as_chunks::<4>() else {
        let found = bytes.len() as u64;
        return Err(DecodeError::Unexpected {
            what: "length of a vector",
            found,
            expected: "a multiple of 4 bytes",
        });
    };
    bson_writer::element(target.out, element::ARRAY, &column.bson_key);
    let start = bson_writer::begin_document(target.out);
    for (index, number) in numbers.iter().enumerate() {
        bson_writer::array_element(target.out, element::DOUBLE, index);
        bson_writer::double(target.out, shortest_double(f32::from_le_bytes(*number)));
    }
    bson_writer::end_document(target.out, start);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_are_the_shortest_decimal_that_reads_back() {
        for (value, double) in [
            (0.1_f32, 0.1_f64),
            (3.25, 3.25),
            (-2.5, -2.5),
            (16_777_216.0, 16_777_216.0),
            (f32::MAX, 3.4028235e38),
            (f32::MIN_POSITIVE, 1.1754944e-38),
            (1e-45, 1e-45),
            (0.001, 0.001),
            (123456.79, 123456.79),
        ] {
            assert_eq!(shortest_double(value), double);
        }
        assert!(shortest_double(-0.0).is_sign_negative());
        let mut random = fastrand::Rng::with_seed(11);
        for _ in 0..200_000 {
            let value = match random.u8(0..3) {
                0 => f32::from_bits(random.u32(..)),
                1 => random.i32(-10_000_000..10_000_000) as f32 / 10_f32.powi(random.i32(0..8)),
                _ => random.f32() * 10_f32.powi(random.i32(-4..9)),
            };
            if value.is_finite() {
                let shortest: f64 = value.to_string().parse().unwrap();
                assert_eq!(
                    shortest_double(value).to_bits(),
                    shortest.to_bits(),
                    "{value}"
                );
            }
        }
    }
}
