//! The settings of a transport, from `penstock.transport.config`.

use crate::budgets::Budgets;
use crate::client::Networks;
use crate::forwarded::{ForwardedPolicy, Peers};
use crate::proxy_protocol::Versions;
use crate::rate_limit::{RateLimit, RateTable};
use crate::sys::{self, Nanos, Peer};
use penstock_protocol::Limits;
use std::path::PathBuf;

/// What happens to a field whose name holds `_`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum HeaderMap {
    Drop,
    Refuse,
    Dangerous,
}

/// The paths that the server itself answers, and the bodies of the answers.
#[derive(Default)]
pub struct Checks {
    pub health_path: Option<Vec<u8>>,
    pub ready_path: Option<Vec<u8>>,
    pub healthy: Vec<u8>,
    pub unhealthy: Vec<u8>,
    /// A worker whose stall monitor has not run for so long is not live.
    pub stale_beat: Nanos,
}

impl Checks {
    pub fn any(&self) -> bool {
        self.health_path.is_some() || self.ready_path.is_some()
    }
}

/// The settings of a transport. Sizes in bytes, times in nanoseconds.
pub struct Options {
    /// How many threads call `next`, but for those whose calls have left the count.
    pub threads: u64,
    /// How many calls may leave that count.
    pub max_io_bound: u64,
    pub max_websockets: u64,
    /// What a client is told whose request no thread takes.
    pub overloaded: String,
    /// What the access log says of it, by the cause.
    pub queue_full: String,
    pub queue_late: String,
    pub left_in_queue: String,
    pub stopped_in_queue: String,
    /// What a client is told whose request a stopping server does not serve.
    pub stopping: String,
    pub parser: Limits,
    pub body_memory: u64,
    pub ample_body_memory: u64,
    /// The setting that limits how long a body may be.
    pub body_setting: &'static str,
    /// What may refuse a request, in the order of the scoreboard's words: the last is all else.
    pub refusal_rules: Vec<String>,
    pub out_buffer: u64,
    pub max_connections: usize,
    pub budgets: Budgets,
    /// Which clients may connect; None is all of them.
    pub networks: Option<Networks>,
    pub forwarded: ForwardedPolicy,
    /// The versions of the PROXY protocol of which a header has to come first, from these peers.
    pub proxy_versions: Versions,
    pub proxy_peers: Peers,
    pub proxy_header_bytes: usize,
    /// How many requests one client may send, and where all workers count them.
    pub rate_limit: Option<(RateTable, RateLimit)>,
    pub header_timeout: Nanos,
    pub tls_handshake_timeout: Nanos,
    /// What a client is told that speaks HTTP without TLS at an address with TLS.
    pub plain_http: String,
    /// The value of Strict-Transport-Security.
    pub hsts: Option<String>,
    /// Which listeners redirect to https, by their order.
    pub redirecting: Vec<bool>,
    /// At which listeners the uwsgi protocol is spoken, by their order; and by which peers.
    pub packets: Vec<bool>,
    pub uwsgi_peers: Peers,
    pub body_timeout: Nanos,
    pub body_min_rate: f64,
    pub keep_alive: Nanos,
    pub write_timeout: Nanos,
    pub drain_linger: Nanos,
    pub sweep_interval: Nanos,
    pub server_header: Option<String>,
    pub header_map: HeaderMap,
    pub stream_requests: StreamRequests,
    pub fast_rest: Nanos,
    pub fast_least: Nanos,
    /// The line with which a response says how long its connection may be idle; empty for none.
    pub keep_alive_field: String,
    pub temp_dir: PathBuf,
    pub id_prefix: String,
    /// The key of the hash that makes the ids of requests.
    pub id_key: (u64, u64),
    /// Each response has the id of its request.
    pub send_request_id: bool,
    pub trace: bool,
    /// Finished requests are reported to observers.
    pub observed: bool,
    /// That takes records, not only lines.
    pub recorded: bool,
    /// What a client is told whose request is given up.
    pub timed_out: String,
    /// What the server itself answers.
    pub checks: Checks,
    /// How long the event loop waits at most while nothing has a deadline. It comes back then: the
    /// only thread of the application is the main thread of its process, which alone runs the
    /// handlers of signals.
    pub idle_wait: Option<Nanos>,
    // What follows are constants: `penstock.transport.config` has the reasons.
    pub turn: Nanos,
    pub turn_events: usize,
    pub few_events_turn: Nanos,
    pub shared_turn: Nanos,
    pub accept_batch: usize,
    pub first_reads: u64,
    pub max_backlog: usize,
    pub accept_pause: Nanos,
    pub evict_idle: Nanos,
    pub balance_batch: usize,
    pub balance_slack: u64,
    pub balance_share: u64,
    pub balance_deferrals: u32,
    pub balance_doublings: u32,
    pub balance_pause: Nanos,
    pub busy_pause: Nanos,
    pub busy_accept: Nanos,
    pub responsive: Nanos,
    /// The kernel wakes one of the workers that wait for a client, and not all.
    pub exclusive_wake: bool,
    pub receive_bytes: usize,
    pub scarce_receive_bytes: usize,
    pub store_bytes: usize,
    pub max_storing: usize,
    pub disk_idle: Nanos,
    pub send_threads: usize,
    pub discard_bytes: u64,
    pub wait_slice: Nanos,
    pub flush_bytes: u64,
    pub ahead_bytes: u64,
    pub join_bytes: usize,
    pub out_spool_patience: Nanos,
    pub linger: Nanos,
    pub linger_idle: Nanos,
    pub linger_bytes: u64,
    pub unlingered_bytes: u64,
    pub drain_head: Nanos,
    pub drain_handshake: Nanos,
    pub drain_sweep: Nanos,
    pub drain_accepted: Nanos,
    pub slow_call: Nanos,
    pub slow_share: f64,
    pub stalled_call: Nanos,
    pub stalled_calls: u32,
    /// A call that lasts longer may be among the slowest.
    pub notable_call: Nanos,
    /// How much is kept of a head that was refused.
    pub refused_head: usize,
    /// How long calls take at least after which an answer waits for others, and at most.
    pub held_call: Nanos,
    pub longest_held_call: Nanos,
    /// The stall monitor's interval.
    pub monitor_tick: Nanos,
    pub monitor_idle: Nanos,
    pub client_left: u16,
    pub trace_body: usize,
    pub trace_head: usize,
    pub log_entries: usize,
    pub log_bytes: usize,
}

/// Whether the application is called before the body of a request has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StreamRequests {
    Never,
    /// For a long body that comes fast, once its part in memory is full.
    Fast,
    /// For long bodies, and where the client waits for `100 Continue`.
    Auto,
    Always,
}

impl Options {
    /// Whether a connection has to begin with what a proxy says: a packet or a PROXY header.
    pub fn awaits_proxy(&self, listener: usize, peer: Peer) -> bool {
        self.speaks_uwsgi(listener) || self.awaits_header(peer)
    }

    /// Whether the uwsgi protocol is spoken at a listener.
    pub fn speaks_uwsgi(&self, listener: usize) -> bool {
        self.packets.get(listener).copied().unwrap_or(false)
    }

    /// Whether the connection of a peer has to begin with a PROXY header.
    fn awaits_header(&self, peer: Peer) -> bool {
        (self.proxy_versions.v1 || self.proxy_versions.v2) && self.proxy_peers.trusts(peer)
    }

    /// How many bytes a client has to take within `write_timeout` not to be stalled.
    pub fn least_progress(&self) -> f64 {
        self.body_min_rate * self.write_timeout as f64 / sys::SECOND as f64
    }
}
