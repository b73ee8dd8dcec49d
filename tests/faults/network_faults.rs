//! A network that cuts, stalls, is slow, narrow or lossy, between sdl and either of its servers, while clients write.
//!
//! Each fault is tested on the line to MySQL and on the line to MongoDB, which is a replica set whose member has the proxy's
//! address, so the driver goes nowhere else. What the daemon writes past a bad line stays exact, and the very daemon that met it
//! goes on; what is slow is not taken for dead.
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::common::faults::{
    BACKLOG, LATER, SOON, STREAMING, commits_more, logged_times, put_behind, settings,
    start_servers, stops, times_logged,
};
use crate::common::load::{Load, TABLES};
use crate::common::{
    Daemon, Mongod, Mysqld, Proxy, Settings, caught_up_within, fold, proxy, wait_until,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Makes a test for each line: `to_mysql::name`, `to_mongodb::name`.
macro_rules! on_both_lines {
    ($($name:ident),+ $(,)?) => {
        on_line! { to_mysql, Mysql, $($name),+ }
        on_line! { to_mongodb, Mongodb, $($name),+ }
    };
}

macro_rules! on_line {
    ($module:ident, $line:ident, $($name:ident),+) => {
        mod $module {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    let scene = super::Scene::new(super::Line::$line).await;
                    super::$name(&scene).await;
                }
            )+
        }
    };
}

/// Which line is bad.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Mysql,
    Mongodb,
}

/// Both servers, with a proxy on one of the lines.
struct Scene {
    line: Line,
    mysqld: Arc<Mysqld>,
    mongod: Mongod,
    proxy: Proxy,
    settings: Settings,
}

impl Scene {
    async fn new(line: Line) -> Self {
        let (mysqld, mongod) = start_servers().await;
        let settings = settings(&mysqld, &mongod);
        let (proxy, settings) = match line {
            Line::Mysql => {
                let proxy = Proxy::start(mysqld.port());
                let settings = settings.set("MYSQL_ADDR", proxy.addr());
                (proxy, settings)
            }
            Line::Mongodb => {
                let proxy = Proxy::start(mongod.port());
                put_behind(&mongod, &proxy).await;
                let uri = format!("mongodb://{}/?replicaSet=rs0", proxy.addr());
                (proxy, settings.set("MONGO_URI", uri))
            }
        };
        Self {
            line,
            mysqld,
            mongod,
            proxy,
            settings,
        }
    }

    /// A daemon that streams while clients write; its line is the proxy's.
    async fn under_load(&self) -> (Daemon, Load) {
        let load = Load::start(&self.mysqld, 2);
        (self.streaming(&self.settings, &load).await, load)
    }

    /// [`under_load`](Self::under_load), with no more than a slow line carries: 40 transactions a second, in batches of the default
    /// size.
    async fn under_light_load(&self) -> (Daemon, Load) {
        let load = Load::start_paced(&self.mysqld, 2, Duration::from_millis(50));
        let settings = self.settings.clone().unset("BATCH_SIZE");
        (self.streaming(&settings, &load).await, load)
    }

    async fn streaming(&self, settings: &Settings, load: &Load) -> Daemon {
        let (before, received) = (self.proxy.accepted(), self.proxy.received());
        let daemon = Daemon::start(settings);
        daemon.wait_for_log(STREAMING, SOON).await;
        load.more(20).await;
        assert!(self.proxy.accepted() > before, "it goes past the proxy");
        wait_until("it uses the line", SOON, async || {
            self.proxy.received() > received + 10_000
        })
        .await;
        daemon
    }

    /// After the `time`th fault that broke connections, changes pass again.
    async fn goes_on(&self, daemon: &Daemon, load: &Load, time: usize) {
        if self.line == Line::Mysql {
            logged_times(daemon, STREAMING, time + 1, LATER).await;
        }
        load.more(20).await;
        commits_more(&self.mongod, self.settings.database()).await;
    }

    /// All that was written is recorded, through the line as it is; then the fold, past it.
    async fn ends_exactly(&self, daemon: &Daemon, load: Load) {
        let transactions = load.stop().await;
        let started = Instant::now();
        caught_up_within(
            &self.mysqld,
            &self.mongod,
            self.settings.database(),
            BACKLOG,
        )
        .await;
        eprintln!(
            "{transactions} transactions, caught up {:?} after the last",
            started.elapsed()
        );
        self.proxy.clear().await;
        let database = self.settings.database();
        fold::assert_exact(&self.mysqld, &self.mongod, database, &TABLES).await;
        stops(daemon).await;
    }
}

on_both_lines! {
    a_line_that_is_cut_again_and_again,
    a_reset_in_the_middle_of_a_packet,
    a_line_that_is_half_open,
    a_server_that_nobody_reaches,
    two_hundred_milliseconds_of_latency,
    one_packet_of_a_hundred_is_lost,
    a_hundred_kilobytes_a_second,
}

async fn a_line_that_is_cut_again_and_again(scene: &Scene) {
    let (daemon, load) = scene.under_load().await;
    for time in 1..=5 {
        scene.proxy.cut();
        scene.goes_on(&daemon, &load, time).await;
    }
    scene.ends_exactly(&daemon, load).await;
}

