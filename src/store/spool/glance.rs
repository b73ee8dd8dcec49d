//! What the spool of a source holds, read beside the daemon that has it open, or of one that does not run.
//!
//! It changes nothing and takes no lock that anybody waits for: SQLite's readers of a write-ahead log see the last commit
//! (<https://sqlite.org/wal.html#read_only_databases>). Where there is no log, the file is whole by itself and is opened as one that nobody
//! changes, so that not even SQLite's own files beside it are made.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OpenFlags};
use serde::Serialize;

use super::place::{file_bytes, file_name, with_suffix};
use super::{file, run_blocking};
use crate::config::SpoolSettings;
use crate::error::Result;

/// What it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Glance {
    /// Its file.
    pub file: PathBuf,
    /// Batches.
    pub batches: i64,
    /// Events in them.
    pub events: i64,
    /// Bytes of its files.
    pub bytes: u64,
    /// SPOOL_MAX_BYTES.
    pub max_bytes: u64,
    /// Number of the first and the last batch.
    pub first_batch: Option<i64>,
    /// See `first_batch`.
    pub last_batch: Option<i64>,
    /// When the first was spooled, as the file says it.
    pub oldest: Option<String>,
    /// The first and the last transaction.
    pub first_gtid: Option<String>,
    /// See `first_gtid`.
    pub last_gtid: Option<String>,
}

/// Looks at the spool of a source; `None` where there is no file.
///
/// # Errors
/// Where it cannot be read.
pub async fn glance(settings: &SpoolSettings, source_id: &str) -> Result<Option<Glance>> {
    let path = settings.directory.join(file_name(source_id));
    let max_bytes = settings.max_bytes;
    run_blocking(move || {
        if !path.exists() {
            return Ok(None);
        }
        read(&path, max_bytes)
            .map(Some)
            .map_err(|error| file::failed(&path, "look at it", &error))
    })
    .await
}

fn read(path: &Path, max_bytes: u64) -> rusqlite::Result<Glance> {
    let log = with_suffix(path, "-wal");
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = match file_bytes(&log) {
        0 => Connection::open_with_flags(immutable(path), flags | OpenFlags::SQLITE_OPEN_URI)?,
        _ => Connection::open_with_flags(path, flags)?,
    };
    connection.query_row(
        "select batches, coalesce(events, 0), first_batch, last_batch, oldest, first_gtid, last_gtid from overview",
        [],
        |row| {
            Ok(Glance {
                file: path.to_owned(),
                batches: row.get(0)?,
                events: row.get(1)?,
                bytes: file_bytes(path) + file_bytes(&log),
                max_bytes,
                first_batch: row.get(2)?,
                last_batch: row.get(3)?,
                oldest: row.get(4)?,
                first_gtid: row.get(5)?,
                last_gtid: row.get(6)?,
            })
        },
    )
}

/// The URI of a file that nobody changes (<https://sqlite.org/uri.html>).
fn immutable(path: &Path) -> String {
    let path = path.to_string_lossy();
    let path = path
        .replace('%', "%25")
        .replace('?', "%3f")
        .replace('#', "%23");
    format!("file:{path}?immutable=1")
}
