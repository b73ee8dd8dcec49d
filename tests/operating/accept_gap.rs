//! `sdl accept-gap`, run as an operator would: it records what is missing and goes on behind it, and does nothing else.
//!
//! The loss itself is always the same: the daemon is down, transactions on a table of their own are purged, and the binlog goes on.
//! What is accepted is exactly that; the fold of everything else is exact afterwards, with the documents numbered without a gap.
use std::time::Duration;

use crate::common::command::sdl;
use crate::common::servers::free_port;
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, on_both_flavors,
    replication, wait_until,
};
use mongodb::bson::{Bson, Document};
use mysql_async::Row;
use serde_json::Value;

const SOON: Duration = Duration::from_secs(30);

/// For a command that may ask a server until it must have noticed that a replica is dead.
const LONGEST: Duration = Duration::from_secs(60);

const STREAMING: &str = "Connected to MySQL";

const TABLE: &str = "shop.t";

const REASON: &str = "binlogs purged during the outage, ticket 4711";

const ACCEPT: [&str; 3] = ["accept-gap", "--reason", REASON];
const ACCEPT_JSON: [&str; 4] = ["accept-gap", "--json", "--reason", REASON];

async fn start_mysqld(flavor: Flavor) -> Mysqld {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20));
             CREATE TABLE shop.lost (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(20))",
        )
        .await;
    insert(&mysqld, TABLE, 3).await;
    mysqld
}

/// So many transactions of one row.
async fn insert(mysqld: &Mysqld, table: &str, count: usize) {
    for _ in 0..count {
        mysqld
            .exec(format!("INSERT INTO {table} (v) VALUES ('row')"))
            .await;
    }
}

/// Everything that was written so far goes to binlogs that are no longer there.
async fn purge(mysqld: &Mysqld) {
    mysqld.exec("FLUSH BINARY LOGS").await;
    wait_until("one binlog is left", SOON, async || {
        mysqld.exec("PURGE BINARY LOGS BEFORE '2037-01-01'").await;
        mysqld.query::<Row>("SHOW BINARY LOGS").await.len() == 1
    })
    .await;
}

