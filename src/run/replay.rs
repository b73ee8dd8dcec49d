//! `sdl replay`: binlog files on disk through the pipeline of the daemon, for what no server has any more.
//!
//! It guarantees what the daemon does, since it is the daemon with another source: the same batches, staged and committed under the same
//! fence, the same documents. The files are looked through whole before anything is written, and again held against the offset once
//! the source is taken over. It takes the source over as `accept-gap` does: what is staged or spooled goes first, and a daemon that
//! still runs is refused, or fenced where it cannot be seen.
//!
//! It resumes from the saved offset: killed or stopped at any moment, the command is simply run again.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::{Beginning, Daemon};
use crate::board::Board;
use crate::breaker::Breaker;
use crate::config::Config;
use crate::delivery::Ended;
use crate::error::{Error, Kind, Result};
use crate::gap::{commit_spooled, take_over};
use crate::offset::Offset;
use crate::source::attached;
use crate::source::files::{self, Files, Progress, Verdict};
use crate::store::{Committer, Reader, Spool, Store};

/// Longest wait for the offset when all is done.
const LAST_LOOK: Duration = Duration::from_secs(30);

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The files, the oldest first.
    pub paths: Vec<PathBuf>,
    /// Only look through the files and hold them against the saved offset.
    pub dry_run: bool,
    /// Take the last file up to its last whole transaction though it has no end.
    pub allow_unfinished: bool,
}

/// What became of it.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The offset before; none: the source was never read.
    pub from: Option<Offset>,
    /// The offset after; in a dry run, the one before.
    pub to: Option<Offset>,
    /// Transactions in the files.
    pub transactions: u64,
    /// How it ended.
    pub end: End,
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// All that the files hold is recorded.
    Recorded,
    /// All that they hold was recorded before.
    NothingNew,
    /// They can be recorded; nothing was written.
    Fits,
    /// It was asked to stop before the end.
    Stopped,
}

/// Records what the files hold beyond the saved offset, until that is done or `shutdown` resolves.
///
/// # Errors
/// What is wrong with the files, or keeps them from being recorded.
pub async fn replay(
    config: Config,
    request: Request,
    progress: Arc<Progress>,
    shutdown: impl Future<Output = ()>,
) -> Result<Replayed> {
    tokio::pin!(shutdown);
    let looked = Files::look(
        request.paths,
        request.allow_unfinished,
        Arc::clone(&progress),
    );
    let files = tokio::select! {
        biased;
        () = &mut shutdown => {
            progress.stop();
            return Err(Error::new(
                Kind::StoreUnavailable,
                "stopped while the files were looked through; nothing was changed",
            ));
        }
        files = looked => Arc::new(files?),
    };
    let reader = Reader::connect(&config).await?;
    let saved = reader.saved_offset().await?;
    let first = match &saved {
        Some(offset) => offset.clone(),
        None => files.first_offset(&config)?,
    };
    let verdict = match files.judge(&first) {
        // What is staged or spooled may fill the gap; that is seen once it is committed.
        Err(gap)
            if gap.kind() == Kind::Gap
                && !request.dry_run
                && (config.spool.is_some() || reader.has_pending().await?) =>
        {
            tracing::info!("{gap}; looking whether what is staged or spooled fills it");
            Verdict::Continues
        }
        verdict => verdict?,
    };
    let replayed = |to, end| Replayed {
        from: saved.clone(),
        to,
        transactions: files.transactions,
        end,
    };
    if verdict == Verdict::NothingNew || request.dry_run {
        let end = match verdict {
            Verdict::NothingNew => End::NothingNew,
            Verdict::Continues => End::Fits,
        };
        return Ok(replayed(saved.clone(), end));
    }
    let config = Arc::new(config);
    let board = Arc::new(Board::default());
    let breaker = Breaker::new(config.breaker, Arc::clone(&board));
    let owned = tokio::select! {
        biased;
        () = &mut shutdown => return Ok(replayed(saved.clone(), End::Stopped)),
        owned = own(&config, &breaker, saved.is_none().then_some(&first)) => owned?,
        () = breaker.opened() => {
            return Err(Error::new(
                Kind::StoreUnavailable,
                "mongodb is away; nothing was recorded, run the command again when it is back",
            ));
        }
    };
    let Owned {
        committer,
        offset,
        spool,
    } = owned;
    // What was staged or spooled has moved it on.
    match files.judge(&offset) {
        Ok(Verdict::Continues) => {}
        other => {
            committer.release_lease().await?;
            return other.map(|_| replayed(Some(offset), End::NothingNew));
        }
    }
    let beginning = Beginning {
        committer: Some(committer),
        offset,
        is_spooled: false,
        spool,
    };
    let read = |offset, chunks, stopped| {
        let (config, files, progress) = (
            Arc::clone(&config),
            Arc::clone(&files),
            Arc::clone(&progress),
        );
        tokio::task::spawn_blocking(move || {
            files::read(&config, &files, offset, &progress, &chunks, &stopped)
        })
    };
    let daemon = Daemon::new(&config, &board, &breaker, beginning, read);
    let (_, ended) = daemon.run(shutdown.as_mut()).await;
    match ended? {
        Ended::Flushed => {}
        Ended::BeginAgain { .. } => {
            return Err(Error::new(
                Kind::SpoolUnavailable,
                "what is in the spool does not continue what is recorded, as said above; run the command again",
            ));
        }
    }
    let to = tokio::time::timeout(LAST_LOOK, async {
        Reader::connect(&config).await?.saved_offset().await
    });
    let to = to.await.unwrap_or_else(|_| {
        Err(Error::new(
            Kind::StoreUnavailable,
            "mongodb is away, and what it does not have yet is staged or in the spool; the next start goes on with that",
        ))
    })?;
    let is_all = to
        .as_ref()
        .is_some_and(|to| files.end().is_subset(&to.position.gtid));
    let end = if is_all { End::Recorded } else { End::Stopped };
    Ok(replayed(to, end))
}

/// A source that was taken over.
struct Owned {
    committer: Committer,
    offset: Offset,
    spool: Option<Spool>,
}

/// Takes the source over, after its `first` offset was written where it has none, and commits what is staged and spooled.
async fn own(config: &Arc<Config>, breaker: &Breaker, first: Option<&Offset>) -> Result<Owned> {
    attached::refuse_where_asked(config).await?;
    let store = Store::connect(config, breaker).await?;
    // Opened first, since nobody else can have it open then.
    let spool = Spool::of(config).await?;
    if let Some(first) = first {
        store
            .retry()
            .persist("write the first offset", || store.create_offset(first))
            .await?;
    }
    let (mut committer, offset) = take_over(config, &store).await?;
    let offset = match &spool {
        Some(spool) => commit_spooled(&mut committer, offset, spool).await?,
        None => offset,
    };
    tracing::info!(
        gtid = %offset.position.gtid,
        batch = offset.batch,
        n = offset.n,
        epoch = offset.epoch,
        "Resuming from saved GTID"
    );
    Ok(Owned {
        committer,
        offset,
        spool,
    })
}
