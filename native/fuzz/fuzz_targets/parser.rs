//! The result for pipelined requests does not depend on how the bytes are split, whatever the limits.
#![no_main]

#[path = "../../protocol/tests/support/mod.rs"]
mod support;

use libfuzzer_sys::fuzz_target;
use penstock_protocol::Limits;
use support::{byte_by_byte, parse, split_at};

fuzz_target!(|input: (bool, [u8; 3], [u16; 4], &[u8])| {
    let (eof, bounds, cuts, raw) = input;
    let [lines, fields, body] = bounds.map(usize::from);
    let limits = Limits {
        request_line: 16 + lines,
        fields,
        field_size: 8 + lines,
        head: 32 + 4 * lines,
        chunk_overhead: lines,
        chunk_framing: lines as u64,
        chunk_framing_ratio: 2,
        body: body as u64 * 16,
    };
    let whole = parse([raw], eof, &limits);
    let by_bytes = parse(byte_by_byte(raw), eof, &limits);
    assert_eq!(by_bytes.essence(), whole.essence());
    assert!(by_bytes.most_kept <= limits.head.max(16 + limits.chunk_overhead + 1));
    let split = parse(split_at(raw, &cuts.map(usize::from)), eof, &limits);
    assert_eq!(split.essence(), whole.essence());
});
