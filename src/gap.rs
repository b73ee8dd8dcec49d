//! `sdl accept-gap`: going on behind transactions that no server has any more.
//!
//! It guarantees that nothing is given up that is still somewhere: what is staged or spooled is committed first, and only a gap that
//! every server of MYSQL_ADDR has afterwards is accepted. The document that tells of it and the offset behind it are one batch, so they
//! are written in one transaction or not at all; killed at any moment, the command is simply run again. It takes the source over as a
//! start does, so a daemon that still runs is fenced and cannot write behind it.

use std::sync::Arc;

use bson::{DateTime, Document, doc};

use crate::batch::Batch;
use crate::board::Board;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::error::{Error, Kind, Result};
use crate::event::{ChangeEvent, TransactionContext};
use crate::host;
use crate::offset::Offset;
use crate::position::BinlogPosition;
use crate::recovery::{recover_unless_held, settle_spool};
use crate::source::gap::{self, Gap, Verdict};
use crate::store::{Committer, Spool, Store};

/// What became of it.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The gap is recorded, in the document of this `n`.
    Accepted {
        /// The gap.
        gap: Gap,
        /// The document's `n`.
        n: i64,
    },
    /// There is nothing to accept, for this reason.
    Nothing(String),
}

/// Accepts the gap that keeps the source from being read on, if there is one.
///
/// # Errors
/// When it cannot be told whether there is one, or MongoDB cannot be written.
pub async fn accept(config: &Config, reason: &str) -> Result<Outcome> {
    let breaker = Breaker::new(config.breaker, Arc::new(Board::default()));
    tokio::select! {
        biased;
        outcome = look_and_accept(config, reason, &breaker) => outcome,
        () = breaker.opened() => Err(Error::new(
            Kind::StoreUnavailable,
            "mongodb is away; nothing is known to be changed, run the command again when it is back",
        )),
    }
}

async fn look_and_accept(config: &Config, reason: &str, breaker: &Breaker) -> Result<Outcome> {
    let store = Store::connect(config, breaker).await?;
    let retry = store.retry().clone();
    let saved = retry.persist("read the offset", || store.offset()).await?;
    let Some(saved) = saved else {
        return Ok(Outcome::Nothing(format!(
            "{} has no saved offset yet, so nothing can be missing; START_FROM says where it begins",
            config.source_id
        )));
    };
    // Asked before anything is touched: where nothing is missing, a running daemon is left alone.
    if let Verdict::Continues(server) = gap::look(config, &saved).await? {
        return Ok(nothing(&server, &saved));
    }
    // Opened first, since nobody else can have it open then.
    let spool = Spool::of(config).await?;
    let (mut committer, offset) = take_over(config, &store).await?;
    let outcome = accept_as_owner(config, reason, &mut committer, offset, spool).await;
    // Else a standby would wait for it.
    let released = committer.release_lease().await;
    outcome.and_then(|outcome| released.map(|()| outcome))
}

/// Takes the source over and commits what was staged.
///
/// # Errors
/// [`Kind::Fenced`] when a daemon that runs holds the lease.
pub(crate) async fn take_over(config: &Config, store: &Store) -> Result<(Committer, Offset)> {
    let held = || {
        Error::new(
            Kind::Fenced,
            format!(
                "another sdl holds the lease of {}, and may have in hand what the servers no longer have; stop sdl first, \
                 on every host",
                config.source_id
            ),
        )
    };
    let recovered = recover_unless_held(store, config.lease_ttl, held).await?;
    recovered.ok_or_else(|| {
        Error::new(
            Kind::StoreRefused,
            "the saved offset disappeared while it was looked at; was it removed by hand?",
        )
    })
}

async fn accept_as_owner(
    config: &Config,
    reason: &str,
    committer: &mut Committer,
    offset: Offset,
    spool: Option<Spool>,
) -> Result<Outcome> {
    let offset = match spool {
        Some(spool) => commit_spooled(committer, offset, &spool).await?,
        None => offset,
    };
    let gap = match gap::look(config, &offset).await? {
        Verdict::Continues(server) => return Ok(nothing(&server, &offset)),
        Verdict::Gap(gap) => gap,
    };
    let batch = batch(config, &offset, &gap, reason, DateTime::now())?;
    committer.commit(vec![Arc::new(batch)]).await?;
    Ok(Outcome::Accepted {
        gap,
        n: committer.last_n(),
    })
}

