//! Whether a server is overloaded for long, as a state machine of numbers.
//!
//! `penstock.transport.admission` is the reference, and says why; a test runs the same events on
//! both.

use crate::budgets::Budgets;
use crate::sys::Nanos;

/// A call of the application counts for a sixteenth of the mean.
const MEAN_SHIFT: u32 = 4;

/// The rule for sustained overload. A lock of the caller's guards it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overload {
    relaxed_at: Nanos,
    sustained: bool,
}

impl Overload {
    /// Whether the newest request of the queue is next, and not the oldest.
    pub fn is_sustained(&self) -> bool {
        self.sustained
    }

    /// Note a change of the queue, before a request joins an empty one and after one has left it;
    /// return whether the overload is sustained. `oldest` is for how long the oldest that is left
    /// has waited, `mean_service` the mean time of the last calls.
    pub fn queue_moved(
        &mut self,
        budgets: &Budgets,
        now: Nanos,
        oldest: Nanos,
        mean_service: Nanos,
    ) -> bool {
        let services = budgets.overload_services.saturating_mul(mean_service);
        if oldest == 0 {
            self.sustained = false;
        }
        if oldest <= budgets.overload_delay.max(services) {
            self.relaxed_at = now;
        } else if now.saturating_sub(self.relaxed_at) >= budgets.overload {
            self.sustained = true;
        }
        self.sustained
    }
}

/// Return the mean time of the application's calls after another one; 0 before the first.
pub fn next_mean(mean: Nanos, duration: Nanos) -> Nanos {
    if mean == 0 {
        duration
    } else if duration >= mean {
        mean + ((duration - mean) >> MEAN_SHIFT)
    } else {
        // Rounded down, as Python shifts a negative number.
        mean - (mean - duration).div_ceil(1 << MEAN_SHIFT)
    }
}

/// Return the state after events, for the test: each is a kind and two numbers. Of kind 0 the first
/// is the duration of a call, of kind 1 they are the time and the oldest wait. The result is twice
/// the mean, and 1 more if the overload is sustained.
pub fn replay(budgets: &Budgets, events: &[Option<f64>]) -> f64 {
    let mut overload = Overload::default();
    let mut mean = 0;
    for event in events.chunks_exact(3) {
        let number = |index: usize| event.get(index).copied().flatten().unwrap_or(0.0) as u64;
        if number(0) == 0 {
            mean = next_mean(mean, number(1));
        } else {
            overload.queue_moved(budgets, number(1), number(2), mean);
        }
    }
    (2 * mean + u64::from(overload.sustained)) as f64
}
