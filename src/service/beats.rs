//! Signs of life of the tasks that do the work.
//!
//! A task hangs when it is polled and does not come back: an endless loop, a lock that is never released, a call that blocks. That is
//! what the watchdog is for, and all that a restart mends. A task that *waits*, for a server that is away, for room, for work, comes
//! back from each poll; here each is polled once a second at least ([`PERIOD`]), so it gives a sign however long it waits. A server
//! that is away is therefore never taken for a hang, and a wakeup that was lost costs a second and not the run.
//!
//! What is wrong between tasks that all come back is the business of [`health`](crate::health), which judges by what gets done.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::{Interval, MissedTickBehavior, interval};

/// How often a task that has nothing to do gives a sign. It costs a poll.
pub const PERIOD: Duration = Duration::from_secs(1);

/// The tasks that are watched; one that has ended is not.
#[derive(Debug, Default)]
pub struct Beats(Mutex<Vec<Weak<Beat>>>);

#[derive(Debug)]
struct Beat {
    task: &'static str,
    /// When it last came back.
    at: Mutex<Instant>,
}

impl Beats {
    /// `work`, watched under this name until it is done or dropped. To be called on a runtime.
    pub fn watch<F: Future>(&self, task: &'static str, work: F) -> Watched<F> {
        let beat = Arc::new(Beat {
            task,
            at: Mutex::new(Instant::now()),
        });
        let mut beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beats.retain(|beat| beat.strong_count() > 0);
        beats.push(Arc::downgrade(&beat));
        let mut ticks = interval(PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Watched {
            work: Box::pin(work),
            ticks,
            beat,
        }
    }

    /// The task that gave no sign for longest, and how long.
    pub fn longest_silence(&self) -> Option<(&'static str, Duration)> {
        let beats = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        beats
            .iter()
            .filter_map(Weak::upgrade)
            .map(|beat| (beat.task, beat.silence()))
            .max_by_key(|(_, silence)| *silence)
    }
}

impl Beat {
    fn note(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn silence(&self) -> Duration {
        self.at
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .elapsed()
    }
}

/// A future that gives a sign each time it comes back from a poll.
pub struct Watched<F> {
    work: Pin<Box<F>>,
    ticks: Interval,
    beat: Arc<Beat>,
}

impl<F> fmt::Debug for Watched<F> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Watched")
            .field("beat", &self.beat)
            .finish_non_exhaustive()
    }
}

impl<F: Future> Future for Watched<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        // A tick that is over wakes nobody again; one that is pending will.
        while self.ticks.poll_tick(context).is_ready() {}
        let outcome = self.work.as_mut().poll(context);
        self.beat.note();
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_task_that_nobody_wakes_is_polled_all_the_same() {
        let beats = Beats::default();
        let mut polls = 0;
        let third = std::future::poll_fn(|_| {
            polls += 1;
            match polls {
                3 => Poll::Ready(()),
                _ => Poll::Pending,
            }
        });
        beats.watch("waits", third).await;
        assert!(
            beats.longest_silence().is_none(),
            "it is not watched any more"
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_task_that_does_not_come_back_is_named() {
        let beats = Beats::default();
        let (release, blocks) = std::sync::mpsc::channel::<()>();
        let hangs = tokio::spawn(beats.watch("hangs", async move { blocks.recv().is_ok() }));
        let waits = tokio::spawn(beats.watch("waits", std::future::pending::<()>()));
        let enough = PERIOD * 2;
        let silent = loop {
            match beats.longest_silence() {
                Some((task, silence)) if silence > enough => break task,
                _ => tokio::time::sleep(PERIOD / 10).await,
            }
        };
        assert_eq!(silent, "hangs");
        drop(release);
        assert!(!hangs.await.unwrap());
        waits.abort();
    }
}
