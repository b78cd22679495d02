//! What both transports decide alike, as pure functions of numbers.
//!
//! `penstock.transport.decisions` is the reference, and says why; a test runs one table on both.

use crate::admission;
use crate::budgets::Budgets;
use crate::fair_queue;
use crate::options::{Options, StreamRequests};
use crate::sys::{Nanos, SECOND};

/// The share of slow calls of a path is kept in these units.
pub const ALL_SLOW: u8 = 254;

/// Return true if a worker leaves new connections to another one.
pub fn leaves_to_others(options: &Options, own: u64, fewest: Option<u64>, threads: u64) -> bool {
    fewest.is_some_and(|fewest| {
        let slack = if own < threads {
            options.balance_slack
        } else {
            0
        };
        own > fewest + slack + fewest / options.balance_share.max(1)
    })
}

/// Return true if a worker that is about to wait is woken for a client in place of another one;
/// `alone` is whether no other worker serves, `hindered` whether this one might not accept.
pub fn watches_exclusively(
    options: &Options,
    alone: bool,
    hindered: bool,
    connections: usize,
    descriptors: usize,
) -> bool {
    options.exclusive_wake && !alone && !hindered && has_room(options, connections, descriptors)
}

/// Return true if a worker that has accepted goes behind the others in the kernel's queue.
pub fn steps_back(own: u64, fewest: Option<u64>) -> bool {
    fewest.is_some_and(|fewest| own >= fewest)
}

/// Return true if a worker without a free thread accepts a client into its queue, where no other
/// worker has a free thread either.
pub fn accepts_into_queue(options: &Options, waited: Nanos, own: u64, fewest: Option<u64>) -> bool {
    // Where requests wait in each worker, none would serve a new client sooner by leaving it.
    (own > 0 && fewest != Some(0)) || waited >= options.busy_accept
}

/// Return how many connections a worker accepts in one turn; `alone` is whether no other one serves.
pub fn accept_step(options: &Options, alone: bool, deferrals: u32, in_vain: u32) -> usize {
    if alone {
        options.accept_batch
    } else if deferrals < options.balance_deferrals {
        options.balance_batch
    } else {
        1 << in_vain.min(options.balance_doublings).min(16)
    }
}

/// Return true if a connection that was just accepted is read from at once; `credit` is how many such
/// reads may begin, `number` counts the connections.
pub fn reads_at_once(options: &Options, credit: u64, number: u64) -> bool {
    credit > 0 || number % options.first_reads == 0
}

/// Return how many such reads may begin after another one has begun, or has `found` something.
pub fn first_read_credit(options: &Options, credit: u64, found: bool) -> u64 {
    if found {
        options.first_reads.min(credit + 2)
    } else {
        credit.saturating_sub(1)
    }
}

/// Return for how long the leader works off the events of a poll, until it polls again.
pub fn turn(options: &Options, found: usize) -> Nanos {
    if found > options.turn_events {
        options.turn
    } else {
        options.few_events_turn
    }
}

/// Return how many of these evictable connections make room.
pub fn evicted(idle: usize) -> usize {
    idle.min(1 + idle / 16)
}

/// What a connection has its place for, as far as eviction is concerned.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Holding {
    /// It is closed for writing, and its client has not closed yet.
    Lingering,
    Idle,
    Head,
    Body,
    /// A request that waits for a thread, is with the application, or is being answered.
    Call,
}

/// What sets the kinds of connections apart in `eviction_key`.
const EVICTION_RANK: f64 = 1e9;

/// Return the place of a connection in the order of eviction: the highest goes first, and one with
/// a negative key not at all.
pub fn eviction_key(options: &Options, holding: Holding, age: Nanos, received: u64) -> f64 {
    let seconds = age as f64 / SECOND as f64;
    match holding {
        _ if age < options.evict_idle => -1.0,
        Holding::Call => -1.0,
        Holding::Body => seconds / received.max(1) as f64,
        Holding::Head => EVICTION_RANK + seconds,
        Holding::Idle => EVICTION_RANK * 2.0 + seconds,
        Holding::Lingering => EVICTION_RANK * 3.0 + seconds,
    }
}

/// Return true if a worker has room for another connection.
pub fn has_room(options: &Options, connections: usize, descriptors: usize) -> bool {
    connections < options.max_connections && descriptors < options.budgets.descriptors
}

