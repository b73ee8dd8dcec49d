//! A throwaway MySQL or MariaDB server.

use std::collections::BTreeMap;
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
use super::servers::{self, Process, Scratch, binaries, free_port, mariadb_binaries};

/// The account of the daemon, with exactly the privileges the documentation asks for.
pub const USER: &str = "sdl";
pub const PASSWORD: &str = "sdl-secret";

/// The server that a test runs against. Tests whose assertions hold for all take it as an argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flavor {
    Mysql,
    /// The long-lived 10.11.
    Mariadb10,
    /// 11.4 or newer.
    Mariadb11,
}

impl Flavor {
    pub fn is_mariadb(self) -> bool {
        self != Self::Mysql
    }

    /// As `MYSQL_FLAVOR` and the offset document name it.
    pub fn name(self) -> &'static str {
        if self.is_mariadb() {
            "mariadb"
        } else {
            "mysql"
        }
    }

    /// One of the programs that come with this server.
    fn program(self, name: &str) -> PathBuf {
        match self {
            Self::Mysql => binaries().mysqld.clone(),
            Self::Mariadb10 => mariadb_binaries().mariadb_10.join(name),
            Self::Mariadb11 => mariadb_binaries().mariadb_11.join(name),
        }
    }

    fn server_command(self) -> Command {
        let mut command = servers::guarded(&self.program("mariadbd"));
        command.arg("--no-defaults");
        if rustix::process::geteuid().is_root() {
            // Without being told so, the server refuses to run as root.
            command.arg("--user=root");
        }
        command
    }

    /// Makes a data directory with the accounts that `accounts` creates.
    fn initialize_command(self, data: &Path, accounts: &Path) -> Command {
        let mut command;
        if self.is_mariadb() {
            command = servers::guarded(&self.program("mariadb-install-db"));
            command
                .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
                .args(["--skip-log-bin", MARIADB_LOG_SIZE])
                .arg(format!("--extra-file={}", accounts.display()));
            if rustix::process::geteuid().is_root() {
                command.arg("--user=root");
            }
        } else {
            command = self.server_command();
            command
                .args(["--initialize-insecure", MYSQL_LOG_SIZE])
                .arg(format!("--init-file={}", accounts.display()));
        }
        // At its start a MariaDB removes what another one has in a temporary directory that they share.
        let temporary = data.parent().expect("a scratch directory").display();
        command
            .arg(format!("--datadir={}", data.display()))
            .arg(format!("--tmpdir={temporary}"));
        command
    }

    /// Run once, while the data directory is made, so that it is in no binlog. One statement a line. The rights of the
    /// daemon are exactly those that the documentation asks for; BINLOG MONITOR is what MariaDB made of REPLICATION CLIENT.
    fn accounts(self) -> &'static str {
        if self.is_mariadb() {
            "\
FLUSH PRIVILEGES;
CREATE USER 'root'@'%' IDENTIFIED BY '';
GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;
CREATE USER 'sdl'@'%' IDENTIFIED BY 'sdl-secret';
GRANT REPLICATION SLAVE, BINLOG MONITOR, SELECT ON *.* TO 'sdl'@'%';
"
        } else {
            "\
CREATE USER 'root'@'%' IDENTIFIED BY '';
GRANT ALL ON *.* TO 'root'@'%' WITH GRANT OPTION;
CREATE USER 'sdl'@'%' IDENTIFIED BY 'sdl-secret';
GRANT REPLICATION SLAVE, REPLICATION CLIENT, SELECT ON *.* TO 'sdl'@'%';
"
        }
    }

    /// What sdl needs of a server and what differs between the flavors.
    fn options(self) -> &'static [&'static str] {
        if self.is_mariadb() {
            &[
                "--log-bin=binlog",
                "--binlog-format=ROW",
                "--log-slave-updates=ON",
                "--gtid-strict-mode=ON",
                "--gtid-domain-id=0",
                "--binlog-annotate-row-events=ON",
                MARIADB_LOG_SIZE,
            ]
        } else {
            &[
                "--gtid-mode=ON",
                "--enforce-gtid-consistency=ON",
                "--binlog-rows-query-log-events=ON",
                "--mysqlx=OFF",
                "--secure-file-priv=",
                MYSQL_LOG_SIZE,
            ]
        }
    }
}

