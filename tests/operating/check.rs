//! `sdl check`: each fault is told in a row of its own, and the statement in that row mends it.
//!
//! The statements are taken out of the output itself, so a remedy that does not work fails its test.
use std::fs;
use std::os::unix::fs::PermissionsExt;

use serde_json::Value;

use crate::common::audit::shared_mysqld;
use crate::common::command::{Done, sdl, shell};
use crate::common::servers::{Scratch, free_port};
use crate::common::{Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, mongo, mysql};
use mongodb::bson::doc;

/// What `sdl check --json` says.
struct Checked {
    code: i32,
    report: Value,
}

impl Checked {
    async fn of(settings: &Settings) -> Self {
        Self::read(sdl(settings, &["check", "--json"]).await)
    }

    fn read(done: Done) -> Self {
        assert_eq!(done.stdout.lines().count(), 1, "{done:?}");
        assert_eq!(done.stderr, "", "{}", done.stdout);
        let report: Value = serde_json::from_str(&done.stdout).unwrap();
        let code = match report["status"].as_str().unwrap() {
            "ok" => 0,
            "warn" => 1,
            "fail" => 3,
            other => panic!("{other}"),
        };
        assert_eq!(
            (done.code, report["exit"].as_i64()),
            (code, Some(code.into()))
        );
        Self { code, report }
    }

    /// All rows of a name, whatever their group.
    fn rows(&self, check: &str) -> Vec<&Value> {
        let groups = self.report["groups"].as_array().unwrap();
        groups
            .iter()
            .flat_map(|group| group["findings"].as_array().unwrap())
            .filter(|finding| finding["check"] == check)
            .collect()
    }

    /// The only row of a name, which has this status; gives what mends it.
    fn is(&self, check: &str, status: &str) -> String {
        let rows = self.rows(check);
        assert_eq!(rows.len(), 1, "{check}: {:#}", self.report);
        assert_eq!(rows[0]["status"], status, "{:#}", rows[0]);
        rows[0]["remedy"].as_str().unwrap_or_default().to_owned()
    }

    /// The rows that are not ok, as `check: status`.
    fn troubles(&self) -> Vec<String> {
        let groups = self.report["groups"].as_array().unwrap();
        groups
            .iter()
            .flat_map(|group| group["findings"].as_array().unwrap())
            .filter(|finding| finding["status"] != "ok" && finding["status"] != "skipped")
            .map(|finding| format!("{}: {}", finding["check"], finding["status"]).replace('"', ""))
            .collect()
    }
}

/// The statements at the beginning of a remedy: MariaDB's add what to write into my.cnf.
fn statement(remedy: &str) -> &str {
    remedy.split(", and ").next().unwrap()
}

async fn mend(mysqld: &Mysqld, remedy: &str) {
    assert!(!remedy.is_empty());
    mysqld.exec(statement(remedy)).await;
}

/// A server with nothing to find fault with.
async fn faultless(flavor: Flavor) -> Mysqld {
    let mysqld = Mysqld::start_as(flavor, &["--innodb-flush-log-at-trx-commit=1"]).await;
    mysqld.exec("GRANT REFERENCES ON *.* TO 'sdl'@'%'").await;
    mysqld
}

