//! Whether a collection that has grown takes changes more slowly: a backlog into an empty database, and into one that holds
//! millions of documents of another source, by turns on one server.
//!
//! What is there is older than any backlog. Two backlogs are tried on it: one of rows that come after those of the history, as a
//! table grows; and one of those very rows, which the history has changed ten times for each change of the backlog, so
//! that every leaf of the index on keys is read and written anew. A bare program does the latter too. Each backlog is written right before its
//! catch-up, and so is newer than what the rounds before added.

#![allow(unreachable_pub)]

use std::sync::Arc;

use mongodb::Collection;
use mongodb::bson::raw::RawElement;
use mongodb::bson::{DateTime, Document, RawDocumentBuf, cstr, doc};

use crate::backlog::{self, CatchUp, changed};
use crate::ceiling::{self, Shape};
use crate::common::{Mongod, Mysqld, Settings, mongo};
use crate::workload;

const WRITERS: usize = 2;

const AT_ONCE: usize = 1_000;

/// How many seconds each copy of the backlog is older than the one behind it.
const APART: i64 = 86_400;

/// How far behind the keys of one backlog those of the next begin, for each of its clients; more than one backlog takes.
const KEYS_APART: u64 = 1 << 24;

/// What is compared, and where.
pub struct Growth<'a> {
    pub mysqld: &'a Arc<Mysqld>,
    pub mongod: &'a Mongod,
    /// A database that a daemon made.
    pub model: &'a str,
    /// What it recorded there.
    pub documents: &'a Arc<Vec<RawDocumentBuf>>,
    /// Settings of the daemon that differ.
    pub settings: &'a [(String, String)],
    /// In each backlog.
    pub events: u64,
    /// Is told what was done.
    pub tell: &'a dyn Fn(&str),
}

/// Each of as many events.
pub struct Round {
    pub empty: CatchUp,
    /// Rows that come after those of the history.
    pub later_rows: CatchUp,
    /// The rows of the history.
    pub same_rows: CatchUp,
    /// Events a second of the bare program that stages beside its commits.
    pub bare_empty: f64,
    pub bare_same_rows: f64,
}

impl Growth<'_> {
    /// Fills a database with `wanted` older copies of the documents.
    pub async fn fill(&self, wanted: usize) -> Grown<'_> {
        let database = format!("grown_{}", std::process::id());
        ceiling::create(self.mongod, self.model, &database).await;
        let changes: Collection<RawDocumentBuf> = self
            .mongod
            .database(&database)
            .await
            .collection(mongo::CHANGES);
        let documents = self.documents;
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
                                .map(|event| moved(event, -age, beyond))
                                .collect();
                            changes.insert_many(older).await.expect("insert_many");
                        }
                    })
                })
                .collect();
            for writer in writers {
                writer.await.expect("a writer failed");
            }
            let there = copy * documents.len() + count;
            (self.tell)(&format!("{there} documents there"));
        }
        Grown {
            of: self,
            database,
            copies,
            sources: 0,
        }
    }

    async fn empty(&self) -> CatchUp {
        let settings = changed(Settings::new(self.mysqld, self.mongod), self.settings);
        let run = backlog::catch_up(self.mysqld, self.mongod, &settings, self.events).await;
        let database = self.mongod.database(settings.database()).await;
        database.drop().await.expect("a database can be dropped");
        (self.tell)(&format!("empty: {run}"));
        run
    }

    async fn bare_empty(&self) -> f64 {
        let (mysqld, mongod, documents) = (self.mysqld, self.mongod, self.documents);
        let (shape, count) = (Shape::Overlapped, documents.len());
        let rate = ceiling::measure(mysqld, mongod, self.model, shape, documents, count).await;
        (self.tell)(&format!("empty, the bare program: {rate:.0} events/s"));
        rate
    }
}

/// A database full of history.
pub struct Grown<'a> {
    of: &'a Growth<'a>,
    database: String,
    /// How often the documents are there.
    copies: usize,
    /// That were recorded there since.
    sources: u64,
}

