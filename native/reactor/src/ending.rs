//! What follows a response, or comes in its place: flushing, lingering, deadlines, closing.

use crate::connection::{Connection, Held, NEVER, Ready};
use crate::decisions;
use crate::event_loop::Desk;
use crate::log_queue::{End, Ended, Entry, HeadCopy, Refusal, RefusalNote, Times};
use crate::output::{Flushed, Piece};
use crate::shared::Hub;
use crate::states::{Fate, Input, Phase};
use crate::sys::{self, Nanos, SECOND};
use penstock_protocol::State;
use penstock_protocol::response::ErrorResponse;
use std::io;
use std::sync::Arc;

/// Reads of a lingering connection in one turn.
const DISCARDS_PER_TURN: usize = 16;

impl Held {
    /// Whether no request is in progress, not even the first byte of one.
    pub fn is_idle(&self) -> bool {
        let begun = self.stage != State::Idle || !self.carry.remaining().is_empty();
        self.phase == Phase::Reading && !begun && !self.input.is_possible()
    }
}

impl Connection {
    /// Take the connection back from the thread that has answered its request.
    pub fn resume(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) -> Option<Ready> {
        if hub.drained.get() {
            self.close(hub, held); // it came back after all else was torn down
        } else if held.output.is_corked() && held.fate != Fate::Reset {
            // The next request is here: it is still this connection's turn.
            self.begin_next(hub, held, desk.now);
            return self.read(hub, desk, held);
        } else if held.fate == Fate::Reset {
            self.reset(hub, held);
        } else if let Err(error) = held.output.check() {
            self.cut_off(hub, held, &error); // after its thread had ended the response
        } else if held.output.size > 0 {
            self.set_phase(held, Phase::Flushing);
            self.await_output(hub, held, desk.now);
            self.flush(hub, desk, held);
        } else {
            settle(hub, held, None); // what was unsent has left since
            self.after_response(hub, desk, held);
        }
        None
    }

    /// Close where a finished response can no longer be sent to its end.
    fn cut_off(&self, hub: &Hub, held: &mut Held, error: &io::Error) {
        let text = format!("response cut off: {}", sys::error_text(error));
        let ended = match sys::is_disconnect(error) {
            true => Ended::Disconnected,
            false => Ended::Aborted,
        };
        settle(hub, held, Some((ended, text)));
        self.reset(hub, held);
    }

    /// Wait until the client takes output, within the write deadline.
    pub fn await_output(&self, hub: &Hub, held: &mut Held, now: Nanos) {
        self.set_deadline(now.saturating_add(hub.options.write_timeout));
        held.progress = held.output.acknowledged(&*self.stream);
        self.set_heavy(true);
    }

    /// Send output while the application makes the next block.
    pub fn drain_output(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) {
        if held.output.size == 0 {
            return;
        }
        if self.deadline() == NEVER {
            // Once only: an application that trickles does not put the deadline off.
            self.await_output(hub, held, desk.now);
        }
        match held.output.flush(&*self.stream) {
            Ok(Flushed::Blocked) => {}
            Ok(Flushed::More) => desk.defer(self, held),
            Ok(Flushed::All) => {
                self.set_deadline(NEVER);
                self.set_heavy(false);
            }
            Err(_) => {
                self.set_gone(); // the next send of the application's thread tells it
                self.set_deadline(NEVER);
                self.set_heavy(false);
            }
        }
    }

    /// Send what is left of a response that is finished.
    pub fn flush(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) {
        match held.output.flush(&*self.stream) {
            Ok(Flushed::Blocked) => return,
            Ok(Flushed::More) => {
                desk.defer(self, held);
                return;
            }
            Ok(Flushed::All) => {}
            Err(error) => {
                self.cut_off(hub, held, &error);
                return;
            }
        }
        self.set_heavy(false);
        settle(hub, held, None);
        if held.phase == Phase::Refusing {
            self.linger(hub, desk, held);
        } else {
            self.after_response(hub, desk, held);
        }
    }

    fn after_response(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) {
        if held.fate == Fate::Keep {
            self.begin_next(hub, held, desk.now);
            if held.input.is_possible() || held.left_over {
                desk.defer(self, held);
            }
            return;
        }
        // Even where the client has said that it sends no more: old ones send a CRLF behind a body,
        // and one stray byte would reset the connection under the response.
        self.linger(hub, desk, held);
    }

    /// Make ready for the next request, once the current one is answered.
    pub fn begin_next(&self, hub: &Hub, held: &mut Held, now: Nanos) {
        let options = &hub.options;
        let kept = held.parser.start_next_request().is_ok();
        self.set_phase(
            held,
            if kept {
                Phase::Reading
            } else {
                Phase::Discarding
            },
        );
        held.since = now;
        held.left_over = !held.carry.remaining().is_empty();
        self.set_heavy(false);
        if !kept {
            // A streamed body that the application did not read to its end, and that is short
            // enough to be dropped: what follows is the next request. All of it may have come, so
            // that nothing more would make anybody look.
            held.left_over = true;
            held.stage = State::Body;
            self.set_deadline(now.saturating_add(options.body_timeout));
            return;
        }
        if let Some(trace) = &mut held.trace {
            trace.message_over(held.carry.remaining().len());
        }
        held.request = None;
        held.stage = State::Idle;
        let allowed = if hub.draining.get() {
            options.drain_linger
        } else {
            options.keep_alive
        };
        self.set_deadline(now.saturating_add(allowed));
    }

