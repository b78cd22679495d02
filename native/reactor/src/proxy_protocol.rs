//! The PROXY protocol, versions 1 and 2: what a proxy says of a connection before its first byte.
//!
//! `penstock.edge.proxy_protocol` is the reference, and says why; a test runs one table on both.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const START: &[u8] = b"PROXY ";
/// Bytes of a header of version 1 at most, with its line end; the specification says so.
const LONGEST_LINE: usize = 107;
/// Bytes of a header of version 2 before its addresses.
const FIXED: usize = 16;

/// Types of the values behind the addresses, and of those within the one about TLS.
const AUTHORITY: u8 = 0x02;
const CRC32C: u8 = 0x03;
const SSL: u8 = 0x20;
const TEXTS: [(u8, &str); 3] = [
    (0x21, "SSL_PROTOCOL"),
    (0x22, "SSL_CLIENT_S_DN_CN"),
    (0x23, "SSL_CIPHER"),
];

pub const MALFORMED: &str = "The PROXY header is malformed.";
const UNEXPECTED: &str = "A PROXY header comes from a peer that may not send one.";
const UNEXPECTED_V2: &str =
    "The request line is empty, as in a PROXY header, which this peer may not send.";

/// The versions that are allowed; none where no header is expected.
#[derive(Clone, Copy, Debug, Default)]
pub struct Versions {
    pub v1: bool,
    pub v2: bool,
}

/// What a header says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client; None where the header names none.
    pub client: Option<(IpAddr, u16)>,
    /// What is set in the environ where the client's connection to the proxy was secured.
    pub variables: Vec<(&'static str, Vec<u8>)>,
}

/// How many bytes belong to the header, and whether it is complete with them; an error where there
/// is none. `data` begins with the connection's first byte; `most` is the most bytes of a header.
pub fn scan(data: &[u8], versions: Versions, most: usize) -> Result<(usize, bool), &'static str> {
    if begins(data, SIGNATURE) {
        if !versions.v2 {
            return Err("The PROXY header has version 2.");
        }
        let Some([high, low]) = data.get(14..FIXED).and_then(<[u8]>::first_chunk::<2>) else {
            return Ok((data.len(), false));
        };
        if !matches!(data.get(12), Some(0x20 | 0x21)) {
            return Err(MALFORMED);
        }
        let size = FIXED + usize::from(u16::from_be_bytes([*high, *low]));
        if size > most {
            return Err("The PROXY header is too long.");
        }
        return Ok((data.len().min(size), data.len() >= size));
    }
    if begins(data, START) {
        if !versions.v1 {
            return Err("The PROXY header has version 1.");
        }
        let line = data.get(..LONGEST_LINE).unwrap_or(data);
        return match memchr::memmem::find(line, b"\r\n") {
            Some(end) => Ok((end + 2, true)),
            None if data.len() >= LONGEST_LINE => Err(MALFORMED),
            None => Ok((data.len(), false)),
        };
    }
    Err("The connection does not begin with a PROXY header.")
}

/// What a complete header says.
pub fn parse(header: &[u8]) -> Result<ProxyHeader, &'static str> {
    let found = match header.strip_suffix(b"\r\n") {
        Some(line) if header.starts_with(START) => parse_v1(line),
        _ => parse_v2(header),
    };
    found.ok_or(MALFORMED)
}

/// The reason for which a request is refused that may be a PROXY header where none is expected.
/// `input` begins with it, `empty` is whether its request line was empty.
pub fn explained(input: &[u8], empty: bool) -> Option<&'static str> {
    let kinds: [&[u8]; 3] = [b"PROXY TCP4 ", b"PROXY TCP6 ", b"PROXY UNKNOWN"];
    if kinds.iter().any(|kind| input.starts_with(kind)) {
        return Some(UNEXPECTED);
    }
    empty.then_some(UNEXPECTED_V2)
}

/// Whether `data`, as far as it has come, begins with `start`.
fn begins(data: &[u8], start: &[u8]) -> bool {
    let size = data.len().min(start.len());
    size > 0 && data.get(..size) == start.get(..size)
}