impl Grown<'_> {
    /// In this order, or in the other one in each second round: a server slows as it runs.
    pub async fn round(&mut self, is_reversed: bool) -> Round {
        if is_reversed {
            let bare_same_rows = self.bare().await;
            let same_rows = self.same_rows().await;
            self.write_later_rows().await;
            let later_rows = self.catch_up().await;
            Round {
                empty: self.of.empty().await,
                later_rows,
                same_rows,
                bare_empty: self.of.bare_empty().await,
                bare_same_rows,
            }
        } else {
            let bare_empty = self.of.bare_empty().await;
            self.write_later_rows().await;
            Round {
                empty: self.of.empty().await,
                later_rows: self.catch_up().await,
                same_rows: self.same_rows().await,
                bare_empty,
                bare_same_rows: self.bare().await,
            }
        }
    }

    async fn write_later_rows(&self) {
        let behind = (self.sources + 1) * KEYS_APART;
        workload::rewrite_backlog(self.of.mysqld, self.of.events, behind).await;
        (self.of.tell)("wrote a backlog of later rows");
    }

    async fn same_rows(&mut self) -> CatchUp {
        workload::rewrite_backlog(self.of.mysqld, self.of.events, 0).await;
        (self.of.tell)("wrote a backlog of the same rows");
        self.catch_up().await
    }

    /// Records what MySQL holds, as one more source.
    async fn catch_up(&mut self) -> CatchUp {
        let Growth {
            mysqld,
            mongod,
            settings,
            events,
            tell,
            ..
        } = *self.of;
        self.sources += 1;
        let source = format!("grown-{}", self.sources);
        // With a server_id of its own: the server may still show the reader of the run before, which was another source.
        let settings = changed(Settings::new(mysqld, mongod), settings)
            .set("MONGO_DB", &self.database)
            .set("SOURCE_ID", source);
        let run = backlog::catch_up(mysqld, mongod, &settings, events).await;
        // The next run is another source's, and the harness looks at the only offset that there is.
        let database = mongod.database(settings.database()).await;
        let offsets: Collection<Document> = database.collection(mongo::OFFSETS);
        offsets.delete_many(doc! {}).await.expect("the offset goes");
        tell(&format!("full: {run}"));
        run
    }

    /// The documents once more, as if they had been committed until now.
    async fn bare(&mut self) -> f64 {
        self.copies += 1;
        let documents = self.of.documents;
        let last = documents.last().expect("a backlog has events");
        let last = last.get_datetime("ts").expect("ts is a date");
        let later = DateTime::now().timestamp_millis() - last.timestamp_millis();
        let beyond = (self.copies * documents.len()) as i64;
        let documents = documents
            .iter()
            .map(|event| moved(event, later / 1_000, beyond));
        let documents = Arc::new(documents.collect::<Vec<_>>());
        let (mysqld, mongod, database) = (self.of.mysqld, self.of.mongod, &self.database);
        let (shape, count) = (Shape::Overlapped, documents.len());
        let rate = ceiling::measure_in(mysqld, mongod, database, shape, &documents, count).await;
        (self.of.tell)(&format!("same rows, the bare program: {rate:.0} events/s"));
        rate
    }

    /// Drops it.
    pub async fn forget(self) {
        let database = self.of.mongod.database(&self.database).await;
        database.drop().await.expect("a database can be dropped");
    }
}

/// The same change, so many seconds later and with another `n`: its `_id`, which begins with the second, and its `ts` say so.
fn moved(event: &RawDocumentBuf, later: i64, beyond: i64) -> RawDocumentBuf {
    let mut moved = RawDocumentBuf::new();
    for element in event.iter_elements() {
        let element: RawElement<'_> = element.expect("a document that a server gave");
        let value = element.value();
        match element.key().as_str() {
            "n" => {
                let n = value.expect("a value").as_i64().expect("n is a number");
                moved.append(cstr!("n"), n + beyond);
            }
            "_id" => {
                let id = value.expect("a value").as_str().expect("_id is a text");
                let (second, hash) = id.split_at(8);
                let second = i64::from_str_radix(second, 16).expect("the commit second");
                moved.append(cstr!("_id"), format!("{:08x}{hash}", second + later));
            }
            "ts" => {
                let ts = value.expect("a value").as_datetime().expect("ts is a date");
                let ts = DateTime::from_millis(ts.timestamp_millis() + later * 1_000);
                moved.append(cstr!("ts"), ts);
            }
            _ => moved.append(element.key(), value.expect("a value")),
        }
    }
    moved
}
