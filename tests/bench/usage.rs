//! Processor time and memory of processes, from /proc.

#![allow(unreachable_pub)]

use std::fs;
use std::path::Path;
use std::time::Duration;

use mongodb::bson::{Bson, doc};
use tokio::process::Command;

use crate::common::{Mongod, Mysqld};

/// What /proc counts in, on every Linux: USER_HZ.
const TICKS_A_SECOND: f64 = 100.0;

/// Servers that use less than this share of a core for as long as [`REST`] have nothing left to do; idle, both together use 2 %.
const AT_REST: f64 = 0.05;
const REST: Duration = Duration::from_secs(2);

/// They are measured all the same when they are busy for so long.
const NO_REST: Duration = Duration::from_secs(60);

/// Seconds of processor time.
#[derive(Clone, Copy, Debug)]
pub struct Processor {
    pub sdl: f64,
    pub mongod: f64,
    pub mysqld: f64,
}

impl Processor {
    pub fn sum(self) -> f64 {
        self.sdl + self.mongod + self.mysqld
    }

    pub fn minus(self, before: Self) -> Self {
        Self {
            sdl: self.sdl - before.sdl,
            mongod: self.mongod - before.mongod,
            mysqld: self.mysqld - before.mysqld,
        }
    }
}

/// The servers' process numbers, as they tell them.
#[derive(Clone, Copy, Debug)]
pub struct Servers {
    mongod: u32,
    mysqld: u32,
}

impl Servers {
    /// Finds them, and waits until they are done with what they were made to do before: MySQL flushes pages and purges rows long after
    /// the last statement, MongoDB writes checkpoints and drops files, the kernel writes what both gave it. What is measured next would
    /// pay for it.
    pub async fn at_rest(mysqld: &Mysqld, mongod: &Mongod) -> Self {
        let servers = Self::find(mysqld, mongod).await;
        let rested = async {
            mongod.admin(doc! { "fsync": 1 }).await;
            let synced = Command::new("sync").kill_on_drop(true).status().await;
            assert!(synced.expect("sync can be run").success());
            loop {
                let before = servers.used(None);
                tokio::time::sleep(REST).await;
                if servers.used(None).minus(before).sum() < AT_REST * REST.as_secs_f64() {
                    break;
                }
            }
        };
        if tokio::time::timeout(NO_REST, rested).await.is_err() {
            eprintln!("the servers were still busy after {NO_REST:?}; what follows pays for it");
        }
        servers
    }

    async fn find(mysqld: &Mysqld, mongod: &Mongod) -> Self {
        let status = mongod.admin(doc! { "serverStatus": 1 }).await;
        let mongod = match status.get("pid") {
            Some(Bson::Int64(pid)) => u32::try_from(*pid).expect("a process number"),
            Some(Bson::Int32(pid)) => u32::try_from(*pid).expect("a process number"),
            other => panic!("serverStatus has no pid but {other:?}"),
        };
        let file: String = mysqld.query_one("SELECT @@pid_file").await;
        let pid =
            fs::read_to_string(mysqld.datadir().join(Path::new(&file))).expect("mysqld's pid file");
        Self {
            mongod,
            mysqld: pid.trim().parse().expect("a process number"),
        }
    }

    /// Time used so far; `sdl` is 0 before it runs.
    pub fn used(self, sdl: Option<u32>) -> Processor {
        Processor {
            sdl: sdl.map_or(0.0, seconds),
            mongod: seconds(self.mongod),
            mysqld: seconds(self.mysqld),
        }
    }
}

/// Seconds that the threads of a running process had a processor, to the nanosecond: what a thread takes that wakes up for a moment is
/// lost between two ticks. Threads that have ended do not count.
pub fn seconds_of_threads(pid: u32) -> f64 {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is running");
    let nanoseconds = threads.flatten().filter_map(|thread| {
        // It may have ended meanwhile.
        let times = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        times.split_whitespace().next()?.parse::<f64>().ok()
    });
    nanoseconds.sum::<f64>() / 1e9
}

/// utime + stime of a running process, in whole ticks.
pub fn seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process is running");
    // The name stands in parentheses and may hold anything; state is the first field after it, utime the 12th.
    let after_name = stat.rsplit_once(')').expect("a name in parentheses").1;
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    let ticks = |index: usize| fields[index].parse::<f64>().expect("a number of ticks");
    (ticks(11) + ticks(12)) / TICKS_A_SECOND
}

/// Bytes of a running process that are in memory.
pub fn resident(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is running");
    let kilobytes = status.lines().find_map(|line| {
        let value = line.strip_prefix("VmRSS:")?.trim();
        value.strip_suffix(" kB")?.parse::<u64>().ok()
    });
    kilobytes.expect("VmRSS is in /proc/PID/status") * 1024
}
