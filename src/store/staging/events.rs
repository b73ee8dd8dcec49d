//! The events of a batch inside its staging document: an array of their documents, or that array packed.
//!
//! It guarantees that what is read is what was written, byte for byte (the batch's checksum is over the documents, not over how they
//! are kept), and that a damaged size takes no more memory than a batch may have.
//!
//! `events: [ document … ]` up to [`PACK_FROM`]; larger: `events: { $zstd: Binary, bytes: Int64 }`, the same BSON array as one frame of
//! Zstandard (RFC 8878) and its size before. Either is read, whatever its size.

use std::borrow::Cow;

use bson::{Bson, Document, RawBsonRef, RawDocument, RawDocumentBuf, spec::BinarySubtype};

use crate::batch::Batch;
use crate::bson_writer::{self as write, element};
use crate::error::{Error, Kind, Result};

/// Size of the array from which on it is packed, 16 KiB: some twenty changes. A server that keeps up with a quiet source stages
/// less, and there a person reads the events in mongosh as they are.
const PACK_FROM: usize = 16 * 1024;

/// Zstandard's level 1: documents of one table shrink to a tenth of their size, at some 300 MB/s of a core. Levels 2 and 3 gain nothing, the
/// faster ones take up to twice the room.
const LEVEL: i32 = 1;

/// Most bytes of a batch's events, 16 MiB: BATCH_BYTES is 12 MiB at most, and a document 4.
const MAX_BYTES: usize = 16 * 1024 * 1024;

/// Writes the element `events`.
pub(super) fn write(out: &mut Vec<u8>, batch: &Batch) -> Result<()> {
    let mut array = Vec::with_capacity(batch.bytes + batch.events.len() * 8 + 16);
    write::array_of_documents(
        &mut array,
        batch.events.iter().map(|event| event.document.as_bytes()),
    );
    if array.len() < PACK_FROM {
        write::encoded_field(out, element::ARRAY, b"events\0", &array);
        return Ok(());
    }
    let frame = zstd::bulk::compress(&array, LEVEL).map_err(|error| {
        let doing = format!("the events of batch {} cannot be packed", batch.number());
        Error::new(Kind::Internal, format!("{doing}: {error}"))
    })?;
    write::element(out, element::DOCUMENT, b"events\0");
    let packed = write::begin_document(out);
    write::element(out, element::BINARY, b"$zstd\0");
    write::binary(out, &frame);
    write::int64_field(
        out,
        b"bytes\0",
        i64::try_from(array.len()).unwrap_or(i64::MAX),
    );
    write::end_document(out, packed);
    Ok(())
}

/// The array `events` of a staging document, unpacked.
#[derive(Debug)]
pub(in crate::store) struct Events<'a>(Cow<'a, RawDocument>);

/// The events of a staging document, or why they are not to be trusted.
pub(in crate::store) fn read(staged: &RawDocument) -> std::result::Result<Events<'_>, String> {
    array(staged)
        .map(Events)
        .map_err(|problem| format!("events: {problem}"))
}

/// The array; its bytes are those of a document whose keys are numbers.
fn array(staged: &RawDocument) -> std::result::Result<Cow<'_, RawDocument>, String> {
    let text = |error: bson::error::Error| error.to_string();
    match staged.get("events").map_err(text)? {
        Some(RawBsonRef::Array(array)) => RawDocument::from_bytes(array.as_bytes())
            .map(Cow::Borrowed)
            .map_err(text),
        Some(RawBsonRef::Document(packed)) => RawDocumentBuf::from_bytes(unpack(packed)?)
            .map(Cow::Owned)
            .map_err(text),
        Some(other) => Err(format!(
            "expected an array, found {:?}",
            other.element_type()
        )),
        None => Err("missing".to_owned()),
    }
}

fn unpack(packed: &RawDocument) -> std::result::Result<Vec<u8>, String> {
    let frame = packed
        .get_binary("$zstd")
        .map_err(|error| error.to_string())?;
    if frame.subtype != BinarySubtype::Generic {
        return Err(format!("$zstd: found subtype {:?}", frame.subtype));
    }
    let expected = packed.get_i64("bytes").map_err(|error| error.to_string())?;
    let size = usize::try_from(expected)
        .ok()
        .filter(|size| *size <= MAX_BYTES)
        .ok_or_else(|| format!("bytes: expected {MAX_BYTES} at most, found {expected}"))?;
    let array = zstd::bulk::decompress(frame.bytes, size)
        .map_err(|error| format!("$zstd cannot be unpacked into {size} bytes: {error}"))?;
    if array.len() != size {
        return Err(format!(
            "$zstd: expected {size} bytes, found {}",
            array.len()
        ));
    }
    Ok(array)
}

