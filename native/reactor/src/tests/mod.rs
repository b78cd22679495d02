//! The event loop under a clock that the test turns, on streams that are pairs of buffers.

pub mod bench;
#[path = "../../../protocol/tests/support/bounds.rs"]
mod bounds;
mod connections;
mod corpus;
#[path = "../../../protocol/tests/support/model.rs"]
mod model;
mod storing;
mod streamed_bodies;
#[path = "../../../protocol/tests/support/mod.rs"]
mod support;
mod threads;
#[cfg(feature = "tls")]
mod tls;
