//! Schema changes between and inside batches: no value ever stands under a wrong name.
//!
//! Every text carries the table and column that it was written to and the state of the schema at that time
//! (`t.beta@3: …`), and the test keeps its own book of which column is which through every rename. So a shift by one column
//! is seen in any row, and so is a name from before or after its time. The same history is read four ways: as it happens
//! and after a stop in the middle of it, with batches of the default size (many changes inside a batch) and of two or
//! three (every change between batches).
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::fold::Tables;
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, on_every_server,
    values,
};
use mongodb::bson::{Bson, Document, doc};
use mysql_async::Conn;
use mysql_async::prelude::Queryable;

on_every_server! {
    no_value_ever_stands_under_a_wrong_name,
    columns_come_and_go_under_writers_and_kills_and_every_row_is_read_as_it_was,
}

const SOON: Duration = Duration::from_secs(30);

/// What a schema change does to the rows that are there, for the fold.
type Effect = fn(&mut Tables);

/// One schema change.
struct Step {
    sql: &'static str,
    /// Columns that get a new name: table (its name afterwards), new name, old name.
    renames: &'static [(&'static str, &'static str, &'static str)],
    /// Tables that get a new name: new, old.
    moves: &'static [(&'static str, &'static str)],
    effect: Effect,
}

const fn step(sql: &'static str, effect: Effect) -> Step {
    Step {
        sql,
        renames: &[],
        moves: &[],
        effect,
    }
}

fn alter(tables: &mut Tables, table: &str, change: impl Fn(&mut Document)) {
    tables
        .entry(format!("s.{table}"))
        .or_default()
        .alter(change);
}

fn rename(row: &mut Document, old: &str, new: &str) {
    let value = row.remove(old).unwrap();
    row.insert(new, value);
}

const STEPS: &[Step] = &[
    step(
        "CREATE TABLE s.t (id INT, alpha VARCHAR(60), beta VARCHAR(60), gamma VARCHAR(60), PRIMARY KEY (id)) CHARACTER SET utf8mb4",
        |_| (),
    ),
    step(
        "ALTER TABLE s.t ADD COLUMN first VARCHAR(60) FIRST",
        |tables| {
            alter(tables, "t", |row| drop(row.insert("first", Bson::Null)));
        },
    ),
    step(
        "ALTER TABLE s.t ADD COLUMN middle VARCHAR(60) DEFAULT 't.middle@2:' AFTER alpha",
        |tables| {
            alter(tables, "t", |row| drop(row.insert("middle", "t.middle@2:")));
        },
    ),
    step("ALTER TABLE s.t DROP COLUMN beta", |tables| {
        alter(tables, "t", |row| drop(row.remove("beta")))
    }),
    Step {
        renames: &[("t", "delta", "gamma")],
        ..step("ALTER TABLE s.t RENAME COLUMN gamma TO delta", |tables| {
            alter(tables, "t", |row| rename(row, "gamma", "delta"))
        })
    },
    step(
        "ALTER TABLE s.t MODIFY first VARCHAR(60) AFTER delta",
        |_| (),
    ),
    step(
        "ALTER TABLE s.t MODIFY alpha TEXT CHARACTER SET latin1",
        |_| (),
    ),
    Step {
        renames: &[("t", "middle", "alpha"), ("t", "alpha", "middle")],
        ..step(
            "ALTER TABLE s.t RENAME COLUMN alpha TO middle, RENAME COLUMN middle TO alpha",
            |tables| {
                alter(tables, "t", |row| {
                    rename(row, "alpha", "passing");
                    rename(row, "middle", "alpha");
                    rename(row, "passing", "middle");
                });
            },
        )
    },
    step("ALTER TABLE s.t DROP PRIMARY KEY", |_| ()),
    step(
        "ALTER TABLE s.t ADD COLUMN num INT NOT NULL DEFAULT 5 FIRST",
        |tables| {
            alter(tables, "t", |row| drop(row.insert("num", 5)));
        },
    ),
    step("ALTER TABLE s.t ADD PRIMARY KEY (num, id)", |_| ()),
    step(
        "ALTER TABLE s.t MODIFY id BIGINT UNSIGNED NOT NULL FIRST",
        |_| (),
    ),
    step(
        "ALTER TABLE s.t MODIFY num VARCHAR(20) NOT NULL DEFAULT 'x'",
        |tables| {
            alter(tables, "t", |row| drop(row.insert("num", "5")));
        },
    ),
    step("ALTER TABLE s.t CONVERT TO CHARACTER SET utf16", |_| ()),
    Step {
        moves: &[("moved", "t")],
        ..step("RENAME TABLE s.t TO s.moved", |_| ())
    },
    step(
        "CREATE TABLE s.t (beta VARCHAR(60), id INT, alpha VARCHAR(60)) CHARACTER SET utf8mb4",
        |_| (),
    ),
    step("DROP TABLE s.t", |_| ()),
    step(
        "CREATE TABLE s.t (delta VARCHAR(60), alpha VARCHAR(60) CHARACTER SET utf8mb3, id INT PRIMARY KEY, beta VARCHAR(60)) CHARACTER SET utf8mb4",
        |_| (),
    ),
    Step {
        moves: &[("t", "moved"), ("moved", "t")],
        ..step(
            "RENAME TABLE s.t TO s.x, s.moved TO s.t, s.x TO s.moved",
            |_| (),
        )
    },
    step("TRUNCATE TABLE s.moved", |_| ()),
    step(
        "ALTER TABLE s.moved DROP COLUMN alpha, ADD COLUMN alpha VARCHAR(60) FIRST, DROP COLUMN delta",
        |tables| {
            alter(tables, "moved", |row| {
                row.insert("alpha", Bson::Null);
                row.remove("delta");
            });
        },
    ),
];