const MYSQL_LOG_SIZE: &str = "--loose-innodb-redo-log-capacity=64M";
const MARIADB_LOG_SIZE: &str = "--innodb-log-file-size=32M";

/// What sdl needs of every server, then what makes a test server small and quick. A flavor's options follow, then those of
/// a test, and override these.
const OPTIONS: &[&str] = &[
    "--server-id=1",
    "--binlog-row-image=FULL",
    "--binlog-row-metadata=FULL",
    "--sync-binlog=1",
    "--max-allowed-packet=1G",
    "--character-set-server=utf8mb4",
    "--bind-address=127.0.0.1",
    // Relative to the data directory: an absolute path under target/tmp may exceed the 107 bytes of a socket address.
    "--socket=mysqld.sock",
    "--pid-file=mysqld.pid",
    // No name server is asked who 127.0.0.1 is.
    "--skip-name-resolve",
    "--performance-schema=OFF",
    "--innodb-buffer-pool-size=64M",
    // The servers are killed, the machine is not: what the kernel has is safe.
    "--innodb-flush-log-at-trx-commit=2",
];

/// A MySQL or MariaDB server on loopback with a data directory of its own. Dropping it kills it.
pub struct Mysqld {
    // Before the directory: fields are dropped in order.
    process: Mutex<Option<Process>>,
    flavor: Flavor,
    port: u16,
    options: Vec<String>,
    scratch: Scratch,
}

impl Mysqld {
    /// Starts MySQL with everything that sdl asks for; takes about a second.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts MariaDB 10.11 with everything that sdl asks for.
    pub async fn start_mariadb() -> Self {
        Self::start_as(Flavor::Mariadb10, &[]).await
    }

    /// Starts MySQL with further options, for example `&["--gtid-mode=OFF", "--enforce-gtid-consistency=OFF"]`.
    pub async fn start_with(options: &[&str]) -> Self {
        Self::start_as(Flavor::Mysql, options).await
    }

    /// Starts a server of the given flavor, with further options.
    pub async fn start_as(flavor: Flavor, options: &[&str]) -> Self {
        Self::start_as_at(flavor, free_port(), options).await
    }

    /// Starts MySQL on a given port: another server behind the same address.
    pub async fn start_at(port: u16, options: &[&str]) -> Self {
        Self::start_as_at(Flavor::Mysql, port, options).await
    }

    /// [`start_at`](Self::start_at) with a server of the given flavor.
    pub async fn start_as_at(flavor: Flavor, port: u16, options: &[&str]) -> Self {
        let scratch = Scratch::new(flavor.name());
        copy_directory(&template(flavor), &scratch.path().join("data"));
        let server = Self {
            process: Mutex::new(None),
            flavor,
            port,
            options: options.iter().map(ToString::to_string).collect(),
            scratch,
        };
        server.start_again().await;
        server
    }

