//! The result for a chunked body does not depend on how it is split, and only content comes out of it.
#![no_main]

#[path = "../../protocol/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use penstock_protocol::Limits;
use support::{byte_by_byte, parse};

const HEAD: &[u8] = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";

fuzz_target!(|body: &[u8]| {
    let limits = Limits {
        chunk_overhead: 64,
        fields: 8,
        body: 1024,
        ..Limits::default()
    };
    let raw = [HEAD, body].concat();
    let whole = parse([&raw[..]], false, &limits);
    assert_eq!(
        parse(byte_by_byte(&raw), false, &limits).essence(),
        whole.essence()
    );
    let message = &whole.messages[0];
    assert!(message.body.len() <= 1024);
    // Each chunk costs at least "1\r\n", its byte and "\r\n"; the last one "0\r\n\r\n".
    assert!(message.body.len() <= body.len());
    assert!(!message.complete || body.len() >= 5);
});
