//! What must hold on the servers before anything is read or written: found at start and again at every reconnect, told in one
//! message that says what was found and the statement that mends it, exit 3; and once that statement is run, the next
//! start works.
//!
//! The statements are taken out of the message itself, so a message whose remedy does not work fails its test.
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use crate::common::servers::{self, Process, Scratch, binaries, free_port};
use crate::common::{
    Daemon, Mongod, Mysqld, Settings, Signal, caught_up, mongo, mysql, wait_until,
};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mysql_async::prelude::Queryable;

/// A start, an exit, or a reconnect; all of them take a second, except where a driver waits for a server of a certain kind.
const SOON: Duration = Duration::from_secs(40);

/// The one line with which a daemon ended for an operator's sake.
async fn operator_message(daemon: &Daemon) -> String {
    let (code, _) = daemon.wait_exit(SOON).await;
    let logs = daemon.logs();
    assert_eq!(code, 3, "{logs:#?}");
    let mut told: Vec<_> = logs.iter().filter(|line| line.contains("exit=3")).collect();
    assert_eq!(told.len(), 1, "one message: {logs:#?}");
    told.remove(0).clone()
}

fn assert_says(message: &str, parts: &[&str]) {
    for part in parts {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
}

/// The statements that a message tells to run, in its order: each begins with SET PERSIST and ends before the next `;`.
fn remedies(message: &str) -> Vec<String> {
    message
        .split("SET PERSIST ")
        .skip(1)
        .map(|rest| {
            let end = rest.find([';', ' ']).unwrap_or(rest.len());
            format!(
                "SET PERSIST {}",
                rest[..end].trim_end_matches([';', ',', '"'])
            )
        })
        .collect()
}

async fn run(mysqld: &Mysqld, statements: &[String]) {
    assert!(!statements.is_empty());
    for statement in statements {
        mysqld.exec(statement).await;
    }
}

/// Ends the connection over which a daemon reads.
async fn cut(mysqld: &Mysqld) {
    let dumps = "SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'";
    let found: Vec<u64> = mysqld.query(dumps).await;
    assert!(!found.is_empty(), "nobody reads the binlog");
    for id in found {
        // It may have gone by itself.
        let _ = mysqld.try_exec(format!("KILL {id}")).await;
    }
}

/// A running daemon that has written its first offset and reads.
async fn reading(settings: &Settings) -> Daemon {
    let daemon = Daemon::start(settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    daemon
}

/// The daemon streams: what is written now arrives.
async fn works(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let daemon = reading(settings).await;
    mysqld.exec("INSERT INTO shop.t VALUES ()").await;
    caught_up(mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

const SHOP: &str = "CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY)";

// --- the MySQL server's settings

#[tokio::test]
async fn each_wrong_setting_is_found_at_start_and_at_a_reconnect_and_its_remedy_works() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(SHOP).await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let table: [(&str, &[&str], &[&str]); 4] = [
        (
            "binlog_format",
            &["STATEMENT", "MIXED"],
            &["expected ROW", "SET PERSIST binlog_format=ROW"],
        ),
        (
            "binlog_row_image",
            &["MINIMAL", "NOBLOB"],
            &["expected FULL", "SET PERSIST binlog_row_image=FULL"],
        ),
        (
            "binlog_row_metadata",
            &["MINIMAL"],
            &["expected FULL", "SET PERSIST binlog_row_metadata=FULL"],
        ),
        (
            "gtid_mode",
            &["ON_PERMISSIVE"],
            &[
                "expected ON",
                "SET PERSIST enforce_gtid_consistency=ON",
                "SET PERSIST gtid_mode=ON",
            ],
        ),
    ];
    for (variable, wrong, parts) in table {
        for value in wrong {
            // At a reconnect of a daemon that was content.
            let daemon = reading(&settings).await;
            mysqld
                .exec(format!("SET GLOBAL {variable} = {value}"))
                .await;
            cut(&mysqld).await;
            let message = operator_message(&daemon).await;
            assert_says(&message, &[&format!("{variable} is {value}")]);
            assert_says(&message, parts);
            // At the next start: the very same.
            let again = operator_message(&Daemon::start(&settings)).await;
            assert_eq!(after_time(&again), after_time(&message));
            run(&mysqld, &remedies(&message)).await;
            works(&mysqld, mongod, &settings).await;
        }
    }
}

/// A log line without its time.
fn after_time(line: &str) -> &str {
    line.split_once(' ').unwrap().1
}

#[tokio::test]
async fn several_wrong_settings_are_told_in_one_message() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(SHOP).await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    mysqld
        .exec(
            "SET GLOBAL binlog_row_image = MINIMAL; SET GLOBAL binlog_row_metadata = MINIMAL;
             SET GLOBAL binlog_format = MIXED; SET GLOBAL gtid_mode = ON_PERMISSIVE",
        )
        .await;
    let message = operator_message(&Daemon::start(&settings)).await;
    assert_says(
        &message,
        &[
            "gtid_mode is ON_PERMISSIVE",
            "binlog_format is MIXED",
            "binlog_row_image is MINIMAL",
            "binlog_row_metadata is MINIMAL",
        ],
    );
    let target = mongod.database(settings.database()).await;
    assert!(
        mongo::offset(&target).await.is_none(),
        "nothing is decided before the server is fit"
    );
    run(&mysqld, &remedies(&message)).await;
    works(&mysqld, mongod, &settings).await;
}

#[tokio::test]
async fn a_server_without_gtids_is_refused_and_mended_as_told() {
    let (mysqld, mongod) = tokio::join!(
        Mysqld::start_with(&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]),
        Mongod::shared()
    );
    mysqld.exec(SHOP).await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let message = operator_message(&Daemon::start(&settings)).await;
    assert_says(&message, &["gtid_mode is OFF", "GTID"]);
    let statements = remedies(&message);
    run(&mysqld, &statements).await;
    let mode: String = mysqld.query_one("SELECT @@GLOBAL.gtid_mode").await;
    assert_eq!(mode, "ON", "after {statements:?}");
    works(&mysqld, mongod, &settings).await;

    // Persisted: it survives a restart, and a daemon that runs meanwhile does not mind one.
    let daemon = reading(&settings).await;
    mysqld.stop().await;
    mysqld
        .start_again_with(&[
            "--gtid-mode=OFF",
            "--enforce-gtid-consistency=OFF",
            "--persisted-globals-load=OFF",
        ])
        .await;
    assert_says(&operator_message(&daemon).await, &["gtid_mode is OFF"]);
}

#[tokio::test]
async fn a_transaction_without_a_gtid_in_the_middle_stops_the_daemon() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(SHOP).await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let daemon = reading(&settings).await;
    // The setting is looked at when a connection begins; here the stream itself must notice.
    mysqld
        .exec(
            "SET GLOBAL gtid_mode = ON_PERMISSIVE; INSERT INTO shop.t VALUES ();
             SET gtid_next = 'ANONYMOUS'; INSERT INTO shop.t VALUES (); SET gtid_next = 'AUTOMATIC';
             INSERT INTO shop.t VALUES ()",
        )
        .await;
    let message = operator_message(&daemon).await;
    assert_says(
        &message,
        &[
            "anonymous transaction",
            "SET PERSIST gtid_mode=ON",
            "START_FROM=current",
        ],
    );
    let target = mongod.database(settings.database()).await;
    let recorded = mongo::changes(&target).await.len();
    assert!(
        recorded <= 1,
        "what stands behind it was recorded as if it were not there"
    );
    // With the setting mended it still stands in the way: no start passes over it.
    run(&mysqld, &remedies(&message)).await;
    let message = operator_message(&Daemon::start(&settings)).await;
    assert_says(&message, &["anonymous transaction"]);
    assert_eq!(mongo::changes(&target).await.len(), recorded);
    // A source that begins behind it is fit.
    let behind = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    works(&mysqld, mongod, &behind).await;
}

