//! `sdl` as an administrator runs it: a command that ends by itself, with what it wrote to which stream.

use std::process::Stdio;
use std::time::Duration;

use mongodb::bson::{Bson, Document};
use tokio::process::Command;

use super::Settings;

/// Longer than any command takes that does not hang.
const LONGEST: Duration = Duration::from_secs(90);

/// What a command did.
#[derive(Debug)]
pub struct Done {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `sdl` with arguments.
pub async fn sdl(settings: &Settings, arguments: &[&str]) -> Done {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sdl"));
    command.args(arguments);
    run(settings, command).await
}

/// Runs a bash script in which `$SDL` is `sdl`.
pub async fn shell(settings: &Settings, script: &str) -> Done {
    let mut command = Command::new("bash");
    command.args(["-c", script]);
    run(settings, command).await
}

async fn run(settings: &Settings, mut command: Command) -> Done {
    command
        .env_clear()
        .envs(settings.variables())
        .env("SDL", env!("CARGO_BIN_EXE_sdl"))
        .current_dir("/")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LONGEST, command.output())
        .await
        .unwrap_or_else(|_| panic!("not within {LONGEST:?}: {command:?}"))
        .expect("it can be started");
    Done {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8(output.stdout).expect("UTF-8"),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

impl Done {
    /// What it printed, when it succeeded.
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// A line of `--json` as the document that it says.
pub fn parsed(line: &str) -> Document {
    serde_json::from_str(line).unwrap_or_else(|error| panic!("{error} in {line}"))
}

/// Relaxed Extended JSON does not tell 32-bit integers from 64-bit ones.
pub fn relaxed(value: Bson) -> Bson {
    match value {
        Bson::Int32(number) => Bson::Int64(number.into()),
        Bson::Document(document) => Bson::Document(
            document
                .into_iter()
                .map(|(key, value)| (key, relaxed(value)))
                .collect(),
        ),
        Bson::Array(values) => Bson::Array(values.into_iter().map(relaxed).collect()),
        other => other,
    }
}
