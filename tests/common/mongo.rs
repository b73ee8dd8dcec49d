//! A throwaway MongoDB replica set of one member, and the collections that sdl writes.

use std::fs;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection, Database};
use tokio::sync::OnceCell;

use super::POLL;
use super::servers::{self, Process, Scratch, binaries, free_port};

// The default names; they are settings.
pub const CHANGES: &str = "row_changes";
pub const SCHEMAS: &str = "row_changes_schemas";
pub const VALUES: &str = "row_changes_values";
pub const STAGING: &str = "row_changes_staging";
pub const OFFSETS: &str = "binlog_offsets";

/// The option for the size of a server's cache, in GiB. Without it a server has 0.5: there are several beside each other on a small
/// machine.
pub const CACHE: &str = "--wiredTigerCacheSizeGB";

/// Where a daemon can write: one server, or a replica set of several.
pub trait Deployment: Sync {
    /// As `MONGO_URI` takes it.
    fn uri(&self) -> String;
}

impl Deployment for Mongod {
    fn uri(&self) -> String {
        self.uri()
    }
}

impl<D: Deployment> Deployment for &D {
    fn uri(&self) -> String {
        (**self).uri()
    }
}

impl<D: Deployment + Send> Deployment for Arc<D> {
    fn uri(&self) -> String {
        (**self).uri()
    }
}

/// A new client. It belongs to the runtime of the test that makes it.
pub async fn connect(uri: &str) -> Client {
    let mut options = ClientOptions::parse(uri)
        .await
        .unwrap_or_else(|error| panic!("{uri} is refused: {error}"));
    // A test that waits for a server which is gone should say so while somebody is watching.
    options.server_selection_timeout = Some(Duration::from_secs(10));
    Client::with_options(options).expect("the options are the driver's own")
}

/// A MongoDB server on loopback, the only member of the replica set `rs0`. Dropping it kills it.
pub struct Mongod {
    // Before the directory: fields are dropped in order.
    process: Mutex<Option<Process>>,
    port: u16,
    options: Vec<String>,
    scratch: Scratch,
}

impl Mongod {
    /// Starts a server, makes it a replica set and waits until it is primary; takes about two seconds.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further options, for example `&["--setParameter", "enableTestCommands=1"]`, which allows
    /// `configureFailPoint`.
    pub async fn start_with(options: &[&str]) -> Self {
        let server = Self::start_standing(options, &["--replSet", "rs0"]).await;
        let member = doc! { "_id": 0, "host": server.addr() };
        server
            .admin(doc! { "replSetInitiate": { "_id": "rs0", "members": [member] } })
            .await;
        server.primary().await;
        server
    }

    /// Starts a server that is no replica set: sdl must refuse it.
    pub async fn start_standalone() -> Self {
        Self::start_standing(&[], &[]).await
    }

