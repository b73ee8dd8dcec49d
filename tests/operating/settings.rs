//! Wrong settings, and the documents that list the right ones.
//!
//! An operator's mistake must be told with the setting's name, the reason and an example that is right; all mistakes of
//! one start in one message; and nothing secret in any of it. `.env.example` and the README's table follow the table in
//! the code; `UPDATE_ENV_EXAMPLE=1 cargo test --test operating settings::` writes `.env.example` anew.
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use sdl::config::{Config, DefaultValue, SETTINGS, Setting, Sources, help_text};

/// A start without mistakes; every case below replaces something of it.
const RIGHT: [(&str, &str); 5] = [
    ("MYSQL_ADDR", "127.0.0.1:3306"),
    ("MYSQL_USER", "repl"),
    ("MYSQL_PASS", "planted-password"),
    (
        "MONGO_URI",
        "mongodb://auditor:planted-secret@127.0.0.1:27017/?replicaSet=rs0",
    ),
    ("MYSQL_TLS", "preferred"),
];

/// What no message may hold.
const PLANTED: &str = "planted";

/// Setting, wrong value, and what the reason says of it.
const WRONG: &[(&str, &str, &str)] = &[
    ("MYSQL_ADDR", "", "is not set"),
    (
        "MYSQL_ADDR",
        "db1:",
        "`db1:`: expected a port from 1 to 65535",
    ),
    ("MYSQL_ADDR", "db1:0", "expected a port from 1 to 65535"),
    ("MYSQL_ADDR", "db1:65536", "expected a port from 1 to 65535"),
    ("MYSQL_ADDR", "db1:3306,", "on both sides of each comma"),
    ("MYSQL_ADDR", ":3306", "expected a host name or address"),
    ("MYSQL_ADDR", "db 1:3306", "expected a host name or address"),
    ("MYSQL_ADDR", "::1", "an IPv6 address stands in brackets"),
    (
        "MYSQL_ADDR",
        "[::1:3306",
        "the bracket of the IPv6 address is not closed",
    ),
    (
        "MYSQL_ADDR",
        "[db1]:3306",
        "expected an IPv6 address between the brackets",
    ),
    (
        "MYSQL_ADDR",
        "[::1]3306",
        "expected :port behind the bracket",
    ),
    (
        "MYSQL_ADDR",
        "/run/mysqld/mysqld.sock",
        "not over a socket file",
    ),
    (
        "MYSQL_ADDR",
        "root:planted@db1:3306",
        "settings of their own",
    ),
    ("MYSQL_ADDR", "mysql://db1:3306", "expected host:port alone"),
    ("MYSQL_USER", "", "is not set"),
    ("MYSQL_PASS_FILE", "/nonexistent", "is given twice"),
    (
        "MYSQL_FLAVOR",
        "postgres",
        "`postgres`: expected mysql or mariadb",
    ),
    (
        "MYSQL_SERVER_ID",
        "0",
        "expected a whole number from 1 to 4294967295",
    ),
    (
        "MYSQL_SERVER_ID",
        "4294967296",
        "expected a whole number from 1 to 4294967295",
    ),
    (
        "MYSQL_SERVER_ID",
        "+7",
        "expected a whole number from 1 to 4294967295",
    ),
    (
        "MYSQL_SERVER_ID",
        "replica",
        "expected a whole number from 1 to 4294967295",
    ),
    (
        "MYSQL_TLS",
        "yes",
        "expected one of disabled, preferred, required, verify-ca, verify-identity",
    ),
    (
        "MYSQL_TLS_CA",
        "/nonexistent/ca.pem",
        "`/nonexistent/ca.pem`: the file cannot be read",
    ),
    ("MYSQL_TLS_CERT", "/dev/null", "the file is empty"),
    ("MYSQL_TLS_KEY", "/", "the file cannot be read"),
    ("MONGO_URI", "", "is not set"),
    (
        "MONGO_URI",
        "http://u:planted@h/",
        "expected mongodb:// or mongodb+srv:// at its beginning",
    ),
    ("MONGO_URI", "mongodb://u:planted@", "expected a host"),
    (
        "MONGO_URI",
        "mongodb://u:planted@h:70000/",
        "expected a port from 1 to 65535",
    ),
    (
        "MONGO_URI",
        "mongodb://u:pl@nted:planted@h/",
        "write % / ? : @ as %25 %2F %3F %3A %40",
    ),
    (
        "MONGO_URI",
        "mongodb://u:planted/x@h/",
        "an `@` stands behind a `/` or `?`",
    ),
    (
        "MONGO_URI",
        "mongodb://u:planted?x@h/",
        "an `@` stands behind a `/` or `?`",
    ),
    (
        "MONGO_URI",
        "mongodb://u:planted%zz@h/",
        "not followed by two hexadecimal digits",
    ),
    (
        "MONGO_URI",
        "mongodb://:planted@h/",
        "expected a user before the `@`",
    ),
    (
        "MONGO_URI",
        "mongodb://u:planted @h/",
        "there is white space in it",
    ),
    (
        "MONGO_URI",
        "mongodb://u:planted@h/?replicaSet",
        "expected name=value",
    ),
    (
        "MONGO_URI",
        "mongodb://u:planted@h1,,h2/",
        "expected a host name",
    ),
    (
        "MONGO_URI",
        "mongodb+srv://u:planted@h.example.com:27017/",
        "takes one host name without a port",
    ),
    ("MONGO_URI_FILE", "/nonexistent", "is given twice"),
    (
        "MONGO_DB",
        "my.audit",
        "expected at most 63 bytes without space",
    ),
    (
        "MONGO_DB",
        "admin",
        "no transactions in admin, config and local",
    ),
    ("MONGO_COLL", "system.changes", "belong to MongoDB"),
    ("MONGO_COLL", "1changes", "a letter or `_` first"),
    ("MONGO_OFFSETS_COLL", "system.offsets", "belong to MongoDB"),
    (
        "MONGO_OFFSETS_COLL",
        "row_changes",
        "is the collection of MONGO_COLL too",
    ),
    ("MONGO_STAGING_COLL", "a$b", "no `$`"),
    ("INCLUDE_REGEX", "(shop", "unclosed group"),
    ("EXCLUDE_REGEX", "(?!shop)", "look-around"),
    ("TZ", "Mars/Olympus", "expected an IANA name"),
    (
        "SOURCE_ID",
        "mysql://root:planted@db1",
        "must not hold a password",
    ),
    ("SOURCE_ID", "a\nb", "without control characters"),
    (
        "START_FROM",
        "now",
        "expected current, earliest, or a gtid set; `now` is not a server uuid",
    ),
    (
        "START_FROM",
        "3e11fa47-71ca-11e1-9e33-c80aa9429562:5-1",
        "the interval `5-1` ends before it begins",
    ),
    (
        "BATCH_SIZE",
        "0",
        "expected a whole number from 1 to 100000",
    ),
    (
        "BATCH_SIZE",
        "1_000",
        "expected a whole number from 1 to 100000",
    ),
    (
        "BATCH_BYTES",
        "16MiB",
        "expected a size from 64KiB to 12MiB",
    ),
    (
        "BATCH_BYTES",
        "8M",
        "expected bytes: a whole number, alone or with KiB, MiB, GiB, KB, MB or GB",
    ),
    ("FLUSH_INTERVAL", "100", "has no unit"),
    (
        "FLUSH_INTERVAL",
        "0ms",
        "expected a duration from 1ms to 1m",
    ),
    (
        "PIPELINE_DEPTH",
        "65",
        "expected a whole number from 1 to 64",
    ),
    (
        "MAX_VALUE_BYTES",
        "1KiB",
        "expected a size from 64KiB to 8MiB",
    ),
    (
        "RETRY_MAX_ATTEMPTS",
        "-1",
        "expected a whole number from 1 to 1000",
    ),
    (
        "RETRY_INITIAL",
        "1.5s",
        "expected a whole number and its unit",
    ),
    ("RETRY_MAX_DELAY", "10", "has no unit"),
    ("RETRY_MAX_DELAY", "50ms", "is shorter than RETRY_INITIAL"),
    (
        "SHUTDOWN_TIMEOUT",
        "99999999999999999999h",
        "expected a whole number and its unit",
    ),
    (
        "SHUTDOWN_TIMEOUT",
        "18446744073709551615h",
        "expected a duration from 1s to 1h",
    ),
    (
        "BREAKER_FAILURES",
        "0",
        "expected a whole number from 1 to 1000",
    ),
    (
        "BREAKER_OPEN",
        "1ms",
        "expected a duration from 100ms to 1h",
    ),
    ("LEASE", "yes", "expected one of on, off"),
    ("LEASE_TTL", "1h", "expected a duration from 1s to 5m"),
    ("SPOOL_DIR", "spool", "expected an absolute path"),
    (
        "SPOOL_MAX_BYTES",
        "1KiB",
        "expected a size from 16MiB to 1048576GiB",
    ),
    ("METRICS_ADDR", "localhost:9750", "expected address:port"),
    ("LOG_FORMAT", "xml", "expected one of text, json"),
    ("RUST_LOG", "sdl=loud", "not a filter of tracing"),
    ("RUST_LOG", "inof", "is info meant?"),
];

