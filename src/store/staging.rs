//! Staging: a batch is durable here before its transaction begins.
//!
//! It guarantees that what the daemon has read survives it: a crash between here and the commit leaves a `pending` document,
//! and `recovery` finishes it. What a batch refers to (schema versions, pieces of large values) is written first, under ids
//! made from the content, so a second write of the same thing is harmless.

pub(super) mod events;

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use bson::{Binary, DateTime, Document, RawDocument, RawDocumentBuf, doc, spec::BinarySubtype};
use futures_util::TryStreamExt;
use sha2::{Digest, Sha256};

use super::{Store, bounded, classify, settle};
use crate::batch::Batch;
use crate::bson_writer::{self as write, element};
use crate::error::{Error, Kind, Result};
use crate::event::ChangeEvent;
use crate::large_value::LargeValue;
use crate::offset::{Offset, position_document, position_from_document};

/// Size of one piece of a large value: 8 MiB, half of what a document may hold.
pub(super) const PIECE_BYTES: usize = 8 * 1024 * 1024;

/// Schema versions remembered as written, so that each is written once a run. A source has a few thousand tables; when more
/// are met the memory is cleared, and the next write of a known one costs a duplicate-key answer.
const KNOWN_SCHEMAS: usize = 10_000;

/// Which schema versions were written in this run.
#[derive(Debug, Default)]
pub(super) struct KnownSchemas(Mutex<HashSet<String>>);

impl KnownSchemas {
    fn contains(&self, id: &str) -> bool {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(id)
    }

    fn insert(&self, id: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= KNOWN_SCHEMAS {
            known.clear();
        }
        known.insert(id.to_owned());
    }
}

impl Store {
    /// Makes a batch durable. An empty batch needs no staging: losing it loses nothing.
    ///
    /// # Errors
    /// Transient ones of MongoDB; [`Kind::Fenced`] when a newer daemon staged a batch of this number.
    pub async fn stage(&self, batch: &Batch, epoch: i64) -> Result<()> {
        if batch.events.is_empty() {
            return Ok(());
        }
        self.write_references(batch).await?;
        let document = encode(&self.source_id, batch, epoch)?;
        let doing = format!("stage batch {}", batch.number());
        match bounded(&doing, self.staging.insert_one(&document)).await? {
            Ok(_) => Ok(()),
            Err(error) if classify::is_duplicate(&error) => {
                self.stage_again(batch, epoch, &document).await
            }
            Err(error) => Err(classify::classify(&doing, &error)),
        }
    }

    /// A batch of this number is staged already: by this daemon, when only the answer was lost; by an older one, which was
    /// taken over and whose batch the binlog still holds; or by a newer one, and then this daemon is not the owner.
    async fn stage_again(
        &self,
        batch: &Batch,
        epoch: i64,
        document: &RawDocumentBuf,
    ) -> Result<()> {
        let id = self.staging_id(batch.number());
        let older = doc! { "_id": &id, "epoch": { "$lt": epoch } };
        let replaced = settle(
            "stage over an older batch",
            self.staging.replace_one(older, document),
        )
        .await?;
        if replaced.matched_count > 0 {
            return Ok(());
        }
        let newer = doc! { "_id": &id, "epoch": { "$gt": epoch } };
        let found = settle("look at a staged batch", self.staging.find_one(newer)).await?;
        if found.is_some() {
            Err(self.fenced(epoch))
        } else {
            Ok(())
        }
    }

    /// Writes what the documents of a batch point to: schema versions and large values.
    async fn write_references(&self, batch: &Batch) -> Result<()> {
        for event in &batch.events {
            if let Some(schema) = &event.schema
                && !self.known_schemas.contains(&schema.id)
            {
                self.insert_unless_there(
                    "write a schema version",
                    &self.schemas,
                    schema.document.clone(),
                )
                .await?;
                self.known_schemas.insert(&schema.id);
            }
            for value in &event.large_values {
                self.write_large_value(value).await?;
            }
        }
        Ok(())
    }

    async fn write_large_value(&self, value: &LargeValue) -> Result<()> {
        let sha256 = value.sha256_hex();
        for (number, piece) in value.bytes.chunks(PIECE_BYTES).enumerate() {
            let document = doc! {
                "_id": format!("{sha256}#{number}"),
                "value": &sha256,
                "piece": i64::try_from(number).unwrap_or(i64::MAX),
                "data": Binary { subtype: BinarySubtype::Generic, bytes: piece.to_vec() },
            };
            self.insert_unless_there("write a piece of a large value", &self.values, document)
                .await?;
        }
        Ok(())
    }

    async fn insert_unless_there(
        &self,
        doing: &str,
        collection: &mongodb::Collection<Document>,
        document: Document,
    ) -> Result<()> {
        match bounded(doing, collection.insert_one(document)).await? {
            Ok(_) => Ok(()),
            Err(error) if classify::is_duplicate(&error) => Ok(()),
            Err(error) => Err(classify::classify(doing, &error)),
        }
    }

    pub(super) fn staging_id(&self, batch: i64) -> String {
        staging_id(&self.source_id, batch)
    }

