//! The saved offset and whether batches wait behind it, for commands that only look.

use bson::doc;

use super::Reader;
use crate::error::{Error, Kind, Result};
use crate::offset::Offset;

impl Reader {
    /// The offset of the source; `None` when it was never written.
    ///
    /// # Errors
    /// Where MongoDB does not answer, or the document is not one that sdl wrote.
    pub async fn saved_offset(&self) -> Result<Option<Offset>> {
        let by_source = doc! { "_id": &*self.source_id };
        let found = super::settle("read the offset", self.offsets.find_one(by_source)).await?;
        let offset = found.map(|document| Offset::from_document(&document));
        offset.transpose().map_err(|error| {
            Error::new(
                Kind::StoreRefused,
                format!(
                    "the offset of {} in {} is not one that sdl wrote: {error}; restore it from a backup",
                    self.source_id,
                    self.offsets.name()
                ),
            )
        })
    }

    /// Whether batches are staged that are not committed.
    ///
    /// # Errors
    /// Where MongoDB does not answer.
    pub async fn has_pending(&self) -> Result<bool> {
        let pending = doc! { "source": &*self.source_id, "status": "pending" };
        let found =
            super::settle("look for staged batches", self.staging.find_one(pending)).await?;
        Ok(found.is_some())
    }
}