async fn a_reset_in_the_middle_of_a_packet(scene: &Scene) {
    let (daemon, load) = scene.under_load().await;
    for time in 1..=5 {
        scene.proxy.cut_inside_packet();
        wait_until("a packet was cut in half", SOON, async || {
            !scene.proxy.will_cut()
        })
        .await;
        scene.goes_on(&daemon, &load, time).await;
    }
    scene.ends_exactly(&daemon, load).await;
}

/// Connections stay open, and nothing passes: nobody but the daemon can notice.
async fn a_line_that_is_half_open(scene: &Scene) {
    let (daemon, load) = scene.under_load().await;
    let noticed = match scene.line {
        Line::Mysql => "not even a heartbeat",
        Line::Mongodb => "trying again",
    };
    assert_eq!(times_logged(&daemon, noticed), 0);
    scene.proxy.stall();
    let started = Instant::now();
    daemon.wait_for_log(noticed, LATER).await;
    eprintln!("noticed after {:?}", started.elapsed());
    scene.proxy.resume();
    scene.goes_on(&daemon, &load, 1).await;
    scene.ends_exactly(&daemon, load).await;
}

async fn a_server_that_nobody_reaches(scene: &Scene) {
    let (daemon, load) = scene.under_load().await;
    for time in 1..=3 {
        let failures = times_logged(&daemon, "trying again");
        scene.proxy.refuse().await;
        logged_times(&daemon, "trying again", failures + 1, LATER).await;
        scene.proxy.accept().await;
        scene.goes_on(&daemon, &load, time).await;
    }
    scene.ends_exactly(&daemon, load).await;
}

async fn two_hundred_milliseconds_of_latency(scene: &Scene) {
    let (daemon, load) = scene.under_light_load().await;
    scene.proxy.latency(Duration::from_millis(200));
    for _ in 0..3 {
        load.more(20).await;
        commits_more(&scene.mongod, scene.settings.database()).await;
    }
    assert_is_not_taken_for_dead(scene, &daemon);
    scene.ends_exactly(&daemon, load).await;
}

async fn one_packet_of_a_hundred_is_lost(scene: &Scene) {
    const LOST: u64 = 30;
    let (daemon, load) = scene.under_load().await;
    let before = proxy::sent_again();
    scene.proxy.lose(10);
    wait_until("packets were lost and sent again", LATER, async || {
        proxy::sent_again() >= before + LOST
    })
    .await;
    commits_more(&scene.mongod, scene.settings.database()).await;
    assert_is_not_taken_for_dead(scene, &daemon);
    scene.ends_exactly(&daemon, load).await;
}

async fn a_hundred_kilobytes_a_second(scene: &Scene) {
    let (daemon, load) = scene.under_light_load().await;
    scene.proxy.bandwidth(Some(100_000));
    load.more(50).await;
    commits_more(&scene.mongod, scene.settings.database()).await;
    scene.ends_exactly(&daemon, load).await;
    assert_is_not_taken_for_dead(scene, &daemon);
}

/// The connection that was there is the one that is there still.
fn assert_is_not_taken_for_dead(scene: &Scene, daemon: &Daemon) {
    assert_eq!(
        times_logged(daemon, STREAMING),
        1,
        "it connected to mysql again"
    );
    if scene.line == Line::Mongodb {
        assert_eq!(times_logged(daemon, "trying again"), 0);
    }
}

// --- the line itself

/// The faults are what they are called: measured between a client and a server that sends everything back.
#[tokio::test]
async fn a_bad_line_is_as_bad_as_it_says() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = Proxy::start(listener.local_addr().unwrap().port());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    let mut client = TcpStream::connect(proxy.addr()).await.unwrap();
    let mut there_and_back = async |bytes: usize| {
        let (mut from, mut to) = client.split();
        let (sent, mut received) = (vec![7; bytes], vec![0; bytes]);
        let started = Instant::now();
        let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut received));
        written.unwrap();
        read.unwrap();
        assert_eq!(sent, received);
        started.elapsed()
    };
    // Both directions, and 200 kB at once come no later than one byte does.
    proxy.latency(Duration::from_millis(200));
    for bytes in [1, 200_000] {
        let took = there_and_back(bytes).await;
        assert!(took >= Duration::from_millis(400), "{took:?}");
    }
    proxy.latency(Duration::ZERO);

    proxy.bandwidth(Some(100_000));
    let took = there_and_back(200_000).await;
    assert!(took >= Duration::from_secs(2), "{took:?}");
    proxy.bandwidth(None);

    proxy.lose(100);
    let before = proxy::sent_again();
    let started = Instant::now();
    while proxy::sent_again() < before + 10 {
        there_and_back(10_000).await;
        assert!(started.elapsed() < SOON, "no packet was lost");
    }
    proxy.clear().await;

    proxy.cut();
    let (mut from, _) = client.split();
    assert!(from.read_u8().await.is_err(), "the connection is reset");
}
