//! The whole of the configuration: defaults, precedence of the places, secrets, and rules between settings. The table
//! of wrong settings is in tests/operating/settings.rs.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;

const REQUIRED: [(&str, &str); 3] = [
    ("MYSQL_ADDR", "db1.example.com"),
    ("MYSQL_USER", "repl"),
    ("MONGO_URI", "mongodb://127.0.0.1:27017/?replicaSet=rs0"),
];

/// The required settings, and these after them; a later one of the same name wins.
fn sources(more: &[(&str, &str)]) -> Sources {
    Sources::from_environment(REQUIRED.iter().chain(more).copied())
}

fn config(more: &[(&str, &str)]) -> Config {
    Config::from_sources(&sources(more)).unwrap_or_else(|errors| panic!("{errors}"))
}

fn errors(more: &[(&str, &str)]) -> String {
    let errors = Config::from_sources(&sources(more)).expect_err("the settings are wrong");
    errors.to_string()
}

/// A directory that goes away with the test.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("sdl-config-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self, name: &str, content: &[u8]) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn text(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = config(&[]);
    assert_eq!(
        config.mysql_addresses[0].to_string(),
        "db1.example.com:3306"
    );
    assert!(config.mysql_password.is_empty());
    assert_eq!(config.mysql_flavor, None);
    assert_eq!(
        config.mysql_tls,
        MysqlTls {
            mode: TlsMode::Preferred,
            ca: None,
            client: None
        }
    );
    assert_eq!(config.mongo_hosts, "127.0.0.1:27017");
    assert_eq!(config.mongo_database, "audit");
    assert_eq!(
        config.collections,
        CollectionNames {
            changes: "row_changes".to_owned(),
            offsets: "binlog_offsets".to_owned(),
            staging: "row_changes_staging".to_owned(),
            schemas: "row_changes_schemas".to_owned(),
            values: "row_changes_values".to_owned(),
        }
    );
    assert!(
        config.tables.include.is_match("shop.orders")
            && !config.tables.exclude.is_match("shop.orders")
    );
    assert!(
        config.tables.exclude.is_match("mysql.user") && !config.tables.exclude.is_match("shop.sys")
    );
    assert_eq!(config.source_id, "mysql://db1.example.com:3306");
    assert_eq!(config.start_from, StartFrom::Current);
    assert_eq!((config.batch_size, config.batch_bytes), (1000, 8 << 20));
    assert_eq!(config.flush_interval, Duration::from_millis(100));
    assert_eq!(
        (config.pipeline_depth, config.max_value_bytes),
        (4, 1 << 20)
    );
    assert_eq!(
        config.retry,
        RetrySettings {
            max_attempts: 5,
            initial: Duration::from_millis(100),
            max_delay: Duration::from_secs(10)
        }
    );
    assert_eq!(
        config.breaker,
        BreakerSettings {
            failures: 5,
            open: Duration::from_secs(30)
        }
    );
    assert_eq!(config.spool, None);
    assert_eq!(config.lease_ttl, None);
    assert_eq!(
        config.metrics_address,
        Some(SocketAddr::from(([127, 0, 0, 1], 9750)))
    );
    assert_eq!(config.shutdown_timeout, Duration::from_secs(25));
    assert_eq!(config.log_format, LogFormat::Text);
    assert_eq!(config.log_filter, "info");
    assert_eq!(config.warnings, Vec::<String>::new());
}

