//! The binlog stream: a connection that dumps, and the checks on every event before anyone reads it.
//!
//! It guarantees that an event which comes out of [`Stream::next`] is whole: its CRC holds (where the server writes one), a
//! compressed payload gave exactly the bytes it announced, and silence of three heartbeats is reported as a dead connection,
//! because neither TCP nor the driver notices a peer that merely stopped.
//!
//! The driver decompresses payloads by itself and drops one that it cannot decompress in silence; the sum over the inner
//! events ([`Payload`]) is what makes that an error. It resumes by being opened again at the reader's position.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::task::Poll;
use std::time::Duration;

use futures_util::StreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{BinlogStream, BinlogStreamRequest, Conn, GnoInterval, IoError, Sid};
use mysql_common::binlog::consts::{
    BinlogChecksumAlg, TransactionPayloadCompressionType as Compression,
};
use mysql_common::binlog::events::{BinlogEventHeader, Event, TransactionPayloadEvent};
use mysql_common::packets::Tag as DriverTag;

use super::connect::{classify, classify_after_login};
use super::event_type;
use super::guard::guarded;
use super::replicas::Identity;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::hex::hex;
use crate::position::{Flavor, GtidSet, mysql};

/// How often the server is to say that it is alive while it has nothing to send.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// Silence after which the connection counts as dead: three heartbeats.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// Silence allowed before the first event: the server searches its binlogs for the position, without a heartbeat. Meanwhile the
/// reader asks it, on another connection, whether it does.
const FIRST_SILENCE: Duration = Duration::from_secs(300);

/// Seconds that the server waits for a reader that does not read, in place of its default of 60: a batch may wait longer than
/// that for MongoDB, and a cut connection costs a reconnect.
const NET_WRITE_TIMEOUT: u32 = 600;

/// What a failing stream was doing.
const READING: &str = "read the binlog";

/// A dump in progress.
pub(super) struct Stream {
    binlog: BinlogStream,
    payload: Payload,
    started: bool,
    searches_behind_artificial_events: bool,
}

impl Stream {
    /// Starts the dump after everything in `read`, on a connection whose server passed the preflight.
    ///
    /// # Errors
    /// What the server answers, classified.
    pub(super) async fn open(
        mut connection: Conn,
        flavor: Flavor,
        config: &Config,
        identity: &Identity,
        read: &GtidSet,
    ) -> Result<Self> {
        let doing = "start the binlog dump";
        let settings = match flavor {
            Flavor::Mysql => format!(
                "SET @master_heartbeat_period={}, @source_heartbeat_period={0}, @slave_uuid='{}', @replica_uuid='{1}', \
                 net_write_timeout={NET_WRITE_TIMEOUT}",
                HEARTBEAT.as_nanos(),
                identity.uuid(),
            ),
            // The position makes the server search by GTID, and strictly: a position that its binlog does not have is an
            // error and not the next one that it has. Capability 4: GTID events are understood.
            Flavor::Mariadb => format!(
                "SET @master_heartbeat_period={}, @mariadb_slave_capability=4, @slave_connect_state='{}', \
                 @slave_gtid_strict_mode=1, @slave_gtid_ignore_duplicates=0, net_write_timeout={NET_WRITE_TIMEOUT}",
                HEARTBEAT.as_nanos(),
                read.mariadb(),
            ),
        };
        connection
            .query_drop(settings)
            .await
            .map_err(|error| classify_after_login(doing, &error))?;
        let name = identity.name();
        let request =
            BinlogStreamRequest::new(config.mysql_server_id).with_hostname(name.as_bytes());
        let request = match flavor {
            Flavor::Mysql => request
                .with_gtid()
                .with_gtid_set(gtid_request(read.mysql())?),
            Flavor::Mariadb => request,
        };
        let binlog = connection
            .get_binlog_stream(request)
            .await
            .map_err(|error| classify_after_login(doing, &error))?;
        Ok(Self {
            binlog,
            payload: Payload::default(),
            started: false,
            searches_behind_artificial_events: flavor == Flavor::Mariadb,
        })
    }

    /// Whether the search for the position is over.
    pub(super) fn is_started(&self) -> bool {
        self.started
    }

    /// The next event, checked. The stream is to be dropped after the first error.
    ///
    /// # Errors
    /// [`Kind::SourceUnavailable`] when the connection ended or fell silent, [`Kind::SourceDamaged`] when a check failed.
    pub(super) async fn next(&mut self) -> Result<Event> {
        let limit = if self.started { SILENCE } else { FIRST_SILENCE };
        // The driver parses an event's frame, table maps and payloads before anyone can check them.
        let event = poll_fn(
            |context| match guarded(|| self.binlog.poll_next_unpin(context)) {
                Ok(polled) => polled.map(Ok),
                Err(panic) => Poll::Ready(Err(panic)),
            },
        );
        let event = match tokio::time::timeout(limit, event).await {
            Ok(Ok(Some(Ok(event)))) => event,
            Ok(Ok(Some(Err(error)))) => return Err(self.failed(&error)),
            Ok(Err(panic)) => return Err(self.damaged(panic)),
            Ok(Ok(None)) => {
                return Err(Error::new(
                    Kind::SourceUnavailable,
                    format!("{READING}: the server ended the stream"),
                ));
            }
            Err(_) => {
                return Err(Error::new(
                    Kind::SourceUnavailable,
                    format!(
                        "{READING}: nothing from the server for {} s, not even a heartbeat: the connection is dead",
                        limit.as_secs()
                    ),
                ));
            }
        };
        // MySQL has found the position when the first event comes, and accompanies with heartbeats what it leaves out from
        // there on. MariaDB looks for it in the file behind the artificial events.
        self.started |= !self.searches_behind_artificial_events
            || matches!(
                event.header().event_type_raw(),
                event_type::MARIADB_GTID | event_type::HEARTBEAT
            );
        check_length(&event)?;
        check_crc(&event)?;
        self.payload.check(&event)?;
        Ok(event)
    }

