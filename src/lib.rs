//! sdl reads the binlog of a MySQL or MariaDB server as a replica does, and keeps every row change as an audit document in MongoDB:
//! exactly once, in order, lossless in every value, nothing skipped in silence.
//!
//! The pipeline, in the order in which a change passes it; each module opens with what it guarantees and how it resumes:
//!
//! 1. [`source`] connects, checks that the server's binlog can be an audit trail ([`source::preflight`]), follows the
//!    grammar of its transactions, and decodes every row into a document ([`event`]). One task.
//! 2. [`batch`] collects changes into batches that end where source transactions end. Pure.
//! 3. [`store`] makes a batch durable in a staging collection, then commits events, offset and the end of staging in one
//!    MongoDB transaction, in order. The next batches are staged meanwhile.
//! 4. [`delivery`] takes batches through the store, or to the spool on disk while MongoDB is away ([`breaker`]).
//! 5. [`recovery`], at start-up, finishes what a crash left staged or spooled.
//! 6. [`run`] connects these by bounded channels, and ends them in an orderly way; [`service`] tells systemd how it goes.
//!
//! [`cli`] says what can be asked for, [`commands`] does what is not the daemon itself.
//!
//! What they share are values that know no I/O: [`position`], [`event`], [`batch`], [`offset`], [`error`].

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod batch;
pub mod board;
pub mod breaker;
pub mod bson_writer;
pub mod cli;
pub mod commands;
pub mod config;
pub mod delivery;
pub mod error;
pub mod event;
pub mod failpoint;
pub mod finding;
#[cfg(test)]
mod fuzz;
pub mod gap;
pub mod health;
pub mod hex;
pub mod host;
pub mod large_value;
pub mod logging;
pub mod metrics;
pub mod offset;
pub mod position;
pub mod recovery;
pub mod retry;
pub mod run;
pub mod service;
pub mod source;
pub mod store;
pub mod terminal;
pub mod tls;