fn message(settings: &[(&str, &str)]) -> String {
    let all = RIGHT.iter().chain(settings).copied();
    match Config::from_sources(&Sources::from_environment(all)) {
        Ok(_) => panic!("{settings:?} is taken"),
        Err(errors) => errors.to_string(),
    }
}

fn setting(name: &str) -> &'static Setting {
    let name = name.strip_suffix("_FILE").unwrap_or(name);
    let found = SETTINGS.iter().find(|setting| setting.name == name);
    found.unwrap_or_else(|| panic!("{name} is in the table of settings"))
}

#[test]
fn every_wrong_setting_is_told_with_name_reason_and_example() {
    Config::from_sources(&Sources::from_environment(RIGHT)).expect("without a mistake it starts");
    for (name, value, reason) in WRONG {
        let message = message(&[(*name, *value)]);
        let setting = setting(name);
        let told = format!("\n  {}: ", setting.name);
        assert!(message.contains(&told), "{name}={value}: {message}");
        assert!(message.contains(reason), "{name}={value}: {message}");
        let example = format!("\n      example: {}={}", setting.name, setting.example);
        assert!(message.contains(&example), "{name}={value}: {message}");
        assert!(!message.contains(PLANTED), "{name}={value}: {message}");
        // A value that cannot be a secret is shown, so that the operator sees what arrived.
        let shown = !setting.secret && !value.is_empty() && !value.contains(['@', '\n']);
        assert!(
            !shown || message.contains(value),
            "{name}={value}: {message}"
        );
    }
}

