//! `sdl replay`, run as an operator would: binlogs are copied, purged from the server, and recorded from the copies.
//!
//! What it must give is known exactly: the documents of a second audit that streamed everything, equal to the last field. Whatever is
//! refused must leave the offset where it was.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::common::servers::Scratch;
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, fold, mongo, on_both_flavors,
    on_flavor, replication, wait_until,
};
use mongodb::bson::Document;
use mysql_async::Row;

const SOON: Duration = Duration::from_secs(30);

/// For a command that may look for another replica until its server must have noticed that it is dead.
const LONGEST: Duration = Duration::from_secs(60);

const STREAMING: &str = "Connected to MySQL";

const TABLES: [&str; 2] = ["shop.t", "shop.wide"];

/// Binlog files of a server, as a backup has them.
struct Copies {
    scratch: Scratch,
    paths: Vec<PathBuf>,
}

impl Copies {
    /// Ends the current binlog and copies all files before it.
    async fn of(mysqld: &Mysqld) -> Self {
        mysqld.exec("FLUSH BINARY LOGS").await;
        let mut names = binlogs(mysqld).await;
        names.pop();
        let scratch = Scratch::new("backup");
        let paths = names.iter().map(|name| {
            let path = scratch.path().join(name);
            fs::copy(mysqld.datadir().join(name), &path).expect("a copy of a binlog");
            path
        });
        let paths = paths.collect();
        Self { scratch, paths }
    }

    /// A file beside them.
    fn file(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.scratch.path().join(name);
        fs::write(&path, content).expect("a file in target/tmp");
        path
    }
}

async fn binlogs(mysqld: &Mysqld) -> Vec<String> {
    let listed: Vec<Row> = mysqld.query("SHOW BINARY LOGS").await;
    let names = listed.iter().map(|row| row.get(0).expect("a name"));
    names.collect()
}

/// The binlogs that were ended are no longer there.
async fn purge(mysqld: &Mysqld) {
    wait_until("one binlog is left", SOON, async || {
        mysqld.exec("PURGE BINARY LOGS BEFORE '2037-01-01'").await;
        binlogs(mysqld).await.len() == 1
    })
    .await;
}

async fn start_mysqld(flavor: Flavor) -> Mysqld {
    let mysqld = Mysqld::start_as(flavor, &[]).await;
    // UUID is a type that no event of MariaDB tells.
    let of_flavor = if flavor.is_mariadb() { "UUID" } else { "JSON" };
    mysqld
        .exec(format!(
            "CREATE DATABASE shop;
             CREATE TABLE shop.t (id INT AUTO_INCREMENT PRIMARY KEY, v VARCHAR(3000));
             CREATE TABLE shop.wide (id INT PRIMARY KEY, d DECIMAL(10,3), s TIMESTAMP(6) NULL, b VARBINARY(20), f {of_flavor})"
        ))
        .await;
    mysqld
}

/// So many transactions of one row.
async fn insert(mysqld: &Mysqld, count: usize) {
    for _ in 0..count {
        mysqld.exec("INSERT INTO shop.t (v) VALUES ('row')").await;
    }
}

fn rows(count: usize) -> String {
    let rows = vec!["('one of many')"; count].join(",");
    format!("INSERT INTO shop.t (v) VALUES {rows}")
}

/// Transactions of every shape that matters here; `key` is new.
async fn write(mysqld: &Mysqld, key: usize) {
    let value = match mysqld.flavor().is_mariadb() {
        true => "'123e4567-e89b-12d3-a456-426655440000'",
        false => "'{\"a\": [1, null]}'",
    };
    insert(mysqld, 2).await;
    mysqld
        .exec(format!(
            "INSERT INTO shop.wide VALUES ({key}, 1.250, '2026-11-21 10:00:00.25', x'00ff', {value});
             BEGIN;
             UPDATE shop.wide SET d = d + 1 WHERE id = {key};
             DELETE FROM shop.t ORDER BY id LIMIT 1;
             INSERT INTO shop.wide VALUES ({key} + 1, NULL, NULL, NULL, NULL);
             COMMIT;
             CREATE TABLE shop.made{key} (a INT); DROP TABLE shop.made{key};
             XA START 'x{key}'; INSERT INTO shop.t (v) VALUES ('prepared'); XA END 'x{key}'; XA PREPARE 'x{key}'; XA COMMIT 'x{key}'"
        ))
        .await;
    mysqld.exec(rows(150)).await;
    let compression = match mysqld.flavor().is_mariadb() {
        true => [
            "SET GLOBAL log_bin_compress = 1",
            "SET GLOBAL log_bin_compress = 0",
        ],
        false => ["SET SESSION binlog_transaction_compression = ON", "DO 0"],
    };
    let [on, off] = compression;
    mysqld
        .exec(format!(
            "{on}; INSERT INTO shop.t (v) VALUES (REPEAT('c', 3000)), (REPEAT('d', 3000)); {off}"
        ))
        .await;
}

