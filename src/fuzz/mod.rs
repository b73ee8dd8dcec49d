//! Fuzzing with plain `cargo test`: inputs made from real ones by a seed, each judged by a function of its bytes alone.
//!
//! A target is a generator and a check. The check panics on a finding: a panic of the code, a property that does not hold,
//! or more memory than the input's length justifies (a length that is announced and not there must not be believed). Beside
//! the code under test stand the targets: `source/decode/fuzz.rs`, `source/fuzz.rs`, `texts` here. What their inputs are
//! mutated from was written by real servers: `corpus`.
//!
//! Without further words a run is short and always the same, so that it fails for a change of the code only. For more:
//!
//! ```text
//! SDL_FUZZ_TIMES=100 SDL_FUZZ_SEED=7 cargo test --release --lib fuzz:: -- --nocapture      so many times as many inputs
//! SDL_FUZZ_REPLAY=FILE cargo test --lib fuzz::TARGET      one input, as a failure wrote it
//! ```

mod corpus;
mod mutate;
mod texts;

pub(crate) use corpus::{Captured, MARIADB, MYSQL};
pub(crate) use mutate::mutate;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use bson::{RawBsonRef, RawDocument};

/// What makes inputs.
pub(crate) type Random = fastrand::Rng;

/// Memory that any input may take: buffers, messages, the first allocation of everything, the tables of a regular expression.
const FREE_BYTES: u64 = 1 << 20;

/// An input that takes longer is kept, but no failure: the machine may be busy.
const WORTH_A_LOOK: Duration = Duration::from_secs(1);

/// How deep a row's image may nest: its 90 levels of JSON, and 3 around a JSON value that is kept as its changes.
pub(crate) const IMAGE_LEVELS: usize = 95;

/// One thing to fuzz.
pub(crate) struct Target {
    /// The test's path, for the message that tells how to replay.
    pub(crate) name: &'static str,
    /// Makes an input.
    pub(crate) make: fn(&mut Random) -> Vec<u8>,
    /// Judges it; true when the code took it for right.
    pub(crate) check: fn(&[u8]) -> bool,
    /// Bytes of memory that one byte of input may cost at a time.
    pub(crate) memory: u64,
}

impl Target {
    /// Runs `inputs` inputs, or as many times as many as the environment says.
    pub(crate) fn run(&self, inputs: u64) {
        if let Ok(file) = std::env::var("SDL_FUZZ_REPLAY") {
            let input = std::fs::read(&file).expect("SDL_FUZZ_REPLAY names a file");
            eprintln!(
                "{}: {file} is taken for right: {}",
                self.name,
                self.judge(&input)
            );
            return;
        }
        let number = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |text| text.parse().expect("a number"))
        };
        let inputs = inputs * number("SDL_FUZZ_TIMES", 1);
        let seed = number("SDL_FUZZ_SEED", 1);
        let started = Instant::now();
        let (mut right, mut slowest) = (0, Duration::ZERO);
        for index in 0..inputs {
            // One generator an input: each can be made again by itself.
            let mut random = Random::with_seed(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ index);
            let input = (self.make)(&mut random);
            let begun = Instant::now();
            match catch_unwind(AssertUnwindSafe(|| self.judge(&input))) {
                Ok(taken) => right += u64::from(taken),
                Err(panic) => {
                    self.keep("a finding", &input, seed, index);
                    resume_unwind(panic);
                }
            }
            let elapsed = begun.elapsed();
            if elapsed > slowest.max(WORTH_A_LOOK) {
                self.keep("slow", &input, seed, index);
            }
            slowest = slowest.max(elapsed);
        }
        eprintln!(
            "{}: {inputs} inputs of seed {seed} in {:.1} s, {right} taken for right, the slowest {} µs",
            self.name,
            started.elapsed().as_secs_f64(),
            slowest.as_micros()
        );
    }

    fn judge(&self, input: &[u8]) -> bool {
        let mut outcome = None;
        let memory = allocation_counter::measure(|| {
            outcome = Some(catch_unwind(AssertUnwindSafe(|| (self.check)(input))));
        });
        let right = outcome
            .expect("the check was run")
            .unwrap_or_else(|panic| resume_unwind(panic));
        let allowed = FREE_BYTES + self.memory * input.len() as u64;
        assert!(
            memory.bytes_max <= allowed,
            "{} bytes of memory for an input of {}",
            memory.bytes_max,
            input.len()
        );
        right
    }

    fn keep(&self, what: &str, input: &[u8], seed: u64, index: u64) {
        let directory = std::env::current_exe()
            .ok()
            .and_then(|test| test.parent().map(|parent| parent.join("fuzz-findings")))
            .unwrap_or_else(|| PathBuf::from("."));
        let file = directory.join(format!("{}-{seed}-{index}", self.name.replace("::", "-")));
        let kept = std::fs::create_dir_all(&directory).and_then(|()| std::fs::write(&file, input));
        eprintln!(
            "{}: input {index} of seed {seed} is {what}, kept: {kept:?}\n  SDL_FUZZ_REPLAY={} cargo test --lib {}",
            self.name,
            file.display(),
            self.name
        );
    }
}

/// Choices read from an input's bytes: how structure is made from them. Behind their end every choice is the first.
pub(crate) struct Choices<'a>(pub(crate) &'a [u8]);

impl<'a> Choices<'a> {
    pub(crate) fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((byte, rest)) => {
                self.0 = rest;
                *byte
            }
            None => 0,
        }
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        let number = usize::from(self.byte());
        let number = if limit > 256 {
            number << 8 | usize::from(self.byte())
        } else {
            number
        };
        number % limit
    }

    pub(crate) fn number(&mut self) -> u64 {
        // Few bits as often as many.
        let bits = self.below(65) as u32;
        let all = (0..8).fold(0, |number, _| number << 8 | u64::from(self.byte()));
        all.checked_shr(64 - bits).unwrap_or(0)
    }

    pub(crate) fn take(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| self.byte()).collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Random bytes to choose by.
pub(crate) fn choices(random: &mut Random) -> Vec<u8> {
    let longest = 1 << random.u8(3..10);
    let length = random.usize(..longest);
    (0..length).map(|_| random.u8(..)).collect()
}

/// Checks that bytes are one whole document which the bson crate reads to its last element; gives back how deep it is.
pub(crate) fn assert_document(bytes: &[u8]) -> usize {
    let document = RawDocument::from_bytes(bytes).expect("a BSON document");
    let depths = document.iter().map(|element| {
        let (_, value) = element.expect("a BSON element");
        match value {
            RawBsonRef::Document(inner) => assert_document(inner.as_bytes()),
            RawBsonRef::Array(inner) => assert_document(inner.as_bytes()),
            _ => 0,
        }
    });
    1 + depths.max().unwrap_or(0)
}
