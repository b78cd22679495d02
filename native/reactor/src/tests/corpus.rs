//! The whole wire corpus without a socket: all that is above a stream works on any.

use super::bench::{Bench, Client, body_of, options};
use super::model::{Case, Expected, corpus, message};
use super::support::{Message, byte_by_byte};
use crate::options::Options;
use crate::own_answers::WHOLE_SERVER;
use crate::proxy_protocol;
use crate::request::Waiting;

const NO_CONTENT: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

fn received(waiting: &Waiting) -> Message {
    let (head, bytes) = (&waiting.request.head, &waiting.request.bytes);
    Message {
        body: body_of(&waiting.body),
        complete: true,
        ..Message::new(head, bytes)
    }
}

/// Send a case to a server that answers each request; return what it received, and the client.
fn serve<'a>(case: &Case, blocks: impl Iterator<Item = &'a [u8]>) -> (Vec<Message>, Client) {
    serve_by(case, blocks, Bench::connect, Bench::send, Bench::end)
}

/// The same with a way to connect, one to send, and one to end the client's side.
fn serve_by<'a>(
    case: &Case,
    blocks: impl Iterator<Item = &'a [u8]>,
    connect: impl FnOnce(&mut Bench) -> Client,
    send: impl Fn(&mut Bench, &Client, &[u8]),
    end: impl FnOnce(&mut Bench, &Client),
) -> (Vec<Message>, Client) {
    let parser = case.limits();
    let mut bench = Bench::new(Options {
        parser,
        ..options()
    });
    let client = connect(&mut bench);
    let mut messages = Vec::new();
    for block in blocks {
        send(&mut bench, &client, block);
        while let Some(waiting) = bench.ready.pop_front() {
            messages.push(received(&waiting));
            bench.answer(&waiting, NO_CONTENT);
        }
    }
    if case.eof {
        end(&mut bench, &client);
    }
    (messages, client)
}

fn check(case: &Case, expected: &Expected, (messages, client): (Vec<Message>, Client)) {
    let name = &case.name;
    let mut complete: Vec<Message> = expected.messages.iter().map(message).collect();
    complete.retain(|message| message.complete);
    // The server closes after the last request that a client lets it answer.
    let last = complete.iter().position(|message| !message.keep_alive);
    if let Some(last) = last {
        complete.truncate(last + 1);
    }
    let answers = client.received();
    let answers = answers.replace("HTTP/1.1 100 Continue\r\n\r\n", "");
    let no_content = String::from_utf8_lossy(NO_CONTENT);
    let mut rest = &answers[..];
    for message in &complete {
        // With no thread free, the server itself answers `OPTIONS *`.
        rest = match message.target == WHOLE_SERVER {
            true => rest.split_once("\r\n\r\n").expect(name).1,
            false => rest.strip_prefix(&*no_content).expect(name),
        };
    }
    complete.retain(|message| message.target != WHOLE_SERVER);
    assert_eq!(messages, complete, "{name}");
    match &expected.error {
        Some(error) if last.is_none() => {
            let status = format!("HTTP/1.1 {} ", error.status);
            assert!(rest.starts_with(&status), "{name}: {rest}");
            let is_first = expected.messages.is_empty();
            let empty = is_first && error.reason == "The request line is empty.";
            let reason = proxy_protocol::explained(b"", empty).unwrap_or(&error.reason);
            let length = format!("\r\nContent-Length: {}\r\n", reason.len() + 1);
            assert!(rest.contains(&length), "{name}: {rest}");
            assert!(rest.contains("\r\nConnection: close\r\n"), "{name}: {rest}");
            let body = format!("\r\n\r\n{reason}\n");
            assert!(
                rest.ends_with(&body) || rest.ends_with("\r\n\r\n"),
                "{name}: {rest}"
            );
            assert!(client.is_shut(), "{name}");
        }
        _ => {
            assert_eq!(rest, "", "{name}");
            // At once, where nothing had come behind it.
            let ended = client.is_shut() || (last.is_some() && client.is_closed());
            assert_eq!(ended, last.is_some(), "{name}");
        }
    }
}

#[test]
fn fed_whole() {
    for case in &corpus().cases {
        let raw = case.raw.bytes();
        check(case, &case.whole, serve(case, [&raw[..]].into_iter()));
    }
}

#[test]
fn fed_byte_by_byte() {
    for case in &corpus().cases {
        let raw = case.raw.bytes();
        let expected = case.by_bytes.as_ref().unwrap_or(&case.whole);
        check(case, expected, serve(case, byte_by_byte(&raw)));
    }
}

#[cfg(feature = "tls")]
mod over_tls {
    use super::super::tls::{connect, end, end_both};
    use super::*;

    fn check_over_tls(case: &Case, expected: &Expected, found: (Vec<Message>, Client)) {
        let (_, client) = &found;
        let ended = client.is_shut() || client.is_closed();
        let tls = client.tls.as_ref().unwrap();
        tls.keep(&client.take_raw());
        assert_eq!(tls.has_ended(), ended, "{}: close_notify", case.name);
        check(case, expected, found);
    }

    #[test]
    fn fed_whole() {
        for case in &corpus().cases {
            let raw = case.raw.bytes();
            let blocks = [&raw[..]].into_iter();
            let served = serve_by(case, blocks, connect, Bench::send, end_both);
            check_over_tls(case, &case.whole, served);
        }
    }

    #[test]
    fn fed_in_records_of_a_byte() {
        for case in &corpus().cases {
            let raw = case.raw.bytes();
            let expected = case.by_bytes.as_ref().unwrap_or(&case.whole);
            let served = serve_by(case, byte_by_byte(&raw), connect, Bench::send, end_both);
            check_over_tls(case, expected, served);
        }
    }

    #[test]
    fn fed_in_one_record_that_comes_byte_by_byte() {
        for case in &corpus().cases {
            let raw = case.raw.bytes();
            let send = |bench: &mut Bench, client: &Client, block: &[u8]| {
                for byte in client.tls.as_ref().unwrap().encrypt(block) {
                    bench.send_raw(client, &[byte]);
                }
            };
            let served = serve_by(case, [&raw[..]].into_iter(), connect, send, end_both);
            check_over_tls(case, &case.whole, served);
        }
    }

    #[test]
    fn with_a_client_that_ends_its_session_and_not_the_connection() {
        for case in corpus().cases.iter().filter(|case| case.eof) {
            let raw = case.raw.bytes();
            let blocks = [&raw[..]].into_iter();
            let served = serve_by(case, blocks, connect, Bench::send, end);
            check_over_tls(case, &case.whole, served);
        }
    }
}
