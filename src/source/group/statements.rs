//! What QUERY events do to the transaction they stand in: its markers, schema changes, and statements logged as text.

use std::sync::Arc;

use mysql_common::binlog::BinlogCtx;
use mysql_common::binlog::events::{Event, QueryEvent};
use mysql_common::io::ParseBuf;

use super::{Assembler, Group};
use crate::batch::Item;
use crate::error::Result;
use crate::event::Operation;
use crate::source::document::{Place, StatementText};
use crate::source::statement::{self, Statement};
use crate::source::{Chunk, event_type};

/// Bytes of a statement that are looked at to see whether it is a marker: more than any has (XA ids of 2 × 64 bytes in hex).
const LONGEST_MARKER: usize = 512;

impl Assembler {
    /// A QUERY event, with its body as it was before the server compressed it.
    pub(super) fn query(&mut self, event: &Event, body: &[u8], out: &mut Chunk) -> Result<()> {
        let context = BinlogCtx::new(body.len(), event.fde(), event_type::QUERY);
        let query: QueryEvent<'_> = ParseBuf(body)
            .parse(context)
            .map_err(|error| self.damaged(format!("QUERY event: {error}")))?;
        let text = StatementText::of_query(self.documents.flavor(), &query);
        let thread_id = query.thread_id();
        let group = self.group_for("a statement")?;
        group.context.thread_id = thread_id;
        // A marker is known by its bytes, whatever the character set of the session around it.
        let head = query
            .query_raw()
            .get(..LONGEST_MARKER)
            .unwrap_or(query.query_raw());
        let marker = by_bytes(head);
        match statement::classify(&marker) {
            Statement::Begin if !group.begun => {
                group.begun = true;
                Ok(())
            }
            Statement::XaStart(id) if !group.begun => {
                group.begun = true;
                group.context.xid = Some(id.into());
                group.xa_database = query.schema_raw().to_vec();
                Ok(())
            }
            Statement::XaEnd | Statement::ReleaseSavepoint if group.begun => Ok(()),
            Statement::Savepoint(name) if group.begun => {
                group.set_savepoint(name);
                Ok(())
            }
            Statement::Commit if group.begun => self.end(out),
            Statement::RollbackToSavepoint(name) if group.begun => {
                self.rollback_to(name, text, &query, out)
            }
            Statement::Rollback if group.rows > 0 => Err(self.damaged(
                "a rollback after rows; they were logged and undone, which row-based logging of transactional tables never does: \
                 look for tables of a non-transactional engine in this transaction",
            )),
            Statement::Rollback if group.begun => self.end(out),
            Statement::XaCommit(id) if !group.begun => {
                group.context.xid = Some(id.into());
                self.lone(Operation::XaCommit, text, &query, out)
            }
            Statement::XaRollback(id) if !group.begun => {
                group.context.xid = Some(id.into());
                self.lone(Operation::XaRollback, text, &query, out)
            }
            Statement::Other if group.no_effect => self.end(out),
            Statement::Other if !group.begun && opens_transaction(&text, &query) => {
                group.begun = true;
                self.statement(Operation::Ddl, text, &query, out)
            }
            Statement::Other if !group.begun => self.lone(Operation::Ddl, text, &query, out),
            Statement::Other if group.schema_change || opens_transaction(&text, &query) => {
                self.statement(Operation::Ddl, text, &query, out)
            }
            Statement::Other => {
                let gtid = Arc::clone(&group.gtid);
                if let Some(count) = self.statements_as_text.note() {
                    tracing::warn!(
                        gtid = %gtid,
                        count,
                        "a data change was logged as its statement, not as rows (a session set binlog_format); recorded as its text"
                    );
                }
                self.statement(Operation::Statement, text, &query, out)
            }
            other => {
                let name = format!("{other:?}");
                let word = name.split('(').next().unwrap_or_default();
                Err(self.damaged(format!("{word} at a place where the grammar of a transaction has none")))
            }
        }
    }

    /// The end of an XA transaction: prepared, or, with XA COMMIT … ONE PHASE, decided already. No decision follows then, so it is
    /// recorded here, behind the rows that carry the transaction's id. The first byte of the body says which
    /// (`XA_prepare_event` in `libs/mysql/binlog/event/control_events.h`).
    pub(super) fn xa_prepare(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        let group = self.group_for("XA PREPARE")?;
        let one_phase = event.data().first() == Some(&1);
        if let Some(xid) = group.context.xid.as_ref().filter(|_| one_phase) {
            let text = StatementText::of_rows(format!("XA COMMIT {xid} ONE PHASE").as_bytes());
            let query = QueryEvent::new(Vec::new(), group.xa_database.clone());
            self.statement(Operation::XaCommit, text, &query, out)?;
        }
        self.end(out)
    }

