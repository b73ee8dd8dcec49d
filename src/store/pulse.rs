//! How MongoDB is doing: a ping of the primary now and then, by a small client of its own.
//!
//! The pipeline's client would tell of its own queue, and is not there before MongoDB was reached for the first time. A ping says that
//! the primary answers and how soon; whether it takes writes only the pipeline finds out, and its circuit breaker tells.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, Document, doc};
use mongodb::Client;
use mongodb::options::{ReadPreference, SelectionCriteria};

use super::{classify, reader};
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// Longest wait for an answer. A healthy server takes milliseconds, one in an election answers after it.
const LIMIT: Duration = Duration::from_secs(5);

/// Where counting staged batches ends: far above every alert, and little work.
const MOST_PENDING: u64 = 10_000;

/// How the driver's server names it in currentOp and its log: not the pipeline.
const APP_NAME: &str = "sdl-health";

/// What a ping brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// From the question to the answer.
    pub ping: Duration,
    /// The primary's clock, in milliseconds since 1970; none: it does not say.
    pub clock: Option<i64>,
    /// When the answer came.
    pub at: Instant,
    /// Batches of the source that are staged and not committed, counted up to [`MOST_PENDING`]; none: it could not be asked.
    pub pending: Option<u64>,
}

/// A client for questions.
#[derive(Debug)]
pub struct Pulse {
    config: Arc<Config>,
    client: Option<Client>,
}

impl Pulse {
    /// Not connected yet.
    pub fn new(config: Arc<Config>) -> Self {
        Self {
            config,
            client: None,
        }
    }

    /// Asks the primary how it is.
    ///
    /// # Errors
    /// When it does not answer in time, or there is none.
    pub async fn beat(&mut self) -> Result<Beat> {
        match tokio::time::timeout(LIMIT, self.ask()).await {
            Ok(answer) => answer,
            Err(_) => Err(Error::new(
                Kind::StoreUnavailable,
                format!("mongodb: no answer within {} s", LIMIT.as_secs()),
            )),
        }
    }

    async fn ask(&mut self) -> Result<Beat> {
        let client = match &self.client {
            Some(client) => client,
            None => {
                let client = reader::client(&self.config, APP_NAME, LIMIT).await?;
                self.client.insert(client)
            }
        };
        let admin = client.database("admin");
        let primary = SelectionCriteria::ReadPreference(ReadPreference::Primary);
        // Not `ping`: this one says besides that it is the primary and what time it is, and needs no right either.
        let hello = admin
            .run_command(doc! { "hello": 1 })
            .selection_criteria(primary);
        let began = Instant::now();
        let answer = hello
            .await
            .map_err(|error| classify::classify("ask how it is doing", &error))?;
        let (ping, at) = (began.elapsed(), Instant::now());
        let pending = doc! { "source": &self.config.source_id, "status": "pending" };
        let staging = client
            .database(&self.config.mongo_database)
            .collection::<Document>(&self.config.collections.staging);
        let pending = staging.count_documents(pending).limit(MOST_PENDING).await;
        Ok(Beat {
            ping,
            at,
            pending: pending.ok(),
            clock: match answer.get("localTime") {
                Some(Bson::DateTime(time)) => Some(time.timestamp_millis()),
                _ => None,
            },
        })
    }
}
