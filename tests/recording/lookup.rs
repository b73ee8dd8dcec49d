//! What a TABLE_MAP event does not tell, asked from information_schema: names of columns where the binlog has none
//! (binlog_row_metadata MINIMAL, or NO_LOG, MariaDB's default). A name that is written is right; where that is not certain, the columns
//! are numbered.
use crate::common::{
    CATCH_UP, Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, on_every_server,
    wait_until,
};
use mongodb::bson::{Bson, Document, doc};
use mysql_async::prelude::Queryable;

on_every_server! {
    names_are_looked_up_when_the_setting_changes_while_the_daemon_runs,
    rows_of_an_old_binlog_never_get_a_name_of_today,
    a_column_that_is_renamed_again_and_again_never_has_a_wrong_name,
    a_table_that_was_dropped_meanwhile_is_recorded_with_numbers,
    without_the_right_to_see_the_table_its_columns_are_numbered,
    a_locked_table_holds_up_the_stream_for_moments_only,
    a_connection_that_was_closed_while_idle_is_made_anew,
    a_table_of_hundreds_of_columns_is_looked_up
}

/// What leaves the names out: two settings in MariaDB.
fn without_names(flavor: Flavor) -> &'static [&'static str] {
    if flavor.is_mariadb() {
        &["MINIMAL", "NO_LOG"]
    } else {
        &["MINIMAL"]
    }
}

fn replication_client(flavor: Flavor) -> &'static str {
    if flavor.is_mariadb() {
        "BINLOG MONITOR"
    } else {
        "REPLICATION CLIENT"
    }
}

async fn set_metadata(mysqld: &Mysqld, value: &str) {
    mysqld
        .exec(format!("SET GLOBAL binlog_row_metadata = {value}"))
        .await;
}

fn settings(mysqld: &Mysqld, mongod: &Mongod) -> Settings {
    Settings::new(mysqld, mongod)
        .set("START_FROM", "earliest")
        .set("INCLUDE_REGEX", r"^shop\.")
}

/// The row changes of `shop` in order, when the daemon has read all.
async fn changes(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) -> Vec<Document> {
    caught_up(mysqld, mongod, settings.database()).await;
    let mut changes = mongod.changes(settings.database()).await;
    changes.retain(|change| change.get_document("after").is_ok());
    changes
}

fn after(change: &Document) -> &Document {
    change.get_document("after").unwrap()
}

fn is_unresolved(change: &Document) -> bool {
    let meta = change.get_document("meta").unwrap();
    let is_marked = meta.get_bool("schema_unresolved").unwrap_or(false);
    let is_numbered = after(change).keys().all(|name| name.starts_with('@'));
    assert_eq!(is_marked, is_numbered, "{change}");
    is_marked
}

fn number(value: &Bson) -> i64 {
    value.as_i64().or(value.as_i32().map(i64::from)).unwrap()
}

