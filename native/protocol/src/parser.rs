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
use crate::field_cache::FieldCache;
use crate::head::Head;
use crate::input::Input;
use crate::limits::Limits;
use crate::scan::{self, Scan};

/// What the parser returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event<'a> {
    /// The bytes of a complete and valid head. The [`Head`] that was passed in holds what it says;
    /// its spans are ranges of these bytes.
    Request(&'a [u8]),
    /// A piece of the body without its framing; never empty.
    Data(&'a [u8]),
    /// The request is complete. Trailer fields were checked and dropped.
    EndOfMessage,
    /// More has to be received, or the end of the input, before there is another event.
    NeedData,
    /// The client closed between two requests: there are no more events.
    ConnectionClosed,
}

/// Where in a request the parser is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// No byte of a request has been received.
    Idle,
    /// A part of a head has been received.
    Head,
    /// The head has been returned; the message has not ended.
    Body,
    /// The message has ended; [`Parser::start_next_request`] begins another.
    Done,
    /// The client broke a rule or a limit; the parser discards everything it sends after that.
    Failed,
    /// The client closed the connection between two requests.
    Closed,
}

/// [`Parser::start_next_request`] was called in this state, in which a request has not ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WrongState(pub State);

impl std::fmt::Display for WrongState {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "no request can begin in the state {:?}", self.0)
    }
}

impl std::error::Error for WrongState {}

/// Where in a request the parser is, with what it needs to know there.
#[derive(Debug)]
enum Position {
    Head { scan: Scan, begun: bool },
    Length(u64), // bytes of the body that have not been returned yet; 0 if there is no body
    Chunked(ChunkedReader),
    Done,
    Failed(ProtocolError),
    Closed,
}

