//! Reading requests off a connection, up to where the application takes over.

use crate::body_clock::BodyClock;
use crate::client::key_of;
use crate::closing;
use crate::collecting::{self, Progress};
use crate::connection::{Connection, ConnectionState, NEVER};
use crate::decisions::{self, HandOver};
use crate::forwarded::{Field, Forwarded, Reason};
use crate::leader::{LeaderState, ReadBuffers, Source};
use crate::log_queue::{Entry, HostReplaced, message};
use crate::next_request;
use crate::options::{HeaderMap, Options};
use crate::output::Output;
use crate::own_answers::{self, WHOLE_SERVER, is_check};
use crate::refusal::Refusal;
use crate::refusing;
use crate::request::{Body, Ready};
use crate::responding;
use crate::scoreboard::CLIENT_RATE;
use crate::shared::Shared;
use crate::slow_path_estimate::PathHash;
use crate::spool::{Gathered, Spool};
use crate::states::{Input, Phase};
use crate::storing;
use crate::sys::{Nanos, Peer, SECOND};
use crate::unserved;
use penstock_protocol::{Event, Head, HeadCopy, Input as Bytes, State, response};
use std::io;
use std::sync::Arc;

/// Reads in one turn, so that one fast sender does not hold up the other clients.
const READS_PER_TURN: usize = 16;

/// The size of a body, in bytes, from which on it is worth releasing the GIL to read it.
const HEAVY_BYTES: u64 = 64 * 1024;

/// What a look at the input found.
enum Verdict {
    Ready(Source, Body),
    MoreInput,
    /// The body is handed over once the application reads fewer.
    Later,
    /// The body that was to be dropped is over.
    Discarded,
    Refused(Box<Refusal>),
    Ended,
}