/// A column as it was at one time.
#[derive(Clone, Debug, PartialEq)]
struct Column {
    name: String,
    /// Which column it is, through all renames.
    identity: usize,
    kind: String,
    charset: Option<String>,
    unsigned: bool,
}

/// A table as it was at one time.
#[derive(Clone, Debug, Default, PartialEq)]
struct Layout {
    columns: Vec<Column>,
    key: Vec<String>,
}

impl Layout {
    fn identity(&self, name: &str) -> Option<usize> {
        self.columns
            .iter()
            .find(|column| column.name == name)
            .map(|column| column.identity)
    }
}

/// All tables, by name, at one time.
type State = BTreeMap<String, Layout>;

/// The tables as the server describes them, with each column's identity taken over from the state before.
async fn state_after(
    session: &mut Conn,
    step: &Step,
    before: &State,
    next_identity: &mut usize,
) -> State {
    let columns: Vec<(String, String, String, Option<String>)> = session
        .query(
            "SELECT table_name, column_name, column_type, character_set_name FROM information_schema.columns
             WHERE table_schema = 's' ORDER BY table_name, ordinal_position",
        )
        .await
        .unwrap();
    let keys: Vec<(String, String)> = session
        .query(
            "SELECT table_name, column_name FROM information_schema.key_column_usage
             WHERE table_schema = 's' AND constraint_name = 'PRIMARY' ORDER BY table_name, ordinal_position",
        )
        .await
        .unwrap();
    let created = step.sql.starts_with("CREATE");
    let mut state = State::new();
    for (table, name, kind, charset) in columns {
        let old_table = step
            .moves
            .iter()
            .find(|(new, _)| *new == table)
            .map_or(table.as_str(), |(_, old)| old);
        let old_name = step
            .renames
            .iter()
            .find(|(of, new, _)| *of == table && *new == name)
            .map_or(name.as_str(), |(.., old)| old);
        // "DROP COLUMN alpha, ADD COLUMN alpha" is another column of the same name.
        let is_new = (step.sql.starts_with(&format!("ALTER TABLE s.{table} "))
            && step.sql.contains(&format!("DROP COLUMN {name},")))
            || (created && !before.contains_key(&table));
        let identity = before
            .get(old_table)
            .filter(|_| !is_new)
            .and_then(|layout| layout.identity(old_name))
            .unwrap_or_else(|| {
                *next_identity += 1;
                *next_identity
            });
        let column = Column {
            unsigned: kind.contains("unsigned"),
            kind: without_width(&kind.replace(" unsigned", "")),
            name,
            identity,
            charset,
        };
        state.entry(table).or_default().columns.push(column);
    }
    for (table, column) in keys {
        state.get_mut(&table).unwrap().key.push(column);
    }
    state
}

