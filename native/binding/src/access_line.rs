//! The access log's line for a plain response, made here since every request pays for it.
//!
//! `penstock.telemetry.access_log_format` is the reference: it says what a line consists of, and
//! makes those that need Python (a name in Basic credentials) or more than ASCII.

use crate::access_rules::Rules;
use crate::ffi::latin1_bytes;
use crate::head_parts::{field, split_target};
use crate::record::Record;
use penstock_protocol::{HeadCopy, response};
use penstock_reactor::sync::lock;
use penstock_reactor::sys::{self, Peer};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::io::Write;
use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// A part of a line.
enum Piece {
    /// The same in every line.
    Text(Vec<u8>),
    /// One of gunicorn's atoms, by its letter.
    Atom(u8),
    /// A request's field by its lower-case name.
    RequestField(Vec<u8>),
    /// A response's field by its lower-case name.
    ResponseField(Vec<u8>),
    /// The whole line, in JSON, and whether it says how many requests it stands for.
    Json(bool),
}

/// How a response gets its line.
pub enum Outcome {
    /// The line, with its line end.
    Line(String),
    /// The reference has to make it.
    Python,
    /// There is none.
    Nothing,
}

/// Makes lines of one format.
pub struct LineFormat {
    pieces: Vec<Piece>,
    /// Python's text for a second, and the last that it made.
    render_second: Py<PyAny>,
    second: Mutex<(i64, Arc<[u8]>)>,
    /// How long the last line was.
    last: AtomicUsize,
    rules: Option<Rules>,
}

/// What a line shows of one response, as bytes.
struct Line<'a> {
    record: &'a Record,
    request: &'a HeadCopy,
    code: u16,
    at: f64,
    time: &'a [u8],
    /// How many requests it stands for.
    weight: &'a str,
}

impl LineFormat {
    /// `format` is a `penstock.telemetry.access_log_format.LineFormat`.
    pub fn new(format: &Bound<'_, PyAny>) -> PyResult<Self> {
        let pieces = format.getattr("pieces")?;
        let render_second = format.getattr("second_text")?.unbind();
        let mut read = Vec::new();
        for piece in pieces.try_iter()? {
            let (kind, text): (String, String) = piece?.extract()?;
            read.push(match kind.as_str() {
                "text" => Piece::Text(text.into_bytes()),
                "json" => Piece::Json(text == "sampled"),
                "i" => Piece::RequestField(text.into_bytes()),
                "o" => Piece::ResponseField(text.into_bytes()),
                "atom" => Piece::Atom(text.bytes().next().unwrap_or(b'?')),
                _ => return Err(PyValueError::new_err(format!("no piece of a line: {kind}"))),
            });
        }
        let rules = format.getattr("rules")?;
        Ok(LineFormat {
            pieces: read,
            render_second,
            second: Mutex::new((0, Arc::default())),
            last: AtomicUsize::new(0),
            rules: (!rules.is_none()).then(|| Rules::new(&rules)).transpose()?,
        })
    }

    /// The line for a response.
    pub fn line(&self, py: Python<'_>, record: &Record) -> PyResult<Outcome> {
        let Some(request) = &record.request else {
            return Ok(Outcome::Python);
        };
        let code = record.code();
        let mut weight = "1";
        if let Some(rules) = &self.rules {
            match rules.weight_of(py, record, request, code)? {
                Some(found) => weight = found,
                None => return Ok(Outcome::Nothing),
            }
            if rules.may_hide(request) {
                return Ok(Outcome::Python);
            }
        }
        let at = sys::wall();
        let time = self.time(py, at as i64)?;
        let line = Line {
            record,
            request,
            code,
            at,
            time: &time,
            weight,
        };
        // The next line is seldom much longer.
        let mut out = Vec::with_capacity(self.last.load(Ordering::Relaxed) + 64);
        for piece in &self.pieces {
            let plain = match piece {
                Piece::Text(text) => {
                    out.extend_from_slice(text);
                    true
                }
                Piece::Atom(letter) => line.atom(*letter, &mut out),
                Piece::RequestField(name) => {
                    quoted(&field(request, name), &mut out);
                    true
                }
                Piece::ResponseField(name) => {
                    line.response_field(name, &mut out);
                    true
                }
                Piece::Json(sampled) => line.json(py, *sampled, &mut out)?,
            };
            if !plain {
                return Ok(Outcome::Python);
            }
        }
        self.last.store(out.len(), Ordering::Relaxed);
        // All is ASCII but for the template's own text.
        Ok(String::from_utf8(out).map_or(Outcome::Python, Outcome::Line))
    }

