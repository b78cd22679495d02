//! What each thread that calls `next` has of its own: a record on the scoreboard, and what it is
//! with.

use crate::exchange::Exchange;
use penstock_reactor::leader_followers::thread_number;
use penstock_reactor::scoreboard::{NUMBER, Record, Scoreboard, THREAD};
use penstock_reactor::sync::lock;
use penstock_reactor::sys;
use penstock_reactor::thread_count::Place;
use pyo3::prelude::*;
use std::cell::RefCell;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

static TRANSPORTS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// Where the thread was found last: the number of its transport, and the slot.
    static LAST: RefCell<Option<(u64, Arc<ThreadSlot>)>> = const { RefCell::new(None) };
}

/// A thread's place.
pub struct ThreadSlot {
    pub thread: u64,
    /// On the scoreboard; None where there are no more.
    pub record: Option<Record>,
    /// In the count of threads.
    pub place: Place,
    with: Mutex<Option<Py<Exchange>>>,
}

impl ThreadSlot {
    /// Keep in mind what the thread is with, or that it is with nothing; return what it was with.
    pub fn keep(&self, exchange: Option<Py<Exchange>>) -> Option<Py<Exchange>> {
        std::mem::replace(&mut *lock(&self.with), exchange)
    }

    /// What the thread is with.
    pub fn exchange(&self, py: Python<'_>) -> Option<Py<Exchange>> {
        lock(&self.with)
            .as_ref()
            .map(|exchange| exchange.clone_ref(py))
    }
}

/// The thread slots of one transport.
pub struct ThreadSlots {
    threads: u64,
    all: Mutex<Vec<Arc<ThreadSlot>>>,
}

impl ThreadSlots {
    pub fn new() -> Self {
        ThreadSlots {
            threads: TRANSPORTS.fetch_add(1, Ordering::Relaxed),
            all: Mutex::default(),
        }
    }

    /// The calling thread's; the first that ask have a record.
    pub fn mine(&self, scoreboard: &Scoreboard) -> Arc<ThreadSlot> {
        let known = LAST.with_borrow(|last| match last {
            Some((threads, thread_slot)) if *threads == self.threads => {
                Some(Arc::clone(thread_slot))
            }
            _ => None,
        });
        known.unwrap_or_else(|| {
            let thread_slot = self.find(scoreboard);
            // The last reference to another transport's slot ends outside of the borrow.
            drop(LAST.replace(Some((self.threads, Arc::clone(&thread_slot)))));
            thread_slot
        })
    }

    /// The calling thread's, if it has asked for a request before.
    pub fn known(&self) -> Option<Arc<ThreadSlot>> {
        of_calling_thread(&lock(&self.all))
    }

    fn find(&self, scoreboard: &Scoreboard) -> Arc<ThreadSlot> {
        let mut all = lock(&self.all);
        if let Some(thread_slot) = of_calling_thread(&all) {
            return thread_slot;
        }
        let record = scoreboard.record(all.len());
        if let Some(record) = &record {
            let ident = scoreboard.record_word(record, THREAD);
            ident.store(sys::thread_ident(), Ordering::Relaxed);
        }
        let thread_slot = Arc::new(ThreadSlot {
            thread: thread_number(),
            record,
            place: Place::new(record),
            with: Mutex::default(),
        });
        all.push(Arc::clone(&thread_slot));
        thread_slot
    }

    /// What the thread in the call with this number is with.
    pub fn find_call(
        &self,
        py: Python<'_>,
        scoreboard: &Scoreboard,
        number: u64,
    ) -> Option<Py<Exchange>> {
        let thread_slots = lock(&self.all).clone();
        let thread_slot = thread_slots.iter().find(|thread_slot| {
            let record = thread_slot.record.as_ref();
            record.is_some_and(|it| {
                let word = scoreboard.record_word(it, NUMBER);
                word.load(Ordering::Acquire) == number
            })
        })?;
        thread_slot.exchange(py)
    }

    /// What the thread with this number is with.
    pub fn exchange_of(&self, py: Python<'_>, thread: u64) -> Option<Py<Exchange>> {
        let thread_slots = lock(&self.all).clone();
        let mut of_thread = thread_slots.iter().filter(|slot| slot.thread == thread);
        of_thread.next()?.exchange(py)
    }

    /// What threads are with, taken from them.
    pub fn take_all(&self) -> Vec<Py<Exchange>> {
        let thread_slots = lock(&self.all).clone();
        thread_slots
            .iter()
            .filter_map(|thread_slot| thread_slot.keep(None))
            .collect()
    }
}

fn of_calling_thread(all: &[Arc<ThreadSlot>]) -> Option<Arc<ThreadSlot>> {
    let mut known = all.iter().filter(|slot| slot.thread == thread_number());
    known.next().cloned()
}
