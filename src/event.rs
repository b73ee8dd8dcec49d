//! One audit document: its shape, its id, and the few places where it may still change after it is written.
//!
//! A document is encoded once, by the reader, and the same bytes are staged and inserted. Two things are not known then and
//! are filled in later, in place: `n`, which is assigned when the batch closes, and `meta.partial`, which says that the
//! transaction turned out larger than a batch. [`ChangeEvent`] knows where both go.
//!
//! The id is made from the source id, the GTID and the row's index among all rows of its transaction, counted before any
//! filter: the same change has the same id whichever server it was read from and whatever the settings were.

use std::sync::Arc;

use bson::{Bson, DateTime, Document, RawDocumentBuf, doc};
use sha2::{Digest, Sha256};

use crate::bson_writer::{self as write, element};
use crate::hex::hex_into;
use crate::large_value::LargeValue;

/// What happened. The names are the contract's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// A row was inserted.
    Insert,
    /// A row was updated.
    Update,
    /// A row was deleted.
    Delete,
    /// A schema change, or another statement that the binlog holds as text by its nature.
    Ddl,
    /// A data change that was logged as its statement, not as rows.
    Statement,
    /// A prepared XA transaction was committed.
    XaCommit,
    /// A prepared XA transaction was rolled back.
    XaRollback,
    /// Transactions are missing for good, and somebody accepted that.
    Gap,
}

impl Operation {
    /// The value of `op`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
            Self::Ddl => "ddl",
            Self::Statement => "statement",
            Self::XaCommit => "xa_commit",
            Self::XaRollback => "xa_rollback",
            Self::Gap => "gap",
        }
    }
}

/// A version of a table's schema: written once, under its hash.
#[derive(Debug, Clone, PartialEq)]
pub struct SchemaVersion {
    /// `_id`, and `meta.schema` of the documents.
    pub id: String,
    /// The whole document.
    pub document: Document,
}

/// What all changes of one source transaction share.
#[derive(Debug, Clone)]
pub struct TransactionContext {
    /// `meta.source`.
    pub source_id: Arc<str>,
    /// `meta.gtid`.
    pub gtid: Arc<str>,
    /// `ts`.
    pub timestamp: DateTime,
    /// `meta.server_id`: where it was executed first.
    pub server_id: u32,
    /// `meta.thread_id`: the connection that ran it there; 0 until the server tells.
    pub thread_id: u32,
    /// `meta.xid`: the XA transaction it prepares.
    pub xid: Option<Arc<str>>,
    /// SHA-256 after source id and GTID; each row goes on from here.
    id_prefix: Sha256,
    /// The commit second in hex, which leads every id so that inserts stay at the right edge of the index.
    id_second: [u8; 8],
}

impl TransactionContext {
    /// The context of the transaction `gtid`.
    pub fn new(source_id: Arc<str>, gtid: Arc<str>, timestamp: DateTime, server_id: u32) -> Self {
        let mut id_prefix = Sha256::new();
        // A NUL between the parts: neither a source id nor a GTID holds one, so no two triples hash the same bytes.
        id_prefix.update(source_id.as_bytes());
        id_prefix.update([0]);
        id_prefix.update(gtid.as_bytes());
        id_prefix.update([0]);
        let second = u32::try_from(timestamp.timestamp_millis().div_euclid(1000)).unwrap_or(0);
        let mut id_second = [0; 8];
        hex_into(&second.to_be_bytes(), &mut id_second);
        Self {
            source_id,
            gtid,
            timestamp,
            server_id,
            thread_id: 0,
            xid: None,
            id_prefix,
            id_second,
        }
    }

    /// `_id` of the change at `row`: 40 hex digits, the first 8 of them the commit second.
    fn id(&self, row: u64) -> [u8; 40] {
        let mut hash = self.id_prefix.clone();
        let mut digits = Vec::with_capacity(20);
        write::append_decimal_digits(&mut digits, row);
        hash.update(digits);
        let digest = hash.finalize();
        let mut id = [0; 40];
        let (second, rest) = id.split_at_mut(8);
        second.copy_from_slice(&self.id_second);
        hex_into(&digest[..16], rest);
        id
    }
}

