//! The bytes of a response: its framing, its head, its chunks, and the answer to a bad request.

use crate::grammar;
use crate::head::Version;
use crate::lines::find_control;

/// Ends a chunked body, without trailer fields (RFC 9112, section 7.1).
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Ends the content of a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Asks a client that waits with its body to send it (RFC 9110, section 15.2.1).
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The value of `Allow` in the server's own 405, which answers CONNECT (RFC 9110, section 15.5.6).
pub const ALLOWED_METHODS: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS, TRACE";

/// How a client finds the end of a response's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body: no byte of one may be sent.
    None,
    /// Content-Length says where it ends.
    Length,
    /// The last chunk ends it.
    Chunked,
    /// The end of the connection ends it.
    Close,
}

/// Returns true if a response may have a body; `to_head` is true in answer to HEAD.
///
/// RFC 9112, section 6.3; RFC 9110, sections 15.3.5 (204), 15.3.6 (205) and 15.4.5 (304).
#[must_use]
pub const fn has_body(to_head: bool, status: u16) -> bool {
    !(to_head || status < 200 || matches!(status, 204 | 205 | 304))
}

/// Decides how a response is framed, and appends the field line that says so, if one does.
///
/// `to_head` is true in answer to HEAD. `version` is that of the request. `content_length` is in
/// bytes, None if it is not known. RFC 9112, sections 6.1 and 6.3; RFC 9110, section 8.6.
pub fn encode_framing(
    out: &mut Vec<u8>,
    to_head: bool,
    version: Version,
    status: u16,
    content_length: Option<u64>,
) -> Framing {
    if has_body(to_head, status) {
        return match (content_length, version) {
            (Some(length), _) => {
                encode_content_length(out, length);
                Framing::Length
            }
            (None, Version::Http10) => Framing::Close,
            (None, Version::Http11) => {
                encode_field(out, b"Transfer-Encoding", b"chunked");
                Framing::Chunked
            }
        };
    }
    let content_length = match status {
        205 => Some(0),
        ..200 | 204 => None, // these have no Content-Length
        // In answer to HEAD, and in a 304, it is the length that the response to GET would have.
        _ => content_length,
    };
    if let Some(length) = content_length {
        encode_content_length(out, length);
    }
    Framing::None
}

/// Returns true if a field may have this name: if it is a token (RFC 9110, section 5.6.2).
#[must_use]
pub fn is_field_name(name: &[u8]) -> bool {
    grammar::is_token(name)
}

/// Returns true if a field may have this value, or a status line this reason: without control characters
/// other than the tab (RFC 9110, section 5.5), with the obs-text that Latin-1 allows.
#[must_use]
pub fn is_field_value(value: &[u8]) -> bool {
    find_control(value).is_none()
}

/// Appends the status line for `status` (`200 OK`), which has been checked before. Field lines and
/// an empty line have to follow.
pub fn begin_head(out: &mut Vec<u8>, status: &[u8]) {
    out.extend_from_slice(b"HTTP/1.1 ");
    out.extend_from_slice(status);
    out.extend_from_slice(b"\r\n");
}

/// Appends a field line. `name` and `value` have been checked before.
pub fn encode_field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line of Content-Length.
pub fn encode_content_length(out: &mut Vec<u8>, length: u64) {
    out.extend_from_slice(b"Content-Length: ");
    append_number(out, length, 10);
    out.extend_from_slice(b"\r\n");
}

/// Appends the line that begins a chunk of `size` bytes. These and [`CHUNK_END`] have to follow.
///
/// A `size` of 0 would end the body: then this appends nothing, and nothing may follow.
pub fn encode_chunk_size(out: &mut Vec<u8>, size: usize) {
    if size > 0 {
        append_number(out, size as u64, 16);
        out.extend_from_slice(b"\r\n");
    }
}

/// Appends `data` as one chunk. Appends nothing if it is empty, because that would end the body.
pub fn encode_chunk(out: &mut Vec<u8>, data: &[u8]) {
    if !data.is_empty() {
        encode_chunk_size(out, data.len());
        out.extend_from_slice(data);
        out.extend_from_slice(CHUNK_END);
    }
}

/// Appends a number in base 10 or 16. Each response has one, and `format!` would be slower.
pub fn append_number(out: &mut Vec<u8>, number: u64, base: u64) {
    let mut digits = [0; 20];
    let mut rest = number;
    let mut used: usize = 0;
    for place in digits.iter_mut().rev() {
        // `base` is 10 or 16, and a digit below it.
        let digit = rest.checked_rem(base).unwrap_or(0) as u8;
        *place = digit.wrapping_add(if digit < 10 {
            b'0'
        } else {
            b'a'.wrapping_sub(10)
        });
        rest = rest.checked_div(base).unwrap_or(0);
        used = used.wrapping_add(1);
        if rest == 0 {
            break;
        }
    }
    let start = digits.len().saturating_sub(used);
    out.extend_from_slice(digits.get(start..).unwrap_or_default());
}

