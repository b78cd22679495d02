//! Checks of health and readiness, answered in the transport: without a thread, and unlogged. And what
//! is answered to `OPTIONS *`.

use crate::connection::{Connection, ConnectionState};
use crate::decisions;
use crate::leader::{LeaderState, Source};
use crate::output::Piece;
use crate::responding;
use crate::scoreboard::{BEAT, LIVE, READY};
use crate::shared::{Added, Shared};
use crate::states::{Fate, Phase};
use crate::stream::Stream;
use crate::sys;
use penstock_protocol::response::{self, ErrorResponse};
use penstock_protocol::{Head, Version};
use std::sync::Arc;

/// The path of `OPTIONS *`, which is about the server as a whole (RFC 9110, section 9.3.7).
pub const WHOLE_SERVER: &[u8] = b"*";

/// Whether a path is asked for that all is well at; None where it is the application's.
fn judge(shared: &Shared, method: &[u8], path: &[u8]) -> Option<bool> {
    let checks = &shared.options.checks;
    if !matches!(method, b"GET" | b"HEAD" | b"OPTIONS") {
        return None;
    }
    if checks.health_path.as_deref() == Some(path) {
        Some(is_live(shared))
    } else if checks.ready_path.as_deref() == Some(path) {
        Some(is_ready(shared))
    } else {
        None
    }
}

fn is_ready(shared: &Shared) -> bool {
    let wants = shared.scoreboard.get(READY) == 1 && !shared.draining.get();
    wants
        && decisions::ready_with_queue(
            &shared.options.budgets,
            shared.queue.full_for(&shared.scoreboard),
        )
}

fn is_live(shared: &Shared) -> bool {
    let (checks, scoreboard) = (&shared.options.checks, &shared.scoreboard);
    let beat = scoreboard.get(BEAT);
    let fresh = beat == 0 || sys::monotonic().saturating_sub(beat) < checks.stale_beat;
    scoreboard.get(LIVE) == 1 && fresh
}

/// What is to be answered.
pub struct Check {
    /// All is well.
    well: bool,
    is_head: bool,
    is_options: bool,
    version: Version,
    keep_alive: bool,
}

/// Whether a request is one that the server itself answers.
pub fn is_check(shared: &Shared, head: &Head, bytes: &[u8]) -> bool {
    let checks = &shared.options.checks;
    checks.any() && judge(shared, head.method.of(bytes), head.path(bytes)).is_some()
}

/// Whether a request is `OPTIONS *`.
pub fn asks_for_whole_server(leader: &LeaderState, source: &Source) -> bool {
    let (head, bytes) = leader.read.head_of(source);
    head.path(bytes) == WHOLE_SERVER
}

/// The answer to `OPTIONS *`. `keeps` is the client's version where the connection is kept.
pub fn answer_of_whole_server(
    shared: &Shared,
    stream: &dyn Stream,
    keeps: Option<Version>,
) -> ErrorResponse {
    let mut head = Vec::new();
    response::begin_head(&mut head, b"200 OK");
    shared.write_server_fields(shared.added_to(stream), &mut head);
    response::encode_content_length(&mut head, 0);
    end_head(shared, &mut head, keeps);
    ErrorResponse {
        head,
        body: Vec::new(),
    }
}

/// Append what a head says of the connection, and its end.
fn end_head(shared: &Shared, out: &mut Vec<u8>, keeps: Option<Version>) {
    let field = &shared.options.keep_alive_field;
    match keeps {
        None => response::encode_field(out, b"Connection", b"close"),
        Some(version) if version == Version::Http10 || !field.is_empty() => {
            response::encode_field(out, b"Connection", b"keep-alive");
            out.extend_from_slice(field.as_bytes());
        }
        Some(_) => {}
    }
    out.extend_from_slice(b"\r\n");
}

/// What a request asks of the server itself; None where it is the application's.
pub fn check_asked_for(shared: &Shared, leader: &LeaderState, source: &Source) -> Option<Check> {
    let checks = &shared.options.checks;
    if !checks.any() {
        return None;
    }
    let (head, bytes) = leader.read.head_of(source);
    let method = head.method.of(bytes);
    Some(Check {
        well: judge(shared, method, head.path(bytes))?,
        is_head: method == b"HEAD",
        is_options: method == b"OPTIONS",
        version: head.version,
        keep_alive: head.keep_alive,
    })
}

/// Answer a check, and go on with the connection.
pub fn answer_check(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
    check: Check,
) {
    let close = !check.keep_alive || shared.draining.get();
    state.exchange.fate = if close { Fate::Close } else { Fate::Keep };
    let mut answer = Vec::new();
    check.write_head(
        shared,
        shared.added_to(&*connection.stream),
        close,
        &mut answer,
    );
    let body = if check.well {
        &shared.options.checks.healthy
    } else {
        &shared.options.checks.unhealthy
    };
    if !check.is_head {
        answer.extend_from_slice(body);
    }
    state.output.append(Piece::Owned(answer, 0));
    connection.set_phase(state, Phase::Flushing);
    responding::await_output(connection, shared, state, leader.now);
    responding::flush(connection, shared, leader, state);
}

impl Check {
    fn write_head(&self, shared: &Shared, added: Added, close: bool, out: &mut Vec<u8>) {
        let checks = &shared.options.checks;
        let (status, body): (&[u8], _) = if self.well {
            (b"200 OK", &checks.healthy)
        } else {
            (b"503 Service Unavailable", &checks.unhealthy)
        };
        response::begin_head(out, status);
        response::encode_field(out, b"Content-Type", b"text/plain");
        response::encode_field(out, b"Cache-Control", b"no-store");
        if self.is_options {
            response::encode_field(out, b"Allow", b"GET, HEAD, OPTIONS");
        }
        shared.write_server_fields(added, out);
        response::encode_content_length(out, body.len() as u64);
        end_head(shared, out, (!close).then_some(self.version));
    }
}