async fn names_are_looked_up_when_the_setting_changes_while_the_daemon_runs(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT UNSIGNED, name VARCHAR(20) CHARACTER SET latin1, part INT, \
             e ENUM('a', 'it''s') CHARACTER SET latin2, s SET('x', 'ü'), p POINT, b BINARY(5), f TIME(3), d DECIMAL(9,2) UNSIGNED, \
             j JSON, big BIGINT UNSIGNED, gone INT, PRIMARY KEY (part, id)); ALTER TABLE shop.t DROP COLUMN gone",
        )
        .await;
    // An account that may see definitions, and no row.
    mysqld
        .exec(format!(
            "CREATE USER definitions IDENTIFIED BY 'secret-of-definitions'; GRANT REPLICATION SLAVE, {}, REFERENCES ON *.* TO \
             definitions",
            replication_client(flavor)
        ))
        .await;
    let settings = settings(&mysqld, mongod)
        .set("MYSQL_USER", "definitions")
        .set("MYSQL_PASS", "secret-of-definitions");
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    let row = |id: u64| {
        format!(
            "INSERT INTO shop.t VALUES ({id}, 'é', -1, 'it''s', 'x,ü', ST_GeomFromText('POINT(1 2)'), x'0100', '01:02:03.4', 1.5, \
             '[1]', 18446744073709551615)"
        )
    };
    mysqld.exec(row(4_000_000_000)).await;
    for (index, setting) in (0..).zip(without_names(flavor)) {
        set_metadata(&mysqld, setting).await;
        mysqld.exec(row(4_000_000_001 + index)).await;
        // What is committed behind a row puts off its names.
        caught_up(&mysqld, mongod, settings.database()).await;
    }
    let changes = changes(&mysqld, mongod, &settings).await;
    assert_eq!(changes.len(), 1 + without_names(flavor).len());
    let [first, others @ ..] = &changes[..] else {
        panic!("no changes")
    };
    for (index, change) in (4_000_000_001_i64..).zip(others) {
        assert!(!is_unresolved(change), "{change}");
        let mut expected = after(first).clone();
        expected.insert("id", index);
        assert_eq!(after(change), &expected);
        let meta = |change: &Document| change.get_document("meta").unwrap().clone();
        assert_eq!(
            meta(change).get_document("pk").unwrap(),
            &doc! { "part": -1, "id": index }
        );
        // The very schema version that the binlog told before.
        assert_eq!(meta(change).get("schema"), meta(first).get("schema"));
    }
    assert!(daemon.is_running());
}

async fn rows_of_an_old_binlog_never_get_a_name_of_today(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    set_metadata(&mysqld, without_names(flavor).last().unwrap()).await;
    for sql in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.t (id INT PRIMARY KEY, a INT, b INT)",
        "INSERT INTO shop.t VALUES (1, 10, 20)",
        // Count and types stay the same.
        "ALTER TABLE shop.t RENAME COLUMN a TO b, RENAME COLUMN b TO a",
        "INSERT INTO shop.t (id, b, a) VALUES (2, 10, 20)",
        "INSERT INTO shop.t (id, b, a) VALUES (3, 10, 20)",
    ] {
        mysqld.exec(sql).await;
    }
    set_metadata(&mysqld, "FULL").await;
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    let old = changes(&mysqld, mongod, &settings).await;
    assert_eq!(old.len(), 3);
    for (id, change) in (1..).zip(&old) {
        match id {
            // What is read last has its names: nothing is left to be read that could have given others.
            3 if !is_unresolved(change) => {
                assert_eq!(after(change), &doc! { "id": 3, "b": 10, "a": 20 })
            }
            _ => {
                assert!(is_unresolved(change), "{change}");
                assert_eq!(after(change), &doc! { "@1": id, "@2": 10, "@3": 20 });
            }
        }
    }
    assert!(!is_unresolved(&old[2]), "{}", old[2]);
    assert!(daemon.has_logged("the binlog does not name the columns"));
}

async fn a_column_that_is_renamed_again_and_again_never_has_a_wrong_name(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, n0 INT)")
        .await;
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    set_metadata(&mysqld, "MINIMAL").await;
    let mut session = mysqld.root().await;
    let mut other = mysqld.root().await;
    // A connection that asks more than once must not go on seeing what it saw first.
    mysqld.exec("SET GLOBAL autocommit = OFF").await;
    let mut expected = 0;
    for round in 0..60_i64 {
        let name = format!("n{round}");
        // The value says what its column is called. Sometimes the daemon is given the time to ask.
        for row in 0..1 + round % 3 {
            let id = round * 10 + row;
            session
                .query_drop(format!(
                    "INSERT INTO shop.t (id, {name}) VALUES ({id}, {round})"
                ))
                .await
                .unwrap();
            expected += 1;
            if fastrand::u8(..4) == 0 {
                caught_up(&mysqld, mongod, settings.database()).await;
            }
        }
        let rename = format!("ALTER TABLE shop.t RENAME COLUMN {name} TO n{}", round + 1);
        // From another session, so that nothing orders it but the server.
        other.query_drop(rename).await.unwrap();
    }
    caught_up(&mysqld, mongod, settings.database()).await;
    let last = "INSERT INTO shop.t VALUES (-1, 60)";
    session.query_drop(last).await.unwrap();
    let changes = changes(&mysqld, mongod, &settings).await;
    assert_eq!(changes.len(), expected + 1);
    let mut named = 0;
    for change in &changes {
        let (name, value) = after(change).iter().nth(1).unwrap();
        let value = number(value);
        if is_unresolved(change) {
            assert_eq!(name, "@2");
        } else {
            assert_eq!(*name, format!("n{value}"), "a wrong name in {change}");
            named += 1;
        }
    }
    assert!(!is_unresolved(changes.last().unwrap()));
    assert!(named > 1, "only {named} of {} have names", changes.len());
    assert!(daemon.is_running());
}

