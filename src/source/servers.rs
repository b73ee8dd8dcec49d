//! Which server is read: the first of MYSQL_ADDR that answers and continues what is recorded.
//!
//! It guarantees that a server is passed over only for a reason that the log tells, and that sdl ends (exit 3) only when every
//! server answered and none of them can be read. It resumes from nothing: each round asks the servers anew, in the order of
//! MYSQL_ADDR, so a server that was mended, or has caught up, is found fit the next time.
//!
//! A round ends with the first server that is read. A server that could not be reached may hold what is missing, so while there is
//! one, sdl waits. A replica that is only behind is waited for as well, while it comes nearer, and [`CATCH_UP_PATIENCE`] longer.
//! With a single server in MYSQL_ADDR there is nothing to choose: what is found there is the verdict.

use std::time::Duration;

use mysql_async::Conn;
use tokio::time::Instant;

use super::preflight::Facts;
use super::stream::SILENCE;
use super::{connect, preflight};
use crate::config::{Config, MysqlAddress};
use crate::error::{Error, Kind, Reaction, Result};
use crate::position::{Flavor, Gtid, GtidSet};

/// How long all servers may stay behind without coming nearer before it is an operator's business: a minute, in which a replica
/// applies what it has received, and its lag is seconds in a healthy group.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(60);

/// What a server must have to be read.
#[derive(Clone, Copy)]
pub(super) struct Recorded<'a> {
    /// Every transaction that was read to its end.
    pub(super) read: &'a GtidSet,
    /// The transaction of which some rows are recorded, and not all.
    pub(super) cut: Option<&'a Gtid>,
}

impl Recorded<'_> {
    /// What a server does not have of it, in words.
    fn lacked_by(self, facts: &Facts) -> Option<String> {
        let mut recorded = self.read.clone();
        if let Some(cut) = self.cut {
            recorded.add(cut);
        }
        facts.lacks(&recorded)
    }
}

/// The servers of MYSQL_ADDR, and how far the current round has come.
pub(super) struct Servers<'a> {
    addresses: &'a [MysqlAddress],
    /// Why each server before the current one was passed over.
    passed_over: Vec<Error>,
    /// What each server lacked of what is recorded when it was last asked, in words.
    lacking: Vec<Option<String>>,
    /// When one of them was last found to lack less: while nothing is read, it can only become less.
    nearer: Option<Instant>,
    /// What was wrong with each server's binlog when it was last read.
    damage: Vec<Option<String>>,
}

/// What to do after a server could not be read, or not any longer.
#[derive(Debug)]
pub(super) enum Next {
    /// Go on with the next server, at once.
    Server,
    /// Wait, then begin with the first server again.
    Wait(Error),
    /// Leave it to an operator.
    Stop(Error),
}

impl<'a> Servers<'a> {
    pub(super) fn new(addresses: &'a [MysqlAddress]) -> Self {
        Self {
            addresses,
            passed_over: Vec::new(),
            lacking: vec![None; addresses.len()],
            nearer: None,
            damage: vec![None; addresses.len()],
        }
    }

    /// The server to try now.
    pub(super) fn current(&self) -> &'a MysqlAddress {
        &self.addresses[self.passed_over.len()]
    }

    /// Tells the log which servers were passed over before the current one, and why.
    pub(super) fn tell_passed_over(&self) {
        for (address, error) in self.addresses.iter().zip(&self.passed_over) {
            tracing::warn!(address = %address, taken = %self.current(), %error, "a server is passed over");
        }
    }

    /// Whether the current server, which says `facts` of itself, can be read on from what is recorded.
    ///
    /// # Errors
    /// The reasons against it.
    pub(super) fn judge(
        &mut self,
        facts: &Facts,
        recorded: Recorded<'_>,
        now: Instant,
    ) -> Result<()> {
        let verdict = judge(facts, recorded);
        if let Err(error) = &verdict
            && error.kind() == Kind::WrongServer
        {
            let lacking = recorded.lacked_by(facts);
            let before = &mut self.lacking[self.passed_over.len()];
            if *before != lacking {
                *before = lacking;
                self.nearer = Some(now);
            }
        }
        verdict
    }

    /// The current server failed with `error`; `was_read` says that it was read well before that.
    pub(super) fn failed(&mut self, error: Error, was_read: bool, now: Instant) -> Next {
        let current = self.passed_over.len();
        if was_read {
            self.damage[current] = None;
            self.lacking.fill(None);
        }
        if error.kind() != Kind::WrongServer {
            self.lacking[current] = None;
        }
        let error = match error.kind() {
            // Read again once, since it may be the network; the second time it stands in this server's binlog.
            Kind::SourceDamaged => {
                let text = error.to_string();
                if self.damage[current].as_ref() != Some(&text) {
                    self.damage[current] = Some(text);
                    self.passed_over.clear();
                    return Next::Wait(error);
                }
                error.repeated()
            }
            _ => error,
        };
        // What is wrong with sdl itself is not better with another server.
        if error.kind().reaction() == Reaction::Stop || error.kind() == Kind::DuplicateReplica {
            return Next::Stop(error);
        }
        if let [_only] = self.addresses {
            return if error.is_transient() {
                Next::Wait(error)
            } else {
                Next::Stop(error)
            };
        }
        if was_read {
            self.passed_over.clear();
            return Next::Wait(error);
        }
        self.passed_over.push(error);
        if self.passed_over.len() < self.addresses.len() {
            return Next::Server;
        }
        self.conclude(now)
    }

    /// No server can be read: the end of a round.
    fn conclude(&mut self, now: Instant) -> Next {
        let verdicts = std::mem::take(&mut self.passed_over);
        let reasons: Vec<String> = self
            .addresses
            .iter()
            .zip(&verdicts)
            .map(|(address, error)| format!("{address}: {error}"))
            .collect();
        let reasons = reasons.join(" | ");
        if verdicts.iter().any(Error::is_transient) {
            return Next::Wait(Error::new(
                Kind::SourceUnavailable,
                format!("no server of MYSQL_ADDR can be read at the moment: {reasons}"),
            ));
        }
        let is_behind = self.lacking.iter().any(Option::is_some);
        let waited = self.nearer.map_or(Duration::ZERO, |nearer| {
            now.saturating_duration_since(nearer)
        });
        if is_behind && waited < CATCH_UP_PATIENCE {
            return Next::Wait(Error::new(
                Kind::SourceUnavailable,
                format!(
                    "no server of MYSQL_ADDR can be read, but one that is behind may catch up, and is waited for until it has \
                     not come nearer for {} s: {reasons}",
                    CATCH_UP_PATIENCE.as_secs()
                ),
            ));
        }
        let kind = verdicts.first().map_or(Kind::Internal, Error::kind);
        Next::Stop(Error::new(
            kind,
            format!("no server of MYSQL_ADDR can be read: {reasons}"),
        ))
    }
}

