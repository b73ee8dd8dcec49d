//! What sdl does not read: it stops, names the place, and says what mends it.

use super::{Reading, SOON, STREAMING, meta, op};
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, caught_up, fold, mysql, on_both_flavors,
    on_every_mariadb, wait_until,
};
use mongodb::bson::spec::BinarySubtype;
use mongodb::bson::{Binary, Document, doc};
use mysql_async::Row;

on_every_mariadb! {
    each_wrong_setting_is_found_at_start_and_at_a_reconnect_and_its_remedy_works,
    row_metadata_that_is_switched_off_while_the_daemon_reads_never_gives_a_wrong_name,
    compressed_columns_are_refused_at_start_with_their_table,
    a_compressed_column_that_appears_while_the_daemon_reads_is_refused,
    columns_in_the_old_formats_of_dates_and_times_are_right_or_refused,
    the_account_of_the_documentation_is_enough,
}

on_both_flavors! {
    a_server_of_the_other_flavor_than_the_setting_is_refused,
    a_first_position_of_the_other_flavor_is_refused,
}

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

/// The statement that a message tells to run.
fn remedy(message: &str) -> String {
    let rest = message
        .split("SET GLOBAL ")
        .nth(1)
        .unwrap_or_else(|| panic!("no statement in: {message}"));
    let end = rest.find([';', ' ', ',', '"']).unwrap_or(rest.len());
    format!("SET GLOBAL {}", &rest[..end])
}

async fn cut(mysqld: &Mysqld) {
    let dumps: Vec<Row> = mysqld
        .query("SELECT id FROM information_schema.processlist WHERE command LIKE 'Binlog Dump%'")
        .await;
    assert!(!dumps.is_empty(), "nobody reads the binlog");
    for row in dumps {
        let id: u64 = row.get(0).unwrap();
        // It may have gone by itself.
        let _ = mysqld.try_exec(format!("KILL {id}")).await;
    }
}

async fn each_wrong_setting_is_found_at_start_and_at_a_reconnect_and_its_remedy_works(
    flavor: Flavor,
) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE s; CREATE TABLE s.t (id INT AUTO_INCREMENT PRIMARY KEY)")
        .await;
    let settings = Settings::new(&mysqld, mongod);
    for (variable, wrong) in [
        ("binlog_format", vec!["STATEMENT", "MIXED"]),
        ("binlog_row_image", vec!["MINIMAL", "NOBLOB"]),
        ("binlog_row_metadata", vec!["NO_LOG", "MINIMAL"]),
    ] {
        for value in wrong {
            let daemon = Daemon::start(&settings);
            daemon.wait_for_log(STREAMING, SOON).await;
            mysqld
                .exec(format!("SET GLOBAL {variable} = {value}"))
                .await;
            cut(&mysqld).await;
            let message = operator_message(&daemon).await;
            assert_says(&message, &[&format!("{variable} is {value}")]);
            // At the next start the very same.
            let message = operator_message(&Daemon::start(&settings)).await;
            assert_says(&message, &[&format!("{variable} is {value}")]);
            mysqld.exec(remedy(&message)).await;
            let daemon = Daemon::start(&settings);
            daemon.wait_for_log(STREAMING, SOON).await;
            mysqld.exec("INSERT INTO s.t VALUES ()").await;
            caught_up(&mysqld, mongod, settings.database()).await;
        }
    }
    fold::assert_exact(&mysqld, mongod, settings.database(), &["s.t"]).await;
}

