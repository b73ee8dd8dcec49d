//! Who owns a source: the offset document, its epoch, and the session of the daemon that commits.
//!
//! It guarantees that after [`Store::take_over`] no older daemon can commit: each take-over raises `epoch`, and every commit
//! asks for the epoch it knows. A killed predecessor may have left a transaction open that holds the offset's write lock for
//! a minute (transactionLifetimeLimitSeconds); its session id stands in the offset, and ending that session frees the lock
//! at once.

use bson::{Bson, Document, doc};
use mongodb::ClientSession;
use mongodb::options::ReturnDocument;

use super::{Store, bounded, classify, settle};
use crate::error::{Error, Kind, Result};
use crate::offset::Offset;

impl Store {
    /// Reads the offset of this source; `None` when it was never written.
    ///
    /// # Errors
    /// A document that sdl cannot have written is for an operator.
    pub async fn offset(&self) -> Result<Option<Offset>> {
        let found = settle("read the offset", self.offsets.find_one(self.by_source())).await?;
        found
            .map(|document| self.parse_offset(&document))
            .transpose()
    }

    /// Writes the first offset of a source. `false` when another daemon was faster.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn create_offset(&self, offset: &Offset) -> Result<bool> {
        let mut document = self.by_source();
        document.extend(offset.progress());
        document.insert("epoch", offset.epoch);
        document.insert("updatedAt", bson::DateTime::now());
        document.insert("session", Bson::Null);
        match bounded("write the first offset", self.offsets.insert_one(document)).await? {
            Ok(_) => Ok(true),
            Err(error) if classify::is_duplicate(&error) => Ok(false),
            Err(error) => Err(classify::classify("write the first offset", &error)),
        }
    }

    /// Takes the source over: ends the predecessor's open transaction, raises the epoch, and notes `session` as the one that
    /// commits from now on. `None` when the source has no offset yet.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub(super) async fn take_over(&self, session: &ClientSession) -> Result<Option<Offset>> {
        let Some(before) =
            settle("read the offset", self.offsets.find_one(self.by_source())).await?
        else {
            return Ok(None);
        };
        if let Ok(predecessor) = before.get_document("session") {
            self.end_session(predecessor.clone()).await?;
        }
        let taken = settle(
            "take the source over",
            self.offsets
                .find_one_and_update(
                    self.by_source(),
                    doc! {
                        "$inc": { "epoch": 1_i64 },
                        "$set": { "session": session.id().clone() },
                        // Whoever needs no lease takes it from whoever has one.
                        "$unset": { "lease": "" },
                    },
                )
                .return_document(ReturnDocument::After),
        )
        .await?;
        taken
            .map(|document| self.parse_offset(&document))
            .transpose()
    }

    /// A session to commit with. Without causal consistency, by which the first statement of a transaction would wait until every
    /// write before it, the staging of the next batches among them, is visible in the oplog (`afterClusterTime`; 12 of 105 ms a
    /// transaction when measured). Nothing is lost with it: each commit is on a majority before the next begins, so that every
    /// primary has it, and the fence asks for exactly the one before.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub(super) async fn committing_session(&self) -> Result<ClientSession> {
        let session = self.client.start_session().causal_consistency(false);
        settle("start a session", session).await
    }

    /// Notes a new committing session, for a daemon that still owns `epoch`.
    ///
    /// # Errors
    /// [`Kind::Fenced`] when it does not own it any more.
    pub(super) async fn note_session(&self, epoch: i64, session: &ClientSession) -> Result<()> {
        let mut owned = self.by_source();
        owned.insert("epoch", epoch);
        let updated = settle(
            "note the session",
            self.offsets
                .update_one(owned, doc! { "$set": { "session": session.id().clone() } }),
        )
        .await?;
        if updated.matched_count == 0 {
            Err(self.fenced(epoch))
        } else {
            Ok(())
        }
    }

    /// Whether the offset stands at `batch` on a majority, for a daemon that owns `epoch`: a write that finds it there, and that a
    /// majority has, has what it found on that majority as well.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub(super) async fn confirm(
        &self,
        epoch: i64,
        batch: i64,
        session: &ClientSession,
    ) -> Result<bool> {
        let mut found = self.by_source();
        found.extend(doc! { "epoch": epoch, "batch": batch });
        let updated = settle(
            "confirm the offset",
            self.offsets
                .update_one(found, doc! { "$set": { "session": session.id().clone() } }),
        )
        .await?;
        Ok(updated.matched_count > 0)
    }

    /// Ends a session and with it a transaction that it left open. Without it the lock ends by itself within a minute, and the calls
    /// that wait for it are retried, so a refusal is only told.
    ///
    /// # Errors
    /// When MongoDB is away.
    pub(super) async fn end_session(&self, session: Document) -> Result<()> {
        let admin = self.client.database("admin");
        let ended = settle(
            "end a session",
            admin.run_command(doc! { "killSessions": [session] }),
        )
        .await;
        match ended {
            Err(error) if error.is_transient() => Err(error),
            Err(error) => {
                tracing::warn!(%error, "could not end the predecessor's session; its locks end within a minute");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    /// The error of a daemon whose source was taken over.
    pub(super) fn fenced(&self, epoch: i64) -> Error {
        Error::new(
            Kind::Fenced,
            format!(
                "fenced: another sdl took the source {} over (this one had epoch {epoch}); run one daemon per source, or give \
                 each its own SOURCE_ID",
                self.source_id
            ),
        )
    }

    pub(super) fn by_source(&self) -> Document {
        doc! { "_id": &*self.source_id }
    }

    pub(super) fn parse_offset(&self, document: &Document) -> Result<Offset> {
        parse_offset(document, self.offsets.name())
    }
}

/// The offset in a document of the collection of this name.
pub(super) fn parse_offset(document: &Document, collection: &str) -> Result<Offset> {
    Offset::from_document(document).map_err(|error| {
        let source = document.get_str("_id").unwrap_or("?");
        Error::new(
            Kind::StoreRefused,
            format!(
                "the offset of {source} in {collection} is not one that sdl wrote: {error}; restore it from a backup"
            ),
        )
    })
}
