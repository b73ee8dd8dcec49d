//! `sdl tail`.

use clap::Args;

use crate::config::Config;
use crate::error::{Error, Kind};
use crate::terminal::{Outcome, Terminal};

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Arguments {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Does it; the exit code.
///
/// # Errors
/// When it cannot be done.
pub async fn run(_config: &Config, _arguments: &Arguments, _terminal: &Terminal) -> Outcome {
    Err(Error::new(Kind::Internal, "not there yet").into())
}
