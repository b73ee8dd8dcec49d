//! A set of MySQL transactions, as `@@gtid_executed` and `@@gtid_purged` print it.
//!
//! What it guarantees: whatever the order in which transactions are added, equal sets are equal values and print the
//! same text; a text that is not wholly understood is an error, never a smaller set (a transaction left out of the set
//! is read and stored again, one wrongly in it is lost).
//!
//! The form: `uuid:1-5:7-9:tag1:1-3:5,` and the next server; in lower case, servers in order of their bytes, the
//! untagged intervals before those of each tag, intervals merged and ascending. That is what `Gtid_set::to_string`
//! (`sql/rpl_gtid_set.cc`) prints, but for the line break it puts behind each comma: sets stand in log lines here, and
//! every server reads both forms.

use std::fmt;
use std::str::FromStr;

use super::super::GtidParseError;
use super::super::text::shown;
use super::gtid::{Gtid, Tag, parse_number, parse_uuid, write_uuid};

/// Consecutive transactions: from `start` to just before `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Interval {
    /// The first number in it; at least 1.
    pub start: u64,
    /// The first number behind it; COM_BINLOG_DUMP_GTID counts the same way.
    pub end: u64,
}

impl Interval {
    /// How many transactions it holds.
    fn count(self) -> u64 {
        self.end - self.start
    }
}

/// The transactions of one server that carry one tag, or none.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SourceIntervals {
    uuid: [u8; 16],
    tag: Option<Tag>,
    // Ascending, never empty, never touching each other: the one form a set of numbers has.
    intervals: Vec<Interval>,
}

impl SourceIntervals {
    /// The server's UUID.
    #[must_use]
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// The tag, if these are tagged transactions.
    #[must_use]
    pub fn tag(&self) -> Option<&Tag> {
        self.tag.as_ref()
    }

    /// The numbers: ascending intervals with a gap between each two.
    #[must_use]
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    fn key(&self) -> (&[u8; 16], Option<&Tag>) {
        (&self.uuid, self.tag.as_ref())
    }
}

/// A set of MySQL transactions.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GtidSet {
    // In order of (uuid, tag), where no tag comes first; no source without an interval.
    sources: Vec<SourceIntervals>,
}

impl GtidSet {
    /// The empty set.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sources.is_empty()
    }

    /// How many transactions are in it. Several servers together can pass 2^64.
    #[must_use]
    pub fn count(&self) -> u128 {
        self.sources
            .iter()
            .flat_map(|source| &source.intervals)
            .map(|interval| u128::from(interval.count()))
            .sum()
    }

    /// Each server and tag with its intervals, in the order of the printed form.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &SourceIntervals> {
        self.sources.iter()
    }

    /// Whether `gtid` is in it.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        let number = gtid.number();
        self.intervals_of(gtid.uuid(), gtid.tag())
            .is_some_and(|intervals| {
                let after = intervals.partition_point(|interval| interval.end <= number);
                intervals
                    .get(after)
                    .is_some_and(|interval| interval.start <= number)
            })
    }

    /// Adds one transaction; `false` if it was there already.
    ///
    /// The common case, the number behind the last one of its server, extends the last interval: one binary search
    /// over the servers and no allocation.
    pub fn add(&mut self, gtid: &Gtid) -> bool {
        let number = gtid.number();
        let intervals = self.intervals_of_mut(gtid.uuid(), gtid.tag());
        match intervals.last_mut() {
            Some(last) if last.end == number => {
                last.end += 1;
                true
            }
            Some(last) if last.end > number => {
                let after = intervals.partition_point(|interval| interval.end <= number);
                let found = intervals
                    .get(after)
                    .is_some_and(|interval| interval.start <= number);
                if !found {
                    insert(
                        intervals,
                        Interval {
                            start: number,
                            end: number + 1,
                        },
                    );
                }
                !found
            }
            _ => {
                intervals.push(Interval {
                    start: number,
                    end: number + 1,
                });
                true
            }
        }
    }

    /// Whether every transaction of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.sources.iter().all(|source| {
            let Some(others) = other.intervals_of(source.uuid, source.tag.as_ref()) else {
                return false;
            };
            source.intervals.iter().all(|interval| {
                // Intervals never touch, so one that is covered is covered by a single one.
                let after = others.partition_point(|candidate| candidate.end < interval.end);
                others
                    .get(after)
                    .is_some_and(|candidate| candidate.start <= interval.start)
            })
        })
    }

    /// The transactions of this set that are not in `other`.
    #[must_use]
    pub fn subtract(&self, other: &Self) -> Self {
        let sources = self.sources.iter().filter_map(|source| {
            let others = other.intervals_of(source.uuid, source.tag.as_ref());
            let intervals = subtract(&source.intervals, others.unwrap_or_default());
            (!intervals.is_empty()).then(|| SourceIntervals {
                uuid: source.uuid,
                tag: source.tag.clone(),
                intervals,
            })
        });
        Self {
            sources: sources.collect(),
        }
    }

    /// The transactions that are in this set, in `other`, or in both.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut union = self.clone();
        for source in &other.sources {
            let intervals = union.intervals_of_mut(source.uuid, source.tag.as_ref());
            for interval in &source.intervals {
                insert(intervals, *interval);
            }
        }
        union
    }

    fn find(&self, uuid: &[u8; 16], tag: Option<&Tag>) -> Result<usize, usize> {
        self.sources
            .binary_search_by(|source| source.key().cmp(&(uuid, tag)))
    }

    fn intervals_of(&self, uuid: [u8; 16], tag: Option<&Tag>) -> Option<&[Interval]> {
        let index = self.find(&uuid, tag).ok()?;
        self.sources
            .get(index)
            .map(|source| source.intervals.as_slice())
    }

    /// The intervals to add to. The caller leaves at least one in them: a source without any is not in the set.
    fn intervals_of_mut(&mut self, uuid: [u8; 16], tag: Option<&Tag>) -> &mut Vec<Interval> {
        let index = self.find(&uuid, tag).unwrap_or_else(|index| {
            let source = SourceIntervals {
                uuid,
                tag: tag.cloned(),
                intervals: Vec::new(),
            };
            self.sources.insert(index, source);
            index
        });
        &mut self.sources[index].intervals
    }
}

