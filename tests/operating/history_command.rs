//! `sdl history`: everything recorded of one row, and what it is at the end.

use std::time::Duration;

use mongodb::Collection;
use mongodb::bson::{Document, doc};

use crate::common::audit::Audit;
use crate::common::command::{Done, parsed, sdl};
use crate::common::{Flavor, Signal, mongo, on_both_flavors};

const SOON: Duration = Duration::from_secs(30);

on_both_flavors! { the_life_of_a_row_is_told_from_its_insert_to_its_end }

async fn the_life_of_a_row_is_told_from_its_insert_to_its_end(flavor: Flavor) {
    let mut audit = Audit::on(flavor, "life").await;
    audit
        .run(&[
            "CREATE TABLE orders (id INT PRIMARY KEY, status VARCHAR(20), total DECIMAL(10,2))",
            "INSERT INTO orders VALUES (1, 'new', 1), (2, 'new', 2), (3, 'other', 3)",
            "UPDATE orders SET status = 'paid' WHERE id IN (1, 2)",
            // The row goes on under another key, and another row gets its old one.
            "UPDATE orders SET id = 20 WHERE id = 2",
            "INSERT INTO orders VALUES (2, 'second', 9)",
            "UPDATE orders SET total = 2.50 WHERE id = 20",
            "ALTER TABLE orders ADD note TEXT",
            "UPDATE orders SET note = 'x' WHERE id = 20",
            "DELETE FROM orders WHERE id = 2",
            "TRUNCATE TABLE orders",
            "INSERT INTO orders VALUES (1, 'again', 1, NULL)",
            "CREATE TABLE items (order_id BIGINT UNSIGNED, item VARCHAR(9), v INT, PRIMARY KEY (order_id, item))",
            "INSERT INTO items VALUES (17, 'a', 1), (17, 'b', 2)",
            "DELETE FROM items WHERE item = 'a'",
            "CREATE TABLE hashes (id VARBINARY(20) PRIMARY KEY, v INT)",
            "INSERT INTO hashes VALUES (X'00FF', 1), ('abc', 2)",
            "CREATE TABLE amounts (id DECIMAL(10,2) PRIMARY KEY)",
            "INSERT INTO amounts VALUES (-12.50)",
            "CREATE TABLE names (id VARCHAR(20) PRIMARY KEY)",
            "INSERT INTO names VALUES ('17'), ('Zoë=漢')",
            "CREATE TABLE keyless (v INT)",
            "INSERT INTO keyless VALUES (1)",
        ])
        .await;
    let documents = audit.documents().await;
    let is_mysql = flavor == Flavor::Mysql;
    let settings = audit.settings.clone().set("TZ", "UTC");
    let history = async |arguments: &[&str]| -> Done {
        sdl(&settings, &[&["history"], arguments].concat()).await
    };

    let text = history(&["life.orders", "2"]).await.ok();
    let mut expected = vec![
        "life.orders 2  (Int32)",
        "+ ",
        "insert life.orders 2  ",
        "    id: 2, status: \"new\", total: 2.00",
        "    on server 1, in connection ",
        "    INSERT INTO orders VALUES (1, 'new', 1), (2, 'new', 2)",
        "~ ",
        "update life.orders 2  ",
        "    status: \"new\" → \"paid\"",
        // Of the statement's second row: its text stands on the first one's document.
        "    UPDATE orders SET status = 'paid' WHERE id IN (1, 2)",
        "    id: 2 → 20",
        "    its key is 20 from here on",
        "insert life.orders 2  ",
        "    id: 2, status: \"second\", total: 9.00",
        "update life.orders 20  ",
        "    total: 2.00 → 2.50",
        "ddl    life.orders",
        "    ALTER TABLE orders ADD note TEXT",
        "    may have changed the row",
        "    note: null → \"x\"",
        "delete life.orders 2  ",
        "    TRUNCATE TABLE orders",
        "    rows that were there are gone",
        "= 2: deleted\n",
        "= 20: gone with n = ",
    ];
    if !is_mysql {
        expected.retain(|part| {
            !part.starts_with("    INSERT")
                && !part.starts_with("    UPDATE")
                && !part.contains("in connection")
        });
    }
    in_order(&text, &expected);
    assert!(!text.contains("again") && !text.contains("\n= 3"), "{text}");

    let lines = history(&["life.orders", "1", "--json"]).await.ok();
    let lines: Vec<Document> = lines.lines().map(parsed).collect();
    let (now, changes) = lines.split_last().unwrap();
    let ops: Vec<_> = changes
        .iter()
        .map(|change| change.get_str("op").unwrap())
        .collect();
    assert_eq!(ops, ["insert", "update", "ddl", "ddl", "insert"]);
    assert_eq!(changes[4].get("_id"), documents[13].get("_id"));
    let row = doc! { "id": 1, "status": "again", "total": "1.00".parse::<mongodb::bson::Decimal128>().unwrap(), "note": null };
    assert_eq!(
        now,
        &doc! { "now": [{ "key": 1, "state": "present", "row": row }] }
    );

    // As it was, and only a part of it.
    let at = documents[8]
        .get_datetime("ts")
        .unwrap()
        .try_to_rfc3339_string()
        .unwrap();
    let then = history(&["life.orders", "20", "--until", &at]).await;
    assert_eq!(then.code, 0, "{}", then.stderr);
    assert!(
        then.stdout
            .contains("what came before was not recorded, or had another key")
    );
    // MariaDB has whole seconds only.
    if is_mysql {
        assert!(
            then.stdout
                .contains("\n    id: 20, status: \"paid\", total: 2.50\n"),
            "{}",
            then.stdout
        );
    }
    let since = history(&["life.orders", "1", "--since", "now"]).await.ok();
    assert_eq!(since.lines().count(), 3, "{since}");
    assert!(
        since.contains("= 1: is there\n    id: 1, status: \"again\""),
        "{since}"
    );

    for (arguments, found) in [
        (&["life.items", "order_id=17", "item=a"][..], "= {"),
        (&["life.items", "item=a", "order_id=17"], "deleted"),
        (&["life.items", r#"{"order_id": 17, "item": "b"}"#], "v: 2"),
        (&["life.hashes", "0x00ff"], "v: 1"),
        (&["life.hashes", "abc"], "(Binary)"),
        (&["life.amounts", "-12.5"], "(Decimal128)"),
        (&["life.names", "17"], "(String)"),
        (&["life.names", "Zoë=漢"], "Zoë=漢"),
        (&["life.names", "id=17"], "is there"),
        (&["life.orders", "id=1"], "is there"),
    ] {
        let done = history(arguments).await;
        assert!(done.stdout.contains(found), "{found} is not in {done:?}");
        assert_eq!(done.code, 0);
    }
    for (arguments, code, said) in [
        (
            &["life.orders", "4"][..],
            1,
            "looked for as Binary, String, number",
        ),
        (
            &["life.orders", r#""1""#],
            1,
            "looked for as Binary, String)",
        ),
        (&["life.keyless", "1"], 1, "no primary key"),
        (&["orders", "1"], 64, "expected DB.TABLE"),
        (&["life.items", "17", "a"], 64, "expected column=value"),
        (&["life.items", "{"], 64, "not JSON"),
        (&["life.orders"], 64, "KEY"),
        (&["life.orders", "1", "--since", "then"], 64, "yesterday"),
    ] {
        let done = history(arguments).await;
        assert_eq!(done.code, code, "{arguments:?}: {done:?}");
        assert!(
            done.stderr.contains(said),
            "{said} is not in {}",
            done.stderr
        );
        assert_eq!(done.stdout, "");
    }
    // A gap may be of any row.
    let changes: Collection<Document> = audit.target.collection(mongo::CHANGES);
    audit.daemon.signal(Signal::TERM);
    assert_eq!(audit.daemon.wait_exit(SOON).await.0, 0);
    let last = mongo::changes(&audit.target).await.pop().unwrap();
    let n = last.get_i64("n").unwrap() + 1;
    let source = documents[0]
        .get_document("meta")
        .unwrap()
        .get_str("source")
        .unwrap();
    changes
        .insert_one(doc! {
            "_id": "gap", "n": n, "ts": mongodb::bson::DateTime::now(), "op": "gap",
            "meta": { "source": source, "db": "", "tbl": "", "gtid": "gap:1", "row": 0_i64, "stmt": 0_i64, "gap": { "missing": "5-9" } },
        })
        .await
        .unwrap();
    let text = history(&["life.orders", "1", "--full"]).await.ok();
    in_order(
        &text,
        &[
            "missing: \"5-9\"",
            &format!("= 1: is there, but n = {n} may have changed it"),
            "    status: \"again\"\n",
        ],
    );
}

/// Each part stands behind the one before it.
fn in_order(text: &str, parts: &[&str]) {
    let mut rest = text;
    for part in parts {
        let at = rest
            .find(part)
            .unwrap_or_else(|| panic!("{part:?} is not in\n{rest}\nof\n{text}"));
        rest = &rest[at + part.len()..];
    }
}
