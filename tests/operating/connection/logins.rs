//! The logins that servers ask for, and what is said when one is refused: which of them it was, and the statement that mends
//! it.

use mysql_async::prelude::Queryable;

use crate::common::{
    Flavor, Mongod, Mysqld, Settings, mysql, on_both_flavors, on_flavor, wait_until,
};
use crate::connection::certificates::Authority;
use crate::connection::tap::{Tap, holds};
use crate::connection::{
    PLANTED, SHOP, SOON, assert_says, assert_silent_about_secrets, documented, reading, records,
    refusal, stop, talkative,
};

on_both_flavors! {
    an_account_without_a_password_logs_in_and_a_missing_password_is_told_as_one,
    a_host_that_no_account_is_for_is_told,
    a_server_with_no_connection_left_is_waited_for,
}

on_flavor! {
    logins_of_mariadb_10, Mariadb10,
    mariadbs_native_and_ed25519_passwords_log_in,
    a_right_password_that_is_refused_twice_is_taken_at_the_third_login,
    mariadbs_refusals_are_told_apart_and_mended_as_told,
    the_documented_account_is_enough
}

on_flavor! {
    logins_of_mariadb_11, Mariadb11,
    mariadbs_native_and_ed25519_passwords_log_in,
    a_right_password_that_is_refused_twice_is_taken_at_the_third_login,
    mariadbs_refusals_are_told_apart_and_mended_as_told,
    the_documented_account_is_enough,
    mariadbs_parsec_password_logs_in
}

on_flavor! { logins_of_mysql, Mysql, the_documented_account_is_enough }

/// With every character that a shell, a URI or a statement might trip over.
const PASSWORD: &str = r#"planted "'`\$%@:/?#[]{}&=+ é ${HOME} 密"#;

const GRANT: &str = "GRANT REPLICATION SLAVE, REPLICATION CLIENT ON *.* TO";

/// What the server says of its password cache (manual: "Caching SHA-2 Pluggable Authentication"; a packet of two bytes,
/// 1 and 3 or 4).
const FAST: &[u8] = b"\x02\x00\x00\x02\x01\x03";
const FULL: &[u8] = b"\x02\x00\x00\x02\x01\x04";

/// An account of this password, and settings that log in with it.
async fn account(mysqld: &Mysqld, mongod: &Mongod, user: &str, identified: &str) -> Settings {
    let password = PASSWORD.replace('\\', "\\\\").replace('\'', "\\'");
    mysqld
        .exec(format!(
            "CREATE USER {user} {}; {GRANT} {user}",
            identified.replace("{}", &format!("'{password}'"))
        ))
        .await;
    Settings::new(mysqld, mongod)
        .set("START_FROM", "current")
        .set("MYSQL_USER", user)
        .set("MYSQL_PASS", PASSWORD)
}

async fn shop(options: &[&str]) -> (Mysqld, &'static Mongod) {
    shop_on(Flavor::Mysql, options).await
}

async fn shop_on(flavor: Flavor, options: &[&str]) -> (Mysqld, &'static Mongod) {
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, options), Mongod::shared());
    mysqld.exec(SHOP).await;
    (mysqld, mongod)
}

