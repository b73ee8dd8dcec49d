//! The MongoDB side: the only place that names the driver.
//!
//! It guarantees that a batch is in MongoDB either whole or not at all, together with the offset that covers it, and that
//! only the daemon of the newest epoch can write. [`Store`] holds what every part needs; the parts are:
//!
//! - this file: connection, checks, collections and indexes;
//! - [`ownership`]: the offset document, the epoch, and the end of a predecessor's open transaction;
//! - [`lease`]: which of several daemons records;
//! - [`staging`]: batches that are durable before they are committed, and what they refer to;
//! - [`commit`]: the one transaction of a batch;
//! - [`spool`]: batches on the local disk while MongoDB is away;
//! - [`hosts`]: what the driver's monitors meet;
//! - [`pool`]: its connections, counted; [`pulse`]: how MongoDB is doing;
//! - [`reader`]: what commands read of all this; [`inspect`]: what must hold, looked at for a person;
//! - [`classify`]: how an error of the driver is read.
//!
//! Every call has a time limit, because the driver has none on its sockets.

mod classify;
mod commit;
mod hosts;
pub mod inspect;
mod lease;
mod ownership;
mod pool;
pub mod pulse;
mod reader;
mod spool;
mod staging;

pub use commit::{Anchor, CommitOutcome, Committer, Patience};
pub use reader::{Reader, StagedBatch, StagedDocument, Walk};
pub use spool::Spool;
pub use spool::glance::{Glance, glance};

use std::future::IntoFuture;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, RawDocumentBuf, doc};
use mongodb::error::ErrorKind;
use mongodb::options::{
    Acknowledgment, ClientOptions, CollectionOptions, CreateCollectionOptions, IndexOptions,
    ReadConcern, ReadPreference, SelectionCriteria, WriteConcern,
};
use mongodb::{Client, Collection, Database, IndexModel};

use crate::board::Board;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::retry::Retry;
use hosts::Hosts;
use lease::Claimant;

/// Longest time for one call to MongoDB. A step-down stalls a call for about 10 s, a 16 MiB write on a busy disk takes
/// seconds; more than this means that the connection is dead.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(30);

/// Longest wait for a server that can take the call. Shorter than the driver's 30 s, so that the log says early why nothing
/// moves; a URI that sets serverSelectionTimeoutMS wins.
const SERVER_SELECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Longest wait for one connection attempt; a URI that sets connectTimeoutMS wins.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// How long archived batches are kept, in seconds: 7 days. Pending ones never expire.
const ARCHIVE_TTL: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// NamespaceExists: the collection was there already.
const NAMESPACE_EXISTS: i32 = 48;

/// The collections of one source in one MongoDB deployment.
#[derive(Debug, Clone)]
pub struct Store {
    client: Client,
    hosts: Hosts,
    database: Database,
    changes: Collection<RawDocumentBuf>,
    offsets: Collection<Document>,
    staging: Collection<RawDocumentBuf>,
    schemas: Collection<Document>,
    values: Collection<Document>,
    known_schemas: Arc<staging::KnownSchemas>,
    source_id: Arc<str>,
    retry: Retry,
    /// Where LEASE=on.
    claimant: Option<Arc<Claimant>>,
}

impl Store {
    /// Connects, checks that the deployment can hold an audit trail, and makes missing collections and indexes. Waits for a
    /// MongoDB that is not there yet.
    ///
    /// # Errors
    /// Only what an operator must mend: a wrong URI or password, a standalone server, a missing right.
    pub async fn connect(config: &Config, breaker: &Breaker) -> Result<Self> {
        let retry = Retry::with_breaker(config.retry, breaker.clone());
        retry
            .persist("connect to mongodb", || {
                Self::try_connect(config, &retry, breaker.board())
            })
            .await
    }

