//! Looking through binlog files before anything of them is recorded.
//!
//! It guarantees that files which pass are whole, belong together and stand in order: each begins exactly where the one before it
//! ended, by the GTIDs that every file names as those of all files before it (PREVIOUS_GTIDS, GTID_LIST); no transaction comes twice,
//! and none is cut off. Only the last one may be without an end, and only where the caller wants that; then it counts up to its last
//! whole transaction. Whether they continue what is recorded is judged apart from that ([`Files::judge`]), since it is asked twice.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use mysql_common::binlog::events::{Event, FormatDescriptionEvent, RotateEvent};

use super::frame::{BinlogFile, Frame};
use super::state::{gtid_list, previous_gtids};
use super::{Files, OneFile, Progress};
use crate::error::{Error, Kind, Result};
use crate::position::mariadb::{self, BinlogState};
use crate::position::{Flavor, Gtid, GtidSet};
use crate::source::event_type;
use crate::source::group::opening::{Opened, opened};

/// Looks through all files; `allow_unfinished` says whether the last one may be without its end.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(
    paths: &[PathBuf],
    allow_unfinished: bool,
    progress: &Progress,
) -> Result<Files> {
    refuse_twice(paths)?;
    let mut total = 0;
    for path in paths {
        total += BinlogFile::open(path)?.length();
    }
    progress.update(|figures| figures.total = total);
    let mut check = Check::default();
    for (index, path) in paths.iter().enumerate() {
        let may_be_unfinished = allow_unfinished && index + 1 == paths.len();
        check.file(path, may_be_unfinished, progress)?;
    }
    let flavor = check.flavor.unwrap_or_default();
    Ok(Files {
        list: named(check.list),
        flavor,
        previous: check.previous,
        all: check.seen,
        state: (flavor == Flavor::Mariadb).then(|| state(&check.newest)),
        server_id: check.server_id,
        transactions: check.transactions,
    })
}

fn refuse_twice(paths: &[PathBuf]) -> Result<()> {
    let mut seen = HashSet::new();
    for path in paths {
        let Ok(found) = std::fs::metadata(path) else {
            continue;
        };
        if !seen.insert((found.dev(), found.ino())) {
            return Err(Error::new(
                Kind::SourceCorrupt,
                format!("binlog file {} is named twice", path.display()),
            ));
        }
    }
    Ok(())
}

/// What was seen so far.
#[derive(Default)]
struct Check {
    list: Vec<Looked>,
    flavor: Option<Flavor>,
    /// The transactions before the first file.
    previous: GtidSet,
    /// Those, and all in the files.
    seen: GtidSet,
    /// Of MariaDB: what each server wrote last into each domain.
    newest: HashMap<(u32, u32), u64>,
    server_id: u32,
    transactions: u64,
}

/// A file that was looked through.
struct Looked {
    path: PathBuf,
    /// Behind its last whole transaction, or its end.
    end: u64,
    /// The name of the file after it, where it says so.
    next: Option<String>,
}

/// A file that is being looked through.
struct Look {
    file: BinlogFile,
    group: Option<Group>,
    has_state: bool,
    /// Whether its last event was read.
    is_ended: bool,
    next: Option<String>,
    /// Behind the last event outside a transaction.
    whole: u64,
}

/// A transaction whose end was not seen.
struct Group {
    opened: Opened,
    /// The transaction of its domain before it (MariaDB).
    predecessor: Option<Gtid>,
    start: u64,
    bytes: u64,
}

impl Look {
    /// Counts an event to the open transaction, which it may end.
    fn take(&mut self, kind: u8, event: &Event) {
        if let Some(group) = &mut self.group {
            group.bytes += u64::from(event.header().event_size());
            let is_over = match group.opened.announced {
                0 => may_end(kind, event, group.opened.is_standalone),
                announced => announced == group.bytes,
            };
            if is_over {
                self.group = None;
            }
        }
        if self.group.is_none() {
            self.whole = self.file.position();
        }
    }

    fn refuse_cut(&self) -> Result<()> {
        match &self.group {
            Some(group) => Err(self.file.damaged(format!(
                "transaction {}, which begins at position {}, is not whole: the copy was cut short, or the server still writes it",
                group.opened.gtid, group.start
            ))),
            None => Ok(()),
        }
    }

    fn refuse_in_use(&self) -> Result<()> {
        if !self.file.is_in_use() {
            return Ok(());
        }
        Err(self.file.damaged(
            "it is not ended: its server still writes it, or crashed; on a server that runs, FLUSH BINARY LOGS ends it, and a server \
             that starts again after a crash mends it: copy it then; of a server that is gone for good, --allow-unfinished records the \
             last file up to its last whole transaction",
        ))
    }
}

