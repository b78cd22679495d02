//! The reactor's options, of the configuration that a transport gets from Python.

use crate::budgets::read_budgets;
use crate::edge::{
    open_rate_limit, read_forwarded_policy, read_networks, read_peers, read_proxy_versions,
};
use penstock_protocol::Limits;
use penstock_reactor::options::{Checks, HeaderMap, Options, StreamRequests};
use penstock_reactor::sys::{EXCLUSIVE_WAKE, Nanos, SECOND};
use pyo3::prelude::*;

/// The options that `config` gives; the observers of requests are none of them.
pub fn read_options(config: &Bound<'_, PyAny>) -> PyResult<Options> {
    let get = |name: &str| config.getattr(name);
    let size = |name: &str| get(name)?.extract::<usize>();
    let large = |name: &str| get(name)?.extract::<u64>();
    let number = |name: &str| get(name)?.extract::<f64>();
    let text = |name: &str| get(name)?.extract::<String>();
    let time = |name: &str| number(name).map(|seconds| (seconds * SECOND as f64) as Nanos);
    let path = |name: &str| -> PyResult<Option<Vec<u8>>> {
        let path = get(name)?;
        if path.is_none() {
            return Ok(None);
        }
        path.call_method1("encode", ("latin-1",))?
            .extract()
            .map(Some)
    };
    let parser = get("parser")?;
    let most = |name: &str| parser.getattr(name)?.extract::<usize>();
    let number_of = |name: &str| parser.getattr(name)?.extract::<u64>();
    Ok(Options {
        threads: large("threads")?,
        max_io_bound: large("max_io_bound")?,
        max_websockets: large("max_websockets")?,
        overloaded: text("overloaded")?,
        queue_full: text("queue_full")?,
        queue_late: text("queue_late")?,
        left_in_queue: text("left_in_queue")?,
        stopped_in_queue: text("stopped_in_queue")?,
        stopping: text("stopping")?,
        parser: Limits {
            request_line: most("request_line")?,
            fields: most("fields")?,
            field_size: most("field_size")?,
            head: most("head")?,
            chunk_overhead: most("chunk_overhead")?,
            chunk_framing: number_of("chunk_framing")?,
            chunk_framing_ratio: number_of("chunk_framing_ratio")?,
            body: number_of("body")?,
        },
        body_memory: large("body_memory")?,
        ample_body_memory: large("ample_body_memory")?,
        refusal_rules: config.getattr("refusal_rules")?.extract()?,
        body_setting: match text("body_setting")?.as_str() {
            "max_spool" => "max_spool",
            _ => "max_body",
        },
        out_buffer: large("unsent_limit")?,
        max_connections: size("max_connections")?,
        budgets: read_budgets(config)?,
        networks: read_networks(config)?,
        forwarded: read_forwarded_policy(config)?,
        proxy_versions: read_proxy_versions(config)?,
        proxy_peers: read_peers(&get("proxy_peers")?)?,
        proxy_header_bytes: size("proxy_header_bytes")?,
        rate_limit: open_rate_limit(config)?,
        header_timeout: time("header_timeout")?,
        tls_handshake_timeout: time("tls_handshake_timeout")?,
        plain_http: text("plain_http")?,
        hsts: get("hsts")?.extract()?,
        redirecting: Vec::new(),
        packets: Vec::new(),
        uwsgi_peers: read_peers(&get("uwsgi_peers")?)?,
        body_timeout: time("body_timeout")?,
        body_min_rate: number("body_min_rate")?,
        keep_alive: time("keep_alive")?,
        write_timeout: time("write_timeout")?,
        drain_linger: time("drain_linger")?,
        sweep_interval: time("sweep_interval")?,
        server_header: get("server_header")?.extract()?,
        header_map: match text("header_map")?.as_str() {
            "refuse" => HeaderMap::Refuse,
            "dangerous" => HeaderMap::Dangerous,
            _ => HeaderMap::Drop,
        },
        stream_requests: match get("stream_requests")?.extract::<bool>() {
            Ok(true) => StreamRequests::Always,
            Ok(false) => StreamRequests::Never,
            Err(_) if text("stream_requests")? == "auto" => StreamRequests::Auto,
            Err(_) => StreamRequests::Fast,
        },
        fast_rest: time("fast_rest_seconds")?,
        fast_least: time("fast_least_seconds")?,
        keep_alive_field: text("keep_alive_field")?,
        temp_dir: text("spool_dir")?.into(),
        id_prefix: text("id_prefix")?,
        id_key: get("id_key")?.extract()?,
        send_request_id: get("send_request_id")?.extract()?,
        trace: false,
        observed: false,
        recorded: false,
        timed_out: text("timed_out")?,
        checks: Checks {
            health_path: path("health_path")?,
            ready_path: path("ready_path")?,
            healthy: get("healthy")?.extract()?,
            unhealthy: get("unhealthy")?.extract()?,
            stale_beat: time("stale_beat_seconds")?,
        },
        idle_wait: get("idle_wait")?
            .extract::<Option<f64>>()?
            .map(|seconds| (seconds * SECOND as f64) as Nanos),
        turn: time("turn_seconds")?,
        turn_events: size("turn_events")?,
        few_events_turn: time("few_events_turn_seconds")?,
        shared_turn: time("shared_turn_seconds")?,
        accept_batch: size("accept_batch")?,
        first_reads: large("first_reads")?,
        max_backlog: size("max_backlog")?,
        accept_pause: time("accept_pause_seconds")?,
        evict_idle: time("evict_idle_seconds")?,
        balance_batch: size("balance_batch")?,
        balance_slack: large("balance_slack")?,
        balance_share: large("balance_share")?,
        balance_deferrals: get("balance_deferrals")?.extract()?,
        balance_doublings: get("balance_doublings")?.extract()?,
        balance_pause: time("balance_pause_seconds")?,
        busy_pause: time("busy_pause_seconds")?,
        busy_accept: time("busy_accept_seconds")?,
        responsive: time("responsive_seconds")?,
        exclusive_wake: EXCLUSIVE_WAKE && get("exclusive_wake")?.extract::<bool>()?,
        receive_bytes: size("receive_bytes")?,
        scarce_receive_bytes: size("scarce_receive_bytes")?,
        store_bytes: size("store_bytes")?,
        max_storing: size("max_storing")?,
        send_threads: size("send_threads")?,
        disk_idle: time("disk_idle_seconds")?,
        discard_bytes: large("discard_bytes")?,
        wait_slice: time("wait_slice_seconds")?,
        flush_bytes: large("flush_bytes")?,
        ahead_bytes: large("ahead_bytes")?,
        join_bytes: size("join_bytes")?,
        out_spool_patience: time("out_spool_patience_seconds")?,
        linger: time("linger_seconds")?,
        linger_idle: time("linger_idle_seconds")?,
        linger_bytes: large("linger_bytes")?,
        unlingered_bytes: large("unlingered_bytes")?,
        drain_head: time("drain_head_seconds")?,
        drain_handshake: time("drain_handshake_seconds")?,
        drain_sweep: time("drain_sweep_seconds")?,
        drain_accepted: time("drain_accepted_seconds")?,
        slow_call: time("slow_call_seconds")?,
        slow_share: number("slow_share")?,
        stalled_call: time("stalled_call_seconds")?,
        stalled_calls: get("stalled_calls")?.extract()?,
        notable_call: time("notable_call_seconds")?,
        refused_head: size("refused_head_bytes")?,
        held_call: time("held_call_seconds")?,
        longest_held_call: time("longest_held_call_seconds")?,
        monitor_tick: time("monitor_tick_seconds")?,
        monitor_idle: time("monitor_idle_seconds")?,
        client_left: get("client_left_status")?.extract()?,
        trace_body: size("trace_body_bytes")?,
        trace_head: size("trace_head_bytes")?,
        log_entries: size("log_entries")?,
        log_bytes: size("log_bytes")?,
    })
}
