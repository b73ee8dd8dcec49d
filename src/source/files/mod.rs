//! Binlog files on disk in place of a server: for transactions that no server has any more, and a backup has.
//!
//! It guarantees what [`super`] does, by the same means: the events of a file go through the checks and the [`Assembler`] that those
//! of a dump go through, so what comes out is the same to the last byte, ids included. Before anything is handed on, all files are
//! looked through ([`check`]) and held against what is recorded ([`Files::judge`]): nothing may be missing between the two, and what
//! is recorded must stand in the history that the files are of.
//!
//! It resumes like a reconnect: from the saved offset, by GTID. What is recorded is passed over; the last recorded transaction, where
//! the files hold it, is compared with what it was when it was recorded.
//!
//! A file differs from a dump in two things. MariaDB's holds the text of statements (ANNOTATE_ROWS), for which sdl cannot ask a
//! server; it is left out, or the documents would not be those of the stream. And no server stands behind it that could tell a
//! column's name as of then: columns that the events do not name (binlog_row_metadata) are `@1`, `@2` …; only what MariaDB never
//! tells in an event (UUID, INET6 …) is asked of MYSQL_ADDR, as the stream does.

mod check;
mod frame;
mod state;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use mysql_common::binlog::events::Event;
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};

use super::group::Assembler;
use super::group::opening::opened;
use super::preflight::Facts;
use super::schema::information_schema::InformationSchema;
use super::{Chunk, event_type};
use crate::batch::Item;
use crate::config::{Config, StartFrom};
use crate::error::{Error, Kind, Result};
use crate::failpoint::crash_point;
use crate::offset::Offset;
use crate::position::mariadb::BinlogState;
use crate::position::{BinlogPosition, Flavor, GtidSet};
use frame::{BinlogFile, Frame};

/// Files that were looked through: whole, of one history, and in order.
#[derive(Debug)]
pub struct Files {
    list: Vec<OneFile>,
    flavor: Flavor,
    /// The transactions before the first file.
    previous: GtidSet,
    /// Those, and all in the files.
    all: GtidSet,
    state: Option<BinlogState>,
    /// Of the server that wrote them.
    server_id: u32,
    /// How many transactions they hold.
    pub transactions: u64,
}

#[derive(Debug)]
struct OneFile {
    path: PathBuf,
    /// As its server calls it.
    name: String,
    /// Where what is taken of it ends.
    end: u64,
}

/// How far it has come; read by whoever shows it.
#[derive(Debug, Default)]
pub struct Progress {
    figures: Mutex<Figures>,
    stop: AtomicBool,
}

/// Figures of one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct Figures {
    /// Whether the files are being recorded; before that they are looked through.
    pub is_recording: bool,
    /// Bytes of all files.
    pub total: u64,
    /// Bytes read, of the files that are done and of the one that is read.
    pub bytes: u64,
    /// Transactions that are recorded already and were passed over.
    pub passed_over: u64,
    /// Transactions read to their end, to be recorded.
    pub transactions: u64,
    /// Changes of them, without those that the settings leave out.
    pub events: u64,
}

impl Progress {
    /// As it is now.
    pub fn figures(&self) -> Figures {
        *self.figures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the looking through; nothing was changed by it.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    fn update(&self, change: impl FnOnce(&mut Figures)) {
        change(&mut self.figures.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn add_bytes(&self, bytes: u64) {
        self.update(|figures| figures.bytes += bytes);
    }

    fn refuse_when_stopped(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Internal, "stopped"));
        }
        Ok(())
    }
}

/// What there is to do with the files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// They continue what is recorded.
    Continues,
    /// All that they hold is recorded.
    NothingNew,
}

impl Files {
    /// Looks through the files, the oldest first.
    ///
    /// # Errors
    /// The first thing that is wrong with them.
    pub async fn look(
        paths: Vec<PathBuf>,
        allow_unfinished: bool,
        progress: Arc<Progress>,
    ) -> Result<Self> {
        let task =
            tokio::task::spawn_blocking(move || check::check(&paths, allow_unfinished, &progress));
        task.await.unwrap_or_else(|panic| {
            Err(Error::new(
                Kind::Internal,
                format!("looking through the files panicked ({panic})"),
            ))
        })
    }

    /// The position behind all of them, for whoever was before the first.
    pub fn end(&self) -> &GtidSet {
        &self.all
    }

