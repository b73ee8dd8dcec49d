//! MYSQL_TLS in each of its modes, against servers whose certificates the test made.

use std::fs;

use crate::common::{Flavor, Mongod, Mysqld, Settings, caught_up, on_every_server, wait_until};
use crate::connection::certificates::{Authority, Certificate};
use crate::connection::{SHOP, SOON, assert_says, reading, records, refusal, stop, talkative};

on_every_server! {
    each_mode_encrypts_and_verifies_what_it_says,
    another_authority_is_refused_by_both_verifying_modes,
    another_name_is_refused_by_verify_identity_and_taken_by_verify_ca,
    addresses_are_verified_against_addresses_and_names_against_names,
    an_expired_certificate_is_told_and_a_new_one_is_taken_at_the_next_connection,
    a_server_without_tls_is_refused_or_taken_with_a_warning,
    an_account_that_requires_tls_is_told_as_far_as_the_server_tells,
    a_client_certificate_is_shown_where_the_account_asks_for_one,
}

fn without_tls(flavor: Flavor) -> &'static str {
    if flavor.is_mariadb() {
        "--skip-ssl"
    } else {
        "--tls-version="
    }
}

fn reload_tls(flavor: Flavor) -> &'static str {
    if flavor.is_mariadb() {
        "FLUSH SSL"
    } else {
        "ALTER INSTANCE RELOAD TLS"
    }
}

/// What the daemon's own connections use, as the server sees it: `<none>` without TLS. Read from all sessions of the daemon's
/// account, so that it covers the one over which the binlog comes.
async fn ciphers(mysqld: &Mysqld) -> Vec<String> {
    mysqld
        .query(
            "SELECT variable_value FROM performance_schema.status_by_thread JOIN performance_schema.threads USING (thread_id)
             WHERE variable_name = 'Ssl_version' AND processlist_user = 'sdl'",
        )
        .await
}

/// The server notices a killed daemon only when it writes its next heartbeat.
async fn end_sessions(mysqld: &Mysqld) {
    let sessions = "SELECT id FROM information_schema.processlist WHERE user = 'sdl'";
    let found: Vec<u64> = mysqld.query(sessions).await;
    for id in found {
        // It may have ended by itself.
        let _ = mysqld.try_exec(format!("KILL {id}")).await;
    }
    wait_until("the daemon's sessions are gone", SOON, async || {
        mysqld.query::<u64>(sessions).await.is_empty()
    })
    .await;
}

/// A server that shows this certificate.
async fn server(flavor: Flavor, certificate: &Certificate, authority: &Authority) -> Mysqld {
    let options: [&str; 4] = [
        &format!("--ssl-cert={}", certificate.file.display()),
        &format!("--ssl-key={}", certificate.key.display()),
        &format!("--ssl-ca={}", authority.file.display()),
        // Sees what a session uses.
        "--performance-schema=ON",
    ];
    let mysqld = Mysqld::start_as(flavor, &options).await;
    mysqld.exec(SHOP).await;
    mysqld
}

fn settings(mysqld: &Mysqld, mongod: &Mongod, mode: &str) -> Settings {
    Settings::new(mysqld, mongod)
        .set("START_FROM", "current")
        .set("MYSQL_TLS", mode)
}

fn addressed(settings: Settings, host: &str, mysqld: &Mysqld) -> Settings {
    settings.set("MYSQL_ADDR", format!("{host}:{}", mysqld.port()))
}

