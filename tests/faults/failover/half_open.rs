//! Half-open connections: nothing arrives any more, and nobody is told, not even by a TCP reset. In every phase of a connection it
//! is noticed within three heartbeats, and what was missed is read once the line is back.

use std::time::Instant;

use super::*;

/// Three heartbeats, and what a busy machine adds.
const NOTICED: Duration = Duration::from_secs(45);

const TRYING: &str = "failed, trying again";

/// A moment of a connection, by bytes that the client sends then; connections are not encrypted here.
struct Phase {
    name: &'static str,
    bytes: Vec<u8>,
    /// Whether it is a phase of a connection that was read well before.
    streaming: bool,
}

fn phases(flavor: Flavor, server_id: u32) -> Vec<Phase> {
    let early = |name, bytes: &[u8]| Phase {
        name,
        bytes: bytes.to_vec(),
        streaming: false,
    };
    let history: &[u8] = if flavor.is_mariadb() {
        b"@@global.gtid_binlog_state"
    } else {
        b"@@global.gtid_executed"
    };
    vec![
        // The greeting came, the user's name does not get through.
        early("login", b"sdl\0"),
        early("preflight, settings", b"SHOW GLOBAL VARIABLES WHERE"),
        early("preflight, transactions", history),
        early("other replicas", b"SHOW REPLICAS"),
        early("settings of the dump", b"@master_heartbeat_period"),
        // COM_REGISTER_SLAVE, server_id.
        early(
            "registration",
            &[&[0x15], &server_id.to_le_bytes()[..]].concat(),
        ),
        early("request of the dump", &request_of_dump(flavor, server_id)),
        Phase {
            streaming: true,
            ..early("question in a quiet time", history)
        },
        Phase {
            streaming: true,
            // COM_QUIT.
            ..early("end of that question", &[1, 0, 0, 0, 1])
        },
    ]
}

/// COM_BINLOG_DUMP_GTID, no flags, server_id; for MariaDB COM_BINLOG_DUMP, position 4, no flags, server_id.
fn request_of_dump(flavor: Flavor, server_id: u32) -> Vec<u8> {
    let command: &[u8] = if flavor.is_mariadb() {
        &[0x12, 4, 0, 0, 0, 0, 0]
    } else {
        &[0x1e, 0, 0]
    };
    [command, &server_id.to_le_bytes()].concat()
}

on_both_flavors! {
    a_line_that_falls_silent_is_noticed_in_every_phase_and_read_on,
    a_dump_that_never_begins_is_noticed_though_the_server_answers,
    resets_in_the_middle_of_packets_are_exact,
}

async fn a_line_that_falls_silent_is_noticed_in_every_phase_and_read_on(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mysqld.exec(CREATE).await;
    insert(&mysqld, 3).await;
    let mut runs = Vec::new();
    for index in 0..phases(flavor, 0).len() {
        let settings = settings(mongod, &[&mysqld]);
        let server_id = settings.get("MYSQL_SERVER_ID").unwrap().parse().unwrap();
        let phase = phases(flavor, server_id).swap_remove(index);
        runs.push(silent_in(phase, settings, &mysqld, mongod));
    }
    // Side by side: most of it is waiting.
    futures_util::future::join_all(runs).await;
}

async fn silent_in(phase: Phase, settings: Settings, mysqld: &Mysqld, mongod: &Mongod) {
    let name = phase.name;
    let proxy = Proxy::start(mysqld.port());
    let settings = settings
        .set("MYSQL_ADDR", proxy.addr())
        .set("SOURCE_ID", name)
        .set("MYSQL_TLS", "disabled");
    // A source that was never read begins with a connection for its first position; the dump comes behind it.
    let daemon = if phase.streaming {
        let daemon = Daemon::start(&settings);
        daemon.wait_for_log(STREAMING, SOON).await;
        proxy.stall_at(&phase.bytes);
        daemon
    } else {
        proxy.stall_at(&phase.bytes);
        Daemon::start(&settings)
    };
    wait_until(&format!("stalled: {name}"), VERDICT, async || {
        proxy.is_stalled()
    })
    .await;
    let stalled = Instant::now();
    daemon.wait_for_log(TRYING, NOTICED).await;
    eprintln!("{name}: noticed after {:?}", stalled.elapsed());
    assert!(daemon.is_running());
    proxy.resume();
    wait_until(&format!("streams again: {name}"), VERDICT, async || {
        lines(&daemon, STREAMING).len() > usize::from(phase.streaming)
    })
    .await;
    caught_up(mysqld, mongod, settings.database()).await;
    fold::assert_exact(mysqld, mongod, settings.database(), &[TABLE]).await;
    // Whatever was given up is closed, and does not pile up: the stream's is left, and the health monitor's. The proxy sees it once
    // its own wait is over.
    wait_until(
        &format!("two connections are left: {name}"),
        SOON,
        async || proxy.open() == 2,
    )
    .await;
}

