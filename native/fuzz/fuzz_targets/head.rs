//! Every span of a head lies within its bytes, and holds only what its part of the grammar allows.
#![no_main]

use libfuzzer_sys::fuzz_target;
use penstock_protocol::{Event, Head, Input, Limits, Parser};

fuzz_target!(|raw: &[u8]| {
    let (mut parser, mut input) = (Parser::new(), Input::new(raw));
    let mut head = Head::default();
    let event = parser.next_event(&mut input, &Limits::default(), &mut head);
    let Ok(Event::Request(bytes)) = event else {
        return;
    };
    assert!(bytes.ends_with(b"\r\n\r\n"));
    assert!(raw.len() == bytes.len() + input.remaining().len() || raw.starts_with(b"\r\n"));
    let method = head.method.of(bytes);
    assert!(bytes.starts_with(method) && (1..=32).contains(&method.len()));
    let target = head.target.of(bytes);
    assert!(!target.is_empty() && target.iter().all(u8::is_ascii_graphic));
    assert!(matches!(head.path(bytes), [b'/', ..] | b"*"));
    assert!(target.ends_with(head.query.of(bytes)));
    let lines = bytes.windows(2).filter(|pair| pair == b"\r\n").count();
    assert_eq!(lines, head.fields.len() + 2);
    for field in &head.fields {
        let (name, value) = (field.name.of(bytes), field.value.of(bytes));
        assert!(!name.is_empty() && name.iter().all(u8::is_ascii_graphic));
        assert!(
            !value
                .iter()
                .any(|&byte| byte.is_ascii_control() && byte != b'\t')
        );
        assert_eq!(value.len(), field.value.end - field.value.start);
        assert!(!value.starts_with(b" ") && !value.ends_with(b"\t"));
    }
    assert!(head.joined_fields(bytes).len() <= head.fields.len() + 1);
    assert!(!(head.chunked && head.content_length.is_some()));
});