#[tokio::test]
async fn caching_sha2_password_logs_in_with_an_empty_and_a_warm_cache_with_tls_and_without() {
    let (mysqld, mongod) = shop(&[]).await;
    let settings = account(
        &mysqld,
        mongod,
        "auditor",
        "IDENTIFIED WITH caching_sha2_password BY {}",
    )
    .await
    .set("SOURCE_ID", "the server behind each tap");
    for mode in ["disabled", "required"] {
        for emptied_by in ["a new account", "FLUSH PRIVILEGES", "a restart"] {
            match emptied_by {
                "FLUSH PRIVILEGES" => mysqld.exec(emptied_by).await,
                "a restart" => {
                    mysqld.kill();
                    mysqld.start_again().await;
                }
                _ => {}
            }
            for cache in ["empty", "warm"] {
                let tap = Tap::start(mysqld.port(), "127.0.0.1").await;
                let settings = settings
                    .clone()
                    .set("MYSQL_TLS", mode)
                    .set("MYSQL_ADDR", tap.addr());
                let daemon = records(&mysqld, mongod, &settings).await;
                daemon.kill9();
                let heard = tap.heard();
                let case = format!("{mode}, {emptied_by}, {cache}");
                assert!(!holds(&heard.from_client, PLANTED.as_bytes()), "{case}");
                if mode == "required" {
                    // A TLS 1.2 or 1.3 handshake, and no word of the login or the stream in the clear.
                    assert!(holds(&heard.from_client, b"\x16\x03"), "{case}");
                    for plain in [&b"auditor"[..], b"SELECT", b"SHOW"] {
                        assert!(!holds(&heard.from_client, plain), "{case}");
                    }
                    assert!(!holds(&heard.from_server, b"INSERT INTO shop"), "{case}");
                } else {
                    assert!(holds(&heard.from_client, b"auditor"), "{case}");
                    // The first connection of a daemon fills the cache for its others.
                    let full = holds(&heard.from_server, FULL);
                    assert_eq!(full, cache == "empty", "{case}");
                    assert_eq!(
                        holds(&heard.from_server, b"BEGIN PUBLIC KEY"),
                        full,
                        "{case}"
                    );
                    assert!(holds(&heard.from_server, FAST) || full, "{case}");
                }
            }
        }
        mysqld.exec("FLUSH PRIVILEGES").await;
    }
}

#[tokio::test]
async fn a_server_without_rsa_keys_says_that_it_needs_tls_for_an_empty_cache() {
    let (mysqld, mongod) = shop(&[
        "--caching-sha2-password-auto-generate-rsa-keys=OFF",
        "--loose-sha256-password-auto-generate-rsa-keys=OFF",
    ])
    .await;
    let settings = account(&mysqld, mongod, "auditor", "IDENTIFIED BY {}").await;
    mysqld.kill();
    for key in ["private_key.pem", "public_key.pem"] {
        std::fs::remove_file(mysqld.datadir().join(key)).unwrap();
    }
    mysqld.start_again().await;
    let message = refusal(&settings.clone().set("MYSQL_TLS", "disabled")).await;
    assert_says(&message, &["Access denied", "this one has none"]);
    stop(records(&mysqld, mongod, &settings.set("MYSQL_TLS", "required")).await).await;
}

async fn an_account_without_a_password_logs_in_and_a_missing_password_is_told_as_one(
    flavor: Flavor,
) {
    let (mysqld, mongod) = shop_on(flavor, &[]).await;
    mysqld.exec(format!("CREATE USER bare; {GRANT} bare")).await;
    let settings = Settings::new(&mysqld, mongod)
        .set("START_FROM", "current")
        .set("MYSQL_USER", "bare");
    for mode in ["disabled", "preferred"] {
        let settings = settings.clone().set("MYSQL_TLS", mode);
        for bare in [
            settings.clone().unset("MYSQL_PASS"),
            settings.clone().set("MYSQL_PASS", ""),
        ] {
            stop(records(&mysqld, mongod, &bare).await).await;
        }
        let message = refusal(&settings.set("MYSQL_PASS", PASSWORD)).await;
        assert_says(
            &message,
            &["Access denied", "using password: YES", "MYSQL_PASS"],
        );
    }
    let missing = Settings::new(&mysqld, mongod).unset("MYSQL_PASS");
    assert_says(
        &refusal(&missing).await,
        &["using password: NO", "MYSQL_PASS"],
    );
}

#[tokio::test]
async fn a_wrong_password_an_unknown_user_and_a_missing_right_are_told_apart() {
    let (mysqld, mongod) = shop(&[]).await;
    let settings = account(&mysqld, mongod, "auditor", "IDENTIFIED BY {}").await;
    for mode in ["disabled", "required"] {
        let settings = settings.clone().set("MYSQL_TLS", mode);
        let message = refusal(&settings.clone().set("MYSQL_PASS", "planted wrong")).await;
        assert_says(&message, &["Access denied", "MYSQL_USER and MYSQL_PASS"]);
        assert!(!message.contains("GRANT"), "{message}");
        // Whether a user exists is no stranger's business: the server pretends, and with any login that it knows.
        for stranger in ["nobody", "no_one", "noone", "somebody"] {
            let message = refusal(&settings.clone().set("MYSQL_USER", stranger)).await;
            assert_says(&message, &[stranger, "check MYSQL_USER"]);
            assert!(!message.contains("GRANT"), "{message}");
        }
    }
    mysqld
        .exec("REVOKE REPLICATION SLAVE ON *.* FROM auditor")
        .await;
    let message = refusal(&settings).await;
    assert_says(&message, &["grant it: GRANT REPLICATION SLAVE"]);
    assert!(!message.contains("MYSQL_PASS"), "{message}");
    mysqld.exec(format!("{GRANT} auditor")).await;
    stop(records(&mysqld, mongod, &settings).await).await;
}

