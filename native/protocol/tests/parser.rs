//! The parser's states, the end of input, early refusal, limits, and how much it still expects.
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]
#![allow(clippy::indexing_slicing, clippy::expect_used)]

mod support;

use penstock_protocol::{
    Carry, Event, Head, Input, Limits, Parser, ProtocolError, State, WrongState,
};
use support::{Outcome, byte_by_byte, parse, split_at};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const FOLLOWING: &[u8] = b"GET /following HTTP/1.1\r\nHost: next.example\r\n\r\n";

fn get(fields: &str) -> Vec<u8> {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").into_bytes()
}

fn post(fields: &str, body: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{fields}\r\n{body}").into_bytes()
}

fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn whole(raw: &[u8]) -> Outcome {
    parse([raw], false, &Limits::default())
}

/// A parser with the bytes that it has not consumed.
#[derive(Default)]
struct Client {
    parser: Parser,
    head: Head,
    carry: Carry,
}

impl Client {
    fn send(&mut self, block: &[u8]) -> Result<Reply, ProtocolError> {
        let mut input = Input::new(self.carry.join(block));
        let event = self
            .parser
            .next_event(&mut input, &Limits::default(), &mut self.head);
        let reply = event.map(|event| match event {
            Event::Request(_) => Reply::Request,
            Event::Data(data) => Reply::Data(data.to_vec()),
            Event::EndOfMessage => Reply::EndOfMessage,
            Event::NeedData => Reply::NeedData,
            Event::ConnectionClosed => Reply::ConnectionClosed,
        });
        let left = input.remaining().len();
        self.carry.keep(block, left);
        reply
    }
}

#[derive(Debug, PartialEq)]
enum Reply {
    Request,
    Data(Vec<u8>),
    EndOfMessage,
    NeedData,
    ConnectionClosed,
}

#[test]
fn a_request_without_a_body_is_a_request_and_its_end() {
    let mut client = Client::default();
    assert_eq!(client.parser.state(), State::Idle);
    assert_eq!(client.send(GET), Ok(Reply::Request));
    assert_eq!(client.parser.state(), State::Body);
    assert_eq!(client.send(b""), Ok(Reply::EndOfMessage));
    assert_eq!(client.send(b""), Ok(Reply::EndOfMessage));
    assert_eq!(client.parser.state(), State::Done);
}

#[test]
fn states_of_a_request_in_pieces() {
    let mut client = Client::default();
    for (block, state) in [
        (&b""[..], State::Idle),
        (b"\r\n", State::Idle),
        (b"POST / HTTP/1.1\r\nHost: a\r\n", State::Head),
        (b"Content-Length: 2\r\n\r\n", State::Body),
        (b"a", State::Body),
        (b"b", State::Body),
        (b"", State::Done),
    ] {
        client.send(block).unwrap();
        assert_eq!(client.parser.state(), state);
    }
    client.parser.start_next_request().unwrap();
    assert_eq!(client.parser.state(), State::Idle);
    client.parser.receive_eof();
    for _ in 0..2 {
        assert_eq!(client.send(b""), Ok(Reply::ConnectionClosed));
        assert_eq!(client.parser.state(), State::Closed);
    }
}

#[test]
fn the_next_request_starts_only_after_the_end_of_the_one_before() {
    for (raw, state) in [
        (&b""[..], State::Idle),
        (b"GET", State::Head),
        (GET, State::Body),
        (b"\0", State::Failed),
    ] {
        let mut client = Client::default();
        let _ = client.send(raw);
        let error = client.parser.start_next_request().unwrap_err();
        assert_eq!(error, WrongState(state));
        assert!(error.to_string().contains("no request can begin"));
    }
}

#[test]
fn a_client_that_half_closes_after_its_request_is_served() {
    let mut client = Client::default();
    client.parser.receive_eof();
    let raw = chunked("2\r\nhi\r\n0\r\n\r\n");
    assert_eq!(client.send(&raw), Ok(Reply::Request));
    assert_eq!(client.send(b""), Ok(Reply::Data(b"hi".to_vec())));
    assert_eq!(client.send(b""), Ok(Reply::EndOfMessage));
    client.parser.start_next_request().unwrap();
    assert_eq!(client.send(b""), Ok(Reply::ConnectionClosed));
}

