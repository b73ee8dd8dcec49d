//! Decoded rows and statements → audit documents, with the filters applied.
//!
//! It guarantees that a row which a filter leaves out is still counted, so that `meta.row` and with it every document's id is
//! the same whatever the filters are. What it keeps between events (schemas by table id, the last schema of each table) only
//! saves work or feeds the log; it may be forgotten at any time outside a statement.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use mysql_common::binlog::consts::StatusVarKey;
use mysql_common::binlog::events::{QueryEvent, StatusVarVal};

use super::decode::wire::Reader;
use super::decode::{Charset, DecodeError, Limits, RowsEvent, RowsKind, Scratch};
use super::schema::information_schema::Answer;
use super::schema::lookup::{Lookup, Wanted};
use super::schema::{SchemaCache, TableSchema};
use super::statement::{self, TableName};
use crate::bson_writer::{self as write, element};
use crate::config::{Config, TableFilter};
use crate::event::{Change, ChangeEvent, Operation, SchemaVersion, TransactionContext};
use crate::large_value::{LargeKind, LargeValue};
use crate::position::{Flavor, Gtid, GtidSet};

/// Tables whose last schema is remembered. Beyond it the memory starts afresh, which costs a little work and a line
/// `Schema changed`.
const KNOWN_TABLES: usize = 100_000;

/// The table id of a rows event that holds no rows and only ends a statement.
const NO_TABLE: u64 = 0x00ff_ffff;

/// Where the event being read stands.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) file: &'a str,
    pub(super) position: u64,
}

/// A statement's text, encoded as the value of `meta.query`.
#[derive(Debug)]
pub(super) struct StatementText {
    kind: u8,
    value: Vec<u8>,
    text: Option<String>,
}

impl StatementText {
    /// The text of a QUERY event, in the character set of the client that sent it, which the event tells.
    pub(super) fn of_query(flavor: Flavor, query: &QueryEvent<'_>) -> Self {
        let charset = match query
            .status_vars()
            .get_status_var(StatusVarKey::Charset)
            .map(|var| charset_client(&var))
        {
            Some(Some(collation)) => Charset::of_collation(flavor, u64::from(collation)),
            _ => Charset::of_collation(flavor, UTF8MB4_GENERAL_CI),
        };
        Self::new(query.query_raw(), charset)
    }

    /// The text of a ROWS_QUERY event, which does not tell its character set: UTF-8, or kept as bytes.
    pub(super) fn of_rows(text: &[u8]) -> Self {
        // The same id in both flavors.
        Self::new(
            text,
            Charset::of_collation(Flavor::Mysql, UTF8MB4_GENERAL_CI),
        )
    }

    fn new(bytes: &[u8], charset: Charset) -> Self {
        match charset.decode(bytes) {
            Some(text) => {
                let mut value = Vec::with_capacity(text.len() + 5);
                write::string(&mut value, &text);
                Self {
                    kind: element::STRING,
                    value,
                    text: Some(text),
                }
            }
            None => {
                let mut value = Vec::with_capacity(bytes.len() + 5);
                write::binary(&mut value, bytes);
                Self {
                    kind: element::BINARY,
                    value,
                    text: None,
                }
            }
        }
    }

    /// The text, where it could be decoded.
    pub(super) fn as_str(&self) -> Option<&str> {
        self.text.as_deref()
    }

    /// Puts a text larger than `limit` aside, and a pointer to it in its place.
    fn shrunk(mut self, limit: usize, large_values: &mut Vec<LargeValue>) -> Self {
        if self.value.len() <= limit {
            return self;
        }
        let (kind, bytes) = match self.text.take() {
            Some(text) => (LargeKind::String, text.into_bytes()),
            None => (LargeKind::Binary, self.value.split_off(5)),
        };
        let large = LargeValue::new(kind, bytes);
        self.kind = element::DOCUMENT;
        self.value.clear();
        large.append_reference_value(&mut self.value);
        large_values.push(large);
        self
    }

    fn encoded(&self) -> (u8, &[u8]) {
        (self.kind, &self.value)
    }
}

/// A collation of utf8mb4: what a text is taken for when the event does not say.
const UTF8MB4_GENERAL_CI: u64 = 45;

/// `character_set_client` out of the status variable Q_CHARSET_CODE.
fn charset_client(variable: &mysql_common::binlog::events::StatusVar<'_>) -> Option<u16> {
    match variable.get_value() {
        Ok(StatusVarVal::Charset { charset_client, .. }) => Some(charset_client),
        _ => None,
    }
}

/// Who ran a statement, out of the status variable Q_INVOKER.
fn invoker(query: &QueryEvent<'_>) -> Option<String> {
    let variable = query.status_vars().get_status_var(StatusVarKey::Invoker)?;
    match variable.get_value() {
        Ok(StatusVarVal::Invoker { username, hostname }) => {
            Some(format!("{}@{}", username.as_str(), hostname.as_str()))
        }
        _ => None,
    }
}

