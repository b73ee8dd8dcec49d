//! Values too large to stand in a row's document.
//!
//! The document holds `{ $value: sha256, bytes: n, type }` in their place, the bytes go elsewhere (row_changes_values) in
//! pieces. Guarantees: the place tells all that is needed to read the value back; the same value always has the same
//! digest, so equal values stay equal and are stored once.

use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::bson_writer::{self, element};

/// What the bytes of a [`LargeValue`] are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LargeKind {
    /// UTF-8 text of a CHAR, VARCHAR or TEXT column.
    String,
    /// Bytes: of a BINARY, VARBINARY or BLOB column, of text that cannot be decoded, of GEOMETRY (4 bytes SRID,
    /// little-endian, then WKB) or of VECTOR (little-endian 32-bit floats).
    Binary,
    /// A JSON column's value as JSON text, in UTF-8, formatted as MySQL prints it.
    Json,
}

impl LargeKind {
    /// As the document has it: `string`, `binary` or `json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Binary => "binary",
            Self::Json => "json",
        }
    }

    /// The kind of that name.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::String, Self::Binary, Self::Json]
            .into_iter()
            .find(|kind| kind.name() == name)
    }
}

/// A value taken out of its document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LargeValue {
    /// SHA-256 of `bytes`.
    pub sha256: [u8; 32],
    /// What the bytes are.
    pub kind: LargeKind,
    /// The value; shared, because it may be hundreds of MiB and is handed to a thread of its own to be written.
    pub bytes: Arc<Vec<u8>>,
}

impl LargeValue {
    /// Takes the bytes of a value aside.
    pub fn new(kind: LargeKind, bytes: Vec<u8>) -> Self {
        Self {
            sha256: Sha256::digest(&bytes).into(),
            kind,
            bytes: Arc::new(bytes),
        }
    }

    /// The digest in 64 hex digits, as it stands in the document.
    pub fn sha256_hex(&self) -> String {
        crate::hex::hex(&self.sha256)
    }

    /// Appends the element that stands for the value: `key: { $value, bytes, type }`.
    pub fn append_reference(&self, key_with_nul: &[u8], out: &mut Vec<u8>) {
        bson_writer::element(out, element::DOCUMENT, key_with_nul);
        self.append_reference_value(out);
    }

    /// Appends `{ $value, bytes, type }` alone.
    pub fn append_reference_value(&self, out: &mut Vec<u8>) {
        let start = bson_writer::begin_document(out);
        bson_writer::element(out, element::STRING, b"$value\0");
        bson_writer::string(out, &self.sha256_hex());
        bson_writer::element(out, element::INT64, b"bytes\0");
        bson_writer::int64(out, i64::try_from(self.bytes.len()).unwrap_or(i64::MAX));
        bson_writer::element(out, element::STRING, b"type\0");
        bson_writer::string(out, self.kind.name());
        bson_writer::end_document(out, start);
    }
}
