//! A transaction's identifier and a set of them, of either flavor.
//!
//! Everything behind the source (batches, offsets, recovery) only compares, adds and stores identifiers, and need not know
//! whose they are. A set has room for both flavors; one source only ever fills one of them, and an empty set is of neither.

use std::fmt;
use std::str::FromStr;

use super::text::shown;
use super::{GtidParseError, mariadb, mysql};

/// Which of the two servers a source is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Flavor {
    /// MySQL 8.0 and later.
    #[default]
    Mysql,
    /// MariaDB 10.6 and later.
    Mariadb,
}

impl Flavor {
    /// The name in settings and documents.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Mysql => "mysql",
            Self::Mariadb => "mariadb",
        }
    }

    /// The flavor of that name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Mysql, Self::Mariadb]
            .into_iter()
            .find(|flavor| flavor.name() == name)
    }
}

impl fmt::Display for Flavor {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// One source transaction. Cloning it allocates nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Gtid {
    /// `uuid:number`, `uuid:tag:number`.
    Mysql(mysql::Gtid),
    /// `domain-server-sequence`.
    Mariadb(mariadb::Gtid),
}

impl fmt::Display for Gtid {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mysql(gtid) => gtid.fmt(formatter),
            Self::Mariadb(gtid) => gtid.fmt(formatter),
        }
    }
}

impl FromStr for Gtid {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        if looks_like_mariadb(text) {
            text.parse().map(Self::Mariadb)
        } else {
            text.parse().map(Self::Mysql)
        }
    }
}

/// Three numbers, or nearly: digits, and fewer hyphens than a UUID has. A MySQL identifier has a colon.
fn looks_like_mariadb(text: &str) -> bool {
    let mut hyphens = 0;
    let numbers = text.trim().bytes().all(|byte| {
        hyphens += u32::from(byte == b'-');
        byte.is_ascii_digit() || byte == b'-'
    });
    numbers && (1..4).contains(&hyphens)
}

/// The transactions that were taken in.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct GtidSet {
    mysql: mysql::GtidSet,
    mariadb: mariadb::GtidPosition,
}

impl From<mysql::GtidSet> for GtidSet {
    fn from(mysql: mysql::GtidSet) -> Self {
        Self {
            mysql,
            ..Self::default()
        }
    }
}

impl From<mariadb::GtidPosition> for GtidSet {
    fn from(mariadb: mariadb::GtidPosition) -> Self {
        Self {
            mariadb,
            ..Self::default()
        }
    }
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
        self.mysql.is_empty() && self.mariadb.is_empty()
    }

    /// The part that a MySQL server understands.
    #[must_use]
    pub fn mysql(&self) -> &mysql::GtidSet {
        &self.mysql
    }

    /// The part that a MariaDB server understands.
    #[must_use]
    pub fn mariadb(&self) -> &mariadb::GtidPosition {
        &self.mariadb
    }

    /// Whether it holds identifiers of a flavor other than this one.
    #[must_use]
    pub fn is_foreign_to(&self, flavor: Flavor) -> bool {
        match flavor {
            Flavor::Mysql => !self.mariadb.is_empty(),
            Flavor::Mariadb => !self.mysql.is_empty(),
        }
    }

    /// Whether `gtid` is in it.
    #[must_use]
    pub fn contains(&self, gtid: &Gtid) -> bool {
        match gtid {
            Gtid::Mysql(gtid) => self.mysql.contains(gtid),
            Gtid::Mariadb(gtid) => self.mariadb.contains(gtid),
        }
    }

    /// Adds one transaction; `false` if it was there already.
    pub fn add(&mut self, gtid: &Gtid) -> bool {
        match gtid {
            Gtid::Mysql(gtid) => self.mysql.add(gtid),
            Gtid::Mariadb(gtid) => self.mariadb.add(gtid),
        }
    }

    /// The transaction that came just before `gtid` would be added, where only that tells how to go back: in MariaDB's
    /// domains. A MySQL set says by itself what it is without a transaction.
    #[must_use]
    pub fn predecessor(&self, gtid: &Gtid) -> Option<Gtid> {
        match gtid {
            Gtid::Mysql(_) => None,
            Gtid::Mariadb(gtid) => self.mariadb.newest(gtid.domain).copied().map(Gtid::Mariadb),
        }
    }

    /// The set as it was before `gtid`, the newest of its server or domain, was added behind `predecessor`.
    #[must_use]
    pub fn without(&self, gtid: &Gtid, predecessor: Option<&Gtid>) -> Self {
        let mut without = self.clone();
        match gtid {
            Gtid::Mysql(gtid) => {
                let mut one = mysql::GtidSet::new();
                one.add(gtid);
                without.mysql = self.mysql.subtract(&one);
            }
            Gtid::Mariadb(gtid) => {
                let predecessor = match predecessor {
                    Some(Gtid::Mariadb(predecessor)) => Some(*predecessor),
                    _ => None,
                };
                without.mariadb.put_back(gtid.domain, predecessor);
            }
        }
        without
    }

    /// Whether every transaction of this set is in `other`.
    #[must_use]
    pub fn is_subset(&self, other: &Self) -> bool {
        self.mysql.is_subset(&other.mysql) && self.mariadb.is_subset(&other.mariadb)
    }

    /// The transactions that are in this set, in `other`, or in both; of MariaDB's domains, the newest of the two.
    #[must_use]
    pub fn union(&self, other: &Self) -> Self {
        let mut mariadb = self.mariadb.clone();
        for gtid in other.mariadb.iter() {
            mariadb.add(gtid);
        }
        Self {
            mysql: self.mysql.union(&other.mysql),
            mariadb,
        }
    }

    /// What this set has and `other` lacks, in words for an operator; `None` when there is nothing. MariaDB's identifiers
    /// cannot be counted off: what lies between two of a domain is told by its ends.
    #[must_use]
    pub fn beyond(&self, other: &Self) -> Option<String> {
        let mysql = self.mysql.subtract(&other.mysql);
        let mut parts = Vec::new();
        if !mysql.is_empty() {
            parts.push(format!("{} transaction(s), {mysql}", mysql.count()));
        }
        for newest in self.mariadb.beyond(&other.mariadb).iter() {
            parts.push(match other.mariadb.newest(newest.domain) {
                Some(before) => format!("the transactions after {before} up to {newest}"),
                None => format!(
                    "the transactions of domain {} up to {newest}",
                    newest.domain
                ),
            });
        }
        (!parts.is_empty()).then(|| parts.join(", and "))
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.mysql.fmt(formatter)?;
        if !self.mysql.is_empty() && !self.mariadb.is_empty() {
            formatter.write_str(",")?;
        }
        self.mariadb.fmt(formatter)
    }
}

