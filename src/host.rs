//! What this machine calls itself, and its processes.

use rustix::io::Errno;
use rustix::process::{Pid, test_kill_process};

/// The host's name, as `hostname` prints it; for people, and to tell daemons on several hosts apart.
pub fn name() -> String {
    rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned()
}

/// Within what a process id means something: this boot of this machine, and this container's process namespace (proc(5),
/// namespaces(7)). Where the system does not tell, equal to no other.
pub fn process_space() -> String {
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id");
    let namespace = std::fs::read_link("/proc/self/ns/pid");
    match (boot, namespace) {
        (Ok(boot), Ok(namespace)) => format!("{} {}", boot.trim(), namespace.display()),
        _ => format!("unknown to process {} of {}", std::process::id(), name()),
    }
}

/// Whether a process of this id exists here: whoever's it is, also where /proc shows a service only its own (ProtectProc=).
pub fn has_process(pid: i64) -> bool {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| test_kill_process(pid) != Err(Errno::SRCH))
}
