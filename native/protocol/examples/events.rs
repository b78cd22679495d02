//! Prints what the parser returns for given bytes, so that a test can compare another parser with it.
//!
//! Each line of the input is a case in JSON. The program answers it with a line that has, for each
//! way to split the case's bytes, what the parser returned and how many bytes had to be kept from
//! one block to the next. Bytes are written as text in latin-1.
#![allow(clippy::unwrap_used, clippy::panic, clippy::arithmetic_side_effects)]
#![allow(
    clippy::indexing_slicing,
    clippy::expect_used,
    reason = "a tool for tests"
)]

#[path = "../tests/support/bounds.rs"]
mod bounds;
#[path = "../tests/support/mod.rs"]
mod support;

use std::io::{self, BufRead, Write};

use bounds::Bounds;
use serde::Deserialize;
use serde_json::{Value, json};
use support::{Message, Outcome, parse, split_at};

#[derive(Deserialize)]
struct Case {
    raw: String,
    splits: Vec<Vec<usize>>,
    eof: bool,
    limits: Bounds,
}

fn bytes(text: &str) -> Vec<u8> {
    let bytes = text.chars().map(|char| u8::try_from(char).unwrap());
    bytes.collect()
}

fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|&byte| char::from(byte)).collect()
}

fn pairs(fields: &[(Vec<u8>, Vec<u8>)]) -> Vec<(String, String)> {
    let fields = fields.iter();
    fields
        .map(|(name, value)| (text(name), text(value)))
        .collect()
}

fn message(message: &Message) -> Value {
    json!({
        "method": text(&message.method),
        "target": text(&message.target),
        "version": message.version,
        "path": text(&message.path),
        "query": text(&message.query),
        "fields": pairs(&message.fields),
        "content_length": message.content_length,
        "chunked": message.chunked,
        "keep_alive": message.keep_alive,
        "expect_continue": message.expect_continue,
        "body_expected": message.body_expected,
        "body": text(&message.body),
        "complete": message.complete,
    })
}

fn report(outcome: &Outcome) -> Value {
    let messages: Vec<Value> = outcome.messages.iter().map(message).collect();
    let error = outcome.error.map(|error| {
        json!({
            "status": error.status,
            "reason": error.reason,
            "rule": error.rule,
            "setting": error.setting,
            "request_line": text(&outcome.request_line),
            "fields": pairs(&outcome.refused_fields),
        })
    });
    json!({
        "messages": messages,
        "error": error,
        "closed": outcome.closed,
        "most_kept": outcome.most_kept,
    })
}

fn main() {
    let mut out = io::stdout().lock();
    for line in io::stdin().lock().lines() {
        let case: Case = serde_json::from_str(&line.unwrap()).unwrap();
        let limits = case.limits.limits();
        let raw = bytes(&case.raw);
        let splits = case.splits.iter();
        let outcomes = splits.map(|cuts| parse(split_at(&raw, cuts), case.eof, &limits));
        let reports: Vec<Value> = outcomes.map(|outcome| report(&outcome)).collect();
        writeln!(out, "{}", Value::from(reports)).unwrap();
        out.flush().unwrap();
    }
}
