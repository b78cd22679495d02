//! Who is next where clients have more for the server to do than it can: shared by client.
//!
//! `penstock.transport.fair_queue` is the reference; a test runs the same events on both.

use std::collections::{BTreeSet, HashMap, VecDeque};

/// What one item counts for. It is large because shares of it are whole numbers, too.
const ITEM_COST: u64 = 1_000_000;

/// How much less than its share a client counts for that comes: it is next, but new clients that come
/// all the time do not keep those waiting for ever that have had something.
const MOST_AHEAD: u64 = 8 * ITEM_COST;

/// How many clients more than twice those that wait are remembered with what they have had.
const REMEMBERED: usize = 24;

/// What a client has waiting.
struct ClientItems<T> {
    /// What the client has had, as it counts.
    had: u64,
    /// Clients that have had the same are served in the order of these.
    place: u64,
    /// The items with their numbers, the oldest first.
    items: VecDeque<(u64, T)>,
}

impl<T> ClientItems<T> {
    /// The number of its newest item.
    fn newest(&self) -> u64 {
        self.items.back().map_or(0, |(number, _)| *number)
    }
}

/// Items that wait, each of a client: start-time fair queueing, where all items cost the same.
pub struct FairQueue<T> {
    size: usize,
    waiting: HashMap<u64, ClientItems<T>>,
    /// What a client has had, its place, the client: the least first. Each client that waits is in
    /// this or in `eligible`.
    turns: BTreeSet<(u64, u64, u64)>,
    /// The number of its newest item, the client: the last first. Only where the newest is next.
    eligible: BTreeSet<(u64, u64)>,
    /// How many items, the number of the newest, the client: the last first. Once room was to be
    /// made, until the queue is empty.
    largest: Option<BTreeSet<(usize, u64, u64)>>,
    /// Of the last item, or the last client that had another turn.
    number: u64,
    /// What each client that waits could have had.
    share: u64,
    /// One more than what a client counts for that comes.
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
            turns: BTreeSet::new(),
            eligible: BTreeSet::new(),
            largest: None,
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
    pub fn len(&self) -> usize {
        self.size
    }

    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// Have an item of a client wait.
    pub fn add(&mut self, client: u64, item: T) {
        self.size += 1;
        self.number += 1;
        let number = self.number;
        if let Some(waiting) = self.waiting.get_mut(&client) {
            let before = (waiting.items.len(), waiting.newest());
            waiting.items.push_back((number, item));
            let after = (waiting.items.len(), number);
            self.rank(client, before, after);
            return;
        }
        let fewest = self.least.saturating_sub(ITEM_COST);
        let had = self.had.get(&client).copied().unwrap_or(0).max(fewest);
        let waiting = ClientItems {
            had,
            place: number,
            items: VecDeque::from([(number, item)]),
        };
        self.waiting.insert(client, waiting);
        self.turns.insert((had, number, client));
        self.rank(client, (0, 0), (1, number));
    }

    /// Take the next item: the oldest of the client that has had the fewest. With `newest`, of the
    /// clients that have had no more than their share that one is next which has sent last, and of
    /// its items the newest is.
    pub fn take(&mut self, newest: bool) -> Option<T> {
        let client = self.choose(newest)?;
        let clients = self.waiting.len().max(1);
        let waiting = self.waiting.get_mut(&client)?;
        let before = (waiting.items.len(), waiting.newest());
        let place = (waiting.had, waiting.place, client);
        let (_, item) = match newest {
            true => waiting.items.pop_back(),
            false => waiting.items.pop_front(),
        }?;
        self.size -= 1;
        self.share += ITEM_COST / clients as u64;
        let ahead = self.share.saturating_sub(MOST_AHEAD);
        self.least = self.least.max(waiting.had).max(ahead);
        waiting.had += ITEM_COST;
        self.had.insert(client, waiting.had);
        self.turns.remove(&place);
        self.eligible.remove(&(before.1, client));
        let after = (waiting.items.len(), waiting.newest());
        if waiting.items.is_empty() {
            self.waiting.remove(&client);
        } else {
            self.number += 1;
            waiting.place = self.number;
            self.turns.insert((waiting.had, waiting.place, client));
        }
        self.rank(client, before, after);
        if self.size == 0 {
            self.begin_anew();
        } else if self.had.len() > self.most_had {
            // The others count as if they came for the first time.
            let fewest = self.least.saturating_sub(ITEM_COST);
            self.had.retain(|_, had| *had > fewest);
            self.most_had = REMEMBERED + 2 * self.had.len().max(self.waiting.len());
        }
        Some(item)
    }

