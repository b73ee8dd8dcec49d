//! The fold: whatever clients do and however often the daemon is killed, the audit documents replayed in order of `n` are the
//! tables.
//!
//! Four clients run random transactions over tables with a key, with a key of two columns and without one: rows of a few
//! bytes and of hundreds of kilobytes, transactions that are rolled back in whole or to a savepoint, compressed ones, XA ones,
//! ones larger than a batch, and schema changes in between. Meanwhile the daemon is killed (SIGKILL) at random moments and
//! started again. Every random choice follows from one seed, which is printed; SDL_SEED repeats it. (The moments of the kills
//! and the order of the clients are the machine's.)
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::common::fold::Tables;
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up_within, fold, on_every_server,
};
use fastrand::Rng;
use mongodb::bson::{Bson, Document};
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};

const CLIENTS: u64 = 4;

/// How long the clients write, and how often the daemon is killed meanwhile; whichever takes longer.
const DURATION: Duration = Duration::from_secs(20);
const KILLS: usize = 10;

const SOON: Duration = Duration::from_secs(30);

const STREAMING: &str = "Connected to MySQL";

/// What is compared in the end. `comes_and_goes` is one of them: whether it is there in the end, its last statement says.
const TABLES: [&str; 5] = [
    "fold.keyed",
    "fold.composite",
    "fold.nokey",
    "fold.altered",
    "fold.wiped",
];

/// Errors that a client of a database under concurrent schema changes meets and tries again after: deadlock, lock wait
/// timeout, table definition changed, no such table, table exists, unknown column, duplicate column, duplicate key, can't
/// drop a column that is not there, row changed since the snapshot.
const EXPECTED: [u16; 10] = [1213, 1205, 1412, 1146, 1050, 1054, 1060, 1062, 1091, 1020];

/// The columns that come and go, with their default.
const COLUMNS: [(&str, Option<i32>); 3] = [("c1", None), ("c2", Some(7)), ("c3", Some(-1))];

on_every_server! { the_documents_folded_are_the_tables_after_random_load_and_kills }

async fn the_documents_folded_are_the_tables_after_random_load_and_kills(flavor: Flavor) {
    let seed = std::env::var("SDL_SEED").map_or_else(
        |_| fastrand::u64(..),
        |seed| seed.parse().expect("SDL_SEED is a number"),
    );
    eprintln!("SDL_SEED={seed}");
    let (mysqld, mongod) = tokio::join!(
        // MariaDB's: short rows are compressed too.
        Mysqld::start_as(flavor, &["--loose-log-bin-compress-min-len=10"]),
        Mongod::start()
    );
    let mysqld = Arc::new(mysqld);
    mysqld
        .exec(
            "CREATE DATABASE fold;
             CREATE TABLE fold.keyed (id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT UNSIGNED, t MEDIUMTEXT);
             CREATE TABLE fold.composite (a SMALLINT, b VARCHAR(20), amount DECIMAL(20,4), day DATE, PRIMARY KEY (a, b));
             CREATE TABLE fold.nokey (x TINYINT, y VARCHAR(60), z BLOB);
             CREATE TABLE fold.altered (id INT PRIMARY KEY, v DOUBLE);
             CREATE TABLE fold.wiped (id INT AUTO_INCREMENT PRIMARY KEY, v VARBINARY(40))",
        )
        .await;
    let settings = Settings::new(&mysqld, &mongod).set("BATCH_SIZE", 50);

    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| {
            let random = Rng::with_seed(seed.wrapping_add(number));
            tokio::spawn(run_client(
                Arc::clone(&mysqld),
                number,
                random,
                Arc::clone(&stop),
            ))
        })
        .collect();

    let mut random = Rng::with_seed(seed.wrapping_sub(1));
    let started = Instant::now();
    let mut kills = 0;
    let mut streaming_kills = 0;
    while started.elapsed() < DURATION || kills < KILLS {
        let daemon = Daemon::start(&settings);
        // Most die while they stream, some while they start, take over or recover.
        if random.u8(..4) > 0 {
            daemon.wait_for_log(STREAMING, SOON).await;
            streaming_kills += 1;
        }
        // The moment of the kill is the fault itself.
        tokio::time::sleep(Duration::from_millis(random.u64(..1500))).await;
        assert!(
            daemon.is_running(),
            "sdl ended by itself: {:#?}",
            daemon.logs()
        );
        daemon.kill9();
        kills += 1;
    }
    stop.store(true, Ordering::Relaxed);
    let mut done = Done::default();
    for client in clients {
        done.add(&client.await.expect("a client failed"));
    }
    eprintln!("{kills} kills, {streaming_kills} of them while streaming; {done:?}");
    done.assert_everything_happened();

    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up_within(
        &mysqld,
        &mongod,
        settings.database(),
        Duration::from_secs(180),
    )
    .await;
    let mut tables = TABLES.to_vec();
    let there: Option<String> = mysqld
        .root()
        .await
        .query_first("SHOW TABLES FROM fold LIKE 'comes_and_goes'")
        .await
        .expect("SHOW TABLES");
    if there.is_some() {
        tables.push("fold.comes_and_goes");
    }
    fold::assert_exact_with(&mysqld, &mongod, settings.database(), &tables, &alter).await;
    eprintln!(
        "{} documents",
        mongod.changes(settings.database()).await.len()
    );
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

