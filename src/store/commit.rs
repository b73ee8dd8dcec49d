//! The commit: one MongoDB transaction for a batch, or for several that are all staged when it begins (a group commit).
//!
//! Inside it, in this order: the offset moves from `(epoch, first batch - 1)` to the last batch, which is the fence; the events are
//! inserted; the staged batches disappear. Either all of it is there afterwards or nothing is. When an answer is lost, the
//! offset itself tells which batches are in. A batch is retried for as long as the failure can pass; it is never skipped.
//!
//! `n` is assigned from what is committed, not from what was planned: when a replay left documents out, later batches that
//! were staged meanwhile are renumbered here, so that `n` never has a gap.

mod group;
mod replayed;

use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::ClientSession;

use super::classify::Refusal;
use super::lease::{Claim, Watch};
use super::{Store, bounded, classify, durable, settle};
use crate::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::retry::Failures;
use group::Group;

/// How often a commit whose answer was lost is asked again before the offset is read to learn what became of it.
const COMMIT_REPEATS: u32 = 3;

/// Whether a lease that is held is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Patience {
    /// Stand by until it is free.
    Wait,
    /// Do not.
    NoWait,
}

/// What a commit did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommitOutcome {
    /// Documents written.
    pub inserted: usize,
    /// Documents that were there already, equal, and left out.
    pub left_out: usize,
    /// Documents stored as `{ $bson }` because MongoDB refused their content.
    pub opaque: usize,
}

/// The one that commits, in order, for one epoch.
#[derive(Debug)]
pub struct Committer {
    store: Store,
    session: ClientSession,
    epoch: i64,
    /// The last committed batch and the last `n` given.
    committed: Progress,
}

/// What remains of a committer that was given up.
#[derive(Debug, Clone)]
pub struct Anchor {
    store: Store,
    epoch: i64,
    committed: Progress,
    /// Its session, which may hold a transaction.
    session: Document,
}

impl Anchor {
    /// The store it committed to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The epoch it committed under.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Removes what was staged and will never be committed, because another daemon took over: it reads it again from the binlog,
    /// or has it in hand already.
    ///
    /// # Errors
    /// As of any call to MongoDB.
    pub async fn withdraw(&self) -> Result<()> {
        self.store.withdraw(self.epoch).await
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Progress {
    batch: i64,
    n: i64,
}

/// How one attempt at a transaction ended, when it did not succeed.
enum Failed {
    /// The fence did not match: the batch is in already, or another daemon owns the source.
    Fence,
    /// Documents are there already.
    Duplicate,
    /// The document at this index is refused for its content.
    Content { index: usize, error: Error },
    /// Nobody knows whether it was committed.
    Unknown(Error),
    /// Anything else.
    Other(Error),
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self::Other(error)
    }
}

impl Committer {
    /// Takes the source over; gives the offset as it stands then, or `None` for a source never read before. Where LEASE=on, as soon
    /// as its lease is free.
    ///
    /// # Errors
    /// Those that an operator must mend, and [`Kind::Fenced`] when the lease is held and is not to be waited for; it waits for the
    /// others to pass.
    pub async fn take_over(store: &Store, patience: Patience) -> Result<Option<(Self, Offset)>> {
        let Some(claimant) = store.claimant.clone() else {
            return store
                .retry
                .persist("take the source over", || Self::try_take_over(store))
                .await;
        };
        let mut watch = Watch::new(claimant.ttl());
        let mut told = None;
        loop {
            let session = store
                .retry
                .persist("start a session", || async {
                    store.committing_session().await
                })
                .await?;
            let doing = "look at the lease";
            let mut failures = Failures::new(&store.retry, doing);
            let claim = loop {
                match store.claim(&claimant, &mut watch, &session).await {
                    Ok(claim) => break claim,
                    Err(error) if error.is_transient() => {
                        // Nor could the holder give a sign, as far as anybody here knows: its time begins anew.
                        watch = Watch::new(claimant.ttl());
                        failures.wait(&error).await;
                    }
                    Err(error) => return Err(error),
                }
            };
            failures.over();
            match claim {
                Claim::NoOffset => return Ok(None),
                Claim::Taken(offset) => return Ok(Some(Self::of(store, session, *offset))),
                Claim::Held(holder) if patience == Patience::NoWait => {
                    return Err(Error::new(
                        Kind::Fenced,
                        format!("{holder} holds the lease of {}", store.source_id),
                    ));
                }
                Claim::Held(holder) => {
                    if told.as_ref() != Some(&holder) {
                        tracing::info!(holder, "standing by: another sdl holds the lease");
                        store.retry.stands_by(&holder);
                        told = Some(holder);
                    }
                    tokio::time::sleep(claimant.poll()).await;
                }
            }
        }
    }