/// MariaDB still gives integers a width, as in int(11), which is no property of the column.
fn without_width(kind: &str) -> String {
    match kind.split_once("int(") {
        Some((size, _)) => format!("{size}int"),
        None => kind.to_owned(),
    }
}

/// Changes every column of every table, by statements of several rows, and says in each text where it belongs.
async fn work(session: &mut Conn, epoch: usize, state: &State) {
    for (table, layout) in state {
        let texts: Vec<&str> = layout
            .columns
            .iter()
            .filter(|column| column.charset.is_some() && column.name != "num")
            .map(|column| column.name.as_str())
            .collect();
        let names: Vec<String> = texts.iter().map(|name| format!("`{name}`")).collect();
        let rows: Vec<String> = (0..7)
            .map(|row| {
                let values: Vec<String> = texts
                    .iter()
                    .map(|name| format!("'{table}.{name}@{epoch}: ä {row}'"))
                    .collect();
                format!("({}, {})", 100 * epoch + row, values.join(", "))
            })
            .collect();
        let sets: Vec<String> = texts
            .iter()
            .map(|name| format!("`{name}` = CONCAT('{table}.{name}@{epoch}: ü ', id)"))
            .collect();
        for statement in [
            format!(
                "INSERT INTO s.{table} (id, {}) VALUES {}",
                names.join(", "),
                rows.join(", ")
            ),
            // Rows of other times get some columns of this time, so that images are mixed.
            format!("UPDATE s.{table} SET {} WHERE id % 3 = 0", sets[0]),
            format!("UPDATE s.{table} SET {} WHERE id % 5 = 1", sets.join(", ")),
            format!(
                "DELETE FROM s.{table} WHERE id % 7 = 4 AND id >= 100 * {}",
                epoch.saturating_sub(2)
            ),
        ] {
            session
                .query_drop(&statement)
                .await
                .unwrap_or_else(|error| panic!("{error}\nin: {statement}"));
        }
    }
}

async fn no_value_ever_stands_under_a_wrong_name(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::start());
    mysqld.exec("CREATE DATABASE s").await;
    let readings = [
        ("as it happens", 1000, false),
        ("two at a time", 2, false),
        ("with a stop", 1000, true),
        ("a stop, three at a time", 3, true),
    ];
    let mut daemons: Vec<(Settings, bool, Option<Daemon>)> = readings
        .iter()
        .map(|(name, size, stops)| {
            let settings = Settings::new(&mysqld, &mongod)
                .set("SOURCE_ID", name)
                .set("BATCH_SIZE", size);
            let daemon = Daemon::start(&settings);
            (settings, *stops, Some(daemon))
        })
        .collect();
    let mut session = mysqld.root().await;
    let mut states: Vec<State> = Vec::new();
    let mut next_identity = 0;
    let nothing = State::new();
    for (epoch, step) in STEPS.iter().enumerate() {
        if epoch == 3 {
            for (settings, stops, daemon) in &mut daemons {
                if *stops {
                    caught_up(&mysqld, &mongod, settings.database()).await;
                    let daemon = daemon.take().unwrap();
                    daemon.signal(Signal::TERM);
                    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
                }
            }
        }
        session
            .query_drop(step.sql)
            .await
            .unwrap_or_else(|error| panic!("{error}\nin: {}", step.sql));
        let state = state_after(
            &mut session,
            step,
            states.last().unwrap_or(&nothing),
            &mut next_identity,
        )
        .await;
        work(&mut session, epoch, &state).await;
        states.push(state);
    }
    for (settings, _, daemon) in &mut daemons {
        let daemon = daemon.get_or_insert_with(|| Daemon::start(settings));
        caught_up(&mysqld, &mongod, settings.database()).await;
        assert!(daemon.has_logged("Schema changed"));
    }

    let effect = |tables: &mut Tables, change: &Document| {
        let query = change
            .get_document("meta")
            .unwrap()
            .get_str("query")
            .unwrap();
        if let Some(step) = STEPS.iter().find(|step| query.starts_with(step.sql)) {
            (step.effect)(tables);
        }
    };
    for (settings, ..) in &daemons {
        let database = mongod.database(settings.database()).await;
        let changes = mongo::changes(&database).await;
        let schemas: BTreeMap<String, Document> =
            mongo::find(&database.collection(mongo::SCHEMAS), doc! {}, doc! {})
                .await
                .into_iter()
                .map(|schema| (schema.get_str("_id").unwrap().to_owned(), schema))
                .collect();
        let looked_at = check_names(&changes, &states, &schemas);
        assert!(looked_at > 1_500, "{looked_at} texts were compared");
        fold::assert_exact_with(
            &mysqld,
            &mongod,
            settings.database(),
            &["s.t", "s.moved"],
            &effect,
        )
        .await;
    }
}

