//! The uwsgi protocol: a request as nginx's `uwsgi_pass` sends it, made into the head of one of HTTP.
//!
//! `penstock.edge.uwsgi` is the reference, and says why; a test runs one table on both.

use crate::forwarded::{Forwarded, Scheme, is_prefix, is_request_id};
use crate::refusal::Refusal;
use penstock_protocol::grammar::{self, unquote};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Bytes of a packet before its names and values.
pub const HEADER_BYTES: usize = 4;

const RULE: &str = "uwsgi protocol";
const NO_PACKET: &str = "The connection does not begin with a uwsgi packet.";

/// What may not be there twice.
const SINGLE: [&[u8]; 4] = [
    b"REQUEST_METHOD",
    b"REQUEST_URI",
    b"CONTENT_LENGTH",
    b"CONTENT_TYPE",
];

const OTHERS: [&[u8]; 10] = [
    b"SCRIPT_NAME",
    b"PATH_INFO",
    b"QUERY_STRING",
    b"REMOTE_ADDR",
    b"REMOTE_PORT",
    b"SERVER_PORT",
    b"UWSGI_SCHEME",
    b"HTTPS",
    b"REQUEST_SCHEME",
    b"REQUEST_ID",
];

/// What the application gets as it is.
const VARIABLES: [&str; 10] = [
    "SERVER_NAME",
    "REMOTE_USER",
    "AUTH_TYPE",
    "SSL_PROTOCOL",
    "SSL_CIPHER",
    "SSL_SERVER_NAME",
    "SSL_CLIENT_VERIFY",
    "SSL_CLIENT_S_DN",
    "SSL_CLIENT_I_DN",
    "SSL_CLIENT_SERIAL",
];

/// Fields of the client's connection to the front-end, and what has a name of its own.
const LEFT_OUT: [&[u8]; 10] = [
    b"HTTP_CONTENT_LENGTH",
    b"HTTP_CONTENT_TYPE",
    b"HTTP_CONNECTION",
    b"HTTP_KEEP_ALIVE",
    b"HTTP_PROXY_CONNECTION",
    b"HTTP_TE",
    b"HTTP_TRAILER",
    b"HTTP_TRANSFER_ENCODING",
    b"HTTP_UPGRADE",
    b"HTTP_EXPECT",
];

/// What a packet says.
#[derive(Debug, Default)]
pub struct Packet {
    /// The head of the request, as HTTP has it.
    pub head: Vec<u8>,
    /// The client; None where the packet names none.
    pub client: Option<(IpAddr, u16)>,
    /// What the front-end says of the request.
    pub said: Forwarded,
    /// What is set in the environ.
    pub variables: Vec<(&'static str, Vec<u8>)>,
}

/// Why a packet is refused.
#[derive(Debug)]
pub struct Bad {
    pub status: u16,
    pub reason: String,
    pub setting: &'static str,
}

impl Bad {
    fn new(reason: String) -> Self {
        Bad {
            status: 400,
            reason,
            setting: "",
        }
    }

    /// For a packet whose lengths do not fit, or that ends too early.
    pub fn malformed() -> Self {
        Bad::new("The uwsgi packet is malformed.".to_owned())
    }

    fn value(name: &[u8], what: &str) -> Self {
        let name = String::from_utf8_lossy(name);
        Bad::new(format!("{name} of the uwsgi packet {what}."))
    }

    pub fn refusal(self) -> Refusal {
        Refusal {
            rule: RULE,
            setting: self.setting,
            ..Refusal::plain(self.status, self.reason)
        }
    }
}

/// The size of a whole packet, as far as its first bytes tell: `HEADER_BYTES` or more. `most` is the
/// most bytes of names and values.
pub fn scan(header: &[u8], most: usize) -> Result<usize, Bad> {
    let none = || Bad {
        setting: "bind",
        ..Bad::new(NO_PACKET.to_owned())
    };
    if !matches!(header.first(), None | Some(0 | 30)) {
        return Err(none());
    }
    let Some([_, low, high, modifier]) = header.first_chunk::<HEADER_BYTES>() else {
        return Ok(HEADER_BYTES);
    };
    if *modifier != 0 {
        return Err(none());
    }
    let size = usize::from(u16::from_le_bytes([*low, *high]));
    if size > most {
        return Err(Bad {
            status: 431,
            reason: "The uwsgi packet is too long.".to_owned(),
            setting: "limit_request_head",
        });
    }
    Ok(HEADER_BYTES + size)
}

/// The values that count of the names that are known, in the order of the constants.
#[derive(Default)]
struct Said<'a> {
    values: Vec<(&'a [u8], &'a [u8])>,
}