    /// Take the newest item of the client that has the most, to make room for another one; of several
    /// with as many, of the one that has sent last. None where `client`, of which an item comes,
    /// would have no fewer: then that item is to be refused.
    pub fn make_room(&mut self, client: u64) -> Option<T> {
        let all = &self.waiting;
        let largest = self.largest.get_or_insert_with(|| {
            let ranked =
                |(client, it): (&u64, &ClientItems<T>)| (it.items.len(), it.newest(), *client);
            all.iter().map(ranked).collect()
        });
        let (most, _, largest) = *largest.last()?;
        let own = self.waiting.get(&client).map_or(0, |it| it.items.len());
        if most <= own + 1 {
            return None;
        }
        let waiting = self.waiting.get_mut(&largest)?;
        let before = (most, waiting.newest());
        let (_, item) = waiting.items.pop_back()?;
        let after = (waiting.items.len(), waiting.newest());
        self.size -= 1;
        self.rank(largest, before, after);
        Some(item)
    }

    /// Take the items that are unwanted, in the order of arrival. It looks at each item once.
    pub fn remove(&mut self, mut unwanted: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        let mut changed = Vec::new();
        for (client, waiting) in &mut self.waiting {
            let before = (waiting.items.len(), waiting.newest());
            let staying = waiting.items.iter().map(|(_, item)| !unwanted(item));
            let staying: Vec<bool> = staying.collect();
            if staying.iter().all(|stays| *stays) {
                continue;
            }
            let items = std::mem::take(&mut waiting.items);
            for (entry, stays) in items.into_iter().zip(staying) {
                match stays {
                    true => waiting.items.push_back(entry),
                    false => removed.push(entry),
                }
            }
            let after = (waiting.items.len(), waiting.newest());
            changed.push((*client, before, after));
        }
        for (client, before, after) in changed {
            if after.0 == 0 {
                if let Some(waiting) = self.waiting.remove(&client) {
                    self.turns.remove(&(waiting.had, waiting.place, client));
                }
            }
            self.rank(client, before, after);
        }
        self.size -= removed.len();
        if self.size == 0 {
            self.begin_anew();
        }
        removed.sort_unstable_by_key(|(number, _)| *number);
        removed.into_iter().map(|(_, item)| item).collect()
    }

    /// Choose the client that is next.
    fn choose(&mut self, newest: bool) -> Option<u64> {
        if newest {
            let reach = self.share.max(self.least);
            while let Some(place) = self.turns.first().copied().filter(|it| it.0 <= reach) {
                self.turns.remove(&place);
                let client = place.2;
                let number = self.waiting.get(&client).map_or(0, ClientItems::newest);
                self.eligible.insert((number, client));
            }
        } else {
            for (_, client) in std::mem::take(&mut self.eligible) {
                if let Some(waiting) = self.waiting.get(&client) {
                    self.turns.insert((waiting.had, waiting.place, client));
                }
            }
        }
        let last = self.eligible.last().map(|(_, client)| *client);
        last.or_else(|| self.turns.first().map(|(_, _, client)| *client))
    }

    /// Give a client its place by what it has waiting, where that matters: how many items, and the
    /// number of the newest, before and after.
    fn rank(&mut self, client: u64, before: (usize, u64), after: (usize, u64)) {
        if !self.eligible.is_empty() && self.eligible.remove(&(before.1, client)) && after.0 > 0 {
            self.eligible.insert((after.1, client));
        }
        if let Some(largest) = &mut self.largest {
            largest.remove(&(before.0, before.1, client));
            if after.0 > 0 {
                largest.insert((after.0, after.1, client));
            }
        }
    }

    fn begin_anew(&mut self) {
        self.had.clear();
        self.share = 0;
        self.least = 0;
        self.largest = None;
    }
}

/// Return what the last of the given events yields, for the test; -1 where that is no item.
///
/// An event is a kind and two numbers: 0 takes an item, 1 the newest, 2 adds an item of a client, 3
/// makes room for one of a client, 4 removes an item.
pub fn replay(given: &[Option<f64>]) -> f64 {
    let mut queue: FairQueue<u64> = FairQueue::default();
    let mut found = None;
    for event in given.chunks(3) {
        let number = |index: usize| event.get(index).copied().flatten().unwrap_or(0.0) as u64;
        let (client, given) = (number(1), number(2));
        found = match number(0) {
            0 => queue.take(false),
            1 => queue.take(true),
            2 => {
                queue.add(client, given);
                None
            }
            3 => queue.make_room(client),
            _ => queue.remove(|item| *item == given).first().copied(),
        };
    }
    found.map_or(-1.0, |item| item as f64)
}
