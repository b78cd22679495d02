//! Collects a connection's exchanges for the trace.

use penstock_protocol::response::ErrorResponse;

/// What went over the connection for one request:
/// see `penstock.telemetry.request_finished.Transcript`.
#[derive(Default)]
pub struct Transcript {
    pub connection: u64,
    pub number: u64,
    pub head: Vec<u8>,
    pub request_body: Vec<u8>,
    pub interim: Vec<u8>,
    pub status: Vec<u8>,
    pub headers: Vec<(Vec<u8>, Vec<u8>)>,
    pub added: Vec<u8>,
    pub response_body: Vec<u8>,
}

impl Transcript {
    /// As the `size` of that class has it.
    pub fn size(&self) -> usize {
        let parts = [
            &self.head,
            &self.request_body,
            &self.interim,
            &self.added,
            &self.response_body,
        ];
        let fields = self.headers.iter();
        let fields: usize = fields.map(|(name, value)| name.len() + value.len()).sum();
        fields + parts.iter().map(|part| part.len()).sum::<usize>()
    }
}

pub struct ExchangeTrace {
    /// How many bytes of each body are shown.
    most: usize,
    /// How many bytes of an incomplete head are shown.
    most_of_head: usize,
    connection: u64,
    raw: Vec<u8>, // received, and not yet attributed to a head or a body
    collected: Transcript,
}

impl ExchangeTrace {
    pub fn new(most: usize, most_of_head: usize, connection: u64) -> Self {
        ExchangeTrace {
            most,
            most_of_head,
            connection,
            raw: Vec::new(),
            collected: Transcript::default(),
        }
    }

    /// Note bytes as they come off the socket.
    pub fn received(&mut self, data: &[u8]) {
        self.raw.extend_from_slice(data);
    }

    /// Note that a head ends `buffered` bytes before what has been received.
    pub fn head_received(&mut self, buffered: usize) {
        let rest = self.raw.split_off(self.raw.len().saturating_sub(buffered));
        self.collected = Transcript {
            head: std::mem::replace(&mut self.raw, rest),
            ..Transcript::default()
        };
    }

    /// Note a decoded part of the request's body.
    pub fn body_received(&mut self, data: &[u8], buffered: usize) {
        self.attribute(buffered);
        extend(&mut self.collected.request_body, data, self.most);
    }

    /// Note that a message ends `buffered` bytes before what has been received.
    pub fn message_over(&mut self, buffered: usize) {
        self.attribute(buffered);
        self.collected = Transcript::default(); // what comes next may be refused within its head
    }

    fn attribute(&mut self, buffered: usize) {
        self.raw.drain(..self.raw.len().saturating_sub(buffered));
    }

    /// Note an interim response.
    pub fn sent_interim(&mut self, status: &[u8]) {
        let interim = &mut self.collected.interim;
        if interim.len() < self.most {
            interim.extend_from_slice(status);
            interim.push(b'\n');
        }
    }

    /// Note the response's head: the application's fields, and the server's as lines.
    pub fn head_sent(&mut self, status: &[u8], headers: Vec<(Vec<u8>, Vec<u8>)>, added: &[u8]) {
        self.collected.status = status.to_vec();
        self.collected.headers = headers;
        self.collected.added = added.to_vec();
    }

    /// Note a block of the response's body.
    pub fn body_sent(&mut self, data: &[u8]) {
        extend(&mut self.collected.response_body, data, self.most);
    }

    /// Note an answer of the server's own.
    pub fn answered(&mut self, answer: &ErrorResponse) {
        let head = &answer.head[..];
        let line = memchr::memmem::find(head, b"\r\n").unwrap_or(head.len());
        let status = head.get(b"HTTP/1.1 ".len()..line).unwrap_or(&[]);
        self.head_sent(status, Vec::new(), head.get(line + 2..).unwrap_or(&[]));
        self.body_sent(&answer.body);
    }

    /// Take what was collected of request `number`.
    pub fn take(&mut self, number: u64) -> Box<Transcript> {
        let mut taken = Transcript {
            connection: self.connection,
            number,
            ..std::mem::take(&mut self.collected)
        };
        if taken.head.is_empty() {
            taken.head = self.raw.clone();
            taken.head.truncate(self.most_of_head);
        }
        Box::new(taken)
    }
}

fn extend(shown: &mut Vec<u8>, data: &[u8], most: usize) {
    let room = most.saturating_sub(shown.len());
    shown.extend_from_slice(data.get(..room).unwrap_or(data));
}