impl Check {
    fn file(&mut self, path: &Path, may_be_unfinished: bool, progress: &Progress) -> Result<()> {
        let mut look = Look {
            file: BinlogFile::open(path)?,
            group: None,
            has_state: false,
            is_ended: false,
            next: None,
            whole: 0,
        };
        let torn = loop {
            progress.refuse_when_stopped()?;
            match look.file.next()? {
                Frame::Event(event) => {
                    progress.add_bytes(u64::from(event.header().event_size()));
                    self.event(&mut look, &event)?;
                }
                Frame::End => break None,
                Frame::Torn(error) => break Some(error),
            }
        };
        if !may_be_unfinished {
            look.refuse_in_use()?;
            if let Some(torn) = torn {
                return Err(torn);
            }
            look.refuse_cut()?;
        }
        if !look.has_state {
            return Err(look
                .file
                .damaged("it ends before it says which transactions stand before it"));
        }
        // A transaction without its end does not count.
        if let Some(group) = look.group {
            let gtid = &group.opened.gtid;
            self.seen = self.seen.without(gtid, group.predecessor.as_ref());
            self.transactions -= 1;
        }
        if !look.is_ended {
            tracing::warn!(
                file = %path.display(),
                position = look.whole,
                bytes_left_out = look.file.length() - look.whole,
                "the binlog file has no end (ROTATE, STOP): its server crashed there, or the copy is cut short; what stands before \
                 that is taken, and the next start says whether something is missing behind it"
            );
        }
        self.list.push(Looked {
            path: path.to_owned(),
            end: look.whole,
            next: look.next,
        });
        Ok(())
    }

    fn event(&mut self, look: &mut Look, event: &Event) -> Result<()> {
        let file = &look.file;
        if look.is_ended {
            return Err(file.damaged("the file goes on behind its end; are two files in one?"));
        }
        let kind = event.header().event_type_raw();
        match kind {
            event_type::FORMAT_DESCRIPTION => self.format(file, event)?,
            event_type::PREVIOUS_GTIDS if !look.has_state => {
                let set = previous_gtids(event.data()).map_err(|error| file.damaged(error))?;
                self.begins_after(file, set)?;
                look.has_state = true;
            }
            event_type::GTID_LIST if !look.has_state => {
                let list = gtid_list(event.data()).map_err(|error| file.damaged(error))?;
                self.begins_with(file, &list)?;
                look.has_state = true;
            }
            event_type::START_ENCRYPTION => {
                return Err(file.damaged(
                    "it is encrypted from here on (encrypt_binlog), and the key is the server's; fetch it from a server that can \
                     read it: mariadb-binlog --read-from-remote-server --raw",
                ));
            }
            event_type::ANONYMOUS_GTID => {
                return Err(file.error(
                    Kind::SourceSetting,
                    "a transaction without a GTID; it was written with gtid_mode off or permissive, and cannot be recorded \
                     exactly once",
                ));
            }
            event_type::ROTATE => {
                let rotate: RotateEvent<'_> =
                    event.read_event().map_err(|error| file.damaged(error))?;
                look.next = Some(rotate.name().into_owned());
                look.is_ended = true;
            }
            event_type::STOP => look.is_ended = true,
            _ => {}
        }
        let opened = opened(event).map_err(|error| file.damaged(error))?;
        if look.is_ended || opened.is_some() {
            look.refuse_cut()?;
        }
        if let Some(opened) = opened {
            if !look.has_state {
                return Err(file.damaged(
                    "it does not say which transactions stand in the files before it (PREVIOUS_GTIDS; MariaDB: GTID_LIST): its \
                     server had no GTIDs, and nothing tells whether a file is missing before it",
                ));
            }
            let predecessor = self.seen.predecessor(&opened.gtid);
            self.add(file, &opened.gtid)?;
            look.group = Some(Group {
                opened,
                predecessor,
                start: look.whole,
                bytes: 0,
            });
        }
        look.take(kind, event);
        Ok(())
    }

