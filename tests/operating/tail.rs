//! `sdl tail`: each change once and in order, as text that cannot harm a terminal and as JSON that is the document.

use std::time::Duration;

use mongodb::bson::{Bson, DateTime, Document, doc};
use mongodb::{Collection, Database};

use crate::common::audit;
use crate::common::command::{parsed, relaxed, sdl, shell};
use crate::common::{Daemon, Mongod, Mysqld, Settings, Signal, caught_up, mongo, wait_until};

const SOON: Duration = Duration::from_secs(30);

/// What nobody wants to reach their terminal.
const ESCAPES: &str = "\u{1b}]0;owned\u{7}\u{1b}[31mred\u{9b}2J\u{202e}";

/// One of everything.
async fn recorded() -> (Settings, Vec<Document>) {
    // A server of its own: a CREATE DATABASE of any other test would be recorded too.
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec("CREATE DATABASE tail_all").await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    let mut session = mysqld.root().await;
    let hostile = format!("INSERT INTO texts VALUES (1, '{ESCAPES}'), (2, 'Zoë 漢字 🦀')");
    let large = "x".repeat(100_000);
    audit::run(
        &mut session,
        &[
            "USE tail_all",
            "CREATE TABLE orders (id INT PRIMARY KEY, status VARCHAR(20), total DECIMAL(10,2), seen BIGINT, rate DOUBLE)",
            "INSERT INTO orders VALUES (17, 'new', 10.00, 9007199254740993, 0.1), (18, NULL, -1.50, 5, 2)",
            "UPDATE orders SET status = 'paid', total = 12.50 WHERE id = 17",
            "DELETE FROM orders WHERE id = 18",
            "CREATE TABLE items (order_id INT, item VARCHAR(9), data VARBINARY(200), extra JSON, PRIMARY KEY (order_id, item))",
            "INSERT INTO items VALUES (17, 'a', REPEAT(X'00FF', 60), '{\"$numberLong\": 5, \"a\": [1, null, true]}')",
            "CREATE TABLE keyless (v INT)",
            "INSERT INTO keyless VALUES (1)",
            "CREATE TABLE texts (id INT PRIMARY KEY, v MEDIUMTEXT)",
            &hostile,
            &format!("INSERT INTO texts VALUES (3, '{large}')"),
            "TRUNCATE TABLE orders",
        ],
    )
    .await;
    caught_up(&mysqld, mongod, settings.database()).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
    let documents = mongod.changes(settings.database()).await;
    assert_eq!(documents.len(), 4 + 9 + 1);
    (settings, documents)
}

