//! The Debian package, and docs/deploy.md: what is in it, and its whole life on a system that really boots.
//!
//! The package is built of the binary under test (a release build would take longer than all other tests), by the script that builds the
//! real one, whose manual pages and completions are made here by the same code. The commands are those of docs/deploy.md, taken
//! from the page.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use mongodb::bson::doc;
use sdl::config::{Config, SETTINGS, Sources};

use crate::common::load::{Load, TABLES, create_tables};
use crate::common::servers::{Scratch, free_port, target_tmp};
use crate::common::systemd::{Done, System};
use crate::common::{Mongod, Mysqld, caught_up, fold, wait_until};

#[path = "../../deploy/package/pages.rs"]
mod pages;

/// For what takes a second on a quiet machine.
const SOON: Duration = Duration::from_secs(60);

const UNIT: &str = "sdl.service";
const INSTANCE: &str = "sdl@billing.service";

/// Where the guide's commands are run, with the package beside them.
const HERE: &str = "/root";

// --- what is made of the command line and the settings

/// The directory of the binary under test; in it the pages, as `deploy/package/build.sh` has them.
fn built() -> &'static Path {
    static BUILT: LazyLock<&Path> = LazyLock::new(|| {
        let built = Path::new(env!("CARGO_BIN_EXE_sdl")).parent();
        let built = built.expect("the binary is in a directory");
        pages::write(&built.join("package")).expect("the pages can be written");
        built
    });
    &BUILT
}

fn page(name: &str) -> String {
    let path = built().join("package").join(name);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs a program that need not be there; `None`, with a line that says so, where it is not.
fn checked_by(program: &str, arguments: &[&str], file: &Path) -> Option<String> {
    let output = Command::new(program)
        .args(arguments)
        .arg(file)
        .stdin(Stdio::null())
        .output();
    match output {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            Some(if output.status.success() {
                said
            } else {
                format!("{said}{}", output.status)
            })
        }
        Err(error) => {
            eprintln!("{} is not looked at by {program}: {error}", file.display());
            None
        }
    }
}

#[test]
fn every_command_has_a_manual_page_that_formats_without_a_warning() {
    let directory = built().join("package");
    let mut names = vec!["sdl".to_owned()];
    names.extend(
        sdl::cli::command()
            .get_subcommands()
            .map(|one| format!("sdl-{}", one.get_name())),
    );
    for name in names {
        let path = directory.join(format!("{name}.1"));
        assert!(path.exists(), "{}", path.display());
        assert!(path.with_extension("1.gz").exists());
        for (program, arguments) in [
            ("groff", &["-man", "-ww", "-Kutf8", "-Tutf8", "-z"][..]),
            ("mandoc", &["-Tlint", "-Werror"]),
        ] {
            if let Some(said) = checked_by(program, arguments, &path) {
                assert_eq!(said, "", "{program} on {name}(1)");
            }
        }
    }
}

#[test]
fn the_manual_page_has_settings_files_exit_codes_and_signals() {
    let page = page("sdl.1").replace("\\-", "-").replace("\\&", "");
    for section in [
        "NAME",
        "SYNOPSIS",
        "COMMANDS",
        "OPTIONS",
        "SETTINGS",
        "EXIT STATUS",
        "SIGNALS",
        "FILES",
        "EXAMPLES",
    ] {
        assert!(
            page.contains(&format!(".SH {section}\n"))
                || page.contains(&format!(".SH \"{section}\"\n")),
            "{section}"
        );
    }
    for setting in SETTINGS {
        assert!(
            page.contains(&format!("\\fB{}\\fR", setting.name)),
            "{}",
            setting.name
        );
    }
    for code in ["0", "1", "3", "64"] {
        assert!(page.contains(&format!(".TP\n\\fB{code}\\fR\n")), "{code}");
    }
}

#[test]
fn completions_are_scripts_of_their_shells() {
    for (shell, file) in [("bash", "sdl.bash"), ("zsh", "_sdl"), ("fish", "sdl.fish")] {
        let path = built().join("package").join(file);
        assert!(page(file).contains("accept-gap"), "{file}");
        if let Some(said) = checked_by(shell, &["-n"], &path) {
            assert_eq!(said, "", "{shell} -n {file}");
        }
    }
}

