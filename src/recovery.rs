//! Recovery: what a crash left staged is finished before anything new is read.
//!
//! It guarantees that nothing staged or spooled is lost and nothing is written twice. [`decide`] is the whole judgement and pure: a
//! pending batch that goes on exactly where the offset ends, and is intact, is committed the usual way; one that the offset
//! covers already is archived; anything else is archived with a note, which loses nothing, because whatever the offset does
//! not cover is still in the binlog. [`reconcile`] is the same judgement about the spool as a whole. Killed in the middle, the next start decides again from what it finds.

use std::sync::Arc;
use std::time::Duration;

use crate::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::position::BinlogPosition;
use crate::store::{Committer, Patience, Spool, Store};

/// What becomes of one pending batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// It is the next one: commit it.
    Commit,
    /// Set it aside for a week, with this note.
    Archive(String),
}

/// Decides about one pending batch, given the offset at that moment.
pub fn decide(
    offset: &Offset,
    number: i64,
    content: std::result::Result<&Batch, &str>,
) -> Decision {
    if number <= offset.batch {
        return Decision::Archive(format!(
            "covered by the offset, which is at batch {}",
            offset.batch
        ));
    }
    if number != offset.batch + 1 {
        return Decision::Archive(format!(
            "batch {} before it was never staged; read again from the binlog",
            offset.batch + 1
        ));
    }
    match content {
        Err(problem) => Decision::Archive(format!(
            "not intact ({problem}); read again from the binlog"
        )),
        Ok(batch) if !batch.follows(&offset.position) => Decision::Archive(
            "staged by a daemon that had lost the source to another; read again from the binlog"
                .to_owned(),
        ),
        Ok(_) => Decision::Commit,
    }
}

/// How the spool stands to the offset in MongoDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reconciled {
    /// It holds nothing.
    Empty,
    /// All that it holds is recorded, and more.
    Covered,
    /// It goes on exactly where the offset ends, or ends exactly there.
    GoesOn,
    /// It does not continue what is recorded, for this reason.
    Superseded(String),
}

/// Decides about the spool: it holds the batches from `first` to that of `last`, and the one after the offset's goes on from
/// `follows`.
pub fn reconcile(
    offset: &Offset,
    first: i64,
    last: &Offset,
    follows: Option<&BinlogPosition>,
) -> Reconciled {
    let ends_at_offset = last.batch == offset.batch
        && last.position.gtid == offset.position.gtid
        && last.position.partial == offset.position.partial;
    if ends_at_offset {
        return Reconciled::GoesOn;
    }
    if let Some(follows) = follows {
        return if follows.gtid == offset.position.gtid && follows.partial == offset.position.partial
        {
            Reconciled::GoesOn
        } else {
            Reconciled::Superseded(format!(
                "batch {} of the spool goes on from another position than the saved offset: another daemon recorded meanwhile",
                offset.batch + 1
            ))
        };
    }
    if first > offset.batch + 1 {
        return Reconciled::Superseded(format!(
            "the spool begins with batch {first}, but the saved offset stands at batch {}: mongodb was restored from an older state",
            offset.batch
        ));
    }
    match last.position.gtid.beyond(&offset.position.gtid) {
        None if last.position.partial.is_none() => Reconciled::Covered,
        None | Some(_) => Reconciled::Superseded(
            "the spool holds transactions that are not recorded, under numbers that are: another daemon recorded meanwhile"
                .to_owned(),
        ),
    }
}

/// Looks at the spool, and decides.
///
/// # Errors
/// When it cannot be read.
pub async fn compare(offset: &Offset, spool: &Spool) -> Result<Reconciled> {
    let Some((first, last)) = spool.ends().await? else {
        return Ok(Reconciled::Empty);
    };
    let next = offset.batch + 1;
    let follows = if (first.number..=last.number).contains(&next) {
        Some(spool.read(next).await?.previous)
    } else {
        None
    };
    Ok(reconcile(
        offset,
        first.number,
        &last.next,
        follows.as_ref(),
    ))
}

