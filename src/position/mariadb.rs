//! MariaDB's identifiers: `domain-server-sequence`, and the newest of each domain.
//!
//! A domain is one stream of transactions in one order; servers that write into it by turns (a primary and its successor)
//! go on with the same sequence. So where MySQL needs a set of intervals, the newest transaction of each domain says
//! everything: [`GtidPosition`], the form of `@@gtid_slave_pos` and `@@gtid_binlog_pos`. That holds as long as sequence
//! numbers of a domain only grow in the binlog, which the reader checks at every transaction.
//!
//! Text forms: the MariaDB manual's "Global Transaction ID"; `rpl_slave_state::load` and `rpl_binlog_state` in
//! `sql/rpl_gtid.cc`.

use std::fmt;
use std::str::FromStr;

use super::GtidParseError;
use super::text::shown;

/// One MariaDB transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gtid {
    /// The stream of transactions it belongs to (`gtid_domain_id` of the session that wrote it).
    pub domain: u32,
    /// The server it was first committed on (its `server_id`).
    pub server: u32,
    /// Its number in the domain; never 0.
    pub sequence: u64,
}

impl fmt::Display for Gtid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{}-{}-{}",
            self.domain, self.server, self.sequence
        )
    }
}

impl FromStr for Gtid {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        let wrong = || GtidParseError::Mariadb(shown(text));
        let mut parts = text.trim().split('-');
        let mut part = || {
            let digits = parts.next().ok_or_else(wrong)?;
            // A sign is not part of a number, though `u64::from_str` takes it.
            if !digits.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(wrong());
            }
            digits.parse::<u64>().map_err(|_| wrong())
        };
        let (domain, server, sequence) = (part()?, part()?, part()?);
        if sequence == 0 || parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self {
            domain: u32::try_from(domain).map_err(|_| wrong())?,
            server: u32::try_from(server).map_err(|_| wrong())?,
            sequence,
        })
    }
}

/// The newest transaction of each domain: everything up to it, in the domain's order, is meant.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GtidPosition {
    // In order of the domain, one for each.
    newest: Vec<Gtid>,
}

impl GtidPosition {
    /// Whether no domain is in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.newest.is_empty()
    }

    /// The newest transaction of each domain, in order of the domains.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Gtid> {
        self.newest.iter()
    }

    /// The newest transaction of a domain.
    #[must_use]
    pub fn newest(&self, domain: u32) -> Option<&Gtid> {
        self.newest.get(self.find(domain).ok()?)
    }

    /// Whether `gtid` lies at or before the newest of its domain.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        self.newest(gtid.domain)
            .is_some_and(|newest| newest.sequence >= gtid.sequence)
    }

    /// Moves a domain on to `gtid`; `false` if it stood there or further already.
    pub fn add(&mut self, gtid: &Gtid) -> bool {
        match self.find(gtid.domain) {
            Ok(index) => match self.newest.get_mut(index) {
                Some(newest) if newest.sequence < gtid.sequence => {
                    *newest = *gtid;
                    true
                }
                _ => false,
            },
            Err(index) => {
                self.newest.insert(index, *gtid);
                true
            }
        }
    }

    /// Puts a domain back to `previous`, or takes it out.
    pub fn put_back(&mut self, domain: u32, previous: Option<Gtid>) {
        self.newest.retain(|newest| newest.domain != domain);
        if let Some(previous) = previous {
            self.add(&previous);
        }
    }

    /// Whether every transaction of this position is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.newest.iter().all(|gtid| other.contains(gtid))
    }

    /// The domains in which this position is further than `other`.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Self {
        let newest = self.newest.iter().filter(|gtid| !other.contains(gtid));
        Self {
            newest: newest.copied().collect(),
        }
    }

    fn find(&self, domain: u32) -> Result<usize, usize> {
        self.newest
            .binary_search_by_key(&domain, |gtid| gtid.domain)
    }
}

impl fmt::Display for GtidPosition {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, gtid) in self.newest.iter().enumerate() {
            if index > 0 {
                formatter.write_str(",")?;
            }
            write!(formatter, "{gtid}")?;
        }
        Ok(())
    }
}

/// Every server's newest transaction in every domain: `@@gtid_binlog_state`. Unlike a position it tells a server that has a
/// transaction from one whose domain merely got further without it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BinlogState(Vec<Gtid>);