#[test]
fn right_values_are_taken() {
    let config = config(&[
        ("MYSQL_ADDR", "db1:3307, [fe80::1]:3308,10.0.0.1,[::1]"),
        ("MYSQL_PASS", " a secret with spaces "),
        ("MYSQL_FLAVOR", "mysql"),
        ("MYSQL_SERVER_ID", "4294967295"),
        ("MYSQL_TLS", "verify-identity"),
        ("SOURCE_ID", "shop production"),
        (
            "START_FROM",
            "3E11FA47-71CA-11E1-9E33-C80AA9429562:1-5:tag:7",
        ),
        ("BATCH_BYTES", "512 KiB"),
        ("MAX_VALUE_BYTES", "1MB"),
        ("FLUSH_INTERVAL", "1m"),
        ("SHUTDOWN_TIMEOUT", "1h"),
        ("SPOOL_DIR", "/var/lib/sdl"),
        ("SPOOL_MAX_BYTES", "2048GiB"),
        ("LEASE", "on"),
        ("LEASE_TTL", "5s"),
        ("METRICS_ADDR", "off"),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "warn,sdl::source=trace"),
        ("TZ", "UTC"),
        ("EXCLUDE_REGEX", "^$"),
    ]);
    let addresses: Vec<_> = config
        .mysql_addresses
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        addresses,
        ["db1:3307", "[fe80::1]:3308", "10.0.0.1:3306", "[::1]:3306"]
    );
    assert_eq!(config.mysql_password.expose(), " a secret with spaces ");
    assert_eq!(config.mysql_flavor, Some(Flavor::Mysql));
    assert_eq!(config.mysql_server_id, u32::MAX);
    assert_eq!(config.source_id, "shop production");
    let set = "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5:tag:7";
    assert_eq!(config.start_from, StartFrom::Gtid(set.parse().unwrap()));
    assert_eq!(
        (config.batch_bytes, config.max_value_bytes),
        (512 << 10, 1_000_000)
    );
    assert_eq!(config.flush_interval, Duration::from_secs(60));
    assert_eq!(config.shutdown_timeout, Duration::from_secs(3600));
    assert_eq!(
        config.spool,
        Some(SpoolSettings {
            directory: "/var/lib/sdl".into(),
            max_bytes: 2 << 40
        })
    );
    assert_eq!(config.lease_ttl, Some(Duration::from_secs(5)));
    assert_eq!(config.metrics_address, None);
    assert_eq!(config.log_format, LogFormat::Json);
    assert_eq!(config.time_zone.iana_name(), Some("UTC"));
    assert!(!config.tables.exclude.is_match("mysql.user"));
}

#[test]
fn connection_strings_that_drivers_take_are_taken() {
    for (uri, hosts) in [
        ("mongodb://h", "h"),
        (
            "mongodb://h1:1,h2:2,[::1]:3/audit?replicaSet=rs0&w=majority",
            "h1:1,h2:2,[::1]:3",
        ),
        (
            "mongodb://user:p%40ss%2F@h:27017/?authSource=admin",
            "h:27017",
        ),
        ("mongodb://user@h/", "h"),
        (
            "mongodb+srv://u:p@cluster0.abc.mongodb.net/?retryWrites=true",
            "cluster0.abc.mongodb.net",
        ),
        ("mongodb://CN%3Dclient@h/?authMechanism=MONGODB-X509", "h"),
        (
            "mongodb://%2Ftmp%2Fmongodb-27017.sock",
            "%2Ftmp%2Fmongodb-27017.sock",
        ),
    ] {
        let config = config(&[("MONGO_URI", uri)]);
        assert_eq!(config.mongo_hosts, hosts);
        assert_eq!(config.mongo_uri.expose(), uri);
    }
}

#[test]
fn the_default_server_id_is_stable_and_high() {
    let id = config(&[]).mysql_server_id;
    assert_eq!(id, config(&[("MYSQL_SERVER_ID", "")]).mysql_server_id);
    // Pinned: another id after an upgrade would meet the old one at the server.
    assert_eq!(id, derived_server_id("mysql://db1.example.com:3306"));
    assert_eq!(derived_server_id("mysql://127.0.0.1:3306"), 3_154_422_847);
    assert!(id >= 1 << 31);
    assert_ne!(id, config(&[("SOURCE_ID", "other")]).mysql_server_id);
}

