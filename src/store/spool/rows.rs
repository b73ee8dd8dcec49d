//! One batch in the spool's tables: in, out, and gone.
//!
//! A batch is a row of `batches`: columns for people, and `content`, the very document that the staging collection would hold.
//! What its events refer to stands beside it under the SHA-256 of its bytes, once however many batches refer to it: schema
//! versions whole, large values in pieces of 8 MiB, because SQLite holds no blob of more than 1 GB. The batch's `sha256`
//! covers its number, its content and the digests of what it refers to, so nothing can be missing or exchanged unnoticed.

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::Arc;

use bson::{Document, RawDocument, RawDocumentBuf};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, Row, TransactionBehavior, params};
use sha2::{Digest, Sha256};

use super::Summary;
use crate::batch::Batch;
use crate::error::{Error, Kind, Result};
use crate::event::SchemaVersion;
use crate::hex::hex;
use crate::large_value::{LargeKind, LargeValue};
use crate::store::staging::{PIECE_BYTES, encode, read_batch};

/// The tables. What an operator asks for comes first, so that SQLite finds it without passing over the content.
pub(super) const TABLES: &str = "
create table about (source_id text not null);
create table batches (
    batch integer primary key,
    created_at text not null,
    epoch integer not null,
    events integer not null,
    bytes integer not null,
    first_gtid text,
    last_gtid text,
    file text not null,
    position integer not null,
    sha256 text not null,
    content blob not null
);
create table schemas (sha256 text primary key, document blob not null) without rowid;
create table batch_schemas (batch integer, schema text, primary key (batch, schema)) without rowid;
create index batch_schemas_by_schema on batch_schemas (schema);
create table pieces (value text, piece integer, data blob not null, primary key (value, piece));
create table batch_values (
    batch integer,
    event integer,
    ordinal integer,
    value text not null,
    kind text not null,
    bytes integer not null,
    primary key (batch, event, ordinal)
) without rowid;
create index batch_values_by_value on batch_values (value);
create view overview as select
    count(*) as batches,
    sum(events) as events,
    sum(bytes) as bytes,
    min(batch) as first_batch,
    max(batch) as last_batch,
    min(created_at) as oldest,
    max(created_at) as newest,
    (select first_gtid from batches where first_gtid is not null order by batch limit 1) as first_gtid,
    (select last_gtid from batches where last_gtid is not null order by batch desc limit 1) as last_gtid
from batches;
";

/// Bytes that a batch, a piece or a schema version takes besides its own: its row and index entries, and pages that are not full.
const ROW_BYTES: u64 = 48 * 1024;

/// A batch, ready to be written: its events are encoded, its large values shared.
#[derive(Debug)]
pub(super) struct Encoded {
    pub(super) summary: Summary,
    epoch: i64,
    first_gtid: Option<String>,
    last_gtid: Option<String>,
    content: RawDocumentBuf,
    /// By the SHA-256 of their documents, in that order.
    schemas: Vec<(String, RawDocumentBuf)>,
    values: Vec<Reference>,
}

/// An event's large value.
#[derive(Debug)]
struct Reference {
    event: i64,
    ordinal: i64,
    value: LargeValue,
}

impl Encoded {
    /// Encodes a batch.
    pub(super) fn new(source_id: &str, batch: &Batch, epoch: i64) -> Result<Self> {
        let mut schemas: HashMap<&str, (String, RawDocumentBuf)> = HashMap::new();
        let mut values = Vec::new();
        for (index, event) in (0..).zip(&batch.events) {
            if let Some(schema) = &event.schema
                && !schemas.contains_key(schema.id.as_str())
            {
                let document = RawDocumentBuf::try_from(&schema.document).map_err(|error| {
                    Error::new(
                        Kind::Internal,
                        format!("schema version {} is not BSON: {error}", schema.id),
                    )
                })?;
                let sha256 = hex(&Sha256::digest(document.as_bytes()));
                schemas.insert(&schema.id, (sha256, document));
            }
            for (ordinal, value) in (0..).zip(&event.large_values) {
                values.push(Reference {
                    event: index,
                    ordinal,
                    value: value.clone(),
                });
            }
        }
        let mut schemas: Vec<_> = schemas.into_values().collect();
        schemas.sort_by(|one, other| one.0.cmp(&other.0));
        let position = &batch.next.position;
        let last_gtid = match &position.partial {
            Some(partial) => Some(partial.gtid.to_string()),
            None => batch.next.last.as_ref().map(|last| last.gtid.to_string()),
        };
        let first_gtid = batch
            .events
            .first()
            .and_then(|event| {
                event
                    .document
                    .get_document("meta")
                    .ok()?
                    .get_str("gtid")
                    .ok()
            })
            .map(str::to_owned)
            .or_else(|| last_gtid.clone());
        Ok(Self {
            summary: Summary::of(batch),
            epoch,
            first_gtid,
            last_gtid,
            content: encode(source_id, batch, epoch)?,
            schemas,
            values,
        })
    }

