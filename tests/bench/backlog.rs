//! Catching up: the daemon, started on a server that is full of changes.

#![allow(unreachable_pub)]

use std::fmt;
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};

use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up_within, mongo};
use crate::usage::{Processor, Servers};

/// Only a hang reaches this.
const HANG: Duration = Duration::from_secs(240);

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct CatchUp {
    pub events: u64,
    pub batches: i64,
    /// From the start of the process until the offset covered everything that MySQL had executed.
    pub seconds: f64,
    /// The part of it before the binlog was read.
    pub startup: f64,
    pub processor: Processor,
    /// Bytes.
    pub peak_memory: u64,
}

impl CatchUp {
    pub fn events_per_second(&self) -> f64 {
        self.events as f64 / self.seconds
    }
}

impl fmt::Display for CatchUp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "caught up in {:.1} s: {:.0} events/s; processor time sdl {:.1} s, mongod {:.1} s, mysqld {:.1} s; peak memory {:.0} MiB",
            self.seconds,
            self.events_per_second(),
            self.processor.sdl,
            self.processor.mongod,
            self.processor.mysqld,
            self.peak_memory as f64 / f64::from(1 << 20),
        )
    }
}

/// Catches up into a new database, whose name it returns; checks that every event is there.
pub async fn catch_up(
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &[(String, String)],
    events: u64,
) -> (CatchUp, String) {
    let settings = changed(Settings::new(mysqld, mongod), settings);
    let servers = Servers::find(mysqld, mongod).await;
    let before = servers.used(None);
    let started = Instant::now();
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", HANG).await;
    let startup = started.elapsed().as_secs_f64();
    caught_up_within(mysqld, mongod, settings.database(), HANG).await;
    let seconds = started.elapsed().as_secs_f64();
    let processor = servers.used(Some(daemon.pid())).minus(before);
    let peak_memory = daemon.peak_memory();
    daemon.signal(Signal::TERM);
    daemon.wait_exit(HANG).await;

    let database = mongod.database(settings.database()).await;
    let offset = mongo::offset(&database).await.expect("an offset");
    let stored = database
        .collection::<Document>(mongo::CHANGES)
        .count_documents(doc! {})
        .await
        .expect("the changes can be counted");
    assert_eq!(
        stored, events,
        "the figures of a run that lost or doubled events mean nothing"
    );
    let run = CatchUp {
        events,
        batches: offset.get_i64("batch").expect("a batch number"),
        seconds,
        startup,
        processor,
        peak_memory,
    };
    (run, settings.database().to_owned())
}

/// The settings of a daemon, with those given on the command line.
pub fn changed(settings: Settings, changes: &[(String, String)]) -> Settings {
    changes.iter().fold(settings, |settings, (name, value)| {
        settings.set(name, value)
    })
}
