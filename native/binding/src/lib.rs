//! The native transport of Penstock: `penstock._native`.
//!
//! The way of a request: `poller` tells of a socket, `reactor` finds its `connection`, `reading`
//! makes a request of its bytes, `crew` says which thread gets it, `transport` makes an `exchange`
//! of it, whose `wire` takes the answer; `ending` is what follows.

mod access_line;
mod call_deadline;
mod disconnect;
mod environ;
mod exchange;
mod fast_response;
mod ffi;
mod log_writer;
mod policy;
mod record;
mod request_finished;
mod request_id;
mod request_queue;
mod response_head;
mod scoreboard;
mod scratch;
mod thread_slots;
mod transport;
mod validate;

use pyo3::prelude::*;

/// What does the socket work of a worker, in native code.
///
/// Nothing in here leans on the interpreter's lock: what threads share has locks of its own, and
/// under none of these is Python called (docs/native.md).
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::exchange::Exchange;
    #[pymodule_export]
    use crate::fast_response::{FastResponse, ResponseMaker};
    #[pymodule_export]
    use crate::request_queue::RequestQueue;
    #[pymodule_export]
    use crate::transport::NativeTransport;
    #[pymodule_export]
    use crate::validate::HeadCheck;
}