/// Compares every document with the book; returns how many texts were compared.
fn check_names(
    changes: &[Document],
    states: &[State],
    schemas: &BTreeMap<String, Document>,
) -> usize {
    let mut epoch = None;
    let mut looked_at = 0;
    let mut versions: BTreeMap<String, &Layout> = BTreeMap::new();
    for change in changes {
        let meta = change.get_document("meta").unwrap();
        if change.get_str("op").unwrap() == "ddl" {
            let query = meta.get_str("query").unwrap();
            let next = epoch.map_or(0, |epoch| epoch + 1);
            // CREATE DATABASE comes before them all; a DROP TABLE is written in the server's own words.
            let expected = STEPS.get(next).map(|step| step.sql);
            if expected.is_some_and(|sql| {
                query.starts_with(sql) || (sql.starts_with("DROP") && query.starts_with("DROP"))
            }) {
                epoch = Some(next);
            } else {
                assert!(
                    query.starts_with("CREATE DATABASE"),
                    "{query} in place of {expected:?}"
                );
            }
            continue;
        }
        let table = meta.get_str("tbl").unwrap();
        let layout = &states[epoch.expect("a row after its table was made")][table];
        let names: Vec<&str> = layout
            .columns
            .iter()
            .map(|column| column.name.as_str())
            .collect();
        for image in ["before", "after"] {
            let Ok(image) = change.get_document(image) else {
                continue;
            };
            assert_eq!(image.keys().collect::<Vec<_>>(), names, "{change}");
            for (name, value) in image {
                let Bson::String(text) = value else { continue };
                if name == "num" {
                    continue; // no text of the test's
                }
                let (place, _) = text
                    .split_once(':')
                    .unwrap_or_else(|| panic!("{name} holds {text}"));
                let (column, written) = place.split_once('@').unwrap();
                let (of_table, column) = column.split_once('.').unwrap();
                let written: usize = written.parse().unwrap();
                let identity = states[written][of_table].identity(column);
                assert_eq!(
                    identity,
                    layout.identity(name),
                    "{text} stands under {table}.{name}: {change}"
                );
                assert!(identity.is_some());
                looked_at += 1;
            }
        }
        check_key(change, meta, layout);
        // The schema version says the same as the server did at that time, and the same layout has the same version.
        let id = meta.get_str("schema").unwrap();
        let schema = schemas
            .get(id)
            .unwrap_or_else(|| panic!("the schema version {id} is not there: {change}"));
        check_schema(schema, layout);
        let first = versions.entry(id.to_owned()).or_insert(layout);
        assert_eq!(
            described(first),
            described(layout),
            "two layouts share the version {id}"
        );
    }
    assert_eq!(
        epoch,
        Some(states.len() - 1),
        "all schema changes are there, each in its place"
    );
    let distinct: BTreeSet<String> = states
        .iter()
        .flat_map(BTreeMap::values)
        .map(|layout| format!("{:?}", described(layout)))
        .collect();
    assert_eq!(
        versions.len(),
        distinct.len(),
        "as many versions as layouts"
    );
    looked_at
}

/// A layout without which column is which.
fn described(layout: &Layout) -> (Vec<Document>, Vec<String>) {
    let columns = layout.columns.iter().map(|column| {
        let mut document = doc! { "name": &column.name, "type": &column.kind };
        if column.unsigned {
            document.insert("unsigned", true);
        }
        if let Some(charset) = &column.charset {
            document.insert("charset", charset);
        }
        document
    });
    (columns.collect(), layout.key.clone())
}

fn check_schema(schema: &Document, layout: &Layout) {
    let (columns, key) = described(layout);
    assert_eq!(
        schema.get_array("columns").unwrap(),
        &columns.into_iter().map(Bson::Document).collect::<Vec<_>>()
    );
    assert_eq!(
        schema.get_array("key").unwrap(),
        &key.into_iter().map(Bson::String).collect::<Vec<_>>()
    );
}

