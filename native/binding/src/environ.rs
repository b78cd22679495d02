//! From a parsed request to the `environ` of PEP 3333; `penstock.wsgi.environ` is the reference.

use crate::companion::Companion;
use crate::ffi::{latin1, latin1_bytes};
use penstock_protocol::{Head, Version, grammar::unquote, head::separator};
use penstock_reactor::forwarded::{Forwarded, Scheme, port_of};
use penstock_reactor::options::HeaderMap;
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyFloat, PyString};
use std::borrow::Cow;
use std::cell::RefCell;

/// Slots of the cache of names, and the longest name in it. Clients choose names, so both are
/// bounded; a slot that two names share belongs to the last.
const NAME_SLOTS: usize = 512;
const CACHED_LENGTH: usize = 128;

/// Dicts that each thread keeps, of the fields of a section of the parser's cache each: 16 KiB at most,
/// since a section has 4 KiB and 64 fields.
const KNOWN_SLOTS: usize = 16;

/// Declares the keys that requests have in common, as interned text.
macro_rules! keys {
    ($($field:ident = $text:literal,)+) => {
        pub struct Keys { $(pub $field: Py<PyString>,)+ }

        impl Keys {
            fn new(py: Python<'_>) -> Self {
                Keys { $($field: PyString::intern(py, $text).unbind(),)+ }
            }
        }
    };
}

keys! {
    method = "REQUEST_METHOD",
    raw_uri = "RAW_URI",
    request_uri = "REQUEST_URI",
    query = "QUERY_STRING",
    protocol = "SERVER_PROTOCOL",
    path = "PATH_INFO",
    script_name = "SCRIPT_NAME",
    outside_mount = "penstock.outside_mount",
    addr = "REMOTE_ADDR",
    port = "REMOTE_PORT",
    content_length = "CONTENT_LENGTH",
    transfer_encoding = "HTTP_TRANSFER_ENCODING",
    request_id = "penstock.request_id",
    deadline = "penstock.deadline",
    extend_deadline = "penstock.extend_deadline",
    queue_time = "penstock.queue_time",
    request_start = "HTTP_X_REQUEST_START",
    client_gone = "penstock.client_gone",
    input = "wsgi.input",
    early_hints = "wsgi.early_hints",
    http10 = "HTTP/1.0",
    http11 = "HTTP/1.1",
    get = "GET",
    head = "HEAD",
    post = "POST",
    empty = "",
    url_scheme = "wsgi.url_scheme",
    http = "http",
    https = "https",
    https_on = "HTTPS",
    host = "HTTP_HOST",
    server_port = "SERVER_PORT",
}

static KEYS: PyOnceLock<Keys> = PyOnceLock::new();

pub fn keys(py: Python<'_>) -> &Keys {
    KEYS.get_or_init(py, || Keys::new(py))
}

/// What the requests of one listener begin with.
pub struct Template {
    dict: Py<PyDict>,
    mount: Vec<u8>,
}

impl Template {
    /// `base` is what `penstock.wsgi.environ.base_environ` returned; `deadlines` is whether requests
    /// have any.
    pub fn new(
        py: Python<'_>,
        base: &Bound<'_, PyDict>,
        portless: bool,
        deadlines: bool,
    ) -> PyResult<Self> {
        let dict = base.copy()?;
        let keys = keys(py);
        let mount = match dict.get_item(&keys.script_name)? {
            Some(text) => latin1_bytes(text.cast::<PyString>()?)?.to_vec(),
            None => Vec::new(),
        };
        // Every request has these. That they are here already spares the copies their growth; and
        // three need not be set where they are what they are for most requests.
        let none = &py.None();
        let at_once = PyFloat::new(py, 0.0).into_any().unbind();
        for (key, value) in [
            (&keys.method, keys.get.as_any()),
            (&keys.raw_uri, none),
            (&keys.request_uri, none),
            (&keys.query, keys.empty.as_any()),
            (&keys.protocol, keys.http11.as_any()),
            (&keys.path, none),
            (&keys.addr, none),
            (&keys.request_id, none),
            (&keys.queue_time, &at_once),
            (&keys.client_gone, none),
            (&keys.input, none),
            (&keys.early_hints, none),
        ] {
            dict.set_item(key, value)?;
        }
        if deadlines {
            dict.set_item(&keys.deadline, py.None())?;
            dict.set_item(&keys.extend_deadline, py.None())?;
        }
        if !portless {
            dict.set_item(&keys.port, py.None())?;
        }
        Ok(Template {
            dict: dict.unbind(),
            mount,
        })
    }