    // -- refusing and closing -----------------------------------------------------------------

    /// Answer a request that breaks a rule or a limit, and close.
    pub fn refuse(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held, refusal: Refusal) {
        let in_head = held.request.is_none();
        let method_is_head = |copy: &HeadCopy| copy.head.method.of(&copy.bytes) == b"HEAD";
        let to_head = held.request.as_deref().is_some_and(method_is_head)
            || refusal.request_line.starts_with(b"HEAD ");
        let answer = hub.error_response(&refusal, to_head);
        self.note_refusal(hub, held, desk.now, refusal, answer.body.len() as u64);
        self.trace_refusal(hub, held, in_head, &answer);
        let answer = [answer.head, answer.body].concat();
        held.output.append(Piece::Owned(answer, 0));
        self.set_phase(held, Phase::Refusing);
        self.await_output(hub, held, desk.now);
        self.flush(hub, desk, held);
    }

    /// Have the logs tell of a request that was refused, or lost with its client.
    pub fn note_refusal(
        &self,
        hub: &Hub,
        held: &mut Held,
        now: Nanos,
        refusal: Refusal,
        bytes_out: u64,
    ) {
        if held.request.is_none() {
            held.began = if held.stage == State::Head {
                held.since
            } else {
                now
            };
        }
        hub.count_refusal();
        hub.log_queue.write(Entry::Refused(Box::new(RefusalNote {
            peer: self.peer,
            refusal,
            request: held.request.take().map(|copy| *copy),
            request_id: format!("{}{:x}", hub.options.id_prefix, hub.count_request()),
            bytes_in: held.spool.take().map_or(0, |spool| spool.size()),
            bytes_out,
            times: Times {
                accepted: self.accepted_at,
                begun: held.began,
                head: held.head_at,
                finished: now,
                ..Times::default()
            },
        })));
    }

    fn trace_refusal(&self, hub: &Hub, held: &mut Held, in_head: bool, answer: &ErrorResponse) {
        if in_head {
            held.requests += 1; // refused in its head, which nobody has counted
        }
        let number = held.requests;
        let Some(trace) = &mut held.trace else { return };
        if !trace.shown() {
            hub.log_queue.write(trace.request(number));
        }
        let (head, body) = (&answer.head[..], &answer.body[..]);
        let line = memchr::memmem::find(head, b"\r\n").unwrap_or(head.len());
        let status = head.get(b"HTTP/1.1 ".len()..line).unwrap_or(&[]);
        trace.head_sent(status, Vec::new(), head.get(line + 2..).unwrap_or(&[]));
        trace.body_sent(body);
        hub.log_queue
            .write(trace.response(number, body.len() as u64, "refused by the server"));
    }

    /// Close for writing, and drop what still arrives until the client closes too.
    ///
    /// RFC 9112, section 9.6: closing at once would reset the connection if there is unread
    /// input, and the client might never see the response.
    pub fn linger(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) {
        if self.stream.shut_down().is_err() {
            self.close(hub, held);
            return;
        }
        self.set_phase(held, Phase::Lingering);
        held.carry = penstock_protocol::Carry::default();
        held.since = desk.now;
        self.set_deadline(linger_deadline(hub, desk.now, desk.now));
        // What is there already may have had its edge.
        held.input = Input::Possible;
        self.discard_input(hub, desk, held);
    }