#[test]
fn every_setting_that_can_be_wrong_is_in_the_table_of_wrong_ones() {
    for setting in SETTINGS {
        let wrong = WRONG
            .iter()
            .any(|(name, _, _)| name.strip_suffix("_FILE").unwrap_or(name) == setting.name);
        assert!(wrong, "{} has no wrong value in the table", setting.name);
    }
}

#[test]
fn all_mistakes_of_one_start_stand_in_one_message() {
    // The first wrong value of each setting, all at once.
    let mut all: Vec<(&str, &str)> = Vec::new();
    for (name, value, _) in WRONG {
        let base = setting(name).name;
        if all.iter().all(|(other, _)| setting(other).name != base) {
            all.push((*name, *value));
        }
    }
    let message = message(&all);
    let mut order = Vec::new();
    for (name, _) in &all {
        let told = format!("\n  {}: ", setting(name).name);
        let place = message.find(&told);
        order.push(place.unwrap_or_else(|| panic!("{name} is missing: {message}")));
    }
    assert!(
        message.starts_with(&format!("the configuration has {} mistakes:", all.len())),
        "{message}"
    );
    assert!(!message.contains(PLANTED), "{message}");
    // In the order of the documents, so that a long list can be worked through.
    let mut by_table: Vec<_> = SETTINGS
        .iter()
        .filter_map(|setting| message.find(&format!("\n  {}: ", setting.name)))
        .collect();
    assert!(by_table.is_sorted());
    by_table.sort_unstable();
    order.sort_unstable();
    assert_eq!(order, by_table);
}

#[test]
fn the_binary_tells_all_mistakes_and_no_secret() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("wrong-settings");
    fs::create_dir_all(&directory).unwrap();
    fs::write(
        directory.join(".env"),
        "BATCH_SIZE=none\nMYSQL_PASS=\"planted-dotenv\n# fine\nplanted-line\nLOG_FORMAT=json\n",
    )
    .unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_sdl"))
        .current_dir(&directory)
        .env_clear()
        .env("MYSQL_ADDR", "root:planted-address@127.0.0.1:3306")
        .env("MYSQL_PASS", "planted-password")
        .env("MONGO_URI", "mongodb://auditor:planted@secret@127.0.0.1/")
        .env("FLUSH_INTERVAL", "100")
        .env("MYSQL_FLAVOR", "postgres")
        .output()
        .unwrap();
    let told = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(64), "{told}");
    for name in [
        ".env line 2: ",
        ".env line 4: ",
        "MYSQL_ADDR: ",
        "MYSQL_USER: is not set",
        "MYSQL_FLAVOR: ",
        "MONGO_URI: ",
        "BATCH_SIZE: `none`: ",
        "FLUSH_INTERVAL: `100`: has no unit",
        "example: FLUSH_INTERVAL=",
    ] {
        assert!(told.contains(name), "{name} is missing: {told}");
    }
    assert!(!told.contains(PLANTED), "{told}");
    let printed = String::from_utf8(output.stdout).unwrap();
    assert!(!printed.contains(PLANTED), "{printed}");
}

#[test]
fn the_help_lists_every_setting_with_its_default() {
    let help = help_text();
    for setting in SETTINGS {
        let line = format!("\n  {} ({})\n", setting.name, setting.default.describe());
        assert!(help.contains(&line), "{line}");
    }
}

