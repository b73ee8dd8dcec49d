//! `sdl check`: a table of everything that must hold, on this host and on both servers, before the daemon is started or while it runs.
//!
//! Each row is a [`Finding`]; this file only asks for them and prints them. The servers are asked at the same time, MongoDB first for the
//! saved offset, without which nobody can tell a gap. Nothing ends early: what cannot be asked is a row that says so.

mod host;

use std::sync::Arc;

use anstyle::Style;
use clap::Args;
use futures_util::future::join_all;
use serde_json::json;

use crate::commands::list::{self, Row};
use crate::config::Config;
use crate::error::{EXIT_CLEAN, EXIT_FAILURE, EXIT_OPERATOR};
use crate::finding::{Finding, Group, Level};
use crate::source::inspect::{self, Saved};
use crate::store;
use crate::terminal::{BAD, DIM, GOOD, HEADING, Outcome, Terminal, WARNING, styled};

const HELP: &str = "\
It asks both servers and this host for everything that the daemon needs, and changes nothing: it may be run while the daemon records.
Each row is ok, warn (sdl runs, but something that it promises is weaker), fail (it would not start, or would stop), or skipped with
the reason. Below a row that is not ok stands what is expected, and what mends it.

Exit codes:
  0   everything is ok, or was skipped for a reason that is no fault
  1   the worst is a warning
  3   the worst is a failure: sdl would not run
  64  wrong settings or arguments

Examples:
  sdl check
  sdl check --json | jq -r '.groups[].findings[] | select(.status == \"fail\") | .remedy'";

/// What this call is for.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
#[command(after_help = HELP)]
pub struct Arguments {
    /// Print one JSON text
    #[arg(long)]
    pub json: bool,
}

/// Looks at everything; the exit code by the worst.
///
/// # Errors
/// When it cannot be printed.
pub async fn run(config: &Config, arguments: &Arguments, terminal: &Terminal) -> Outcome {
    let groups = look(config).await;
    let worst = match groups.iter().map(Group::worst).max() {
        None | Some(Level::Skipped) => Level::Ok,
        Some(worst) => worst,
    };
    let exit = exit_code(worst);
    if arguments.json {
        terminal.json(&json!({
            "status": worst.name(),
            "exit": exit,
            "source": config.source_id,
            "groups": groups,
        }))?;
    } else {
        print(&groups, terminal)?;
    }
    Ok(exit)
}

async fn look(config: &Config) -> Vec<Group> {
    let config = Arc::new(config.clone());
    let store = store::inspect::store(&config).await;
    let saved = match &store.offset {
        None => Saved::Unknown,
        Some(None) => Saved::Never,
        Some(Some(offset)) => Saved::At(offset),
    };
    let servers = config.mysql_addresses.iter();
    let servers = join_all(servers.map(|address| inspect::server(&config, address, saved)));
    let (servers, host) = tokio::join!(servers, host::look(&config));
    let mut groups = vec![settings(&config)];
    groups.extend(servers);
    groups.push(store.group);
    groups.push(host);
    groups
}

/// Settings that are wrong end the call before it begins; what is left is what looks odd.
fn settings(config: &Config) -> Group {
    let mut findings: Vec<Finding> = config
        .warnings
        .iter()
        .map(|warning| Finding::told("settings", Level::Warn, warning))
        .collect();
    if findings.is_empty() {
        findings.push(Finding::ok("settings", "all in their ranges"));
    }
    findings.push(Finding::ok("source", config.source_id.clone()));
    findings.push(Finding::ok(
        "time_zone",
        config.time_zone.iana_name().unwrap_or("the system's"),
    ));
    Group {
        name: "settings",
        server: None,
        findings,
    }
}

fn exit_code(worst: Level) -> u8 {
    match worst {
        Level::Ok | Level::Skipped => EXIT_CLEAN,
        Level::Warn => EXIT_FAILURE,
        Level::Fail => EXIT_OPERATOR,
    }
}

fn print(groups: &[Group], terminal: &Terminal) -> Result<(), crate::terminal::Failure> {
    for group in groups {
        let server = group
            .server
            .as_ref()
            .map_or(String::new(), |server| format!(" {server}"));
        terminal.line(styled(HEADING, format!("{}{server}", group.name)))?;
        let rows: Vec<Row> = group.findings.iter().map(row).collect();
        list::print(&rows, terminal)?;
        terminal.line("")?;
    }
    let count = |level: Level| {
        let findings = groups.iter().flat_map(|group| &group.findings);
        findings.filter(|finding| finding.status == level).count()
    };
    terminal.line(format!(
        "{} ok, {} skipped, {} warn, {} fail",
        count(Level::Ok),
        count(Level::Skipped),
        count(Level::Warn),
        count(Level::Fail)
    ))
}

fn row(finding: &Finding) -> Row {
    let style = match finding.status {
        Level::Ok => GOOD,
        Level::Skipped => DIM,
        Level::Warn => WARNING,
        Level::Fail => BAD,
    };
    Row {
        cells: vec![
            (style, finding.status.name().to_owned()),
            (Style::new(), finding.check.to_owned()),
        ],
        text: text(finding),
    }
}

fn text(finding: &Finding) -> String {
    let mut text = finding.found.clone();
    for (name, more) in [("expected", &finding.expected), ("mend", &finding.remedy)] {
        if let Some(more) = more {
            text.push_str(&format!("\n{name}: {more}"));
        }
    }
    text
}
