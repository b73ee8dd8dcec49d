//! What the kernel says of this process (proc(5)).

use std::fs;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::process::{Resource, getrlimit};

/// What it says; none where it does not.
#[derive(Debug, Default)]
pub(super) struct Process {
    pub(super) cpu_seconds: f64,
    /// In seconds since 1970.
    pub(super) started: Option<f64>,
    pub(super) resident_bytes: Option<f64>,
    pub(super) open_files: Option<f64>,
    pub(super) max_files: Option<f64>,
}

impl Process {
    /// Asks.
    pub(super) fn of_this() -> Self {
        let ticks = rustix::param::clock_ticks_per_second() as f64;
        // Behind the program's name, which may hold anything, in parentheses; the first field there is the third of all.
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let fields: Vec<f64> = stat
            .rsplit(')')
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        let field = |number: usize| fields.get(number - 3).copied();
        // Once: it is worked out from two clocks, and would differ a little each time.
        static STARTED: OnceLock<Option<f64>> = OnceLock::new();
        let started = STARTED.get_or_init(|| started(field(22)? / ticks));
        Self {
            cpu_seconds: (field(14).unwrap_or(0.0) + field(15).unwrap_or(0.0)) / ticks,
            started: *started,
            resident_bytes: field(24).map(|pages| pages * rustix::param::page_size() as f64),
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|files| files.count() as f64),
            max_files: getrlimit(Resource::Nofile)
                .current
                .map(|files| files as f64),
        }
    }
}

/// When it started, given the seconds from the start of the machine to its own.
fn started(after_boot: f64) -> Option<f64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let uptime: f64 = uptime.split_whitespace().next()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
    Some(now.as_secs_f64() - uptime + after_boot)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_knows_this_process() {
        let process = Process::of_this();
        let started = process.started.unwrap();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        assert!(
            (0.0..3600.0).contains(&(now.as_secs_f64() - started)),
            "{started}"
        );
        assert!(process.resident_bytes.unwrap() > 1e6);
        assert!(process.open_files.unwrap() >= 3.0);
        assert!(process.max_files.unwrap() >= process.open_files.unwrap());
        assert!(process.cpu_seconds >= 0.0);
    }
}
