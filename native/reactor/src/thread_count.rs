//! The count of threads: which calls have left it, and which threads wait for a place in it.
//! `penstock.transport.python.thread_count` is the reference.
//!
//! A thread leads and takes requests only with a place in the count. A call that leaves the count
//! gives its thread's place to another thread: to one that waits for a place, or to a new one. When
//! such a call has returned, its thread waits until it gets the place of the next call that leaves.
//! So each place always belongs to one thread, however a call ends.

use crate::decisions;
use crate::scoreboard::{IO_BOUND, IO_BOUND_CALLS, IO_BOUND_REFUSED, Record};
use crate::shared::Shared;
use crate::sync::{Alarm, Flag, lock};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What a thread knows of its own place.
pub struct Place {
    record: Option<Record>,
    left: Flag,
    missing: Flag,
    given: Arc<Alarm>,
}

impl Place {
    /// The place of a new thread, whose record on the scoreboard is `record`.
    pub fn new(record: Option<Record>) -> Self {
        Place {
            record,
            left: Flag::default(),
            missing: Flag::default(),
            given: Arc::default(),
        }
    }

    /// Whether the thread's call has left the count.
    pub fn has_left(&self) -> bool {
        self.left.get()
    }

    /// Whether the thread has to wait until it has a place again.
    pub fn is_missing(&self) -> bool {
        self.missing.get()
    }
}

/// What became of a call that was to leave the count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leave {
    /// It stays in the count.
    Refused,
    /// It has left, and a thread that waited has its place.
    Replaced,
    /// It has left, and its place is for a thread that is to be started.
    NeedsThread,
}

/// The places of one transport. No thread waits while it holds the lock.
#[derive(Default)]
pub struct ThreadCount {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// How many calls have left the count.
    left: u64,
    spare: Vec<Arc<Alarm>>,
    over: bool,
}

impl State {
    /// Give a place to a thread that waits for one; return whether one did.
    fn give_place(&mut self) -> bool {
        // The last that came back: its stack is still warm.
        self.spare.pop().map(|given| given.ring()).is_some()
    }

    fn note(&mut self, shared: &Shared, place: &Place, left: bool) {
        place.left.set(left);
        self.left = if left {
            self.left + 1
        } else {
            self.left.saturating_sub(1)
        };
        let scoreboard = &shared.scoreboard;
        if let Some(record) = &place.record {
            let word = scoreboard.record_word(record, IO_BOUND);
            word.store(u64::from(left), Ordering::Relaxed);
        }
        scoreboard.set(IO_BOUND_CALLS, self.left);
    }
}

impl ThreadCount {
    /// Have the call of the thread with this place leave the count.
    pub fn leave(&self, shared: &Shared, place: &Place) -> Leave {
        let mut state = lock(&self.state);
        if state.over {
            return Leave::Refused;
        }
        let options = &shared.options;
        if !decisions::may_leave_count(options, state.left, options.threads) {
            shared.scoreboard.count(IO_BOUND_REFUSED);
            return Leave::Refused;
        }
        place.missing.set(true);
        state.note(shared, place, true);
        match state.give_place() {
            true => Leave::Replaced,
            false => Leave::NeedsThread,
        }
    }

    /// Undo [`leave`](Self::leave), where no thread could be started; return whether another thread
    /// has come back, and has the place.
    pub fn replace_otherwise(&self, shared: &Shared, place: &Place) -> bool {
        let mut state = lock(&self.state);
        if state.give_place() {
            return true;
        }
        state.note(shared, place, false);
        place.missing.set(false);
        shared.scoreboard.count(IO_BOUND_REFUSED);
        false
    }

    /// Note that the thread's call has returned, and wait until it has a place again, or until the
    /// end.
    pub fn await_place(&self, shared: &Shared, place: &Place) {
        {
            let mut state = lock(&self.state);
            if place.has_left() {
                state.note(shared, place, false);
                state.spare.push(Arc::clone(&place.given));
            }
            if state.over {
                return;
            }
        }
        place.given.wait();
        place.missing.set(false);
    }

    /// Wake all threads: no place is given any more.
    pub fn end(&self) {
        let mut state = lock(&self.state);
        state.over = true;
        while state.give_place() {}
    }
}
