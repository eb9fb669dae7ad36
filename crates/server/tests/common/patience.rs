//! Waiting for what other processes do: asked again and again until it is so, or too late.

use core::time::Duration;
use std::time::Instant;

/// Nothing here takes long by itself; a loaded machine may.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Asks until there is an answer.
///
/// # Panics
/// There is none within [`PATIENCE`]; the message is `what`.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Deadline::new();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        deadline.assert(what);
        // Leaves the cores to those it waits for.
        std::thread::park_timeout(Duration::from_millis(5));
    }
}

/// When waiting ends.
pub(crate) struct Deadline(Instant);

impl Deadline {
    #[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
    pub(crate) fn new() -> Self {
        Self(Instant::now() + PATIENCE)
    }

    /// # Panics
    /// It is over; the message is `what`.
    #[track_caller]
    #[expect(clippy::disallowed_methods, reason = "other processes live in real time")]
    pub(crate) fn assert(&self, what: &str) {
        assert!(Instant::now() < self.0, "waited {PATIENCE:?} in vain: {what}");
    }
}
