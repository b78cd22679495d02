//! The error type of the HTTP/1.1 parser, and every error that it returns.

use std::fmt;

/// What the client sent is not a valid HTTP/1.1 request, or passes a limit.
///
/// The connection must be closed after the answer. No text in it holds a byte that the client
/// sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProtocolError {
    /// The HTTP status to answer with.
    pub status: u16,
    /// A short sentence for the client and for the log.
    pub reason: &'static str,
    /// The section of the standard; empty if there is none.
    pub rule: &'static str,
    /// The setting that changes the limit; empty if the error is not about a limit.
    pub setting: &'static str,
}

impl ProtocolError {
    /// Whether the request line is empty, as the beginning of a PROXY header of version 2 is.
    #[must_use]
    pub fn is_empty_line(&self) -> bool {
        *self == EMPTY_REQUEST_LINE
    }

    /// An error for a request that breaks a rule.
    #[must_use]
    pub const fn new(status: u16, reason: &'static str, rule: &'static str) -> Self {
        Self {
            status,
            reason,
            rule,
            setting: "",
        }
    }

    const fn limit(
        status: u16,
        reason: &'static str,
        rule: &'static str,
        setting: &'static str,
    ) -> Self {
        Self {
            status,
            reason,
            rule,
            setting,
        }
    }
}

impl fmt::Display for ProtocolError {
    /// The reason, followed by the setting or else the rule in parentheses.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.setting, self.rule) {
            ("", "") => f.write_str(self.reason),
            ("", behind) | (behind, _) => write!(f, "{} ({behind})", self.reason),
        }
    }
}

impl std::error::Error for ProtocolError {}

macro_rules! errors {
    ($($name:ident = $make:ident($($argument:expr),+);)+) => {
        $(pub(crate) const $name: ProtocolError = ProtocolError::$make($($argument),+);)+

        /// Every error that this crate returns.
        pub const ALL: &[ProtocolError] = &[$($name),+];
    };
}

errors! {
    REQUEST_LINE_TOO_LONG = limit(414, "The request line is too long.", "RFC 9112, section 3", "limit_request_line");
    TOO_MANY_FIELDS = limit(431, "The request has too many fields.", "RFC 6585, section 5", "limit_request_fields");
    FIELD_TOO_LONG = limit(431, "A field is too long.", "RFC 6585, section 5", "limit_request_field_size");
    HEAD_TOO_LONG = limit(431, "The request head is too long.", "RFC 6585, section 5", "limit_request_head");
    EXTENSIONS_TOO_LONG = limit(400, "The chunk extensions are too long.", "RFC 9112, section 7.1.1", "limit_chunk_overhead");
    CHUNKS_TOO_SMALL = new(400, "The chunks have too much framing for their content.", "RFC 9112, section 7.1");
    TRAILERS_TOO_LONG = limit(400, "The trailer section is too long.", "RFC 9112, section 7.1.2", "limit_chunk_overhead");
    BODY_TOO_LARGE = limit(413, "The request body is too large.", "RFC 9110, section 15.5.14", "max_body");

    NO_CRLF = new(400, "A line does not end in CRLF.", "RFC 9112, section 2.2");
    CONTROL_CHARACTER = new(400, "The request has a control character.", "RFC 9110, section 5.5");
    EMPTY_REQUEST_LINE = new(400, "The request line is empty.", "RFC 9112, section 2.2");
    SPEAKS_TLS = new(400, "The client speaks TLS, and this address is for plain HTTP.", "RFC 9112, section 3");
    NO_METHOD = new(400, "The request begins with no method.", "RFC 9112, section 3");
    ENDS_IN_HEAD = new(400, "The request ends within its head.", "RFC 9112, section 8");
    ENDS_IN_BODY = new(400, "The request ends within its body.", "RFC 9112, section 8");

    BAD_REQUEST_LINE = new(400, "The request line is not 'method target version'.", "RFC 9112, section 3");
    BAD_METHOD = new(400, "The method is not a token.", "RFC 9110, section 9.1");
    METHOD_TOO_LONG = new(501, "The method is too long.", "RFC 9110, section 9.1");
    IS_CONNECT = new(405, "CONNECT is for proxies; this is an origin server.", "RFC 9110, section 9.3.6");
    BAD_TARGET = new(400, "The request target is not valid.", "RFC 9112, section 3.2");
    ASTERISK_TARGET = new(400, "The target '*' is for OPTIONS alone.", "RFC 9112, section 3.2.4");
    BAD_VERSION = new(400, "The protocol version is not valid.", "RFC 9112, section 2.3");
    UNKNOWN_VERSION = new(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here.", "RFC 9110, section 15.6.6");

    NO_COLON = new(400, "A field line has no colon.", "RFC 9112, section 5");
    FOLDED_FIELD = new(400, "A field line begins with a blank.", "RFC 9112, section 5.2");
    BLANK_BEFORE_COLON = new(400, "A blank precedes a field's colon.", "RFC 9112, section 5.1");
    BAD_FIELD_NAME = new(400, "A field name is not a token.", "RFC 9110, section 5.1");
    REPEATED_FIELD = new(400, "Host, Content-Length or Content-Type is repeated.", "RFC 9110, section 5.3");
    NO_HOST = new(400, "The Host field is missing.", "RFC 9112, section 3.2");
    BAD_HOST = new(400, "The Host field is not valid.", "RFC 9112, section 3.2");
    BAD_LENGTH = new(400, "Content-Length is not a plain decimal number.", "RFC 9112, section 6.3");
    CODING_IN_1_0 = new(400, "HTTP/1.0 has no Transfer-Encoding.", "RFC 9112, section 6.1");
    LENGTH_AND_CODING = new(400, "Both Content-Length and Transfer-Encoding are there.", "RFC 9112, section 6.3");
    BAD_CODING = new(400, "Transfer-Encoding does not end in one 'chunked'.", "RFC 9112, section 6.3");
    UNKNOWN_CODING = new(501, "Only the coding 'chunked' is known here.", "RFC 9112, section 6.1");
    UNKNOWN_EXPECTATION = new(417, "The only expectation known here is 100-continue.", "RFC 9110, section 10.1.1");

    BAD_CHUNK_LINE = new(400, "A chunk's size line is not valid.", "RFC 9112, section 7.1");
    NO_CHUNK_END = new(400, "A chunk does not end in CRLF.", "RFC 9112, section 7.1");
    FORBIDDEN_TRAILER = new(400, "A trailer field frames or routes the message.", "RFC 9110, section 6.5.1");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_its_setting_or_else_its_rule() {
        assert_eq!(
            BODY_TOO_LARGE.to_string(),
            "The request body is too large. (max_body)"
        );
        assert_eq!(
            NO_HOST.to_string(),
            "The Host field is missing. (RFC 9112, section 3.2)"
        );
        assert_eq!(ProtocolError::new(400, "No.", "").to_string(), "No.");
    }

    #[test]
    fn no_two_errors_have_the_same_words() {
        for (index, error) in ALL.iter().enumerate() {
            assert!(
                ALL[..index]
                    .iter()
                    .all(|other| other.reason != error.reason)
            );
        }
    }
}
