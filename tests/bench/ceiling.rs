//! The ceilings: what a program reaches that has the documents in memory and does nothing but call the driver.
//!
//! The documents are those that the daemon wrote in this very run, byte for byte and in order, into collections with the
//! very indexes that the daemon made, under its write concern. What the bare program lacks is the reading, the decoding,
//! the checksums, and the fence's epoch.

#![allow(unreachable_pub)]

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, doc};
use mongodb::options::{
    Acknowledgment, CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, ClientSession, Collection};
use sdl::bson_writer::{self as write, element};
use tokio::sync::mpsc;

use crate::common::servers::unique;
use crate::common::{Mongod, Mysqld, mongo};
use crate::usage::Servers;

/// Batches that may be staged while one commits: the daemon's default.
const PIPELINE_DEPTH: usize = 4;

/// Longest time of one ceiling; it is then the rate until there.
const LIMIT: Duration = Duration::from_secs(60);

/// What the bare program does with each batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `insert_many` and nothing else.
    InsertMany,
    /// Staging document, then a transaction of offset and events, one after the other, in batches of 100.
    StagedSmall,
    /// The next batches are staged while one commits: what the daemon does.
    Overlapped,
}

impl Shape {
    fn batch(self) -> usize {
        match self {
            Self::StagedSmall => 100,
            _ => 1000,
        }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self {
            Self::InsertMany => "insert_many",
            Self::StagedSmall => "staging document, then transaction",
            Self::Overlapped => "staging overlaps the commit",
        };
        write!(f, "{what} ({})", self.batch())
    }
}

/// All audit documents of a database, in order.
pub async fn read_documents(mongod: &Mongod, database: &str) -> Vec<RawDocumentBuf> {
    let changes: Collection<RawDocumentBuf> =
        mongod.database(database).await.collection(mongo::CHANGES);
    let cursor = changes
        .find(doc! {})
        .batch_size(10_000)
        .await
        .expect("the changes can be read");
    let mut documents: Vec<RawDocumentBuf> =
        cursor.try_collect().await.expect("the changes can be read");
    documents.sort_by_cached_key(|document| document.get_i64("n").expect("every document has n"));
    documents
}

/// Documents a second into a new database, until the first `count` are written or [`LIMIT`] is over.
pub async fn measure(
    mysqld: &Mysqld,
    mongod: &Mongod,
    model: &str,
    shape: Shape,
    documents: &Arc<Vec<RawDocumentBuf>>,
    count: usize,
) -> f64 {
    let database = format!("ceiling_{}_{}", std::process::id(), unique());
    create(mongod, model, &database).await;
    let rate = measure_in(mysqld, mongod, &database, shape, documents, count).await;
    let database = mongod.database(&database).await;
    database.drop().await.expect("a database can be dropped");
    rate
}

/// The same into a database that [`create`] made and that may hold something, at servers that rest. Of the bare program itself nothing
/// stays but the documents.
pub async fn measure_in(
    mysqld: &Mysqld,
    mongod: &Mongod,
    database: &str,
    shape: Shape,
    documents: &Arc<Vec<RawDocumentBuf>>,
    count: usize,
) -> f64 {
    Servers::at_rest(mysqld, mongod).await;
    let target = Target::new(mongod, database, documents).await;
    let count = documents.len().min(count);
    let batches = (0..count)
        .step_by(shape.batch())
        .map(|start| start..count.min(start + shape.batch()));
    let started = Instant::now();
    let deadline = started + LIMIT;
    let written = match shape {
        Shape::InsertMany => target.insert_many(batches, deadline).await,
        Shape::StagedSmall => target.staged(batches, deadline).await,
        Shape::Overlapped => target.overlapped(batches, deadline).await,
    };
    let rate = written as f64 / started.elapsed().as_secs_f64();
    let offset = target.offsets.delete_one(doc! { "_id": "bench" }).await;
    offset.expect("the offset goes");
    target.client.shutdown().immediate(true).await;
    rate
}

/// Collections and indexes as they are in the database `model`, which the daemon made.
pub async fn create(mongod: &Mongod, model: &str, database: &str) {
    let client = mongod.client().await;
    let (model, database) = (client.database(model), client.database(database));
    for name in [mongo::CHANGES, mongo::STAGING, mongo::OFFSETS] {
        database
            .create_collection(name)
            .await
            .expect("a new collection");
        let indexes = model
            .collection::<Document>(name)
            .list_indexes()
            .await
            .expect("the daemon's indexes");
        let mut indexes: Vec<_> = indexes.try_collect().await.expect("the daemon's indexes");
        indexes.retain(|index| index.keys != doc! { "_id": 1 });
        if !indexes.is_empty() {
            database
                .collection::<Document>(name)
                .create_indexes(indexes)
                .await
                .expect("the same indexes");
        }
    }
}

/// Where one ceiling writes.
#[derive(Clone)]
struct Target {
    documents: Arc<Vec<RawDocumentBuf>>,
    client: Client,
    changes: Collection<RawDocumentBuf>,
    staging: Collection<RawDocumentBuf>,
    offsets: Collection<Document>,
}

