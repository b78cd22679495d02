//! Bytes in, events out: the server's side of one HTTP/1.1 connection.
//!
//! ```text
//! parser.next_event(input, ..) -> Request      Body
//! parser.next_event(input, ..) -> Data, any number
//! parser.next_event(input, ..) -> EndOfMessage Done
//! parser.start_next_request()                  Idle
//! ```

use crate::body::{ChunkedReader, Piece};
use crate::error::{self, ProtocolError};
use crate::head::Head;
use crate::input::Input;
use crate::limits::Limits;
use crate::recall::Memory;
use crate::scan::{self, Scan};

/// What the parser reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// A complete and valid head. What it says is in the [`Head`] that was passed in, whose
    /// spans are ranges of these bytes.
    Request(&'a [u8]),
    /// A piece of the body, freed of its framing; never empty.
    Data(&'a [u8]),
    /// The request is complete. Trailer fields were checked and dropped.
    EndOfMessage,
    /// There is no event before more is received, or the end of it.
    NeedData,
    /// The client closed between two requests, and there will be no other.
    ConnectionClosed,
}

/// Where in a request the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No byte of a request was seen.
    Idle,
    /// Part of a head was seen.
    Head,
    /// The head was handed out; the message has not ended.
    Body,
    /// The message has ended; [`Parser::start_next_request`] begins another.
    Done,
    /// The client broke a rule or a limit; nothing it sends is looked at any more.
    Failed,
    /// The client closed the connection between two requests.
    Closed,
}

/// [`Parser::start_next_request`] was called in this state, in which a request is not over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState(pub State);

impl std::fmt::Display for WrongState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no request can begin in the state {:?}", self.0)
    }
}

impl std::error::Error for WrongState {}

#[derive(Debug)]
enum Stage {
    Head { scan: Scan, begun: bool },
    Length(u64), // bytes of the body not handed out yet; 0 where there is none
    Chunked(ChunkedReader),
    Done,
    Failed(ProtocolError),
    Closed,
}

/// Reads the requests of one connection; holds a few numbers, and no bytes.
///
/// It accepts what RFC 9112 allows a client to send and nothing else, whatever the packets
/// that bring it: the events, joined, depend on the bytes alone. All work is linear in them.
#[derive(Debug)]
pub struct Parser {
    stage: Stage,
    request_line: usize, // length of the one at the start of the input, where it is known
    sound: usize,        // size of a head there in which every line is sound
    eof: bool,
}

impl Default for Parser {
    fn default() -> Self {
        Self::new()
    }
}

