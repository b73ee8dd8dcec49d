//! Another replica with sdl's server_id: told apart from a bad connection, exit 3 with what to do, and no cutting each other off.

use std::process::{Command, Stdio};

use super::*;
use futures_util::StreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStreamRequest, Row};

/// What SHOW REPLICAS says: server_id and UUID.
async fn attached(mysqld: &Mysqld) -> Vec<(u32, String)> {
    let rows: Vec<Row> = mysqld.query("SHOW REPLICAS").await;
    rows.iter()
        .map(|row| {
            (
                row.get("Server_Id").unwrap(),
                row.get("Replica_UUID").unwrap(),
            )
        })
        .collect()
}

fn with_id(settings: Settings, id: u32) -> Settings {
    settings.set("MYSQL_SERVER_ID", id)
}

/// It ends, and says what to do.
async fn assert_told(daemon: &Daemon, id: u32) {
    assert_says(
        &verdict(daemon).await,
        &[
            &format!("another replica is attached under server_id {id}"),
            "set MYSQL_SERVER_ID to a number that no server and no other replica of this source has",
        ],
    );
}

#[tokio::test]
async fn another_sdl_with_the_same_server_id_is_told() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(CREATE).await;
    let first = with_id(settings(mongod, &[&mysqld]), 4711).set("SOURCE_ID", "first");
    let second = with_id(settings(mongod, &[&mysqld]), 4711).set("SOURCE_ID", "second");
    let daemon = Daemon::start(&first);
    daemon.wait_for_log(STREAMING, SOON).await;
    assert_told(&Daemon::start(&second), 4711).await;
    // The first one has not noticed anything, and a restart of it, or a kill, is no duplicate.
    insert(&mysqld, 3).await;
    caught_up(&mysqld, mongod, first.database()).await;
    assert_eq!(lines(&daemon, STREAMING).len(), 1);
    daemon.kill9();
    let daemon = Daemon::start(&first);
    daemon
        .wait_for_log(STREAMING, Duration::from_secs(10))
        .await;
    insert(&mysqld, 3).await;
    caught_up(&mysqld, mongod, first.database()).await;
    fold::assert_exact(&mysqld, mongod, first.database(), &[TABLE]).await;
    assert!(!daemon.has_logged("another replica"));
    // Once it is gone, the second may have the number: a dead connection of somebody else is waited out.
    daemon.kill9();
    let daemon = Daemon::start(&second);
    daemon
        .wait_for_log(STREAMING, Duration::from_secs(40))
        .await;
}

#[tokio::test]
async fn a_real_replica_with_the_same_server_id_is_told_and_does_not_disturb() {
    let (primary, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    primary.exec(CREATE).await;
    let settings = with_id(settings(mongod, &[&primary]), 4712);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    // It comes second: both go on.
    let replica = replica_with(&primary, &["--server-id=4712"]).await;
    for _ in 0..3 {
        insert(&primary, 5).await;
        in_sync(&replica, &primary).await;
        caught_up(&primary, mongod, settings.database()).await;
    }
    assert_eq!(lines(&daemon, STREAMING).len(), 1, "no ping-pong");
    // A reconnect beside it is no reason to leave an audit trail without its reader.
    super::cuts::kill_dumps(&primary).await;
    streams_from(&daemon, &primary, 2).await;
    insert(&primary, 5).await;
    caught_up(&primary, mongod, settings.database()).await;
    fold::assert_exact(&primary, mongod, settings.database(), &[TABLE]).await;
    stop(&daemon).await;
    // The server lists one replica of each server_id, the one that registered last, and with sdl it has dropped that. It connects again.
    super::cuts::kill_dumps(&primary).await;
    // At a start, somebody is watching.
    let listed = async || {
        let uuid: String = replica.query_one("SELECT @@server_uuid").await;
        attached(&primary).await.contains(&(4712, uuid))
    };
    wait_until("the replica is listed again", SOON, listed).await;
    assert_told(&Daemon::start(&settings), 4712).await;
}

/// mysqlbinlog does not register itself as a replica and has no UUID, so nobody knows of it; nor does it disturb.
#[tokio::test]
async fn mysqlbinlog_with_the_same_server_id_does_not_disturb() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(CREATE).await;
    let settings = with_id(settings(mongod, &[&mysqld]), 4713);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(
            crate::common::servers::binaries()
                .mysql
                .with_file_name("mysqlbinlog"),
        )
        .args([
            "--read-from-remote-server",
            "--stop-never",
            "--host=127.0.0.1",
            "--user=root",
        ])
        .args([
            "--connection-server-id=4713".to_owned(),
            format!("--port={}", mysqld.port()),
        ])
        .arg("binlog.000001")
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    let mut reader = crate::common::servers::spawn(command);
    let dumps = async || {
        let rows: Vec<Row> = mysqld.query("SHOW PROCESSLIST").await;
        let commands = rows
            .iter()
            .map(|row| row.get::<String, _>("Command").unwrap());
        commands
            .filter(|command| command.starts_with("Binlog Dump"))
            .count()
    };
    wait_until("both read", SOON, async || dumps().await == 2).await;
    insert(&mysqld, 5).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    super::cuts::kill_dumps(&mysqld).await;
    streams_from(&daemon, &mysqld, 2).await;
    insert(&mysqld, 5).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &[TABLE]).await;
    assert_eq!(lines(&daemon, STREAMING).len(), 2);
    reader.kill().unwrap();
    reader.wait().unwrap();
}