    /// The text of a second, which Python renders once: it knows the time zone.
    fn time(&self, py: Python<'_>, second: i64) -> PyResult<Arc<[u8]>> {
        {
            let cached = lock(&self.second);
            if cached.0 == second && !cached.1.is_empty() {
                return Ok(Arc::clone(&cached.1));
            }
        }
        let text = self.render_second.call1(py, (second,))?;
        let text: Arc<[u8]> = text.extract::<String>(py)?.into_bytes().into();
        *lock(&self.second) = (second, Arc::clone(&text));
        Ok(text)
    }
}

impl Line<'_> {
    /// Write an atom; return whether that was possible.
    fn atom(&self, letter: u8, out: &mut Vec<u8>) -> bool {
        let HeadCopy { bytes, head } = self.request;
        let seconds = self.record.seconds();
        match letter {
            b'h' => client(self.record.peer, out),
            b'P' => client(self.record.socket_peer, out),
            b'l' => out.push(b'-'),
            b'u' if field(self.request, b"authorization").is_empty() => out.push(b'-'),
            b'r' => {
                for part in [head.method.of(bytes), head.target.of(bytes)] {
                    escape(part, false, out);
                    out.push(b' ');
                }
                out.extend_from_slice(head.version.as_str().as_bytes());
            }
            b'm' => word(head.method.of(bytes), out),
            b'U' => word(split_target(head.target.of(bytes)).0, out),
            b'q' => escape(split_target(head.target.of(bytes)).1, true, out),
            b'H' => word(head.version.as_str().as_bytes(), out),
            b's' => number(self.code, out),
            b'B' => number(self.record.bytes_out, out),
            b'b' if self.record.bytes_out == 0 => out.push(b'-'),
            b'b' => number(self.record.bytes_out, out),
            b'f' => quoted(&field(self.request, b"referer"), out),
            b'a' => quoted(&field(self.request, b"user-agent"), out),
            b'T' => number(seconds as u64, out),
            b'M' => number((seconds * 1e3) as u64, out),
            b'D' => number((seconds * 1e6) as u64, out),
            b'L' => print(out, format_args!("{seconds:.6}")),
            b'Q' => print(out, format_args!("{:.6}", self.record.queue_seconds())),
            b'p' => print(out, format_args!("<{}>", std::process::id())),
            b't' => out.extend_from_slice(self.time),
            b'S' => out.extend_from_slice(self.weight.as_bytes()),
            _ => return false,
        }
        true
    }

    fn response_field(&self, name: &[u8], out: &mut Vec<u8>) {
        let head = self.record.head.as_ref();
        quoted(
            &head.and_then(|head| head.field(name)).unwrap_or_default(),
            out,
        );
    }

    fn json(&self, py: Python<'_>, sampled: bool, out: &mut Vec<u8>) -> PyResult<bool> {
        let HeadCopy { bytes, head } = self.request;
        let (path, query) = split_target(head.target.of(bytes));
        let milliseconds = (self.at * 1e3) as i64 % 1000;
        let version = head.version.as_str().trim_start_matches("HTTP/");
        let record = self.record;
        let referer = field(self.request, b"referer");
        out.extend_from_slice(b"{\"time\":\"");
        out.extend_from_slice(self.time);
        print(
            out,
            format_args!(".{milliseconds:03}Z\",\"client.address\":"),
        );
        let mut plain = json_text(address(self.record.peer).as_bytes(), out);
        out.extend_from_slice(b",\"client.port\":");
        match record.peer {
            Some((_, port)) if port > 0 => number(port, out),
            _ => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(b",\"network.peer.address\":");
        plain &= json_text(address(record.socket_peer).as_bytes(), out);
        out.extend_from_slice(b",\"http.request.method\":");
        plain &= json_text(head.method.of(bytes), out);
        out.extend_from_slice(b",\"url.path\":");
        plain &= json_text(path, out);
        out.extend_from_slice(b",\"url.query\":");
        plain &= json_text(query, out);
        out.extend_from_slice(b",\"network.protocol.version\":");
        plain &= json_text(version.as_bytes(), out);
        print(
            out,
            format_args!(
                ",\"http.response.status_code\":{},\"http.server.request.duration\":{:.6}\
                 ,\"queue\":{:.6},\"http.request.body.size\":{},\"http.response.body.size\":{}\
                 ,\"user_agent.original\":",
                self.code,
                record.seconds(),
                record.queue_seconds(),
                record.bytes_in,
                record.bytes_out
            ),
        );
        plain &= json_text(&field(self.request, b"user-agent"), out);
        out.extend_from_slice(b",\"http.request.header.referer\":");
        let several = !referer.is_empty() && *referer != *b"-";
        out.extend_from_slice(if several { b"[" } else { b"" });
        plain &= json_text(&referer, out);
        out.extend_from_slice(if several { b"]" } else { b"" });
        print(out, format_args!(",\"process.pid\":{}", std::process::id()));
        out.extend_from_slice(b",\"request_id\":");
        plain &= json_text(latin1_bytes(record.request_id.bind(py))?, out);
        out.extend_from_slice(b",\"reason\":");
        plain &= json_text(record.reason.as_bytes(), out);
        if sampled {
            print(out, format_args!(",\"sample\":{}", self.weight));
        }
        out.extend_from_slice(b"}\n");
        Ok(plain)
    }
}

