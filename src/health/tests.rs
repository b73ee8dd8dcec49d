use super::*;
use crate::board::{Committed, SpoolFigures};
use crate::breaker::State;
use crate::error::Error;
use crate::position::Flavor;
use crate::source::headroom::{Binlog, Retention};

const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

/// A daemon that has streamed for an hour, and committed everything a second ago.
struct Example {
    facts: Facts,
    measured: Measured,
    now: Instant,
}

impl Example {
    fn new() -> Self {
        let now = Instant::now() + Duration::from_secs(7200);
        let before = |seconds| now - Duration::from_secs(seconds);
        let mut facts = Facts {
            role: Role::Active,
            committed: Some(Committed {
                batch: 7,
                n: 4000,
                gtid: None,
                timestamp: Some(bson::DateTime::from_millis(SERVER_NOW - 1000)),
                file: "binlog.000003".to_owned(),
                server_uuid: UUID.to_owned(),
                at: before(1),
            }),
            idle_at: Some(before(1)),
            safe_at: Some(before(1)),
            ..Facts::default()
        };
        facts.source.connected = Some("db1:3306".to_owned());
        facts.source.since = Some(before(3600));
        facts.source.connections = 1;
        let ping = Duration::from_millis(1);
        let mut clock = Clock::new(SERVER_NOW, now, Duration::ZERO);
        clock.ahead = 0;
        let measured = Measured {
            store: Some(Ok(ping)),
            source: Some(Ok(ping)),
            source_clock: Some(clock),
            active_since: Some(before(3600)),
            ..Measured::default()
        };
        Self {
            facts,
            measured,
            now,
        }
    }

    fn judge(&self) -> Health {
        judge(&self.facts, &self.measured, self.now)
    }

    /// Its status, and its only reason.
    fn because(&self) -> (Status, About, String) {
        let health = self.judge();
        match &health.reasons[..] {
            [reason] => (health.status, reason.about, reason.text.clone()),
            other => panic!("{:?}: {other:?}", health.status),
        }
    }

    fn spool(&mut self, bytes: u64, is_refusing: bool) {
        self.facts.spool = Some(SpoolFigures {
            batches: 3,
            events: 150,
            bytes,
            max_bytes: 1000,
            is_refusing,
        });
    }

    fn before(&self, seconds: u64) -> Instant {
        self.now - Duration::from_secs(seconds)
    }
}

/// What the source's clock shows.
const SERVER_NOW: i64 = 1_700_000_000_000;

fn binlogs(files: &[u32]) -> Binlogs {
    Binlogs {
        server_uuid: UUID.to_owned(),
        flavor: Flavor::Mysql,
        retention: Some(Retention {
            variable: "binlog_expire_logs_seconds",
            time: Duration::from_secs(1000),
        }),
        max_total_bytes: None,
        files: files
            .iter()
            .map(|number| Binlog {
                name: format!("binlog.{number:06}"),
                bytes: 100,
            })
            .collect(),
    }
}

#[test]
fn who_streams_and_commits_is_healthy() {
    let health = Example::new().judge();
    assert_eq!(health.status, Status::Healthy, "{:?}", health.reasons);
    assert_eq!(health.reasons, []);
}

#[test]
fn a_stream_that_is_away_is_a_reconnect_first_and_an_outage_after_30_seconds() {
    let mut example = Example::new();
    example.facts.source.connected = None;
    example.facts.source.since = Some(example.before(29));
    let (status, about, text) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::Stream));
    assert_eq!(text, "no binlog stream from mysql for 29 s");
    example.facts.source.since = Some(example.before(30));
    assert_eq!(example.because().0, Status::Unhealthy);
}

#[test]
fn before_its_first_stream_it_is_not_ready_and_after_30_seconds_unhealthy() {
    let mut example = Example::new();
    example.facts.source = crate::board::Source::default();
    example.measured.active_since = Some(example.before(10));
    let health = example.judge();
    assert_eq!((health.status, health.reasons.len()), (Status::Starting, 0));
    assert!(!health.status.is_ready());
    example.measured.active_since = Some(example.before(31));
    assert_eq!(example.because().0, Status::Unhealthy);
}

#[test]
fn an_outage_of_mongodb_is_bearable_while_the_spool_has_room() {
    let mut example = Example::new();
    example.facts.breaker = State::Open;
    example.spool(100, false);
    let (status, about, text) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::Breaker));
    assert_eq!(
        text,
        "mongodb is away (circuit breaker open); 150 events in 3 batches wait in the spool"
    );
    example.spool(1000, true);
    let (status, _, text) = example.because();
    assert_eq!(status, Status::Unhealthy);
    assert!(text.ends_with("which takes no more: reading waits"));
    example.facts.spool = None;
    let (status, _, text) = example.because();
    assert_eq!(status, Status::Unhealthy);
    assert!(text.contains("SPOOL_DIR"), "{text}");
}