    pub fn discard_input(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) {
        for _ in 0..DISCARDS_PER_TURN {
            if !held.input.is_possible() {
                return;
            }
            match self.stream.receive(&mut desk.read.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    held.input = Input::Drained;
                }
                Ok(received) if received > 0 => {
                    held.lingered += received as u64;
                    if held.lingered > hub.options.linger_bytes {
                        self.close(hub, held);
                        return;
                    }
                    self.set_deadline(linger_deadline(hub, desk.now, held.since));
                }
                _ => {
                    self.close(hub, held);
                    return;
                }
            }
        }
        desk.defer(self, held);
    }

    /// Close now, and forget everything. Not while the request is handed out.
    pub fn close(&self, hub: &Hub, held: &mut Held) {
        if held.phase == Phase::Closed {
            return;
        }
        self.set_phase(held, Phase::Closed);
        self.set_deadline(NEVER);
        hub.forget(self.token);
        held.spool = None;
        held.request = None;
        held.output.drop_all();
        held.carry = penstock_protocol::Carry::default();
        self.stream.close();
    }

    /// Close with a reset, which no client can take for a response's proper end.
    pub fn reset(&self, hub: &Hub, held: &mut Held) {
        self.stream.reset_on_close();
        self.close(hub, held);
    }

    /// Close a connection whose response is finished, at the end of all.
    pub fn close_answered(&self, hub: &Hub, held: &mut Held) {
        if held.fate == Fate::Reset || held.output.size > 0 {
            settle(hub, held, Some(server_stopped()));
            self.reset(hub, held);
        } else {
            self.close(hub, held);
        }
    }

    /// End what a stopping server has no time for.
    pub fn tear_down(self: &Arc<Self>, hub: &Hub) {
        let mut held = self.lock();
        match held.phase {
            Phase::HandedOut | Phase::Answered => self.stream.cut_off(),
            Phase::Flushing | Phase::Refusing => {
                settle(hub, &mut held, Some(server_stopped()));
                self.reset(hub, &mut held);
            }
            _ => self.close(hub, &mut held),
        }
    }

    /// Bring the deadline forward where a server that stops need not wait for long.
    pub fn hurry_up(&self, hub: &Hub, held: &Held, now: Nanos) {
        let options = &hub.options;
        let patience = match held.phase {
            Phase::Reading if held.stage == State::Head => decisions::drain_patience(options, true),
            Phase::Reading if held.stage == State::Idle => {
                decisions::drain_patience(options, false)
            }
            Phase::Lingering => decisions::drain_patience(options, false),
            _ => return,
        };
        self.set_deadline(self.deadline().min(now.saturating_add(patience)));
    }

    // -- deadlines ------------------------------------------------------------------------------

    /// Act on a deadline that has passed, with all events before it handled.
    pub fn expire(self: &Arc<Self>, hub: &Hub, desk: &mut Desk) {
        let mut held = self.lock();
        if self.deadline() > desk.now {
            return; // put off in the meantime
        }
        match held.phase {
            Phase::Reading => self.expire_reading(hub, desk, &mut held),
            // What nobody wants is closed without a word.
            Phase::Discarding | Phase::Lingering => self.close(hub, &mut held),
            _ if held.output.size > 0 => self.expire_writing(hub, desk, &mut held),
            _ => self.set_deadline(NEVER),
        }
    }

    fn expire_reading(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) {
        let options = &hub.options;
        let seconds = |time: Nanos| time as f64 / SECOND as f64;
        let refusal = match held.stage {
            State::Head if hub.draining.get() => Some(Refusal::stopping()),
            State::Head => {
                let input = penstock_protocol::Input::new(held.carry.remaining());
                let allowed = seconds(options.header_timeout);
                let text = format!("The request's head did not arrive within {allowed} s.");
                let line = held.parser.request_line(&input);
                Some(Refusal::late(text, "header_timeout", line))
            }
            State::Body => {
                let (allowed, rate) = (seconds(options.body_timeout), options.body_min_rate);
                let text = format!(
                    "The request's body came too slowly: {allowed} s and a second for each \
                     {rate} bytes are allowed."
                );
                Some(Refusal::late(text, "body_timeout", &[]))
            }
            _ => None,
        };
        match refusal {
            Some(refusal) => self.refuse(hub, desk, held, refusal),
            // RFC 9112, section 9.5: an idle connection is closed without a word
            None => self.close(hub, held),
        }
    }

    fn expire_writing(self: &Arc<Self>, hub: &Hub, desk: &mut Desk, held: &mut Held) {
        // A thread that waits for room keeps the deadline itself.
        if held.awaiting_room || self.is_taking_output(hub, held) {
            self.set_deadline(desk.now.saturating_add(hub.options.write_timeout));
        } else if matches!(held.phase, Phase::Flushing | Phase::Refusing) {
            let stalled = "client stalled: write_timeout".to_owned();
            settle(hub, held, Some((Ended::Aborted, stalled)));
            self.reset(hub, held);
        } else {
            held.output
                .fail(&io::Error::from_raw_os_error(libc::ETIMEDOUT));
            self.set_gone();
            self.set_deadline(NEVER);
        }
    }

    /// Whether the client took a fair amount since the last time that this was asked.
    fn is_taking_output(&self, hub: &Hub, held: &mut Held) -> bool {
        let before = held.progress;
        held.progress = held.output.acknowledged(&*self.stream);
        (held.progress - before) as f64 >= hub.options.least_progress()
    }
}

fn linger_deadline(hub: &Hub, now: Nanos, since: Nanos) -> Nanos {
    decisions::linger_deadline(&hub.options, now, since, hub.draining.get())
}

/// How a response ends that a stopping server cuts off.
fn server_stopped() -> (Ended, String) {
    let text = "response cut off: the server stopped".to_owned();
    (Ended::Aborted, text)
}

/// Report the response that has been flushed, or how and why it was cut off.
fn settle(hub: &Hub, held: &mut Held, cut_off: Option<(Ended, String)>) {
    if let Some(record) = held.record.take() {
        let end = End {
            unsent: held.output.unsent(),
            finished: sys::monotonic(),
            cut_off,
        };
        hub.log_queue.write(Entry::Settled(record, Box::new(end)));
    }
}
