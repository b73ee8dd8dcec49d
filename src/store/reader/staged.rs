//! What is staged: the batches that wait for their commit, and those that recovery set aside.

use bson::{DateTime, Document, RawDocumentBuf, doc};

use super::Reader;
use crate::error::Result;
use crate::store::settle;
use crate::store::staging::{events, read_batch, staging_id};

/// A staged batch without its events.
#[derive(Debug, Clone, PartialEq)]
pub struct StagedBatch {
    /// Its number.
    pub batch: i64,
    /// The epoch of the daemon that staged it.
    pub epoch: i64,
    /// `pending` or `archived`.
    pub status: String,
    /// Events in it.
    pub count: i64,
    /// Bytes of its document.
    pub bytes: i64,
    /// When it was staged.
    pub created_at: Option<DateTime>,
    /// Why it was set aside.
    pub note: Option<String>,
}

/// A staged batch as it stands there.
#[derive(Debug)]
pub struct StagedDocument {
    /// All of it, its events unpacked.
    pub document: Document,
    /// Why it is not to be trusted, where it is not.
    pub problem: Option<String>,
}

impl Reader {
    /// The source that is read.
    pub fn source_id(&self) -> &str {
        &self.source_id
    }

    /// All staged batches of this source, by number.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn staged_batches(&self) -> Result<Vec<StagedBatch>> {
        let doing = "list staged batches";
        let stages = [
            doc! { "$match": { "source": &*self.source_id } },
            doc! { "$project": {
                "batch": 1, "epoch": 1, "status": 1, "count": 1, "createdAt": 1, "note": 1,
                "bytes": { "$toLong": { "$bsonSize": "$$ROOT" } },
            } },
            doc! { "$sort": { "batch": 1 } },
        ];
        let mut cursor = settle(doing, self.staging.aggregate(stages)).await?;
        let mut found = Vec::new();
        while settle(doing, cursor.advance()).await? {
            let document = cursor.current();
            let integer = |name| document.get_i64(name).unwrap_or_default();
            found.push(StagedBatch {
                batch: integer("batch"),
                epoch: integer("epoch"),
                status: document.get_str("status").unwrap_or_default().to_owned(),
                count: integer("count"),
                bytes: integer("bytes"),
                created_at: document.get_datetime("createdAt").ok(),
                note: document.get_str("note").ok().map(str::to_owned),
            });
        }
        Ok(found)
    }

    /// One staged batch, and whether its checksum holds.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn staged_batch(&self, batch: i64) -> Result<Option<StagedDocument>> {
        let id = staging_id(&self.source_id, batch);
        let staging = self.staging.clone_with_type::<RawDocumentBuf>();
        let found = settle("read a staged batch", staging.find_one(doc! { "_id": id })).await?;
        Ok(found.map(|found| {
            let mut document = Document::try_from(&*found).unwrap_or_default();
            if let Ok(events) = events::read(&found) {
                document.insert("events", events.for_people());
            }
            StagedDocument {
                problem: read_batch(&found).err(),
                document,
            }
        }))
    }

    /// Whether batches are staged that are not committed.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn has_pending(&self) -> Result<bool> {
        let pending = doc! { "source": &*self.source_id, "status": "pending" };
        let found = settle("look for staged batches", self.staging.find_one(pending)).await?;
        Ok(found.is_some())
    }
}