/// A daemon that has read everything; then it stops.
async fn read_all_and_stop(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let daemon = Daemon::start(settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

/// Transactions that are not recorded and not in the binlog any more, and some behind them.
async fn lose(mysqld: &Mysqld, count: usize) {
    insert(mysqld, "shop.lost", count).await;
    purge(mysqld).await;
    insert(mysqld, TABLE, 2).await;
}

/// A daemon does not go on by itself, and names the command.
async fn assert_gap(settings: &Settings) {
    let daemon = Daemon::start(settings);
    assert_eq!(daemon.wait_exit(SOON).await.0, 3);
    let lines = daemon.logs();
    let verdict = lines.iter().find(|line| line.contains("binlog gap"));
    let verdict = verdict.expect("a binlog gap");
    assert!(verdict.contains("sdl accept-gap --reason"), "{verdict}");
}

/// Runs the command; its exit code, and all that it printed.
async fn accept(settings: &Settings) -> (i32, String) {
    run(settings, &ACCEPT).await
}

async fn run(settings: &Settings, arguments: &[&str]) -> (i32, String) {
    let command = Daemon::start_with(settings, arguments, "");
    let (code, _) = command.wait_exit(LONGEST).await;
    (code, command.logs().join("\n"))
}

async fn offset(mongod: &Mongod, settings: &Settings) -> Document {
    let database = mongod.database(settings.database()).await;
    mongo::offset(&database).await.expect("an offset")
}

/// The documents of accepted gaps.
async fn gaps(mongod: &Mongod, settings: &Settings) -> Vec<Document> {
    let mut changes = mongod.changes(settings.database()).await;
    changes.retain(|change| change.get_str("op").unwrap() == "gap");
    changes
}

fn gap_of(document: &Document) -> &Document {
    document
        .get_document("meta")
        .and_then(|meta| meta.get_document("gap"))
        .expect("meta.gap")
}

/// The next daemon goes on, and everything but what was lost is exact.
async fn assert_goes_on(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    insert(mysqld, TABLE, 2).await;
    let daemon = Daemon::start(settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &[TABLE]).await;
}

on_both_flavors! {
    a_gap_is_recorded_and_the_next_start_goes_on_behind_it,
    without_a_gap_a_running_daemon_is_left_alone,
    a_source_without_an_offset_has_nothing_to_accept,
    a_server_that_does_not_answer_may_have_what_is_missing,
    a_replica_that_still_has_everything_is_no_gap,
    a_transaction_of_which_the_rest_is_gone_is_cut_off,
    start_from_never_overrides_a_saved_offset,
}

async fn a_gap_is_recorded_and_the_next_start_goes_on_behind_it(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod)
        .set("USER", "root")
        .set("SUDO_USER", "alice");
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let before = offset(mongod, &settings).await;
    lose(&mysqld, 4).await;
    assert_gap(&settings).await;

    let (code, said) = accept(&settings).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("accepted: "), "{said}");
    let [document] = &gaps(mongod, &settings).await[..] else {
        panic!("one gap")
    };
    let after = offset(mongod, &settings).await;
    let n = before.get_i64("n").unwrap() + 1;
    assert_eq!(after.get_i64("n").unwrap(), n);
    assert_eq!(document.get_i64("n").unwrap(), n);
    assert_eq!(
        after.get_i64("batch").unwrap(),
        before.get_i64("batch").unwrap() + 1
    );

    let keys = |document: &Document| document.keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(document), ["_id", "n", "ts", "op", "meta"]);
    let meta = document.get_document("meta").unwrap();
    assert_eq!(
        keys(meta),
        [
            "source",
            "db",
            "tbl",
            "gtid",
            "row",
            "stmt",
            "file",
            "pos",
            "server_id",
            "thread_id",
            "gap"
        ]
    );
    let batch = after.get_i64("batch").unwrap();
    assert_eq!(
        meta.get_str("gtid").unwrap(),
        format!("gap:{batch}").as_str()
    );
    assert_eq!(meta.get("file"), before.get("file"));
    let gap = gap_of(document);
    let mut expected = vec![
        "missing",
        "transactions",
        "from",
        "to",
        "server",
        "reason",
        "user",
        "uid",
        "host",
    ];
    if flavor.is_mariadb() {
        expected.retain(|key| *key != "transactions");
    } else {
        assert_eq!(gap.get_i64("transactions").unwrap(), 4);
    }
    assert_eq!(keys(gap), expected);
    assert!(said.contains(gap.get_str("missing").unwrap()), "{said}");
    assert_eq!(gap.get("from"), before.get("gtid"));
    assert_eq!(gap.get("to"), after.get("gtid"));
    assert_eq!(gap.get_str("reason").unwrap(), REASON);
    assert_eq!(gap.get_str("user").unwrap(), "alice");
    let uid = rustix::process::getuid().as_raw();
    assert_eq!(gap.get("uid"), Some(&Bson::Int64(uid.into())));

    let (code, said) = accept(&settings).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no gap"), "{said}");
    assert_eq!(
        offset(mongod, &settings).await,
        after,
        "the second call touches nothing"
    );
    assert_goes_on(&mysqld, mongod, &settings).await;
    assert_eq!(gaps(mongod, &settings).await.len(), 1);
}

async fn without_a_gap_a_running_daemon_is_left_alone(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let before = offset(mongod, &settings).await;
    let (code, said) = accept(&settings).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no gap"), "{said}");
    let after = offset(mongod, &settings).await;
    for field in ["epoch", "batch", "gtid", "n"] {
        assert_eq!(after.get(field), before.get(field), "{field}");
    }
    insert(&mysqld, TABLE, 2).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &[TABLE]).await;
}

async fn a_source_without_an_offset_has_nothing_to_accept(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    purge(&mysqld).await;
    let (code, said) = accept(&settings).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("no saved offset"), "{said}");
    let json = sdl(&settings, &ACCEPT_JSON).await;
    assert_eq!(json.code, 1, "{json:?}");
    let answer: Value = serde_json::from_str(&json.stdout).unwrap();
    assert_eq!(answer["accepted"], false);
    let database = mongod.database(settings.database()).await;
    assert_eq!(mongo::offset(&database).await, None);
}

async fn a_server_that_does_not_answer_may_have_what_is_missing(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    lose(&mysqld, 1).await;
    let before = offset(mongod, &settings).await;
    let source = before.get_str("_id").unwrap();
    let away = format!("127.0.0.1:{}", free_port());
    let both = settings
        .clone()
        .set("SOURCE_ID", source)
        .set("MYSQL_ADDR", format!("{},{away}", mysqld.addr()));
    let (code, said) = accept(&both).await;
    assert_eq!(code, 1, "{said}");
    for part in [
        &away,
        "may have what is missing",
        "take it out of MYSQL_ADDR",
    ] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
    assert_eq!(offset(mongod, &settings).await, before);
    assert_eq!(accept(&settings).await.0, 0);
    assert_goes_on(&mysqld, mongod, &settings).await;
}

