//! Finding the end of a head, and reading it.
//!
//! There are two ways, with the same results. Nearly every head has been received whole and has
//! nothing unusual in it: it is read in one pass. All others are checked line by line, as far as
//! they have been received, so that the first fault is found as soon as its byte is there.

use crate::error::{self, ProtocolError};
use crate::field_cache::FieldCache;
use crate::fields::{KnownFields, interpret, read_value, split_field};
use crate::grammar;
use crate::head::{Field, Head, Span, Version};
use crate::input::Input;
use crate::limits::Limits;
use crate::lines::{Forbidden, end_of_line, find_control};
use crate::request_line;

const CRLF: usize = 2;

/// The first byte of what a client of TLS sends (RFC 8446, section 5.1).
const TLS_HANDSHAKE: u8 = 0x16;

/// How far a head has been scanned. Offsets count from its first byte.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scan {
    line: usize,         // where the current line begins
    scanned: usize,      // no line ends between `line` and this offset
    lines: usize,        // number of lines before the current one
    request_line: usize, // length of the request line, once it is known
    well_formed: usize,  // size of the head, once it is complete and each line is well-formed
    skipped_line: bool,  // whether an empty line preceded this request
}

impl Scan {
    pub const fn new() -> Self {
        Self {
            line: 0,
            scanned: 0,
            lines: 0,
            request_line: 0,
            well_formed: 0,
            skipped_line: false,
        }
    }

    /// The length of the request line; 0 while it is unknown.
    pub const fn request_line(&self) -> usize {
        self.request_line
    }

    /// The size of a complete head in which every line is well-formed; 0 if there is none.
    pub const fn well_formed(&self) -> usize {
        self.well_formed
    }

    /// Returns true if no byte of a head has been scanned.
    pub const fn is_fresh(&self) -> bool {
        self.lines == 0 && self.scanned == 0
    }

    /// Returns the size of the head at the start of `input` once it is complete, and writes what
    /// it says into `head`. Consumes nothing except an empty line before the head.
    pub fn next(
        &mut self,
        input: &mut Input<'_>,
        limits: &Limits,
        head: &mut Head,
    ) -> Result<Option<usize>, ProtocolError> {
        let mut known = KnownFields::default();
        let Some(size) = self.read(input, limits, head, &mut known)? else {
            return Ok(None);
        };
        known.refuse_repeated()?;
        self.well_formed = size;
        let bytes = input.remaining().get(..size).unwrap_or_default();
        interpret(bytes, &known, limits, head)?;
        Ok(Some(size))
    }

    fn read(
        &mut self,
        input: &mut Input<'_>,
        limits: &Limits,
        head: &mut Head,
        known: &mut KnownFields,
    ) -> Result<Option<usize>, ProtocolError> {
        let mut whole = None;
        if self.is_fresh() {
            let window = window(input, limits);
            if let Some(size) = read_plain_head(window, limits, head, known) {
                self.request_line = plain_request_line(head);
                return Ok(Some(size));
            }
            whole = find_whole_head(window, limits);
        }
        let size = match whole {
            Some(size) => size,
            None => match self.next_by_lines(input, limits)? {
                Some(size) => size,
                None => return Ok(None),
            },
        };
        let bytes = input.remaining().get(..size).unwrap_or_default();
        self.request_line = memchr::memchr(b'\r', bytes).unwrap_or(0);
        read_head(bytes, head, known)?;
        Ok(Some(size))
    }

    /// Checks the lines of a head that have been received, and returns its size once it is
    /// complete.
    ///
    /// A line is checked when it ends; its length and its bytes are checked as they arrive.
    fn next_by_lines(
        &mut self,
        input: &mut Input<'_>,
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        loop {
            let bytes = input.remaining();
            let Some(end) = self.end_of_head_line(bytes, limits)? else {
                return Ok(None);
            };
            let next = end.saturating_add(CRLF);
            let line = bytes.get(self.line..end).unwrap_or_default();
            if line.is_empty() {
                if self.lines > 0 {
                    return Ok(Some(next));
                }
                if self.skipped_line {
                    return Err(error::EMPTY_REQUEST_LINE);
                }
                input.take(next);
                *self = Self {
                    skipped_line: true,
                    ..Self::new()
                };
                continue;
            }
            if self.lines == 0 {
                self.request_line = line.len();
                request_line::parse(line, &mut Head::default())?;
            } else {
                split_field(line)?;
            }
            self.lines = self.lines.saturating_add(1);
            self.line = next;
            self.scanned = next;
        }
    }

    fn end_of_head_line(
        &mut self,
        bytes: &[u8],
        limits: &Limits,
    ) -> Result<Option<usize>, ProtocolError> {
        let (mut limit, mut too_long, forbidden);
        if self.lines > 0 {
            (limit, too_long) = (limits.field_size, error::FIELD_TOO_LONG);
            forbidden = Forbidden::Controls;
            if self.lines > limits.fields {
                (limit, too_long) = (0, error::TOO_MANY_FIELDS);
            }
        } else {
            (limit, too_long) = (limits.request_line, error::REQUEST_LINE_TOO_LONG);
            forbidden = Forbidden::ControlsAndTabs;
            if let Some(&first) = bytes.first() {
                if first != b'\r' && !grammar::is_token_byte(first) {
                    if first == TLS_HANDSHAKE {
                        return Err(error::SPEAKS_TLS);
                    }
                    return Err(error::NO_METHOD);
                }
            }
        }
        // A line fits if its CRLF and the empty line after it fit too: so the empty line always
        // fits.
        let left = limits
            .head
            .saturating_sub(self.line)
            .saturating_sub(2 * CRLF);
        if left < limit {
            (limit, too_long) = (left, error::HEAD_TOO_LONG);
        }
        end_of_line(
            bytes,
            self.line,
            &mut self.scanned,
            limit,
            too_long,
            forbidden,
        )
    }
}

