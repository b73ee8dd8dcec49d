//! A replay after an offset was set back by hand meets documents that are there already.
//!
//! It guarantees that only a document that tells of the same change is left out; one that differs is an error, not a shrug.

use std::collections::HashMap;

use bson::{Document, RawDocumentBuf, doc};
use futures_util::TryStreamExt;
use mongodb::options::ReadConcern;

use super::group::{Group, is_opaque};
use super::{Committer, describe};
use crate::error::{Error, Kind, Result};
use crate::event::ChangeEvent;
use crate::store::settle;

impl Committer {
    /// Takes the documents that are there already, and equal, out of the group; gives how many.
    ///
    /// # Errors
    /// One that is there and differs is for an operator.
    pub(super) async fn leave_out_present(&self, group: &mut Group) -> Result<usize> {
        let ids: Vec<&str> = group.events().map(ChangeEvent::id).collect();
        let query = doc! { "_id": { "$in": ids } };
        let present: Vec<RawDocumentBuf> = self
            .store
            .retry
            .persist("read what is there already", || async {
                let cursor = settle(
                    "read what is there already",
                    // Leaving out what may yet be rolled back would lose it.
                    self.store
                        .changes
                        .find(query.clone())
                        .read_concern(ReadConcern::majority()),
                )
                .await?;
                settle("read what is there already", cursor.try_collect()).await
            })
            .await?;
        let mut there = HashMap::new();
        for document in &present {
            if let Ok(id) = document.get_str("_id") {
                there.insert(id, document);
            }
        }
        for event in group.events() {
            if let Some(found) = there.get(event.id())
                && !is_same_change(found, event)
            {
                return Err(Error::new(
                    Kind::StoreRefused,
                    format!(
                        "{} holds a document {} that differs from what the binlog says; it was changed after it was written, \
                         or another source uses the same SOURCE_ID",
                        self.store.changes.name(),
                        event.id()
                    ),
                ));
            }
        }
        let left_out = group.leave_out(|event| there.contains_key(event.id()));
        let doing = describe(group);
        if left_out == 0 {
            return Err(Error::new(
                Kind::StoreRefused,
                format!(
                    "{}: {doing}: a duplicate key, but none of the documents is there: n = {} is taken, so the offset's n was \
                     set back by hand; set it to the largest one, db.{}.find().sort({{n: -1}}).limit(1), with \
                     db.{}.updateOne({{_id: '{}'}}, {{$set: {{n: NumberLong(LARGEST)}}}})",
                    self.store.changes.name(),
                    self.committed.n + 1,
                    self.store.changes.name(),
                    self.store.offsets.name(),
                    self.store.source_id
                ),
            ));
        }
        tracing::warn!(
            doing,
            left_out,
            "documents of a replay are there already and were left out"
        );
        Ok(left_out)
    }
}

/// Whether a document that is there already tells of the same change: all of it but what depends on when and from where it
/// was read.
fn is_same_change(found: &RawDocumentBuf, event: &ChangeEvent) -> bool {
    let mut event = event.clone();
    if is_opaque(found) && !is_opaque(&event.document) && event.make_opaque().is_err() {
        return false;
    }
    let content = |document: &RawDocumentBuf| -> Option<Document> {
        let mut document = Document::try_from(&**document).ok()?;
        document.remove("n");
        let meta = document.get_document_mut("meta").ok()?;
        for varying in ["partial", "file", "pos", "query"] {
            meta.remove(varying);
        }
        Some(document)
    };
    match (content(found), content(&event.document)) {
        (Some(found), Some(expected)) => found == expected,
        _ => false,
    }
}