    async fn try_connect(config: &Config, retry: &Retry, board: &Board) -> Result<Self> {
        let mut options = parse_uri(config.mongo_uri.expose()).await?;
        options.app_name.get_or_insert_with(|| "sdl".to_owned());
        options
            .server_selection_timeout
            .get_or_insert(SERVER_SELECTION_TIMEOUT);
        options.connect_timeout.get_or_insert(CONNECT_TIMEOUT);
        let pool = Arc::default();
        options.cmap_event_handler = Some(pool::handler(&pool));
        board.update(|facts| facts.pool = pool);
        let (client, hosts) = reach(options).await?;
        let database = client.database(&config.mongo_database);
        let durable = CollectionOptions::builder()
            .write_concern(durable())
            .read_concern(ReadConcern::local())
            .selection_criteria(SelectionCriteria::ReadPreference(ReadPreference::Primary))
            .build();
        let names = &config.collections;
        let store = Self {
            changes: database.collection_with_options(&names.changes, durable.clone()),
            offsets: database.collection_with_options(&names.offsets, durable.clone()),
            staging: database.collection_with_options(&names.staging, durable.clone()),
            schemas: database.collection_with_options(&names.schemas, durable.clone()),
            values: database.collection_with_options(&names.values, durable),
            known_schemas: Arc::default(),
            source_id: config.source_id.as_str().into(),
            retry: retry.clone(),
            claimant: config.lease_ttl.map(|ttl| Arc::new(Claimant::new(ttl))),
            client,
            hosts,
            database,
        };
        store.create_collections().await?;
        store.create_indexes().await?;
        Ok(store)
    }

    /// A transaction cannot wait for a collection to appear, so all of them are made beforehand.
    async fn create_collections(&self) -> Result<()> {
        for name in [
            self.changes.name(),
            self.offsets.name(),
            self.staging.name(),
            self.schemas.name(),
            self.values.name(),
        ] {
            let options = CreateCollectionOptions::builder()
                .write_concern(durable())
                .build();
            let created = bounded(
                "create collection",
                self.database.create_collection(name).with_options(options),
            )
            .await?;
            match created {
                Ok(()) => tracing::info!(collection = name, "created collection"),
                Err(error) if is_code(&error, NAMESPACE_EXISTS) => {}
                Err(error) => {
                    return Err(classify::classify(
                        &format!("create collection {name}"),
                        &error,
                    ));
                }
            }
        }
        Ok(())
    }

    /// The indexes of the contract and no other: each one costs throughput.
    async fn create_indexes(&self) -> Result<()> {
        settle(
            "create the indexes of the changes",
            self.changes.create_indexes(change_indexes()),
        )
        .await?;
        settle(
            "create the indexes of staging",
            self.staging.create_indexes(staging_indexes()),
        )
        .await?;
        Ok(())
    }

    /// Waits until no host of MongoDB can be had any more for a reason that does not pass: its certificate ended, or another
    /// server answers. An outage is none.
    pub async fn refused(&self) -> Error {
        self.hosts.refused().await
    }

    /// How failures are retried.
    pub fn retry(&self) -> &Retry {
        &self.retry
    }

    /// Waits until a host that could not be had answers again; for ever when there is none.
    pub async fn answers_again(&self) {
        self.hosts.answer_again().await;
    }
}

/// What is made on the changes, if it is missing.
fn change_indexes() -> [IndexModel; 3] {
    [
        plain_index(doc! { "ts": 1 }),
        plain_index(doc! { "meta.pk": 1, "meta.db": 1, "meta.tbl": 1 }),
        IndexModel::builder()
            .keys(doc! { "meta.source": 1, "n": 1 })
            .options(IndexOptions::builder().unique(true).build())
            .build(),
    ]
}

/// What is made on staging, if it is missing.
fn staging_indexes() -> [IndexModel; 2] {
    [
        plain_index(doc! { "status": 1 }),
        IndexModel::builder()
            .keys(doc! { "createdAt": 1 })
            .options(
                IndexOptions::builder()
                    .expire_after(ARCHIVE_TTL)
                    // Never the only copy of an event: a pending batch does not expire.
                    .partial_filter_expression(doc! { "status": "archived" })
                    .build(),
            )
            .build(),
    ]
}

fn plain_index(keys: Document) -> IndexModel {
    IndexModel::builder().keys(keys).build()
}

/// Reads MONGO_URI. The driver's text quotes the URI, which holds the password, so of what it refuses only the name is told.
async fn parse_uri(uri: &str) -> Result<ClientOptions> {
    let error = match ClientOptions::parse(uri).await {
        Ok(options) => return Ok(options),
        Err(error) => error,
    };
    if let ErrorKind::DnsResolve { .. } = *error.kind {
        return Err(classify::classify("resolve MONGO_URI", &error));
    }
    let reason = match option_in_the_way(uri).await {
        Some(name) => format!("the driver does not take its option {name} as it stands"),
        None => "the driver does not accept it".to_owned(),
    };
    Err(Error::new(
        Kind::StoreSetting,
        format!(
            "MONGO_URI: {reason}; expected the form mongodb://USER:PASSWORD@HOST:27017/?replicaSet=rs0 with reserved characters \
             of the password percent-encoded"
        ),
    ))
}

