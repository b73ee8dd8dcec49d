//! Which answer of information_schema holds for which event: decisions only, the question is asked by the reader.
//!
//! Two kinds of event do not tell enough.
//!
//! **No names** (`binlog_row_metadata` MINIMAL or NO_LOG: an old binlog, or a setting that was changed). A wrong name must
//! never be written, and equal types prove nothing: a column that was renamed since, or two that changed places, keep them. So
//! an answer is used for a row of transaction T only if every schema change that the answer can show comes before T in the
//! binlog, and every one that comes before T shows in it:
//! - all that was executed when the answer was complete is in what was read, or is T itself ([`Answer::after`]);
//! - all that was read when the question was asked was executed by then ([`Answer::before`]), and no schema change was read
//!   since that was not;
//! - the table has the number that it had when the question was asked. A server numbers a table anew whenever it opens its
//!   definition anew, so this notices a change that went past the binlog (`sql_log_bin=0`), unless it fell between the row and
//!   the question.
//!
//! Until that is so, columns are `@1`, `@2` … On a quiet server it is so for the first row; on a busy one when what was executed
//! at the time of the question has been read; in an old binlog, at its end.
//!
//! **Types that look like others** (MariaDB). UUID, INET4, INET6 and VECTOR come as BINARY(n) and VARBINARY(n); times of MariaDB 5.3's
//! format do not tell their fractional digits. Here the names stand in the event, a column is found by its name, and the answer
//! is used when its type has the very form that the event has. Both readings of such bytes are lossless, so a UUID that was a
//! BINARY(16) when an old binlog was written, or the other way round, is recorded as what it is now: one type for all of its
//! values, whatever the time. But an answer there must be: a value that is Binary today since the server did not answer, and
//! String tomorrow, would be found by no query. So the stream waits for it ([`Wanted::is_required`]).

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::column::{Column, ColumnKind, StringShape};
use super::information_schema::{Answer, TableNow};
use super::wire_type::type_code;
use super::{TableSchema, Unknown};
use crate::position::{Gtid, GtidSet};

/// How long a table whose question had no answer is not asked for again. Each such question may hold up the stream for
/// seconds.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(30);

/// The same when the server did not count as executed what it had sent already: a matter of moments.
const PAUSE_FOR_EXECUTED: Duration = Duration::from_millis(100);

/// Tables whose answers are remembered. Beyond it all are forgotten, and asked for again.
const TABLES_REMEMBERED: usize = 4096;

/// A question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::source) struct Wanted {
    pub(in crate::source) database: String,
    pub(in crate::source) table: String,
    /// Whether the names are asked for; else what some of the types really are.
    pub(in crate::source) names: bool,
    /// Whether the rows cannot be recorded without an answer.
    pub(in crate::source) is_required: bool,
    /// The table's number in the binlog.
    table_id: u64,
}

/// What is known of tables beside their events.
#[derive(Debug, Default)]
pub(in crate::source) struct Lookup {
    tables: HashMap<String, Known>,
}

#[derive(Debug)]
enum Known {
    Answered(Box<Answered>),
    /// Nothing, and not to be asked for until then.
    Failed(Instant),
}

#[derive(Debug)]
struct Answered {
    answer: Answer,
    table_id: u64,
    /// Whether names of it may be used: once they may, they may until the answer is dropped.
    holds: bool,
    /// The last event's schema, and what it became; None where the two do not agree.
    merged: Option<(Arc<TableSchema>, Option<Arc<TableSchema>>)>,
}

impl Lookup {
    /// The question that has to be asked before rows of this table are read.
    pub(in crate::source) fn wants(
        &self,
        schema: &TableSchema,
        table_id: u64,
        included: bool,
        now: Instant,
    ) -> Option<Wanted> {
        let is_required = match schema.unknown {
            Unknown::Nothing => return None,
            // Also of a table that is left out: its rows are counted.
            Unknown::Lengths => true,
            _ if !included => return None,
            Unknown::Types => true,
            Unknown::Names => false,
        };
        let names = !schema.resolved;
        let is_due = match self.tables.get(&schema.full_name) {
            None => true,
            Some(Known::Failed(until)) => now >= *until,
            Some(Known::Answered(answered)) => names && answered.table_id != table_id,
        };
        is_due.then(|| Wanted {
            database: schema.database.clone(),
            table: schema.table.clone(),
            names,
            is_required,
            table_id,
        })
    }

    /// Takes an answer in, or that there was none. `read` are the transactions read to their end.
    pub(in crate::source) fn learn(
        &mut self,
        wanted: &Wanted,
        answer: Option<Answer>,
        read: &GtidSet,
        now: Instant,
    ) {
        if self.tables.len() >= TABLES_REMEMBERED {
            self.tables.clear();
        }
        let known = match answer {
            None => Known::Failed(now + PAUSE_AFTER_FAILURE),
            Some(answer) if wanted.names && !read.is_subset(&answer.before) => {
                Known::Failed(now + PAUSE_FOR_EXECUTED)
            }
            Some(answer) => Known::Answered(Box::new(Answered {
                answer,
                table_id: wanted.table_id,
                holds: false,
                merged: None,
            })),
        };
        let name = format!("{}.{}", wanted.database, wanted.table);
        self.tables.insert(name, known);
    }