#[test]
fn env_example_is_the_table_of_settings() {
    let path = repository_file(".env.example");
    let expected = env_example();
    if std::env::var_os("UPDATE_ENV_EXAMPLE").is_some() {
        fs::write(&path, &expected).unwrap();
    }
    let found = fs::read_to_string(&path).unwrap();
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(found, expected);
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}

#[test]
fn env_example_works_as_it_is_and_with_every_line_switched_on() {
    let nothing: [(&str, &str); 0] = [];
    let load = |path: &Path| {
        let sources = Sources::from_environment(nothing).with_dotenv(path);
        Config::from_sources(&sources).unwrap_or_else(|errors| panic!("{errors}"))
    };
    load(&repository_file(".env.example"));

    let example = fs::read_to_string(repository_file(".env.example")).unwrap();
    let mut all = String::new();
    let mut count = 0;
    for line in example.lines() {
        let Some((name, _)) = line.trim_start_matches('#').split_once('=') else {
            continue;
        };
        if SETTINGS.iter().any(|setting| setting.name == name) {
            count += 1;
            // Its files are not on this machine.
            if !name.starts_with("MYSQL_TLS_") && name != "TZ" {
                writeln!(all, "{}", line.trim_start_matches('#')).unwrap();
            }
        }
    }
    assert_eq!(count, SETTINGS.len());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("every-line.env");
    fs::write(&path, all).unwrap();
    let config = load(&path);
    assert_eq!(config.tables.exclude.as_str(), default_of("EXCLUDE_REGEX"));
    assert_eq!(config.tables.include.as_str(), default_of("INCLUDE_REGEX"));
}

#[test]
fn the_readme_lists_every_setting_with_its_default() {
    let readme = fs::read_to_string(repository_file("README.md")).expect("README.md");
    let missing: Vec<_> = SETTINGS
        .iter()
        .map(readme_row)
        .filter(|row| !readme.lines().any(|line| line.starts_with(row.as_str())))
        .collect();
    let missing = missing.join("\n");
    assert!(
        missing.is_empty(),
        "the table of settings needs lines that begin with:\n{missing}"
    );
}

fn repository_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

fn default_of(name: &str) -> &'static str {
    setting(name).default.describe()
}

/// The beginning of a setting's row in the README; its reason follows in words of the README's own.
fn readme_row(setting: &Setting) -> String {
    let default = match setting.default {
        DefaultValue::Text(text) => format!("`{}`", text.replace('|', "\\|")),
        other => other.describe().to_owned(),
    };
    format!("| `{}` | {default} |", setting.name)
}

/// `.env.example`: under each heading every setting, its reason, and its default switched off by a `#`; what has no
/// default shows an example.
fn env_example() -> String {
    let mut text = String::from(
        "# Settings of sdl: copy this to .env in its working directory, readable by its user alone (chmod 600).\n\
         # The environment wins over this file. A line that begins with `#NAME=` shows a default, or an example where\n\
         # there is none; take the `#` away to set it. An empty value is as good as none.\n\
         #\n\
         # Durations carry a unit: 100ms, 25s, 5m, 1h. Sizes may: 512KiB, 8MiB, or plain bytes.\n\
         # `$` is never replaced. Unquoted and 'single-quoted' values are taken as they stand; in \"double quotes\"\n\
         # \\\\ \\\" \\$ and \\n are escapes.\n\
         #\n\
         # MYSQL_PASS and MONGO_URI are better kept elsewhere: as MYSQL_PASS_FILE=/path and MONGO_URI_FILE=/path, or as\n\
         # systemd credentials of these names (LoadCredential=MYSQL_PASS:/path).\n",
    );
    let mut group = "";
    for setting in SETTINGS {
        if setting.group != group {
            group = setting.group;
            write!(text, "\n# ---- {group}\n").unwrap();
        }
        text.push('\n');
        for line in wrap(setting.help, 108) {
            writeln!(text, "# {line}").unwrap();
        }
        let name = setting.name;
        match setting.default {
            DefaultValue::Required => {
                writeln!(text, "# Required.\n{name}={}", quoted(setting.example))
            }
            DefaultValue::Text(default) => writeln!(text, "#{name}={}", quoted(default)),
            DefaultValue::Derived(how) | DefaultValue::Unset(how) => {
                writeln!(
                    text,
                    "# Default: {how}.\n#{name}={}",
                    quoted(setting.example)
                )
            }
        }
        .unwrap();
    }
    text
}

/// A value that shells, systemd and sdl read alike.
fn quoted(value: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "_-./:,".contains(character);
    if value.chars().all(plain) {
        value.to_owned()
    } else {
        format!("'{value}'")
    }
}

fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match lines.last_mut() {
            Some(line) if line.len() + 1 + word.len() <= width => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}