/// Whether a server that says `facts` of itself can be read on from what is recorded.
///
/// # Errors
/// The reasons against it.
pub(super) fn judge(facts: &Facts, recorded: Recorded<'_>) -> Result<()> {
    preflight::judge(facts, recorded.read)?;
    has_cut(facts, recorded)
}

/// The same without the server's settings.
///
/// # Errors
/// The reasons against it.
pub(super) fn continues(facts: &Facts, recorded: Recorded<'_>) -> Result<()> {
    preflight::continues(facts, recorded.read)?;
    has_cut(facts, recorded)
}

/// Whether it has the transaction of which some rows are recorded.
fn has_cut(facts: &Facts, recorded: Recorded<'_>) -> Result<()> {
    match (recorded.cut, recorded.lacked_by(facts)) {
        (Some(cut), Some(_)) => Err(Error::new(
            Kind::WrongServer,
            format!(
                "the server is behind the saved position: transaction {cut} is recorded in part, and {} does not have it; \
                 expected a server that has executed it; point MYSQL_ADDR at it",
                facts.server_uuid
            ),
        )),
        _ => Ok(()),
    }
}

/// Connects to one server and asks it about itself; within three heartbeats, or it counts as gone.
///
/// # Errors
/// [`Kind::SourceUnavailable`] when it does not answer; what its answers mean otherwise.
pub(super) async fn ask(
    config: &Config,
    address: &MysqlAddress,
    flavor: Option<Flavor>,
) -> Result<(Conn, Facts)> {
    let doing = format!("connect to mysql {address} and ask it about itself");
    bounded(&doing, async {
        let mut connection = connect::connect(config, address).await?;
        let facts = preflight::ask(&mut connection, flavor).await?;
        Ok((connection, facts))
    })
    .await
}