async fn a_table_that_was_dropped_meanwhile_is_recorded_with_numbers(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    set_metadata(&mysqld, "MINIMAL").await;
    for sql in [
        "CREATE DATABASE shop",
        "CREATE TABLE shop.t (id INT PRIMARY KEY)",
        "INSERT INTO shop.t VALUES (1)",
        "DROP TABLE shop.t",
        // Another of the same name, with as many columns of the same types.
        "CREATE TABLE shop.u (id INT PRIMARY KEY)",
        "INSERT INTO shop.u VALUES (2)",
        "DROP TABLE shop.u",
        "CREATE TABLE shop.u (other INT PRIMARY KEY)",
    ] {
        mysqld.exec(sql).await;
    }
    set_metadata(&mysqld, "FULL").await;
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    let changes = changes(&mysqld, mongod, &settings).await;
    assert_eq!(changes.len(), 2);
    for (id, change) in (1..).zip(&changes) {
        assert!(is_unresolved(change));
        assert_eq!(after(change), &doc! { "@1": id });
    }
    assert!(daemon.is_running());
}

async fn without_the_right_to_see_the_table_its_columns_are_numbered(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec(format!(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); \
             CREATE USER blind IDENTIFIED BY 'secret-of-blind'; GRANT REPLICATION SLAVE, {} ON *.* TO blind",
            replication_client(flavor)
        ))
        .await;
    let settings = settings(&mysqld, mongod)
        .set("MYSQL_USER", "blind")
        .set("MYSQL_PASS", "secret-of-blind");
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    set_metadata(&mysqld, "MINIMAL").await;
    mysqld.exec("INSERT INTO shop.t VALUES (1)").await;
    let changes = changes(&mysqld, mongod, &settings).await;
    assert_eq!(after(&changes[0]), &doc! { "@1": 1 });
    assert!(is_unresolved(&changes[0]));
    assert!(daemon.is_running());
}

async fn a_locked_table_holds_up_the_stream_for_moments_only(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    set_metadata(&mysqld, "MINIMAL").await;
    // The row is in the binlog before the daemon gets to it, and then a statement holds the table's name.
    daemon.signal(Signal::STOP);
    mysqld
        .exec("INSERT INTO shop.t VALUES (1); DROP TABLE shop.t")
        .await;
    let mut locker = mysqld.root().await;
    let holder = locker.id();
    let held = tokio::spawn(async move {
        let _ = locker
            .query_drop("CREATE TABLE shop.t (id INT PRIMARY KEY) AS SELECT SLEEP(3600) AS id")
            .await;
    });
    let holds = format!(
        "SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE ID = {holder} AND STATE = 'User sleep'"
    );
    wait_until("the table is held", CATCH_UP, async || {
        mysqld.query_one::<u64>(&holds).await == 1
    })
    .await;
    daemon.signal(Signal::CONT);
    let recorded = changes(&mysqld, mongod, &settings).await;
    assert_eq!(recorded.len(), 1);
    assert!(is_unresolved(&recorded[0]));
    assert_eq!(after(&recorded[0]), &doc! { "@1": 1 });
    assert!(daemon.has_logged("the names of columns cannot be looked up"));
    assert_eq!(mysqld.query_one::<u64>(&holds).await, 1, "still held");
    mysqld.exec(format!("KILL {holder}")).await;
    held.await.unwrap();
    assert!(daemon.is_running());
}

