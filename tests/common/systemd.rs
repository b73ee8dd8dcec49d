//! A Debian whose systemd really boots, in a container of its own: what a unit, a package or an administrator's command does there.
//!
//! It is an overlay on the tree that `tests/servers.sh --systemd` makes once, in a mount and a process namespace that one process
//! holds: whatever is written or started there is gone when that process is, and it dies with the test. The network is the host's, so
//! the test's servers are at 127.0.0.1 there too. Commands run inside by nsenter(1), files are reached through /proc.
//!
//! Only root can do this (mounts, control groups). Elsewhere [`System::boot`] says so and gives none, and the test returns.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use super::servers::{self, Process, Scratch, exit_code, unique};
use super::{Settings, wait_until};

/// A boot takes 2 s; on a machine that compiles at the same time a multiple of it.
const BOOT: Duration = Duration::from_secs(90);

/// Longest time for a command inside; those that wait for a unit wait for its own limits, which are shorter.
const COMMAND: Duration = Duration::from_secs(120);

/// Where the kernel's control groups are: the hierarchy of a system that has only the second version; or, beside the first one,
/// systemd's own two.
const CONTROL_GROUPS: [&str; 3] = [
    "/sys/fs/cgroup",
    "/sys/fs/cgroup/systemd",
    "/sys/fs/cgroup/unified",
];

/// Arguments: the tree, a directory, a name that no other container has.
///
/// Each container has a control group of its own, or two at a time would take each other's units for theirs.
const BOOT_SCRIPT: &str = r#"
set -eu
tree=$1 place=$2 name=$3
mount -t tmpfs -o mode=755 tmpfs "$place"
mkdir "$place/upper" "$place/work" "$place/root"
mount -t overlay -o "lowerdir=$tree,upperdir=$place/upper,workdir=$place/work" overlay "$place/root"
for groups in /sys/fs/cgroup /sys/fs/cgroup/systemd /sys/fs/cgroup/unified; do
    [ -e "$groups/cgroup.procs" ] || continue
    mkdir "$groups/$name"
    echo 0 >"$groups/$name/cgroup.procs"
done
libraries=$tree/usr/lib/x86_64-linux-gnu
exec "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$libraries:$libraries/systemd" "$tree/usr/bin/systemd-nspawn" \
    --quiet --boot --directory="$place/root" --machine="$name" --register=no --keep-unit --link-journal=no \
    --console=pipe --resolv-conf=off --timezone=off
"#;

/// A booted system. Dropping it switches it off.
pub struct System {
    // Before the directory: fields are dropped in order.
    holder: Process,
    scratch: Scratch,
    name: String,
    /// Its first process, as the host numbers it.
    init: u32,
}

/// What a command inside did.
#[derive(Debug)]
pub struct Done {
    /// 128 + signal for one that a signal ended.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl System {
    /// Boots one; `None`, with a line that says so, where that is not possible.
    pub async fn boot() -> Option<Self> {
        let tree = match tree() {
            Ok(tree) => tree,
            Err(reason) => {
                eprintln!("systemd is not booted, and this test is left out: {reason}");
                return None;
            }
        };
        remove_leftovers();
        let scratch = Scratch::new("system");
        let place = scratch.path().join("mounted");
        fs::create_dir(&place).expect("a directory in target/tmp");
        let name = format!("sdl-test-{}-{}", std::process::id(), unique());
        let mut command = servers::guarded(Path::new("unshare"));
        command
            .args(["--mount", "--pid", "--mount-proc", "--fork", "--kill-child"])
            .args(["sh", "-c", BOOT_SCRIPT, "sh"])
            .args([&tree, &place])
            .arg(&name);
        let holder = Process::start("systemd", command, &scratch.path().join("boot.log"));
        let mut system = Self {
            holder,
            scratch,
            name,
            init: 0,
        };
        wait_until("systemd is booted", BOOT, async || {
            system.holder.assert_running();
            let Some(init) = first_process(system.holder.pid()) else {
                return false;
            };
            system.init = init;
            let state = system.run(&["systemctl", "is-system-running"]).await;
            matches!(state.stdout.trim(), "running" | "degraded")
        })
        .await;
        Some(system)
    }

    /// A place inside as the test reaches it; `place` begins with a slash.
    pub fn path(&self, place: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{place}", self.init))
    }

    /// Writes a file inside, with its directories; root's, and readable for all.
    pub fn write(&self, place: &str, content: impl AsRef<[u8]>) {
        let path = self.path(place);
        fs::create_dir_all(path.parent().expect("a file is in a directory"))
            .unwrap_or_else(|error| panic!("cannot make the directory of {place}: {error}"));
        fs::write(&path, content).unwrap_or_else(|error| panic!("cannot write {place}: {error}"));
    }

    /// Copies a file of the host inside, with its mode.
    pub fn copy(&self, from: &Path, place: &str) {
        self.write(place, []);
        fs::copy(from, self.path(place))
            .unwrap_or_else(|error| panic!("cannot copy {} in: {error}", from.display()));
    }

    /// Sets the mode of a file inside.
    pub fn set_mode(&self, place: &str, mode: u32) {
        fs::set_permissions(self.path(place), fs::Permissions::from_mode(mode))
            .unwrap_or_else(|error| panic!("cannot change {place}: {error}"));
    }

