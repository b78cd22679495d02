//! The request line (RFC 9112, section 3).
//!
//! No line that is passed in here holds a control character: the caller has checked that.

use crate::error::{self, ProtocolError};
use crate::grammar;
use crate::head::{Head, Span, Version};
use crate::limits::MAX_METHOD;

/// Writes what `line` says into `head`; its spans count from the start of the line.
pub fn parse(line: &[u8], head: &mut Head) -> Result<(), ProtocolError> {
    let mut words = line.split(|&byte| byte == b' ');
    let (Some(method), Some(target), Some(version), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(error::BAD_REQUEST_LINE);
    };
    if !grammar::is_token(method) {
        return Err(error::BAD_METHOD);
    }
    if target.is_empty() || !target.iter().all(|&byte| grammar::is_target_byte(byte)) {
        return Err(error::BAD_TARGET);
    }
    head.version = parse_version(version)?;
    check_method(method)?;
    head.method = Span::new(0, method.len());
    let start = method.len().saturating_add(1);
    head.target = Span::new(start, start.saturating_add(target.len()));
    split_target(method, target, head)
}

fn parse_version(version: &[u8]) -> Result<Version, ProtocolError> {
    match version {
        b"HTTP/1.1" => Ok(Version::Http11),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            match (major, minor) {
                (b'1', b'0') => Ok(Version::Http10),
                (b'1', _) => Ok(Version::Http11),
                _ => Err(error::UNKNOWN_VERSION),
            }
        }
        _ => Err(error::BAD_VERSION),
    }
}

/// Refuses a method that is a valid token but that this server does not implement.
pub fn check_method(method: &[u8]) -> Result<(), ProtocolError> {
    if method == b"CONNECT" {
        return Err(error::IS_CONNECT);
    }
    if method.len() > MAX_METHOD {
        return Err(error::METHOD_TOO_LONG);
    }
    Ok(())
}

fn split_target(method: &[u8], target: &[u8], head: &mut Head) -> Result<(), ProtocolError> {
    head.authority = None;
    if target.starts_with(b"/") {
        split_query(head.target, 0, target, head);
        return Ok(());
    }
    if target == b"*" {
        if method != b"OPTIONS" {
            return Err(error::ASTERISK_TARGET);
        }
        split_query(head.target, 0, target, head);
        return Ok(());
    }
    // The absolute-form (RFC 9112, section 3.2.2; RFC 9110, section 4.2): scheme, authority, path
    // and query.
    let scheme = [&b"http://"[..], b"https://"].into_iter().find(|scheme| {
        let start = target.get(..scheme.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(scheme))
    });
    let size = scheme.ok_or(error::BAD_TARGET)?.len();
    let rest = target.get(size..).unwrap_or_default();
    let end = rest
        .iter()
        .position(|&byte| byte == b'/' || byte == b'?')
        .unwrap_or(rest.len());
    // This also refuses userinfo (RFC 9110, section 4.2.4).
    if !rest.get(..end).is_some_and(grammar::is_host) {
        return Err(error::BAD_TARGET);
    }
    let path = size.saturating_add(end);
    let start = head.target.start;
    head.authority = Some(Span::new(
        start.saturating_add(size),
        start.saturating_add(path),
    ));
    split_query(head.target, path, target, head);
    Ok(())
}

/// Sets the path and the query of `head`: `target` from the offset `path` on, split at its first
/// `?`. `span` is where the target is in the head.
pub fn split_query(span: Span, path: usize, target: &[u8], head: &mut Head) {
    let rest = target.get(path..).unwrap_or_default();
    let start = span.start.saturating_add(path);
    (head.path, head.query) = match memchr::memchr(b'?', rest) {
        Some(offset) => {
            let mark = start.saturating_add(offset);
            (
                Span::new(start, mark),
                Span::new(mark.saturating_add(1), span.end),
            )
        }
        None => (Span::new(start, span.end), Span::new(span.end, span.end)),
    };
}
