//! Blocks as a person would type them: into mongosh, into a shell, into a MySQL client.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use mysql_async::Row;
use mysql_async::prelude::Queryable;
use sdl::config::SETTINGS;
use serde_json::Value;

use super::Block;
use crate::common::servers::{Scratch, binaries, exit_code};
use crate::common::{Mysqld, Settings};

/// Seconds after which what still waits is ended: all of the queries take five.
const LONGEST: &str = "120";

/// mongosh, where it is to be had (`tests/servers.sh --mongosh`).
fn program() -> Option<PathBuf> {
    let program = std::env::var_os("SDL_MONGOSH").filter(|path| !path.is_empty());
    if program.is_none() {
        eprintln!("skipped: SDL_MONGOSH is not set (tests/servers.sh --mongosh)");
    }
    program.map(PathBuf::from)
}

/// What a block answered, and how MongoDB found it: a plan for each operation on each collection.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    pub(super) value: Value,
    pub(super) plans: Vec<(String, String)>,
}

/// Runs blocks in one mongosh, after `use DATABASE`; their answers by name. `None` where there is no mongosh.
pub(super) fn mongosh(
    uri: &str,
    database: &str,
    blocks: &[Block],
) -> Option<BTreeMap<String, Answer>> {
    let program = program()?;
    let scratch = Scratch::new("mongosh");
    let script = scratch.path().join("blocks.js");
    let text: String = blocks.iter().map(|block| asked(database, block)).collect();
    std::fs::write(&script, &text).unwrap();
    let output = Command::new("timeout")
        .arg(LONGEST)
        .arg(program)
        .args(["--quiet", "--norc", uri])
        .arg(&script)
        .env("HOME", scratch.path())
        .output()
        .expect("mongosh starts");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut answers = BTreeMap::new();
    for line in printed.lines() {
        if let Some(answer) = line.strip_prefix("answer: ") {
            let mut answer: Value = serde_json::from_str(answer).unwrap();
            let name = answer["name"].as_str().unwrap().to_owned();
            let plans = answer["plans"].as_array().unwrap().iter();
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let plans = plans.map(|plan| (text(&plan[0]), text(&plan[1]))).collect();
            let value = answer["value"].take();
            answers.insert(name, Answer { value, plans });
        }
    }
    for block in blocks {
        assert!(
            answers.contains_key(&block.name),
            "{}: no answer\n{}\n{printed}\n{}",
            block.place,
            block.text,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Some(answers)
}

/// The block in braces, with its last statement's value printed, and what the profiler of the database saw of it.
fn asked(database: &str, block: &Block) -> String {
    assert_eq!(block.language, "js", "{}", block.place);
    // The last statement begins at the last line that begins with a letter.
    let lines: Vec<&str> = block.text.lines().collect();
    let last = lines
        .iter()
        .rposition(|line| line.starts_with(|first: char| first.is_ascii_alphabetic()))
        .unwrap();
    let (statements, answer) = (lines[..last].join("\n"), lines[last..].join("\n"));
    let name = &block.name;
    // The profiler writes, which a locked server does not let it.
    let profiled = block.scenario == "audit";
    format!(
        "db = db.getSiblingDB('{database}')
{{
const profiled = {profiled}
if (profiled) {{ db.setProfilingLevel(0); db.system.profile.drop(); db.setProfilingLevel(2) }}
{statements}
const answered = ({answer})
const value = answered && answered.toArray ? answered.toArray() : answered
if (profiled) db.setProfilingLevel(0)
const plans = []
if (profiled) for (const seen of db.system.profile.find({{ appName: /mongosh/, planSummary: {{ $exists: true }} }}).toArray())
  plans.push([seen.ns.split('.').slice(1).join('.'), seen.planSummary])
print('answer: ' + EJSON.stringify({{ name: '{name}', value: value === undefined ? null : value, plans: plans }}))
}}
"
    )
}

/// Runs a block in a shell that stops at the first failure; its standard output.
pub(super) fn shell(block: &Block, settings: &Settings) -> String {
    let (code, printed) = bash(block, &block.text, settings);
    assert_eq!(code, 0, "{}\n{}\n{printed}", block.place, block.text);
    printed
}

/// Runs each line of a block by itself: the line, its exit code, what it printed.
pub(super) fn lines(block: &Block, settings: &Settings) -> Vec<(String, i32, String)> {
    let run = |line: &str| {
        let (code, printed) = bash(block, line, settings);
        (line.to_owned(), code, printed)
    };
    block.text.lines().map(run).collect()
}

/// The exit code and the standard output of a script, or its errors where it printed nothing, with the settings of a daemon and the
/// programs of the tests.
fn bash(block: &Block, script: &str, settings: &Settings) -> (i32, String) {
    assert_eq!(block.language, "sh", "{}", block.place);
    let scratch = Scratch::new("shell");
    let directory = |program: &Path| program.parent().unwrap().display().to_string();
    let path = [
        directory(Path::new(env!("CARGO_BIN_EXE_sdl"))),
        directory(&binaries().mysql),
        std::env::var("PATH").unwrap(),
    ];
    let environment = SETTINGS
        .iter()
        .filter_map(|setting| Some((setting.name, settings.get(setting.name)?)));
    let output = Command::new("timeout")
        .args([LONGEST, "bash", "-euo", "pipefail", "-c", script])
        .env_clear()
        .envs(environment)
        .env("PATH", path.join(":"))
        .env("HOME", scratch.path())
        .current_dir(scratch.path())
        .output()
        .expect("bash starts");
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if printed.is_empty() {
        printed = String::from_utf8_lossy(&output.stderr).into_owned();
    }
    (exit_code(output.status), printed)
}

/// Whether a program is on PATH.
pub(super) fn is_there(program: &str) -> bool {
    std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|directory| directory.join(program).is_file())
}

/// Runs the statements of a block one by one; what each of them answered.
pub(super) async fn sql(mysqld: &Mysqld, block: &Block) -> Vec<Vec<Row>> {
    assert_eq!(block.language, "sql", "{}", block.place);
    let mut session = mysqld.root().await;
    let mut answers = Vec::new();
    for statement in block.text.split(';') {
        let rows = session
            .query(statement)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}\n{statement}", block.place));
        answers.push(rows);
    }
    answers
}
