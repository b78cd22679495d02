//! Compares the parser with the reference, `penstock.http1`, in every case of the wire corpus.
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]
#![allow(clippy::indexing_slicing, clippy::expect_used)]

#[path = "support/bounds.rs"]
mod bounds;
#[path = "support/model.rs"]
mod model;
mod support;

use std::collections::HashMap;

use model::{Case, Expected, corpus, latin_1, message};
use penstock_protocol::body::{CHUNK_SIZE_DIGITS, FORBIDDEN_TRAILERS};
use penstock_protocol::date::imf_fixdate;
use penstock_protocol::limits::MAX_METHOD;
use penstock_protocol::response::{
    ALLOWED_METHODS, CONTINUE, ErrorAnswer, LAST_CHUNK, begin_head, encode_chunk, encode_field,
    error_response, reason_phrase,
};
use penstock_protocol::{Limits, ProtocolError, error};
use support::{Message, Outcome, byte_by_byte, parse, split_at};

fn check(case: &Case, expected: &Expected, outcome: &Outcome) {
    let name = &case.name;
    let messages: Vec<Message> = expected.messages.iter().map(message).collect();
    assert_eq!(outcome.messages, messages, "{name}");
    assert_eq!(outcome.closed, expected.closed, "{name}");
    match (&outcome.error, &expected.error) {
        (None, None) => {}
        (Some(error), Some(expected)) => {
            assert_eq!(error.reason, expected.reason, "{name}");
            assert_eq!(error.status, expected.status, "{name}");
            assert_eq!(error.rule, expected.rule, "{name}");
            assert_eq!(error.setting, expected.setting, "{name}");
            assert_eq!(
                outcome.request_line,
                expected.request_line.bytes(),
                "{name}"
            );
        }
        (error, _) => panic!("{name}: {error:?}"),
    }
}

#[test]
fn fed_whole() {
    for case in &corpus().cases {
        let raw = case.raw.bytes();
        let outcome = parse([&raw[..]], case.eof, &case.limits());
        check(case, &case.whole, &outcome);
    }
}

#[test]
fn fed_byte_by_byte() {
    for case in &corpus().cases {
        let raw = case.raw.bytes();
        let outcome = parse(byte_by_byte(&raw), case.eof, &case.limits());
        check(
            case,
            case.by_bytes.as_ref().unwrap_or(&case.whole),
            &outcome,
        );
    }
}

#[test]
fn split_at_random() {
    let mut random: u64 = 0x9e37_79b9_7f4a_7c15;
    for case in &corpus().cases {
        let raw = case.raw.bytes();
        let whole = parse([&raw[..]], case.eof, &case.limits());
        for _ in 0..8 {
            let cuts = [0; 3].map(|_: u64| {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1);
                usize::try_from(random >> 33).unwrap()
            });
            let outcome = parse(split_at(&raw, &cuts), case.eof, &case.limits());
            assert_eq!(
                outcome.essence(),
                whole.essence(),
                "{} at {cuts:?}",
                case.name
            );
        }
    }
}

#[test]
fn followed_by_another_request() {
    let following = latin_1(&corpus().following);
    let next = parse([&following[..]], false, &Limits::default()).messages;
    let cases = corpus().cases.iter();
    // A mutated case may end so that the following request is a part of it.
    for case in cases.filter(|case| !case.eof && !case.name.starts_with("mutation")) {
        let alone = case.raw.bytes();
        let raw = [&alone[..], &following[..]].concat();
        let alone = parse([&alone[..]], false, &case.limits());
        let outcome = parse([&raw[..]], false, &case.limits());
        if alone.error.is_none() {
            assert_eq!(outcome.messages, [&alone.messages[..], &next[..]].concat());
        } else {
            assert_eq!(outcome.essence(), alone.essence(), "{}", case.name);
        }
    }
}

#[test]
fn constants_are_those_of_the_reference() {
    let reference = &corpus().constants;
    assert_eq!(MAX_METHOD, reference.max_method);
    assert_eq!(CHUNK_SIZE_DIGITS, reference.chunk_size_digits);
    let mut trailers = FORBIDDEN_TRAILERS.map(|name| String::from_utf8(name.to_vec()).unwrap());
    trailers.sort();
    assert_eq!(trailers[..], reference.forbidden_trailers);
    assert_eq!(ALLOWED_METHODS, reference.allowed_methods);
    assert_eq!(CONTINUE, reference.continue_response.as_bytes());
    assert_eq!(LAST_CHUNK, reference.last_chunk.as_bytes());
    assert_eq!(Limits::default(), corpus().limits[0].limits());
}

#[test]
fn errors_have_the_same_words_as_those_of_the_reference() {
    let known: HashMap<&str, &ProtocolError> = error::ALL
        .iter()
        .map(|error| (error.reason, error))
        .collect();
    for (reason, text, response) in &corpus().errors {
        let error = known.get(reason.as_str()).expect(reason);
        assert_eq!(&error.to_string(), text);
        let added = &corpus().responses.added;
        let answer = error_response(&ErrorAnswer {
            status: error.status,
            reason: error.reason,
            to_head: false,
            added: added.as_bytes(),
            ..ErrorAnswer::default()
        });
        assert_eq!([&answer.head[..], &answer.body].concat(), latin_1(response));
        let to_head = error_response(&ErrorAnswer {
            status: error.status,
            reason: error.reason,
            to_head: true,
            added: added.as_bytes(),
            ..ErrorAnswer::default()
        });
        assert_eq!((to_head.head, to_head.body), (answer.head, Vec::new()));
    }
    assert_eq!(corpus().errors.len(), known.len(), "each error has a case");
}

#[test]
fn responses_have_the_same_bytes_as_those_of_the_reference() {
    let responses = &corpus().responses;
    for status in 0..700 {
        let phrase = responses.phrases.iter().find(|phrase| phrase.0 == status);
        assert_eq!(reason_phrase(status), phrase.map_or("", |phrase| &phrase.1));
    }
    let headers: Vec<(Vec<u8>, Vec<u8>)> = responses
        .headers
        .iter()
        .map(|(name, value)| (latin_1(name), latin_1(value)))
        .collect();
    let mut head = Vec::new();
    begin_head(&mut head, b"200 OK");
    for (name, value) in &headers {
        encode_field(&mut head, name, value);
    }
    head.extend_from_slice(responses.added.as_bytes());
    head.extend_from_slice(b"\r\n");
    assert_eq!(head, latin_1(&responses.head));
    let mut chunk = Vec::new();
    encode_chunk(&mut chunk, &[b'x'; 1000]);
    assert_eq!(chunk, latin_1(&responses.chunk_of_1000));
}

#[test]
fn dates_are_those_of_the_reference() {
    for (seconds, date) in &corpus().dates {
        assert_eq!(&imf_fixdate(*seconds), date);
    }
}