/// What `ALTER TABLE fold.altered ADD COLUMN c INT DEFAULT d` and `… DROP COLUMN c` do to the rows.
fn alter(tables: &mut Tables, change: &Document) {
    let query = change
        .get_document("meta")
        .and_then(|meta| meta.get_str("query"))
        .unwrap_or_default();
    let Some(rest) = query.strip_prefix("ALTER TABLE fold.altered ") else {
        return;
    };
    let words: Vec<&str> = rest.split_whitespace().collect();
    let (verb, column) = (words[0], words[2]);
    let table = tables.entry("fold.altered".to_owned()).or_default();
    match verb {
        "ADD" => {
            let value = words[5].parse().map_or(Bson::Null, Bson::Int32);
            table.alter(|row| {
                row.insert(column, value.clone());
            });
        }
        "DROP" => table.alter(|row| {
            row.remove(column);
        }),
        other => panic!("the test does not write ALTER TABLE … {other}"),
    }
}

// --- the clients

/// How often each kind of transaction was committed, or rolled back.
#[derive(Debug, Default)]
struct Done {
    committed: u64,
    compressed: u64,
    large: u64,
    rolled_back: u64,
    to_savepoint: u64,
    xa: u64,
    schema_changes: u64,
    refused: u64,
}

impl Done {
    fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.compressed += other.compressed;
        self.large += other.large;
        self.rolled_back += other.rolled_back;
        self.to_savepoint += other.to_savepoint;
        self.xa += other.xa;
        self.schema_changes += other.schema_changes;
        self.refused += other.refused;
    }

    /// A test that claims these must have had them.
    fn assert_everything_happened(&self) {
        let all = [
            self.committed,
            self.compressed,
            self.large,
            self.rolled_back,
            self.to_savepoint,
            self.xa,
            self.schema_changes,
        ];
        assert!(
            all.iter().all(|count| *count > 0),
            "not everything happened: {self:?}"
        );
    }
}

