//! LEASE=on: of several daemons one records, and another goes on when that one dies, stops, stands still, or is cut off.
//!
//! Each test has its daemons on one machine, with a server id of their own as daemons on several hosts have; what the lease would tell
//! them by a process id (a dead holder of the same machine) only shortens a start. The take-over's times are printed, not asserted: what
//! must hold is that it happens, and that the audit is exact.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::faults::{
    BACKLOG, BREAKER_CLOSED, BREAKER_OPEN, LATER, SOON, STREAMING, commits_more, logged_times,
    start_servers, stops, times_logged,
};
use crate::common::load::{Load, TABLES, create_tables};
use crate::common::servers::{self, Scratch};
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Proxy, Settings, Signal, caught_up_within, fold, mongo,
    wait_until,
};
use mongodb::bson::{Bson, Document};

/// Short enough for many take-overs, long enough that a busy test machine does not lose it by itself.
const TTL: Duration = Duration::from_secs(3);

const STANDING_BY: &str = "standing by: another sdl holds the lease";

const LOST: &str = "the lease is lost";

const RESUMING: &str = "Resuming from saved GTID";

/// The settings of daemon `number` of a group.
fn member(group: &Settings, number: u32) -> Settings {
    let first: u32 = group.get("MYSQL_SERVER_ID").unwrap().parse().unwrap();
    group
        .clone()
        .set("MYSQL_SERVER_ID", first + 10_000 * number)
}

fn group(mysqld: &Mysqld, mongod: &Mongod) -> Settings {
    crate::common::faults::settings(mysqld, mongod)
        .set("SOURCE_ID", "group")
        .set("LEASE", "on")
        .set("LEASE_TTL", format!("{}s", TTL.as_secs()))
}

/// Members of a group, all started; the first of them records and the others stand by.
async fn start_group(settings: &Settings, members: u32) -> Vec<Daemon> {
    let mut daemons = Vec::new();
    for number in 0..members {
        let daemon = Daemon::start(&member(settings, number));
        let said = if number == 0 { STREAMING } else { STANDING_BY };
        daemon.wait_for_log(said, SOON).await;
        daemons.push(daemon);
    }
    daemons
}

/// Two members and a load.
async fn pair_under_load() -> (Arc<Mysqld>, Mongod, Settings, [Daemon; 2], Load) {
    let (mysqld, mongod) = start_servers().await;
    let settings = group(&mysqld, &mongod);
    let daemons = start_group(&settings, 2).await;
    let load = Load::start(&mysqld, 2);
    load.more(100).await;
    let pair = <[Daemon; 2]>::try_from(daemons).ok().expect("two");
    (mysqld, mongod, settings, pair, load)
}

async fn offset(mongod: &Mongod, settings: &Settings) -> Document {
    let database = mongod.database(settings.database()).await;
    mongo::offset(&database).await.expect("an offset")
}

/// Which process holds the lease.
async fn holder(mongod: &Mongod, settings: &Settings) -> Option<i64> {
    let offset = offset(mongod, settings).await;
    let lease = offset.get_document("lease").ok()?;
    Some(lease.get_i64("pid").expect("lease.pid"))
}

/// The signs that the holder gave.
async fn beat(mongod: &Mongod, settings: &Settings) -> i64 {
    let offset = offset(mongod, settings).await;
    let lease = offset.get_document("lease").expect("a lease");
    lease.get_i64("beat").expect("lease.beat")
}

/// The standby streams for the so manieth time; how long that took is told.
async fn takes_over(daemon: &Daemon, times: usize, what: &str, since: Instant) {
    logged_times(daemon, STREAMING, times, LATER).await;
    eprintln!("{what}: the standby streams after {:?}", since.elapsed());
}