    /// Where a source begins that was never read, when it begins with these files.
    ///
    /// # Errors
    /// When the settings do not say that it begins there.
    pub fn first_offset(&self, config: &Config) -> Result<Offset> {
        if let Some(named) = config.mysql_flavor
            && named != self.flavor
        {
            return Err(Error::new(
                Kind::WrongServer,
                format!(
                    "MYSQL_FLAVOR is {named}, but the files are of a {} server",
                    self.flavor
                ),
            ));
        }
        let gtid = match &config.start_from {
            StartFrom::Earliest => self.previous.clone(),
            StartFrom::Gtid(set) => set.clone(),
            StartFrom::Current => {
                return Err(Error::new(
                    Kind::Gap,
                    format!(
                        "{} has no saved offset, and START_FROM=current leaves out all that was written before now; set \
                         START_FROM=earliest to begin with the first of these files",
                        config.source_id
                    ),
                ));
            }
        };
        Ok(Offset {
            position: BinlogPosition::at(gtid),
            server_uuid: match self.flavor {
                // No binlog names the server's UUID as its own.
                Flavor::Mysql => String::new(),
                Flavor::Mariadb => format!("server-id {}", self.server_id),
            },
            flavor: self.flavor,
            batch: 0,
            n: 0,
            epoch: 0,
            last: None,
        })
    }

    /// Whether what is recorded goes on in these files; pure.
    ///
    /// # Errors
    /// Why it does not.
    pub fn judge(&self, offset: &Offset) -> Result<Verdict> {
        let read = &offset.position.gtid;
        let refused = |kind, what: String| Err(Error::new(kind, what));
        if offset.flavor != self.flavor || read.is_foreign_to(self.flavor) {
            return refused(
                Kind::WrongServer,
                format!(
                    "the files are of a {} server, but the saved offset is of a {} server; a server of the other kind is another \
                     source: give it a SOURCE_ID of its own",
                    self.flavor, offset.flavor
                ),
            );
        }
        if let Some(missing) = self.previous.beyond(read) {
            return refused(
                Kind::Gap,
                format!(
                    "binlog gap: before the first file, {}, stands what is not recorded yet: {missing}; nothing was recorded; begin \
                     with an older file",
                    self.first().display()
                ),
            );
        }
        let mut recorded = read.clone();
        if let Some(partial) = &offset.position.partial {
            recorded.add(&partial.gtid);
        }
        let has_nothing_new = self.all.is_subset(read);
        let Some(lacking) = self.facts().lacks(&recorded) else {
            return Ok(match has_nothing_new {
                true => Verdict::NothingNew,
                false => Verdict::Continues,
            });
        };
        match (has_nothing_new, self.flavor) {
            (true, Flavor::Mysql) => Ok(Verdict::NothingNew),
            // Lower numbers of a domain may be another server's.
            (true, Flavor::Mariadb) => refused(
                Kind::WrongServer,
                format!(
                    "the files end before the saved offset, or are of another server: they do not have what is recorded, {lacking}; \
                     nothing was recorded; name the file in which that stands, and those behind it"
                ),
            ),
            (false, _) => refused(
                Kind::WrongServer,
                format!(
                    "the files are of another server, or of another history than the recorded one: they do not have what is recorded, \
                     {lacking}, and have {}; nothing was recorded",
                    self.all.beyond(read).unwrap_or_default()
                ),
            ),
        }
    }

    fn first(&self) -> &Path {
        self.list.first().map_or(Path::new(""), |file| &file.path)
    }

    /// What a server would say of itself that had these files and no others.
    fn facts(&self) -> Facts {
        Facts {
            flavor: self.flavor,
            version: String::new(),
            server_uuid: String::new(),
            executed: self.all.clone(),
            purged: self.previous.clone(),
            state: self.state.clone(),
            variables: std::collections::HashMap::new(),
        }
    }
}

/// Reads what comes after `offset` and sends it on, to the end of the files or until `stopped` says so. It blocks the thread.
///
/// # Errors
/// What an operator must mend; whatever was sent before is good.
pub fn read(
    config: &Config,
    files: &Files,
    offset: Offset,
    progress: &Progress,
    chunks: &mpsc::Sender<Chunk>,
    stopped: &watch::Receiver<bool>,
) -> Result<()> {
    progress.update(|figures| {
        figures.is_recording = true;
        figures.bytes = 0;
    });
    let position = offset.position;
    let mut assembler = Assembler::new(config, files.flavor, position.gtid, offset.last);
    assembler.reconnected(&offset.server_uuid);
    let mut reader = Reader {
        flavor: files.flavor,
        assembler,
        progress,
        chunks,
        chunk: Chunk::default(),
        information: config
            .mysql_addresses
            .iter()
            .map(|address| InformationSchema::new(config, address, files.flavor))
            .collect(),
    };
    for file in &files.list {
        let read = reader.file(file, stopped);
        // What came before the trouble is good.
        reader.send()?;
        if !read? {
            return Ok(());
        }
    }
    Ok(())
}

