//! The changes, in the order of `n`.
//!
//! It guarantees that a walk sees each change once and passes none over: `n` has no gap, a batch is in MongoDB whole or not at all, and all
//! reads of one [`Walk`] are of one causally consistent session, so that a read that a new primary answers does not lack what an older
//! one has told. It resumes at any `n`.
//!
//! A walk is made in pieces of [`PIECE`] numbers, so that none takes long however few of them are wanted, and what is in memory is what
//! the driver has of one piece.

use bson::{Bson, DateTime, Document, RawDocument, doc};
use mongodb::ClientSession;

use super::Reader;
use crate::error::{Error, Result};
use crate::store::settle;

/// Changes that one question is about.
const PIECE: i64 = 20_000;

/// How far changes may stand behind one that was committed later: servers give commit times, and what was committed at the same time
/// need not stand in their order.
const DISORDER: i64 = 10_000;

/// Reads changes, one question after the other.
#[derive(Debug)]
pub struct Walk {
    reader: Reader,
    session: ClientSession,
}

impl Reader {
    /// Begins to read changes.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn walk(&self) -> Result<Walk> {
        let session = settle("start a session", self.client.start_session()).await?;
        Ok(Walk {
            reader: self.clone(),
            session,
        })
    }

    /// The sources that have an offset.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn sources(&self) -> Result<Vec<String>> {
        let found = settle("list the sources", self.offsets.distinct("_id", doc! {})).await?;
        Ok(found
            .iter()
            .filter_map(|id| id.as_str().map(str::to_owned))
            .collect())
    }

    /// The columns of the key in a schema version.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn key_columns(&self, schema: &str) -> Result<Vec<String>> {
        let found = settle(
            "read a schema",
            self.schemas.find_one(doc! { "_id": schema }),
        )
        .await?;
        let found = found.unwrap_or_default();
        let key = found.get_array("key").ok().into_iter().flatten();
        Ok(key
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect())
    }

    /// The numbers of all changes of this source that match, in order.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn numbers(&self, filter: Document) -> Result<Vec<i64>> {
        let doing = "look for changes";
        let filter = doc! { "$and": [{ "meta.source": &*self.source_id }, filter] };
        let mut cursor = settle(
            doing,
            self.changes
                .find(filter)
                .projection(doc! { "_id": 0, "n": 1 }),
        )
        .await?;
        let mut numbers = Vec::new();
        while settle(doing, cursor.advance()).await? {
            numbers.extend(number(cursor.current()));
        }
        numbers.sort_unstable();
        Ok(numbers)
    }
}

