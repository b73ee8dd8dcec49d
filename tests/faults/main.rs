//! What happens to a daemon, its servers and its lines, and that nothing of it is lost, doubled or out of order: a test for each fault.
//!
//! One crate, so that what the tests have in common is compiled once; a file is a filter: `cargo test --test faults crash_points::`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod chaos;
mod crash_points;
mod failover;
mod hostile;
mod mongodb_faults;
mod network_faults;
mod outages;
mod ownership;
mod process_faults;
mod shutdown;
mod standby;