/// A daemon that has read everything; then it stops.
async fn read_all_and_stop(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) {
    let daemon = Daemon::start(settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    caught_up(mysqld, mongod, settings.database()).await;
    stop(&daemon).await;
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

/// Runs `sdl replay`; its exit code, and all that it printed.
async fn replay(settings: &Settings, options: &[&str], files: &[PathBuf]) -> (i32, String) {
    let files = files.iter().map(|file| file.to_str().expect("a path"));
    let arguments: Vec<&str> = ["replay"]
        .into_iter()
        .chain(options.iter().copied())
        .chain(files)
        .collect();
    let command = Daemon::start_with(settings, &arguments, "");
    let (code, _) = command.wait_exit(LONGEST).await;
    (code, command.logs().join("\n"))
}

async fn offset(mongod: &Mongod, settings: &Settings) -> Option<Document> {
    mongo::offset(&mongod.database(settings.database()).await).await
}

/// The same source, recorded into another database.
fn second_audit(settings: &Settings) -> Settings {
    let server_id: u32 = settings.get("MYSQL_SERVER_ID").unwrap().parse().unwrap();
    settings
        .clone()
        .set("MONGO_DB", format!("{}_stream", settings.database()))
        .set("MYSQL_SERVER_ID", server_id + 500_000)
}

/// Both audits hold the same documents, to the last field and in the same order.
async fn assert_same(mongod: &Mongod, replayed: &Settings, streamed: &Settings) {
    let replayed = mongod.changes(replayed.database()).await;
    let streamed = mongod.changes(streamed.database()).await;
    for (replayed, streamed) in replayed.iter().zip(&streamed) {
        assert_eq!(replayed, streamed);
    }
    assert_eq!(replayed.len(), streamed.len());
}

on_both_flavors! {
    what_was_purged_is_recorded_from_copies_as_the_stream_would_have,
    files_that_do_not_continue_the_offset_are_refused_and_nothing_changes,
    a_transaction_that_is_recorded_in_part_goes_on_in_the_files,
}

// It writes no positions into the events of a transaction.
on_flavor! { on_mariadb_11, Mariadb11, what_was_purged_is_recorded_from_copies_as_the_stream_would_have }

async fn what_was_purged_is_recorded_from_copies_as_the_stream_would_have(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod).set("BATCH_SIZE", 100);
    let streamed = second_audit(&settings);
    write(&mysqld, 1).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    let stream = Daemon::start(&streamed);
    // In the middle of a file, with two behind it, one of them without checksums.
    write(&mysqld, 11).await;
    mysqld.exec("SET GLOBAL binlog_checksum = NONE").await;
    write(&mysqld, 21).await;
    mysqld.exec("SET GLOBAL binlog_checksum = CRC32").await;
    write(&mysqld, 31).await;
    let copies = Copies::of(&mysqld).await;
    caught_up(&mysqld, mongod, streamed.database()).await;
    purge(&mysqld).await;
    insert(&mysqld, 2).await;

    let daemon = Daemon::start(&settings);
    assert_eq!(daemon.wait_exit(SOON).await.0, 3);
    assert!(daemon.has_logged("binlog gap"));

    let before = offset(mongod, &settings).await;
    let (code, said) = replay(&settings, &["--dry-run"], &copies.paths).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("nothing was written"), "{said}");
    assert_eq!(offset(mongod, &settings).await, before);

    let (code, said) = replay(&settings, &["--json"], &copies.paths).await;
    assert_eq!(code, 0, "{said}");
    let after = offset(mongod, &settings).await.expect("an offset");
    let n = |offset: &Document| offset.get_i64("n").unwrap();
    let recorded = n(&after) - n(before.as_ref().unwrap());
    let summary = said.lines().find(|line| line.starts_with('{'));
    let summary: serde_json::Value = serde_json::from_str(summary.expect("a summary")).unwrap();
    assert_eq!(summary["result"], "recorded");
    assert_eq!(summary["events"], recorded);
    assert_eq!(summary["to"]["gtid"], after.get_str("gtid").unwrap());
    assert!(summary["skipped"].as_u64() > Some(0), "{summary}");

    let (code, said) = replay(&settings, &[], &copies.paths).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("nothing to do"), "{said}");

    let daemon = Daemon::start(&settings);
    daemon.wait_for_log(STREAMING, SOON).await;
    write(&mysqld, 41).await;
    for settings in [&settings, &streamed] {
        caught_up(&mysqld, mongod, settings.database()).await;
    }
    stop(&daemon).await;
    stop(&stream).await;
    assert_same(mongod, &settings, &streamed).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &TABLES).await;
}

