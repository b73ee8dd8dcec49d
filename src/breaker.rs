//! The circuit breaker round MongoDB.
//!
//! It guarantees that an outage is known as one: after BREAKER_FAILURES failures in a row, or when one operation has used up
//! RETRY_MAX_ATTEMPTS, nobody waits for MongoDB at each call any
//! more; batches go to the spool, and MongoDB is tried again every BREAKER_OPEN. [`Circuit`] is the whole judgement and pure;
//! [`Breaker`] shares it between the tasks and tells log and board of each change, once.
//!
//! A failure counts when its attempt began after the last one that counted: five calls that were on their way when a connection broke
//! are one failure and not five.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;
use tokio::time::Instant;

use crate::board::Board;
use crate::config::BreakerSettings;
use crate::error::Error;

/// What is done with a batch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum State {
    /// It goes to MongoDB.
    #[default]
    Closed,
    /// It is tried whether MongoDB is back.
    HalfOpen,
    /// MongoDB is left alone for BREAKER_OPEN.
    Open,
}

impl State {
    /// As logs and metrics say it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half-open",
            Self::Open => "open",
        }
    }
}

/// The judgement: failures and successes in, states out.
#[derive(Debug)]
struct Circuit {
    settings: BreakerSettings,
    state: State,
    /// Failures in a row.
    failures: u32,
    /// When the last failure was counted.
    counted: Option<Instant>,
}

impl Circuit {
    fn new(settings: BreakerSettings) -> Self {
        Self {
            settings,
            state: State::Closed,
            failures: 0,
            counted: None,
        }
    }

    /// An attempt that began at `began` failed; `is_exhausted`: it was the operation's last but for this breaker.
    fn failed(&mut self, began: Instant, is_exhausted: bool, now: Instant) {
        if self.counted.is_some_and(|counted| began < counted) {
            return;
        }
        self.counted = Some(now);
        self.failures = self.failures.saturating_add(1);
        match self.state {
            State::Closed if is_exhausted || self.failures >= self.settings.failures => {
                self.state = State::Open;
            }
            State::HalfOpen => self.state = State::Open,
            State::Closed | State::Open => {}
        }
    }

    /// Something succeeded. An open breaker is closed by a trial only: what succeeds late was begun before.
    fn succeeded(&mut self) {
        self.failures = 0;
        if self.state == State::HalfOpen {
            self.state = State::Closed;
        }
    }

    /// MongoDB is tried again.
    fn try_again(&mut self) {
        if self.state == State::Open {
            self.state = State::HalfOpen;
        }
    }
}

/// The breaker of one process.
#[derive(Debug, Clone)]
pub struct Breaker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    circuit: Mutex<Circuit>,
    state: watch::Sender<State>,
    board: Arc<Board>,
}

impl Breaker {
    /// A closed one.
    pub fn new(settings: BreakerSettings, board: Arc<Board>) -> Self {
        Self(Arc::new(Shared {
            circuit: Mutex::new(Circuit::new(settings)),
            state: watch::channel(State::Closed).0,
            board,
        }))
    }

    /// Its state.
    pub fn state(&self) -> State {
        *self.0.state.borrow()
    }

    /// An attempt that began at `began` failed with `error`; `is_exhausted` when its operation has used up RETRY_MAX_ATTEMPTS.
    pub fn failed(&self, began: Instant, error: &Error, is_exhausted: bool) {
        self.0.board.update(|facts| facts.store_failures += 1);
        self.change(Some(error), |circuit| {
            circuit.failed(began, is_exhausted, Instant::now());
        });
    }

    /// An attempt succeeded.
    pub fn succeeded(&self) {
        self.change(None, Circuit::succeeded);
    }

    /// BREAKER_OPEN has passed.
    pub fn try_again(&self) {
        self.change(None, Circuit::try_again);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        let mut state = self.0.state.subscribe();
        // The other end is held by `self`.
        let _ = state.wait_for(|state| *state == State::Open).await;
    }