    /// Whether the application has the paths below one alone.
    pub fn is_mounted(&self) -> bool {
        !self.mount.is_empty()
    }

    /// A new `environ`, complete except for the request's id, its deadline and what the gateway
    /// adds.
    ///
    /// `length` is the body's in bytes, where it is known: a chunked body that was buffered then
    /// looks like one that came with its Content-Length. The second is whether a field was left
    /// out for the underscore in its name.
    pub fn build<'py>(
        &self,
        py: Python<'py>,
        head: &Head,
        bytes: &[u8],
        companion: &Companion,
        length: Option<u64>,
        header_map: HeaderMap,
    ) -> PyResult<(Bound<'py, PyDict>, bool)> {
        let keys = keys(py);
        let base = self.dict.bind(py);
        let begin = |cache: &mut Cache| {
            let (dict, underscored) = cache.with_fields(py, base, head, bytes, header_map)?;
            let target = cache.set_request(py, &dict, head, bytes)?;
            PyResult::Ok((dict, underscored, target))
        };
        let (dict, underscored, target) = CACHE.with(|cache| match cache.try_borrow_mut() {
            Ok(mut cache) => begin(&mut cache),
            // The collector ran a finalizer that asked for a request, in the middle of all this.
            Err(_) => begin(&mut Cache::default()),
        })?;
        self.set_path(py, &dict, head, bytes, &self.mount, target)?;
        dict.set_item(&keys.addr, &companion.address)?;
        if let Some(port) = &companion.port {
            dict.set_item(&keys.port, port)?;
        }
        dict.set_item(&keys.client_gone, &companion.client_gone)?;
        if let Some(proxied) = &companion.proxied {
            dict.update(proxied.bind(py).as_mapping())?;
        }
        if let Some(tls) = &companion.tls {
            dict.update(tls.bind(py).as_mapping())?;
        }
        if head.chunked {
            // The body that the application reads is decoded.
            if dict.contains(&keys.transfer_encoding)? {
                dict.del_item(&keys.transfer_encoding)?;
            }
            if let Some(length) = length {
                dict.set_item(&keys.content_length, length.to_string())?;
            }
        } else if let Some(length) = head.content_length {
            dict.set_item(&keys.content_length, length.to_string())?;
        }
        Ok((dict, underscored && header_map == HeaderMap::Drop))
    }

    fn set_path(
        &self,
        py: Python<'_>,
        dict: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
        mount: &[u8],
        target: Bound<'_, PyString>,
    ) -> PyResult<()> {
        let keys = keys(py);
        let path = head.path(bytes);
        let decoded = unquote(path);
        let plain = matches!(decoded, Cow::Borrowed(_)) && mount.is_empty();
        if plain && head.path == head.target && path != b"*" {
            return dict.set_item(&keys.path, target);
        }
        // PATH_INFO is empty or starts with "/" (PEP 3333, "URL Reconstruction").
        let path: &[u8] = if path == b"*" { b"" } else { &decoded };
        // OPTIONS * speaks of the whole server, so of everything mounted on it.
        if mount.is_empty() || path.is_empty() {
            return dict.set_item(&keys.path, latin1(py, path)?);
        }
        match path.strip_prefix(mount) {
            // The prefix ends where a path segment ends.
            Some(rest) if rest.is_empty() || rest.starts_with(b"/") => {
                dict.set_item(&keys.path, latin1(py, rest)?)
            }
            _ => {
                dict.set_item(&keys.script_name, &keys.empty)?;
                dict.set_item(&keys.outside_mount, true)?;
                dict.set_item(&keys.path, latin1(py, path)?)
            }
        }
    }
}

