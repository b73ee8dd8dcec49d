//! MongoDB as a company runs it: TLS, passwords, and accounts with the least rights that work.
//!
//! The accounts are those of docs/operations.md, taken from the file itself.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use mongodb::bson::{Bson, Document, doc};
use mongodb::{Client, Collection};

use crate::certificates::{Authority, Certificate};
use crate::common::servers::Scratch;
use crate::common::{Daemon, Mongod, Mysqld, Settings, mongo, wait_until};
use crate::{SHOP, SOON, assert_says, reading, records, refusal, refusal_of, stop, talkative};

const ADMIN: &str = "planted admin";

// --- TLS

/// A server that shows this certificate to whoever speaks TLS, and lets the test in without.
async fn server(certificate: &Certificate, authority: &Authority, options: &[&str]) -> Mongod {
    let (file, ca) = (
        certificate.both.display().to_string(),
        authority.file.display().to_string(),
    );
    let mut all = vec![
        "--tlsMode",
        "preferTLS",
        "--tlsCertificateKeyFile",
        &file,
        "--tlsCAFile",
        &ca,
    ];
    all.extend(options);
    Mongod::start_with(&all).await
}

const ANY_CLIENT: &str = "--tlsAllowConnectionsWithoutCertificates";

fn with_options(mysqld: &Mysqld, mongod: &Mongod, options: &str) -> Settings {
    Settings::new(mysqld, mongod).set("MONGO_URI", format!("{}&{options}", mongod.uri()))
}

#[tokio::test]
async fn the_certificate_of_mongodb_is_verified_and_what_is_wrong_with_it_is_told_at_once() {
    let (authority, other) = (Authority::new(), Authority::named("another authority"));
    // mongod does not start with a certificate that has ended.
    let shown = authority.server(&["localhost", "127.0.0.1"]);
    let named = authority.server(&["db.example.com"]);
    let ca = format!("tls=true&tlsCAFile={}", authority.file.display());
    let options = [ANY_CLIENT];
    let (mysqld, good, named) = tokio::join!(
        Mysqld::start(),
        server(&shown, &authority, &options),
        server(&named, &authority, &options),
    );
    mysqld.exec(SHOP).await;
    stop(records(&mysqld, &good, &with_options(&mysqld, &good, &ca)).await).await;
    for (mongod, uri, said) in [
        (
            &good,
            &format!("tls=true&tlsCAFile={}", other.file.display()),
            ["wrong authority", "set tlsCAFile"],
        ),
        (
            &good,
            &"tls=true".to_owned(),
            ["wrong authority", "the web's authorities"],
        ),
        (
            &named,
            &ca,
            ["wrong name", "is for db.example.com, not for 127.0.0.1"],
        ),
    ] {
        let message = refusal(&with_options(&mysqld, mongod, uri)).await;
        assert_says(&message, &said);
    }
    // Changed while the daemon runs: the one host that there is refuses, and no other try changes that.
    let daemon = reading(&with_options(&mysqld, &good, &ca)).await;
    fs::copy(other.server(&["127.0.0.1"]).both, &shown.both).unwrap();
    good.kill();
    good.start_again().await;
    let (code, _) = daemon.wait_exit(SOON).await;
    assert_eq!(code, 3, "{:#?}", daemon.logs());
    assert!(daemon.has_logged("wrong authority"));
}

#[tokio::test]
async fn a_client_certificate_is_shown_and_a_missing_one_is_hinted_at() {
    let authority = Authority::new();
    let certificate = authority.server(&["127.0.0.1"]);
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), server(&certificate, &authority, &[]));
    mysqld.exec(SHOP).await;
    let ca = format!("tls=true&tlsCAFile={}", authority.file.display());
    let client = authority.client("sdl");
    let showing = format!("{ca}&tlsCertificateKeyFile={}", client.both.display());
    stop(records(&mysqld, &mongod, &with_options(&mysqld, &mongod, &showing)).await).await;
    // The server closes the connection and gives no reason, as one does that is going down: the daemon waits.
    let daemon = talkative(&with_options(&mysqld, &mongod, &ca));
    let line = daemon.wait_for_log("trying again", SOON).await;
    assert_says(
        &line,
        &[
            "closed the connection without a word",
            "tlsCertificateKeyFile",
        ],
    );
    assert!(daemon.is_running());
}