    /// The batch's number.
    pub(super) fn number(&self) -> i64 {
        self.summary.number
    }

    /// For messages.
    pub(super) fn doing(&self) -> String {
        format!("append batch {}", self.number())
    }

    /// Most bytes by which the file grows.
    pub(super) fn room(&self) -> u64 {
        let pieces: usize = self
            .values
            .iter()
            .map(|reference| reference.value.bytes.len().div_ceil(PIECE_BYTES))
            .sum();
        let rows = 1 + pieces + self.values.len() + self.schemas.len();
        let bytes = self.content.as_bytes().len()
            + self
                .schemas
                .iter()
                .map(|(_, document)| document.as_bytes().len())
                .sum::<usize>()
            + self
                .values
                .iter()
                .map(|reference| reference.value.bytes.len())
                .sum::<usize>();
        // Each page of a blob begins with the number of the next one: 4 bytes of 16 KiB.
        let bytes = bytes as u64;
        bytes + bytes / 1024 + rows as u64 * ROW_BYTES
    }

    /// The chain has no gap and no fork.
    pub(super) fn must_continue(&self, last: &Summary) -> Result<()> {
        let follows = &self.summary.follows;
        let expected = &last.next.position;
        if self.number() == last.number + 1
            && follows.gtid == expected.gtid
            && follows.partial == expected.partial
        {
            return Ok(());
        }
        Err(Error::new(
            Kind::Internal,
            format!(
                "batch {} after {} does not continue batch {} of the spool, which ends after {}",
                self.number(),
                follows.gtid,
                last.number,
                expected.gtid
            ),
        ))
    }

    fn sha256(&self) -> String {
        let mut digest = BatchDigest::new(self.number(), self.content.as_bytes());
        for (sha256, _) in &self.schemas {
            digest.schema(sha256);
        }
        for Reference {
            event,
            ordinal,
            value,
        } in &self.values
        {
            digest.value(
                *event,
                *ordinal,
                &value.sha256_hex(),
                value.kind.name(),
                length(value.bytes.len()),
            );
        }
        digest.finish()
    }
}

/// The checksum of a batch and of all that it refers to.
struct BatchDigest(Sha256);

impl BatchDigest {
    fn new(number: i64, content: &[u8]) -> Self {
        let mut hash = Sha256::new();
        hash.update(number.to_be_bytes());
        hash.update(length(content.len()).to_be_bytes());
        hash.update(content);
        Self(hash)
    }

    fn schema(&mut self, sha256: &str) {
        self.0.update(format!("schema {sha256}\n"));
    }

    fn value(&mut self, event: i64, ordinal: i64, sha256: &str, kind: &str, bytes: i64) {
        self.0
            .update(format!("value {event} {ordinal} {sha256} {kind} {bytes}\n"));
    }

    fn finish(self) -> String {
        hex(&self.0.finalize())
    }
}

/// Writes a batch in one transaction; after an error nothing of it is there.
pub(super) fn append(connection: &mut Connection, encoded: &Encoded) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let number = encoded.number();
    for (sha256, document) in &encoded.schemas {
        transaction
            .prepare_cached("insert or ignore into schemas values (?1, ?2)")?
            .execute(params![sha256, document.as_bytes()])?;
        transaction
            .prepare_cached("insert into batch_schemas values (?1, ?2)")?
            .execute(params![number, sha256])?;
    }
    for Reference {
        event,
        ordinal,
        value,
    } in &encoded.values
    {
        let sha256 = value.sha256_hex();
        let is_there = transaction
            .prepare_cached("select 1 from batch_values where value = ?1 limit 1")?
            .exists([&sha256])?;
        if !is_there {
            let mut insert =
                transaction.prepare_cached("insert or replace into pieces values (?1, ?2, ?3)")?;
            for (piece, data) in (0_i64..).zip(value.bytes.chunks(PIECE_BYTES)) {
                insert.execute(params![sha256, piece, data])?;
            }
        }
        transaction
            .prepare_cached("insert into batch_values values (?1, ?2, ?3, ?4, ?5, ?6)")?
            .execute(params![
                number,
                event,
                ordinal,
                sha256,
                value.kind.name(),
                length(value.bytes.len())
            ])?;
    }
    let position = &encoded.summary.next.position;
    transaction
        .prepare_cached(
            "insert into batches values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
        )?
        .execute(params![
            number,
            jiff::Timestamp::now()
                .strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
                .to_string(),
            encoded.epoch,
            length(encoded.summary.events),
            length(encoded.summary.bytes),
            encoded.first_gtid,
            encoded.last_gtid,
            position.file,
            i64::try_from(position.position).unwrap_or(i64::MAX),
            encoded.sha256(),
            encoded.content.as_bytes(),
        ])?;
    transaction.commit()
}