    pub fn flavor(&self) -> Flavor {
        self.flavor
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
            panic!(
                "cannot connect to {} on port {}: {error}",
                self.flavor.name(),
                self.port
            )
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
        self.try_exec(sql).await.unwrap_or_else(|error| {
            panic!(
                "{} refused: {error}\nin: {}",
                self.flavor.name(),
                shortened(sql)
            )
        });
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
        connection.query(sql).await.unwrap_or_else(|error| {
            panic!(
                "{} refused: {error}\nin: {}",
                self.flavor.name(),
                shortened(sql)
            )
        })
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

    /// What the server has executed, as it states it: MySQL's GTID set, MariaDB's last GTID of each domain.
    pub async fn executed_gtid(&self) -> String {
        executed_gtid(self.flavor, &mut self.root().await).await
    }

    /// Whether one set of executed GTIDs contains another.
    pub async fn gtid_subset(&self, subset: &str, set: &str) -> bool {
        gtid_subset(self.flavor, &mut self.root().await, subset, set).await
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
        let mut command = self.flavor.server_command();
        command
            .arg(format!("--datadir={}", self.datadir().display()))
            .arg(format!("--tmpdir={}", self.scratch.path().display()))
            .arg(format!("--port={}", self.port))
            .args(OPTIONS)
            .args(self.flavor.options())
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

/// What the server has executed, without line breaks.
pub async fn executed_gtid(flavor: Flavor, connection: &mut Conn) -> String {
    let query = if flavor.is_mariadb() {
        // Of each domain the last GTID in the binlog, which is what a replica that has read it all has.
        "SELECT @@GLOBAL.gtid_binlog_pos"
    } else {
        "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')"
    };
    let executed: Option<String> = connection
        .query_first(query)
        .await
        .unwrap_or_else(|error| panic!("{query} failed: {error}"));
    executed.expect("what was executed is one row")
}

/// Whether `set` contains `subset`: as the server sees it, or where the server has no function for that (MariaDB), by the
/// rule that a GTID stands for all before it in its domain.
pub async fn gtid_subset(flavor: Flavor, connection: &mut Conn, subset: &str, set: &str) -> bool {
    if flavor.is_mariadb() {
        let set = last_of_domains(set);
        return last_of_domains(subset)
            .iter()
            .all(|(domain, last)| set.get(domain).is_some_and(|covered| covered >= last));
    }
    let contained: Option<Option<bool>> = connection
        .exec_first("SELECT GTID_SUBSET(?, ?)", (subset, set))
        .await
        .unwrap_or_else(|error| {
            panic!("MySQL takes {subset:?} or {set:?} for no GTID set: {error}")
        });
    contained.flatten().expect("GTID_SUBSET answers")
}

/// MariaDB's `domain-server-sequence,…`: the highest sequence number of each domain.
fn last_of_domains(position: &str) -> BTreeMap<u32, u64> {
    let mut last = BTreeMap::new();
    for gtid in position.split(',').filter(|gtid| !gtid.is_empty()) {
        let parts: Vec<&str> = gtid.split('-').collect();
        let [domain, _server, sequence] = parts[..] else {
            panic!("{position:?} is no position of MariaDB");
        };
        let sequence: u64 = sequence.parse().expect("a sequence number");
        let highest = last
            .entry(domain.parse().expect("a domain"))
            .or_insert(sequence);
        *highest = sequence.max(*highest);
    }
    last
}

/// An initialized data directory, made once per server version (3 s) and then copied for every start (0.2 s).
fn template(flavor: Flavor) -> PathBuf {
    let server = flavor.program("mariadbd");
    let version = Command::new(&server)
        .args(["--no-defaults", "--version"])
        .output()
        .unwrap_or_else(|error| panic!("cannot run {}: {error}", server.display()));
    let mut hasher = DefaultHasher::new();
    (&version.stdout, flavor.accounts()).hash(&mut hasher);
    let name = format!("{}-template-{:016x}", flavor.name(), hasher.finish());
    let template = servers::target_tmp().join(name);

    // Tests start at the same time, in threads and in processes: one makes it, the others wait.
    fs::create_dir_all(servers::target_tmp()).expect("target/tmp can be made");
    let lock = File::create(template.with_extension("lock")).expect("a lock file in target/tmp");
    rustix::fs::flock(&lock, FlockOperation::LockExclusive).expect("the lock of the template");
    if !template.exists() {
        let scratch = Scratch::new("template");
        let (data, accounts, log) = (
            scratch.path().join("data"),
            scratch.path().join("accounts.sql"),
            scratch.path().join("log"),
        );
        fs::write(&accounts, flavor.accounts()).expect("a file in target/tmp");
        let output = File::create(&log).expect("a log in target/tmp");
        let status = flavor
            .initialize_command(&data, &accounts)
            .stdin(Stdio::null())
            .stdout(output.try_clone().expect("a second handle of the log"))
            .stderr(output)
            .status()
            .expect("the server's programs start");
        assert!(
            status.success(),
            "no data directory could be made: {status}\n{}",
            servers::tail(&log)
        );
        if flavor == Flavor::Mysql {
            // Each copy is a server of its own and makes its own UUID. Its certificates are copied: making them takes longer.
            fs::remove_file(data.join("auto.cnf")).expect("auto.cnf is there");
        }
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