/// The server's own answer to a request that it does not serve.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ErrorResponse {
    /// The status line, the fields and the empty line.
    pub head: Vec<u8>,
    /// The reason and a line feed; empty in answer to HEAD.
    pub body: Vec<u8>,
}

/// What the server itself answers to a request that it does not serve.
#[derive(Clone, Copy, Debug, Default)]
pub struct ErrorAnswer<'a> {
    /// The status code.
    pub status: u16,
    /// What the body says.
    pub reason: &'a str,
    /// In answer to HEAD.
    pub to_head: bool,
    /// In seconds; 0 is none.
    pub retry_after: u64,
    /// The request's version, where the caller keeps the connection; None where it closes it.
    pub keeps: Option<Version>,
    /// The lines of Date and Server, each with its CRLF.
    pub added: &'a [u8],
}

/// Returns the server's own answer to a request that it does not serve.
#[must_use]
pub fn error_response(answer: &ErrorAnswer<'_>) -> ErrorResponse {
    let &ErrorAnswer {
        status,
        reason,
        to_head,
        retry_after,
        keeps,
        added,
    } = answer;
    let mut head = Vec::new();
    begin_head(
        &mut head,
        format!("{status} {}", reason_phrase(status)).as_bytes(),
    );
    encode_field(&mut head, b"Content-Type", b"text/plain; charset=utf-8");
    encode_content_length(&mut head, (reason.len() as u64).saturating_add(1));
    if status == 405 {
        encode_field(&mut head, b"Allow", ALLOWED_METHODS.as_bytes());
    }
    if retry_after > 0 {
        encode_field(
            &mut head,
            b"Retry-After",
            retry_after.to_string().as_bytes(),
        );
    }
    match keeps {
        None => encode_field(&mut head, b"Connection", b"close"),
        Some(Version::Http10) => encode_field(&mut head, b"Connection", b"keep-alive"),
        Some(Version::Http11) => {}
    }
    head.extend_from_slice(added);
    head.extend_from_slice(b"\r\n");
    let body = if to_head {
        Vec::new()
    } else {
        [reason.as_bytes(), b"\n"].concat()
    };
    ErrorResponse { head, body }
}

/// Returns the phrase of a registered status (RFC 9110, section 15); empty for any other.
#[must_use]
pub const fn reason_phrase(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        102 => "Processing",
        103 => "Early Hints",
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        203 => "Non-Authoritative Information",
        204 => "No Content",
        205 => "Reset Content",
        206 => "Partial Content",
        207 => "Multi-Status",
        208 => "Already Reported",
        226 => "IM Used",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        305 => "Use Proxy",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        402 => "Payment Required",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        412 => "Precondition Failed",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        418 => "Unused",
        421 => "Misdirected Request",
        422 => "Unprocessable Content",
        423 => "Locked",
        424 => "Failed Dependency",
        425 => "Too Early",
        426 => "Upgrade Required",
        428 => "Precondition Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        451 => "Unavailable For Legal Reasons",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        506 => "Variant Also Negotiates",
        507 => "Insufficient Storage",
        508 => "Loop Detected",
        510 => "Not Extended",
        511 => "Network Authentication Required",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_as_format_writes_them() {
        for number in [0, 1, 9, 10, 15, 16, 255, 256, 65_535, 1_000_000, u64::MAX] {
            let mut line = Vec::new();
            encode_content_length(&mut line, number);
            assert_eq!(line, format!("Content-Length: {number}\r\n").into_bytes());
            if let Some(size) = usize::try_from(number).ok().filter(|&size| size > 0) {
                line.clear();
                encode_chunk_size(&mut line, size);
                assert_eq!(line, format!("{size:x}\r\n").into_bytes());
            }
        }
    }

    #[test]
    fn rfc9112_7_1_an_empty_chunk_would_end_the_body() {
        let mut out = Vec::new();
        encode_chunk(&mut out, b"");
        encode_chunk_size(&mut out, 0);
        assert_eq!(out, b"");
        encode_chunk(&mut out, b"hello");
        out.extend_from_slice(LAST_CHUNK);
        assert_eq!(out, b"5\r\nhello\r\n0\r\n\r\n");
    }

    #[test]
    fn rfc9110_15_5_6_a_405_names_the_allowed_methods() {
        let error = crate::error::IS_CONNECT;
        let answer = error_response(&ErrorAnswer {
            status: error.status,
            reason: error.reason,
            ..ErrorAnswer::default()
        });
        let text = String::from_utf8(answer.head).unwrap();
        assert!(text.starts_with("HTTP/1.1 405 Method Not Allowed\r\n"));
        assert!(text.contains(&format!("\r\nAllow: {ALLOWED_METHODS}\r\n")));
    }
}
