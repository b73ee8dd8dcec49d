//! Outages of MongoDB that are longer than the breaker allows, with a spool that bridges them, and without one.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};

use super::{
    BACKLOG, CLOSED, COMMIT, OPEN, SOON, assert_goes_on_exactly, commits_more, settings,
    start_mysqld, times_logged, under_load, with_quick_breaker,
};
use crate::common::load::Load;
use crate::common::servers::Scratch;
use crate::common::small_disk::SmallDisk;
use crate::common::{
    Daemon, Mongod, Mysqld, ReplicaSet, Settings, Signal, caught_up_within, fold, mongo, wait_until,
};

/// From the spool and not from MongoDB, which is away.
pub(super) const FROM_SPOOL: &str = "Resuming from the spool's GTID";

pub(super) const DRAINED: &str = "the spool is empty again";

/// The spool is full, or its disk, or it cannot be written.
pub(super) const REFUSES: &str = "the spool takes nothing at the moment";

pub(super) async fn start_servers() -> (Arc<Mysqld>, Mongod) {
    tokio::join!(start_mysqld(), Mongod::start())
}

/// A directory for the spool, gone with the test.
pub(super) struct SpoolDirectory(Scratch);

impl SpoolDirectory {
    pub(super) fn new() -> Self {
        Self(Scratch::new("spool"))
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// The names of all files in it.
    pub(super) fn names(&self) -> Vec<String> {
        std::fs::read_dir(self.path())
            .expect("the directory is there")
            .map(|entry| {
                let name = entry.expect("an entry").file_name();
                name.to_string_lossy().into_owned()
            })
            .collect()
    }

    /// The spool's file.
    pub(super) fn file(&self) -> Option<PathBuf> {
        let name = self
            .names()
            .into_iter()
            .find(|name| name.ends_with(".sqlite3"))?;
        Some(self.path().join(name))
    }

    /// The number and the last GTID of the last batch in it, as an operator would ask for them.
    pub(super) fn last(&self) -> Option<(i64, Option<String>)> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(self.file()?, flags).ok()?;
        let overview = "select last_batch, last_gtid from overview where last_batch is not null";
        connection
            .query_row(overview, [], |row| Ok((row.get(0)?, row.get(1)?)))
            .ok()
    }

    /// Bytes that it takes on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.names()
            .iter()
            .filter_map(|name| self.path().join(name).metadata().ok())
            .map(|metadata| metadata.len())
            .sum()
    }

    /// Waits until it holds so many batches more than now.
    pub(super) async fn grows_by(&self, batches: i64) {
        let number = || self.last().map_or(0, |(number, _)| number);
        // Of an empty one the first batch tells where the numbers are.
        wait_until("the spool holds something", SOON, async || number() > 0).await;
        let goal = number() + batches;
        wait_until("the spool grows", SOON, async || number() >= goal).await;
    }

    /// Waits until its last batch holds the last transaction of the server, which is a MySQL that nobody writes to.
    pub(super) async fn has_all_of(&self, mysqld: &Mysqld) {
        let executed = mysqld.executed_gtid().await;
        let (_, last) = executed.rsplit_once(['-', ':']).expect("a GTID set");
        wait_until(
            &format!("transaction {last} is spooled"),
            SOON,
            async || {
                self.last()
                    .and_then(|(_, gtid)| gtid)
                    .is_some_and(|gtid| gtid.ends_with(&format!(":{last}")))
            },
        )
        .await;
    }
}

pub(super) fn with_spool(settings: Settings, directory: &SpoolDirectory) -> Settings {
    settings.set("SPOOL_DIR", directory.path().display())
}

/// What was spooled has gone to MongoDB, and its room is given back.
async fn assert_drained(daemon: &Daemon, spool: &SpoolDirectory) {
    daemon.wait_for_log(DRAINED, SOON).await;
    assert_eq!(spool.last(), None);
    assert!(
        spool.bytes() < 2 << 20,
        "an empty spool takes {} bytes",
        spool.bytes()
    );
}

// --- longer than the breaker