fn check_key(change: &Document, meta: &Document, layout: &Layout) {
    let image = change
        .get_document("before")
        .or_else(|_| change.get_document("after"))
        .unwrap();
    let value = |name: &String| image.get(name).unwrap().clone();
    let expected = match &layout.key[..] {
        [] => None,
        [column] => Some(value(column)),
        several => Some(Bson::Document(
            several
                .iter()
                .map(|name| (name.clone(), value(name)))
                .collect(),
        )),
    };
    assert_eq!(meta.get("pk"), expected.as_ref(), "{change}");
}

async fn columns_come_and_go_under_writers_and_kills_and_every_row_is_read_as_it_was(
    flavor: Flavor,
) {
    const WRITERS: usize = 2;
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &[]), Mongod::start());
    let mysqld = Arc::new(mysqld);
    mysqld.exec("CREATE DATABASE s; CREATE TABLE s.t (id INT AUTO_INCREMENT PRIMARY KEY, a VARCHAR(40), b VARCHAR(40))").await;
    let settings = Settings::new(&mysqld, &mongod);
    let mut daemon = Daemon::start(&settings);
    let done = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (mysqld, done) = (Arc::clone(&mysqld), Arc::clone(&done));
            tokio::spawn(async move {
                let mut session = mysqld.root().await;
                session.query_drop("USE s").await.unwrap();
                for round in 0.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let statement = match round % 3 {
                        0 => format!("INSERT INTO t (a, b) VALUES ('a:{writer}', 'b:1'), ('a:{round}', 'b:2'), (NULL, 'b:3')"),
                        1 => "UPDATE t SET b = CONCAT('b:', id) ORDER BY id DESC LIMIT 2".to_owned(),
                        _ => "DELETE FROM t ORDER BY id LIMIT 1".to_owned(),
                    };
                    // A deadlock or a lock that a schema change holds is the writers' everyday life.
                    let _ = session.query_drop(statement).await;
                }
            })
        })
        .collect();
    let mut session = mysqld.root().await;
    for round in 0..24 {
        for change in [
            "ADD COLUMN x VARCHAR(40) DEFAULT 'x:default' FIRST",
            "MODIFY b VARCHAR(40) FIRST",
            "DROP COLUMN x",
            "MODIFY b VARCHAR(40) AFTER a",
        ] {
            session
                .query_drop(format!("ALTER TABLE s.t {change}"))
                .await
                .unwrap();
        }
        if round % 8 == 3 {
            daemon.kill9();
            daemon = Daemon::start(&settings);
        }
    }
    done.store(true, Ordering::Relaxed);
    for writer in writers {
        writer.await.unwrap();
    }
    caught_up(&mysqld, &mongod, settings.database()).await;
    let database = mongod.database(settings.database()).await;
    let changes = mongo::changes(&database).await;
    let mut rows = 0;
    for change in &changes {
        for image in ["before", "after"] {
            let Ok(image) = change.get_document(image) else {
                continue;
            };
            rows += 1;
            for (name, value) in image {
                let right = match value {
                    Bson::Null => name == "a",
                    Bson::String(text) => text.starts_with(&format!("{name}:")),
                    Bson::Int32(_) => name == "id",
                    _ => false,
                };
                assert!(
                    right,
                    "{} stands under {name}: {change}",
                    values::canonical(value)
                );
            }
        }
    }
    let altered = changes
        .iter()
        .filter(|change| change.get_str("op").unwrap() == "ddl")
        .count();
    assert_eq!(altered, 2 + 24 * 4);
    assert!(rows > 500, "{rows} images");
    let effect = |tables: &mut Tables, change: &Document| {
        let query = change
            .get_document("meta")
            .unwrap()
            .get_str("query")
            .unwrap();
        if query.contains("ADD COLUMN x") {
            alter(tables, "t", |row| drop(row.insert("x", "x:default")));
        } else if query.contains("DROP COLUMN x") {
            alter(tables, "t", |row| drop(row.remove("x")));
        }
    };
    fold::assert_exact_with(&mysqld, &mongod, settings.database(), &["s.t"], &effect).await;
}