/// Return true if a client that has this number of connections may have another one.
pub fn client_has_room(budgets: &Budgets, connections: u64) -> bool {
    budgets.connections_per_client == 0 || connections < budgets.connections_per_client
}

/// Return true if the oldest of the unfinished heads is evicted because of their number.
pub fn exceeds_heads(budgets: &Budgets, heads: usize) -> bool {
    heads > budgets.unfinished_heads
}

/// Return until when the next byte of a body has to come, after `more` bytes came at `now`.
pub fn body_deadline(
    options: &Options,
    deadline: Nanos,
    now: Nanos,
    began: Nanos,
    more: u64,
) -> Nanos {
    let budgets = &options.budgets;
    let earned = (more as f64 / options.body_min_rate * SECOND as f64) as Nanos;
    deadline
        .saturating_add(earned)
        .min(now.saturating_add(budgets.body_window))
        .min(began.saturating_add(budgets.body_time))
}

/// Return until when the next byte of a body has to come, after the disk took `storing`.
pub fn body_deadline_after_storing(
    options: &Options,
    deadline: Nanos,
    began: Nanos,
    storing: Nanos,
) -> Nanos {
    deadline
        .saturating_add(storing)
        .min(began.saturating_add(options.budgets.body_time))
}

/// Return true if no more is read that would have to be written to a temporary file.
pub fn disk_is_full(options: &Options, held: usize) -> bool {
    held.saturating_add(options.store_bytes) > options.max_storing
}

/// Return how many more bytes of a body may be held in memory, beside `body` bytes of it and `held`
/// bytes of all bodies: those of a longer one are spooled.
pub fn body_room(options: &Options, body: u64, held: u64) -> u64 {
    let all = options.budgets.bodies.saturating_sub(held);
    let most = match held.saturating_mul(4) < options.budgets.bodies {
        true => options.body_memory.max(options.ample_body_memory),
        false => options.body_memory,
    };
    most.saturating_sub(body).min(all)
}

/// Return true if each read of a socket takes little, since requests take much of the memory: `held`
/// bytes of bodies and behind unsent responses, and `storing` bytes that wait for the disk.
pub fn input_is_scarce(options: &Options, held: u64, storing: usize) -> bool {
    let taken = held.saturating_add(storing as u64);
    taken.saturating_mul(2) >= options.budgets.bodies
}

/// Return the status that refuses `more` bytes for a temporary file; 0 if they may go there.
pub fn spool_status(options: &Options, body: u64, spooled: u64, more: u64) -> u16 {
    if body > options.parser.body {
        413
    } else if spooled.saturating_add(more) > options.budgets.spool {
        507
    } else {
        0
    }
}

/// Return true if the slowest reader is cut off because of the unsent bytes of all responses.
pub fn exceeds_unsent(budgets: &Budgets, unsent: u64) -> bool {
    unsent > budgets.unsent
}

/// Return true if the slowest readers are cut off at once, whatever else is to be done.
pub fn far_exceeds_unsent(budgets: &Budgets, unsent: u64) -> bool {
    unsent > budgets.unsent.saturating_add(budgets.unsent / 16)
}

/// Return true if no more readers are cut off, once one has been: they make a sixteenth of the room.
pub fn is_relieved(budgets: &Budgets, unsent: u64) -> bool {
    unsent <= budgets.unsent - budgets.unsent / 16
}

/// Return for how many connections at a time the kernel may hold `ahead_bytes` that are not on their
/// way to the client: together as much as may wait unsent in the worker.
pub fn most_ahead(options: &Options) -> u64 {
    options.budgets.unsent / options.ahead_bytes
}

/// Return how long a client needs for what it has not read yet, at its pace so far.
pub fn time_to_read(unsent: u64, taken: u64, waited: Nanos) -> Nanos {
    (waited as f64 * unsent as f64 / taken.max(1) as f64) as Nanos
}

/// What the application's thread does after a block of a response, before the next one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OutputStep {
    GoOn,
    /// It waits until the client has read more.
    Wait,
    /// It writes what is in memory to the response's temporary file.
    Spool,
    /// It waits, and has waited for a while, because no more may go into that file.
    WaitAtLimit,
}

