//! The bytes of a head to what they say: request line, fields, and what they mean together.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::error::{self, ProtocolError};
use crate::grammar::{self, members, trim, trim_end, trim_start};
use crate::input::Input;
use crate::limits::Limits;
use crate::lines::{Forbidden, end_of_line, find_control};
use crate::request_line;

const CRLF: usize = 2;

/// A range of a head's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The index of the first byte.
    pub start: usize,
    /// The index behind the last byte.
    pub end: usize,
}

impl Span {
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    /// These bytes of `head`; empty if it has fewer.
    #[must_use]
    #[inline]
    pub fn of(self, head: &[u8]) -> &[u8] {
        head.get(self.start..self.end).unwrap_or_default()
    }
}

/// The version that a request is treated as.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0.
    Http10,
    /// HTTP/1.1, and every later 1.x.
    #[default]
    Http11,
}

impl Version {
    /// `"HTTP/1.0"` or `"HTTP/1.1"`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http10 => "HTTP/1.0",
            Self::Http11 => "HTTP/1.1",
        }
    }
}

/// A field line: a name in the case that it was sent in, and a value freed of blanks around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// A token.
    pub name: Span,
    /// Text in latin-1, without control characters but HTAB; it may be empty.
    pub value: Span,
}

/// What a complete and valid head says. One can serve for any number of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// A token of at most 32 bytes, in the case it was sent in.
    pub method: Span,
    /// The request target exactly as received.
    pub target: Span,
    /// The version to answer in.
    pub version: Version,
    /// The target's path, undecoded; empty where an absolute-form has none ([`Head::path`]).
    pub path: Span,
    /// What follows the target's first `?`, undecoded; empty if nothing does.
    pub query: Span,
    /// Of an absolute-form target: it replaces the value of Host (RFC 9112, section 3.2.2).
    pub authority: Option<Span>,
    /// The field lines in their order, repeated ones among them.
    pub fields: Vec<Field>,
    /// The value of Content-Length in bytes; None if there is no such field.
    pub content_length: Option<u64>,
    /// Whether the body comes in chunks.
    pub chunked: bool,
    /// Whether the client lets the connection persist.
    pub keep_alive: bool,
    /// Whether the client may hold its body back until it sees `100 Continue`.
    pub expect_continue: bool,
    /// Whether body bytes follow, as far as the head can tell (an empty chunked body may).
    pub body_expected: bool,
}

impl Head {
    /// The target's path, undecoded; `/` where it is empty, `*` for `OPTIONS *`.
    #[must_use]
    pub fn path<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        match self.path.of(head) {
            [] => b"/",
            path => path,
        }
    }

    /// Lower-case names and values, in the order of each name's first line: repeated fields
    /// joined by their [`separator`], Host replaced by the target's authority.
    ///
    /// Convenient, and not made for speed. RFC 9110, section 5.3.
    #[must_use]
    pub fn joined_fields<'a>(&self, head: &'a [u8]) -> Vec<(Vec<u8>, Cow<'a, [u8]>)> {
        let mut joined: Vec<(Vec<u8>, Cow<'a, [u8]>)> = Vec::new();
        let mut places: HashMap<Vec<u8>, usize> = HashMap::new();
        let authority = self.authority.map(|authority| authority.of(head));
        let fields = self.fields.iter().map(|field| {
            let name = field.name.of(head).to_ascii_lowercase();
            (name, field.value.of(head))
        });
        let host = authority.map(|_| (b"host".to_vec(), &b""[..]));
        for (name, value) in fields.chain(host) {
            let value = match authority {
                Some(authority) if name == b"host" => authority,
                _ => value,
            };
            let place = places.get(&name).and_then(|&place| joined.get_mut(place));
            match place {
                Some((name, _)) if name == b"host" => {}
                Some((name, all)) => {
                    all.to_mut().extend_from_slice(separator(name));
                    all.to_mut().extend_from_slice(value);
                }
                None => {
                    places.insert(name.clone(), joined.len());
                    joined.push((name, Cow::Borrowed(value)));
                }
            }
        }
        joined
    }

    /// The members of a list field, over all of its lines. Equal to those of the joined value.
    fn members<'a>(&self, head: &'a [u8], name: &'static [u8]) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| field.name.of(head).eq_ignore_ascii_case(name))
            .flat_map(move |field| members(field.value.of(head)))
    }
}

