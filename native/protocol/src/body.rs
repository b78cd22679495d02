//! Request bodies that come in chunks (RFC 9112, section 7.1).

use crate::error::{self, ProtocolError};
use crate::fields::split_field;
use crate::grammar;
use crate::input::Input;
use crate::limits::Limits;
use crate::lines::{Forbidden, end_of_line};

/// Hexadecimal digits of a chunk's size: with 64 bits no other recipient overflows.
pub const CHUNK_SIZE_DIGITS: usize = 16;

const CRLF: u64 = 2;

/// Fields that frame or route the message. In a trailer section they are a smuggling attempt.
///
/// RFC 9110, section 6.5.1. All other trailer fields are dropped.
pub const FORBIDDEN_TRAILERS: [&[u8]; 6] = [
    b"content-length",
    b"transfer-encoding",
    b"host",
    b"connection",
    b"trailer",
    b"expect",
];

/// What a body reader returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// Content without its framing; never empty.
    Data(&'a [u8]),
    /// The message has ended.
    End,
    /// More has to be received first.
    Incomplete,
}

/// The part of a chunked body that comes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Size,
    Content,
    ContentEnd,
    Trailer,
    Ended,
}

/// Reads a chunked body. It checks the chunk extensions and trailer fields, and drops them.
#[derive(Debug)]
pub struct ChunkedReader {
    step: Step,
    scanned: usize,  // no line ends before this index of the input
    size: u64,       // bytes of content in all chunks announced so far
    remaining: u64,  // bytes of the current chunk that are not yet consumed
    overhead: usize, // bytes of chunk extensions, then of trailer fields
    framing: u64,    // bytes of size lines and of the CRLF behind each chunk
    trailers: usize, // number of trailer fields
}

impl Default for ChunkedReader {
    fn default() -> Self {
        Self::new()
    }
}

impl ChunkedReader {
    /// A reader at the first chunk.
    #[must_use]
    pub const fn new() -> Self {
        Self {
            step: Step::Size,
            scanned: 0,
            size: 0,
            remaining: 0,
            overhead: 0,
            framing: 0,
            trailers: 0,
        }
    }

    /// Returns the next piece of content. `input` has to begin with what the last call left
    /// unconsumed.
    ///
    /// # Errors
    /// If the framing breaks a rule or a limit. After that, `read` may not be called again.
    pub fn read<'a>(
        &mut self,
        input: &mut Input<'a>,
        limits: &Limits,
    ) -> Result<Piece<'a>, ProtocolError> {
        loop {
            let advanced = match self.step {
                Step::Size => self.read_size(input, limits)?,
                Step::Content => match self.read_content(input) {
                    [] => false,
                    data => return Ok(Piece::Data(data)),
                },
                Step::ContentEnd => self.read_content_end(input)?,
                Step::Trailer => self.read_trailer(input, limits)?,
                Step::Ended => return Ok(Piece::End),
            };
            if !advanced {
                return Ok(Piece::Incomplete);
            }
        }
    }

    fn read_size(&mut self, input: &mut Input<'_>, limits: &Limits) -> Result<bool, ProtocolError> {
        let allowed = limits.chunk_overhead.saturating_sub(self.overhead);
        let limit = allowed.saturating_add(CHUNK_SIZE_DIGITS);
        let Some(line) = self.take_line(input, limit, error::EXTENSIONS_TOO_LONG)? else {
            return Ok(false);
        };
        let (size, extensions) = parse_chunk_line(line).ok_or(error::BAD_CHUNK_LINE)?;
        let added = (line.len() as u64).saturating_add(2 * CRLF);
        self.framing = self.framing.saturating_add(added);
        // Before this chunk counts: its content has not come yet.
        let allowed = limits.chunk_framing_ratio.saturating_mul(self.size);
        let small = self.framing > limits.chunk_framing.saturating_add(allowed);
        self.overhead = self.overhead.saturating_add(extensions);
        self.remaining = size;
        self.size = self.size.saturating_add(size);
        if self.overhead > limits.chunk_overhead {
            return Err(error::EXTENSIONS_TOO_LONG);
        }
        if small {
            return Err(error::CHUNKS_TOO_SMALL);
        }
        if self.size > limits.body {
            return Err(error::BODY_TOO_LARGE);
        }
        if size == 0 {
            self.overhead = 0;
            self.step = Step::Trailer;
        } else {
            self.step = Step::Content;
        }
        Ok(true)
    }

    fn read_content<'a>(&mut self, input: &mut Input<'a>) -> &'a [u8] {
        let data = input.take(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        self.remaining = self.remaining.saturating_sub(data.len() as u64);
        if self.remaining == 0 {
            self.step = Step::ContentEnd;
        }
        data
    }

    fn read_content_end(&mut self, input: &mut Input<'_>) -> Result<bool, ProtocolError> {
        match input.remaining() {
            [] | [b'\r'] => Ok(false),
            [b'\r', b'\n', ..] => {
                input.take(2);
                self.step = Step::Size;
                Ok(true)
            }
            _ => Err(error::NO_CHUNK_END),
        }
    }

    fn read_trailer(
        &mut self,
        input: &mut Input<'_>,
        limits: &Limits,
    ) -> Result<bool, ProtocolError> {
        let allowed = limits.chunk_overhead.saturating_sub(self.overhead);
        let (limit, too_long) = if self.trailers == limits.fields {
            (0, error::TOO_MANY_FIELDS)
        } else {
            (allowed, error::TRAILERS_TOO_LONG)
        };
        let Some(line) = self.take_line(input, limit, too_long)? else {
            return Ok(false);
        };
        if line.is_empty() {
            self.step = Step::Ended;
            return Ok(true);
        }
        self.trailers = self.trailers.saturating_add(1);
        self.overhead = self.overhead.saturating_add(line.len());
        let name = split_field(line)?.name.of(line);
        if FORBIDDEN_TRAILERS
            .iter()
            .any(|forbidden| name.eq_ignore_ascii_case(forbidden))
        {
            return Err(error::FORBIDDEN_TRAILER);
        }
        Ok(true)
    }

    fn take_line<'a>(
        &mut self,
        input: &mut Input<'a>,
        limit: usize,
        too_long: ProtocolError,
    ) -> Result<Option<&'a [u8]>, ProtocolError> {
        let bytes = input.remaining();
        let forbidden = Forbidden::Controls;
        let end = end_of_line(bytes, 0, &mut self.scanned, limit, too_long, forbidden)?;
        let Some(end) = end else {
            return Ok(None);
        };
        self.scanned = 0;
        let line = input.take(end);
        input.take(2);
        Ok(Some(line))
    }
}

/// Returns the size of a chunk and the length of its extensions (RFC 9112, section 7.1).
///
/// Blanks are allowed inside the extensions (section 7.1.1), but not next to the size.
fn parse_chunk_line(line: &[u8]) -> Option<(u64, usize)> {
    let digits = line
        .iter()
        .position(|byte| !byte.is_ascii_hexdigit())
        .unwrap_or(line.len());
    let (digits, extensions) = line.split_at_checked(digits)?;
    if digits.len() > CHUNK_SIZE_DIGITS || !grammar::is_chunk_extensions(extensions) {
        return None;
    }
    let size = u64::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    Some((size, extensions.len()))
}
