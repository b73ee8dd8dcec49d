//! What happens, and in which order: drawn from a seed before it happens, so that the same seed draws the same faults on any machine.

use std::fmt;
use std::time::Duration;

use fastrand::Rng;

/// One thing that goes wrong, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    MongodKilled,
    MongodStopped,
    MongodPaused,
    MysqldKilled,
    MysqldStopped,
    MysqldPaused,
    DumpThreadsKilled,
    BinlogFlushed,
    BinlogPurged,
    SchemaChanged,
    TableEmptied,
    LargeTransaction,
    SdlKilled,
    SdlTerminated,
    SdlPaused,
    /// At a crash point: which one of the list, and how often the daemon comes by before.
    SdlCrashed {
        point: usize,
        passes: u8,
    },
    Line(End, Weather),
}

/// Which line is bad.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum End {
    Mysql,
    Mongodb,
}

/// What is bad about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weather {
    Cut,
    CutInsidePacket,
    Stalled,
    Refused,
    Latency,
    Lossy,
    Narrow,
}

/// Whom a fault hurts: two at once never hurt the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Mongodb,
    Mysql,
    Sdl,
}

/// A fault with its duration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Blow {
    pub(crate) fault: Fault,
    pub(crate) lasts: Duration,
    /// Which of two daemons it hurts, if it hurts one.
    pub(crate) daemon: usize,
}

/// One or two faults at once, and the time after them.
#[derive(Clone, Debug)]
pub(crate) struct Act {
    pub(crate) blows: Vec<Blow>,
    pub(crate) then: Then,
}

/// What follows an act.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then {
    /// The next one, after a moment.
    Next(Duration),
    /// Everything that MySQL has executed so far is to be recorded first.
    CaughtUp,
}

/// The acts of a seed, without an end.
pub(crate) struct Plan {
    random: Rng,
    crash_points: usize,
}

impl Plan {
    /// `crash_points`: how many there are to choose from; none in a build without them.
    pub(crate) fn new(seed: u64, crash_points: usize) -> Self {
        Self {
            random: Rng::with_seed(seed),
            crash_points,
        }
    }

    fn blow(&mut self) -> Blow {
        let random = &mut self.random;
        let fault = match random.u8(..100) {
            0..8 => Fault::MongodKilled,
            8..11 => Fault::MongodStopped,
            11..16 => Fault::MongodPaused,
            16..22 => Fault::MysqldKilled,
            22..23 => Fault::MysqldStopped,
            23..26 => Fault::MysqldPaused,
            26..31 => Fault::DumpThreadsKilled,
            31..34 => Fault::BinlogFlushed,
            34..38 => Fault::BinlogPurged,
            38..42 => Fault::SchemaChanged,
            42..44 => Fault::TableEmptied,
            44..48 => Fault::LargeTransaction,
            48..58 => Fault::SdlKilled,
            58..64 => Fault::SdlTerminated,
            64..68 => Fault::SdlPaused,
            68..76 if self.crash_points > 0 => Fault::SdlCrashed {
                point: random.usize(..self.crash_points),
                passes: random.u8(..20),
            },
            _ => {
                let end = if random.bool() {
                    End::Mysql
                } else {
                    End::Mongodb
                };
                let weather = [
                    Weather::Cut,
                    Weather::Cut,
                    Weather::CutInsidePacket,
                    Weather::Stalled,
                    Weather::Refused,
                    Weather::Latency,
                    Weather::Lossy,
                    Weather::Narrow,
                ];
                Fault::Line(end, weather[random.usize(..weather.len())])
            }
        };
        // Mostly short, some longer than what opens the breaker, a few longer than what takes a silent line for dead.
        let lasts = match random.u8(..20) {
            0..10 => random.u64(..1_500),
            10..17 => random.u64(1_500..6_000),
            17..19 => random.u64(6_000..15_000),
            _ => random.u64(15_000..40_000),
        };
        Blow {
            fault,
            lasts: Duration::from_millis(lasts),
            daemon: random.usize(..2),
        }
    }
}

impl Iterator for Plan {
    type Item = Act;

