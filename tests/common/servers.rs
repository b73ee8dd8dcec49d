//! Where the server binaries are, and how a process is started that cannot outlive the test.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::sync::{LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal};

use super::POLL;

/// A server that neither answers nor exits for this long will not; a cold start on a busy machine takes a few seconds.
pub const START: Duration = Duration::from_secs(90);

/// A clean stop of a server; mysqld flushes its buffer pool, which took 2 s at most.
pub const STOP: Duration = Duration::from_secs(60);

/// The binaries the tests run against.
#[derive(Debug)]
pub struct Binaries {
    pub mysqld: PathBuf,
    pub mysql: PathBuf,
    pub mongod: PathBuf,
}

pub fn binaries() -> &'static Binaries {
    static BINARIES: LazyLock<Binaries> = LazyLock::new(|| {
        let [mysqld, mysql, mongod] = locate(&[], ["SDL_MYSQLD", "SDL_MYSQL", "SDL_MONGOD"]);
        Binaries {
            mysqld,
            mysql,
            mongod,
        }
    });
    &BINARIES
}

/// The directories of MariaDB's programs, which only the tests that need them ask for.
#[derive(Debug)]
pub struct MariadbBinaries {
    pub mariadb_10: PathBuf,
    pub mariadb_11: PathBuf,
}

pub fn mariadb_binaries() -> &'static MariadbBinaries {
    static BINARIES: LazyLock<MariadbBinaries> = LazyLock::new(|| {
        let [mariadb_10, mariadb_11] = locate(&["--mariadb"], ["SDL_MARIADB_10", "SDL_MARIADB_11"]);
        MariadbBinaries {
            mariadb_10,
            mariadb_11,
        }
    });
    &BINARIES
}

/// A library that moves the clock of a process into which it is loaded (LD_PRELOAD).
pub fn faketime() -> PathBuf {
    let [library] = locate(&["--faketime"], ["SDL_FAKETIME"]);
    library
}

/// A system whose systemd boots; only root can have one made.
pub fn systemd_tree() -> PathBuf {
    let [tree] = locate(&["--systemd"], ["SDL_SYSTEMD"]);
    tree
}

/// What the named variables say (tests/run.sh sets them); where one is not set, what `tests/servers.sh` finds or fetches,
/// so that a plain `cargo test` works too.
fn locate<const COUNT: usize>(arguments: &[&str], names: [&str; COUNT]) -> [PathBuf; COUNT] {
    let named = names.map(|name| {
        std::env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    });
    if named.iter().all(Option::is_some) {
        return named.map(Option::unwrap_or_default);
    }
    // The answer is meant for a shell's eval, so a shell reads it: the quoting is its own.
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers.sh");
    let printed = names.map(|name| format!("\"${name}\"")).join(" ");
    let output = Command::new("bash")
        .arg("-c")
        .arg(format!(
            r#"set -eu; answer=$("$0" "$@"); eval "$answer"; printf '%s\n' {printed}"#
        ))
        .arg(script)
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .unwrap_or_else(|error| panic!("cannot run bash for {script}: {error}"));
    assert!(
        output.status.success(),
        "{script} failed: {}",
        output.status
    );
    let answer = String::from_utf8(output.stdout).expect("paths in UTF-8");
    let mut lines = answer.lines().filter(|line| !line.is_empty());
    names.map(|name| {
        lines
            .next()
            .map(PathBuf::from)
            .unwrap_or_else(|| panic!("{script} did not name {name}: {answer:?}"))
    })
}

/// A process that is killed when this value is dropped, and by the kernel when the test process dies in any way.
///
/// Methods take `&self`, so that a test may kill a server while its other tasks use it.
pub struct Process {
    name: String,
    log: PathBuf,
    child: Mutex<Option<Child>>,
    pid: u32,
}

