//! The mongosh queries of the README, taken from the README itself, run by a real mongosh on documents that sdl wrote.
//!
//! mongosh comes with `tests/servers.sh --mongosh` (SDL_MONGOSH); where it is not to be had (no npm), this says so.

use std::process::Command;
use std::time::Duration;

use crate::common::{Daemon, Mongod, Mysqld, Settings, caught_up};

/// The fenced `js` blocks of the README.
fn queries() -> Vec<String> {
    let readme = include_str!("../../README.md");
    let blocks: Vec<String> = readme
        .split("```js\n")
        .skip(1)
        .map(|rest| {
            rest.split("```")
                .next()
                .unwrap_or_default()
                .trim()
                .to_owned()
        })
        .collect();
    assert_eq!(blocks.len(), 5, "the README promises five queries");
    blocks
}

#[tokio::test(flavor = "multi_thread")]
async fn the_five_queries_of_the_readme_answer() {
    let queries = queries();
    let Some(mongosh) = std::env::var_os("SDL_MONGOSH").filter(|path| !path.is_empty()) else {
        eprintln!("skipped: SDL_MONGOSH is not set (tests/servers.sh --mongosh)");
        return;
    };
    let (mysqld, mongod) = tokio::join!(Mysqld::start(), Mongod::start());
    let settings = Settings::new(&mysqld, &mongod);
    let daemon = Daemon::start(&settings);
    mysqld
        .exec(
            "CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY, price DECIMAL(10,2)); \
             INSERT INTO shop.orders VALUES (1, 1.5), (2, 2); UPDATE shop.orders SET price = price + 1",
        )
        .await;
    caught_up(&mysqld, &mongod, settings.database()).await;
    let count = |query: &str| {
        // A cursor answers with its documents; what is asked is how many, and that nothing throws.
        let script = format!(
            "db = db.getSiblingDB('{}'); print('answers: ' + ({}).toArray().length)",
            settings.database(),
            query
        );
        let output = Command::new(&mongosh)
            .args(["--quiet", &mongod.uri(), "--eval", &script])
            .output()
            .expect("mongosh starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let answer = text.lines().find_map(|line| line.strip_prefix("answers: "));
        let answer = answer.unwrap_or_else(|| {
            panic!(
                "{query}\n{text}\n{}",
                String::from_utf8_lossy(&output.stderr)
            )
        });
        answer.trim().parse::<usize>().expect("a number")
    };
    let answers: Vec<usize> = queries.iter().map(|query| count(query)).collect();
    // One row's life: insert and update. Updates of the price: two rows. Groups: insert, update and two kinds of ddl by
    // table. One offset. Nothing staged.
    assert_eq!(answers[0], 2, "{}", queries[0]);
    assert_eq!(answers[1], 2, "{}", queries[1]);
    assert!(answers[2] >= 4, "{}: {}", queries[2], answers[2]);
    assert_eq!(answers[3], 1, "{}", queries[3]);
    assert_eq!(answers[4], 0, "{}", queries[4]);
    daemon.signal(crate::common::Signal::TERM);
    assert_eq!(daemon.wait_exit(Duration::from_secs(10)).await.0, 0);
}