#[test]
fn the_environment_wins_over_dotenv_and_empty_is_unset() {
    let directory = Directory::new("dotenv");
    let file = directory.file(
        ".env",
        b"MONGO_DB=from_file\nMONGO_COLL=from_file # why\nMYSQL_PASS=from_file\nBATCH_SIZE=7\nLOG_FORMAT=\n",
    );
    let sources = sources(&[("MONGO_DB", "from_environment"), ("BATCH_SIZE", "")])
        .with_dotenv(Path::new(&file));
    let config = Config::from_sources(&sources).unwrap();
    assert_eq!(config.mongo_database, "from_environment");
    assert_eq!(config.collections.changes, "from_file");
    assert_eq!(config.mysql_password.expose(), "from_file");
    assert_eq!(config.batch_size, 7);
    assert_eq!(config.log_format, LogFormat::Text);
}

#[test]
fn the_guides_dotenv_is_read_as_it_stands() {
    // The example of the operators' guide: unquoted regular expressions with backslashes.
    let directory = Directory::new("guide");
    let file = directory.file(
        ".env",
        br"# MySQL Configuration
MYSQL_ADDR=127.0.0.1:3306
MYSQL_USER=repl_user
MYSQL_PASS=secure_password
MYSQL_FLAVOR=mysql
MYSQL_SERVER_ID=2222
MONGO_URI=mongodb://127.0.0.1:27017/?replicaSet=rs0&appName=audit
INCLUDE_REGEX=.*\..*
EXCLUDE_REGEX=^(mysql|performance_schema|information_schema|sys)\..*
TZ=UTC
",
    );
    let nothing: [(&str, &str); 0] = [];
    let sources = Sources::from_environment(nothing).with_dotenv(Path::new(&file));
    let config = Config::from_sources(&sources).unwrap();
    assert_eq!(config.mysql_server_id, 2222);
    assert_eq!(config.tables.include.as_str(), r".*\..*");
    let exclude = r"^(mysql|performance_schema|information_schema|sys)\..*";
    assert_eq!(config.tables.exclude.as_str(), exclude);
}

#[test]
fn secrets_come_from_files_and_credentials() {
    let directory = Directory::new("secrets");
    let file = directory.file("password", b"from a file\n");
    let config_with = |more: &[(&str, &str)]| config(more).mysql_password.expose().to_owned();
    assert_eq!(config_with(&[("MYSQL_PASS_FILE", &file)]), "from a file");

    let credentials = ("CREDENTIALS_DIRECTORY", directory.text());
    assert_eq!(config_with(&[credentials]), "");
    directory.file("MYSQL_PASS", b"from a credential\r\n");
    assert_eq!(config_with(&[credentials]), "from a credential");
    // What was set for this very process comes first, what lies in a directory last.
    assert_eq!(
        config_with(&[credentials, ("MYSQL_PASS", "direct")]),
        "direct"
    );
    assert_eq!(
        config_with(&[credentials, ("MYSQL_PASS_FILE", &file)]),
        "from a file"
    );
    let dotenv = directory.file(".env", b"MYSQL_PASS=from dotenv\n");
    let sources = sources(&[credentials]).with_dotenv(Path::new(&dotenv));
    let config = Config::from_sources(&sources).unwrap();
    assert_eq!(config.mysql_password.expose(), "from a credential");
    // Only secrets: nobody looks for a batch size there.
    directory.file("BATCH_SIZE", b"7");
    assert_eq!(super::tests::config(&[credentials]).batch_size, 1000);
}

