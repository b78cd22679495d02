//! Why a request is refused.

use crate::options::Options;
use crate::proxy_protocol;
use crate::sys;
use penstock_protocol::{HeadCopy, ProtocolError, Version};
use std::borrow::Cow;
use std::io;

/// Why a request is refused, and what to answer.
pub struct Refusal {
    pub status: u16,
    pub reason: Cow<'static, str>,
    /// The section of the standard, and the setting that changes the limit; empty without one.
    pub rule: &'static str,
    pub setting: &'static str,
    /// The head, for its fields, if each line of it was valid.
    pub head: Option<HeadCopy>,
    /// The request line, if it had arrived; unchecked.
    pub request_line: Vec<u8>,
    /// What had come of the head, and behind it, when a fault was found there.
    pub received: Vec<u8>,
    /// The error of the system that caused it, if there was one.
    pub cause: Option<String>,
    /// What the access log says in the place of `reason`; empty for that.
    pub logged: String,
    /// `Retry-After`, in seconds; 0 is none.
    pub retry_after: u64,
    /// The connection is kept after the answer: all of the request was read.
    pub keeps: Option<Version>,
}

impl Refusal {
    pub fn of(error: ProtocolError, request_line: &[u8]) -> Self {
        Refusal {
            status: error.status,
            reason: Cow::Borrowed(error.reason),
            rule: error.rule,
            setting: error.setting,
            request_line: request_line.to_vec(),
            ..Refusal::plain(error.status, "")
        }
    }

    pub fn plain(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Refusal {
            status,
            reason: reason.into(),
            rule: "",
            setting: "",
            head: None,
            request_line: Vec::new(),
            received: Vec::new(),
            cause: None,
            logged: String::new(),
            retry_after: 0,
            keeps: None,
        }
    }

    /// For a request that no thread takes. `logged` is for the access log; `reason` is empty where
    /// there is no client to tell.
    pub fn unserved(status: u16, reason: &str, logged: &str, setting: &'static str) -> Self {
        Refusal {
            setting,
            logged: logged.to_owned(),
            ..Refusal::plain(status, reason.to_owned())
        }
    }

    /// For `OPTIONS *`, which is answered in the same place: nothing is refused.
    pub fn none() -> Self {
        Refusal::plain(200, "")
    }

    /// Whether the client was refused something, and has not left before that.
    pub fn is_refusal(&self, options: &Options) -> bool {
        self.status >= 400 && self.status != options.client_left
    }

    pub fn late(reason: String, setting: &'static str, request_line: &[u8]) -> Self {
        Refusal {
            setting,
            request_line: request_line.to_vec(),
            ..Refusal::plain(408, reason)
        }
    }

    pub fn timed_out(reason: &str) -> Self {
        Refusal::plain(504, reason.to_owned())
    }

    pub fn stopping(reason: &str) -> Self {
        Refusal::plain(503, reason.to_owned())
    }

    pub fn lost_client(status: u16, request_line: &[u8]) -> Self {
        Refusal {
            request_line: request_line.to_vec(),
            ..Refusal::plain(status, "The client reset the connection within it.")
        }
    }

    pub fn not_secure() -> Self {
        Refusal {
            rule: "RFC 9110, section 7.4",
            ..Refusal::plain(
                400,
                "The target is https, but the connection is not secure.",
            )
        }
    }

    pub fn plain_http(reason: &str) -> Self {
        Refusal::plain(400, reason.to_owned())
    }

    pub fn underscore() -> Self {
        Refusal {
            setting: "header_map",
            ..Refusal::plain(400, "A header field's name contains an underscore.")
        }
    }

    /// Say so where the request may be a PROXY header that its peer may not send. `input` is what has
    /// come of it.
    pub fn explain_proxy_header(&mut self, input: &[u8], empty_line: bool) {
        if let Some(reason) = proxy_protocol::explained(input, empty_line) {
            *self = Refusal {
                head: self.head.take(),
                received: std::mem::take(&mut self.received),
                request_line: std::mem::take(&mut self.request_line),
                ..Refusal::proxy_header(reason)
            };
        }
    }

    /// For a connection that does not begin as it has to.
    pub fn proxy_header(reason: &'static str) -> Self {
        Refusal {
            setting: "proxy_protocol",
            ..Refusal::plain(400, reason)
        }
    }

    /// For what a trusted proxy says.
    pub fn forwarded(reason: String) -> Self {
        Refusal {
            setting: "forwarded_headers",
            ..Refusal::plain(400, reason)
        }
    }

    pub fn over_rate(seconds: u64) -> Self {
        Refusal {
            setting: "max_requests_per_client",
            retry_after: seconds,
            ..Refusal::plain(429, "Too many requests come from this client.")
        }
    }

    pub fn evicted(setting: &'static str, request_line: &[u8]) -> Self {
        Refusal {
            setting,
            request_line: request_line.to_vec(),
            ..Refusal::plain(408, "The connection was closed to make room for others.")
        }
    }

    /// For a body that may not take more of a temporary file.
    pub fn spool_full(status: u16) -> Self {
        if status == 413 {
            return Refusal {
                setting: "max_body",
                ..Refusal::plain(413, "The request body is too large.")
            };
        }
        Refusal {
            setting: "max_spool",
            ..Refusal::plain(status, "The request body could not be stored.")
        }
    }

    /// For a body that the disk did not take within the time for a whole body.
    pub fn stored_too_slowly() -> Self {
        Refusal {
            setting: "temp_dir",
            cause: Some("the disk took longer than a body may (max_body_time)".to_owned()),
            ..Refusal::plain(507, "The request body could not be stored.")
        }
    }

    pub fn no_room(error: &io::Error) -> Self {
        let files = matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE));
        Refusal {
            setting: if files { "" } else { "temp_dir" },
            cause: Some(sys::error_text(error)), // for the log: the client is not told why
            ..Refusal::plain(507, "The request body could not be stored.")
        }
    }
}