/// Where the spool ends, if it goes on from `offset`; what it holds that is recorded is removed, and what is damaged or contradicts the
/// offset is set aside.
///
/// # Errors
/// When it can neither be read nor set aside.
pub async fn settle_spool(offset: &Offset, spool: &Spool) -> Result<Option<Offset>> {
    let compared = match compare(offset, spool).await {
        Err(error) if error.kind() == Kind::SpoolDamaged => {
            let next = offset.batch + 1;
            let path = spool.keep_before(next, &error.to_string()).await?;
            tracing::error!(%error, file = %path.display(), "what the spool holds is set aside; it is read again from the binlog");
            compare(offset, spool).await?
        }
        compared => compared?,
    };
    match compared {
        Reconciled::Empty => Ok(None),
        Reconciled::GoesOn => {
            spool.remove_through(offset.batch).await?;
            // Asked now: it may hold less than before.
            Ok(spool.ends().await?.map(|(_, last)| last.next))
        }
        Reconciled::Covered => {
            spool.remove_through(offset.batch).await?;
            tracing::info!("what the spool holds is recorded already");
            Ok(None)
        }
        Reconciled::Superseded(reason) => {
            let path = spool.set_aside(&reason).await?;
            tracing::error!(
                reason,
                file = %path.display(),
                "what the spool holds is set aside; it is read again from the binlog, as far as it is not recorded"
            );
            Ok(None)
        }
    }
}

/// [`recover`] for a command, which does not wait for a daemon that runs: where one holds the lease, that is the error of `held`.
///
/// # Errors
/// Those that an operator must mend, and `held`.
pub async fn recover_unless_held(
    store: &Store,
    lease_ttl: Option<Duration>,
    held: impl FnOnce() -> Error,
) -> Result<Option<(Committer, Offset)>> {
    let recovering = recover(store, Patience::Wait);
    match lease_ttl {
        None => recovering.await,
        // A holder that was killed gives no sign for LEASE_TTL; one that runs, does.
        Some(ttl) => tokio::time::timeout(2 * ttl, recovering)
            .await
            .unwrap_or_else(|_| Err(held())),
    }
}

