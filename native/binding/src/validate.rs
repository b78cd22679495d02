//! The checks of `start_response`, for what is plainly right. `penstock.wsgi.headers.check_head` is
//! the reference, and judges whatever is not: it knows what to raise, and with which words.

use crate::ffi::{self, latin1_bytes};
use crate::response_head::ResponseHead;
use penstock_protocol::response::{is_field_name, is_field_value};
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

/// More digits than any disk holds bytes.
const LENGTH_DIGITS: usize = 18;

/// Checks heads of responses.
#[pyclass(module = "penstock._native", frozen)]
pub struct HeadCheck {
    reference: Py<PyAny>,
}

#[pymethods]
impl HeadCheck {
    /// `reference` is `penstock.wsgi.headers.check_head`.
    #[new]
    fn new(reference: Py<PyAny>) -> Self {
        HeadCheck { reference }
    }

    /// See `penstock.wsgi.headers.check_head`. A method, not `__call__`: calling that costs more.
    fn check<'py>(
        &self,
        py: Python<'py>,
        status: &Bound<'py, PyAny>,
        headers: &Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut fields = Vec::new();
        let checked = text(status).and_then(plain_code).and_then(|code| {
            let length = plain_fields(headers, |item, _, _| fields.push(item))?;
            Some((code, length))
        });
        match checked {
            // The last says whether the application asked to close the connection.
            Some((code, length)) => {
                let checked = (code, PyList::new(py, fields)?, length, false);
                Ok(checked.into_pyobject(py)?.into_any())
            }
            None => ffi::call(self.reference.bind(py), [status, headers]),
        }
    }
}

/// The head in which nothing is odd, and the length of its body; None for any other.
pub fn plain(
    status: &Bound<'_, PyAny>,
    headers: &Bound<'_, PyAny>,
) -> Option<(ResponseHead, Option<u64>)> {
    let mut head = ResponseHead::new(text(status)?, plain_code(text(status)?)?);
    let length = plain_fields(headers, |_, name, value| head.add(name, value))?;
    Some((head, length))
}

/// The length that the fields tell, if they do, with the other fields given to `take`; None where
/// something is odd.
#[inline(always)]
fn plain_fields<'py>(
    headers: &Bound<'py, PyAny>,
    mut take: impl FnMut(Bound<'py, PyAny>, &[u8], &[u8]),
) -> Option<Option<u64>> {
    let headers = headers.cast_exact::<PyList>().ok()?;
    let mut length = None;
    for item in headers.iter() {
        let pair = item.cast_exact::<PyTuple>().ok()?.clone();
        if pair.len() != 2 {
            return None;
        }
        let (name, value) = (
            pair.get_borrowed_item(0).ok()?,
            pair.get_borrowed_item(1).ok()?,
        );
        let (name, value) = (text(&name)?, text(&value)?);
        if !is_field_name(name) || !is_field_value(value) {
            return None;
        }
        if name.len() == 14 && name.eq_ignore_ascii_case(b"content-length") {
            if length.is_some() {
                return None;
            }
            length = Some(plain_length(value)?);
        } else if is_the_servers(name) {
            return None;
        } else {
            take(item, name, value);
        }
    }
    Some(length)
}

fn text<'a>(object: &'a Bound<'_, PyAny>) -> Option<&'a [u8]> {
    latin1_bytes(object.cast_exact::<PyString>().ok()?).ok()
}

/// RFC 9112, section 4: three digits, 200 to 599, a space, and a reason, or none.
fn plain_code(status: &[u8]) -> Option<u16> {
    match status {
        [
            hundreds @ b'2'..=b'5',
            tens @ b'0'..=b'9',
            ones @ b'0'..=b'9',
            b' ',
            reason @ ..,
        ] if is_field_value(reason) => {
            let digit = |byte: &u8| u16::from(byte & 0x0f);
            Some(digit(hundreds) * 100 + digit(tens) * 10 + digit(ones))
        }
        _ => None,
    }
}

fn plain_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > LENGTH_DIGITS {
        return None;
    }
    value.iter().try_fold(0, |length: u64, byte| {
        byte.is_ascii_digit()
            .then(|| length * 10 + u64::from(byte & 0x0f))
    })
}

/// The fields of the connection, which are not the application's (RFC 9110, section 7.6.1).
fn is_the_servers(name: &[u8]) -> bool {
    const SERVERS: [&[u8]; 9] = [
        b"te",
        b"trailer",
        b"trailers",
        b"upgrade",
        b"connection",
        b"keep-alive",
        b"transfer-encoding",
        b"proxy-authenticate",
        b"proxy-authorization",
    ];
    SERVERS
        .iter()
        .any(|servers| servers.len() == name.len() && name.eq_ignore_ascii_case(servers))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_status_is_three_digits_from_200_to_599_a_space_and_a_reason_of_visible_text() {
        let plain: [(&[u8], u16); 4] = [
            (b"200 OK", 200),
            (b"204 ", 204),
            (b"599 a\tb", 599),
            (b"404 Non trouv\xe9", 404),
        ];
        for (status, code) in plain {
            assert_eq!(plain_code(status), Some(code), "{}", status.escape_ascii());
        }
        let odd: [&[u8]; 10] = [
            b"",
            b"200",
            b"200OK",
            b"199 x",
            b"600 x",
            b"2000 OK",
            b" 200 OK",
            b"20a x",
            b"200 a\r\nX: y",
            b"200 \x7f",
        ];
        for status in odd {
            assert_eq!(plain_code(status), None, "{}", status.escape_ascii());
        }
    }

    #[test]
    fn a_plain_length_is_of_digits_alone_and_cannot_overflow() {
        assert_eq!(plain_length(b"0"), Some(0));
        assert_eq!(plain_length(b"007"), Some(7));
        assert_eq!(
            plain_length(&[b'9'; LENGTH_DIGITS]),
            Some(999_999_999_999_999_999)
        );
        let odd: [&[u8]; 6] = [b"", b"+1", b"-1", b" 1", b"1_0", &[b'9'; LENGTH_DIGITS + 1]];
        for value in odd {
            assert_eq!(plain_length(value), None, "{}", value.escape_ascii());
        }
    }

    #[test]
    fn the_fields_of_the_connection_are_the_servers_in_any_case() {
        for name in [
            &b"Connection"[..],
            b"TE",
            b"transfer-ENCODING",
            b"Keep-Alive",
            b"Upgrade",
        ] {
            assert!(is_the_servers(name), "{}", name.escape_ascii());
        }
        for name in [&b"Connections"[..], b"T", b"", b"Content-Type"] {
            assert!(!is_the_servers(name), "{}", name.escape_ascii());
        }
    }
}
