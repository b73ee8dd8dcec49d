//! A recording of one or a few databases, and its documents as lines that a test can show whole.
//!
//! A transaction begins with `--`; then each document has a line:
//!
//! ```text
//! STMT.ROW OPERATION TABLE KEY IMAGES | STATEMENT
//! ```
//!
//! `IMAGES` is `+ {…}` for an insert, `- {…}` for a delete, `{…} → {…} (changed columns)` for an update. `KEY` is left out
//! where `meta.pk` is absent, and `| STATEMENT` where `meta.query` is. Other fields of `meta` that depend on the change
//! (xid, user, partial …) stand as `name=value`. What every document has (ids, file, position, types) is the business of
//! tests/recording/documents.rs.

use std::fmt::Write as _;

use mongodb::Database;
use mongodb::bson::{Bson, Document, doc};
use mysql_async::Conn;
use tokio::sync::OnceCell;

use crate::common::audit::{run, shared_mysqld};
use crate::common::{
    CATCH_UP, Daemon, Flavor, Mongod, Mysqld, Settings, caught_up, fold, mongo, values,
};

/// Tests that run on MySQL and on MariaDB: `body: "database"`.
macro_rules! on_both_flavors {
    ($($body:ident: $schema:literal),* $(,)?) => {
        $crate::recorded::notation::on_flavor! { on_mysql, Mysql, $($body: $schema),* }
        $crate::recorded::notation::on_flavor! { on_mariadb, Mariadb10, $($body: $schema),* }
    };
}
pub(crate) use on_both_flavors;

/// Tests that run on one flavor, in a module of that name.
macro_rules! on_flavor {
    ($module:ident, $flavor:ident, $($body:ident: $schema:literal),* $(,)?) => {
        mod $module {
            $(#[tokio::test]
            async fn $body() {
                use crate::{common::Flavor, recorded::notation::Recorded};
                super::$body(Recorded::of(Flavor::$flavor, $schema).await).await;
            })*
        }
    };
}
pub(crate) use on_flavor;

/// A server of a test's own, or the one that the tests share.
pub(crate) enum Server {
    Shared(&'static Mysqld),
    Own(Mysqld),
}

impl Server {
    /// The one of its flavor that the tests share; each writes databases of its own.
    pub(crate) async fn shared(flavor: Flavor) -> Self {
        static MARIADB_10: OnceCell<Mysqld> = OnceCell::const_new();
        static MARIADB_11: OnceCell<Mysqld> = OnceCell::const_new();
        let mariadb = match flavor {
            Flavor::Mysql => return Self::Shared(shared_mysqld().await),
            Flavor::Mariadb10 => &MARIADB_10,
            Flavor::Mariadb11 => &MARIADB_11,
        };
        Self::Shared(mariadb.get_or_init(|| Mysqld::start_as(flavor, &[])).await)
    }
}

impl std::ops::Deref for Server {
    type Target = Mysqld;

    fn deref(&self) -> &Mysqld {
        match self {
            Self::Shared(server) => server,
            Self::Own(server) => server,
        }
    }
}

/// A daemon that records the database `schema`, and those whose names begin with `schema__`, from now on.
pub(crate) struct Recorded {
    pub(crate) session: Conn,
    pub(crate) daemon: Daemon,
    pub(crate) target: Database,
    pub(crate) settings: Settings,
    pub(crate) schema: &'static str,
    pub(crate) mongod: &'static Mongod,
    // Last: the daemon goes first.
    pub(crate) server: Server,
}

impl Recorded {
    /// On the server that the tests share.
    pub(crate) async fn of(flavor: Flavor, schema: &'static str) -> Self {
        Self::on(Server::shared(flavor).await, schema).await
    }

    /// On a server of its own, started with `options`.
    pub(crate) async fn with(flavor: Flavor, options: &[&str], schema: &'static str) -> Self {
        let server = Mysqld::start_as(flavor, options).await;
        Self::on(Server::Own(server), schema).await
    }

    async fn on(server: Server, schema: &'static str) -> Self {
        Self::including(server, schema, &format!(r"^{schema}(__.*)?\.")).await
    }

    /// With filters of its own.
    pub(crate) async fn including(server: Server, schema: &'static str, include: &str) -> Self {
        let mongod = Mongod::shared().await;
        server.exec(format!("CREATE DATABASE {schema}")).await;
        let settings = Settings::new(&server, mongod)
            .set("START_FROM", "current")
            .set("INCLUDE_REGEX", include);
        let daemon = Daemon::start(&settings);
        daemon
            .wait_for_log("Starting from current position", CATCH_UP)
            .await;
        let mut session = server.root().await;
        run(
            &mut session,
            &["SET NAMES utf8mb4", &format!("USE {schema}")],
        )
        .await;
        Self {
            session,
            daemon,
            target: mongod.database(settings.database()).await,
            settings,
            schema,
            mongod,
            server,
        }
    }

    /// Runs statements one by one in the recording's session.
    pub(crate) async fn run(&mut self, statements: &[&str]) {
        run(&mut self.session, statements).await;
    }

    /// Everything recorded of the databases once all that was executed is.
    pub(crate) async fn documents(&self) -> Vec<Document> {
        caught_up(&self.server, self.mongod, self.settings.database()).await;
        assert!(self.daemon.is_running());
        let of_this_test = doc! { "meta.db": { "$regex": format!("^{}(__|$)", self.schema) } };
        mongo::find(
            &self.target.collection(mongo::CHANGES),
            of_this_test,
            doc! { "n": 1 },
        )
        .await
    }

    /// Where the flavors differ, what is right for this one.
    pub(crate) fn pick<T>(&self, mysql: T, mariadb: T) -> T {
        if self.server.flavor().is_mariadb() {
            mariadb
        } else {
            mysql
        }
    }

