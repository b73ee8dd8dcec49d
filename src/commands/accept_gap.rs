//! `sdl accept-gap`: what is printed of it; [`gap`](crate::gap) does it.

use clap::Args;
use serde_json::json;

use crate::config::Config;
use crate::error::{EXIT_CLEAN, EXIT_FAILURE};
use crate::gap::{self, Outcome as Accepted};
use crate::terminal::{Outcome, Terminal};

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct Arguments {
    /// Why the loss is accepted; stands in the document
    #[arg(long, value_name = "TEXT", value_parser = reason)]
    pub reason: String,
    /// Print one JSON text
    #[arg(long)]
    pub json: bool,
}

/// Does it; a signal simply ends it: what it does is one transaction.
///
/// # Errors
/// When it cannot be told whether there is a gap, or MongoDB cannot be written.
pub async fn run(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    match gap::accept(config, &arguments.reason).await? {
        Accepted::Accepted { gap, n } if arguments.json => {
            let missing = gap.missing.to_string();
            let to = gap.to.to_string();
            terminal.json(&json!({ "accepted": true, "missing": missing, "to": to, "n": n }))?;
            Ok(EXIT_CLEAN)
        }
        Accepted::Accepted { gap, n } => {
            terminal.line(format!(
                "accepted: {} will not be recorded, which the document n = {n} says; the next start goes on after {}",
                gap.missing, gap.to
            ))?;
            Ok(EXIT_CLEAN)
        }
        Accepted::Nothing(why) => {
            if arguments.json {
                terminal.json(&json!({ "accepted": false, "why": why }))?;
            }
            eprintln!("sdl: {why}; nothing was accepted");
            Ok(EXIT_FAILURE)
        }
    }
}

fn reason(text: &str) -> Result<String, String> {
    let text = text.trim();
    if text.is_empty() {
        return Err("it is empty; expected why the loss is accepted".to_owned());
    }
    Ok(text.to_owned())
}