/// Reads the requests of one connection. It stores a few numbers and no received bytes.
///
/// It accepts what RFC 9112 allows a client to send, and nothing else. The events, with the pieces
/// of a body joined, depend only on the bytes and not on how packets split them. All work is
/// linear in the number of bytes.
#[derive(Debug)]
pub struct Parser {
    position: Position,
    request_line: usize, // length of the request line at the start of the input; 0 if unknown
    /// Size of the head at the start of the input, if it was refused although each of its lines is
    /// well-formed; otherwise 0.
    well_formed: usize,
    eof: bool,
    section: Option<u8>, // where a cache has the fields of the connection's last head
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
            position: Position::Head {
                scan: Scan::new(),
                begun: false,
            },
            request_line: 0,
            well_formed: 0,
            eof: false,
            section: None,
        }
    }

    /// Where in a request the parser is.
    #[must_use]
    pub const fn state(&self) -> State {
        match self.position {
            Position::Head { begun: false, .. } => State::Idle,
            Position::Head { begun: true, .. } => State::Head,
            Position::Length(_) | Position::Chunked(_) => State::Body,
            Position::Done => State::Done,
            Position::Failed(_) => State::Failed,
            Position::Closed => State::Closed,
        }
    }

    /// Returns how many bytes of the body are still to be received, if `buffered` bytes have been
    /// received and not consumed; None if that is not known.
    #[must_use]
    pub const fn body_remaining(&self, buffered: usize) -> Option<u64> {
        match self.position {
            Position::Done => Some(0),
            Position::Length(remaining) => Some(remaining.saturating_sub(buffered as u64)),
            _ => None,
        }
    }

    /// Does what taking `size` bytes of content does: they were received without passing by here.
    /// There are as many to come: [`Parser::body_remaining`] tells.
    pub const fn note_content(&mut self, size: usize) {
        if let Position::Length(remaining) = &mut self.position {
            *remaining = remaining.saturating_sub(size as u64);
        }
    }

    /// Returns the request line of a head that is incomplete or was refused; empty while the line
    /// itself is incomplete. `input` is what the last call of [`Parser::next_event`] left
    /// unconsumed.
    #[must_use]
    pub fn request_line<'a>(&self, input: &Input<'a>) -> &'a [u8] {
        input
            .remaining()
            .get(..self.request_line)
            .unwrap_or_default()
    }

    /// Returns the bytes of a head that was refused although every line of it is well-formed. The
    /// `head` that was passed in then has its fields. For logs. `input` is what the call that
    /// failed left unconsumed.
    #[must_use]
    pub fn refused_head<'a>(&self, input: &Input<'a>) -> Option<&'a [u8]> {
        match self.position {
            Position::Failed(_) if self.well_formed > 0 => {
                input.remaining().get(..self.well_formed)
            }
            _ => None,
        }
    }

    /// Records that the client has closed its side: it sends no more than what was received.
    pub const fn receive_eof(&mut self) {
        self.eof = true;
    }

    /// Returns the next event in `input`, and consumes the bytes that it no longer needs.
    ///
    /// `input` has to begin with what the last call left unconsumed, such as the bytes of an
    /// incomplete head. With [`Event::Request`], all of `head` has been overwritten.
    ///
    /// # Errors
    /// If the client broke a rule or a limit; every later call returns the same error. The caller
    /// answers with it and closes the connection. The first call that fails consumes nothing, so
    /// that [`Parser::request_line`] still finds its bytes.
    pub fn next_event<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
        head: &mut Head,
    ) -> Result<Event<'a>, ProtocolError> {
        let event = match self.position {
            Position::Head { .. } => self.next_of_head(input, limits, head),
            Position::Length(_) | Position::Chunked(_) => self.next_of_body(input, limits),
            Position::Done => Ok(Event::EndOfMessage),
            Position::Closed => Ok(Event::ConnectionClosed),
            Position::Failed(error) => {
                input.take(usize::MAX);
                return Err(error);
            }
        };
        if let Err(error) = event {
            self.position = Position::Failed(error);
        }
        event
    }

    /// Does what [`Parser::next_event`] does, but does not parse field lines again that `cache` has.
    /// The result is the same with and without a cache.
    ///
    /// # Errors
    /// Those of [`Parser::next_event`].
    pub fn next_event_cached<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
        head: &mut Head,
        cache: &mut FieldCache,
    ) -> Result<Event<'a>, ProtocolError> {
        if let (Position::Head { scan, .. }, false) = (&self.position, cache.is_empty()) {
            if scan.is_fresh() {
                // A client sends the fields of its last request again.
                let place = self.section.unwrap_or(cache.latest());
                if let Some(size) = scan::read_cached_head(input, limits, head, cache, place) {
                    self.position = Position::Length(head.content_length.unwrap_or(0));
                    self.section = Some(place);
                    return Ok(Event::Request(input.take(size)));
                }
            }
        }
        let event = self.next_event(input, limits, head)?;
        if let Event::Request(bytes) = event {
            cache.add(bytes, head);
            if head.section_id > 0 {
                self.section = Some(cache.latest());
            }
        }
        Ok(event)
    }

    /// Prepares for the next request, of which a part or all may have been received already.
    ///
    /// # Errors
    /// If the last event was not [`Event::EndOfMessage`].
    pub const fn start_next_request(&mut self) -> Result<(), WrongState> {
        if !matches!(self.position, Position::Done) {
            return Err(WrongState(self.state()));
        }
        *self = Self {
            eof: self.eof,
            section: self.section,
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
        let Position::Head { scan, begun } = &mut self.position else {
            return Ok(Event::NeedData);
        };
        let found = scan.next(input, limits, head);
        (self.request_line, self.well_formed) = (scan.request_line(), scan.well_formed());
        if let Some(size) = found? {
            (self.request_line, self.well_formed) = (0, 0);
            self.position = match (head.chunked, head.content_length) {
                (true, _) => Position::Chunked(ChunkedReader::new()),
                (false, length) => Position::Length(length.unwrap_or(0)),
            };
            return Ok(Event::Request(input.take(size)));
        }
        // A CR may belong to an empty line before the request, which is not a part of it.
        if !matches!(input.remaining().first(), None | Some(b'\r')) {
            *begun = true;
            if self.eof {
                return Err(error::ENDS_IN_HEAD);
            }
        } else if self.eof {
            self.position = Position::Closed;
            return Ok(Event::ConnectionClosed);
        }
        Ok(Event::NeedData)
    }

    fn next_of_body<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
    ) -> Result<Event<'a>, ProtocolError> {
        let piece = match &mut self.position {
            Position::Length(0) => Piece::End,
            Position::Length(remaining) => {
                let data = input.take(usize::try_from(*remaining).unwrap_or(usize::MAX));
                *remaining = remaining.saturating_sub(data.len() as u64);
                if data.is_empty() {
                    Piece::Incomplete
                } else {
                    Piece::Data(data)
                }
            }
            Position::Chunked(reader) => reader.read(input, limits)?,
            _ => Piece::End,
        };
        match piece {
            Piece::Data(data) => Ok(Event::Data(data)),
            Piece::Incomplete if self.eof => Err(error::ENDS_IN_BODY),
            Piece::Incomplete => Ok(Event::NeedData),
            Piece::End => {
                self.position = Position::Done;
                Ok(Event::EndOfMessage)
            }
        }
    }
}