    /// A statement that is a transaction by itself.
    fn lone(
        &mut self,
        operation: Operation,
        text: StatementText,
        query: &QueryEvent<'_>,
        out: &mut Chunk,
    ) -> Result<()> {
        self.statement(operation, text, query, out)?;
        self.end(out)
    }

    /// The rows after a savepoint were undone. A server logs them all the same when a table that knows no transactions was
    /// changed between them; its own rows stand in a transaction of their own.
    fn rollback_to(
        &mut self,
        savepoint: &str,
        text: StatementText,
        query: &QueryEvent<'_>,
        out: &mut Chunk,
    ) -> Result<()> {
        let Some(group) = &mut self.group else {
            return Ok(());
        };
        let Some(row) = group.roll_back_to(savepoint) else {
            return Err(self.damaged(format!(
                "ROLLBACK TO a savepoint that was not set: {savepoint}"
            )));
        };
        if row == group.rows {
            return Ok(());
        }
        tracing::warn!(
            gtid = %group.gtid,
            savepoint,
            "rows after a savepoint were rolled back after they were logged; they are taken back"
        );
        let mut marker = Chunk::default();
        self.statement(Operation::Statement, text, query, &mut marker)?;
        for item in marker.items {
            if let Item::Change(marker) = item {
                out.push(Item::RollbackTo { row, marker });
            }
        }
        Ok(())
    }

    /// Records a statement's text as a document.
    fn statement(
        &mut self,
        operation: Operation,
        text: StatementText,
        query: &QueryEvent<'_>,
        out: &mut Chunk,
    ) -> Result<()> {
        let Some(group) = &mut self.group else {
            return Ok(());
        };
        // Whatever it says: a schema change that is not seen as one would leave a wrong name behind.
        self.documents.statement_read(&group.gtid);
        let place = Place {
            file: &self.file,
            position: self.position,
        };
        let document = self
            .documents
            .statement(operation, text, query, &group.row_context(place));
        group.rows += 1;
        group.statements += 1;
        match document {
            Ok(event) => {
                if let Some(event) = event {
                    out.push(Item::Change(event));
                }
                Ok(())
            }
            Err(error) => Err(self.damaged(error)),
        }
    }

    pub(super) fn load_query(&mut self, event: &Event, out: &mut Chunk) -> Result<()> {
        use mysql_common::binlog::events::ExecuteLoadQueryEvent;
        let load: ExecuteLoadQueryEvent<'_> = event
            .read_event()
            .map_err(|error| self.damaged(format!("EXECUTE_LOAD_QUERY event: {error}")))?;
        let query = QueryEvent::new(load.status_vars_raw().to_vec(), load.schema_raw().to_vec())
            .with_query(load.query_raw().to_vec())
            .with_thread_id(load.thread_id());
        let text = StatementText::of_query(self.documents.flavor(), &query);
        self.group_for("LOAD DATA")?;
        self.statement(Operation::Statement, text, &query, out)
    }
}

/// A text of which the character set does not matter: each byte as one character, so that what differs goes on differing.
fn by_bytes(text: &[u8]) -> String {
    text.iter().map(|byte| char::from(*byte)).collect()
}

fn opens_transaction(text: &StatementText, query: &QueryEvent<'_>) -> bool {
    match text.as_str() {
        Some(text) => statement::opens_transaction(text),
        None => statement::opens_transaction(&by_bytes(query.query_raw())),
    }
}

impl Group {
    /// A savepoint of a name that was used before takes its place.
    fn set_savepoint(&mut self, name: &str) {
        self.savepoints.retain(|(other, _)| other != name);
        self.savepoints.push((name.to_owned(), self.rows));
    }

    /// The index of the row after a savepoint; those set after it are gone.
    fn roll_back_to(&mut self, name: &str) -> Option<u64> {
        let index = self
            .savepoints
            .iter()
            .position(|(other, _)| other == name)?;
        self.savepoints.truncate(index + 1);
        self.savepoints.get(index).map(|(_, row)| *row)
    }
}
