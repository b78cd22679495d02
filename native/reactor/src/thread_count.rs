//! The count of threads: which calls have left it, and which threads wait for a place in it.
//! `penstock.transport.python.thread_count` is the reference.
//!
//! A thread leads and takes requests only with a place in the count. A call that leaves the count
//! gives its thread's place to another thread: to one that waits for a place, or to a new one. When
//! such a call has returned, its thread waits until it gets the place of the next call that leaves.
//! So each place always belongs to one thread, however a call ends. With one thread a WebSocket
//! keeps it, and only counts.

use crate::decisions;
use crate::scoreboard::{
    IO_BOUND, IO_BOUND_CALLS, IO_BOUND_REFUSED, LEFT_COUNT, Record, WEBSOCKET, WEBSOCKETS,
    WEBSOCKETS_REFUSED,
};
use crate::shared::Shared;
use crate::sync::{Alarm, Flag, lock};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What a thread knows of its own place.
pub struct Place {
    record: Option<Record>,
    left: Flag,
    websocket: Flag,
    missing: Flag,
    given: Arc<Alarm>,
}

impl Place {
    /// The place of a new thread, whose record on the scoreboard is `record`.
    pub fn new(record: Option<Record>) -> Self {
        Place {
            record,
            left: Flag::default(),
            websocket: Flag::default(),
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
    /// It has left, and a thread that waited has its place, or it had left before; or it has a
    /// WebSocket with the only thread.
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
    /// How many calls have left the count without a WebSocket.
    left: u64,
    /// How many calls have a WebSocket.
    opened: u64,
    /// How many calls have left the count, with one or without.
    out: u64,
    spare: Vec<Arc<Alarm>>,
    over: bool,
}

impl State {
    /// Give a place to a thread that waits for one; return whether one did.
    fn give_place(&mut self) -> bool {
        // The last that came back: its stack is still warm.
        self.spare.pop().map(|given| given.ring()).is_some()
    }

    /// Note whether a call is out of the count, and whether it has a WebSocket.
    fn note(&mut self, shared: &Shared, place: &Place, left: bool, websocket: bool) {
        let (left_before, had_websocket) = (place.left.get(), place.websocket.get());
        let plain = |left: bool, websocket: bool| u64::from(left && !websocket);
        let change = |count: u64, to: u64, from: u64| (count + to).saturating_sub(from);
        self.left = change(
            self.left,
            plain(left, websocket),
            plain(left_before, had_websocket),
        );
        self.opened = change(self.opened, websocket.into(), had_websocket.into());
        self.out = change(self.out, left.into(), left_before.into());
        place.left.set(left);
        place.websocket.set(websocket);
        let scoreboard = &shared.scoreboard;
        if let Some(record) = &place.record {
            let kind = LEFT_COUNT * usize::from(left) + WEBSOCKET * usize::from(websocket);
            let word = scoreboard.record_word(record, IO_BOUND);
            word.store(kind as u64, Ordering::Relaxed);
        }
        scoreboard.set(WEBSOCKETS, self.opened);
        scoreboard.set(IO_BOUND_CALLS, self.out);
    }
}

impl ThreadCount {
    /// Have the call of the thread with this place leave the count. With `websocket` it has one from
    /// now on, whether it had left the count before or not.
    pub fn leave(&self, shared: &Shared, place: &Place, websocket: bool) -> Leave {
        let mut state = lock(&self.state);
        if state.over {
            return Leave::Refused;
        }
        let options = &shared.options;
        let allowed = match websocket {
            true => decisions::may_open_websocket(options, state.opened),
            false => decisions::may_leave_count(options, state.left, options.threads),
        };
        if !allowed {
            shared.scoreboard.count(refused(websocket));
            return Leave::Refused;
        }
        if place.has_left() || options.threads == 1 {
            state.note(shared, place, place.has_left(), websocket);
            return Leave::Replaced;
        }
        place.missing.set(true);
        state.note(shared, place, true, websocket);
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
        shared.scoreboard.count(refused(place.websocket.get()));
        state.note(shared, place, false, false);
        place.missing.set(false);
        false
    }

    /// Note that the thread's call has returned, which had a WebSocket and kept its place.
    pub fn come_back(&self, shared: &Shared, place: &Place) {
        if place.websocket.get() && !place.has_left() {
            lock(&self.state).note(shared, place, false, false);
        }
    }

    /// Note that the thread's call has returned, and wait until it has a place again, or until the
    /// end.
    pub fn await_place(&self, shared: &Shared, place: &Place) {
        {
            let mut state = lock(&self.state);
            if place.has_left() {
                state.note(shared, place, false, false);
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

/// The word that counts what was refused.
fn refused(websocket: bool) -> usize {
    match websocket {
        true => WEBSOCKETS_REFUSED,
        false => IO_BOUND_REFUSED,
    }
}