const ALL: [&str; 4] = ["tail", "--no-follow", "-n", "1000"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn json_is_the_document_and_text_says_what_changed() {
    let (settings, documents) = recorded().await;
    let settings = settings.set("TZ", "Asia/Tokyo");

    let lines = sdl(&settings, &[&ALL[..], &["--json"]].concat()).await.ok();
    assert!(
        !lines
            .chars()
            .any(|character| character.is_control() && character != '\n')
    );
    let printed: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(printed.len(), documents.len());
    for (line, document) in lines.lines().zip(&documents) {
        // A stored JSON value with a member `$numberLong` is Extended JSON to whoever reads it so.
        if !line.contains("$numberLong") {
            assert_eq!(
                relaxed(parsed(line).into()),
                relaxed(document.clone().into())
            );
        }
    }
    let orders = &printed[1];
    assert_eq!(
        orders["after"]["seen"],
        serde_json::json!(9_007_199_254_740_993_i64)
    );
    assert_eq!(orders["after"]["total"]["$numberDecimal"], "10.00");

    let text = sdl(&settings, &ALL).await.ok();
    assert!(
        !text
            .chars()
            .any(|character| character.is_control() && character != '\n'),
        "{text}"
    );
    assert!(!text.contains('\u{202e}'));
    let time = documents[3].get_datetime("ts").unwrap();
    let tokyo = DateTime::from_millis(time.timestamp_millis() + 9 * 3_600_000)
        .try_to_rfc3339_string()
        .unwrap();
    let tokyo = tokyo.get(..19).unwrap().replace('T', " ");
    for part in [
        "~ ",
        &format!("{tokyo}."),
        "+09:00 update tail_all.orders 17  ",
        "    status: \"new\" → \"paid\", total: 10.00 → 12.50\n",
        "- ",
        "    id: 18, status: null, total: -1.50, seen: 5, rate: 2.0\n",
        "insert tail_all.items order_id=17 item=\"a\"",
        "insert tail_all.keyless  ",
        "* ",
        "    TRUNCATE TABLE orders\n",
        r"\e]0;owned\u{7}\e[31mred\u{9b}2J\u{202e}",
        "Zoë 漢字 🦀",
        // Nothing is shortened in a pipe.
        &"x".repeat(100_000),
        &"00ff".repeat(60),
    ] {
        assert!(text.contains(part), "{part:?} is not in {text}");
    }

    let only = async |arguments: &[&str]| {
        let lines = sdl(&settings, &[&ALL[..], &["--json"], arguments].concat())
            .await
            .ok();
        let number = |line| serde_json::from_str::<serde_json::Value>(line).unwrap()["n"].as_i64();
        lines
            .lines()
            .map(|line| number(line).unwrap())
            .collect::<Vec<_>>()
    };
    let expected = |wanted: &dyn Fn(&Document) -> bool| -> Vec<i64> {
        documents
            .iter()
            .filter(|change| wanted(change))
            .map(|change| change.get_i64("n").unwrap())
            .collect()
    };
    let table = |change: &Document| {
        change
            .get_document("meta")
            .unwrap()
            .get_str("tbl")
            .unwrap()
            .to_owned()
    };
    let op = |change: &Document| change.get_str("op").unwrap().to_owned();
    assert_eq!(
        only(&["--table", "orders"]).await,
        expected(&|change| table(change) == "orders")
    );
    assert_eq!(
        only(&["--table", "/l_all[.][ik]/"]).await,
        expected(&|change| ["items", "keyless"].contains(&table(change).as_str()))
    );
    assert_eq!(
        only(&["--op", "ddl,delete", "--table", "tail_all.o*"]).await,
        expected(
            &|change| ["ddl", "delete"].contains(&op(change).as_str()) && table(change) == "orders"
        )
    );
    assert_eq!(only(&["--since", "1h"]).await.len(), documents.len());
    assert_eq!(only(&["--since", "now"]).await.len(), 0);
    let all = expected(&|_| true);
    // Others may have been committed within the same millisecond.
    let committed = |change: &Document| *change.get_datetime("ts").unwrap();
    let middle = committed(&documents[documents.len() / 2]);
    assert_eq!(
        only(&["--since", &middle.try_to_rfc3339_string().unwrap()]).await,
        expected(&|change| committed(change) >= middle)
    );
    assert_eq!(only(&["-n", "3"]).await, all[all.len() - 3..]);
    assert_eq!(
        sdl(&settings, &["tail", "--no-follow", "--json"])
            .await
            .ok()
            .lines()
            .count(),
        10
    );

    terminals(&settings).await;
    for wrong in [
        &["tail", "--op", "upsert"][..],
        &["tail", "--since", "soon"],
        &["tail", "--table", "/(/"],
        &["tail", "-n", "-1"],
    ] {
        assert_eq!(sdl(&settings, wrong).await.code, 64, "{wrong:?}");
    }
    let help = sdl(&settings, &["tail", "--help"]).await.ok();
    assert!(
        help.contains("Examples:\n") && help.contains("Exit codes:"),
        "{help}"
    );
    let elsewhere = sdl(&settings.clone().set("SOURCE_ID", "another"), &ALL).await;
    assert_eq!((elsewhere.code, elsewhere.stdout.as_str()), (0, ""));
    assert!(
        elsewhere
            .stderr
            .contains("nothing is recorded of another yet"),
        "{}",
        elsewhere.stderr
    );
    assert!(
        elsewhere
            .stderr
            .contains(settings.get("MYSQL_ADDR").unwrap()),
        "{}",
        elsewhere.stderr
    );
    let away = settings.set(
        "MONGO_URI",
        "mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=500",
    );
    let away = sdl(&away, &ALL).await;
    assert_eq!(away.code, 1, "{}", away.stderr);
}

/// A pipe whose reader goes, a narrow terminal, colours.
async fn terminals(settings: &Settings) {
    let piped = shell(
        settings,
        r#""$SDL" tail --no-follow -n 1000 --full | head -1; echo "${PIPESTATUS[0]}""#,
    )
    .await;
    assert_eq!(piped.stderr, "");
    assert_eq!(piped.stdout.lines().last(), Some("0"));
    // While there is nothing to print as well.
    let idle = shell(
        settings,
        r#""$SDL" tail -n 1 | head -1 > /dev/null; echo "${PIPESTATUS[0]}""#,
    )
    .await;
    assert_eq!((idle.stdout.trim(), idle.stderr.as_str()), ("0", ""));

    let narrow = sdl(&settings.clone().set("COLUMNS", 50), &ALL).await.ok();
    assert!(
        narrow.lines().all(|line| line.chars().count() <= 50),
        "{narrow}"
    );
    assert!(narrow.contains('…'));
    let full = sdl(
        &settings.clone().set("COLUMNS", 50),
        &[&ALL[..], &["--full"]].concat(),
    )
    .await
    .ok();
    for part in [
        "\n    status: \"new\" → \"paid\"\n    total: 10.00 → 12.50\n    UPDATE orders SET",
        &"x".repeat(100_000),
    ] {
        assert!(full.contains(part), "{part} is not in {full}");
    }
    let in_terminal = |variables: &str| {
        format!(
            "script -qec 'stty rows 24 cols 70; {variables} \"$SDL\" tail --no-follow -n 1000' /dev/null"
        )
    };
    let settings = settings.clone().set("TERM", "xterm");
    let colours = shell(&settings, &in_terminal("")).await.ok();
    assert!(colours.contains("\u{1b}[3"), "{colours}");
    let plain = shell(&settings, &in_terminal("NO_COLOR=1")).await.ok();
    for dumb in [
        &plain,
        &shell(&settings, &in_terminal("TERM=dumb")).await.ok(),
    ] {
        assert!(!dumb.contains('\u{1b}'), "{dumb}");
    }
    assert!(
        plain
            .lines()
            .all(|line| line.trim_end().chars().count() <= 70),
        "{plain}"
    );
    assert!(!plain.contains(&"x".repeat(71)));
}

/// While it follows, batches commit and MongoDB goes away: each change is printed once, in order. Ctrl-C ends it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_follows_through_an_outage_and_ends_with_ctrl_c() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v INT)",
        )
        .await;
    let settings = Settings::new(&mysqld, &mongod)
        .set(
            "MONGO_URI",
            format!("{}&serverSelectionTimeoutMS=500", mongod.uri()),
        )
        .set("RETRY_MAX_DELAY", "1s");
    let daemon = Daemon::start(&settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    let tail = Daemon::start_with(&settings, &["tail", "--json", "--since", "1h"], "");
    tail.wait_for_log("CREATE TABLE", SOON).await;
    let insert = async || {
        for _ in 0..40 {
            mysqld.exec("INSERT INTO shop.t (v) VALUES (1), (2), (3); UPDATE shop.t SET v = v + 1 ORDER BY id DESC LIMIT 2").await;
        }
    };
    insert().await;
    mongod.kill();
    tail.wait_for_log("waiting for mongodb", SOON).await;
    mongod.start_again().await;
    insert().await;
    tail.wait_for_log("mongodb is back", SOON).await;
    caught_up(&mysqld, &mongod, settings.database()).await;
    let changes = mongod.changes(settings.database()).await;
    assert_eq!(changes.len(), 2 + 80 * 5);
    let printed = || -> Vec<Document> {
        tail.logs()
            .iter()
            .filter(|line| line.starts_with("{\"_id\""))
            .map(|line| parsed(line))
            .collect()
    };
    wait_until("everything is printed", SOON, async || {
        printed().len() >= changes.len()
    })
    .await;
    tail.signal(Signal::INT);
    assert_eq!(tail.wait_exit(SOON).await.0, 0);
    let as_one = |documents: Vec<Document>| -> Vec<Bson> {
        documents
            .into_iter()
            .map(|document| relaxed(document.into()))
            .collect()
    };
    assert_eq!(as_one(printed()), as_one(changes));
}