#[tokio::test]
async fn a_uri_that_the_driver_does_not_take_is_told_by_the_name_of_its_option() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    for (options, said) in [
        (
            "tls=true&tlsAllowInvalidHostnames=true",
            "option tlsAllowInvalidHostnames",
        ),
        (
            "tlsCertificateKeyFilePassword=planted&tls=true",
            "option tlsCertificateKeyFilePassword",
        ),
        ("readPreference=planted", "option readPreference"),
        ("maxPoolSize=planted", "option maxPoolSize"),
        (
            "tls=true&tlsCAFile=/nonexistent/ca.pem",
            "/nonexistent/ca.pem",
        ),
        (
            "tls=true&tlsCertificateKeyFile=/nonexistent/key.pem",
            "tlsCertificateKeyFile",
        ),
    ] {
        let message = refusal(&with_options(&mysqld, mongod, options)).await;
        assert_says(&message, &["MONGO_URI", said]);
    }
}

#[tokio::test]
async fn one_host_that_answers_is_enough_whatever_the_others_are() {
    let (authority, other) = (Authority::new(), Authority::named("another authority"));
    let [certificate, stranger] =
        [&authority, &other].map(|authority| authority.server(&["127.0.0.1"]));
    let options = [ANY_CLIENT];
    let (mysqld, mongod, stranger) = tokio::join!(
        Mysqld::start(),
        server(&certificate, &authority, &options),
        server(&stranger, &other, &options),
    );
    mysqld.exec(SHOP).await;
    let ca = format!(
        "replicaSet=rs0&tls=true&tlsCAFile={}",
        authority.file.display()
    );
    let hosts = |hosts: &[String]| {
        Settings::new(&mysqld, &mongod)
            .set("MONGO_URI", format!("mongodb://{}/?{ca}", hosts.join(",")))
    };
    let down = "127.0.0.1:1".to_owned();
    let daemon = records(
        &mysqld,
        &mongod,
        &hosts(&[stranger.addr(), down.clone(), mongod.addr()]),
    )
    .await;
    stop(daemon).await;
    // One is down: it may be the right one, so the other one's certificate is no reason to give up.
    let daemon = talkative(&hosts(&[stranger.addr(), down]));
    let line = daemon.wait_for_log("trying again", SOON).await;
    assert_says(&line, &["UnknownIssuer"]);
    assert!(daemon.is_running());
    assert_says(
        &refusal(&hosts(&[stranger.addr()])).await,
        &["wrong authority"],
    );
}

// --- passwords

/// What the members of a set know each other by; it switches the demand for a password on.
struct KeyFile {
    file: PathBuf,
    _scratch: Scratch,
}

fn key_file() -> KeyFile {
    let scratch = Scratch::new("keyfile");
    let file = scratch.path().join("key");
    fs::write(&file, "ABCDEFGHIJKLMNOPQRSTUVWXYZ").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o400)).unwrap();
    KeyFile {
        file,
        _scratch: scratch,
    }
}

/// Makes the first user of a server, which it allows from loopback without being anybody, and logs in as that one.
async fn administrator(mongod: &Mongod) -> Client {
    mongod
        .admin(doc! { "createUser": "admin", "pwd": ADMIN, "roles": ["root"] })
        .await;
    let uri = uri(mongod, "admin", "planted%20admin", "authSource=admin");
    Client::with_uri_str(uri).await.unwrap()
}

/// A server that asks for a password, and its administrator.
async fn guarded() -> (Mongod, Client, KeyFile) {
    let key = key_file();
    let mongod = Mongod::start_with(&["--keyFile", key.file.to_str().unwrap()]).await;
    let admin = administrator(&mongod).await;
    (mongod, admin, key)
}

fn uri(mongod: &Mongod, user: &str, password: &str, options: &str) -> String {
    format!(
        "mongodb://{user}:{password}@{}/?replicaSet=rs0&{options}",
        mongod.addr()
    )
}

