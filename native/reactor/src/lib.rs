//! The event loop of a worker: sockets, connections, threads that lead or follow, deadlines.
//!
//! Nothing in here knows of Python. The way of a request: `poller` returns an event of a socket,
//! `event_loop` finds its `connection`, `reading` makes a request of its bytes, `leader_followers`
//! decides which thread gets it, `wire` takes the answer; `ending` is what follows.

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
pub mod budgets;
pub mod client;
pub mod connection;
pub mod decisions;
pub mod disconnect;
pub mod ending;
pub mod event_loop;
pub mod exchange;
pub mod exchange_trace;
pub mod leader_followers;
pub mod log_queue;
pub mod output;
pub mod own_answers;
pub mod poller;
pub mod rate_limit;
pub mod reading;
pub mod scoreboard;
pub mod shared;
pub mod slow_path_estimate;
pub mod spool;
pub mod states;
pub mod stream;
pub mod sys;
pub mod wire;

#[cfg(test)]
mod tests;
