//! A spool that is not what it was: damaged while sdl is down, or overtaken by another daemon.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use rusqlite::Connection;

use super::spool::{SpoolDirectory, purge, start_servers, with_spool};
use super::{
    BACKLOG, OPEN, SOON, assert_goes_on_exactly, settings, under_load, with_quick_breaker,
};
use crate::common::{
    Daemon, Mongod, Mysqld, Settings, Signal, caught_up_within, mongo, wait_until,
};

/// A killed daemon with a spool of many batches that MongoDB has not seen; nobody writes to MySQL any more.
struct Spooled {
    mysqld: Arc<Mysqld>,
    mongod: Mongod,
    spool: SpoolDirectory,
    settings: Settings,
}

impl Spooled {
    async fn batches(count: i64) -> Self {
        let (mysqld, mongod) = start_servers().await;
        let spool = SpoolDirectory::new();
        let settings = with_spool(with_quick_breaker(settings(&mysqld, &mongod)), &spool)
            .set("BATCH_SIZE", 10);
        let (daemon, load) = under_load(&mysqld, &settings).await;
        mongod.kill();
        daemon.wait_for_log(OPEN, SOON).await;
        spool.grows_by(count).await;
        load.stop().await;
        spool.has_all_of(&mysqld).await;
        daemon.kill9();
        // The write-ahead log goes into the file itself, where the damage is to be.
        let connection = Connection::open(spool.file().unwrap()).unwrap();
        connection
            .query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
            .unwrap();
        drop(connection);
        Self {
            mysqld,
            mongod,
            spool,
            settings,
        }
    }

    /// Another daemon records a part of what is spooled, in smaller batches, and is killed.
    async fn overtake(&self) {
        let settings = self
            .settings
            .clone()
            .unset("SPOOL_DIR")
            .set("BATCH_SIZE", 1)
            .set("MYSQL_SERVER_ID", 99_999);
        let database = self.mongod.database(settings.database()).await;
        let batch = async || {
            let offset = mongo::offset(&database).await.expect("an offset");
            offset.get_i64("batch").expect("batch")
        };
        // Those that were staged already are committed as they were.
        let goal = batch().await + 20;
        let other = Daemon::start(&settings);
        wait_until("the other daemon records", SOON, async || {
            batch().await >= goal
        })
        .await;
        other.kill9();
        assert_ne!(
            mongo::saved_gtid(&database).await,
            Some(self.mysqld.executed_gtid().await),
            "the other one has recorded all of it"
        );
    }

    /// MongoDB comes back while the daemon goes on from what is left of the spool: what is damaged is told and kept under another name,
    /// and its events are read again.
    async fn assert_set_aside_and_exact(self, name: &str) {
        let daemon = Daemon::start(&self.settings);
        // With nothing left in the spool it waits for MongoDB; else it goes on from the good part.
        wait_until("it has noticed that mongodb is away", SOON, async || {
            daemon.has_logged(OPEN)
        })
        .await;
        self.mongod.start_again().await;
        caught_up_within(
            &self.mysqld,
            &self.mongod,
            self.settings.database(),
            BACKLOG,
        )
        .await;
        assert!(
            daemon
                .logs()
                .iter()
                .any(|line| line.contains("ERROR") && line.contains("set aside")),
            "it is told"
        );
        let names = self.spool.names();
        assert!(
            names.iter().any(|file| file.contains(name)),
            "{name} is not among {names:?}"
        );
        assert_goes_on_exactly(&daemon, &self.mysqld, &self.mongod, &self.settings).await;
    }
}

fn garbage(file: &Path) {
    let length = fs::metadata(file).unwrap().len();
    let mut random = fastrand::Rng::with_seed(4);
    let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..))
        .take(length as usize)
        .collect();
    fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_spool_of_garbage_is_set_aside_and_read_again() {
    let spooled = Spooled::batches(20).await;
    garbage(&spooled.spool.file().unwrap());
    spooled.assert_set_aside_and_exact(".damaged-").await;
}

#[tokio::test]
async fn a_spool_cut_in_the_middle_keeps_what_is_good() {
    let spooled = Spooled::batches(20).await;
    let file = File::options()
        .write(true)
        .open(spooled.spool.file().unwrap())
        .unwrap();
    file.set_len(file.metadata().unwrap().len() / 2).unwrap();
    spooled.assert_set_aside_and_exact(".damaged-").await;
}

/// Pages in the middle are destroyed, as by a disk.
#[tokio::test]
async fn a_spool_with_a_hole_keeps_what_is_before_it() {
    let spooled = Spooled::batches(40).await;
    let file = File::options()
        .write(true)
        .open(spooled.spool.file().unwrap())
        .unwrap();
    let middle = file.metadata().unwrap().len() / 2;
    file.write_all_at(&[0xA5; 48 * 1024], middle).unwrap();
    spooled.assert_set_aside_and_exact(".damaged-").await;
}