/// What stands between the values of repeated fields; `name` is in lower case.
///
/// RFC 9110, section 5.3; RFC 9113, section 8.2.3: a comma is a part of a cookie's value.
#[must_use]
pub fn separator(name: &[u8]) -> &'static [u8] {
    if name == b"cookie" { b"; " } else { b"," }
}

/// The name and the trimmed value of a field line (RFC 9112, section 5).
pub(crate) fn split_field(line: &[u8]) -> Result<(&[u8], &[u8]), ProtocolError> {
    let colon = memchr::memchr(b':', line).ok_or(error::NO_COLON)?;
    let name = line.get(..colon).unwrap_or_default();
    if !grammar::is_token(name) {
        return Err(match name {
            [b' ' | b'\t', ..] => error::FOLDED_FIELD,
            [.., b' ' | b'\t'] => error::BLANK_BEFORE_COLON,
            _ => error::BAD_FIELD_NAME,
        });
    }
    let value = line.get(colon.saturating_add(1)..).unwrap_or_default();
    Ok((name, trim(value)))
}

/// The fields that say something about the message itself.
#[derive(Default)]
struct Seen {
    host: Option<Span>,
    content_length: Option<Span>,
    content_type: bool,
    repeated: bool,
    transfer_encoding: bool,
    connection: bool,
    expect: bool,
}

impl Seen {
    #[inline]
    fn note(&mut self, name: &[u8], value: Span) {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.repeated |= self.host.replace(value).is_some();
            }
            6 if name.eq_ignore_ascii_case(b"expect") => self.expect = true,
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection = true,
            12 if name.eq_ignore_ascii_case(b"content-type") => {
                self.repeated |= self.content_type;
                self.content_type = true;
            }
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.repeated |= self.content_length.replace(value).is_some();
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding = true,
            _ => {}
        }
    }
}

/// How far a head has been looked at. Offsets count from its first byte.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scan {
    line: usize,         // where the line that is being looked for begins
    scanned: usize,      // no line ends between there and here
    lines: usize,        // how many precede it
    request_line: usize, // length of the first
    skipped_line: bool,  // whether an empty line preceded this request
}

impl Scan {
    pub const fn new() -> Self {
        Self {
            line: 0,
            scanned: 0,
            lines: 0,
            request_line: 0,
            skipped_line: false,
        }
    }

    /// The length of the request line, 0 before that is known.
    pub const fn request_line(&self) -> usize {
        self.request_line
    }

    /// Returns the size of the head that `input` begins with, once it is complete, and writes
    /// what it says into `head`. Consumes nothing but an empty line before it.
    pub fn next(
        &mut self,
        input: &mut Input<'_>,
        limits: &Limits,
        head: &mut Head,
    ) -> Result<Option<usize>, ProtocolError> {
        if self.lines == 0 && self.scanned == 0 {
            // No line of a head of this size can pass its limit.
            let most = limits.request_line.min(limits.field_size).min(limits.head);
            let window = input.remaining();
            let window = window.get(..most).unwrap_or(window);
            if let Some((size, seen)) = read_plain_head(window, limits, head) {
                self.request_line = head_line_length(head);
                conclude(window, &seen, limits, head)?;
                return Ok(Some(size));
            }
            if let Some(size) = find_whole_head(window, limits) {
                let bytes = window.get(..size).unwrap_or_default();
                self.request_line = memchr::memchr(b'\r', bytes).unwrap_or(0);
                parse_head(bytes, limits, head)?;
                return Ok(Some(size));
            }
        }
        let Some(size) = self.next_by_lines(input, limits)? else {
            return Ok(None);
        };
        let bytes = input.remaining().get(..size).unwrap_or_default();
        parse_head(bytes, limits, head)?;
        Ok(Some(size))
    }