    fn change(&self, error: Option<&Error>, change: impl FnOnce(&mut Circuit)) {
        let (before, after, failures) = {
            let mut circuit = self
                .0
                .circuit
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let before = circuit.state;
            change(&mut circuit);
            (before, circuit.state, circuit.failures)
        };
        if before == after {
            return;
        }
        let open = self.settings().open;
        self.0.board.update(|facts| {
            facts.breaker = after;
            facts.breaker_opened += u64::from(before == State::Closed && after == State::Open);
        });
        self.0.state.send_replace(after);
        match (after, error) {
            (State::Open, Some(error)) if before == State::Closed => {
                tracing::error!(%error, failures, again_in = ?open, "circuit breaker open: mongodb is away");
            }
            (State::Open, Some(error)) => {
                tracing::warn!(%error, again_in = ?open, "circuit breaker open again: mongodb is still away");
            }
            (State::Open, None) => {}
            (State::HalfOpen, _) => {
                tracing::info!("circuit breaker half-open: trying mongodb again");
            }
            (State::Closed, _) => {
                tracing::info!("circuit breaker closed: mongodb is back");
            }
        }
    }

    /// Where it tells its state.
    pub fn board(&self) -> &Board {
        &self.0.board
    }

    /// BREAKER_FAILURES and BREAKER_OPEN.
    pub fn settings(&self) -> BreakerSettings {
        self.0
            .circuit
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .settings
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn circuit(failures: u32) -> Circuit {
        Circuit::new(BreakerSettings {
            failures,
            open: Duration::from_secs(30),
        })
    }

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn it_opens_with_the_last_of_so_many_failures_in_a_row() {
        let start = Instant::now();
        let mut circuit = circuit(3);
        for second in 0..2 {
            circuit.failed(at(start, 10 * second), false, at(start, 10 * second + 5));
            assert_eq!(circuit.state, State::Closed);
        }
        circuit.succeeded();
        for second in 2..4 {
            circuit.failed(at(start, 10 * second), false, at(start, 10 * second + 5));
            assert_eq!(circuit.state, State::Closed);
        }
        circuit.failed(at(start, 50), false, at(start, 55));
        assert_eq!(circuit.state, State::Open);
    }

    #[test]
    fn calls_that_fail_together_are_one_failure() {
        let start = Instant::now();
        let mut circuit = circuit(2);
        for _ in 0..10 {
            circuit.failed(at(start, 0), false, at(start, 5));
        }
        assert_eq!(circuit.state, State::Closed);
        circuit.failed(at(start, 6), false, at(start, 7));
        assert_eq!(circuit.state, State::Open);
    }

    #[test]
    fn one_operation_that_has_used_up_its_attempts_opens_it() {
        let start = Instant::now();
        let mut circuit = circuit(100);
        circuit.failed(at(start, 0), true, at(start, 1));
        assert_eq!(circuit.state, State::Open);
    }

    #[test]
    fn only_a_trial_closes_it() {
        let start = Instant::now();
        let mut circuit = circuit(1);
        circuit.failed(at(start, 0), false, at(start, 1));
        circuit.succeeded();
        assert_eq!(circuit.state, State::Open);
        circuit.try_again();
        assert_eq!(circuit.state, State::HalfOpen);
        circuit.failed(at(start, 40), false, at(start, 41));
        assert_eq!(circuit.state, State::Open);
        circuit.try_again();
        circuit.succeeded();
        assert_eq!(circuit.state, State::Closed);
    }

    #[test]
    fn after_it_closed_it_takes_as_many_failures_again() {
        let start = Instant::now();
        let mut circuit = circuit(2);
        circuit.failed(at(start, 0), false, at(start, 1));
        circuit.failed(at(start, 2), false, at(start, 3));
        circuit.try_again();
        circuit.succeeded();
        circuit.failed(at(start, 4), false, at(start, 5));
        assert_eq!(circuit.state, State::Closed);
    }
}
