//! A request that is complete as far as it has to be, for the application.

use crate::client::share_key;
use crate::connection::Connection;
use crate::forwarded::Forwarded;
use crate::leader::{LeaderState, Source};
use crate::spool::{HeldBody, Spool};
use crate::streamed_bodies::Streaming;
use crate::sys::Nanos;
use penstock_protocol::HeadCopy;
use std::sync::Arc;

/// How the application gets at a request's body.
pub enum Body {
    Empty,
    Collected(Spool),
    /// To be read as it arrives, behind what has come of it.
    Streamed(Streaming, HeldBody),
}

impl Body {
    /// Whether the client still waits for `100 Continue`: it does not with some of the body there.
    pub fn owes_continue(&self, expects: bool) -> bool {
        matches!(self, Body::Streamed(_, come) if expects && come.bytes().is_empty())
    }
}

/// A request that is complete as far as it has to be, for the application.
pub struct Ready {
    pub connection: Arc<Connection>,
    /// In the transport's life.
    pub number: u64,
    pub source: Source,
    pub body: Body,
    pub forwarded: Option<Box<Forwarded>>,
}

/// A request that waits for a thread, and needs nothing of the leader's any more.
pub struct Waiting {
    pub connection: Arc<Connection>,
    pub number: u64,
    pub request: Box<HeadCopy>,
    pub body: Body,
    pub forwarded: Option<Box<Forwarded>>,
    /// When it was found to be complete.
    pub since: Nanos,
    /// It is, or was, in the queue, and not taken by a thread at once.
    pub queued: bool,
}

impl Waiting {
    /// As which client it is served, where what the server can do is shared.
    pub fn client(&self) -> u64 {
        let named = self.forwarded.as_ref().and_then(|it| it.peer());
        share_key(named.unwrap_or_else(|| self.connection.peer()))
    }
}

impl Ready {
    /// Take along what the leader's buffers hold of the request.
    pub fn own(self, leader: &LeaderState) -> Waiting {
        Waiting {
            connection: self.connection,
            number: self.number,
            request: leader.read.own_head(self.source),
            body: self.body,
            forwarded: self.forwarded,
            since: leader.now,
            queued: false,
        }
    }
}