impl Target {
    async fn new(mongod: &Mongod, database: &str, documents: &Arc<Vec<RawDocumentBuf>>) -> Self {
        let client = mongod.client().await;
        let database = client.database(database);
        let write_concern = WriteConcern::builder()
            .w(Acknowledgment::Majority)
            .journal(true)
            .build();
        let options = CollectionOptions::builder()
            .write_concern(write_concern)
            .read_concern(ReadConcern::local())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        let target = Self {
            documents: Arc::clone(documents),
            changes: database.collection_with_options(mongo::CHANGES, options.clone()),
            staging: database.collection_with_options(mongo::STAGING, options.clone()),
            offsets: database.collection_with_options(mongo::OFFSETS, options),
            client,
        };
        target
            .offsets
            .insert_one(doc! { "_id": "bench", "batch": 0_i64 })
            .await
            .expect("an offset");
        target
    }

    async fn insert_many(
        &self,
        batches: impl Iterator<Item = Range<usize>>,
        deadline: Instant,
    ) -> usize {
        let mut written = 0;
        for batch in batches {
            self.changes
                .insert_many(&self.documents[batch.clone()])
                .await
                .expect("insert_many");
            written += batch.len();
            if Instant::now() > deadline {
                break;
            }
        }
        written
    }

    async fn staged(
        &self,
        batches: impl Iterator<Item = Range<usize>>,
        deadline: Instant,
    ) -> usize {
        let mut session = self.client.start_session().await.expect("a session");
        let mut written = 0;
        for (number, batch) in (1..).zip(batches) {
            self.stage(number, batch.clone()).await;
            self.commit(&mut session, number, batch.clone()).await;
            written += batch.len();
            if Instant::now() > deadline {
                break;
            }
        }
        written
    }

    async fn overlapped(
        &self,
        batches: impl Iterator<Item = Range<usize>>,
        deadline: Instant,
    ) -> usize {
        let (sender, mut staged) = mpsc::channel(PIPELINE_DEPTH);
        let committer = self.clone();
        let committer = tokio::spawn(async move {
            let mut session = committer.client.start_session().await.expect("a session");
            let mut written = 0;
            while let Some((number, batch, staging)) = staged.recv().await {
                let staging: tokio::task::JoinHandle<()> = staging;
                let batch: Range<usize> = batch;
                staging.await.expect("a staged batch");
                committer.commit(&mut session, number, batch.clone()).await;
                written += batch.len();
            }
            written
        });
        for (number, batch) in (1..).zip(batches) {
            let place = sender.reserve().await.expect("the committer goes on");
            let (stager, range) = (self.clone(), batch.clone());
            place.send((
                number,
                batch,
                tokio::spawn(async move { stager.stage(number, range).await }),
            ));
            if Instant::now() > deadline {
                break;
            }
        }
        drop(sender);
        committer.await.expect("the committer")
    }

    async fn stage(&self, number: i64, batch: Range<usize>) {
        let document = staging_document(number, &self.documents[batch]);
        self.staging
            .insert_one(&document)
            .await
            .expect("a staging document");
    }

    async fn commit(&self, session: &mut ClientSession, number: i64, batch: Range<usize>) {
        session.start_transaction().await.expect("a transaction");
        let fence = doc! { "_id": "bench", "batch": number - 1 };
        let next = doc! { "$set": { "batch": number, "n": batch.end as i64, "updatedAt": DateTime::now() } };
        let moved = self
            .offsets
            .update_one(fence, next)
            .session(&mut *session)
            .await
            .expect("the offset moves");
        assert_eq!(moved.matched_count, 1);
        self.changes
            .insert_many(&self.documents[batch])
            .session(&mut *session)
            .await
            .expect("insert_many");
        let staged = doc! { "_id": format!("bench#{number}") };
        self.staging
            .delete_one(staged)
            .session(&mut *session)
            .await
            .expect("the staging document goes");
        session.commit_transaction().await.expect("a commit");
    }
}

/// As the daemon's, written in one pass, without the checksum.
fn staging_document(number: i64, events: &[RawDocumentBuf]) -> RawDocumentBuf {
    let bytes: usize = events.iter().map(|event| event.as_bytes().len() + 8).sum();
    let mut buffer = Vec::with_capacity(bytes + 256);
    let document = write::begin_document(&mut buffer);
    write::string_field(&mut buffer, b"_id\0", &format!("bench#{number}"));
    write::string_field(&mut buffer, b"source\0", "bench");
    write::int64_field(&mut buffer, b"batch\0", number);
    write::string_field(&mut buffer, b"status\0", "pending");
    write::date_field(&mut buffer, b"createdAt\0", DateTime::now());
    write::element(&mut buffer, element::ARRAY, b"events\0");
    write::array_of_documents(&mut buffer, events.iter().map(|event| event.as_bytes()));
    write::end_document(&mut buffer, document);
    RawDocumentBuf::from_bytes(buffer).expect("a document")
}
