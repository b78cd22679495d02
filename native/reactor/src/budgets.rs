//! What all connections together may hold, and what one client may: `TransportConfig` has the
//! numbers, and `penstock.config.budgets` the reasons for those that are computed.

use crate::sys::Nanos;

/// Sizes in bytes, times in nanoseconds; where 0 is no limit, it says so.
#[derive(Clone, Debug)]
pub struct Budgets {
    /// Descriptors that connections, temporary files and files to send may take in the worker.
    pub descriptors: usize,
    pub unfinished_heads: usize,
    /// Bytes of bodies in memory that the application has not got yet.
    pub bodies: u64,
    /// Bytes in temporary files of all workers.
    pub spool: u64,
    /// The same, where a response adds to them.
    pub responses_spooled: u64,
    /// Bytes of one response in a temporary file.
    pub out_spool: u64,
    pub unsent: u64,
    /// 0 is no limit.
    pub connections_per_client: u64,
    pub queue: usize,
    pub queue_timeout: Nanos,
    /// 0 is never.
    pub overload_ready_after: Nanos,
    pub body_window: Nanos,
    pub body_time: Nanos,
    pub overload_delay: Nanos,
    pub overload_services: u64,
    pub overload: Nanos,
    /// In seconds.
    pub retry_after: u64,
}

impl Default for Budgets {
    /// Hardly a limit: for tests of other things.
    fn default() -> Self {
        Budgets {
            descriptors: usize::MAX,
            unfinished_heads: usize::MAX,
            bodies: u64::MAX,
            spool: u64::MAX,
            responses_spooled: u64::MAX,
            out_spool: 0,
            unsent: u64::MAX,
            connections_per_client: 0,
            queue: usize::MAX,
            queue_timeout: Nanos::MAX,
            overload_ready_after: 0,
            body_window: Nanos::MAX,
            body_time: Nanos::MAX,
            overload_delay: Nanos::MAX,
            overload_services: 1,
            overload: Nanos::MAX,
            retry_after: 1,
        }
    }
}
