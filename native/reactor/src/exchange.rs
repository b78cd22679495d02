//! What a connection holds of the exchange in progress: of one request, and of its response.
//!
//! HTTP/1.1 has one exchange at a time, so that a connection holds one of these, under its lock. It
//! begins anew with each request.

use crate::forwarded::{Forwarded, Scheme};
use crate::histograms::{self, Measured};
use crate::log_queue::{End, Ended, Entry, LogQueue, Times};
use crate::output::Output;
use crate::scoreboard::Scoreboard;
use crate::spool::Spool;
use crate::states::Fate;
use crate::sys::{self, Nanos, Peer};
use penstock_protocol::HeadCopy;
use std::any::Any;
use std::io;

#[derive(Default)]
pub struct ExchangeState {
    /// When the first byte of the request was read.
    pub began: Nanos,
    /// When its head was complete.
    pub head_at: Nanos,
    /// When its body was; 0 for one that the application reads as it arrives.
    pub body_at: Nanos,
    /// The head of a request whose body is still to come.
    pub request: Option<Box<HeadCopy>>,
    /// What trusted proxies say of the request, if they do.
    pub forwarded: Option<Box<Forwarded>>,
    /// What has arrived of a body that is collected; the disk's thread has it while that writes.
    pub spool: Option<Spool>,
    /// Bytes of that body.
    pub body_received: u64,
    /// When the disk's thread was asked to write some of it.
    pub storing_since: Nanos,
    /// Why it could not.
    pub store_error: Option<io::Error>,
    /// Its body waits until the application reads fewer others.
    pub waits: bool,
    /// For how long it has waited for that.
    pub waited: Nanos,
    /// What happens to the connection after the response.
    pub fate: Fate,
    /// The client asked for the close, in a request without a body, and was answered at once.
    pub is_last: bool,
    /// How many bytes the application's fields and the body of the response have; 0 for an answer of
    /// the server's own, which is short.
    pub sent: u64,
    /// The thread that answers waits until there is less output, and keeps the deadline.
    pub awaiting_room: bool,
    /// The record of a response that has ended, and is still being flushed: it is logged when it
    /// is known how that went.
    pub record: Option<Box<dyn Any + Send>>,
    /// What is counted of it then.
    pub measured: Option<Measured>,
}

/// The id of a request: a trusted proxy's, or else the one that is `made`.
pub fn request_id_of(forwarded: Option<&Forwarded>, made: impl FnOnce() -> String) -> String {
    match forwarded.map(|it| it.request_id.as_slice()) {
        None | Some([]) => made(),
        Some(given) => String::from_utf8_lossy(given).into_owned(),
    }
}

impl ExchangeState {
    /// Whether the application reads the body as it arrives, once it has the request.
    pub fn is_streamed(&self) -> bool {
        self.body_at == 0
    }

    /// The client of the request, on a connection with this peer.
    #[inline]
    pub fn client(&self, peer: Peer) -> Peer {
        let named = self.forwarded.as_ref().and_then(|it| it.peer());
        named.unwrap_or(peer)
    }

    /// The id of the request: a trusted proxy's, or else the one that is `made`.
    pub fn request_id(&self, made: impl FnOnce() -> String) -> String {
        request_id_of(self.forwarded.as_deref(), made)
    }

    /// Whether the client's connection is secured: `own` is whether the server's is.
    #[inline]
    pub fn is_secure(&self, own: bool) -> bool {
        let said = self.forwarded.as_ref().and_then(|it| it.scheme);
        said.map_or(own, |scheme| scheme == Scheme::Https)
    }

    /// The times that are known of it; `accepted` is the connection's.
    pub fn times(&self, accepted: Nanos, finished: Nanos) -> Times {
        Times {
            accepted,
            begun: self.began,
            head: self.head_at,
            body: self.body_at,
            finished,
            ..Times::default()
        }
    }

    /// Report the response that has been flushed, or how and why it was cut off.
    pub fn log_finished(
        &mut self,
        output: &Output,
        scoreboard: &Scoreboard,
        log_queue: &LogQueue,
        cut_off: Option<(Ended, String)>,
    ) {
        if self.record.is_none() && self.measured.is_none() {
            return;
        }
        let finished = sys::monotonic();
        if let Some(measured) = self.measured.take() {
            histograms::count_request(scoreboard, &measured, finished);
        }
        if let Some(record) = self.record.take() {
            let end = End {
                unsent: output.unsent(),
                finished,
                cut_off,
            };
            log_queue.write(Entry::Finished(record, Box::new(end)));
        }
    }
}
