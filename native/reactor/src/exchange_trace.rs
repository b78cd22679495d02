//! Copies a connection's exchanges for `--trace`: a request, then its response, as a whole.

use crate::log_queue::{Entry, TracedRequest, TracedResponse};

/// How much of a head that was refused is shown, as a multiple of what is shown of a body.
const REFUSED_HEAD: usize = 4;

#[derive(Default)]
pub struct ExchangeTrace {
    /// How many bytes of each body are shown.
    most: usize,
    connection: u64,
    peer: String,
    raw: Vec<u8>, // received, and not yet attributed to a head or a body
    head: Vec<u8>,
    body: Vec<u8>,
    length: u64,
    shown: bool,
    status: Vec<u8>,
    headers: Vec<(Vec<u8>, Vec<u8>)>,
    added: Vec<u8>,
    answer: Vec<u8>,
}

impl ExchangeTrace {
    pub fn new(most: usize, connection: u64, peer: String) -> Self {
        ExchangeTrace {
            most,
            connection,
            peer,
            ..ExchangeTrace::default()
        }
    }

    /// Note bytes as they come off the socket.
    pub fn received(&mut self, data: &[u8]) {
        self.raw.extend_from_slice(data);
    }

    /// Note that a head ends `buffered` bytes before what has been received.
    pub fn head_received(&mut self, buffered: usize) {
        let rest = self.raw.split_off(self.raw.len().saturating_sub(buffered));
        let head = std::mem::replace(&mut self.raw, rest);
        self.begin(head);
    }

    fn begin(&mut self, head: Vec<u8>) {
        *self = ExchangeTrace {
            most: self.most,
            connection: self.connection,
            peer: std::mem::take(&mut self.peer),
            raw: std::mem::take(&mut self.raw),
            head,
            ..ExchangeTrace::default()
        };
    }

    /// Note a decoded part of the request's body.
    pub fn body_received(&mut self, data: &[u8], buffered: usize) {
        self.attribute(buffered);
        self.length += data.len() as u64;
        extend(&mut self.body, data, self.most);
    }

    /// Note that a message ends `buffered` bytes before what has been received.
    pub fn message_over(&mut self, buffered: usize) {
        self.attribute(buffered);
        self.begin(Vec::new()); // what comes next may be refused before its head is complete
    }

    fn attribute(&mut self, buffered: usize) {
        self.raw.drain(..self.raw.len().saturating_sub(buffered));
    }

    /// The request, to be printed as it is handed out.
    pub fn request(&mut self, number: u64) -> Entry {
        self.shown = true;
        let mut head = self.head.clone();
        if head.is_empty() {
            head = self.raw.clone();
            head.truncate(REFUSED_HEAD * self.most);
        }
        Entry::Request(Box::new(TracedRequest {
            connection: self.connection,
            number,
            peer: self.peer.clone(),
            head,
            body: self.body.clone(),
            length: self.length,
        }))
    }

    /// Whether the request has been printed.
    pub fn shown(&self) -> bool {
        self.shown
    }

    /// Note the response's head: the application's fields, and the server's as lines.
    pub fn head_sent(&mut self, status: &[u8], headers: Vec<(Vec<u8>, Vec<u8>)>, added: &[u8]) {
        self.status = status.to_vec();
        self.headers = headers;
        self.added = added.to_vec();
    }

    /// Note a block of the response's body.
    pub fn body_sent(&mut self, data: &[u8]) {
        extend(&mut self.answer, data, self.most);
    }

    /// The response, to be printed; its body has `length` bytes.
    pub fn response(&mut self, number: u64, length: u64, note: &str) -> Entry {
        Entry::Response(Box::new(TracedResponse {
            connection: self.connection,
            number,
            status: std::mem::take(&mut self.status),
            headers: std::mem::take(&mut self.headers),
            added: std::mem::take(&mut self.added),
            body: std::mem::take(&mut self.answer),
            length,
            note: note.to_owned(),
        }))
    }
}

fn extend(shown: &mut Vec<u8>, data: &[u8], most: usize) {
    let room = most.saturating_sub(shown.len());
    shown.extend_from_slice(data.get(..room).unwrap_or(data));
}
