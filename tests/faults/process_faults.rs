//! What can happen to sdl's own process: it is stopped, killed at a crash point of an outage, out of memory, out of file descriptors,
//! or its clock is moved; and two things at once. Whatever it is, the audit is exact afterwards.
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::common::faults::{
    BACKLOG, BREAKER_CLOSED, BREAKER_OPEN, LATER, SOON, STREAMING, assert_goes_on_exactly,
    commits_more, logged_times, settings, start_servers, times_logged, under_load,
};
use crate::common::load::{Load, create_tables};
use crate::common::replication::{has_received, promote, replica_of};
use crate::common::servers::{self, Scratch};
use crate::common::{Daemon, Mongod, Mysqld, Proxy, Settings, Signal, wait_until};
use jiff::Timestamp;
use rustix::process::{Pid, Resource, Rlimit, prlimit};

/// 128 + SIGABRT: how Rust ends a process whose memory is refused, and a crash point ends it.
const ABORTED: i32 = 134;

/// EMFILE, as the system words it.
const TOO_MANY_FILES: &str = "Too many open files";

/// A breaker that opens and tries again soon, and a spool.
fn spooling(settings: Settings, mongod: &Mongod, spool: &Scratch) -> Settings {
    quick_breaker(settings, mongod).set("SPOOL_DIR", spool.path().display())
}

fn quick_breaker(settings: Settings, mongod: &Mongod) -> Settings {
    let uri = format!("{}&serverSelectionTimeoutMS=500", mongod.uri());
    settings
        .set("MONGO_URI", uri)
        .set("BREAKER_FAILURES", 2)
        .set("BREAKER_OPEN", "1s")
}

// --- stopped

/// Longer than any heartbeat, the servers' and its own; what it slept through is no reason to take anybody for dead.
#[tokio::test]
async fn a_daemon_that_is_stopped_for_fifteen_seconds_goes_on() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    daemon.signal(Signal::STOP);
    // The length of the stop is the fault itself.
    tokio::time::sleep(Duration::from_secs(15)).await;
    daemon.signal(Signal::CONT);
    commits_more(&mongod, settings.database()).await;
    load.more(50).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

// --- memory

/// What sdl says it needs is what it gets along with: every page it could touch, its libraries and the stacks of its threads count.
#[tokio::test]
async fn a_daemon_within_its_memory_limit_keeps_up() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod)
        // The C library reserves 64 MiB for each thread that allocates, up to eight for each core: more than there is on a large host.
        .set("MALLOC_ARENA_MAX", 2)
        .inside(limited(&format!("--as={}", MEMORY_MIB << 20)));
    let (daemon, load) = under_load(&mysqld, &settings).await;
    load.more(2_000).await;
    load.stop().await;
    eprintln!(
        "{} MiB of address space at most, {} MiB of it resident",
        in_proc(&daemon, "VmPeak:") >> 20,
        daemon.peak_memory() >> 20
    );
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// A row of 64 MiB takes several times that. Refused, it is no row left out: the process ends, and one with more memory records it.
#[tokio::test]
async fn a_daemon_that_is_refused_memory_ends_and_the_next_one_is_exact() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("a process");
    // What it has, and a little more.
    let limit = Rlimit {
        current: Some(in_proc(&daemon, "VmSize:") + (32 << 20)),
        maximum: None,
    };
    prlimit(Some(pid), Resource::As, limit).expect("a limit");
    load.more(50).await;
    mysqld
        .exec(
            "CREATE TABLE load_test.huge (id INT PRIMARY KEY, v LONGBLOB);
             INSERT INTO load_test.huge VALUES (1, REPEAT('h', 64 << 20))",
        )
        .await;
    let (code, _) = daemon.wait_exit(LATER).await;
    assert_eq!(code, ABORTED, "{:?}", daemon.logs().last());
    assert!(daemon.has_logged("memory allocation of"));
    load.more(50).await;
    load.stop().await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// A size of /proc/PID/status, in bytes.
fn in_proc(daemon: &Daemon, name: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kilobytes.parse::<u64>().unwrap() << 10
}

/// Address space with which sdl works under load. Resident are 20 MiB of it; most are arenas and stacks that are reserved.
const MEMORY_MIB: u64 = 300;

/// The words before a command that set its limits.
fn limited(limit: &str) -> Vec<String> {
    ["prlimit", limit, "--"].map(str::to_owned).to_vec()
}

// --- file descriptors