/// Removes batches, and what no other batch refers to. Returns how many events were in them.
pub(super) fn remove_through(connection: &mut Connection, number: i64) -> rusqlite::Result<u64> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let events: i64 = transaction.query_row(
        "select coalesce(sum(events), 0) from batches where batch <= ?1",
        [number],
        |row| row.get(0),
    )?;
    for (refer, column, table, key) in [
        ("batch_schemas", "schema", "schemas", "sha256"),
        ("batch_values", "value", "pieces", "value"),
    ] {
        let candidates: Vec<String> = transaction
            .prepare_cached(&format!(
                "select distinct {column} from {refer} where batch <= ?1"
            ))?
            .query_map([number], |row| row.get(0))?
            .collect::<rusqlite::Result<_>>()?;
        transaction
            .prepare_cached(&format!("delete from {refer} where batch <= ?1"))?
            .execute([number])?;
        let mut delete = transaction.prepare_cached(&format!(
            "delete from {table} where {key} = ?1 and not exists (select 1 from {refer} where {column} = ?1)"
        ))?;
        for candidate in candidates {
            delete.execute([candidate])?;
        }
    }
    transaction.execute("delete from batches where batch <= ?1", [number])?;
    transaction.commit()?;
    Ok(u64::try_from(events).unwrap_or(0))
}

/// Why a batch was not read.
#[derive(Debug)]
pub(super) enum Unreadable {
    /// It is not what was written.
    Damaged(String),
    /// SQLite says why.
    Sqlite(rusqlite::Error),
}

impl From<rusqlite::Error> for Unreadable {
    fn from(error: rusqlite::Error) -> Self {
        match error {
            // A column of another type than was written, or text that is not UTF-8.
            rusqlite::Error::InvalidColumnType(..)
            | rusqlite::Error::FromSqlConversionFailure(..)
            | rusqlite::Error::Utf8Error(..)
            | rusqlite::Error::IntegralValueOutOfRange(..) => Self::Damaged(error.to_string()),
            other => Self::Sqlite(other),
        }
    }
}

type Readable<T> = std::result::Result<T, Unreadable>;

fn damaged<T>(problem: impl Into<String>) -> Readable<T> {
    Err(Unreadable::Damaged(problem.into()))
}

/// Reads a batch and verifies all of it.
pub(super) fn read(connection: &Connection, source_id: &str, number: i64) -> Readable<Batch> {
    let schemas: Vec<String> = connection
        .prepare_cached("select schema from batch_schemas where batch = ?1 order by schema")?
        .query_map([number], |row| row.get(0))?
        .collect::<rusqlite::Result<_>>()?;
    let values: Vec<StoredReference> = connection
        .prepare_cached(
            "select event, ordinal, value, kind, bytes from batch_values where batch = ?1 order by event, ordinal",
        )?
        .query_map([number], StoredReference::new)?
        .collect::<rusqlite::Result<_>>()?;
    let mut statement =
        connection.prepare_cached("select sha256, content from batches where batch = ?1")?;
    let mut found = statement.query([number])?;
    let Some(row) = found.next()? else {
        return damaged("it is not there");
    };
    let expected: String = row.get(0)?;
    let ValueRef::Blob(content) = row.get_ref(1)? else {
        return damaged("its content is no blob");
    };
    let mut digest = BatchDigest::new(number, content);
    for sha256 in &schemas {
        digest.schema(sha256);
    }
    for value in &values {
        digest.value(
            value.event,
            value.ordinal,
            &value.sha256,
            &value.kind,
            value.bytes,
        );
    }
    let sha256 = digest.finish();
    if sha256 != expected {
        return damaged(format!(
            "checksum does not hold: expected {expected}, found {sha256}"
        ));
    }
    let mut batch = decode(content, source_id, number)?;
    restore_schemas(connection, &mut batch, &schemas)?;
    restore_values(connection, &mut batch, values)?;
    Ok(batch)
}