impl Events<'_> {
    /// Their documents, in order, or what one is in place of a document.
    pub(in crate::store) fn documents(
        &self,
    ) -> impl Iterator<Item = std::result::Result<&RawDocument, String>> {
        self.0.iter().map(|element| {
            let (_, value) = element.map_err(|error| format!("an event: {error}"))?;
            value
                .as_document()
                .ok_or_else(|| "an event is not a document".to_owned())
        })
    }

    /// As they stand in a document that is shown to people.
    pub(in crate::store) fn for_people(&self) -> Bson {
        let events = self.documents().flatten();
        let events = events.filter_map(|event| Document::try_from(event).ok());
        Bson::Array(events.map(Bson::Document).collect())
    }
}

#[cfg(test)]
mod tests {
    use bson::{Binary, doc};

    use super::*;

    /// A staging document with nothing but events.
    fn staged(batch: &Batch) -> RawDocumentBuf {
        let mut out = Vec::new();
        let document = write::begin_document(&mut out);
        super::write(&mut out, batch).unwrap();
        write::end_document(&mut out, document);
        RawDocumentBuf::from_bytes(out).unwrap()
    }

    fn of(events: impl Into<Bson>) -> RawDocumentBuf {
        RawDocumentBuf::try_from(&doc! { "events": events.into() }).unwrap()
    }

    fn problem(staged: &RawDocument) -> String {
        read(staged).unwrap_err()
    }

    #[test]
    fn few_are_an_array_and_many_are_packed_and_both_are_read_as_they_were() {
        for (rows, is_packed) in [
            (0, false),
            (1, false),
            (20, false),
            (200, true),
            (9_000, true),
        ] {
            let batch = Batch::of_gaps(1, rows);
            let staged = staged(&batch);
            assert_eq!(staged.get_document("events").is_ok(), is_packed, "{rows}");
            let events = read(&staged).unwrap();
            let found: Vec<&[u8]> = events
                .documents()
                .map(|document| document.unwrap().as_bytes())
                .collect();
            let expected: Vec<&[u8]> = batch
                .events
                .iter()
                .map(|event| event.document.as_bytes())
                .collect();
            assert_eq!(found, expected, "{rows}");
            assert_eq!(
                events.for_people().as_array().map(Vec::len),
                Some(expected.len())
            );
        }
    }

    #[test]
    fn packed_documents_of_one_table_take_less_than_a_fourth() {
        let batch = Batch::of_gaps(1, 1000);
        let plain: usize = batch
            .events
            .iter()
            .map(|event| event.document.as_bytes().len())
            .sum();
        let packed = staged(&batch).as_bytes().len();
        assert!(packed * 4 < plain, "{packed} of {plain} bytes");
    }

    #[test]
    fn damage_is_told_and_a_damaged_size_takes_no_memory() {
        let good = Document::try_from(&*staged(&Batch::of_gaps(1, 200))).unwrap();
        let good = good.get_document("events").unwrap();
        let size = good.get_i64("bytes").unwrap();
        let frame = good.get_binary_generic("$zstd").unwrap().clone();
        let changed = |name: &str, value: Bson| {
            let mut packed = good.clone();
            packed.insert(name, value);
            problem(&of(packed))
        };
        for bytes in [-1, i64::MAX, MAX_BYTES as i64 + 1] {
            let told = changed("bytes", Bson::Int64(bytes));
            assert!(told.contains("at most"), "{told}");
        }
        for bytes in [0, size - 1] {
            let told = changed("bytes", Bson::Int64(bytes));
            assert!(told.contains("cannot be unpacked"), "{told}");
        }
        let told = changed("bytes", Bson::Int64(size + 1));
        assert!(told.contains(&format!("found {size}")), "{told}");
        let told = changed("bytes", Bson::Null);
        assert!(told.starts_with("events: "), "{told}");
        for length in [0, 3, frame.len() / 2, frame.len() - 1] {
            let bytes = frame[..length].to_vec();
            let subtype = BinarySubtype::Generic;
            let told = changed("$zstd", Binary { subtype, bytes }.into());
            assert!(told.starts_with("events: $zstd"), "{told}");
        }
        let other = Binary {
            subtype: BinarySubtype::Uuid,
            bytes: frame,
        };
        assert!(changed("$zstd", other.into()).contains("subtype"));
        // A whole frame, of what is no array.
        let text = b"no BSON at all";
        let packed = doc! {
            "$zstd": Binary {
                subtype: BinarySubtype::Generic,
                bytes: zstd::bulk::compress(text, LEVEL).unwrap(),
            },
            "bytes": text.len() as i64,
        };
        assert!(problem(&of(packed)).starts_with("events: "));
    }

    #[test]
    fn what_is_neither_is_told() {
        assert_eq!(problem(&RawDocumentBuf::new()), "events: missing");
        assert!(problem(&of(1)).contains("expected an array, found Int32"));
        assert!(problem(&of(doc! {})).starts_with("events: "));
        let odd = of(vec![1]);
        let events = read(&odd).unwrap();
        let told = events.documents().next().unwrap().unwrap_err();
        assert_eq!(told, "an event is not a document");
    }
}