    /// One server for all tests of a process that do not hurt it: each daemon writes a database of its own.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Mongod> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    async fn start_standing(options: &[&str], mode: &[&str]) -> Self {
        let scratch = Scratch::new("mongod");
        fs::create_dir(scratch.path().join("data")).expect("a data directory in target/tmp");
        let options = options
            .iter()
            .chain(mode)
            .map(ToString::to_string)
            .collect();
        let server = Self {
            process: Mutex::new(None),
            port: free_port(),
            options,
            scratch,
        };
        server.launch().await;
        server
    }

    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As `MONGO_URI` takes it.
    pub fn uri(&self) -> String {
        if self.is_replica_set() {
            format!("mongodb://{}/?replicaSet=rs0", self.addr())
        } else {
            format!("mongodb://{}/", self.addr())
        }
    }

    /// A new client of this very server, whatever name the replica set has for it. It belongs to the runtime of the test that
    /// makes it.
    pub async fn client(&self) -> Client {
        self.direct().await
    }

    /// A database by name, on a new client.
    pub async fn database(&self, name: &str) -> Database {
        self.client().await.database(name)
    }

    /// All audit documents of a database, in the order of `n`.
    pub async fn changes(&self, database: &str) -> Vec<Document> {
        changes(&self.database(database).await).await
    }

    /// Runs an admin command on this very server, whatever its role.
    pub async fn admin(&self, command: Document) -> Document {
        let name = command.keys().next().cloned().unwrap_or_default();
        let client = self.direct().await;
        client
            .database("admin")
            .run_command(command)
            .await
            .unwrap_or_else(|error| panic!("MongoDB refused {name}: {error}"))
    }

    /// The server's own log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    // --- faults

    /// SIGKILL.
    pub fn kill(&self) {
        self.with_process(Process::kill);
    }

    /// A clean shutdown.
    pub async fn stop(&self) {
        let process = self
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .expect("mongod is running");
        process.stop().await;
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.with_process(Process::pause);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.with_process(Process::resume);
    }

    /// A clean shutdown and a start, on the same port and data directory.
    pub async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Starts the server again after [`kill`](Self::kill) or [`stop`](Self::stop) and waits until it is primary.
    pub async fn start_again(&self) {
        self.launch().await;
        if self.is_replica_set() {
            self.primary().await;
        }
    }

    async fn launch(&self) {
        self.kill();
        let mut command = servers::guarded(&binaries().mongod);
        command
            .arg("--dbpath")
            .arg(self.scratch.path().join("data"))
            .args([
                "--port",
                &self.port.to_string(),
                "--bind_ip",
                "127.0.0.1",
                "--nounixsocket",
            ])
            // The diagnostics would write 1 % of a core for nobody.
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .args(&self.options);
        if !self.options.iter().any(|option| option == CACHE) {
            command.args([CACHE, "0.5"]);
        }
        let process = Process::start("mongod", command, &self.log_path());
        let client = self.direct().await;
        let started = Instant::now();
        while let Err(error) = client
            .database("admin")
            .run_command(doc! { "ping": 1 })
            .await
        {
            process.assert_running();
            assert!(
                started.elapsed() < servers::START,
                "mongod does not answer: {error}\n{}",
                servers::tail(&self.log_path())
            );
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    /// Waits until the server takes writes.
    async fn primary(&self) {
        let client = self.direct().await;
        let started = Instant::now();
        loop {
            let hello = client
                .database("admin")
                .run_command(doc! { "hello": 1 })
                .await;
            if matches!(&hello, Ok(hello) if matches!(hello.get_bool("isWritablePrimary"), Ok(true)))
            {
                return;
            }
            assert!(
                started.elapsed() < servers::START,
                "mongod does not become primary: {hello:?}\n{}",
                servers::tail(&self.log_path())
            );
            tokio::time::sleep(POLL).await;
        }
    }

    async fn direct(&self) -> Client {
        connect(&format!("mongodb://{}/?directConnection=true", self.addr())).await
    }

    fn is_replica_set(&self) -> bool {
        self.options.iter().any(|option| option == "--replSet")
    }

    fn with_process(&self, act: impl FnOnce(&Process)) {
        if let Some(process) = self
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            act(process);
        }
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("mongod.log")
    }
}

/// All audit documents, in the order of `n`.
pub async fn changes(database: &Database) -> Vec<Document> {
    find(&database.collection(CHANGES), doc! {}, doc! { "n": 1 }).await
}

/// The offset document; `None` before the daemon has written it. There is one source in a test's database.
pub async fn offset(database: &Database) -> Option<Document> {
    database
        .collection(OFFSETS)
        .find_one(doc! {})
        .await
        .expect("the offset can be read")
}

/// The GTID set of the offset document.
pub async fn saved_gtid(database: &Database) -> Option<String> {
    let offset = offset(database).await?;
    Some(
        offset
            .get_str("gtid")
            .unwrap_or_else(|error| panic!("an offset without gtid ({error}): {offset}"))
            .to_owned(),
    )
}

/// How many batches are staged and not committed.
pub async fn pending(database: &Database) -> u64 {
    let staging: Collection<Document> = database.collection(STAGING);
    staging
        .count_documents(doc! { "status": "pending" })
        .await
        .expect("staging can be counted")
}

/// All documents that match, in order.
pub async fn find(
    collection: &Collection<Document>,
    filter: Document,
    sort: Document,
) -> Vec<Document> {
    let mut cursor = collection
        .find(filter)
        .sort(sort)
        .batch_size(10_000)
        .await
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", collection.name()));
    let mut documents = Vec::new();
    while cursor
        .advance()
        .await
        .unwrap_or_else(|error| panic!("cannot read {}: {error}", collection.name()))
    {
        // Not through serde, which takes a member `$numberLong` of a stored JSON value for extended JSON.
        documents.push(Document::try_from(cursor.current()).expect("a BSON document"));
    }
    documents
}
