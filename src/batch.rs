//! The batcher: changes in, batches out.
//!
//! It guarantees that a batch ends where a source transaction ends, so that a transaction that fits one batch becomes
//! visible all at once; one that alone is larger than a batch is cut, and every document of it says `meta.partial`. Order is
//! the order of arrival. Nothing here waits or knows the time: the caller decides when to take what is complete
//! ([`Batcher::take_complete`]); size limits close a batch by themselves ([`Batcher::push`]).
//!
//! It is also what makes a reconnect in the middle of a transaction exact. The reader then sends the whole transaction
//! again, from its [`Item::Begin`]; the batcher drops the rows that it had not yet handed out and skips the ones that it
//! had. The same mark, read back from the offset, resumes a cut transaction after a restart.

use std::sync::Arc;

use bson::DateTime;

use crate::event::ChangeEvent;
use crate::offset::{LastTransaction, Offset};
use crate::position::{BinlogPosition, Gtid, PartialTransaction};

/// What the reader hands to the batcher, in binlog order.
#[derive(Debug)]
pub enum Item {
    /// A transaction opens. The same GTID again means that the reader starts over with it.
    Begin(Arc<Gtid>),
    /// One change of the open transaction.
    Change(ChangeEvent),
    /// The open transaction's changes from `row` on were undone before it committed. Where some of them are handed out
    /// already, `marker`, the statement that undid them, is recorded behind them.
    RollbackTo {
        /// Index of the first row that was undone.
        row: u64,
        /// The document of the statement.
        marker: ChangeEvent,
    },
    /// The open transaction is whole.
    End(TransactionEnd),
    /// The source said that it is alive and has nothing more; carries no position of its own.
    Heartbeat,
}

/// Where a transaction ended.
#[derive(Debug, Clone)]
pub struct TransactionEnd {
    /// Binlog file it stands in.
    pub file: Arc<str>,
    /// Position after its last event.
    pub position: u64,
    /// The server it was read from.
    pub server_uuid: Arc<str>,
    /// Commit time on the original server.
    pub timestamp: DateTime,
}

/// Changes that are staged and committed together. It may hold none: then it only moves the offset.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The changes, in order; the first has `n = first_n`.
    pub events: Vec<ChangeEvent>,
    /// `n` of the first change.
    pub first_n: i64,
    /// Where the batch before it ended; a recovered batch is only committed onto an offset that says the same.
    pub previous: BinlogPosition,
    /// The offset once this batch is in; `next.batch` is the batch's number.
    pub next: Offset,
    /// Sum of [`ChangeEvent::bytes`].
    pub bytes: usize,
}

impl Batch {
    /// The batch's number.
    pub fn number(&self) -> i64 {
        self.next.batch
    }

    /// Gives the events their `n`, from `first_n` on, and the offset the last one.
    pub fn number_events(&mut self, first_n: i64) {
        self.first_n = first_n;
        let mut n = first_n;
        for event in &mut self.events {
            event.set_n(n);
            n += 1;
        }
        self.next.n = n - 1;
    }

    /// Whether this batch goes on where `position` ends.
    pub fn follows(&self, position: &BinlogPosition) -> bool {
        self.previous.gtid == position.gtid && self.previous.partial == position.partial
    }
}

/// A binlog transaction arrived in an order that the batcher cannot make exact.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BatchError {
    /// A transaction was cut, and another one follows its first part.
    #[error(
        "transaction {expected} is recorded up to row {rows}, but the source goes on with {found}: \
         it serves its binlog in another order than the server read before"
    )]
    OutOfOrder {
        /// The cut transaction.
        expected: String,
        /// Rows of it already handed out.
        rows: u64,
        /// What came instead.
        found: String,
    },
    /// A change or an end without its transaction.
    #[error("a change outside a transaction")]
    NoTransaction,
}