/// Waits for `work` on a connection, but no longer than three heartbeats: neither TCP nor the driver notices a peer that merely
/// stopped.
pub(super) async fn bounded<T>(doing: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(SILENCE, work).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(
            Kind::SourceUnavailable,
            format!(
                "{doing}: no answer within {} s: the connection is dead",
                SILENCE.as_secs()
            ),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(count: u16) -> Vec<MysqlAddress> {
        (0..count)
            .map(|index| MysqlAddress {
                host: "db".to_owned(),
                port: 3306 + index,
            })
            .collect()
    }

    fn error(kind: Kind) -> Error {
        Error::new(kind, format!("{kind:?}"))
    }

    fn waits(next: Next) -> String {
        match next {
            Next::Wait(error) => error.to_string(),
            other => panic!("{other:?}"),
        }
    }

    fn stops(next: Next) -> Error {
        match next {
            Next::Stop(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_single_server_is_waited_for_when_it_is_away_and_decides_when_it_is_not() {
        let addresses = addresses(1);
        let mut servers = Servers::new(&addresses);
        let now = Instant::now();
        assert_eq!(
            waits(servers.failed(error(Kind::SourceUnavailable), false, now)),
            "SourceUnavailable"
        );
        let verdict = stops(servers.failed(error(Kind::Gap), false, now));
        assert_eq!(verdict.to_string(), "Gap");
        let verdict = stops(servers.failed(error(Kind::SourceSetting), true, now));
        assert_eq!(verdict.kind(), Kind::SourceSetting);
    }

    #[test]
    fn every_server_is_tried_once_and_all_reasons_are_told() {
        let addresses = addresses(3);
        let mut servers = Servers::new(&addresses);
        let now = Instant::now();
        for kind in [Kind::Gap, Kind::Privilege] {
            assert!(matches!(
                servers.failed(error(kind), false, now),
                Next::Server
            ));
        }
        assert_eq!(servers.current().port, 3308);
        let verdict = stops(servers.failed(error(Kind::SourceSetting), false, now));
        assert_eq!(verdict.kind(), Kind::Gap);
        assert_eq!(
            verdict.to_string(),
            "no server of MYSQL_ADDR can be read: db:3306: Gap | db:3307: Privilege | db:3308: SourceSetting"
        );
        assert_eq!(servers.current().port, 3306, "the next round");
    }

    #[test]
    fn a_server_that_is_away_may_come_back_with_what_the_others_lack() {
        let addresses = addresses(2);
        let mut servers = Servers::new(&addresses);
        let mut now = Instant::now();
        for _ in 0..100 {
            now += Duration::from_secs(60);
            let _ = servers.failed(error(Kind::SourceUnavailable), false, now);
            let reason = waits(servers.failed(error(Kind::WrongServer), false, now));
            assert!(reason.contains("db:3306: SourceUnavailable | db:3307: WrongServer"));
        }
    }

    #[test]
    fn a_server_that_was_read_is_tried_first_again_and_not_held_against_it() {
        let addresses = addresses(2);
        let mut servers = Servers::new(&addresses);
        let now = Instant::now();
        let _ = servers.failed(error(Kind::SourceUnavailable), false, now);
        assert_eq!(servers.current().port, 3307);
        waits(servers.failed(error(Kind::SourceUnavailable), true, now));
        assert_eq!(servers.current().port, 3306);
        waits(servers.failed(error(Kind::WrongServer), true, now));
        assert_eq!(servers.current().port, 3306);
    }

    #[test]
    fn the_same_damage_twice_is_the_servers_own_and_another_server_may_have_it_whole() {
        let addresses = addresses(2);
        let mut servers = Servers::new(&addresses);
        let now = Instant::now();
        waits(servers.failed(error(Kind::SourceDamaged), true, now));
        assert_eq!(servers.current().port, 3306);
        assert!(matches!(
            servers.failed(error(Kind::SourceDamaged), false, now),
            Next::Server
        ));
        let verdict = stops(servers.failed(error(Kind::SourceSetting), false, now));
        assert_eq!(verdict.kind(), Kind::SourceCorrupt);
    }

    #[test]
    fn a_defect_and_a_duplicate_are_not_better_elsewhere() {
        let addresses = addresses(2);
        let now = Instant::now();
        for kind in [Kind::Internal, Kind::DuplicateReplica] {
            let verdict = stops(Servers::new(&addresses).failed(error(kind), false, now));
            assert_eq!(verdict.kind(), kind);
        }
    }

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn facts(executed: u64) -> Facts {
        preflight::tests::facts(&format!("{UUID}:1-{executed}"), "")
    }

    /// One round of two servers: the first has wrong settings, the second has executed so many transactions of 100.
    fn round(servers: &mut Servers<'_>, executed: u64, now: Instant) -> Next {
        let read: GtidSet = format!("{UUID}:1-100").parse().unwrap();
        let recorded = Recorded {
            read: &read,
            cut: None,
        };
        assert!(matches!(
            servers.failed(error(Kind::SourceSetting), false, now),
            Next::Server
        ));
        match servers.judge(&facts(executed), recorded, now) {
            Ok(()) => panic!("it lacks some"),
            Err(error) => servers.failed(error, false, now),
        }
    }

    #[test]
    fn a_replica_that_is_behind_is_waited_for_while_it_comes_nearer() {
        let addresses = addresses(2);
        let mut servers = Servers::new(&addresses);
        let start = Instant::now();
        let after = |seconds| start + Duration::from_secs(seconds);
        waits(round(&mut servers, 10, after(0)));
        waits(round(&mut servers, 10, after(59)));
        waits(round(&mut servers, 11, after(60)));
        waits(round(&mut servers, 99, after(119)));
        waits(round(&mut servers, 99, after(178)));
        let verdict = stops(round(&mut servers, 99, after(179)));
        assert_eq!(verdict.kind(), Kind::SourceSetting);
        assert!(verdict.to_string().contains("behind the saved position"));
    }

    #[test]
    fn a_transaction_that_is_recorded_in_part_must_be_there_too() {
        let addresses = addresses(2);
        let mut servers = Servers::new(&addresses);
        let read: GtidSet = format!("{UUID}:1-100").parse().unwrap();
        let cut: Gtid = format!("{UUID}:101").parse().unwrap();
        let recorded = Recorded {
            read: &read,
            cut: Some(&cut),
        };
        let now = Instant::now();
        let error = servers.judge(&facts(100), recorded, now).unwrap_err();
        assert!(
            error
                .to_string()
                .contains(&format!("transaction {UUID}:101 is recorded in part"))
        );
        servers.judge(&facts(101), recorded, now).unwrap();
    }
}
