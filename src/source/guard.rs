//! A panic while an event is read becomes an error, so that it stops the stream with file, position and GTID like any other
//! damage, and the same damage twice is an operator's case instead of a restart without end.
//!
//! mysql_common panics on some malformed events before sdl sees them: a length in the header that is not the packet's
//! (events/mod.rs, `read_exact(…).unwrap()`), an event too short for its checksum, a compression algorithm that it does not
//! know, an announced size that no memory holds. Nothing of what was under guard may be used afterwards; the reader drops the
//! connection and forgets the open transaction.
//!
//! The message of a panic may repeat bytes of a row, so it is neither printed nor kept: only where in the code it was.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;

thread_local! {
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Where in the code a panic was.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the event cannot be read: the code that reads it gave up at {0}; please report this with the event's bytes"
)]
pub(super) struct Panicked(String);

/// Runs `read`, which must not wait for anything; a panic in it is given back and not printed.
pub(super) fn guarded<T>(read: impl FnOnce() -> T) -> Result<T, Panicked> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let previous = panic::take_hook();
        panic::set_hook(Box::new(move |panic| {
            if !GUARDED.get() {
                return previous(panic);
            }
            let place = panic.location().map(ToString::to_string);
            PLACE.set(place.unwrap_or_default());
        }));
    });
    GUARDED.set(true);
    let outcome = panic::catch_unwind(AssertUnwindSafe(read));
    GUARDED.set(false);
    outcome.map_err(|_| Panicked(PLACE.take()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_an_error_that_says_where_and_not_what() {
        assert_eq!(guarded(|| 7), Ok(7));
        let error = guarded(|| -> u8 { panic!("a row's value") })
            .unwrap_err()
            .to_string();
        assert!(error.contains("guard.rs:"), "{error}");
        assert!(!error.contains("value"), "{error}");
        assert_eq!(guarded(|| 8), Ok(8));
    }
}