impl Walk {
    /// The last `n` that a majority has; 0 before the first.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn last(&mut self) -> Result<i64> {
        let last = self.first_of(doc! {}, doc! { "n": -1 }).await?.unwrap_or(0);
        Ok(last)
    }

    /// Where changes begin that were committed at `time` or later; None: there are none. Those that stand behind it are committed later,
    /// but for some that the caller must leave out.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn since(&mut self, time: DateTime) -> Result<Option<i64>> {
        let first = self
            .first_of(doc! { "ts": { "$gte": time } }, doc! { "ts": 1 })
            .await?;
        Ok(first.map(|first| (first - DISORDER).max(1)))
    }

    /// Whether there is a change that matches.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn has(&mut self, filter: Document) -> Result<bool> {
        Ok(self.first_of(filter, doc! {}).await?.is_some())
    }

    async fn first_of(&mut self, filter: Document, order: Document) -> Result<Option<i64>> {
        let mut filter = filter;
        filter.insert("meta.source", &*self.reader.source_id);
        let found = settle(
            "look for a change",
            self.reader
                .changes
                .find_one(filter)
                .sort(order)
                .projection(doc! { "_id": 0, "n": 1 })
                .session(&mut self.session),
        )
        .await?;
        Ok(found.and_then(|found| found.get_i64("n").ok()))
    }

    /// Shows `visit` the changes that match, from `after` (without it) to `through`. `after` is moved along, so that a walk that
    /// failed goes on where it was.
    ///
    /// # Errors
    /// As of any call to MongoDB, and those of `visit`.
    pub async fn visit<E: From<Error>>(
        &mut self,
        after: &mut i64,
        through: i64,
        filter: &Document,
        mut visit: impl FnMut(&RawDocument) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        while *after < through {
            let end = through.min(*after + PIECE);
            let piece = self.piece(filter, doc! { "$gt": *after, "$lte": end });
            let visited = |change: &RawDocument| -> std::result::Result<(), E> {
                visit(change)?;
                *after = number(change).unwrap_or(*after);
                Ok(())
            };
            self.visit_piece(piece, visited).await?;
            *after = end;
        }
        Ok(())
    }

    /// The `n` before the last `count` changes up to `through` that match and that `is_wanted`; only those behind `oldest` are looked at.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn before_the_last(
        &mut self,
        count: usize,
        (oldest, through): (i64, i64),
        filter: &Document,
        is_wanted: impl Fn(&RawDocument) -> bool,
    ) -> Result<i64> {
        let doing = "look for the last changes";
        let mut found = 0;
        let mut end = through;
        while end > oldest && found < count {
            let after = oldest.max(end - PIECE);
            let piece = self.piece(filter, doc! { "$gt": after, "$lte": end });
            let wanted = doc! { "_id": 0, "n": 1, "ts": 1, "op": 1, "meta.db": 1, "meta.tbl": 1 };
            let mut cursor = settle(
                doing,
                self.reader
                    .changes
                    .find(piece)
                    .sort(doc! { "n": -1 })
                    .projection(wanted)
                    .session(&mut self.session),
            )
            .await?;
            while settle(doing, cursor.advance(&mut self.session)).await? {
                if !is_wanted(cursor.current()) {
                    continue;
                }
                found += 1;
                if found == count {
                    return Ok(number(cursor.current()).unwrap_or(1) - 1);
                }
            }
            end = after;
        }
        Ok(if count == 0 { through } else { oldest })
    }

    /// Shows `visit` the changes of these numbers, in order.
    ///
    /// # Errors
    /// As of any call to MongoDB, and those of `visit`.
    pub async fn visit_numbers<E: From<Error>>(
        &mut self,
        numbers: &[i64],
        mut visit: impl FnMut(&RawDocument) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        for some in numbers.chunks(500) {
            let piece = self.piece(&doc! {}, doc! { "$in": some });
            self.visit_piece(piece, &mut visit).await?;
        }
        Ok(())
    }

    async fn visit_piece<E: From<Error>>(
        &mut self,
        piece: Document,
        mut visit: impl FnMut(&RawDocument) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let doing = "read changes";
        let found = self.reader.changes.find(piece).sort(doc! { "n": 1 });
        let mut cursor = settle(doing, found.session(&mut self.session)).await?;
        while settle(doing, cursor.advance(&mut self.session)).await? {
            visit(cursor.current())?;
        }
        Ok(())
    }

    /// The text of the statement that made a change; it stands on the statement's first document only, which is not farther away than
    /// the rows of its transaction.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn statement(&mut self, change: &Document) -> Result<Option<Bson>> {
        let Ok(meta) = change.get_document("meta") else {
            return Ok(None);
        };
        if let Some(query) = meta.get("query") {
            return Ok(Some(query.clone()));
        }
        let (Some(gtid), Some(statement), Ok(row), Ok(n)) = (
            meta.get("gtid"),
            meta.get("stmt"),
            meta.get_i64("row"),
            change.get_i64("n"),
        ) else {
            return Ok(None);
        };
        let of_it =
            doc! { "meta.gtid": gtid, "meta.stmt": statement, "meta.query": { "$exists": true } };
        let found = settle(
            "look for the statement",
            self.reader
                .changes
                .find_one(self.piece(&of_it, doc! { "$gte": n - row, "$lte": n }))
                .sort(doc! { "n": 1 })
                .projection(doc! { "meta.query": 1 })
                .session(&mut self.session),
        )
        .await?;
        Ok(found.and_then(|found| found.get_document("meta").ok()?.get("query").cloned()))
    }

    fn piece(&self, filter: &Document, numbers: Document) -> Document {
        let mut piece = filter.clone();
        piece.insert("meta.source", &*self.reader.source_id);
        piece.insert("n", numbers);
        piece
    }
}

fn number(change: &RawDocument) -> Option<i64> {
    change.get_i64("n").ok()
}
