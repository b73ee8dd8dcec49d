//! The offset: how far one source is recorded, as the document in `binlog_offsets` says it.
//!
//! It guarantees that a restart goes on exactly after the last committed change: it is written in the same transaction as
//! the events it covers, and only by a compare-and-set on `(epoch, batch)`. What correctness needs is marked at each field;
//! the rest is there for people. The document's shape is a contract (a test pins it), so it is spelled out here by hand.

use bson::{Bson, DateTime, Document, doc};

use crate::position::{BinlogPosition, Flavor, Gtid, GtidSet, PartialTransaction};

/// How far a source is recorded.
#[derive(Debug, Clone, PartialEq)]
pub struct Offset {
    /// Where reading resumes. The GTID set and the unfinished transaction are needed; file and position are for people.
    pub position: BinlogPosition,
    /// `@@server_uuid` of the server last read from; of a MariaDB server, its `server_id`. For people.
    pub server_uuid: String,
    /// Which kind of server the source is. Needed: a position of one kind says nothing about a server of the other.
    pub flavor: Flavor,
    /// Number of the last committed batch; needed: the next commit must find it here.
    pub batch: i64,
    /// `n` of the last committed document; needed: the next document gets `n + 1`.
    pub n: i64,
    /// Which daemon owns the source; each start takes the next one. Needed: it is the fence.
    pub epoch: i64,
    /// The last transaction covered; `None` until one was. Needed: the next connection asks for it again and compares, so
    /// that a server whose history was reset and has grown anew is not taken for the one that was read.
    pub last: Option<LastTransaction>,
}

/// A transaction by which a server's history is recognized.
#[derive(Debug, Clone, PartialEq)]
pub struct LastTransaction {
    /// Its GTID.
    pub gtid: Gtid,
    /// Its commit time on the original server, in milliseconds; the same on every server that has it.
    pub timestamp: DateTime,
    /// The transaction of its domain before it, where the flavor needs that to ask for this one again (MariaDB).
    pub predecessor: Option<Gtid>,
}

/// An offset document that sdl cannot have written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("offset field `{field}`: {problem}")]
pub struct OffsetError {
    field: &'static str,
    problem: String,
}

impl Offset {
    /// The fields that a commit sets, and that a staged batch carries as `next`: all but `_id`, `epoch`, `updatedAt` and
    /// `session`, which belong to the committing daemon and not to the events.
    pub fn progress(&self) -> Document {
        let mut progress = doc! {
            "gtid": self.position.gtid.to_string(),
            "file": &self.position.file,
            "pos": i64::try_from(self.position.position).unwrap_or(i64::MAX),
            "server_uuid": &self.server_uuid,
            "flavor": self.flavor.name(),
            "batch": self.batch,
            "n": self.n,
            "partial": partial_bson(self.position.partial.as_ref()),
            "ts": self.last.as_ref().map(|last| last.timestamp),
            "last_gtid": self.last.as_ref().map(|last| last.gtid.to_string()),
        };
        if let Some(predecessor) = self
            .last
            .as_ref()
            .and_then(|last| last.predecessor.as_ref())
        {
            progress.insert("last_gtid_follows", predecessor.to_string());
        }
        progress
    }

    /// Reads the document of `binlog_offsets`, or the `next` of a staged batch, where `epoch` is absent and read as 0.
    ///
    /// # Errors
    /// When a field that correctness needs is missing or malformed: it is never guessed.
    pub fn from_document(document: &Document) -> Result<Self, OffsetError> {
        Ok(Self {
            position: position_from_document(document)?,
            server_uuid: document
                .get_str("server_uuid")
                .unwrap_or_default()
                .to_owned(),
            flavor: flavor_from_document(document)?,
            batch: integer(document, "batch")?,
            n: integer(document, "n")?,
            epoch: if document.contains_key("epoch") {
                integer(document, "epoch")?
            } else {
                0
            },
            last: last_from_document(document)?,
        })
    }
}

/// A position without its file: `gtid` and `partial`, as a staged batch carries them in `follows`.
pub fn position_document(position: &BinlogPosition) -> Document {
    doc! { "gtid": position.gtid.to_string(), "partial": partial_bson(position.partial.as_ref()) }
}

/// Reads the position out of an offset, or out of what [`position_document`] wrote.
///
/// # Errors
/// When a field that correctness needs is missing or malformed.
pub fn position_from_document(document: &Document) -> Result<BinlogPosition, OffsetError> {
    let gtid: GtidSet = text(document, "gtid")?
        .parse()
        .map_err(|error| OffsetError {
            field: "gtid",
            problem: format!("{error}"),
        })?;
    let in_partial = |problem: String| OffsetError {
        field: "partial",
        problem,
    };
    let partial = match document.get("partial") {
        None | Some(Bson::Null) => None,
        Some(Bson::Document(partial)) => Some(PartialTransaction {
            gtid: text(partial, "gtid")?
                .parse()
                .map_err(|error| in_partial(format!("{error}")))?,
            rows: u64::try_from(integer(partial, "rows")?)
                .map_err(|_| in_partial("negative row count".to_owned()))?,
        }),
        Some(other) => {
            return Err(in_partial(format!(
                "expected a document or null, found {:?}",
                other.element_type()
            )));
        }
    };
    Ok(BinlogPosition {
        gtid,
        file: document.get_str("file").unwrap_or_default().to_owned(),
        position: document
            .get_i64("pos")
            .ok()
            .and_then(|pos| u64::try_from(pos).ok())
            .unwrap_or(0),
        partial,
    })
}

