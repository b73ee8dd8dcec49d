//! Replicas: servers that replicate from another one, as a company's do.
//!
//! A replica here is an ordinary test server that is told to follow: it keeps its own binlog of what it applies
//! (log_replica_updates, the default), so it can be read, and promoted, in place of the server that it follows.

use mysql_async::Row;

use super::mysql::Mysqld;
use super::{CATCH_UP, wait_until};

/// Starts a server that replicates from `primary` with `SOURCE_AUTO_POSITION`; returns when it has all that the primary had.
pub async fn replica_of(primary: &Mysqld) -> Mysqld {
    replica_with(primary, &[]).await
}

/// [`replica_of`] with further options of the replica.
pub async fn replica_with(primary: &Mysqld, options: &[&str]) -> Mysqld {
    // One that no other server of the test process has.
    let server_id = format!("--server-id={}", 1_000 + super::servers::unique());
    let options: Vec<&str> = [server_id.as_str()]
        .into_iter()
        .chain(options.iter().copied())
        .collect();
    let replica = Mysqld::start_as(primary.flavor(), &options).await;
    follow(&replica, primary).await;
    in_sync(&replica, primary).await;
    replica
}

/// Makes `replica` replicate from `primary`, whatever it did before.
pub async fn follow(replica: &Mysqld, primary: &Mysqld) {
    let port = primary.port();
    let statements = if replica.flavor().is_mariadb() {
        // What it wrote itself as a primary counts as applied.
        format!(
            "STOP SLAVE;
             SET GLOBAL gtid_slave_pos = @@global.gtid_binlog_pos;
             CHANGE MASTER TO MASTER_HOST = '127.0.0.1', MASTER_PORT = {port}, MASTER_USER = 'root', MASTER_PASSWORD = '',
                 MASTER_USE_GTID = slave_pos, MASTER_CONNECT_RETRY = 1, MASTER_HEARTBEAT_PERIOD = 1;
             START SLAVE"
        )
    } else {
        format!(
            "STOP REPLICA;
             CHANGE REPLICATION SOURCE TO SOURCE_HOST = '127.0.0.1', SOURCE_PORT = {port}, SOURCE_USER = 'root',
                 SOURCE_PASSWORD = '', SOURCE_AUTO_POSITION = 1, SOURCE_CONNECT_RETRY = 1, SOURCE_RETRY_COUNT = 86400,
                 SOURCE_HEARTBEAT_PERIOD = 1, GET_SOURCE_PUBLIC_KEY = 1;
             START REPLICA"
        )
    };
    replica.exec(statements).await;
}

/// Waits until `replica` has executed all that `primary` has executed by now.
pub async fn in_sync(replica: &Mysqld, primary: &Mysqld) {
    has_executed(replica, &primary.executed_gtid().await).await;
}

/// Waits until `replica` has executed `gtid`.
pub async fn has_executed(replica: &Mysqld, gtid: &str) {
    wait_until(
        &format!("the replica has executed {gtid}"),
        CATCH_UP,
        async || {
            replica
                .gtid_subset(gtid, &replica.executed_gtid().await)
                .await
        },
    )
    .await;
}

/// Waits until `replica` has all that `primary` has executed by now, applied or not.
pub async fn has_received(replica: &Mysqld, primary: &Mysqld) {
    let executed = primary.executed_gtid().await;
    wait_until(
        &format!("the replica has received {executed}"),
        CATCH_UP,
        async || {
            replica
                .gtid_subset(&executed, &received(replica).await)
                .await
        },
    )
    .await;
}

/// What a replica has executed or holds in its relay log.
async fn received(replica: &Mysqld) -> String {
    let (statement, column) = if replica.flavor().is_mariadb() {
        ("SHOW SLAVE STATUS", "Gtid_IO_Pos")
    } else {
        ("SHOW REPLICA STATUS", "Retrieved_Gtid_Set")
    };
    let status: Row = replica.query_one(statement).await;
    let received: String = status.get(column).expect("a column of the status");
    if replica.flavor().is_mariadb() {
        return received;
    }
    let all = format!("{},{received}", replica.executed_gtid().await);
    all.replace('\n', "").trim_matches(',').to_owned()
}

/// Ends replication once everything received is applied: the replica is a primary now.
pub async fn promote(replica: &Mysqld) {
    let (stop_receiving, end) = if replica.flavor().is_mariadb() {
        ("STOP SLAVE IO_THREAD", "STOP SLAVE; RESET SLAVE ALL")
    } else {
        ("STOP REPLICA IO_THREAD", "STOP REPLICA; RESET REPLICA ALL")
    };
    replica.exec(stop_receiving).await;
    has_executed(replica, &received(replica).await).await;
    replica.exec(end).await;
}
