//! The spool: batches on the local disk while MongoDB is away.
//!
//! It guarantees that a batch is on the disk when [`Spool::append`] returns, whole or not at all; that batches come back in the
//! order of their numbers, without a gap, byte for byte, with the schema versions and large values that they refer to; and that
//! its files never take more than SPOOL_MAX_BYTES. What is damaged is noticed before it is used, set aside under a new name, and
//! never deleted: its events are read again from the binlog.
//!
//! It resumes from what the file holds: [`Spool::open`] looks at the whole file, verifies the last batch, and goes on after it. A
//! file that does not pass is replaced by one with the batches before the damage.
//!
//! One SQLite file per source (file format: <https://sqlite.org/fileformat2.html>), which the `sqlite3` shell reads beside the
//! running daemon:
//!
//! ```text
//! sqlite3 FILE 'select * from overview'
//! sqlite3 FILE 'select batch, created_at, events, bytes, last_gtid, file, position, sha256 from batches'
//! ```
//!
//! Why a write-ahead log (<https://sqlite.org/wal.html>) with synchronous=FULL: a commit then costs one fsync instead of three and is
//! as durable, and someone who reads beside the daemon does not stop it. The price is that a batch is written twice, so for a
//! moment it needs its size twice; the limit counts both.
//!
//! SQLite blocks, so every call runs on a thread for that; they follow one another. A call whose future is dropped still runs to
//! its end, and what it did is known to the next one.
//!
//! - [`place`]: names of the files, the lock, what is set aside;
//! - [`file`]: opening, checking, and copying the good part of one file;
//! - [`rows`]: one batch in, out, and gone;
//! - [`glance`]: what it holds, read beside whoever has it open.

mod file;
pub(super) mod glance;
mod place;
mod rows;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use rusqlite::Connection;

use crate::batch::Batch;
use crate::board::SpoolFigures;
use crate::config::{Config, SpoolSettings};
use crate::error::{Error, Kind, Result};
use crate::offset::Offset;
use crate::position::BinlogPosition;
use place::Place;

/// What a batch is in the chain of batches.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// Its number.
    pub number: i64,
    /// Where the batch before it ended; without file and position once it was read back.
    pub follows: BinlogPosition,
    /// The offset once it is in. Its epoch says nothing.
    pub next: Offset,
    /// How many changes it holds.
    pub events: usize,
    /// [`Batch::bytes`].
    pub bytes: usize,
}

impl Summary {
    fn of(batch: &Batch) -> Self {
        Self {
            number: batch.number(),
            follows: batch.previous.clone(),
            next: batch.next.clone(),
            events: batch.events.len(),
            bytes: batch.bytes,
        }
    }
}

/// The spool of one source. Clones are the same spool.
#[derive(Debug, Clone)]
pub struct Spool(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    /// Apart from `state`, so that nobody waits for a disk to read them.
    known: Mutex<Known>,
    source_id: Arc<str>,
    path: PathBuf,
}

#[derive(Debug, Clone, Copy, Default)]
struct Known {
    numbers: Option<(i64, i64)>,
    figures: SpoolFigures,
}

/// The open file and what is known of it.
#[derive(Debug)]
struct State {
    /// None after a failure on the way from one file to the next; the next call opens it again. It comes before the place, so that
    /// it is closed before the lock is given up.
    connection: Option<Connection>,
    place: Place,
    max_bytes: u64,
    /// Number of the first batch and all of the last one.
    chain: Option<(i64, Summary)>,
    /// The first batch, once somebody asked.
    first: Option<Summary>,
    events: u64,
    /// Batches through this one are gone, but the disk did not take the removal yet.
    to_remove: Option<i64>,
    is_refusing: bool,
}

impl Spool {
    /// The spool of the source, where SPOOL_DIR is set.
    ///
    /// # Errors
    /// As of [`Spool::open`].
    pub async fn of(config: &Config) -> Result<Option<Self>> {
        match &config.spool {
            Some(settings) => Ok(Some(Self::open(settings, &config.source_id).await?)),
            None => Ok(None),
        }
    }

    /// Opens the spool of a source, and makes it if there is none. A damaged file is set aside, and its good batches are kept.
    ///
    /// # Errors
    /// [`Kind::SpoolUnavailable`]: another process has it open, the directory cannot be written, the file belongs to another
    /// source or a newer version.
    pub async fn open(settings: &SpoolSettings, source_id: &str) -> Result<Self> {
        let settings = settings.clone();
        let source_id: Arc<str> = source_id.into();
        run_blocking(move || {
            let place = Place::take(&settings.directory, &source_id)?;
            let path = place.file();
            let mut state = State {
                connection: None,
                place,
                max_bytes: settings.max_bytes,
                chain: None,
                first: None,
                events: 0,
                to_remove: None,
                is_refusing: false,
            };
            state.open()?;
            let shared = Shared {
                known: Mutex::new(state.known()),
                state: Mutex::new(state),
                source_id,
                path,
            };
            Ok(Self(Arc::new(shared)))
        })
        .await
    }