impl<'a> Said<'a> {
    fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        let found = self.values.iter().find(|(known, _)| *known == name);
        found.map(|(_, value)| *value)
    }

    /// The value; empty where there is none.
    fn text(&self, name: &[u8]) -> &'a [u8] {
        self.get(name).unwrap_or_default()
    }

    fn set(&mut self, name: &'a [u8], value: &'a [u8]) -> Result<(), Bad> {
        match self.values.iter_mut().find(|(known, _)| *known == name) {
            Some(_) if SINGLE.contains(&name) => Err(Bad::value(name, "is there twice")),
            Some(known) => {
                known.1 = value;
                Ok(())
            }
            None => {
                self.values.push((name, value));
                Ok(())
            }
        }
    }
}

/// What a complete packet says. `id_length` is the most bytes of a request id that counts.
pub fn parse(packet: &[u8], id_length: usize) -> Result<Packet, Bad> {
    let mut said = Said::default();
    let mut fields = Vec::with_capacity(packet.len());
    let mut rest = packet.get(HEADER_BYTES..).unwrap_or_default();
    while !rest.is_empty() {
        let name = text(&mut rest)?;
        let value = text(&mut rest)?;
        if is_known(name) {
            said.set(name, value)?;
        } else if let Some(bare) = field_name(name) {
            let lower = |byte: &u8| match byte {
                b'_' => b'-',
                byte => byte.to_ascii_lowercase(),
            };
            let field: Vec<u8> = bare.iter().map(lower).collect();
            add_field(&mut fields, &field, value)?;
        }
    }
    let body: [(&[u8], &[u8]); 2] = [
        (b"content-type", b"CONTENT_TYPE"),
        (b"content-length", b"CONTENT_LENGTH"),
    ];
    for (field, name) in body {
        let value = said.text(name);
        if !value.is_empty() {
            add_field(&mut fields, field, value)?;
        }
    }
    let script_name = script_name(&said)?;
    let method = said.text(b"REQUEST_METHOD");
    if !grammar::is_token(method) {
        return Err(Bad::value(b"REQUEST_METHOD", "is no method"));
    }
    let target = target(&said, script_name)?;
    let head = [method, b" ", &target, b" HTTP/1.0\r\n", &fields, b"\r\n"].concat();
    let client = match said.text(b"REMOTE_ADDR") {
        b"" | b"unix:" => None,
        given => match address_of(given) {
            None => return Err(Bad::value(b"REMOTE_ADDR", "is no address")),
            Some(address) => Some((address, port(&said, b"REMOTE_PORT")?)),
        },
    };
    Ok(Packet {
        head,
        client,
        said: Forwarded {
            scheme: scheme(&said)?,
            port: port(&said, b"SERVER_PORT")?,
            script_name: quote(script_name),
            request_id: request_id(&said, id_length),
            ..Forwarded::default()
        },
        variables: variables(&said)?,
    })
}

/// Take one text with its length.
fn text<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Bad> {
    let (size, behind) = rest.split_first_chunk::<2>().ok_or_else(Bad::malformed)?;
    let size = usize::from(u16::from_le_bytes(*size));
    let (text, behind) = behind.split_at_checked(size).ok_or_else(Bad::malformed)?;
    *rest = behind;
    Ok(text)
}

fn is_known(name: &[u8]) -> bool {
    SINGLE.contains(&name)
        || OTHERS.contains(&name)
        || VARIABLES.iter().any(|known| known.as_bytes() == name)
}

/// What follows `HTTP_` in the name of a field that counts.
fn field_name(name: &[u8]) -> Option<&[u8]> {
    let bare = name.strip_prefix(b"HTTP_")?;
    let letter = |byte: &u8| byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_';
    (!bare.is_empty() && bare.iter().all(letter) && !LEFT_OUT.contains(&name)).then_some(bare)
}

fn add_field(fields: &mut Vec<u8>, field: &[u8], value: &[u8]) -> Result<(), Bad> {
    if has_control(value) {
        let reason = "A field of the uwsgi packet has a control character.";
        return Err(Bad::new(reason.to_owned()));
    }
    for part in [field, b": ", value, b"\r\n"] {
        fields.extend_from_slice(part);
    }
    Ok(())
}

fn has_control(value: &[u8]) -> bool {
    value.iter().any(|byte| grammar::is_control(*byte))
}

/// Whether a part of a request line could not be one.
fn breaks_line(text: &[u8]) -> bool {
    let breaks = |byte: &u8| byte.is_ascii_control() || *byte == b' ';
    text.iter().any(breaks)
}

fn script_name<'a>(said: &Said<'a>) -> Result<&'a [u8], Bad> {
    let mut name = said.text(b"SCRIPT_NAME");
    while let Some(shorter) = name.strip_suffix(b"/") {
        name = shorter;
    }
    if !name.is_empty() && !is_prefix(&quote(name)) {
        return Err(Bad::value(b"SCRIPT_NAME", "is no path"));
    }
    Ok(name)
}

