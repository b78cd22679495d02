//! What a proxy says of a connection before all else: the PROXY header, or the uwsgi packet.

use crate::closing;
use crate::connection::{Connection, ConnectionState, Proxied, first_patience};
use crate::forwarded::Forwarded;
use crate::handshaking;
use crate::leader::LeaderState;
use crate::proxy_protocol::{self, ProxyHeader};
use crate::reading;
use crate::refusal::Refusal;
use crate::refusing;
use crate::request::Ready;
use crate::shared::Shared;
use crate::states::{Input, Phase};
use crate::sys::SECOND;
use crate::uwsgi::{self, Bad, Packet};
use std::io;
use std::sync::Arc;

/// What taking the bytes of a header led to.
enum Taken {
    Complete(ProxyHeader),
    MoreInput,
    /// The connection is over, and nothing of a header had come.
    Ended,
}

/// Take the bytes of the header, and none behind it: those may be TLS.
pub fn read_header(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<Ready> {
    if shared.options.speaks_uwsgi(connection.listener) {
        return read_packet(connection, shared, leader, state);
    }
    match take(connection, shared, leader, state) {
        Ok(Taken::Complete(header)) => go_on(connection, shared, leader, state, header),
        Ok(Taken::MoreInput) => None,
        Ok(Taken::Ended) => {
            closing::close(connection, shared, state);
            None
        }
        Err(reason) => {
            refuse_in_plain(
                connection,
                shared,
                leader,
                state,
                Refusal::proxy_header(reason),
            );
            None
        }
    }
}

/// Answer a connection that does not begin as it has to, before TLS if that comes.
fn refuse_in_plain(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
    refusal: Refusal,
) {
    connection.stream.speak_plain();
    refusing::refuse(connection, shared, leader, state, refusal);
}

fn take(
    connection: &Connection,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Result<Taken, &'static str> {
    let options = &shared.options;
    let most = options.proxy_header_bytes.min(leader.read.buffer.len());
    loop {
        let room = leader.read.buffer.get_mut(..most).unwrap_or_default();
        let there = match connection.stream.peek_raw(room) {
            Ok(0) if state.proxy_header.is_empty() => return Ok(Taken::Ended),
            Ok(0) => return Err(proxy_protocol::MALFORMED),
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                state.input = Input::Drained;
                return Ok(Taken::MoreInput);
            }
            Err(_) => return Ok(Taken::Ended),
        };
        let before = state.proxy_header.len();
        state
            .proxy_header
            .extend_from_slice(room.get(..there).unwrap_or_default());
        let (size, complete) =
            proxy_protocol::scan(&state.proxy_header, options.proxy_versions, most)?;
        let own = room.get_mut(..size - before).unwrap_or_default();
        if !matches!(connection.stream.receive_raw(own), Ok(taken) if taken == size - before) {
            return Ok(Taken::Ended);
        }
        state.proxy_header.truncate(size);
        if complete {
            let header = std::mem::take(&mut state.proxy_header);
            return proxy_protocol::parse(&header).map(Taken::Complete);
        }
    }
}

/// Go on as the connection of the client that the header names, if it names one.
fn go_on(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
    header: ProxyHeader,
) -> Option<Ready> {
    if !be_client(connection, shared, state, header, None) {
        return None;
    }
    if connection.stream.awaits_handshake() {
        handshaking::begin_behind_proxy(connection, shared, leader, state);
        return None;
    }
    go_on_reading(connection, shared, leader, state)
}

/// Be the connection of the client that a proxy names, if it names one; return false, with the
/// connection closed, if that client may not connect.
fn be_client(
    connection: &Arc<Connection>,
    shared: &Shared,
    state: &mut ConnectionState,
    header: ProxyHeader,
    said: Option<Box<Forwarded>>,
) -> bool {
    let client = header.client;
    if client.is_some() {
        if let Some(reason) = shared.refuses_client(client) {
            shared.scoreboard.count(reason);
            closing::close(connection, shared, state);
            return false;
        }
        shared.count_client(client, true);
    }
    connection.set_proxied(Proxied {
        peer: client.or_else(|| connection.peer()),
        // Where no client is named, its fields are not the proxy's own: it only passes them on.
        trusted: client.is_some() && shared.options.forwarded.peers.trusts(client),
        counted: client,
        variables: header.variables,
        said,
    });
    true
}

fn go_on_reading(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<Ready> {
    connection.set_phase(state, Phase::Reading);
    state.since = leader.now;
    let patience = first_patience(&shared.options, shared.draining.get());
    connection.set_deadline(leader.now.saturating_add(patience));
    state.input = Input::Possible;
    reading::read(connection, shared, leader, state)
}

/// Take the bytes of a packet, and none behind it: those are the body's. Go on with its request as
/// with one of HTTP.
fn read_packet(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Option<Ready> {
    let packet = match take_packet(connection, shared, leader, state) {
        Ok(Some(packet)) => packet,
        Ok(None) => return None,
        Err(bad) => {
            refusing::refuse(connection, shared, leader, state, bad.refusal());
            return None;
        }
    };
    let header = ProxyHeader {
        client: packet.client,
        variables: packet.variables,
    };
    let said = Some(Box::new(packet.said));
    if !be_client(connection, shared, state, header, said) {
        return None;
    }
    state.carry.keep(&packet.head, packet.head.len());
    state.left_over = true;
    if let Some(trace) = &mut state.trace {
        trace.received(&packet.head);
    }
    go_on_reading(connection, shared, leader, state)
}

/// The packet once it is complete. None before that, and where the connection has ended.
fn take_packet(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) -> Result<Option<Packet>, Bad> {
    loop {
        let size = uwsgi::scan(&state.proxy_header, shared.options.parser.head)?;
        let missing = size - state.proxy_header.len();
        if missing == 0 && size > uwsgi::HEADER_BYTES {
            let packet = std::mem::take(&mut state.proxy_header);
            let id_length = shared.options.forwarded.request_id_length;
            return uwsgi::parse(&packet, id_length).map(Some);
        }
        let room = missing.min(leader.read.buffer.len());
        let room = leader.read.buffer.get_mut(..room).unwrap_or_default();
        match connection.stream.receive_raw(room) {
            Ok(0) if !state.proxy_header.is_empty() => return Err(Bad::malformed()),
            Ok(received) if received > 0 => {
                let received = room.get(..received).unwrap_or_default();
                state.proxy_header.extend_from_slice(received);
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                state.input = Input::Drained;
                return Ok(None);
            }
            _ => {
                closing::close(connection, shared, state);
                return Ok(None);
            }
        }
    }
}

/// End a connection whose header has not come in time.
pub fn expire(
    connection: &Arc<Connection>,
    shared: &Shared,
    leader: &mut LeaderState,
    state: &mut ConnectionState,
) {
    if state.proxy_header.is_empty() {
        closing::close(connection, shared, state);
        return;
    }
    let allowed = shared.options.header_timeout as f64 / SECOND as f64;
    let what = match shared.options.speaks_uwsgi(connection.listener) {
        true => "uwsgi packet",
        false => "PROXY header",
    };
    let text = format!("The {what} did not arrive within {allowed} s.");
    let refusal = Refusal::late(text, "header_timeout", &[]);
    refuse_in_plain(connection, shared, leader, state, refusal);
}