/// Somebody reads under the very UUID of this run, as a cloned host with a clone of its MongoDB would: the server throws the older one
/// out, and that one ends instead of throwing out the newer one.
#[tokio::test]
async fn a_namesake_that_throws_sdl_out_is_told_and_not_thrown_out_in_turn() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(CREATE).await;
    let settings = with_id(settings(mongod, &[&mysqld]), 4714);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    let (_, uuid) = attached(&mysqld).await.pop().unwrap();
    let mut namesake = mysqld.root().await;
    namesake
        .query_drop(format!(
            "SET @replica_uuid = '{uuid}', @slave_uuid = '{uuid}', @source_heartbeat_period = 1000000000"
        ))
        .await
        .unwrap();
    let request = BinlogStreamRequest::new(4714).with_gtid();
    let mut stream = namesake.get_binlog_stream(request).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_says(
        &verdict(&daemon).await,
        &[
            "same server_uuid/server_id",
            "give each replica of the source a MYSQL_SERVER_ID of its own",
        ],
    );
    // The newer one is left alone: what comes next reaches it.
    insert(&mysqld, 1).await;
    let executed = mysqld.executed_gtid().await;
    let last: u64 = executed.rsplit(['-', ':']).next().unwrap().parse().unwrap();
    let mut seen = 0;
    while seen < last {
        let event = stream.next().await.unwrap().unwrap();
        seen += u64::from(event.header().event_type_raw() == 33);
    }
}

// --- MariaDB, where the newer dump of a server_id ends the older one

const THROWN_OUT: &str = "has come under the same MYSQL_SERVER_ID";

/// Two daemons of two sources, one server_id: the older one ends when the newer one comes, and that one goes on.
async fn an_older_sdl_that_is_thrown_out_ends(flavor: Flavor) {
    let (mariadb, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mariadb.exec(CREATE).await;
    let first = with_id(settings(mongod, &[&mariadb]), 4715).set("SOURCE_ID", "first");
    let second = with_id(settings(mongod, &[&mariadb]), 4715).set("SOURCE_ID", "second");
    let older = Daemon::start(&first);
    older.wait_for_log(STREAMING, SOON).await;
    caught_up(&mariadb, mongod, first.database()).await;
    let newer = Daemon::start(&second);
    assert_says(
        &verdict(&older).await,
        &[
            THROWN_OUT,
            "give each replica of the source a MYSQL_SERVER_ID of its own",
        ],
    );
    insert(&mariadb, 3).await;
    caught_up(&mariadb, mongod, second.database()).await;
    assert_eq!(lines(&newer, STREAMING).len(), 1, "no ping-pong");
    fold::assert_exact(&mariadb, mongod, second.database(), &[TABLE]).await;
}

#[tokio::test]
async fn an_older_sdl_that_is_thrown_out_ends_on_mariadb_10() {
    an_older_sdl_that_is_thrown_out_ends(Flavor::Mariadb10).await;
}

#[tokio::test]
async fn an_older_sdl_that_is_thrown_out_ends_on_mariadb_11() {
    an_older_sdl_that_is_thrown_out_ends(Flavor::Mariadb11).await;
}

/// A real replica throws sdl out: sdl does not throw it out in turn.
#[tokio::test]
async fn a_real_replica_that_throws_sdl_out_on_mariadb_is_told() {
    let (primary, mongod) = tokio::join!(Mysqld::start_mariadb(), Mongod::shared());
    primary.exec(CREATE).await;
    let settings = with_id(settings(mongod, &[&primary]), 4716);
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    let replica = replica_with(&primary, &["--server-id=4716"]).await;
    assert_says(&verdict(&daemon).await, &[THROWN_OUT]);
    insert(&primary, 3).await;
    in_sync(&replica, &primary).await;
    // The other way round: with the right to ask, sdl finds it before it throws it out.
    primary
        .exec("GRANT REPLICATION MASTER ADMIN ON *.* TO 'sdl'@'%'")
        .await;
    assert_told(&Daemon::start(&settings), 4716).await;
    let status: Row = replica.query_one("SHOW SLAVE STATUS").await;
    let running: String = status.get("Slave_IO_Running").unwrap();
    assert_eq!(running, "Yes");
    let settings = settings.set("MYSQL_SERVER_ID", 4717);
    let _daemon = Daemon::start(&settings);
    caught_up(&primary, mongod, settings.database()).await;
    fold::assert_exact(&primary, mongod, settings.database(), &[TABLE]).await;
}

/// A daemon that is killed and started again is no namesake of itself, neither by its dead dump nor by what the server lists.
#[tokio::test]
async fn a_run_of_sdl_on_mariadb_is_not_taken_for_another_replica() {
    let (mariadb, mongod) = tokio::join!(Mysqld::start_mariadb(), Mongod::shared());
    mariadb.exec(CREATE).await;
    mariadb
        .exec("GRANT REPLICATION MASTER ADMIN ON *.* TO 'sdl'@'%'")
        .await;
    let settings = settings(mongod, &[&mariadb]);
    for _ in 0..4 {
        let daemon = Daemon::start(&settings);
        daemon.wait_for_log(STREAMING, SOON).await;
        insert(&mariadb, 2).await;
        caught_up(&mariadb, mongod, settings.database()).await;
        super::cuts::kill_dumps(&mariadb).await;
        streams_from(&daemon, &mariadb, 2).await;
        insert(&mariadb, 2).await;
        caught_up(&mariadb, mongod, settings.database()).await;
        assert!(!daemon.has_logged("another replica"));
        daemon.kill9();
    }
    fold::assert_exact(&mariadb, mongod, settings.database(), &[TABLE]).await;
}
