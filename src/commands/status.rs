//! `sdl status`: how far the daemon is and how it is doing, whether it runs or not.
//!
//! Four witnesses are asked at the same time, and what one cannot say is said to be missing: the daemon at METRICS_ADDR, MongoDB, the servers of
//! MYSQL_ADDR, and the spool on this host's disk. [`verdict`] makes one word of it, and is pure.

mod report;
mod verdict;

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use futures_util::future::join_all;

use crate::commands::daemon::{self, Answer};
use crate::config::Config;
use crate::source::inspect::{Standing, standing};
use crate::store::inspect::progress::{Progress, progress};
use crate::store::{Glance, glance};
use crate::terminal::{Outcome, Terminal};

const HELP: &str = "\
It asks the daemon at METRICS_ADDR, MongoDB, every server of MYSQL_ADDR, and the spool of this host; whichever is away is said, and the rest
is shown. It changes nothing.

Exit codes:
  0   healthy: it streams and commits, or stands by for another sdl
  1   degraded, unhealthy, starting, or not running
  3   not running, and a start would end for a reason that an operator must decide: a gap, a wrong server, a setting
  64  wrong settings or arguments

Examples:
  sdl status
  sdl status --watch
  sdl status --json | jq .lag.seconds";

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Print JSON: one text, with --watch one on each line
    #[arg(long)]
    pub json: bool,
    /// Look again every so many seconds
    #[arg(long, value_name = "SECONDS", num_args = 0..=1, default_missing_value = "2",
          value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub watch: Option<u64>,
}

/// What the witnesses said.
#[derive(Debug)]
struct Seen {
    /// None: METRICS_ADDR is off, or says no port.
    daemon: Option<Answer>,
    store: crate::error::Result<Progress>,
    /// Each server of MYSQL_ADDR.
    servers: Vec<(String, crate::error::Result<Standing>)>,
    /// None: there is no SPOOL_DIR.
    spool: Option<crate::error::Result<Option<Glance>>>,
}

/// Shows it; the exit code says how it is.
///
/// # Errors
/// When it cannot be printed.
pub async fn run(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    let config = Arc::new(config.clone());
    loop {
        let seen = look(&config).await;
        let verdict = verdict::of(&seen, &config.source_id, bson::DateTime::now());
        if arguments.json {
            terminal.json(&report::json(&config, &seen, &verdict))?;
        } else {
            if arguments.watch.is_some() && terminal.is_interactive() {
                // Home, and nothing below: the terminal's own history is left alone.
                terminal.line("\u{1b}[H\u{1b}[J")?;
            }
            report::table(&config, &seen, &verdict, terminal)?;
        }
        let Some(seconds) = arguments.watch else {
            return Ok(verdict.exit);
        };
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }
}

async fn look(config: &Arc<Config>) -> Seen {
    let daemon = async {
        let address = config
            .metrics_address
            .filter(|address| address.port() != 0)?;
        Some(daemon::ask(address).await)
    };
    let spool = async {
        let settings = config.spool.as_ref()?;
        Some(glance(settings, &config.source_id).await)
    };
    let (daemon, store, spool) = tokio::join!(daemon, progress(config), spool);
    let offset = store.as_ref().ok().and_then(|store| store.saved.as_ref());
    let offset = offset.map(|saved| &saved.offset);
    let servers = config
        .mysql_addresses
        .iter()
        .map(async |address| (address.to_string(), standing(config, address, offset).await));
    Seen {
        daemon,
        servers: join_all(servers).await,
        store,
        spool,
    }
}