/// Nothing is told to whoever reads already. With MINIMAL a row still has signs and character sets, with NO_LOG nothing.
async fn row_metadata_that_is_switched_off_while_the_daemon_reads_never_gives_a_wrong_name(
    flavor: Flavor,
) {
    for value in ["NO_LOG", "MINIMAL"] {
        let reading = Reading::of(flavor, &[]).await;
        reading
            .mysqld
            .exec("CREATE DATABASE s; CREATE TABLE s.t (id INT PRIMARY KEY, big INT UNSIGNED, name VARCHAR(20))")
            .await;
        reading
            .mysqld
            .exec("INSERT INTO s.t VALUES (1, 4000000000, 'ä')")
            .await;
        reading.assert_exact(&["s.t"]).await;
        reading
            .mysqld
            .exec(format!("SET GLOBAL binlog_row_metadata = {value}"))
            .await;
        reading
            .mysqld
            .exec("INSERT INTO s.t VALUES (2, 4000000001, 'ö')")
            .await;
        wait_until("it is recorded or refused", SOON, async || {
            !reading.daemon.is_running() || inserts(&reading).await.len() == 2
        })
        .await;
        let inserts = inserts(&reading).await;
        if let Some(document) = inserts.get(1) {
            let after = document.get_document("after").unwrap();
            let named = doc! { "id": 2, "big": 4_000_000_001_i64, "name": "ö" };
            let by_place = doc! { "@1": 2, "@2": 4_000_000_001_i64, "@3": "ö" };
            let bytes = |bytes: &[u8]| Binary {
                subtype: BinarySubtype::Generic,
                bytes: bytes.to_vec(),
            };
            let as_bytes = doc! { "@1": 2, "@2": bytes(&4_000_000_001_u32.to_le_bytes()), "@3": bytes("ö".as_bytes()) };
            let marked = meta(document).get_bool("schema_unresolved").is_ok();
            assert!(
                *after == named && !marked
                    || *after == by_place && marked
                    || *after == as_bytes && marked && value == "NO_LOG",
                "with {value}: {document}"
            );
        } else {
            let message = operator_message(&reading.daemon).await;
            assert_says(&message, &["s.t", "binlog_row_metadata=FULL"]);
        }
    }
}

async fn inserts(reading: &Reading) -> Vec<Document> {
    let mut changes = reading.mongod.changes(reading.settings.database()).await;
    changes.retain(|change| op(change) == "insert");
    changes
}

const COMPRESSED: &str =
    "CREATE TABLE s.squeezed (id INT PRIMARY KEY, v VARCHAR(1000) COMPRESSED, b BLOB COMPRESSED)";

async fn compressed_columns_are_refused_at_start_with_their_table(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mysqld
        .exec(format!(
            "CREATE DATABASE s; CREATE TABLE s.plain (id INT PRIMARY KEY); {COMPRESSED}"
        ))
        .await;
    // A table that is left out is not in the way.
    let without = Settings::new(&mysqld, mongod)
        .set("START_FROM", "current")
        .set("EXCLUDE_REGEX", r"^s\.squeezed$");
    let daemon = Daemon::start(&without);
    daemon.wait_for_log(STREAMING, SOON).await;
    mysqld
        .exec("INSERT INTO s.squeezed VALUES (1, REPEAT('a', 500), 'b'); INSERT INTO s.plain VALUES (1)")
        .await;
    caught_up(&mysqld, mongod, without.database()).await;
    assert_eq!(mongod.changes(without.database()).await.len(), 1);
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let message = operator_message(&Daemon::start(&settings)).await;
    assert_says(
        &message,
        &[
            "s.squeezed",
            "COMPRESSED",
            "ALTER TABLE `s`.`squeezed` MODIFY `v` ",
        ],
    );
    // The statement that it tells to run.
    let statement = message
        .split_once("ALTER TABLE ")
        .and_then(|(_, rest)| rest.split([';', '"']).next())
        .and_then(|rest| rest.split(" exit=").next())
        .unwrap();
    mysqld.exec(format!("ALTER TABLE {statement}")).await;
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    mysqld
        .exec("INSERT INTO s.squeezed VALUES (2, 'now', 'b')")
        .await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let inserted: Vec<Document> = mongod
        .changes(settings.database())
        .await
        .into_iter()
        .filter(|change| op(change) == "insert")
        .collect();
    assert_eq!(inserted.len(), 1, "{inserted:#?}");
}

async fn a_compressed_column_that_appears_while_the_daemon_reads_is_refused(flavor: Flavor) {
    let reading = Reading::of(flavor, &[]).await;
    reading
        .mysqld
        .exec(format!(
            "CREATE DATABASE s; {COMPRESSED}; INSERT INTO s.squeezed VALUES (1, REPEAT('a', 500), 'b')"
        ))
        .await;
    let message = operator_message(&reading.daemon).await;
    assert_says(&message, &["s.squeezed", "COMPRESSED"]);
}

