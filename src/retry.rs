//! How often and how fast a server is asked again: the crate `backoff`, with the settings RETRY_*.
//!
//! A transient failure is retried for as long as it takes, because the alternative is to lose events or to exit. The first
//! RETRY_MAX_ATTEMPTS failures are warnings; then one error says that the server is away and that the daemon waits; of MongoDB
//! the circuit breaker says it ([`crate::breaker`]). A failure that is not transient comes back at once. Whoever waits here can
//! be cancelled by dropping the future.

use std::future::Future;
use std::time::Duration;

use backoff::ExponentialBackoff;
use backoff::backoff::Backoff;
use tokio::time::Instant;

use crate::board::Role;
use crate::breaker::{Breaker, State};
use crate::config::RetrySettings;
use crate::error::{Error, Result};

/// By how much each delay is varied, as a share of it, so that daemons of one outage do not come back in step.
const JITTER: f64 = 0.3;

/// How operations on one server are tried again, and which breaker hears of their failures.
#[derive(Debug, Clone)]
pub struct Retry {
    settings: RetrySettings,
    breaker: Option<Breaker>,
}

impl Retry {
    /// Without a breaker: nothing could be done instead of waiting.
    pub fn new(settings: RetrySettings) -> Self {
        Self {
            settings,
            breaker: None,
        }
    }

    /// With a breaker that counts failures and successes.
    pub fn with_breaker(settings: RetrySettings, breaker: Breaker) -> Self {
        Self {
            settings,
            breaker: Some(breaker),
        }
    }

    /// Tells the board that another daemon records, and this one waits.
    pub fn stands_by(&self, holder: &str) {
        if let Some(breaker) = &self.breaker {
            let holder = holder.to_owned();
            breaker
                .board()
                .update(|facts| facts.role = Role::Standby { holder });
        }
    }

    /// Tells the board how many batches the predecessor left staged: a clean stop leaves none.
    pub fn recovers(&self, batches: usize) {
        if let Some(breaker) = &self.breaker {
            breaker
                .board()
                .update(|facts| facts.batches_recovered = batches as u64);
        }
    }

    /// Runs `operation` until it succeeds or fails for good.
    ///
    /// # Errors
    /// Only errors that another try cannot mend.
    pub async fn persist<T, F, Fut>(&self, doing: &str, mut operation: F) -> Result<T>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T>>,
    {
        let mut failures = Failures::new(self, doing);
        loop {
            match operation().await {
                Ok(value) => {
                    failures.over();
                    return Ok(value);
                }
                Err(error) if error.is_transient() => failures.wait(&error).await,
                Err(error) => return Err(error),
            }
        }
    }
}

impl RetrySettings {
    /// The delays of one operation: doubling, capped, with jitter, without an end.
    pub fn delays(&self) -> impl Iterator<Item = Duration> + Send + use<> {
        let mut backoff = ExponentialBackoff {
            current_interval: self.initial,
            initial_interval: self.initial,
            multiplier: 2.0,
            randomization_factor: JITTER,
            max_interval: self.max_delay,
            max_elapsed_time: None,
            ..ExponentialBackoff::default()
        };
        let longest = self.max_delay;
        std::iter::repeat_with(move || backoff.next_backoff().unwrap_or(longest).min(longest))
    }
}

/// The run of failures of one operation: says when to try again, and tells the log and the breaker how bad it is.
pub struct Failures<'a> {
    retry: &'a Retry,
    doing: &'a str,
    count: u32,
    /// When the attempt that is under way began.
    began: Instant,
    delays: Box<dyn Iterator<Item = Duration> + Send>,
}

impl<'a> Failures<'a> {
    /// Starts with no failure; `doing` names the operation, as in "commit batch 7".
    pub fn new(retry: &'a Retry, doing: &'a str) -> Self {
        Self {
            retry,
            doing,
            count: 0,
            began: Instant::now(),
            delays: Box::new(retry.settings.delays()),
        }
    }

    /// Logs the failure and waits until the next attempt is due.
    pub async fn wait(&mut self, error: &Error) {
        self.count += 1;
        let mut delay = self.delays.next().unwrap_or(self.retry.settings.max_delay);
        let is_exhausted = self.count >= self.retry.settings.max_attempts;
        match &self.retry.breaker {
            Some(breaker) => {
                tracing::warn!(%error, doing = self.doing, attempt = self.count, ?delay, "failed, trying again");
                breaker.failed(self.began, error, is_exhausted);
                // Where nothing can be done in the meantime, as at a first start, the trial of an open breaker is this very one.
                if breaker.state() == State::Open {
                    delay = breaker.settings().open;
                }
            }
            None if self.count == self.retry.settings.max_attempts.saturating_add(1) => {
                tracing::error!(
                    %error,
                    doing = self.doing,
                    attempts = self.count,
                    "still failing; waiting for as long as it takes, the binlog keeps what is not yet recorded"
                );
            }
            None => {
                tracing::warn!(%error, doing = self.doing, attempt = self.count, ?delay, "failed, trying again");
            }
        }
        tokio::time::sleep(delay).await;
        if let Some(breaker) = &self.retry.breaker {
            breaker.try_again();
        }
        self.began = Instant::now();
    }

    /// The operation succeeded: tells the log that a run of failures is over, if there was one, and starts afresh.
    pub fn over(&mut self) {
        if let Some(breaker) = &self.retry.breaker {
            breaker.succeeded();
        }
        if std::mem::take(&mut self.count) > 0 {
            self.delays = Box::new(self.retry.settings.delays());
            tracing::info!(doing = self.doing, "succeeded after failures");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_limit_and_never_end() {
        let policy = RetrySettings {
            max_attempts: 5,
            initial: Duration::from_millis(100),
            max_delay: Duration::from_secs(10),
        };
        let delays: Vec<_> = policy.delays().take(20).collect();
        let within = |delay: Duration, expected: f64| {
            (expected * (1.0 - JITTER)..=expected * (1.0 + JITTER)).contains(&delay.as_secs_f64())
        };
        for (index, expected) in [0.1, 0.2, 0.4, 0.8, 1.6].into_iter().enumerate() {
            assert!(
                within(delays[index], expected),
                "delay {index} is {:?}",
                delays[index]
            );
        }
        assert!(
            delays[10..]
                .iter()
                .all(|delay| *delay <= policy.max_delay && *delay >= Duration::from_secs(6))
        );
    }
}
