//! A throwaway MySQL server.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use mysql_async::prelude::{FromRow, Queryable};
use mysql_async::{Conn, OptsBuilder};
use rustix::fs::FlockOperation;

use super::POLL;
use super::servers::{self, Process, Scratch, binaries, free_port};

/// The account of the daemon, with exactly the privileges the documentation asks for.
pub const USER: &str = "sdl";
pub const PASSWORD: &str = "sdl-secret";

/// Run once, while the data directory is made, so that it is in no binlog. One statement a line.
const ACCOUNTS: &str = "\
CREATE USER 'root'@'%' IDENTIFIED BY '';
GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;
CREATE USER 'sdl'@'%' IDENTIFIED BY 'sdl-secret';
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO 'sdl'@'%';
";

/// What sdl needs of a server, then what makes a test server small and quick. Options of a test follow and override these.
const OPTIONS: &[&str] = &[
    "--server-id=1",
    "--gtid-mode=ON",
    "--enforce-gtid-consistency=ON",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--binlog-rows-query-log-events=ON",
    "--sync-binlog=1",
    "--max-allowed-packet=1G",
    "--character-set-server=utf8mb4",
    "--bind-address=127.0.0.1",
    // Relative to the data directory: an absolute path under target/tmp may exceed the 107 bytes of a socket address.
    "--socket=mysqld.sock",
    "--pid-file=mysqld.pid",
    // No name server is asked who 127.0.0.1 is.
    "--skip-name-resolve",
    "--mysqlx=OFF",
    "--secure-file-priv=",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=64M",
    "--loose-innodb-redo-log-capacity=64M",
    // The servers are killed, the machine is not: what the kernel has is safe.
    "--innodb-flush-log-at-trx-commit=2",
];

/// A MySQL server on loopback with a data directory of its own. Dropping it kills it.
pub struct Mysqld {
    // Before the directory: fields are dropped in order.
    process: Mutex<Option<Process>>,
    port: u16,
    options: Vec<String>,
    scratch: Scratch,
}

impl Mysqld {
    /// Starts a server with everything that sdl asks for; takes about a second.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts a server with further options, for example `&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]`.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::start_at(free_port(), options).await
    }

    /// Starts a server on a given port: another server behind the same address.
    pub async fn start_at(port: u16, options: &[&str]) -> Self {
        let scratch = Scratch::new("mysqld");
        copy_directory(&template(), &scratch.path().join("data"));
        let server = Self {
            process: Mutex::new(None),
            port,
            options: options.iter().map(ToString::to_string).collect(),
            scratch,
        };
        server.start_again().await;
        server
    }

    /// `host:port`, as `MYSQL_ADDR` takes it.
    pub fn addr(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn datadir(&self) -> PathBuf {
        self.scratch.path().join("data")
    }

    /// The server's own log.
    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    // --- statements

    /// A new connection as root, in UTC.
    pub async fn root(&self) -> Conn {
        self.connect("root", "").await.unwrap_or_else(|error| {
            panic!("cannot connect to mysqld on port {}: {error}", self.port)
        })
    }

    /// A new connection as the given user, without TLS, in UTC.
    pub async fn connect(&self, user: &str, password: &str) -> mysql_async::Result<Conn> {
        let options = OptsBuilder::default()
            .ip_or_hostname("127.0.0.1")
            .tcp_port(self.port)
            .user(Some(user))
            .pass(Some(password))
            .prefer_socket(false)
            .max_allowed_packet(Some(1 << 30))
            .init(vec!["SET time_zone = '+00:00'"]);
        Conn::new(options).await
    }

    /// Runs one or several statements (separated by `;`) as root on a connection of their own.
    pub async fn exec(&self, sql: impl AsRef<str>) {
        let sql = sql.as_ref();
        self.try_exec(sql)
            .await
            .unwrap_or_else(|error| panic!("MySQL refused: {error}\nin: {}", shortened(sql)));
    }

    /// [`exec`](Self::exec) for statements that may fail.
    pub async fn try_exec(&self, sql: impl AsRef<str>) -> mysql_async::Result<()> {
        let mut connection = self.connect("root", "").await?;
        connection.query_drop(sql.as_ref()).await?;
        connection.disconnect().await
    }

    /// All rows of a query.
    pub async fn query<T: FromRow + Send + 'static>(&self, sql: impl AsRef<str>) -> Vec<T> {
        let sql = sql.as_ref();
        let mut connection = self.root().await;
        connection
            .query(sql)
            .await
            .unwrap_or_else(|error| panic!("MySQL refused: {error}\nin: {}", shortened(sql)))
    }

    /// The first row of a query, which must have one.
    pub async fn query_one<T: FromRow + Send + 'static>(&self, sql: impl AsRef<str>) -> T {
        let sql = sql.as_ref();
        self.query(sql)
            .await
            .into_iter()
            .next()
            .unwrap_or_else(|| panic!("no row from: {}", shortened(sql)))
    }

    /// `@@global.gtid_executed`, without line breaks.
    pub async fn executed_gtid(&self) -> String {
        executed_gtid(&mut self.root().await).await
    }

    /// Whether one GTID set contains another, as the server sees it.
    pub async fn gtid_subset(&self, subset: &str, set: &str) -> bool {
        gtid_subset(&mut self.root().await, subset, set).await
    }

    // --- faults

    /// SIGKILL: what the client was not told is committed may or may not be.
    pub fn kill(&self) {
        self.with_process(Process::kill);
    }

    /// A clean shutdown.
    pub async fn stop(&self) {
        let process = self.take();
        process.stop().await;
    }

    /// SIGSTOP: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.with_process(Process::pause);
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.with_process(Process::resume);
    }

    /// A clean shutdown and a start, on the same port and data directory.
    pub async fn restart(&self) {
        self.stop().await;
        self.start_again().await;
    }

    /// Starts the server again after [`kill`](Self::kill) or [`stop`](Self::stop), on the same port and data directory.
    pub async fn start_again(&self) {
        self.start_again_with(&[]).await;
    }

    /// [`start_again`](Self::start_again) with options that override the first ones, for this start only.
    pub async fn start_again_with(&self, options: &[&str]) {
        self.kill();
        let mut command = server_command();
        command
            .arg(format!("--datadir={}", self.datadir().display()))
            .arg(format!("--port={}", self.port))
            .args(OPTIONS)
            .args(&self.options)
            .args(options);
        let process = Process::start("mysqld", command, &self.log_path());
        let started = Instant::now();
        loop {
            process.assert_running();
            let attempt =
                tokio::time::timeout(Duration::from_secs(5), self.connect("root", "")).await;
            match attempt {
                Ok(Ok(connection)) => {
                    let _ = connection.disconnect().await;
                    break;
                }
                Ok(Err(error)) if started.elapsed() > servers::START => {
                    panic!("mysqld does not answer: {error}\n{}", self.log())
                }
                Err(_) if started.elapsed() > servers::START => {
                    panic!("mysqld does not answer\n{}", self.log())
                }
                _ => tokio::time::sleep(POLL).await,
            }
        }
        *self.process.lock().unwrap_or_else(PoisonError::into_inner) = Some(process);
    }

    fn with_process(&self, act: impl FnOnce(&Process)) {
        if let Some(process) = self
            .process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .as_ref()
        {
            act(process);
        }
    }

    fn take(&self) -> Process {
        self.process
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
            .expect("mysqld is running")
    }

    fn log_path(&self) -> PathBuf {
        self.scratch.path().join("mysqld.log")
    }
}