    /// The number of each pending batch of this source, in order; few bytes each, whatever the batches hold.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn pending_batches(&self) -> Result<Vec<i64>> {
        let cursor = settle(
            "list pending batches",
            self.staging
                .find(doc! { "source": &*self.source_id, "status": "pending" })
                .projection(doc! { "batch": 1 })
                .sort(doc! { "batch": 1 }),
        )
        .await?;
        let found: Vec<RawDocumentBuf> =
            settle("list pending batches", cursor.try_collect()).await?;
        found
            .iter()
            .map(|document| {
                document.get_i64("batch").map_err(|_| {
                    Error::new(
                        Kind::StoreRefused,
                        format!("{}: a pending batch has no number", self.staging.name()),
                    )
                })
            })
            .collect()
    }

    /// Reads one staged batch: its changes and the offset after them, or why they are not to be trusted.
    ///
    /// # Errors
    /// As of any call to MongoDB. A batch that cannot be trusted is none of these.
    pub async fn staged(&self, batch: i64) -> Result<Option<std::result::Result<Batch, String>>> {
        let id = self.staging_id(batch);
        let found = settle(
            "read a staged batch",
            self.staging.find_one(doc! { "_id": id }),
        )
        .await?;
        Ok(found.map(|document| read_batch(&document)))
    }

    /// Sets a batch aside, with a note for people; it expires after a week.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn archive(&self, batch: i64, note: &str) -> Result<()> {
        let update = doc! { "$set": { "status": "archived", "note": note } };
        settle(
            "archive a batch",
            self.staging
                .update_one(doc! { "_id": self.staging_id(batch) }, update),
        )
        .await?;
        Ok(())
    }

    /// Removes a batch that is committed.
    pub(super) async fn unstage(&self, batch: i64) -> Result<()> {
        let id = self.staging_id(batch);
        settle(
            "unstage a batch",
            self.staging.delete_one(doc! { "_id": id }),
        )
        .await?;
        Ok(())
    }

    pub(super) async fn withdraw(&self, epoch: i64) -> Result<()> {
        let own = doc! { "source": &*self.source_id, "status": "pending", "epoch": epoch };
        settle("withdraw staged batches", self.staging.delete_many(own)).await?;
        Ok(())
    }
}

pub(super) fn staging_id(source_id: &str, batch: i64) -> String {
    format!("{source_id}#{batch}")
}

/// The staging document. The spool keeps a batch in the same form.
pub(super) fn encode(source_id: &str, batch: &Batch, epoch: i64) -> Result<RawDocumentBuf> {
    if let Some(index) = batch.events.iter().position(|event| event.id().is_empty()) {
        return Err(Error::new(
            Kind::Internal,
            format!("event {index} of batch {} has no id", batch.number()),
        ));
    }
    let mut buffer = Vec::with_capacity(1024);
    let document = write::begin_document(&mut buffer);
    write::string_field(
        &mut buffer,
        b"_id\0",
        &staging_id(source_id, batch.number()),
    );
    write::string_field(&mut buffer, b"source\0", source_id);
    write::int64_field(&mut buffer, b"batch\0", batch.number());
    write::int64_field(&mut buffer, b"epoch\0", epoch);
    write::string_field(&mut buffer, b"status\0", "pending");
    write::date_field(&mut buffer, b"createdAt\0", DateTime::now());
    write::int64_field(
        &mut buffer,
        b"count\0",
        i64::try_from(batch.events.len()).unwrap_or(i64::MAX),
    );
    events::write(&mut buffer, batch)?;
    for (key, part) in [
        (&b"follows\0"[..], position_document(&batch.previous)),
        (b"next\0", batch.next.progress()),
    ] {
        let part = RawDocumentBuf::try_from(&part).map_err(|error| {
            Error::new(
                Kind::Internal,
                format!("the position of a batch is not BSON: {error}"),
            )
        })?;
        write::encoded_field(&mut buffer, element::DOCUMENT, key, part.as_bytes());
    }
    write::string_field(
        &mut buffer,
        b"sha256\0",
        &checksum(batch.events.iter().map(|event| event.document.as_bytes())),
    );
    write::end_document(&mut buffer, document);
    RawDocumentBuf::from_bytes(buffer).map_err(|error| {
        Error::new(
            Kind::Internal,
            format!("a staging document is not BSON: {error}"),
        )
    })
}

/// SHA-256 over the documents of a batch, in order, as hex.
fn checksum<'a>(documents: impl Iterator<Item = &'a [u8]>) -> String {
    let mut hash = Sha256::new();
    for document in documents {
        hash.update(document);
    }
    crate::hex::hex(&hash.finalize())
}

/// The batch inside a staging document, or why it is not to be trusted.
pub(super) fn read_batch(document: &RawDocument) -> std::result::Result<Batch, String> {
    let mut events = Vec::new();
    let mut bytes = 0;
    for document in events::read(document)?.documents() {
        let event = ChangeEvent::from_document(document?.to_owned())?;
        bytes += event.bytes();
        events.push(event);
    }
    let expected = document
        .get_str("sha256")
        .map_err(|error| format!("sha256: {error}"))?;
    let found = checksum(events.iter().map(|event| event.document.as_bytes()));
    if found != expected {
        return Err(format!(
            "checksum does not hold: expected {expected}, found {found}"
        ));
    }
    let part = |name| {
        let part = document
            .get_document(name)
            .map_err(|error| format!("{name}: {error}"))?;
        Document::try_from(part).map_err(|error| format!("{name}: {error}"))
    };
    let previous = position_from_document(&part("follows")?).map_err(|error| error.to_string())?;
    let next = Offset::from_document(&part("next")?).map_err(|error| error.to_string())?;
    let first_n = next.n + 1 - i64::try_from(events.len()).unwrap_or(i64::MAX);
    Ok(Batch {
        events,
        first_n,
        previous,
        next,
        bytes,
    })
}