#[test]
fn after_an_error_every_call_returns_it_and_consumes_everything() {
    let mut client = Client::default();
    client.send(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    let error = client.send(b"X : y\r\n").unwrap_err();
    assert_eq!(error.status, 400);
    assert_eq!(
        client
            .parser
            .request_line(&Input::new(client.carry.remaining())),
        b"GET / HTTP/1.1"
    );
    for _ in 0..2 {
        assert_eq!(client.send(FOLLOWING), Err(error));
        assert_eq!(client.carry.remaining(), b"");
    }
    assert_eq!(client.parser.body_remaining(0), None);
}

#[test]
fn pipelined_requests_come_one_by_one_and_in_order() {
    let raw: String = (0..1000)
        .map(|n| format!("GET /{n} HTTP/1.1\r\nHost: a\r\n\r\n"))
        .collect();
    let messages = whole(raw.as_bytes()).messages;
    assert_eq!(messages.len(), 1000);
    for (n, message) in messages.iter().enumerate() {
        assert_eq!(message.target, format!("/{n}").into_bytes());
    }
}

#[test]
fn the_request_line_is_known_as_soon_as_it_is_complete() {
    let mut client = Client::default();
    for (block, line) in [
        (&b"GET / HTTP/1.1\r"[..], &b""[..]),
        (b"\nHost", b"GET / HTTP/1.1"),
        (b": a\r\n", b"GET / HTTP/1.1"),
    ] {
        client.send(block).unwrap();
        let input = Input::new(client.carry.remaining());
        assert_eq!(client.parser.request_line(&input), line);
    }
    client.send(b"\r\n").unwrap();
    assert_eq!(client.parser.request_line(&Input::new(b"GET")), b"");
}

#[test]
fn the_request_line_of_a_head_that_is_refused_as_a_whole_is_known_in_any_split() {
    let raw = b"GET /p HTTP/1.1\r\nX: no host\r\n\r\n";
    for blocks in [
        split_at(raw, &[]),
        split_at(raw, &[20]),
        byte_by_byte(raw).collect(),
    ] {
        let outcome = parse(blocks, false, &Limits::default());
        assert_eq!(outcome.error.unwrap().reason, "The Host field is missing.");
        assert_eq!(outcome.request_line, b"GET /p HTTP/1.1");
    }
}

#[test]
fn a_head_that_is_refused_although_its_lines_are_well_formed_shows_its_fields() {
    for (raw, refused) in [
        ("GET / HTTP/1.1\r\nReferer: x\r\n\r\n", true),
        ("GET / HTTP/1.2\r\nReferer: x\r\nExpect: y\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nReferer: x\r\nReferer : x\r\n\r\n", false),
        (
            "GET / HTTP/1.1\r\nReferer: x\r\nHost: a\r\nHost: a\r\n\r\n",
            false,
        ),
        ("GET / HTTP/2.0\r\nReferer: x\r\n\r\n", false),
    ] {
        for cut in [0, 20] {
            let mut client = Client::default();
            client.send(&raw.as_bytes()[..cut]).ok();
            client.send(&raw.as_bytes()[cut..]).unwrap_err();
            let input = Input::new(client.carry.remaining());
            let head = client.parser.refused_head(&input);
            assert_eq!(head, refused.then_some(raw.as_bytes()));
            let Some(head) = head else { continue };
            let fields = client.head.joined_fields(head);
            assert_eq!(fields[0], (b"referer".to_vec(), b"x"[..].into()));
        }
    }
}

#[test]
fn body_remaining_is_what_is_still_to_be_received() {
    let mut client = Client::default();
    client.send(b"POST / HTTP/1.1\r\nHost: a\r\n").unwrap();
    assert_eq!(client.parser.body_remaining(0), None, "in a head");
    client.send(b"Content-Length: 10\r\n\r\n123").unwrap();
    assert_eq!(client.parser.body_remaining(3), Some(7));
    assert_eq!(client.send(b""), Ok(Reply::Data(b"123".to_vec())));
    assert_eq!(client.parser.body_remaining(0), Some(7));
    assert_eq!(client.parser.body_remaining(100), Some(0));
    assert_eq!(
        client.send(b"4567890"),
        Ok(Reply::Data(b"4567890".to_vec()))
    );
    client.send(b"").unwrap();
    assert_eq!(client.parser.body_remaining(0), Some(0));

    let mut client = Client::default();
    client.send(&chunked("")).unwrap();
    assert_eq!(client.parser.body_remaining(0), None, "of chunks");
}

#[test]
fn content_before_a_broken_chunk_is_returned_before_the_error() {
    let mut client = Client::default();
    client.send(&chunked("1\r\nx\r\nzz\r\n")).unwrap();
    assert_eq!(client.send(b""), Ok(Reply::Data(b"x".to_vec())));
    for _ in 0..2 {
        assert_eq!(client.send(b"").unwrap_err().rule, "RFC 9112, section 7.1");
    }
}

#[test]
fn a_block_of_a_body_is_returned_without_a_copy() {
    let mut client = Client::default();
    client.send(&post("Content-Length: 65536\r\n", "")).unwrap();
    let block = vec![b'x'; 65536];
    let mut input = Input::new(client.carry.join(&block));
    let event = client
        .parser
        .next_event(&mut input, &Limits::default(), &mut client.head);
    let Ok(Event::Data(data)) = event else {
        panic!("{event:?}");
    };
    assert!(std::ptr::eq(data, &raw const block[..]));
}

#[test]
fn a_partial_head_is_refused_by_the_byte_that_breaks_it() {
    let fields = "X: y\r\n".repeat(100);
    let cases: [(String, &[u8], u16); 17] = [
        (String::new(), b"\x16", 400),
        (String::new(), b"\0", 400),
        (String::new(), b"(", 400),
        (String::new(), b"\n", 400),
        ("\r\n".into(), b" ", 400),
        ("\r\n\r".into(), b"\n", 400),
        ("\r".into(), b"G", 400),
        ("GET /".into(), b"\n", 400),
        ("GET /".into(), b"\t", 400),
        ("GET /".into(), b"\x7f", 400),
        ("GET / HTTP/1.1\r".into(), b"H", 400),
        ("GET / HTTP/1.1\r\nX: ".into(), b"\x01", 400),
        ("GET / HTTP/1.1\r\nX : y\r".into(), b"\n", 400),
        ("CONNECT a:1 HTTP/1.1\r".into(), b"\n", 405),
        (format!("GET /{}", "a".repeat(8185)), b"a", 414),
        (format!("GET / HTTP/1.1\r\n{}", "X".repeat(8190)), b"X", 431),
        (format!("GET / HTTP/1.1\r\n{fields}"), b"X", 431),
    ];
    for (before, byte, status) in cases {
        let mut client = Client::default();
        assert_eq!(
            client.send(before.as_bytes()),
            Ok(Reply::NeedData),
            "{before:?}"
        );
        let error = client.send(byte).unwrap_err();
        assert_eq!(error.status, status, "{before:?}");
    }
}

#[test]
fn each_limit_has_its_setting_and_what_just_fits_it_is_accepted() {
    let limits = Limits::default();
    let cases = [
        (
            Limits {
                request_line: 13,
                ..limits
            },
            get(""),
            "limit_request_line",
        ),
        (
            Limits {
                fields: 1,
                ..limits
            },
            get("X: y\r\n"),
            "limit_request_fields",
        ),
        (
            Limits {
                field_size: 9,
                ..limits
            },
            get("X: 1234567\r\n"),
            "limit_request_field_size",
        ),
        (
            Limits { head: 36, ..limits },
            get("X: 12345\r\n"),
            "limit_request_head",
        ),
        (
            Limits { body: 4, ..limits },
            post("Content-Length: 5\r\n", "hello"),
            "max_body",
        ),
        (
            Limits { body: 4, ..limits },
            chunked("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"),
            "max_body",
        ),
        (
            Limits {
                chunk_overhead: 3,
                ..limits
            },
            chunked("1;a\r\nx\r\n1;b\r\nx\r\n0\r\n\r\n"),
            "limit_chunk_overhead",
        ),
        (
            Limits {
                chunk_overhead: 3,
                ..limits
            },
            chunked("0\r\nX: y\r\n\r\n"),
            "limit_chunk_overhead",
        ),
        (
            Limits {
                fields: 2,
                ..limits
            },
            chunked("0\r\nX:\r\nX:\r\nX:\r\n\r\n"),
            "limit_request_fields",
        ),
    ];
    for (limits, raw, setting) in cases {
        let wider = Limits {
            request_line: limits.request_line + 1,
            fields: limits.fields + 1,
            field_size: limits.field_size + 1,
            head: limits.head + 1,
            chunk_overhead: limits.chunk_overhead + 1,
            chunk_framing: limits.chunk_framing + 1,
            chunk_framing_ratio: limits.chunk_framing_ratio,
            body: limits.body + 1,
        };
        for blocks in [vec![&raw[..]], byte_by_byte(&raw).collect()] {
            let error = parse(blocks.clone(), false, &limits).error;
            assert_eq!(error.map(|error| error.setting), Some(setting));
            let outcome = parse(blocks, false, &wider);
            assert_eq!(outcome.error, None, "{setting}");
            assert!(outcome.messages[0].complete);
        }
    }
}

#[test]
fn the_absolute_form_names_the_host_and_its_path_is_never_empty() {
    for (raw, path, query, fields) in [
        (
            "GET http://b?q HTTP/1.1\r\nHost: a\r\n\r\n",
            "/",
            "q",
            vec![("host", "b")],
        ),
        (
            "GET HTTPS://b/p HTTP/1.0\r\nX: y\r\n\r\n",
            "/p",
            "",
            vec![("x", "y"), ("host", "b")],
        ),
    ] {
        let message = &whole(raw.as_bytes()).messages[0];
        assert_eq!(message.path, path.as_bytes());
        assert_eq!(message.query, query.as_bytes());
        let fields = fields.into_iter();
        let expected: Vec<(Vec<u8>, Vec<u8>)> = fields
            .map(|(name, value)| (name.into(), value.into()))
            .collect();
        assert_eq!(message.fields, expected);
    }
}

#[test]
fn a_reused_head_keeps_nothing_of_the_request_before() {
    let first = b"OPTIONS http://b/p?q HTTP/1.0\r\nConnection: keep-alive\r\nX: y\r\n\r\n";
    let second = chunked("0\r\n\r\n");
    let third = post("Content-Length: 3\r\nExpect: 100-continue\r\n", "abc");
    for (a, b) in [(&first[..], &second[..]), (&second, &third), (&third, GET)] {
        let both = [a, b].concat();
        let messages = whole(&both).messages;
        assert_eq!(messages[0], whole(a).messages[0]);
        assert_eq!(messages[1], whole(b).messages[0]);
    }
}

/// An idle connection costs these two and its socket, and a worker may have ten thousand of them.
#[test]
fn a_parser_and_an_empty_carry_are_small() {
    assert!(size_of::<Parser>() + size_of::<Carry>() <= 160);
}

#[test]
fn a_carry_holds_no_heap_memory_once_everything_is_consumed() {
    let mut carry = Carry::default();
    assert_eq!(carry.join(b"abc"), b"abc");
    carry.keep(b"abc", 2);
    assert_eq!(carry.remaining(), b"bc");
    assert_eq!(carry.join(b"de"), b"bcde");
    carry.keep(b"de", 3);
    assert_eq!(carry.join(b""), b"cde");
    carry.keep(b"", 1);
    assert_eq!(carry.join(b"f"), b"ef");
    carry.keep(b"f", 0);
    assert_eq!(carry.remaining(), b"");
    let received = b"g";
    assert!(std::ptr::eq(carry.join(received), received), "no copy");
}

#[test]
fn framing_is_bounded_by_content() {
    let limits = Limits {
        chunk_framing: 20,
        chunk_framing_ratio: 3,
        ..Limits::default()
    };
    // Behind them comes a chunk of three bytes: 40 bytes of framing of 41, then 45 of 44.
    for (chunk, count, fits) in [
        ("1\r\nx\r\n", 7, true),
        ("1\r\nx\r\n", 8, false),
        ("0001\r\nx\r\n", 3, true),
        ("0001\r\nx\r\n", 4, false),
        ("1;a\r\nx\r\n", 3, true),
        ("1;a\r\nx\r\n", 4, false),
        ("2\r\nxy\r\n", 500, true),
    ] {
        let raw = chunked(&(chunk.repeat(count) + "3\r\nabc\r\n0\r\n\r\n"));
        for blocks in [vec![&raw[..]], byte_by_byte(&raw).collect()] {
            let outcome = parse(blocks, false, &limits);
            let reason = outcome.error.map(|error| error.reason);
            let small = "The chunks have too much framing for their content.";
            assert_eq!(reason, (!fits).then_some(small), "{count} of {chunk:?}");
        }
    }
}

#[test]
fn rfc9112_3_2_2_a_head_tells_its_scheme_and_the_host_that_was_replaced() {
    for (target, host, https, replaced) in [
        ("/", "a", false, None),
        ("http://a/", "b", false, Some("b")),
        ("http://a/", "A", false, None),
        ("http://a/", "a:80", false, None),
        ("http://a:/", "a", false, None),
        ("http://a/", "a:443", false, Some("a:443")),
        ("http://a:81/", "a", false, Some("a")),
        ("https://a:443/", "a", true, None),
        ("HttpS://a/", "b", true, Some("b")),
    ] {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n").into_bytes();
        let mut head = Head::default();
        let mut input = Input::new(&raw);
        let event = Parser::new().next_event(&mut input, &Limits::default(), &mut head);
        let Ok(Event::Request(bytes)) = event else {
            panic!("{target}: {event:?}");
        };
        assert_eq!(head.is_https_target(bytes), https, "{target}");
        let found = head.replaced_host(bytes);
        assert_eq!(found, replaced.map(str::as_bytes), "{target} {host}");
    }
    let mut head = Head::default();
    let raw = b"GET http://a/ HTTP/1.0\r\n\r\n";
    let parsed = Parser::new().next_event(&mut Input::new(raw), &Limits::default(), &mut head);
    assert!(parsed.is_ok());
    assert_eq!(head.replaced_host(raw), None);
}