/// Nobody answers the connection itself, for minutes, and the kernel does not say so: the port is open.
#[tokio::test]
async fn a_server_that_takes_connections_and_says_nothing_is_passed_over() {
    let (primary, replica, mongod) = primary_and_replica(Flavor::Mysql).await;
    let proxy = Proxy::start(primary.port());
    proxy.stall();
    let settings = settings(mongod, &[&primary, &replica])
        .set("MYSQL_ADDR", format!("{},{}", proxy.addr(), replica.addr()));
    let daemon = Daemon::start(&settings);
    streams_from(&daemon, &replica, 1).await;
    assert_says(
        &daemon.wait_for_log(PASSED_OVER, SOON).await,
        &[&proxy.addr(), "no answer within 10 s"],
    );
    insert(&primary, 2).await;
    caught_up(&primary, mongod, settings.database()).await;
    fold::assert_exact(&primary, mongod, settings.database(), &[TABLE]).await;
}

/// The line falls silent while rows are streaming, and there is a second server.
#[tokio::test]
async fn a_stream_that_falls_silent_under_load_is_read_on_at_the_next_server() {
    let (primary, replica, mongod) = primary_and_replica(Flavor::Mysql).await;
    let proxy = Proxy::start(primary.port());
    let settings = settings(mongod, &[&primary, &replica])
        .set("MYSQL_ADDR", format!("{},{}", proxy.addr(), replica.addr()));
    let daemon = Daemon::start(&settings);
    let load = Load::start(&primary, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    load.more(100).await;
    proxy.stall();
    let stalled = Instant::now();
    load.more(100).await;
    let line = daemon
        .wait_for_log("nothing from the server for 30 s", NOTICED)
        .await;
    eprintln!("noticed after {:?}: {line}", stalled.elapsed());
    streams_from(&daemon, &replica, 2).await;
    load.stop().await;
    caught_up(&primary, mongod, settings.database()).await;
    fold::assert_exact(&primary, mongod, settings.database(), &TABLES).await;
}

/// The reset comes in the middle of a packet, many times; nothing is read twice or half.
async fn resets_in_the_middle_of_packets_are_exact(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    create_tables(&mysqld).await;
    let mysqld = Arc::new(mysqld);
    let proxy = Proxy::start(mysqld.port());
    let settings = settings(mongod, &[&mysqld])
        .set("MYSQL_ADDR", proxy.addr())
        .set("RETRY_MAX_DELAY", "100ms");
    let daemon = Daemon::start(&settings);
    let load = Load::start(&mysqld, 2);
    daemon.wait_for_log(STREAMING, SOON).await;
    for _ in 0..15 {
        load.more(15).await;
        let connections = lines(&daemon, STREAMING).len();
        proxy.cut_inside_packet();
        wait_until("it connects again", SOON, async || {
            lines(&daemon, STREAMING).len() > connections
        })
        .await;
        proxy.cut();
    }
    load.stop().await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &TABLES).await;
    assert!(lines(&daemon, STREAMING).len() > 15);
}

/// A server that searches its binlogs for the position says nothing for as long as that takes; here, the dump's request is answered
/// by nobody, while other connections are.
async fn a_dump_that_never_begins_is_noticed_though_the_server_answers(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::shared());
    mysqld.exec(CREATE).await;
    let proxy = Proxy::start(mysqld.port());
    let settings = settings(mongod, &[&mysqld])
        .set("MYSQL_ADDR", proxy.addr())
        .set("MYSQL_TLS", "disabled");
    let server_id: u32 = settings.get("MYSQL_SERVER_ID").unwrap().parse().unwrap();
    proxy.stall_one_at(&request_of_dump(flavor, server_id));
    let daemon = Daemon::start(&settings);
    let line = daemon
        .wait_for_log("nothing came in 20 s since the dump was requested", NOTICED)
        .await;
    eprintln!("{line}");
    streams_again(&daemon, 2).await;
    insert(&mysqld, 2).await;
    caught_up(&mysqld, mongod, settings.database()).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &[TABLE]).await;
}

async fn streams_again(daemon: &Daemon, times: usize) {
    wait_until("it streams again", SOON, async || {
        lines(daemon, STREAMING).len() >= times
    })
    .await;
}
