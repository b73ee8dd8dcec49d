//! MongoDB as a company runs it: TLS, and whoever has to log in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use mongodb::Client;
use mongodb::bson::doc;

use crate::common::servers::Scratch;
use crate::common::{Mongod, Mysqld, Settings};
use crate::connection::certificates::{Authority, Certificate};
use crate::connection::{SHOP, SOON, assert_says, reading, records, refusal, stop, talkative};

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
pub(crate) struct KeyFile {
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
pub(crate) async fn guarded() -> (Mongod, Client, KeyFile) {
    let key = key_file();
    let mongod = Mongod::start_with(&["--keyFile", key.file.to_str().unwrap()]).await;
    let admin = administrator(&mongod).await;
    (mongod, admin, key)
}

pub(crate) fn uri(mongod: &Mongod, user: &str, password: &str, options: &str) -> String {
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
