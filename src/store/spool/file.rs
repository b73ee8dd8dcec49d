//! One SQLite file of the spool: opened and checked, kept below its limit, and its good part copied when the rest is damaged.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};

use super::Summary;
use super::place::{Place, file_bytes};
use super::rows::{self, Encoded, Unreadable};
use crate::batch::Batch;
use crate::error::{Error, Kind, Result};

/// PRAGMA user_version of the files that this version writes.
const VERSION: i64 = 1;

/// PRAGMA application_id: "sdlS". `file` and SQLite's tools show it.
const APPLICATION: i64 = 0x7364_6c53;

/// Larger than SQLite's 4 KiB: the columns before a batch's content then always fit its first page, and a batch takes a quarter of
/// the pages.
const PAGE_BYTES: u64 = 16 * 1024;

/// Pages of the write-ahead log at which it is folded into the file: 8 MiB.
const LOG_PAGES: u64 = 512;

/// What a file may grow by for the tables themselves.
const EMPTY_PAGES: u64 = 16;

/// Bytes below the limit that no batch takes: the write-ahead log of a removal. It writes few pages, whatever it frees.
const REMOVAL_BYTES: u64 = 512 * 1024;

/// Longest wait for someone who writes with the `sqlite3` shell.
const BUSY: Duration = Duration::from_secs(5);

/// Files up to this size are checked whole at start; it takes about a second. In larger ones a batch's own checksum tells, when
/// it is read.
const CHECKED_WHOLE: u64 = 1024 * 1024 * 1024;

/// A file that may be used.
#[derive(Debug)]
pub(super) struct Loaded {
    pub(super) connection: Connection,
    /// Number of the first batch, and the last one.
    pub(super) chain: Option<(i64, Summary)>,
    pub(super) events: u64,
}

/// What was saved of a damaged file.
#[derive(Debug)]
pub(super) struct Salvaged {
    /// How many batches.
    pub(super) kept: u64,
    /// Number and transactions of the first batch that was not, as far as they can be read.
    pub(super) first_lost: String,
}

/// Opens the spool's file, or makes it.
pub(super) fn load(place: &Place, max_bytes: u64) -> Result<Loaded> {
    let path = place.file();
    let connection = open(place, &path, max_bytes)?;
    let loaded = look(connection, place).map_err(|error| match error {
        Unreadable::Damaged(problem) => damaged(&path, &problem),
        Unreadable::Sqlite(error) => failed(&path, "open it", &error),
    })?;
    if loaded.chain.is_none()
        && let Err(error) = shrink(&loaded.connection)
    {
        tracing::warn!(spool = %path.display(), %error, "the empty spool keeps its space on the disk for now");
    }
    Ok(loaded)
}

