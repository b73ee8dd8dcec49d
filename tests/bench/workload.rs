//! What MySQL is made to do: a table of 10 columns, half of its changes in single-row transactions, half in bulk ones.

#![allow(unreachable_pub)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;

use crate::common::Mysqld;

/// Connections that write at the same time, so that the binlog interleaves their transactions as a real one does.
const CLIENTS: u64 = 4;

/// Row events of one turn of a client: 1,000 alone, 1,000 in bulk.
pub const EVENTS_A_TURN: u64 = 2_000;

/// Those of them in transactions of one row.
pub const SINGLES_A_TURN: u64 = 1_000;

/// Numbers of clients beside those of the backlog: the number gives a client its keys.
const BULK_CLIENT: u64 = CLIENTS + 1;
const SINGLES_CLIENT: u64 = CLIENTS + 2;
const STEADY_CLIENT: u64 = CLIENTS + 3;

/// Single-row transactions sent at a time, to save round trips; each statement commits by itself.
const STATEMENTS_A_PACKET: usize = 100;

/// Tables, without a trace in the binlog: the backlog holds row events only.
pub async fn create_tables(mysqld: &Mysqld) {
    mysqld
        .exec(
            "SET sql_log_bin = 0;
             CREATE DATABASE bench;
             CREATE TABLE bench.orders (
                 id BIGINT PRIMARY KEY,
                 customer INT UNSIGNED NOT NULL,
                 status ENUM('new', 'paid', 'sent', 'returned') NOT NULL,
                 total DECIMAL(12, 2) NOT NULL,
                 currency CHAR(3) NOT NULL,
                 email VARCHAR(100) NOT NULL,
                 note VARCHAR(255),
                 weight DOUBLE,
                 created DATETIME(6) NOT NULL,
                 updated TIMESTAMP(3) NOT NULL
             );
             CREATE TABLE bench.wide (id BIGINT PRIMARY KEY, made DATETIME(6) NOT NULL, note VARCHAR(1000) NOT NULL);
             CREATE TABLE bench.pings (id BIGINT PRIMARY KEY, sent BIGINT NOT NULL, note VARCHAR(255));
             CREATE TABLE bench.numbers (n INT PRIMARY KEY);
             INSERT INTO bench.numbers
                 WITH RECURSIVE counting AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM counting WHERE n < 499)
                 SELECT n FROM counting",
        )
        .await;
}

/// Rows of one of the large INSERTs.
const ROWS_AT_ONCE: u64 = 10_000;

/// Writes `rows` rows by INSERTs of many rows, and takes the rows away again without a trace in the binlog.
pub async fn write_bulk(mysqld: &Arc<Mysqld>, rows: u64) {
    let mut client = Client::connect(mysqld, BULK_CLIENT).await;
    let mut left = rows;
    while left > 0 {
        let rows = left.min(ROWS_AT_ONCE);
        client.insert_many(rows).await;
        left -= rows;
    }
    client.forget().await;
}

/// Writes `rows` single-row transactions, rounded down to whole thousands, and takes the rows away again without a trace.
pub async fn write_singles(mysqld: &Arc<Mysqld>, rows: u64) {
    let mut client = Client::connect(mysqld, SINGLES_CLIENT).await;
    for _ in 0..rows / SINGLES_A_TURN {
        client.singles().await;
    }
    client.forget().await;
}

/// One transaction of `rows` rows of about 500 bytes each.
pub async fn write_transaction(mysqld: &Mysqld, rows: u64) {
    create_tables(mysqld).await;
    let mut connection = mysqld.root().await;
    let mut run = async |sql: String| {
        let done = connection.query_drop(sql).await;
        done.expect("MySQL takes the statements of the benchmark");
    };
    run(format!(
        "SET SESSION cte_max_recursion_depth = {ROWS_AT_ONCE}; BEGIN"
    ))
    .await;
    for first in (0..rows).step_by(ROWS_AT_ONCE as usize) {
        run(format!(
            "INSERT INTO bench.wide
                 WITH RECURSIVE counting AS (SELECT {first} AS id UNION ALL SELECT id + 1 FROM counting WHERE id < {last})
                 SELECT id, NOW(6), CONCAT(REPEAT(SHA2(id, 512), 3), LEFT(SHA2(id, 512), 92)) FROM counting",
            last = rows.min(first + ROWS_AT_ONCE) - 1,
        ))
        .await;
    }
    run("COMMIT".to_owned()).await;
}

/// Clients that together commit so many single-row transactions a second until they are stopped.
pub fn steady(mysqld: &Arc<Mysqld>, rate: u32, stop: &Arc<AtomicBool>) -> Vec<JoinHandle<()>> {
    (STEADY_CLIENT..STEADY_CLIENT + CLIENTS)
        .map(|number| {
            let (mysqld, stop) = (Arc::clone(mysqld), Arc::clone(stop));
            tokio::spawn(async move {
                let mut client = Client::connect(&mysqld, number).await;
                let pause = Duration::from_secs_f64(CLIENTS as f64 / f64::from(rate));
                let mut ticks = tokio::time::interval(pause);
                loop {
                    for statement in client.mixed() {
                        if stop.load(Ordering::Relaxed) {
                            return;
                        }
                        ticks.tick().await;
                        client.run(statement).await;
                    }
                }
            })
        })
        .collect()
}

