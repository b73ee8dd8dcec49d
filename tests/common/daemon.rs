//! The built daemon, run as systemd would: settings in the environment and nothing else.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::POLL;
use super::mongo::Deployment;
use super::mysql::{self, Mysqld};
use super::servers::{self, Process, Scratch, exit_code, spawn, unique};

/// How much of its log stands in the message of a test that it fails: the end, where the reason is.
const LAST_LINES: usize = 12;

/// The environment of a daemon.
#[derive(Clone, Debug)]
pub struct Settings {
    variables: BTreeMap<String, String>,
    inside: Vec<String>,
}

impl Settings {
    /// What a daemon needs to read `mysqld` from its first binlog on and to write a new database of `mongod`.
    pub fn new(mysqld: &Mysqld, mongod: &dyn Deployment) -> Self {
        let number = unique();
        Self::empty()
            .set("MYSQL_ADDR", mysqld.addr())
            .set("MYSQL_USER", mysql::USER)
            .set("MYSQL_PASS", mysql::PASSWORD)
            // No two daemons of a test may share one by accident: the server would cut off the older.
            .set("MYSQL_SERVER_ID", 100_000 + number)
            .set("MONGO_URI", mongod.uri())
            .set("MONGO_DB", format!("audit_{}_{number}", std::process::id()))
            .set("START_FROM", "earliest")
    }

    /// Nothing but what every process needs.
    pub fn empty() -> Self {
        let path =
            std::env::var("PATH").unwrap_or_else(|_| "/usr/sbin:/usr/bin:/sbin:/bin".to_owned());
        Self {
            variables: BTreeMap::new(),
            inside: Vec::new(),
        }
        .set("PATH", path)
        .set("RUST_BACKTRACE", "1")
        // Many daemons at once: each on a port of its own, which its log names.
        .set("METRICS_ADDR", "127.0.0.1:0")
    }

    #[must_use]
    pub fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.variables.insert(name.to_owned(), value.to_string());
        self
    }

    #[must_use]
    pub fn unset(mut self, name: &str) -> Self {
        self.variables.remove(name);
        self
    }

    /// The daemon sees what commands see that begin with these words (`SmallDisk::inside`).
    #[must_use]
    pub fn inside(mut self, words: Vec<String>) -> Self {
        self.inside = words;
        self
    }

    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// All of them, by name.
    pub fn variables(&self) -> impl Iterator<Item = (&str, &str)> {
        self.variables
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// `MONGO_DB`.
    pub fn database(&self) -> &str {
        self.get("MONGO_DB").expect("MONGO_DB is set")
    }
}

/// A running `sdl`. Dropping it kills it; when the test fails, its log is printed first.
pub struct Daemon {
    process: Process,
    output: Arc<Mutex<Vec<String>>>,
    readers: Vec<thread::JoinHandle<()>>,
    signalled: Mutex<Option<Instant>>,
    scratch: Scratch,
}

impl Daemon {
    /// Starts `sdl` in an empty directory of its own.
    pub fn start(settings: &Settings) -> Self {
        Self::start_with(settings, &[], "")
    }

    /// Starts `sdl` with arguments, in a directory that holds a `.env` of the given text (none when it is empty).
    pub fn start_with(settings: &Settings, arguments: &[&str], dot_env: &str) -> Self {
        let scratch = Scratch::new("sdl");
        if !dot_env.is_empty() {
            fs::write(scratch.path().join(".env"), dot_env).expect("a file in target/tmp");
        }
        let mut command = servers::guarded_inside(
            &settings.inside,
            scratch.path(),
            Path::new(env!("CARGO_BIN_EXE_sdl")),
        );
        command
            .args(arguments)
            .env_clear()
            .envs(&settings.variables)
            .current_dir(scratch.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = spawn(command);
        let output = Arc::new(Mutex::new(Vec::new()));
        let readers = vec![
            collect(child.stdout.take().expect("stdout is piped"), &output),
            collect(child.stderr.take().expect("stderr is piped"), &output),
        ];
        let process = Process::adopt("sdl", child, &scratch.path().join("no log file"));
        Self {
            process,
            output,
            readers,
            signalled: Mutex::new(None),
            scratch,
        }
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its working directory.
    pub fn directory(&self) -> PathBuf {
        self.scratch.path().to_owned()
    }

    /// Everything it has printed so far, both streams, as lines.
    pub fn logs(&self) -> Vec<String> {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether a line that it has printed contains `text`.
    pub fn has_logged(&self, text: &str) -> bool {
        self.output
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .iter()
            .any(|line| line.contains(text))
    }

    /// Waits for a line that contains `text` and returns it; panics after `timeout`, or when the daemon ends without it.
    pub async fn wait_for_log(&self, text: &str, timeout: Duration) -> String {
        let started = Instant::now();
        loop {
            let ended = self.process.exited();
            if ended.is_some() {
                self.drained().await;
            }
            if let Some(line) = self.logs().into_iter().find(|line| line.contains(text)) {
                return line;
            }
            if let Some(status) = ended {
                let logs = self.logs();
                let last = &logs[logs.len().saturating_sub(LAST_LINES)..];
                panic!("sdl ended ({status}) before it logged {text:?}; its last lines: {last:#?}");
            }
            assert!(
                started.elapsed() < timeout,
                "sdl did not log {text:?} within {timeout:?}"
            );
            tokio::time::sleep(POLL / 4).await;
        }
    }

    pub fn is_running(&self) -> bool {
        self.process.exited().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        *self
            .signalled
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.process.signal(signal);
    }

    /// SIGKILL, and waits until it is gone.
    pub fn kill9(&self) {
        self.process.kill();
    }

    /// Waits until it ends by itself: its exit code (128 + signal when a signal ended it), and how long that took since
    /// the last [`signal`](Self::signal), or since this call when there was none. All its lines are in [`logs`](Self::logs) then.
    pub async fn wait_exit(&self, timeout: Duration) -> (i32, Duration) {
        let called = Instant::now();
        let Some(status) = self.process.wait(timeout).await else {
            panic!("sdl did not exit within {timeout:?}");
        };
        let elapsed = self
            .signalled
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .unwrap_or(called)
            .elapsed();
        self.drained().await;
        (exit_code(status), elapsed)
    }

    /// The most memory it ever had resident, in bytes; it must still be running.
    pub fn peak_memory(&self) -> u64 {
        let status =
            fs::read_to_string(format!("/proc/{}/status", self.pid())).expect("sdl is running");
        let kilobytes = status.lines().find_map(|line| {
            line.strip_prefix("VmHWM:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        });
        kilobytes.expect("VmHWM is in /proc/PID/status") * 1024
    }

    /// What was in the pipes when the process ended has been read.
    async fn drained(&self) {
        while !self.readers.iter().all(thread::JoinHandle::is_finished) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if thread::panicking() {
            let lines = self.logs();
            eprintln!("the last lines of sdl (process {}):", self.pid());
            for line in &lines[lines.len().saturating_sub(100)..] {
                eprintln!("  {line}");
            }
        }
    }
}

/// Reads a stream of the daemon in a thread of its own, so that a full pipe never stops it.
fn collect(
    stream: impl Read + Send + 'static,
    output: &Arc<Mutex<Vec<String>>>,
) -> thread::JoinHandle<()> {
    let output = Arc::clone(output);
    thread::spawn(move || {
        for line in BufReader::new(stream).split(b'\n') {
            let Ok(line) = line else { return };
            output
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(String::from_utf8_lossy(&line).into_owned());
        }
    })
}
