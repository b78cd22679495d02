//! Field lines: each line by itself, and what all of a head say together (RFC 9112, sections 5
//! and 6).

use crate::error::{self, ProtocolError};
use crate::grammar::{self, trim_end, trim_start};
use crate::head::{Field, Head, Span, Version};
use crate::limits::Limits;
use crate::lines::find_control;

const CRLF: usize = 2;

/// Returns where in a field line its name and its trimmed value are (RFC 9112, section 5).
pub fn split_field(line: &[u8]) -> Result<Field, ProtocolError> {
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
    let start = line.len().saturating_sub(trim_start(value).len());
    let end = start.max(trim_end(line).len()); // a value of only blanks is trimmed from the front
    Ok(Field {
        name: Span::new(0, colon),
        value: Span::new(start, end),
    })
}

/// Reads the value of a field, from the byte after its colon at the offset `at`; returns where it is
/// without the blanks around it, and where the next line begins.
#[inline]
pub fn read_value(bytes: &[u8], at: usize) -> Option<(Span, usize)> {
    let value = trim_start(bytes.get(at..)?);
    let end = find_control(value)?;
    let (value, line_end) = value.split_at_checked(end)?;
    let [b'\r', b'\n', ..] = line_end else {
        return None;
    };
    let line_end = bytes.len().checked_sub(line_end.len())?;
    let start = line_end.checked_sub(value.len())?;
    let end = start.checked_add(trim_end(value).len())?;
    Some((Span::new(start, end), line_end.checked_add(CRLF)?))
}

/// The fields that this parser acts on, as far as the lines read so far have them.
#[derive(Default)]
pub struct KnownFields {
    host: Option<Span>,
    content_length: Option<Span>,
    content_type: bool,
    repeated: bool,
    transfer_encoding: bool,
    connection: bool,
    expect: bool,
    forwarding: bool,
    upgrade: bool,
}

impl KnownFields {
    /// Refuses the repetition of fields of which one recipient may use the first line, another
    /// the last.
    #[inline]
    pub const fn refuse_repeated(&self) -> Result<(), ProtocolError> {
        if self.repeated {
            Err(error::REPEATED_FIELD)
        } else {
            Ok(())
        }
    }

    /// Records a field line.
    pub fn record(&mut self, name: &[u8], value: Span) {
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.repeated |= self.host.replace(value).is_some();
            }
            6 if name.eq_ignore_ascii_case(b"expect") => self.expect = true,
            7 if name.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
            9 if name.eq_ignore_ascii_case(b"forwarded") => self.forwarding = true,
            11 if name.eq_ignore_ascii_case(b"script_name") => self.forwarding = true,
            10 if name.eq_ignore_ascii_case(b"connection") => self.connection = true,
            12 if name.eq_ignore_ascii_case(b"content-type") => {
                self.repeated |= self.content_type;
                self.content_type = true;
            }
            12 if name.eq_ignore_ascii_case(b"x-request-id") => self.forwarding = true,
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.repeated |= self.content_length.replace(value).is_some();
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding = true,
            12.. if is_forwarding(name) => self.forwarding = true,
            _ => {}
        }
    }
}

/// Returns true for the names that begin with `X-Forwarded-`.
fn is_forwarding(name: &[u8]) -> bool {
    name.first_chunk::<12>()
        .is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"))
}

/// Checks the fields of a head against each other, and writes what they say together into `head`.
pub fn interpret(
    bytes: &[u8],
    known: &KnownFields,
    limits: &Limits,
    head: &mut Head,
) -> Result<(), ProtocolError> {
    let old = head.version == Version::Http10;
    head.forwarding = known.forwarding;
    head.upgrade = known.upgrade;
    match known.host.map(|host| host.of(bytes)) {
        None if !old => return Err(error::NO_HOST),
        Some(host) if !(old && host.is_empty() || grammar::is_host(host)) => {
            return Err(error::BAD_HOST);
        }
        _ => {}
    }
    head.chunked = known.transfer_encoding;
    head.content_length = None;
    if known.transfer_encoding {
        if old {
            return Err(error::CODING_IN_1_0);
        }
        if known.content_length.is_some() {
            return Err(error::LENGTH_AND_CODING);
        }
        check_transfer_encoding(bytes, head)?;
    } else if let Some(length) = known.content_length {
        head.content_length = Some(parse_content_length(length.of(bytes), limits.body)?);
    }
    head.body_expected = head.chunked || head.content_length.is_some_and(|length| length > 0);
    head.keep_alive = !old;
    if known.connection {
        head.keep_alive = asks_keep_alive(bytes, head);
    }
    head.expect_continue = known.expect && asks_continue(bytes, head)? && head.body_expected;
    Ok(())
}

/// Returns true if [`interpret`] says the same of a head in which a field has this value in the place
/// of another one: the same but for the length of the body, which it reads of Content-Length.
///
/// Only for a head without Transfer-Encoding and Expect.
pub fn may_differ(name: &[u8], value: &[u8]) -> bool {
    match name.len() {
        4 if name.eq_ignore_ascii_case(b"host") => grammar::is_host(value),
        10 if name.eq_ignore_ascii_case(b"connection") => false,
        _ => true,
    }
}

/// Returns the length of a body from the value of Content-Length (RFC 9112, section 6.3).
pub fn parse_content_length(value: &[u8], most: u64) -> Result<u64, ProtocolError> {
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

/// Refuses every Transfer-Encoding except a single `chunked` (RFC 9112, sections 6.1 and 6.3).
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
        // `identity` is not a coding since RFC 7230, and some recipients let it undo `chunked`.
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

/// Returns true if the client lets the connection persist (RFC 9112, section 9.3).
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

/// Returns true if the client may wait for a 100. An HTTP/1.0 client is never sent one.
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