/// Calls that were on their way answer nothing, so the first failure takes as long as the longest call may.
async fn stands_still(settings: Settings, mysqld: &Arc<Mysqld>, mongod: &Mongod) -> Daemon {
    let (daemon, load) = under_load(mysqld, &settings).await;
    mongod.pause();
    daemon.wait_for_log(OPEN, Duration::from_secs(90)).await;
    load.more(50).await;
    mongod.resume();
    daemon.wait_for_log(CLOSED, SOON).await;
    commits_more(mongod, settings.database()).await;
    let told = (times_logged(&daemon, OPEN), times_logged(&daemon, CLOSED));
    assert_eq!(told, (1, 1), "each change of the breaker is told once");
    load.stop().await;
    daemon
}

#[tokio::test]
async fn mongodb_that_stands_still_for_longer_than_the_breaker_gets_everything_from_the_spool() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings = with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool);
    let daemon = stands_still(settings.clone(), &mysqld, &mongod).await;
    assert_drained(&daemon, &spool).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn mongodb_that_stands_still_for_longer_than_the_breaker_gets_everything_without_a_spool() {
    let (mysqld, mongod) = start_servers().await;
    let settings = with_quick_breaker(settings(&mysqld, &mongod));
    let daemon = stands_still(settings.clone(), &mysqld, &mongod).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// It is back, and gone again before the spool is empty; sometimes for less than the breaker waits.
#[tokio::test]
async fn mongodb_that_comes_and_goes_while_the_spool_drains_gets_everything_in_order() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings = with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for round in 1..=5 {
        mongod.kill();
        wait_until("the breaker opens again", SOON, async || {
            times_logged(&daemon, "circuit breaker open") >= round
        })
        .await;
        spool.grows_by(3).await;
        mongod.start_again().await;
        commits_more(&mongod, settings.database()).await;
    }
    load.stop().await;
    daemon.wait_for_log(DRAINED, SOON).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// Commits went in whose answers were lost, then MongoDB is gone: the same batches are spooled, and found to be in.
async fn lost_answers_then_gone(spool: Option<&SpoolDirectory>) {
    let (mysqld, set) = tokio::join!(start_mysqld(), ReplicaSet::start_with(1, &[]));
    let mut settings = with_quick_breaker(settings(&mysqld, &set));
    if let Some(spool) = spool {
        settings = with_spool(settings, spool);
    }
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for round in 1..=3 {
        set.lose_answers_to(COMMIT, 1);
        set.has_struck(round).await;
        set.kill(0);
        wait_until("the breaker opens again", SOON, async || {
            times_logged(&daemon, OPEN) >= round as usize
        })
        .await;
        load.more(20).await;
        set.start_again(0).await;
        set.primary().await;
        commits_more(&set, settings.database()).await;
        wait_until("the breaker closes again", SOON, async || {
            times_logged(&daemon, CLOSED) >= round as usize
        })
        .await;
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &set, &settings).await;
}

#[tokio::test]
async fn a_commit_whose_answer_an_outage_took_is_in_once_with_a_spool() {
    lost_answers_then_gone(Some(&SpoolDirectory::new())).await;
}

#[tokio::test]
async fn a_commit_whose_answer_an_outage_took_is_in_once_without_a_spool() {
    lost_answers_then_gone(None).await;
}

// --- sdl ends meanwhile

#[tokio::test]
async fn sdl_killed_while_it_spools_goes_on_spooling_where_the_spool_ends() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings = with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool);
    let (mut daemon, load) = under_load(&mysqld, &settings).await;
    mongod.kill();
    daemon.wait_for_log(OPEN, SOON).await;
    for _ in 0..3 {
        spool.grows_by(2).await;
        daemon.kill9();
        load.more(50).await;
        daemon = Daemon::start(&settings);
        daemon.wait_for_log(FROM_SPOOL, SOON).await;
    }
    spool.grows_by(2).await;
    mongod.start_again().await;
    daemon.wait_for_log(CLOSED, SOON).await;
    load.stop().await;
    assert_drained(&daemon, &spool).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// The next start finds both, and commits the spool first; it is killed on the way as well.