/// A table as its rows are to be read.
struct Table {
    schema: Arc<TableSchema>,
    version: Arc<SchemaVersion>,
    included: bool,
}

/// Makes documents, for one source.
pub(super) struct Documents {
    flavor: Flavor,
    filter: TableFilter,
    limits: Limits,
    schemas: SchemaCache,
    lookup: Lookup,
    /// What follows from the last schema of each table, by `database.table`.
    tables: HashMap<String, Arc<Table>>,
    /// The table maps of the statement being read; they are void at its end.
    statement_tables: Vec<(u64, Arc<Table>)>,
    scratch: Scratch,
    changed: Vec<u8>,
    undecodable: u64,
}

/// Where a row stands among the rows of its transaction, and what its statement said.
pub(super) struct RowContext<'a> {
    pub(super) transaction: &'a TransactionContext,
    /// Index of the next row; every row counts, included or not.
    pub(super) row: &'a mut u64,
    pub(super) statement: u64,
    /// The statement's text, until its first document takes it.
    pub(super) text: &'a mut Option<StatementText>,
    pub(super) place: Place<'a>,
}

impl Documents {
    pub(super) fn new(config: &Config, flavor: Flavor) -> Self {
        Self {
            flavor,
            filter: config.tables.clone(),
            limits: Limits {
                max_value_bytes: config.max_value_bytes,
            },
            schemas: SchemaCache::new(),
            lookup: Lookup::default(),
            tables: HashMap::new(),
            statement_tables: Vec::new(),
            scratch: Scratch::default(),
            changed: Vec::new(),
            undecodable: 0,
        }
    }

    /// Which flavor's events these are.
    pub(super) fn flavor(&self) -> Flavor {
        self.flavor
    }

    /// Table ids hold within one binlog file of one server.
    pub(super) fn forget_table_ids(&mut self) {
        self.schemas.forget_table_ids();
        self.statement_tables.clear();
    }

    /// A new connection, perhaps to another server.
    pub(super) fn reconnected(&mut self) {
        self.forget_table_ids();
        self.lookup.forget();
    }

    /// Text values so far that were recorded as Binary.
    pub(super) fn undecodable_values(&self) -> u64 {
        self.undecodable
    }

    /// What is to be asked of the server before this TABLE_MAP event is taken in.
    pub(super) fn wants(&mut self, body: &[u8], now: Instant) -> Option<Wanted> {
        // A body that cannot be parsed is an error when it is taken in.
        let schema = self.schemas.table_map(self.flavor, body).ok()?;
        if schema.is_complete() {
            return None;
        }
        let table_id = table_id(body).ok()?;
        let included = self.filter.includes(&schema.full_name);
        self.lookup.wants(&schema, table_id, included, now)
    }

    /// Takes in what the server answered, if it did.
    pub(super) fn learn(
        &mut self,
        wanted: &Wanted,
        answer: Option<Answer>,
        read: &GtidSet,
        now: Instant,
    ) {
        self.lookup.learn(wanted, answer, read, now);
    }

    /// A statement was read: what the server answered may be over.
    pub(super) fn statement_read(&mut self, gtid: &Gtid) {
        self.lookup.statement(gtid);
    }

    /// Takes a TABLE_MAP event of transaction `gtid` in: names and types of the rows that follow.
    pub(super) fn table_map(
        &mut self,
        body: &[u8],
        read: &GtidSet,
        gtid: &Gtid,
    ) -> Result<(), DecodeError> {
        let schema = self.schemas.table_map(self.flavor, body)?;
        let table_id = table_id(body)?;
        let schema = self.lookup.complete(schema, table_id, read, gtid);
        let table = match self.tables.get(&schema.full_name) {
            Some(table) if Arc::ptr_eq(&table.schema, &schema) => Arc::clone(table),
            _ => self.note_table(schema),
        };
        table.schema.check(table.included)?;
        self.statement_tables.retain(|(id, _)| *id != table_id);
        self.statement_tables.push((table_id, table));
        Ok(())
    }

    fn note_table(&mut self, schema: Arc<TableSchema>) -> Arc<Table> {
        if self.tables.len() >= KNOWN_TABLES {
            self.tables.clear();
        }
        let table = Arc::new(Table {
            included: self.filter.includes(&schema.full_name),
            version: Arc::new(SchemaVersion {
                id: schema.id.clone(),
                document: schema.document(),
            }),
            schema,
        });
        let name = table.schema.full_name.clone();
        let previous = self.tables.insert(name, Arc::clone(&table));
        if table.included {
            let previous = previous.filter(|previous| previous.schema.id != table.schema.id);
            if let Some(previous) = previous {
                tracing::info!(
                    table = table.schema.full_name,
                    from = previous.schema.id,
                    to = table.schema.id,
                    "Schema changed"
                );
            }
            if !table.schema.resolved {
                tracing::warn!(
                    table = table.schema.full_name,
                    "the binlog does not name the columns (written with binlog_row_metadata=MINIMAL or NO_LOG), and it is not sure that information_schema has the same; recorded as \
                     @1, @2 …"
                );
            }
        }
        table
    }

