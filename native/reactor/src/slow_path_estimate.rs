//! How long the application's calls take, by path: one slow view says nothing of the others.

use crate::decisions;
use crate::sys::Nanos;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

/// Paths are told apart by a byte of their hash, which does for an estimate.
const PATHS: usize = 256;

/// No call of such a path has been seen yet.
const UNKNOWN: u8 = u8::MAX;

/// At which difference between calls that are worth waiting for, and others, no more are counted.
const MOST_WORTH: u8 = 32;

/// Moving shares. A lost update between threads costs nothing: they are estimates.
pub struct SlowPathEstimate {
    paths: [AtomicU8; PATHS],
    /// A call that lasts longer counts as slow.
    slow_call: Nanos,
    /// The share of slow calls, as a path has it, above which the path counts as slow.
    slow_share: f64,
    all: AtomicU32, // of all calls, as the bits of an f32
    /// A call that lasts for longer keeps others waiting in the kernel where no thread leads.
    stalled_call: Nanos,
    stalls: AtomicU32, // how many calls have
    last: AtomicU64,   // the time of the last call
    /// A call that takes as long is worth having answers wait for it.
    held_call: Nanos,
    /// How many more calls of late were worth that than were not, within bounds.
    worth: AtomicU8,
}

/// A path's name in here.
#[derive(Clone, Copy)]
pub struct PathHash(u8);

impl PathHash {
    pub fn of(path: &[u8]) -> Self {
        let hash = path.iter().fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)
        });
        PathHash((hash >> 24) as u8)
    }
}

impl SlowPathEstimate {
    /// `slow_share` is a share of 1.
    pub fn new(slow_call: Nanos, slow_share: f64, stalled_call: Nanos, held_call: Nanos) -> Self {
        SlowPathEstimate {
            slow_call,
            slow_share,
            paths: [const { AtomicU8::new(UNKNOWN) }; PATHS],
            all: AtomicU32::new(0),
            stalled_call,
            stalls: AtomicU32::new(0),
            last: AtomicU64::new(0),
            held_call,
            worth: AtomicU8::new(0),
        }
    }

    fn path(&self, path: PathHash) -> &AtomicU8 {
        let [first, ..] = &self.paths;
        self.paths.get(usize::from(path.0)).unwrap_or(first)
    }

    /// Whether the calls of a path have proved slow.
    pub fn is_slow(&self, path: PathHash) -> bool {
        let share = self.path(path).load(Ordering::Relaxed);
        share != UNKNOWN && decisions::is_slow_path(self.slow_share, share)
    }

    /// Whether the calls of a path have proved fast, of late without exception.
    pub fn is_fast(&self, path: PathHash) -> bool {
        self.path(path).load(Ordering::Relaxed) == 0
    }

    /// The moving share of all calls that were slow.
    pub fn slow_share(&self) -> f32 {
        f32::from_bits(self.all.load(Ordering::Relaxed))
    }

    /// How many calls have lasted for so long that others have to be seen to.
    pub fn stalls(&self) -> u32 {
        self.stalls.load(Ordering::Relaxed)
    }

    /// How long the last call took.
    pub fn last_call(&self) -> Nanos {
        self.last.load(Ordering::Relaxed)
    }

    /// Whether most calls of late took long enough for answers to wait for them. One call that the
    /// system has interrupted says nothing.
    pub fn are_worth_waiting(&self) -> bool {
        self.worth.load(Ordering::Relaxed) >= MOST_WORTH / 2
    }

    /// Keep account of a call.
    pub fn note(&self, path: PathHash, time: Nanos) {
        self.last.store(time, Ordering::Relaxed);
        let worth = self.worth.load(Ordering::Relaxed);
        if time >= self.held_call && worth < MOST_WORTH {
            self.worth.store(worth + 1, Ordering::Relaxed);
        } else if time < self.held_call && worth > 0 {
            self.worth.store(worth - 1, Ordering::Relaxed);
        }
        let slow = time > self.slow_call;
        if slow && time > self.stalled_call {
            self.stalls.fetch_add(1, Ordering::Relaxed);
        }
        let share = self.path(path);
        let before = match share.load(Ordering::Relaxed) {
            UNKNOWN => {
                share.store(0, Ordering::Relaxed);
                0
            }
            before => before,
        };
        if slow || before > 0 {
            share.store(decisions::next_share(before, slow), Ordering::Relaxed);
        }
        let all = self.slow_share();
        if slow || all > 0.0 {
            let next = decisions::next_overall_share(all, slow);
            self.all.store(next.to_bits(), Ordering::Relaxed);
        }
    }
}