impl Template {
    /// Set what trusted proxies say of a request; `penstock.edge.forwarded` is the reference.
    #[cold]
    pub fn set_forwarded(
        &self,
        py: Python<'_>,
        environ: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
        forwarded: &Forwarded,
    ) -> PyResult<()> {
        let keys = keys(py);
        if let Some(client) = forwarded.peer() {
            let address = client.map_or(String::new(), |(address, _)| address.to_string());
            environ.set_item(&keys.addr, address)?;
            match client {
                Some((_, port)) if port > 0 => environ.set_item(&keys.port, port.to_string())?,
                _ if environ.contains(&keys.port)? => environ.del_item(&keys.port)?,
                _ => {}
            }
        }
        match forwarded.scheme {
            Some(Scheme::Https) => {
                environ.set_item(&keys.url_scheme, &keys.https)?;
                environ.set_item(&keys.https_on, "on")?;
            }
            Some(Scheme::Http) => {
                environ.set_item(&keys.url_scheme, &keys.http)?;
                if environ.contains(&keys.https_on)? {
                    environ.del_item(&keys.https_on)?;
                }
            }
            None => {}
        }
        if !forwarded.host.is_empty() {
            environ.set_item(&keys.host, latin1(py, &forwarded.host)?)?;
            let port = match port_of(&forwarded.host) {
                b"" => {
                    let scheme = environ.get_item(&keys.url_scheme)?;
                    let secure = match scheme {
                        Some(scheme) => scheme.eq(&keys.https)?,
                        None => false,
                    };
                    if secure { &b"443"[..] } else { &b"80"[..] }
                }
                port => port,
            };
            environ.set_item(&keys.server_port, latin1(py, port)?)?;
        }
        if forwarded.port > 0 {
            environ.set_item(&keys.server_port, forwarded.port.to_string())?;
        }
        if !forwarded.script_name.is_empty() {
            let mount = unquote(&forwarded.script_name);
            let target = latin1(py, head.target.of(bytes))?;
            if environ.contains(&keys.outside_mount)? {
                environ.del_item(&keys.outside_mount)?; // it is outside of another one
            }
            environ.set_item(&keys.script_name, latin1(py, &mount)?)?;
            self.set_path(py, environ, head, bytes, &mount, target)?;
        }
        if !forwarded.prefix.is_empty() {
            let mut path = unquote(&forwarded.prefix).into_owned();
            if let Some(mount) = environ.get_item(&keys.script_name)? {
                path.extend_from_slice(latin1_bytes(mount.cast::<PyString>()?)?);
            }
            environ.set_item(&keys.script_name, latin1(py, &path)?)?;
        }
        Ok(())
    }
}

/// The path of PATH_INFO with SCRIPT_NAME.
pub fn whole_path<'a>(head: &Head, bytes: &'a [u8]) -> Cow<'a, [u8]> {
    match head.path(bytes) {
        b"*" => Cow::Borrowed(b""),
        path => unquote(path),
    }
}

/// A part of a target with each byte above ASCII percent-encoded.
#[inline(always)]
fn percent_encoded(text: &[u8]) -> Cow<'_, [u8]> {
    if text.is_ascii() {
        return Cow::Borrowed(text);
    }
    let mut encoded = Vec::with_capacity(text.len());
    for &byte in text {
        match byte {
            0x80.. => encoded.extend_from_slice(format!("%{byte:02X}").as_bytes()),
            _ => encoded.push(byte),
        }
    }
    Cow::Owned(encoded)
}

