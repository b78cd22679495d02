//! What each finished request adds to the histograms of its worker's slot. The reference is
//! `penstock.telemetry.histograms`, and a test compares the two.

use crate::scoreboard::{SERIES_USED, SERIES_WORDS, STATUSES, Scoreboard};
use crate::sys::Nanos;
use penstock_protocol::Version;
use std::sync::atomic::Ordering;

/// The upper bounds of the buckets; the last bucket has none.
pub const BOUNDS: [Nanos; 14] = [
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    75_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    750_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
    7_500_000_000,
    10_000_000_000,
];

const HISTOGRAM_WORDS: usize = BOUNDS.len() + 2;
const SUM: usize = HISTOGRAM_WORDS - 1;

/// The times that have a histogram, in the order of the words of a series.
enum Time {
    Duration,
    FirstByte,
    Queue,
    Application,
    RequestLockWait,
}

const METHODS: usize = 8;
const CLASSES: usize = 5;

/// A method as series name it. One that is in no list is the last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MethodNumber(u8);

impl MethodNumber {
    #[inline]
    pub fn of(method: &[u8]) -> Self {
        MethodNumber(match method {
            b"GET" => 0,
            b"HEAD" => 1,
            b"POST" => 2,
            b"PUT" => 3,
            b"PATCH" => 4,
            b"DELETE" => 5,
            b"OPTIONS" => 6,
            _ => 7,
        })
    }
}

/// A protocol as series name it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Protocol {
    Http11,
    Http10,
    Other,
}

impl Protocol {
    /// The protocol at the end of a request line that may be of any form.
    pub fn of_line(line: &[u8]) -> Self {
        let mut words = line.split(|byte| *byte == b' ');
        match (words.next(), words.next(), words.next(), words.next()) {
            (_, Some(_), Some(b"HTTP/1.1"), None) => Protocol::Http11,
            (_, Some(_), Some(b"HTTP/1.0"), None) => Protocol::Http10,
            _ => Protocol::Other,
        }
    }
}

impl From<Version> for Protocol {
    fn from(version: Version) -> Self {
        match version {
            Version::Http11 => Protocol::Http11,
            Version::Http10 => Protocol::Http10,
        }
    }
}

/// The number of a series.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Series(usize);

impl Series {
    #[inline]
    pub fn new(method: MethodNumber, status: u16, protocol: Protocol) -> Self {
        // An application may send a code beyond 599.
        let class = usize::from(status / 100).clamp(1, CLASSES) - 1;
        Series((protocol as usize * METHODS + usize::from(method.0)) * CLASSES + class)
    }

    pub fn number(self) -> usize {
        self.0
    }
}

/// What is counted of one request.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    pub method: MethodNumber,
    pub status: u16,
    pub protocol: Protocol,
    pub began: Nanos,
    /// When the first byte of the response was sent; None where there was none.
    pub first_byte: Option<Nanos>,
    /// How long it waited for a thread; None where it was not to get one.
    pub queue: Option<Nanos>,
    /// How long the application had it; None where it did not get it.
    pub application: Option<Nanos>,
    /// How long its threads waited for the interpreter lock; of those that the application got.
    pub lock_wait: Nanos,
}

/// Count a request that was over at `finished`. Any thread may.
pub fn count_request(scoreboard: &Scoreboard, measured: &Measured, finished: Nanos) {
    let Measured { status, began, .. } = *measured;
    let series = Series::new(measured.method, status, measured.protocol);
    let used = scoreboard.word(SERIES_USED + series.0 / 64);
    let bit = 1 << (series.0 % 64);
    if used.load(Ordering::Relaxed) & bit == 0 {
        used.fetch_or(bit, Ordering::Relaxed);
    }
    let above = usize::from(status).checked_sub(100);
    if let Some(above) = above.filter(|it| *it < STATUSES) {
        scoreboard
            .status_word(above)
            .fetch_add(1, Ordering::Relaxed);
    }
    let observe = |which, time| observe(scoreboard, series, which, time);
    observe(Time::Duration, finished.saturating_sub(began));
    if let Some(sent) = measured.first_byte {
        observe(Time::FirstByte, sent.saturating_sub(began));
    }
    if let Some(time) = measured.queue {
        observe(Time::Queue, time);
    }
    if let Some(time) = measured.application {
        observe(Time::Application, time);
        observe(Time::RequestLockWait, measured.lock_wait);
    }
}

#[inline]
fn observe(scoreboard: &Scoreboard, series: Series, which: Time, time: Nanos) {
    let begin = series.0 * SERIES_WORDS + which as usize * HISTOGRAM_WORDS;
    let bucket = match BOUNDS.first() {
        Some(first) if time <= *first => 0, // most are
        _ => BOUNDS.iter().filter(|bound| time > **bound).count(),
    };
    scoreboard
        .series_word(begin + bucket)
        .fetch_add(1, Ordering::Relaxed);
    if time > 0 {
        scoreboard
            .series_word(begin + SUM)
            .fetch_add(time, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_one_method_class_of_status_and_protocol() {
        let series = |method, status, protocol| {
            Series::new(MethodNumber::of(method), status, protocol).number()
        };
        assert_eq!(series(b"GET", 100, Protocol::Http11), 0);
        assert_eq!(series(b"GET", 204, Protocol::Http11), 1);
        assert_eq!(series(b"HEAD", 599, Protocol::Http11), 9);
        assert_eq!(series(b"OPTIONS", 200, Protocol::Http10), 71);
        assert_eq!(series(b"BREW", 999, Protocol::Other), 119);
        assert_eq!(series(b"BREW", 0, Protocol::Other), 115);
    }

    #[test]
    fn the_protocol_of_a_line_of_three_words_is_the_last() {
        assert_eq!(Protocol::of_line(b"GET / HTTP/1.1"), Protocol::Http11);
        assert_eq!(Protocol::of_line(b"GET / HTTP/1.0"), Protocol::Http10);
        for line in [&b"GET  / HTTP/1.1"[..], b"GET / HTTP/1.1 ", b"GET /", b""] {
            assert_eq!(Protocol::of_line(line), Protocol::Other);
        }
    }
}