#[tokio::test]
async fn sdl_killed_while_it_spools_finds_mongodb_back_and_drains() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings =
        with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool).set("BATCH_SIZE", 10);
    let (mut daemon, load) = under_load(&mysqld, &settings).await;
    mongod.kill();
    spool.grows_by(100).await;
    daemon.kill9();
    mongod.start_again().await;
    for _ in 0..3 {
        daemon = Daemon::start(&settings);
        commits_more(&mongod, settings.database()).await;
        daemon.kill9();
    }
    daemon = Daemon::start(&settings);
    load.stop().await;
    assert_drained(&daemon, &spool).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn sdl_stopped_while_mongodb_is_away_leaves_everything_in_the_spool() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings = with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.kill();
    daemon.wait_for_log(OPEN, SOON).await;
    spool.grows_by(1).await;
    daemon.signal(Signal::TERM);
    let (code, elapsed) = daemon.wait_exit(SOON).await;
    assert_eq!(code, 0, "everything read is safe");
    assert!(
        elapsed < Duration::from_secs(10),
        "it waited for nothing, and took {elapsed:?}"
    );
    load.stop().await;
    // One that is started and stopped while MongoDB is away leaves it as it is.
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(FROM_SPOOL, SOON).await;
    spool.has_all_of(&mysqld).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    mongod.start_again().await;
    let daemon = Daemon::start(&settings);
    assert_drained(&daemon, &spool).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// A stop in the first moments of an outage, before the breaker has opened: what is in hand must not be lost to a timeout.
#[tokio::test]
async fn sdl_stopped_before_the_breaker_has_opened_spools_what_it_has() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings = with_spool(settings(&mysqld, &mongod), &spool).set("SHUTDOWN_TIMEOUT", "10s");
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.pause();
    load.more(50).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0, "everything read is safe");
    load.stop().await;
    assert_ne!(spool.last(), None);
    mongod.resume();
    let daemon = Daemon::start(&settings);
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

// --- a transaction that is larger than a batch

/// A half of it is in MongoDB, then rows go to the spool, and a killed daemon goes on in the middle of it.
#[tokio::test]
async fn a_large_transaction_half_in_mongodb_and_half_in_the_spool_is_exact() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings =
        with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool).set("BATCH_SIZE", 10);
    wide(&mysqld, 3000).await;
    let daemon = Daemon::start(&settings);
    let target = mongod.database(settings.database()).await;
    wait_until("a part of it is committed", SOON, async || {
        mongo::offset(&target)
            .await
            .is_some_and(|offset| offset.get_document("partial").is_ok())
    })
    .await;
    mongod.kill();
    daemon.wait_for_log(OPEN, SOON).await;
    spool.grows_by(2).await;
    daemon.kill9();
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(FROM_SPOOL, SOON).await;
    spool.grows_by(2).await;
    mongod.start_again().await;
    daemon.wait_for_log(CLOSED, SOON).await;
    caught_up_within(&mysqld, &mongod, settings.database(), BACKLOG).await;
    fold::assert_exact(&mysqld, &mongod, settings.database(), &["load_test.wide"]).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// One transaction of so many rows of 20 kB, which packing makes little smaller.
async fn wide(mysqld: &Mysqld, rows: u32) {
    let text = ["TO_BASE64(RANDOM_BYTES(1000))"; 15].join(", ");
    mysqld
        .exec(format!(
            "SET SESSION cte_max_recursion_depth = 100000;
             CREATE TABLE IF NOT EXISTS load_test.wide (id INT, t MEDIUMTEXT);
             INSERT INTO load_test.wide WITH RECURSIVE number AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM number WHERE i < {rows})
             SELECT i, CONCAT({text}) FROM number",
        ))
        .await;
}

// --- no room