impl Parser {
    /// A parser for a new connection.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            stage: Stage::Head {
                scan: Scan::new(),
                begun: false,
            },
            request_line: 0,
            sound: 0,
            eof: false,
        }
    }

    /// Where in a request the parser is.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.stage {
            Stage::Head { begun: false, .. } => State::Idle,
            Stage::Head { begun: true, .. } => State::Head,
            Stage::Length(_) | Stage::Chunked(_) => State::Body,
            Stage::Done => State::Done,
            Stage::Failed(_) => State::Failed,
            Stage::Closed => State::Closed,
        }
    }

    /// Bytes of the body that are still to be received, where `buffered` are there and not
    /// consumed; None where that is not known.
    #[must_use]
    pub const fn body_remaining(&self, buffered: usize) -> Option<u64> {
        match self.stage {
            Stage::Done => Some(0),
            Stage::Length(remaining) => Some(remaining.saturating_sub(buffered as u64)),
            _ => None,
        }
    }

    /// The request line of a head of which only a part is there, or which was refused; empty
    /// before it is complete. `input` is what the last call of [`Parser::next_event`] left over.
    #[must_use]
    pub fn request_line<'a>(&self, input: &Input<'a>) -> &'a [u8] {
        input
            .remaining()
            .get(..self.request_line)
            .unwrap_or_default()
    }

    /// The bytes of a head that was refused although every line of it is sound, for logs: the
    /// `head` that was passed in then has its fields. `input` is what that call left over.
    #[must_use]
    pub fn refused_head<'a>(&self, input: &Input<'a>) -> Option<&'a [u8]> {
        match self.stage {
            Stage::Failed(_) if self.sound > 0 => input.remaining().get(..self.sound),
            _ => None,
        }
    }

    /// Takes notice that the client will send no more than what was received.
    pub const fn receive_eof(&mut self) {
        self.eof = true;
    }

    /// The next event in `input`, of which it consumes what it needs no more.
    ///
    /// `input` has to begin with what the last call left over. The bytes of an incomplete head
    /// are left over; for [`Event::Request`], `head` is written anew.
    ///
    /// # Errors
    /// Where the client broke a rule or a limit, and the same one ever after: answer it, and
    /// close. The first time nothing is consumed, for [`Parser::request_line`].
    pub fn next_event<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
        head: &mut Head,
    ) -> Result<Event<'a>, ProtocolError> {
        let event = match self.stage {
            Stage::Head { .. } => self.next_of_head(input, limits, head),
            Stage::Length(_) | Stage::Chunked(_) => self.next_of_body(input, limits),
            Stage::Done => Ok(Event::EndOfMessage),
            Stage::Closed => Ok(Event::ConnectionClosed),
            Stage::Failed(error) => {
                input.take(usize::MAX);
                return Err(error);
            }
        };
        if let Err(error) = event {
            self.stage = Stage::Failed(error);
        }
        event
    }

    /// [`Parser::next_event`], for one that may begin with fields that came before: those are not
    /// read again. The answer is the same, with or without `memory`.
    ///
    /// # Errors
    /// As of [`Parser::next_event`].
    pub fn next_event_recalling<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
        head: &mut Head,
        memory: &mut Memory,
    ) -> Result<Event<'a>, ProtocolError> {
        if let (Stage::Head { scan, .. }, false) = (&self.stage, memory.is_empty()) {
            if scan.is_fresh() {
                if let Some(size) = scan::recall(input, limits, head, memory) {
                    self.stage = Stage::Length(0);
                    return Ok(Event::Request(input.take(size)));
                }
            }
        }
        let event = self.next_event(input, limits, head)?;
        if let Event::Request(bytes) = event {
            memory.note(bytes, head);
        }
        Ok(event)
    }

    /// Makes ready for another request, of which all or a part may have been received already.
    ///
    /// # Errors
    /// Unless the last event was [`Event::EndOfMessage`].
    pub const fn start_next_request(&mut self) -> Result<(), WrongState> {
        if !matches!(self.stage, Stage::Done) {
            return Err(WrongState(self.state()));
        }
        *self = Self {
            eof: self.eof,
            ..Self::new()
        };
        Ok(())
    }

    fn next_of_head<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
        head: &mut Head,
    ) -> Result<Event<'a>, ProtocolError> {
        let Stage::Head { scan, begun } = &mut self.stage else {
            return Ok(Event::NeedData);
        };
        let found = scan.next(input, limits, head);
        (self.request_line, self.sound) = (scan.request_line(), scan.sound());
        if let Some(size) = found? {
            (self.request_line, self.sound) = (0, 0);
            head.recalled = 0;
            self.stage = match (head.chunked, head.content_length) {
                (true, _) => Stage::Chunked(ChunkedReader::new()),
                (false, length) => Stage::Length(length.unwrap_or(0)),
            };
            return Ok(Event::Request(input.take(size)));
        }
        // A CR may be the one of an empty line before a request, which is no part of it.
        if !matches!(input.remaining().first(), None | Some(b'\r')) {
            *begun = true;
            if self.eof {
                return Err(error::ENDS_IN_HEAD);
            }
        } else if self.eof {
            self.stage = Stage::Closed;
            return Ok(Event::ConnectionClosed);
        }
        Ok(Event::NeedData)
    }

    fn next_of_body<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
    ) -> Result<Event<'a>, ProtocolError> {
        let piece = match &mut self.stage {
            Stage::Length(0) => Piece::End,
            Stage::Length(remaining) => {
                let data = input.take(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining = remaining.saturating_sub(data.len() as u64);
                if data.is_empty() {
                    Piece::Incomplete
                } else {
                    Piece::Data(data)
                }
            }
            Stage::Chunked(reader) => reader.read(input, limits)?,
            _ => Piece::End,
        };
        match piece {
            Piece::Data(data) => Ok(Event::Data(data)),
            Piece::Incomplete if self.eof => Err(error::ENDS_IN_BODY),
            Piece::Incomplete => Ok(Event::NeedData),
            Piece::End => {
                self.stage = Stage::Done;
                Ok(Event::EndOfMessage)
            }
        }
    }
}
