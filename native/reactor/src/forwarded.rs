//! What a trusted proxy says about a request: who the client is, and what it asked the proxy for.
//!
//! `penstock.edge.forwarded` is the reference, and says why; a test runs one table on both.

use crate::client::Networks;
use crate::sys::Peer;
use penstock_protocol::{Head, grammar};
use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The fields that can be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Field {
    Forwarded,
    For,
    Proto,
    Host,
    Port,
    Prefix,
    ScriptName,
    RequestId,
}

/// Each by its name, in lower case.
pub const NAMES: [(&str, Field); 8] = [
    ("forwarded", Field::Forwarded),
    ("x-forwarded-for", Field::For),
    ("x-forwarded-proto", Field::Proto),
    ("x-forwarded-host", Field::Host),
    ("x-forwarded-port", Field::Port),
    ("x-forwarded-prefix", Field::Prefix),
    ("script_name", Field::ScriptName),
    ("x-request-id", Field::RequestId),
];

/// Why a request is refused, in a sentence for the client.
pub type Reason = String;

/// One hop, as an entry of a list names it. A port of 0 is not told.
#[derive(Clone, Copy, Debug)]
pub enum Node {
    Address(IpAddr, u16),
    Unix,
    /// The proxy does not tell.
    Hidden,
}

impl PartialEq for Node {
    /// Whether both are the same hop, whichever of the two is told with its port.
    fn eq(&self, other: &Node) -> bool {
        match (self, other) {
            (Node::Address(one, _), Node::Address(other, _)) => one == other,
            (Node::Unix, Node::Unix) | (Node::Hidden, Node::Hidden) => true,
            _ => false,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scheme {
    Http,
    Https,
}

/// What trusted proxies say of a request. Text is empty, and the rest None or 0, where they do not.
#[derive(Clone, Debug, Default)]
pub struct Forwarded {
    pub client: Option<Node>,
    pub scheme: Option<Scheme>,
    /// Takes the place of Host.
    pub host: Vec<u8>,
    /// The port to which the client connected.
    pub port: u16,
    /// What the proxies have removed from the beginning of the path, not decoded.
    pub prefix: Vec<u8>,
    /// What the path begins with that is SCRIPT_NAME, not decoded.
    pub script_name: Vec<u8>,
    pub request_id: Vec<u8>,
}

impl Forwarded {
    /// Fill what the fields leave out with what the front-end says that passed them on.
    pub fn complete(&mut self, said: &Forwarded) {
        if self.scheme.is_none() && self.host.is_empty() && self.port == 0 {
            self.port = said.port; // else it is the one of another hop
        }
        self.scheme = self.scheme.or(said.scheme);
        if self.script_name.is_empty() {
            self.script_name.clone_from(&said.script_name);
        }
        if self.request_id.is_empty() {
            self.request_id.clone_from(&said.request_id);
        }
    }

    /// The client's address, where the proxies name a client; None there for one without.
    pub fn peer(&self) -> Option<Peer> {
        self.client.map(|node| match node {
            Node::Address(address, port) => Some((address, port)),
            Node::Unix | Node::Hidden => None,
        })
    }
}

/// Which peers are trusted: by network, all, and those of unix sockets.
#[derive(Clone, Debug, Default)]
pub struct Peers {
    pub networks: Networks,
    pub any_peer: bool,
    pub unix: bool,
}

impl Peers {
    /// Whether a peer is trusted; None is that of a unix socket.
    pub fn trusts(&self, peer: Peer) -> bool {
        self.any_peer || peer.map_or(self.unix, |(address, _)| self.networks.admits(address))
    }

    fn trusts_hop(&self, node: Node) -> bool {
        match node {
            Node::Address(address, _) => self.networks.admits(address),
            Node::Unix => self.unix,
            Node::Hidden => false,
        }
    }
}

/// Which peers are believed, and which of their fields.
#[derive(Clone, Debug, Default)]
pub struct ForwardedPolicy {
    pub peers: Peers,
    pub believed: Vec<Field>,
    /// Further fields, in lower case, each with the value that means https.
    pub secure: Vec<(Vec<u8>, Vec<u8>)>,
    /// The application does not get the forwarding fields of other peers.
    pub drops: bool,
    /// The most bytes of a request id that a proxy has given.
    pub request_id_length: usize,
}

/// What the fields say of the same thing, with the field that said it.
struct Said<T>(Option<(T, Vec<u8>)>);

impl<T: PartialEq> Said<T> {
    fn add(&mut self, name: &[u8], value: T) -> Result<(), Reason> {
        match &self.0 {
            Some((said, other)) if *said != value => Err(contradiction(other, name)),
            Some(_) => Ok(()),
            None => {
                self.0 = Some((value, name.to_vec()));
                Ok(())
            }
        }
    }
}

impl ForwardedPolicy {
    pub fn believes(&self, field: Field) -> bool {
        self.believed.contains(&field)
    }

    /// Whether the fields of each request are looked at, also where no usual one is among them.
    pub fn reads_all(&self) -> bool {
        !self.secure.is_empty()
    }

    /// Whether a field of this name speaks of another hop.
    pub fn names(&self, name: &[u8]) -> bool {
        let prefix = name.get(..12);
        name.eq_ignore_ascii_case(b"forwarded")
            || prefix.is_some_and(|start| start.eq_ignore_ascii_case(b"x-forwarded-"))
            || self.is_secure(name)
    }

    fn is_secure(&self, name: &[u8]) -> bool {
        let mut names = self.secure.iter().map(|(secure, _)| secure);
        names.any(|secure| secure.eq_ignore_ascii_case(name))
    }

    /// What a trusted peer says in the fields of a request; an error where it is malformed or
    /// contradicts itself.
    pub fn read(&self, head: &Head, bytes: &[u8]) -> Result<Option<Box<Forwarded>>, Reason> {
        let value = |field: Field, name: &[u8]| -> Option<Cow<'_, [u8]>> {
            (self.believes(field))
                .then(|| joined(head, bytes, name))
                .flatten()
        };
        let mut found = Forwarded::default();
        let (mut clients, mut schemes, mut hosts) = (Said(None), Said(None), Said(None));
        let mut depth = 1;
        if let Some(text) = value(Field::For, b"x-forwarded-for") {
            let (client, entries) = self.client(&text)?;
            depth = entries;
            clients.add(b"x-forwarded-for", client)?;
        }
        if let Some(text) = value(Field::Forwarded, b"forwarded") {
            let (elements, client) = self.elements(&text)?;
            if let Some(client) = client {
                clients.add(b"forwarded", client)?;
            }
            if let Some(text) = last_said(&elements, b"proto") {
                schemes.add(b"forwarded", scheme(text, b"forwarded")?)?;
            }
            if let Some(text) = last_said(&elements, b"host") {
                hosts.add(b"forwarded", host(text, b"forwarded")?)?;
            }
        }
        if let Some(text) = value(Field::Proto, b"x-forwarded-proto") {
            if let Some(text) = entry(&text, depth) {
                schemes.add(b"x-forwarded-proto", scheme(text, b"x-forwarded-proto")?)?;
            }
        }
        for (name, secure) in &self.secure {
            if let Some(text) = joined(head, bytes, name) {
                if let Some(text) = entry(&text, depth) {
                    let said = if text == secure.as_slice() {
                        Scheme::Https
                    } else {
                        Scheme::Http
                    };
                    schemes.add(name, said)?;
                }
            }
        }
        if let Some(text) = value(Field::Host, b"x-forwarded-host") {
            if let Some(text) = entry(&text, depth) {
                hosts.add(b"x-forwarded-host", host(text, b"x-forwarded-host")?)?;
            }
        }
        found.client = clients.0.map(|(client, _)| client);
        found.scheme = schemes.0.map(|(scheme, _)| scheme);
        found.host = hosts.0.map(|(host, _)| host).unwrap_or_default();
        if let Some(text) = value(Field::Port, b"x-forwarded-port") {
            if let Some(text) = entry(&text, depth) {
                found.port = port(text, b"x-forwarded-port")?;
            }
        }
        if let Some(text) = value(Field::Prefix, b"x-forwarded-prefix") {
            if let Some(text) = entry(&text, depth) {
                found.prefix = prefix(text, b"x-forwarded-prefix")?;
            }
        }
        if let Some(text) = value(Field::ScriptName, b"script_name") {
            found.script_name = prefix(&text, b"script_name")?;
            if !found.prefix.is_empty() {
                return Err(contradiction(b"x-forwarded-prefix", b"script_name"));
            }
        }
        if let Some(text) = value(Field::RequestId, b"x-request-id") {
            if text.len() <= self.request_id_length && is_request_id(&text) {
                found.request_id = text.into_owned();
            }
        }
        Ok(Some(Box::new(found)))
    }

    /// The client that X-Forwarded-For names, and at which entry from the end.
    fn client(&self, value: &[u8]) -> Result<(Node, usize), Reason> {
        let mut rest = value;
        let mut depth = 0;
        loop {
            let (before, last) = split_last(rest, memchr::memrchr(b',', rest));
            let node = node(last, b"x-forwarded-for", true)?;
            depth += 1;
            match before {
                Some(before) if self.peers.trusts_hop(node) => rest = before,
                _ => return Ok((node, depth)),
            }
        }
    }

    /// The elements of Forwarded, from the last one on, and the client that they name.
    fn elements(&self, value: &[u8]) -> Result<(Vec<Pairs>, Option<Node>), Reason> {
        let mut elements = Vec::new();
        let mut client = None;
        let mut rest = value;
        loop {
            let (before, last) = split_last(rest, last_comma(rest));
            let pairs = pairs(last)?;
            let named = parameter(&pairs, b"for").map(|text| node(text, b"forwarded", false));
            elements.push(pairs);
            let Some(node) = named.transpose()? else {
                return Ok((elements, client));
            };
            client = Some(node);
            match before {
                Some(before) if self.peers.trusts_hop(node) => rest = before,
                _ => return Ok((elements, client)),
            }
        }
    }
}

/// The parameters of an element of Forwarded, names in lower case.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn parameter<'a>(pairs: &'a Pairs, name: &[u8]) -> Option<&'a [u8]> {
    let mut named = pairs.iter().filter(|(own, _)| own == name);
    named.next().map(|(_, value)| value.as_slice())
}

/// A parameter of the hop that is nearest to the client, of those that have it.
fn last_said<'a>(elements: &'a [Pairs], name: &[u8]) -> Option<&'a [u8]> {
    let said = elements.iter().rev().find_map(|it| parameter(it, name));
    said.filter(|text| !text.is_empty())
}