fn last_from_document(document: &Document) -> Result<Option<LastTransaction>, OffsetError> {
    let gtid = |field| -> Result<Option<Gtid>, OffsetError> {
        let Ok(text) = document.get_str(field) else {
            return Ok(None);
        };
        text.parse().map(Some).map_err(|error| OffsetError {
            field,
            problem: format!("{error}"),
        })
    };
    match (gtid("last_gtid")?, document.get_datetime("ts")) {
        (Some(last), Ok(timestamp)) => Ok(Some(LastTransaction {
            gtid: last,
            timestamp: *timestamp,
            predecessor: gtid("last_gtid_follows")?,
        })),
        _ => Ok(None),
    }
}

/// An offset without the field is of a version that read MySQL only.
fn flavor_from_document(document: &Document) -> Result<Flavor, OffsetError> {
    match document.get("flavor") {
        None => Ok(Flavor::Mysql),
        Some(Bson::String(name)) => Flavor::from_name(name).ok_or_else(|| OffsetError {
            field: "flavor",
            problem: format!("expected mysql or mariadb, found {name}"),
        }),
        Some(_) => Err(OffsetError {
            field: "flavor",
            problem: "not a string".to_owned(),
        }),
    }
}

fn partial_bson(partial: Option<&PartialTransaction>) -> Bson {
    match partial {
        Some(partial) => Bson::Document(doc! {
            "gtid": partial.gtid.to_string(),
            "rows": i64::try_from(partial.rows).unwrap_or(i64::MAX),
        }),
        None => Bson::Null,
    }
}

fn text<'a>(document: &'a Document, field: &'static str) -> Result<&'a str, OffsetError> {
    document.get_str(field).map_err(|_| OffsetError {
        field,
        problem: "missing, or not a string".to_owned(),
    })
}

/// An integer of either BSON width: an operator who edits the document in mongosh gets Int32 or Double from a plain `5`.
fn integer(document: &Document, field: &'static str) -> Result<i64, OffsetError> {
    match document.get(field) {
        Some(Bson::Int64(value)) => Ok(*value),
        Some(Bson::Int32(value)) => Ok(i64::from(*value)),
        _ => Err(OffsetError {
            field,
            problem: "missing, or not a whole number (NumberLong)".to_owned(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Offset {
        Offset {
            position: BinlogPosition {
                gtid: "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5".parse().unwrap(),
                file: "binlog.000003".to_owned(),
                position: 1234,
                partial: Some(PartialTransaction {
                    gtid: "3e11fa47-71ca-11e1-9e33-c80aa9429562:6".parse().unwrap(),
                    rows: 2000,
                }),
            },
            server_uuid: "3e11fa47-71ca-11e1-9e33-c80aa9429562".to_owned(),
            flavor: Flavor::Mysql,
            batch: 7,
            n: 4000,
            epoch: 3,
            last: Some(LastTransaction {
                gtid: "3e11fa47-71ca-11e1-9e33-c80aa9429562:5".parse().unwrap(),
                timestamp: DateTime::from_millis(1_700_000_000_123),
                predecessor: None,
            }),
        }
    }

    #[test]
    fn what_is_written_reads_back_equal() {
        let offset = example();
        let mut document = offset.progress();
        document.insert("epoch", 3_i64);
        assert_eq!(Offset::from_document(&document), Ok(offset));
    }

    #[test]
    fn an_offset_of_mariadb_reads_back_equal() {
        let offset = Offset {
            position: BinlogPosition::at("0-1-100,7-2-3".parse().unwrap()),
            server_uuid: "server-id 1".to_owned(),
            flavor: Flavor::Mariadb,
            last: Some(LastTransaction {
                gtid: "0-1-100".parse().unwrap(),
                timestamp: DateTime::from_millis(1_700_000_000_000),
                predecessor: Some("0-2-99".parse().unwrap()),
            }),
            epoch: 0,
            ..example()
        };
        assert_eq!(Offset::from_document(&offset.progress()), Ok(offset));
    }

    #[test]
    fn the_fields_of_the_contract_are_there_and_no_other() {
        let keys: Vec<_> = example().progress().keys().cloned().collect();
        assert_eq!(
            keys,
            [
                "gtid",
                "file",
                "pos",
                "server_uuid",
                "flavor",
                "batch",
                "n",
                "partial",
                "ts",
                "last_gtid"
            ]
        );
    }

    #[test]
    fn a_missing_or_malformed_number_is_an_error_and_not_zero() {
        for (field, value) in [
            ("batch", Bson::Double(1.5)),
            ("n", Bson::Null),
            ("gtid", Bson::String("x:1".into())),
            ("flavor", Bson::String("postgres".into())),
        ] {
            let mut document = example().progress();
            document.insert(field, value);
            assert!(
                Offset::from_document(&document)
                    .unwrap_err()
                    .to_string()
                    .contains(field)
            );
        }
    }
}
