//! Parts of a request's head, as the logs show them.

use penstock_protocol::HeadCopy;
use penstock_protocol::head::separator;
use std::borrow::Cow;

pub fn request_line(copy: &HeadCopy) -> Vec<u8> {
    let HeadCopy { bytes, head } = copy;
    let version = head.version.as_str().as_bytes();
    [head.method.of(bytes), head.target.of(bytes), version].join(&b' ')
}

/// The value of a field by its lower-case name, repeated ones joined; empty without it.
pub fn field<'a>(copy: &'a HeadCopy, name: &[u8]) -> Cow<'a, [u8]> {
    given_field(copy, name).unwrap_or_default()
}

/// The same; None without it.
pub fn given_field<'a>(copy: &'a HeadCopy, name: &[u8]) -> Option<Cow<'a, [u8]>> {
    let HeadCopy { bytes, head } = copy;
    if let (b"host", Some(authority)) = (name, head.authority) {
        return Some(Cow::Borrowed(authority.of(bytes))); // RFC 9112, section 3.2.2
    }
    let mut values = head.fields.iter().filter_map(|field| {
        // Few names are as long.
        let same =
            field.name.size() == name.len() && field.name.of(bytes).eq_ignore_ascii_case(name);
        same.then(|| field.value.of(bytes))
    });
    let mut joined = Cow::Borrowed(values.next()?);
    for value in values {
        let all = joined.to_mut();
        all.extend_from_slice(separator(name));
        all.extend_from_slice(value);
    }
    Some(joined)
}

/// Path and query; the path of an absolute-form target begins behind its authority.
pub fn split_target(target: &[u8]) -> (&[u8], &[u8]) {
    let end = memchr::memchr(b'?', target).unwrap_or(target.len());
    let (path, query) = target.split_at_checked(end).unwrap_or((target, &[]));
    let query = query.get(1..).unwrap_or(&[]);
    if path.starts_with(b"/") {
        return (path, query);
    }
    let Some(scheme) = memchr::memmem::find(path, b"://") else {
        return (path, query);
    };
    let rest = path.get(scheme + 3..).unwrap_or(&[]);
    let slash = memchr::memchr(b'/', rest);
    let path = slash.and_then(|slash| rest.get(slash..)).unwrap_or(b"/");
    (path, query)
}