    /// What the spool of a source takes on the disk, whoever has it open.
    pub fn bytes_of(directory: &Path, source_id: &str) -> u64 {
        let file = directory.join(place::file_name(source_id));
        place::file_bytes(&file) + place::file_bytes(&place::with_suffix(&file, "-wal"))
    }

    /// Its file, for messages.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// Numbers of the first and the last batch; none: it is empty. Waits for nothing.
    pub fn numbers(&self) -> Option<(i64, i64)> {
        self.known().numbers
    }

    /// What metrics and status tell. Waits for nothing.
    pub fn figures(&self) -> SpoolFigures {
        self.known().figures
    }

    /// The first and the last batch; none: it is empty.
    ///
    /// # Errors
    /// As of [`Spool::read`], for the first batch.
    pub async fn ends(&self) -> Result<Option<(Summary, Summary)>> {
        self.run(State::ends).await
    }

    /// Makes a batch durable behind the last one. An empty spool takes any number.
    ///
    /// # Errors
    /// [`Kind::SpoolUnavailable`] when there is no room, or the disk fails: nothing of the batch was written, and it can be tried
    /// again. [`Kind::Internal`] for a batch that does not continue the last one.
    pub async fn append(&self, batch: &Batch, epoch: i64) -> Result<()> {
        let encoded = rows::Encoded::new(&self.0.source_id, batch, epoch)?;
        self.run(move |state| state.append(&encoded)).await
    }

    /// Reads a batch back, after its checksum was verified.
    ///
    /// # Errors
    /// [`Kind::SpoolDamaged`] when it is not what was written; [`Spool::keep_before`] then mends the spool.
    /// [`Kind::Internal`] for a number that it does not hold.
    pub async fn read(&self, number: i64) -> Result<Batch> {
        self.run(move |state| state.read(number)).await
    }

    /// Removes all batches up to and with `number`, and what only they referred to. When none is left the file shrinks.
    ///
    /// # Errors
    /// [`Kind::SpoolUnavailable`] when the disk does not even take that. The batches are gone from [`Spool::numbers`] all the
    /// same, and from the file with the next removal; a start before that meets them again, covered by the offset.
    pub async fn remove_through(&self, number: i64) -> Result<()> {
        self.run(move |state| state.remove_through(number)).await
    }

    /// Renames the file to `….superseded-TIME` and goes on with an empty one. Returns the new name.
    ///
    /// # Errors
    /// [`Kind::SpoolUnavailable`] when the directory or its disk refuse.
    pub async fn set_aside(&self, why: &str) -> Result<PathBuf> {
        let why = why.to_owned();
        self.run(move |state| state.set_aside(&why)).await
    }

    /// Keeps the batches before `number`, and sets a whole copy of the file aside as `….damaged-TIME`. Returns its name.
    ///
    /// # Errors
    /// [`Kind::SpoolUnavailable`] when the directory or its disk refuse.
    pub async fn keep_before(&self, number: i64, why: &str) -> Result<PathBuf> {
        let why = why.to_owned();
        self.run(move |state| state.replace(Some(number), &why))
            .await
    }

    fn known(&self) -> Known {
        *self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut State) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let shared = Arc::clone(&self.0);
        run_blocking(move || {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            let result = state.open().and_then(|()| work(&mut state));
            if let Err(error) = &result {
                state.is_refusing |= error.kind() == Kind::SpoolUnavailable;
            }
            *shared.known.lock().unwrap_or_else(PoisonError::into_inner) = state.known();
            result
        })
        .await
    }
}

async fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(Error::new(
                Kind::Internal,
                format!("the spool's thread failed: {error}"),
            ))
        })
}

impl State {
    fn known(&self) -> Known {
        let numbers = self
            .chain
            .as_ref()
            .map(|(first, last)| (*first, last.number));
        Known {
            numbers,
            figures: SpoolFigures {
                batches: numbers.map_or(0, |(first, last)| {
                    u64::try_from(last - first + 1).unwrap_or(0)
                }),
                events: self.events,
                bytes: self.place.bytes(),
                max_bytes: self.max_bytes,
                is_refusing: self.is_refusing,
            },
        }
    }

    /// Opens the file, unless it is open.
    fn open(&mut self) -> Result<()> {
        if self.connection.is_some() {
            return Ok(());
        }
        self.place.finish_replacement()?;
        let loaded = match file::load(&self.place, self.max_bytes) {
            Err(error) if error.kind() == Kind::SpoolDamaged => {
                self.replace(None, &error.to_string())?;
                return Ok(());
            }
            other => other?,
        };
        self.adopt(loaded);
        Ok(())
    }

    fn adopt(&mut self, loaded: file::Loaded) {
        self.connection = Some(loaded.connection);
        self.chain = loaded.chain;
        self.first = None;
        self.events = loaded.events;
        self.to_remove = None;
        self.is_refusing = false;
    }

    fn connection(&mut self) -> Result<&mut Connection> {
        self.connection
            .as_mut()
            .ok_or_else(|| Error::new(Kind::Internal, "the spool is used before it is open"))
    }