    async fn try_take_over(store: &Store) -> Result<Option<(Self, Offset)>> {
        let session = store.committing_session().await?;
        let offset = store.take_over(&session).await?;
        Ok(offset.map(|offset| Self::of(store, session, offset)))
    }

    fn of(store: &Store, session: ClientSession, offset: Offset) -> (Self, Offset) {
        let committer = Self {
            store: store.clone(),
            session,
            epoch: offset.epoch,
            committed: Progress {
                batch: offset.batch,
                n: offset.n,
            },
        };
        (committer, offset)
    }

    /// How often a sign is due when nothing is committed; None where LEASE=off.
    pub fn lease_renewal(&self) -> Option<Duration> {
        self.store
            .claimant
            .as_ref()
            .map(|claimant| claimant.renewal())
    }

    /// Gives a sign to those who stand by.
    ///
    /// # Errors
    /// [`Kind::Fenced`] when another daemon owns the source; passing trouble is waited out.
    pub async fn renew_lease(&self) -> Result<()> {
        self.store
            .retry
            .persist("renew the lease", || self.store.renew_lease(self.epoch))
            .await
    }

    /// Lets a standby go on at once, where LEASE=on.
    ///
    /// # Errors
    /// As of any call to MongoDB; the lease then ends by itself.
    pub async fn release_lease(&self) -> Result<()> {
        match self.store.claimant {
            Some(_) => self.store.release_lease(self.epoch).await,
            None => Ok(()),
        }
    }

    /// What it takes to go on committing after this committer was given up.
    pub fn anchor(&self) -> Anchor {
        Anchor {
            store: self.store.clone(),
            epoch: self.epoch,
            committed: self.committed,
            session: self.session.id().clone(),
        }
    }

    /// Goes on where another committer of this daemon was given up, and ends the transaction that it may have left open. That it
    /// succeeds means that a majority takes writes.
    ///
    /// # Errors
    /// [`Kind::Fenced`] when another daemon owns the source by now; any other of MongoDB.
    pub async fn resume(anchor: Anchor) -> Result<Self> {
        let store = anchor.store;
        let session = store.committing_session().await?;
        store.end_session(anchor.session).await?;
        store.note_session(anchor.epoch, &session).await?;
        Ok(Self {
            store,
            session,
            epoch: anchor.epoch,
            committed: anchor.committed,
        })
    }

    /// The epoch it commits under.
    pub fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Number of the last committed batch.
    pub fn last_batch(&self) -> i64 {
        self.committed.batch
    }

    /// `n` of the last committed document.
    pub fn last_n(&self) -> i64 {
        self.committed.n
    }