#[test]
fn a_spool_that_fills_or_drains_is_told() {
    let mut example = Example::new();
    example.spool(100, false);
    let (status, about, _) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::SpoolBacklog));
    example.spool(801, false);
    example.facts.breaker = State::HalfOpen;
    let health = example.judge();
    assert_eq!(health.status, Status::Degraded);
    let text = &health.reasons[1].text;
    assert_eq!(
        text,
        "the spool holds 80 % of SPOOL_MAX_BYTES (801 of 1000 bytes)"
    );
    example.facts.breaker = State::Closed;
    example.facts.spool = Some(SpoolFigures {
        max_bytes: 1000,
        ..SpoolFigures::default()
    });
    assert_eq!(example.judge().status, Status::Healthy);
}

#[test]
fn events_that_wait_while_nothing_is_committed_are_unhealthy_after_a_minute() {
    let mut example = Example::new();
    example.facts.in_flight_events = 5;
    assert_eq!(example.judge().status, Status::Healthy);
    let long_ago = example.before(60);
    (example.facts.idle_at, example.facts.safe_at) = (Some(long_ago), Some(long_ago));
    if let Some(committed) = &mut example.facts.committed {
        committed.at = long_ago;
        committed.timestamp = Some(bson::DateTime::from_millis(SERVER_NOW));
    }
    let (status, about, text) = example.because();
    assert_eq!((status, about), (Status::Unhealthy, About::Commit));
    assert_eq!(
        text,
        "5 events were read and nothing was committed for 1 min 0 s"
    );
}

#[test]
fn lag_counts_from_the_last_commit_or_the_last_word_of_a_quiet_source() {
    let mut example = Example::new();
    let lag = |example: &Example| lag(&example.facts, &example.measured, example.now).unwrap();
    if let Some(committed) = &mut example.facts.committed {
        committed.timestamp = Some(bson::DateTime::from_millis(SERVER_NOW - 5_000_000));
    }
    assert_eq!(lag(&example), Duration::from_secs(1), "a quiet source");
    example.facts.idle_at = Some(example.before(61));
    assert_eq!(lag(&example), Duration::from_secs(61), "the stream died");
    let (status, about, text) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::Lag));
    assert_eq!(text, "the audit is 1 min 1 s behind the source");
    example.facts.idle_at = None;
    assert_eq!(lag(&example), Duration::from_secs(5000), "a backlog");
    example.now += Duration::from_secs(10);
    assert_eq!(
        lag(&example),
        Duration::from_secs(5010),
        "it does not freeze"
    );
}

#[test]
fn pings_clocks_and_the_pool_have_their_limits() {
    let mut example = Example::new();
    example.measured.store = Some(Ok(Duration::from_millis(1500)));
    let (status, about, text) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::StorePing));
    assert_eq!(text, "mongodb takes 1.5 s to answer a ping");

    let mut example = Example::new();
    example.measured.source = Some(Err(Error::new(Kind::SourceUnavailable, "refused")));
    let (status, about, text) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::SourcePing));
    assert_eq!(text, "mysql does not answer: refused");

    let mut example = Example::new();
    let here = bson::DateTime::now().timestamp_millis();
    let clock = Clock::new(here - 90_000, Instant::now(), Duration::ZERO);
    example.measured.store_clock = Some(clock);
    let (status, about, text) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::StoreClock));
    assert!(text.contains("behind this host's"), "{text}");

    let mut example = Example::new();
    example.measured.new_pool_failures = 2;
    let (status, about, _) = example.because();
    assert_eq!((status, about), (Status::Degraded, About::Pool));
}