#[test]
fn the_settings_file_has_every_setting_and_sets_the_spool_alone() {
    let text = page("sdl.env");
    let set = text
        .lines()
        .filter(|line| !line.starts_with('#') && !line.is_empty());
    assert_eq!(set.collect::<Vec<_>>(), ["SPOOL_DIR=/var/lib/sdl"]);
    for setting in SETTINGS {
        let line = format!("{}=", setting.name);
        let lines = text.lines().map(|line| line.trim_start_matches('#'));
        let times = lines.filter(|one| one.starts_with(&line)).count();
        assert_eq!(times, 1, "{line}");
    }
    // What is missing is said, and nothing else is wrong with it.
    let nothing: [(&str, &str); 0] = [];
    let path = built().join("package/sdl.env");
    let sources = Sources::from_environment(nothing).with_dotenv(&path);
    let errors = Config::from_sources(&sources).expect_err("nothing is set");
    let told = errors.to_string();
    for name in ["MYSQL_ADDR", "MYSQL_USER", "MONGO_URI"] {
        assert!(told.contains(&format!("{name}: is not set")), "{told}");
    }
    assert_eq!(told.matches("is not set").count(), 3, "{told}");
}

// --- the package

/// Builds a package of the given version into a directory that holds nothing else.
fn build(version: &str) -> PathBuf {
    let profile = match built().file_name().and_then(|name| name.to_str()) {
        Some("debug") => "dev",
        Some(profile) => profile,
        None => panic!("the binary is in no profile's directory"),
    };
    let package = target_tmp().join(format!("sdl_{version}_amd64.deb"));
    let output = Command::new("deploy/package/build.sh")
        .args([
            "--built",
            "--profile",
            profile,
            "--fast",
            "--compress-type",
            "gz",
        ])
        .args(["--deb-version", version, "--output"])
        .arg(&package)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("CARGO_TARGET_DIR", built().parent().expect("target"))
        .env_remove("CARGO_MAKEFLAGS")
        .env_remove("MAKEFLAGS")
        .stdin(Stdio::null())
        .output()
        .expect("deploy/package/build.sh starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(!said.contains("warning"), "{said}");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert_eq!(printed.trim(), package.to_string_lossy());
    package
}

fn dpkg_deb(arguments: &[&str], package: &Path) -> String {
    let output = Command::new("dpkg-deb")
        .arg(arguments[0])
        .arg(package)
        .args(&arguments[1..])
        .output()
        .expect("dpkg-deb starts");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

fn look_inside(package: &Path) {
    let mut files = BTreeSet::new();
    for line in dpkg_deb(&["--contents"], package).lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [mode, owner, .., name] = words[..] else {
            panic!("{line}")
        };
        assert!(matches!(owner, "0/0" | "root/root"), "{line}");
        let expected = match name {
            _ if name.ends_with('/') => "drwxr-xr-x",
            "./usr/bin/sdl" => "-rwxr-xr-x",
            "./etc/sdl/sdl.env" => "-rw-r-----",
            _ => "-rw-r--r--",
        };
        assert_eq!(mode, expected, "{line}");
        files.insert(name.to_owned());
    }
    for name in [
        "usr/bin/sdl",
        "usr/lib/systemd/system/sdl.service",
        "usr/lib/systemd/system/sdl@.service",
        "usr/lib/sysusers.d/sdl.conf",
        "usr/share/man/man1/sdl.1.gz",
        "usr/share/man/man1/sdl-check.1.gz",
        "usr/share/bash-completion/completions/sdl",
        "usr/share/zsh/vendor-completions/_sdl",
        "usr/share/fish/vendor_completions.d/sdl.fish",
        "usr/share/doc/sdl/copyright",
        "usr/share/doc/sdl/changelog.Debian.gz",
        "usr/share/doc/sdl/operations.md",
        "usr/share/doc/sdl/deploy.md",
    ] {
        assert!(files.contains(&format!("./{name}")), "{name}: {files:?}");
    }
    let conffiles = dpkg_deb(&["--info", "conffiles"], package);
    assert_eq!(conffiles.trim(), "/etc/sdl/sdl.env");
    let control = dpkg_deb(&["--info", "control"], package);
    assert!(control.contains("libc6 (>= "), "{control}");
    assert!(control.contains("systemd (>= "), "{control}");
}

#[test]
fn the_changelog_of_the_package_is_about_this_version() {
    let changelog = include_str!("../../deploy/package/changelog");
    let newest = concat!("sdl (", env!("CARGO_PKG_VERSION"), "-");
    assert!(changelog.starts_with(newest), "{newest}");
}

// --- docs/deploy.md

struct Block {
    phase: &'static str,
    language: &'static str,
    text: &'static str,
}

/// The fenced blocks of the page, in its order; `<!-- phase: NAME -->` before one says when it is run, else it is `install`.
fn guide() -> Vec<Block> {
    let mut blocks = Vec::new();
    let mut rest = include_str!("../../docs/deploy.md");
    while let Some((before, fenced)) = rest.split_once("\n```") {
        let (fenced, after) = fenced.split_once("\n```\n").expect("a block that ends");
        let (language, text) = fenced.split_once('\n').expect("a block with lines");
        let phase = before.rsplit('\n').next().unwrap_or_default();
        let phase = phase
            .strip_prefix("<!-- phase: ")
            .and_then(|phase| phase.strip_suffix(" -->"));
        blocks.push(Block {
            phase: phase.unwrap_or("install"),
            language,
            text,
        });
        rest = after;
    }
    blocks
}

/// The phases of the page, in the order of the test.
const PHASES: [&str; 6] = [
    "install", "several", "upgrade", "upgraded", "remove", "purge",
];

#[test]
fn every_block_of_the_page_is_run_in_a_phase_of_the_test() {
    let blocks = guide();
    for block in &blocks {
        let Block {
            phase,
            language,
            text,
        } = block;
        assert!(PHASES.contains(phase), "{phase}: {text}");
        assert!(
            ["ini", "sql", "js", "sh"].contains(language),
            "{language}: {text}"
        );
    }
    let page = include_str!("../../docs/deploy.md");
    assert_eq!(2 * blocks.len(), page.matches("\n```").count());
}

/// The settings of the page's my.cnf, as options of a server.
fn server_options() -> Vec<String> {
    let blocks = guide();
    let ini = blocks.iter().find(|block| block.language == "ini");
    let lines = ini.expect("a my.cnf").text.lines();
    lines
        .filter(|line| line.contains('='))
        .map(|line| format!("--{line}"))
        .collect()
}

/// A server as the page sets it up, and the system that is to become its audit.
struct Host {
    system: System,
    mysqld: Arc<Mysqld>,
    mongod: Mongod,
    mongosh: PathBuf,
    /// What the page calls it, and what it is here.
    names: Vec<(&'static str, String)>,
}

impl Host {
    async fn start(mongosh: PathBuf) -> Option<Self> {
        let system = System::boot().await?;
        let options = server_options();
        let options: Vec<&str> = options.iter().map(String::as_str).collect();
        let (mysqld, mongod) = tokio::join!(Mysqld::start_with(&options), Mongod::start());
        let names = vec![
            ("db1.example.com:3306", mysqld.addr()),
            ("db2.example.com:3306", mysqld.addr()),
            ("mongo1.example.com:27017", mongod.addr()),
            // The container has the host's network, where other tests have daemons.
            (
                "SOURCE_ID=shop\n",
                format!("SOURCE_ID=shop\nMETRICS_ADDR=127.0.0.1:{}\n", free_port()),
            ),
            ("127.0.0.1:9751", format!("127.0.0.1:{}", free_port())),
            // So that each audit can be looked at by itself.
            (
                "SOURCE_ID=billing\n",
                "SOURCE_ID=billing\nMONGO_DB=billing\n".to_owned(),
            ),
        ];
        system.copy(&mysqld.datadir().join("ca.pem"), "/root/ca.pem");
        Some(Self {
            system,
            mysqld: Arc::new(mysqld),
            mongod,
            mongosh,
            names,
        })
    }

    /// Runs the blocks of a phase; what they printed, both streams.
    async fn follow(&self, phase: &str) -> String {
        let mut printed = String::new();
        for block in guide().iter().filter(|block| block.phase == phase) {
            let mut text = block.text.to_owned();
            for (name, here) in &self.names {
                text = text.replace(name, here);
            }
            match block.language {
                "ini" => (),
                "sql" => self.mysqld.exec(&text).await,
                "js" => printed += &self.mongosh(&text),
                "sh" => {
                    let done = self.sh(&text).await;
                    // 1 is the answer of a check that found something to warn of, and of a status that is not at its best.
                    let judges = ["sdl check", "sdl status", "billing.env check"];
                    let most = i32::from(judges.iter().any(|call| text.contains(call)));
                    assert!((0..=most).contains(&done.code), "{text}\n{done:#?}");
                    printed += &done.stdout;
                    printed += &done.stderr;
                }
                other => panic!("nothing runs a block of {other:?}: {text}"),
            }
        }
        printed
    }

    /// A script inside, which ends at its first command that fails.
    async fn sh(&self, script: &str) -> Done {
        let script = format!("cd {HERE}\n{script}");
        self.system.run(&["bash", "-euc", &script]).await
    }

    /// [`sh`](Self::sh) that must succeed.
    async fn done(&self, script: &str) -> String {
        let done = self.sh(script).await;
        assert_eq!(done.code, 0, "{script}\n{done:#?}");
        done.stdout.trim().to_owned()
    }

    fn mongosh(&self, script: &str) -> String {
        let output = Command::new(&self.mongosh)
            .args(["--quiet", &self.mongod.uri(), "--eval", script])
            .stdin(Stdio::null())
            .output()
            .expect("mongosh starts");
        assert!(output.status.success(), "{script}\n{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Puts a package where the page expects it.
    fn bring(&self, package: &Path) {
        for entry in fs::read_dir(self.system.path(HERE))
            .expect("/root")
            .flatten()
        {
            if entry.path().extension().is_some_and(|end| end == "deb") {
                fs::remove_file(entry.path()).expect("a package can be removed");
            }
        }
        let name = package.file_name().expect("a file").to_string_lossy();
        self.system.copy(package, &format!("{HERE}/{name}"));
    }

    async fn assert_exact(&self, database: &str) {
        caught_up(&self.mysqld, &self.mongod, database).await;
        fold::assert_exact(&self.mysqld, &self.mongod, database, &TABLES).await;
    }

    /// Waits until a unit's process is another one, and streams.
    async fn restarted(&self, unit: &str, before: &str) {
        let is_new = |pid: &str| pid != "0" && pid != before;
        self.system
            .wait_for_property(unit, "MainPID", SOON, is_new)
            .await;
        self.is_active(unit).await;
    }

    async fn is_active(&self, unit: &str) {
        self.system
            .wait_for_property(unit, "ActiveState", SOON, |state| state == "active")
            .await;
    }

    /// Batches in the spool of sdl.service: in a copy of it, since SQLite would take the way through /proc for one of the host's.
    fn spooled(&self) -> i64 {
        let directory = self.system.path("/var/lib/sdl");
        let copy = Scratch::new("spool");
        let copy = copy.path().join("spool");
        let mut files = fs::read_dir(directory).into_iter().flatten().flatten();
        let file = files.find(|file| file.path().extension().is_some_and(|end| end == "sqlite3"));
        let Some(file) = file else { return 0 };
        for end in ["", "-wal"] {
            let with_end = |path: &Path| PathBuf::from(format!("{}{end}", path.display()));
            // There need not be a log.
            let _ = fs::copy(with_end(&file.path()), with_end(&copy));
        }
        let count = rusqlite::Connection::open(&copy).and_then(|connection| {
            connection.query_row("select count(*) from batches", [], |row| row.get(0))
        });
        // What was copied while it was written may not be whole.
        count.unwrap_or(0)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn from_nothing_to_a_service_and_away_again() {
    let Some(mongosh) = std::env::var_os("SDL_MONGOSH").filter(|path| !path.is_empty()) else {
        eprintln!("skipped: SDL_MONGOSH is not set (tests/servers.sh --mongosh)");
        return;
    };
    let Some(host) = Host::start(mongosh.into()).await else {
        return;
    };
    let packages = tokio::task::spawn_blocking(|| [build("9.0.0-1"), build("9.0.1-1")]);
    let [first, second] = packages.await.expect("both are built");
    look_inside(&first);

    // As the page says, from the accounts to a service that streams, and to a second one.
    host.bring(&first);
    let said = host.follow("install").await;
    assert!(said.contains("sdl is installed and not started"), "{said}");
    let owners = host
        .done(
            "stat -c '%n %U:%G %a' /etc/sdl /etc/sdl/sdl.env /etc/sdl/sdl.credentials /var/lib/sdl",
        )
        .await;
    assert_eq!(
        owners,
        "/etc/sdl root:sdl 750\n/etc/sdl/sdl.env root:sdl 640\n/etc/sdl/sdl.credentials root:root 700\n/var/lib/sdl sdl:sdl 700"
    );
    // The page's role is for the database that both write to there.
    let role = doc! { "role": "readWrite", "db": "billing" };
    host.mongod
        .admin(doc! { "grantRolesToRole": "sdl_writer", "roles": [role] })
        .await;
    host.follow("several").await;
    for unit in [UNIT, INSTANCE] {
        assert_eq!(host.system.property(unit, "ActiveState").await, "active");
    }

    upgrade_under_load(&host, &second).await;
    remove_with_something_in_the_spool(&host).await;
    install_again_and_purge(&host, &second).await;
}

async fn upgrade_under_load(host: &Host, package: &Path) {
    create_tables(&host.mysqld).await;
    let load = Load::start(&host.mysqld, 2);
    load.more(100).await;
    let before = [
        host.system.property(UNIT, "MainPID").await,
        host.system.property(INSTANCE, "MainPID").await,
    ];
    let settings = host.done("cat /etc/sdl/sdl.env").await;

    host.bring(package);
    host.follow("upgrade").await;
    host.restarted(UNIT, &before[0]).await;
    host.restarted(INSTANCE, &before[1]).await;
    host.follow("upgraded").await;
    load.more(100).await;
    load.stop().await;

    let version = host.done("dpkg-query -W -f '${Version}' sdl").await;
    assert_eq!(version, "9.0.1-1");
    assert_eq!(host.done("cat /etc/sdl/sdl.env").await, settings);
    for (unit, database) in [(UNIT, "audit"), (INSTANCE, "billing")] {
        let journal = host.system.journal(unit, &[]).await;
        let stops = journal
            .iter()
            .filter(|line| line.contains("Shutdown complete"));
        assert_eq!(stops.count(), 1, "{unit}: {journal:#?}");
        assert_eq!(host.system.property(unit, "NRestarts").await, "0");
        host.assert_exact(database).await;
    }

    // A service that was stopped for a reason stays stopped.
    host.done(&format!("systemctl stop {INSTANCE}; dpkg -i {HERE}/*.deb"))
        .await;
    assert_eq!(
        host.system.property(INSTANCE, "ActiveState").await,
        "inactive"
    );
    host.is_active(UNIT).await;
}

async fn remove_with_something_in_the_spool(host: &Host) {
    // A breaker that opens within seconds.
    host.done(
        "echo BREAKER_FAILURES=2 >>/etc/sdl/sdl.env; echo RETRY_MAX_ATTEMPTS=2 >>/etc/sdl/sdl.env
         sed -i 's/$/\\&serverSelectionTimeoutMS=500/' /etc/sdl/sdl.credentials/MONGO_URI
         cp -a /etc/sdl /root/kept
         systemctl restart sdl",
    )
    .await;
    host.mongod.kill();
    let load = Load::start(&host.mysqld, 1);
    load.more(20).await;
    load.stop().await;
    wait_until("batches are in the spool", SOON, async || {
        host.spooled() > 0
    })
    .await;

    host.follow("remove").await;
    let left = host
        .done("ls -d /usr/bin/sdl /etc/sdl/sdl.env 2>/dev/null || true; pgrep -x sdl || true")
        .await;
    assert_eq!(left, "/etc/sdl/sdl.env");
    let linked = host
        .done("find /etc/systemd/system -name 'sdl*.service' -printf '%f\\n' | sort")
        .await;
    assert_eq!(linked, "sdl.service\nsdl@billing.service");
    assert!(host.spooled() > 0);

    let said = host.follow("purge").await;
    assert!(said.contains("sdl: not deleted"), "{said}");
    assert!(said.contains("/var/lib/sdl/spool-"), "{said}");
    assert!(host.spooled() > 0);
    let left = host
        .done("ls -d /etc/sdl /var/lib/sdl/billing 2>/dev/null || true; find /etc/systemd/system -name 'sdl*'")
        .await;
    assert_eq!(left, "");
}

async fn install_again_and_purge(host: &Host, package: &Path) {
    host.mongod.start_again().await;
    host.bring(package);
    host.done(&format!(
        "dpkg -i {HERE}/*.deb; rm -r /etc/sdl; cp -a {HERE}/kept /etc/sdl; systemctl start sdl"
    ))
    .await;
    host.assert_exact("audit").await;
    wait_until("the spool is empty", SOON, async || host.spooled() == 0).await;

    let said = host.follow("purge").await;
    assert!(!said.contains("sdl: not deleted"), "{said}");
    let left = host
        .done("find /etc /usr /var/lib -name '*sdl*'; getent passwd sdl | cut -d: -f1,7")
        .await;
    assert_eq!(left, "sdl:/usr/sbin/nologin");
}
