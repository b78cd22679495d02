//! What follows a response, or comes in its place: flushing, lingering, deadlines, closing.

use crate::connection::{Connection, ConnectionState, NEVER, Ready};
use crate::decisions;
use crate::event_loop::LeaderState;
use crate::exchange::ExchangeState;
use crate::log_queue::{Ended, Entry, HeadCopy, Refusal, RefusalNote};
use crate::output::{Flushed, Piece};
use crate::shared::Shared;
use crate::states::{Fate, Input, Phase};
use crate::sys::{self, Nanos, SECOND};
use penstock_protocol::State;
use std::io;
use std::sync::Arc;

/// Reads of a lingering connection in one turn.
const DISCARDS_PER_TURN: usize = 16;

impl ConnectionState {
    /// Whether no request is in progress, not even the first byte of one.
    pub fn is_idle(&self) -> bool {
        let begun = self.awaited != State::Idle || !self.carry.remaining().is_empty();
        self.phase == Phase::Reading && !begun && !self.input.is_possible()
    }

    fn log_finished(&mut self, shared: &Shared, cut_off: Option<(Ended, String)>) {
        self.exchange
            .log_finished(&self.output, &shared.log_queue, cut_off);
    }
}

impl Connection {
    /// Take the connection back from the thread that has answered its request.
    pub fn resume(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) -> Option<Ready> {
        if shared.drained.get() {
            self.close_answered(shared, state); // it came back after all else was torn down
        } else if state.output.is_corked() && state.exchange.fate != Fate::Reset {
            // The next request is here: it is still this connection's turn.
            self.begin_next(shared, state, leader.now);
            return self.read(shared, leader, state);
        } else if state.exchange.fate == Fate::Reset {
            self.reset(shared, state);
        } else if let Err(error) = state.output.check() {
            self.cut_off(shared, state, &error); // after its thread had ended the response
        } else if state.output.size > 0 {
            self.set_phase(state, Phase::Flushing);
            self.await_output(shared, state, leader.now);
            self.flush(shared, leader, state);
        } else {
            state.log_finished(shared, None); // what was unsent has left since
            self.after_response(shared, leader, state);
        }
        None
    }

    /// Close where a finished response can no longer be sent to its end.
    fn cut_off(&self, shared: &Shared, state: &mut ConnectionState, error: &io::Error) {
        let text = format!("response cut off: {}", sys::error_text(error));
        let ended = match sys::is_disconnect(error) {
            true => Ended::Disconnected,
            false => Ended::Aborted,
        };
        state.log_finished(shared, Some((ended, text)));
        self.reset(shared, state);
    }

    /// Wait until the client takes output, within the write deadline.
    pub fn await_output(&self, shared: &Shared, state: &mut ConnectionState, now: Nanos) {
        self.set_deadline(now.saturating_add(shared.options.write_timeout));
        state.progress = state.output.acknowledged(&*self.stream);
        self.set_heavy(true);
    }