async fn each_mode_encrypts_and_verifies_what_it_says(flavor: Flavor) {
    let authority = Authority::new();
    let certificate = authority.server(&["localhost", "127.0.0.1"]);
    let (mysqld, mongod) = tokio::join!(server(flavor, &certificate, &authority), Mongod::shared());
    let ca = authority.file.display();
    for (mode, verifies, encrypted) in [
        ("disabled", false, false),
        ("preferred", false, true),
        ("required", false, true),
        ("verify-ca", true, true),
        ("verify-identity", true, true),
    ] {
        for host in ["localhost", "127.0.0.1"] {
            let mut settings = addressed(settings(&mysqld, mongod, mode), host, &mysqld);
            if verifies {
                settings = settings.set("MYSQL_TLS_CA", ca.to_string());
            }
            let daemon = records(&mysqld, mongod, &settings).await;
            let found = ciphers(&mysqld).await;
            assert!(!found.is_empty());
            for version in &found {
                assert_eq!(
                    version.starts_with("TLSv1."),
                    encrypted,
                    "{mode}: {found:?}"
                );
            }
            assert!(!daemon.has_logged("not encrypted"));
            daemon.kill9();
            end_sessions(&mysqld).await;
        }
    }
}

// --- what verify-ca and verify-identity refuse, and how they say it

async fn another_authority_is_refused_by_both_verifying_modes(flavor: Flavor) {
    let (authority, other) = (Authority::new(), Authority::named("another authority"));
    let same_name = Authority::new();
    let certificate = authority.server(&["localhost", "127.0.0.1"]);
    let (mysqld, mongod) = tokio::join!(server(flavor, &certificate, &authority), Mongod::shared());
    for mode in ["verify-ca", "verify-identity"] {
        let settings = settings(&mysqld, mongod, mode);
        for (trusted, found) in [
            (&other, "signed by none of the trusted"),
            (
                &same_name,
                "of the same name as a trusted one, but with another key",
            ),
        ] {
            let ca = trusted.file.display().to_string();
            let message = refusal(&settings.clone().set("MYSQL_TLS_CA", &ca)).await;
            let to_do = "set MYSQL_TLS_CA to a copy of the authority";
            assert_says(&message, &["wrong authority", found, &ca, to_do]);
        }
        if mode == "verify-identity" {
            let message = refusal(&settings).await;
            let trusted = "trusted are the web's authorities (MYSQL_TLS_CA is not set)";
            assert_says(&message, &["wrong authority", trusted]);
        }
        // Of several authorities in the file one is enough.
        let bundle = other.file.with_file_name("bundle.pem");
        let parts =
            [&other, &authority].map(|authority| fs::read_to_string(&authority.file).unwrap());
        fs::write(&bundle, parts.concat()).unwrap();
        let settings = settings.set("MYSQL_TLS_CA", bundle.display());
        reading(&settings).await;
    }
}

async fn another_name_is_refused_by_verify_identity_and_taken_by_verify_ca(flavor: Flavor) {
    let authority = Authority::new();
    let certificate = authority.server(&["db1.example.com", "10.1.2.3"]);
    let (mysqld, mongod) = tokio::join!(server(flavor, &certificate, &authority), Mongod::shared());
    let ca = authority.file.display();
    for host in ["localhost", "127.0.0.1"] {
        let with = |mode| {
            addressed(settings(&mysqld, mongod, mode), host, &mysqld)
                .set("MYSQL_TLS_CA", ca.to_string())
        };
        let message = refusal(&with("verify-identity")).await;
        assert_says(
            &message,
            &[
                "wrong name",
                &format!("is for db1.example.com, 10.1.2.3, not for {host}"),
                &format!("subjectAltName {host}"),
                "MYSQL_TLS=verify-ca",
            ],
        );
        reading(&with("verify-ca")).await;
    }
}

async fn addresses_are_verified_against_addresses_and_names_against_names(flavor: Flavor) {
    let authority = Authority::new();
    let mongod = Mongod::shared().await;
    for (named, refused, taken) in [
        ("127.0.0.1", "localhost", "127.0.0.1"),
        ("localhost", "127.0.0.1", "localhost"),
    ] {
        let mysqld = server(flavor, &authority.server(&[named]), &authority).await;
        let settings = settings(&mysqld, mongod, "verify-identity")
            .set("MYSQL_TLS_CA", authority.file.display());
        let message = refusal(&addressed(settings.clone(), refused, &mysqld)).await;
        assert_says(
            &message,
            &["wrong name", &format!("is for {named}, not for {refused}")],
        );
        reading(&addressed(settings, taken, &mysqld)).await;
    }
}