/// Everything is recorded, and those that are left stop cleanly, standbys first.
async fn assert_exact_and_stop(
    mysqld: &Mysqld,
    mongod: &Mongod,
    settings: &Settings,
    standbys_first: &[&Daemon],
) {
    caught_up_within(mysqld, mongod, settings.database(), BACKLOG).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &TABLES).await;
    for daemon in standbys_first {
        stops(daemon).await;
    }
    fold::assert_exact(mysqld, mongod, settings.database(), &TABLES).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_is_followed_within_the_lease() {
    let (mysqld, mongod, settings, [first, second], load) = pair_under_load().await;
    assert_eq!(
        holder(&mongod, &settings).await,
        Some(i64::from(first.pid()))
    );
    assert!(!second.has_logged(STREAMING));
    first.kill9();
    takes_over(&second, 1, "killed, lease of 3 s", Instant::now()).await;
    load.more(100).await;
    assert_eq!(
        holder(&mongod, &settings).await,
        Some(i64::from(second.pid()))
    );
    // What was killed comes back, and stands by.
    let again = Daemon::start(&member(&settings, 0));
    again.wait_for_log(STANDING_BY, SOON).await;
    load.stop().await;
    assert!(!again.has_logged(STREAMING));
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&again, &second]).await;
    assert_eq!(
        offset(&mongod, &settings).await.get("lease"),
        Some(&Bson::Null)
    );
}

/// MariaDB tells replicas apart by their server id alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_mariadb_the_holder_of_yesterday_stands_by_too() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(Flavor::Mariadb10, &[]), Mongod::start());
    let mysqld = Arc::new(mysqld);
    create_tables(&mysqld).await;
    let settings = group(&mysqld, &mongod);
    let daemons = start_group(&settings, 2).await;
    let load = Load::start(&mysqld, 2);
    load.more(100).await;
    daemons[0].signal(Signal::STOP);
    takes_over(&daemons[1], 1, "stood still, on MariaDB", Instant::now()).await;
    commits_more(&mongod, settings.database()).await;
    daemons[0].signal(Signal::CONT);
    daemons[0].wait_for_log(LOST, LATER).await;
    daemons[0].wait_for_log(STANDING_BY, SOON).await;
    daemons[1].kill9();
    takes_over(&daemons[0], 2, "killed, on MariaDB", Instant::now()).await;
    load.stop().await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&daemons[0]]).await;
}

/// A killed daemon that is started again where it ran need not wait for itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_holder_without_a_standby_goes_on_at_once() {
    let (mysqld, mongod) = start_servers().await;
    // Nobody would wait for as long as this.
    let settings = group(&mysqld, &mongod).set("LEASE_TTL", "5m");
    let daemon = Daemon::start(&settings);
    let load = Load::start(&mysqld, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(100).await;
    daemon.kill9();
    let again = Daemon::start(&settings);
    again.wait_for_log(STREAMING, SOON).await;
    load.stop().await;
    assert!(!again.has_logged(STANDING_BY));
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&again]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clean_stop_hands_over_at_once() {
    let (mysqld, mongod) = start_servers().await;
    let settings = group(&mysqld, &mongod).set("LEASE_TTL", "5m");
    let daemons = start_group(&settings, 2).await;
    let load = Load::start(&mysqld, 2);
    load.more(100).await;
    let stopped = Instant::now();
    stops(&daemons[0]).await;
    // Long before the lease would end.
    takes_over(&daemons[1], 1, "stopped", stopped).await;
    load.more(50).await;
    load.stop().await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&daemons[1]]).await;
}

/// It sleeps through its lease, wakes, and finds out at its next write, whatever it was in the middle of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_stood_still_for_longer_than_the_lease_becomes_a_standby() {
    let (mysqld, mongod, settings, [first, second], load) = pair_under_load().await;
    first.signal(Signal::STOP);
    takes_over(&second, 1, "stood still", Instant::now()).await;
    commits_more(&mongod, settings.database()).await;
    load.more(100).await;
    first.signal(Signal::CONT);
    first.wait_for_log(LOST, LATER).await;
    first.wait_for_log(STANDING_BY, SOON).await;
    // And back.
    second.signal(Signal::STOP);
    takes_over(&first, 2, "stood still, and back", Instant::now()).await;
    commits_more(&mongod, settings.database()).await;
    second.signal(Signal::CONT);
    second.wait_for_log(LOST, LATER).await;
    load.stop().await;
    logged_times(&second, STANDING_BY, 2, SOON).await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&second, &first]).await;
}

