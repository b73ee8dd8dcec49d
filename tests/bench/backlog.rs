//! Catching up: the daemon, started on a server that is full of changes.

#![allow(unreachable_pub)]

use std::fmt;
use std::time::{Duration, Instant};

use mongodb::Database;
use mongodb::bson::Document;

use crate::common::{Daemon, Mongod, Mysqld, POLL, Settings, Signal, caught_up_within, mongo};
use crate::usage::{Processor, Servers};

/// Only a hang reaches this.
const HANG: Duration = Duration::from_secs(240);

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    pub events: u64,
    pub batches: i64,
    /// From the start of the process until the offset covered what was waited for.
    pub seconds: f64,
    pub processor: Processor,
    /// Bytes.
    pub peak_memory: u64,
}

impl CatchUp {
    pub fn events_per_second(&self) -> f64 {
        self.events as f64 / self.seconds
    }

    pub fn peak_mebibytes(&self) -> f64 {
        self.peak_memory as f64 / f64::from(1 << 20)
    }
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} events in {:.1} s: {:.0} events/s, {:.0} a batch; processor time sdl {:.1} s, mongod {:.1} s, mysqld {:.1} s; peak memory {:.0} MiB",
            self.events,
            self.seconds,
            self.events_per_second(),
            self.events as f64 / self.batches.max(1) as f64,
            self.processor.sdl,
            self.processor.mongod,
            self.processor.mysqld,
            self.peak_mebibytes(),
        )
    }
}

/// Catches up with all that MySQL has executed, which is so many events; checks that every one is there, once.
pub async fn catch_up(
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
    events: u64,
) -> CatchUp {
    let run = run(mysqld, mongod, settings, async |_| {
        caught_up_within(mysqld, mongod, settings.database(), HANG).await;
    });
    let run = run.await;
    assert_eq!(
        run.events, events,
        "the figures of a run that lost or doubled events mean nothing"
    );
    run
}

/// Catches up until at least so many events are recorded.
pub async fn begin_to_catch_up(
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
    events: u64,
) -> CatchUp {
    run(mysqld, mongod, settings, async |database| {
        let begun = Instant::now();
        while recorded(&database).await < events {
            assert!(
                begun.elapsed() < HANG,
                "not {events} events within {HANG:?}"
            );
            tokio::time::sleep(POLL).await;
        }
    })
    .await
}

/// Documents in the collection, by its own count, which holds as long as the server does not crash.
async fn documents(database: &Database) -> u64 {
    let changes = database.collection::<Document>(mongo::CHANGES);
    let count = changes.estimated_document_count().await;
    count.expect("the changes can be counted")
}

/// How many events the offset covers, the only one in the database.
async fn recorded(database: &Database) -> u64 {
    let offset = mongo::offset(database).await;
    let n = offset.map_or(0, |offset| offset.get_i64("n").expect("an offset has n"));
    u64::try_from(n).expect("n counts from 1")
}

/// Runs a daemon from its start, at servers that rest, until `done`; what it added to the database is what its offset says.
async fn run(
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
    done: impl AsyncFnOnce(Database),
) -> CatchUp {
    let database = mongod.database(settings.database()).await;
    let there = documents(&database).await;
    let servers = Servers::at_rest(mysqld, mongod).await;
    let before = servers.used(None);
    let started = Instant::now();
    let daemon = Daemon::start(settings);
    done(database.clone()).await;
    let seconds = started.elapsed().as_secs_f64();
    let events = recorded(&database).await;
    let processor = servers.used(Some(daemon.pid())).minus(before);
    let peak_memory = daemon.peak_memory();
    let offset = mongo::offset(&database).await.expect("an offset");
    daemon.signal(Signal::TERM);
    daemon.wait_exit(HANG).await;

    assert_eq!(
        documents(&database).await - there,
        recorded(&database).await,
        "the figures of a run that lost or doubled events mean nothing"
    );
    CatchUp {
        events,
        batches: offset.get_i64("batch").expect("a batch number"),
        seconds,
        processor,
        peak_memory,
    }
}

/// The settings of a daemon, with those given on the command line.
pub fn changed(settings: Settings, changes: &[(String, String)]) -> Settings {
    changes.iter().fold(settings, |settings, (name, value)| {
        settings.set(name, value)
    })
}