#[test]
fn a_settings_file_has_its_credentials_beside_it() {
    let directory = Directory::new("beside");
    let file = directory.file("shop.env", b"BATCH_SIZE=7\n");
    fs::create_dir_all(directory.path().join("shop.credentials")).unwrap();
    directory.file("shop.credentials/MYSQL_PASS", b"from beside\n");
    let read = |more: &[(&str, &str)]| {
        let sources = sources(more).with_dotenv(Path::new(&file));
        assert_eq!(sources.file(), Some(Path::new(&file)));
        Config::from_sources(&sources).unwrap()
    };
    assert_eq!(read(&[]).mysql_password.expose(), "from beside");
    assert_eq!(read(&[]).batch_size, 7);
    // In a service they are systemd's, and the directory beside is root's.
    let credentials = ("CREDENTIALS_DIRECTORY", directory.text());
    assert_eq!(read(&[credentials]).mysql_password.expose(), "");
}

#[test]
fn what_changed_is_named() {
    let directory = Directory::new("changed");
    let with = |content: &[u8]| {
        let file = directory.file("changed.env", content);
        sources(&[]).with_dotenv(Path::new(&file))
    };
    let before = with(b"BATCH_SIZE=7\nMYSQL_PASS=one\nRUST_LOG=info\nUNKNOWN=1\n");
    let after = with(b"MYSQL_PASS=two\nRUST_LOG=debug\nTZ=UTC\nUNKNOWN=2\nMYSQL_ADDR=hidden by the environment\n");
    assert_eq!(before.changed(&before), [""; 0]);
    let mut changed = before.changed(&after);
    changed.sort_unstable();
    assert_eq!(changed, ["BATCH_SIZE", "MYSQL_PASS", "RUST_LOG", "TZ"]);
}

#[test]
fn a_settings_file_that_is_named_must_be_there() {
    let sources = Sources::from_process(Some(Path::new("/nonexistent/sdl.env")));
    let message = Config::from_sources(&sources).unwrap_err().to_string();
    assert!(
        message.contains("/nonexistent/sdl.env: --env-file names it, and it is not there"),
        "{message}"
    );
}

#[test]
fn wrong_secret_files_are_told_without_content() {
    let directory = Directory::new("wrong-secrets");
    let password = directory.file("password", b"hunter2");
    let empty = directory.file("empty", b"\n");
    let binary = directory.file("binary", b"hunter2\xff");
    let large = directory.file("large", &b"hunter2".repeat(20_000));
    let (password, empty) = (password.as_str(), empty.as_str());
    for (more, reason) in [
        (
            vec![("MYSQL_PASS", "hunter2"), ("MYSQL_PASS_FILE", password)],
            "is given twice",
        ),
        (
            vec![("MYSQL_PASS_FILE", "/nonexistent/password")],
            "cannot be read",
        ),
        (vec![("MYSQL_PASS_FILE", empty)], "is empty"),
        (vec![("MYSQL_PASS_FILE", &binary)], "is not UTF-8"),
        (vec![("MYSQL_PASS_FILE", &large)], "is larger than"),
        (
            vec![("MYSQL_PASS_FILE", directory.text())],
            "cannot be read",
        ),
    ] {
        let message = errors(&more);
        assert!(message.contains("MYSQL_PASS: "), "{message}");
        assert!(message.contains(reason), "{message}");
        assert!(message.contains("has 1 mistake:"), "{message}");
        assert!(!message.contains("hunter2"), "{message}");
    }
    // The path of the process's own directory of credentials is looked at, too.
    fs::create_dir_all(directory.path().join("MONGO_URI")).unwrap();
    let credentials = ("CREDENTIALS_DIRECTORY", directory.text());
    let message = errors(&[credentials, ("MONGO_URI", "")]);
    assert!(message.contains("MONGO_URI: the credential "), "{message}");
}

#[cfg(unix)]
#[test]
fn text_that_is_not_utf8_is_a_mistake() {
    use std::os::unix::ffi::OsStringExt;
    let wrong = std::ffi::OsString::from_vec(b"a\xff".to_vec());
    let required = REQUIRED.map(|(name, value)| (name, value.into()));
    let sources = Sources::from_environment(required.into_iter().chain([("MONGO_DB", wrong)]));
    let errors = Config::from_sources(&sources).unwrap_err();
    assert_eq!(errors.mistakes()[0].reason, "is not UTF-8");
}

