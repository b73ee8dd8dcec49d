//! Whether a collection that has grown takes changes more slowly: the same backlog into an empty database, and into one that holds
//! millions of documents of another source, by turns on one server.

#![allow(unreachable_pub)]

use std::sync::Arc;

use futures_util::TryStreamExt;
use mongodb::bson::raw::RawElement;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, cstr, doc};
use mongodb::{Client, Collection, IndexModel};

use crate::backlog::{self, changed};
use crate::common::{Mongod, Mysqld, Settings, mongo};

const WRITERS: usize = 2;

const AT_ONCE: usize = 1_000;

/// How much older each copy of the backlog is than the one behind it.
const APART: i64 = 86_400;

/// A database full of history.
pub struct Grown {
    database: String,
    rounds: usize,
}

impl Grown {
    /// Fills a database with `wanted` older copies of `documents`, under the indexes of the database `model`, which a daemon made.
    pub async fn fill(
        mongod: &Mongod,
        model: &str,
        documents: &Arc<Vec<RawDocumentBuf>>,
        wanted: usize,
        mut tell: impl FnMut(usize),
    ) -> Self {
        let database = format!("grown_{}", std::process::id());
        let client = mongod.client().await;
        let changes: Collection<RawDocumentBuf> =
            client.database(&database).collection(mongo::CHANGES);
        changes
            .create_indexes(indexes(&client, model).await)
            .await
            .expect("the same indexes");
        let copies = wanted.div_ceil(documents.len());
        for copy in 0..copies {
            let count = documents.len().min(wanted - copy * documents.len());
            let share = count.div_ceil(WRITERS);
            let writers: Vec<_> = (0..count)
                .step_by(share)
                .map(|first| {
                    let (changes, documents) = (changes.clone(), Arc::clone(documents));
                    let range = first..count.min(first + share);
                    let age = (copies - copy) as i64 * APART;
                    tokio::spawn(async move {
                        let beyond = (copy * documents.len()) as i64;
                        for chunk in documents[range].chunks(AT_ONCE) {
                            let older: Vec<_> = chunk
                                .iter()
                                .map(|event| older(event, age, beyond))
                                .collect();
                            changes.insert_many(older).await.expect("insert_many");
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.await.expect("a writer failed");
            }
            tell(copy * documents.len() + count);
        }
        Self {
            database,
            rounds: 0,
        }
    }

    /// Events a second into the empty database and into the full one.
    pub async fn round(
        &mut self,
        mysqld: &Mysqld,
        mongod: &Mongod,
        changes: &[(String, String)],
        events: u64,
    ) -> (f64, f64) {
        let settings = changed(Settings::new(mysqld, mongod), changes);
        let empty = backlog::catch_up(mysqld, mongod, &settings, events).await;
        let database = mongod.database(settings.database()).await;
        database.drop().await.expect("a database can be dropped");

        self.rounds += 1;
        let source = format!("grown-{}", self.rounds);
        // With a server_id of its own: the server may still show the reader of the round before, which was another source.
        let settings = changed(Settings::new(mysqld, mongod), changes)
            .set("MONGO_DB", &self.database)
            .set("SOURCE_ID", source);
        let full = backlog::catch_up(mysqld, mongod, &settings, events).await;
        // The next round is another source's, and the harness looks at the only offset that there is.
        let database = mongod.database(settings.database()).await;
        let offsets: Collection<Document> = database.collection(mongo::OFFSETS);
        offsets.delete_many(doc! {}).await.expect("the offset goes");
        (empty.events_per_second(), full.events_per_second())
    }

    /// Drops it.
    pub async fn forget(self, mongod: &Mongod) {
        let database = mongod.database(&self.database).await;
        database.drop().await.expect("a database can be dropped");
    }
}

async fn indexes(client: &Client, model: &str) -> Vec<IndexModel> {
    let changes: Collection<Document> = client.database(model).collection(mongo::CHANGES);
    let indexes = changes.list_indexes().await.expect("the daemon's indexes");
    let mut indexes: Vec<_> = indexes.try_collect().await.expect("the daemon's indexes");
    indexes.retain(|index| index.keys != doc! { "_id": 1 });
    indexes
}

/// The same change, `age` seconds before and with another `n`: its `_id`, which begins with the second, and its `ts` say so.
fn older(event: &RawDocumentBuf, age: i64, beyond: i64) -> RawDocumentBuf {
    let mut older = RawDocumentBuf::new();
    for element in event.iter_elements() {
        let element: RawElement<'_> = element.expect("a document that a server gave");
        let value = element.value();
        match element.key().as_str() {
            "n" => {
                let n = value.expect("a value").as_i64().expect("n is a number");
                older.append(cstr!("n"), n + beyond);
            }
            "_id" => {
                let id = value.expect("a value").as_str().expect("_id is a text");
                let (second, hash) = id.split_at(8);
                let second = i64::from_str_radix(second, 16).expect("the commit second");
                older.append(cstr!("_id"), format!("{:08x}{hash}", second - age));
            }
            "ts" => {
                let ts = value.expect("a value").as_datetime().expect("ts is a date");
                let ts = DateTime::from_millis(ts.timestamp_millis() - age * 1_000);
                older.append(cstr!("ts"), ts);
            }
            _ => older.append(element.key(), value.expect("a value")),
        }
    }
    older
}