#[tokio::test]
async fn scram_in_both_forms_with_a_password_of_any_characters_and_a_wrong_one_is_told_at_once() {
    let (mysqld, (mongod, admin, _key)) = tokio::join!(Mysqld::start(), guarded());
    mysqld.exec(SHOP).await;
    const PASSWORD: &str = "planted:/?#[]@ %é";
    const ENCODED: &str = "planted%3A%2F%3F%23%5B%5D%40%20%25%C3%A9";
    for (mechanism, known_by) in [("SCRAM-SHA-256", "admin"), ("SCRAM-SHA-1", "people")] {
        let settings = Settings::new(&mysqld, &mongod);
        let role = doc! { "role": "readWrite", "db": settings.database() };
        let user = doc! {
            "createUser": mechanism, "pwd": PASSWORD, "roles": [role], "mechanisms": [mechanism],
        };
        admin.database(known_by).run_command(user).await.unwrap();
        let with = |password: &str, options: &str| {
            settings
                .clone()
                .set("MONGO_URI", uri(&mongod, mechanism, password, options))
        };
        for options in [
            format!("authSource={known_by}"),
            format!("authSource={known_by}&authMechanism={mechanism}"),
            format!(
                "authSource={known_by}&appName=audit&retryWrites=true&w=majority&maxPoolSize=5"
            ),
        ] {
            stop(reading(&with(ENCODED, &options)).await).await;
        }
        for (password, options) in [
            ("planted", format!("authSource={known_by}")),
            (ENCODED, "authSource=elsewhere".to_owned()),
        ] {
            let message = refusal(&with(password, &options)).await;
            assert_says(
                &message,
                &[
                    "mongodb",
                    "uthentication",
                    "check user and password of MONGO_URI",
                    "authSource",
                ],
            );
        }
    }
    let nobody = Settings::new(&mysqld, &mongod);
    let message = refusal(&nobody).await;
    assert_says(&message, &["mongodb", "MONGO_URI names no user"]);
}

#[tokio::test]
async fn a_user_who_is_known_by_the_client_certificate_needs_no_password() {
    let authority = Authority::new();
    let certificate = authority.server(&["127.0.0.1"]);
    let key = key_file();
    let options = ["--keyFile", key.file.to_str().unwrap()];
    let (mysqld, mongod) =
        tokio::join!(Mysqld::start(), server(&certificate, &authority, &options));
    mysqld.exec(SHOP).await;
    let admin = administrator(&mongod).await;
    let settings = Settings::new(&mysqld, &mongod);
    let (known, unknown) = (authority.client("sdl"), authority.client("somebody"));
    let role = doc! { "role": "readWrite", "db": settings.database() };
    admin
        .database("$external")
        .run_command(doc! { "createUser": "CN=sdl", "roles": [role] })
        .await
        .unwrap();
    let showing = |certificate: &Certificate| {
        let uri = format!(
            "mongodb://{}/?replicaSet=rs0&tls=true&tlsCAFile={}&tlsCertificateKeyFile={}&authMechanism=MONGODB-X509&authSource=$external",
            mongod.addr(),
            authority.file.display(),
            certificate.both.display()
        );
        settings.clone().set("MONGO_URI", uri)
    };
    stop(reading(&showing(&known)).await).await;
    let message = refusal(&showing(&unknown)).await;
    assert_says(&message, &["mongodb", "uthentication"]);
}

// --- the accounts of the documentation

/// What stands between the lines "```language" and "```" of the documentation, one text for each block.
pub(crate) fn documented(language: &str) -> Vec<String> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/operations.md");
    let text = fs::read_to_string(path).unwrap();
    let accounts = text
        .split("\n## ")
        .find(|section| section.starts_with("Accounts"))
        .unwrap();
    accounts
        .split(&format!("```{language}\n"))
        .skip(1)
        .map(|rest| rest.split("```").next().unwrap().to_owned())
        .collect()
}

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
#[cfg(feature = "failpoints")]
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

#[cfg(feature = "failpoints")]
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
