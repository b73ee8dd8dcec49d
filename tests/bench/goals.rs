//! The goals, and what was reached last: the one table that a change of either is made in.
//!
//! A goal that is missed is a verdict, never a failure. What fails a quick run is a collapse: a ratio that in every round was below half
//! of the one that was accepted last. Times of their own fail nothing, since they are the machine's as much as sdl's.

#![allow(unreachable_pub)]

use std::fmt;

/// When, where and by what the accepted ratios were measured: medians of a full run.
pub const ACCEPTED: &str = "2026-11-22, 2 cores, sdl 0.1.0";

/// Below this share of its accepted ratio a figure has collapsed.
pub const COLLAPSE: f64 = 0.5;

/// A part of the benchmark, chosen by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    CatchUp,
    SmallBatches,
    Latency,
    Transaction,
    Idle,
    Start,
    Decode,
    Growth,
    Soak,
}

impl Part {
    pub const ALL: [Self; 9] = [
        Self::CatchUp,
        Self::SmallBatches,
        Self::Latency,
        Self::Transaction,
        Self::Idle,
        Self::Start,
        Self::Decode,
        Self::Growth,
        Self::Soak,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::CatchUp => "catch-up",
            Self::SmallBatches => "batch-100",
            Self::Latency => "latency",
            Self::Transaction => "transaction",
            Self::Idle => "idle",
            Self::Start => "start",
            Self::Decode => "decode",
            Self::Growth => "growth",
            Self::Soak => "soak",
        }
    }

    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|part| part.name() == name)
    }

    /// What measures it, behind `cargo bench --bench pipeline --`.
    fn arguments(self) -> &'static str {
        match self {
            Self::Growth => "--growth",
            Self::Soak => "--soak=60m",
            other => other.name(),
        }
    }
}

/// What is wanted of a figure, or of its ratio to the ceiling where it has one.
#[derive(Clone, Copy, Debug)]
pub enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtLeast(least) => value >= least,
            Self::AtMost(most) => value <= most,
        }
    }
}

impl fmt::Display for Bound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtLeast(least) if *least >= 1000.0 => {
                write!(f, "≥ {}", crate::samples::figure(*least))
            }
            Self::AtLeast(least) => write!(f, "≥ {least}"),
            Self::AtMost(most) => write!(f, "≤ {most}"),
        }
    }
}

/// Names the rows of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    CatchUpToOverlapped,
    CatchUpToInsertMany,
    SmallToStaged,
    DefaultsToStaged,
    Median,
    Tail,
    MedianWhenQuiet,
    SteadyMemory,
    TransactionMemory,
    Flat,
    Idle,
    ProcessorTime,
    DecodeBulk,
    DecodeSingle,
    Growth,
    GrowthOfSameRows,
    Binary,
    Start,
}

/// A row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    pub name: Name,
    /// With the number that it has in the list of goals (docs/performance.md).
    text: &'static str,
    bound: Bound,
    unit: &'static str,
    /// The ratio that was accepted last, where a quick run measures one.
    accepted: Option<f64>,
    part: Part,
}

impl Goal {
    /// The goal of this name.
    pub fn of(name: Name) -> &'static Self {
        let found = GOALS.iter().find(|goal| goal.name == name);
        found.unwrap_or_else(|| panic!("{name:?} is in the table"))
    }

    /// As the table's first column says it.
    pub fn text(&self) -> String {
        format!("{} {} {}", self.text, self.bound, self.unit)
            .trim_end()
            .to_owned()
    }

    /// `value`: the median of the rounds.
    pub fn verdict(&self, value: f64) -> &'static str {
        match self.bound.holds(value) {
            true => "met",
            false => "missed",
        }
    }

    /// Whether the figure is of sdl's own code, so that a build with debug assertions says nothing.
    pub fn wants_release(&self) -> bool {
        matches!(
            self.name,
            Name::ProcessorTime | Name::DecodeBulk | Name::DecodeSingle
        )
    }

    /// What a row says that was not measured.
    pub fn not_measured(&self) -> String {
        format!("not measured: -- {}", self.part.arguments())
    }

    /// Says so when the ratio has collapsed; `best`: of all rounds.
    pub fn collapse(&self, best: f64) -> Option<String> {
        let accepted = self.accepted?;
        // Not a number, of a round that measured nothing, is one as well.
        (best.is_nan() || best < COLLAPSE * accepted).then(|| {
            format!(
                "{}: the best ratio of all rounds is {best:.2}, less than half of the accepted {accepted} ({ACCEPTED})",
                self.text
            )
        })
    }
}

const fn goal(
    name: Name,
    text: &'static str,
    bound: Bound,
    unit: &'static str,
    accepted: Option<f64>,
    part: Part,
) -> Goal {
    Goal {
        name,
        text,
        bound,
        unit,
        accepted,
        part,
    }
}

/// All of them, in the table's order.
#[rustfmt::skip]
pub const GOALS: [Goal; 18] = {
    use Bound::{AtLeast, AtMost};
    use Part::{CatchUp, Decode, Growth, Idle, Latency, SmallBatches, Soak, Start, Transaction};
    [
        goal(Name::CatchUpToOverlapped, "1 catch-up / staging overlaps commit", AtLeast(0.95), "", Some(1.04), CatchUp),
        goal(Name::CatchUpToInsertMany, "1 catch-up / insert_many", AtLeast(0.75), "", Some(0.78), CatchUp),
        goal(Name::SmallToStaged, "2 BATCH_SIZE=100 / staged, then committed", AtLeast(0.95), "", Some(1.47), SmallBatches),
        goal(Name::DefaultsToStaged, "2 defaults / staged, then committed (100)", AtLeast(2.3), "", Some(2.01), SmallBatches),
        goal(Name::Median, "3 COMMIT to visible, 500/s, p50", AtMost(15.0), "ms", None, Latency),
        goal(Name::Tail, "3 COMMIT to visible, 500/s, p99", AtMost(60.0), "ms", None, Latency),
        goal(Name::MedianWhenQuiet, "3 COMMIT to visible, 10/s, p50", AtMost(10.0), "ms", None, Latency),
        goal(Name::SteadyMemory, "4 memory, steady load", AtMost(64.0), "MiB", None, CatchUp),
        goal(Name::TransactionMemory, "4 memory, 2,000,000 rows at once", AtMost(160.0), "MiB", None, Transaction),
        goal(Name::Flat, "4 memory over an hour, end / beginning", AtMost(1.1), "", None, Soak),
        goal(Name::Idle, "4 idle, share of a core", AtMost(0.5), "%", None, Idle),
        goal(Name::ProcessorTime, "5 processor time of sdl, an event", AtMost(15.0), "µs", None, CatchUp),
        goal(Name::DecodeBulk, "5 decode, bulk inserts", AtLeast(500_000.0), "rows/s", None, Decode),
        goal(Name::DecodeSingle, "5 decode, single-row transactions", AtLeast(180_000.0), "rows/s", None, Decode),
        goal(Name::Growth, "6 catch-up, 10,000,000 documents / empty", AtLeast(0.9), "", None, Growth),
        goal(Name::GrowthOfSameRows, "6 the same, rows changed before / empty", AtLeast(0.9), "", None, Growth),
        goal(Name::Binary, "7 binary, stripped", AtMost(20.0), "MB", None, Start),
        goal(Name::Start, "7 start to streaming", AtMost(300.0), "ms", None, Start),
    ]
};