/// Return what the application's thread does where a block of a response is unsent.
pub fn output_step(options: &Options, memory: u64, spool: u64, waited: Nanos) -> OutputStep {
    let waits_long = waited >= options.out_spool_patience;
    if memory <= options.out_buffer {
        OutputStep::GoOn
    } else if spool.saturating_add(memory) > options.budgets.out_spool {
        match waits_long {
            true => OutputStep::WaitAtLimit,
            false => OutputStep::Wait,
        }
    } else if spool > 0 || waits_long {
        OutputStep::Spool
    } else {
        OutputStep::Wait
    }
}

/// Why a response does not go into a temporary file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SpoolRefusal {
    None,
    /// The temporary files of all workers have as many bytes as a response may add to.
    Full,
    /// No descriptor is left for the transport.
    Files,
}

/// Return why `more` bytes of a response do not go into a temporary file. `descriptors` is None
/// where the response has its file.
pub fn out_spool_refusal(
    budgets: &Budgets,
    spooled: u64,
    more: u64,
    descriptors: Option<usize>,
) -> SpoolRefusal {
    if spooled.saturating_add(more) > budgets.responses_spooled {
        SpoolRefusal::Full
    } else if descriptors.is_some_and(|descriptors| descriptors >= budgets.descriptors) {
        SpoolRefusal::Files
    } else {
        SpoolRefusal::None
    }
}

/// What is known of the client of a request in the queue.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Leaving {
    Stays,
    /// It has ended its side: it may have left, or wait for the answer.
    HalfClosed,
    /// The connection is reset or broken.
    Gone,
}

/// Return true if another request may wait for a thread; else it gets 503.
pub fn queue_has_room(budgets: &Budgets, waiting: usize) -> bool {
    waiting < budgets.queue
}

/// Return how a request in the queue ends without a thread; 0 if a thread takes it.
pub fn queued_status(options: &Options, waited: Nanos, leaving: Leaving, sustained: bool) -> u16 {
    match leaving {
        Leaving::Gone => options.client_left,
        Leaving::HalfClosed if sustained => options.client_left,
        _ if waited > options.budgets.queue_timeout => 503,
        _ => 0,
    }
}

/// Return `Retry-After` of a 503 in seconds: until the requests that wait have been served.
pub fn retry_after(budgets: &Budgets, waiting: u64, service: Nanos, threads: u64) -> u64 {
    let rest = waiting.saturating_mul(service) / threads.max(1);
    rest.div_ceil(SECOND).max(1).min(budgets.retry_after)
}

/// Return true unless the queue has been full for too long.
pub fn ready_with_queue(budgets: &Budgets, full: Nanos) -> bool {
    budgets.overload_ready_after == 0 || full < budgets.overload_ready_after
}

/// Return true if another call may leave the count of threads; `left` is how many have left it.
pub fn may_leave_count(options: &Options, left: u64, threads: u64) -> bool {
    threads > 1 && left < options.max_io_bound
}

/// Return true if another WebSocket may be opened; `opened` is how many there are.
pub fn may_open_websocket(options: &Options, opened: u64) -> bool {
    opened < options.max_websockets
}

/// Return true if a request's target may have its scheme on this connection.
pub fn accepts_scheme(https_target: bool, secure: bool) -> bool {
    secure || !https_target
}

/// Return true if the application is called before a request's body has come; `length` is None for
/// chunks, `streaming` is how many requests with such a body are in progress.
pub fn streams_body(options: &Options, length: Option<u64>, expects: bool, streaming: u64) -> bool {
    match (options.stream_requests, length) {
        (StreamRequests::Always, _) => true,
        (StreamRequests::Auto, Some(length)) if streaming < most_streamed(options) => {
            expects || length > options.body_memory
        }
        _ => false,
    }
}

/// What is done with a body whose part in memory is full.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HandOver {
    /// It goes to a file.
    Never,
    /// It waits until fewer bodies are read by the application.
    Later,
    /// The application is called, and reads the rest as it arrives.
    Now,
}

/// Say what is done with a body of which `received` bytes came within `took`. The other arguments are
/// those of `streams_body`.
pub fn hand_over(
    options: &Options,
    length: Option<u64>,
    received: u64,
    took: Nanos,
    streaming: u64,
) -> HandOver {
    let by_speed = matches!(
        options.stream_requests,
        StreamRequests::Fast | StreamRequests::Auto
    );
    let Some(length) = length.filter(|_| by_speed && options.threads > 1) else {
        return HandOver::Never;
    };
    let took = took.max(options.fast_least);
    let rest = u128::from(length.saturating_sub(received)) * u128::from(took);
    if rest > u128::from(received) * u128::from(options.fast_rest) {
        HandOver::Never
    } else if streaming < most_streamed(options) {
        HandOver::Now
    } else {
        HandOver::Later
    }
}