/// Adds an interval, merged with every one it overlaps or touches.
fn insert(intervals: &mut Vec<Interval>, added: Interval) {
    let first = intervals.partition_point(|interval| interval.end < added.start);
    let behind = intervals.partition_point(|interval| interval.start <= added.end);
    let mut merged = added;
    if let Some(touched) = intervals.get(first..behind) {
        for interval in touched {
            merged.start = merged.start.min(interval.start);
            merged.end = merged.end.max(interval.end);
        }
    }
    intervals.splice(first..behind, [merged]);
}

/// The parts of `from` that no interval of `taken` covers; one pass over both.
fn subtract(from: &[Interval], taken: &[Interval]) -> Vec<Interval> {
    let mut left = Vec::with_capacity(from.len());
    let mut taken = taken.iter().copied().peekable();
    for interval in from {
        let mut start = interval.start;
        while let Some(other) = taken.peek().filter(|other| other.start < interval.end) {
            if other.start > start {
                left.push(Interval {
                    start,
                    end: other.start,
                });
            }
            start = start.max(other.end);
            if other.end > interval.end {
                // It may reach into the next interval too.
                break;
            }
            taken.next();
        }
        if start < interval.end {
            left.push(Interval {
                start,
                end: interval.end,
            });
        }
    }
    left
}

impl fmt::Display for GtidSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut previous = None;
        for source in &self.sources {
            if previous != Some(source.uuid) {
                if previous.is_some() {
                    formatter.write_str(",")?;
                }
                write_uuid(formatter, &source.uuid)?;
                previous = Some(source.uuid);
            }
            if let Some(tag) = &source.tag {
                write!(formatter, ":{tag}")?;
            }
            for interval in &source.intervals {
                write!(formatter, ":{}", interval.start)?;
                if interval.count() > 1 {
                    write!(formatter, "-{}", interval.end - 1)?;
                }
            }
        }
        Ok(())
    }
}

impl FromStr for GtidSet {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        let mut set = Self::new();
        if text.trim().is_empty() {
            return Ok(set);
        }
        for part in text.split(',') {
            if part.trim().is_empty() {
                return Err(GtidParseError::Empty(shown(text)));
            }
            set.add_source(part)?;
        }
        Ok(set)
    }
}

impl GtidSet {
    /// Adds one server's part of the text: `uuid:1-5:7:tag1:1-3`. White space may stand around each separator.
    fn add_source(&mut self, text: &str) -> Result<(), GtidParseError> {
        let mut parts = text.split(':').map(str::trim);
        let uuid = parse_uuid(parts.next().unwrap_or_default())?;
        let mut tag = None;
        // The tag, or the server, that still waits for its first interval.
        let mut open = true;
        for part in parts {
            if part.starts_with(|first: char| first.is_ascii_digit()) {
                let interval = parse_interval(part)?;
                insert(self.intervals_of_mut(uuid, tag.as_ref()), interval);
                open = false;
            } else if tag.is_some() && open {
                return Err(GtidParseError::NoNumber(shown(text)));
            } else {
                tag = Some(Tag::new(part)?);
                open = true;
            }
        }
        if open {
            return Err(GtidParseError::NoNumber(shown(text)));
        }
        Ok(())
    }
}

/// Reads `7` or `1-5`.
fn parse_interval(text: &str) -> Result<Interval, GtidParseError> {
    let (first, last) = match text.split_once('-') {
        Some((first, last)) => (parse_number(first.trim())?, parse_number(last.trim())?),
        None => {
            let number = parse_number(text)?;
            (number, number)
        }
    };
    if last < first {
        return Err(GtidParseError::Reversed(shown(text)));
    }
    Ok(Interval {
        start: first,
        end: last + 1,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests;
