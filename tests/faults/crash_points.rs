//! A crash at every step between reading and unstaging, one after the other: abort there, start again, exact contents.
//!
//! The list is the daemon's own ([`CRASH_POINTS`]), so a step that is added to it is tested without a change here; a crash
//! point that is never reached fails its test. Every crash happens twice: at the first time the daemon comes by, and in the
//! middle of a transaction that is larger than a batch; those of a commit once more where it takes several batches. The binlog is the same for all of them and does not change; each run
//! writes a database of its own.
#![cfg(feature = "failpoints")]

use std::time::{Duration, Instant};

use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo};
use mongodb::bson::doc;
use sdl::failpoint::CRASH_POINTS;
use tokio::sync::OnceCell;

/// 128 + SIGABRT.
const ABORTED: i32 = 134;

/// For a daemon to reach its crash point, a few seconds of work at most.
const SOON: Duration = Duration::from_secs(30);

/// The contract: from process start to streaming, after any crash.
const RECOVERY: Duration = Duration::from_secs(5);

const STREAMING: &str = "Connected to MySQL";

const TABLES: [&str; 3] = ["crash.keyed", "crash.plain", "crash.compressed"];

/// Transactions before the large one, so batches before it at most.
const BEFORE: usize = 9;

/// At the first time, and in the large transaction: at least one of its batches is committed then, and many are not.
const FIRST: &str = "return";
const IN_THE_MIDDLE: &str = "11*off->return";

/// At the fourth commit, for batches that are committed together: there are 9 at least, of 5 batches at most.
const FOURTH: &str = "3*off->return";

/// Between the first write of a commit and its end, in order.
const COMMIT: [&str; 6] = [
    "before-transaction",
    "after-offset",
    "after-insert",
    "before-commit",
    "after-commit",
    "after-unstage",
];

/// The one that is passed once per chunk that the reader hands over. Chunks are of up to 256 KiB, as many as the moment makes;
/// the large transaction has 1.5 MB, so there are six at least.
const PER_CHUNK: &str = "after-decode";
const FIFTH_CHUNK: &str = "4*off->return";

/// Crash points that a process passes once.
const ONCE: [&str; 2] = ["after-first-offset", "after-take-over"];

/// The one that is only passed while staged batches are recovered.
const DURING_RECOVERY: &str = "during-recovery";

/// A server whose binlog holds everything that the crashes go through.
async fn source() -> &'static Mysqld {
    static SOURCE: OnceCell<Mysqld> = OnceCell::const_new();
    SOURCE
        .get_or_init(|| async {
            let mysqld = Mysqld::start().await;
            mysqld
                .exec(
                    "CREATE DATABASE crash;
                     CREATE TABLE crash.keyed (id INT PRIMARY KEY, v INT, t VARCHAR(5000));
                     CREATE TABLE crash.plain (v INT, t VARCHAR(5000));
                     CREATE TABLE crash.compressed (id INT PRIMARY KEY, t TEXT)",
                )
                .await; // 4 of BEFORE
            let small = async |first: usize, count: usize| {
                for id in first..first + count {
                    mysqld
                        .exec(format!(
                            "BEGIN;
                             INSERT INTO crash.keyed VALUES ({id}, 1, 'short');
                             INSERT INTO crash.plain VALUES ({id} % 3, 'same'), ({id} % 3, 'same');
                             UPDATE crash.keyed SET v = v + 1, t = REPEAT('l', 3000) WHERE id = {id} - 1;
                             DELETE FROM crash.keyed WHERE id = {id} - 3;
                             COMMIT"
                        ))
                        .await;
                }
            };
            small(1, BEFORE - 4).await;
            mysqld
                .exec(
                    "INSERT INTO crash.plain WITH RECURSIVE number AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM number WHERE i < 300)
                     SELECT i, REPEAT('p', 5000) FROM number",
                )
                .await;
            mysqld
                .exec(
                    "SET SESSION binlog_transaction_compression = ON;
                     INSERT INTO crash.compressed WITH RECURSIVE number AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM number WHERE i < 25)
                     SELECT i, REPEAT('c', 2000) FROM number",
                )
                .await;
            small(100, 10).await;
            mysqld.exec("TRUNCATE crash.compressed; INSERT INTO crash.compressed VALUES (1, 'one')").await;
            small(200, 2).await;
            mysqld
        })
        .await
}

struct Run {
    settings: Settings,
    mysqld: &'static Mysqld,
    mongod: &'static Mongod,
}

impl Run {
    async fn new(mongod: &'static Mongod) -> Self {
        let mysqld = source().await;
        let settings = Settings::new(mysqld, mongod).set("BATCH_SIZE", 10);
        // Runs read at the same time: under one name they would be one replica, of which the server serves the newest.
        let name = format!("mysql://{}/{}", mysqld.addr(), settings.database());
        let settings = settings.set("SOURCE_ID", name);
        Self {
            settings,
            mysqld,
            mongod,
        }
    }

    /// With a commit for each batch of the large transaction: two of them are more than BATCH_BYTES.
    async fn of_single_batches(mongod: &'static Mongod) -> Self {
        let mut run = Self::new(mongod).await;
        run.settings = run.settings.set("BATCH_BYTES", "64KiB");
        run
    }