async fn run_client(
    mysqld: Arc<Mysqld>,
    number: u64,
    mut random: Rng,
    stop: Arc<AtomicBool>,
) -> Done {
    let mut connection = mysqld.root().await;
    // Concurrent schema changes make clients wait for each other; a deadlock of metadata locks shall pass soon.
    connection
        .query_drop("SET SESSION lock_wait_timeout = 2, innodb_lock_wait_timeout = 2; SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
        .await
        .expect("session settings");
    let mut done = Done::default();
    let mut xa = 0;
    while !stop.load(Ordering::Relaxed) {
        let flavor = mysqld.flavor();
        let result = match random.u8(..100) {
            0..4 => schema_change(&mut connection, &mut random, &mut done).await,
            4..8 => {
                xa += 1;
                xa_transaction(
                    flavor,
                    &mut connection,
                    &mut random,
                    &format!("'client-{number}-{xa}'"),
                    &mut done,
                )
                .await
            }
            _ => transaction(flavor, &mut connection, &mut random, &mut done).await,
        };
        match result {
            Ok(()) => (),
            Err(Error::Server(error)) if EXPECTED.contains(&error.code) => {
                done.refused += 1;
                connection.query_drop("ROLLBACK").await.expect("ROLLBACK");
            }
            Err(error) => panic!("a transaction failed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(random.u64(..8))).await;
    }
    connection.disconnect().await.expect("a clean end");
    done
}

async fn transaction(
    flavor: Flavor,
    connection: &mut Conn,
    random: &mut Rng,
    done: &mut Done,
) -> mysql_async::Result<()> {
    let compressed = random.u8(..5) == 0;
    compress(flavor, connection, compressed).await?;
    connection.query_drop("BEGIN").await?;
    let large = random.u8(..25) == 0;
    if large {
        let rows: Vec<String> = (0..random.u32(60..300))
            .map(|row| format!("({}, 'row {row}', NULL)", random.i8(..)))
            .collect();
        connection
            .query_drop(format!("INSERT INTO fold.nokey VALUES {}", rows.join(",")))
            .await?;
    }
    for _ in 0..random.u8(1..6) {
        connection.query_drop(change(random)).await?;
    }
    let mut to_savepoint = false;
    if random.u8(..4) == 0 {
        connection.query_drop("SAVEPOINT here").await?;
        for _ in 0..random.u8(1..4) {
            connection.query_drop(change(random)).await?;
        }
        to_savepoint = random.bool();
        if to_savepoint {
            connection.query_drop("ROLLBACK TO SAVEPOINT here").await?;
        } else if random.bool() {
            connection.query_drop("RELEASE SAVEPOINT here").await?;
        }
        connection.query_drop(change(random)).await?;
    }
    if random.u8(..6) == 0 {
        connection.query_drop("ROLLBACK").await?;
        done.rolled_back += 1;
        return Ok(());
    }
    connection.query_drop("COMMIT").await?;
    done.committed += 1;
    done.compressed += u64::from(compressed);
    done.large += u64::from(large);
    done.to_savepoint += u64::from(to_savepoint);
    Ok(())
}

/// MySQL compresses the whole transaction of a session, MariaDB each event of all that come.
async fn compress(
    flavor: Flavor,
    connection: &mut Conn,
    compressed: bool,
) -> mysql_async::Result<()> {
    let variable = if flavor.is_mariadb() {
        "GLOBAL log_bin_compress"
    } else {
        "SESSION binlog_transaction_compression"
    };
    let value = if compressed { "ON" } else { "OFF" };
    connection
        .query_drop(format!("SET {variable} = {value}"))
        .await
}

/// One statement that changes rows, on any table.
fn change(random: &mut Rng) -> String {
    let small = random.i32(-100..100);
    match random.u8(..16) {
        0..4 => format!(
            "INSERT INTO fold.keyed (v, t) VALUES ({}, {})",
            random.u32(..),
            text(random)
        ),
        4 => format!(
            "UPDATE fold.keyed SET v = {}, t = CONCAT(LEFT(t, 50), 'é漢🎈') ORDER BY id DESC LIMIT {}",
            random.u32(..),
            random.u8(1..5)
        ),
        5 => format!(
            "DELETE FROM fold.keyed WHERE id % 11 = {} ORDER BY id LIMIT 3",
            random.u8(..11)
        ),
        6..8 => format!(
            "REPLACE INTO fold.composite VALUES ({}, 'b{}', {small}.{:04}, '20{:02}-02-28')",
            random.u8(..20),
            random.u8(..20),
            random.u16(..10_000),
            random.u8(..100)
        ),
        // The key itself changes.
        8 => format!(
            "UPDATE IGNORE fold.composite SET a = a + {small}, amount = -amount WHERE a = {}",
            random.u8(..20)
        ),
        9 => format!(
            "DELETE FROM fold.composite WHERE b = 'b{}' LIMIT 2",
            random.u8(..20)
        ),
        // The same row several times.
        10 => format!(
            "INSERT INTO fold.nokey VALUES ({0}, 'twin', x'00ff'), ({0}, 'twin', x'00ff')",
            random.i8(..)
        ),
        11 => format!(
            "UPDATE fold.nokey SET y = 'changed', z = NULL WHERE x = {} LIMIT 2",
            random.i8(..)
        ),
        12 => format!("DELETE FROM fold.nokey WHERE x = {} LIMIT 3", random.i8(..)),
        13 => format!(
            "REPLACE INTO fold.altered (id, v) VALUES ({}, {}.25)",
            random.u8(..200),
            small
        ),
        14 => format!(
            "UPDATE fold.altered SET v = v * 2 WHERE id % 13 = {}",
            random.u8(..13)
        ),
        _ => format!(
            "INSERT INTO fold.wiped (v) VALUES (x'{:08x}')",
            random.u32(..)
        ),
    }
}

/// A text of a few bytes, mostly; of hundreds of kilobytes, rarely.
fn text(random: &mut Rng) -> String {
    let length = match random.u8(..40) {
        0 => random.u32(100_000..400_000),
        1..6 => random.u32(1_000..30_000),
        _ => random.u32(..40),
    };
    // Never so large that the value would stand beside its document: that is another test's.
    format!(
        "LEFT(REPEAT('{}', {length}), {length})",
        ["x", "ä", "0123456789", "\\'"][random.usize(..4)]
    )
}

/// Two phases, as a transaction manager does it. Only inserts: they meet no locks of others.
async fn xa_transaction(
    flavor: Flavor,
    connection: &mut Conn,
    random: &mut Rng,
    id: &str,
    done: &mut Done,
) -> mysql_async::Result<()> {
    compress(flavor, connection, false).await?;
    connection.query_drop(format!("XA START {id}")).await?;
    for _ in 0..random.u8(1..4) {
        connection
            .query_drop(format!(
                "INSERT INTO fold.nokey VALUES ({}, 'xa', NULL)",
                random.i8(..)
            ))
            .await?;
    }
    connection.query_drop(format!("XA END {id}")).await?;
    if random.bool() {
        connection.query_drop(format!("XA PREPARE {id}")).await?;
        connection.query_drop(format!("XA COMMIT {id}")).await?;
    } else {
        connection
            .query_drop(format!("XA COMMIT {id} ONE PHASE"))
            .await?;
    }
    done.xa += 1;
    Ok(())
}

async fn schema_change(
    connection: &mut Conn,
    random: &mut Rng,
    done: &mut Done,
) -> mysql_async::Result<()> {
    let (column, default) = COLUMNS[random.usize(..COLUMNS.len())];
    let default = default.map_or("NULL".to_owned(), |value| value.to_string());
    let sql = match random.u8(..10) {
        0..3 => format!("ALTER TABLE fold.altered ADD COLUMN {column} INT DEFAULT {default}"),
        3..6 => format!("ALTER TABLE fold.altered DROP COLUMN {column}"),
        6..8 => "TRUNCATE TABLE fold.wiped".to_owned(),
        8 => {
            "CREATE TABLE fold.comes_and_goes (id INT AUTO_INCREMENT PRIMARY KEY, v INT)".to_owned()
        }
        _ => "DROP TABLE IF EXISTS fold.comes_and_goes".to_owned(),
    };
    connection.query_drop(sql).await?;
    done.schema_changes += 1;
    connection
        .query_drop(format!(
            "INSERT INTO fold.comes_and_goes (v) VALUES ({}), (1)",
            random.u8(..)
        ))
        .await
}