#[tokio::test]
async fn a_server_without_a_binlog_is_refused_at_start_and_at_a_reconnect() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(SHOP).await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let daemon = reading(&settings).await;
    mysqld.stop().await;
    mysqld
        .start_again_with(&["--skip-log-bin", "--skip-log-replica-updates"])
        .await;
    let refusal = ["log_bin is OFF", "log_bin=binlog", "restart"];
    assert_says(&operator_message(&daemon).await, &refusal);
    // Only now: a second daemon fences the first one.
    assert_says(&operator_message(&Daemon::start(&settings)).await, &refusal);
    mysqld.restart().await;
    works(&mysqld, mongod, &settings).await;
}

// --- MySQL's accounts

#[tokio::test]
async fn a_missing_privilege_and_a_wrong_password_are_told_apart() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    const PASSWORD: &str = "planted-password";
    mysqld.exec(SHOP).await;
    mysqld.exec(format!("CREATE USER reader IDENTIFIED BY '{PASSWORD}'; GRANT REPLICATION CLIENT ON *.* TO reader")).await;
    let settings = Settings::new(&mysqld, mongod)
        .set("START_FROM", "current")
        .set("MYSQL_USER", "reader")
        .set("MYSQL_PASS", PASSWORD);
    let mut outputs = Vec::new();

    let daemon = Daemon::start(&settings);
    let message = operator_message(&daemon).await;
    assert_says(&message, &["REPLICATION SLAVE", "grant it: GRANT "]);
    assert!(
        !message.contains("MYSQL_PASS"),
        "the password is right: {message}"
    );
    outputs.extend(daemon.logs());
    let grant = message.split("grant it: ").nth(1).unwrap();
    let grant = grant.split(" exit=3").next().unwrap().to_owned();
    mysqld.exec(grant.replace("MYSQL_USER", "reader")).await;
    works(&mysqld, mongod, &settings).await;

    let daemon = reading(&settings).await;
    mysqld
        .exec("REVOKE REPLICATION SLAVE ON *.* FROM reader")
        .await;
    cut(&mysqld).await;
    assert_says(&operator_message(&daemon).await, &[&grant]);
    outputs.extend(daemon.logs());
    mysqld
        .exec("GRANT REPLICATION SLAVE ON *.* TO reader")
        .await;

    for wrong in [
        settings.clone().set("MYSQL_PASS", "planted-wrong"),
        settings.clone().unset("MYSQL_PASS"),
    ] {
        let daemon = Daemon::start(&wrong);
        let message = operator_message(&daemon).await;
        assert_says(
            &message,
            &["Access denied", "reader", "MYSQL_USER", "MYSQL_PASS"],
        );
        assert!(!message.contains("GRANT"), "{message}");
        outputs.extend(daemon.logs());
    }
    let daemon = reading(&settings).await;
    mysqld
        .exec("ALTER USER reader IDENTIFIED BY 'planted-new'")
        .await;
    cut(&mysqld).await;
    assert_says(
        &operator_message(&daemon).await,
        &["Access denied", "MYSQL_PASS"],
    );
    outputs.extend(daemon.logs());
    works(&mysqld, mongod, &settings.set("MYSQL_PASS", "planted-new")).await;
    for line in &outputs {
        assert!(!line.contains("planted"), "{line}");
    }
}

