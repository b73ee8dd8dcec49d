//! A steady load: clients that insert, update and delete for as long as a test hurts something.
//!
//! A client whose server goes away comes back with it, as an application's pool does. Whether a transaction that was cut off
//! took effect is of no interest here: the tests compare with the tables as they are in the end.

#![allow(dead_code, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error};
use tokio::task::JoinHandle;

use crate::common::servers::unique;
use crate::common::{Mysqld, POLL};

/// The tables of the load; one without a key.
pub const TABLES: [&str; 2] = ["load_test.keyed", "load_test.plain"];

/// Errors of a server that goes away: shutdown in progress, query interrupted, connection killed.
const GOING_AWAY: [u16; 3] = [1053, 1317, 3169];

/// Deadlock found: the server rolled the transaction back.
const DEADLOCK: u16 = 1213;

/// How long the clients may take for some transactions; a healthy server takes a second for hundreds of them.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two transactions of a client: a load that the daemon can follow, and that never lets it rest.
const PAUSE: Duration = Duration::from_millis(2);

/// Makes the tables that [`Load::start`] uses.
pub async fn create_tables(mysqld: &Mysqld) {
    mysqld
        .exec(
            "CREATE DATABASE load_test;
             CREATE TABLE load_test.keyed (id BIGINT PRIMARY KEY, v INT NOT NULL, t VARCHAR(2000));
             CREATE TABLE load_test.plain (client INT, v INT, t VARCHAR(200))",
        )
        .await;
}

/// Running clients. Dropping it stops them at their next transaction.
pub struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    /// Starts `clients` clients; the tables must be there.
    pub fn start(mysqld: &Arc<Mysqld>, clients: u64) -> Self {
        Self::start_paced(mysqld, clients, PAUSE)
    }

    /// [`start`](Self::start), with a pause of one's own between two transactions of a client.
    pub fn start_paced(mysqld: &Arc<Mysqld>, clients: u64, pause: Duration) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let committed = Arc::new(AtomicU64::new(0));
        let clients = (1..=clients)
            .map(|number| {
                tokio::spawn(run(
                    Arc::clone(mysqld),
                    number,
                    pause,
                    Arc::clone(&stop),
                    Arc::clone(&committed),
                ))
            })
            .collect();
        Self {
            stop,
            committed,
            clients,
        }
    }

    /// Waits until so many more transactions are committed.
    pub async fn more(&self, transactions: u64) {
        let goal = self.committed.load(Ordering::Relaxed) + transactions;
        let started = Instant::now();
        while self.committed.load(Ordering::Relaxed) < goal {
            assert!(
                started.elapsed() < PATIENCE,
                "the clients did not commit {transactions} transactions within {PATIENCE:?}"
            );
            tokio::time::sleep(POLL / 4).await;
        }
    }

    /// Lets every client finish its transaction; how many were committed in all.
    pub async fn stop(mut self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in std::mem::take(&mut self.clients) {
            client.await.expect("a client of the load failed");
        }
        self.committed.load(Ordering::Relaxed)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn run(
    mysqld: Arc<Mysqld>,
    number: u64,
    pause: Duration,
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
) {
    let mut random = fastrand::Rng::with_seed(number);
    // A second load on the same tables takes other keys.
    let mut next_id = u64::from(unique()) << 32;
    while !stop.load(Ordering::Relaxed) {
        let Ok(mut connection) = mysqld.connect("root", "").await else {
            tokio::time::sleep(POLL).await;
            continue;
        };
        // The table without a key is scanned; with this, rows of other clients are not locked on the way.
        if connection
            .query_drop("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")
            .await
            .is_err()
        {
            continue;
        }
        while !stop.load(Ordering::Relaxed) {
            match transaction(&mut connection, number, &mut random, &mut next_id).await {
                Ok(()) => {
                    committed.fetch_add(1, Ordering::Relaxed);
                }
                Err(Error::Server(error)) if error.code == DEADLOCK => (),
                Err(Error::Server(error)) if !GOING_AWAY.contains(&error.code) => {
                    panic!("MySQL refused a transaction of the load: {error}")
                }
                Err(_) => break,
            }
            tokio::time::sleep(pause).await;
        }
    }
}

/// One transaction of a few rows; clients never touch each other's.
async fn transaction(
    connection: &mut Conn,
    client: u64,
    random: &mut fastrand::Rng,
    next_id: &mut u64,
) -> mysql_async::Result<()> {
    connection.query_drop("BEGIN").await?;
    let first = *next_id;
    *next_id += random.u64(1..=4);
    let rows: Vec<String> = (first..*next_id)
        .map(|id| {
            let length = if random.u8(..) < 16 { 1500 } else { 40 };
            format!("({id}, {}, REPEAT('x', {length}))", random.u16(..))
        })
        .collect();
    connection
        .query_drop(format!(
            "INSERT INTO load_test.keyed VALUES {}",
            rows.join(",")
        ))
        .await?;
    let older = first.saturating_sub(random.u64(1..20));
    let value = random.u16(..);
    match random.u8(..4) {
        0 => {
            connection
                .query_drop(format!("DELETE FROM load_test.keyed WHERE id = {older}"))
                .await?;
        }
        1 => {
            let sql = format!(
                "INSERT INTO load_test.plain VALUES ({client}, {}, 'y')",
                value % 8
            );
            connection.query_drop(sql).await?;
        }
        2 => {
            let sql = format!(
                "UPDATE load_test.plain SET v = v + 100 WHERE client = {client} AND v = {}",
                value % 8
            );
            connection.query_drop(sql).await?;
        }
        _ => {
            let sql = format!("UPDATE load_test.keyed SET v = {value}, t = 'z' WHERE id = {older}");
            connection.query_drop(sql).await?;
        }
    }
    connection.query_drop("COMMIT").await
}
