//! Connections that other threads have the leader look at.

use crate::connection::{Connection, ConnectionState};
use crate::poller::Poller;
use crate::sync::{Flag, lock};
use std::sync::{Arc, Mutex};

/// Connections that were handed back, or that have more to read or to send.
pub struct Inbox {
    posts: Mutex<Vec<Arc<Connection>>>,
    filled: Flag,
    /// The leader is, or is about to be, blocked in the poll.
    pub polling: Flag,
    poller: Arc<Poller>,
}

impl Inbox {
    pub fn new(poller: Arc<Poller>) -> Self {
        Inbox {
            posts: Mutex::default(),
            filled: Flag::default(),
            polling: Flag::default(),
            poller,
        }
    }

    /// Have the next leader look at a connection; `hurry` has one look at once.
    pub fn post(&self, connection: &Arc<Connection>, state: &mut ConnectionState) {
        if !std::mem::replace(&mut state.queued, true) {
            lock(&self.posts).push(Arc::clone(connection));
            self.filled.set(true);
        }
    }

    /// Have no leader look at a connection, where it is the last that was posted.
    pub fn withdraw(&self, connection: &Arc<Connection>, state: &mut ConnectionState) {
        if !state.queued {
            return;
        }
        let mut posts = lock(&self.posts);
        if posts
            .last()
            .is_some_and(|last| Arc::ptr_eq(last, connection))
        {
            posts.pop();
            state.queued = false;
            // With the lock: who posts meanwhile sets it afterwards.
            if posts.is_empty() {
                self.filled.set(false);
            }
        }
    }

    /// Have the leader look at what was posted now.
    pub fn hurry(&self) {
        // Posted first, looked at second; the leader sets the flag first and looks at the
        // inbox second. One of the two sees the other.
        if self.polling.get() {
            self.poller.wake();
        }
    }

    pub fn is_filled(&self) -> bool {
        self.filled.get()
    }

    /// Take what was posted.
    pub fn take(&self, into: &mut impl Extend<Arc<Connection>>) {
        if self.filled.swap(false) {
            into.extend(lock(&self.posts).drain(..));
        }
    }
}
