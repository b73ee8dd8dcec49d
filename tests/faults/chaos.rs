//! Chaos: whatever goes wrong, one thing after the other and sometimes two at once, the audit is exact in the end.
//!
//! Clients write the whole time. Faults are drawn from a seed ([`plan`]): servers are killed, restarted and stopped, the daemon too,
//! lines are cut, stalled, slow and lossy, dump threads are killed, binlogs purged as far as they are recorded, tables altered and
//! emptied. The daemon has its breaker and a spool. Every now and then all that MySQL has executed so far must be recorded before
//! the next fault; at the end the documents folded are the tables, and every transaction has its documents once ([`check`]).
//!
//! - SDL_CHAOS_SECONDS: for how long, 60 by default
//! - SDL_CHAOS_SEED: the seed of a run that is to be repeated; it draws the same faults. When exactly they strike is the machine's.
//! - SDL_CHAOS_FLAVOR: mysql or mariadb
//! - SDL_CHAOS_DAEMONS: 1, or 2 that serve the source as active and standby (LEASE=on); drawn from the seed by default
#![cfg(feature = "failpoints")]

mod check;
mod plan;

use std::collections::BTreeMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::common::faults::{BREAKER_OPEN, SOON, kill_dump_threads, put_behind, times_logged};
use crate::common::fold::Tables;
use crate::common::load::{Load, create_tables};
use crate::common::servers::{Scratch, unique};
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Proxy, Settings, Signal, caught_up_within, mongo, wait_until,
};
use check::{Verdict, check};
use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use plan::{Act, Blow, End, Fault, Plan, Then, Weather};
use sdl::failpoint::{CRASH_POINTS, OUTAGE_CRASH_POINTS};
use tokio::sync::{Mutex, MutexGuard};

/// The offset has to move within this time once nothing is in its way.
const STUCK: Duration = Duration::from_secs(120);

/// SHUTDOWN_TIMEOUT, and the time of a busy machine.
const STOPPED: Duration = Duration::from_secs(60);

/// Clients, and the pause of each between two transactions: hours of it are to fit into the memory of the check.
const CLIENTS: u64 = 4;
const PAUSE: Duration = Duration::from_millis(50);

const TABLES: [&str; 4] = [
    "load_test.keyed",
    "load_test.plain",
    "load_test.large",
    "load_test.altered",
];

/// 128 + SIGABRT: it died at a crash point.
const ABORTED: i32 = 134;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_goes_wrong_the_audit_is_exact() {
    let seconds: u64 = setting("SDL_CHAOS_SECONDS").unwrap_or(60);
    let seed: u64 = setting("SDL_CHAOS_SEED").unwrap_or_else(|| fastrand::u64(..));
    let flavor = match setting::<String>("SDL_CHAOS_FLAVOR").as_deref() {
        None | Some("mysql") => Flavor::Mysql,
        Some("mariadb") => Flavor::Mariadb10,
        Some(other) => panic!("SDL_CHAOS_FLAVOR={other} is neither mysql nor mariadb"),
    };
    let daemons = setting("SDL_CHAOS_DAEMONS").unwrap_or(1 + seed as usize % 2);
    assert!((1..=2).contains(&daemons), "SDL_CHAOS_DAEMONS is 1 or 2");
    tell(&format!(
        "SDL_CHAOS_SEED={seed} SDL_CHAOS_SECONDS={seconds} SDL_CHAOS_DAEMONS={daemons}, {flavor:?}"
    ));

    let started = Instant::now();
    let length = Duration::from_secs(seconds);
    let scene = Scene::start(flavor, seed, daemons).await;
    let load = Load::start_paced(&scene.mysqld, CLIENTS, PAUSE);
    load.more(20).await;
    for act in Plan::new(seed, crash_points().count()) {
        let Some(left) = length.checked_sub(started.elapsed()) else {
            break;
        };
        println!("{:7.1} s: {act}", started.elapsed().as_secs_f64());
        scene.play(&act, left).await;
    }
    let transactions = load.stop().await;
    let under_faults = started.elapsed();
    let verdict = scene.finish().await;
    let figures = scene.figures.lock().await;
    tell(&report(&figures, transactions, under_faults, &verdict));
    assert!(
        verdict.problems.is_empty() && verdict.lost == 0 && verdict.doubled == 0,
        "SDL_CHAOS_SEED={seed}: the audit is not exact: {} lost, {} doubled\n{}",
        verdict.lost,
        verdict.doubled,
        verdict.problems.join("\n")
    );
}