/// Writes a backlog in place of the one before, as if the server was new; the keys of each client begin so far behind its first one.
pub async fn rewrite_backlog(mysqld: &Arc<Mysqld>, events: u64, behind: u64) {
    Client::connect(mysqld, 1).await.forget().await;
    mysqld.exec("RESET BINARY LOGS AND GTIDS").await;
    write_backlog(mysqld, events, behind).await;
}

/// Writes `events` row events, rounded down to whole turns; the keys of each client begin so far behind its first one.
pub async fn write_backlog(mysqld: &Arc<Mysqld>, events: u64, behind: u64) {
    let turns = Arc::new(AtomicU64::new(events / EVENTS_A_TURN));
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|number| {
            let (mysqld, turns) = (Arc::clone(mysqld), Arc::clone(&turns));
            tokio::spawn(async move {
                let mut client = Client::connect(&mysqld, number).await;
                client.next_id += behind;
                let take = |left: u64| left.checked_sub(1);
                while turns
                    .fetch_update(Ordering::Relaxed, Ordering::Relaxed, take)
                    .is_ok()
                {
                    client.singles().await;
                    client.bulk().await;
                }
            })
        })
        .collect();
    for client in clients {
        client.await.expect("a client of the benchmark failed");
    }
}

struct Client {
    connection: Conn,
    random: fastrand::Rng,
    next_id: u64,
}

impl Client {
    async fn connect(mysqld: &Mysqld, number: u64) -> Self {
        Self {
            connection: mysqld.root().await,
            random: fastrand::Rng::with_seed(number),
            next_id: number << 32,
        }
    }

    /// One transaction of so many inserts, whose values differ as those of single rows do.
    async fn insert_many(&mut self, rows: u64) {
        let first = self.next_id;
        self.next_id += rows;
        let statement = format!(
            "INSERT INTO bench.orders
                 WITH RECURSIVE counting AS (SELECT {first} AS id UNION ALL SELECT id + 1 FROM counting WHERE id < {last})
                 SELECT id, id * 37 % 100000, 'new', id % 10000 + 0.25, 'EUR', CONCAT('c', id % 100000, '@example.com'),
                     LEFT(SHA2(id, 256), 12), id % 1000 / 7, NOW(6), NOW(3)
                 FROM counting",
            last = self.next_id - 1,
        );
        self.run(format!(
            "SET SESSION cte_max_recursion_depth = {rows}; {statement}"
        ))
        .await;
    }

    /// Empties the table without a trace in the binlog.
    async fn forget(&mut self) {
        self.run(
            "SET SESSION sql_log_bin = 0; TRUNCATE TABLE bench.orders; SET SESSION sql_log_bin = 1"
                .to_owned(),
        )
        .await;
    }

    /// 1,000 transactions of one row: 500 inserts, 400 updates, 100 deletes.
    async fn singles(&mut self) {
        let statements: Vec<String> = (0..100).flat_map(|_| self.mixed()).collect();
        for packet in statements.chunks(STATEMENTS_A_PACKET) {
            self.run(packet.join(";")).await;
        }
    }

    /// Ten transactions of one row: 5 inserts, 4 updates, 1 delete.
    fn mixed(&mut self) -> Vec<String> {
        let first = self.next_id;
        self.next_id += 5;
        let mut statements: Vec<String> = (first..first + 5).map(|id| self.insert(id)).collect();
        statements.extend((first..first + 4).map(|id| {
            format!(
                "UPDATE bench.orders SET status = 'paid', total = total + 1, updated = NOW(3) WHERE id = {id}"
            )
        }));
        statements.push(format!("DELETE FROM bench.orders WHERE id = {}", first + 4));
        statements
    }

    fn insert(&mut self, id: u64) -> String {
        let random = &mut self.random;
        let mut statement = String::with_capacity(256);
        write!(
            statement,
            "INSERT INTO bench.orders VALUES ({id}, {}, 'new', {}.{:02}, 'EUR', 'c{}@example.com', '",
            random.u32(..100_000),
            random.u32(..10_000),
            random.u32(..100),
            random.u32(..100_000),
        )
        .expect("a String takes everything");
        statement.extend(std::iter::repeat_with(|| random.alphanumeric()).take(12));
        write!(statement, "', {}, NOW(6), NOW(3))", random.f64() * 100.0)
            .expect("a String takes everything");
        statement
    }

    /// 1,000 events in three transactions: 500 inserts, 400 updates, 100 deletes.
    async fn bulk(&mut self) {
        let first = self.next_id;
        self.next_id += 500;
        let (updated, last) = (first + 399, first + 499);
        for statement in [
            format!(
                "INSERT INTO bench.orders SELECT {first} + n, n * 37 % 100000, 'new', n + 0.25, 'EUR',
                     CONCAT('c', n, '@example.com'), LEFT(SHA2({first} + n, 256), 12), n / 3, NOW(6), NOW(3)
                     FROM bench.numbers"
            ),
            format!(
                "UPDATE bench.orders SET status = 'sent', total = total + 1, updated = NOW(3)
                     WHERE id BETWEEN {first} AND {updated}"
            ),
            format!("DELETE FROM bench.orders WHERE id BETWEEN {} AND {last}", updated + 1),
        ] {
            self.run(statement).await;
        }
    }

    async fn run(&mut self, sql: String) {
        self.connection
            .query_drop(sql)
            .await
            .expect("MySQL takes the statements of the benchmark");
    }
}