/// Takes the source over and finishes what was staged. `None` for a source that was never read. Where another daemon holds the
/// lease, `patience` says whether it is waited for.
///
/// # Errors
/// Those that an operator must mend; passing trouble is waited out.
pub async fn recover(store: &Store, patience: Patience) -> Result<Option<(Committer, Offset)>> {
    let Some((mut committer, mut offset)) = Committer::take_over(store, patience).await? else {
        return Ok(None);
    };
    crash_point("after-take-over");
    let pending = store
        .retry()
        .persist("list pending batches", || store.pending_batches())
        .await?;
    if pending.is_empty() {
        return Ok(Some((committer, offset)));
    }
    tracing::info!("Recovering {} pending batches", pending.len());
    store.retry().recovers(pending.len());
    for number in pending {
        let staged = store
            .retry()
            .persist("read a staged batch", || store.staged(number))
            .await?;
        let Some(content) = staged else {
            continue;
        };
        let decision = decide(&offset, number, content.as_ref().map_err(String::as_str));
        match (decision, content) {
            (Decision::Commit, Ok(batch)) => {
                let next = batch.next.clone();
                let events = batch.events.len();
                let outcome = committer.commit(vec![Arc::new(batch)]).await?;
                tracing::info!(
                    batch = number,
                    events,
                    left_out = outcome.left_out,
                    "recovered a staged batch"
                );
                offset = Offset {
                    epoch: committer.epoch(),
                    n: committer.last_n(),
                    ..next
                };
            }
            (Decision::Archive(note), _) => {
                store
                    .retry()
                    .persist("archive a batch", || store.archive(number, &note))
                    .await?;
                tracing::warn!(batch = number, note, "archived a staged batch");
            }
            (Decision::Commit, Err(_)) => {}
        }
        crash_point("during-recovery");
    }
    Ok(Some((committer, offset)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::position::{BinlogPosition, Flavor, GtidSet};

    const UUID: &str = "3e11fa47-71ca-11e1-9e33-c80aa9429562";

    fn set(last: u64) -> GtidSet {
        format!("{UUID}:1-{last}").parse().unwrap()
    }

    fn offset(batch: i64, last: u64) -> Offset {
        Offset {
            position: BinlogPosition::at(set(last)),
            server_uuid: UUID.to_owned(),
            flavor: Flavor::Mysql,
            batch,
            n: 10,
            epoch: 2,
            last: None,
        }
    }

    fn batch(number: i64, from: u64, to: u64) -> Batch {
        Batch {
            events: Vec::new(),
            first_n: 11,
            previous: BinlogPosition::at(set(from)),
            next: offset(number, to),
            bytes: 0,
        }
    }

    #[test]
    fn the_next_intact_batch_is_committed() {
        assert_eq!(
            decide(&offset(4, 50), 5, Ok(&batch(5, 50, 60))),
            Decision::Commit
        );
    }

    #[test]
    fn everything_else_is_set_aside_with_its_reason() {
        let at = offset(4, 50);
        let table: [(i64, std::result::Result<Batch, &str>, &str); 5] = [
            (4, Ok(batch(4, 40, 50)), "covered by the offset"),
            (3, Err("checksum does not hold"), "covered by the offset"),
            (
                6,
                Ok(batch(6, 60, 70)),
                "batch 5 before it was never staged",
            ),
            (
                5,
                Err("checksum does not hold"),
                "not intact (checksum does not hold)",
            ),
            (5, Ok(batch(5, 49, 60)), "lost the source to another"),
        ];
        for (number, content, reason) in table {
            match decide(&at, number, content.as_ref().map_err(|text| *text)) {
                Decision::Archive(note) => {
                    assert!(note.contains(reason), "{note} does not say {reason}")
                }
                Decision::Commit => panic!("batch {number} was to be archived: {reason}"),
            }
        }
    }

    #[test]
    fn a_spool_that_goes_on_from_the_offset_is_committed_and_no_other() {
        let at = offset(4, 50);
        let follows = |last| BinlogPosition::at(set(last));
        let goes_on = |first, last: &Offset, follows: Option<u64>| {
            let follows = follows.map(|last| BinlogPosition::at(set(last)));
            reconcile(&at, first, last, follows.as_ref())
        };
        assert_eq!(goes_on(5, &offset(9, 90), Some(50)), Reconciled::GoesOn);
        assert_eq!(goes_on(2, &offset(9, 90), Some(50)), Reconciled::GoesOn);
        // Its last commit was not known to have succeeded.
        assert_eq!(goes_on(4, &offset(4, 50), None), Reconciled::GoesOn);
        assert_eq!(goes_on(2, &offset(3, 45), None), Reconciled::Covered);
        let superseded = [
            (goes_on(5, &offset(9, 90), Some(49)), "another position"),
            (goes_on(7, &offset(9, 90), None), "begins with batch 7"),
            (goes_on(2, &offset(3, 60), None), "under numbers that are"),
        ];
        for (found, reason) in superseded {
            match found {
                Reconciled::Superseded(why) => assert!(why.contains(reason), "{why}"),
                other => panic!("{other:?} where {reason} was expected"),
            }
        }
        let mut cut = follows(50);
        cut.partial = Some(crate::position::PartialTransaction {
            gtid: format!("{UUID}:51").parse().unwrap(),
            rows: 3,
        });
        let found = reconcile(&at, 5, &offset(9, 90), Some(&cut));
        assert!(matches!(found, Reconciled::Superseded(_)), "{found:?}");
    }

    #[test]
    fn a_batch_that_goes_on_in_the_middle_of_a_transaction_must_agree_on_the_row() {
        let partial = |rows| {
            Some(crate::position::PartialTransaction {
                gtid: format!("{UUID}:51").parse().unwrap(),
                rows,
            })
        };
        let mut at = offset(4, 50);
        at.position.partial = partial(1000);
        let mut next = batch(5, 50, 50);
        next.previous.partial = partial(1000);
        assert_eq!(decide(&at, 5, Ok(&next)), Decision::Commit);
        next.previous.partial = partial(2000);
        assert_ne!(decide(&at, 5, Ok(&next)), Decision::Commit);
    }
}