/// The key of a field in lower or mixed case; None where the field is left out.
fn key_of(name: &[u8]) -> Option<Vec<u8>> {
    // An underscore could spell another field's key. Content-Length is set from the body's
    // framing. Proxy would become HTTP_PROXY, the variable by which a CGI script's HTTP client
    // finds its proxy ("httpoxy"). X-Request-Start is when this server received the request.
    if name.contains(&b'_')
        || name.eq_ignore_ascii_case(b"content-length")
        || name.eq_ignore_ascii_case(b"proxy")
        || name.eq_ignore_ascii_case(b"x-request-start")
    {
        return None;
    }
    if name.eq_ignore_ascii_case(b"content-type") {
        return Some(b"CONTENT_TYPE".to_vec());
    }
    Some(http_key(name))
}

pub fn http_key(name: &[u8]) -> Vec<u8> {
    let mut key = b"HTTP_".to_vec();
    key.extend(name.iter().map(|byte| match byte {
        b'-' => b'_',
        byte => byte.to_ascii_uppercase(),
    }));
    key
}

fn add_underscored(
    py: Python<'_>,
    dict: &Bound<'_, PyDict>,
    head: &Head,
    bytes: &[u8],
) -> PyResult<()> {
    for (name, value) in head.joined_fields(bytes) {
        let key = http_key(&name);
        let reserved: [&[u8]; 5] = [
            b"HTTP_CONTENT_LENGTH",
            b"HTTP_CONTENT_TYPE",
            b"HTTP_PROXY",
            b"HTTP_TRANSFER_ENCODING",
            b"HTTP_X_REQUEST_START",
        ];
        if name.contains(&b'_') && !reserved.contains(&key.as_slice()) {
            let key = latin1(py, &key)?;
            // The field that is spelt with "-" stands: a proxy in front may have set it.
            if !dict.contains(&key)? {
                dict.set_item(key, latin1(py, &value)?)?;
            }
        }
    }
    Ok(())
}

// -- the caches -------------------------------------------------------------------------------