/// Its spool fills with what the other one records meanwhile; none of it may come twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_is_cut_off_from_mongodb_and_spools_is_followed_and_doubles_nothing() {
    let (mysqld, mongod) = start_servers().await;
    let line = Proxy::start(mongod.port());
    let spool = Scratch::new("spool");
    let settings = group(&mysqld, &mongod)
        .set("RETRY_MAX_DELAY", "1s")
        .set("BREAKER_FAILURES", 2)
        .set("BREAKER_OPEN", "1s");
    let cut_off = member(&settings, 0)
        .set("SPOOL_DIR", spool.path().display())
        .set(
            "MONGO_URI",
            format!(
                "mongodb://{}/?directConnection=true&serverSelectionTimeoutMS=500",
                line.addr()
            ),
        );
    let first = Daemon::start(&cut_off);
    first.wait_for_log(STREAMING, SOON).await;
    let second = Daemon::start(&member(&settings, 1));
    second.wait_for_log(STANDING_BY, SOON).await;
    let load = Load::start(&mysqld, 2);
    load.more(100).await;
    line.stall();
    line.cut();
    takes_over(&second, 1, "cut off from MongoDB", Instant::now()).await;
    first.wait_for_log(BREAKER_OPEN, LATER).await;
    load.more(200).await;
    line.clear().await;
    first.wait_for_log(LOST, LATER).await;
    first.wait_for_log(STANDING_BY, LATER).await;
    load.more(50).await;
    // And it is fit to take over again.
    second.kill9();
    takes_over(&first, 2, "killed", Instant::now()).await;
    load.stop().await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&first]).await;
}

