//! Properties that hold for all bytes: the result does not depend on how they are split into
//! packets, nothing panics or loops for ever, and what is kept stays within its bound.
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]
#![allow(clippy::indexing_slicing, clippy::expect_used)]

mod support;

use std::collections::HashMap;

use penstock_protocol::{Event, FieldCache, Head, Input, Limits, Parser};
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

/// Names whose values the parser acts on, names that it knows, and others.
const NAMES: &[&str] = &[
    "Host",
    "host",
    "Connection",
    "Expect",
    "Content-Length",
    "Transfer-Encoding",
    "Content-Type",
    "Upgrade",
    "X-Forwarded-For",
    "Cookie",
    "Accept",
    "X",
];

const VALUES: &[&[u8]] = &[
    b"a",
    b"",
    b" ",
    b"close",
    b"keep-alive",
    b"100-continue",
    b"0",
    b"3",
    b"chunked",
    b"a b\t",
    b"not a host/",
    b"\x7f",
    b"\xff\x80",
    b"\r\n",
    b"\r\nHost: b",
    b"\r\n folded",
    b"a long value, such as that of a cookie: 0123456789abcdefghijklmnopqrstuvwxyz",
];

const BLANKS: &[&[u8]] = &[b"", b" ", b"\t ", b"  "];

/// A value with the blanks before and after it.
type Value = (&'static [u8], &'static [u8], &'static [u8]);

/// Field lines of the same names: the values of one head, and those of others.
fn similar_heads() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let names = prop::collection::vec(select(NAMES), 0..8);
    names.prop_flat_map(|names| {
        let mut names = names;
        names.insert(0, "Host");
        let line = (select(BLANKS), select(VALUES), select(BLANKS));
        let first = prop::collection::vec(line.clone(), names.len());
        let changes = prop::collection::vec(prop::option::weighted(0.3, line), names.len());
        (first, prop::collection::vec(changes, 1..6)).prop_map(move |(first, others)| {
            let head = |changes: &[Option<Value>]| {
                let mut raw = b"GET / HTTP/1.1\r\n".to_vec();
                for ((name, usual), change) in names.iter().zip(&first).zip(changes) {
                    let (before, value, after) = change.unwrap_or(*usual);
                    // Heads without a mistake are those that the cache has.
                    let value = if *name == "Host" && change.is_none() {
                        b"a"
                    } else {
                        value
                    };
                    for part in [name.as_bytes(), b":", before, value, after, b"\r\n"] {
                        raw.extend_from_slice(part);
                    }
                }
                raw.extend_from_slice(b"\r\n");
                raw
            };
            let unchanged = vec![None; names.len()];
            let mut heads = vec![head(&unchanged), head(&unchanged)];
            heads.extend(others.iter().map(|changes| head(changes)));
            heads
        })
    })
}

/// What a head says, with the size of it; or the error.
fn read_head(raw: &[u8], limits: &Limits, cached: Option<(&mut FieldCache, &mut Head)>) -> String {
    let (mut parser, mut input, mut own) = (Parser::new(), Input::new(raw), Head::default());
    let event = match cached {
        Some((cache, head)) => {
            let event = parser.next_event_cached(&mut input, limits, head, cache);
            own = head.clone();
            event
        }
        None => parser.next_event(&mut input, limits, &mut own),
    };
    let Ok(Event::Request(bytes)) = event else {
        return format!("{event:?}");
    };
    let lengths = (
        own.content_length,
        own.body_expected,
        own.expect_continue,
        own.chunked,
    );
    let flags = (own.keep_alive, own.forwarding, own.upgrade);
    format!(
        "{bytes:?} {:?} {:?} {lengths:?} {flags:?}",
        own.fields, own.path
    )
}