/// The request target: REQUEST_URI, unless the front-end has rewritten the path.
fn target(said: &Said<'_>, script_name: &[u8]) -> Result<Vec<u8>, Bad> {
    let target = said.text(b"REQUEST_URI");
    if !target.is_empty() && (!target.starts_with(b"/") || breaks_line(target)) {
        return Err(Bad::value(b"REQUEST_URI", "is no path"));
    }
    let info = said.get(b"PATH_INFO");
    let path = info.unwrap_or_default();
    if path.is_empty() && (script_name.is_empty() || info.is_none()) {
        if target.is_empty() {
            return Err(Bad::value(b"REQUEST_URI", "is missing"));
        }
        return Ok(target.to_vec());
    }
    if !path.is_empty() && !path.starts_with(b"/") {
        return Err(Bad::value(b"PATH_INFO", "is no path"));
    }
    let (asked, asked_query) = match memchr::memchr(b'?', target) {
        Some(at) => (
            target.get(..at).unwrap_or_default(),
            target.get(at + 1..).unwrap_or_default(),
        ),
        None => (target, &b""[..]),
    };
    let asked = unquote(asked);
    let whole = [script_name, path].concat();
    let within = !script_name.is_empty()
        && path
            .strip_prefix(script_name)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"));
    let path = match whole == *asked || !within {
        true => whole.as_slice(),
        false => path,
    };
    let query = said.get(b"QUERY_STRING").unwrap_or(asked_query);
    if (path, query) == (&*asked, asked_query) {
        return Ok(target.to_vec());
    }
    if breaks_line(query) {
        return Err(Bad::value(b"QUERY_STRING", "has a control character"));
    }
    let mut made = quote(path);
    if !query.is_empty() {
        made.push(b'?');
        made.extend_from_slice(query);
    }
    Ok(made)
}

/// Percent-encode a path.
fn quote(path: &[u8]) -> Vec<u8> {
    let mut quoted = Vec::with_capacity(path.len());
    for &byte in path {
        if byte.is_ascii_alphanumeric() || b"/-._~!$&'()*+;=:@".contains(&byte) {
            quoted.push(byte);
        } else {
            quoted.extend_from_slice(format!("%{byte:02X}").as_bytes());
        }
    }
    quoted
}

/// The port; 0 where none is told.
fn port(said: &Said<'_>, name: &[u8]) -> Result<u16, Bad> {
    let text = said.text(name);
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text.len() <= 5 && text.iter().all(u8::is_ascii_digit);
    let number = text
        .iter()
        .take(5)
        .fold(0_u32, |number, digit| number * 10 + u32::from(digit & 0xf));
    match u16::try_from(number) {
        Ok(number) if digits => Ok(number),
        _ => Err(Bad::value(name, "is no port")),
    }
}

fn scheme(said: &Said<'_>) -> Result<Option<Scheme>, Bad> {
    let otherwise = match said.text(b"HTTPS") {
        b"" => scheme_of(said, b"REQUEST_SCHEME")?,
        https if https.eq_ignore_ascii_case(b"on") || https == b"1" => Some(Scheme::Https),
        _ => Some(Scheme::Http),
    };
    Ok(scheme_of(said, b"UWSGI_SCHEME")?.or(otherwise))
}

fn scheme_of(said: &Said<'_>, name: &[u8]) -> Result<Option<Scheme>, Bad> {
    match said.text(name).to_ascii_lowercase().as_slice() {
        b"" => Ok(None),
        b"http" => Ok(Some(Scheme::Http)),
        b"https" => Ok(Some(Scheme::Https)),
        _ => Err(Bad::value(name, "is no scheme")),
    }
}

fn request_id(said: &Said<'_>, most: usize) -> Vec<u8> {
    let text = said.text(b"REQUEST_ID");
    if text.len() > most || !is_request_id(text) {
        return Vec::new();
    }
    text.to_vec()
}

fn address_of(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?;
    let ipv4 = || text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
    let ipv6 = || text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    ipv4().or_else(ipv6).map(|address| address.to_canonical())
}

fn variables(said: &Said<'_>) -> Result<Vec<(&'static str, Vec<u8>)>, Bad> {
    let mut found = Vec::new();
    for name in VARIABLES {
        let value = said.text(name.as_bytes());
        if has_control(value) {
            return Err(Bad::value(name.as_bytes(), "has a control character"));
        }
        let counts = name != "SERVER_NAME"
            || (value != b"_" && !value.contains(&b':') && grammar::is_host(value));
        if !value.is_empty() && counts {
            found.push((name, value.to_vec()));
        }
    }
    Ok(found)
}
