//! What the guide says about servers: their configuration files, the statements that look at them and set them.

use std::fs;
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use mysql_async::Row;

use super::shell::{mongosh, shell, sql};
use super::{Block, SOON, block, blocks};
use crate::common::servers::{self, Process, Scratch, binaries, free_port};
use crate::common::{
    Daemon, Flavor, Mongod, Mysqld, Settings, Signal, caught_up, mongo, wait_until,
};

/// The lines of a configuration file as options of the server.
fn options(block: &Block) -> Vec<String> {
    assert_eq!(block.language, "ini", "{}", block.place);
    let mut lines = block.text.lines();
    assert_eq!(lines.next(), Some("[mysqld]"), "{}", block.place);
    lines
        .map(|line| {
            let (name, value) = line.split_once(" = ").expect("name = value");
            format!("--{}={value}", name.replace('_', "-"))
        })
        .collect()
}

async fn start(flavor: Flavor, scenario: &str) -> Mysqld {
    let options = options(&block(scenario, ""));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let mysqld = Mysqld::start_as(flavor, &options).await;
    mysqld
        .exec("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)")
        .await;
    mysqld
}

/// A daemon that reads this server, and has nothing to say against it but what may be said.
async fn reads(mysqld: &Mysqld, mongod: &Mongod, settings: &Settings) -> Daemon {
    let daemon = Daemon::start(settings);
    daemon.wait_for_log("Connected to MySQL", SOON).await;
    caught_up(mysqld, mongod, settings.database()).await;
    daemon
}

async fn stop(daemon: &Daemon) {
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.wait_exit(SOON).await.0, 0);
}