/// However few there are: it works, or says what is missing and waits or ends. With enough of them the next one is exact.
#[tokio::test]
async fn a_daemon_with_few_file_descriptors_says_so_and_loses_nothing() {
    let (mysqld, mongod) = start_servers().await;
    let spool = Scratch::new("spool");
    let ample = spooling(settings(&mysqld, &mongod), &mongod, &spool);
    let load = Load::start(&mysqld, 2);
    let mut short = 0;
    for limit in [8, 12, 16, 20, 24, 32] {
        let scarce = ample
            .clone()
            .inside(limited(&format!("--nofile={limit}:{limit}")));
        let daemon = Daemon::start(&scarce);
        load.more(100).await;
        wait_until(
            "it streams, says why it does not, or ends",
            SOON,
            async || {
                daemon.has_logged(STREAMING)
                    || daemon.has_logged(TOO_MANY_FILES)
                    || !daemon.is_running()
            },
        )
        .await;
        let is_running = daemon.is_running();
        if !is_running || daemon.has_logged(TOO_MANY_FILES) {
            short += 1;
        }
        daemon.kill9();
        assert!(
            daemon.has_logged(STREAMING) || daemon.has_logged(TOO_MANY_FILES),
            "with {limit} it does not say what is missing: {:#?}",
            daemon.logs()
        );
        eprintln!("{limit}: running: {is_running}, {:?}", daemon.logs().last());
    }
    assert!(short > 0, "the limits were not low enough");
    load.stop().await;
    let daemon = Daemon::start(&ample);
    daemon.wait_for_log(STREAMING, SOON).await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &ample).await;
}

/// None is left for a new connection when the old ones are cut; the very daemon goes on when there are some again.
#[tokio::test]
async fn a_daemon_that_runs_out_of_file_descriptors_waits_until_it_has_some() {
    let (mysqld, mongod) = start_servers().await;
    let settings = settings(&mysqld, &mongod);
    let (daemon, load) = under_load(&mysqld, &settings).await;
    let pid = Pid::from_raw(daemon.pid().cast_signed()).expect("a process");
    let limit = |current| Rlimit {
        current: Some(current),
        maximum: Some(4_096),
    };
    let before = prlimit(Some(pid), Resource::Nofile, limit(3)).expect("a limit");
    assert!(
        crate::common::faults::kill_dump_threads(&mysqld)
            .await
            .unwrap()
            > 0
    );
    daemon.wait_for_log(TOO_MANY_FILES, SOON).await;
    // So does MongoDB's side of it.
    mongod.restart().await;
    load.more(100).await;
    assert!(daemon.is_running());
    prlimit(
        Some(pid),
        Resource::Nofile,
        limit(before.current.unwrap_or(1_024).min(4_096)),
    )
    .expect("a limit");
    commits_more(&mongod, settings.database()).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

// --- the clock

/// An hour forward, and two back: what is recorded has the source's times, and nothing waits for a clock.
#[tokio::test]
async fn a_clock_that_jumps_an_hour_changes_nothing() {
    let (mysqld, mongod) = start_servers().await;
    let scratch = Scratch::new("clock");
    let clock = Clock::new(scratch.path());
    let settings = settings(&mysqld, &mongod)
        .set("LD_PRELOAD", servers::faketime().display())
        .set("FAKETIME_TIMESTAMP_FILE", clock.file.display())
        .set("FAKETIME_NO_CACHE", 1)
        // A clock that is set does not move the monotonic one.
        .set("DONT_FAKE_MONOTONIC", 1)
        .set("FAKETIME_DONT_FAKE_MONOTONIC", 1);
    let started = Timestamp::now();
    let (daemon, load) = under_load(&mysqld, &settings).await;
    for (time, hours) in [(2, 1), (3, -1), (4, 0)] {
        clock.set(hours);
        load.more(100).await;
        commits_more(&mongod, settings.database()).await;
        // What it logs now has the time that it believes.
        assert!(
            crate::common::faults::kill_dump_threads(&mysqld)
                .await
                .unwrap()
                > 0
        );
        logged_times(&daemon, STREAMING, time, SOON).await;
        let lines = daemon.logs();
        let line = lines.iter().rfind(|line| line.contains(STREAMING)).unwrap();
        let logged: Timestamp = line.split_whitespace().next().unwrap().parse().unwrap();
        let ahead = logged.as_second() - Timestamp::now().as_second();
        assert!(
            (ahead - hours * 3_600).abs() < 120,
            "the clock was to be moved by {hours} h: {line}"
        );
        load.more(50).await;
    }
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
    let now = Timestamp::now();
    for change in mongod.changes(settings.database()).await {
        let ts = change.get_datetime("ts").unwrap().timestamp_millis() / 1_000;
        // The tables are some seconds older than the daemon.
        assert!(
            (started.as_second() - 60..=now.as_second()).contains(&ts),
            "{change}"
        );
    }
}

/// By how much libfaketime moves the clock; it looks at the file at each call.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new(directory: &Path) -> Self {
        let clock = Self {
            file: directory.join("faketime"),
        };
        clock.set(0);
        clock
    }

    fn set(&self, hours: i64) {
        // Never half written.
        let new = self.file.with_extension("new");
        fs::write(&new, format!("{hours:+}h\n")).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }
}

// --- two at once

/// Without a spool it knows nothing of its own until MongoDB is there; the binlog keeps everything.
#[tokio::test]
async fn sdl_killed_while_mongodb_is_down_without_a_spool_is_exact() {
    let (mysqld, mongod) = start_servers().await;
    let settings = quick_breaker(settings(&mysqld, &mongod), &mongod);
    let (mut daemon, load) = under_load(&mysqld, &settings).await;
    mongod.kill();
    daemon.wait_for_log(BREAKER_OPEN, SOON).await;
    for _ in 0..3 {
        daemon.kill9();
        load.more(50).await;
        daemon = Daemon::start(&settings);
        daemon.wait_for_log(BREAKER_OPEN, SOON).await;
    }
    mongod.start_again().await;
    daemon.wait_for_log(STREAMING, SOON).await;
    commits_more(&mongod, settings.database()).await;
    load.stop().await;
    assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
}