/// The option without which the URI is accepted.
async fn option_in_the_way(uri: &str) -> Option<&str> {
    let (base, options) = uri.split_once('?')?;
    let options: Vec<&str> = options.split('&').collect();
    for (index, option) in options.iter().enumerate() {
        let mut rest = options.clone();
        rest.remove(index);
        let without = format!("{base}?{}", rest.join("&"));
        if ClientOptions::parse(without).await.is_ok() {
            return option.split('=').next();
        }
    }
    None
}

/// A client of a deployment that answers and can hold an audit trail; what else is there is said in the error.
async fn reach(mut options: ClientOptions) -> Result<(Client, Hosts)> {
    let hosts = Hosts::default();
    options.sdam_event_handler = Some(hosts.handler());
    // It opens the files that the URI names, and no connection yet.
    let client = Client::with_options(options.clone()).map_err(|error| {
        Error::new(
            Kind::StoreSetting,
            format!(
                "MONGO_URI, tlsCAFile or tlsCertificateKeyFile: {}",
                error.kind
            ),
        )
    })?;
    let checked = tokio::select! {
        biased;
        checked = check_deployment(&client) => checked,
        refused = hosts.refused() => Err(refused),
    };
    match checked {
        Ok(()) => Ok((client, hosts)),
        Err(error) if error.is_transient() => Err(standalone_behind(options)
            .await
            .unwrap_or_else(|| Error::new(error.kind(), format!("{error}{}", hosts.advice())))),
        Err(error) => Err(error),
    }
}

/// All writes: acknowledged by a majority, in its journals.
fn durable() -> WriteConcern {
    WriteConcern::builder()
        .w(Acknowledgment::Majority)
        .journal(true)
        .build()
}

/// Transactions need a replica set or a mongos.
async fn check_deployment(client: &Client) -> Result<()> {
    let hello = settle(
        "say hello",
        client.database("admin").run_command(doc! { "hello": 1 }),
    )
    .await?;
    if hello.contains_key("setName") || hello.get_str("msg").is_ok_and(|msg| msg == "isdbgrid") {
        Ok(())
    } else {
        Err(not_a_replica_set())
    }
}

fn not_a_replica_set() -> Error {
    Error::new(
        Kind::StoreSetting,
        "mongodb: found a standalone server, expected a replica set (one member is enough), because events and offset are \
         committed in one transaction; set replication.replSetName in mongod.conf, restart it, run rs.initiate() in mongosh, \
         and name the set in MONGO_URI (?replicaSet=NAME)",
    )
}

/// When no server could be selected although one may well be there: a URI with `replicaSet=` never selects a standalone
/// server, and would wait for ever. Asks the first host directly.
async fn standalone_behind(mut options: ClientOptions) -> Option<Error> {
    options.repl_set_name.as_ref()?;
    options.repl_set_name = None;
    options.sdam_event_handler = None;
    options.cmap_event_handler = None;
    options.direct_connection = Some(true);
    options.hosts.truncate(1);
    let client = Client::with_options(options).ok()?;
    let error = check_deployment(&client).await.err();
    client.shutdown().immediate(true).await;
    error.filter(|error| error.kind() == Kind::StoreSetting)
}

fn is_code(error: &mongodb::error::Error, code: i32) -> bool {
    matches!(&*error.kind, ErrorKind::Command(command) if command.code == code)
}

/// Runs one call of the driver under [`OPERATION_TIMEOUT`], leaving the driver's error to the caller.
async fn bounded<T>(
    doing: &str,
    call: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<mongodb::error::Result<T>> {
    tokio::time::timeout(OPERATION_TIMEOUT, call.into_future())
        .await
        .map_err(|_| {
            Error::new(
                Kind::StoreUnavailable,
                format!(
                    "mongodb: {doing}: no answer within {} s",
                    OPERATION_TIMEOUT.as_secs()
                ),
            )
        })
}

/// Runs one call of the driver under [`OPERATION_TIMEOUT`] and classifies its error.
async fn settle<T>(
    doing: &str,
    call: impl IntoFuture<Output = mongodb::error::Result<T>>,
) -> Result<T> {
    bounded(doing, call)
        .await?
        .map_err(|error| classify::classify(doing, &error))
}