#[tokio::test]
async fn expired_locked_and_blocked_accounts_are_told_as_such_and_mended_as_told() {
    let (mysqld, mongod) = shop(&[]).await;
    let settings = account(
        &mysqld,
        mongod,
        "auditor",
        "IDENTIFIED BY {} FAILED_LOGIN_ATTEMPTS 1 PASSWORD_LOCK_TIME 2",
    )
    .await;

    mysqld.exec("ALTER USER auditor PASSWORD EXPIRE").await;
    let message = refusal(&settings).await;
    assert_says(
        &message,
        &[
            "the password has expired: ALTER USER 'auditor'@'HOST'",
            "MYSQL_PASS",
        ],
    );
    mysqld
        .exec("ALTER USER 'auditor'@'%' IDENTIFIED BY 'planted new' PASSWORD EXPIRE NEVER")
        .await;
    let settings = settings.set("MYSQL_PASS", "planted new");

    mysqld.exec("ALTER USER auditor ACCOUNT LOCK").await;
    let message = refusal(&settings).await;
    assert_says(
        &message,
        &["error 3118", "ALTER USER 'auditor'@'HOST' ACCOUNT UNLOCK"],
    );
    mysqld.exec("ALTER USER 'auditor'@'%' ACCOUNT UNLOCK").await;

    refusal(&settings.clone().set("MYSQL_PASS", "planted wrong")).await;
    let message = refusal(&settings).await;
    assert_says(&message, &["error 3955", "ACCOUNT UNLOCK"]);
    mysqld.exec("ALTER USER 'auditor'@'%' ACCOUNT UNLOCK").await;
    stop(records(&mysqld, mongod, &settings).await).await;
}

#[tokio::test]
async fn a_login_that_sdl_does_not_do_is_refused_by_name() {
    let (mysqld, mongod) = shop(&[]).await;
    let identified = "IDENTIFIED WITH sha256_password BY {}";
    let settings = account(&mysqld, mongod, "old", identified).await;
    for mode in ["disabled", "required"] {
        let message = refusal(&settings.clone().set("MYSQL_TLS", mode)).await;
        assert_says(
            &message,
            &[
                "a login by sha256_password",
                "ALTER USER",
                "IDENTIFIED WITH caching_sha2_password",
            ],
        );
    }
}

async fn a_host_that_no_account_is_for_is_told(flavor: Flavor) {
    let (mysqld, mongod) = shop_on(flavor, &[]).await;
    let tap = Tap::start(mysqld.port(), "127.0.0.2").await;
    let settings = Settings::new(&mysqld, mongod)
        .set("START_FROM", "current")
        .set("MYSQL_ADDR", tap.addr());
    // MariaDB's root of 127.0.0.1 is there already.
    let root = if flavor.is_mariadb() {
        "DROP USER root@'%'"
    } else {
        "RENAME USER root@'%' TO root@'127.0.0.1'"
    };
    mysqld
        .exec(format!(
            "RENAME USER sdl@'%' TO sdl@'127.0.0.1'; {root}; FLUSH PRIVILEGES"
        ))
        .await;
    let message = refusal(&settings).await;
    assert_says(
        &message,
        &["127.0.0.2", "error 1130", "CREATE USER 'sdl'@'HOST OF SDL'"],
    );
}

async fn a_server_with_no_connection_left_is_waited_for(flavor: Flavor) {
    let (mysqld, mongod) = shop_on(flavor, &["--max-connections=2"]).await;
    let settings = Settings::new(&mysqld, mongod).set("START_FROM", "current");
    // Open beforehand: a place kept for administrators may be taken for a moment by whoever is refused.
    let mut admin = mysqld.root().await;
    // MariaDB takes no smaller limit than ten.
    let mut taken = Vec::new();
    while let Ok(connection) = mysqld.connect(mysql::USER, mysql::PASSWORD).await {
        taken.push(connection);
    }
    let daemon = talkative(&settings);
    let line = daemon.wait_for_log("trying again", SOON).await;
    assert_says(&line, &["Too many connections (error 1040)"]);
    admin
        .query_drop("SET GLOBAL max_connections = 100")
        .await
        .unwrap();
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    drop(taken);
}