    /// Compares the documents that came since `from` with lines of the notation, blank space around them left out. MariaDB
    /// does not send the texts of statements whose rows it logs: there, what is expected is the same without them.
    pub(crate) async fn expect_from(&self, from: usize, expected: &str) {
        let documents = self.documents().await;
        let found = lines(&documents[from.min(documents.len())..], self.schema);
        let is_row = |line: &str| {
            [" insert ", " update ", " delete "]
                .iter()
                .any(|op| line.contains(op))
        };
        let expected: Vec<&str> = expected
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .map(|line| match line.split_once(" | ") {
                Some((row, _)) if is_row(row) => self.pick(line, row),
                _ => line,
            })
            .collect();
        assert!(
            found == expected,
            "what is recorded:\n{}\n\nbut expected was:\n{}\n",
            found.join("\n"),
            expected.join("\n")
        );
    }

    /// How many documents there are: where a test begins to look.
    pub(crate) async fn mark(&self) -> usize {
        self.documents().await.len()
    }

    /// Runs the preparations, whose documents are not looked at, then the statements, and compares what these left.
    pub(crate) async fn records(
        &mut self,
        preparations: &[&str],
        statements: &[&str],
        expected: &str,
    ) {
        self.run(preparations).await;
        let from = self.mark().await;
        self.run(statements).await;
        self.expect_from(from, expected).await;
    }

    /// The documents of these tables, one after the other, make the rows that are there now.
    pub(crate) async fn assert_exact(&mut self, tables: &[&str]) {
        let documents = self.documents().await;
        for table in tables {
            let mut folded = fold::Table::default();
            for document in &documents {
                let meta = document.get_document("meta").unwrap();
                let is_row = document.get_str("op").unwrap() != "ddl";
                if !is_row || meta.get_str("tbl").unwrap() != *table {
                    continue;
                }
                if let Ok(before) = document.get_document("before") {
                    assert!(folded.remove(before), "no such row: {document}");
                }
                if let Ok(after) = document.get_document("after") {
                    folded.insert(after);
                }
            }
            let mut there = fold::Table::default();
            for row in values::select(&mut self.session, &format!("SELECT * FROM {table}")).await {
                there.insert(&row);
            }
            let differences = folded.differences(&there);
            assert!(differences.is_empty(), "{table}: {differences:#?}");
        }
    }
}

/// Fields of `meta` that are not shown, or that have a place of their own in a line.
const PLACED: [&str; 14] = [
    "source",
    "db",
    "tbl",
    "pk",
    "gtid",
    "row",
    "stmt",
    "file",
    "pos",
    "server_id",
    "thread_id",
    "schema",
    "query",
    "user",
];

/// The documents as lines.
pub(crate) fn lines(documents: &[Document], schema: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut transaction = None;
    for document in documents {
        let meta = document.get_document("meta").unwrap();
        let gtid = meta.get_str("gtid").unwrap();
        if transaction != Some(gtid) {
            lines.push("--".to_owned());
            transaction = Some(gtid);
        }
        lines.push(line(document, meta, schema));
    }
    lines
}

fn line(document: &Document, meta: &Document, schema: &str) -> String {
    let (statement, row) = (meta.get_i64("stmt").unwrap(), meta.get_i64("row").unwrap());
    let mut line = format!("{statement}.{row} {}", document.get_str("op").unwrap());
    let (database, table) = (meta.get_str("db").unwrap(), meta.get_str("tbl").unwrap());
    if database != schema {
        write!(line, " {database}.{table}").unwrap();
    } else if !table.is_empty() {
        write!(line, " {table}").unwrap();
    }
    if let Some(key) = meta.get("pk") {
        write!(line, " {}", value(key)).unwrap();
    }
    let image = |name| document.get(name).map(value);
    match (image("before"), image("after")) {
        (None, Some(after)) => write!(line, " + {after}"),
        (Some(before), None) => write!(line, " - {before}"),
        (Some(before), Some(after)) => write!(line, " {before} → {after}"),
        (None, None) => Ok(()),
    }
    .unwrap();
    if let Ok(changed) = document.get_array("changed") {
        let names: Vec<&str> = changed.iter().map(|name| name.as_str().unwrap()).collect();
        write!(line, " ({})", names.join(", ")).unwrap();
    }
    for (name, found) in meta {
        if !PLACED.contains(&name.as_str()) {
            write!(line, " {name}={}", value(found)).unwrap();
        }
    }
    if let Ok(query) = meta.get_str("query") {
        let words: Vec<&str> = query.split_whitespace().collect();
        write!(line, " | {}", words.join(" ")).unwrap();
    }
    line
}

/// A value on one line: as SQL has it where SQL has it.
pub(crate) fn value(value: &Bson) -> String {
    let list = |items: Vec<String>| items.join(", ");
    match value {
        Bson::Null => "null".to_owned(),
        Bson::String(text) => format!("'{text}'"),
        Bson::Int32(number) => number.to_string(),
        Bson::Int64(number) => number.to_string(),
        Bson::Double(number) => format!("{number:?}"),
        Bson::Boolean(truth) => truth.to_string(),
        Bson::Decimal128(number) => number.to_string(),
        Bson::Binary(binary) => {
            let digits: String = binary
                .bytes
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect();
            format!("x'{digits}'")
        }
        Bson::Array(items) => format!("[{}]", list(items.iter().map(self::value).collect())),
        Bson::Document(members) => format!(
            "{{{}}}",
            list(
                members
                    .iter()
                    .map(|(name, member)| format!("{name}: {}", self::value(member)))
                    .collect()
            )
        ),
        other => format!("{other:?}"),
    }
}
