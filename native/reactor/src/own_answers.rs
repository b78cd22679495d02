//! Checks of health and readiness, answered in the transport: without a thread, and unlogged.

use crate::connection::{Connection, ConnectionState, Source};
use crate::event_loop::LeaderState;
use crate::output::Piece;
use crate::scoreboard::{BEAT, LIVE, READY, Scoreboard};
use crate::shared::Shared;
use crate::states::{Fate, Phase};
use crate::sys::{self, Nanos};
use penstock_protocol::{Head, Version, response};
use std::sync::Arc;

/// The paths that the server itself answers, and how it is told what.
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

    /// Whether a path is asked for that all is well at; None where it is the application's.
    pub fn judge(&self, shared: &Shared, method: &[u8], path: &[u8]) -> Option<bool> {
        if !matches!(method, b"GET" | b"HEAD") {
            return None;
        }
        if self.health_path.as_deref() == Some(path) {
            Some(self.is_live(&shared.scoreboard))
        } else if self.ready_path.as_deref() == Some(path) {
            Some(shared.scoreboard.get(READY) == 1 && !shared.draining.get())
        } else {
            None
        }
    }

    fn is_live(&self, scoreboard: &Scoreboard) -> bool {
        let beat = scoreboard.get(BEAT);
        let fresh = beat == 0 || sys::monotonic().saturating_sub(beat) < self.stale_beat;
        scoreboard.get(LIVE) == 1 && fresh
    }
}

/// What is to be answered.
pub struct Check {
    /// All is well.
    well: bool,
    is_head: bool,
    version: Version,
    keep_alive: bool,
}

/// Whether a request is one that the server itself answers.
pub fn is_check(shared: &Shared, head: &Head, bytes: &[u8]) -> bool {
    let checks = &shared.options.checks;
    checks.any()
        && checks
            .judge(shared, head.method.of(bytes), head.path(bytes))
            .is_some()
}

impl Connection {
    /// What a request asks of the server itself; None where it is the application's.
    pub fn check_asked_for(
        &self,
        shared: &Shared,
        leader: &LeaderState,
        source: &Source,
    ) -> Option<Check> {
        let checks = &shared.options.checks;
        if !checks.any() {
            return None;
        }
        let (head, bytes) = leader.read.head_of(source);
        let method = head.method.of(bytes);
        Some(Check {
            well: checks.judge(shared, method, head.path(bytes))?,
            is_head: method == b"HEAD",
            version: head.version,
            keep_alive: head.keep_alive,
        })
    }

    /// Answer a check, and go on with the connection.
    pub fn answer_check(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
        check: Check,
    ) {
        let close = !check.keep_alive || shared.draining.get();
        state.exchange.fate = if close { Fate::Close } else { Fate::Keep };
        let mut answer = Vec::new();
        check.write_head(shared, close, &mut answer);
        let body = if check.well {
            &shared.options.checks.healthy
        } else {
            &shared.options.checks.unhealthy
        };
        if !check.is_head {
            answer.extend_from_slice(body);
        }
        state.output.append(Piece::Owned(answer, 0));
        self.set_phase(state, Phase::Flushing);
        self.await_output(shared, state, leader.now);
        self.flush(shared, leader, state);
    }
}

impl Check {
    fn write_head(&self, shared: &Shared, close: bool, out: &mut Vec<u8>) {
        let checks = &shared.options.checks;
        let (status, body): (&[u8], _) = if self.well {
            (b"200 OK", &checks.healthy)
        } else {
            (b"503 Service Unavailable", &checks.unhealthy)
        };
        response::begin_head(out, status);
        response::encode_field(out, b"Content-Type", b"text/plain");
        response::encode_field(out, b"Cache-Control", b"no-store");
        shared.write_server_fields(true, true, out);
        response::encode_content_length(out, body.len() as u64);
        if close {
            response::encode_field(out, b"Connection", b"close");
        } else if self.version == Version::Http10 {
            response::encode_field(out, b"Connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
    }
}