    /// Starts a daemon that aborts at the crash point, waits until it did, and checks what it left.
    async fn crash(&self, point: &str, when: &str) -> Daemon {
        let settings = self
            .settings
            .clone()
            .set("FAILPOINTS", format!("{point}={when}"));
        let daemon = Daemon::start(&settings);
        let (code, _) = daemon.wait_exit(SOON).await;
        assert_eq!(code, ABORTED, "the daemon was to die at {point}={when}");
        // A reader never sees half a commit, not even now.
        let database = self.mongod.database(self.settings.database()).await;
        let changes = mongo::changes(&database).await;
        assert_eq!(
            fold::sequence(&changes),
            Vec::<String>::new(),
            "after {point}={when}"
        );
        let n = mongo::offset(&database)
            .await
            .map_or(0, |offset| offset.get_i64("n").expect("n"));
        assert_eq!(
            n,
            changes.len() as i64,
            "documents and offset disagree after {point}={when}"
        );
        daemon
    }

    async fn pending(&self) -> u64 {
        mongo::pending(&self.mongod.database(self.settings.database()).await).await
    }

    /// Whether the offset stands inside a transaction.
    async fn is_partial(&self) -> bool {
        let offset = mongo::offset(&self.mongod.database(self.settings.database()).await).await;
        offset.is_some_and(|offset| offset.get_document("partial").is_ok())
    }

    /// Starts a daemon that does not crash; it must stream in time, say what it recovers, and end up exact.
    async fn recover(&self, after: &str) {
        let pending = self.pending().await;
        let partial = self.is_partial().await;
        let started = Instant::now();
        let daemon = Daemon::start(&self.settings);
        daemon.wait_for_log(STREAMING, SOON).await;
        let recovery = started.elapsed();
        eprintln!(
            "{after}: {pending} batches pending, partial: {partial}; streaming after {recovery:?}"
        );
        assert!(
            recovery < RECOVERY,
            "after {after} it took {recovery:?} to stream again"
        );
        let line = format!("Recovering {pending} pending batches");
        assert_eq!(
            daemon.has_logged(&line),
            pending > 0,
            "{line:?} after {after}"
        );
        caught_up(self.mysqld, self.mongod, self.settings.database()).await;
        fold::assert_exact(self.mysqld, self.mongod, self.settings.database(), &TABLES).await;
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    }
}

#[tokio::test]
async fn a_crash_at_every_crash_point_when_it_is_first_passed_is_recovered() {
    let mongod = Mongod::shared().await;
    for point in CRASH_POINTS
        .iter()
        .filter(|point| **point != DURING_RECOVERY)
    {
        let run = Run::new(mongod).await;
        run.crash(point, FIRST).await;
        run.recover(point).await;
    }
}

#[tokio::test]
async fn a_crash_at_every_crash_point_in_the_middle_of_a_large_transaction_is_recovered() {
    let mongod = Mongod::shared().await;
    assert!(
        COMMIT
            .iter()
            .chain(&ONCE)
            .chain(&[PER_CHUNK, DURING_RECOVERY])
            .all(|point| CRASH_POINTS.contains(point))
    );
    for point in CRASH_POINTS
        .iter()
        .filter(|point| **point != DURING_RECOVERY && !ONCE.contains(point))
    {
        let run = Run::of_single_batches(mongod).await;
        let when = if *point == PER_CHUNK {
            FIFTH_CHUNK
        } else {
            IN_THE_MIDDLE
        };
        run.crash(point, when).await;
        if COMMIT.contains(point) {
            assert!(
                run.is_partial().await,
                "{point} was to be hit inside the large transaction"
            );
        }
        run.recover(point).await;
    }
}

#[tokio::test]
async fn a_crash_in_a_commit_of_several_batches_is_recovered() {
    let mongod = Mongod::shared().await;
    let mut together = 0;
    for point in COMMIT {
        let mut run = Run::new(mongod).await;
        run.settings = run.settings.set("RUST_LOG", "debug");
        let daemon = run.crash(point, FOURTH).await;
        together += daemon
            .logs()
            .iter()
            .filter(|line| line.contains(" together=") && !line.contains(" together=1"))
            .count();
        run.recover(&format!("{point} of several batches")).await;
    }
    assert!(together > 0, "no commit took more than one batch");
}

/// A crash does not wait until the last one is mended.
#[tokio::test]
async fn a_crash_while_a_crash_is_recovered_is_recovered() {
    let mongod = Mongod::shared().await;
    for point in [
        "after-take-over",
        DURING_RECOVERY,
        "after-offset",
        "before-commit",
        "after-commit",
    ] {
        let run = Run::of_single_batches(mongod).await;
        // Batches are staged ahead of the one that commits: most of them stay pending.
        run.crash("before-commit", IN_THE_MIDDLE).await;
        assert!(
            run.pending().await > 0,
            "there was to be something to recover"
        );
        for _ in 0..2 {
            // At the second crash point of a recovery nothing may be pending any more.
            if run.pending().await > 0 {
                run.crash(point, FIRST).await;
            }
        }
        run.recover(&format!("{point} while recovering")).await;
    }
}

/// MongoDB keeps the transaction of a client that died open for a minute, with a lock on the offset.
#[tokio::test]
async fn a_crash_in_the_middle_of_a_commit_leaves_no_lock_in_the_way() {
    // A server of its own: the count of open transactions is the server's.
    static OWN: OnceCell<Mongod> = OnceCell::const_new();
    let mongod = OWN.get_or_init(Mongod::start).await;
    for point in ["after-offset", "after-insert", "before-commit"] {
        let run = Run::of_single_batches(mongod).await;
        run.crash(point, IN_THE_MIDDLE).await;
        assert_eq!(
            open_transactions(mongod).await,
            1,
            "the crash at {point} was to leave a transaction open"
        );
        run.recover(point).await;
        assert_eq!(open_transactions(mongod).await, 0);
    }
}

async fn open_transactions(mongod: &Mongod) -> i64 {
    let status = mongod.admin(doc! { "serverStatus": 1 }).await;
    let transactions = status.get_document("transactions").expect("transactions");
    transactions.get_i64("currentOpen").expect("currentOpen")
}