/// A connection to a file of this version and source.
fn open(place: &Place, path: &Path, max_bytes: u64) -> Result<Connection> {
    place.make_file(path)?;
    let fail = |error: rusqlite::Error| failed(path, "open it", &error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(fail)?;
    connection.busy_timeout(BUSY).map_err(fail)?;
    let (version, application) = identity(&connection).map_err(fail)?;
    if version == 0 && application == 0 && is_blank(&connection).map_err(fail)? {
        create(&mut connection, &place.source_id()).map_err(fail)?;
    } else if application != APPLICATION {
        return Err(refused(path, "is no spool of sdl: move it away"));
    } else if version != VERSION {
        return Err(refused(
            path,
            &format!(
                "was written by another version of sdl (format {version}, this one writes {VERSION}): start that version until the \
                 spool is drained, or move the file away while the binlog still has its events"
            ),
        ));
    }
    settle(&connection, max_bytes).map_err(fail)?;
    let source: String = connection
        .query_row("select source_id from about", [], |row| row.get(0))
        .map_err(|error| match fail(error) {
            // No such table, no row: it was there when the version was written.
            error if error.kind() == Kind::Internal => damaged(path, &error.to_string()),
            error => error,
        })?;
    if source != *place.source_id() {
        return Err(refused(
            path,
            &format!(
                "belongs to the source {source}, not to {}: move it away",
                place.source_id()
            ),
        ));
    }
    Ok(connection)
}

fn identity(connection: &Connection) -> rusqlite::Result<(i64, i64)> {
    Ok((
        connection.pragma_query_value(None, "user_version", |row| row.get(0))?,
        connection.pragma_query_value(None, "application_id", |row| row.get(0))?,
    ))
}

fn is_blank(connection: &Connection) -> rusqlite::Result<bool> {
    connection.query_row("select count(*) = 0 from sqlite_schema", [], |row| {
        row.get(0)
    })
}

fn create(connection: &mut Connection, source_id: &str) -> rusqlite::Result<()> {
    connection.pragma_update(None, "page_size", PAGE_BYTES)?;
    connection.pragma_update(None, "journal_mode", "wal")?;
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    transaction.execute_batch(rows::TABLES)?;
    transaction.execute("insert into about values (?1)", [source_id])?;
    transaction.pragma_update(None, "application_id", APPLICATION)?;
    transaction.pragma_update(None, "user_version", VERSION)?;
    transaction.commit()
}

/// What holds for a connection only.
fn settle(connection: &Connection, max_bytes: u64) -> rusqlite::Result<()> {
    connection.pragma_update(None, "journal_mode", "wal")?;
    connection.pragma_update(None, "synchronous", "full")?;
    connection.pragma_update(None, "wal_autocheckpoint", LOG_PAGES)?;
    connection.pragma_update(None, "journal_size_limit", LOG_PAGES * PAGE_BYTES)?;
    // VACUUM then needs no second place that may be full.
    connection.pragma_update(None, "temp_store", "memory")?;
    // The last line of defence; `make_room` says no before it, and counts the log too.
    connection.pragma_update(
        None,
        "max_page_count",
        (max_bytes / PAGE_BYTES).max(EMPTY_PAGES),
    )
}

/// Looks at the whole file.
fn look(connection: Connection, place: &Place) -> std::result::Result<Loaded, Unreadable> {
    if file_bytes(&place.file()) <= CHECKED_WHOLE {
        let verdict: String =
            connection.query_row("pragma quick_check(1)", [], |row| row.get(0))?;
        if verdict != "ok" {
            return Err(Unreadable::Damaged(verdict));
        }
    }
    let (count, ends, events): (i64, _, i64) = connection.query_row(
        "select count(*), min(batch), max(batch), coalesce(sum(events), 0) from batches",
        [],
        |row| {
            let ends: (Option<i64>, Option<i64>) = (row.get(1)?, row.get(2)?);
            Ok((row.get(0)?, ends, row.get(3)?))
        },
    )?;
    let chain = match ends {
        (Some(first), Some(last)) => {
            if last - first + 1 != count {
                return Err(Unreadable::Damaged(format!(
                    "it holds {count} batches from {first} to {last}"
                )));
            }
            let batch =
                rows::read(&connection, &place.source_id(), last).map_err(|error| match error {
                    Unreadable::Damaged(problem) => {
                        Unreadable::Damaged(format!("batch {last}: {problem}"))
                    }
                    other => other,
                })?;
            Some((first, Summary::of(&batch)))
        }
        _ => None,
    };
    Ok(Loaded {
        connection,
        chain,
        events: u64::try_from(events).unwrap_or(0),
    })
}

/// Sees to it that a batch fits below the limit, the write-ahead log counted, or says no.
pub(super) fn make_room(
    connection: &Connection,
    path: &Path,
    wal: &Path,
    encoded: &Encoded,
    max_bytes: u64,
) -> Result<()> {
    let fail = |error: rusqlite::Error| failed(path, &encoded.doing(), &error);
    let needed = encoded.room();
    let pages: u64 = pragma(connection, "page_count").map_err(fail)?;
    let free: u64 = pragma(connection, "freelist_count").map_err(fail)?;
    let grown = pages * PAGE_BYTES + needed.saturating_sub(free * PAGE_BYTES);
    let fits = |log: u64| grown + log + needed + REMOVAL_BYTES <= max_bytes;
    if fits(file_bytes(wal)) {
        return Ok(());
    }
    checkpoint(connection).map_err(fail)?;
    if fits(file_bytes(wal)) {
        return Ok(());
    }
    Err(Error::new(
        Kind::SpoolUnavailable,
        format!(
            "spool {} is full: batch {} needs {} bytes (in the file and in its log), {} of SPOOL_MAX_BYTES={max_bytes} are taken; \
             reading waits until MongoDB takes batches again, or raise SPOOL_MAX_BYTES",
            path.display(),
            encoded.number(),
            2 * needed,
            (pages - free.min(pages)) * PAGE_BYTES + file_bytes(wal),
        ),
    ))
}

/// Sees to it that a removal's log stays below the limit. What cannot be folded now does not keep anything from being removed.
pub(super) fn make_room_to_remove(connection: &Connection, bytes: u64, max_bytes: u64) {
    if bytes + REMOVAL_BYTES > max_bytes
        && let Err(error) = checkpoint(connection)
    {
        tracing::debug!(%error, "the spool's log stays as it is before a removal");
    }
}

/// Gives the space of an empty spool back to the disk.
pub(super) fn shrink(connection: &Connection) -> rusqlite::Result<()> {
    if pragma(connection, "page_count")? > EMPTY_PAGES {
        connection.execute_batch("vacuum")?;
        checkpoint(connection)?;
    }
    Ok(())
}

/// Folds the write-ahead log into the file and empties it. Someone who reads with the shell may keep it from that: no error.
fn checkpoint(connection: &Connection) -> rusqlite::Result<()> {
    connection.query_row("pragma wal_checkpoint(truncate)", [], |_| Ok(()))
}

fn pragma(connection: &Connection, name: &str) -> rusqlite::Result<u64> {
    connection.pragma_query_value(None, name, |row| row.get(0))
}

/// Copies the good batches before `limit` into a replacement; the file itself stays as it is.
pub(super) fn salvage(place: &Place, limit: Option<i64>, max_bytes: u64) -> Result<Salvaged> {
    place.discard_replacement()?;
    let path = place.replacement();
    // What is there was below the limit when it was written; a lower one now must not cost it.
    let mut into = open(place, &path, max_bytes + place.bytes())?;
    let mut salvaged = Salvaged {
        kept: 0,
        first_lost: "unknown".to_owned(),
    };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    // What cannot even be opened has nothing to keep.
    if let Ok(from) = Connection::open_with_flags(place.file(), flags) {
        copy(&from, &mut into, place, limit, &mut salvaged)?;
    }
    checkpoint(&into).map_err(|error| failed(&path, "write it", &error))?;
    into.close()
        .map_err(|(_, error)| failed(&path, "close it", &error))?;
    Ok(salvaged)
}

fn copy(
    from: &Connection,
    into: &mut Connection,
    place: &Place,
    limit: Option<i64>,
    salvaged: &mut Salvaged,
) -> Result<()> {
    let mut number: Option<i64> = from
        .query_row("select min(batch) from batches", [], |row| row.get(0))
        .unwrap_or(None);
    let mut last: Option<Summary> = None;
    while let Some(next) = number.filter(|number| limit.is_none_or(|limit| *number < limit)) {
        let Some((batch, epoch)) = good(from, place, next, last.as_ref()) else {
            break;
        };
        let encoded = Encoded::new(&place.source_id(), &batch, epoch)?;
        rows::append(into, &encoded)
            .map_err(|error| failed(&place.replacement(), &encoded.doing(), &error))?;
        salvaged.kept += 1;
        last = Some(encoded.summary);
        number = Some(next + 1);
    }
    if let Some(number) = number {
        salvaged.first_lost = format!("batch {number}, {}", rows::range(from, number));
    }
    Ok(())
}

/// A batch that is whole and continues the one before it, with its epoch.
fn good(
    from: &Connection,
    place: &Place,
    number: i64,
    last: Option<&Summary>,
) -> Option<(Batch, i64)> {
    let batch = rows::read(from, &place.source_id(), number).ok()?;
    let epoch = from
        .query_row(
            "select epoch from batches where batch = ?1",
            [number],
            |row| row.get(0),
        )
        .ok()?;
    last.is_none_or(|last| batch.follows(&last.next.position))
        .then_some((batch, epoch))
}

/// An error of SQLite, by what is to be done about it.
pub(super) fn failed(path: &Path, doing: &str, error: &rusqlite::Error) -> Error {
    let code = error.sqlite_error_code();
    match code {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
            damaged(path, &error.to_string())
        }
        Some(
            ErrorCode::DiskFull
            | ErrorCode::SystemIoFailure
            | ErrorCode::ReadOnly
            | ErrorCode::CannotOpen
            | ErrorCode::PermissionDenied
            | ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OutOfMemory,
        ) => Error::new(
            Kind::SpoolUnavailable,
            format!(
                "spool {}: cannot {doing}: {error}; nothing of it was written; {}",
                path.display(),
                advice(code)
            ),
        ),
        _ => Error::new(
            Kind::Internal,
            format!("spool {}: cannot {doing}: {error}", path.display()),
        ),
    }
}

/// Whether it is the disk that fails, and not someone else at the file.
pub(super) fn is_disk_failure(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure)
    )
}

fn advice(code: Option<ErrorCode>) -> &'static str {
    match code {
        Some(ErrorCode::DiskFull) => "make room on its disk",
        Some(ErrorCode::ReadOnly | ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
            "sdl's user must be able to write to SPOOL_DIR, and its disk must not be mounted read-only"
        }
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "end the program that writes to it (sqlite3?)"
        }
        Some(ErrorCode::OutOfMemory) => "the process is at its memory limit",
        _ => "look for errors of its disk in the kernel's log (journalctl -k)",
    }
}

fn damaged(path: &Path, problem: &str) -> Error {
    Error::new(
        Kind::SpoolDamaged,
        format!("spool {} is damaged: {problem}", path.display()),
    )
}

fn refused(path: &Path, problem: &str) -> Error {
    Error::new(
        Kind::SpoolUnavailable,
        format!("spool {} {problem}", path.display()),
    )
}