/// Return how many threads may read bodies as they arrive, unless all requests are served like that:
/// the others are left to others.
pub fn most_streamed(options: &Options) -> u64 {
    options.threads / 2
}

/// Return true if the unread rest of a request's body is dropped to keep the connection.
pub fn keeps_connection(
    discard_bytes: u64,
    continue_owed: bool,
    remaining: Option<u64>,
    arrived: u64,
) -> bool {
    !continue_owed && remaining.is_some_and(|remaining| remaining <= arrived.min(discard_bytes))
}

/// Return true if a connection lingers whose response has been sent. `last` is whether the client asked
/// for the close, in a request without a body, and was answered at once.
pub fn lingers(
    options: &Options,
    last: bool,
    requests: u64,
    unread: bool,
    sent: u64,
    secure: bool,
) -> bool {
    !last || requests != 1 || unread || sent > options.unlingered_bytes || secure
}

/// Return when a connection that lingers since `since` is closed if nothing arrives.
pub fn linger_deadline(options: &Options, now: Nanos, since: Nanos, draining: bool) -> Nanos {
    let idle = if draining {
        options.linger_idle.min(options.drain_linger)
    } else {
        options.linger_idle
    };
    let end = since.saturating_add(options.linger);
    now.saturating_add(idle).min(end)
}

/// Return true if `max_body_time`, and no other setting, decided about the deadline of a body.
pub fn exceeds_body_time(budgets: &Budgets, deadline: Nanos, began: Nanos) -> bool {
    deadline >= began.saturating_add(budgets.body_time)
}

/// Return how long a draining transport waits for an idle or lingering client, or for the rest of a
/// head.
pub fn drain_patience(options: &Options, in_head: bool) -> Nanos {
    if in_head {
        options.drain_linger.max(options.drain_head)
    } else {
        options.drain_linger
    }
}

/// A path's share of slow calls after another call.
pub fn next_share(share: u8, slow: bool) -> u8 {
    if slow {
        share + ALL_SLOW.saturating_sub(share).div_ceil(8)
    } else {
        share - share.div_ceil(8)
    }
}

/// The share of slow calls of all paths after another call; a tiny one becomes 0.
pub fn next_overall_share(share: f32, slow: bool) -> f32 {
    let moved = share + (f32::from(u8::from(slow)) - share) * 0.05;
    if moved >= 0.0001 { moved } else { 0.0 }
}

/// Return true if calls of a path with this share of slow ones are expected to be slow.
pub fn is_slow_path(slow_share: f64, share: u8) -> bool {
    f64::from(share) > (slow_share * f64::from(ALL_SLOW)).round()
}