fn nothing(server: &str, offset: &Offset) -> Outcome {
    Outcome::Nothing(format!(
        "there is no gap: {server} has everything that comes after {}",
        offset.position.gtid
    ))
}

/// Commits what waits in the spool: it is not missing. Gives the offset behind it.
///
/// # Errors
/// When the spool cannot be read, or MongoDB cannot be written.
pub(crate) async fn commit_spooled(
    committer: &mut Committer,
    mut offset: Offset,
    spool: &Spool,
) -> Result<Offset> {
    if settle_spool(&offset, spool).await?.is_none() {
        return Ok(offset);
    }
    let store = committer.store().clone();
    while let Some((_, last)) = spool.numbers() {
        let number = committer.last_batch() + 1;
        if number > last {
            break;
        }
        let batch = spool.read(number).await?;
        let doing = format!("stage batch {number}");
        store
            .retry()
            .persist(&doing, || store.stage(&batch, committer.epoch()))
            .await?;
        let next = batch.next.clone();
        committer.commit(vec![Arc::new(batch)]).await?;
        spool.remove_through(number).await?;
        offset = Offset {
            epoch: committer.epoch(),
            n: committer.last_n(),
            ..next
        };
        tracing::info!(batch = number, "committed a batch of the spool");
    }
    Ok(offset)
}

/// The batch that moves the offset behind the gap and holds the document about it; pure.
fn batch(
    config: &Config,
    offset: &Offset,
    gap: &Gap,
    reason: &str,
    now: DateTime,
) -> Result<Batch> {
    let number = offset.batch + 1;
    // No transaction's name, so that nothing of a transaction has the same id.
    let name = format!("gap:{number}");
    let context = TransactionContext::new(config.source_id.as_str().into(), name.into(), now, 0);
    let place = (offset.position.file.as_str(), offset.position.position);
    let event = ChangeEvent::gap(&context, place, gap_document(offset, gap, reason))
        .map_err(|error| Error::new(Kind::Internal, format!("the gap's document: {error}")))?;
    let mut batch = Batch {
        bytes: event.bytes(),
        events: vec![event],
        first_n: offset.n + 1,
        previous: offset.position.clone(),
        next: Offset {
            position: BinlogPosition {
                gtid: gap.to.clone(),
                partial: gap.partial.clone(),
                ..offset.position.clone()
            },
            batch: number,
            ..offset.clone()
        },
    };
    batch.number_events(offset.n + 1);
    Ok(batch)
}

/// `meta.gap`.
fn gap_document(offset: &Offset, gap: &Gap, reason: &str) -> Document {
    let mut document = doc! { "missing": &gap.missing };
    if let Some(transactions) = gap.transactions {
        document.insert(
            "transactions",
            i64::try_from(transactions).unwrap_or(i64::MAX),
        );
    }
    document.insert("from", offset.position.gtid.to_string());
    document.insert("to", gap.to.to_string());
    // Some rows of it are recorded, and its rest is among what is missing.
    if let Some(partial) = &offset.position.partial
        && gap.partial.is_none()
    {
        document.insert(
            "cut",
            doc! {
                "gtid": partial.gtid.to_string(),
                "rows": i64::try_from(partial.rows).unwrap_or(i64::MAX),
            },
        );
    }
    document.insert("server", &gap.server_uuid);
    document.insert("reason", reason);
    document.insert("user", user());
    document.insert("uid", i64::from(rustix::process::getuid().as_raw()));
    document.insert("host", host::name());
    document
}

/// Who runs this: behind sudo, who ran that.
fn user() -> String {
    ["SUDO_USER", "USER", "LOGNAME"]
        .iter()
        .find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
        .unwrap_or_else(|| "unknown".to_owned())
}