/// Told once, and reading pauses: nothing more is taken than the spool may hold.
#[tokio::test]
async fn a_spool_that_is_full_is_told_of_and_reading_pauses() {
    const LIMIT: u64 = 16 << 20;
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings = with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool)
        .set("SPOOL_MAX_BYTES", "16MiB");
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.kill();
    daemon.wait_for_log(OPEN, SOON).await;
    wide(&mysqld, 500).await;
    wide(&mysqld, 500).await;
    wide(&mysqld, 500).await;
    let line = daemon.wait_for_log(REFUSES, SOON).await;
    assert!(line.contains("SPOOL_MAX_BYTES=16777216"), "{line}");
    load.more(100).await;
    assert_eq!(times_logged(&daemon, REFUSES), 1, "it is told once");
    let bytes = spool.bytes();
    assert!(bytes <= LIMIT, "{bytes} bytes are more than the limit");
    assert!(bytes > LIMIT / 2, "{bytes} bytes are not full");
    mongod.start_again().await;
    daemon.wait_for_log(CLOSED, SOON).await;
    load.stop().await;
    caught_up_within(&mysqld, &mongod, settings.database(), BACKLOG).await;
    fold::assert_exact(&mysqld, &mongod, settings.database(), &["load_test.wide"]).await;
    assert_drained(&daemon, &spool).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn a_spool_on_a_full_disk_takes_batches_again_when_there_is_room() {
    let disk = SmallDisk::of(64).await;
    let (mysqld, mongod) = start_servers().await;
    let settings = with_quick_breaker(settings(&mysqld, &mongod))
        .set("SPOOL_DIR", disk.directory().join("spool").display())
        .inside(disk.inside());
    let (daemon, load) = under_load(&mysqld, &settings).await;
    disk.fill();
    mongod.kill();
    let line = daemon.wait_for_log(REFUSES, SOON).await;
    assert!(line.contains("make room on its disk"), "{line}");
    load.more(100).await;
    assert_eq!(times_logged(&daemon, REFUSES), 1, "it is told once");
    disk.make_room();
    daemon
        .wait_for_log("the spool takes batches again", SOON)
        .await;
    // Full again, and MongoDB is back before there is room.
    disk.fill();
    wait_until("the disk is full again", SOON, async || {
        times_logged(&daemon, REFUSES) == 2
    })
    .await;
    mongod.start_again().await;
    daemon.wait_for_log(CLOSED, SOON).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

#[tokio::test]
async fn a_spool_that_cannot_be_written_is_told_of_at_the_start_and_costs_nothing_else() {
    let disk = SmallDisk::read_only().await;
    let (mysqld, mongod) = start_servers().await;
    let settings = with_quick_breaker(settings(&mysqld, &mongod))
        .set("SPOOL_DIR", disk.directory().join("spool").display())
        .inside(disk.inside());
    let (daemon, load) = under_load(&mysqld, &settings).await;
    daemon.wait_for_log("the spool cannot be used", SOON).await;
    mongod.kill();
    daemon.wait_for_log(REFUSES, SOON).await;
    load.more(100).await;
    assert_eq!(times_logged(&daemon, REFUSES), 1, "it is told once");
    mongod.start_again().await;
    daemon.wait_for_log(CLOSED, SOON).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

// --- the binlog is purged meanwhile

/// MongoDB is away for longer than MySQL keeps its binlogs: the spool has what was purged. A start in between must not call it a gap.
#[tokio::test]
async fn a_binlog_purged_while_sdl_spools_is_not_missed() {
    let (mysqld, mongod) = start_servers().await;
    let spool = SpoolDirectory::new();
    let settings = with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    mongod.kill();
    daemon.wait_for_log(OPEN, SOON).await;
    load.more(200).await;
    load.stop().await;
    spool.has_all_of(&mysqld).await;
    purge(&mysqld).await;
    daemon.kill9();
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(FROM_SPOOL, SOON).await;
    let load = Load::start(&mysqld, 2);
    load.more(100).await;
    load.stop().await;
    spool.has_all_of(&mysqld).await;
    purge(&mysqld).await;
    daemon.kill9();
    // And one that finds MongoDB back, whose offset is far behind what the server still has.
    mongod.start_again().await;
    let daemon = Daemon::start(&settings);
    assert_drained(&daemon, &spool).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// Removes all binlogs but the newest, which is empty.
pub(super) async fn purge(mysqld: &Mysqld) {
    mysqld.exec("FLUSH BINARY LOGS").await;
    let files: Vec<mysql_async::Row> = mysqld.query("SHOW BINARY LOGS").await;
    let newest: String = files
        .last()
        .and_then(|row| row.get("Log_name"))
        .expect("a binlog");
    mysqld
        .exec(format!("PURGE BINARY LOGS TO '{newest}'"))
        .await;
}