#[test]
fn nothing_printed_holds_a_secret() {
    let config = config(&[
        ("MYSQL_PASS", "hunter2"),
        ("MONGO_URI", "mongodb://user3:hunter3@h/?replicaSet=rs0"),
    ]);
    let printed = format!("{config:?} {config:#?} {}", config.mysql_password);
    for secret in ["hunter2", "hunter3", "user3"] {
        assert!(!printed.contains(secret), "{printed}");
    }
}

#[test]
fn a_zone_of_the_system_is_taken() {
    for name in ["UTC", "Asia/Kolkata", ":Europe/Berlin"] {
        let file = Path::new("/usr/share/zoneinfo").join(name.trim_start_matches(':'));
        if name == "UTC" || file.exists() {
            let zone = config(&[("TZ", name)]).time_zone;
            assert_eq!(zone.iana_name(), Some(name.trim_start_matches(':')));
        }
    }
    config(&[("TZ", ":/etc/localtime")]);
    assert!(errors(&[("TZ", "Asia/Nowhere")]).contains("TZ: `Asia/Nowhere`: not a time zone"));
}

#[test]
fn tls_files_fit_the_mode_and_each_other() {
    let directory = Directory::new("tls");
    let block = |label: &str| format!("-----BEGIN {label}-----\nMAA=\n-----END {label}-----\n");
    let certificate = directory.file("certificate.pem", block("CERTIFICATE").as_bytes());
    let key = directory.file("key.pem", block("PRIVATE KEY").as_bytes());
    let (certificate, key) = (certificate.as_str(), key.as_str());
    let tls = config(&[
        ("MYSQL_TLS", "verify-ca"),
        ("MYSQL_TLS_CA", certificate),
        ("MYSQL_TLS_CERT", certificate),
        ("MYSQL_TLS_KEY", key),
    ])
    .mysql_tls;
    assert_eq!(tls.mode, TlsMode::VerifyCa);
    assert_eq!(tls.ca.as_deref(), Some(Path::new(certificate)));
    assert_eq!(tls.client.unwrap().key, Path::new(key));

    let password = directory.file("password.pem", block("ENCRYPTED PRIVATE KEY").as_bytes());
    let damaged = directory.file("damaged.pem", b"-----BEGIN CERTIFICATE-----\nMAA=\n");
    for (mistakes, expected) in [
        (
            &[("MYSQL_TLS_CERT", certificate)][..],
            "MYSQL_TLS_KEY: is not set, but MYSQL_TLS_CERT is",
        ),
        (
            &[("MYSQL_TLS", "required"), ("MYSQL_TLS_CA", certificate)],
            "MYSQL_TLS: `required` does not verify",
        ),
        (
            &[("MYSQL_TLS", "disabled"), ("MYSQL_TLS_CA", certificate)],
            "MYSQL_TLS_CA: is given, but MYSQL_TLS=disabled",
        ),
        (
            &[("MYSQL_TLS", "verify-ca")],
            "MYSQL_TLS_CA: is not set, but MYSQL_TLS=verify-ca",
        ),
        (
            &[("MYSQL_TLS", "verify-ca"), ("MYSQL_TLS_CA", key)],
            "the file holds no certificate",
        ),
        (
            &[("MYSQL_TLS", "verify-ca"), ("MYSQL_TLS_CA", &damaged)],
            "a certificate in the file is damaged",
        ),
        (
            &[
                ("MYSQL_TLS_CERT", certificate),
                ("MYSQL_TLS_KEY", certificate),
            ],
            "the file holds no private key",
        ),
        (
            &[
                ("MYSQL_TLS_CERT", certificate),
                ("MYSQL_TLS_KEY", &password),
            ],
            "the key in the file has a password",
        ),
    ] {
        let message = errors(mistakes);
        assert!(message.contains(expected), "{message}");
    }
    // The web's authorities vouch for names, so they do with a name.
    assert_eq!(
        config(&[("MYSQL_TLS", "verify-identity")]).mysql_tls.ca,
        None
    );
}

