//! What stands in MongoDB for what was done in MySQL or MariaDB: every value, statement and schema, each against real servers.
//!
//! One crate, so that what the tests have in common is compiled once; a file is a filter: `cargo test --test recording documents::`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod documents;
mod fold;
mod history;
mod large;
mod lookup;
mod mariadb;
mod mariadb_types;
mod recorded;
mod schema_changes;
mod values;