thread_local! {
    /// A thread's own, so that there is nothing to wait for: the collector can run code of the
    /// application in the middle of building a dict.
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Empty the calling thread's cache: the thread ends, and has no GIL when its own variables end.
pub fn forget_cache() {
    drop(CACHE.take());
}

/// A name as it was on the wire, and its key; None for one whose field is left out.
struct Name {
    wire: Box<[u8]>,
    key: Option<Py<PyString>>,
}

/// What the requests of a listener begin with whose fields have certain names.
struct Known {
    section: u64, // `Head::section_id`
    base: Py<PyDict>,
    /// Has all keys. Values that it does not have are empty.
    dict: Py<PyDict>,
    /// A bit for each field whose value in `dict` is that of the section.
    values: u64,
    /// The key of each field; None where it is left out.
    keys: Box<[Option<Py<PyString>>]>,
    /// Whether a field was left out for the underscore in its name.
    underscored: bool,
    /// Whether `dict` has values that are not those of one field: only all together are the same.
    whole: bool,
}

#[derive(Default)]
struct Cache {
    known: Vec<Option<Known>>,
    names: Vec<Option<Name>>,
}

fn hash(bytes: &[u8]) -> usize {
    let mut state = bytes.len() as u64;
    for chunk in bytes.chunks(8) {
        let mut word = [0; 8];
        for (to, from) in word.iter_mut().zip(chunk) {
            *to = *from;
        }
        state =
            (state.rotate_left(5) ^ u64::from_le_bytes(word)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
    (state >> 40) as usize
}

impl Cache {
    /// A copy of `base` with the request's fields; whether one was left out for an underscore.
    fn with_fields<'py>(
        &mut self,
        py: Python<'py>,
        base: &Bound<'py, PyDict>,
        head: &Head,
        bytes: &[u8],
        header_map: HeaderMap,
    ) -> PyResult<(Bound<'py, PyDict>, bool)> {
        if let Some(known) = self.known(head, base) {
            return Ok((known.copy(py, head, bytes)?, known.underscored));
        }
        let dict = base.copy()?;
        let (underscored, mut whole) = self.set_fields(py, &dict, head, bytes)?;
        if header_map == HeaderMap::Dangerous {
            add_underscored(py, &dict, head, bytes)?;
            whole = true;
        }
        if head.section_id > 0 && (!whole || head.same == head.every_field()) {
            self.keep(py, base, &dict, head, bytes, (underscored, whole))?;
        }
        Ok((dict, underscored))
    }

    /// What is kept for the names of a head's fields, if it is of use for their values.
    fn known(&mut self, head: &Head, base: &Bound<'_, PyDict>) -> Option<&mut Known> {
        let known = self.known.get_mut(slot_of(head))?.as_mut()?;
        let is_its = known.section == head.section_id && known.base.is(base);
        (is_its && (!known.whole || head.same == head.every_field())).then_some(known)
    }

    /// Keep a dict for the requests whose fields have the same names.
    #[cold]
    fn keep(
        &mut self,
        py: Python<'_>,
        base: &Bound<'_, PyDict>,
        dict: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
        (underscored, whole): (bool, bool),
    ) -> PyResult<()> {
        let kept = dict.copy()?;
        let mut found = Vec::with_capacity(head.fields.len());
        for (index, field) in head.fields.iter().enumerate() {
            let key = self.key(py, field.name.of(bytes))?;
            if let (Some(key), 0) = (&key, head.same >> index & 1) {
                kept.set_item(key, &keys(py).empty)?;
            }
            found.push(key.map(Bound::unbind));
        }
        if self.known.is_empty() {
            self.known.resize_with(KNOWN_SLOTS, || None);
        }
        if let Some(place) = self.known.get_mut(slot_of(head)) {
            *place = Some(Known {
                section: head.section_id,
                base: base.clone().unbind(),
                dict: kept.unbind(),
                values: head.same,
                keys: found.into(),
                underscored,
                whole,
            });
        }
        Ok(())
    }

    /// Returns the target.
    fn set_request<'py>(
        &self,
        py: Python<'py>,
        dict: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
    ) -> PyResult<Bound<'py, PyString>> {
        let keys = keys(py);
        let target = latin1(py, head.target.of(bytes))?;
        dict.set_item(&keys.raw_uri, &target)?;
        dict.set_item(&keys.request_uri, &target)?;
        // The template has what these are otherwise.
        let method = head.method.of(bytes);
        match method {
            b"GET" => {}
            b"HEAD" => dict.set_item(&keys.method, &keys.head)?,
            b"POST" => dict.set_item(&keys.method, &keys.post)?,
            method => dict.set_item(&keys.method, latin1(py, method)?)?,
        }
        let query = head.query.of(bytes);
        if !query.is_empty() {
            dict.set_item(&keys.query, latin1(py, &percent_encoded(query))?)?;
        }
        if head.version == Version::Http10 {
            dict.set_item(&keys.protocol, &keys.http10)?;
        }
        Ok(target)
    }

    /// Returns whether a field with an underscore in its name was left out, and whether a value is
    /// not that of one field.
    fn set_fields(
        &mut self,
        py: Python<'_>,
        dict: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
    ) -> PyResult<(bool, bool)> {
        let before = dict.len();
        let mut set = 0;
        let mut underscored = false;
        for field in &head.fields {
            let name = field.name.of(bytes);
            if let Some(key) = self.key(py, name)? {
                dict.set_item(key, latin1(py, field.value.of(bytes))?)?;
                set += 1;
            } else {
                underscored |= name.contains(&b'_');
            }
        }
        if head.authority.is_none() && dict.len() == before + set {
            return Ok((underscored, false));
        }
        // Some field is repeated, or Host is the target's (RFC 9112, section 3.2.2).
        for (name, value) in head.joined_fields(bytes) {
            debug_assert!(!separator(&name).is_empty());
            if let Some(key) = self.key(py, &name)? {
                dict.set_item(key, latin1(py, &value)?)?;
            }
        }
        Ok((underscored, true))
    }

    fn key<'py>(&mut self, py: Python<'py>, name: &[u8]) -> PyResult<Option<Bound<'py, PyString>>> {
        if self.names.is_empty() {
            self.names.resize_with(NAME_SLOTS, || None);
        }
        let slot = self.names.get_mut(hash(name) % NAME_SLOTS);
        if let Some(Some(known)) = slot.as_deref() {
            if *known.wire == *name {
                return Ok(known.key.as_ref().map(|key| key.bind(py).clone()));
            }
        }
        let intern = |key: Vec<u8>| PyString::intern(py, &String::from_utf8_lossy(&key));
        let key = key_of(name).map(intern);
        if let (Some(slot), true) = (slot, name.len() <= CACHED_LENGTH) {
            *slot = Some(Name {
                wire: name.into(),
                key: key.clone().map(Bound::unbind),
            });
        }
        Ok(key)
    }
}