/// Collects changes until they make a batch.
#[derive(Debug)]
pub struct Batcher {
    /// Largest number of changes in a batch (BATCH_SIZE).
    max_events: usize,
    /// Largest sum of bytes in a batch (BATCH_BYTES); a single larger change makes a batch of its own.
    max_bytes: usize,
    /// The offset after the last batch handed out, then moved by every completed transaction.
    progress: Offset,
    /// Where the last batch handed out ended.
    previous: BinlogPosition,
    events: Vec<ChangeEvent>,
    bytes: usize,
    /// How many of `events` belong to completed transactions.
    complete: usize,
    /// Their bytes.
    complete_bytes: usize,
    /// Whether `progress` moved since the last batch.
    moved: bool,
    open: Option<OpenTransaction>,
}

#[derive(Debug)]
struct OpenTransaction {
    gtid: Arc<Gtid>,
    /// Rows of it handed out in earlier batches: they are never handed out again.
    rows_out: u64,
}

impl Batcher {
    /// A batcher that goes on after `offset`.
    pub fn new(offset: Offset, max_events: usize, max_bytes: usize) -> Self {
        let open = offset
            .position
            .partial
            .as_ref()
            .map(|partial| OpenTransaction {
                gtid: Arc::new(partial.gtid.clone()),
                rows_out: partial.rows,
            });
        Self {
            max_events,
            max_bytes,
            previous: offset.position.clone(),
            progress: offset,
            events: Vec::new(),
            bytes: 0,
            complete: 0,
            complete_bytes: 0,
            moved: false,
            open,
        }
    }

    /// Takes the next item; returns a batch when the item did not fit the one that was building up.
    ///
    /// # Errors
    /// When the order of items makes no sense; nothing may be committed after that.
    pub fn push(&mut self, item: Item) -> Result<Option<Batch>, BatchError> {
        match item {
            Item::Begin(gtid) => self.begin(gtid).map(|()| None),
            Item::Change(event) => self.change(event),
            Item::RollbackTo { row, marker } => self.rollback_to(row, marker),
            Item::End(end) => self.end(end),
            Item::Heartbeat => Ok(None),
        }
    }

    fn begin(&mut self, gtid: Arc<Gtid>) -> Result<(), BatchError> {
        // Whatever was collected of an unfinished transaction comes again: in this transaction, if it is the same one, or
        // later.
        self.events.truncate(self.complete);
        self.bytes = self.complete_bytes;
        match &self.open {
            Some(open) if open.gtid == gtid => {}
            Some(open) if open.rows_out > 0 => {
                return Err(BatchError::OutOfOrder {
                    expected: open.gtid.to_string(),
                    rows: open.rows_out,
                    found: gtid.to_string(),
                });
            }
            _ => self.open = Some(OpenTransaction { gtid, rows_out: 0 }),
        }
        Ok(())
    }

    fn change(&mut self, mut event: ChangeEvent) -> Result<Option<Batch>, BatchError> {
        let open = self.open.as_ref().ok_or(BatchError::NoTransaction)?;
        if event.row < open.rows_out {
            return Ok(None);
        }
        let size = event.bytes();
        let full = !self.events.is_empty()
            && (self.events.len() >= self.max_events || self.bytes + size > self.max_bytes);
        let batch = if !full {
            None
        } else if self.complete > 0 {
            self.take_complete()
        } else {
            Some(self.cut())
        };
        if self.open.as_ref().is_some_and(|open| open.rows_out > 0) {
            event.mark_partial();
        }
        self.bytes += size;
        self.events.push(event);
        Ok(batch)
    }

    fn rollback_to(&mut self, row: u64, marker: ChangeEvent) -> Result<Option<Batch>, BatchError> {
        let open = self.open.as_ref().ok_or(BatchError::NoTransaction)?;
        if open.rows_out > row {
            return self.change(marker);
        }
        while self.events.len() > self.complete
            && let Some(undone) = self.events.pop_if(|event| event.row >= row)
        {
            self.bytes -= undone.bytes();
        }
        Ok(None)
    }