#[tokio::test]
async fn each_fault_of_a_mysql_server_is_a_row_and_its_statement_mends_it() {
    let (mysqld, mongod) = tokio::join!(faultless(Flavor::Mysql), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let checked = Checked::of(&settings).await;
    assert_eq!(checked.troubles(), [""; 0], "{:#}", checked.report);
    assert_eq!(checked.code, 0);
    assert_eq!(checked.is("position", "ok"), "");
    let databases = mongod.client().await.list_database_names().await.unwrap();
    assert!(
        !databases.contains(&settings.database().to_owned()),
        "it has made something: {databases:?}"
    );

    // All at once, since a row of each is to be there.
    let faults = [
        ("binlog_format", "MIXED", "fail"),
        ("binlog_row_image", "MINIMAL", "fail"),
        ("binlog_row_metadata", "MINIMAL", "fail"),
        ("gtid_mode", "ON_PERMISSIVE", "fail"),
        ("sync_binlog", "0", "warn"),
        ("innodb_flush_log_at_trx_commit", "2", "warn"),
        ("binlog_checksum", "NONE", "warn"),
        ("binlog_rows_query_log_events", "OFF", "warn"),
        ("binlog_error_action", "IGNORE_ERROR", "warn"),
    ];
    for (name, value, _) in faults {
        mysqld.exec(format!("SET GLOBAL {name} = {value}")).await;
    }
    mysqld
        .exec("SET GLOBAL binlog_expire_logs_seconds = 3600; REVOKE REPLICATION CLIENT, REFERENCES, SELECT ON *.* FROM 'sdl'@'%'")
        .await;
    let checked = Checked::of(&settings).await;
    assert_eq!(checked.code, 3);
    let mut remedies: Vec<String> = faults
        .iter()
        .map(|(name, _, status)| checked.is(name, status))
        .collect();
    remedies.push(checked.is("replication_client", "warn"));
    remedies.push(checked.is("references", "warn"));
    for remedy in &remedies {
        // The prose behind gtid_mode's statements.
        let end = remedy.find("; what was").unwrap_or(remedy.len());
        mend(&mysqld, &remedy[..end]).await;
    }
    let checked = Checked::of(&settings).await;
    assert_eq!(
        checked.troubles(),
        ["retention: warn"],
        "{:#}",
        checked.report
    );
    assert_eq!(checked.code, 1);
    mend(&mysqld, &checked.is("retention", "warn")).await;
    mysqld
        .exec("REVOKE REPLICATION SLAVE ON *.* FROM 'sdl'@'%'")
        .await;
    let checked = Checked::of(&settings).await;
    mend(&mysqld, &checked.is("replication_slave", "fail")).await;
    assert_eq!(Checked::of(&settings).await.troubles(), [""; 0]);
}

#[tokio::test]
async fn each_fault_of_a_mariadb_server_is_a_row_and_its_statement_mends_it() {
    let (mysqld, mongod) = tokio::join!(faultless(Flavor::Mariadb10), Mongod::shared());
    // It has no certificate.
    let settings = Settings::new(&mysqld, mongod).set("MYSQL_TLS", "disabled");
    let checked = Checked::of(&settings).await;
    assert_eq!(checked.troubles(), [""; 0], "{:#}", checked.report);
    let faults = [
        ("binlog_format", "MIXED", "fail"),
        ("binlog_row_image", "MINIMAL", "fail"),
        ("binlog_row_metadata", "MINIMAL", "fail"),
        ("sync_binlog", "0", "warn"),
        ("innodb_flush_log_at_trx_commit", "2", "warn"),
        ("binlog_checksum", "NONE", "warn"),
        ("gtid_strict_mode", "OFF", "warn"),
    ];
    for (name, value, _) in faults {
        mysqld.exec(format!("SET GLOBAL {name} = {value}")).await;
    }
    mysqld
        .exec("SET GLOBAL binlog_expire_logs_seconds = 3600; CREATE DATABASE shop; CREATE TABLE shop.t (a TEXT COMPRESSED)")
        .await;
    let checked = Checked::of(&settings).await;
    let mut remedies: Vec<String> = faults
        .iter()
        .map(|(name, _, status)| checked.is(name, status))
        .collect();
    remedies.push(checked.is("retention", "warn"));
    for remedy in &remedies {
        mend(&mysqld, remedy).await;
    }
    assert_eq!(
        Checked::of(&settings).await.troubles(),
        ["columns: fail"],
        "a compressed column cannot be read"
    );
    mysqld
        .exec("DROP TABLE shop.t; REVOKE BINLOG MONITOR ON *.* FROM 'sdl'@'%'")
        .await;
    let checked = Checked::of(&settings).await;
    checked.is("server", "fail");
    mend(&mysqld, &checked.is("replication_client", "fail")).await;
    assert_eq!(Checked::of(&settings).await.troubles(), [""; 0]);
}

/// Every server is a group of its own, and one that is away or refuses costs its own rows only.
#[tokio::test]
async fn what_cannot_be_asked_is_skipped_with_the_reason_and_the_rest_is_told() {
    let (mysqld, mongod) = tokio::join!(shared_mysqld(), Mongod::shared());
    let away = free_port();
    let settings = Settings::new(mysqld, mongod)
        .set("MYSQL_ADDR", format!("127.0.0.1:{away},{}", mysqld.addr()));
    let checked = Checked::of(&settings).await;
    assert_eq!(checked.code, 3);
    let rows = checked.rows("connection");
    let statuses: Vec<_> = rows
        .iter()
        .map(|row| row["status"].as_str().unwrap())
        .collect();
    assert_eq!(statuses, ["fail", "ok", "ok"], "{:#}", checked.report);
    let rows = checked.rows("retention");
    assert_eq!(
        (&rows[0]["status"], &rows[1]["status"]),
        (&"skipped".into(), &"ok".into())
    );
    assert_eq!(rows[0]["found"], "there is no connection");

    let wrong = Settings::new(mysqld, mongod).set("MYSQL_PASS", "planted-password");
    let done = sdl(&wrong, &["check", "--json"]).await;
    assert!(!done.stdout.contains("planted"), "{done:?}");
    let checked = Checked::read(done);
    assert_eq!(checked.rows("connection")[0]["status"], "ok");
    assert_eq!(checked.rows("login")[0]["status"], "fail");
    assert_eq!(checked.rows("login")[1]["status"], "ok");

    let uri = format!("mongodb://planted:planted@127.0.0.1:{away}/?replicaSet=rs0");
    let done = sdl(
        &Settings::new(mysqld, mongod).set("MONGO_URI", uri),
        &["check", "--json"],
    )
    .await;
    assert!(!done.stdout.contains("planted:planted"), "{done:?}");
    let checked = Checked::read(done);
    assert_eq!(checked.rows("connection")[1]["status"], "fail");
    assert_eq!(
        checked.is("position", "skipped"),
        "",
        "{:#}",
        checked.report
    );
    assert_eq!(checked.is("indexes", "skipped"), "");
}

#[tokio::test]
async fn a_gap_and_a_wrong_server_are_told_against_the_saved_offset_and_a_running_daemon_is_left_alone()
 {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY)")
        .await;
    let settings = Settings::new(&mysqld, mongod);
    let metrics = format!("127.0.0.1:{}", free_port());
    let settings = settings.set("METRICS_ADDR", &metrics);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    let target = mongod.database(settings.database()).await;
    let before = mongo::offset(&target).await.unwrap();
    let checked = Checked::of(&settings).await;
    let after = mongo::offset(&target).await.unwrap();
    assert_eq!(before.get("epoch"), after.get("epoch"));
    assert_eq!(before.get("session"), after.get("session"));
    assert!(daemon.is_running());
    checked.is("position", "ok");
    checked.is("server_id", "ok");
    let served = checked.rows("metrics_addr")[0]["found"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(served.contains("a running sdl serves it"), "{served}");
    mysqld.exec("INSERT INTO shop.t VALUES ()").await;
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    daemon.wait_exit(std::time::Duration::from_secs(40)).await;

    mysqld
        .exec("INSERT INTO shop.t VALUES (); FLUSH BINARY LOGS")
        .await;
    let logs: Vec<(String, u64, String)> = mysqld.query("SHOW BINARY LOGS").await;
    let active = &logs.last().unwrap().0;
    mysqld
        .exec(format!("PURGE BINARY LOGS TO '{active}'"))
        .await;
    let checked = Checked::of(&settings).await;
    let mend = checked.is("position", "fail");
    assert!(mend.contains("sdl accept-gap"), "{mend}");
    let done = sdl(&settings, &["accept-gap", "--reason", "a test"]).await;
    assert_eq!(done.code, 0, "{done:?}");
    Checked::of(&settings).await.is("position", "ok");

    // Another server behind the same address, which never had any of it.
    let other = Settings::new(shared_mysqld().await, mongod)
        .set("MONGO_DB", settings.database())
        .set("SOURCE_ID", before.get_str("_id").unwrap());
    let mend = Checked::of(&other).await.is("position", "fail");
    assert!(mend.contains("MYSQL_ADDR"), "{mend}");
}

#[tokio::test]
async fn a_ttl_of_the_earlier_guide_is_told_and_the_statement_removes_it() {
    let (mysqld, mongod) = tokio::join!(shared_mysqld(), Mongod::shared());
    let settings = Settings::new(mysqld, mongod);
    let target = mongod.database(settings.database()).await;
    target
        .run_command(doc! {
            "createIndexes": mongo::STAGING,
            "indexes": [{ "key": { "createdAt": 1 }, "name": "createdAt_1", "expireAfterSeconds": 604_800 }],
        })
        .await
        .unwrap();
    let mend = Checked::of(&settings).await.is("staging_ttl", "fail");
    let daemon = Daemon::start(&settings);
    let (code, _) = daemon.wait_exit(std::time::Duration::from_secs(40)).await;
    assert_eq!(
        code,
        3,
        "the daemon sees it as check does: {:#?}",
        daemon.logs()
    );
    let name = mend
        .split("dropIndex(\"")
        .nth(1)
        .unwrap()
        .trim_end_matches("\")");
    target
        .collection::<mongodb::bson::Document>(mongo::STAGING)
        .drop_index(name)
        .await
        .unwrap();
    Checked::of(&settings).await.is("staging_ttl", "ok");
}

#[tokio::test]
async fn a_user_of_mongodb_without_a_right_is_told_which_and_a_standalone_is_no_replica_set() {
    const PASSWORD: &str = "planted-password";
    let key = Scratch::new("keyfile");
    let key_file = key.path().join("key");
    fs::write(&key_file, "ABCDEFGHIJKLMNOPQRSTUVWXYZ").unwrap();
    fs::set_permissions(&key_file, fs::Permissions::from_mode(0o400)).unwrap();
    let options = ["--keyFile", key_file.to_str().unwrap()];
    let (mongod, standalone) =
        tokio::join!(Mongod::start_with(&options), Mongod::start_standalone());
    let mysqld = shared_mysqld().await;
    mongod
        .admin(doc! { "createUser": "admin", "pwd": PASSWORD, "roles": ["root"] })
        .await;
    let uri = |user: &str| {
        format!(
            "mongodb://{user}:{PASSWORD}@{}/?replicaSet=rs0",
            mongod.addr()
        )
    };
    let admin = mongodb::Client::with_uri_str(uri("admin"))
        .await
        .unwrap()
        .database("admin");
    let settings = Settings::new(mysqld, &mongod).set("MONGO_URI", uri("sdl"));
    let on = |collection: &str, actions: &[&str]| {
        doc! { "resource": { "db": settings.database(), "collection": collection }, "actions": actions.to_vec() }
    };
    admin
        .run_command(doc! {
            "createRole": "sdl_writer",
            "privileges": [
                on("row_changes", &["createIndex", "insert", "find"]),
                on("row_changes_schemas", &["insert"]),
                on("row_changes_values", &["insert"]),
                on("binlog_offsets", &["find", "insert", "update"]),
                on("row_changes_staging", &["createIndex", "find", "insert"]),
            ],
            "roles": [],
        })
        .await
        .unwrap();
    let role = doc! { "role": "sdl_writer", "db": "admin" };
    admin
        .run_command(doc! { "createUser": "sdl", "pwd": PASSWORD, "roles": [role.clone()] })
        .await
        .unwrap();

    let checked = Checked::of(&settings).await;
    let mend = checked.is("privileges", "fail");
    assert!(mend.contains(r#"actions: ["update", "remove"]"#), "{mend}");
    // As mongosh would.
    let privileges = [on("row_changes_staging", &["update", "remove"])];
    assert!(
        mend.contains("grantPrivilegesToRole(\"sdl_writer\""),
        "{mend}"
    );
    admin
        .run_command(
            doc! { "grantPrivilegesToRole": "sdl_writer", "privileges": privileges.to_vec() },
        )
        .await
        .unwrap();
    let checked = Checked::of(&settings).await;
    checked.is("privileges", "ok");
    // What only other rights show is skipped, and is no fault.
    for row in ["disk", "oplog"] {
        checked.is(row, "skipped");
    }
    checked.is("write_concern", "ok");
    checked.is("transactions", "ok");
    for row in checked.rows("indexes") {
        assert_eq!(row["status"], "skipped", "{row}");
    }

    let more = doc! { "role": "readWrite", "db": settings.database() };
    admin
        .run_command(doc! { "grantRolesToUser": "sdl", "roles": [more] })
        .await
        .unwrap();
    Checked::of(&settings).await.is("privileges", "warn");

    let wrong = settings.clone().set("MONGO_URI", uri("nobody"));
    let done = sdl(&wrong, &["check", "--json"]).await;
    assert!(!done.stdout.contains(PASSWORD), "{done:?}");
    assert_eq!(Checked::read(done).rows("login")[1]["status"], "fail");

    let settings = Settings::new(mysqld, &standalone);
    let mend = Checked::of(&settings).await.is("replica_set", "fail");
    assert!(mend.contains("rs.initiate()"), "{mend}");
}

#[tokio::test]
async fn this_host_is_looked_at_and_the_table_is_made_for_people() {
    let (mysqld, mongod) = tokio::join!(shared_mysqld(), Mongod::shared());
    let scratch = Scratch::new("check");
    let directory = scratch.path().display();
    let spool = scratch.path().join("spool");
    let settings = Settings::new(mysqld, mongod)
        .set("TZ", "Asia/Tokyo")
        .set("SPOOL_DIR", spool.display())
        .set("SPOOL_MAX_BYTES", "1000000GiB")
        .set("METRICS_ADDR", mysqld.addr());
    fs::write(scratch.path().join(".env"), "RUST_LOG=warn\n").unwrap();
    fs::set_permissions(
        scratch.path().join(".env"),
        fs::Permissions::from_mode(0o644),
    )
    .unwrap();
    let script = format!("cd {directory} && ulimit -n 100 && \"$SDL\" check --json");
    let checked = Checked::read(shell(&settings, &script).await);
    assert_eq!(checked.code, 1, "{:#}", checked.report);
    checked.is("spool", "ok");
    assert!(!spool.exists(), "nothing is made");
    let enough = checked.is("spool_disk", "warn");
    let bytes = enough.strip_prefix("SPOOL_MAX_BYTES=").unwrap();
    let bytes = bytes.split(',').next().unwrap().to_owned();
    checked.is("open_files", "warn");
    checked.is("metrics_addr", "warn");
    assert_eq!(checked.rows("time_zone")[0]["found"], "Asia/Tokyo");
    let chmod = checked.is("secrets", "warn");
    let settings = settings
        .set("SPOOL_MAX_BYTES", bytes)
        .set("METRICS_ADDR", "off");
    let script = format!("cd {directory} && {chmod} && \"$SDL\" check --json");
    let checked = Checked::read(shell(&settings, &script).await);
    for row in ["spool_disk", "open_files", "metrics_addr", "secrets"] {
        checked.is(row, "ok");
    }

    // In a pipe there is no colour, and a row is a line; a terminal says how wide it is.
    let done = sdl(&settings, &["check"]).await;
    assert!(
        done.stdout.contains("innodb_flush_log_at_trx_commit"),
        "{}",
        done.stdout
    );
    assert!(!done.stdout.contains('\u{1b}'), "{}", done.stdout);
    let terminal = "TERM=xterm script -qefc 'stty rows 24 cols 60; \"$SDL\" check' /dev/null";
    let coloured = shell(&settings, terminal).await.stdout;
    assert!(coloured.contains("\u{1b}[32mok"), "{coloured}");
    let plain = shell(&settings.clone().set("NO_COLOR", 1), terminal)
        .await
        .stdout;
    assert!(!plain.contains("\u{1b}[3"), "{plain}");
    for line in plain.lines() {
        // A word that is too long for the rest of the line, a path, is not broken.
        let last = line.split_whitespace().next_back().unwrap_or_default();
        assert!(
            last.chars().count() > 30 || line.trim_end().chars().count() <= 60,
            "{line:?}"
        );
    }
    // A reader that has gone before anything is printed.
    let piped = shell(
        &settings,
        "set -o pipefail; \"$SDL\" check | true; echo ${PIPESTATUS[0]}",
    )
    .await;
    assert_eq!((piped.stdout.trim(), piped.stderr.as_str()), ("0", ""));

    let help = sdl(&settings, &["check", "--help"]).await;
    for part in ["Exit codes", "Examples", "--json"] {
        assert!(help.stdout.contains(part), "{}", help.stdout);
    }
    let unset = sdl(&settings.unset("MYSQL_USER"), &["check"]).await;
    assert_eq!(unset.code, 64);
    assert!(!unset.stderr.contains(mysql::PASSWORD));
}