/// One bit of a row: SQLite sees nothing wrong, the batch's checksum does.
#[tokio::test]
async fn a_flipped_bit_in_a_row_is_noticed_before_the_batch_is_committed() {
    let spooled = Spooled::batches(40).await;
    flip_a_bit(&spooled.spool.file().unwrap());
    spooled.assert_set_aside_and_exact(".damaged-").await;
}

fn flip_a_bit(path: &Path) {
    let wanted = b"load_test";
    let bytes = fs::read(path).unwrap();
    let places: Vec<usize> = bytes
        .windows(wanted.len())
        .enumerate()
        .filter(|(_, window)| window == wanted)
        .map(|(place, _)| place)
        .collect();
    let place = places[places.len() / 2];
    let file = File::options().write(true).open(path).unwrap();
    file.write_all_at(&[bytes[place] ^ 1], place as u64)
        .unwrap();
}

/// The damaged part cannot be read again: an operator has to know what is missing.
#[tokio::test]
async fn a_damaged_spool_whose_binlog_is_purged_is_a_gap_with_its_range() {
    let spooled = Spooled::batches(20).await;
    garbage(&spooled.spool.file().unwrap());
    purge(&spooled.mysqld).await;
    let purged: String = spooled.mysqld.query_one("SELECT @@gtid_purged").await;
    spooled.mongod.start_again().await;
    let daemon = Daemon::start(&spooled.settings);
    assert_eq!(daemon.wait_exit(SOON).await.0, 3, "an operator must decide");
    // What was staged when MongoDB went away is recorded by this start.
    let database = spooled.mongod.database(spooled.settings.database()).await;
    let recorded = mongo::saved_gtid(&database).await.unwrap();
    let missing: String = spooled
        .mysqld
        .query_one(format!("SELECT GTID_SUBTRACT('{purged}', '{recorded}')"))
        .await;
    assert_ne!(missing, "");
    assert!(
        daemon
            .logs()
            .iter()
            .any(|line| line.contains("binlog gap") && line.contains(&missing)),
        "the log names {missing}"
    );
}

/// Another daemon recorded a part of it meanwhile, in batches of its own: those of the spool have numbers that are taken.
#[tokio::test]
async fn a_spool_that_another_daemon_overtook_is_set_aside() {
    let spooled = Spooled::batches(100).await;
    spooled.mongod.start_again().await;
    spooled.overtake().await;
    let daemon = Daemon::start(&spooled.settings);
    caught_up_within(
        &spooled.mysqld,
        &spooled.mongod,
        spooled.settings.database(),
        BACKLOG,
    )
    .await;
    let names = spooled.spool.names();
    assert!(
        names.iter().any(|file| file.contains(".superseded-")),
        "{names:?}"
    );
    assert_goes_on_exactly(&daemon, &spooled.mysqld, &spooled.mongod, &spooled.settings).await;
}

/// Found out only when MongoDB comes back, after the daemon has gone on from the spool's end.
#[tokio::test]
async fn a_spool_that_another_daemon_overtook_is_set_aside_when_mongodb_is_back() {
    let spooled = Spooled::batches(100).await;
    spooled.mongod.start_again().await;
    spooled.overtake().await;
    spooled.mongod.kill();
    spooled.assert_set_aside_and_exact(".superseded-").await;
}

/// Another daemon recorded all of it, and more: nothing is left to do with it, and nobody has to look at it.
#[tokio::test]
async fn a_spool_that_is_recorded_already_is_emptied() {
    let spooled = Spooled::batches(20).await;
    spooled.mongod.start_again().await;
    let alone = spooled
        .settings
        .clone()
        .unset("SPOOL_DIR")
        .set("MYSQL_SERVER_ID", 99_999);
    let other = Daemon::start(&alone);
    spooled
        .mysqld
        .exec("INSERT INTO load_test.plain VALUES (9, 9, 'nine')")
        .await;
    caught_up_within(&spooled.mysqld, &spooled.mongod, alone.database(), BACKLOG).await;
    other.signal(Signal::TERM);
    assert_eq!(other.wait_exit(SOON).await.0, 0);
    let daemon = Daemon::start(&spooled.settings);
    daemon
        .wait_for_log("what the spool holds is recorded already", SOON)
        .await;
    spooled
        .mysqld
        .exec("INSERT INTO load_test.plain VALUES (10, 10, 'ten')")
        .await;
    caught_up_within(
        &spooled.mysqld,
        &spooled.mongod,
        spooled.settings.database(),
        BACKLOG,
    )
    .await;
    assert_eq!(spooled.spool.last(), None);
    assert_goes_on_exactly(&daemon, &spooled.mysqld, &spooled.mongod, &spooled.settings).await;
}
