//! The event loop of a worker: sockets, connections, threads that lead or follow, deadlines.
//!
//! Nothing in here knows of Python. The way of a request: `poller` returns an event of a socket,
//! `event_loop` finds its `connection`, `dispatch` has `reading` make a request of its bytes,
//! `leader_followers` decides which thread gets it, `responding` sends the answer, and
//! `next_request` or `closing` is what follows. No two modules import each other, even by way of others.

#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing
    )
)]

pub mod accepting;
pub mod admission;

pub mod body_clock;
pub mod budgets;
pub mod client;
pub mod closing;
pub mod collecting;
pub mod connection;
pub mod deadlines;
pub mod decisions;
pub mod disconnect;
pub mod disk;
pub mod dispatch;
pub mod event_loop;
pub mod exchange;
pub mod exchange_trace;
pub mod fair_queue;
pub mod file_count;
pub mod file_sending;
pub mod forwarded;
pub mod handshaking;
pub mod held_answers;
pub mod histograms;
pub mod inbox;
pub mod leader;
pub mod leader_followers;
pub mod log_queue;
pub mod next_request;
pub mod options;
pub mod output;
mod output_spool;
pub mod own_answers;
pub mod poller;
pub mod proxy_protocol;
pub mod proxying;
pub mod queue;
pub mod rate_limit;
pub mod reading;
pub mod refusal;
pub mod refusing;
mod remainder;
pub mod request;
pub mod request_body;
pub mod responding;
pub mod scoreboard;
pub mod shared;
pub mod slow_path_estimate;
mod slow_readers;
pub mod spool;
pub mod states;
pub mod storing;
pub mod stream;
pub mod streamed_bodies;
pub mod sync;
pub mod sys;
pub mod thread_count;
#[cfg(feature = "tls")]
pub mod tls;
pub mod unserved;
pub mod uwsgi;

#[cfg(test)]
mod tests;
