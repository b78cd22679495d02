//! Bodies that come fast, and wait until the application reads fewer.

use super::bench::{Bench, Client, options};
use crate::decisions;
use crate::options::{Options, StreamRequests};
use crate::request::Body;
use crate::states::{Fate, Phase};
use crate::sys::SECOND;
use crate::unserved;

const MEMORY: u64 = 1000;
const LENGTH: usize = 50_000;
const COME: usize = 40_000;
const READ: usize = 2000;

/// Two threads, of which one reads a body.
fn bench() -> Bench {
    Bench::new(Options {
        stream_requests: StreamRequests::Fast,
        threads: 2,
        body_memory: MEMORY,
        receive_bytes: READ,
        ..options()
    })
}

fn head(length: usize, more: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n{more}\r\n").into_bytes()
}

/// A client of whose body the larger part was sent.
fn uploading(bench: &mut Bench) -> Client {
    let client = bench.connect();
    bench.send(&client, &[head(LENGTH, ""), vec![b'x'; COME]].concat());
    bench.pass(SECOND / 1000); // they wait in the order in which they came
    client
}

fn received(client: &Client) -> u64 {
    client.connection.lock().exchange.body_received
}

#[test]
fn one_body_is_read_for_each_place_that_becomes_free() {
    let mut bench = bench();
    let first = uploading(&mut bench);
    let waiting: Vec<_> = (0..5).map(|_| uploading(&mut bench)).collect();
    let before: Vec<_> = waiting.iter().map(received).collect();
    let mut served = bench.take();
    assert_eq!(first.phase(), Phase::HandedOut);
    for (place, client) in waiting.iter().enumerate() {
        assert_eq!(client.phase(), Phase::Storing);
        drop(served.body);
        bench.turn();
        served = bench.take();
        assert_eq!(client.phase(), Phase::HandedOut);
        // The others were not read: what they hold would grow with each place.
        for (client, before) in waiting.iter().zip(&before).skip(place + 1) {
            assert_eq!(
                (client.phase(), received(client)),
                (Phase::Storing, *before)
            );
        }
    }
}

#[test]
fn a_body_that_is_looked_at_before_its_turn_is_not_read_and_waits_no_longer() {
    let mut bench = bench();
    let _first = uploading(&mut bench);
    let _served = bench.take();
    let client = uploading(&mut bench);
    let before = received(&client);
    for _ in 0..9 {
        bench.pass(SECOND / 10);
        let mut state = client.connection.lock();
        bench.shared.post(&client.connection, &mut state);
        drop(state);
        bench.turn();
        assert_eq!(
            (client.phase(), received(&client)),
            (Phase::Storing, before)
        );
    }
    bench.pass(SECOND / 10);
    assert_eq!(client.phase(), Phase::Reading);
    assert_eq!(received(&client), COME as u64); // it went to a file
    let most = decisions::most_streamed(&bench.shared.options);
    bench.pass(SECOND);
    assert_eq!(bench.shared.streamed_bodies.next_due(most), None);
}

#[test]
fn a_request_that_is_refused_keeps_its_connection_if_all_of_its_body_is_there() {
    let mut bench = bench();
    let client = bench.connect();
    let head = head(LENGTH, "Expect: 100-continue\r\n");
    bench.send(&client, &[head, vec![b'x'; LENGTH]].concat());
    let waiting = bench.take();
    assert!(matches!(waiting.body, Body::Streamed(..)));
    unserved::refuse_full(&bench.shared, waiting, 0);
    assert_eq!(client.connection.lock().exchange.fate, Fate::Keep);
    bench.turn();
    assert_eq!(client.statuses(), [503]);
    assert_eq!(client.phase(), Phase::Reading);
}