/// Seed and figures are seen even when the test succeeds, whose output is captured; the faults with `--nocapture`.
fn tell(text: &str) {
    writeln!(std::io::stderr().lock(), "{text}").expect("stderr");
}

fn setting<T: std::str::FromStr>(name: &str) -> Option<T> {
    let text = std::env::var(name).ok()?;
    let value = text.parse();
    Some(value.unwrap_or_else(|_| panic!("{name}={text} is not understood")))
}

fn crash_points() -> impl Iterator<Item = &'static str> {
    CRASH_POINTS.iter().chain(OUTAGE_CRASH_POINTS).copied()
}

/// What happened.
#[derive(Debug, Default)]
struct Figures {
    faults: BTreeMap<&'static str, u64>,
    two_at_once: u64,
    /// Ends of sdl without a warning: SIGKILL and crash points.
    kills: u64,
    breaker_opened: u64,
    /// Times that a standby became active, and first starts.
    leases_taken: u64,
    longest_catch_up: Duration,
}

fn report(
    figures: &Figures,
    transactions: u64,
    under_faults: Duration,
    verdict: &Verdict,
) -> String {
    let all: u64 = figures.faults.values().sum();
    let mut lines: Vec<String> = figures
        .faults
        .iter()
        .map(|(kind, count)| format!("{count:6} {kind}"))
        .collect();
    lines.push(format!(
        "{:.0} s: {all} faults ({} times two at once), {} kills of sdl, breaker opened {} times, lease taken {} times, \
         {transactions} transactions by clients, {} recorded, {} events, {} lost, {} doubled; \
         longest wait for all of it {:.1} s",
        under_faults.as_secs_f64(),
        figures.two_at_once,
        figures.kills,
        figures.breaker_opened,
        figures.leases_taken,
        verdict.transactions,
        verdict.events,
        verdict.lost,
        verdict.doubled,
        figures.longest_catch_up.as_secs_f64(),
    ));
    lines.join("\n")
}

/// Servers, lines, and the daemon or the two of them.
struct Scene {
    mysqld: Arc<Mysqld>,
    mongod: Mongod,
    to_mysql: Proxy,
    to_mongodb: Proxy,
    /// Past the proxy.
    database: Database,
    seed: u64,
    starts: AtomicU64,
    daemons: Vec<Mutex<Instance>>,
    figures: Mutex<Figures>,
}

/// A daemon, as often as it is started, and what it is started with.
struct Instance {
    daemon: Daemon,
    settings: Settings,
    // Last: it goes after the daemon that writes to it.
    _spool: Scratch,
}

impl Instance {
    fn start(settings: &Settings) -> Self {
        let spool = Scratch::new("spool");
        // On one host the names of two replicas would be the same.
        let settings = settings
            .clone()
            .set("MYSQL_SERVER_ID", 200_000 + unique())
            .set("SPOOL_DIR", spool.path().display());
        Self {
            daemon: Daemon::start(&settings),
            settings,
            _spool: spool,
        }
    }
}