async fn files_that_do_not_continue_the_offset_are_refused_and_nothing_changes(flavor: Flavor) {
    let (mysqld, other, mongod) = tokio::join!(
        start_mysqld(flavor),
        // As its own, not as a replica's.
        Mysqld::start_as(flavor, &["--server-id=77"]),
        Mongod::shared()
    );
    let settings = Settings::new(&mysqld, mongod);
    insert(&mysqld, 3).await;
    mysqld.exec("FLUSH BINARY LOGS").await;
    insert(&mysqld, 2).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    for count in [2, 3, 4] {
        insert(&mysqld, count).await;
        mysqld.exec("FLUSH BINARY LOGS").await;
    }
    let copies = Copies::of(&mysqld).await;
    // [0] is recorded, in [1] stands the offset; the last one is empty.
    let files = &copies.paths[copies.paths.len() - 5..];
    other
        .exec("CREATE DATABASE foreign_one; CREATE TABLE foreign_one.t (a INT); INSERT INTO foreign_one.t VALUES (1)")
        .await;
    let foreign = Copies::of(&other).await;
    insert(&mysqld, 1).await;
    let active = binlogs(&mysqld).await.pop().expect("a binlog");
    let active = fs::read(mysqld.datadir().join(active)).unwrap();
    let active = copies.file("active.000001", &active);
    let replica = replication::replica_of(&mysqld).await;
    let relay_log = fs::read_dir(replica.datadir())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.contains("relay-bin.0")
        })
        .max()
        .expect("a relay log");

    let whole = fs::read(&files[1]).unwrap();
    let last = fs::read(&files[3]).unwrap();
    let mut bent = whole.clone();
    // In the event's body: a length that is bent is another case.
    bent[before_last_xid(&whole) + 19] ^= 0x10;
    let again = copies.file("again.000009", &fs::read(&files[1]).unwrap());
    let file = |name: &str, content: &[u8]| copies.file(name, content);
    let table: Vec<(&str, Vec<PathBuf>, &str)> = vec![
        (
            "a gap before",
            vec![files[2].clone()],
            "binlog gap: before the first file",
        ),
        (
            "a file missing",
            vec![files[1].clone(), files[3].clone()],
            "a file is missing",
        ),
        (
            "wrong order",
            vec![files[1].clone(), files[0].clone()],
            "not in the order",
        ),
        (
            "a second copy",
            vec![files[1].clone(), again],
            "one is there twice",
        ),
        (
            "named twice",
            vec![files[1].clone(), files[1].clone()],
            "is named twice",
        ),
        (
            "another server's",
            foreign.paths.clone(),
            "of another server",
        ),
        (
            "the active one",
            vec![
                files[1].clone(),
                files[2].clone(),
                files[3].clone(),
                files[4].clone(),
                active,
            ],
            "it is not ended",
        ),
        ("a relay log", vec![relay_log], "relay log"),
        (
            "a directory",
            vec![copies.scratch.path().to_owned()],
            "is a directory",
        ),
        (
            "no file",
            vec![copies.scratch.path().join("none")],
            "cannot be read",
        ),
        ("packed", vec![file("b.gz", &[0x1f, 0x8b, 8, 0])], "gunzip"),
        ("text", vec![file("b.txt", b"SELECT 1;")], "is no binlog"),
        ("empty", vec![file("b.empty", b"")], "is no binlog"),
        (
            "only a beginning",
            vec![file("b.begin", &whole[..4])],
            "it ends where its first event",
        ),
        (
            "encrypted",
            vec![file("b.enc", b"\xfdbin\x01\x01")],
            "binlog_encryption",
        ),
        (
            "a bad checksum",
            vec![file("b.bent", &bent)],
            "checksum does not hold",
        ),
        (
            "cut short",
            vec![file("b.cut", &whole[..whole.len() - 60])],
            "the file ends inside an event",
        ),
        (
            "cut between two events",
            vec![file("b.between", &whole[..before_last_xid(&whole)])],
            "is not whole: the copy was cut short",
        ),
        (
            "two in one",
            vec![file("b.two", &[&whole[..], &last[4..]].concat())],
            "goes on behind its end",
        ),
    ];
    let before = offset(mongod, &settings).await;
    for (what, files, says) in table {
        let (code, said) = replay(&settings, &[], &files).await;
        assert_eq!(code, 3, "{what}: {said}");
        assert!(said.contains(says), "{what}: {says} is not in {said}");
        let last = files.last().unwrap().to_str().unwrap();
        let first = files[0].to_str().unwrap();
        assert!(
            said.contains(last) || said.contains(first) || what == "another server's",
            "{what}: {said}"
        );
        assert_eq!(offset(mongod, &settings).await, before, "{what}");
    }

    let new = settings
        .clone()
        .set("MONGO_DB", format!("{}_new", settings.database()))
        .set("START_FROM", "current");
    let (code, said) = replay(&new, &[], files).await;
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("START_FROM=earliest"), "{said}");
    assert_eq!(offset(mongod, &new).await, None);

    // A server that is gone for good left its last file as it was, torn in the middle of a transaction.
    let cut = last.len() - 60;
    let torn = copies.file(
        files[3].file_name().unwrap().to_str().unwrap(),
        &last[..cut],
    );
    let salvaged = [files[1].clone(), files[2].clone(), torn];
    assert_eq!(replay(&settings, &[], &salvaged).await.0, 3);
    let (code, said) = replay(&settings, &["--allow-unfinished"], &salvaged).await;
    assert_eq!(code, 0, "{said}");
    let n = offset(mongod, &settings)
        .await
        .unwrap()
        .get_i64("n")
        .unwrap();
    let n_before = before.unwrap().get_i64("n").unwrap();
    // Of the last file one of four is lost with its end; the ROTATE event is shorter than 60 bytes.
    assert_eq!(n - n_before, 2 + 3 + 3);
    // The server still has all of it.
    read_all_and_stop(&mysqld, mongod, &settings).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &TABLES[..1]).await;
}

