//! From COMMIT in MySQL to visible in MongoDB, at a steady rate of single-row transactions.
//!
//! Each row carries the time at which its autocommit INSERT was sent. A change stream on the collection, which shows only
//! what a majority has, tells when its document became visible; it is pushed, so nothing is polled. What is measured
//! holds MySQL's own commit and the change stream's own delay, so the daemon is a little better than that.

#![allow(unreachable_pub)]

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use futures_util::StreamExt;
use mongodb::bson::{Document, doc};
use mongodb::change_stream::ChangeStream;
use mongodb::change_stream::event::ChangeStreamEvent;
use mysql_async::prelude::Queryable;
use tokio::time::{Instant, MissedTickBehavior};

use crate::backlog::changed;
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, mongo};

/// Sent first, at the same rate, and not counted: connections, caches, the schema version.
const WARM_UP: Duration = Duration::from_secs(1);

/// Rows that are not visible after this long are told as missing.
const LAST_ROW: Duration = Duration::from_secs(15);

/// Only a hang reaches this.
const HANG: Duration = Duration::from_secs(60);

/// The rows' delays in milliseconds, ascending.
#[derive(Clone, Debug)]
pub struct Latency {
    visible: Vec<f64>,
    /// MySQL's own part: until it confirmed the commit.
    confirmed: Vec<f64>,
    sent: usize,
    /// Bytes that the daemon had in memory at most.
    pub peak_memory: u64,
}

impl Latency {
    /// In milliseconds.
    pub fn median(&self) -> f64 {
        quantile(&self.visible, 0.5)
    }

    /// The delay that one row of a hundred exceeded, in milliseconds.
    pub fn tail(&self) -> f64 {
        quantile(&self.visible, 0.99)
    }

    /// Rows that were not seen in time.
    pub fn missing(&self) -> usize {
        self.sent - self.visible.len()
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = &self.visible;
        write!(
            f,
            "{:.1} / {:.1} / {:.1} ms (of it MySQL's commit {:.1} / {:.1})",
            self.median(),
            self.tail(),
            quantile(all, 1.0),
            quantile(&self.confirmed, 0.5),
            quantile(&self.confirmed, 0.99),
        )?;
        match self.missing() {
            0 => Ok(()),
            missing => write!(f, "; {missing} of {} never seen", self.sent),
        }
    }
}

fn quantile(ascending: &[f64], share: f64) -> f64 {
    let last = ascending.len().saturating_sub(1);
    ascending
        .get((last as f64 * share).round() as usize)
        .copied()
        .unwrap_or(f64::NAN)
}

/// Sends `rate` transactions a second for `duration`, and watches them arrive.
pub async fn measure(
    mysqld: &Arc<Mysqld>,
    mongod: &Mongod,
    changes: &[(String, String)],
    rate: u32,
    duration: Duration,
) -> Latency {
    let settings = Settings::new(mysqld, mongod).set("START_FROM", "current");
    let settings = changed(settings, changes);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", HANG).await;
    let database = mongod.database(settings.database()).await;
    let arrivals = [
        doc! { "$match": { "operationType": "insert" } },
        doc! { "$project": { "operationType": 1, "fullDocument.after.id": 1, "fullDocument.after.sent": 1 } },
    ];
    let arrivals = database
        .collection::<Document>(mongo::CHANGES)
        .watch()
        .pipeline(arrivals)
        .await
        .expect("a change stream");

    let warm_up = rows(rate, WARM_UP);
    let sent = rows(rate, duration);
    let watcher = tokio::spawn(watch(arrivals, warm_up + sent));
    let mut confirmed = send(mysqld, rate, warm_up + sent).await;
    let mut visible = watcher.await.expect("the watcher");
    let peak_memory = daemon.peak_memory();
    daemon.signal(Signal::TERM);
    daemon.wait_exit(HANG).await;
    database.drop().await.expect("a database can be dropped");
    mysqld.exec("DELETE FROM bench.pings").await;

    let counted = |delays: &mut Vec<(usize, f64)>| {
        delays.retain(|(row, _)| *row >= warm_up);
        let mut delays: Vec<f64> = delays.iter().map(|(_, delay)| *delay).collect();
        delays.sort_by(f64::total_cmp);
        delays
    };
    Latency {
        visible: counted(&mut visible),
        confirmed: counted(&mut confirmed),
        sent,
        peak_memory,
    }
}

fn rows(rate: u32, duration: Duration) -> usize {
    (f64::from(rate) * duration.as_secs_f64()) as usize
}

/// Sends rows on several connections, so that one slow commit delays no other row; the delay until each was confirmed.
async fn send(mysqld: &Arc<Mysqld>, rate: u32, rows: usize) -> Vec<(usize, f64)> {
    let clients = usize::try_from(rate.div_ceil(50)).expect("a few clients");
    let begin = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let mysqld = Arc::clone(mysqld);
            tokio::spawn(async move {
                let mut connection = mysqld.root().await;
                let first = begin + Duration::from_secs_f64(0.2 + client as f64 / f64::from(rate));
                let interval = Duration::from_secs_f64(clients as f64 / f64::from(rate));
                let mut ticks = tokio::time::interval_at(first, interval);
                ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                let mut confirmed = Vec::new();
                for row in (client..rows).step_by(clients) {
                    ticks.tick().await;
                    let sent = now();
                    let insert = format!(
                        "INSERT INTO bench.pings VALUES ({row}, {sent}, 'a row of an ordinary length, to be seen soon')"
                    );
                    connection.query_drop(insert).await.expect("MySQL takes a row");
                    confirmed.push((row, milliseconds_since(sent)));
                }
                confirmed
            })
        })
        .collect();
    let mut confirmed = Vec::with_capacity(rows);
    for task in tasks {
        confirmed.extend(task.await.expect("a client of the benchmark failed"));
    }
    confirmed
}

/// The delay of each row until its document was visible.
async fn watch(
    mut arrivals: ChangeStream<ChangeStreamEvent<Document>>,
    rows: usize,
) -> Vec<(usize, f64)> {
    let mut visible = Vec::with_capacity(rows);
    while visible.len() < rows {
        let Ok(Some(event)) = tokio::time::timeout(LAST_ROW, arrivals.next()).await else {
            break;
        };
        let event = event.expect("the change stream goes on");
        let document = event.full_document.expect("an insert has its document");
        let after = document
            .get_document("after")
            .expect("an insert has an image");
        let row = after.get_i64("id").expect("id is BIGINT");
        let sent = after.get_i64("sent").expect("sent is BIGINT");
        visible.push((
            usize::try_from(row).expect("ids count from 0"),
            milliseconds_since(sent),
        ));
    }
    visible
}

/// Microseconds since 1970.
fn now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    i64::try_from(now.as_micros()).expect("a clock before 292,277")
}

fn milliseconds_since(sent: i64) -> f64 {
    (now() - sent) as f64 / 1e3
}
