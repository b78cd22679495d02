//! Properties that hold for all bytes: the result does not depend on how they are split into
//! packets, nothing panics or loops for ever, and what is kept stays within its bound.
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]
#![allow(clippy::indexing_slicing, clippy::expect_used)]

mod support;

use penstock_protocol::{FieldCache, Limits};
use proptest::prelude::*;
use proptest::sample::select;
use support::{byte_by_byte, parse, parse_cached, split_at};

/// Small limits, so that short inputs reach them.
const SMALL: Limits = Limits {
    request_line: 60,
    fields: 4,
    field_size: 40,
    head: 150,
    chunk_overhead: 12,
    chunk_framing: 30,
    chunk_framing_ratio: 2,
    body: 40,
};

const FRAGMENTS: &[&[u8]] = &[
    b"GET / HTTP/1.1\r\n",
    b"POST /p?q HTTP/1.1\r\n",
    b"Host: a\r\n",
    b"Host: a\r\n\r\n",
    b"Content-Length: 3\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"X: y\r\n",
    b"X:",
    b"Connection: close\r\n",
    b"Expect: 100-continue\r\n",
    b"\r\n",
    b"\r",
    b"\n",
    b"0\r\n\r\n",
    b"3\r\nabc\r\n",
    b"3",
    b";a=b",
    b"\"",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"abc",
    b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    b"CONNECT",
    b"HTTP/2.0",
    b"*",
    b":",
    b"http://b/",
];

/// Heads of requests with and without a body.
const STARTS: &[&[u8]] = &[
    b"",
    b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n",
    b"POST / HTTP/1.0\r\nContent-Length: 3\r\n\r\n",
];

fn streams() -> impl Strategy<Value = Vec<u8>> {
    let fragments = prop::collection::vec(select(FRAGMENTS), 0..24).prop_map(|all| all.concat());
    let bytes = prop::collection::vec(any::<u8>(), 0..80);
    let rest = prop_oneof![3 => fragments, 1 => bytes];
    (select(STARTS), rest).prop_map(|(start, rest)| [start, &rest[..]].concat())
}

fn config() -> ProptestConfig {
    let default = ProptestConfig::default(); // PROPTEST_CASES in the environment asks for more
    ProptestConfig {
        cases: default.cases.max(2000),
        failure_persistence: None,
        ..default
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn events_do_not_depend_on_how_the_bytes_are_split(
        raw in streams(),
        cuts in prop::collection::vec(any::<usize>(), 0..8),
        eof: bool,
        small: bool,
    ) {
        let limits = if small { SMALL } else { Limits::default() };
        let whole = parse([&raw[..]], eof, &limits);
        let by_bytes = parse(byte_by_byte(&raw), eof, &limits);
        prop_assert_eq!(by_bytes.essence(), whole.essence());
        let split = parse(split_at(&raw, &cuts), eof, &limits);
        prop_assert_eq!(split.essence(), whole.essence());
    }

    #[test]
    fn what_fields_mean_does_not_depend_on_earlier_requests(
        before in prop::collection::vec(streams(), 0..4),
        raw in streams(),
        small: bool,
    ) {
        let limits = if small { SMALL } else { Limits::default() };
        let mut cache = Some(FieldCache::default());
        for stream in before.iter().chain([&raw, &raw]) {
            parse_cached([&stream[..]], false, &limits, &mut cache);
        }
        let plain = parse([&raw[..]], true, &limits);
        let cached = parse_cached([&raw[..]], true, &limits, &mut cache);
        prop_assert_eq!(cached.essence(), plain.essence());
        prop_assert_eq!(cached.request_line, plain.request_line);
    }

    /// `parse` itself checks that the parser does not loop for ever.
    #[test]
    fn the_bytes_kept_between_packets_are_bounded_by_the_limits(raw in streams()) {
        let kept = parse(byte_by_byte(&raw), false, &SMALL).most_kept;
        prop_assert!(kept <= SMALL.head.max(16 + SMALL.chunk_overhead + 1), "{}", kept);
    }

    #[test]
    fn arbitrary_bytes_give_requests_or_an_error_status(
        raw in prop::collection::vec(any::<u8>(), 0..2000),
        eof: bool,
    ) {
        let outcome = parse([&raw[..]], eof, &Limits::default());
        if let Some(error) = outcome.error {
            prop_assert!((400..600).contains(&error.status));
        }
        if eof {
            prop_assert_eq!(outcome.error.is_none(), outcome.closed);
        }
    }
}

/// With the largest limits that the types allow, no sum of sizes may overflow.
#[test]
fn sizes_without_a_limit_do_not_overflow() {
    let limits = Limits {
        request_line: usize::MAX,
        fields: usize::MAX,
        field_size: usize::MAX,
        head: usize::MAX,
        chunk_overhead: usize::MAX,
        chunk_framing: u64::MAX,
        chunk_framing_ratio: u64::MAX,
        body: u64::MAX,
    };
    for raw in [
        &b"POST / HTTP/1.0\r\nContent-Length: 18446744073709551615\r\n\r\nabc"[..],
        b"POST / HTTP/1.0\r\nContent-Length: 18446744073709551616\r\n\r\nabc",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nab",
        b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\na\r\n0\r\nX: y\r\n",
    ] {
        for eof in [false, true] {
            let whole = parse([raw], eof, &limits);
            assert_eq!(parse(byte_by_byte(raw), eof, &limits).essence(), whole.essence());
        }
    }
}

/// The same fields with different request lines: the cache has them from the second time on, unless
/// the request line changes what they mean.
#[test]
fn repeated_fields_come_from_the_cache_unless_the_request_line_changes_their_meaning() {
    const FIELDS: &str = "Host: a\r\nCookie: x=1\r\nConnection: close\r\n\r\n";
    let mut cache = Some(FieldCache::default());
    for (line, cached) in [
        ("GET / HTTP/1.1", 0),
        ("GET / HTTP/1.1", 1),
        ("GET /other?q HTTP/1.1", 1),
        ("HEAD /third HTTP/1.1", 1),
        ("GET / HTTP/1.0", 0),
        ("GET http://b/ HTTP/1.1", 0),
        ("GET nonsense HTTP/1.1", 0),
    ] {
        let raw = format!("{line}\r\n{FIELDS}").into_bytes();
        let limits = Limits::default();
        let outcome = parse_cached([&raw[..]], true, &limits, &mut cache);
        assert_eq!(outcome.cached, cached, "{line}");
        assert_eq!(
            outcome.essence(),
            parse([&raw[..]], true, &limits).essence()
        );
    }
}

/// The length of a body, like the body, belongs to one request.
#[test]
fn fields_that_announce_a_body_do_not_come_from_the_cache() {
    let raw = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let mut cache = Some(FieldCache::default());
    for _ in 0..3 {
        let outcome = parse_cached([&raw[..]], true, &Limits::default(), &mut cache);
        assert_eq!(outcome.cached, 0);
        assert_eq!(outcome.messages[0].body, b"abc");
    }
}
