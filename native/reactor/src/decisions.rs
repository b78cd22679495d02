//! What both transports decide alike, as pure functions of numbers.
//!
//! `penstock.transport.decisions` is the reference, and says why; a test runs one table on both.

use crate::shared::Options;
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

/// Return how many connections a worker accepts in one turn, where others accept, too.
pub fn accept_step(options: &Options, deferrals: u32, in_vain: u32) -> usize {
    if deferrals < options.balance_deferrals {
        options.balance_batch
    } else {
        1 << in_vain.min(options.balance_doublings).min(16)
    }
}

/// Return how many of these evictable connections make room.
pub fn evicted(idle: usize) -> usize {
    idle.min(1 + idle / 16)
}

/// Return true if the unread rest of a request's body is dropped to keep the connection.
pub fn keeps_connection(discard_bytes: u64, continue_owed: bool, remaining: Option<u64>) -> bool {
    !continue_owed && remaining.is_some_and(|remaining| remaining <= discard_bytes)
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
        "accept_step" => accept_step(options, small(0), small(1)) as f64,
        "evicted" => evicted(whole(0) as usize) as f64,
        "keeps_connection" => {
            let remaining = optional(1).map(|remaining| remaining as u64);
            number(keeps_connection(options.discard_bytes, flag(0), remaining))
        }
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