#[test]
fn collections_do_not_share_a_name() {
    for (more, setting) in [
        (
            vec![("MONGO_OFFSETS_COLL", "row_changes")],
            "MONGO_OFFSETS_COLL",
        ),
        (
            vec![("MONGO_STAGING_COLL", "binlog_offsets")],
            "MONGO_STAGING_COLL",
        ),
        (
            vec![("MONGO_STAGING_COLL", "row_changes_values")],
            "MONGO_STAGING_COLL",
        ),
        (
            vec![("MONGO_COLL", "a"), ("MONGO_OFFSETS_COLL", "a_schemas")],
            "MONGO_OFFSETS_COLL",
        ),
    ] {
        let message = errors(&more);
        assert!(message.contains(&format!("{setting}: ")), "{message}");
        assert!(message.contains("a name of its own"), "{message}");
    }
    let message = errors(&[("MONGO_COLL", &"c".repeat(230))]);
    assert!(
        message.contains("MONGO_COLL: MONGO_DB and this name make 244 bytes"),
        "{message}"
    );
}

#[test]
fn misspelt_names_are_warned_of() {
    let warnings = config(&[
        ("MYSQL_ADR", "1"),
        ("MYQSL_USER", "1"),
        ("MYSQL_PASSWORD", "hunter2"),
        ("MYSQL_USER_FILE", "1"),
        ("MYSQL_TLS_CAFILE", "1"),
        ("MYSQL_PAS_FILE", "1"),
        ("MONGODB_URI", "1"),
        ("batch_size", "1"),
        ("FLUSH_INTERVALL", "1"),
        // No setting of sdl, and not close to one.
        ("MYSQL_PWD", "1"),
        ("MYSQL_HOME", "1"),
        ("MYSQL_ROOT_HOST", "1"),
        ("RUST_LIB", "1"),
        ("TERM", "1"),
        ("LANG", "1"),
        ("MONGO_URI_FILE", ""),
    ])
    .warnings;
    assert_eq!(
        warnings,
        [
            "FLUSH_INTERVALL is no setting: is FLUSH_INTERVAL meant?",
            "MONGODB_URI is no setting: is MONGO_URI meant?",
            "MYQSL_USER is no setting: is MYSQL_USER meant?",
            "MYSQL_ADR is no setting: is MYSQL_ADDR meant?",
            "MYSQL_PASSWORD is no setting: is MYSQL_PASS meant?",
            "MYSQL_PAS_FILE is no setting: is MYSQL_PASS_FILE meant?",
            "MYSQL_TLS_CAFILE is no setting: is MYSQL_TLS_CA meant?",
            "MYSQL_USER_FILE is no setting: is MYSQL_USER meant?",
            "batch_size is no setting: is BATCH_SIZE meant?",
        ]
    );
}

#[test]
fn the_table_is_in_order() {
    let mut names: Vec<_> = SETTINGS.iter().map(|setting| setting.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), SETTINGS.len());
    for setting in SETTINGS {
        assert!(setting.help.ends_with('.'), "{}", setting.name);
        assert!(!setting.example.is_empty(), "{}", setting.name);
        // An example is taken, but for those that name files.
        if !setting.example.starts_with("/etc/") && setting.name != "TZ" {
            // A limit without what it limits is refused.
            let spool = ("SPOOL_DIR", "/var/lib/sdl");
            match setting.name {
                "SPOOL_MAX_BYTES" => config(&[spool, (setting.name, setting.example)]),
                _ => config(&[(setting.name, setting.example)]),
            };
        }
    }
    let help = help_text();
    assert!(
        SETTINGS
            .iter()
            .all(|one| help.contains(&format!("\n  {} (", one.name)))
    );
    assert!(help.lines().all(|line| line.chars().count() <= 100));
}