    /// The store it commits to.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Commits consecutive batches in one transaction. Returns when they are durable on a majority. The first must be the next one,
    /// or one that is in already: when the answer to a group is lost and its commit given up, its batches come again, in other groups.
    ///
    /// # Errors
    /// [`Kind::Fenced`] when another daemon owns the source; else what an operator must mend. Passing trouble is waited out.
    ///
    /// It can be given up by dropping the future; what becomes of the batches is then unknown, and only [`Committer::resume`] goes on.
    pub async fn commit(&mut self, batches: Vec<Arc<Batch>>) -> Result<CommitOutcome> {
        // Asked before a replay may leave all events of a batch out: what was staged is to disappear all the same.
        let staged: Vec<i64> = batches
            .iter()
            .filter(|batch| !batch.events.is_empty())
            .map(|batch| batch.number())
            .collect();
        let mut group = Group::new(batches);
        let mut outcome = CommitOutcome::default();
        let doing = describe(&group);
        let retry = self.store.retry.clone();
        let mut failures = Failures::new(&retry, &doing);
        while let Some((first, _)) = group.ends() {
            let first = first.number();
            if first <= self.committed.batch {
                // In already, and staged once more after the transaction had gone in unnoticed.
                self.unstage_through(&staged, self.committed.batch).await?;
                outcome.inserted += group.remove_through(self.committed.batch);
                continue;
            }
            if first != self.committed.batch + 1 {
                return Err(Error::new(
                    Kind::Internal,
                    format!(
                        "batch {first} was to follow batch {}: committing out of order",
                        self.committed.batch
                    ),
                ));
            }
            group.number_events(self.committed.n + 1);
            let failed = match self.attempt(&group, &staged, &doing).await {
                Ok(committed) => {
                    self.committed = committed;
                    outcome.inserted += group.remove_through(committed.batch);
                    break;
                }
                Err(failed) => failed,
            };
            match failed {
                Failed::Content { index, error } => {
                    group.make_opaque(index, &error)?;
                    outcome.opaque += 1;
                    continue;
                }
                Failed::Other(error) if error.is_transient() => {
                    failures.wait(&error).await;
                    continue;
                }
                Failed::Other(error) => return Err(error),
                Failed::Unknown(ref error) => failures.wait(error).await,
                Failed::Fence | Failed::Duplicate => {}
            }
            if let Some(applied) = self.applied(first).await? {
                self.committed = applied;
            } else if matches!(failed, Failed::Fence) {
                return Err(self.offset_moved_by_hand(first));
            } else if matches!(failed, Failed::Duplicate) {
                outcome.left_out += self.leave_out_present(&mut group).await?;
            }
        }
        crash_point("after-unstage");
        failures.over();
        Ok(outcome)
    }

    /// One attempt at the transaction; nothing of it is left when it fails.
    async fn attempt(
        &mut self,
        group: &Group,
        staged: &[i64],
        doing: &str,
    ) -> std::result::Result<Progress, Failed> {
        let result = self.transaction(group, staged, doing).await;
        if let Err(failed) = &result
            && !matches!(failed, Failed::Unknown(_))
        {
            self.abort().await?;
        }
        result
    }

    async fn transaction(
        &mut self,
        group: &Group,
        staged: &[i64],
        doing: &str,
    ) -> std::result::Result<Progress, Failed> {
        crash_point("before-transaction");
        let Some((first, last)) = group.ends() else {
            return Ok(self.committed);
        };
        let store = &self.store;
        settle(
            doing,
            self.session.start_transaction().write_concern(durable()),
        )
        .await?;
        let mut next = last.next.progress();
        next.insert("updatedAt", bson::DateTime::now());
        let fence =
            doc! { "_id": &*store.source_id, "epoch": self.epoch, "batch": first.number() - 1 };
        let mut update = doc! { "$set": next };
        if store.claimant.is_some() {
            update.insert("$inc", doc! { "lease.beat": 1_i64 });
        }
        let moved = settle(
            doing,
            store
                .offsets
                .update_one(fence, update)
                .session(&mut self.session),
        )
        .await?;
        if moved.matched_count == 0 {
            return Err(Failed::Fence);
        }
        crash_point("after-offset");
        let count = group.events().count();
        if count > 0 {
            let insert = group.insert_into(store.changes.name())?;
            let answer = settle(
                doing,
                store
                    .database
                    .run_raw_command(insert)
                    .session(&mut self.session),
            )
            .await?;
            match classify::refusal(doing, &answer) {
                None => {}
                Some(Refusal::Duplicate) => return Err(Failed::Duplicate),
                Some(Refusal::Content { index, error }) => {
                    return Err(Failed::Content { index, error });
                }
                Some(Refusal::Other(error)) => return Err(Failed::Other(error)),
            }
            if answer
                .get_i32("n")
                .ok()
                .and_then(|n| usize::try_from(n).ok())
                != Some(count)
            {
                return Err(Failed::Other(Error::new(
                    Kind::StoreRefused,
                    format!(
                        "mongodb: {doing}: {count} documents were sent, and its answer tells of another number"
                    ),
                )));
            }
            crash_point("after-insert");
        }
        let staged: Vec<String> = staged
            .iter()
            .filter(|number| **number >= first.number())
            .map(|number| store.staging_id(*number))
            .collect();
        if !staged.is_empty() {
            settle(
                doing,
                store
                    .staging
                    .delete_many(doc! { "_id": { "$in": staged } })
                    .session(&mut self.session),
            )
            .await?;
        }
        crash_point("before-commit");
        self.finish(doing).await?;
        crash_point("after-commit");
        Ok(Progress {
            batch: last.number(),
            n: last.next.n,
        })
    }

