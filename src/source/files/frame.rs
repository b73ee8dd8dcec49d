//! One binlog file, event by event.
//!
//! It guarantees what [`super::super::stream`] does for a dump, by the same checks: an event that comes out of here is whole, its
//! checksum holds, and a compressed payload gives exactly the bytes that it announces. Every error names the file and the position.
//!
//! Format: "Binary Log Format" in MySQL's internals manual; the first four bytes `BINLOG_MAGIC` and `ENCRYPTED_BINLOG_MAGIC` in
//! `sql/log_event.h` and `sql/rpl_log_encryption.h`; flags in `libs/mysql/binlog/event/binlog_event.h`.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use mysql_common::binlog::EventStreamReader;
use mysql_common::binlog::consts::BinlogVersion;
use mysql_common::binlog::events::{BinlogEventHeader, Event, TransactionPayloadEvent};

use crate::error::{Error, Kind, Result};
use crate::source::event_type;
use crate::source::guard::guarded;
use crate::source::stream::{Payload, check_crc, check_length};

/// `BINLOG_MAGIC`.
const MAGIC: [u8; 4] = [0xfe, b'b', b'i', b'n'];

/// `ENCRYPTED_BINLOG_MAGIC`.
const ENCRYPTED: [u8; 4] = [0xfd, b'b', b'i', b'n'];

/// How the files of programs that pack begin, and what unpacks them.
const PACKED: &[(&[u8], &str)] = &[
    (&[0x1f, 0x8b], "gunzip"),
    (&[0x28, 0xb5, 0x2f, 0xfd], "unzstd"),
    (&[0xfd, b'7', b'z', b'X'], "unxz"),
    (b"BZh", "bunzip2"),
    (b"PK", "unzip"),
    (&[0x04, 0x22, 0x4d, 0x18], "unlz4"),
];

/// Where the length and the flags stand in an event's header.
const LENGTH: usize = 9;
const FLAGS: usize = 17;

/// LOG_EVENT_BINLOG_IN_USE_F, in the first event: the server writes the file, or did when it crashed.
const IN_USE: u8 = 0x01;

/// LOG_EVENT_RELAY_LOG_F, in the first event: what a replica received.
const RELAY_LOG: u8 = 0x40;

/// Bytes that are read from the disk at once.
const BUFFER: usize = 256 * 1024;

/// What comes next in a file.
pub(super) enum Frame {
    /// An event, checked.
    Event(Event),
    /// Nothing more.
    End,
    /// An event of which the file does not have the rest.
    Torn(Error),
}

/// A file that is being read.
pub(super) struct BinlogFile {
    path: PathBuf,
    input: BufReader<File>,
    parser: EventStreamReader,
    /// Of the last event: the parser copies what it keeps, so the place is used again.
    bytes: Vec<u8>,
    /// Where the last event begins and ends.
    start: u64,
    end: u64,
    length: u64,
    is_in_use: bool,
}