    /// A file's first event.
    fn format(&mut self, file: &BinlogFile, event: &Event) -> Result<()> {
        let format: FormatDescriptionEvent<'_> =
            event.read_event().map_err(|error| file.damaged(error))?;
        let flavor = if format.server_version().contains("MariaDB") {
            Flavor::Mariadb
        } else {
            Flavor::Mysql
        };
        if self.flavor.is_some_and(|other| other != flavor) {
            return Err(file.error(
                Kind::WrongServer,
                format!("it is of a {flavor} server, the file before it is not"),
            ));
        }
        self.flavor = Some(flavor);
        self.server_id = event.header().server_id();
        Ok(())
    }

    /// The state that a MySQL file begins with.
    fn begins_after(&mut self, file: &BinlogFile, previous: GtidSet) -> Result<()> {
        if self.list.is_empty() {
            self.previous = previous.clone();
            self.seen = previous;
            return Ok(());
        }
        self.follows(file, &previous)
    }

    /// The state that a MariaDB file begins with.
    fn begins_with(&mut self, file: &BinlogFile, list: &[mariadb::Gtid]) -> Result<()> {
        let mut position = mariadb::GtidPosition::default();
        for gtid in list {
            position.add(gtid);
            let newest = self.newest.entry((gtid.domain, gtid.server)).or_default();
            *newest = (*newest).max(gtid.sequence);
        }
        self.begins_after(file, position.into())
    }

    /// Whether the file begins where the one before it ended.
    fn follows(&self, file: &BinlogFile, previous: &GtidSet) -> Result<()> {
        let before = self.list.last().map(|before| before.path.display());
        let before = before.map_or_else(String::new, |path| path.to_string());
        if let Some(more) = self.seen.beyond(previous) {
            return Err(file.error(
                Kind::WrongServer,
                format!(
                    "it does not know of {more}, which {before} has: the files are not in the order in which they were written, one \
                     is there twice, or they are of several servers"
                ),
            ));
        }
        if let Some(missing) = previous.beyond(&self.seen) {
            return Err(file.error(
                Kind::Gap,
                format!("between {before} and it a file is missing, with {missing}; name it between them"),
            ));
        }
        Ok(())
    }

    fn add(&mut self, file: &BinlogFile, gtid: &Gtid) -> Result<()> {
        if !self.seen.add(gtid) {
            return Err(file.error(
                Kind::WrongServer,
                match gtid {
                    Gtid::Mysql(_) => format!("transaction {gtid} comes a second time"),
                    Gtid::Mariadb(_) => format!(
                        "transaction {gtid} comes after a later one of its domain; with numbers that do not grow \
                         (gtid_strict_mode=OFF) nothing can be recorded exactly once"
                    ),
                },
            ));
        }
        if let Gtid::Mariadb(gtid) = gtid {
            self.newest
                .insert((gtid.domain, gtid.server), gtid.sequence);
        }
        self.transactions += 1;
        Ok(())
    }
}

/// Whether a transaction may end with this event.
fn may_end(kind: u8, event: &Event, is_standalone: bool) -> bool {
    let ends_with = |text: &[u8]| event.data().ends_with(text);
    match kind {
        event_type::XID | event_type::XA_PREPARE | event_type::TRANSACTION_PAYLOAD => true,
        // The text stands behind the database's name and a zero byte.
        event_type::QUERY => is_standalone || ends_with(b"\0COMMIT") || ends_with(b"\0ROLLBACK"),
        event_type::QUERY_COMPRESSED => is_standalone,
        _ => false,
    }
}

fn state(newest: &HashMap<(u32, u32), u64>) -> BinlogState {
    let mut state = BinlogState::default();
    for ((domain, server), sequence) in newest {
        state.add(mariadb::Gtid {
            domain: *domain,
            server: *server,
            sequence: *sequence,
        });
    }
    state
}

/// Gives each file the name that it has at its server, which documents tell: the copy's own, but for what a backup put before it,
/// as the ROTATE event in front of it or at its own end shows.
fn named(list: Vec<Looked>) -> Vec<OneFile> {
    let bases: Vec<Option<String>> = list
        .iter()
        .map(|looked| Some(looked.next.as_deref()?.rsplit_once('.')?.0.to_owned()))
        .collect();
    let base = bases.into_iter().flatten().next();
    list.into_iter()
        .map(|looked| {
            let copy = looked
                .path
                .file_name()
                .unwrap_or_default()
                .to_string_lossy();
            let name = match (&base, copy.rsplit_once('.')) {
                (Some(base), Some((_, number)))
                    if number.bytes().all(|byte| byte.is_ascii_digit()) =>
                {
                    format!("{base}.{number}")
                }
                _ => copy.into_owned(),
            };
            OneFile {
                path: looked.path,
                name,
                end: looked.end,
            }
        })
        .collect()
}