/// A client's address; empty for a unix socket.
pub fn address(peer: Peer) -> String {
    peer.map_or(String::new(), |(ip, _)| ip.to_string())
}

/// Write what needs formatting.
fn print(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let _ = out.write_fmt(text); // a Vec takes everything
}

fn number(value: impl Into<u64>, out: &mut Vec<u8>) {
    response::append_number(out, value.into(), 10);
}

/// Write a client's address.
fn client(peer: Peer, out: &mut Vec<u8>) {
    let Some((IpAddr::V4(ip), _)) = peer else {
        word(address(peer).as_bytes(), out);
        return;
    };
    let [first, rest @ ..] = ip.octets();
    number(first, out);
    for octet in rest {
        out.push(b'.');
        number(octet, out);
    }
}

fn is_plain(byte: u8) -> bool {
    // Without a branch: see `find_odd`.
    (byte.wrapping_sub(b' ') <= b'~' - b' ') & (byte != b'"') & (byte != b'\\')
}

/// Return the place of the first byte that is not plain; `space` is whether that counts as plain.
fn find_odd(value: &[u8], space: bool) -> Option<usize> {
    let is_odd = |byte: u8| !is_plain(byte) | (!space & (byte == b' '));
    // The compiler looks at the bytes of a block together.
    let is_plain_block = |block: &&[u8]| {
        let odd = |found: u8, &byte: &u8| found | u8::from(is_odd(byte));
        block.iter().fold(0, odd) == 0
    };
    let plain = 16 * value.chunks_exact(16).take_while(is_plain_block).count();
    let rest = value.get(plain..).unwrap_or_default();
    let odd = rest.iter().position(|&byte| is_odd(byte))?;
    Some(plain + odd)
}

/// Write a value with `\xHH` for what is not plain, and for spaces where they would end it.
fn escape(value: &[u8], is_word: bool, out: &mut Vec<u8>) {
    let mut rest = value;
    while let Some(odd) = find_odd(rest, !is_word) {
        let (plain, from_odd) = rest.split_at_checked(odd).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        if let Some((byte, after)) = from_odd.split_first() {
            print(out, format_args!("\\x{byte:02x}"));
            rest = after;
        }
    }
    out.extend_from_slice(rest);
}

fn word(value: &[u8], out: &mut Vec<u8>) {
    escape(if value.is_empty() { b"-" } else { value }, true, out);
}

fn quoted(value: &[u8], out: &mut Vec<u8>) {
    escape(if value.is_empty() { b"-" } else { value }, false, out);
}

/// Write a JSON string, or null for nothing; return whether it was plain enough for that.
fn json_text(value: &[u8], out: &mut Vec<u8>) -> bool {
    if value.is_empty() || value == b"-" {
        out.extend_from_slice(b"null");
        return true;
    }
    out.push(b'"');
    let mut rest = value;
    while let Some(odd) = find_odd(rest, true) {
        let (plain, from_odd) = rest.split_at_checked(odd).unwrap_or((rest, &[]));
        out.extend_from_slice(plain);
        match from_odd.split_first() {
            Some((&byte @ (b'"' | b'\\'), after)) => {
                out.extend_from_slice(&[b'\\', byte]);
                rest = after;
            }
            _ => return false,
        }
    }
    out.extend_from_slice(rest);
    out.push(b'"');
    true
}