impl Known {
    /// A copy with the values of a head.
    fn copy<'py>(
        &mut self,
        py: Python<'py>,
        head: &Head,
        bytes: &[u8],
    ) -> PyResult<Bound<'py, PyDict>> {
        let missing = head.same & !self.values;
        if missing != 0 {
            self.set_values(self.dict.bind(py), head, bytes, missing)?;
            self.values |= missing;
        }
        let dict = self.dict.bind(py).copy()?;
        self.set_values(&dict, head, bytes, head.every_field() & !head.same)?;
        Ok(dict)
    }

    /// Set the values of some fields: those that have a bit.
    #[inline]
    fn set_values(
        &self,
        dict: &Bound<'_, PyDict>,
        head: &Head,
        bytes: &[u8],
        mut fields: u64,
    ) -> PyResult<()> {
        while fields != 0 {
            let index = fields.trailing_zeros() as usize;
            fields &= fields - 1;
            if let (Some(field), Some(Some(key))) = (head.fields.get(index), self.keys.get(index)) {
                dict.set_item(key, latin1(dict.py(), field.value.of(bytes))?)?;
            }
        }
        Ok(())
    }
}

/// Where what is kept for a head's fields has its place.
fn slot_of(head: &Head) -> usize {
    head.section_id as usize % KNOWN_SLOTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_escapes_are_decoded_once_and_what_is_no_escape_stays() {
        let cases: [(&[u8], &[u8]); 8] = [
            (b"/plain", b"/plain"),
            (b"/a%20b", b"/a b"),
            (b"/%e2%82%AC", b"/\xe2\x82\xac"),
            (b"/%2541", b"/%41"), // not decoded twice
            (b"/%00", b"/\0"),
            (b"/100%", b"/100%"),
            (b"/%4", b"/%4"),
            (b"/%zz%+1%41", b"/%zz%+1A"),
        ];
        for (text, decoded) in cases {
            assert_eq!(&*unquote(text), decoded, "{}", text.escape_ascii());
        }
        assert!(matches!(unquote(b"/plain"), Cow::Borrowed(_)));
    }

    #[test]
    fn fields_become_keys_as_in_cgi_but_for_those_that_could_forge_another() {
        let key = |name: &[u8]| key_of(name).map(|key| String::from_utf8_lossy(&key).into_owned());
        assert_eq!(
            key(b"x-Forwarded-for").as_deref(),
            Some("HTTP_X_FORWARDED_FOR")
        );
        assert_eq!(key(b"Content-Type").as_deref(), Some("CONTENT_TYPE")); // RFC 3875, section 4.1.3
        let left_out: [&[u8]; 5] = [
            b"x_forwarded_for", // would be the key of X-Forwarded-For
            b"Content_Length",
            b"Content-Length", // the framing's
            b"Proxy",          // HTTP_PROXY
            b"pROXY",
        ];
        for name in left_out {
            assert_eq!(key(name), None, "{}", name.escape_ascii());
        }
    }
}
