//! Checks of health and readiness, answered in the transport: without a thread, and unlogged.

use crate::connection::{Connection, Held, Source};
use crate::event_loop::Desk;
use crate::output::Piece;
use crate::scoreboard::{BEAT, LIVE, READY, Scoreboard};
use crate::shared::Hub;
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
    /// A worker whose watchdog has not run for so long is not live.
    pub stale_beat: Nanos,
}

impl Checks {
    pub fn any(&self) -> bool {
        self.health_path.is_some() || self.ready_path.is_some()
    }

    /// Whether a path is asked for that all is well at; None where it is the application's.
    pub fn judge(&self, hub: &Hub, method: &[u8], path: &[u8]) -> Option<bool> {
        if !matches!(method, b"GET" | b"HEAD") {
            return None;
        }
        if self.health_path.as_deref() == Some(path) {
            Some(self.is_live(&hub.scoreboard))
        } else if self.ready_path.as_deref() == Some(path) {
            Some(hub.scoreboard.get(READY) == 1 && !hub.draining.get())
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
pub fn is_check(hub: &Hub, head: &Head, bytes: &[u8]) -> bool {
    let checks = &hub.options.checks;
    checks.any()
        && checks
            .judge(hub, head.method.of(bytes), head.path(bytes))
            .is_some()
}

impl Connection {
    /// What a request asks of the server itself; None where it is the application's.
    pub fn check_asked_for(&self, hub: &Hub, desk: &Desk, source: &Source) -> Option<Check> {
        let checks = &hub.options.checks;
        if !checks.any() {
            return None;
        }
        let (head, bytes) = desk.read.head_of(source);
        let method = head.method.of(bytes);
        Some(Check {
            well: checks.judge(hub, method, head.path(bytes))?,
            is_head: method == b"HEAD",
            version: head.version,
            keep_alive: head.keep_alive,
        })
    }

    /// Answer a check, and go on with the connection.
    pub fn answer_check(
        self: &Arc<Self>,
        hub: &Hub,
        desk: &mut Desk,
        held: &mut Held,
        check: Check,
    ) {
        let close = !check.keep_alive || hub.draining.get();
        held.fate = if close { Fate::Close } else { Fate::Keep };
        let mut answer = Vec::new();
        check.write_head(hub, close, &mut answer);
        let body = if check.well {
            &hub.options.checks.healthy
        } else {
            &hub.options.checks.unhealthy
        };
        if !check.is_head {
            answer.extend_from_slice(body);
        }
        held.output.append(Piece::Owned(answer, 0));
        self.set_phase(held, Phase::Flushing);
        self.await_output(hub, held, desk.now);
        self.flush(hub, desk, held);
    }
}

impl Check {
    fn write_head(&self, hub: &Hub, close: bool, out: &mut Vec<u8>) {
        let checks = &hub.options.checks;
        let (status, body): (&[u8], _) = if self.well {
            (b"200 OK", &checks.healthy)
        } else {
            (b"503 Service Unavailable", &checks.unhealthy)
        };
        response::begin_head(out, status);
        response::encode_field(out, b"Content-Type", b"text/plain");
        response::encode_field(out, b"Cache-Control", b"no-store");
        hub.write_server_fields(true, true, out);
        response::encode_content_length(out, body.len() as u64);
        if close {
            response::encode_field(out, b"Connection", b"close");
        } else if self.version == Version::Http10 {
            response::encode_field(out, b"Connection", b"keep-alive");
        }
        out.extend_from_slice(b"\r\n");
    }
}
