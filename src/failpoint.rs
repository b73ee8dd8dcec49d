//! Places where the fault tests kill the process (crate `fail`, feature `failpoints`); nothing at all in a release build.
//!
//! A test sets the environment variable FAILPOINTS, for example `after-insert=3*off->return`: the fourth time the daemon
//! comes by, it aborts as if by SIGKILL, with nothing flushed and nothing closed.

/// Every crash point, in the order in which a change passes them; the fault test goes through this list.
pub const CRASH_POINTS: &[&str] = &[
    "after-first-offset",
    "after-read",
    "after-decode",
    "after-batch",
    "before-stage",
    "after-stage",
    "before-transaction",
    "after-offset",
    "after-insert",
    "before-commit",
    "after-commit",
    "after-unstage",
    "after-take-over",
    "during-recovery",
];

/// Crash points that are passed only while MongoDB is away and when it returns.
pub const OUTAGE_CRASH_POINTS: &[&str] = &[
    "before-spool",
    "after-spool",
    "after-return",
    "before-spool-removal",
    "after-spool-removal",
];

/// Aborts the process when the test asks for it here.
pub fn crash_point(name: &str) {
    debug_assert!(
        CRASH_POINTS.contains(&name) || OUTAGE_CRASH_POINTS.contains(&name),
        "crash point {name} is not listed"
    );
    #[cfg(feature = "failpoints")]
    fail::fail_point!(name, |_| std::process::abort());
}
