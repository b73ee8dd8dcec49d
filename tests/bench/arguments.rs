//! How much is measured: what stands behind `--` on the command line.

#![allow(unreachable_pub)]

use std::time::Duration;

use crate::goals::Part;

/// How much is done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    pub is_quick: bool,
    /// Row events of the backlog.
    pub events: u64,
    /// Of them for the daemon and the ceiling with small batches, at least.
    pub small_events: u64,
    pub rounds: usize,
    /// No further round of catching up begins so long after the first one: on a busy machine there are fewer.
    pub last_round_begins: Duration,
    /// Transactions a second, and for how long.
    pub latency: [(u32, Duration); 2],
    /// Of one stretch without load.
    pub idle: Duration,
    /// After the first one.
    pub starts: usize,
    /// Rows of the one transaction.
    pub transaction_rows: u64,
    pub bulk_rows: u64,
    pub single_rows: u64,
    /// Of what takes a second.
    pub short_rounds: usize,
    /// Documents that are there before.
    pub grown: usize,
    pub soak: Option<Duration>,
}

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

const FULL: Plan = Plan {
    is_quick: false,
    events: 1_000_000,
    small_events: 150_000,
    rounds: 5,
    last_round_begins: seconds(1_200),
    latency: [(500, seconds(10)), (10, seconds(6))],
    idle: seconds(8),
    starts: 9,
    transaction_rows: 2_000_000,
    bulk_rows: 1_000_000,
    single_rows: 300_000,
    short_rounds: 7,
    grown: 10_000_000,
    soak: None,
};

const QUICK: Plan = Plan {
    is_quick: true,
    events: 160_000,
    small_events: 30_000,
    rounds: 3,
    last_round_begins: seconds(60),
    latency: [(500, seconds(5)), (10, seconds(3))],
    idle: seconds(4),
    starts: 3,
    transaction_rows: 2_000_000,
    bulk_rows: 300_000,
    single_rows: 50_000,
    short_rounds: 3,
    grown: 500_000,
    soak: None,
};

/// What was asked for.
#[derive(Debug)]
pub struct Arguments {
    pub plan: Plan,
    pub parts: Vec<Part>,
    /// Of the daemon: `NAME=value`.
    pub settings: Vec<(String, String)>,
    /// Of MongoDB, in GiB; none: that of the tests.
    pub cache: Option<f64>,
}

impl Arguments {
    /// # Errors
    /// What is no argument, with what is one.
    pub fn parse(words: &[String]) -> Result<Self, String> {
        let mut plan = FULL;
        if words.iter().any(|word| word == "--quick") {
            plan = QUICK;
        }
        let (mut chosen, mut added) = (Vec::new(), Vec::new());
        let (mut settings, mut cache) = (Vec::new(), None);
        for word in words {
            if word == "--bench" || word == "--quick" {
            } else if word == "--growth" {
                added.push(Part::Growth);
            } else if let Some(length) = word.strip_prefix("--soak=") {
                let minutes = length
                    .strip_suffix('m')
                    .and_then(|minutes| minutes.parse().ok());
                let minutes: u64 = minutes.ok_or_else(|| refused(word))?;
                plan.soak = Some(seconds(60 * minutes));
                added.push(Part::Soak);
            } else if let Some(size) = word.strip_prefix("--cache=") {
                let size: f64 = size.parse().map_err(|_| refused(word))?;
                cache = Some(size);
            } else if let Some(part) = Part::named(word) {
                chosen.push(part);
            } else if let Some((name, value)) = word.split_once('=')
                && !name.starts_with('-')
            {
                settings.push((name.to_owned(), value.to_owned()));
            } else {
                return Err(refused(word));
            }
        }
        if chosen.is_empty() {
            chosen = Part::ALL.to_vec();
            chosen.retain(|part| match part {
                Part::Growth | Part::Soak => false,
                Part::Transaction => !plan.is_quick,
                _ => true,
            });
        }
        chosen.extend(added);
        if chosen.contains(&Part::Soak) {
            plan.soak.get_or_insert(seconds(3_600));
        }
        Ok(Self {
            plan,
            parts: chosen,
            settings,
            cache,
        })
    }
}

fn refused(word: &str) -> String {
    let parts: Vec<&str> = Part::ALL.into_iter().map(Part::name).collect();
    format!(
        "{word}: expected --quick, --growth, --soak=MINUTESm, --cache=GIB, a setting NAME=value, or a part: {}",
        parts.join(", ")
    )
}
