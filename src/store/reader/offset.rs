//! How far the source is recorded, as its offset document says.

use bson::{Document, doc};

use super::Reader;
use crate::error::Result;
use crate::offset::Offset;
use crate::store::ownership::parse_offset;
use crate::store::settle;

impl Reader {
    /// The offset of the source; `None` when it was never written.
    ///
    /// # Errors
    /// Where MongoDB does not answer, or the document is not one that sdl wrote.
    pub async fn saved_offset(&self) -> Result<Option<Offset>> {
        let found = self.offset_document().await?;
        found
            .map(|document| parse_offset(&document, self.offsets.name()))
            .transpose()
    }

    /// The document itself: it also says when it was written, and by whom.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn offset_document(&self) -> Result<Option<Document>> {
        let by_source = doc! { "_id": &*self.source_id };
        settle("read the offset", self.offsets.find_one(by_source)).await
    }
}