fn text(row: &Row) -> String {
    let value: Option<Option<String>> = row.get(0);
    value.flatten().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_as_the_guide_sets_it_up_and_looks_at_it() {
    let (mysqld, mongod) = tokio::join!(start(Flavor::Mysql, "mysqld"), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = reads(&mysqld, mongod, &settings).await;
    assert!(!daemon.has_logged("may not hold"), "{:#?}", daemon.logs());

    let database = mongod.database(settings.database()).await;
    let offset = mongo::offset(&database).await.unwrap();
    let statements = blocks("mysql");
    let mut seen = Vec::new();
    for block in &statements {
        let mut block = block.clone();
        if block.text.contains("SAVED") {
            block = block.with("SAVED", offset.get_str("gtid").unwrap());
        }
        if block.text.contains("FILE") {
            block = block.with("FILE", offset.get_str("file").unwrap());
        }
        let answers = sql(&mysqld, &block).await;
        if block.text.contains("AS gap") {
            assert_eq!(text(&answers[0][0]), "");
            assert_eq!(text(&answers[1][0]), "");
            seen.push("gap");
        }
        if block.text.contains("SHOW REPLICAS") {
            assert!(!answers[0].is_empty() && answers[1].len() == 1);
            assert_eq!(answers[2].len(), 1, "sdl is a replica");
            assert_eq!(answers[3].len(), 1, "and reads");
            seen.push("replicas");
        }
        if block.text.contains("SELECT @@global.log_bin") {
            let value = |column: usize| answers[0][0].get::<String, _>(column).unwrap();
            assert_eq!(value(3), "ROW");
            assert_eq!(value(7), "2592000", "as the block before set it");
            seen.push("settings");
        }
    }
    assert_eq!(seen, ["settings", "gap", "replicas"]);
    stop(&daemon).await;

    // What is said of each level: of the crash of a machine nothing can be shown here.
    let warning = |sync: &str| format!("sync_binlog is {sync}: a crash of the server's machine");
    for (level, sync) in [
        ("balanced", Some("10")),
        ("fast", Some("0")),
        ("safe", None),
    ] {
        sql(&mysqld, &block("durability", level)).await;
        let daemon = reads(&mysqld, mongod, &settings).await;
        match sync {
            Some(sync) => {
                daemon.wait_for_log(&warning(sync), SOON).await;
            }
            None => {
                let query =
                    "SELECT CONCAT(@@global.sync_binlog, @@global.innodb_flush_log_at_trx_commit)";
                assert_eq!(mysqld.query_one::<String>(query).await, "11");
                assert!(!daemon.has_logged("sync_binlog is"), "{:#?}", daemon.logs());
            }
        }
        stop(&daemon).await;
    }
    assert_eq!(blocks("durability").len(), 3);

    let first: Vec<Row> = mysqld.query("SHOW BINARY LOGS").await;
    let first = text(&first[0]);
    let scratch = Scratch::new("backup");
    let backup = block("binlogs", "")
        .with("/backup", &scratch.path().display().to_string())
        .with("binlog.000001", &first)
        .with(
            "--host=DB1 --user=sdl_reader",
            &format!(
                "--protocol=TCP --host=127.0.0.1 --port={} --user=root",
                mysqld.port()
            ),
        );
    shell(&backup, &settings);
    let copy = scratch.path().join("binlogs").join(&first);
    assert_eq!(fs::read(copy).unwrap()[..4], *b"\xfebin");
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_as_the_guide_sets_it_up_and_looks_at_it() {
    let (mysqld, mongod) = tokio::join!(start(Flavor::Mariadb10, "mariadbd"), Mongod::shared());
    let settings = Settings::new(&mysqld, mongod);
    let daemon = reads(&mysqld, mongod, &settings).await;
    let first: Vec<Row> = mysqld.query("SHOW BINARY LOGS").await;
    let mut positions = 0;
    for block in &blocks("mariadb") {
        let mut block = block.clone();
        if block.text.contains("FILE") {
            block = block.with("FILE", &text(&first[0]));
        }
        positions += sql(&mysqld, &block).await[0].len();
    }
    assert_eq!(positions, 2);
    stop(&daemon).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_as_the_guide_sets_it_up() {
    let scratch = Scratch::new("mongod");
    let file = scratch.path().join("mongod.conf");
    let data = scratch.path().join("data");
    fs::create_dir(&data).unwrap();
    // The machine of the tests has not the cache of a production host.
    let text = block("mongod", "")
        .with("cacheSizeGB: 8", "cacheSizeGB: 0.5")
        .text;
    fs::write(&file, text).unwrap();
    let port = free_port();
    let mut command = servers::guarded(&binaries().mongod);
    command
        .arg("--config")
        .arg(&file)
        .arg("--dbpath")
        .arg(&data);
    command.args([
        "--port",
        &port.to_string(),
        "--bind_ip",
        "127.0.0.1",
        "--nounixsocket",
    ]);
    let process = Process::start("mongod", command, &scratch.path().join("mongod.log"));
    let uri = format!("mongodb://127.0.0.1:{port}/?directConnection=true");
    let client = mongo::connect(&uri).await;
    let admin = client.database("admin");
    let started = Instant::now();
    while let Err(error) = admin.run_command(doc! { "ping": 1 }).await {
        process.assert_running();
        assert!(started.elapsed() < Duration::from_secs(90), "{error}");
    }
    // One of the three members is here.
    let mut initiate = block("initiate", "");
    for other in ["mongo2", "mongo3"] {
        let line = initiate
            .text
            .lines()
            .find(|line| line.contains(other))
            .unwrap()
            .to_owned();
        initiate = initiate.with(&line, "");
    }
    initiate = initiate.with("mongo1.example.com:27017", &format!("127.0.0.1:{port}"));
    initiate.name = "initiate".to_owned();
    if mongosh(&uri, "admin", &[initiate]).is_none() {
        return;
    }
    wait_until("a primary", SOON, async || {
        let hello = admin.run_command(doc! { "hello": 1 }).await.unwrap();
        matches!(hello.get_bool("isWritablePrimary"), Ok(true))
    })
    .await;
    let mut zstd = block("zstd", "");
    zstd.name = "zstd".to_owned();
    mongosh(&uri, "audit", &[zstd]).unwrap();
    let made = client
        .database("audit")
        .list_collection_names()
        .await
        .unwrap();
    assert_eq!(made, ["row_changes"]);
}