    fn ends(&mut self) -> Result<Option<(Summary, Summary)>> {
        let Some((first, last)) = self.chain.clone() else {
            return Ok(None);
        };
        if self.first.is_none() {
            self.first = Some(if first == last.number {
                last.clone()
            } else {
                Summary::of(&self.read(first)?)
            });
        }
        Ok(self.first.clone().map(|first| (first, last)))
    }

    fn append(&mut self, encoded: &rows::Encoded) -> Result<()> {
        if let Some((_, last)) = &self.chain {
            encoded.must_continue(last)?;
        }
        // Else the file would hold a gap.
        self.finish_removal()?;
        let file = self.place.file();
        let max_bytes = self.max_bytes;
        let wal = self.place.wal();
        let connection = self.connection()?;
        file::make_room(connection, &file, &wal, encoded, max_bytes)?;
        rows::append(connection, encoded)
            .map_err(|error| file::failed(&file, &encoded.doing(), &error))?;
        let first = self
            .chain
            .take()
            .map_or(encoded.number(), |(first, _)| first);
        self.chain = Some((first, encoded.summary.clone()));
        self.events += encoded.summary.events as u64;
        self.is_refusing = false;
        Ok(())
    }

    fn read(&mut self, number: i64) -> Result<Batch> {
        let holds = self
            .chain
            .as_ref()
            .is_some_and(|(first, last)| (*first..=last.number).contains(&number));
        if !holds {
            return Err(Error::new(
                Kind::Internal,
                format!("the spool holds no batch {number}"),
            ));
        }
        let file = self.place.file();
        let source_id = self.place.source_id();
        let connection = self.connection()?;
        rows::read(connection, &source_id, number).map_err(|error| match error {
            rows::Unreadable::Damaged(problem) => Error::new(
                Kind::SpoolDamaged,
                format!(
                    "spool {}: batch {number} ({}) is damaged: {problem}",
                    file.display(),
                    rows::range(connection, number)
                ),
            ),
            rows::Unreadable::Sqlite(error) => {
                file::failed(&file, &format!("read batch {number}"), &error)
            }
        })
    }

    fn remove_through(&mut self, number: i64) -> Result<()> {
        match self.chain.clone() {
            Some((first, last)) if number >= first => {
                self.to_remove = Some(number);
                self.first = None;
                self.chain = (number < last.number).then_some((number + 1, last));
            }
            _ => {}
        }
        self.finish_removal()
    }

    fn finish_removal(&mut self) -> Result<()> {
        let Some(number) = self.to_remove else {
            return Ok(());
        };
        let file = self.place.file();
        let is_empty = self.chain.is_none();
        let (bytes, max_bytes) = (self.place.bytes(), self.max_bytes);
        let connection = self.connection()?;
        file::make_room_to_remove(connection, bytes, max_bytes);
        let doing = format!("remove batches through {number}");
        let removed = match rows::remove_through(connection, number) {
            Ok(removed) => removed,
            Err(error) if is_empty && file::is_disk_failure(&error) => return self.start_over(),
            Err(error) => return Err(file::failed(&file, &doing, &error)),
        };
        if is_empty && let Err(error) = file::shrink(connection) {
            tracing::warn!(spool = %file.display(), %error, "the empty spool keeps its space on the disk for now");
        }
        self.to_remove = None;
        self.events = self.events.saturating_sub(removed);
        self.is_refusing = false;
        Ok(())
    }

    /// Deletes a file of which nothing is needed any more. SQLite needs room to write that rows are gone; on a full disk this is
    /// what makes room.
    fn start_over(&mut self) -> Result<()> {
        self.close();
        self.place.remove_file()?;
        self.events = 0;
        self.to_remove = None;
        self.open()
    }

    fn set_aside(&mut self, why: &str) -> Result<PathBuf> {
        self.close();
        let aside = self.place.set_aside("superseded")?;
        self.chain = None;
        self.events = 0;
        self.to_remove = None;
        tracing::error!(
            spool = %self.place.file().display(), aside = %aside.display(), why,
            "the spool was set aside; nothing reads it again, keep it for the record or delete it"
        );
        self.open()?;
        Ok(aside)
    }

    /// Replaces the file by one that holds its good batches before `limit`, and sets it aside.
    fn replace(&mut self, limit: Option<i64>, why: &str) -> Result<PathBuf> {
        self.close();
        let salvaged = file::salvage(&self.place, limit, self.max_bytes)?;
        let aside = self.place.set_aside("damaged")?;
        self.place.finish_replacement()?;
        tracing::error!(
            spool = %self.place.file().display(), aside = %aside.display(), why,
            kept = salvaged.kept, first_lost = salvaged.first_lost,
            "the spool was damaged and is set aside; what it lost is read again from the binlog"
        );
        let loaded = file::load(&self.place, self.max_bytes)?;
        self.adopt(loaded);
        Ok(aside)
    }

    fn close(&mut self) {
        // Closing the last connection folds the write-ahead log into the file; where it cannot, both are kept.
        self.connection = None;
    }
}