struct Reader<'a> {
    flavor: Flavor,
    assembler: Assembler,
    progress: &'a Progress,
    chunks: &'a mpsc::Sender<Chunk>,
    chunk: Chunk,
    /// One for each server of MYSQL_ADDR.
    information: Vec<InformationSchema<'a>>,
}

impl Reader<'_> {
    /// Reads one file; `false` when it was stopped.
    fn file(&mut self, file: &OneFile, stopped: &watch::Receiver<bool>) -> Result<bool> {
        tracing::info!(file = %file.path.display(), name = file.name, "reading a binlog file");
        let mut binlog = BinlogFile::open(&file.path)?;
        self.assembler.begin_file(&file.name)?;
        let mut is_passed_over = false;
        while binlog.position() < file.end {
            if *stopped.borrow() {
                return Ok(false);
            }
            let event = match binlog.next()? {
                Frame::Event(event) => event,
                Frame::Torn(error) => return Err(error),
                Frame::End => {
                    return Err(
                        binlog.damaged("the file has become shorter since it was looked through")
                    );
                }
            };
            let size = u64::from(event.header().event_size());
            self.progress.add_bytes(size);
            crash_point("after-read");
            let kind = event.header().event_type_raw();
            if let Some(opened) = opened(&event).map_err(|error| binlog.damaged(error))? {
                is_passed_over = self.assembler.passes_over(&opened.gtid);
                let counted = u64::from(is_passed_over);
                self.progress
                    .update(|figures| figures.passed_over += counted);
            } else if matches!(kind, event_type::ROTATE | event_type::STOP) {
                is_passed_over = false;
            }
            if is_passed_over || kind == event_type::ANNOTATE_ROWS {
                continue;
            }
            // An error of the assembler has file, position and GTID; that the file is damaged is no matter of a connection.
            binlog
                .unpack(&event, |event| self.take(event))
                .map_err(|error| match error.kind() {
                    Kind::SourceDamaged => Error::new(
                        Kind::SourceCorrupt,
                        format!("{error} (read from {})", file.path.display()),
                    ),
                    _ => error,
                })?;
        }
        self.progress
            .add_bytes(binlog.length().saturating_sub(file.end));
        Ok(true)
    }

    fn take(&mut self, event: &Event) -> Result<()> {
        self.look_up(event)?;
        self.assembler.event(event, &mut self.chunk)?;
        if self.chunk.is_full() {
            self.send()?;
        }
        Ok(())
    }

    /// Asks the servers of MYSQL_ADDR what an event cannot tell. Names are not asked for: what a table is called now says nothing
    /// of what it was when an old file was written.
    fn look_up(&mut self, event: &Event) -> Result<()> {
        let now = Instant::now();
        let Some(wanted) = self.assembler.wants(event, now) else {
            return Ok(());
        };
        if !wanted.is_required {
            self.assembler.learn(&wanted, None, now);
            return Ok(());
        }
        self.send()?;
        let mut reasons = Vec::new();
        for information in &mut self.information {
            match Handle::current().block_on(information.ask(&wanted)) {
                Ok(answer) => {
                    self.assembler.learn(&wanted, Some(answer), Instant::now());
                    return Ok(());
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        Err(Error::new(
            Kind::SourceUnavailable,
            format!(
                "no server of MYSQL_ADDR says what the columns of {}.{} are, which a {} binlog does not tell of UUID, INET6 and the \
                 like: {}; point MYSQL_ADDR at a server that has the table, and run the command again",
                wanted.database,
                wanted.table,
                self.flavor,
                reasons.join(" | ")
            ),
        ))
    }

    fn send(&mut self) -> Result<()> {
        let full = std::mem::take(&mut self.chunk);
        if full.items.is_empty() {
            return Ok(());
        }
        let count = |wanted: fn(&Item) -> bool| {
            full.items.iter().filter(|item| wanted(item)).count() as u64
        };
        let transactions = count(|item| matches!(item, Item::End(_)));
        let events = count(|item| matches!(item, Item::Change(_)));
        self.progress.update(|figures| {
            figures.transactions += transactions;
            figures.events += events;
        });
        self.chunks
            .blocking_send(full)
            .map_err(|_| Error::new(Kind::Internal, "the pipeline behind the reader has ended"))
    }
}
