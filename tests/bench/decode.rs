//! From the bytes of a binlog to finished documents, without MySQL behind and MongoDB before it: what reading alone can reach.
//!
//! The files are those that the benchmark's own server wrote, copied away, and they are read as `sdl replay` reads them: the checks
//! on every event, the grammar, the decoder, the documents, handed on in chunks to another thread, which lets go of them as the
//! delivery does. That the files were looked through before counts for nothing, and neither does the disk: the kernel has them.

#![allow(unreachable_pub)]

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use sdl::batch::Item;
use sdl::config::{Config, Sources};
use sdl::source::files::{self, Files, Progress};
use tokio::sync::{mpsc, watch};

use crate::common::Mysqld;
use crate::common::servers::Scratch;
use crate::workload;

/// Chunks between the reader and whoever takes them, as in the daemon.
const CHUNK_QUEUE: usize = 4;

/// How the rows of a file were written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// INSERTs of many rows each.
    Bulk,
    /// Transactions of one row, by turns INSERT, UPDATE and DELETE.
    Single,
}

/// A copy of a binlog file.
#[derive(Debug)]
pub struct Binlog {
    path: PathBuf,
    rows: u64,
}

/// The files of both kinds, in a directory that goes with them.
pub struct Binlogs {
    _directory: Scratch,
    bulk: Binlog,
    single: Binlog,
}

/// One pass over a file.
#[derive(Clone, Copy, Debug)]
pub struct Decoded {
    pub rows: u64,
    /// Of the file.
    pub bytes: u64,
    /// Of the documents.
    pub document_bytes: u64,
    pub seconds: f64,
}

impl Decoded {
    pub fn rows_per_second(&self) -> f64 {
        self.rows as f64 / self.seconds
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
        write!(
            f,
            "{} rows in {:.2} s: {:.0} rows/s; binlog {:.0} MiB, {:.0} MiB/s; documents of {} bytes",
            self.rows,
            self.seconds,
            self.rows_per_second(),
            mib(self.bytes),
            mib(self.bytes) / self.seconds,
            self.document_bytes / self.rows.max(1),
        )
    }
}

impl Binlogs {
    /// Has the server write `bulk` rows and then `single` ones, each into a file of its own, and copies the files. The tables must be
    /// there; their rows are gone afterwards.
    pub async fn write(mysqld: &Arc<Mysqld>, bulk: u64, single: u64) -> Self {
        let directory = Scratch::new("binlogs");
        let bulk_file = new_file(mysqld).await;
        workload::write_bulk(mysqld, bulk).await;
        let single_file = new_file(mysqld).await;
        workload::write_singles(mysqld, single).await;
        new_file(mysqld).await;
        let copy = |name: String, rows| {
            let path = directory.path().join(&name);
            fs::copy(mysqld.datadir().join(&name), &path).expect("a copy of a binlog");
            Binlog { path, rows }
        };
        let (bulk, single) = (copy(bulk_file, bulk), copy(single_file, single));
        Self {
            _directory: directory,
            bulk,
            single,
        }
    }

    /// Reads one of them to its end.
    pub async fn decode(&self, rows: Rows) -> Decoded {
        let binlog = match rows {
            Rows::Bulk => &self.bulk,
            Rows::Single => &self.single,
        };
        let decoded = decode(&binlog.path).await;
        assert_eq!(
            decoded.rows, binlog.rows,
            "the figures of a pass that lost rows mean nothing"
        );
        decoded
    }
}

/// Begins a binlog file, and returns its name.
async fn new_file(mysqld: &Mysqld) -> String {
    mysqld.exec("SET sql_log_bin = 0; FLUSH BINARY LOGS").await;
    let files: Vec<(String, u64, String)> = mysqld.query("SHOW BINARY LOGS").await;
    files.last().expect("a binlog").0.clone()
}

async fn decode(path: &Path) -> Decoded {
    let config = config();
    let progress = Arc::new(Progress::default());
    let looked = Files::look(vec![path.to_owned()], false, Arc::clone(&progress));
    let looked = looked.await.expect("the file is whole");
    let offset = looked.first_offset(&config).expect("START_FROM=earliest");
    let (sender, mut chunks) = mpsc::channel(CHUNK_QUEUE);
    let (_stop, stopped) = watch::channel(false);
    let started = Instant::now();
    let reading = tokio::task::spawn_blocking(move || {
        files::read(&config, &looked, offset, &progress, &sender, &stopped)
    });
    let (mut rows, mut document_bytes) = (0, 0);
    while let Some(chunk) = chunks.recv().await {
        for item in chunk.items {
            if let Item::Change(event) = item {
                rows += 1;
                document_bytes += event.document.as_bytes().len() as u64;
            }
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let read = reading.await.expect("the reader does not panic");
    read.expect("the file can be read");
    Decoded {
        rows,
        bytes: fs::metadata(path).expect("the file is there").len(),
        document_bytes,
        seconds,
    }
}

/// The daemon's defaults; neither server is ever asked for anything.
fn config() -> Config {
    let sources = Sources::from_environment([
        ("MYSQL_ADDR", "127.0.0.1:3306"),
        ("MYSQL_USER", "sdl"),
        ("MONGO_URI", "mongodb://127.0.0.1/?replicaSet=rs0"),
        ("START_FROM", "earliest"),
    ]);
    Config::from_sources(&sources).unwrap_or_else(|errors| panic!("{errors}"))
}
