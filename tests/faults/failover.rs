//! Several servers, dead connections and namesakes: sdl goes on with a server that has everything, notices a connection that is
//! only half there, and says so when another replica goes by its server_id.
//!
//! Here: MYSQL_ADDR with several servers of one GTID domain, a real primary and real replicas of it. The first that answers and has
//! what is recorded is read; one that has not is passed over with a reason; sdl ends only when all of them answered and none has it.
mod cuts;
mod duplicates;
mod half_open;
mod same_documents;

use std::sync::Arc;
use std::time::Duration;

use crate::common::load::{Load, TABLES, create_tables};
use crate::common::replication::{
    follow, has_executed, has_received, in_sync, promote, replica_of, replica_with,
};
use crate::common::servers::free_port;
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Proxy, Settings, Signal, caught_up, caught_up_within, fold,
    mongo, on_both_flavors, wait_until,
};

const SOON: Duration = Duration::from_secs(30);

/// For what sdl notices by itself: half-open connections, servers that do not catch up.
const VERDICT: Duration = Duration::from_secs(120);

const STREAMING: &str = "Connected to MySQL";

const PASSED_OVER: &str = "a server is passed over";

const CREATE: &str =
    "CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))";

const TABLE: &str = "shop.t";

async fn insert(mysqld: &Mysqld, count: usize) {
    for _ in 0..count {
        mysqld.exec("INSERT INTO shop.t (v) VALUES ('row')").await;
    }
}

/// Settings for several servers, in this order, of the source named after the first.
fn settings(mongod: &Mongod, servers: &[&Mysqld]) -> Settings {
    let addresses: Vec<String> = servers.iter().map(|server| server.addr()).collect();
    Settings::new(servers[0], mongod)
        .set("MYSQL_ADDR", addresses.join(","))
        .set("SOURCE_ID", "the-source")
        .set("BATCH_SIZE", 50)
        .set("RETRY_MAX_DELAY", "1s")
}

/// Lines of the log with this text.
fn lines(daemon: &Daemon, text: &str) -> Vec<String> {
    let logs = daemon.logs();
    logs.into_iter()
        .filter(|line| line.contains(text))
        .collect()
}

/// It has connected so many times in all, the last time to `server`.
async fn streams_from(daemon: &Daemon, server: &Mysqld, times: usize) {
    wait_until(
        &format!("connection {times} of sdl to mysql"),
        VERDICT,
        async || lines(daemon, STREAMING).len() >= times,
    )
    .await;
    let last = lines(daemon, STREAMING).pop().unwrap();
    assert!(last.contains(&server.addr()), "{last}");
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0, "{:#?}", daemon.logs());
}

/// The last line before exit 3.
async fn verdict(daemon: &Daemon) -> String {
    let (code, _) = daemon.wait_exit(VERDICT).await;
    let lines = daemon.logs();
    assert_eq!(code, 3, "{lines:#?}");
    let last = lines.iter().rev().find(|line| line.contains("exit=3"));
    last.expect("the last word before exit 3").clone()
}

fn assert_says(line: &str, parts: &[&str]) {
    for part in parts {
        assert!(line.contains(part), "{part:?} is not in: {line}");
    }
}

