//! Every statement: what is recorded of it, shown document by document.
//!
//! A reader of the audit has to know what a REPLACE, a cascade or a TRUNCATE leaves. Each test runs statements on a real
//! server and shows all documents that they left, in the notation of [`notation`]: operation, key, images, changed columns,
//! and on which document the statement's text stands. docs/recorded.md, "What is recorded for which statement", is the
//! summary that these tests stand behind; what leaves nothing is shown as well.
mod notation;

mod columns;
mod foreign_keys;
mod programs;
mod sessions;
mod statements;
mod tables;
mod transactions;
mod unlogged;
