//! The requests that wait for a thread: how many may, in which order, and how those end that none
//! takes.
//!
//! They are shared by client; of each client the oldest is next, and under sustained overload the
//! newest. A thread that finds the queue empty reads no clock here.

use crate::admission::{self, Overload};
use crate::budgets::Budgets;
use crate::connection::Connection;
use crate::decisions::{self, Leaving};
use crate::disconnect;
use crate::fair_queue::FairQueue;
use crate::options::Options;
use crate::request::Waiting;
use crate::scoreboard::{QUEUE_FULL, QUEUE_FULL_SINCE, QUEUED, Scoreboard, WAITING};
use crate::sync::lock;
use crate::sys::{self, Nanos};
use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Default)]
struct Waits {
    requests: FairQueue<Waiting>,
    /// The same requests by `arrival`.
    arrivals: BTreeSet<(Nanos, u64)>,
    overload: Overload,
}

/// When a request was found to be complete, and its number.
fn arrival(waiting: &Waiting) -> (Nanos, u64) {
    (waiting.since, waiting.number)
}

impl Waits {
    /// Take the requests that are unwanted, in the order of arrival.
    fn remove(&mut self, unwanted: impl FnMut(&Waiting) -> bool) -> Vec<Waiting> {
        let removed = self.requests.remove(unwanted);
        for waiting in &removed {
            self.arrivals.remove(&arrival(waiting));
        }
        removed
    }
}

/// The queue of one transport.
#[derive(Default)]
pub struct WaitingQueue {
    waits: Mutex<Waits>,
    /// The mean time of a call of the application. Threads that write it at once lose a call: it is
    /// a mean.
    mean_service: AtomicU64,
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

    /// Have a request wait; return the one that is to be refused, if any.
    ///
    /// Where the queue is full, that is the newest of the client that has the most, which may be this
    /// one. With `taken_at_once` a thread is free for it, so that none is refused.
    pub fn push(
        &self,
        options: &Options,
        scoreboard: &Scoreboard,
        mut waiting: Waiting,
        taken_at_once: bool,
    ) -> Option<Waiting> {
        let (budgets, now) = (&options.budgets, waiting.since);
        waiting.queued = true;
        let client = waiting.client();
        let mut guard = lock(&self.waits);
        let waits = &mut *guard;
        let mut refused = None;
        if !taken_at_once && !decisions::queue_has_room(budgets, waits.requests.len()) {
            scoreboard.count(QUEUE_FULL);
            refused = waits.requests.make_room(client);
            match &refused {
                None => return Some(waiting),
                Some(refused) => waits.arrivals.remove(&arrival(refused)),
            };
        }
        if waits.requests.is_empty() {
            self.note_move(waits, budgets, scoreboard, now);
        }
        if !taken_at_once {
            scoreboard.count(QUEUED);
        }
        waits.arrivals.insert(arrival(&waiting));
        waits.requests.add(client, waiting);
        let length = waits.requests.len();
        scoreboard.set(WAITING, length as u64);
        if !decisions::queue_has_room(budgets, length) {
            note_full(scoreboard, now);
        }
        refused
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
        let waiting = waits.requests.take(sustained)?;
        waits.arrivals.remove(&arrival(&waiting));
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
        let waiting = waits.remove(same).pop()?;
        self.note_move(&mut waits, &options.budgets, scoreboard, now);
        Some(waiting)
    }

    /// Take the requests whose clients have left, or that have waited for too long.
    pub fn sweep(&self, options: &Options, scoreboard: &Scoreboard, now: Nanos) -> Vec<Taken> {
        let mut waits = lock(&self.waits);
        let sustained = waits.overload.is_sustained();
        let status = |waiting: &Waiting| {
            let waited = now.saturating_sub(waiting.since);
            let leaving = leaving(&waiting.connection, sustained);
            decisions::queued_status(options, waited, leaving, sustained)
        };
        let ending = waits.remove(|waiting| status(waiting) != 0);
        if !ending.is_empty() {
            self.note_move(&mut waits, &options.budgets, scoreboard, now);
        }
        drop(waits);
        let ending = ending.into_iter().map(|waiting| {
            let status = status(&waiting);
            (waiting, status)
        });
        ending.collect()
    }

    /// Take all requests, in the order of arrival.
    pub fn take_all(&self, scoreboard: &Scoreboard) -> Vec<Waiting> {
        let mut waits = lock(&self.waits);
        scoreboard.set(WAITING, 0);
        scoreboard.set(QUEUE_FULL_SINCE, 0);
        waits.remove(|_| true)
    }

    /// Return for how long the queue has been full; 0 while it is not.
    pub fn full_for(&self, scoreboard: &Scoreboard) -> Nanos {
        match scoreboard.get(QUEUE_FULL_SINCE) {
            0 => 0,
            since => sys::monotonic().saturating_sub(since),
        }
    }

    fn note_move(&self, waits: &mut Waits, budgets: &Budgets, scoreboard: &Scoreboard, now: Nanos) {
        // With the lock held: otherwise an older number could be written over a newer one.
        scoreboard.set(WAITING, waits.requests.len() as u64);
        let oldest = waits.arrivals.first();
        let age = oldest.map_or(0, |(since, _)| now.saturating_sub(*since));
        waits
            .overload
            .queue_moved(budgets, now, age, self.mean_service());
        // Each thread that comes free takes a request from a full queue, which the next one fills.
        if waits.requests.len() <= budgets.queue / 2 {
            scoreboard.set(QUEUE_FULL_SINCE, 0);
        }
    }
}

/// Note that the queue is full. With the lock held.
fn note_full(scoreboard: &Scoreboard, now: Nanos) {
    if scoreboard.get(QUEUE_FULL_SINCE) == 0 {
        scoreboard.set(QUEUE_FULL_SINCE, now.max(1));
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