#[tokio::test]
async fn the_certificate_that_a_server_makes_for_itself_passes_verify_ca_with_its_authority() {
    // It names no host at all.
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(SHOP).await;
    let with = |mode| {
        settings(&mysqld, mongod, mode)
            .set("MYSQL_TLS_CA", mysqld.datadir().join("ca.pem").display())
    };
    stop(records(&mysqld, mongod, &with("verify-ca")).await).await;
    let message = refusal(&with("verify-identity")).await;
    assert_says(&message, &["wrong name", "no subjectAltName"]);
}

async fn an_expired_certificate_is_told_and_a_new_one_is_taken_at_the_next_connection(
    flavor: Flavor,
) {
    let authority = Authority::new();
    let expired = authority.expired(&["127.0.0.1"]);
    let (mysqld, mongod) = tokio::join!(server(flavor, &expired, &authority), Mongod::shared());
    let with = |mode| settings(&mysqld, mongod, mode).set("MYSQL_TLS_CA", authority.file.display());
    for mode in ["verify-ca", "verify-identity"] {
        let message = refusal(&with(mode)).await;
        assert_says(
            &message,
            &["expired", "2020-02-03", "ALTER INSTANCE RELOAD TLS"],
        );
    }
    // As the message tells.
    let renewed = authority.server(&["127.0.0.1"]);
    fs::copy(&renewed.file, &expired.file).unwrap();
    fs::copy(&renewed.key, &expired.key).unwrap();
    mysqld.exec(reload_tls(flavor)).await;
    let daemon = reading(&with("verify-identity")).await;

    // And the other way round: what is refused at a reconnect is no network that is down.
    let old = authority.expired(&["127.0.0.1"]);
    fs::copy(&old.file, &expired.file).unwrap();
    fs::copy(&old.key, &expired.key).unwrap();
    mysqld.kill();
    mysqld.start_again().await;
    let (code, _) = daemon.wait_exit(SOON).await;
    assert_eq!(code, 3, "{:#?}", daemon.logs());
    assert!(daemon.has_logged("expired: the server's certificate"));
}

#[tokio::test]
async fn a_network_that_is_down_during_the_handshake_is_waited_for() {
    let authority = Authority::new();
    let certificate = authority.server(&["127.0.0.1"]);
    let (mysqld, mongod) = tokio::join!(
        server(Flavor::Mysql, &certificate, &authority),
        Mongod::shared()
    );
    let settings =
        settings(&mysqld, mongod, "verify-identity").set("MYSQL_TLS_CA", authority.file.display());
    mysqld.kill();
    let daemon = talkative(&settings);
    daemon.wait_for_log("trying again", SOON).await;
    mysqld.start_again().await;
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    mysqld.kill();
    mysqld.start_again().await;
    mysqld.exec("INSERT INTO shop.t VALUES ()").await;
    caught_up(&mysqld, mongod, settings.database()).await;
}

// --- servers without TLS

async fn a_server_without_tls_is_refused_or_taken_with_a_warning(flavor: Flavor) {
    let authority = Authority::new();
    let options = [without_tls(flavor)];
    let (mysqld, mongod) = tokio::join!(Mysqld::start_as(flavor, &options), Mongod::shared());
    mysqld.exec(SHOP).await;
    for mode in ["required", "verify-ca", "verify-identity"] {
        let mut settings = settings(&mysqld, mongod, mode);
        if mode != "required" {
            settings = settings.set("MYSQL_TLS_CA", authority.file.display());
        }
        let message = refusal(&settings).await;
        assert_says(
            &message,
            &[
                "the server offers no TLS",
                "ssl_cert",
                "MYSQL_TLS=preferred",
            ],
        );
    }
    let daemon = records(&mysqld, mongod, &settings(&mysqld, mongod, "preferred")).await;
    let warnings = daemon.logs();
    let warnings: Vec<_> = warnings
        .iter()
        .filter(|line| line.contains("not encrypted"))
        .collect();
    assert_eq!(warnings.len(), 1, "{warnings:#?}");
    assert_says(warnings[0], &["WARN", "MYSQL_TLS=disabled"]);
    stop(daemon).await;
    let daemon = records(&mysqld, mongod, &settings(&mysqld, mongod, "disabled")).await;
    assert!(!daemon.has_logged("not encrypted"));
}