proptest! {
    #![proptest_config(config())]

    /// The line-by-line comparison with an earlier head finds what parsing finds, to the word.
    #[test]
    fn heads_of_the_same_names_mean_the_same_with_and_without_a_cache(
        heads in similar_heads(),
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
        small: bool,
    ) {
        let limits = if small { SMALL } else { Limits::default() };
        let (mut cache, mut head) = (FieldCache::default(), Head::default());
        let mut last = heads.last().cloned().unwrap_or_default();
        for (place, byte) in edits {
            let place = place.index(last.len());
            last[place] = byte;
        }
        for raw in heads.iter().chain([&last]) {
            let cached = read_head(raw, &limits, Some((&mut cache, &mut head)));
            prop_assert_eq!(cached, read_head(raw, &limits, None), "{}", raw.escape_ascii());
        }
    }

    /// A value that is said to be that of the section is the one that the section has: that of the
    /// head with which the section came.
    #[test]
    fn what_is_called_the_same_is_the_same(heads in prop::collection::vec(similar_heads(), 1..3)) {
        let mut cache = FieldCache::default();
        let mut sections: HashMap<u64, Vec<Vec<u8>>> = HashMap::new();
        let mut head = Head::default();
        for raw in heads.iter().flatten() {
            let (mut parser, mut input) = (Parser::new(), Input::new(raw));
            let event = parser.next_event_cached(&mut input, &Limits::default(), &mut head, &mut cache);
            let Ok(Event::Request(bytes)) = event else {
                continue;
            };
            let texts = head.fields.iter().flat_map(|field| {
                [field.name.of(bytes).to_vec(), field.value.of(bytes).to_vec()]
            });
            let texts: Vec<_> = texts.collect();
            if head.section_id == 0 {
                prop_assert_eq!(head.same, 0);
                continue;
            }
            prop_assert_eq!(head.same & !head.every_field(), 0);
            let section = sections.entry(head.section_id).or_insert_with(|| {
                assert_eq!(head.same, head.every_field()); // it is this head's
                texts.clone()
            });
            prop_assert_eq!(section.len(), texts.len());
            for (index, (known, text)) in section.chunks(2).zip(texts.chunks(2)).enumerate() {
                prop_assert_eq!(&known[0], &text[0]);
                if head.same & (1 << index) != 0 {
                    prop_assert_eq!(&known[1], &text[1]);
                }
            }
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
fn fields_of_the_cache_announce_the_body_that_comes_with_them() {
    let limits = Limits {
        body: 20,
        ..Limits::default()
    };
    let mut cache = Some(FieldCache::default());
    for (length, body, cached, status) in [
        ("3", "abc", 0, None),
        ("3", "abc", 1, None),
        ("3", "def", 1, None),
        ("11", "hello world", 1, None),
        ("0", "", 1, None),
        ("21", "", 0, Some(413)),
        ("+3", "", 0, Some(400)),
        ("3 3", "", 0, Some(400)),
        ("", "", 0, Some(400)),
        ("2", "ab", 1, None),
    ] {
        let raw = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}");
        let outcome = parse_cached([raw.as_bytes()], true, &limits, &mut cache);
        assert_eq!(outcome.cached, cached, "{length}");
        assert_eq!(outcome.error.map(|error| error.status), status, "{length}");
        if status.is_none() {
            assert_eq!(outcome.messages[0].body, body.as_bytes());
        }
    }
}

/// An expectation is for a request with a body, and a section is for any length.
#[test]
fn fields_with_an_expectation_do_not_come_from_the_cache() {
    let mut cache = Some(FieldCache::default());
    for length in [0, 0, 0, 3] {
        let fields = format!("Host: a\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n");
        let raw = format!("POST / HTTP/1.1\r\n{fields}\r\nabc");
        let outcome = parse_cached([raw.as_bytes()], true, &Limits::default(), &mut cache);
        assert_eq!(outcome.cached, 0);
        assert_eq!(outcome.messages[0].expect_continue, length > 0);
    }
}

/// A head that is like an earlier one except for one line: only that is parsed again, and checked.
#[test]
fn a_line_that_differs_from_the_section_s_is_held_to_the_rules() {
    let head = |host: &str, connection: &str, other: &str| {
        format!("GET / HTTP/1.1\r\nHost: {host}\r\nConnection: {connection}\r\nX: {other}\r\n\r\n")
    };
    let usual = head("a", "keep-alive", "1");
    let mut cache = Some(FieldCache::default());
    for (raw, cached, status) in [
        (usual.clone(), 0, None),
        (usual.clone(), 1, None),
        (head("b.example:80", "keep-alive", "1"), 1, None),
        (head("b/c", "keep-alive", "1"), 0, Some(400)),
        (head("", "keep-alive", "1"), 0, Some(400)),
        (head("a", "close", "1"), 1, None),
        (head("a", "keep-alive", "\t2 \t"), 1, None),
        (head("a", "keep-alive", "2\0"), 0, Some(400)),
        (head("a", "keep-alive", "2\n"), 0, Some(400)),
        (head("a", "keep-alive", "2\r\n folded"), 0, Some(400)),
        (head("a", "keep-alive", "2\r\nHost: b"), 0, Some(400)),
    ] {
        let outcome = parse_cached([raw.as_bytes()], true, &Limits::default(), &mut cache);
        assert_eq!(outcome.cached, cached, "{raw:?}");
        assert_eq!(outcome.error.map(|error| error.status), status, "{raw:?}");
        let plain = parse([raw.as_bytes()], true, &Limits::default());
        assert_eq!(outcome.essence(), plain.essence());
    }
}

/// Clients choose what is in the cache, so that its size may not depend on them.
#[test]
fn sections_that_are_long_or_have_many_fields_do_not_come_from_the_cache() {
    let head = |fields: usize, bytes: usize| {
        let fields: String = (2..fields)
            .map(|number| format!("X-{number}: y\r\n"))
            .collect();
        let start = "GET / HTTP/1.1\r\n";
        let short = format!("Host: a\r\n{fields}Y: \r\n\r\n");
        let filler = "z".repeat(bytes.saturating_sub(short.len()));
        format!("{start}Host: a\r\n{fields}Y: {filler}\r\n\r\n")
    };
    for (raw, expected) in [
        (head(64, 0), [0, 1, 1]),
        (head(65, 0), [0, 0, 0]),
        (head(3, 4096), [0, 1, 1]),
        (head(3, 4097), [0, 0, 0]),
    ] {
        let mut cache = Some(FieldCache::default());
        let cached = expected
            .map(|_| parse_cached([raw.as_bytes()], true, &Limits::default(), &mut cache).cached);
        assert_eq!(cached, expected);
    }
}
