//! Until when the next byte of a request's body has to come.

use crate::decisions;
use crate::options::Options;
use crate::sys::Nanos;

/// The deadline of one body, by the clock of what waits for it.
#[derive(Clone, Copy, Default)]
pub struct BodyClock {
    deadline: Nanos,
    received: u64,
}

impl BodyClock {
    /// `began` is the time by the clock that `received` is called with.
    pub fn new(options: &Options, began: Nanos) -> Self {
        BodyClock {
            deadline: began.saturating_add(options.body_timeout),
            received: 0,
        }
    }

    /// Until when the next byte has to come.
    pub fn deadline(&self) -> Nanos {
        self.deadline
    }

    /// Note that `count` bytes have come until now; return the deadline.
    pub fn received(&mut self, options: &Options, count: u64, now: Nanos, began: Nanos) -> Nanos {
        let more = count.saturating_sub(self.received);
        if more > 0 {
            self.received = count;
            self.deadline = decisions::body_deadline(options, self.deadline, now, began, more);
        }
        self.deadline
    }

    /// Leave out the time for which the disk kept the body waiting; return the deadline.
    pub fn stored(&mut self, options: &Options, storing: Nanos, began: Nanos) -> Nanos {
        self.deadline =
            decisions::body_deadline_after_storing(options, self.deadline, began, storing);
        self.deadline
    }
}