impl Scene {
    async fn start(flavor: Flavor, seed: u64, daemons: usize) -> Self {
        let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::start());
        create_tables(&mysqld).await;
        mysqld
            .exec(
                "CREATE TABLE load_test.large (id INT, t VARCHAR(2000));
                 CREATE TABLE load_test.altered (id BIGINT AUTO_INCREMENT PRIMARY KEY, v INT)",
            )
            .await;
        let to_mysql = Proxy::start(mysqld.port());
        let to_mongodb = Proxy::start(mongod.port());
        put_behind(&mongod, &to_mongodb).await;
        let uri = format!(
            "mongodb://{}/?replicaSet=rs0&serverSelectionTimeoutMS=1000",
            to_mongodb.addr()
        );
        let mut settings = Settings::new(&mysqld, &mongod)
            .set("MYSQL_ADDR", to_mysql.addr())
            .set("MONGO_URI", uri)
            .set("BREAKER_FAILURES", 2)
            .set("BREAKER_OPEN", "1s")
            .set("RETRY_MAX_DELAY", "1s");
        if daemons > 1 {
            settings = settings.set("LEASE", "on").set("LEASE_TTL", "2s");
        }
        let database = mongod.database(settings.database()).await;
        let daemons = (0..daemons)
            .map(|_| Mutex::new(Instance::start(&settings)))
            .collect();
        Self {
            mysqld: Arc::new(mysqld),
            mongod,
            to_mysql,
            to_mongodb,
            database,
            seed,
            starts: AtomicU64::new(0),
            daemons,
            figures: Mutex::default(),
        }
    }

    async fn play(&self, act: &Act, left: Duration) {
        match act.blows.as_slice() {
            [first, second] => {
                self.figures.lock().await.two_at_once += 1;
                tokio::join!(self.strike(first, left), self.strike(second, left));
            }
            blows => {
                for blow in blows {
                    self.strike(blow, left).await;
                }
            }
        }
        self.assert_is_running().await;
        match act.then {
            Then::Next(after) => tokio::time::sleep(after).await,
            Then::CaughtUp => self.catches_up().await,
        }
    }

    /// One fault from its beginning to its end. Its length is the fault itself, not a wait for anything.
    async fn strike(&self, blow: &Blow, left: Duration) {
        let lasts = blow.lasts.min(left);
        let passes = tokio::time::sleep(lasts);
        let happened = match blow.fault {
            Fault::MongodKilled => {
                self.mongod.kill();
                passes.await;
                self.mongod.start_again().await;
                true
            }
            Fault::MongodStopped => {
                self.mongod.stop().await;
                passes.await;
                self.mongod.start_again().await;
                true
            }
            Fault::MongodPaused => {
                self.mongod.pause();
                passes.await;
                self.mongod.resume();
                true
            }
            Fault::MysqldKilled => {
                self.mysqld.kill();
                passes.await;
                self.mysqld.start_again().await;
                true
            }
            Fault::MysqldStopped => {
                self.mysqld.stop().await;
                passes.await;
                self.mysqld.start_again().await;
                true
            }
            Fault::MysqldPaused => {
                self.mysqld.pause();
                passes.await;
                self.mysqld.resume();
                true
            }
            Fault::DumpThreadsKilled => {
                let killed = kill_dump_threads(&self.mysqld).await;
                killed.expect("the server runs") > 0
            }
            Fault::BinlogFlushed => {
                self.mysqld.exec("FLUSH BINARY LOGS").await;
                true
            }
            Fault::BinlogPurged => self.purge().await,
            Fault::SchemaChanged => {
                self.alter().await;
                true
            }
            Fault::TableEmptied => {
                self.mysqld.exec("TRUNCATE load_test.keyed").await;
                true
            }
            Fault::LargeTransaction => {
                self.large_transaction().await;
                true
            }
            Fault::SdlKilled => {
                let mut instance = self.instance(blow).await;
                instance.daemon.kill9();
                self.figures.lock().await.kills += 1;
                passes.await;
                self.restart(&mut instance, None).await;
                true
            }
            Fault::SdlTerminated => {
                let mut instance = self.instance(blow).await;
                self.terminate(&instance.daemon).await;
                passes.await;
                self.restart(&mut instance, None).await;
                true
            }
            Fault::SdlPaused => {
                let instance = self.instance(blow).await;
                instance.daemon.signal(Signal::STOP);
                passes.await;
                instance.daemon.signal(Signal::CONT);
                true
            }
            Fault::SdlCrashed { point, passes } => {
                let mut instance = self.instance(blow).await;
                self.crash(&mut instance, point, passes, lasts).await
            }
            Fault::Line(end, weather) => {
                let line = match end {
                    End::Mysql => &self.to_mysql,
                    End::Mongodb => &self.to_mongodb,
                };
                match weather {
                    Weather::Cut => line.cut(),
                    Weather::CutInsidePacket => line.cut_inside_packet(),
                    Weather::Stalled => line.stall(),
                    Weather::Refused => line.refuse().await,
                    Weather::Latency => line.latency(Duration::from_millis(200)),
                    Weather::Lossy => line.lose(10),
                    Weather::Narrow => line.bandwidth(Some(100_000)),
                }
                passes.await;
                line.clear().await;
                true
            }
        };
        if happened {
            let mut figures = self.figures.lock().await;
            *figures.faults.entry(blow.fault.kind()).or_default() += 1;
        }
    }

    // --- MySQL

    /// Up to the file that the saved offset stands in, which is all that is safe; nothing when MongoDB does not answer.
    async fn purge(&self) -> bool {
        let offsets = self.database.collection::<Document>(mongo::OFFSETS);
        let offset = async { offsets.find_one(doc! {}).await };
        let Ok(Ok(Some(offset))) = tokio::time::timeout(Duration::from_secs(2), offset).await
        else {
            return false;
        };
        let file = offset.get_str("file").expect("file");
        self.mysqld
            .exec(format!("FLUSH BINARY LOGS; PURGE BINARY LOGS TO '{file}'"))
            .await;
        true
    }

    /// A column comes, or goes.
    async fn alter(&self) {
        let columns: Vec<String> = self
            .mysqld
            .query("SELECT column_name FROM information_schema.columns WHERE table_schema = 'load_test' AND table_name = 'altered'")
            .await;
        let change = if columns.iter().any(|column| column == "c") {
            "DROP COLUMN c"
        } else {
            "ADD COLUMN c INT DEFAULT 7"
        };
        self.mysqld
            .exec(format!(
                "INSERT INTO load_test.altered (v) VALUES (1), (2);
                 ALTER TABLE load_test.altered {change};
                 UPDATE load_test.altered SET v = v + 1 ORDER BY id DESC LIMIT 3"
            ))
            .await;
    }

    /// Many times a batch, in or out.
    async fn large_transaction(&self) {
        let rows: u64 = self
            .mysqld
            .query_one("SELECT COUNT(*) FROM load_test.large")
            .await;
        let statement = if rows > 5_000 {
            "DELETE FROM load_test.large"
        } else {
            "INSERT INTO load_test.large WITH RECURSIVE number AS (SELECT 1 AS i UNION ALL SELECT i + 1 FROM number WHERE i < 1000)
             SELECT a.i, REPEAT('l', 1000) FROM number a, (SELECT 1 UNION SELECT 2 UNION SELECT 3) b"
        };
        self.mysqld.exec(statement).await;
    }

    // --- sdl

    /// The daemon that is hurt.
    async fn instance(&self, blow: &Blow) -> MutexGuard<'_, Instance> {
        self.daemons[blow.daemon % self.daemons.len()].lock().await
    }

    /// Starts a daemon in place of one that has ended, with sizes of its own: no size may matter.
    async fn restart(&self, instance: &mut Instance, failpoint: Option<String>) {
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let mut random = fastrand::Rng::with_seed(self.seed ^ number);
        let mut settings = instance
            .settings
            .clone()
            .set("BATCH_SIZE", [20, 50, 200, 1000][random.usize(..4)])
            .set("PIPELINE_DEPTH", random.u8(1..=6));
        if let Some(failpoint) = failpoint {
            settings = settings.set("FAILPOINTS", failpoint);
        }
        self.count(&instance.daemon).await;
        instance.daemon = Daemon::start(&settings);
    }

    /// What a daemon that has ended said of itself.
    async fn count(&self, daemon: &Daemon) {
        let mut figures = self.figures.lock().await;
        figures.breaker_opened += times_logged(daemon, BREAKER_OPEN) as u64;
        figures.leases_taken += times_logged(daemon, "took the lease") as u64;
    }

    async fn terminate(&self, daemon: &Daemon) {
        // Before its first line it may not have come to listen for signals.
        wait_until("sdl has begun", SOON, async || !daemon.logs().is_empty()).await;
        daemon.signal(Signal::TERM);
        let (code, took) = daemon.wait_exit(STOPPED).await;
        assert_eq!(code, 0, "a clean stop, after {took:?}");
    }

    /// Ends the daemon and starts one that aborts at a crash point; whether it came there.
    async fn crash(
        &self,
        instance: &mut Instance,
        point: usize,
        passes: u8,
        lasts: Duration,
    ) -> bool {
        instance.daemon.kill9();
        let point = crash_points().nth(point).expect("a crash point");
        self.restart(instance, Some(format!("{point}={passes}*off->return")))
            .await;
        let daemon = &instance.daemon;
        let started = Instant::now();
        while daemon.is_running() && started.elapsed() < lasts + Duration::from_secs(2) {
            tokio::time::sleep(crate::common::POLL).await;
        }
        let came_there = !daemon.is_running();
        if came_there {
            let (code, _) = daemon.wait_exit(SOON).await;
            assert_eq!(code, ABORTED, "it was to die at {point}, if at all");
        }
        daemon.kill9();
        self.figures.lock().await.kills += 2;
        self.restart(instance, None).await;
        came_there
    }

    async fn assert_is_running(&self) {
        for instance in &self.daemons {
            let daemon = &instance.lock().await.daemon;
            if !daemon.is_running() {
                let (code, _) = daemon.wait_exit(SOON).await;
                panic!("SDL_CHAOS_SEED={}: sdl ended by itself: {code}", self.seed);
            }
        }
    }

    /// All that MySQL has executed by now is recorded.
    async fn catches_up(&self) {
        let started = Instant::now();
        let executed = self.mysqld.executed_gtid().await;
        let (mut moved, mut last) = (Instant::now(), None);
        loop {
            let saved = mongo::saved_gtid(&self.database).await;
            if let Some(saved) = &saved
                && self.mysqld.gtid_subset(&executed, saved).await
            {
                break;
            }
            if saved != last {
                (moved, last) = (Instant::now(), saved);
            }
            assert!(
                moved.elapsed() < STUCK,
                "SDL_CHAOS_SEED={}: the offset has stood still for {STUCK:?} at {last:?}, MySQL has executed {executed:?}",
                self.seed
            );
            self.assert_is_running().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        println!(
            "          recorded after {:.1} s",
            started.elapsed().as_secs_f64()
        );
        let mut figures = self.figures.lock().await;
        figures.longest_catch_up = figures.longest_catch_up.max(started.elapsed());
    }

    /// All of it is recorded, the daemons stop, and what they leave is looked at.
    async fn finish(&self) -> Verdict {
        let database = self.database.name();
        caught_up_within(&self.mysqld, &self.mongod, database, STUCK).await;
        for instance in &self.daemons {
            let daemon = &instance.lock().await.daemon;
            self.terminate(daemon).await;
            self.count(daemon).await;
        }
        check(&self.mysqld, &self.mongod, database, &TABLES, &alter).await
    }
}

/// What [`Scene::alter`] does to the rows that are there.
fn alter(tables: &mut Tables, change: &Document) {
    let query = change
        .get_document("meta")
        .and_then(|meta| meta.get_str("query"))
        .unwrap_or_default();
    let Some(change) = query.trim().strip_prefix("ALTER TABLE load_test.altered ") else {
        return;
    };
    let table = tables.entry("load_test.altered".to_owned()).or_default();
    match change {
        "ADD COLUMN c INT DEFAULT 7" => table.alter(|row| {
            row.insert("c", Bson::Int32(7));
        }),
        "DROP COLUMN c" => table.alter(|row| {
            row.remove("c");
        }),
        other => panic!("the test does not write ALTER TABLE … {other}"),
    }
}
