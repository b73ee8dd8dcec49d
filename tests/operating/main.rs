//! What an administrator has in hand: settings, accounts, start-up checks, commands, health, documents; and the structure of the code.
//!
//! One crate, so that what the tests have in common is compiled once; a file is a filter: `cargo test --test operating connection::`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

#[path = "../common/mod.rs"]
mod common;

mod accept_gap;
mod alerts;
mod check;
mod connection;
mod guide;
mod health;
mod history_command;
mod layers;
mod logs;
mod package;
mod preflight;
mod readme;
mod replay;
mod service;
mod settings;
mod staging;
mod status;
mod tail;
mod undecodable;