    fn failed(&self, error: &mysql_async::Error) -> Error {
        match error {
            mysql_async::Error::Io(IoError::Io(error)) if is_unreadable(error) => {
                self.damaged(error)
            }
            other => classify(READING, other),
        }
    }

    fn damaged(&self, what: impl std::fmt::Display) -> Error {
        let inside = match self.payload.remaining {
            0 => "",
            _ => "in the compressed transaction before it: ",
        };
        Error::new(Kind::SourceDamaged, format!("{READING}: {inside}{what}"))
    }
}

/// Whether the driver could not parse an event, which it reports as an I/O error as well, and not the connection ended: that
/// is an error of the operating system, or one of these texts.
pub(super) fn is_unreadable(error: &std::io::Error) -> bool {
    const CONNECTION_ENDED: [&str; 2] = [
        "connection closed",         // mysql_async, between two packets
        "bytes remaining on stream", // tokio-util, inside a packet
    ];
    const TLS_ENDED: &str = "peer closed connection"; // rustls; more text follows
    let text = error.to_string();
    let of_a_parser = matches!(
        error.kind(),
        ErrorKind::InvalidData
            | ErrorKind::InvalidInput
            | ErrorKind::Other
            | ErrorKind::UnexpectedEof
    );
    of_a_parser && !CONNECTION_ENDED.contains(&text.as_str()) && !text.starts_with(TLS_ENDED)
}

/// The set as the request wants it: per source, intervals whose end is exclusive.
fn gtid_request(read: &mysql::GtidSet) -> Result<Vec<Sid<'static>>> {
    let refused = |what: String| {
        Error::new(
            Kind::Internal,
            format!("cannot ask for the binlog after {read}: {what}"),
        )
    };
    read.iter()
        .map(|source| {
            let intervals = source
                .intervals()
                .iter()
                .map(|interval| {
                    GnoInterval::check_and_new(interval.start, interval.end)
                        .map_err(|e| refused(e.to_string()))
                })
                .collect::<Result<Vec<_>>>()?;
            let sid = Sid::new(source.uuid()).with_intervals(intervals);
            match source.tag() {
                None => Ok(sid),
                Some(tag) => {
                    let tag = DriverTag::new(tag.as_str().to_owned())
                        .map_err(|error| refused(error.to_string()))?;
                    Ok(sid.with_tag(tag))
                }
            }
        })
        .collect()
}

/// Whether an event was unpacked from a compressed payload: those have no checksum of their own.
pub(super) fn is_unpacked(event: &Event) -> bool {
    !event.footer().get_checksum_enabled()
}

/// The driver takes a length that is shorter than the header for that of the header.
pub(super) fn check_length(event: &Event) -> Result<()> {
    let length = event.header().event_size();
    if length as usize >= BinlogEventHeader::LEN {
        return Ok(());
    }
    Err(Error::new(
        Kind::SourceDamaged,
        format!(
            "binlog event of type {} with a length of {length} bytes, expected at least {}",
            event.header().event_type_raw(),
            BinlogEventHeader::LEN
        ),
    ))
}

/// The driver reads past the checksum; here it is compared.
pub(super) fn check_crc(event: &Event) -> Result<()> {
    if is_unpacked(event) {
        return Ok(());
    }
    let Ok(Some(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32)) = event.footer().get_checksum_alg()
    else {
        return Ok(());
    };
    let Some(stored) = event.checksum() else {
        return Ok(());
    };
    let computed = event
        .calc_checksum(BinlogChecksumAlg::BINLOG_CHECKSUM_ALG_CRC32)
        .to_le_bytes();
    if stored == computed {
        return Ok(());
    }
    Err(Error::new(
        Kind::SourceDamaged,
        format!(
            "binlog event of type {} ending at position {}: checksum does not hold: expected {}, computed {}",
            event.header().event_type_raw(),
            event.header().log_pos(),
            hex(&stored),
            hex(&computed)
        ),
    ))
}

/// Counts the bytes of the events inside a compressed payload against what the payload announced.
#[derive(Default)]
pub(super) struct Payload {
    remaining: u64,
}

impl Payload {
    pub(super) fn check(&mut self, event: &Event) -> Result<()> {
        let damaged = |what: String| {
            Error::new(
                Kind::SourceDamaged,
                format!(
                    "compressed transaction ending at position {}: {what}",
                    event.header().log_pos()
                ),
            )
        };
        if is_unpacked(event) {
            let size = u64::from(event.header().event_size());
            self.remaining = self
                .remaining
                .checked_sub(size)
                .ok_or_else(|| damaged("its events are longer than it announced".to_owned()))?;
            return Ok(());
        }
        self.end()?;
        if event.header().event_type_raw() == event_type::TRANSACTION_PAYLOAD {
            let payload: TransactionPayloadEvent<'_> = event
                .read_event()
                .map_err(|error| damaged(format!("unreadable: {error}")))?;
            // A payload that is wrapped but not compressed says its size once.
            self.remaining = match payload.algorithm() {
                Compression::NONE => payload.payload_size(),
                Compression::ZSTD => payload.uncompressed_size(),
            };
        }
        Ok(())
    }

    /// The payload has no more events.
    ///
    /// # Errors
    /// When it announced more.
    pub(super) fn end(&self) -> Result<()> {
        if self.remaining == 0 {
            return Ok(());
        }
        Err(Error::new(
            Kind::SourceDamaged,
            format!(
                "compressed transaction: {} bytes of its events are missing",
                self.remaining
            ),
        ))
    }
}

#[cfg(test)]
mod tests;
