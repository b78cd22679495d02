//! Feeds the parser with bytes that are split in any way, and collects what it returns.
#![allow(dead_code, reason = "each test file uses a part of it")]

use penstock_protocol::{Carry, Event, FieldCache, Head, Input, Limits, Parser, ProtocolError};

/// A request, and the part of its body that was received.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    pub method: Vec<u8>,
    pub target: Vec<u8>,
    pub version: &'static str,
    pub path: Vec<u8>,
    pub query: Vec<u8>,
    pub fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub content_length: Option<u64>,
    pub chunked: bool,
    pub keep_alive: bool,
    pub expect_continue: bool,
    pub body_expected: bool,
    pub body: Vec<u8>,
    pub complete: bool,
}

impl Message {
    pub fn new(head: &Head, bytes: &[u8]) -> Self {
        Self {
            method: head.method.of(bytes).to_vec(),
            target: head.target.of(bytes).to_vec(),
            version: head.version.as_str(),
            path: head.path(bytes).to_vec(),
            query: head.query.of(bytes).to_vec(),
            fields: joined_fields(head, bytes),
            content_length: head.content_length,
            chunked: head.chunked,
            keep_alive: head.keep_alive,
            expect_continue: head.expect_continue,
            body_expected: head.body_expected,
            ..Self::default()
        }
    }
}

fn joined_fields(head: &Head, bytes: &[u8]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let fields = head.joined_fields(bytes).into_iter();
    fields
        .map(|(name, value)| (name, value.into_owned()))
        .collect()
}

/// Everything that a parser returned for a stream of bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    pub messages: Vec<Message>,
    pub error: Option<ProtocolError>,
    pub request_line: Vec<u8>,
    /// The fields of a head that was refused although every line of it is well-formed.
    pub refused_fields: Vec<(Vec<u8>, Vec<u8>)>,
    pub closed: bool,
    /// Number of requests whose fields are in the cache.
    pub cached: usize,
    /// The most bytes that were kept from one block to the next.
    pub most_kept: usize,
}

impl Outcome {
    /// The part that must not depend on how the bytes were split.
    pub fn essence(&self) -> (&[Message], Option<u16>, bool) {
        let status = self.error.map(|error| error.status);
        (&self.messages, status, self.closed)
    }
}

/// Feeds `blocks` to a parser one after the other, and collects every event.
pub fn parse<'a>(
    blocks: impl IntoIterator<Item = &'a [u8]>,
    eof: bool,
    limits: &Limits,
) -> Outcome {
    parse_cached(blocks, eof, limits, &mut None)
}

/// Does the same with a cache of the fields of other streams, if there is one.
pub fn parse_cached<'a>(
    blocks: impl IntoIterator<Item = &'a [u8]>,
    eof: bool,
    limits: &Limits,
    cache: &mut Option<FieldCache>,
) -> Outcome {
    let mut connection = Connection {
        parser: Parser::new(),
        head: Head::default(),
        limits: *limits,
        outcome: Outcome::default(),
        cache,
    };
    let mut carry = Carry::default();
    for block in blocks {
        let mut input = Input::new(carry.join(block));
        let going = connection.take_events(&mut input);
        let left = input.remaining().len();
        carry.keep(block, left);
        assert_eq!(carry.remaining().len(), left);
        if !going {
            return connection.outcome;
        }
        let kept = connection.outcome.most_kept.max(left);
        connection.outcome.most_kept = kept;
    }
    if eof {
        connection.parser.receive_eof();
        connection.take_events(&mut Input::new(carry.remaining()));
    }
    connection.outcome
}

struct Connection<'m> {
    cache: &'m mut Option<FieldCache>,
    parser: Parser,
    head: Head,
    limits: Limits,
    outcome: Outcome,
}

impl Connection<'_> {
    /// Returns true if the parser takes more bytes.
    fn take_events(&mut self, input: &mut Input<'_>) -> bool {
        // Each event but the last consumes a byte, or ends a message that consumed some.
        for _ in 0..3 * input.remaining().len() + 4 {
            let (parser, limits, head) = (&mut self.parser, &self.limits, &mut self.head);
            let event = match self.cache {
                Some(cache) => parser.next_event_cached(input, limits, head, cache),
                None => parser.next_event(input, limits, head),
            };
            match event {
                Ok(Event::NeedData) => return true,
                Ok(Event::ConnectionClosed) => {
                    self.outcome.closed = true;
                    return false;
                }
                Ok(Event::Request(bytes)) => {
                    self.outcome.cached += usize::from(self.head.section_id > 0);
                    self.outcome.messages.push(Message::new(&self.head, bytes));
                }
                Ok(Event::Data(data)) => {
                    assert!(!data.is_empty());
                    self.last().body.extend_from_slice(data);
                }
                Ok(Event::EndOfMessage) => {
                    self.last().complete = true;
                    self.parser.start_next_request().unwrap();
                }
                Err(error) => {
                    self.outcome.error = Some(error);
                    self.outcome.request_line = self.parser.request_line(input).to_vec();
                    if let Some(bytes) = self.parser.refused_head(input) {
                        self.outcome.refused_fields = joined_fields(&self.head, bytes);
                    }
                    return false;
                }
            }
        }
        panic!("the parser does not end");
    }

    fn last(&mut self) -> &mut Message {
        self.outcome.messages.last_mut().unwrap()
    }
}

/// Blocks of one byte.
pub fn byte_by_byte(raw: &[u8]) -> impl Iterator<Item = &[u8]> {
    raw.chunks(1)
}

/// Blocks that end at `cuts`. These may be in any order, and may lie beyond `raw`: a cut counts
/// modulo its length.
pub fn split_at<'a>(raw: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (raw.len() + 1)).collect();
    cuts.sort_unstable();
    cuts.push(raw.len());
    let mut start = 0;
    let blocks = cuts.into_iter().map(|cut| {
        let block = &raw[start..cut];
        start = cut;
        block
    });
    blocks.collect()
}