fn malformed(name: &[u8]) -> Reason {
    format!("The field {} of the proxy is malformed.", shown(name))
}

fn contradiction(one: &[u8], other: &[u8]) -> Reason {
    format!(
        "The fields {} and {} of the proxy contradict each other.",
        shown(one),
        shown(other)
    )
}

/// A field's name as it is usually written.
fn shown(name: &[u8]) -> String {
    let mut starts = true;
    let capitals = name.contains(&b'_');
    let written = name.iter().map(|byte| {
        let upper = capitals || std::mem::replace(&mut starts, !byte.is_ascii_alphabetic());
        char::from(if upper {
            byte.to_ascii_uppercase()
        } else {
            *byte
        })
    });
    written.collect()
}

/// The value of a field, of all its lines; None where it is empty or not there.
fn joined<'a>(head: &Head, bytes: &'a [u8], name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let mut value: Option<Cow<'a, [u8]>> = None;
    for field in &head.fields {
        if field.name.of(bytes).eq_ignore_ascii_case(name) {
            let line = field.value.of(bytes);
            match &mut value {
                None => value = Some(Cow::Borrowed(line)),
                Some(all) => {
                    all.to_mut().push(b',');
                    all.to_mut().extend_from_slice(line);
                }
            }
        }
    }
    value.filter(|value| !value.is_empty())
}