    fn next(&mut self) -> Option<Act> {
        let mut blows = vec![self.blow()];
        if self.random.u8(..4) == 0 {
            let second = self.blow();
            if second.fault.victim() != blows[0].fault.victim() {
                blows.push(second);
            }
        }
        let then = if self.random.u8(..8) == 0 {
            Then::CaughtUp
        } else {
            Then::Next(Duration::from_millis(self.random.u64(..2_000)))
        };
        Some(Act { blows, then })
    }
}

impl Fault {
    fn victim(self) -> Victim {
        match self {
            Self::MongodKilled
            | Self::MongodStopped
            | Self::MongodPaused
            | Self::Line(End::Mongodb, _) => Victim::Mongodb,
            Self::MysqldKilled
            | Self::MysqldStopped
            | Self::MysqldPaused
            | Self::DumpThreadsKilled
            | Self::BinlogFlushed
            | Self::BinlogPurged
            | Self::SchemaChanged
            | Self::TableEmptied
            | Self::LargeTransaction
            | Self::Line(End::Mysql, _) => Victim::Mysql,
            Self::SdlKilled | Self::SdlTerminated | Self::SdlPaused | Self::SdlCrashed { .. } => {
                Victim::Sdl
            }
        }
    }

    /// Its kind, as the figures count it.
    pub(crate) fn kind(self) -> &'static str {
        match self {
            Self::MongodKilled => "mongod killed",
            Self::MongodStopped => "mongod restarted",
            Self::MongodPaused => "mongod stopped (SIGSTOP)",
            Self::MysqldKilled => "mysqld killed",
            Self::MysqldStopped => "mysqld restarted",
            Self::MysqldPaused => "mysqld stopped (SIGSTOP)",
            Self::DumpThreadsKilled => "dump threads killed",
            Self::BinlogFlushed => "binlog rotated",
            Self::BinlogPurged => "binlog purged",
            Self::SchemaChanged => "ALTER TABLE",
            Self::TableEmptied => "TRUNCATE",
            Self::LargeTransaction => "large transaction",
            Self::SdlKilled => "sdl killed",
            Self::SdlTerminated => "sdl terminated",
            Self::SdlPaused => "sdl stopped (SIGSTOP)",
            Self::SdlCrashed { .. } => "sdl crashed at a crash point",
            Self::Line(End::Mysql, weather) => match weather {
                Weather::Cut => "line to mysql cut",
                Weather::CutInsidePacket => "line to mysql reset inside a packet",
                Weather::Stalled => "line to mysql half open",
                Weather::Refused => "line to mysql refused",
                Weather::Latency => "line to mysql 200 ms away",
                Weather::Lossy => "line to mysql lossy",
                Weather::Narrow => "line to mysql 100 kB/s",
            },
            Self::Line(End::Mongodb, weather) => match weather {
                Weather::Cut => "line to mongodb cut",
                Weather::CutInsidePacket => "line to mongodb reset inside a packet",
                Weather::Stalled => "line to mongodb half open",
                Weather::Refused => "line to mongodb refused",
                Weather::Latency => "line to mongodb 200 ms away",
                Weather::Lossy => "line to mongodb lossy",
                Weather::Narrow => "line to mongodb 100 kB/s",
            },
        }
    }
}

impl fmt::Display for Act {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, blow) in self.blows.iter().enumerate() {
            let and = if index > 0 { ", with " } else { "" };
            write!(
                formatter,
                "{and}{} ({} ms)",
                blow.fault.kind(),
                blow.lasts.as_millis()
            )?;
        }
        if let Then::CaughtUp = self.then {
            formatter.write_str("; then all of it")?;
        }
        Ok(())
    }
}

#[test]
fn a_seed_draws_the_same_faults_again_and_all_kinds_are_drawn() {
    let drawn = |seed| -> Vec<String> {
        Plan::new(seed, 10)
            .take(2_000)
            .map(|act| act.to_string())
            .collect()
    };
    assert_eq!(drawn(7), drawn(7));
    assert_ne!(drawn(7), drawn(8));
    let kinds: std::collections::BTreeSet<&str> = Plan::new(7, 10)
        .take(2_000)
        .flat_map(|act| act.blows)
        .map(|blow| blow.fault.kind())
        .collect();
    assert_eq!(kinds.len(), 16 + 14, "{kinds:#?}");
    assert!(Plan::new(7, 10).take(2_000).any(|act| act.blows.len() == 2));
}