// --- MongoDB

#[tokio::test]
async fn a_mongod_that_is_no_replica_set_is_refused_whatever_the_uri_says() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start_standalone());
    mysqld.exec(SHOP).await;
    let settings = Settings::new(&mysqld, &mongod).set("START_FROM", "current");
    for uri in [
        format!("mongodb://{}/", mongod.addr()),
        format!("mongodb://{}/?replicaSet=rs0", mongod.addr()),
    ] {
        let daemon = Daemon::start(&settings.clone().set("MONGO_URI", uri));
        let message = operator_message(&daemon).await;
        assert_says(
            &message,
            &[
                "standalone",
                "replica set",
                "replSetName",
                "rs.initiate()",
                "replicaSet=",
            ],
        );
        assert!(!daemon.has_logged("Connected to MongoDB"));
    }
    let names = mongod
        .database(settings.database())
        .await
        .list_collection_names()
        .await
        .unwrap();
    assert!(names.is_empty(), "nothing was written to it: {names:?}");
}

#[tokio::test]
async fn a_standalone_mongod_that_becomes_a_replica_set_is_accepted() {
    // As the message tells: restarted with a set's name, and initiated.
    let scratch = Scratch::new("mongod-converted");
    let port = free_port();
    fs::create_dir_all(scratch.path().join("data")).unwrap();
    let start = |options: &[&str]| {
        let mut command = servers::guarded(&binaries().mongod);
        command.arg("--dbpath").arg(scratch.path().join("data"));
        command.args([
            "--port",
            &port.to_string(),
            "--bind_ip",
            "127.0.0.1",
            "--nounixsocket",
            "--wiredTigerCacheSizeGB",
            "0.25",
        ]);
        command.args(options);
        Process::start("mongod", command, &scratch.path().join("mongod.log"))
    };
    let mysqld = Mysqld::start().await;
    mysqld.exec(SHOP).await;
    let uri = format!("mongodb://127.0.0.1:{port}/");
    let settings = Settings::new(&mysqld, Mongod::shared().await)
        .set("START_FROM", "current")
        .set("MONGO_URI", &uri);
    let standalone = start(&[]);
    let message = operator_message(&Daemon::start(&settings)).await;
    assert_says(&message, &["standalone"]);
    standalone.stop().await;
    let _member = start(&["--replSet", "rs0"]);
    let client = Client::with_uri_str(format!(
        "{uri}?directConnection=true&serverSelectionTimeoutMS=30000"
    ))
    .await
    .unwrap();
    // Restarted but not yet initiated: neither a standalone nor a set. It waits, as for any server that is not ready.
    let daemon = Daemon::start(&settings);
    let members = vec![doc! { "_id": 0, "host": format!("127.0.0.1:{port}") }];
    client
        .database("admin")
        .run_command(doc! { "replSetInitiate": { "_id": "rs0", "members": members } })
        .await
        .unwrap();
    if !daemon.is_running() {
        // Asked between the two steps, it may have told what is still missing.
        assert_says(&operator_message(&daemon).await, &["rs.initiate()"]);
    }
    drop(daemon);
    wait_until("mongod is primary", SOON, async || {
        let hello: Document = client
            .database("admin")
            .run_command(doc! { "hello": 1 })
            .await
            .unwrap();
        hello.get_bool("isWritablePrimary").unwrap_or(false)
    })
    .await;
    let daemon = Daemon::start(&settings.set("MONGO_URI", format!("{uri}?replicaSet=rs0")));
    daemon.wait_for_log("Connected to MySQL", SOON).await;
}

