//! The native transport of Penstock: `penstock._native`.
//!
//! The reactor's event loop returns a request that is ready; `transport` makes an `exchange` of it
//! with its `environ`, and the gateway answers through that. `log_writer` hands to Python what
//! there is to log.

mod access_line;
mod access_rules;
mod application_calls;
mod budgets;
mod call_deadline;
mod client_wait;
mod companion;
mod constant_head;
mod core;
mod delivery;
mod edge;
mod ending;
mod environ;
mod exchange;
mod exchange_methods;
mod extend_deadline;
mod fast_response;
mod ffi;
mod head_parts;
mod held;
mod lock_wait;
mod log_writer;
mod options;
mod policy;
mod record;
mod relaying;
mod request_finished;
mod request_id;
mod request_queue;
mod response_head;
mod scoreboard;
mod scratch;
mod sending;
mod spares;
mod thread_slots;
mod tls;
mod transport;
mod validate;
mod write_head;

use pyo3::prelude::*;

/// The socket work of a worker, in native code.
///
/// Nothing in here relies on the interpreter lock: what threads share has locks of its own, and no
/// Python code runs under any of these (docs/native.md).
#[pymodule(gil_used = false)]
mod _native {
    #[pymodule_export]
    use crate::exchange::Exchange;
    #[pymodule_export]
    use crate::fast_response::{FastResponse, ResponseMaker};
    #[pymodule_export]
    use crate::relaying::ClientStream;
    #[pymodule_export]
    use crate::request_queue::RequestQueue;
    #[pymodule_export]
    use crate::transport::NativeTransport;
    #[pymodule_export]
    use crate::validate::HeadCheck;
}