impl BinlogState {
    /// Whether the server has this very transaction.
    #[must_use]
    pub fn has(&self, gtid: &Gtid) -> bool {
        self.0.iter().any(|newest| {
            (newest.domain, newest.server) == (gtid.domain, gtid.server)
                && newest.sequence >= gtid.sequence
        })
    }

    /// Adds a transaction.
    pub fn add(&mut self, gtid: Gtid) {
        self.0.push(gtid);
    }

    /// Of what a replica has `applied`, the domains in which it has logged nothing.
    #[must_use]
    pub fn not_logged(&self, applied: &GtidPosition) -> Vec<Gtid> {
        let logged = |gtid: &&Gtid| self.0.iter().any(|newest| newest.domain == gtid.domain);
        applied
            .iter()
            .filter(|gtid| !logged(gtid))
            .copied()
            .collect()
    }

    /// The newest transaction of each domain.
    #[must_use]
    pub fn position(&self) -> GtidPosition {
        let mut position = GtidPosition::default();
        for gtid in &self.0 {
            position.add(gtid);
        }
        position
    }
}

impl FromStr for BinlogState {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        let gtids = text.split(',').map(|part| {
            if part.trim().is_empty() {
                return Err(GtidParseError::Empty(shown(text)));
            }
            part.parse()
        });
        gtids.collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::position::GtidSet;

    fn position(text: &str) -> GtidPosition {
        text.parse::<BinlogState>().unwrap().position()
    }

    fn gtid(text: &str) -> Gtid {
        text.parse().unwrap()
    }

    #[test]
    fn one_transaction_reads_and_prints() {
        for text in [
            "0-1-1",
            "4294967295-4294967295-18446744073709551615",
            "7-0-3",
        ] {
            assert_eq!(gtid(text).to_string(), text);
        }
        for text in [
            "",
            "0",
            "0-1",
            "0-1-0",
            "0-1-2-3",
            "0--1",
            "+0-1-2",
            "0-1-x",
            "4294967296-1-1",
            "0-1-18446744073709551616",
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:1",
        ] {
            let error = text.parse::<Gtid>().expect_err(text).to_string();
            assert!(error.contains("0-1-100"), "{text}: {error}");
        }
    }

    #[test]
    fn a_position_is_the_newest_of_each_domain() {
        let mut at = position("1-1-5,0-1-100,0-2-90");
        assert_eq!(at.to_string(), "0-1-100,1-1-5");
        assert!(at.contains(&gtid("0-7-100")) && !at.contains(&gtid("0-1-101")));
        assert!(!at.contains(&gtid("2-1-1")));
        assert!(at.add(&gtid("0-2-101")) && !at.add(&gtid("0-2-101")) && !at.add(&gtid("0-1-7")));
        assert!(at.add(&gtid("2-1-1")));
        assert_eq!(at.to_string(), "0-2-101,1-1-5,2-1-1");
        assert_eq!(at.newest(1), Some(&gtid("1-1-5")));
    }

    #[test]
    fn a_position_goes_back_by_one_transaction() {
        let mut at = position("0-1-100,1-1-5");
        at.put_back(0, Some(gtid("0-2-99")));
        at.put_back(1, None);
        assert_eq!(at.to_string(), "0-2-99");
    }

    #[test]
    fn what_lies_beyond_is_told_by_domain() {
        let (far, near) = (position("0-1-100,1-1-5,2-1-1"), position("0-1-99,1-1-5"));
        assert!(near.is_subset(&far) && !far.is_subset(&near));
        assert_eq!(far.beyond(&near).to_string(), "0-1-100,2-1-1");
        assert!(near.beyond(&far).is_empty());
    }

    #[test]
    fn a_server_that_got_further_without_a_transaction_does_not_have_it() {
        let state: BinlogState = "0-1-5,0-2-12".parse().unwrap();
        assert!(state.has(&gtid("0-1-5")) && state.has(&gtid("0-2-7")));
        assert!(!state.has(&gtid("0-1-9")) && !state.has(&gtid("1-1-1")));
        assert_eq!(state.position().to_string(), "0-2-12");
        let applied = position("0-3-1,4-1-7");
        assert_eq!(state.not_logged(&applied), [gtid("4-1-7")]);
    }

    #[test]
    fn a_text_that_was_cut_is_no_smaller_position() {
        for text in ["0-1-100,", ",0-1-100", "0-1-100,,1-1-5", "0-1-100,1-1"] {
            assert!(text.parse::<BinlogState>().is_err(), "{text}");
            assert!(text.parse::<GtidSet>().is_err(), "{text}");
        }
    }
}