/// What is before a comma, if there is one, and what is behind it.
fn split_last(text: &[u8], comma: Option<usize>) -> (Option<&[u8]>, &[u8]) {
    match comma.and_then(|comma| text.split_at_checked(comma)) {
        Some((before, last)) => (Some(before), trimmed(last.get(1..).unwrap_or_default())),
        None => (None, trimmed(text)),
    }
}

fn trimmed(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let start = text.iter().take_while(|byte| is_blank(byte)).count();
    let text = text.get(start..).unwrap_or_default();
    let end = text.iter().rev().take_while(|byte| is_blank(byte)).count();
    text.get(..text.len() - end).unwrap_or_default()
}

/// The entry of a list at a place from the end, or its first if it has fewer; None if it is empty.
fn entry(value: &[u8], depth: usize) -> Option<&[u8]> {
    let mut rest = value;
    let mut left = depth;
    loop {
        let (before, last) = split_last(rest, memchr::memrchr(b',', rest));
        left -= 1;
        match before {
            Some(before) if left > 0 => rest = before,
            _ => return (!last.is_empty()).then_some(last),
        }
    }
}

/// The hop that an entry names (RFC 7239, section 6).
fn node(text: &[u8], name: &[u8], bare_ipv6: bool) -> Result<Node, Reason> {
    if bare_ipv6 {
        if text == b"unix:" {
            return Ok(Node::Unix); // what nginx writes for a peer of a unix socket
        }
        if memchr::memchr_iter(b':', text).count() > 1 && text.first() != Some(&b'[') {
            return ipv6(text, name).map(|address| Node::Address(address, 0));
        }
    }
    let split = |text: &'_ [u8], at: Option<usize>| -> (Vec<u8>, Option<Vec<u8>>) {
        match at.and_then(|at| text.split_at_checked(at)) {
            Some((before, after)) => (before.to_vec(), after.get(1..).map(<[u8]>::to_vec)),
            None => (text.to_vec(), None),
        }
    };
    let (address, given) = if let Some(literal) = text.strip_prefix(b"[") {
        let (literal, rest) = split(literal, memchr::memchr(b']', literal));
        let Some(rest) = rest else {
            return Err(malformed(name));
        };
        let given = match rest.split_first() {
            None => None,
            Some((b':', port)) => Some(port.to_vec()),
            Some(_) => return Err(malformed(name)),
        };
        (Some(ipv6(&literal, name)?), given)
    } else {
        let (host, given) = split(text, memchr::memchr(b':', text));
        (ipv4(&host, name)?, given)
    };
    let port = match given {
        Some(given) if is_obfuscated(&given) => 0,
        Some(given) => port(&given, name)?,
        None => 0,
    };
    Ok(address.map_or(Node::Hidden, |address| Node::Address(address, port)))
}

