//! Several domains in one binlog: each a sequence of its own, and a position that names the newest of each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::{Reading, SOON, STREAMING, meta, op};
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, on_every_mariadb,
    wait_until,
};
use mysql_async::prelude::Queryable;

on_every_mariadb! {
    domains_written_at_the_same_time_are_exact_through_kills,
    a_start_names_every_domain_and_one_that_it_leaves_out_is_read_whole,
    a_domain_that_was_purged_before_it_was_read_is_a_gap,
    a_domain_that_the_server_was_made_to_forget_is_refused,
    a_sequence_number_that_comes_again_is_no_duplicate_to_skip,
    numbers_may_jump_and_servers_may_take_turns,
}

const DOMAINS: u32 = 5;

async fn in_domain(mysqld: &Mysqld, domain: u32, sql: &str) {
    mysqld
        .exec(format!("SET SESSION gtid_domain_id = {domain}; {sql}"))
        .await;
}

/// Each client writes a table of its own in a domain of its own, all at once, so that the server commits them in groups.
async fn domains_written_at_the_same_time_are_exact_through_kills(flavor: Flavor) {
    let options = [
        "--binlog-commit-wait-count=3",
        "--binlog-commit-wait-usec=2000",
    ];
    let mut reading = Reading::of(flavor, &options).await;
    let tables: Vec<String> = (0..DOMAINS).map(|domain| format!("d.t{domain}")).collect();
    reading.mysqld.exec("CREATE DATABASE d").await;
    for table in &tables {
        reading
            .mysqld
            .exec(format!(
                "CREATE TABLE {table} (id INT AUTO_INCREMENT PRIMARY KEY, v INT)"
            ))
            .await;
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut running = Vec::new();
    for (domain, table) in (0..DOMAINS).zip(tables.clone()) {
        let stop = Arc::clone(&stop);
        let mut session = reading.mysqld.root().await;
        running.push(tokio::spawn(async move {
            session
                .query_drop(format!("SET SESSION gtid_domain_id = {domain}"))
                .await
                .unwrap();
            let mut written = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                let rows = 1 + written % 20;
                let values = vec![format!("({written})"); rows as usize].join(", ");
                for statement in [
                    "BEGIN".to_owned(),
                    format!("INSERT INTO {table} (v) VALUES {values}"),
                    format!("UPDATE {table} SET v = v + 1 ORDER BY id DESC LIMIT 3"),
                    format!("DELETE FROM {table} ORDER BY id LIMIT 1"),
                    "COMMIT".to_owned(),
                ] {
                    session.query_drop(statement).await.unwrap();
                }
                written += 1;
                // Five clients at full speed are more than a daemon that starts again and again can follow.
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            written
        }));
    }
    for kill in 0..9_u64 {
        // The moment of the kill is the fault itself.
        tokio::time::sleep(Duration::from_millis(150 * (kill % 4))).await;
        if kill % 3 == 2 {
            // The server ends the connection in the middle of something.
            let dumps =
                "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
            for id in reading.mysqld.query::<u64>(dumps).await {
                let _ = reading.mysqld.try_exec(format!("KILL {id}")).await;
            }
        } else {
            reading.daemon.kill9();
            let small = reading.settings.clone().set("BATCH_SIZE", 7);
            // Batches smaller than a transaction are right and slow: only now and then.
            reading.daemon = Daemon::start(if kill % 3 == 0 {
                &small
            } else {
                &reading.settings
            });
            reading.daemon.wait_for_log(STREAMING, SOON).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    for client in running {
        assert!(client.await.unwrap() > 0);
    }
    let names: Vec<&str> = tables.iter().map(String::as_str).collect();
    reading.assert_exact(&names).await;

    // Each domain in its own order, without a hole.
    let mut last = vec![0_u64; DOMAINS as usize];
    for document in reading.documents().await {
        let gtid = meta(&document).get_str("gtid").unwrap().to_owned();
        let parts: Vec<u64> = gtid.split('-').map(|part| part.parse().unwrap()).collect();
        let [domain, 1, sequence] = parts[..] else {
            panic!("{gtid}")
        };
        let last = &mut last[domain as usize];
        assert!(
            sequence == *last || sequence == *last + 1,
            "{gtid} after {last}"
        );
        *last = sequence;
    }
    let groups: u64 = reading
        .mysqld
        .query_one::<(String, u64)>("SHOW GLOBAL STATUS LIKE 'Binlog_group_commits'")
        .await
        .1;
    let commits: u64 = reading
        .mysqld
        .query_one::<(String, u64)>("SHOW GLOBAL STATUS LIKE 'Binlog_commits'")
        .await
        .1;
    assert!(groups < commits, "{groups} groups of {commits} commits");
}

async fn start_with_two_domains(flavor: Flavor) -> (Mysqld, &'static Mongod) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY, domain INT)")
        .await;
    for id in 1..=3 {
        in_domain(&mysqld, 0, &format!("INSERT INTO d.t VALUES ({id}, 0)")).await;
        in_domain(
            &mysqld,
            7,
            &format!("INSERT INTO d.t VALUES (10 + {id}, 7)"),
        )
        .await;
    }
    assert_eq!(mysqld.executed_gtid().await, "0-1-5,7-1-3");
    (mysqld, mongod)
}

async fn a_start_names_every_domain_and_one_that_it_leaves_out_is_read_whole(flavor: Flavor) {
    let (mysqld, mongod) = start_with_two_domains(flavor).await;
    for (start, expected) in [
        ("0-1-4,7-1-2", vec![3, 13]),
        ("7-1-2, 0-1-5", vec![13]),
        // What is not named was not read.
        ("0-1-4", vec![11, 12, 3, 13]),
        ("earliest", vec![1, 11, 2, 12, 3, 13]),
        ("current", vec![]),
    ] {
        let settings = Settings::new(&mysqld, mongod).set("START_FROM", start);
        let daemon = Daemon::start(&settings);
        caught_up(&mysqld, mongod, settings.database()).await;
        let found: Vec<i32> = mongod
            .changes(settings.database())
            .await
            .iter()
            .filter(|change| op(change) == "insert")
            .map(|change| change.get_document("after").unwrap().get_i32("id").unwrap())
            .collect();
        assert_eq!(found, expected, "START_FROM={start}");
        let offset = mongo::saved_gtid(&mongod.database(settings.database()).await).await;
        assert_eq!(offset.unwrap(), "0-1-5,7-1-3");
        daemon.signal(Signal::TERM);
        assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    }
}

async fn purge(mysqld: &Mysqld) {
    mysqld.exec("FLUSH BINARY LOGS").await;
    wait_until("one binlog is left", SOON, async || {
        mysqld.exec("PURGE BINARY LOGS BEFORE '2037-01-01'").await;
        let logs: Vec<mysql_async::Row> = mysqld.query("SHOW BINARY LOGS").await;
        logs.len() == 1
    })
    .await;
}

/// DELETE_DOMAIN_ID: the server cannot say any more whether it has what is recorded, so it may be another one.
async fn a_domain_that_the_server_was_made_to_forget_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = start_with_two_domains(flavor).await;
    let settings = Settings::new(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    // Only when no binlog begins before the domain's last transaction.
    purge(&mysqld).await;
    mysqld
        .exec("FLUSH BINARY LOGS DELETE_DOMAIN_ID = (7)")
        .await;
    assert_eq!(mysqld.executed_gtid().await, "0-1-5");
    let daemon = Daemon::start(&settings);
    assert_eq!(daemon.wait_exit(SOON).await.0, 3, "{:#?}", daemon.logs());
    assert!(
        daemon
            .logs()
            .iter()
            .any(|line| line.contains("behind the saved position") && line.contains("7-1-3")),
        "{:#?}",
        daemon.logs()
    );
}

async fn a_domain_that_was_purged_before_it_was_read_is_a_gap(flavor: Flavor) {
    let (mysqld, mongod) = start_with_two_domains(flavor).await;
    purge(&mysqld).await;
    for (start, missing) in [
        ("0-1-5,7-1-2", "after 7-1-2 up to 7-1-3"),
        ("0-1-5", "7-1-3"),
        ("7-1-3", "0-1-5"),
    ] {
        let settings = Settings::new(&mysqld, mongod).set("START_FROM", start);
        let daemon = Daemon::start(&settings);
        let (code, _) = daemon.wait_exit(SOON).await;
        assert_eq!(code, 3, "{:#?}", daemon.logs());
        assert!(
            daemon
                .logs()
                .iter()
                .any(|line| line.contains("binlog gap") && line.contains(missing)),
            "{:#?}",
            daemon.logs()
        );
    }
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "7-1-3,0-1-5");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    in_domain(&mysqld, 7, "INSERT INTO d.t VALUES (99, 7)").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    assert_eq!(mongod.changes(settings.database()).await.len(), 1);
    let problems = fold::sequence(&mongod.changes(settings.database()).await);
    assert!(problems.is_empty(), "{problems:?}");
}

/// Without gtid_strict_mode a session may number its transactions as it likes. A number that is not larger than the one before
/// it looks as if it had been read: to leave it out would be a loss, and to go on would lose the position.
async fn a_sequence_number_that_comes_again_is_no_duplicate_to_skip(flavor: Flavor) {
    let reading = Reading::of(flavor, &["--gtid-strict-mode=OFF"]).await;
    reading
        .mysqld
        .exec(
            "CREATE DATABASE d; CREATE TABLE d.t (id INT PRIMARY KEY); INSERT INTO d.t VALUES (1); INSERT INTO d.t VALUES (2)",
        )
        .await;
    reading.assert_exact(&["d.t"]).await;
    reading
        .mysqld
        .exec("SET SESSION gtid_seq_no = 3; INSERT INTO d.t VALUES (3)")
        .await;
    let (code, _) = reading.daemon.wait_exit(SOON).await;
    let logs = reading.daemon.logs();
    assert_eq!(code, 3, "{logs:#?}");
    assert!(
        logs.iter().any(|line| line.contains("exit=3")
            && line.contains("0-1-3")
            && line.contains("gtid_strict_mode=ON")),
        "{logs:#?}"
    );
    let again = Daemon::start(&reading.settings);
    assert_eq!(again.wait_exit(SOON).await.0, 3, "{:#?}", again.logs());
}

/// A domain is one sequence, whoever writes into it, and need not be without holes. A start in between finds its place.
async fn numbers_may_jump_and_servers_may_take_turns(flavor: Flavor) {
    let mut reading = Reading::of(flavor, &[]).await;
    reading
        .mysqld
        .exec("CREATE DATABASE d; CREATE TABLE d.t (id INT AUTO_INCREMENT PRIMARY KEY)")
        .await;
    for (step, session) in [
        "gtid_seq_no = 1000",
        "server_id = 9",
        "gtid_seq_no = 18446744073709551000",
        "server_id = 4294967295",
        "gtid_domain_id = 4294967295",
        "server_id = 1",
    ]
    .into_iter()
    .enumerate()
    {
        reading
            .mysqld
            .exec(format!(
                "SET SESSION {session}; INSERT INTO d.t VALUES (); INSERT INTO d.t VALUES ()"
            ))
            .await;
        reading.assert_exact(&["d.t"]).await;
        if step % 2 == 0 {
            reading.daemon.kill9();
        } else {
            reading.daemon.signal(Signal::TERM);
            assert_eq!(reading.daemon.wait_exit(SOON).await.0, 0);
        }
        reading.daemon = Daemon::start(&reading.settings);
        reading.daemon.wait_for_log(STREAMING, SOON).await;
    }
    let offset = mongo::saved_gtid(&reading.mongod.database(reading.settings.database()).await)
        .await
        .unwrap();
    assert_eq!(offset, "0-1-18446744073709551005,4294967295-1-2");
}