/// The part of the input that needs no counting: in a head that is this short, no line can pass
/// its limit.
fn window<'a>(input: &Input<'a>, limits: &Limits) -> &'a [u8] {
    let most = limits.request_line.min(limits.field_size).min(limits.head);
    let bytes = input.remaining();
    bytes.get(..most).unwrap_or(bytes)
}

/// Reads the head at the start of `input` if its fields have the names of the section at `place` of
/// `cache`, and returns its size.
pub fn read_cached_head(
    input: &Input<'_>,
    limits: &Limits,
    head: &mut Head,
    cache: &mut FieldCache,
    place: u8,
) -> Option<usize> {
    let window = window(input, limits);
    let at = read_plain_request_line(window, head)?;
    if head.version != Version::Http11 {
        return None;
    }
    cache.read(place, window, at, limits.body, head)
}

/// The length of a request line in origin-form, given that each version has eight bytes.
const fn plain_request_line(head: &Head) -> usize {
    head.target.end.saturating_add(" HTTP/1.1".len())
}

/// Reads a head that has been received whole and has nothing unusual in it, and returns its size.
///
/// Nearly all heads are read here. None leaves the head to the functions that check line by line:
/// they accept it, or find its first fault.
fn read_plain_head(
    bytes: &[u8],
    limits: &Limits,
    head: &mut Head,
    known: &mut KnownFields,
) -> Option<usize> {
    let mut at = read_plain_request_line(bytes, head)?;
    *known = KnownFields::default();
    head.start_fields();
    loop {
        let rest = bytes.get(at..)?;
        if let [b'\r', b'\n', ..] = rest {
            return at.checked_add(CRLF);
        }
        let colon = rest
            .iter()
            .position(|&byte| !grammar::is_token_byte(byte))?;
        let (name, after_name) = rest.split_at_checked(colon)?;
        let [b':', ..] = after_name else {
            return None;
        };
        if name.is_empty() || head.fields.len() == limits.fields {
            return None;
        }
        let colon = at.checked_add(colon)?;
        let (value, next) = read_value(bytes, colon.checked_add(1)?)?;
        let field = Field {
            name: Span::new(at, colon),
            value,
        };
        known.record(name, field.value);
        head.fields.push(field);
        at = next;
    }
}

/// Reads `method /path HTTP/1.x` and its CRLF; returns where the next line begins.
fn read_plain_request_line(bytes: &[u8], head: &mut Head) -> Option<usize> {
    let space = bytes
        .iter()
        .position(|&byte| !grammar::is_token_byte(byte))?;
    let (method, rest) = bytes.split_at_checked(space)?;
    let [b' ', rest @ ..] = rest else {
        return None;
    };
    let length = rest
        .iter()
        .position(|&byte| !grammar::is_target_byte(byte))?;
    let (target, rest) = rest.split_at_checked(length)?;
    head.version = match rest.first_chunk::<11>()? {
        b" HTTP/1.1\r\n" => Version::Http11,
        b" HTTP/1.0\r\n" => Version::Http10,
        _ => return None,
    };
    if method.is_empty() || !target.starts_with(b"/") {
        return None;
    }
    request_line::check_method(method).ok()?;
    head.method = Span::new(0, space);
    let start = space.checked_add(1)?;
    let end = start.checked_add(length)?;
    head.target = Span::new(start, end);
    head.authority = None;
    request_line::split_query(head.target, 0, target, head);
    end.checked_add(11)
}

/// Returns the size of a head that has been received whole and whose line ends, bytes and number
/// of lines are valid. What its lines say may still be wrong.
fn find_whole_head(window: &[u8], limits: &Limits) -> Option<usize> {
    let end = memchr::memmem::find(window, b"\r\n\r\n")?;
    let (head, _) = window.split_at_checked(end)?;
    let mut fields: usize = 0;
    let mut rest = head;
    while let Some(at) = find_control(rest) {
        match rest.split_at_checked(at) {
            Some(([], _)) if fields == 0 => return None, // an empty line precedes it
            Some((_, [b'\r', b'\n', after @ ..])) => rest = after,
            _ => return None,
        }
        fields = fields.saturating_add(1);
    }
    if head.is_empty() || fields > limits.fields {
        return None;
    }
    end.checked_add(2 * CRLF)
}

/// Reads a complete head in which every line ends in CRLF and no line holds a control character.
fn read_head(bytes: &[u8], head: &mut Head, known: &mut KnownFields) -> Result<(), ProtocolError> {
    let end = memchr::memchr(b'\r', bytes).unwrap_or(bytes.len());
    let (line, _) = bytes.split_at_checked(end).unwrap_or_default();
    request_line::parse(line, head)?;
    *known = KnownFields::default();
    head.start_fields();
    let mut at = end.saturating_add(CRLF);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let end = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
        let line = rest.get(..end).unwrap_or_default();
        if line.is_empty() {
            return Ok(());
        }
        let field = split_field(line)?;
        let field = field.shifted(at);
        known.record(field.name.of(bytes), field.value);
        head.fields.push(field);
        at = at.saturating_add(end).saturating_add(CRLF);
    }
}
