//! The content of a request's head.

use std::borrow::Cow;
use std::collections::HashMap;

use crate::grammar::members;

const HTTPS: &[u8] = b"https";

/// A range of a head's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// The index of the first byte.
    pub start: usize,
    /// The index after the last byte.
    pub end: usize,
}

impl Span {
    pub(crate) const fn new(start: usize, end: usize) -> Self {
        Self { start, end }
    }

    pub(crate) const fn shifted(self, by: usize) -> Self {
        Self::new(self.start.saturating_add(by), self.end.saturating_add(by))
    }

    pub(crate) const fn shifted_back(self, by: usize) -> Self {
        Self::new(self.start.saturating_sub(by), self.end.saturating_sub(by))
    }

    /// Returns how many bytes they are.
    #[must_use]
    #[inline]
    pub const fn size(self) -> usize {
        self.end.saturating_sub(self.start)
    }

    /// Returns these bytes of `head`; empty if it has fewer.
    #[must_use]
    #[inline]
    pub fn of(self, head: &[u8]) -> &[u8] {
        head.get(self.start..self.end).unwrap_or_default()
    }
}

/// The protocol version of a request.
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

/// A field line: a name as it was sent, and a value without the blanks around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Field {
    /// A token.
    pub name: Span,
    /// Text in latin-1 that holds no control character except HTAB; it may be empty.
    pub value: Span,
}

impl Field {
    pub(crate) const fn shifted(self, by: usize) -> Self {
        Self {
            name: self.name.shifted(by),
            value: self.value.shifted(by),
        }
    }

    pub(crate) const fn shifted_back(self, by: usize) -> Self {
        Self {
            name: self.name.shifted_back(by),
            value: self.value.shifted_back(by),
        }
    }
}

/// What a complete and valid head says. One value can be reused for any number of requests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// A token of at most 32 bytes, as it was sent.
    pub method: Span,
    /// The request target as it was sent.
    pub target: Span,
    /// The version to answer in.
    pub version: Version,
    /// The target's path, not decoded; empty if an absolute-form has none (see [`Head::path`]).
    pub path: Span,
    /// What follows the target's first `?`, not decoded; empty if nothing does.
    pub query: Span,
    /// The authority of an absolute-form target. It replaces the value of Host (RFC 9112, section
    /// 3.2.2).
    pub authority: Option<Span>,
    /// All field lines in the order in which they were sent, repeated ones included.
    pub fields: Vec<Field>,
    /// The value of Content-Length in bytes; None if there is no such field.
    pub content_length: Option<u64>,
    /// Whether the body is chunked.
    pub chunked: bool,
    /// Whether the client lets the connection persist.
    pub keep_alive: bool,
    /// Whether the client may wait for `100 Continue` before it sends the body.
    pub expect_continue: bool,
    /// Whether a field may speak of another hop: `Forwarded`, `X-Forwarded-*`, `SCRIPT_NAME` or
    /// `X-Request-ID`.
    pub forwarding: bool,
    /// Whether there is an `Upgrade` field, whatever it says.
    pub upgrade: bool,
    /// Whether a body follows. True for a chunked body too, which may turn out to be empty.
    pub body_expected: bool,
    /// The number that a [`crate::FieldCache`] gave to fields of these names; 0 if it has none of them.
    /// Two sections have different numbers, modulo 64 as well.
    pub section_id: u64,
    /// A bit for each field, the lowest for the first one: whether its value is that of the section.
    pub same: u64,
    /// The offset at which the lines are those of the section, byte for byte; 0 if one is not.
    pub(crate) section_at: usize,
}

impl Head {
    /// Forgets the fields of the last head.
    pub(crate) fn start_fields(&mut self) {
        self.fields.clear();
        self.section_id = 0;
        self.same = 0;
        self.section_at = 0;
    }

    /// Returns a bit for each field, as [`Head::same`] has one.
    #[must_use]
    pub fn every_field(&self) -> u64 {
        bits(self.fields.len())
    }

    /// Returns the target's path, not decoded; `/` if it is empty, `*` for `OPTIONS *`.
    #[must_use]
    pub fn path<'a>(&self, head: &'a [u8]) -> &'a [u8] {
        match self.path.of(head) {
            [] => b"/",
            path => path,
        }
    }

    /// Whether the target is an `https` URI. What that means is for the connection to decide.
    #[must_use]
    pub fn is_https_target(&self, head: &[u8]) -> bool {
        let scheme = self.target.of(head).get(..HTTPS.len());
        self.authority.is_some() && scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(HTTPS))
    }

    /// Returns the Host field as it was sent, where an authority in the target names another host
    /// and replaces it (RFC 9112, section 3.2.2).
    #[must_use]
    pub fn replaced_host<'a>(&self, head: &'a [u8]) -> Option<&'a [u8]> {
        let authority = self.authority?.of(head);
        let is_host = |field: &&Field| field.name.of(head).eq_ignore_ascii_case(b"host");
        let host = self.fields.iter().find(is_host)?.value.of(head);
        let same = is_same_host(host, authority, self.is_https_target(head));
        (!host.is_empty() && !same).then_some(host)
    }

    /// Returns lower-case names and values in the order of each name's first line. The values of
    /// repeated fields are joined by their [`separator`]; an authority in the target replaces Host.
    ///
    /// Not made for speed. RFC 9110, section 5.3.
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

    /// Returns the members of a list field over all of its lines: the same as those of the joined
    /// value.
    pub(crate) fn members<'a>(
        &self,
        head: &'a [u8],
        name: &'static [u8],
    ) -> impl Iterator<Item = &'a [u8]> {
        self.fields
            .iter()
            .filter(move |field| field.name.of(head).eq_ignore_ascii_case(name))
            .flat_map(move |field| members(field.value.of(head)))
    }
}

/// Returns the lowest bits of a word, as many as asked for if it has as many.
pub(crate) const fn bits(count: usize) -> u64 {
    if count < u64::BITS as usize {
        !(u64::MAX << count)
    } else {
        u64::MAX
    }
}

/// A head on its own, for when the buffer that it came in is used again.
#[derive(Clone, Debug)]
pub struct HeadCopy {
    /// The bytes of the head.
    pub bytes: Box<[u8]>,
    /// What they say.
    pub head: Head,
}

impl HeadCopy {
    /// Returns about how many bytes of memory it takes.
    pub fn size(&self) -> usize {
        let fields = size_of_val(self.head.fields.as_slice());
        size_of::<HeadCopy>()
            .saturating_add(self.bytes.len())
            .saturating_add(fields)
    }
}

/// Returns true if both name the same host and port; an empty port is the scheme's own.
fn is_same_host(host: &[u8], authority: &[u8], https: bool) -> bool {
    let port: &[u8] = if https { b":443" } else { b":80" };
    let bare = |name: &[u8]| {
        let name = name.strip_suffix(port).unwrap_or(name);
        name.strip_suffix(b":").unwrap_or(name).to_ascii_lowercase()
    };
    bare(host) == bare(authority)
}

/// Returns what joins the values of repeated fields; `name` is in lower case.
///
/// A comma (RFC 9110, section 5.3), but not for `cookie`, where a comma can be a part of the value
/// (RFC 9113, section 8.2.3).
#[must_use]
pub fn separator(name: &[u8]) -> &'static [u8] {
    if name == b"cookie" { b"; " } else { b"," }
}