#[tokio::test]
async fn a_server_that_takes_encrypted_connections_only_tells_which_mode_is_missing() {
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::shared());
    mysqld.exec(SHOP).await;
    mysqld
        .exec("SET GLOBAL require_secure_transport = ON")
        .await;
    let message = refusal(&settings(&mysqld, mongod, "disabled")).await;
    assert_says(&message, &["MYSQL_TLS=verify-identity", "error 3159"]);
    reading(&settings(&mysqld, mongod, "preferred")).await;
}

async fn an_account_that_requires_tls_is_told_as_far_as_the_server_tells(flavor: Flavor) {
    let authority = Authority::new();
    let certificate = authority.server(&["127.0.0.1"]);
    let (mysqld, mongod) = tokio::join!(server(flavor, &certificate, &authority), Mongod::shared());
    mysqld.exec("ALTER USER sdl REQUIRE SSL").await;
    let message = refusal(&settings(&mysqld, mongod, "disabled")).await;
    assert_says(
        &message,
        &[
            "Access denied",
            "REQUIRE SSL needs a connection with TLS, and this one has none",
        ],
    );
    reading(&settings(&mysqld, mongod, "required")).await;
}

// --- client certificates

async fn a_client_certificate_is_shown_where_the_account_asks_for_one(flavor: Flavor) {
    let (authority, other) = (Authority::new(), Authority::named("another authority"));
    let certificate = authority.server(&["127.0.0.1"]);
    let (mysqld, mongod) = tokio::join!(server(flavor, &certificate, &authority), Mongod::shared());
    let (client, someone) = (authority.client("sdl"), authority.client("someone else"));
    let stranger = other.client("sdl");
    let bare =
        settings(&mysqld, mongod, "verify-identity").set("MYSQL_TLS_CA", authority.file.display());
    let showing = |certificate: &Certificate| {
        bare.clone()
            .set("MYSQL_TLS_CERT", certificate.file.display())
            .set("MYSQL_TLS_KEY", certificate.key.display())
    };
    mysqld.exec("ALTER USER sdl REQUIRE X509").await;
    let message = refusal(&bare).await;
    assert_says(
        &message,
        &[
            "Access denied",
            "none was shown: set MYSQL_TLS_CERT and MYSQL_TLS_KEY",
        ],
    );
    for certificate in [&client, &someone] {
        reading(&showing(certificate)).await;
    }

    mysqld
        .exec("ALTER USER sdl REQUIRE SUBJECT '/CN=sdl'")
        .await;
    reading(&showing(&client)).await;
    let message = refusal(&showing(&someone)).await;
    assert_says(
        &message,
        &[
            "Access denied",
            "may name another one than the certificate of MYSQL_TLS_CERT",
        ],
    );

    // One of another authority: the server itself refuses it.
    let message = refusal(&showing(&stranger)).await;
    assert_says(
        &message,
        &["does not accept the client certificate", "MYSQL_TLS_CERT"],
    );

    // A key that belongs to another certificate.
    let mixed = showing(&client).set("MYSQL_TLS_KEY", someone.key.display());
    assert_says(
        &refusal(&mixed).await,
        &[
            "does not belong to the client's certificate",
            "MYSQL_TLS_KEY",
        ],
    );
}