impl BinlogFile {
    /// Opens a file that begins like a binlog.
    ///
    /// # Errors
    /// What else it is.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let refused = |what: String| {
            Error::new(
                Kind::SourceCorrupt,
                format!("binlog file {}: {what}", path.display()),
            )
        };
        let found =
            std::fs::metadata(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
        if found.is_dir() {
            return Err(refused(
                "is a directory; name the files in it, the oldest first".to_owned(),
            ));
        }
        if !found.is_file() {
            return Err(refused(
                "is no regular file, and is read twice; copy it to the disk".to_owned(),
            ));
        }
        let file = File::open(path).map_err(|error| refused(format!("cannot be read: {error}")))?;
        let mut input = BufReader::with_capacity(BUFFER, file);
        let mut magic = Vec::new();
        input
            .by_ref()
            .take(MAGIC.len() as u64)
            .read_to_end(&mut magic)
            .map_err(|error| refused(format!("cannot be read: {error}")))?;
        if magic == ENCRYPTED {
            return Err(refused(
                "is encrypted (binlog_encryption), and its key is the server's; fetch it from a server that can read it: mysqlbinlog \
                 --read-from-remote-server --raw"
                    .to_owned(),
            ));
        }
        if magic != MAGIC {
            let packed = PACKED.iter().find(|(begin, _)| magic.starts_with(begin));
            return Err(refused(match packed {
                Some((_, program)) => format!("is packed; unpack it first: {program}"),
                None => {
                    "is no binlog: it does not begin with the bytes fe 62 69 6e; what is wanted is the server's own file, or what \
                     mysqlbinlog --raw makes of it"
                        .to_owned()
                }
            }));
        }
        let mut file = Self {
            path: path.to_owned(),
            input,
            parser: EventStreamReader::new(BinlogVersion::Version4),
            bytes: Vec::new(),
            start: 0,
            end: MAGIC.len() as u64,
            length: found.len(),
            is_in_use: false,
        };
        file.is_in_use = file.look_at_flags()?;
        Ok(file)
    }

    /// Bytes of the file when it was opened.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// Behind the last event.
    pub(super) fn position(&self) -> u64 {
        self.end
    }

    /// Whether its server had not ended it.
    pub(super) fn is_in_use(&self) -> bool {
        self.is_in_use
    }

    /// Looks at the first event's flags; whether the file is in use.
    fn look_at_flags(&mut self) -> Result<bool> {
        let mut header = [0; BinlogEventHeader::LEN];
        let read = self.input.read_exact(&mut header);
        read.map_err(|_| self.damaged("it ends where its first event should begin"))?;
        self.input
            .seek(SeekFrom::Start(MAGIC.len() as u64))
            .map_err(|error| self.damaged(error))?;
        if header[4] != event_type::FORMAT_DESCRIPTION {
            return Err(self.damaged(format!(
                "its first event is of type {}, expected a format description (15)",
                header[4]
            )));
        }
        if header[FLAGS] & RELAY_LOG != 0 {
            return Err(self.damaged(
                "it is the relay log of a replica; wanted are the binlogs of the server that sdl reads, or of one that has the \
                 same GTIDs (log_replica_updates)",
            ));
        }
        Ok(header[FLAGS] & IN_USE != 0)
    }

    /// The next event of the file itself, not yet unpacked.
    ///
    /// # Errors
    /// Damage.
    pub(super) fn next(&mut self) -> Result<Frame> {
        let left = self.length.saturating_sub(self.end);
        if left == 0 {
            return Ok(Frame::End);
        }
        self.start = self.end;
        if left < BinlogEventHeader::LEN as u64 {
            return Ok(Frame::Torn(self.torn(left)));
        }
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.resize(BinlogEventHeader::LEN, 0);
        self.fill(&mut bytes)?;
        let length = bytes
            .get(LENGTH..)
            .and_then(|rest| rest.first_chunk::<4>())
            .map_or(0, |length| u32::from_le_bytes(*length));
        if (length as usize) < BinlogEventHeader::LEN {
            return Err(self.damaged(format!("an event with a length of {length} bytes")));
        }
        if u64::from(length) > left {
            return Ok(Frame::Torn(self.torn(left)));
        }
        bytes.resize(length as usize, 0);
        self.fill(&mut bytes[BinlogEventHeader::LEN..])?;
        if self.start == MAGIC.len() as u64 {
            // The flag is set behind the checksum's back.
            bytes[FLAGS] &= !IN_USE;
        }
        let event = guarded(|| self.parser.read(&bytes[..]))
            .map_err(|panic| self.damaged(panic))?
            .map_err(|error| self.damaged(error))?
            .ok_or_else(|| self.damaged("no event"))?;
        check_length(&event)
            .and_then(|()| check_crc(&event))
            .map_err(|error| self.damaged(error))?;
        self.end += u64::from(length);
        // What a huge event took is not kept.
        if bytes.capacity() <= BUFFER {
            self.bytes = bytes;
        }
        Ok(Frame::Event(event))
    }

    /// Hands on an event, and behind a compressed transaction the events in it.
    ///
    /// # Errors
    /// Damage, and what `each` fails with.
    pub(super) fn unpack(
        &mut self,
        event: &Event,
        mut each: impl FnMut(&Event) -> Result<()>,
    ) -> Result<()> {
        let mut payload = Payload::default();
        payload.check(event).map_err(|error| self.damaged(error))?;
        each(event)?;
        if event.header().event_type_raw() != event_type::TRANSACTION_PAYLOAD {
            return Ok(());
        }
        let unpacked = guarded(|| {
            event
                .read_event::<TransactionPayloadEvent<'_>>()
                .map(TransactionPayloadEvent::danger_decompress)
        });
        let unpacked = unpacked
            .map_err(|panic| self.damaged(panic))?
            .map_err(|error| self.damaged(error))?;
        let mut unpacked = Cursor::new(unpacked);
        loop {
            let inner = guarded(|| self.parser.read_decompressed(&mut unpacked))
                .map_err(|panic| self.damaged(panic))?
                .map_err(|error| self.damaged(error))?;
            let Some(inner) = inner else {
                // What is missing at the end.
                return payload.end().map_err(|error| self.damaged(error));
            };
            check_length(&inner)
                .and_then(|()| payload.check(&inner))
                .map_err(|error| self.damaged(error))?;
            each(&inner)?;
        }
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<()> {
        self.input
            .read_exact(bytes)
            .map_err(|error| self.damaged(format!("cannot be read: {error}")))
    }

    fn torn(&self, left: u64) -> Error {
        self.damaged(format!(
            "the file ends inside an event, of which it has {left} bytes: the copy was cut short, or the server still writes it"
        ))
    }

    /// An error about the event being read.
    pub(super) fn damaged(&self, what: impl std::fmt::Display) -> Error {
        self.error(Kind::SourceCorrupt, what)
    }

    /// An error about the event being read, of this kind.
    pub(super) fn error(&self, kind: Kind, what: impl std::fmt::Display) -> Error {
        Error::new(
            kind,
            format!(
                "binlog file {} at position {}: {what}",
                self.path.display(),
                self.start
            ),
        )
    }
}
