//! `sdl staging retry`: the recovery of a start, without the start.
//!
//! Whether a daemon runs is told by the first of these that knows: its lock on the spool of this host; its lease; itself as a replica of the
//! MySQL servers; the offset, which a daemon that streams moves at least every 30 s.

use std::sync::Arc;
use std::time::Duration;

use bson::doc;
use tokio::time::Instant;

use crate::board::Board;
use crate::breaker::Breaker;
use crate::commands::show;
use crate::config::Config;
use crate::error::{EXIT_CLEAN, EXIT_FAILURE, Error, Kind, Result};
use crate::position::Flavor;
use crate::recovery::recover_unless_held;
use crate::source::attached;
use crate::store::{Reader, Spool, Store};
use crate::terminal::{Outcome, Terminal};

/// Longer than a daemon that streams leaves its offset alone.
const STILL: Duration = Duration::from_secs(40);

/// How often the offset is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Commits what is pending; the exit code.
pub(super) async fn run(
    config: &Config,
    reader: &Reader,
    as_json: bool,
    terminal: &Terminal,
) -> Outcome {
    let before = reader.staged_batches().await?;
    let pending: Vec<_> = before
        .into_iter()
        .filter(|batch| batch.status == "pending")
        .collect();
    if pending.is_empty() {
        if !as_json {
            terminal.line("nothing is pending")?;
        }
        return Ok(EXIT_CLEAN);
    }
    // Opened first, since nobody else can have it open then; what is in it is committed by the next start.
    let _spool = Spool::of(config).await?;
    if config.lease_ttl.is_none() {
        refuse_a_running_daemon(config, reader).await?;
    }
    let breaker = Breaker::new(config.breaker, Arc::new(Board::default()));
    tokio::select! {
        biased;
        done = take_over(config, &breaker) => done?,
        () = breaker.opened() => return Err(Error::new(
            Kind::StoreUnavailable,
            "mongodb is away; what is pending is still there, run the command again when it is back",
        ).into()),
    }
    let after = reader.staged_batches().await?;
    let mut code = EXIT_CLEAN;
    for batch in pending {
        let now = after.iter().find(|other| other.batch == batch.batch);
        let (became, note) = match now {
            None => ("committed", None),
            Some(now) => (now.status.as_str(), now.note.as_deref()),
        };
        if became == "pending" {
            code = EXIT_FAILURE;
        }
        if as_json {
            let told =
                doc! { "batch": batch.batch, "count": batch.count, "became": became, "note": note };
            terminal.line(show::json(&told))?;
        } else {
            let note = note.map_or_else(String::new, |note| format!(": {}", show::visible(note)));
            terminal.line(format!(
                "batch {}, {} events: {}{note}",
                batch.batch,
                batch.count,
                show::visible(became)
            ))?;
        }
    }
    Ok(code)
}

/// Recovers as a start does, and gives the source back.
async fn take_over(config: &Config, breaker: &Breaker) -> Result<()> {
    let store = Store::connect(config, breaker).await?;
    let held = || refused("it holds the lease");
    let recovered = recover_unless_held(&store, config.lease_ttl, held).await?;
    let Some((committer, _)) = recovered else {
        return Err(Error::new(
            Kind::StoreRefused,
            format!(
                "{} has no saved offset, so it cannot be told what its pending batches follow; was it removed by hand?",
                config.source_id
            ),
        ));
    };
    committer.release_lease().await
}

fn refused(how: &str) -> Error {
    Error::new(
        Kind::Fenced,
        format!(
            "an sdl of this source runs ({how}), and commits what is pending by itself; to do it by hand, stop sdl first, on every host"
        ),
    )
}

/// Where LEASE=off.
async fn refuse_a_running_daemon(config: &Config, reader: &Reader) -> Result<()> {
    let Some(offset) = reader.offset_document().await? else {
        return Ok(());
    };
    let is_mysql = offset
        .get_str("flavor")
        .is_ok_and(|name| name == Flavor::Mysql.name());
    if is_mysql {
        let asked = tokio::select! {
            biased;
            asked = attached::refuse(config) => asked,
            // One that streams shows it sooner than a server knows whether a replica is dead.
            moved = moves(reader, Duration::MAX) => moved.and(Err(refused("it moves the offset"))),
        };
        match asked {
            Err(error) if error.is_transient() => {
                tracing::warn!(%error, "cannot ask the source whether a daemon reads it")
            }
            Err(error) if error.kind() == Kind::DuplicateReplica => {
                return Err(refused("it is attached to its server"));
            }
            other => return other,
        }
    }
    eprintln!(
        "sdl: looking for {} s whether a daemon runs",
        STILL.as_secs()
    );
    match moves(reader, STILL).await? {
        true => Err(refused("it moves the offset")),
        false => Ok(()),
    }
}

/// Whether the offset moves within this time.
async fn moves(reader: &Reader, within: Duration) -> Result<bool> {
    let state = async || -> Result<_> {
        let offset = reader.offset_document().await?.unwrap_or_default();
        Ok((
            offset.get("updatedAt").cloned(),
            offset.get("batch").cloned(),
        ))
    };
    let first = state().await?;
    let started = Instant::now();
    while started.elapsed() < within {
        tokio::time::sleep(LOOK).await;
        if state().await? != first {
            return Ok(true);
        }
    }
    Ok(false)
}