/// Return what the function of this name makes of numbers, for the test; None where it has none.
/// Sizes and counts are numbers, times are seconds, and 0 is false.
pub fn decide(options: &Options, name: &str, given: &[Option<f64>]) -> Option<f64> {
    let budgets = &options.budgets;
    let optional = |index: usize| given.get(index).copied().flatten();
    let whole = |index: usize| optional(index).unwrap_or(0.0) as u64;
    let small = |index: usize| whole(index) as u32;
    let flag = |index: usize| whole(index) != 0;
    let time = |index: usize| (optional(index).unwrap_or(0.0) * SECOND as f64) as Nanos;
    let seconds = |time: Nanos| time as f64 / SECOND as f64;
    let number = |decided: bool| f64::from(u8::from(decided));
    Some(match name {
        "leaves_to_others" => {
            let fewest = optional(1).map(|fewest| fewest as u64);
            number(leaves_to_others(options, whole(0), fewest, whole(2)))
        }
        "watches_exclusively" => {
            let (connections, descriptors) = (whole(2) as usize, whole(3) as usize);
            number(watches_exclusively(
                options,
                flag(0),
                flag(1),
                connections,
                descriptors,
            ))
        }
        "steps_back" => number(steps_back(
            whole(0),
            optional(1).map(|fewest| fewest as u64),
        )),
        "accepts_into_queue" => {
            let fewest = optional(2).map(|fewest| fewest as u64);
            number(accepts_into_queue(options, time(0), whole(1), fewest))
        }
        "accept_step" => accept_step(options, flag(0), small(1), small(2)) as f64,
        "reads_at_once" => number(reads_at_once(options, whole(0), whole(1))),
        "first_read_credit" => first_read_credit(options, whole(0), flag(1)) as f64,
        "evicted" => evicted(whole(0) as usize) as f64,
        "eviction_key" => {
            let holding = match whole(0) {
                0 => Holding::Lingering,
                1 => Holding::Idle,
                2 => Holding::Head,
                3 => Holding::Body,
                _ => Holding::Call,
            };
            eviction_key(options, holding, time(1), whole(2))
        }
        "has_room" => number(has_room(options, whole(0) as usize, whole(1) as usize)),
        "client_has_room" => number(client_has_room(budgets, whole(0))),
        "exceeds_heads" => number(exceeds_heads(budgets, whole(0) as usize)),
        "body_deadline" => {
            let decided = body_deadline(options, time(0), time(1), time(2), whole(3));
            seconds(decided)
        }
        "body_deadline_after_storing" => seconds(body_deadline_after_storing(
            options,
            time(0),
            time(1),
            time(2),
        )),
        "disk_is_full" => number(disk_is_full(options, whole(0) as usize)),
        "exceeds_body_time" => number(exceeds_body_time(budgets, time(0), time(1))),
        "body_room" => body_room(options, whole(0), whole(1)) as f64,
        "input_is_scarce" => number(input_is_scarce(options, whole(0), whole(1) as usize)),
        "spool_status" => f64::from(spool_status(options, whole(0), whole(1), whole(2))),
        "is_relieved" => number(is_relieved(budgets, whole(0))),
        "far_exceeds_unsent" => number(far_exceeds_unsent(budgets, whole(0))),
        "most_ahead" => most_ahead(options) as f64,
        "exceeds_unsent" => number(exceeds_unsent(budgets, whole(0))),
        "time_to_read" => seconds(time_to_read(whole(0), whole(1), time(2))),
        "output_step" => f64::from(output_step(options, whole(0), whole(1), time(2)) as u8),
        "out_spool_refusal" => {
            let descriptors = optional(2).map(|descriptors| descriptors as usize);
            let refusal = out_spool_refusal(budgets, whole(0), whole(1), descriptors);
            f64::from(refusal as u8)
        }
        "queue_has_room" => number(queue_has_room(budgets, whole(0) as usize)),
        "queued_status" => {
            let leaving = match whole(1) {
                0 => Leaving::Stays,
                1 => Leaving::HalfClosed,
                _ => Leaving::Gone,
            };
            f64::from(queued_status(options, time(0), leaving, flag(2)))
        }
        "retry_after" => retry_after(budgets, whole(0), time(1), whole(2)) as f64,
        "ready_with_queue" => number(ready_with_queue(budgets, time(0))),
        "may_leave_count" => number(may_leave_count(options, whole(0), whole(1))),
        "may_open_websocket" => number(may_open_websocket(options, whole(0))),
        "overload" => admission::replay(budgets, given),
        "turn_seconds" => seconds(turn(options, whole(0) as usize)),
        "fair_queue" => fair_queue::replay(given),
        "accepts_scheme" => number(accepts_scheme(flag(0), flag(1))),
        "streams_body" => {
            let length = optional(0).map(|length| length as u64);
            number(streams_body(options, length, flag(1), whole(2)))
        }
        "most_streamed" => most_streamed(options) as f64,
        "hand_over" => {
            let length = optional(0).map(|length| length as u64);
            f64::from(hand_over(options, length, whole(1), time(2), whole(3)) as u8)
        }
        "keeps_connection" => {
            let remaining = optional(1).map(|remaining| remaining as u64);
            number(keeps_connection(
                options.discard_bytes,
                flag(0),
                remaining,
                whole(2),
            ))
        }
        "lingers" => number(lingers(
            options,
            flag(0),
            whole(1),
            flag(2),
            whole(3),
            flag(4),
        )),
        "linger_deadline" => seconds(linger_deadline(options, time(0), time(1), flag(2))),
        "drain_patience" => seconds(drain_patience(options, flag(0))),
        "next_share" => f64::from(next_share(whole(0) as u8, flag(1))),
        "next_overall_share" => {
            let share = optional(0).unwrap_or(0.0) as f32;
            f64::from(next_overall_share(share, flag(1)))
        }
        "is_slow_path" => number(is_slow_path(options.slow_share, whole(0) as u8)),
        _ => return None,
    })
}
