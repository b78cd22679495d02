//! Who is next where clients have more for the server to do than it can: shared by client.
//!
//! `penstock.transport.fair_queue` is the reference; a test runs the same events on both.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};

/// What one item counts for. It is large because shares of it are whole numbers, too.
const ITEM_COST: u64 = 1_000_000;

/// How much less than its share a client counts for that comes: it is next, but new clients that come
/// all the time do not keep those waiting for ever that have had something.
const MOST_AHEAD: u64 = 8 * ITEM_COST;

/// How many clients more than twice those that wait are remembered with what they have had.
const REMEMBERED: usize = 24;

/// Items that wait, each of a client: start-time fair queueing, where all items cost the same.
pub struct FairQueue<T> {
    size: usize,
    waiting: HashMap<u64, VecDeque<T>>,
    /// What a client has had, a number, the client: the least first.
    tags: BinaryHeap<Reverse<(u64, u64, u64)>>,
    /// Clients that have had the same are served in the order of these.
    number: u64,
    /// What each client that waits could have had.
    share: u64,
    /// What a client counts for that comes.
    least: u64,
    /// By each client that has had an item.
    had: HashMap<u64, u64>,
    most_had: usize,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        FairQueue {
            size: 0,
            waiting: HashMap::new(),
            tags: BinaryHeap::new(),
            number: 0,
            share: 0,
            least: 0,
            had: HashMap::new(),
            most_had: REMEMBERED,
        }
    }
}

impl<T> FairQueue<T> {
    /// How many items wait.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.size
    }

    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Have an item of a client wait.
    pub fn add(&mut self, client: u64, item: T) {
        self.size += 1;
        if let Some(waiting) = self.waiting.get_mut(&client) {
            waiting.push_back(item);
            return;
        }
        self.waiting.insert(client, VecDeque::from([item]));
        let had = self.had.get(&client).copied().unwrap_or(0);
        self.enter(client, had.max(self.least));
    }

    /// Take the next item.
    pub fn take(&mut self) -> Option<T> {
        let Reverse((had, _, client)) = self.tags.pop()?;
        let clients = self.waiting.len().max(1);
        let waiting = self.waiting.get_mut(&client)?;
        let item = waiting.pop_front()?;
        let more = !waiting.is_empty();
        self.size -= 1;
        self.share += ITEM_COST / clients as u64;
        let ahead = self.share.saturating_sub(MOST_AHEAD);
        self.least = self.least.max(had).max(ahead);
        let had = had + ITEM_COST;
        if more {
            self.enter(client, had);
        } else {
            self.waiting.remove(&client);
        }
        self.had.insert(client, had);
        if self.size == 0 {
            self.had.clear();
            self.share = 0;
            self.least = 0;
        } else if self.had.len() > self.most_had {
            // The others count as if they came for the first time.
            let least = self.least;
            self.had.retain(|_, had| *had > least);
            self.most_had = REMEMBERED + 2 * self.had.len().max(self.waiting.len());
        }
        Some(item)
    }

    fn enter(&mut self, client: u64, had: u64) {
        self.number += 1;
        self.tags.push(Reverse((had, self.number, client)));
    }
}

/// Return the item that the last of the given events takes, for the test; -1 without one.
///
/// An event is two numbers: a client, and an item that is added; or 0, and 0, to take one.
pub fn replay(given: &[Option<f64>]) -> f64 {
    let mut queue: FairQueue<u64> = FairQueue::default();
    let mut taken = -1.0;
    for event in given.chunks(2) {
        let number = |index: usize| event.get(index).copied().flatten().unwrap_or(0.0) as u64;
        match number(0) {
            0 => taken = queue.take().map_or(-1.0, |item| item as f64),
            client => queue.add(client, number(1)),
        }
    }
    taken
}