    /// The schema for rows of transaction `gtid`: the event's own, or with what the answer adds.
    pub(in crate::source) fn complete(
        &mut self,
        schema: Arc<TableSchema>,
        table_id: u64,
        read: &GtidSet,
        gtid: &Gtid,
    ) -> Arc<TableSchema> {
        if schema.unknown == Unknown::Nothing {
            return schema;
        }
        let Some(Known::Answered(answered)) = self.tables.get_mut(&schema.full_name) else {
            return schema;
        };
        if !schema.resolved && !answered.names_hold(table_id, read, gtid) {
            return schema;
        }
        if let Some((event, merged)) = &answered.merged
            && Arc::ptr_eq(event, &schema)
        {
            return merged.clone().unwrap_or(schema);
        }
        let table = answered.answer.table.as_ref();
        let merged = table.and_then(|table| merge(&schema, table)).map(Arc::new);
        answered.merged = Some((Arc::clone(&schema), merged.clone()));
        merged.unwrap_or(schema)
    }

    /// A statement was read that may have changed any table. What was executed before a question shows in its answer.
    pub(in crate::source) fn statement(&mut self, gtid: &Gtid) {
        self.tables.retain(|_, known| match known {
            Known::Answered(answered) => answered.answer.before.contains(gtid),
            Known::Failed(_) => true,
        });
    }

    /// Another connection, perhaps another server.
    pub(in crate::source) fn forget(&mut self) {
        self.tables.clear();
    }
}

impl Answered {
    fn names_hold(&mut self, table_id: u64, read: &GtidSet, gtid: &Gtid) -> bool {
        if self.table_id != table_id {
            return false;
        }
        if !self.holds {
            let after = &self.answer.after;
            self.holds = after.is_subset(read) || {
                let mut read = read.clone();
                read.add(gtid);
                after.is_subset(&read)
            };
        }
        self.holds
    }
}

/// The event's schema with what the table of today adds. None when they do not agree.
fn merge(event: &TableSchema, now: &TableNow) -> Option<TableSchema> {
    if event.resolved {
        let columns = event.columns.iter().map(|column| {
            let now = now.columns.iter().find(|now| now.name == column.name);
            let kind = now.and_then(|now| agreed(&column.kind, now.kind.as_ref()?));
            match kind {
                Some(kind) => Column {
                    kind,
                    ..column.clone()
                },
                None => column.clone(),
            }
        });
        return Some(event.with(columns.collect(), event.key.clone()));
    }
    if event.columns.len() != now.columns.len() {
        return None;
    }
    let columns = event.columns.iter().zip(&now.columns).map(|(column, now)| {
        let kind = agreed(&column.kind, now.kind.as_ref()?)?;
        (column.nullable == now.nullable)
            .then(|| Column::new(now.name.clone(), kind, now.nullable, now.visible))
    });
    Some(event.with(columns.collect::<Option<_>>()?, now.key.clone()))
}

/// What a column is, when what the event says and what the table has today can be the same.
fn agreed(event: &ColumnKind, now: &ColumnKind) -> Option<ColumnKind> {
    use ColumnKind::*;
    let agree = match (event, now) {
        (IntegerOfUnknownSign { width: event }, Integer { width: now, .. }) => event == now,
        (OldOfUnknownLength { type_code }, _) => type_code_of_old(now) == Some(*type_code),
        (
            Enum {
                width: event,
                labels: None,
                ..
            },
            Enum { width: now, .. },
        )
        | (
            Set {
                width: event,
                labels: None,
                ..
            },
            Set { width: now, .. },
        )
        | (
            Vector {
                length_bytes: event,
                dimensions: None,
            },
            Vector {
                length_bytes: now, ..
            },
        )
        // 0 is GEOMETRY, and what stands there when the event does not tell.
        | (
            Geometry {
                length_bytes: event,
                subtype: 0,
            },
            Geometry {
                length_bytes: now, ..
            },
        ) => event == now,
        (Text { charset, .. }, _) if charset.is_unknown() => form(event) == form(now),
        (Bytes { .. }, Uuid | Inet6 | Inet4 | Vector { .. }) => form(event) == form(now),
        (event, now) => event == now,
    };
    agree.then(|| now.clone())
}

/// The form that a string, or what comes as one, has in an event.
fn form(kind: &ColumnKind) -> Option<(u8, StringShape)> {
    match kind {
        ColumnKind::Text {
            length_bytes,
            shape,
            ..
        }
        | ColumnKind::Bytes {
            length_bytes,
            shape,
        } => Some((*length_bytes, *shape)),
        ColumnKind::Uuid | ColumnKind::Inet6 => Some((1, StringShape::Fixed(16))),
        ColumnKind::Inet4 => Some((1, StringShape::Fixed(4))),
        ColumnKind::Vector {
            length_bytes,
            dimensions,
        } => {
            let bytes = dimensions.and_then(|count| u32::try_from(count * 4).ok())?;
            Some((*length_bytes, StringShape::Variable(bytes)))
        }
        _ => None,
    }
}

fn type_code_of_old(kind: &ColumnKind) -> Option<u8> {
    match kind {
        ColumnKind::OldTimestamp => Some(type_code::TIMESTAMP),
        ColumnKind::OldTime => Some(type_code::TIME),
        ColumnKind::OldDateTime => Some(type_code::DATETIME),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