/// `mysql56_temporal_format=OFF`: TIME, DATETIME and TIMESTAMP of MariaDB 5.3, whose length the binlog does not tell.
async fn columns_in_the_old_formats_of_dates_and_times_are_right_or_refused(flavor: Flavor) {
    let reading = Reading::of(flavor, &["--mysql56-temporal-format=OFF"]).await;
    reading
        .mysqld
        .exec(
            "CREATE DATABASE o; CREATE TABLE o.t (id INT PRIMARY KEY, d DATE, t TIME, dt DATETIME, ts TIMESTAMP NULL, last INT);
             INSERT INTO o.t VALUES (1, '2020-02-29', '-12:34:56', '2020-01-02 03:04:05', '2020-01-02 03:04:05', 77)",
        )
        .await;
    reading.assert_exact(&["o.t"]).await;
    reading
        .mysqld
        .exec(
            "CREATE TABLE o.f (id INT PRIMARY KEY, t TIME(3), dt DATETIME(6), ts TIMESTAMP(2) NULL, last INT);
             INSERT INTO o.f VALUES (1, '-12:34:56.789', '2020-01-02 03:04:05.123456', '2020-01-02 03:04:05.12', 77)",
        )
        .await;
    wait_until("it is recorded or refused", SOON, async || {
        let changes = reading.mongod.changes(reading.settings.database()).await;
        !reading.daemon.is_running()
            || changes
                .iter()
                .filter(|change| op(change) == "insert")
                .count()
                == 2
    })
    .await;
    if reading.daemon.is_running() {
        reading.assert_exact(&["o.t", "o.f"]).await;
    } else {
        assert_says(&operator_message(&reading.daemon).await, &["o.f"]);
    }
}

async fn the_account_of_the_documentation_is_enough(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mysqld
        .exec("CREATE DATABASE s; CREATE TABLE s.t (id INT AUTO_INCREMENT PRIMARY KEY, u UUID)")
        .await;
    let grants: Vec<String> = mysqld
        .query(format!("SHOW GRANTS FOR '{}'@'%'", mysql::USER))
        .await;
    assert_eq!(grants.len(), 1, "{grants:?}");
    assert!(
        grants[0].starts_with("GRANT SELECT, REPLICATION SLAVE, BINLOG MONITOR ON *.* TO "),
        "{grants:?}"
    );
    for (grant, missing) in [
        ("BINLOG MONITOR, SELECT", "REPLICATION SLAVE"),
        ("REPLICATION SLAVE, SELECT", "BINLOG MONITOR"),
    ] {
        mysqld
            .exec(format!(
                "CREATE OR REPLACE USER less@'%' IDENTIFIED BY 'x'; GRANT {grant} ON *.* TO less@'%'"
            ))
            .await;
        let settings = Settings::new(&mysqld, mongod)
            .set("START_FROM", "current")
            .set("MYSQL_USER", "less")
            .set("MYSQL_PASS", "x");
        let daemon = Daemon::start(&settings);
        let (code, _) = daemon.wait_exit(SOON).await;
        let logs = daemon.logs();
        assert_eq!(code, 3, "without {missing}: {logs:#?}");
        assert!(
            logs.iter()
                .any(|line| line.contains("exit=3") && line.contains("GRANT")),
            "{logs:#?}"
        );
    }
}

async fn a_server_of_the_other_flavor_than_the_setting_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    let (right, wrong) = if flavor.is_mariadb() {
        ("mariadb", "mysql")
    } else {
        ("mysql", "mariadb")
    };
    let settings = Settings::new(&mysqld, mongod).set("MYSQL_FLAVOR", wrong);
    let message = operator_message(&Daemon::start(&settings)).await;
    assert_says(&message, &[wrong, right, "MYSQL_FLAVOR"]);
    assert!(mongod.changes(settings.database()).await.is_empty());

    let settings = settings.set("MYSQL_FLAVOR", right);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    mysqld.exec("CREATE DATABASE x").await;
    caught_up(&mysqld, mongod, settings.database()).await;
}

async fn a_first_position_of_the_other_flavor_is_refused(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mysqld.exec("CREATE DATABASE x").await;
    let foreign = if flavor.is_mariadb() {
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5"
    } else {
        "0-1-1"
    };
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", foreign);
    let daemon = Daemon::start(&settings);
    let (code, _) = daemon.wait_exit(SOON).await;
    let logs = daemon.logs();
    assert!(code == 3 || code == 64, "{code}: {logs:#?}");
    assert!(
        logs.iter()
            .any(|line| line.contains("exit=") && line.contains(foreign)),
        "{logs:#?}"
    );
}
