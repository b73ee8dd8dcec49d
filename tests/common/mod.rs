//! The harness of the integration tests: real servers, the built daemon, and the checks that say whether the audit is exact.
//!
//! A test reads like this:
//!
//! ```ignore
//! mod common;
//! use common::{Daemon, Mongod, Mysqld, Settings, caught_up, fold};
//!
//! #[tokio::test]
//! async fn rows_arrive() {
//!     let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
//!     let settings = Settings::new(&mysqld, &mongod);
//!     let daemon = Daemon::start(&settings);
//!     mysqld.exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)").await;
//!     caught_up(&mysqld, &mongod, settings.database()).await;
//!     fold::assert_exact(&mysqld, &mongod, settings.database(), &["shop.t"]).await;
//! }
//! ```
//!
//! Every server is a throwaway process on loopback with a directory of its own under `target/tmp`, gone when its value is
//! dropped and also when the test process is killed. Nothing here sleeps in place of a condition: every wait polls one, has a
//! bound, and says on failure what it waited for.
//!
//! Helpers panic with a message instead of returning errors: in a test there is nobody to handle them.

// Each test crate uses a part of the harness only, and a helper that panics is a test that fails.
#![allow(dead_code, unused_imports, unused_macros, unreachable_pub)]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod audit;
pub mod command;
pub mod daemon;
pub mod faults;
pub mod fold;
pub mod load;
pub mod mongo;
pub mod mysql;
pub mod proxy;
pub mod replica_set;
pub mod replication;
pub mod servers;
pub mod small_disk;
pub mod systemd;
pub mod values;

use std::time::{Duration, Instant};

pub use daemon::{Daemon, Settings};
pub use mongo::{Deployment, Mongod};
pub use mysql::{Flavor, Mysqld};
pub use proxy::Proxy;
pub use replica_set::ReplicaSet;
pub use rustix::process::Signal;

/// Makes tests out of functions that take the [`Flavor`]: `on_mysql::name`, `on_mariadb::name`, with the same assertions.
macro_rules! on_both_flavors {
    ($($name:ident),+ $(,)?) => {
        $crate::common::on_flavor! { on_mysql, Mysql, $($name),+ }
        $crate::common::on_flavor! { on_mariadb, Mariadb10, $($name),+ }
    };
}
pub(crate) use on_both_flavors;

/// [`on_both_flavors`], and on the newer MariaDB too.
macro_rules! on_every_server {
    ($($name:ident),+ $(,)?) => {
        $crate::common::on_both_flavors! { $($name),+ }
        $crate::common::on_flavor! { on_mariadb_11, Mariadb11, $($name),+ }
    };
}
pub(crate) use on_every_server;

/// Tests of what MariaDB alone has.
macro_rules! on_every_mariadb {
    ($($name:ident),+ $(,)?) => {
        $crate::common::on_flavor! { on_10, Mariadb10, $($name),+ }
        $crate::common::on_flavor! { on_11, Mariadb11, $($name),+ }
    };
}
pub(crate) use on_every_mariadb;

macro_rules! on_flavor {
    ($module:ident, $flavor:ident, $($name:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name($crate::common::Flavor::$flavor).await;
                }
            )+
        }
    };
}
pub(crate) use on_flavor;

/// How often a condition is looked at again.
pub const POLL: Duration = Duration::from_millis(20);

/// How long [`caught_up`] waits for the offset to move: far more than any healthy run takes, so that only a hang reaches it.
pub const CATCH_UP: Duration = Duration::from_secs(60);

/// Waits until `condition` holds; panics after `timeout`, naming what was waited for.
pub async fn wait_until(
    description: &str,
    timeout: Duration,
    mut condition: impl AsyncFnMut() -> bool,
) {
    let started = Instant::now();
    while !condition().await {
        assert!(
            started.elapsed() < timeout,
            "not within {timeout:?}: {description}"
        );
        tokio::time::sleep(POLL).await;
    }
}

/// Waits until the saved offset covers everything that MySQL has executed.
pub async fn caught_up(mysqld: &Mysqld, mongod: &dyn Deployment, database: &str) {
    caught_up_within(mysqld, mongod, database, CATCH_UP).await;
}

/// [`caught_up`] with a bound of its own.
pub async fn caught_up_within(
    mysqld: &Mysqld,
    mongod: &dyn Deployment,
    database: &str,
    timeout: Duration,
) {
    let mut connection = mysqld.root().await;
    let database = mongo::connect(&mongod.uri()).await.database(database);
    let mut moved = Instant::now();
    let mut last = None;
    loop {
        let saved = mongo::saved_gtid(&database).await;
        if saved != last {
            moved = Instant::now();
            last.clone_from(&saved);
        }
        let executed = mysql::executed_gtid(mysqld.flavor(), &mut connection).await;
        if let Some(saved) = &saved
            && mysql::gtid_subset(mysqld.flavor(), &mut connection, &executed, saved).await
        {
            return;
        }
        assert!(
            moved.elapsed() < timeout,
            "the saved offset has not moved for {timeout:?}: it is {saved:?}, MySQL has executed {executed:?}"
        );
        tokio::time::sleep(POLL).await;
    }
}