async fn a_replica_that_still_has_everything_is_no_gap(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let replica = replication::replica_of(&mysqld).await;
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    insert(&mysqld, TABLE, 4).await;
    replication::in_sync(&replica, &mysqld).await;
    purge(&mysqld).await;
    let before = offset(mongod, &settings).await;
    let source = before.get_str("_id").unwrap();
    let both = settings.clone().set("SOURCE_ID", source).set(
        "MYSQL_ADDR",
        format!("{},{}", mysqld.addr(), replica.addr()),
    );
    let (code, said) = accept(&both).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains(&replica.addr()), "{said}");
    assert_eq!(offset(mongod, &settings).await, before);
    let daemon = Daemon::start(&both);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &[TABLE]).await;
}

/// Some rows of a transaction are recorded, and it is purged: the rest is part of the gap.
async fn a_transaction_of_which_the_rest_is_gone_is_cut_off(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod)
        .set("BATCH_SIZE", 20)
        .set("PIPELINE_DEPTH", 1);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let rows = vec!["('row')"; 20_000].join(",");
    mysqld
        .exec(format!("INSERT INTO shop.lost (v) VALUES {rows}"))
        .await;
    let daemon = Daemon::start(&settings);
    wait_until("a part of it is recorded", SOON, async || {
        offset(mongod, &settings)
            .await
            .get_document("partial")
            .is_ok()
    })
    .await;
    daemon.kill9();
    purge(&mysqld).await;
    insert(&mysqld, TABLE, 2).await;
    assert_gap(&settings).await;
    let (code, said) = accept(&settings).await;
    assert_eq!(code, 0, "{said}");
    assert_eq!(
        offset(mongod, &settings).await.get("partial"),
        Some(&Bson::Null)
    );
    let [document] = &gaps(mongod, &settings).await[..] else {
        panic!("one gap")
    };
    let cut = gap_of(document).get_document("cut").expect("meta.gap.cut");
    let recorded = mongod.changes(settings.database()).await;
    let gtid = cut.get_str("gtid").unwrap();
    let of_it = recorded.iter().filter(|change| {
        let meta = change.get_document("meta").unwrap();
        meta.get_str("gtid").unwrap() == gtid
    });
    assert_eq!(cut.get_i64("rows").unwrap(), of_it.count() as i64);
    assert_goes_on(&mysqld, mongod, &settings).await;
}

async fn start_from_never_overrides_a_saved_offset(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    insert(&mysqld, TABLE, 3).await;
    let current = settings.clone().set("START_FROM", "current");
    read_all_and_stop(&mysqld, mongod, &current).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &[TABLE]).await;
    lose(&mysqld, 2).await;
    for start_from in ["current", "earliest"] {
        assert_gap(&settings.clone().set("START_FROM", start_from)).await;
    }
    assert_eq!(accept(&current).await.0, 0);
    assert_goes_on(&mysqld, mongod, &current).await;
}

// --- what a flavor has of its own

/// Several intervals of several servers, with and without a tag.
#[tokio::test]
async fn tagged_and_foreign_transactions_are_named_too() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mysql), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let foreign = "4e11fa47-71ca-11e1-9e33-c80aa9429562";
    let named = async |gtid: &str, table: &str| {
        mysqld
            .exec(format!(
                "SET SESSION gtid_next = '{gtid}'; INSERT INTO {table} (v) VALUES ('row'); SET SESSION gtid_next = 'AUTOMATIC'"
            ))
            .await;
    };
    named(&format!("{foreign}:3"), TABLE).await;
    named("AUTOMATIC:backup", TABLE).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    for number in [1, 2, 5] {
        named(&format!("{foreign}:{number}"), "shop.lost").await;
    }
    named("AUTOMATIC:backup", "shop.lost").await;
    lose(&mysqld, 1).await;
    assert_gap(&settings).await;
    let answer = sdl(&settings, &ACCEPT_JSON).await.ok();
    let answer: Value = serde_json::from_str(&answer).unwrap();
    let [document] = &gaps(mongod, &settings).await[..] else {
        panic!("one gap")
    };
    assert_eq!(answer["accepted"], true);
    assert_eq!(answer["n"], document.get_i64("n").unwrap());
    let gap = gap_of(document);
    assert_eq!(gap.get_i64("transactions").unwrap(), 3 + 1 + 1);
    let missing = gap.get_str("missing").unwrap();
    for part in [&format!("{foreign}:1-2:5"), ":backup:2"] {
        assert!(missing.contains(part), "{part} is not in {missing}");
    }
    assert_goes_on(&mysqld, mongod, &settings).await;
}

