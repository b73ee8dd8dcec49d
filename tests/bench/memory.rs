//! What the daemon takes of a host where nobody looks: its memory in one huge transaction and over hours, its processor when nothing
//! happens, its size, and its start.

#![allow(unreachable_pub)]

use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::backlog::{self, CatchUp, changed};
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up_within};
use crate::usage::{resident, seconds, seconds_of_threads};
use crate::{MYSQL_OPTIONS, workload};

/// Only a hang reaches this.
const HANG: Duration = Duration::from_secs(240);

const STREAMING: &str = "Connected to MySQL";

/// After its start, until a daemon does nothing but wait.
const SETTLED: Duration = Duration::from_secs(5);

/// Between two looks at the memory in a long load.
const LOOK: Duration = Duration::from_secs(5);

/// Transactions a second of the long load.
pub const SOAK_RATE: u32 = 500;

/// One transaction of so many rows, of about 500 bytes in the binlog each, read by a daemon. Returns the run, and the bytes of the binlog.
pub async fn transaction(
    mongod: &Mongod,
    changes: &[(String, String)],
    rows: u64,
) -> (CatchUp, u64) {
    let mysqld = Mysqld::start_with(MYSQL_OPTIONS).await;
    workload::write_transaction(&mysqld, rows).await;
    let files: Vec<(String, u64, String)> = mysqld.query("SHOW BINARY LOGS").await;
    let bytes = files.iter().map(|(_, bytes, _)| bytes).sum();
    let settings = changed(Settings::new(&mysqld, mongod), changes);
    let run = backlog::catch_up(&mysqld, mongod, &settings, rows).await;
    forget(mongod, &settings).await;
    (run, bytes)
}

/// Percent of a core that a daemon takes while nothing happens, in each of several stretches.
pub async fn idle(
    mongod: &Mongod,
    changes: &[(String, String)],
    stretches: usize,
    length: Duration,
) -> Vec<f64> {
    let mysqld = Mysqld::start_with(MYSQL_OPTIONS).await;
    let settings = changed(Settings::new(&mysqld, mongod), changes);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, HANG).await;
    tokio::time::sleep(SETTLED).await;
    let mut shares = Vec::with_capacity(stretches);
    for _ in 0..stretches {
        // The one sees the shortest turns, the other those of threads that have ended since.
        let used = || [seconds(daemon.pid()), seconds_of_threads(daemon.pid())];
        let (begun, before) = (Instant::now(), used());
        tokio::time::sleep(length).await;
        let after = used();
        let used = (after[0] - before[0]).max(after[1] - before[1]);
        shares.push(100.0 * used / begun.elapsed().as_secs_f64());
    }
    end(&daemon).await;
    forget(mongod, &settings).await;
    shares
}

/// Milliseconds from a start to streaming: the first one, which makes the collections, and each of the others.
pub async fn starts(
    mongod: &Mongod,
    changes: &[(String, String)],
    count: usize,
) -> (f64, Vec<f64>) {
    let mysqld = Mysqld::start_with(MYSQL_OPTIONS).await;
    let settings = changed(Settings::new(&mysqld, mongod), changes);
    let start = async || {
        let begun = Instant::now();
        let daemon = Daemon::start(&settings);
        daemon.wait_for_log(STREAMING, HANG).await;
        let milliseconds = begun.elapsed().as_secs_f64() * 1e3;
        end(&daemon).await;
        milliseconds
    };
    let first = start().await;
    let mut others = Vec::with_capacity(count);
    for _ in 0..count {
        others.push(start().await);
    }
    forget(mongod, &settings).await;
    (first, others)
}

/// Mebibytes in memory during a steady load, in the order of time.
pub async fn soak(
    mysqld: &Arc<Mysqld>,
    mongod: &Mongod,
    changes: &[(String, String)],
    length: Duration,
    mut tell: impl FnMut(Duration, f64),
) -> Vec<f64> {
    let settings = Settings::new(mysqld, mongod).set("START_FROM", "current");
    let settings = changed(settings, changes);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, HANG).await;
    let stop = Arc::new(AtomicBool::new(false));
    let load = workload::steady(mysqld, SOAK_RATE, &stop);
    let begun = Instant::now();
    let mut sizes = Vec::new();
    while begun.elapsed() < length {
        tokio::time::sleep(LOOK).await;
        let size = resident(daemon.pid()) as f64 / f64::from(1 << 20);
        tell(begun.elapsed(), size);
        sizes.push(size);
    }
    stop.store(true, Ordering::Relaxed);
    for client in load {
        client.await.expect("a client of the benchmark failed");
    }
    // A daemon that fell behind had no steady load.
    caught_up_within(mysqld, mongod, settings.database(), HANG).await;
    end(&daemon).await;
    forget(mongod, &settings).await;
    sizes
}

/// Size of the built binary in megabytes; `None`: it has its symbols, and is not what is shipped.
pub fn binary() -> Option<f64> {
    let bytes = fs::read(env!("CARGO_BIN_EXE_sdl")).expect("the binary was built");
    (!has_symbols(&bytes)).then(|| bytes.len() as f64 / 1e6)
}

/// Whether a 64-bit ELF file of this machine has a symbol table: "ELF-64 Object File Format", the section headers.
fn has_symbols(file: &[u8]) -> bool {
    const SHT_SYMTAB: u32 = 2;
    let number = |at: usize, length: usize| {
        let bytes = file.get(at..at + length).expect("a whole ELF header");
        let little_endian = bytes.iter().rev();
        little_endian.fold(0_usize, |number, byte| number << 8 | usize::from(*byte))
    };
    let (headers, size, count) = (number(0x28, 8), number(0x3a, 2), number(0x3c, 2));
    (0..count).any(|index| number(headers + index * size + 4, 4) == SHT_SYMTAB as usize)
}

async fn end(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    daemon.wait_exit(HANG).await;
}

/// Drops what a daemon wrote.
async fn forget(mongod: &Mongod, settings: &Settings) {
    let database = mongod.database(settings.database()).await;
    database.drop().await.expect("a database can be dropped");
}