#[tokio::test]
async fn no_secret_is_in_any_line_at_any_level_whatever_it_is_given_as() {
    let (mysqld, mongod) = shop(&[]).await;
    let settings = account(&mysqld, mongod, "auditor", "IDENTIFIED BY {}").await;
    let host = mongod.addr();
    for uri in [
        format!("mongodb://planted:planted@{host}/?replicaSet=rs0&authMechanism=SCRAM-SHA-256"),
        format!("mongodb://u:planted@{host}/?replicaSet=rs0&nonsense=planted"),
        format!("mongodb://u:planted@{host}/?replicaSet=rs0&readPreference=planted"),
        "mongodb://u:planted@nowhere.invalid/?replicaSet=rs0".to_owned(),
        "mongodb+srv://u:planted@nowhere.invalid/".to_owned(),
    ] {
        let daemon = talkative(&settings.clone().set("MONGO_URI", uri));
        wait_until("it is refused or waited for", SOON, async || {
            !daemon.is_running() || daemon.has_logged("trying again")
        })
        .await;
        assert!(!daemon.has_logged("Connected to MongoDB"));
        assert_silent_about_secrets(&daemon);
    }
    for format in ["text", "json"] {
        let settings = settings.clone().set("LOG_FORMAT", format);
        stop(reading(&settings).await).await;
    }
}

// --- MariaDB

/// Logs in by this plugin in both modes, right and wrong.
async fn logs_in_by(mysqld: &Mysqld, mongod: &Mongod, plugin: &str) {
    let identified = format!("IDENTIFIED VIA {plugin} USING PASSWORD({{}})");
    let settings = account(mysqld, mongod, &format!("by_{plugin}"), &identified).await;
    for mode in ["disabled", "preferred"] {
        let settings = settings.clone().set("MYSQL_TLS", mode);
        stop(records(mysqld, mongod, &settings).await).await;
        let message = refusal(&settings.set("MYSQL_PASS", "planted wrong")).await;
        assert_says(&message, &["Access denied", "MYSQL_USER and MYSQL_PASS"]);
        assert!(!message.contains("GRANT"), "{message}");
    }
}

async fn mariadbs_native_and_ed25519_passwords_log_in(flavor: Flavor) {
    let (mysqld, mongod) = shop_on(flavor, &[]).await;
    mysqld.exec("INSTALL SONAME 'auth_ed25519'").await;
    for plugin in ["mysql_native_password", "ed25519"] {
        logs_in_by(&mysqld, mongod, plugin).await;
    }
}

/// The driver cuts the bytes that ed25519 and parsec sign where the last of them is zero: one of 256 logins is refused, with
/// a right password. Here the refusal is made by hand, and each login is asked for what it does.
async fn a_right_password_that_is_refused_twice_is_taken_at_the_third_login(flavor: Flavor) {
    let (mysqld, mongod) = shop_on(flavor, &[]).await;
    mysqld.exec("INSTALL SONAME 'auth_ed25519'").await;
    let identified = "IDENTIFIED VIA ed25519 USING PASSWORD({})";
    let tap = Tap::start(mysqld.port(), "127.0.0.1").await;
    let settings = account(&mysqld, mongod, "auditor", identified)
        .await
        .set("MYSQL_TLS", "disabled")
        .set("MYSQL_ADDR", tap.addr())
        .set("SOURCE_ID", "the server behind the tap");

    tap.damage(2);
    stop(records(&mysqld, mongod, &settings).await).await;
    assert_eq!(tap.to_damage(), 0);

    tap.damage(3);
    let message = refusal(&settings).await;
    assert_says(&message, &["Access denied", "MYSQL_USER and MYSQL_PASS"]);
    assert_eq!(tap.to_damage(), 0);

    // MySQL has neither of the two logins: one refusal is the answer.
    tap.damage(2);
    let as_mysql = settings
        .set("MYSQL_FLAVOR", "mysql")
        .set("SOURCE_ID", "mysql");
    assert_says(&refusal(&as_mysql).await, &["Access denied"]);
    assert_eq!(tap.to_damage(), 1);
}