/// Where the last XID event of a binlog begins.
fn before_last_xid(binlog: &[u8]) -> usize {
    const XID: u8 = 16;
    let mut at = 4;
    let mut found = None;
    while at + 19 <= binlog.len() {
        if binlog[at + 4] == XID {
            found = Some(at);
        }
        at += u32::from_le_bytes(binlog[at + 9..at + 13].try_into().unwrap()) as usize;
    }
    found.expect("a transaction")
}

/// The daemon is killed inside a transaction that is larger than a batch, and that is purged.
async fn a_transaction_that_is_recorded_in_part_goes_on_in_the_files(flavor: Flavor) {
    let (mysqld, mongod) = tokio::join!(start_mysqld(flavor), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod)
        .set("BATCH_SIZE", 20)
        .set("PIPELINE_DEPTH", 1);
    let streamed = second_audit(&settings);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    mysqld.exec(rows(8_000)).await;
    let daemon = Daemon::start(&settings);
    wait_until("a part of it is recorded", SOON, async || {
        let offset = offset(mongod, &settings).await;
        offset.is_some_and(|offset| offset.get_document("partial").is_ok())
    })
    .await;
    daemon.kill9();
    let partial = offset(mongod, &settings).await.unwrap();
    assert!(partial.get_document("partial").is_ok(), "{partial}");
    insert(&mysqld, 2).await;
    let copies = Copies::of(&mysqld).await;
    read_all_and_stop(&mysqld, mongod, &streamed).await;
    purge(&mysqld).await;
    let (code, said) = replay(&settings, &[], &copies.paths).await;
    assert_eq!(code, 0, "{said}");
    assert_same(mongod, &settings, &streamed).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &TABLES[..1]).await;
}

/// What a server did not send over the wire, a copy made by its own tool holds too.
#[tokio::test]
async fn copies_that_mysqlbinlog_made_are_recorded_from_the_first_file_on() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mysql), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let streamed = second_audit(&settings);
    write(&mysqld, 1).await;
    mysqld.exec("FLUSH BINARY LOGS").await;
    write(&mysqld, 11).await;
    mysqld.restart().await;
    let mut names = binlogs(&mysqld).await;
    names.pop();
    let backup = Scratch::new("backup");
    let status = std::process::Command::new(mysqlbinlog())
        .args([
            "--no-defaults",
            "--read-from-remote-server",
            "--raw",
            "--user=root",
            "--host=127.0.0.1",
        ])
        .arg(format!("--port={}", mysqld.port()))
        .arg(format!("--result-file={}/host7-", backup.path().display()))
        .args(&names)
        .status()
        .expect("mysqlbinlog runs");
    assert!(status.success(), "{status}");
    let copies: Vec<PathBuf> = names
        .iter()
        .map(|name| backup.path().join(format!("host7-{name}")))
        .collect();
    read_all_and_stop(&mysqld, mongod, &streamed).await;
    let (code, said) = replay(&settings, &[], &copies).await;
    assert_eq!(code, 0, "{said}");
    assert_same(mongod, &settings, &streamed).await;
    read_all_and_stop(&mysqld, mongod, &settings).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &TABLES).await;
}

