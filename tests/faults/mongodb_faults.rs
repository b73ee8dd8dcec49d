//! Faults of MongoDB: a real replica set of three members that loses its primary, its majority or its network; answers that are lost; full
//! disks; outages that the spool has to bridge.
//!
//! The shorter outages of a single server are in `outages.rs`. Each test here hurts a daemon that streams under load and ends as those do: the very daemon,
//! or the one that was started after a kill, catches up, the audit is exact, and SIGTERM ends it with 0.
mod answers;
mod damage;
mod disk;
mod set;
mod spool;

use std::sync::Arc;
use std::time::Duration;

use crate::common::faults::{
    BACKLOG, BREAKER_CLOSED as CLOSED, BREAKER_OPEN as OPEN, STREAMING, settings, times_logged,
};
use crate::common::load::{Load, TABLES, create_tables};
use crate::common::{
    Daemon, Deployment, Mysqld, Settings, Signal, caught_up_within, fold, mongo, wait_until,
};

const SOON: Duration = Duration::from_secs(60);

/// The request by which a transaction is committed, as it stands on the wire: a BSON int32 of this name.
const COMMIT: &[u8] = b"\x10commitTransaction\0";

async fn start_mysqld() -> Arc<Mysqld> {
    let mysqld = Mysqld::start().await;
    create_tables(&mysqld).await;
    Arc::new(mysqld)
}

/// A breaker that opens within seconds, for outages that no test could wait for otherwise.
fn with_quick_breaker(settings: Settings) -> Settings {
    let uri = settings.get("MONGO_URI").expect("MONGO_URI is set");
    let uri = format!("{uri}&serverSelectionTimeoutMS=500");
    settings
        .set("MONGO_URI", uri)
        .set("BREAKER_FAILURES", 2)
        .set("BREAKER_OPEN", "1s")
}

/// A daemon that streams while clients write.
async fn under_load(mysqld: &Arc<Mysqld>, settings: &Settings) -> (Daemon, Load) {
    let daemon = Daemon::start(settings);
    let load = Load::start(mysqld, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(50).await;
    (daemon, load)
}

/// Waits until the offset has moved from where it is now.
async fn commits_more(deployment: &dyn Deployment, database: &str) {
    let database = mongo::connect(&deployment.uri()).await.database(database);
    let batch = async || {
        let offset = mongo::offset(&database).await.expect("an offset");
        offset.get_i64("batch").expect("batch")
    };
    let before = batch().await;
    wait_until("the daemon commits again", SOON, async || {
        batch().await > before
    })
    .await;
}

/// The daemon catches up, has lost and doubled nothing, and stops cleanly.
async fn assert_goes_on_exactly(
    daemon: &Daemon,
    mysqld: &Mysqld,
    deployment: &dyn Deployment,
    settings: &Settings,
) {
    assert!(daemon.is_running(), "an outage is no reason to exit");
    caught_up_within(mysqld, deployment, settings.database(), BACKLOG).await;
    fold::assert_exact(mysqld, deployment, settings.database(), &TABLES).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0, "a clean stop");
}