fn decode(content: &[u8], source_id: &str, number: i64) -> Readable<Batch> {
    let document = RawDocument::from_bytes(content)
        .map_err(|error| Unreadable::Damaged(format!("its content is not BSON: {error}")))?;
    if document.get_str("source").ok() != Some(source_id) {
        return damaged("it is a batch of another source");
    }
    let batch = read_batch(document).map_err(Unreadable::Damaged)?;
    if batch.number() != number {
        return damaged(format!("it holds batch {}", batch.number()));
    }
    Ok(batch)
}

struct StoredReference {
    event: i64,
    ordinal: i64,
    sha256: String,
    kind: String,
    bytes: i64,
}

impl StoredReference {
    fn new(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            event: row.get(0)?,
            ordinal: row.get(1)?,
            sha256: row.get(2)?,
            kind: row.get(3)?,
            bytes: row.get(4)?,
        })
    }
}

/// Gives the events their schema versions again, by `meta.schema`.
fn restore_schemas(connection: &Connection, batch: &mut Batch, schemas: &[String]) -> Readable<()> {
    let mut versions = HashMap::new();
    for sha256 in schemas {
        let document: Option<Vec<u8>> = connection
            .prepare_cached("select document from schemas where sha256 = ?1")?
            .query_row([sha256], |row| row.get(0))
            .optional()?;
        let Some(bytes) = document else {
            return damaged(format!("schema version {sha256} is not there"));
        };
        if hex(&Sha256::digest(&bytes)) != *sha256 {
            return damaged(format!("schema version {sha256}: checksum does not hold"));
        }
        let document = RawDocument::from_bytes(&bytes)
            .and_then(Document::try_from)
            .map_err(|error| Unreadable::Damaged(format!("schema version {sha256}: {error}")))?;
        let Ok(id) = document.get_str("_id") else {
            return damaged(format!("schema version {sha256} has no id"));
        };
        let id = id.to_owned();
        versions.insert(id.clone(), Arc::new(SchemaVersion { id, document }));
    }
    if versions.is_empty() {
        return Ok(());
    }
    for event in &mut batch.events {
        event.schema = event
            .document
            .get_document("meta")
            .and_then(|meta| meta.get_str("schema"))
            .ok()
            .and_then(|id| versions.get(id).cloned());
    }
    Ok(())
}

/// Gives the events their large values again.
fn restore_values(
    connection: &Connection,
    batch: &mut Batch,
    values: Vec<StoredReference>,
) -> Readable<()> {
    for reference in values {
        let StoredReference {
            event,
            sha256,
            kind,
            bytes,
            ..
        } = reference;
        let wrong = |problem: &str| Unreadable::Damaged(format!("large value {sha256}: {problem}"));
        let kind = LargeKind::from_name(&kind).ok_or_else(|| wrong("of no known kind"))?;
        let length = usize::try_from(bytes).map_err(|_| wrong("of no length"))?;
        let mut data = Vec::with_capacity(length);
        let mut statement =
            connection.prepare_cached("select data from pieces where value = ?1 order by piece")?;
        let mut pieces = statement.query([&sha256])?;
        while let Some(piece) = pieces.next()? {
            let ValueRef::Blob(piece) = piece.get_ref(0)? else {
                return Err(wrong("a piece is no blob"));
            };
            data.extend_from_slice(piece);
        }
        let value = LargeValue::new(kind, data);
        if value.sha256_hex() != sha256 {
            return Err(wrong("checksum does not hold"));
        }
        let event = usize::try_from(event)
            .ok()
            .and_then(|event| batch.events.get_mut(event))
            .ok_or_else(|| wrong("of no event"))?;
        event.large_values.push(value);
        batch.bytes += length;
    }
    Ok(())
}

/// Which transactions a batch holds, as far as it can be read.
pub(super) fn range(connection: &Connection, number: i64) -> String {
    let ends: rusqlite::Result<(Option<String>, Option<String>)> = connection.query_row(
        "select first_gtid, last_gtid from batches where batch = ?1",
        [number],
        |row| Ok((row.get(0)?, row.get(1)?)),
    );
    let mut text = "transactions ".to_owned();
    match ends {
        Ok((Some(first), Some(last))) => {
            let _ = write!(text, "{first} to {last}");
        }
        _ => text.push_str("unknown"),
    }
    text
}

fn length(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