/// A primary with the tables of the load, and a replica of it.
async fn primary_and_replica(flavor: Flavor) -> (Arc<Mysqld>, Arc<Mysqld>, &'static Mongod) {
    let (primary, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    create_tables(&primary).await;
    primary.exec(CREATE).await;
    let replica = replica_of(&primary).await;
    (Arc::new(primary), Arc::new(replica), mongod)
}

on_both_flavors! {
    a_primary_killed_under_load_is_followed_by_its_replica,
    failing_over_and_back_is_exact,
    a_failover_inside_a_large_transaction_is_exact,
    a_replica_that_lags_behind_is_waited_for_while_the_primary_is_away,
    a_server_without_the_transaction_that_is_recorded_in_part_is_not_read,
    a_quiet_replica_is_not_suspected,
    a_first_start_with_the_first_server_away_begins_at_the_next,
}

// --- the next server takes over

/// sdl reads the primary through a proxy, whose stall keeps it behind what the replica has: an asynchronous replica may lack what
/// sdl has read, which is the next test's matter.
async fn a_primary_killed_under_load_is_followed_by_its_replica(flavor: Flavor) {
    let (primary, replica, mongod) = primary_and_replica(flavor).await;
    let proxy = Proxy::start(primary.port());
    let settings = settings(mongod, &[&primary, &replica])
        .set("MYSQL_ADDR", format!("{},{}", proxy.addr(), replica.addr()));
    let daemon = Daemon::start(&settings);
    let load = Load::start(&primary, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(200).await;

    proxy.stall();
    in_sync(&replica, &primary).await;
    load.more(50).await;
    primary.kill();
    proxy.refuse().await;
    load.stop().await;
    promote(&replica).await;
    streams_from(&daemon, &replica, 2).await;
    let line = daemon.wait_for_log(PASSED_OVER, SOON).await;
    assert_says(
        &line,
        &[&proxy.addr(), "Connection refused", &replica.addr()],
    );

    let load = Load::start(&replica, 2);
    load.more(200).await;
    load.stop().await;
    caught_up(&replica, mongod, settings.database()).await;
    fold::assert_exact(&replica, mongod, settings.database(), &TABLES).await;
    stop(&daemon).await;
}

/// The old primary comes back as a replica of the new one; when that one dies in its turn, the first address is read again.
async fn failing_over_and_back_is_exact(flavor: Flavor) {
    let (first, second, mongod) = primary_and_replica(flavor).await;
    let settings = settings(mongod, &[&first, &second]);
    let daemon = Daemon::start(&settings);
    let load = Load::start(&first, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(100).await;
    load.stop().await;
    in_sync(&second, &first).await;
    first.kill();
    promote(&second).await;
    streams_from(&daemon, &second, 2).await;

    let load = Load::start(&second, 2);
    load.more(100).await;
    first.start_again().await;
    follow(&first, &second).await;
    load.more(100).await;
    load.stop().await;
    caught_up(&second, mongod, settings.database()).await;
    assert_eq!(
        lines(&daemon, STREAMING).len(),
        2,
        "a connection that works is kept"
    );
    in_sync(&first, &second).await;
    second.kill();
    promote(&first).await;
    streams_from(&daemon, &first, 3).await;

    let load = Load::start(&first, 2);
    load.more(100).await;
    load.stop().await;
    caught_up(&first, mongod, settings.database()).await;
    fold::assert_exact(&first, mongod, settings.database(), &TABLES).await;
    // And by a restart of sdl, with the first one away.
    first.exec("SET GLOBAL read_only = ON").await;
    second.start_again().await;
    follow(&second, &first).await;
    in_sync(&second, &first).await;
    first.kill();
    stop(&daemon).await;
    promote(&second).await;
    let daemon = Daemon::start(&settings);
    streams_from(&daemon, &second, 1).await;
    insert(&second, 3).await;
    caught_up(&second, mongod, settings.database()).await;
    let tables = [TABLES[0], TABLES[1], TABLE];
    fold::assert_exact(&second, mongod, settings.database(), &tables).await;
}

/// The switch falls in the middle of a transaction larger than many batches, which the replica has whole.
async fn a_failover_inside_a_large_transaction_is_exact(flavor: Flavor) {
    let (primary, replica, mongod) = primary_and_replica(flavor).await;
    let proxy = Proxy::start(primary.port());
    let settings = settings(mongod, &[&primary, &replica])
        .set("MYSQL_ADDR", format!("{},{}", proxy.addr(), replica.addr()));
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&primary, mongod, settings.database()).await;
    proxy.delay(Duration::from_millis(5));
    large_transaction(&primary).await;
    in_sync(&replica, &primary).await;
    recorded_in_part(mongod, &settings).await;
    proxy.stall();
    primary.kill();
    proxy.refuse().await;
    promote(&replica).await;
    streams_from(&daemon, &replica, 2).await;
    insert(&replica, 2).await;
    caught_up_within(&replica, mongod, settings.database(), VERDICT).await;
    fold::assert_exact(&replica, mongod, settings.database(), &[TABLE]).await;
}

async fn large_transaction(mysqld: &Mysqld) {
    mysqld
        .exec(
            "INSERT INTO shop.t (v) WITH RECURSIVE seq (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM seq WHERE n < 1000)
             SELECT 'twenty bytes of text' FROM seq a, (SELECT 1 FROM seq LIMIT 60) b",
        )
        .await;
}

/// Waits until some rows of the large transaction are recorded, and not all.
async fn recorded_in_part(mongod: &Mongod, settings: &Settings) {
    let database = mongod.database(settings.database()).await;
    wait_until("a part of the transaction is recorded", SOON, async || {
        let offset = mongo::offset(&database).await.unwrap_or_default();
        offset.get_document("partial").is_ok()
    })
    .await;
}

// --- servers that lack something

/// The replica has received what sdl has recorded, and not applied it yet: with the primary away there is nothing to read, and no
/// reason to end.
async fn a_replica_that_lags_behind_is_waited_for_while_the_primary_is_away(flavor: Flavor) {
    let (primary, replica, mongod) = primary_and_replica(flavor).await;
    let settings = settings(mongod, &[&primary, &replica]);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    replica.exec("STOP REPLICA SQL_THREAD").await;
    insert(&primary, 5).await;
    caught_up(&primary, mongod, settings.database()).await;
    has_received(&replica, &primary).await;
    primary.kill();
    let waiting = "no server of MYSQL_ADDR can be read at the moment";
    wait_until("several rounds", SOON, async || {
        lines(&daemon, waiting).len() >= 5
    })
    .await;
    assert_says(
        &lines(&daemon, waiting)[4],
        &[
            &format!("{}: ", primary.addr()),
            "Connection refused",
            &format!(
                "{}: the server is behind the saved position",
                replica.addr()
            ),
        ],
    );
    assert!(daemon.is_running());
    replica.exec("START REPLICA SQL_THREAD").await;
    streams_from(&daemon, &replica, 2).await;
    promote(&replica).await;
    insert(&replica, 2).await;
    caught_up(&replica, mongod, settings.database()).await;
    fold::assert_exact(&replica, mongod, settings.database(), &[TABLE]).await;
}

/// All servers answer, and all are behind: one may catch up, so it is waited for; a minute later none came nearer, and that is the
/// verdict.
#[tokio::test]
async fn servers_that_stay_behind_are_an_operators_business_after_a_minute() {
    let (primary, first, mongod) = primary_and_replica(Flavor::Mysql).await;
    let second = replica_of(&primary).await;
    let settings = settings(mongod, &[&primary, &first, &second]);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    for replica in [&*first, &second] {
        replica.exec("STOP REPLICA SQL_THREAD").await;
    }
    insert(&primary, 5).await;
    caught_up(&primary, mongod, settings.database()).await;
    has_received(&first, &primary).await;
    stop(&daemon).await;

    let settings = settings.set("MYSQL_ADDR", format!("{},{}", first.addr(), second.addr()));
    let daemon = Daemon::start(&settings);
    let last = verdict(&daemon).await;
    let behind = "the server is behind the saved position";
    assert_says(
        &last,
        &[
            "no server of MYSQL_ADDR can be read: ",
            &format!("{}: {behind}", first.addr()),
            &format!("{}: {behind}", second.addr()),
        ],
    );
    assert!(
        lines(&daemon, "one that is behind may catch up").len() > 20,
        "it was waited for"
    );

    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("one that is behind may catch up", SOON)
        .await;
    first.exec("START REPLICA SQL_THREAD").await;
    streams_from(&daemon, &first, 1).await;
    insert(&primary, 2).await;
    caught_up(&primary, mongod, settings.database()).await;
    fold::assert_exact(&primary, mongod, settings.database(), &[TABLE]).await;
}

/// The replica does not have a transaction of which some rows are recorded: going on there would leave half of it for good.
async fn a_server_without_the_transaction_that_is_recorded_in_part_is_not_read(flavor: Flavor) {
    let (primary, replica, mongod) = primary_and_replica(flavor).await;
    let proxy = Proxy::start(primary.port());
    let settings = settings(mongod, &[&primary, &replica])
        .set("MYSQL_ADDR", format!("{},{}", proxy.addr(), replica.addr()));
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&primary, mongod, settings.database()).await;
    in_sync(&replica, &primary).await;
    replica.exec("STOP REPLICA; RESET REPLICA ALL").await;
    proxy.delay(Duration::from_millis(5));
    large_transaction(&primary).await;
    recorded_in_part(mongod, &settings).await;
    proxy.stall();
    primary.kill();
    proxy.refuse().await;
    insert(&replica, 2).await;
    // By the daemon that was reading it, and by the next one.
    let in_part = "is recorded in part, and ";
    daemon.wait_for_log(in_part, SOON).await;
    daemon.kill9();
    let database = mongod.database(settings.database()).await;
    let daemon = Daemon::start(&settings);
    wait_until("several rounds", SOON, async || {
        lines(&daemon, in_part).len() >= 3
    })
    .await;
    let offset = mongo::offset(&database).await.unwrap();
    assert!(offset.get_document("partial").is_ok(), "{offset}");

    primary.start_again().await;
    proxy.delay(Duration::ZERO);
    proxy.resume();
    proxy.accept().await;
    caught_up_within(&primary, mongod, settings.database(), VERDICT).await;
    fold::assert_exact(&primary, mongod, settings.database(), &[TABLE]).await;
}

/// Every reason for which a server can be unfit, told one by one; the last server of the list is the one to read.
#[tokio::test]
async fn servers_that_are_not_fit_are_passed_over_and_none_is_skipped_in_silence() {
    let (primary, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    primary.exec(CREATE).await;
    insert(&primary, 3).await;
    let purged = replica_of(&primary).await;
    let configured = replica_with(&primary, &["--binlog-row-metadata=MINIMAL"]).await;
    // What it applies is in no binlog of its own.
    let unlogged = replica_with(&primary, &["--log-replica-updates=OFF"]).await;
    let filtered = replica_with(&primary, &["--replicate-ignore-table=shop.other"]).await;
    let good = replica_of(&primary).await;
    let settings = settings(mongod, &[&primary]);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&primary, mongod, settings.database()).await;
    stop(&daemon).await;

    insert(&primary, 4).await;
    for replica in [&purged, &configured, &unlogged, &filtered, &good] {
        in_sync(replica, &primary).await;
    }
    purged
        .exec("FLUSH BINARY LOGS; PURGE BINARY LOGS BEFORE '2037-01-01'")
        .await;
    // The same names for other transactions, and more of them.
    let executed = primary.executed_gtid().await;
    let uuid: String = primary.query_one("SELECT @@server_uuid").await;
    let reset = Mysqld::start().await;
    reset.exec(CREATE).await;
    for number in 1..=20 {
        let insert = format!(
            "SET gtid_next = '{uuid}:{number}'; INSERT INTO shop.t (v) VALUES ('other'); SET gtid_next = 'AUTOMATIC'"
        );
        reset.exec(insert).await;
    }
    assert!(
        reset
            .gtid_subset(&executed, &reset.executed_gtid().await)
            .await
    );
    let away = free_port();

    let unfit = format!(
        "{},{},{},{},{}",
        purged.addr(),
        configured.addr(),
        unlogged.addr(),
        filtered.addr(),
        reset.addr()
    );
    let with = |addresses: String| settings.clone().set("MYSQL_ADDR", addresses);
    let expected = [
        (purged.addr(), "binlog gap: "),
        (configured.addr(), "binlog_row_metadata is MINIMAL"),
        (unlogged.addr(), "binlog gap: "),
        (filtered.addr(), "replicate_ignore_table=shop.other"),
        (reset.addr(), "another history than the recorded one"),
    ];

    // None of them: exit 3, and everything in one message.
    let before = mongo::offset(&mongod.database(settings.database()).await).await;
    let last = verdict(&Daemon::start(&with(unfit.clone()))).await;
    for (address, reason) in &expected {
        assert_says(&last, &[&format!("{address}: "), reason]);
    }
    // One that is away may have it: wait.
    let daemon = Daemon::start(&with(format!("{unfit},127.0.0.1:{away}")));
    let waiting = "no server of MYSQL_ADDR can be read at the moment";
    wait_until("several rounds", SOON, async || {
        lines(&daemon, waiting).len() >= 3
    })
    .await;
    let last = lines(&daemon, waiting).pop().unwrap();
    for (address, reason) in &expected {
        assert_says(&last, &[&format!("{address}: "), reason]);
    }
    assert_says(
        &last,
        &[&format!("127.0.0.1:{away}: "), "Connection refused"],
    );
    stop(&daemon).await;
    let offset = mongo::offset(&mongod.database(settings.database()).await).await;
    let place = |offset: Option<mongodb::bson::Document>| {
        offset.unwrap().get_str("gtid").unwrap().to_owned()
    };
    assert_eq!(place(offset), place(before), "nothing was read or skipped");

    // With a fit one at the end, it is read, and the log says why the others are not.
    let daemon = Daemon::start(&with(format!("{unfit},{}", good.addr())));
    streams_from(&daemon, &good, 1).await;
    let told = lines(&daemon, PASSED_OVER).join("\n");
    for (address, reason) in &expected {
        assert_says(&told, &[&format!("address={address}"), reason]);
    }
    caught_up(&good, mongod, settings.database()).await;
    fold::assert_exact(&good, mongod, settings.database(), &[TABLE]).await;
}

/// The server that is being read becomes unfit under sdl's eyes: the quiet check finds it, and the next one takes over.
#[tokio::test]
async fn a_server_whose_history_is_reset_while_it_is_read_is_left_for_the_next() {
    let (primary, replica, mongod) = primary_and_replica(Flavor::Mysql).await;
    let settings = settings(mongod, &[&primary, &replica]);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    insert(&primary, 5).await;
    caught_up(&primary, mongod, settings.database()).await;
    in_sync(&replica, &primary).await;
    replica.exec("STOP REPLICA; RESET REPLICA ALL").await;
    primary.exec("RESET BINARY LOGS AND GTIDS").await;
    streams_from(&daemon, &replica, 2).await;
    assert_says(
        &daemon.wait_for_log(PASSED_OVER, SOON).await,
        &[&primary.addr(), "behind the saved position"],
    );
    insert(&replica, 2).await;
    caught_up(&replica, mongod, settings.database()).await;
    fold::assert_exact(&replica, mongod, settings.database(), &[TABLE]).await;
}

/// A replica that is quiet, and asked whether there is nothing, says so; and what comes later is read.
async fn a_quiet_replica_is_not_suspected(flavor: Flavor) {
    let (primary, replica, mongod) = primary_and_replica(flavor).await;
    let settings = settings(mongod, &[&replica]).set("RUST_LOG", "info,sdl=debug");
    let proxy = Proxy::start(replica.port());
    let settings = settings.set("MYSQL_ADDR", proxy.addr());
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&primary, mongod, settings.database()).await;
    // The stream's and the health monitor's; whoever asks a quiet server comes for the question only.
    wait_until("both connections are there", SOON, async || {
        proxy.open() == 2
    })
    .await;
    let connections = proxy.accepted();
    wait_until("the server was asked twice", VERDICT, async || {
        proxy.accepted() >= connections + 2 && proxy.open() == 2
    })
    .await;
    insert(&primary, 3).await;
    caught_up(&primary, mongod, settings.database()).await;
    assert_eq!(lines(&daemon, STREAMING).len(), 1);
    fold::assert_exact(&replica, mongod, settings.database(), &[TABLE]).await;
}

/// The first position, too, is taken from the first server that answers and is fit.
async fn a_first_start_with_the_first_server_away_begins_at_the_next(flavor: Flavor) {
    let (primary, replica, mongod) = primary_and_replica(flavor).await;
    let settings = settings(mongod, &[&primary, &replica]).set("START_FROM", "current");
    primary.kill();
    let daemon = Daemon::start(&settings);
    daemon
        .wait_for_log("Starting from current position", SOON)
        .await;
    streams_from(&daemon, &replica, 1).await;
    promote(&replica).await;
    replica
        .exec(
            "CREATE TABLE shop.later (id INT PRIMARY KEY); INSERT INTO shop.later VALUES (1), (2)",
        )
        .await;
    caught_up(&replica, mongod, settings.database()).await;
    fold::assert_exact(&replica, mongod, settings.database(), &["shop.later"]).await;
    has_executed(&replica, &replica.executed_gtid().await).await;
}
