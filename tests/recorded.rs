//! Every statement: what is recorded of it, shown document by document.
//!
//! A reader of the audit has to know what a REPLACE, a cascade or a TRUNCATE leaves. Each test runs statements on a real
//! server and shows all documents that they left, in the notation of [`notation`]: operation, key, images, changed columns,
//! and on which document the statement's text stands. docs/operations.md, "What is recorded for which statement", is the
//! summary that these tests stand behind; what leaves nothing is shown as well.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;
#[path = "recorded/notation.rs"]
mod notation;

#[path = "recorded/columns.rs"]
mod columns;
#[path = "recorded/foreign_keys.rs"]
mod foreign_keys;
#[path = "recorded/programs.rs"]
mod programs;
#[path = "recorded/sessions.rs"]
mod sessions;
#[path = "recorded/statements.rs"]
mod statements;
#[path = "recorded/tables.rs"]
mod tables;
#[path = "recorded/transactions.rs"]
mod transactions;
#[path = "recorded/unlogged.rs"]
mod unlogged;