    /// Send output while the application makes the next block.
    pub fn drain_output(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) {
        if state.output.size == 0 {
            return;
        }
        if self.deadline() == NEVER {
            // Once only: an application that trickles does not put the deadline off.
            self.await_output(shared, state, leader.now);
        }
        match state.output.flush(&*self.stream) {
            Ok(Flushed::Blocked) => {}
            Ok(Flushed::More) => leader.defer(self, state),
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
    pub fn flush(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) {
        match state.output.flush(&*self.stream) {
            Ok(Flushed::Blocked) => return,
            Ok(Flushed::More) => {
                leader.defer(self, state);
                return;
            }
            Ok(Flushed::All) => {}
            Err(error) => {
                self.cut_off(shared, state, &error);
                return;
            }
        }
        self.set_heavy(false);
        state.log_finished(shared, None);
        if state.phase == Phase::Refusing {
            self.linger(shared, leader, state);
        } else {
            self.after_response(shared, leader, state);
        }
    }

    fn after_response(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) {
        if state.exchange.fate == Fate::Keep {
            self.begin_next(shared, state, leader.now);
            if state.input.is_possible() || state.left_over {
                leader.defer(self, state);
            }
            return;
        }
        // Even where the client has said that it sends no more: old ones send a CRLF behind a body,
        // and one stray byte would reset the connection under the response.
        self.linger(shared, leader, state);
    }

    /// Make ready for the next request, once the current one is answered.
    pub fn begin_next(&self, shared: &Shared, state: &mut ConnectionState, now: Nanos) {
        let options = &shared.options;
        let kept = state.parser.start_next_request().is_ok();
        self.set_phase(
            state,
            if kept {
                Phase::Reading
            } else {
                Phase::Discarding
            },
        );
        state.since = now;
        state.left_over = !state.carry.remaining().is_empty();
        self.set_heavy(false);
        if !kept {
            // A streamed body that the application did not read to its end, and that is short
            // enough to be dropped: what follows is the next request. All of it may have come, so
            // that no further event would make the leader look.
            state.left_over = true;
            state.awaited = State::Body;
            self.set_deadline(now.saturating_add(options.body_timeout));
            return;
        }
        if let Some(trace) = &mut state.trace {
            trace.message_over(state.carry.remaining().len());
        }
        state.exchange = ExchangeState::default();
        state.awaited = State::Idle;
        let allowed = if shared.draining.get() {
            options.drain_linger
        } else {
            options.keep_alive
        };
        self.set_deadline(now.saturating_add(allowed));
    }

    // -- refusing and closing -----------------------------------------------------------------

    /// Answer a request that breaks a rule or a limit, and close.
    pub fn refuse(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
        refusal: Refusal,
    ) {
        let method_is_head = |copy: &HeadCopy| copy.head.method.of(&copy.bytes) == b"HEAD";
        let to_head = state
            .exchange
            .request
            .as_deref()
            .is_some_and(method_is_head)
            || refusal.request_line.starts_with(b"HEAD ");
        let answer = shared.error_response(&refusal, to_head);
        if let Some(trace) = &mut state.trace {
            trace.answered(&answer);
        }
        self.note_refusal(shared, state, leader.now, refusal, answer.body.len() as u64);
        let answer = [answer.head, answer.body].concat();
        state.output.append(Piece::Owned(answer, 0));
        self.set_phase(state, Phase::Refusing);
        self.await_output(shared, state, leader.now);
        self.flush(shared, leader, state);
    }

    /// Have the logs tell of a request that was refused, or lost with its client.
    pub fn note_refusal(
        &self,
        shared: &Shared,
        state: &mut ConnectionState,
        now: Nanos,
        refusal: Refusal,
        bytes_out: u64,
    ) {
        if state.exchange.request.is_none() {
            state.exchange.began = if state.awaited == State::Head {
                state.since
            } else {
                now
            };
        }
        shared.count_refusal();
        // One that is refused in its head has not been counted.
        let number = state.requests + u64::from(state.exchange.request.is_none());
        shared.log_queue.write(Entry::Refused(Box::new(RefusalNote {
            peer: self.peer,
            refusal,
            request: state.exchange.request.take().map(|copy| *copy),
            request_id: format!("{}{:x}", shared.options.id_prefix, shared.count_request()),
            bytes_in: state.exchange.spool.take().map_or(0, |spool| spool.size()),
            bytes_out,
            times: state.exchange.times(self.accepted_at, now),
            transcript: state.trace.as_mut().map(|trace| trace.take(number)),
        })));
    }

    /// Close for writing, and drop what still arrives until the client closes too.
    ///
    /// RFC 9112, section 9.6: closing at once would reset the connection if there is unread
    /// input, and the client might never see the response.
    pub fn linger(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) {
        if self.stream.shut_down().is_err() {
            self.close(shared, state);
            return;
        }
        self.set_phase(state, Phase::Lingering);
        state.carry = penstock_protocol::Carry::default();
        state.since = leader.now;
        self.set_deadline(linger_deadline(shared, leader.now, leader.now));
        // What is there already may have had its edge.
        state.input = Input::Possible;
        self.discard_input(shared, leader, state);
    }

    pub fn discard_input(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) {
        for _ in 0..DISCARDS_PER_TURN {
            if !state.input.is_possible() {
                return;
            }
            match self.stream.receive(&mut leader.read.buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.input = Input::Drained;
                }
                Ok(received) if received > 0 => {
                    state.lingered += received as u64;
                    if state.lingered > shared.options.linger_bytes {
                        self.close(shared, state);
                        return;
                    }
                    self.set_deadline(linger_deadline(shared, leader.now, state.since));
                }
                _ => {
                    self.close(shared, state);
                    return;
                }
            }
        }
        leader.defer(self, state);
    }

    /// Close now, and forget everything. Not while the request is handed out.
    pub fn close(&self, shared: &Shared, state: &mut ConnectionState) {
        if state.phase == Phase::Closed {
            return;
        }
        self.set_phase(state, Phase::Closed);
        self.set_deadline(NEVER);
        shared.forget(self.token);
        state.exchange.spool = None;
        state.exchange.request = None;
        state.output.drop_all();
        state.carry = penstock_protocol::Carry::default();
        self.stream.close();
    }

    /// Close with a reset, which no client can take for a response's proper end.
    pub fn reset(&self, shared: &Shared, state: &mut ConnectionState) {
        self.stream.reset_on_close();
        self.close(shared, state);
    }

    /// Close a connection whose response is finished, at the end of all.
    pub fn close_answered(&self, shared: &Shared, state: &mut ConnectionState) {
        if state.exchange.fate == Fate::Reset || state.output.size > 0 {
            state.log_finished(shared, Some(server_stopped()));
            self.reset(shared, state);
        } else if let Err(error) = state.output.check() {
            self.cut_off(shared, state, &error);
        } else {
            state.log_finished(shared, None);
            self.close(shared, state);
        }
    }

    /// End what a stopping server has no time for.
    pub fn tear_down(self: &Arc<Self>, shared: &Shared) {
        let mut state = self.lock();
        match state.phase {
            Phase::HandedOut | Phase::Answered => self.stream.cut_off(),
            Phase::Flushing | Phase::Refusing => {
                state.log_finished(shared, Some(server_stopped()));
                self.reset(shared, &mut state);
            }
            _ => self.close(shared, &mut state),
        }
    }

    /// Bring the deadline forward where a server that stops need not wait for long.
    pub fn hurry_up(&self, shared: &Shared, state: &ConnectionState, now: Nanos) {
        let options = &shared.options;
        let patience = match state.phase {
            Phase::Reading if state.awaited == State::Head => {
                decisions::drain_patience(options, true)
            }
            Phase::Reading if state.awaited == State::Idle => {
                decisions::drain_patience(options, false)
            }
            Phase::Lingering => decisions::drain_patience(options, false),
            _ => return,
        };
        self.set_deadline(self.deadline().min(now.saturating_add(patience)));
    }

    // -- deadlines ------------------------------------------------------------------------------

    /// Act on a deadline that has passed, with all events before it handled.
    pub fn expire(self: &Arc<Self>, shared: &Shared, leader: &mut LeaderState) {
        let mut state = self.lock();
        if self.deadline() > leader.now {
            return; // put off in the meantime
        }
        match state.phase {
            Phase::Reading => self.expire_reading(shared, leader, &mut state),
            // Closed without an answer: nothing more of the connection is needed.
            Phase::Discarding | Phase::Lingering => self.close(shared, &mut state),
            _ if state.output.size > 0 => self.expire_writing(shared, leader, &mut state),
            _ => self.set_deadline(NEVER),
        }
    }

    fn expire_reading(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) {
        let options = &shared.options;
        let seconds = |time: Nanos| time as f64 / SECOND as f64;
        let refusal = match state.awaited {
            State::Head if shared.draining.get() => Some(Refusal::stopping()),
            State::Head => {
                let input = penstock_protocol::Input::new(state.carry.remaining());
                let allowed = seconds(options.header_timeout);
                let text = format!("The request's head did not arrive within {allowed} s.");
                let line = state.parser.request_line(&input);
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
            Some(refusal) => self.refuse(shared, leader, state, refusal),
            // RFC 9112, section 9.5: an idle connection is closed without a word
            None => self.close(shared, state),
        }
    }

    fn expire_writing(
        self: &Arc<Self>,
        shared: &Shared,
        leader: &mut LeaderState,
        state: &mut ConnectionState,
    ) {
        // A thread that waits for room keeps the deadline itself.
        if state.exchange.awaiting_room || self.is_taking_output(shared, state) {
            self.set_deadline(leader.now.saturating_add(shared.options.write_timeout));
        } else if matches!(state.phase, Phase::Flushing | Phase::Refusing) {
            let stalled = "client stalled: write_timeout".to_owned();
            state.log_finished(shared, Some((Ended::Aborted, stalled)));
            self.reset(shared, state);
        } else {
            state
                .output
                .fail(&io::Error::from_raw_os_error(libc::ETIMEDOUT));
            self.set_gone();
            self.set_deadline(NEVER);
        }
    }

    /// Whether the client took a fair amount since the last time that this was asked.
    fn is_taking_output(&self, shared: &Shared, state: &mut ConnectionState) -> bool {
        let before = state.progress;
        state.progress = state.output.acknowledged(&*self.stream);
        (state.progress - before) as f64 >= shared.options.least_progress()
    }
}

fn linger_deadline(shared: &Shared, now: Nanos, since: Nanos) -> Nanos {
    decisions::linger_deadline(&shared.options, now, since, shared.draining.get())
}

/// How a response ends that a stopping server cuts off.
fn server_stopped() -> (Ended, String) {
    let text = "response cut off: the server stopped".to_owned();
    (Ended::Aborted, text)
}