#[tokio::test]
async fn a_mongodb_user_without_rights_is_told_at_start_and_in_the_middle() {
    const PASSWORD: &str = "planted-password";
    let key = Scratch::new("keyfile");
    let key_file = key.path().join("key");
    fs::write(&key_file, "ABCDEFGHIJKLMNOPQRSTUVWXYZ").unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o400)).unwrap();
    let options = ["--keyFile", key_file.to_str().unwrap()];
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start_with(&options));
    mysqld.exec(SHOP).await;
    // The first user may be made from loopback without being anybody.
    mongod
        .admin(doc! { "createUser": "admin", "pwd": PASSWORD, "roles": ["root"] })
        .await;
    let uri = |user: &str, password: &str| {
        format!(
            "mongodb://{user}:{password}@{}/?replicaSet=rs0",
            mongod.addr()
        )
    };
    let admin = Client::with_uri_str(uri("admin", PASSWORD))
        .await
        .unwrap()
        .database("admin");
    let settings = Settings::new(&mysqld, &mongod)
        .set("START_FROM", "current")
        .set("MONGO_URI", uri("auditor", PASSWORD));
    let role = |role: &str| vec![doc! { "role": role, "db": settings.database() }];
    let mut outputs = Vec::new();

    // Nobody of that name; then one who may only read.
    let daemon = Daemon::start(&settings);
    assert_says(
        &operator_message(&daemon).await,
        &["mongodb", "uthentication", "authSource"],
    );
    outputs.extend(daemon.logs());
    admin
        .run_command(doc! { "createUser": "auditor", "pwd": PASSWORD, "roles": role("read") })
        .await
        .unwrap();
    let daemon = Daemon::start(&settings);
    let message = operator_message(&daemon).await;
    assert_says(
        &message,
        &[
            "mongodb",
            "Unauthorized (13)",
            "readWrite",
            "db.grantRolesToUser(",
        ],
    );
    outputs.extend(daemon.logs());

    // As told: readWrite on MONGO_DB, and no more than that, is enough.
    let grant = doc! { "grantRolesToUser": "auditor", "roles": role("readWrite") };
    admin.run_command(grant.clone()).await.unwrap();
    let daemon = reading(&settings).await;
    mysqld.exec("INSERT INTO shop.t VALUES ()").await;
    let offsets = admin
        .client()
        .database(settings.database())
        .collection::<Document>(mongo::OFFSETS);
    let executed = mysqld.executed_gtid().await;
    wait_until("the insert is recorded", SOON, async || {
        offsets
            .find_one(doc! {})
            .await
            .unwrap()
            .is_some_and(|offset| offset.get_str("gtid").unwrap() == executed)
    })
    .await;
    // A killed one leaves a session behind; its successor may end it with these rights.
    daemon.kill9();
    let daemon = reading(&settings).await;
    assert!(
        !daemon.has_logged("could not end the predecessor's session"),
        "{:#?}",
        daemon.logs()
    );

    // Taken away while it runs: nothing waits for what will not come by itself.
    admin
        .run_command(doc! { "revokeRolesFromUser": "auditor", "roles": role("readWrite") })
        .await
        .unwrap();
    let started = Instant::now();
    mysqld.exec("INSERT INTO shop.t VALUES ()").await;
    assert_says(
        &operator_message(&daemon).await,
        &["Unauthorized (13)", "readWrite"],
    );
    assert!(started.elapsed() < Duration::from_secs(20));
    outputs.extend(daemon.logs());

    // Given back: nothing is missing.
    admin.run_command(grant).await.unwrap();
    let daemon = reading(&settings).await;
    let executed = mysqld.executed_gtid().await;
    wait_until("the second insert is recorded", SOON, async || {
        offsets
            .find_one(doc! {})
            .await
            .unwrap()
            .is_some_and(|offset| offset.get_str("gtid").unwrap() == executed)
    })
    .await;
    let changes = mongo::changes(&admin.client().database(settings.database())).await;
    let inserts = changes
        .iter()
        .filter(|change| change.get_str("op").unwrap() == "insert")
        .count();
    assert_eq!(inserts, 2);
    outputs.extend(daemon.logs());

    let daemon = Daemon::start(&settings.set("MONGO_URI", uri("auditor", "planted-wrong")));
    assert_says(
        &operator_message(&daemon).await,
        &["uthentication", "password"],
    );
    outputs.extend(daemon.logs());
    for line in &outputs {
        assert!(
            !line.contains("planted") && !line.contains(mysql::PASSWORD),
            "{line}"
        );
    }
}

#[tokio::test]
async fn the_account_of_the_documentation_is_enough_and_reads_no_table() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(SHOP).await;
    mysqld.exec("CREATE USER repl IDENTIFIED BY 'x'; GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO repl").await;
    let settings = Settings::new(&mysqld, mongod)
        .set("START_FROM", "current")
        .set("MYSQL_USER", "repl")
        .set("MYSQL_PASS", "x");
    works(&mysqld, mongod, &settings).await;
    let mut session = mysqld.connect("repl", "x").await.unwrap();
    session
        .query_drop("SELECT * FROM shop.t")
        .await
        .expect_err("it may not read tables");
}
