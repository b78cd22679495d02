//! Whether a server is overloaded for long, as a state machine of numbers.
//!
//! `penstock.transport.admission` is the reference, and says why; a test runs the same events on
//! both.

use crate::budgets::Budgets;
use crate::sys::Nanos;

/// A call of the application counts for a sixteenth of the mean.
const MEAN_SHIFT: u32 = 4;

/// The rule for sustained overload, and the mean time of a call. A lock of the caller's guards it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Overload {
    mean_service: Nanos,
    relaxed_at: Nanos,
    sustained: bool,
}

impl Overload {
    /// Whether the newest request of the queue is next, and not the oldest.
    pub fn is_sustained(&self) -> bool {
        self.sustained
    }

    /// The mean time of the last calls of the application; 0 before the first.
    pub fn mean_service(&self) -> Nanos {
        self.mean_service
    }

    /// Note how long a call of the application took.
    pub fn served(&mut self, duration: Nanos) {
        self.mean_service = if self.mean_service == 0 {
            duration
        } else if duration >= self.mean_service {
            self.mean_service + ((duration - self.mean_service) >> MEAN_SHIFT)
        } else {
            // Rounded down, as Python shifts a negative number.
            let less = self.mean_service - duration;
            self.mean_service - less.div_ceil(1 << MEAN_SHIFT)
        };
    }

    /// Note a change of the queue, before a request joins an empty one and after one has left it;
    /// return whether the overload is sustained. `oldest` is for how long the oldest that is left
    /// has waited.
    pub fn queue_moved(&mut self, budgets: &Budgets, now: Nanos, oldest: Nanos) -> bool {
        let services = budgets.overload_services.saturating_mul(self.mean_service);
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

/// Return the state after events, for the test: each is a kind and two numbers. Of kind 0 the first
/// is the duration of a call, of kind 1 they are the time and the oldest wait. The result is twice
/// the mean, and 1 more if the overload is sustained.
pub fn replay(budgets: &Budgets, events: &[Option<f64>]) -> f64 {
    let mut overload = Overload::default();
    for event in events.chunks_exact(3) {
        let number = |index: usize| event.get(index).copied().flatten().unwrap_or(0.0) as u64;
        if number(0) == 0 {
            overload.served(number(1));
        } else {
            overload.queue_moved(budgets, number(1), number(2));
        }
    }
    (2 * overload.mean_service + u64::from(overload.sustained)) as f64
}
