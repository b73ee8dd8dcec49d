//! Schemas by the content of their TABLE_MAP events: MySQL sends one before every statement's rows, nearly always the same.
//!
//! Guarantees: the same content gives the same `Arc` while it is remembered; what is remembered is bounded, whatever the
//! number of tables; a table id never outlives the binlog file it was given in, when the reader calls
//! [`SchemaCache::forget_table_ids`] on each rotation (a restarted server counts table ids from the start again).

use std::collections::HashMap;
use std::sync::Arc;

use super::TableSchema;
use crate::position::Flavor;
use crate::source::decode::DecodeError;
use crate::source::decode::wire::Reader;

/// How many bytes of TABLE_MAP content are remembered with their schemas; default 4 MiB, some 20,000 tables of ten columns.
/// When there are more, all are forgotten, and parsed again when next seen: a few microseconds each.
const CONTENT_BYTES_REMEMBERED: usize = 4 << 20;

/// How many table ids a generation takes; default 4096. The ids of the latest that many table maps are always known, and a
/// rows event follows its table map within one statement, which names a few hundred tables at most.
const TABLE_IDS_IN_A_GENERATION: usize = 4096;

/// Remembers schemas by content and by table id.
#[derive(Debug, Default)]
pub struct SchemaCache {
    by_content: HashMap<Arc<[u8]>, Arc<TableSchema>>,
    content_bytes: usize,
    /// Table ids seen lately; when full it becomes `older_table_ids`, and what was in there is forgotten.
    table_ids: HashMap<u64, Entry>,
    older_table_ids: HashMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    content: Arc<[u8]>,
    schema: Arc<TableSchema>,
}

impl SchemaCache {
    /// A cache that knows nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes in the body of a TABLE_MAP event (what follows the 19-byte header, without the checksum) and gives its schema, parsed
    /// only if the content was not seen before. A cache is for one source, so `flavor` is always the same. Rows events that name its table id find it by
    /// [`SchemaCache::by_table_id`].
    ///
    /// # Errors
    /// When the body cannot be parsed; see [`TableSchema::parse`].
    pub fn table_map(
        &mut self,
        flavor: Flavor,
        body: &[u8],
    ) -> Result<Arc<TableSchema>, DecodeError> {
        let mut reader = Reader::new(body);
        let table_id = reader.unsigned(6, "table id")?;
        let content = reader.rest();
        if let Some(entry) = self.table_ids.get(&table_id)
            && *entry.content == *content
        {
            return Ok(Arc::clone(&entry.schema));
        }
        let entry = match self.by_content.get_key_value(content) {
            Some((content, schema)) => Entry {
                content: Arc::clone(content),
                schema: Arc::clone(schema),
            },
            None => self.remember(content, TableSchema::parse(flavor, body)?),
        };
        let schema = Arc::clone(&entry.schema);
        if self.table_ids.len() >= TABLE_IDS_IN_A_GENERATION {
            self.older_table_ids = std::mem::take(&mut self.table_ids);
        }
        self.table_ids.insert(table_id, entry);
        Ok(schema)
    }

    fn remember(&mut self, content: &[u8], schema: TableSchema) -> Entry {
        self.content_bytes += content.len();
        if self.content_bytes > CONTENT_BYTES_REMEMBERED {
            self.by_content.clear();
            self.content_bytes = content.len();
        }
        let entry = Entry {
            content: Arc::from(content),
            schema: Arc::new(schema),
        };
        self.by_content
            .insert(Arc::clone(&entry.content), Arc::clone(&entry.schema));
        entry
    }

    /// The schema of the latest table map with this id.
    pub fn by_table_id(&self, table_id: u64) -> Option<&Arc<TableSchema>> {
        let entry = self
            .table_ids
            .get(&table_id)
            .or_else(|| self.older_table_ids.get(&table_id));
        entry.map(|entry| &entry.schema)
    }

    /// Forgets the table ids, not the schemas. To be called when the binlog rotates and when the connection is new.
    pub fn forget_table_ids(&mut self) {
        self.table_ids.clear();
        self.older_table_ids.clear();
    }
}