fn parse_v1(line: &[u8]) -> Option<ProxyHeader> {
    let text = std::str::from_utf8(line).ok()?;
    let unknown = text.strip_prefix("PROXY UNKNOWN");
    if let Some(rest) = unknown {
        let plain = rest.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let known = rest.is_empty() || rest.starts_with(' ');
        return (plain && known).then(ProxyHeader::default);
    }
    let mut words = text.split(' ').skip(1);
    let (family, source, destination) = (words.next()?, words.next()?, words.next()?);
    let (port, to) = (words.next()?, words.next()?);
    if words.next().is_some() {
        return None;
    }
    let address = |text: &str| -> Option<IpAddr> {
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let client = address(source)?.to_canonical();
    address(destination)?;
    let port = plain_port(port)?;
    plain_port(to)?;
    Some(ProxyHeader {
        client: Some((client, port)),
        variables: Vec::new(),
    })
}

fn plain_port(text: &str) -> Option<u16> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = digits && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn parse_v2(header: &[u8]) -> Option<ProxyHeader> {
    let rest = header.get(FIXED..)?;
    if header.get(12)? & 0xf == 0 {
        return Some(ProxyHeader::default()); // LOCAL: the proxy speaks for itself
    }
    let size = match header.get(13)? {
        0x00 => 0,
        0x11 => 12,
        0x21 => 36,
        0x31 => 216,
        _ => return None,
    };
    let (block, data) = rest.split_at_checked(size)?;
    let values = values(data)?;
    if values.iter().any(|(kind, _)| *kind == CRC32C) {
        check_sum(header, FIXED + size)?;
    }
    let variables = of_tls(&values)?;
    let port = |at: usize| -> Option<u16> {
        let bytes = block.get(at..)?.first_chunk::<2>()?;
        Some(u16::from_be_bytes(*bytes))
    };
    let client = match size {
        12 => {
            let address = Ipv4Addr::from(*block.first_chunk::<4>()?);
            Some((IpAddr::V4(address), port(8)?))
        }
        36 => {
            let address = Ipv6Addr::from(*block.first_chunk::<16>()?);
            Some((IpAddr::V6(address).to_canonical(), port(32)?))
        }
        _ => None, // a client of the proxy without an address
    };
    Some(ProxyHeader { client, variables })
}

/// Types and values; None if they do not fill `data`.
fn values(data: &[u8]) -> Option<Vec<(u8, &[u8])>> {
    let mut found = Vec::new();
    let mut rest = data;
    while let Some((kind, after)) = rest.split_first() {
        let size = u16::from_be_bytes(*after.first_chunk::<2>()?);
        let (value, behind) = after.get(2..)?.split_at_checked(usize::from(size))?;
        found.push((*kind, value));
        rest = behind;
    }
    Some(found)
}

/// The last value of a type: it replaces those before it.
fn last<'a>(values: &[(u8, &'a [u8])], kind: u8) -> Option<&'a [u8]> {
    let mut of_kind = values.iter().rev().filter(|(own, _)| *own == kind);
    of_kind.next().map(|(_, value)| *value)
}

/// None unless the first checksum is that of the header with zeros in its place, and the only one.
fn check_sum(header: &[u8], at: usize) -> Option<()> {
    let mut place = at;
    let mut sums = Vec::new();
    while let Some(kind) = header.get(place) {
        let size = u16::from_be_bytes(*header.get(place + 1..)?.first_chunk::<2>()?);
        if *kind == CRC32C {
            sums.push((place + 3, usize::from(size)));
        }
        place += 3 + usize::from(size);
    }
    let [(start, 4)] = sums.as_slice() else {
        return None;
    };
    let given = u32::from_be_bytes(*header.get(*start..)?.first_chunk::<4>()?);
    let blank = header.iter().enumerate().map(|(index, byte)| {
        if (*start..*start + 4).contains(&index) {
            0
        } else {
            *byte
        }
    });
    (crc32c(blank) == given).then_some(())
}

/// The checksum of RFC 4960, appendix B, bit by bit: there is one for each connection.
fn crc32c(data: impl Iterator<Item = u8>) -> u32 {
    let sum = data.fold(u32::MAX, |sum, byte| {
        (0..8).fold(sum ^ u32::from(byte), |rest, _| {
            rest >> 1 ^ if rest & 1 == 1 { 0x82f6_3b78 } else { 0 }
        })
    });
    !sum
}

/// What is set in the environ for a client whose connection to the proxy is secured.
fn of_tls(all: &[(u8, &[u8])]) -> Option<Vec<(&'static str, Vec<u8>)>> {
    let Some(tls) = last(all, SSL) else {
        return Some(Vec::new());
    };
    let (flags, after) = tls.split_first()?;
    let (verified, inner) = after.split_at_checked(4)?;
    let inner = values(inner)?;
    if flags & 1 == 0 {
        return Some(Vec::new());
    }
    let mut variables = vec![
        ("wsgi.url_scheme", b"https".to_vec()),
        ("HTTPS", b"on".to_vec()),
    ];
    for (kind, name) in TEXTS {
        if let Some(value) = last(&inner, kind) {
            variables.push((name, text(value)?));
        }
    }
    if let Some(value) = last(all, AUTHORITY) {
        variables.push(("SSL_SERVER_NAME", text(value)?));
    }
    let verify = match (flags & 6, verified) {
        (0, _) => "NONE",
        (_, [0, 0, 0, 0]) => "SUCCESS",
        _ => "FAILED",
    };
    variables.push(("SSL_CLIENT_VERIFY", verify.as_bytes().to_vec()));
    Some(variables)
}

fn text(value: &[u8]) -> Option<Vec<u8>> {
    let plain = value.iter().all(|byte| *byte >= b' ' && *byte != 0x7f);
    (plain && (1..=255).contains(&value.len())).then(|| value.to_vec())
}
