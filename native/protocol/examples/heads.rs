//! Prints how many nanoseconds it takes to parse a head, for several kinds of request. No test
//! checks the figures.
//!
//! `cargo run --release --example heads`
#![allow(clippy::arithmetic_side_effects, reason = "figures for a human")]

use std::hint::black_box;
use std::time::Instant;

use penstock_protocol::{Carry, Event, Head, Input, Limits, Parser};

const HELLO: &str = "GET /hello HTTP/1.1\r\nHost: localhost:8000\r\n\r\n";

const BROWSER: &str = "GET /articles/2024/07/a-page?ref=home HTTP/1.1\r\n\
    Host: www.example.com\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8\r\n\
    Accept-Language: en-GB,en;q=0.5\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Connection: keep-alive\r\n\
    Cookie: session=0123456789abcdef0123456789abcdef; theme=dark\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    Sec-Fetch-Dest: document\r\n\
    Sec-Fetch-Mode: navigate\r\n\r\n";

const ABSOLUTE: &str = "GET http://localhost:8000/hello HTTP/1.1\r\nHost: localhost:8000\r\n\r\n";

fn measure(name: &str, raw: &[u8], mut parse: impl FnMut(&[u8])) {
    let mut best = f64::INFINITY;
    for _ in 0..20 {
        let rounds = 10_000;
        let start = Instant::now();
        for _ in 0..rounds {
            parse(black_box(raw));
        }
        best = best.min(start.elapsed().as_secs_f64() / f64::from(rounds));
    }
    println!("{:>8.1} ns  {name} ({} bytes)", best * 1e9, raw.len());
}

fn main() {
    let limits = Limits::default();
    let mut head = Head::default();
    for (name, raw) in [
        ("two lines", HELLO),
        ("a browser's 10 fields", BROWSER),
        ("absolute-form", ABSOLUTE),
    ] {
        let mut parser = Parser::new();
        measure(name, raw.as_bytes(), |raw| {
            let mut input = Input::new(raw);
            for expected in ["request", "end"] {
                match parser.next_event(&mut input, &limits, &mut head) {
                    Ok(Event::Request(_) | Event::EndOfMessage) => {}
                    other => println!("no {expected}: {other:?}"),
                }
            }
            if let Err(error) = parser.start_next_request() {
                println!("{error}");
            }
        });
    }
    measure("a browser's, byte by byte", BROWSER.as_bytes(), |raw| {
        let (mut parser, mut carry) = (Parser::new(), Carry::default());
        for byte in raw.chunks(1) {
            let mut input = Input::new(carry.join(byte));
            let _ = black_box(parser.next_event(&mut input, &limits, &mut head));
            let left = input.remaining().len();
            carry.keep(byte, left);
        }
    });
}
