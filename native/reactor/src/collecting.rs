//! Collecting the body of a request: where its content is received, and whether the application is
//! called before it is complete.

use crate::connection::{Connection, ConnectionState};
use crate::decisions::{self, HandOver};
use crate::exchange::ExchangeState;
use crate::refusal::Refusal;
use crate::request::Body;
use crate::shared::Shared;
use crate::spool::{Gathered, HeldBody, Spool};
use crate::states::Phase;
use crate::streamed_bodies::Streaming;
use crate::sys::Nanos;
use std::io;

/// What is known of a body when more of it is kept.
pub struct Progress {
    /// What Content-Length says.
    pub length: Option<u64>,
    /// It has come to its end.
    pub complete: bool,
    /// It may be handed over to the application.
    pub open: bool,
}

/// Receive content of a body where it is collected, if nothing else can come with it and there is
/// memory for it; `most` becomes how many bytes that are at most.
///
/// Not where the connection is traced: the trace keeps the bytes in their order.
pub fn receive_in_place(
    connection: &Connection,
    shared: &Shared,
    state: &mut ConnectionState,
    most: &mut usize,
) -> Option<io::Result<usize>> {
    let ConnectionState {
        parser,
        carry,
        exchange,
        trace,
        phase,
        ..
    } = state;
    let spool = exchange.spool.as_mut()?;
    if *phase != Phase::Reading || trace.is_some() || !carry.remaining().is_empty() {
        return None;
    }
    let remaining = parser.body_remaining(0)?;
    let room = remaining.min(shared.spooling.room(&shared.options, spool));
    let size = usize::try_from(room).unwrap_or(usize::MAX).min(*most);
    let Spool::Memory(body) = spool else {
        return None;
    };
    if size == 0 {
        return None;
    }
    *most = size;
    let stream = &connection.stream;
    let received = body.receive(size, room as usize, &shared.spooling.memory, |place| {
        stream.receive(place)
    });
    let size = *received.as_ref().unwrap_or(&0);
    parser.note_content(size);
    exchange.body_received += size as u64;
    Some(received)
}

/// Keep what one block of input had of a body that is collected, and say whether the body is handed
/// over: then all of it stays in memory. Fails where there is no room for it.
pub fn keep(
    shared: &Shared,
    exchange: &mut ExchangeState,
    gathered: &mut Gathered<'_>,
    progress: &Progress,
    now: Nanos,
) -> Result<HandOver, Box<Refusal>> {
    let options = &shared.options;
    let Some(spool) = &mut exchange.spool else {
        return Ok(HandOver::Never);
    };
    let size = gathered.size();
    let fits = size as u64 <= shared.spooling.room(options, spool);
    let received = exchange.body_received + size as u64;
    let mut handing = HandOver::Never;
    if !fits && progress.open && matches!(spool, Spool::Memory(_)) {
        let streaming = shared.streamed_bodies.count();
        let took = now.saturating_sub(exchange.head_at + exchange.waited);
        handing = decisions::hand_over(options, progress.length, received, took, streaming);
        if handing == HandOver::Later && (progress.complete || exchange.waited >= options.fast_rest)
        {
            handing = HandOver::Never;
        }
    }
    let held = fits || handing != HandOver::Never;
    if !held && size > 0 {
        let status = shared.spooling.admit(options, spool, size);
        if status != 0 {
            return Err(Box::new(Refusal::spool_full(status)));
        }
    }
    exchange.body_received = received;
    let added = gathered.add_to(spool, held, &shared.spooling);
    added.map_err(|error| Box::new(Refusal::no_room(&error)))?;
    Ok(handing)
}

/// The body of a request that the application reads as it arrives, behind what has come of it.
pub fn streamed(shared: &Shared, come: Option<Spool>) -> Body {
    let counted = Streaming::new(&shared.streamed_bodies);
    let come = match come {
        Some(Spool::Memory(body)) => body,
        _ => HeldBody::default(),
    };
    Body::Streamed(counted, come)
}
