//! What MySQL is made to do: a table of 10 columns, half of its changes in single-row transactions, half in bulk ones.

#![allow(unreachable_pub)]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use mysql_async::Conn;
use mysql_async::prelude::Queryable;

use crate::common::Mysqld;

/// Connections that write at the same time, so that the binlog interleaves their transactions as a real one does.
const CLIENTS: u64 = 4;

/// Row events of one turn of a client: 1,000 alone, 1,000 in bulk.
pub const EVENTS_A_TURN: u64 = 2_000;

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
             CREATE TABLE bench.pings (id BIGINT PRIMARY KEY, sent BIGINT NOT NULL, note VARCHAR(255));
             CREATE TABLE bench.numbers (n INT PRIMARY KEY);
             INSERT INTO bench.numbers
                 WITH RECURSIVE counting AS (SELECT 0 AS n UNION ALL SELECT n + 1 FROM counting WHERE n < 499)
                 SELECT n FROM counting",
        )
        .await;
}

/// Writes `events` row events, rounded down to whole turns.
pub async fn write_backlog(mysqld: &Arc<Mysqld>, events: u64) {
    let turns = Arc::new(AtomicU64::new(events / EVENTS_A_TURN));
    let clients: Vec<_> = (1..=CLIENTS)
        .map(|number| {
            let (mysqld, turns) = (Arc::clone(mysqld), Arc::clone(&turns));
            tokio::spawn(async move {
                let mut client = Client {
                    connection: mysqld.root().await,
                    random: fastrand::Rng::with_seed(number),
                    next_id: number << 32,
                };
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
    /// 1,000 transactions of one row: 500 inserts, 400 updates, 100 deletes.
    async fn singles(&mut self) {
        let mut statements = Vec::with_capacity(1_000);
        for _ in 0..100 {
            let first = self.next_id;
            self.next_id += 5;
            statements.extend((first..first + 5).map(|id| self.insert(id)));
            statements.extend((first..first + 4).map(|id| {
                format!(
                    "UPDATE bench.orders SET status = 'paid', total = total + 1, updated = NOW(3) WHERE id = {id}"
                )
            }));
            statements.push(format!("DELETE FROM bench.orders WHERE id = {}", first + 4));
        }
        for packet in statements.chunks(STATEMENTS_A_PACKET) {
            self.run(packet.join(";")).await;
        }
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
