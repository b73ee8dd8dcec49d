//! Fuzz targets of the decoder: `crate::fuzz` says how they are run.
//!
//! - `rows`: table maps and rows events, captured from servers or made by choices, whole and damaged;
//! - `json`: MySQL's binary JSON beside values that cannot be wrong, its changes likewise, and all of it damaged;
//! - `values`: numbers, dates and texts: what is written says exactly what was read.

mod json;
mod rows;
mod values;
