//! The other benchmark: how soon the audit is back after the worst of days, and that nothing is missing or double then.
//!
//!     cargo bench --bench outages               an outage of 5 minutes; about 9 minutes in all
//!     cargo bench --bench outages -- --quick    of 20 seconds; about a minute and a half
//!
//! A steady load of single-row transactions runs all the time. Three figures: from SIGKILL (and the start that systemd would make at
//! once) to reading the binlog again; from MongoDB's return to the moment when the audit is less than half a second behind; from the
//! death of the holder of a lease to its standby reading the binlog. In the end the audit is folded and compared with the table.
//! Time fails nothing here; only wrong results do.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::servers::Scratch;
use common::{Daemon, Mongod, Mysqld, Settings, Signal, fold, mongo, mysql};
use mysql_async::prelude::Queryable;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

/// Transactions a second.
const RATE: u32 = 500;

const CLIENTS: u32 = 4;

/// Behind by less than this is caught up, while the load goes on.
const CAUGHT_UP: Duration = Duration::from_millis(500);

/// Only a hang reaches this.
const HANG: Duration = Duration::from_secs(600);

const STREAMING: &str = "Connected to MySQL";

/// The lease's time, as its default.
const LEASE_TTL: Duration = Duration::from_secs(10);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        println!("this is a benchmark: cargo bench --bench outages [-- --quick]");
        return;
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (kills, outage, take_overs) = if quick {
        (5, Duration::from_secs(20), 1)
    } else {
        (10, Duration::from_secs(300), 3)
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(run(kills, outage, take_overs));
}

async fn run(kills: usize, outage: Duration, take_overs: usize) {
    let (mysqld, mongod) = tokio::join!(
        Mysqld::start_with(&["--innodb-flush-log-at-trx-commit=2", "--sync-binlog=0"]),
        Mongod::start()
    );
    let mysqld = Arc::new(mysqld);
    mysqld
        .exec("CREATE DATABASE bench; CREATE TABLE bench.steady (id BIGINT PRIMARY KEY, v INT, t VARCHAR(200))")
        .await;
    let scratch = Scratch::new("spool");
    let settings = Settings::new(&mysqld, &mongod)
        .set("SPOOL_DIR", scratch.path().display())
        .set("BREAKER_OPEN", "5s");
    let load = Load::start(&mysqld);
    let mut rows: Vec<[String; 4]> = Vec::new();

    let mut daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, HANG).await;
    caught_up(&mysqld, &mongod, &settings).await;
    let mut back = Vec::new();
    for _ in 0..kills {
        // The moment within a batch is to be another one each time.
        tokio::time::sleep(Duration::from_millis(300 + 37 * back.len() as u64)).await;
        daemon.kill9();
        let killed = Instant::now();
        daemon = Daemon::start(&settings);
        daemon.wait_for_log(STREAMING, HANG).await;
        back.push(killed.elapsed());
    }
    rows.push(row(
        &format!("SIGKILL to streaming again ({kills} times)"),
        &spread(&back),
        "under 3 s",
        back.iter().all(|time| *time < Duration::from_secs(3)),
    ));
    caught_up(&mysqld, &mongod, &settings).await;

    mongod.kill();
    tokio::time::sleep(outage).await;
    mongod.start_again().await;
    let returned = Instant::now();
    let behind = load.committed() - documents(&mongod, &settings).await;
    caught_up(&mysqld, &mongod, &settings).await;
    rows.push(row(
        &format!(
            "MongoDB's return to caught up, after {} s at {RATE} transactions/s",
            outage.as_secs()
        ),
        &format!(
            "{:.1} s ({behind} events)",
            returned.elapsed().as_secs_f64()
        ),
        "none set",
        true,
    ));
    daemon.signal(Signal::TERM);
    daemon.wait_exit(HANG).await;

    let settings = settings.set("LEASE", "on").unset("SPOOL_DIR");
    let mut holder = Daemon::start(&settings);
    holder.wait_for_log(STREAMING, HANG).await;
    let mut taken = Vec::new();
    for number in 0..take_overs {
        let server_id = 900_000_000 + number;
        let standby = Daemon::start(&settings.clone().set("MYSQL_SERVER_ID", server_id));
        standby.wait_for_log("standing by", HANG).await;
        caught_up(&mysqld, &mongod, &settings).await;
        holder.kill9();
        let killed = Instant::now();
        standby.wait_for_log(STREAMING, HANG).await;
        taken.push(killed.elapsed());
        holder = standby;
    }
    let limit = LEASE_TTL + Duration::from_secs(1);
    rows.push(row(
        &format!(
            "standby takes over from a killed holder, LEASE_TTL={} s",
            LEASE_TTL.as_secs()
        ),
        &spread(&taken),
        "under LEASE_TTL + 1 s",
        taken.iter().all(|time| *time < limit),
    ));

    let transactions = load.stop().await;
    common::caught_up_within(&mysqld, &mongod, settings.database(), HANG).await;
    fold::assert_exact(&mysqld, &mongod, settings.database(), &["bench.steady"]).await;
    // The fold has compared each row of the table and each number of the documents.
    rows.push(row(
        "events lost / doubled",
        &format!("0 / 0 of {transactions}"),
        "0 / 0",
        true,
    ));
    holder.signal(Signal::TERM);
    holder.wait_exit(HANG).await;
    print_table(&rows);
}