/// What one change adds to its transaction.
#[derive(Debug, Clone, Copy)]
pub struct Change<'a> {
    /// `op`.
    pub operation: Operation,
    /// `meta.db`.
    pub database: &'a str,
    /// `meta.tbl`; empty where the change is not about one table.
    pub table: &'a str,
    /// `meta.pk`: BSON type and encoded value.
    pub key: Option<(u8, &'a [u8])>,
    /// `meta.row`: index among all rows of the transaction, before any filter.
    pub row: u64,
    /// `meta.stmt`: which statement of the transaction.
    pub statement: u64,
    /// `meta.file`: the binlog file.
    pub file: &'a str,
    /// `meta.pos`: where the event that holds the change begins.
    pub position: u64,
    /// `meta.schema`: the schema version.
    pub schema: Option<&'a Arc<SchemaVersion>>,
    /// Whether the column names in the images are known; else `meta.schema_unresolved` says so.
    pub resolved: bool,
    /// `meta.query`: BSON type and encoded value of the statement's text.
    pub query: Option<(u8, &'a [u8])>,
    /// `meta.user`: who ran a DDL statement, where the server logs it.
    pub user: Option<&'a str>,
    /// `before`: the encoded document.
    pub before: Option<&'a [u8]>,
    /// `after`: the encoded document.
    pub after: Option<&'a [u8]>,
    /// `changed`: the encoded array.
    pub changed: Option<&'a [u8]>,
}

/// A change as an audit document, ready to be staged.
#[derive(Debug, Clone)]
pub struct ChangeEvent {
    /// The encoded document.
    pub document: RawDocumentBuf,
    /// `meta.row`.
    pub row: u64,
    /// Values that the document only points to.
    pub large_values: Vec<LargeValue>,
    /// The schema version that it names.
    pub schema: Option<Arc<SchemaVersion>>,
}

/// Bytes from a document's start to the value of `n`: length, `_id` with its 40 characters, type and name of `n`. The two
/// come first in every document so that `n` can be filled in without looking for it.
const N_AT: usize = 4 + (1 + 4 + 4 + 41) + (1 + 2);

/// The element that [`ChangeEvent::mark_partial`] inserts into `meta`.
const PARTIAL: &[u8] = b"\x08partial\0\x01";

impl ChangeEvent {
    /// Writes the document of `change`; `n` is 0 until [`set_n`](Self::set_n).
    ///
    /// # Errors
    /// When it would be larger than BSON can say (2 GiB), which the limits on values keep from happening.
    pub fn new(
        context: &TransactionContext,
        change: &Change<'_>,
        large_values: Vec<LargeValue>,
    ) -> Result<Self, bson::error::Error> {
        let images = change.before.map_or(0, <[u8]>::len) + change.after.map_or(0, <[u8]>::len);
        let mut buffer =
            Vec::with_capacity(512 + images + change.query.map_or(0, |(_, text)| text.len()));
        let document = write::begin_document(&mut buffer);
        let id = context.id(change.row);
        write::string_field(
            &mut buffer,
            b"_id\0",
            std::str::from_utf8(&id).unwrap_or_default(),
        );
        write::int64_field(&mut buffer, b"n\0", 0);
        write::date_field(&mut buffer, b"ts\0", context.timestamp);
        write::string_field(&mut buffer, b"op\0", change.operation.name());
        write_meta(&mut buffer, context, change);
        for (key, element_type, encoded) in [
            (&b"before\0"[..], element::DOCUMENT, change.before),
            (b"after\0", element::DOCUMENT, change.after),
            (b"changed\0", element::ARRAY, change.changed),
        ] {
            if let Some(encoded) = encoded {
                write::encoded_field(&mut buffer, element_type, key, encoded);
            }
        }
        write::end_document(&mut buffer, document);
        Ok(Self {
            document: RawDocumentBuf::from_bytes(buffer)?,
            row: change.row,
            large_values,
            schema: change.schema.map(Arc::clone),
        })
    }

    /// Writes the document of transactions that are missing for good; `meta.gap` tells of them. `place` is the binlog file and
    /// position behind which they stood.
    ///
    /// # Errors
    /// When it would be larger than BSON can say.
    pub fn gap(
        context: &TransactionContext,
        place: (&str, u64),
        gap: Document,
    ) -> Result<Self, bson::error::Error> {
        let id = context.id(0);
        let (file, position) = place;
        let document = doc! {
            "_id": std::str::from_utf8(&id).unwrap_or_default(),
            "n": 0_i64,
            "ts": context.timestamp,
            "op": Operation::Gap.name(),
            "meta": {
                "source": &*context.source_id,
                "db": "",
                "tbl": "",
                "gtid": &*context.gtid,
                "row": 0_i64,
                "stmt": 0_i64,
                "file": file,
                "pos": i64::try_from(position).unwrap_or(i64::MAX),
                "server_id": i64::from(context.server_id),
                "thread_id": i64::from(context.thread_id),
                "gap": gap,
            },
        };
        Ok(Self {
            document: RawDocumentBuf::try_from(&document)?,
            row: 0,
            large_values: Vec::new(),
            schema: None,
        })
    }

    /// Takes a document back that was staged earlier.
    ///
    /// # Errors
    /// When it is none of ours.
    pub fn from_document(document: RawDocumentBuf) -> Result<Self, String> {
        let row = document
            .get_document("meta")
            .and_then(|meta| meta.get_i64("row"))
            .map_err(|error| format!("a staged event has no meta.row: {error}"))?;
        let has_n = document.as_bytes().get(N_AT - 3..N_AT) == Some(b"\x12n\0".as_slice());
        if !has_n {
            return Err("a staged event does not begin with _id and n".to_owned());
        }
        Ok(Self {
            document,
            row: u64::try_from(row)
                .map_err(|_| "a staged event has a negative meta.row".to_owned())?,
            large_values: Vec::new(),
            schema: None,
        })
    }

    /// How much memory and how much of a batch it takes: the document and what it points to.
    pub fn bytes(&self) -> usize {
        self.document.as_bytes().len()
            + self
                .large_values
                .iter()
                .map(|value| value.bytes.len())
                .sum::<usize>()
    }

    /// `_id`.
    pub fn id(&self) -> &str {
        self.document.get_str("_id").unwrap_or_default()
    }

    /// Fills in `n`.
    pub fn set_n(&mut self, n: i64) {
        self.rewrite(|bytes| {
            if let Some(field) = bytes.get_mut(N_AT..N_AT + 8) {
                field.copy_from_slice(&n.to_le_bytes());
            }
        });
    }

    /// Adds `meta.partial: true`: the transaction is larger than a batch.
    pub fn mark_partial(&mut self) {
        let Some(meta) = self.meta_span() else { return };
        self.rewrite(|bytes| {
            let end = meta.end - 1; // before meta's closing NUL
            bytes.splice(end..end, PARTIAL.iter().copied());
            for start in [0, meta.start] {
                grow_length(bytes, start, PARTIAL.len());
            }
        });
    }

    /// Replaces each image by `{ $bson: Binary }` and adds `meta.opaque: true`, for a document that MongoDB refuses for its
    /// content: what it holds stays readable, byte for byte, and the stream goes on.
    ///
    /// # Errors
    /// When the document is not valid BSON.
    pub fn make_opaque(&mut self) -> Result<(), bson::error::Error> {
        let mut document = Document::try_from(&*self.document)?;
        for image in ["before", "after"] {
            if let Some(raw) = self.document.get(image)? {
                let Some(raw) = raw.as_document() else {
                    continue;
                };
                let bytes = raw.as_bytes().to_vec();
                let binary = bson::Binary {
                    subtype: bson::spec::BinarySubtype::Generic,
                    bytes,
                };
                document.insert(image, doc! { "$bson": binary });
            }
        }
        if let Some(Bson::Document(meta)) = document.get_mut("meta") {
            meta.insert("opaque", true);
        }
        self.document = RawDocumentBuf::try_from(&document)?;
        Ok(())
    }

    /// Where `meta` stands in the document.
    fn meta_span(&self) -> Option<std::ops::Range<usize>> {
        let bytes = self.document.as_bytes();
        let meta = self.document.get_document("meta").ok()?.as_bytes();
        let start = (meta.as_ptr() as usize).checked_sub(bytes.as_ptr() as usize)?;
        Some(start..start + meta.len())
    }

    fn rewrite(&mut self, change: impl FnOnce(&mut Vec<u8>)) {
        let mut bytes = std::mem::take(&mut self.document).into_bytes();
        change(&mut bytes);
        // What `change` does keeps the lengths right. Should it not, the document is empty, has no id, and is not staged.
        self.document = RawDocumentBuf::from_bytes(bytes).unwrap_or_default();
    }
}

fn write_meta(buffer: &mut Vec<u8>, context: &TransactionContext, change: &Change<'_>) {
    write::element(buffer, element::DOCUMENT, b"meta\0");
    let meta = write::begin_document(buffer);
    write::string_field(buffer, b"source\0", &context.source_id);
    write::string_field(buffer, b"db\0", change.database);
    write::string_field(buffer, b"tbl\0", change.table);
    if let Some((kind, value)) = change.key {
        write::encoded_field(buffer, kind, b"pk\0", value);
    }
    write::string_field(buffer, b"gtid\0", &context.gtid);
    write::int64_field(
        buffer,
        b"row\0",
        i64::try_from(change.row).unwrap_or(i64::MAX),
    );
    write::int64_field(
        buffer,
        b"stmt\0",
        i64::try_from(change.statement).unwrap_or(i64::MAX),
    );
    write::string_field(buffer, b"file\0", change.file);
    write::int64_field(
        buffer,
        b"pos\0",
        i64::try_from(change.position).unwrap_or(i64::MAX),
    );
    write::int64_field(buffer, b"server_id\0", i64::from(context.server_id));
    write::int64_field(buffer, b"thread_id\0", i64::from(context.thread_id));
    if let Some(schema) = change.schema {
        write::string_field(buffer, b"schema\0", &schema.id);
    }
    if !change.resolved {
        write::encoded_field(buffer, element::BOOLEAN, b"schema_unresolved\0", &[1]);
    }
    if let Some(user) = change.user {
        write::string_field(buffer, b"user\0", user);
    }
    if let Some((kind, value)) = change.query {
        write::encoded_field(buffer, kind, b"query\0", value);
    }
    if let Some(xid) = &context.xid {
        write::string_field(buffer, b"xid\0", xid);
    }
    write::end_document(buffer, meta);
}

fn grow_length(bytes: &mut [u8], start: usize, by: usize) {
    if let Some(field) = bytes.get_mut(start..start + 4)
        && let Ok(length) = <[u8; 4]>::try_from(&*field)
    {
        let grown = i32::from_le_bytes(length) + i32::try_from(by).unwrap_or(0);
        field.copy_from_slice(&grown.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::hex;

    fn context() -> TransactionContext {
        let gtid = "3e11fa47-71ca-11e1-9e33-c80aa9429562:5";
        let mut context = TransactionContext::new(
            "mysql://db:3306".into(),
            gtid.into(),
            DateTime::from_millis(1_703_903_002_123),
            9,
        );
        context.thread_id = 77;
        context
    }

    fn insert(row: u64) -> ChangeEvent {
        let after = RawDocumentBuf::try_from(&doc! { "id": 1, "$a.b": "x\0y" }).unwrap();
        let key = 1_i32.to_le_bytes();
        let change = Change {
            operation: Operation::Insert,
            database: "shop",
            table: "orders",
            key: Some((element::INT32, &key)),
            row,
            statement: 2,
            file: "binlog.000001",
            position: 4711,
            schema: None,
            resolved: true,
            query: None,
            user: None,
            before: None,
            after: Some(after.as_bytes()),
            changed: None,
        };
        ChangeEvent::new(&context(), &change, Vec::new()).unwrap()
    }

    fn decoded(event: &ChangeEvent) -> Document {
        Document::try_from(&*event.document).unwrap()
    }

    #[test]
    fn the_document_has_the_shape_of_the_contract() {
        let mut event = insert(3);
        event.set_n(42);
        let document = decoded(&event);
        assert_eq!(
            document.keys().collect::<Vec<_>>(),
            ["_id", "n", "ts", "op", "meta", "after"]
        );
        let meta = document.get_document("meta").unwrap();
        assert_eq!(
            meta.keys().collect::<Vec<_>>(),
            [
                "source",
                "db",
                "tbl",
                "pk",
                "gtid",
                "row",
                "stmt",
                "file",
                "pos",
                "server_id",
                "thread_id"
            ]
        );
        assert_eq!(document.get_i64("n").unwrap(), 42);
        assert_eq!(document.get_str("op").unwrap(), "insert");
        assert_eq!(
            document
                .get_document("after")
                .unwrap()
                .get_str("$a.b")
                .unwrap(),
            "x\0y"
        );
        assert_eq!(meta.get_i64("row").unwrap(), 3);
    }

    #[test]
    fn the_id_is_the_second_and_the_hash_and_never_changes() {
        let id = insert(3).id().to_owned();
        let mut hash = Sha256::new();
        hash.update("mysql://db:3306\u{0}3e11fa47-71ca-11e1-9e33-c80aa9429562:5\u{0}3");
        assert_eq!(
            id,
            format!("{:08x}{}", 1_703_903_002, &hex(&hash.finalize())[..32])
        );
        assert_ne!(id, insert(4).id());
    }

    #[test]
    fn partial_is_added_inside_meta_and_nothing_else_moves() {
        let mut event = insert(0);
        let before = decoded(&event);
        event.mark_partial();
        let mut after = decoded(&event);
        assert!(
            after
                .get_document("meta")
                .unwrap()
                .get_bool("partial")
                .unwrap()
        );
        after.get_document_mut("meta").unwrap().remove("partial");
        assert_eq!(before, after);
        event.set_n(7);
        assert_eq!(decoded(&event).get_i64("n").unwrap(), 7);
    }

    #[test]
    fn an_opaque_document_still_holds_its_image() {
        let mut event = insert(0);
        let image = decoded(&event).get_document("after").unwrap().clone();
        event.make_opaque().unwrap();
        let document = decoded(&event);
        let bytes = document
            .get_document("after")
            .unwrap()
            .get_binary_generic("$bson")
            .unwrap();
        assert_eq!(
            Document::try_from(&*RawDocumentBuf::from_bytes(bytes.clone()).unwrap()).unwrap(),
            image
        );
        assert!(
            document
                .get_document("meta")
                .unwrap()
                .get_bool("opaque")
                .unwrap()
        );
        event.set_n(9);
        assert_eq!(decoded(&event).get_i64("n").unwrap(), 9);
    }

    #[test]
    fn a_staged_document_reads_back() {
        let mut event = insert(5);
        event.set_n(11);
        let again = ChangeEvent::from_document(event.document.clone()).unwrap();
        assert_eq!((again.row, again.id()), (5, event.id()));
        assert!(
            ChangeEvent::from_document(RawDocumentBuf::try_from(&doc! { "x": 1 }).unwrap())
                .is_err()
        );
    }
}