/// Take what the client sent, until a request is complete or it has to send more.
pub fn read(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<Ready> {
    for _ in 0..READS_PER_TURN {
        // What the last request left over has to be looked at before more is read.
        let received = if std::mem::take(&mut state.left_over) {
            Some(0)
        } else {
            receive(connection, shared, leader, state)
        };
        let Some(received) = received else {
            store_rest(connection, shared, leader, state);
            return None;
        };
        if let Some(ready) = look(connection, shared, leader, state, received) {
            return Some(ready);
        }
        if !matches!(state.phase, Phase::Reading | Phase::Discarding) {
            return None;
        }
        // What comes at once is written at once, within bounds.
        if unwritten(state) >= shared.options.store_bytes || leader.shares {
            break;
        }
    }
    if unwritten(state) > 0 {
        store(connection, shared, leader, state);
    } else {
        leader.defer(connection, state); // it is the turn of others
    }
    None
}

/// How much of the body that is being read has to be written to its file.
fn unwritten(state: &ConnectionState) -> usize {
    state.exchange.spool.as_ref().map_or(0, Spool::unwritten)
}

/// Have written what is not written of a body of which no more has come yet.
fn store_rest(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    if state.phase != Phase::Reading {
        return;
    }
    if unwritten(state) > 0 {
        store(connection, shared, leader, state);
    } else if let Some(spool) = &mut state.exchange.spool {
        spool.free_room();
    }
}

fn store(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    if let Err(refusal) = storing::store(connection, shared, state, leader.now) {
        refusing::refuse(connection, shared, leader, state, *refusal);
    }
}

/// Go on with a body of which a part was written, or could not be, or that waited to be handed over.
pub fn go_on_stored(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<Ready> {
    let spool = state.exchange.spool.take()?; // else the thread of the disk still has it
    let storing = leader.now.saturating_sub(state.exchange.storing_since);
    if std::mem::take(&mut state.exchange.waits) {
        state.exchange.waited += storing;
        let most = decisions::most_streamed(&shared.options);
        if state.exchange.waited < shared.options.fast_rest
            && shared.streamed_bodies.count() >= most
        {
            // Before it is read: each read would take memory beyond what bodies may have.
            state.exchange.spool = Some(spool);
            let began = state.since;
            state.body_clock.stored(&shared.options, storing, began);
            wait_for_others(connection, shared, state, leader.now);
            return None;
        }
    }
    connection.set_phase(state, Phase::Reading);
    if let Some(error) = state.exchange.store_error.take() {
        drop(spool);
        let refusal = Refusal::no_room(&error);
        refusing::refuse(connection, shared, leader, state, refusal);
        return None;
    }
    if state.parser.state() == State::Done {
        let request = state.exchange.request.take();
        let source = request.map_or(Source::Scratch, Source::Copy);
        let body = Body::Collected(spool);
        return hand_out(connection, shared, leader, state, source, body);
    }
    state.exchange.spool = Some(spool);
    let (options, began) = (&shared.options, state.since);
    connection.set_deadline(state.body_clock.stored(options, storing, began));
    state.answered_in_turn = 0;
    read(connection, shared, leader, state)
}

/// Read once; return the number of bytes, or None where there is nothing to look at.
fn receive(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<usize> {
    if !state.input.is_possible() {
        return None;
    }
    let mut most = leader.receive_bytes;
    if state.awaited == State::Body {
        most = most.min(storing::room(shared, state));
        if most == 0 {
            store(connection, shared, leader, state);
            return None;
        }
    }
    let in_place = collecting::receive_in_place(connection, shared, state, &mut most);
    let was_in_place = in_place.is_some();
    let received = in_place.unwrap_or_else(|| {
        let buffer = leader.read.buffer.get_mut(..most).unwrap_or_default();
        connection.stream.receive(buffer)
    });
    match received {
        Ok(0) => {
            state.input = Input::Drained;
            state.parser.receive_eof();
            Some(0)
        }
        Ok(received) => {
            // Less than there was room for is all there was. What comes later has an edge of
            // its own, but for an end that this event reported.
            let all = received < most && state.ended.is_none() && !connection.stream.holds_input();
            state.input.found(all);
            if was_in_place {
                return Some(0);
            }
            if let Some(trace) = &mut state.trace {
                trace.received(leader.read.buffer.get(..received).unwrap_or(&[]));
            }
            Some(received)
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            // The event reported input, and the read found none. It is read once more: no second
            // edge will come. Nor one for what the stream itself holds.
            if connection.stream.holds_input() || state.input.found_none() {
                leader.defer(connection, state);
            }
            None
        }
        Err(_) => {
            lose_client(connection, shared, leader, state);
            None
        }
    }
}

/// Log a request that the client broke off by a reset, and close.
pub fn lose_client(
    connection: &Connection,
    shared: &Shared,
    leader: &LeaderState,
    state: &mut ConnectionState,
) {
    if state.awaited != State::Idle && state.phase != Phase::Discarding {
        let input = Bytes::new(state.carry.remaining());
        let status = shared.options.client_left;
        let refusal = Refusal::lost_client(status, state.parser.request_line(&input));
        refusing::note_refusal(connection, shared, state, leader.now, refusal, 0);
    }
    closing::close(connection, shared, state);
}

/// Look at the `received` bytes in the leader's buffer behind those that were left over.
fn look(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
    received: usize,
) -> Option<Ready> {
    match parse(connection, shared, leader, state, received) {
        Verdict::Ready(source, Body::Collected(spool)) if spool.unwritten() > 0 => {
            state.exchange.request = Some(leader.read.own_head(source));
            state.exchange.spool = Some(spool);
            store(connection, shared, leader, state);
            None
        }
        Verdict::Ready(source, body) => hand_out(connection, shared, leader, state, source, body),
        Verdict::MoreInput => {
            responding::uncork(connection, state);
            await_data(connection, shared, state, leader.now);
            None
        }
        Verdict::Later => {
            storing::suspend(connection, shared, state, leader.now);
            wait_for_others(connection, shared, state, leader.now);
            None
        }
        Verdict::Discarded => {
            next_request::begin_next(connection, shared, state, leader.now);
            state.left_over = true; // such as the end of input, which is reported once
            None
        }
        Verdict::Refused(refusal) => {
            if state.phase == Phase::Discarding {
                closing::linger(connection, shared, leader, state); // the request has been answered already
            } else {
                refusing::refuse(connection, shared, leader, state, *refusal);
            }
            None
        }
        Verdict::Ended => {
            responding::uncork(connection, state);
            closing::close(connection, shared, state);
            None
        }
    }
}

/// Have a body that is not read meanwhile wait until the application reads fewer.
fn wait_for_others(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
    now: Nanos,
) {
    let exchange = &mut state.exchange;
    exchange.waits = true;
    exchange.storing_since = now;
    let rest = shared.options.fast_rest.saturating_sub(exchange.waited);
    let until = now.saturating_add(rest);
    shared.streamed_bodies.wait(connection, until);
}

/// Hand a request out, or answer it here.
#[inline(always)]
fn hand_out(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
    source: Source,
    body: Body,
) -> Option<Ready> {
    shared.note_head(state, false);
    if let Some(check) = own_answers::check_asked_for(shared, leader, &source) {
        own_answers::answer_check(connection, shared, leader, state, check);
        return None;
    }
    if leader.queues && own_answers::asks_for_whole_server(leader, &source) {
        unserved::answer_whole_server(connection, shared, leader, state, (source, body));
        return None;
    }
    let number = shared.count_request();
    note_replaced_host(connection, shared, leader, state, (&source, number));
    uncork_for(connection, shared, state, &source, leader);
    let options = &shared.options;
    let calls = &shared.slow_paths;
    leader.short_call =
        calls.are_worth_waiting() && calls.last_call() <= options.longest_held_call && {
            let (head, bytes) = leader.read.head_of(&source);
            let safe = matches!(head.method.of(bytes), b"GET" | b"HEAD" | b"OPTIONS");
            safe && shared.slow_paths.is_fast(PathHash::of(head.path(bytes)))
        };
    connection.set_phase(state, Phase::HandedOut);
    connection.set_deadline(NEVER);
    connection.set_heavy(false);
    Some(Ready {
        connection: Arc::clone(connection),
        number,
        source,
        body,
        forwarded: state.exchange.forwarded.take(),
    })
}

/// Log a request whose target names another host than its Host field.
fn note_replaced_host(
    connection: &Connection,
    shared: &Shared,
    leader: &LeaderState,
    state: &ConnectionState,
    (source, number): (&Source, u64),
) {
    let (head, bytes) = leader.read.head_of(source);
    if head.authority.is_none() {
        return;
    }
    if let Some(host) = head.replaced_host(bytes) {
        let note = HostReplaced {
            peer: state.exchange.client(connection.peer()),
            target: head.target.of(bytes).to_vec(),
            host: host.to_vec(),
            request_id: state.exchange.request_id(|| shared.request_id(number)),
        };
        shared.log_queue.write(Entry::HostReplaced(Box::new(note)));
    }
}

/// Send pending output, unless the request that goes to the application now is expected to be
/// answered at once.
fn uncork_for(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
    source: &Source,
    leader: &LeaderState,
) {
    if !state.output.is_corked() {
        return;
    }
    let (head, bytes) = leader.read.head_of(source);
    if !shared.slow_paths.is_fast(PathHash::of(head.path(bytes))) {
        responding::uncork(connection, state);
    } else {
        // Should the call take its time after all, the next leader sends what waits.
        shared.post(connection, state);
    }
}

/// Set the deadline for what the parser waits for.
fn await_data(connection: &Connection, shared: &Shared, state: &mut ConnectionState, now: Nanos) {
    let options = &shared.options;
    let awaited = state.parser.state();
    if awaited != state.awaited {
        state.awaited = awaited;
        state.since = now;
        state.body_clock = BodyClock::new(options, now);
        shared.note_head(state, awaited == State::Head);
        if awaited == State::Head {
            connection.set_deadline(now.saturating_add(options.header_timeout));
            if shared.draining.get() {
                closing::hurry_up(connection, shared, state, now);
            }
        }
    }
    if awaited == State::Body {
        let received = state.exchange.body_received;
        if state.phase == Phase::Reading {
            let began = state.since;
            connection.set_deadline(state.body_clock.received(options, received, now, began));
        }
        let announced = state
            .exchange
            .request
            .as_ref()
            .and_then(|copy| copy.head.content_length);
        let size = announced.unwrap_or(0).max(received);
        connection.set_heavy(size > HEAVY_BYTES.min(options.body_memory));
    }
}

/// Take events from the parser until a request is complete or it needs more data.
fn parse(
    connection: &Connection,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
    received: usize,
) -> Verdict {
    let options = &shared.options;
    let ConnectionState {
        parser,
        carry,
        exchange,
        trace,
        awaited,
        since,
        ..
    } = state;
    let LeaderState {
        read,
        field_cache,
        now,
        ..
    } = leader;
    let ReadBuffers {
        buffer,
        head,
        scratch,
    } = &mut **read;
    let received = buffer.get(..received).unwrap_or(&[]);
    let carried = !carry.remaining().is_empty();
    let block = carry.join(received);
    let mut input = Bytes::new(block);
    let mut fresh: &[u8] = &[]; // the head, where it is in this block
    let mut streams = false;
    let mut handing = HandOver::Never;
    // What this block has of the body is kept at once, however many chunks it comes in.
    let mut gathered = Gathered::default();
    let verdict = loop {
        let event = parser.next_event_cached(&mut input, &options.parser, head, field_cache);
        if exchange.spool.is_some() && !matches!(event, Ok(Event::Data(_))) {
            let (of, bytes) = match &exchange.request {
                Some(copy) => (&copy.head, &*copy.bytes),
                None => (&*head, fresh),
            };
            let progress = Progress {
                length: of.content_length,
                complete: matches!(event, Ok(Event::EndOfMessage)),
                open: event.is_ok() && !is_own(shared, of, bytes),
            };
            match collecting::keep(shared, exchange, &mut gathered, &progress, *now) {
                Ok(found) => handing = found,
                Err(refusal) => break Verdict::Refused(refusal),
            }
        }
        match event {
            Ok(_) if handing == HandOver::Later => break Verdict::Later,
            Ok(_) if handing == HandOver::Now => {
                let source = exchange
                    .request
                    .take()
                    .map_or(Source::Scratch, Source::Copy);
                break Verdict::Ready(source, collecting::streamed(shared, exchange.spool.take()));
            }
            Ok(Event::Request(bytes)) => {
                fresh = bytes;
                state.requests += 1;
                exchange.began = if *awaited == State::Head {
                    *since
                } else {
                    *now
                };
                exchange.head_at = *now;
                exchange.is_last = !head.keep_alive && !head.body_expected;
                if let Some(trace) = trace {
                    trace.head_received(input.remaining().len());
                }
                if head.forwarding
                    || options.forwarded.reads_all()
                    || options.speaks_uwsgi(connection.listener)
                {
                    match read_forwarded(connection, shared, head, bytes) {
                        Ok(forwarded) => exchange.forwarded = forwarded,
                        Err(reason) => {
                            break Verdict::Refused(Box::new(Refusal::forwarded(reason)));
                        }
                    }
                }
                let client = || exchange.client(connection.peer());
                if let Some(seconds) = over_rate(client, shared, head, bytes, *now) {
                    break Verdict::Refused(Box::new(Refusal::over_rate(seconds)));
                }
                if options.header_map == HeaderMap::Refuse
                    && has_underscore(connection, options, head, bytes)
                {
                    break Verdict::Refused(Box::new(Refusal::underscore()));
                }
                if head.is_https_target(bytes)
                    && !decisions::accepts_scheme(true, exchange.is_secure(connection.is_secure()))
                {
                    break Verdict::Refused(Box::new(Refusal::not_secure()));
                }
                if head.body_expected {
                    let streaming = shared.streamed_bodies.count();
                    let (length, expects) = (head.content_length, head.expect_continue);
                    let streamed = decisions::streams_body(options, length, expects, streaming)
                        || shared.redirects(connection.listener);
                    if streamed && !is_own(shared, head, bytes) {
                        streams = true;
                        break Verdict::MoreInput;
                    }
                    exchange.spool = Some(Spool::default());
                    if head.expect_continue && input.remaining().is_empty() {
                        send_continue(connection, &mut state.output);
                        if let Some(trace) = trace {
                            trace.sent_interim(b"100 Continue");
                        }
                    }
                }
            }
            Ok(Event::Data(data)) => {
                if state.phase == Phase::Discarding {
                    continue;
                }
                if exchange.spool.is_none() {
                    continue;
                }
                gathered.add(data);
                if let Some(trace) = trace {
                    trace.body_received(data, input.remaining().len());
                }
            }
            Ok(Event::EndOfMessage) if state.phase == Phase::Discarding => {
                break Verdict::Discarded;
            }
            Ok(Event::EndOfMessage) => {
                exchange.body_at = *now;
                let body = exchange.spool.take().map_or(Body::Empty, Body::Collected);
                // The place of a fresh head is set below.
                let source = exchange
                    .request
                    .take()
                    .map_or(Source::Scratch, Source::Copy);
                break Verdict::Ready(source, body);
            }
            Ok(Event::NeedData) => break Verdict::MoreInput,
            Ok(Event::ConnectionClosed) => break Verdict::Ended,
            Err(error) => {
                let mut refusal = Refusal::of(error, parser.request_line(&input));
                if exchange.request.is_none() && fresh.is_empty() && state.phase == Phase::Reading {
                    let received = input.remaining();
                    let kept = received.get(..options.refused_head).unwrap_or(received);
                    refusal.received = kept.to_vec();
                }
                if state.requests == 0 && error.status == 400 {
                    refusal.explain_proxy_header(input.remaining(), error.is_empty_line());
                }
                refusal.head = parser.refused_head(&input).map(|bytes| HeadCopy {
                    bytes: bytes.into(),
                    head: head.clone(),
                });
                break Verdict::Refused(Box::new(refusal));
            }
        }
    };
    let left = input.remaining().len();
    let verdict = match verdict {
        Verdict::MoreInput if streams => {
            Verdict::Ready(Source::Scratch, collecting::streamed(shared, None))
        }
        other => other,
    };
    let verdict = match verdict {
        Verdict::Ready(Source::Scratch, body) if carried => {
            scratch.clear();
            scratch.extend_from_slice(fresh);
            Verdict::Ready(Source::Scratch, body)
        }
        Verdict::Ready(Source::Scratch, body) => {
            let start = fresh.as_ptr() as usize - block.as_ptr() as usize;
            Verdict::Ready(Source::Buffer(start..start + fresh.len()), body)
        }
        other => {
            if !fresh.is_empty() && !matches!(other, Verdict::Ready(..)) {
                exchange.request = Some(Box::new(HeadCopy {
                    bytes: fresh.into(),
                    head: head.clone(),
                }));
            }
            other
        }
    };
    carry.keep(received, left);
    verdict
}

/// Have a client send its body: behind the answers to the requests before it, if those still wait.
fn send_continue(connection: &Connection, output: &mut Output) {
    if !output.busy() {
        let sent = match connection.stream.send(response::CONTINUE) {
            Ok(sent) => sent,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            Err(_) => return, // met again by the next read
        };
        // What is left goes before anything else, or the answer would begin within this one.
        output.append_copy(response::CONTINUE.get(sent..).unwrap_or_default());
        return;
    }
    output.append_copy(response::CONTINUE);
    let _ = output.flush(&*connection.stream); // an error is met again by the answer
}

/// Whether the server itself answers a request.
fn is_own(shared: &Shared, head: &Head, bytes: &[u8]) -> bool {
    head.path(bytes) == WHOLE_SERVER || is_check(shared, head, bytes)
}

/// How many seconds the client has to wait that has sent too many requests; what the server answers itself does
/// not count.
fn over_rate(
    client: impl FnOnce() -> Peer,
    shared: &Shared,
    head: &Head,
    bytes: &[u8],
    now: Nanos,
) -> Option<u64> {
    let (table, limit) = shared.options.rate_limit.as_ref()?;
    let (address, _) = client()?;
    if is_own(shared, head, bytes) {
        return None;
    }
    let wait = table.take(limit, key_of(address), now);
    if wait == 0 {
        return None;
    }
    shared.scoreboard.count(CLIENT_RATE);
    Some(wait.div_ceil(SECOND).max(1))
}

/// What a trusted peer says in its forwarding fields; of those of others one is logged.
#[cold]
fn read_forwarded(
    connection: &Connection,
    shared: &Shared,
    head: &Head,
    bytes: &[u8],
) -> Result<Option<Box<Forwarded>>, Reason> {
    let found = read_fields(connection, shared, head, bytes)?;
    let Some(said) = connection.said() else {
        return Ok(found);
    };
    let mut found = found.unwrap_or_default();
    found.complete(said);
    Ok(Some(found))
}

fn read_fields(
    connection: &Connection,
    shared: &Shared,
    head: &Head,
    bytes: &[u8],
) -> Result<Option<Box<Forwarded>>, Reason> {
    let policy = &shared.options.forwarded;
    if !head.forwarding && !policy.reads_all() {
        return Ok(None);
    }
    if connection.trusted() {
        return policy.read(head, bytes);
    }
    if shared.told_of_forwarding.get() {
        return Ok(None); // as for each later request: clients decide how many there are
    }
    let mut names = head.fields.iter().map(|field| field.name.of(bytes));
    if let Some(name) = names.find(|name| policy.names(name)) {
        if !shared.told_of_forwarding.swap(true) {
            let peer = connection.peer().map(|(address, _)| address.to_string());
            let address = peer.as_deref().unwrap_or_default();
            shared.scoreboard.set_forwarding_peer(address);
            let arguments = [
                ("field", String::from_utf8_lossy(name).into_owned()),
                ("peer", peer.unwrap_or_else(|| "a unix socket".to_owned())),
            ];
            let entry = message("FORWARDING_NOT_BELIEVED", arguments);
            shared.log_queue.write(entry);
        }
    }
    Ok(None)
}

/// Whether a name has an underscore, and is not one that the peer may send.
fn has_underscore(connection: &Connection, options: &Options, head: &Head, bytes: &[u8]) -> bool {
    let believed = connection.trusted() && options.forwarded.believes(Field::ScriptName);
    head.fields.iter().any(|field| {
        let name = field.name.of(bytes);
        name.contains(&b'_') && !(believed && name.eq_ignore_ascii_case(b"script_name"))
    })
}