    fn end(&mut self, end: TransactionEnd) -> Result<Option<Batch>, BatchError> {
        let open = self.open.take().ok_or(BatchError::NoTransaction)?;
        let predecessor = self.progress.position.gtid.predecessor(&open.gtid);
        self.progress.position.gtid.add(&open.gtid);
        self.progress.position.partial = None;
        self.progress.position.file.clear();
        self.progress.position.file.push_str(&end.file);
        self.progress.position.position = end.position;
        if *self.progress.server_uuid != *end.server_uuid {
            self.progress.server_uuid = end.server_uuid.to_string();
        }
        self.progress.last = Some(LastTransaction {
            gtid: Gtid::clone(&open.gtid),
            timestamp: end.timestamp,
            predecessor,
        });
        self.complete = self.events.len();
        self.complete_bytes = self.bytes;
        self.moved = true;
        let full = self.events.len() >= self.max_events || self.bytes >= self.max_bytes;
        Ok(if full { self.take_complete() } else { None })
    }

    /// Takes the completed transactions as a batch; `None` when there is nothing new since the last one. The batch has no
    /// events when only filtered or empty transactions passed.
    pub fn take_complete(&mut self) -> Option<Batch> {
        if !self.moved {
            return None;
        }
        let rest = self.events.split_off(self.complete);
        let events = std::mem::replace(&mut self.events, rest);
        let bytes = self.complete_bytes;
        self.bytes -= bytes;
        Some(self.hand_out(events, bytes))
    }

    /// An empty batch that only touches the offset, for a source that is alive and quiet.
    pub fn touch(&mut self) -> Option<Batch> {
        if self.moved || !self.events.is_empty() || self.progress.position.partial.is_some() {
            return None;
        }
        Some(self.hand_out(Vec::new(), 0))
    }

    /// Cuts the open transaction: it alone is larger than a batch.
    fn cut(&mut self) -> Batch {
        if let Some(open) = &mut self.open {
            for event in &mut self.events {
                if open.rows_out == 0 {
                    event.mark_partial();
                }
            }
            if let Some(last) = self.events.last() {
                open.rows_out = last.row + 1;
            }
            self.progress.position.partial = Some(PartialTransaction {
                gtid: Gtid::clone(&open.gtid),
                rows: open.rows_out,
            });
        }
        let events = std::mem::take(&mut self.events);
        let bytes = std::mem::take(&mut self.bytes);
        self.hand_out(events, bytes)
    }

    fn hand_out(&mut self, events: Vec<ChangeEvent>, bytes: usize) -> Batch {
        let first_n = self.progress.n + 1;
        self.progress.batch += 1;
        self.progress.n += i64::try_from(events.len()).unwrap_or(i64::MAX);
        self.complete = 0;
        self.complete_bytes = 0;
        self.moved = false;
        let previous = std::mem::replace(&mut self.previous, self.progress.position.clone());
        let mut batch = Batch {
            events,
            first_n,
            previous,
            next: self.progress.clone(),
            bytes,
        };
        batch.number_events(first_n);
        batch
    }

    /// Whether completed transactions with changes wait to be taken.
    pub fn has_complete_events(&self) -> bool {
        self.complete > 0
    }

    /// Whether the offset would move if a batch were taken now.
    pub fn has_progress(&self) -> bool {
        self.moved
    }
}

#[cfg(test)]
impl Batch {
    /// One of so many changes, numbered from 1 on, for the tests of those who pass batches on.
    pub(crate) fn of_gaps(number: i64, rows: usize) -> Self {
        let change = |row| {
            let name = format!("batch {number}, row {row}");
            let at = DateTime::from_millis(0);
            let context =
                crate::event::TransactionContext::new("source".into(), name.into(), at, 0);
            ChangeEvent::gap(&context, ("file", 4), bson::Document::new()).unwrap()
        };
        let position = BinlogPosition::at("".parse().unwrap());
        let mut batch = Self {
            events: (0..rows).map(change).collect(),
            first_n: 0,
            previous: position.clone(),
            next: Offset {
                position,
                server_uuid: String::new(),
                flavor: crate::position::Flavor::Mysql,
                batch: number,
                n: 0,
                epoch: 1,
                last: None,
            },
            bytes: 0,
        };
        batch.number_events(1);
        batch
    }
}

#[cfg(test)]
mod tests;
