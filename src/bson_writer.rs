//! BSON appended to a byte vector, element by element.
//!
//! Format: <https://bsonspec.org/spec.html>. Guarantees: what is written between [`begin_document`] and [`end_document`] is
//! a well-formed document as long as keys hold no NUL byte (the callers see to it) and no document passes 2 GiB (the
//! limits of a row see to it).
//!
//! Why not the bson crate's `RawDocumentBuf`: it nests by building the inner document in a vector of its own and copying
//! it, it takes every key as a checked C string, and it does not tell where an element landed. Here documents nest in place
//! with their length patched in afterwards, keys are column names with their NUL already there, and the caller notes
//! positions, from which `changed` and the key are taken without decoding anything again.

/// BSON element types, the ones that are written here.
pub mod element {
    #![allow(missing_docs)]

    pub const DOUBLE: u8 = 0x01;
    pub const STRING: u8 = 0x02;
    pub const DOCUMENT: u8 = 0x03;
    pub const ARRAY: u8 = 0x04;
    pub const BINARY: u8 = 0x05;
    pub const BOOLEAN: u8 = 0x08;
    pub const DATE: u8 = 0x09;
    pub const NULL: u8 = 0x0a;
    pub const INT32: u8 = 0x10;
    pub const INT64: u8 = 0x12;
    pub const DECIMAL128: u8 = 0x13;
}

/// Subtype of a Binary without a meaning of its own.
const GENERIC_BINARY: u8 = 0;

/// A length as BSON stores it. Saturates: a document past 2 GiB is kept from being built by the limits of a row.
#[inline]
fn length_bytes(length: usize) -> [u8; 4] {
    i32::try_from(length).unwrap_or(i32::MAX).to_le_bytes()
}

/// Begins a document or an array; the result goes to [`end_document`].
#[inline]
pub fn begin_document(out: &mut Vec<u8>) -> usize {
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    start
}

/// Ends the document that began at `start`.
#[inline]
pub fn end_document(out: &mut Vec<u8>, start: usize) {
    out.push(0);
    let length = out.len() - start;
    patch_length(out, start, length);
}

#[inline]
fn patch_length(out: &mut [u8], at: usize, length: usize) {
    if let Some(place) = out.get_mut(at..at + 4) {
        place.copy_from_slice(&length_bytes(length));
    }
}

/// An element's type and key; its value follows.
#[inline]
pub fn element(out: &mut Vec<u8>, element_type: u8, key_with_nul: &[u8]) {
    out.push(element_type);
    out.extend_from_slice(key_with_nul);
}

/// An element's type and its index in an array as the key; its value follows.
#[inline]
pub fn array_element(out: &mut Vec<u8>, element_type: u8, index: usize) {
    out.push(element_type);
    append_decimal_digits(out, index as u64);
    out.push(0);
}

/// The digits of a number.
#[inline]
pub fn append_decimal_digits(out: &mut Vec<u8>, mut value: u64) {
    if value < 10 {
        out.push(b'0' + value as u8);
        return;
    }
    let start = out.len();
    while value > 0 {
        out.push(b'0' + (value % 10) as u8);
        value /= 10;
    }
    if let Some(digits) = out.get_mut(start..) {
        digits.reverse();
    }
}

/// A String's value.
#[inline]
pub fn string(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&length_bytes(text.len() + 1));
    out.extend_from_slice(text.as_bytes());
    out.push(0);
}

/// Begins a String whose bytes the caller appends; they must be UTF-8. The result goes to [`end_string`].
#[inline]
pub fn begin_string(out: &mut Vec<u8>) -> usize {
    begin_document(out)
}

/// Ends the String that began at `start`.
#[inline]
pub fn end_string(out: &mut Vec<u8>, start: usize) {
    out.push(0);
    let length = out.len() - start - 4;
    patch_length(out, start, length);
}

/// A Binary's value.
#[inline]
pub fn binary(out: &mut Vec<u8>, bytes: &[u8]) {
    binary_padded(out, bytes, bytes.len());
}

/// A Binary's value, filled up with 0x00 to `length` bytes.
#[inline]
pub fn binary_padded(out: &mut Vec<u8>, bytes: &[u8], length: usize) {
    let length = length.max(bytes.len());
    out.extend_from_slice(&length_bytes(length));
    out.push(GENERIC_BINARY);
    let end = out.len() + length;
    out.extend_from_slice(bytes);
    out.resize(end, 0);
}

/// An Int32's value.
#[inline]
pub fn int32(out: &mut Vec<u8>, value: i32) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// An Int64's value.
#[inline]
pub fn int64(out: &mut Vec<u8>, value: i64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A Double's value.
#[inline]
pub fn double(out: &mut Vec<u8>, value: f64) {
    out.extend_from_slice(&value.to_le_bytes());
}

/// A whole String element.
#[inline]
pub fn string_field(out: &mut Vec<u8>, key_with_nul: &[u8], text: &str) {
    element(out, element::STRING, key_with_nul);
    string(out, text);
}

/// A whole Int64 element.
#[inline]
pub fn int64_field(out: &mut Vec<u8>, key_with_nul: &[u8], value: i64) {
    element(out, element::INT64, key_with_nul);
    int64(out, value);
}

/// A whole Date element.
#[inline]
pub fn date_field(out: &mut Vec<u8>, key_with_nul: &[u8], value: bson::DateTime) {
    element(out, element::DATE, key_with_nul);
    int64(out, value.timestamp_millis());
}

/// A whole element of a document or array that is encoded already.
#[inline]
pub fn encoded_field(out: &mut Vec<u8>, element_type: u8, key_with_nul: &[u8], encoded: &[u8]) {
    element(out, element_type, key_with_nul);
    out.extend_from_slice(encoded);
}

/// An array of documents that are encoded already; the element's type and key go before it.
pub fn array_of_documents<'a>(out: &mut Vec<u8>, documents: impl Iterator<Item = &'a [u8]>) {
    let array = begin_document(out);
    for (index, document) in documents.enumerate() {
        array_element(out, element::DOCUMENT, index);
        out.extend_from_slice(document);
    }
    end_document(out, array);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_the_bson_crate_reads() {
        let mut out = Vec::new();
        let document = begin_document(&mut out);
        element(&mut out, element::STRING, b"a\0");
        string(&mut out, "x\0y");
        element(&mut out, element::ARRAY, b"b\0");
        let array = begin_document(&mut out);
        for index in 0..120 {
            array_element(&mut out, element::INT32, index);
            int32(&mut out, index as i32);
        }
        end_document(&mut out, array);
        element(&mut out, element::BINARY, b"c\0");
        binary_padded(&mut out, &[1, 2], 4);
        end_document(&mut out, document);
        let read = bson::Document::from_reader(&out[..]).unwrap();
        assert_eq!(read.get_str("a").unwrap(), "x\0y");
        assert_eq!(read.get_array("b").unwrap().len(), 120);
        assert_eq!(read.get_array("b").unwrap()[119].as_i32(), Some(119));
        assert_eq!(read.get_binary_generic("c").unwrap(), &[1, 2, 0, 0]);
        assert_eq!(bson::serialize_to_vec(&read).unwrap(), out);
    }
}