    /// Turns the rows of a rows event into documents. Returns whether the statement ends here.
    pub(super) fn rows(
        &mut self,
        kind: u8,
        data: &[u8],
        context: RowContext<'_>,
        mut emit: impl FnMut(ChangeEvent),
    ) -> Result<bool, DecodeError> {
        let mut event = RowsEvent::parse(kind, data)?;
        let ended = event.ends_statement();
        if event.is_empty() && event.table_id() == NO_TABLE {
            self.statement_tables.clear();
            return Ok(ended);
        }
        let found = self
            .statement_tables
            .iter()
            .find(|(id, _)| *id == event.table_id());
        let Some(table) = found.map(|(_, table)| Arc::clone(table)) else {
            return Err(DecodeError::UnknownTable {
                table_id: event.table_id(),
            });
        };
        if table.included {
            self.included_rows(&mut event, &table, context, &mut emit)?;
        } else {
            *context.row += event.count_rows(&table.schema)?;
        }
        if ended {
            self.statement_tables.clear();
        }
        Ok(ended)
    }

    fn included_rows(
        &mut self,
        event: &mut RowsEvent<'_>,
        table: &Table,
        context: RowContext<'_>,
        emit: &mut impl FnMut(ChangeEvent),
    ) -> Result<(), DecodeError> {
        let kind = event.kind();
        let operation = match kind {
            RowsKind::Insert => Operation::Insert,
            RowsKind::Update => Operation::Update,
            RowsKind::Delete => Operation::Delete,
        };
        while let Some(row) = event.next_row(&table.schema, &self.limits, &mut self.scratch)? {
            if row.undecodable_text > 0 {
                self.undecodable += u64::from(row.undecodable_text);
                tracing::debug!(
                    table = table.schema.full_name,
                    total = self.undecodable,
                    "text that is not valid in its column's character set is recorded as binary"
                );
            }
            let mut large = row.large_values;
            let text = context
                .text
                .take()
                .map(|text| text.shrunk(self.limits.max_value_bytes, &mut large));
            if kind == RowsKind::Update {
                write_changed(&mut self.changed, &table.schema, row.changed);
            }
            let change = Change {
                operation,
                database: &table.schema.database,
                table: &table.schema.table,
                key: row.key.map(|key| (key.element_type, key.bytes)),
                row: *context.row,
                statement: context.statement,
                file: context.place.file,
                position: context.place.position,
                schema: Some(&table.version),
                resolved: table.schema.resolved,
                query: text.as_ref().map(StatementText::encoded),
                user: None,
                before: row.before,
                after: row.after,
                changed: (kind == RowsKind::Update).then_some(&self.changed),
            };
            emit(ChangeEvent::new(context.transaction, &change, large)?);
            *context.row += 1;
        }
        Ok(())
    }

    /// Makes the document of a statement; `None` when all tables that it names are filtered out.
    pub(super) fn statement(
        &self,
        operation: Operation,
        text: StatementText,
        query: &QueryEvent<'_>,
        context: &RowContext<'_>,
    ) -> Result<Option<ChangeEvent>, DecodeError> {
        let schema = query.schema();
        let tables = match (operation, text.as_str()) {
            (Operation::Ddl, Some(text)) => statement::tables(text),
            _ => Vec::new(),
        };
        let database = |name: &TableName| {
            name.database
                .clone()
                .unwrap_or_else(|| schema.clone().into_owned())
        };
        if !tables.is_empty()
            && !tables.iter().any(|name| {
                self.filter
                    .includes(&format!("{}.{}", database(name), name.table))
            })
        {
            return Ok(None);
        }
        let first = tables.first();
        let mut large = Vec::new();
        let text = text.shrunk(self.limits.max_value_bytes, &mut large);
        let user = invoker(query);
        let change = Change {
            operation,
            database: &first.map_or_else(|| schema.clone().into_owned(), database),
            table: first.map_or("", |name| name.table.as_str()),
            key: None,
            row: *context.row,
            statement: context.statement,
            file: context.place.file,
            position: context.place.position,
            schema: None,
            resolved: true,
            query: Some(text.encoded()),
            user: user.as_deref(),
            before: None,
            after: None,
            changed: None,
        };
        Ok(Some(ChangeEvent::new(context.transaction, &change, large)?))
    }
}

fn table_id(table_map: &[u8]) -> Result<u64, DecodeError> {
    Reader::new(table_map).unsigned(6, "table id")
}

/// The value of `changed`: an array of column names.
fn write_changed(out: &mut Vec<u8>, schema: &TableSchema, changed: &[usize]) {
    out.clear();
    let array = write::begin_document(out);
    for (index, column) in changed
        .iter()
        .filter_map(|column| schema.columns.get(*column))
        .enumerate()
    {
        write::array_element(out, element::STRING, index);
        write::string(out, &column.name);
    }
    write::end_document(out, array);
}