#[tokio::test]
async fn each_domain_is_named() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mariadb10), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let in_domain = async |domain: u32, table: &str| {
        mysqld
            .exec(format!(
                "SET SESSION gtid_domain_id = {domain}; INSERT INTO {table} (v) VALUES ('row')"
            ))
            .await;
    };
    in_domain(1, TABLE).await;
    in_domain(2, TABLE).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    in_domain(1, "shop.lost").await;
    in_domain(3, "shop.lost").await;
    in_domain(3, "shop.lost").await;
    lose(&mysqld, 1).await;
    assert_gap(&settings).await;
    let (code, said) = accept(&settings).await;
    assert_eq!(code, 0, "{said}");
    let [document] = &gaps(mongod, &settings).await[..] else {
        panic!("one gap")
    };
    let missing = gap_of(document).get_str("missing").unwrap();
    let parts: Vec<&str> = missing.split(", and ").collect();
    assert_eq!(parts.len(), 3, "{missing}");
    for (part, needle) in parts.iter().zip([
        "the transactions after 0-",
        "the transactions after 1-",
        "the transactions of domain 3 up to 3-",
    ]) {
        assert!(part.starts_with(needle), "{part} is not {needle}");
    }
    assert_goes_on(&mysqld, mongod, &settings).await;
}

// --- what is still in hand

/// MongoDB was away: what the servers no longer have is in the spool, and is committed instead of given up.
#[tokio::test]
async fn what_the_spool_holds_is_no_gap() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mysql), Mongod::start());
    let spool = crate::common::servers::Scratch::new("spool");
    let settings = Settings::new(&mysqld, &mongod)
        .set("SPOOL_DIR", spool.path().display())
        .set(
            "MONGO_URI",
            format!("{}&serverSelectionTimeoutMS=500", mongod.uri()),
        )
        .set("RETRY_MAX_DELAY", "1s")
        .set("BREAKER_FAILURES", 2)
        .set("BREAKER_OPEN", "1s");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, &mongod, settings.database()).await;
    mongod.kill();
    insert(&mysqld, TABLE, 4).await;
    // A stop while MongoDB is away: everything read is in the spool.
    daemon
        .wait_for_log("circuit breaker open: mongodb is away", SOON)
        .await;
    stop(&daemon).await;
    purge(&mysqld).await;
    mongod.start_again().await;

    let (code, said) = accept(&settings).await;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("there is no gap"), "{said}");
    assert_eq!(gaps(&mongod, &settings).await.len(), 0);
    lose(&mysqld, 3).await;
    assert_gap(&settings).await;
    let (code, said) = accept(&settings).await;
    assert_eq!(code, 0, "{said}");
    assert_goes_on(&mysqld, &mongod, &settings).await;
}

/// A daemon that stands still has received what is purged now: it must be stopped, and is not overtaken.
#[tokio::test]
async fn a_daemon_that_is_attached_may_have_it_in_hand() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mysql), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::STOP);
    insert(&mysqld, TABLE, 4).await;
    purge(&mysqld).await;
    let before = offset(mongod, &settings).await;
    let command = Daemon::start_with(&settings, &ACCEPT, "");
    command
        .wait_for_log("an sdl of this source is attached", SOON)
        .await;
    assert_eq!(offset(mongod, &settings).await, before);
    daemon.signal(Signal::CONT);
    let (code, _) = command.wait_exit(LONGEST).await;
    assert_eq!(code, 3);
    assert!(command.has_logged("stop sdl first"));
    caught_up(&mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &[TABLE]).await;
}

/// With LEASE=on the command holds the lease while it works, and leaves it free.
#[tokio::test]
async fn the_lease_is_taken_and_given_back() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mysql), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod)
        .set("LEASE", "on")
        .set("LEASE_TTL", "2s");
    read_all_and_stop(&mysqld, mongod, &settings).await;
    lose(&mysqld, 2).await;
    assert_gap(&settings).await;
    let (code, said) = accept(&settings).await;
    assert_eq!(code, 0, "{said}");
    let after = offset(mongod, &settings).await;
    assert_eq!(after.get("lease"), Some(&Bson::Null));
    assert_goes_on(&mysqld, mongod, &settings).await;
}

// --- arguments

#[tokio::test]
async fn the_arguments_must_say_why() {
    let nothing = Settings::empty();
    for arguments in [
        &["accept-gap"][..],
        &["accept-gap", "--reason", ""],
        &["accept-gap", "--reason", "  "],
        &["accept-gaps", "--reason", REASON],
        // The settings are judged as at a start.
        &ACCEPT,
    ] {
        let (code, said) = run(&nothing, arguments).await;
        assert_eq!(code, 64, "{arguments:?}: {said}");
    }
    let (code, said) = run(&nothing, &["accept-gap", "--help"]).await;
    assert_eq!(code, 0);
    assert!(said.contains("sdl accept-gap --reason '"), "{said}");
    let (code, said) = run(&nothing, &["--help"]).await;
    assert_eq!(code, 0);
    for part in ["accept-gap", "MYSQL_ADDR", "Exit codes"] {
        assert!(said.contains(part), "{part} is not in {said}");
    }
}
