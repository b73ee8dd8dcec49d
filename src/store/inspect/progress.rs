//! How far a source is recorded, and how fast, as MongoDB has it: for `sdl status`. It reads only.

use std::time::Duration;

use bson::{DateTime, Document, doc};
use mongodb::Collection;
use mongodb::options::Hint;

use super::super::ownership::parse_offset;
use super::super::reader::of_a_majority;
use super::super::settle;
use crate::config::Config;
use crate::error::Result;
use crate::offset::Offset;

/// The time over which events are counted.
pub const RATE_OVER: Duration = Duration::from_secs(300);

/// Longest time for finding where that begins: with several sources in one collection it may lie behind many of the others.
const RATE_LIMIT: Duration = Duration::from_secs(3);

/// What MongoDB has of a source.
#[derive(Debug)]
pub struct Progress {
    /// Its offset, if it was ever read.
    pub saved: Option<Saved>,
    /// What waits in staging.
    pub staging: Staging,
    /// Events whose transactions were committed within [`RATE_OVER`]; none: it could not be found out in time.
    pub recent_events: Option<i64>,
}

/// The offset document.
#[derive(Debug)]
pub struct Saved {
    /// What a resume needs.
    pub offset: Offset,
    /// When it was written.
    pub updated_at: Option<DateTime>,
    /// Who holds the lease, where LEASE=on.
    pub lease_holder: Option<String>,
}

/// Batches in staging.
#[derive(Debug, Clone, Copy)]
pub struct Staging {
    /// Not yet committed.
    pub pending: u64,
    /// When the oldest of these was staged.
    pub oldest: Option<DateTime>,
    /// Set aside; they expire.
    pub archived: u64,
}

/// Asks MongoDB.
///
/// # Errors
/// When it does not answer within seconds, or refuses the user.
pub async fn progress(config: &Config) -> Result<Progress> {
    let (client, _) = super::connect(config).await?;
    let database = client.database(&config.mongo_database);
    let names = &config.collections;
    let source = config.source_id.as_str();
    let saved = saved(&of_a_majority(&database, &names.offsets), source).await?;
    let staging = staging(&of_a_majority(&database, &names.staging), source).await?;
    let recent_events = match &saved {
        Some(saved) => {
            let changes = of_a_majority(&database, &names.changes);
            recent_events(&changes, source, saved.offset.n).await
        }
        None => None,
    };
    client.shutdown().immediate(true).await;
    Ok(Progress {
        saved,
        staging,
        recent_events,
    })
}

async fn saved(offsets: &Collection<Document>, source: &str) -> Result<Option<Saved>> {
    let found = offsets.find_one(doc! { "_id": source });
    let Some(document) = settle("read the offset", found).await? else {
        return Ok(None);
    };
    let offset = parse_offset(&document, offsets.name())?;
    let lease = document.get_document("lease");
    Ok(Some(Saved {
        offset,
        updated_at: document.get_datetime("updatedAt").ok().copied(),
        lease_holder: lease
            .and_then(|lease| lease.get_str("holder"))
            .ok()
            .map(str::to_owned),
    }))
}

async fn staging(staging: &Collection<Document>, source: &str) -> Result<Staging> {
    let of = |status: &str| doc! { "source": source, "status": status };
    let oldest = staging
        .find_one(of("pending"))
        .sort(doc! { "batch": 1 })
        .projection(doc! { "createdAt": 1 });
    let count = |status| staging.count_documents(of(status));
    Ok(Staging {
        oldest: settle("look at staging", oldest)
            .await?
            .and_then(|batch| batch.get_datetime("createdAt").ok().copied()),
        pending: settle("count what is staged", count("pending")).await?,
        archived: settle("count what is archived", count("archived")).await?,
    })
}

/// By the numbers of the first and the last document of that time: one look at an index, however many there are.
async fn recent_events(changes: &Collection<Document>, source: &str, last: i64) -> Option<i64> {
    let since = DateTime::from_millis(
        DateTime::now().timestamp_millis() - i64::try_from(RATE_OVER.as_millis()).unwrap_or(0),
    );
    let first = changes
        .find_one(doc! { "ts": { "$gte": since }, "meta.source": source })
        .sort(doc! { "ts": 1 })
        .hint(Hint::Keys(doc! { "ts": 1 }))
        .projection(doc! { "n": 1 })
        .max_time(RATE_LIMIT);
    match settle("look for recent changes", first).await {
        Ok(None) => Some(0),
        Ok(Some(first)) => Some((last - first.get_i64("n").ok()? + 1).max(0)),
        Err(_) => None,
    }
}
