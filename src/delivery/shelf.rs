//! The spool as the delivery uses it: where it stands in it, and what is done when it fails.
//!
//! It guarantees that batches are read in order and once, that a spool that takes nothing is told of once and tried again, and that
//! what a late opened or damaged one holds is set aside and never mixed with what was read meanwhile.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::batch::Batch;
use crate::board::{Board, Committed};
use crate::config::{Config, RetrySettings, SpoolSettings};
use crate::error::{Error, Reaction, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::recovery::{self, Reconciled};
use crate::store::Spool;

/// Spooled batches that are committed before they are removed from disk together: each removal costs an fsync, and those that a crash
/// leaves behind are recognized as covered.
const REMOVE_TOGETHER: i64 = 16;

pub(super) struct Shelf {
    settings: Option<SpoolSettings>,
    source_id: String,
    retry: RetrySettings,
    board: Arc<Board>,
    spool: Option<Spool>,
    /// The next batch to read.
    next: i64,
    refusal: Option<Refusal>,
}

/// It takes nothing at the moment.
struct Refusal {
    again_at: Instant,
    delays: Box<dyn Iterator<Item = Duration> + Send>,
}

impl Shelf {
    /// `spool` is None where there is none, or where it could not be opened; then that is tried again when it is needed.
    pub(super) fn new(config: &Config, board: Arc<Board>, spool: Option<Spool>) -> Self {
        let shelf = Self {
            settings: config.spool.clone(),
            source_id: config.source_id.clone(),
            retry: config.retry,
            board,
            spool,
            next: 0,
            refusal: None,
        };
        shelf.publish();
        shelf
    }

    /// Whether there is a spool that takes batches, as far as is known.
    pub(super) fn is_there(&self) -> bool {
        self.settings.is_some() && self.refusal.is_none()
    }

    /// When a spool that takes nothing is to be tried again.
    pub(super) fn again_at(&self) -> Option<Instant> {
        self.refusal.as_ref().map(|refusal| refusal.again_at)
    }

    /// It is time to try it again.
    pub(super) fn try_again(&mut self) {
        if let Some(refusal) = &mut self.refusal {
            refusal.again_at = Instant::now();
        }
    }

    /// Reading goes on behind batch `committed`, the last one in MongoDB.
    pub(super) fn read_after(&mut self, committed: i64) {
        self.next = committed + 1;
    }

    /// The first and the last batch it holds; none: it is empty.
    fn held(&self) -> Option<(i64, i64)> {
        self.spool.as_ref().and_then(Spool::numbers)
    }

    /// Whether it holds batches that were not read yet.
    pub(super) fn has_unread(&self) -> bool {
        self.held().is_some_and(|(_, last)| self.next <= last)
    }

    /// The next batch that was not read yet.
    ///
    /// # Errors
    /// When it is damaged, or the disk fails.
    pub(super) async fn read_next(&mut self) -> Result<Option<Batch>> {
        let Some(spool) = self.spool.as_ref().filter(|_| self.has_unread()) else {
            return Ok(None);
        };
        let batch = spool.read(self.next).await?;
        self.next += 1;
        Ok(Some(batch))
    }

    /// Puts a batch at its end; `false` when it takes nothing at the moment, or is not there.
    ///
    /// # Errors
    /// Only of a defect.
    pub(super) async fn append(&mut self, batch: &Batch, epoch: i64) -> Result<bool> {
        if self.again_at().is_some_and(|at| Instant::now() < at) {
            return Ok(false);
        }
        crash_point("before-spool");
        match self.try_append(batch, epoch).await {
            Ok(is_spooled) => {
                if is_spooled {
                    crash_point("after-spool");
                    self.note_appended(batch);
                }
                Ok(is_spooled)
            }
            Err(error) if error.kind().reaction() == Reaction::Wait => {
                self.refuse(&error);
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    async fn try_append(&mut self, batch: &Batch, epoch: i64) -> Result<bool> {
        let Some(settings) = &self.settings else {
            return Ok(false);
        };
        let spool = match &self.spool {
            Some(spool) => spool,
            None => {
                let spool = Spool::open(settings, &self.source_id).await?;
                if spool.numbers().is_some() {
                    // Reading began from the saved offset, so these are read again.
                    spool
                        .set_aside("it could not be opened when sdl started")
                        .await?;
                }
                self.spool.insert(spool)
            }
        };
        spool.append(batch, epoch).await?;
        Ok(true)
    }

    fn note_appended(&mut self, batch: &Batch) {
        let number = batch.number();
        if self.held().is_some_and(|(first, _)| first == number) {
            tracing::info!(batch = number, "spooling");
        }
        if self.refusal.take().is_some() {
            tracing::info!(batch = number, "the spool takes batches again");
        }
        self.publish();
        let end = Committed::of(&batch.next, batch.next.n);
        self.board.update(|facts| facts.spooled = Some(end));
    }

    fn refuse(&mut self, error: &Error) {
        if self.refusal.is_none() {
            tracing::error!(%error, "the spool takes nothing at the moment; reading pauses, the binlog keeps what is not yet recorded");
        }
        let refusal = self.refusal.get_or_insert_with(|| Refusal {
            again_at: Instant::now(),
            delays: Box::new(self.retry.delays()),
        });
        let delay = refusal.delays.next().unwrap_or(self.retry.max_delay);
        refusal.again_at = Instant::now() + delay;
        self.publish();
    }

    /// Batch `number`, which is the next one it holds, is committed.
    pub(super) async fn committed(&mut self, number: i64) {
        let Some((first, last)) = self.held() else {
            return;
        };
        if number < last && number < first + REMOVE_TOGETHER {
            return;
        }
        crash_point("before-spool-removal");
        if let Some(spool) = &self.spool
            && let Err(error) = spool.remove_through(number).await
        {
            // They are recognized as committed when they are met again.
            tracing::warn!(%error, through = number, "committed batches cannot be removed from the spool");
        }
        crash_point("after-spool-removal");
        if number == last {
            tracing::info!(batch = number, "the spool is empty again");
        }
        self.publish();
    }

    /// Compares it with what MongoDB holds, and removes what is recorded already.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(super) async fn reconcile(&mut self, offset: &Offset) -> Result<Reconciled> {
        let Some(spool) = &self.spool else {
            return Ok(Reconciled::Empty);
        };
        let reconciled = recovery::compare(offset, spool).await?;
        if reconciled == Reconciled::GoesOn {
            spool.remove_through(offset.batch).await?;
            self.publish();
        }
        Ok(reconciled)
    }

    /// It gave something else than was written to it, or cannot be read: from the batch that was to be read on, it is set aside.
    /// `false` when that is not possible either.
    pub(super) async fn give_up(&mut self, error: &Error) -> bool {
        tracing::error!(%error, batch = self.next, "the spool cannot be read on; setting the rest aside, and reading it again from the binlog");
        let Some(spool) = &self.spool else {
            return true;
        };
        match spool.keep_before(self.next, &error.to_string()).await {
            Ok(path) => {
                tracing::error!(file = %path.display(), "set aside what the spool held");
                true
            }
            Err(error) => {
                tracing::error!(%error, "what the spool holds cannot be set aside; going on without it");
                false
            }
        }
    }

    fn publish(&self) {
        let figures = self.settings.as_ref().map(|settings| {
            let mut figures = self.spool.as_ref().map(Spool::figures).unwrap_or_default();
            figures.max_bytes = settings.max_bytes;
            figures.is_refusing = self.refusal.is_some();
            figures
        });
        let is_empty = self.held().is_none();
        self.board.update(|facts| {
            facts.spool = figures;
            if is_empty {
                facts.spooled = None;
            }
        });
    }
}