/// What it spooled meanwhile may be gone from the binlog, so a standby that reaches MongoDB before it does not fence it at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_that_spools_keeps_its_lease_through_an_outage_longer_than_it() {
    const TTL: Duration = Duration::from_secs(10);
    let (mysqld, mongod) = start_servers().await;
    let line = Proxy::start(mongod.port());
    let spool = Scratch::new("spool");
    let settings = group(&mysqld, &mongod)
        .set("LEASE_TTL", "10s")
        .set("BREAKER_FAILURES", 2)
        .set("BREAKER_OPEN", "1s");
    let patience = "serverSelectionTimeoutMS=500";
    let behind_the_line = format!(
        "mongodb://{}/?directConnection=true&{patience}",
        line.addr()
    );
    let first = member(&settings, 0)
        .set("SPOOL_DIR", spool.path().display())
        .set("MONGO_URI", behind_the_line);
    let first = Daemon::start(&first);
    first.wait_for_log(STREAMING, SOON).await;
    let second = member(&settings, 1).set("MONGO_URI", format!("{}&{patience}", mongod.uri()));
    let second = Daemon::start(&second);
    second.wait_for_log(STANDING_BY, SOON).await;
    caught_up_within(&mysqld, &mongod, settings.database(), BACKLOG).await;
    // The standby knows the holder's last sign: it looks every half a second, and the next sign is 3 s away.
    let before = beat(&mongod, &settings).await;
    wait_until("the lease is renewed", SOON, async || {
        beat(&mongod, &settings).await > before
    })
    .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    line.stall();
    line.cut();
    mongod.kill();
    let away = Instant::now();
    let load = Load::start(&mysqld, 2);
    first.wait_for_log(BREAKER_OPEN, LATER).await;
    while away.elapsed() < TTL + Duration::from_secs(2) {
        load.more(50).await;
    }
    mongod.start_again().await;
    second.wait_for_log("succeeded after failures", LATER).await;
    line.clear().await;
    first.wait_for_log(BREAKER_CLOSED, LATER).await;
    commits_more(&mongod, settings.database()).await;
    load.stop().await;
    caught_up_within(&mysqld, &mongod, settings.database(), BACKLOG).await;
    assert!(!second.has_logged(STREAMING), "it was not needed");
    assert!(!first.has_logged(LOST));
    first.kill9();
    takes_over(&second, 1, "killed after an outage", Instant::now()).await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&second]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_standbys_one_takes_over() {
    let (mysqld, mongod) = start_servers().await;
    let settings = group(&mysqld, &mongod);
    let mut daemons = start_group(&settings, 3).await;
    let load = Load::start(&mysqld, 2);
    while daemons.len() > 1 {
        load.more(100).await;
        let recording = holder(&mongod, &settings).await;
        let at = daemons
            .iter()
            .position(|daemon| recording == Some(i64::from(daemon.pid())))
            .expect("one of them holds the lease");
        let killed = daemons.remove(at);
        killed.kill9();
        let since = Instant::now();
        wait_until("one of the others streams", LATER, async || {
            daemons.iter().any(|daemon| daemon.has_logged(STREAMING))
        })
        .await;
        eprintln!(
            "of {}: streaming after {:?}",
            daemons.len(),
            since.elapsed()
        );
        commits_more(&mongod, settings.database()).await;
        let streaming = daemons
            .iter()
            .filter(|daemon| daemon.has_logged(STREAMING))
            .count();
        assert_eq!(streaming, 1);
    }
    load.stop().await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&daemons[0]]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_that_start_at_the_same_moment_on_a_new_source_agree() {
    let (mysqld, mongod) = start_servers().await;
    let load = Load::start(&mysqld, 2);
    for _ in 0..5 {
        // A new source each time.
        let settings = group(&mysqld, &mongod);
        let pair = [0, 1].map(|number| Daemon::start(&member(&settings, number)));
        wait_until("one streams and one stands by", LATER, async || {
            let said = |text| pair.iter().any(|daemon| daemon.has_logged(text));
            said(STREAMING) && said(STANDING_BY)
        })
        .await;
        commits_more(&mongod, settings.database()).await;
        let epoch = offset(&mongod, &settings).await.get_i64("epoch").unwrap();
        assert_eq!(epoch, 1, "nobody took anything from anybody");
        let (recording, standing_by): (Vec<_>, Vec<_>) =
            pair.iter().partition(|daemon| daemon.has_logged(STREAMING));
        assert_eq!((recording.len(), standing_by.len()), (1, 1));
        stops(standing_by[0]).await;
        caught_up_within(&mysqld, &mongod, settings.database(), BACKLOG).await;
        stops(recording[0]).await;
    }
    load.stop().await;
    let settings = group(&mysqld, &mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&daemon]).await;
}

/// One is an hour ahead, the other a day behind; a lease is measured by one clock only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clocks_far_apart_do_not_matter() {
    let (mysqld, mongod) = start_servers().await;
    let settings = group(&mysqld, &mongod);
    let scratch = Scratch::new("clocks");
    let wrong = |number: u32, by: &str| {
        let file = scratch.path().join(number.to_string());
        std::fs::write(&file, format!("{by}\n")).unwrap();
        member(&settings, number)
            .set("LD_PRELOAD", servers::faketime().display())
            .set("FAKETIME_TIMESTAMP_FILE", file.display())
            .set("DONT_FAKE_MONOTONIC", 1)
            .set("FAKETIME_DONT_FAKE_MONOTONIC", 1)
    };
    let first = Daemon::start(&wrong(0, "+1h"));
    first.wait_for_log(STREAMING, SOON).await;
    let second = Daemon::start(&wrong(1, "-24h"));
    second.wait_for_log(STANDING_BY, SOON).await;
    let load = Load::start(&mysqld, 2);
    load.more(100).await;
    // Renewed by the timer alone for longer than the lease.
    load.stop().await;
    let start = beat(&mongod, &settings).await;
    wait_until("it was renewed for two leases", LATER, async || {
        beat(&mongod, &settings).await >= start + 6
    })
    .await;
    assert!(!second.has_logged(STREAMING));
    first.kill9();
    takes_over(&second, 1, "with clocks 25 h apart", Instant::now()).await;
    let third = Daemon::start(&wrong(2, "+1h"));
    third.wait_for_log(STANDING_BY, SOON).await;
    let load = Load::start(&mysqld, 2);
    load.more(50).await;
    second.kill9();
    takes_over(&third, 1, "with clocks 25 h apart", Instant::now()).await;
    load.stop().await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&third]).await;
}