impl FromStr for GtidSet {
    type Err = GtidParseError;

    fn from_str(text: &str) -> Result<Self, GtidParseError> {
        if !text.split(',').any(looks_like_mariadb) {
            return text.parse::<mysql::GtidSet>().map(Self::from);
        }
        let mut set = Self::new();
        for part in text.split(',') {
            if part.trim().is_empty() {
                return Err(GtidParseError::Empty(shown(text)));
            }
            let gtid: mariadb::Gtid = part.parse()?;
            if let Some(other) = set.mariadb.newest(gtid.domain) {
                return Err(GtidParseError::TwoOfOneDomain(
                    other.to_string(),
                    gtid.to_string(),
                ));
            }
            set.mariadb.add(&gtid);
        }
        Ok(set)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(text: &str) -> GtidSet {
        text.parse().unwrap()
    }

    fn gtid(text: &str) -> Gtid {
        text.parse().unwrap()
    }

    #[test]
    fn both_flavors_read_and_print() {
        for text in [
            String::new(),
            format!("{UUID}:1-5"),
            "0-1-100,7-2-3".to_owned(),
        ] {
            assert_eq!(set(&text).to_string(), text);
        }
        assert_eq!(set(" 7-2-3 , 0-1-100 "), set("0-1-100,7-2-3"));
        assert!(matches!(gtid("0-1-100"), Gtid::Mariadb(_)));
        assert!(matches!(gtid(&format!("{UUID}:7")), Gtid::Mysql(_)));
        assert_eq!(set(""), GtidSet::new());
    }

    #[test]
    fn flavors_do_not_mix_in_one_text_and_a_domain_has_one_newest() {
        for text in [
            format!("0-1-100,{UUID}:1"),
            format!("{UUID}:1,0-1-100"),
            "0-1-100,0-2-90".to_owned(),
            "11111111-1111-1111-1111-111111111111".to_owned(),
        ] {
            assert!(text.parse::<GtidSet>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_set_goes_back_by_the_transaction_that_was_added_last() {
        for (before, added) in [
            ("0-1-99,1-1-5", "0-2-100"),
            ("1-1-5", "0-2-100"),
            ("", "0-1-1"),
            (&format!("{UUID}:1-5"), &format!("{UUID}:6")),
            (&format!("{UUID}:1-5"), &format!("{UUID}:9")),
        ] {
            let (before, added) = (set(before), gtid(added));
            let predecessor = before.predecessor(&added);
            let mut after = before.clone();
            assert!(after.add(&added) && !after.add(&added) && after.contains(&added));
            assert_eq!(after.without(&added, predecessor.as_ref()), before);
        }
    }

    #[test]
    fn what_one_set_lacks_is_told_in_words() {
        let told = |far: &str, near: &str| set(far).beyond(&set(near)).unwrap_or_default();
        assert_eq!(
            told(&format!("{UUID}:1-60"), &format!("{UUID}:1-40")),
            format!("20 transaction(s), {UUID}:41-60")
        );
        assert_eq!(
            told("0-1-60,1-1-1", "0-2-40"),
            "the transactions after 0-2-40 up to 0-1-60, and the transactions of domain 1 up to 1-1-1"
        );
        assert_eq!(told("0-1-60", "0-1-60"), "");
        assert_eq!(told("", &format!("{UUID}:1-40")), "");
    }

    #[test]
    fn a_set_of_the_other_flavor_is_foreign() {
        assert!(set("0-1-1").is_foreign_to(Flavor::Mysql));
        assert!(!set("0-1-1").is_foreign_to(Flavor::Mariadb));
        assert!(set(&format!("{UUID}:1")).is_foreign_to(Flavor::Mariadb));
        assert!(!set("").is_foreign_to(Flavor::Mysql) && !set("").is_foreign_to(Flavor::Mariadb));
        assert!(!set("0-1-1").is_subset(&set(&format!("{UUID}:1-9"))));
    }
}