/// A long history passes through; it is not collected.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_does_not_grow_with_what_is_shown() {
    let (mysqld, mongod) = tokio::join!(audit::shared_mysqld(), Mongod::shared());
    let settings = Settings::new(mysqld, mongod).set("SOURCE_ID", "long");
    let database: Database = mongod.database(settings.database()).await;
    let collection: Collection<Document> = database.collection(mongo::CHANGES);
    collection
        .create_index(
            mongodb::IndexModel::builder()
                .keys(doc! { "meta.source": 1, "n": 1 })
                .build(),
        )
        .await
        .unwrap();
    const COUNT: i64 = 100_000;
    let filler = "x".repeat(900);
    for first in (1..=COUNT).step_by(10_000) {
        let documents = (first..first + 10_000).map(|n| doc! {
            "_id": n.to_string(), "n": n, "ts": DateTime::from_millis(n), "op": "insert",
            "meta": { "source": "long", "db": "shop", "tbl": "t", "pk": n, "gtid": "x:1", "row": n, "stmt": 0_i64 },
            "after": { "id": n, "v": &filler },
        });
        collection.insert_many(documents).await.unwrap();
    }
    let tail = Daemon::start_with(&settings, &["tail", "-n", "100000"], "");
    tail.wait_for_log("    id: 100000, ", SOON).await;
    let heads = tail
        .logs()
        .iter()
        .filter(|line| line.starts_with("+ "))
        .count();
    assert_eq!(heads, COUNT as usize);
    let peak = tail.peak_memory();
    assert!(peak < 100 << 20, "{peak} bytes for 100 MB of documents");
    tail.signal(Signal::TERM);
    assert_eq!(tail.wait_exit(SOON).await.0, 0);
}