    /// Looks at the lines of a head as far as they came, and returns its size once it is complete.
    ///
    /// Each line is judged when it ends, or as soon as a byte in it is one too many.
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
                request_line::parse(line, &mut Head::default())?;
                self.request_line = line.len();
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
            forbidden = Forbidden::NotAscii;
            if let Some(&first) = bytes.first() {
                if first != b'\r' && !grammar::is_token_byte(first) {
                    return Err(error::NO_METHOD);
                }
            }
        }
        // A line fits if its CRLF and the empty line do; the empty line then fits, too.
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

/// The length of a request line in origin-form: all its versions have eight bytes.
const fn head_line_length(head: &Head) -> usize {
    head.target.end.saturating_add(" HTTP/1.1".len())
}

/// Reads a head that is there as a whole and has nothing odd about it: nearly every one.
///
/// Returns its size. What it leaves, the other ways find in order a fault in, or none.
fn read_plain_head(bytes: &[u8], limits: &Limits, head: &mut Head) -> Option<(usize, Seen)> {
    let mut at = read_plain_request_line(bytes, head)?;
    let mut seen = Seen::default();
    head.fields.clear();
    loop {
        let rest = bytes.get(at..)?;
        if let [b'\r', b'\n', ..] = rest {
            return Some((at.checked_add(CRLF)?, seen));
        }
        let colon = rest
            .iter()
            .position(|&byte| !grammar::is_token_byte(byte))?;
        let (name, after_name) = rest.split_at_checked(colon)?;
        let [b':', value @ ..] = after_name else {
            return None;
        };
        if name.is_empty() || head.fields.len() == limits.fields {
            return None;
        }
        let value = trim_start(value);
        let end = find_control(value)?;
        let (value, line_end) = value.split_at_checked(end)?;
        let [b'\r', b'\n', after @ ..] = line_end else {
            return None;
        };
        let value_end = bytes.len().checked_sub(line_end.len())?;
        let value_start = value_end.checked_sub(value.len())?;
        let value_end = value_start.checked_add(trim_end(value).len())?;
        let field = Field {
            name: Span::new(at, at.checked_add(colon)?),
            value: Span::new(value_start, value_end),
        };
        seen.note(name, field.value);
        head.fields.push(field);
        at = bytes.len().checked_sub(after.len())?;
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

/// The size of a head that is there as a whole, and in which all that is wrong is words.
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

/// Reads a complete head in which every line ends in CRLF and holds no control character.
fn parse_head(bytes: &[u8], limits: &Limits, head: &mut Head) -> Result<(), ProtocolError> {
    let end = memchr::memchr(b'\r', bytes).unwrap_or(bytes.len());
    let (line, _) = bytes.split_at_checked(end).unwrap_or_default();
    request_line::parse(line, head)?;
    let mut seen = Seen::default();
    head.fields.clear();
    let mut at = end.saturating_add(CRLF);
    loop {
        let rest = bytes.get(at..).unwrap_or_default();
        let end = memchr::memchr(b'\r', rest).unwrap_or(rest.len());
        let line = rest.get(..end).unwrap_or_default();
        if line.is_empty() {
            break;
        }
        let (name, value) = split_field(line)?;
        // `value` ends where the line does, but for the blanks behind it.
        let blanks = line.len().saturating_sub(trim_end(line).len());
        let value_end = at.saturating_add(end).saturating_sub(blanks);
        let value = if value.is_empty() {
            let colon = at.saturating_add(name.len()).saturating_add(1);
            Span::new(colon, colon)
        } else {
            Span::new(value_end.saturating_sub(value.len()), value_end)
        };
        let name_span = Span::new(at, at.saturating_add(name.len()));
        seen.note(name, value);
        head.fields.push(Field {
            name: name_span,
            value,
        });
        at = at.saturating_add(end).saturating_add(CRLF);
    }
    conclude(bytes, &seen, limits, head)
}

/// Finds out what the fields of a head say together, and whether they may.
fn conclude(
    bytes: &[u8],
    seen: &Seen,
    limits: &Limits,
    head: &mut Head,
) -> Result<(), ProtocolError> {
    let old = head.version == Version::Http10;
    if seen.repeated {
        return Err(error::REPEATED_FIELD);
    }
    match seen.host.map(|host| host.of(bytes)) {
        None if !old => return Err(error::NO_HOST),
        Some(host) if !(old && host.is_empty() || grammar::is_host(host)) => {
            return Err(error::BAD_HOST);
        }
        _ => {}
    }
    head.chunked = seen.transfer_encoding;
    head.content_length = None;
    if seen.transfer_encoding {
        if old {
            return Err(error::CODING_IN_1_0);
        }
        if seen.content_length.is_some() {
            return Err(error::LENGTH_AND_CODING);
        }
        check_transfer_encoding(bytes, head)?;
    } else if let Some(length) = seen.content_length {
        head.content_length = Some(parse_content_length(length.of(bytes), limits.body)?);
    }
    head.body_expected = head.chunked || head.content_length.is_some_and(|length| length > 0);
    head.keep_alive = !old;
    if seen.connection {
        head.keep_alive = asks_keep_alive(bytes, head);
    }
    head.expect_continue = seen.expect && asks_continue(bytes, head)? && head.body_expected;
    Ok(())
}

fn parse_content_length(value: &[u8], most: u64) -> Result<u64, ProtocolError> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(error::BAD_LENGTH);
    }
    let mut length: u64 = 0;
    for digit in value {
        let digit = u64::from(digit & 0x0f);
        length = length
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(digit))
            .filter(|&length| length <= most)
            .ok_or(error::BODY_TOO_LARGE)?;
    }
    Ok(length)
}

