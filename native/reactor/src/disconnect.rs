//! Clients that leave before they are answered.

use crate::connection::{Connection, Held, Phase};
use crate::event_loop::Desk;
use crate::shared::Hub;
use crate::sys::{self, Nanos, Readiness};

impl Connection {
    /// Look whether the client has left, as far as that can be known at once.
    pub fn find_gone(&self) -> bool {
        if self.is_gone() || !self.socket.is_ours() {
            return true;
        }
        let trouble = sys::wait_until(&self.socket, Readiness::Trouble, 0).unwrap_or(true);
        // Asked afterwards: another connection may have got the number of a socket that was closed.
        if self.phase() == Phase::Closed {
            return true;
        }
        if trouble {
            self.set_gone();
        }
        trouble
    }

    /// Whether the client has ended its side, and its request had waited for long before anybody
    /// looked: for a thread that was busy, in the kernel or in the listen queue.
    pub fn has_departed(&self, hub: &Hub, held: &Held, desk: &Desk) -> bool {
        if !held.ended && !desk.late {
            return false;
        }
        // Behind an earlier request of its own it has waited for that one's answer.
        let departed = hub.options.departed;
        if held.requests > 1 && desk.now.saturating_sub(held.since) < departed {
            return false;
        }
        if !held.ended && !matches!(sys::peek(&self.socket), Ok(0)) {
            return false;
        }
        match sys::since_received(&self.socket) {
            Some(time) => time >= departed,
            None => desk.late,
        }
    }

    /// Whether a request's client had ended its side at `before`, while it waited since `since`.
    pub fn had_ended(&self, before: Nanos, since: Nanos) -> bool {
        since <= before && self.lock().ended_at <= before
    }
}