async fn a_connection_that_was_closed_while_idle_is_made_anew(flavor: Flavor) {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY)")
        .await;
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    set_metadata(&mysqld, "MINIMAL").await;
    for id in 1..=3 {
        mysqld
            .exec(format!("INSERT INTO shop.t VALUES ({id})"))
            .await;
        caught_up(&mysqld, mongod, settings.database()).await;
        let idle: Vec<u64> = mysqld
            .query("SELECT ID FROM information_schema.PROCESSLIST WHERE USER = 'sdl' AND COMMAND = 'Sleep'")
            .await;
        assert!(!idle.is_empty(), "nothing was asked");
        for connection in idle {
            // It may have ended by itself.
            let _ = mysqld.try_exec(format!("KILL {connection}")).await;
        }
        // Whatever it is, it ends the answer.
        mysqld
            .exec(format!("CREATE TABLE shop.other{id} (id INT)"))
            .await;
    }
    let changes = changes(&mysqld, mongod, &settings).await;
    assert_eq!(changes.len(), 3);
    for (id, change) in (1..).zip(&changes) {
        assert!(!is_unresolved(change), "{change}");
        assert_eq!(after(change), &doc! { "id": id });
    }
    let connected = daemon
        .logs()
        .iter()
        .filter(|line| line.contains("Connected to MySQL"))
        .count();
    assert_eq!(connected, 1, "the stream itself was cut");
}

async fn a_table_of_hundreds_of_columns_is_looked_up(flavor: Flavor) {
    const COLUMNS: usize = 900;
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    let mongod = Mongod::shared().await;
    let names: Vec<String> = (0..COLUMNS)
        .map(|index| format!("`c, '{index}é`"))
        .collect();
    let definitions: Vec<String> = names
        .iter()
        .zip(0_usize..)
        .map(|(name, index)| {
            let column_type =
                ["INT UNSIGNED", "ENUM('x', 'y')", "YEAR", "BIT(3)", "DOUBLE"][index % 5];
            format!("{name} {column_type}")
        })
        .collect();
    mysqld
        .exec(format!(
            "CREATE DATABASE shop; CREATE TABLE shop.`wide.t` (id INT PRIMARY KEY, {})",
            definitions.join(", ")
        ))
        .await;
    let settings = settings(&mysqld, mongod);
    let daemon = Daemon::start(&settings);
    caught_up(&mysqld, mongod, settings.database()).await;
    set_metadata(&mysqld, without_names(flavor).last().unwrap()).await;
    let value = |index: usize| ["4000000000", "'x'", "2000", "5", "1.5"][index % 5];
    let values: Vec<&str> = (0..COLUMNS).map(value).collect();
    mysqld
        .exec(format!(
            "INSERT INTO shop.`wide.t` VALUES (1, {})",
            values.join(", ")
        ))
        .await;
    let changes = changes(&mysqld, mongod, &settings).await;
    let row = after(&changes[0]);
    assert_eq!(row.len(), 1 + COLUMNS);
    for index in 0..COLUMNS {
        let expected: Bson = match index % 5 {
            0 => 4_000_000_000_i64.into(),
            1 => "x".into(),
            2 => 2000.into(),
            3 => 5_i64.into(),
            _ => 1.5.into(),
        };
        assert_eq!(row.get(format!("c, '{index}é")), Some(&expected), "{index}");
    }
    assert!(daemon.is_running());
    // What the setting does to a start is told by the start.
    daemon.kill9();
    let again = Daemon::start(&settings);
    let (code, _) = again.wait_exit(CATCH_UP).await;
    assert_eq!(code, 3);
    wait_until("the start says why", CATCH_UP, async || {
        again.has_logged("binlog_row_metadata is")
    })
    .await;
}
