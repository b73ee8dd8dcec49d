//! A daemon that records one MySQL database of a shared server: what a test needs that looks at documents, not at faults.

use mongodb::Database;
use mongodb::bson::{Document, doc};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;
use tokio::sync::OnceCell;

use super::{CATCH_UP, Daemon, Flavor, Mongod, Mysqld, Settings, caught_up, mongo};

/// The server that the tests of one file share; each writes a database of its own.
pub async fn shared_mysqld() -> &'static Mysqld {
    shared(Flavor::Mysql).await
}

async fn shared(flavor: Flavor) -> &'static Mysqld {
    static SHARED: [OnceCell<Mysqld>; 3] = [const { OnceCell::const_new() }; 3];
    SHARED[flavor as usize]
        .get_or_init(|| Mysqld::start_as(flavor, &[]))
        .await
}

/// A daemon that records one database from now on, and where it writes.
pub struct Audit {
    pub mysqld: &'static Mysqld,
    pub mongod: &'static Mongod,
    pub schema: &'static str,
    pub settings: Settings,
    pub daemon: Daemon,
    pub target: Database,
    pub session: Conn,
}

impl Audit {
    /// Makes the MySQL database `schema` and starts to record it.
    pub async fn of(schema: &'static str) -> Self {
        Self::on(Flavor::Mysql, schema).await
    }

    /// Makes the database `schema` on the shared server of a flavor and starts to record it.
    pub async fn on(flavor: Flavor, schema: &'static str) -> Self {
        let (mysqld, mongod) = tokio::join!(shared(flavor), Mongod::shared());
        mysqld.exec(format!("CREATE DATABASE {schema}")).await;
        let settings = Settings::new(mysqld, mongod)
            .set("START_FROM", "current")
            .set("INCLUDE_REGEX", format!(r"^{schema}\."));
        let daemon = Daemon::start(&settings);
        daemon
            .wait_for_log("Starting from current position", CATCH_UP)
            .await;
        let target = mongod.database(settings.database()).await;
        let session = session_in(mysqld, schema).await;
        Self {
            mysqld,
            mongod,
            schema,
            settings,
            daemon,
            target,
            session,
        }
    }

    /// A further session in the recorded database, in UTC.
    pub async fn session(&self) -> Conn {
        session_in(self.mysqld, self.schema).await
    }

    /// Runs statements in the audit's own session.
    pub async fn run(&mut self, statements: &[&str]) {
        run(&mut self.session, statements).await;
    }

    /// What is recorded of the database once everything executed is.
    pub async fn documents(&self) -> Vec<Document> {
        caught_up(self.mysqld, self.mongod, self.settings.database()).await;
        mongo::find(
            &self.target.collection(mongo::CHANGES),
            doc! { "meta.db": self.schema },
            doc! { "n": 1 },
        )
        .await
    }

    /// The same without schema changes.
    pub async fn rows(&self) -> Vec<Document> {
        let mut documents = self.documents().await;
        documents.retain(|document| document.get_str("op").expect("an op") != "ddl");
        documents
    }
}

async fn session_in(mysqld: &Mysqld, schema: &str) -> Conn {
    let mut session = mysqld.root().await;
    session
        .query_drop(format!("USE {schema}"))
        .await
        .expect("the database is there");
    session
}

/// Runs statements one by one, and says which one failed.
pub async fn run(session: &mut Conn, statements: &[&str]) {
    for statement in statements {
        session
            .query_drop(*statement)
            .await
            .unwrap_or_else(|error| panic!("{error}\nin: {statement}"));
    }
}
