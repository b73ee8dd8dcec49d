//! A disk of its own and of a chosen size, which can run full or be read-only.
//!
//! It is a tmpfs in a mount namespace that one sleeping process holds (mount_namespaces(7), user_namespaces(7)): nothing of it is left when
//! the test ends in any way, and no rights over the machine are needed. Programs that are to see it are started with
//! [`inside`](SmallDisk::inside); the test itself reaches its files by [`file`](SmallDisk::file).

use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::servers::{self, Process, Scratch};
use super::wait_until;

/// Room that is given back by [`SmallDisk::make_room`].
const BALLAST: &str = "ballast";

/// A disk that only programs started with [`inside`](Self::inside) see. Dropping it takes it away.
pub struct SmallDisk {
    // Before the directory: fields are dropped in order.
    holder: Process,
    scratch: Scratch,
}

impl SmallDisk {
    /// An empty disk of so many mebibytes.
    pub async fn of(mebibytes: u32) -> Self {
        Self::mounted(&format!("size={mebibytes}m")).await
    }

    /// A disk that takes no writes.
    pub async fn read_only() -> Self {
        Self::mounted("size=1m,ro").await
    }

    async fn mounted(options: &str) -> Self {
        let scratch = Scratch::new("disk");
        let place = scratch.path().join("mounted");
        fs::create_dir(&place).expect("a directory in target/tmp");
        let mut command = servers::guarded(Path::new("unshare"));
        command
            .args(["--map-root-user", "--mount", "sh", "-c"])
            .arg(r#"mount -t tmpfs -o "$1" tmpfs "$0" && exec setpriv --pdeathsig KILL -- sleep infinity"#)
            .arg(&place)
            .arg(options);
        let holder = Process::start("disk", command, &scratch.path().join("mount.log"));
        let disk = Self { holder, scratch };
        wait_until("the disk is there", Duration::from_secs(30), async || {
            disk.holder.assert_running();
            fs::read_to_string(format!("/proc/{}/mountinfo", disk.holder.pid()))
                .is_ok_and(|mounts| mounts.contains(&*place.to_string_lossy()))
        })
        .await;
        disk
    }

    /// Its directory, for programs that see it.
    pub fn directory(&self) -> PathBuf {
        self.scratch.path().join("mounted")
    }

    /// A file of it, for the test.
    pub fn file(&self, name: &str) -> PathBuf {
        PathBuf::from(format!(
            "/proc/{}/root{}/{name}",
            self.holder.pid(),
            self.directory().display()
        ))
    }

    /// What a command line has to begin with for its program to see the disk.
    pub fn inside(&self) -> Vec<String> {
        let target = self.holder.pid().to_string();
        ["nsenter", "--target", &target]
            .into_iter()
            .chain(["--user", "--mount", "--preserve-credentials", "--"])
            .map(str::to_owned)
            .collect()
    }

    /// Takes all the room that is left.
    pub fn fill(&self) {
        let mut ballast = File::create(self.file(BALLAST)).expect("a file on the disk");
        let mebibyte = vec![0; 1 << 20];
        // Down to the last page: a write that does not fit is written in part.
        loop {
            match ballast.write_all(&mebibyte) {
                Ok(()) => (),
                Err(error) if error.kind() == ErrorKind::StorageFull => return,
                Err(error) => panic!("cannot fill the disk: {error}"),
            }
        }
    }

    /// Gives back what [`fill`](Self::fill) took.
    pub fn make_room(&self) {
        fs::remove_file(self.file(BALLAST)).expect("the ballast is there");
    }
}