    /// Runs a command inside, as root, and waits for it.
    pub async fn run(&self, words: &[&str]) -> Done {
        let mut command = Command::new("nsenter");
        command
            .args(["--target", &self.init.to_string(), "--all", "--"])
            .args(words)
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("LANG", "C.UTF-8")
            .env("TERM", "dumb")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .stdin(Stdio::null());
        let mut command = tokio::process::Command::from(command);
        command.kill_on_drop(true);
        let output = tokio::time::timeout(COMMAND, command.output())
            .await
            .unwrap_or_else(|_| panic!("not within {COMMAND:?} inside: {words:?}"))
            .unwrap_or_else(|error| panic!("cannot run nsenter: {error}"));
        Done {
            code: exit_code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// [`run`](Self::run), of a command that must succeed: what it printed.
    pub async fn output(&self, words: &[&str]) -> String {
        let done = self.run(words).await;
        assert!(done.code == 0, "inside, {words:?}: {done:#?}");
        done.stdout
    }

    /// A property of a unit, as `systemctl show` prints it.
    pub async fn property(&self, unit: &str, name: &str) -> String {
        let words = ["systemctl", "show", "--value", "--property", name, unit];
        self.output(&words).await.trim().to_owned()
    }

    /// The messages that the journal has of a unit's processes, and not of systemd about it; `options` as `journalctl` takes them.
    pub async fn journal(&self, unit: &str, options: &[&str]) -> Vec<String> {
        let of = format!("_SYSTEMD_UNIT={unit}");
        let mut words = vec!["journalctl", "--no-pager", "--quiet", "--output=cat"];
        words.extend(options);
        words.push(&of);
        let done = self.run(&words).await;
        // 1 without a word: nothing is found.
        let is_answer = done.code == 0 || (done.code == 1 && done.stderr.is_empty());
        assert!(is_answer, "inside, {words:?}: {done:#?}");
        done.stdout.lines().map(str::to_owned).collect()
    }

    /// Waits until a unit's process has logged `text`.
    pub async fn wait_for_log(&self, unit: &str, text: &str, timeout: Duration) {
        wait_until(&format!("{unit} logs {text:?}"), timeout, async || {
            let lines = self.journal(unit, &[]).await;
            lines.iter().any(|line| line.contains(text))
        })
        .await;
    }

    /// Waits until a property of a unit fits.
    pub async fn wait_for_property(
        &self,
        unit: &str,
        name: &str,
        timeout: Duration,
        fits: impl Fn(&str) -> bool,
    ) -> String {
        let mut value = String::new();
        wait_until(&format!("{name} of {unit}"), timeout, async || {
            value = self.property(unit, name).await;
            fits(&value)
        })
        .await;
        value
    }
}

/// `settings` as a settings file, but for what only a process of the test needs.
pub fn settings_file(settings: &Settings) -> String {
    settings
        .variables()
        .filter(|(name, _)| !matches!(*name, "PATH" | "RUST_BACKTRACE"))
        .map(|(name, value)| {
            assert!(!value.contains('\''), "a quote in {name}");
            format!("{name}='{value}'\n")
        })
        .collect()
}

impl Drop for System {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.scratch.path().join("boot.log");
            eprintln!("{}", servers::tail(&log));
            let journal = Command::new("nsenter")
                .args(["--target", &self.init.to_string(), "--all", "--"])
                .args(["journalctl", "--no-pager", "--lines=150"])
                .output();
            if let Ok(journal) = journal {
                eprintln!("its journal:\n{}", String::from_utf8_lossy(&journal.stdout));
            }
        }
        self.holder.kill();
        remove_control_groups(|name| name == self.name);
    }
}

/// The tree to boot; or why none can be.
fn tree() -> Result<PathBuf, &'static str> {
    if !rustix::process::geteuid().is_root() {
        return Err("only root can");
    }
    let may_mount = Command::new("unshare")
        .args(["--mount", "--pid", "--mount-proc", "--fork", "true"])
        .stderr(Stdio::null())
        .status();
    if !may_mount.is_ok_and(|status| status.success()) {
        return Err("unshare(1) may not make namespaces here");
    }
    let probe = format!("sdl-probe-{}-{}", std::process::id(), unique());
    for groups in control_groups() {
        if fs::create_dir(groups.join(&probe)).is_err() {
            return Err("control groups cannot be made here");
        }
        let _ = fs::remove_dir(groups.join(&probe));
    }
    match std::env::var_os("SDL_SYSTEMD") {
        Some(tree) if tree.is_empty() => Err("tests/servers.sh --systemd fetched none"),
        _ => Ok(servers::systemd_tree()),
    }
}

/// The process that is the container's first: unshare's child is systemd-nspawn, whose child is systemd.
fn first_process(holder: u32) -> Option<u32> {
    let nspawn = child(holder)?;
    let first = child(nspawn)?;
    let name = fs::read_to_string(format!("/proc/{first}/comm")).ok()?;
    (name.trim() == "systemd").then_some(first)
}

fn child(of: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{of}/task/{of}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}

fn control_groups() -> impl Iterator<Item = &'static Path> {
    CONTROL_GROUPS
        .into_iter()
        .map(Path::new)
        .filter(|groups| groups.join("cgroup.procs").exists())
}

/// Removes what containers left whose test process is gone.
fn remove_leftovers() {
    remove_control_groups(|name| {
        name.strip_prefix("sdl-test-")
            .and_then(|rest| rest.split('-').next()?.parse::<u32>().ok())
            .is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
    });
}

fn remove_control_groups(is_meant: impl Fn(&str) -> bool) {
    for entry in control_groups().flat_map(|groups| fs::read_dir(groups).into_iter().flatten()) {
        let Ok(entry) = entry else { continue };
        if is_meant(&entry.file_name().to_string_lossy()) {
            // The deepest first; one that still holds a dying process goes next time.
            let _ = Command::new("find")
                .arg(entry.path())
                .args(["-depth", "-type", "d", "-exec", "rmdir", "{}", "+"])
                .stderr(Stdio::null())
                .status();
        }
    }
}