/// An address, or None for one that the proxy does not tell.
fn ipv4(text: &[u8], name: &[u8]) -> Result<Option<IpAddr>, Reason> {
    let parsed = std::str::from_utf8(text)
        .ok()
        .and_then(|it| it.parse::<Ipv4Addr>().ok());
    match parsed {
        Some(address) => Ok(Some(IpAddr::V4(address))),
        None if text.eq_ignore_ascii_case(b"unknown") || is_obfuscated(text) => Ok(None),
        None => Err(malformed(name)),
    }
}

fn ipv6(text: &[u8], name: &[u8]) -> Result<IpAddr, Reason> {
    let parsed = std::str::from_utf8(text)
        .ok()
        .and_then(|it| it.parse::<Ipv6Addr>().ok());
    let address = parsed.ok_or_else(|| malformed(name))?;
    Ok(IpAddr::V6(address).to_canonical())
}

fn is_obfuscated(text: &[u8]) -> bool {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    text.len() > 1 && text.first() == Some(&b'_') && text.iter().all(plain)
}

fn port(text: &[u8], name: &[u8]) -> Result<u16, Reason> {
    let digits = (1..=5).contains(&text.len()) && text.iter().all(u8::is_ascii_digit);
    let number = text
        .iter()
        .fold(0_u32, |number, digit| number * 10 + u32::from(digit & 0xf));
    match u16::try_from(number) {
        Ok(number) if digits && number > 0 => Ok(number),
        _ => Err(malformed(name)),
    }
}

fn scheme(text: &[u8], name: &[u8]) -> Result<Scheme, Reason> {
    match text.to_ascii_lowercase().as_slice() {
        b"http" | b"ws" => Ok(Scheme::Http),
        b"https" | b"wss" => Ok(Scheme::Https),
        _ => Err(malformed(name)),
    }
}

fn host(text: &[u8], name: &[u8]) -> Result<Vec<u8>, Reason> {
    if grammar::is_host(text) {
        Ok(text.to_vec())
    } else {
        Err(malformed(name))
    }
}

/// The port that a host has, as far as it has one.
pub fn port_of(host: &[u8]) -> &[u8] {
    if host.ends_with(b"]") {
        return b"";
    }
    let colon = memchr::memrchr(b':', host);
    colon
        .and_then(|colon| host.get(colon + 1..))
        .unwrap_or_default()
}

/// Whether a path, not decoded, can be what another one begins with.
pub fn is_prefix(path: &[u8]) -> bool {
    let Some(inner) = path.strip_prefix(b"/") else {
        return false;
    };
    let inner = inner.strip_suffix(b"/").unwrap_or(inner);
    path == b"/" || inner.split(|byte| *byte == b'/').all(is_segment)
}