fn row(what: &str, figure: &str, goal: &str, is_met: bool) -> [String; 4] {
    let verdict = if is_met { "met" } else { "missed" };
    let row = [what, figure, goal, verdict].map(str::to_owned);
    eprintln!("{}", row.join(" | "));
    row
}

fn print_table(rows: &[[String; 4]]) {
    println!("| what | figure | goal | verdict |\n|---|---|---|---|");
    for row in rows {
        println!("| {} |", row.join(" | "));
    }
}

/// Median and worst.
fn spread(times: &[Duration]) -> String {
    let mut times = times.to_vec();
    times.sort();
    let middle = times[times.len() / 2].as_secs_f64();
    let worst = times[times.len() - 1].as_secs_f64();
    format!("median {middle:.2} s, worst {worst:.2} s")
}

async fn documents(mongod: &Mongod, settings: &Settings) -> u64 {
    mongod
        .database(settings.database())
        .await
        .collection::<mongodb::bson::Document>(mongo::CHANGES)
        .estimated_document_count()
        .await
        .expect("documents can be counted")
}

/// Waits until what MySQL has executed at one moment is recorded before half a second has passed.
async fn caught_up(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let database = mongod.database(settings.database()).await;
    let mut connection = mysqld.root().await;
    let began = Instant::now();
    loop {
        let asked = Instant::now();
        let executed = mysql::executed_gtid(mysqld.flavor(), &mut connection).await;
        loop {
            let saved = mongo::saved_gtid(&database).await.unwrap_or_default();
            if mysql::gtid_subset(mysqld.flavor(), &mut connection, &executed, &saved).await {
                break;
            }
            assert!(
                began.elapsed() < HANG,
                "the audit does not catch up: {saved}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        if asked.elapsed() < CAUGHT_UP {
            return;
        }
    }
}

/// Single-row transactions at a steady rate.
struct Load {
    stop: Arc<AtomicBool>,
    committed: Arc<AtomicU64>,
    clients: Vec<JoinHandle<()>>,
}

impl Load {
    fn start(mysqld: &Arc<Mysqld>) -> Self {
        let (stop, committed) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let clients = (0..CLIENTS)
            .map(|client| {
                let (mysqld, stop, committed) =
                    (Arc::clone(mysqld), Arc::clone(&stop), Arc::clone(&committed));
                tokio::spawn(async move {
                    let mut connection = mysqld.root().await;
                    let mut ticks =
                        tokio::time::interval(Duration::from_secs(1) * CLIENTS / RATE);
                    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
                    let mut id = u64::from(client);
                    while !stop.load(Ordering::Relaxed) {
                        ticks.tick().await;
                        let insert = format!(
                            "INSERT INTO bench.steady VALUES ({id}, 1, REPEAT('a row of an ordinary length ', 5))"
                        );
                        connection.query_drop(insert).await.expect("MySQL takes a row");
                        committed.fetch_add(1, Ordering::Relaxed);
                        id += u64::from(CLIENTS);
                    }
                })
            })
            .collect();
        Self {
            stop,
            committed,
            clients,
        }
    }

    fn committed(&self) -> u64 {
        self.committed.load(Ordering::Relaxed)
    }

    async fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.await.expect("a client of the benchmark failed");
        }
        self.committed.load(Ordering::Relaxed)
    }
}
