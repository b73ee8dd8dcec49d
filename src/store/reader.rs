//! Reading what sdl wrote, for commands: it makes nothing, changes nothing and takes nothing over.
//!
//! It needs `find` on the collections that are asked for, and no daemon that runs. A command fails at once where a daemon would try
//! again: whoever called it is there to read why.

mod changes;
mod offset;
mod staged;

pub use changes::Walk;
pub use staged::{StagedBatch, StagedDocument};

use std::sync::Arc;
use std::time::Duration;

use bson::Document;
use mongodb::options::{CollectionOptions, ReadConcern, ReadPreference, SelectionCriteria};
use mongodb::{Client, Collection, Database};

use super::{check_deployment, parse_uri};
use crate::config::Config;
use crate::error::{Error, Kind, Result};

/// How MongoDB's currentOp and log name a command.
const APP_NAME: &str = "sdl-command";

/// Longest wait for a primary. Shorter than the daemon's: somebody sits in front of it.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(5);

/// The collections of one source, to be read.
#[derive(Debug, Clone)]
pub struct Reader {
    pub(super) client: Client,
    pub(super) changes: Collection<Document>,
    pub(super) offsets: Collection<Document>,
    pub(super) staging: Collection<Document>,
    pub(super) schemas: Collection<Document>,
    pub(super) source_id: Arc<str>,
}

impl Reader {
    /// Connects to the primary. Only what a majority has is read, so nothing is shown that may be rolled back.
    ///
    /// # Errors
    /// Where MongoDB does not answer within seconds, refuses the user, or is no replica set.
    pub async fn connect(config: &Config) -> Result<Self> {
        let client = client(config, APP_NAME, SERVER_SELECTION_TIMEOUT).await?;
        check_deployment(&client).await?;
        let database = client.database(&config.mongo_database);
        let names = &config.collections;
        Ok(Self {
            changes: of_a_majority(&database, &names.changes),
            offsets: of_a_majority(&database, &names.offsets),
            staging: of_a_majority(&database, &names.staging),
            schemas: of_a_majority(&database, &names.schemas),
            source_id: config.source_id.as_str().into(),
            client,
        })
    }
}

/// A collection of the primary, as far as a majority has it: nothing is shown that may be rolled back.
pub(super) fn of_a_majority(database: &Database, name: &str) -> Collection<Document> {
    let options = CollectionOptions::builder()
        .read_concern(ReadConcern::majority())
        .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
        .build();
    database.collection_with_options(name, options)
}

/// A small client for questions, apart from the pipeline's.
pub(super) async fn client(config: &Config, name: &str, limit: Duration) -> Result<Client> {
    let mut options = parse_uri(config.mongo_uri.expose()).await?;
    options.app_name = Some(name.to_owned());
    options.max_pool_size = Some(1);
    options.min_pool_size = None;
    options.server_selection_timeout = Some(limit);
    options.connect_timeout = Some(limit);
    Client::with_options(options).map_err(|error| {
        Error::new(
            Kind::StoreSetting,
            format!("the client cannot be made: {}", error.kind),
        )
    })
}
