//! What connections have for the leader to do, where that is more than one turn of the loop does.

use crate::client::share_key;
use crate::connection::Connection;
use crate::fair_queue::FairQueue;
use crate::poller::Event;
use crate::sys::Nanos;
use std::collections::HashMap;
use std::sync::Arc;

/// What a connection waits with, and since when.
struct Waiting {
    event: Option<Event>,
    proceed: Option<Arc<Connection>>,
    since: Nanos,
}

/// Connections with events, each once, shared by client. Only the leader touches it.
#[derive(Default)]
pub struct Remainder {
    queue: FairQueue<u64>,
    /// By the tokens of the connections.
    waiting: HashMap<u64, Waiting>,
}

impl Remainder {
    /// How many connections wait.
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.queue.len()
    }

    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Have a connection wait with an event, or add it to what the connection waits with.
    pub fn add_event(&mut self, connection: &Connection, event: Event, now: Nanos) {
        let waiting = self.enter(connection, now);
        match &mut waiting.event {
            Some(before) => before.events.add(event.events),
            None => waiting.event = Some(event),
        }
    }

    /// Have a connection wait that has more to read or to send.
    pub fn add_proceed(&mut self, connection: &Arc<Connection>, now: Nanos) {
        self.enter(connection, now).proceed = Some(Arc::clone(connection));
    }

    /// Take what the connection waits with that is next.
    pub fn take(&mut self) -> Option<(Option<Event>, Option<Arc<Connection>>)> {
        let token = self.queue.take(false)?;
        let waiting = self.waiting.remove(&token)?;
        Some((waiting.event, waiting.proceed))
    }

    /// Return since when a connection waits; `Nanos::MAX` where it does not.
    pub fn waits_since(&self, connection: &Connection) -> Nanos {
        let waiting = self.waiting.get(&connection.token.0);
        waiting.map_or(Nanos::MAX, |waiting| waiting.since)
    }

    fn enter(&mut self, connection: &Connection, now: Nanos) -> &mut Waiting {
        let queue = &mut self.queue;
        self.waiting.entry(connection.token.0).or_insert_with(|| {
            queue.add(share_key(connection.peer()), connection.token.0);
            Waiting {
                event: None,
                proceed: None,
                since: now,
            }
        })
    }
}