fn prefix(text: &[u8], name: &[u8]) -> Result<Vec<u8>, Reason> {
    if !is_prefix(text) {
        return Err(malformed(name));
    }
    Ok(text.strip_suffix(b"/").unwrap_or(text).to_vec())
}

/// Whether a prefix may have this segment, which is not decoded yet. The reference says why not.
fn is_segment(text: &[u8]) -> bool {
    let digit = |byte: u8| (byte as char).to_digit(16);
    let (mut rest, mut size, mut dots) = (text, 0, 0);
    while let Some((&byte, after)) = rest.split_first() {
        let decoded = match (byte, after) {
            (b'%', [high, low, behind @ ..]) => {
                let (Some(high), Some(low)) = (digit(*high), digit(*low)) else {
                    return false;
                };
                rest = behind;
                let decoded = (high * 16 + low) as u8;
                if decoded.is_ascii_control() || b"/\\".contains(&decoded) {
                    return false;
                }
                decoded
            }
            _ => {
                let special = b"-._~!$&'()*+;=:@".contains(&byte);
                if !byte.is_ascii_alphanumeric() && byte < 0x80 && !special {
                    return false;
                }
                rest = after;
                byte
            }
        };
        size += 1;
        dots += usize::from(decoded == b'.');
    }
    size > 2 || dots < size
}

/// Whether a proxy may give this as the id of a request.
pub fn is_request_id(text: &[u8]) -> bool {
    let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || b"._:+/=@-".contains(byte);
    text.iter().all(allowed)
}

/// Where the last comma is that is in no quoted string. Read from the end, so that what a client
/// has left open does not reach into a proxy's entry.
fn last_comma(value: &[u8]) -> Option<usize> {
    let mut quoted = false;
    let mut place = value.len();
    while place > 0 {
        place -= 1;
        match value.get(place) {
            Some(b'"') => {
                let before = value.get(..place).unwrap_or_default();
                let escapes = if quoted {
                    before
                        .iter()
                        .rev()
                        .take_while(|byte| **byte == b'\\')
                        .count()
                } else {
                    0
                };
                if escapes % 2 == 0 {
                    quoted = !quoted;
                }
                place -= escapes;
            }
            Some(b',') if !quoted => return Some(place),
            _ => {}
        }
    }
    None
}

/// The parameters of an element of Forwarded (RFC 7239, section 4).
fn pairs(element: &[u8]) -> Result<Pairs, Reason> {
    let error = || malformed(b"forwarded");
    let mut pairs: Pairs = Vec::new();
    let mut rest = element;
    while !rest.is_empty() {
        if rest.first() != Some(&b';') {
            let (name, value, after) = pair(rest).ok_or_else(error)?;
            if parameter(&pairs, &name).is_some() {
                return Err(error());
            }
            pairs.push((name, value));
            rest = trimmed(after);
        }
        if let Some((separator, after)) = rest.split_first() {
            if *separator != b';' {
                return Err(error());
            }
            rest = trimmed(after);
        }
    }
    if pairs.is_empty() {
        return Err(error());
    }
    Ok(pairs)
}

/// The parameter that `text` begins with, and what follows it.
fn pair(text: &[u8]) -> Option<(Vec<u8>, Vec<u8>, &[u8])> {
    let token = |text: &[u8]| {
        text.iter()
            .take_while(|byte| grammar::is_token_byte(**byte))
            .count()
    };
    let (name, rest) = text.split_at_checked(token(text))?;
    let rest = rest.strip_prefix(b"=")?;
    if name.is_empty() {
        return None;
    }
    let name = name.to_ascii_lowercase();
    if let Some(mut quoted) = rest.strip_prefix(b"\"") {
        let mut value = Vec::new();
        loop {
            match quoted {
                [b'"', after @ ..] => return Some((name, value, after)),
                [b'\\', byte, after @ ..] => {
                    value.push(*byte);
                    quoted = after;
                }
                [b'\\'] | [] => return None,
                [byte, after @ ..] => {
                    value.push(*byte);
                    quoted = after;
                }
            }
        }
    }
    let (value, after) = rest.split_at_checked(token(rest))?;
    (!value.is_empty()).then(|| (name, value.to_vec(), after))
}
