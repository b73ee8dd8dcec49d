//! Where the spool of a source lies: its directory, the names of its files, and the lock that makes it one daemon's.
//!
//! `SPOOL_DIR/spool-SOURCE-HASH.sqlite3`, beside it SQLite's own `-wal` and `-shm`, `.lock`, `.new` while a damaged file is being
//! replaced, and what was set aside: `.damaged-TIME`, `.superseded-TIME`. They hold row values: the directory is made 0700, the
//! files 0600.
//!
//! A replacement is complete before the old file is renamed, so a crash leaves one of: both (the new one is made again), only
//! the new one (it takes the place), or the new one in place.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};
use sha2::{Digest, Sha256};

use crate::error::{Error, Kind, Result};

/// Most characters of the source id in a file name.
const SLUG: usize = 60;

/// The place of one source's spool; while it lives, no other process has it.
#[derive(Debug)]
pub(super) struct Place {
    directory: PathBuf,
    name: String,
    source_id: Arc<str>,
    /// The lock lasts as long as the file is open.
    _lock: File,
}

impl Place {
    /// Makes the directory and takes the lock.
    pub(super) fn take(directory: &Path, source_id: &str) -> Result<Self> {
        let name = file_name(source_id);
        let unusable = |doing: &str, path: &Path, error: &io::Error| {
            Error::new(
                Kind::SpoolUnavailable,
                format!(
                    "cannot {doing} {}: {error}; sdl's user must be able to write to SPOOL_DIR",
                    path.display()
                ),
            )
        };
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| unusable("make", directory, &error))?;
        let lock_path = directory.join(format!("{name}.lock"));
        let lock =
            open_private(&lock_path).map_err(|error| unusable("open", &lock_path, &error))?;
        if let Err(error) = flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            let error = io::Error::from(error);
            if error.kind() == io::ErrorKind::WouldBlock {
                return Err(Error::new(
                    Kind::SpoolUnavailable,
                    format!(
                        "another sdl has the spool {} open (it holds {}): stop it, or give this one a SPOOL_DIR of its own",
                        directory.join(&name).display(),
                        lock_path.display()
                    ),
                ));
            }
            return Err(unusable("lock", &lock_path, &error));
        }
        Ok(Self {
            directory: directory.to_owned(),
            name,
            source_id: source_id.into(),
            _lock: lock,
        })
    }

    /// The source that it belongs to.
    pub(super) fn source_id(&self) -> Arc<str> {
        Arc::clone(&self.source_id)
    }

    /// The SQLite file.
    pub(super) fn file(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Its write-ahead log.
    pub(super) fn wal(&self) -> PathBuf {
        with_suffix(&self.file(), "-wal")
    }

    /// Where a replacement is made.
    pub(super) fn replacement(&self) -> PathBuf {
        with_suffix(&self.file(), ".new")
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        file_bytes(&self.file()) + file_bytes(&self.wal())
    }

    /// Makes the SQLite file if there is none, readable by nobody else. Its companions get the same mode from SQLite.
    pub(super) fn make_file(&self, path: &Path) -> Result<()> {
        open_private(path)
            .and_then(|file| {
                if file.metadata()?.permissions().mode() & 0o077 != 0 {
                    file.set_permissions(Permissions::from_mode(0o600))?;
                }
                self.sync_directory()
            })
            .map_err(|error| self.refused("open", path, &error))
    }

    /// Ends a replacement that was begun: puts it into the place where the file is gone, else throws it away.
    pub(super) fn finish_replacement(&self) -> Result<()> {
        let replacement = self.replacement();
        if !replacement.exists() {
            return Ok(());
        }
        if self.file().exists() {
            return self.discard_replacement();
        }
        std::fs::rename(&replacement, self.file())
            .and_then(|()| self.sync_directory())
            .map_err(|error| self.refused("rename", &replacement, &error))
    }

    /// Removes an unfinished replacement.
    pub(super) fn discard_replacement(&self) -> Result<()> {
        self.remove_database(&self.replacement())
    }

    /// Removes the SQLite file, of which nothing is needed any more.
    pub(super) fn remove_file(&self) -> Result<()> {
        self.remove_database(&self.file())
    }

    /// The file first: SQLite throws a log away that has no file.
    fn remove_database(&self, path: &Path) -> Result<()> {
        for suffix in ["", "-wal", "-shm"] {
            remove(&with_suffix(path, suffix))
                .map_err(|error| self.refused("remove", path, &error))?;
        }
        Ok(())
    }

    /// Renames the SQLite file, with its write-ahead log if there is one, to `….WHY-TIME`.
    pub(super) fn set_aside(&self, why: &str) -> Result<PathBuf> {
        let time = jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ");
        let named = with_suffix(&self.file(), &format!(".{why}-{time}"));
        let aside = (1..)
            .map(|count| match count {
                1 => named.clone(),
                _ => with_suffix(&named, &format!("-{count}")),
            })
            .find(|path| !path.exists())
            .unwrap_or(named);
        let rename = |suffix: &str| match std::fs::rename(
            with_suffix(&self.file(), suffix),
            with_suffix(&aside, suffix),
        ) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other,
        };
        // The log first: SQLite throws a log away that has no file.
        rename("-wal")
            .and_then(|()| rename(""))
            .and_then(|()| remove(&with_suffix(&self.file(), "-shm")))
            .and_then(|()| self.sync_directory())
            .map_err(|error| self.refused("set aside", &self.file(), &error))?;
        Ok(aside)
    }

    fn sync_directory(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }

    fn refused(&self, doing: &str, path: &Path, error: &io::Error) -> Error {
        Error::new(
            Kind::SpoolUnavailable,
            format!(
                "cannot {doing} {}: {error}; sdl's user must be able to write to {}",
                path.display(),
                self.directory.display()
            ),
        )
    }
}

/// `spool-SOURCE-HASH.sqlite3`: readable, and different for any two sources.
pub(super) fn file_name(source_id: &str) -> String {
    let words: Vec<&str> = source_id
        .split(|character: char| !character.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .collect();
    let slug: String = words.join("-").to_lowercase().chars().take(SLUG).collect();
    let digest = crate::hex::hex(&Sha256::digest(source_id));
    format!(
        "spool-{slug}-{}.sqlite3",
        digest.get(..8).unwrap_or_default()
    )
}

/// `path` with more at its end.
pub(super) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The size of a file; 0 for one that is not there.
pub(super) fn file_bytes(path: &Path) -> u64 {
    path.metadata().map_or(0, |metadata| metadata.len())
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
