//! HTTP/1.1 without sockets: bytes to events, and responses to bytes.
//!
//! Nothing here uses a socket, a thread, a clock, a logger or Python. The package
//! `penstock.http1` is the readable reference: it has the same limits, answers and error texts.
//!
//! A request is read by [`Parser`]. It looks at bytes that its caller holds ([`Input`]), returns
//! what they mean ([`Event`]), and stores none of them. The caller keeps the bytes that one packet
//! leaves unconsumed in a [`Carry`].

#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::indexing_slicing,
        clippy::arithmetic_side_effects
    )
)]

pub mod body;
pub mod date;
pub mod error;
pub mod field_cache;
mod fields;
pub mod grammar;
pub mod head;
pub mod input;
pub mod limits;
mod lines;
pub mod parser;
mod request_line;
pub mod response;
mod scan;

pub use error::ProtocolError;
pub use field_cache::FieldCache;
pub use head::{Field, Head, HeadCopy, Span, Version};
pub use input::{Carry, Input};
pub use limits::Limits;
pub use parser::{Event, Parser, State, WrongState};
pub use response::Framing;