    /// Sends the commit, and again while its answer is lost: that is harmless, the server commits a transaction once.
    async fn finish(&mut self, doing: &str) -> std::result::Result<(), Failed> {
        let mut last = None;
        for _ in 0..=COMMIT_REPEATS {
            match bounded(doing, self.session.commit_transaction()).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) if classify::is_commit_unknown(&error) => {
                    last = Some(classify::classify(doing, &error))
                }
                Ok(Err(error)) => return Err(Failed::Other(classify::classify(doing, &error))),
                // Whoever waits for an outage to be known has waited long enough.
                Err(timeout) => return Err(Failed::Unknown(timeout)),
            }
        }
        let unknown = || {
            Error::new(
                Kind::StoreUnavailable,
                format!("mongodb: {doing}: outcome unknown"),
            )
        };
        Err(Failed::Unknown(last.unwrap_or_else(unknown)))
    }

    /// Ends the open transaction. A session whose abort does not come back is replaced, and its transaction ended from
    /// outside, or its lock would stand in the way of the next attempt.
    async fn abort(&mut self) -> Result<()> {
        if bounded("abort", self.session.abort_transaction())
            .await
            .is_ok()
        {
            return Ok(());
        }
        let stale = self.session.id().clone();
        let store = self.store.clone();
        let session = store
            .retry
            .persist("replace a session", || async {
                let session = store.committing_session().await?;
                store.note_session(self.epoch, &session).await?;
                Ok(session)
            })
            .await?;
        self.session = session;
        store
            .retry
            .persist("end a session", || store.end_session(stale.clone()))
            .await
    }

    /// Reads the offset to learn whether batch `number` is in, and which after it, and makes sure that the answer is durable. `n` is
    /// as it was written then: the attempt that went in may have left documents out.
    async fn applied(&self, number: i64) -> Result<Option<Progress>> {
        loop {
            let offset = self
                .store
                .retry
                .persist("read the offset", || self.store.offset())
                .await?;
            let applied = match offset {
                Some(offset) if offset.epoch != self.epoch => {
                    return Err(self.store.fenced(self.epoch));
                }
                Some(offset) if offset.batch >= number => Progress {
                    batch: offset.batch,
                    n: offset.n,
                },
                Some(_) => return Ok(None),
                None => {
                    return Err(Error::new(
                        Kind::StoreRefused,
                        format!(
                            "the offset of {} is gone from {}; restore it from a backup, or stop writing to it by hand",
                            self.store.source_id,
                            self.store.offsets.name()
                        ),
                    ));
                }
            };
            // What was read may not be on a majority, and may yet be rolled back: only a majority write that finds the same there tells.
            let is_durable = self
                .store
                .retry
                .persist("confirm the offset", || {
                    self.store.confirm(self.epoch, applied.batch, &self.session)
                })
                .await?;
            if is_durable {
                return Ok(Some(applied));
            }
        }
    }

    /// Removes those of the staged batches that are in.
    async fn unstage_through(&self, staged: &[i64], number: i64) -> Result<()> {
        for batch in staged.iter().filter(|batch| **batch <= number) {
            self.store
                .retry
                .persist("unstage a committed batch", || self.store.unstage(*batch))
                .await?;
        }
        Ok(())
    }

    /// The fence did not match, this daemon still owns the source, and the batch is not in.
    fn offset_moved_by_hand(&self, number: i64) -> Error {
        Error::new(
            Kind::StoreRefused,
            format!(
                "the offset of {} does not stand at batch {} any more, and no other daemon took over: it was changed by \
                 hand; stop sdl before editing it, and start it afterwards",
                self.store.source_id,
                number - 1
            ),
        )
    }
}

/// What is done with a group, as in "commit batch 7" or "commit batches 7 to 9".
fn describe(group: &Group) -> String {
    match group
        .ends()
        .map(|(first, last)| (first.number(), last.number()))
    {
        Some((first, last)) if first < last => format!("commit batches {first} to {last}"),
        Some((only, _)) => format!("commit batch {only}"),
        None => "commit".to_owned(),
    }
}