async fn mariadbs_parsec_password_logs_in(flavor: Flavor) {
    let (mysqld, mongod) = shop_on(flavor, &[]).await;
    mysqld.exec("INSTALL SONAME 'auth_parsec'").await;
    logs_in_by(&mysqld, mongod, "parsec").await;
}

async fn mariadbs_refusals_are_told_apart_and_mended_as_told(flavor: Flavor) {
    // A refusal is three logins: see the test above.
    let (mysqld, mongod) = shop_on(flavor, &["--max-password-errors=9"]).await;
    let settings = account(&mysqld, mongod, "auditor", "IDENTIFIED BY {}").await;

    mysqld
        .exec("SET GLOBAL disconnect_on_expired_password = ON; ALTER USER auditor PASSWORD EXPIRE")
        .await;
    let message = refusal(&settings).await;
    assert_says(
        &message,
        &["the password has expired: ALTER USER 'auditor'@'HOST'"],
    );
    mysqld
        .exec("ALTER USER 'auditor'@'%' IDENTIFIED BY 'planted new' PASSWORD EXPIRE NEVER")
        .await;
    let settings = settings.set("MYSQL_PASS", "planted new");

    mysqld.exec("ALTER USER auditor ACCOUNT LOCK").await;
    let message = refusal(&settings).await;
    assert_says(
        &message,
        &["error 4151", "ALTER USER 'auditor'@'HOST' ACCOUNT UNLOCK"],
    );
    mysqld.exec("ALTER USER 'auditor'@'%' ACCOUNT UNLOCK").await;

    let wrong = settings.clone().set("MYSQL_PASS", "planted wrong");
    for _ in 0..3 {
        assert_says(&refusal(&wrong).await, &["Access denied", "MYSQL_PASS"]);
    }
    assert_says(
        &refusal(&settings).await,
        &["error 4150", "FLUSH PRIVILEGES"],
    );
    mysqld.exec("FLUSH PRIVILEGES").await;

    mysqld
        .exec("REVOKE REPLICATION SLAVE ON *.* FROM auditor")
        .await;
    let message = refusal(&settings).await;
    assert_says(&message, &["grant it: GRANT REPLICATION SLAVE"]);
    assert!(!message.contains("MYSQL_PASS"), "{message}");
    mysqld.exec(format!("{GRANT} auditor")).await;

    mysqld.exec("ALTER USER auditor REQUIRE SSL").await;
    let message = refusal(&settings.clone().set("MYSQL_TLS", "disabled")).await;
    assert_says(&message, &["REQUIRE SSL needs a connection with TLS"]);
    mysqld.exec("ALTER USER auditor REQUIRE NONE").await;

    stop(records(&mysqld, mongod, &settings).await).await;
}

// --- the accounts of the documentation

async fn the_documented_account_is_enough(flavor: Flavor) {
    let authority = Authority::new();
    let certificate = authority.server(&["127.0.0.1"]);
    let (mysqld, mongod) = shop_on(
        flavor,
        &[
            &format!("--ssl-cert={}", certificate.file.display()),
            &format!("--ssl-key={}", certificate.key.display()),
        ],
    )
    .await;
    let statements = documented("sql");
    assert_eq!(statements.len(), 2, "one for MySQL, one for MariaDB");
    mysqld
        .exec(&statements[usize::from(flavor.is_mariadb())])
        .await;
    let settings = Settings::new(&mysqld, mongod)
        .set("MYSQL_USER", "sdl_reader")
        .set("MYSQL_PASS", "PASSWORD")
        .set("MYSQL_TLS", "verify-identity")
        .set("MYSQL_TLS_CA", authority.file.display());
    let daemon = records(&mysqld, mongod, &settings).await;
    daemon.kill9();
    stop(records(&mysqld, mongod, &settings).await).await;
    let message = refusal(&settings.set("MYSQL_TLS", "disabled").unset("MYSQL_TLS_CA")).await;
    assert_says(&message, &["REQUIRE SSL needs a connection with TLS"]);
}
