//! The wire corpus, as `scripts/export-corpus` writes it: the cases, and what the reference,
//! `penstock.http1`, returns. The environment variable `PENSTOCK_CORPUS` can name another file, for
//! example one with more mutated cases.
#![allow(dead_code, reason = "each test uses a part of it")]

use std::fs;
use std::path::Path;
use std::sync::OnceLock;

use penstock_protocol::Limits;
use serde::Deserialize;

use super::bounds::Bounds;
use super::support::Message;

/// Bytes, as text in latin-1 or as pairs of a text and how often it is repeated.
#[derive(Deserialize)]
#[serde(untagged)]
pub enum Text {
    Plain(String),
    Runs(Vec<(String, usize)>),
}

pub fn latin_1(text: &str) -> Vec<u8> {
    text.chars()
        .map(|char| u8::try_from(char).unwrap())
        .collect()
}

impl Text {
    pub fn bytes(&self) -> Vec<u8> {
        match self {
            Self::Plain(text) => latin_1(text),
            Self::Runs(runs) => runs
                .iter()
                .flat_map(|(text, count)| latin_1(text).repeat(*count))
                .collect(),
        }
    }
}

#[derive(Deserialize)]
pub struct Corpus {
    pub following: String,
    pub limits: Vec<Bounds>,
    pub dates: Vec<(u64, String)>,
    pub constants: Constants,
    pub responses: Responses,
    pub errors: Vec<(String, String, String)>,
    pub cases: Vec<Case>,
}

/// What no setting changes.
#[derive(Deserialize)]
pub struct Constants {
    pub max_method: usize,
    pub chunk_size_digits: usize,
    pub forbidden_trailers: Vec<String>,
    pub allowed_methods: String,
    #[serde(rename = "continue")]
    pub continue_response: String,
    pub last_chunk: String,
}

#[derive(Deserialize)]
pub struct Responses {
    pub phrases: Vec<(u16, String)>,
    pub head: String,
    pub headers: Vec<(String, String)>,
    pub added: String,
    pub chunk_of_1000: String,
}

#[derive(Deserialize)]
pub struct Case {
    pub name: String,
    pub raw: Text,
    pub eof: bool,
    pub limits: usize,
    pub whole: Expected,
    pub by_bytes: Option<Expected>,
}

#[derive(Deserialize)]
pub struct Expected {
    pub messages: Vec<ExpectedMessage>,
    pub error: Option<ExpectedError>,
    pub closed: bool,
}

#[derive(Deserialize)]
pub struct ExpectedMessage {
    pub method: String,
    pub target: Text,
    pub version: String,
    pub path: Text,
    pub query: Text,
    pub fields: Vec<(Text, Text)>,
    pub content_length: Option<u64>,
    pub chunked: bool,
    pub keep_alive: bool,
    pub expect_continue: bool,
    pub body_expected: bool,
    pub body: Text,
    pub complete: bool,
}

#[derive(Deserialize)]
pub struct ExpectedError {
    pub status: u16,
    pub reason: String,
    pub rule: String,
    pub setting: String,
    pub request_line: Text,
}

pub fn corpus() -> &'static Corpus {
    static CORPUS: OnceLock<Corpus> = OnceLock::new();
    CORPUS.get_or_init(|| {
        let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../protocol/tests/corpus.json");
        let path = std::env::var_os("PENSTOCK_CORPUS").map_or(default, Into::into);
        serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
    })
}

impl Case {
    pub fn limits(&self) -> Limits {
        corpus().limits[self.limits].limits()
    }
}

pub fn message(expected: &ExpectedMessage) -> Message {
    let fields = expected.fields.iter();
    Message {
        method: latin_1(&expected.method),
        target: expected.target.bytes(),
        version: match expected.version.as_str() {
            "HTTP/1.0" => "HTTP/1.0",
            _ => "HTTP/1.1",
        },
        path: expected.path.bytes(),
        query: expected.query.bytes(),
        fields: fields
            .map(|(name, value)| (name.bytes(), value.bytes()))
            .collect(),
        content_length: expected.content_length,
        chunked: expected.chunked,
        keep_alive: expected.keep_alive,
        expect_continue: expected.expect_continue,
        body_expected: expected.body_expected,
        body: expected.body.bytes(),
        complete: expected.complete,
    }
}
