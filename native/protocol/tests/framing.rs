//! How each response is framed, by the table that the reference (`penstock.http1`) is tested with.
#![allow(clippy::unwrap_used, clippy::panic)]

use std::fs;
use std::path::Path;

use penstock_protocol::response::{encode_framing, has_body};
use penstock_protocol::{Framing, Version};
use serde::Deserialize;

/// The framing of the responses for each combination of methods, versions, statuses and lengths.
#[derive(Deserialize)]
struct Row {
    rule: String,
    methods: Vec<String>,
    versions: Vec<String>,
    statuses: Vec<u16>,
    lengths: Vec<Option<u64>>,
    framing: String,
    field: String,
}

impl Row {
    fn check(&self, method: &str, version: &str, status: u16, length: Option<u64>) {
        let case = format!("{}: {method} {version} {status} {length:?}", self.rule);
        let to_head = method == "HEAD";
        let version = match version {
            "HTTP/1.0" => Version::Http10,
            "HTTP/1.1" => Version::Http11,
            _ => panic!("{case}"),
        };
        let expected = match self.framing.as_str() {
            "none" => Framing::None,
            "length" => Framing::Length,
            "chunked" => Framing::Chunked,
            "close" => Framing::Close,
            _ => panic!("{case}"),
        };
        let digits = length.map(|length| length.to_string());
        let field = self.field.replace("{length}", &digits.unwrap_or_default());
        let line = if field.is_empty() {
            field
        } else {
            field + "\r\n"
        };
        let mut out = Vec::new();
        let framing = encode_framing(&mut out, to_head, version, status, length);
        assert_eq!(framing, expected, "{case}");
        assert_eq!(out, line.into_bytes(), "{case}");
        assert_eq!(
            has_body(to_head, status),
            expected != Framing::None,
            "{case}"
        );
    }
}

#[test]
fn a_response_is_framed_as_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/http1/framing.json");
    let rows: Vec<Row> = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(!rows.is_empty());
    for row in &rows {
        for method in &row.methods {
            for version in &row.versions {
                for &status in &row.statuses {
                    for &length in &row.lengths {
                        row.check(method, version, status, length);
                    }
                }
            }
        }
    }
}
