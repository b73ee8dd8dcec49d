//! The MongoDB account of docs/operations.md, taken from the file itself: it is enough for everything that a daemon does, and each
//! of its rights is missed when it is taken away.
#![cfg(feature = "failpoints")]

use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection};

use crate::common::{Daemon, Mongod, Mysqld, Settings, mongo, wait_until};
use crate::connection::mongo_accounts::{guarded, uri};
use crate::connection::{SOON, assert_says, documented, refusal_of, stop, talkative};

/// The argument of a call in the mongosh snippet: it is JSON, so that it can be read here as well.
fn argument(snippet: &str, call: &str) -> Document {
    let before = format!("db.getSiblingDB(\"admin\").{call}(");
    let rest = snippet
        .split(&before)
        .nth(1)
        .unwrap_or_else(|| panic!("no {call} in {snippet}"));
    let text = &rest[..rest.find("\n})").unwrap() + 2];
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

struct Documented {
    role: Document,
    user: Document,
}

impl Documented {
    fn read() -> Self {
        let blocks = documented("js");
        assert_eq!(blocks.len(), 1);
        Self {
            role: argument(&blocks[0], "createRole"),
            user: argument(&blocks[0], "createUser"),
        }
    }

    async fn create(&self, admin: &Client) {
        for (command, argument, name) in [
            ("createRole", &self.role, "role"),
            ("createUser", &self.user, "user"),
        ] {
            let mut document = doc! { command: argument.get_str(name).unwrap() };
            document.extend(argument.clone().into_iter().filter(|(key, _)| key != name));
            admin.database("admin").run_command(document).await.unwrap();
        }
    }

    fn settings(&self, mysqld: &Mysqld, mongod: &Mongod) -> Settings {
        let text = |name| self.user.get_str(name).unwrap();
        Settings::new(mysqld, mongod)
            .set(
                "MONGO_URI",
                uri(mongod, text("user"), text("pwd"), "authSource=admin"),
            )
            // As in the snippet, and the default.
            .set("MONGO_DB", "audit")
    }
}

/// Everything that a daemon does with MongoDB in its life: a first start, large values, a crash in the middle of a transaction,
/// its recovery, a batch to set aside, and an offset that was set back. Ends early when the daemon does, and gives it then.
async fn life(mysqld: &Mysqld, admin: &Client, settings: &Settings) -> Option<Daemon> {
    let audit = admin.database(settings.database());
    let changes: Collection<Document> = audit.collection(mongo::CHANGES);
    let offsets: Collection<Document> = audit.collection(mongo::OFFSETS);
    let staging: Collection<Document> = audit.collection(mongo::STAGING);
    audit.drop().await.unwrap();
    mysqld
        .exec("DROP DATABASE IF EXISTS shop; RESET BINARY LOGS AND GTIDS")
        .await;
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY, v LONGTEXT); INSERT INTO shop.t VALUES (1, 'planted')")
        .await;
    let recorded = async |daemon: &Daemon, count: u64| {
        wait_until("it is recorded, or the daemon ends", SOON, async || {
            !daemon.is_running() || changes.count_documents(doc! {}).await.unwrap() == count
        })
        .await;
        daemon.is_running()
    };

    let daemon = talkative(settings);
    if !recorded(&daemon, 3).await {
        return Some(daemon);
    }
    let first = offsets.find_one(doc! {}).await.unwrap().unwrap();
    mysqld
        .exec("INSERT INTO shop.t VALUES (2, REPEAT('v', 2 << 20))")
        .await;
    if !recorded(&daemon, 4).await {
        return Some(daemon);
    }
    daemon.kill9();

    let daemon = talkative(&settings.clone().set("FAILPOINTS", "before-commit=return"));
    mysqld
        .exec("INSERT INTO shop.t VALUES (3, 'planted')")
        .await;
    let (code, _) = daemon.wait_exit(SOON).await;
    if code != 134 {
        return Some(daemon);
    }
    let mut stray = staging
        .find_one(doc! {})
        .await
        .unwrap()
        .expect("a pending batch");
    let source = stray.get_str("source").unwrap().to_owned();
    stray.insert("_id", format!("{source}#1000"));
    stray.insert("batch", 1000_i64);
    staging.insert_one(stray).await.unwrap();

    let daemon = talkative(settings);
    wait_until("it is recovered, or the daemon ends", SOON, async || {
        !daemon.is_running() || daemon.has_logged("Connected to MySQL")
    })
    .await;
    if !daemon.is_running() {
        return Some(daemon);
    }
    for said in [
        "Recovering 2 pending batches",
        "recovered a staged batch",
        "archived a staged batch",
    ] {
        assert!(daemon.has_logged(said), "{:#?}", daemon.logs());
    }
    assert!(!daemon.has_logged("could not end the predecessor's session"));
    assert_eq!(changes.count_documents(doc! {}).await.unwrap(), 5);
    daemon.kill9();

    let back = doc! { "$set": { "gtid": first.get_str("gtid").unwrap() } };
    offsets.update_one(doc! {}, back).await.unwrap();
    let daemon = talkative(settings);
    mysqld
        .exec("INSERT INTO shop.t VALUES (4, 'planted')")
        .await;
    if !recorded(&daemon, 6).await {
        return Some(daemon);
    }
    stop(daemon).await;
    let numbers: Vec<i64> = mongo::changes(&audit)
        .await
        .iter()
        .map(|change| change.get_i64("n").unwrap())
        .collect();
    assert_eq!(numbers, (1..=6).collect::<Vec<_>>());
    None
}

#[tokio::test]
async fn the_documented_mongodb_account_is_enough_and_each_of_its_rights_is_missed() {
    let (mysqld, (mongod, admin, _key)) = tokio::join!(Mysqld::start(), guarded());
    let documented = Documented::read();
    documented.create(&admin).await;
    let settings = documented.settings(&mysqld, &mongod);
    if let Some(daemon) = life(&mysqld, &admin, &settings).await {
        panic!("the documented role is not enough: {:#?}", daemon.logs());
    }

    let role = documented.role.get_str("role").unwrap();
    let privileges = documented.role.get_array("privileges").unwrap();
    let mut missed = 0;
    for (index, privilege) in privileges.iter().enumerate() {
        let privilege = privilege.as_document().unwrap();
        let collection = privilege
            .get_document("resource")
            .unwrap()
            .get_str("collection")
            .unwrap();
        for action in privilege.get_array("actions").unwrap() {
            let mut less = privileges.clone();
            let actions = less[index]
                .as_document_mut()
                .unwrap()
                .get_array_mut("actions")
                .unwrap();
            actions.retain(|kept| kept != action);
            if actions.is_empty() {
                less.remove(index);
            }
            let change =
                |privileges: Vec<Bson>| doc! { "updateRole": role, "privileges": privileges };
            admin
                .database("admin")
                .run_command(change(less))
                .await
                .unwrap();
            let action = action.as_str().unwrap();
            let case = format!("{action} on audit.{collection}");
            let daemon = life(&mysqld, &admin, &settings)
                .await
                .unwrap_or_else(|| panic!("nothing misses {case}"));
            let message = refusal_of(&daemon).await;
            assert_says(&message, &["mongodb", &case, "db.grantPrivilegesToRole("]);
            // As the message tells.
            missed += 1;
            admin
                .database("admin")
                .run_command(change(privileges.clone()))
                .await
                .unwrap();
        }
    }
    assert_eq!(missed, 13);
    assert!(life(&mysqld, &admin, &settings).await.is_none());
}