impl Process {
    /// Starts `command`, whose output goes to the file `log`.
    pub fn start(name: &str, mut command: Command, log: &Path) -> Self {
        let output = File::options()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("cannot open {}: {error}", log.display()));
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output);
        Self::adopt(name, spawn(command), log)
    }

    /// Takes over a child that [`spawn`] started.
    pub fn adopt(name: &str, child: Child, log: &Path) -> Self {
        Self {
            name: name.to_owned(),
            log: log.to_owned(),
            pid: child.id(),
            child: Mutex::new(Some(child)),
        }
    }

    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// The status it exited with, if it has.
    pub fn exited(&self) -> Option<ExitStatus> {
        let mut child = self.child();
        child
            .as_mut()?
            .try_wait()
            .unwrap_or_else(|error| panic!("cannot wait for {}: {error}", self.name))
    }

    /// Panics if the process has exited, with the end of its log.
    pub fn assert_running(&self) {
        if let Some(status) = self.exited() {
            panic!(
                "{} exited unexpectedly: {status}\n{}",
                self.name,
                tail(&self.log)
            );
        }
    }

    /// Sends a signal; does nothing once the process has exited.
    pub fn signal(&self, signal: Signal) {
        let mut child = self.child();
        // While the child is not reaped its number cannot be another process's.
        if let Some(child) = child.as_mut()
            && matches!(child.try_wait(), Ok(None))
        {
            let pid = Pid::from_child(child);
            rustix::process::kill_process(pid, signal)
                .unwrap_or_else(|error| panic!("cannot signal {}: {error}", self.name));
        }
    }

    /// SIGKILL, and waits until the process is gone.
    pub fn kill(&self) {
        if let Some(child) = self.child().as_mut() {
            // It may have exited already; either way it is reaped here.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGTERM, and waits until the process has ended by itself.
    pub async fn stop(&self) {
        self.signal(Signal::TERM);
        if self.wait(STOP).await.is_none() {
            panic!(
                "{} did not stop within {STOP:?}\n{}",
                self.name,
                tail(&self.log)
            );
        }
    }

    /// SIGSTOP: the process stands still, its connections stay open.
    pub fn pause(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal(Signal::CONT);
    }

    /// Waits for the exit; `None` when it does not come within `timeout`.
    pub async fn wait(&self, timeout: Duration) -> Option<ExitStatus> {
        let started = Instant::now();
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if started.elapsed() > timeout {
                return None;
            }
            tokio::time::sleep(POLL / 4).await;
        }
    }

    fn child(&self) -> MutexGuard<'_, Option<Child>> {
        self.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A command that the kernel kills when this process dies, however it dies.
pub fn guarded(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// [`guarded`], in a directory, and behind words that start it elsewhere (`SmallDisk::inside`), where there are any: those forget directory
/// and guard on the way.
pub fn guarded_inside(inside: &[String], directory: &Path, program: &Path) -> Command {
    let Some((first, rest)) = inside.split_first() else {
        let mut command = guarded(program);
        command.current_dir(directory);
        return command;
    };
    let mut command = guarded(Path::new(first));
    command
        .args(rest)
        .args(["sh", "-c", r#"mkdir -p "$0" && cd "$0" && exec "$@""#])
        .arg(directory)
        .args(["setpriv", "--pdeathsig", "KILL", "--"])
        .arg(program);
    command
}

/// Starts a command from a thread that lives as long as the process: the kernel counts the death of the *thread* that
/// started a child as its parent's death, and a test's own thread ends with the test.
pub fn spawn(command: Command) -> Child {
    type Request = (Command, mpsc::SyncSender<std::io::Result<Child>>);
    static SPAWNER: LazyLock<Mutex<mpsc::Sender<Request>>> = LazyLock::new(|| {
        let (sender, requests) = mpsc::channel::<Request>();
        thread::spawn(move || {
            for (mut command, answer) in requests {
                // A test that no longer waits for the answer drops the child, which is fine: the kernel ends it with us.
                let _ = answer.send(command.spawn());
            }
        });
        Mutex::new(sender)
    });
    let description = format!("{command:?}");
    let (answer, child) = mpsc::sync_channel(1);
    SPAWNER
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, answer))
        .expect("the spawner lives as long as the process");
    child
        .recv()
        .expect("the spawner answers")
        .unwrap_or_else(|error| panic!("cannot start {description}: {error}"))
}

/// Exit code as a shell gives it: 128 + signal for a process that a signal ended.
pub fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// The last lines of a log file, for panic messages.
pub fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    let last = lines[lines.len().saturating_sub(40)..].join("\n");
    format!("the end of {}:\n{last}", log.display())
}

/// A directory of one server or daemon under `target/tmp`. It is removed on drop, unless the test fails: then its logs are
/// worth reading, and the next run removes it.
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    pub fn new(kind: &str) -> Self {
        static SWEPT: OnceLock<()> = OnceLock::new();
        SWEPT.get_or_init(remove_leftovers);
        let path = target_tmp().join(format!("run-{}-{}-{kind}", std::process::id(), unique()));
        fs::create_dir_all(&path)
            .unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
        Self { path }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("kept for a look: {}", self.path.display());
        } else {
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

/// Where everything of the tests lives: `target/tmp`.
pub fn target_tmp() -> &'static Path {
    Path::new(env!("CARGO_TARGET_TMPDIR"))
}

/// Directories whose test process is gone: of failed tests, of a killed run, and of statics, which are never dropped.
fn remove_leftovers() {
    for entry in fs::read_dir(target_tmp()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix("run-")
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
        if owner.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// A number that no other call in this process returns.
pub fn unique() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A loopback port that is this process's until it ends, so that a killed server can come back to it: it lies below the range
/// from which the kernel takes the local ports of outgoing connections, and a lock keeps other test processes from it.
pub fn free_port() -> u16 {
    const FIRST: u16 = 15_000;
    const COUNT: u16 = 15_000;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    static LOCKS: Mutex<Vec<File>> = Mutex::new(Vec::new());
    let directory = std::env::temp_dir().join("sdl-test-ports");
    fs::create_dir_all(&directory).expect("the directory of locks on ports");
    // Test processes that run at the same time start far apart.
    let start = (std::process::id().wrapping_mul(1_009) % u32::from(COUNT)) as u16;
    for _ in 0..COUNT {
        let port = FIRST + (start + NEXT.fetch_add(1, Ordering::Relaxed) % COUNT) % COUNT;
        let lock = File::create(directory.join(port.to_string())).expect("a lock on a port");
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok()
            && TcpListener::bind(("127.0.0.1", port)).is_ok()
        {
            LOCKS
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(lock);
            return port;
        }
    }
    panic!("no free port on loopback");
}
