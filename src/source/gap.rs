//! Whether reading can go on from the saved offset, asked of every server of MYSQL_ADDR without reading any: what
//! `sdl accept-gap` may accept.
//!
//! It guarantees that a gap is only told where *every* server was asked, each has purged what comes next, and no sdl of this source
//! reads one of them at this moment: that one may have in hand what the servers no longer have. A server that does not answer, or
//! that is refused for another reason, may have what the others lack; then nothing is told but that. Of several gaps the smallest
//! counts.

use super::preflight::{self, Facts};
use super::refuse_filters;
use super::replicas::Replicas;
use super::servers::{self, Recorded, bounded};
use crate::config::{Config, MysqlAddress};
use crate::error::{Error, Kind, Result};
use crate::offset::Offset;
use crate::position::{BinlogPosition, GtidSet, PartialTransaction};

/// Transactions that are not recorded, and that no server has any more.
#[derive(Debug, Clone, PartialEq)]
pub struct Gap {
    /// The server that lacks the fewest.
    pub address: String,
    /// What it is known by.
    pub server_uuid: String,
    /// The missing ones in words, as in the error `binlog gap`.
    pub missing: String,
    /// How many; MariaDB's cannot be counted.
    pub transactions: Option<u64>,
    /// Where reading goes on behind them.
    pub to: GtidSet,
    /// A transaction of which some rows are recorded, and the rest is not missing.
    pub partial: Option<PartialTransaction>,
}

/// What there is to accept.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// This server has everything that comes next.
    Continues(String),
    /// No server has.
    Gap(Gap),
}

/// Asks every server.
///
/// # Errors
/// When it cannot be told, or a server is refused for another reason.
pub async fn look(config: &Config, offset: &Offset) -> Result<Verdict> {
    let mut smallest: Option<Gap> = None;
    for address in &config.mysql_addresses {
        let found = ask(config, address, offset).await.map_err(|error| {
            Error::new(
                error.kind(),
                format!(
                    "{address} may have what is missing, and nothing is accepted while that is not known: {error}; mend that, or take \
                     it out of MYSQL_ADDR"
                ),
            )
        })?;
        match (found, &smallest) {
            (None, _) => return Ok(Verdict::Continues(address.to_string())),
            (Some(gap), Some(other)) if !gap.to.is_subset(&other.to) || gap.to == other.to => {}
            (Some(gap), _) => smallest = Some(gap),
        }
    }
    smallest.map(Verdict::Gap).ok_or_else(|| {
        Error::new(
            Kind::Internal,
            "MYSQL_ADDR is empty, which the settings refuse",
        )
    })
}

/// What one server lacks; `None` when it can be read on.
async fn ask(config: &Config, address: &MysqlAddress, offset: &Offset) -> Result<Option<Gap>> {
    let (mut connection, facts) = servers::ask(config, address, Some(offset.flavor)).await?;
    if config.mysql_addresses.len() > 1 {
        let refusal = refuse_filters(&mut connection, offset.flavor);
        bounded("ask for replication filters", refusal).await?;
    }
    let Some(gap) = judge(address, &facts, &offset.position)? else {
        return Ok(None);
    };
    Replicas::new(config)
        .refuse_other_runs(&mut connection)
        .await?;
    Ok(Some(gap))
}

/// The judgement about one server; pure.
fn judge(address: &MysqlAddress, facts: &Facts, position: &BinlogPosition) -> Result<Option<Gap>> {
    let read = &position.gtid;
    match preflight::judge(facts, read) {
        Err(error) if error.kind() == Kind::Gap => {}
        Err(error) => return Err(error),
        Ok(()) => {
            servers::judge(facts, recorded(read, position.partial.as_ref()))?;
            return Ok(None);
        }
    }
    let to = read.union(&facts.purged);
    let partial = position.partial.clone();
    let partial = partial.filter(|partial| !to.contains(&partial.gtid));
    // What is to be read afterwards must be there.
    servers::judge(facts, recorded(&to, partial.as_ref()))?;
    let count = to.mysql().subtract(read.mysql()).count();
    Ok(Some(Gap {
        address: address.to_string(),
        server_uuid: facts.server_uuid.clone(),
        missing: to.beyond(read).unwrap_or_default(),
        transactions: to
            .mariadb()
            .is_empty()
            .then_some(count)
            .and_then(|count| u64::try_from(count).ok()),
        to,
        partial,
    }))
}