fn mysqlbinlog() -> PathBuf {
    let mysqld: &Path = &crate::common::servers::binaries().mysqld;
    mysqld.with_file_name("mysqlbinlog")
}

/// A killed daemon left a batch that is committed before the files are read, which begin behind it.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn what_is_staged_goes_before_the_files() {
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mysql), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    read_all_and_stop(&mysqld, mongod, &settings).await;
    insert(&mysqld, 1).await;
    let crashing = settings
        .clone()
        .set("FAILPOINTS", "before-transaction=return");
    Daemon::start(&crashing).wait_exit(SOON).await;
    mysqld.exec("FLUSH BINARY LOGS").await;
    insert(&mysqld, 2).await;
    let copies = Copies::of(&mysqld).await;
    purge(&mysqld).await;
    let last = &copies.paths[copies.paths.len() - 1..];
    let before = offset(mongod, &settings).await;
    let (code, said) = replay(&settings, &["--dry-run"], last).await;
    assert_eq!(code, 3, "{said}");
    assert_eq!(offset(mongod, &settings).await, before);
    let (code, said) = replay(&settings, &[], last).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("Recovering 1 pending batches"), "{said}");
    read_all_and_stop(&mysqld, mongod, &settings).await;
    fold::assert_exact(&mysqld, mongod, settings.database(), &TABLES[..1]).await;
}

/// The files are read again from their beginning, and each of their transactions is recorded once.
#[cfg(feature = "failpoints")]
#[tokio::test]
async fn killed_or_stopped_at_any_point_it_is_run_again_and_is_exact() {
    /// 128 + SIGABRT.
    const ABORTED: i32 = 134;
    let (mysqld, mongod) = tokio::join!(start_mysqld(Flavor::Mysql), Mongod::shared());
    write(&mysqld, 1).await;
    mysqld.exec("FLUSH BINARY LOGS").await;
    write(&mysqld, 11).await;
    let copies = Copies::of(&mysqld).await;
    let source = format!("mysql://{}", mysqld.addr());
    let new = || {
        Settings::new(&mysqld, mongod)
            .set("BATCH_SIZE", 20)
            .set("SOURCE_ID", &source)
    };
    let streamed = new();
    read_all_and_stop(&mysqld, mongod, &streamed).await;
    for point in [
        "after-take-over=return",
        "after-read=40*off->return",
        "after-decode=1*off->return",
        "before-stage=return",
        "after-stage=3*off->return",
        "after-offset=2*off->return",
        "before-commit=1*off->return",
        "after-commit=2*off->return",
        "after-unstage=1*off->return",
    ] {
        let settings = new();
        let crashing = settings.clone().set("FAILPOINTS", point);
        let (code, said) = replay(&crashing, &[], &copies.paths).await;
        assert_eq!(code, ABORTED, "{point}: {said}");
        let (code, said) = replay(&settings, &[], &copies.paths).await;
        assert_eq!(code, 0, "{point}: {said}");
        assert_same(mongod, &settings, &streamed).await;
    }

    let settings = new();
    let slow = settings
        .clone()
        .set("FAILPOINTS", "before-commit=sleep(50)");
    let files = copies.paths.iter().map(|path| path.to_str().unwrap());
    let arguments: Vec<&str> = ["replay"].into_iter().chain(files).collect();
    let command = Daemon::start_with(&slow, &arguments, "");
    wait_until("something is recorded", SOON, async || {
        let offset = offset(mongod, &settings).await;
        offset.is_some_and(|offset| offset.get_i64("n").unwrap() > 0)
    })
    .await;
    command.signal(Signal::TERM);
    let (code, _) = command.wait_exit(SOON).await;
    let said = command.logs().join("\n");
    // It may have read all of it by then, which it does not throw away.
    assert!(
        code == 1 && said.contains("run the same command again")
            || code == 0 && said.contains("recorded: "),
        "{code}: {said}"
    );
    let (code, said) = replay(&settings, &[], &copies.paths).await;
    assert_eq!(code, 0, "{said}");
    assert_same(mongod, &settings, &streamed).await;
}