/// Killed, stopped, frozen, by turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_handovers_under_load_lose_and_double_nothing() {
    let (mysqld, mongod, settings, [first, second], load) = pair_under_load().await;
    let (mut recording, mut standing_by) = (first, second);
    let mut number = 2;
    for round in 0..10 {
        let streamed = times_logged(&standing_by, STREAMING);
        let since = Instant::now();
        let how = ["killed", "stopped", "stood still"][round % 3];
        match how {
            "killed" => recording.kill9(),
            "stopped" => stops(&recording).await,
            _ => recording.signal(Signal::STOP),
        }
        takes_over(&standing_by, streamed + 1, how, since).await;
        commits_more(&mongod, settings.database()).await;
        if how == "stood still" {
            let stood_by = times_logged(&recording, STANDING_BY);
            recording.signal(Signal::CONT);
            logged_times(&recording, STANDING_BY, stood_by + 1, LATER).await;
        } else {
            recording = Daemon::start(&member(&settings, number));
            number += 1;
            recording.wait_for_log(STANDING_BY, LATER).await;
        }
        std::mem::swap(&mut recording, &mut standing_by);
        load.more(50).await;
    }
    load.stop().await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&standing_by, &recording]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_told_to_stop_ends_at_once() {
    let (mysqld, mongod) = start_servers().await;
    let settings = group(&mysqld, &mongod);
    let daemons = start_group(&settings, 2).await;
    let before = offset(&mongod, &settings).await;
    daemons[1].signal(Signal::TERM);
    let (code, elapsed) = daemons[1].wait_exit(SOON).await;
    assert_eq!(code, 0);
    eprintln!("a standby stops within {elapsed:?}");
    assert!(daemons[1].has_logged("Shutdown complete"));
    let after = offset(&mongod, &settings).await;
    assert_eq!(after.get("epoch"), before.get("epoch"));
    let pid = after.get_document("lease").unwrap().get_i64("pid").unwrap();
    assert_eq!(pid, i64::from(daemons[0].pid()), "it took nothing along");
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&daemons[0]]).await;
}

/// Without a lease a daemon takes the source, as it always did; the holder notices, and waits until it can have it again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_without_a_lease_takes_the_source_and_the_lease_away() {
    let (mysqld, mongod) = start_servers().await;
    let settings = group(&mysqld, &mongod);
    let first = Daemon::start(&member(&settings, 0));
    first.wait_for_log(STREAMING, SOON).await;
    let load = Load::start(&mysqld, 2);
    load.more(100).await;
    let alone = Daemon::start(&member(&settings, 1).set("LEASE", "off"));
    // The holder stands by no longer than it takes to see that nobody holds a lease; then the other one is fenced, which may be before
    // it reads anything.
    first.wait_for_log(LOST, LATER).await;
    assert_eq!(alone.wait_exit(LATER).await.0, 3);
    assert!(alone.has_logged("fenced: another sdl took the source"));
    logged_times(&first, RESUMING, 2, SOON).await;
    load.stop().await;
    assert_exact_and_stop(&mysqld, &mongod, &settings, &[&first]).await;
}
