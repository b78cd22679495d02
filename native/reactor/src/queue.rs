//! The requests that wait for a thread: how many may, in which order, and how those end that none
//! takes.
//!
//! The oldest is next, and under sustained overload the newest. A thread that finds the queue empty
//! reads no clock here.

use crate::admission::{self, Overload};
use crate::budgets::Budgets;
use crate::connection::Connection;
use crate::decisions::{self, Leaving};
use crate::disconnect;
use crate::options::Options;
use crate::request::Waiting;
use crate::scoreboard::{Scoreboard, WAITING};
use crate::sync::lock;
use crate::sys::{self, Nanos};
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Waits {
    requests: VecDeque<Waiting>, // the oldest first
    overload: Overload,
}

/// The queue of one transport.
#[derive(Default)]
pub struct WaitingQueue {
    waits: Mutex<Waits>,
    /// The mean time of a call of the application. Threads that write it at once lose a call: it is
    /// a mean.
    mean_service: AtomicU64,
    /// Since when the queue has been full; 0 while it is not.
    full_since: AtomicU64,
}

/// A request that left the queue, and the status that it ends with; 0 if it goes to a thread.
pub type Taken = (Waiting, u16);

impl WaitingQueue {
    /// Note how long a call of the application took.
    pub fn served(&self, duration: Nanos) {
        let mean = self.mean_service.load(Ordering::Relaxed);
        let next = admission::next_mean(mean, duration);
        self.mean_service.store(next, Ordering::Relaxed);
    }

    /// The mean time of the last calls of the application; 0 before the first.
    pub fn mean_service(&self) -> Nanos {
        self.mean_service.load(Ordering::Relaxed)
    }

    pub fn len(&self) -> usize {
        lock(&self.waits).requests.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Append a request.
    pub fn push(
        &self,
        budgets: &Budgets,
        scoreboard: &Scoreboard,
        mut waiting: Waiting,
        now: Nanos,
    ) {
        waiting.queued = true;
        let mut waits = lock(&self.waits);
        if waits.requests.is_empty() {
            self.note_move(&mut waits, budgets, scoreboard, now);
        }
        waits.requests.push_back(waiting);
        let length = waits.requests.len();
        scoreboard.set(WAITING, length as u64);
        if !decisions::queue_has_room(budgets, length) {
            self.note_full(now);
        }
    }

    /// Take the request that is next, and how it ends. Its client may have left, or it may have
    /// waited for too long.
    pub fn take(&self, options: &Options, scoreboard: &Scoreboard) -> Option<Taken> {
        let mut waits = lock(&self.waits);
        if waits.requests.is_empty() {
            return None;
        }
        let now = sys::monotonic();
        let sustained = waits.overload.is_sustained();
        let waiting = match sustained {
            true => waits.requests.pop_back(),
            false => waits.requests.pop_front(),
        }?;
        self.note_move(&mut waits, &options.budgets, scoreboard, now);
        drop(waits);
        let waited = now.saturating_sub(waiting.since);
        let leaving = match disconnect::find_gone(&waiting.connection) {
            true => Leaving::Gone, // also where no event has reported it yet
            false => leaving(&waiting.connection, sustained),
        };
        let status = decisions::queued_status(options, waited, leaving, sustained);
        Some((waiting, status))
    }

    /// Take the request of a connection, if it waits.
    pub fn remove(
        &self,
        options: &Options,
        scoreboard: &Scoreboard,
        connection: &Connection,
        now: Nanos,
    ) -> Option<Waiting> {
        let mut waits = lock(&self.waits);
        let same = |waiting: &Waiting| waiting.connection.token == connection.token;
        let place = waits.requests.iter().position(same)?;
        let waiting = waits.requests.remove(place);
        self.note_move(&mut waits, &options.budgets, scoreboard, now);
        waiting
    }

    /// Take the requests whose clients have left, or that have waited for too long.
    pub fn sweep(&self, options: &Options, scoreboard: &Scoreboard, now: Nanos) -> Vec<Taken> {
        let mut waits = lock(&self.waits);
        let sustained = waits.overload.is_sustained();
        let mut ending = Vec::new();
        let mut staying = VecDeque::with_capacity(waits.requests.len());
        for waiting in waits.requests.drain(..) {
            let waited = now.saturating_sub(waiting.since);
            let leaving = leaving(&waiting.connection, sustained);
            match decisions::queued_status(options, waited, leaving, sustained) {
                0 => staying.push_back(waiting),
                status => ending.push((waiting, status)),
            }
        }
        waits.requests = staying;
        if !ending.is_empty() {
            self.note_move(&mut waits, &options.budgets, scoreboard, now);
        }
        ending
    }

    /// Take all requests.
    pub fn take_all(&self, scoreboard: &Scoreboard) -> VecDeque<Waiting> {
        let mut waits = lock(&self.waits);
        scoreboard.set(WAITING, 0);
        std::mem::take(&mut waits.requests)
    }

    /// Return whether another request may wait.
    pub fn has_room(&self, budgets: &Budgets) -> bool {
        decisions::queue_has_room(budgets, self.len())
    }

    /// Note that the queue is full.
    pub fn note_full(&self, now: Nanos) {
        let _ =
            self.full_since
                .compare_exchange(0, now.max(1), Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Return for how long the queue has been full; 0 while it is not.
    pub fn full_for(&self) -> Nanos {
        match self.full_since.load(Ordering::Relaxed) {
            0 => 0,
            since => sys::monotonic().saturating_sub(since),
        }
    }

    fn note_move(&self, waits: &mut Waits, budgets: &Budgets, scoreboard: &Scoreboard, now: Nanos) {
        // With the lock held: otherwise an older number could be written over a newer one.
        scoreboard.set(WAITING, waits.requests.len() as u64);
        let oldest = waits.requests.front();
        let age = oldest.map_or(0, |waiting| now.saturating_sub(waiting.since));
        waits
            .overload
            .queue_moved(budgets, now, age, self.mean_service());
        // Each thread that comes free takes a request from a full queue, which the next one fills.
        if waits.requests.len() <= budgets.queue / 2 {
            self.full_since.store(0, Ordering::Relaxed);
        }
    }
}

/// What is known of the client of a request that waits. `halves` is whether one that has ended its
/// side is told from one that stays.
fn leaving(connection: &Connection, halves: bool) -> Leaving {
    if connection.is_gone() {
        Leaving::Gone
    } else if halves && connection.lock().ended.is_some() {
        Leaving::HalfClosed
    } else {
        Leaving::Stays
    }
}