#[test]
fn headroom_warns_at_half_and_is_grave_at_a_tenth() {
    let mut example = Example::new();
    example.facts.safe_at = None;
    example.measured.binlogs = Some(binlogs(&[3, 4]));
    for (age, status) in [
        (499, Status::Healthy),
        (501, Status::Degraded),
        (901, Status::Unhealthy),
    ] {
        if let Some(committed) = &mut example.facts.committed {
            committed.timestamp = Some(bson::DateTime::from_millis(SERVER_NOW - age * 1000));
        }
        let mut health = example.judge();
        health.reasons.retain(|reason| reason.about != About::Lag);
        match &health.reasons[..] {
            [] => assert_eq!(status, Status::Healthy),
            [reason] => {
                assert_eq!((health.status, reason.about), (status, About::Headroom));
                assert!(reason.text.contains("SET PERSIST"), "{}", reason.text);
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn what_is_spooled_is_not_needed_of_the_binlog_any_more() {
    let mut example = Example::new();
    example.facts.safe_at = None;
    example.measured.binlogs = Some(binlogs(&[3, 4]));
    if let Some(committed) = &mut example.facts.committed {
        committed.timestamp = Some(bson::DateTime::from_millis(SERVER_NOW - 990_000));
    }
    let share = |example: &Example| {
        let (headroom, _) = example
            .measured
            .headroom(&example.facts, example.now)
            .unwrap();
        headroom.share.unwrap()
    };
    assert!(share(&example) < 0.02);
    example.facts.spooled = example.facts.committed.clone().map(|mut spooled| {
        spooled.timestamp = Some(bson::DateTime::from_millis(SERVER_NOW - 10_000));
        spooled
    });
    assert!(share(&example) > 0.98);
}

#[test]
fn a_file_of_another_server_says_nothing_here() {
    let mut example = Example::new();
    example.facts.safe_at = None;
    example.measured.binlogs = Some(binlogs(&[70, 71]));
    let headroom = |example: &Example| {
        example
            .measured
            .headroom(&example.facts, example.now)
            .unwrap()
            .0
    };
    assert!(headroom(&example).is_gone);
    if let Some(committed) = &mut example.facts.committed {
        committed.server_uuid = "another".to_owned();
    }
    assert!(!headroom(&example).is_gone);
    assert!(headroom(&example).share.unwrap() > 0.99);
}

/// The last commit is of a file that is long purged, and nothing has been written since: nothing is missing.
#[test]
fn on_a_quiet_server_what_is_needed_moves_on_without_a_commit() {
    let mut example = Example::new();
    let (hour_ago, now) = (example.before(3600), example.now);
    example.facts.safe_at = Some(hour_ago + Duration::from_secs(5));
    if let Some(committed) = &mut example.facts.committed {
        committed.timestamp = Some(bson::DateTime::from_millis(SERVER_NOW - 3_700_000));
    }
    let listed = binlogs(&[3, 4]);
    example
        .measured
        .note_binlogs(listed, hour_ago, &example.facts);
    let listed = binlogs(&[4]);
    example.measured.note_binlogs(listed, now, &example.facts);
    let (headroom, _) = example.measured.headroom(&example.facts, now).unwrap();
    assert!(!headroom.is_gone);
    assert_eq!(headroom.share, Some(1.0), "the active file is in no danger");
    // And when it is not the active one any more, its age counts, from the last word of the source.
    let listed = binlogs(&[4, 5]);
    example.measured.note_binlogs(listed, now, &example.facts);
    let (headroom, _) = example.measured.headroom(&example.facts, now).unwrap();
    assert_eq!(headroom.remaining, Some(Duration::ZERO));
}

#[test]
fn a_standby_is_not_ready_and_does_not_miss_a_stream() {
    let mut example = Example::new();
    example.facts.source = crate::board::Source::default();
    example.facts.committed = None;
    example.facts.role = Role::Standby {
        holder: "host-a".to_owned(),
    };
    let health = example.judge();
    assert_eq!((health.status, health.reasons.len()), (Status::Standby, 0));
    assert!(!health.status.is_ready());
}

#[test]
fn a_start_without_mongodb_is_unhealthy_and_says_why() {
    let mut example = Example::new();
    example.facts = Facts::default();
    example.measured = Measured::default();
    assert_eq!(example.judge().status, Status::Starting);
    example.measured.store = Some(Err(Error::new(Kind::StoreUnavailable, "no primary")));
    let (status, _, text) = example.because();
    assert_eq!(status, Status::Unhealthy);
    assert_eq!(text, "mongodb does not answer: no primary");
}

#[test]
fn monitored_is_only_whom_the_reader_got_into() {
    let mut source = Source {
        pulse: source::pulse::Pulse::new(Arc::new(config())),
        refused: None,
        binlogs_at: None,
    };
    let mut facts = Facts::default();
    assert_eq!(source.address(&facts), None);
    facts.source.address = Some("db1:3306".to_owned());
    facts.source.connections = 1;
    assert_eq!(source.address(&facts).as_deref(), Some("db1:3306"));
    source.refused = Some(1);
    assert_eq!(source.address(&facts), None);
    facts.source.connections = 2;
    assert_eq!(source.address(&facts).as_deref(), Some("db1:3306"));
}

fn config() -> Config {
    let variables = [
        ("MYSQL_ADDR", "db1:3306"),
        ("MYSQL_USER", "sdl"),
        ("MONGO_URI", "mongodb://127.0.0.1/?replicaSet=rs0"),
        ("MONGO_DB", "audit"),
    ];
    let sources = crate::config::Sources::from_environment(variables);
    Config::from_sources(&sources).unwrap()
}