fn recorded<'a>(read: &'a GtidSet, partial: Option<&'a PartialTransaction>) -> Recorded<'a> {
    Recorded {
        read,
        cut: partial.map(|partial| &partial.gtid),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";
    const OTHER: &str = "4e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn address() -> MysqlAddress {
        MysqlAddress {
            host: "db".to_owned(),
            port: 3306,
        }
    }

    fn at(set: &str, partial: Option<(&str, u64)>) -> BinlogPosition {
        BinlogPosition {
            partial: partial.map(|(gtid, rows)| PartialTransaction {
                gtid: gtid.parse().unwrap(),
                rows,
            }),
            ..BinlogPosition::at(set.parse().unwrap())
        }
    }

    fn gap(facts: &Facts, position: &BinlogPosition) -> Gap {
        judge(&address(), facts, position).unwrap().unwrap()
    }

    #[test]
    fn several_intervals_and_tags_are_all_missing() {
        let purged = format!("{UUID}:1-60:backup:1-3,{OTHER}:7");
        let facts =
            preflight::tests::facts(&format!("{UUID}:1-100:backup:1-9,{OTHER}:1-9"), &purged);
        let read = format!("{UUID}:1-20:31-40:backup:1");
        let gap = gap(&facts, &at(&read, None));
        assert_eq!(gap.transactions, Some(10 + 20 + 2 + 1));
        assert_eq!(gap.to.to_string(), purged);
        for part in ["21-30:41-60", "backup:2-3", &format!("{OTHER}:7")] {
            assert!(
                gap.missing.contains(part),
                "{part} is not in {}",
                gap.missing
            );
        }
    }

    #[test]
    fn a_transaction_recorded_in_part_is_over_when_its_rest_is_gone() {
        let facts = preflight::tests::facts(&format!("{UUID}:1-100"), &format!("{UUID}:1-60"));
        let cut = format!("{UUID}:41");
        let lost = gap(&facts, &at(&format!("{UUID}:1-40"), Some((&cut, 2000))));
        assert_eq!((lost.partial, lost.transactions), (None, Some(20)));
        let facts = preflight::tests::facts(
            &format!("{UUID}:1-100,{OTHER}:1-9"),
            &format!("{UUID}:1-40,{OTHER}:1"),
        );
        let kept = gap(&facts, &at(&format!("{UUID}:1-40"), Some((&cut, 2000))));
        assert_eq!(kept.partial.map(|partial| partial.rows), Some(2000));
        assert_eq!(kept.transactions, Some(1));
    }

    #[test]
    fn only_a_gap_is_accepted() {
        let read = at(&format!("{UUID}:1-40"), None);
        let whole = preflight::tests::facts(&format!("{UUID}:1-100"), &format!("{UUID}:1-40"));
        assert_eq!(judge(&address(), &whole, &read).unwrap(), None);
        let behind = preflight::tests::facts(&format!("{UUID}:1-30"), "");
        let error = judge(&address(), &behind, &read).unwrap_err();
        assert_eq!(error.kind(), Kind::WrongServer);
        let mut unfit = preflight::tests::facts(&format!("{UUID}:1-100"), &format!("{UUID}:1-60"));
        unfit
            .variables
            .insert("binlog_format".to_owned(), "STATEMENT".to_owned());
        let error = judge(&address(), &unfit, &read).unwrap_err();
        assert_eq!(error.kind(), Kind::SourceSetting);
    }
}