/// `@@global.gtid_executed`, without line breaks.
pub async fn executed_gtid(connection: &mut Conn) -> String {
    let executed: Option<String> = connection
        .query_first("SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')")
        .await
        .expect("gtid_executed can be read");
    executed.expect("gtid_executed is one row")
}

/// Whether `set` contains `subset`, as the server sees it.
pub async fn gtid_subset(connection: &mut Conn, subset: &str, set: &str) -> bool {
    let contained: Option<Option<bool>> = connection
        .exec_first("SELECT GTID_SUBSET(?, ?)", (subset, set))
        .await
        .unwrap_or_else(|error| {
            panic!("MySQL takes {subset:?} or {set:?} for no GTID set: {error}")
        });
    contained.flatten().expect("GTID_SUBSET answers")
}

fn server_command() -> Command {
    let mut command = servers::guarded(&binaries().mysqld);
    command.arg("--no-defaults");
    if rustix::process::geteuid().is_root() {
        // Without being told so, mysqld refuses to run as root.
        command.arg("--user=root");
    }
    command
}

/// An initialized data directory, made once per server version (3 s) and then copied for every start (0.2 s).
fn template() -> PathBuf {
    let version = Command::new(&binaries().mysqld)
        .args(["--no-defaults", "--version"])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", binaries().mysqld.display()));
    let mut hasher = DefaultHasher::new();
    (&version.stdout, ACCOUNTS).hash(&mut hasher);
    let template = servers::target_tmp().join(format!("mysql-template-{:016x}", hasher.finish()));

    // Tests start at the same time, in threads and in processes: one makes it, the others wait.
    fs::create_dir_all(servers::target_tmp()).expect("target/tmp can be made");
    let lock = File::create(template.with_extension("lock")).expect("a lock file in target/tmp");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("the lock of the template");
    if !template.exists() {
        let scratch = Scratch::new("mysql-template");
        let (data, accounts, log) = (
            scratch.path().join("data"),
            scratch.path().join("accounts.sql"),
            scratch.path().join("log"),
        );
        fs::write(&accounts, ACCOUNTS).expect("a file in target/tmp");
        let output = File::create(&log).expect("a log in target/tmp");
        let status = server_command()
            .arg("--initialize-insecure")
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--init-file={}", accounts.display()))
            .arg("--loose-innodb-redo-log-capacity=64M")
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output)
            .status()
            .expect("mysqld starts");
        assert!(
            status.success(),
            "mysqld --initialize-insecure failed: {status}\n{}",
            servers::tail(&log)
        );
        // Each copy is a server of its own and makes its own UUID. Its certificates are copied: making them takes longer.
        fs::remove_file(data.join("auto.cnf")).expect("auto.cnf is there");
        fs::rename(&data, &template).expect("the template gets its name");
    }
    template
}

fn copy_directory(from: &Path, to: &Path) {
    let status = Command::new("cp")
        .args(["--archive", "--reflink=auto", "--"])
        .arg(from)
        .arg(to)
        .status()
        .expect("cp runs");
    assert!(
        status.success(),
        "cannot copy {} to {}",
        from.display(),
        to.display()
    );
}

/// A statement as a panic message can bear it.
fn shortened(sql: &str) -> String {
    let mut text: String = sql.chars().take(500).collect();
    if text.len() < sql.len() {
        text.push_str(" …");
    }
    text
}