/// Refuses a body that is not chunked and nothing else (RFC 9112, sections 6.1 and 6.3).
fn check_transfer_encoding(bytes: &[u8], head: &Head) -> Result<(), ProtocolError> {
    let mut codings = head.members(bytes, b"transfer-encoding").peekable();
    let mut others = 0_usize;
    while let Some(coding) = codings.next() {
        if codings.peek().is_none() {
            return match (coding.eq_ignore_ascii_case(b"chunked"), others) {
                (true, 0) => Ok(()),
                (true, _) => Err(error::UNKNOWN_CODING),
                (false, _) => Err(error::BAD_CODING),
            };
        }
        // `identity` is no coding since RFC 7230, and some recipients let it undo `chunked`.
        let name = coding.split(|&byte| byte == b';').next().map(trim_end);
        let name = name.unwrap_or_default();
        if name.eq_ignore_ascii_case(b"chunked")
            || name.eq_ignore_ascii_case(b"identity")
            || !grammar::is_transfer_coding(coding)
        {
            return Err(error::BAD_CODING);
        }
        others = others.saturating_add(1);
    }
    Err(error::BAD_CODING)
}

/// Tells whether the connection may persist (RFC 9112, section 9.3).
fn asks_keep_alive(bytes: &[u8], head: &Head) -> bool {
    let mut keep_alive = head.version == Version::Http11;
    for option in head.members(bytes, b"connection") {
        if option.eq_ignore_ascii_case(b"close") {
            return false;
        }
        keep_alive |= option.eq_ignore_ascii_case(b"keep-alive");
    }
    keep_alive
}

/// Tells whether the client waits for a 100; an HTTP/1.0 client gets none.
fn asks_continue(bytes: &[u8], head: &Head) -> Result<bool, ProtocolError> {
    let mut asks = false;
    for member in head.members(bytes, b"expect") {
        if member.eq_ignore_ascii_case(b"100-continue") {
            asks = true;
        } else if !member.is_empty() {
            return Err(error::UNKNOWN_EXPECTATION);
        }
    }
    Ok(asks && head.version == Version::Http11)
}
