//! Recovery: what a crash left staged is finished before anything new is read.
//!
//! It guarantees that nothing staged is lost and nothing is written twice. [`decide`] is the whole judgement and pure: a
//! pending batch that goes on exactly where the offset ends, and is intact, is committed the usual way; one that the offset
//! covers already is archived; anything else is archived with a note, which loses nothing, because whatever the offset does
//! not cover is still in the binlog. Killed in the middle, the next start decides again from what it finds.

use crate::batch::Batch;
use crate::error::Result;
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::store::{Committer, Store};

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

/// Takes the source over and finishes what was staged. `None` for a source that was never read.
///
/// # Errors
/// Those that an operator must mend; passing trouble is waited out.
pub async fn recover(store: &Store) -> Result<Option<(Committer, Offset)>> {
    let Some((mut committer, mut offset)) = Committer::take_over(store).await? else {
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
                let outcome = committer.commit(batch).await?;
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