/// The primary dies while what an outage of MongoDB left goes from the spool to MongoDB, over a line that makes it last.
#[tokio::test]
async fn mysql_fails_over_while_the_spool_drains() {
    let (primary, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    create_tables(&primary).await;
    let replica = Arc::new(replica_of(&primary).await);
    let primary = Arc::new(primary);
    let spool = Scratch::new("spool");
    let to_mongodb = Proxy::start(mongod.port());
    crate::common::faults::put_behind(&mongod, &to_mongodb).await;
    // What it reads of the primary stays behind what the replica has.
    let to_primary = Proxy::start(primary.port());
    let uri = format!(
        "mongodb://{}/?replicaSet=rs0&serverSelectionTimeoutMS=1000",
        to_mongodb.addr()
    );
    let settings = spooling(settings(&primary, &mongod), &mongod, &spool)
        .set("MONGO_URI", uri)
        .set(
            "MYSQL_ADDR",
            format!("{},{}", to_primary.addr(), replica.addr()),
        );
    let (daemon, load) = under_load(&primary, &settings).await;

    to_mongodb.refuse().await;
    daemon.wait_for_log("spooling", SOON).await;
    load.more(1_000).await;
    to_mongodb.latency(Duration::from_millis(50));
    to_mongodb.accept().await;
    daemon.wait_for_log(BREAKER_CLOSED, SOON).await;
    commits_more(&mongod, settings.database()).await;
    to_primary.stall();
    has_received(&replica, &primary).await;
    primary.kill();
    to_primary.refuse().await;
    load.stop().await;
    promote(&replica).await;
    logged_times(&daemon, STREAMING, 2, LATER).await;
    assert_eq!(
        times_logged(&daemon, "the spool is empty again"),
        0,
        "the spool was drained before the primary died"
    );

    let load = Load::start(&replica, 2);
    load.more(100).await;
    load.stop().await;
    to_mongodb.clear().await;
    daemon
        .wait_for_log("the spool is empty again", BACKLOG)
        .await;
    assert_goes_on_exactly(&daemon, &replica, &mongod, &settings).await;
}

// --- crash points of an outage

// SIGKILL wherever a batch is on its way into the spool or out of it; some points are met while MongoDB is away, the others when
// it has come back.

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_crash_at_every_crash_point_of_an_outage_when_it_is_first_passed_is_recovered() {
    crash_in_an_outage("return").await;
}

#[cfg(feature = "failpoints")]
#[tokio::test]
async fn a_crash_at_every_crash_point_of_an_outage_when_it_is_passed_again_is_recovered() {
    crash_in_an_outage("3*off->return").await;
}

#[cfg(feature = "failpoints")]
async fn crash_in_an_outage(when: &str) {
    let (mysqld, mongod) = start_servers().await;
    for point in sdl::failpoint::OUTAGE_CRASH_POINTS {
        let spool = Scratch::new("spool");
        let settings = spooling(settings(&mysqld, &mongod), &mongod, &spool);
        // Runs follow each other; under one name the later would be told of the history of the earlier.
        let name = format!("mysql://{}/{}", mysqld.addr(), settings.database());
        let settings = settings.set("SOURCE_ID", name).set("BATCH_SIZE", 10);
        let crashing = settings
            .clone()
            .set("FAILPOINTS", format!("{point}={when}"));
        // Every run reads what all before it have written.
        let load = Load::start_paced(&mysqld, 2, Duration::from_millis(20));
        let daemon = Daemon::start(&crashing);
        daemon.wait_for_log(STREAMING, SOON).await;
        load.more(50).await;
        let returns = *point == "after-return";
        mongod.kill();
        let mut rounds = 0;
        loop {
            wait_until("it spools, or has crashed", SOON, async || {
                !daemon.is_running() || times_logged(&daemon, BREAKER_OPEN) > rounds
            })
            .await;
            if daemon.is_running() {
                load.more(100).await;
            }
            mongod.start_again().await;
            if !(returns && when != "return") {
                break;
            }
            rounds += 1;
            // One return a round.
            wait_until("MongoDB is back, or it has crashed", SOON, async || {
                !daemon.is_running() || times_logged(&daemon, BREAKER_CLOSED) >= rounds
            })
            .await;
            if !daemon.is_running() {
                break;
            }
            mongod.kill();
        }
        let (code, _) = daemon.wait_exit(LATER).await;
        assert_eq!(code, ABORTED, "it was to die at {point}={when}");
        load.stop().await;
        let daemon = Daemon::start(&settings);
        daemon.wait_for_log(STREAMING, SOON).await;
        assert_goes_on_exactly(&daemon, &mysqld, &mongod, &settings).await;
        eprintln!("{point}={when}: exact");
    }
}
