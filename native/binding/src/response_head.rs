//! The head of a response as the application has given it.

use crate::ffi::{latin1, latin1_bytes};
use penstock_protocol::response;
use penstock_reactor::shared::Added;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyString, PyTuple};

/// More than most heads of applications have.
const USUAL_BYTES: usize = 480;

/// What the application has said of a response before its body, as the bytes that are sent: the status
/// line, and the lines of its fields without Content-Length. All of it has been checked.
pub struct ResponseHead {
    pub code: u16,
    pub lines: Vec<u8>,
    status_end: usize,
    /// Which of the fields that the server adds are among them.
    pub sets: Added,
}

const VERSION: &[u8] = b"HTTP/1.1 ";
pub const LINE_END: &[u8] = b"\r\n";

impl ResponseHead {
    pub fn new(status: &[u8], code: u16) -> Self {
        let mut lines = Vec::with_capacity(USUAL_BYTES);
        response::begin_head(&mut lines, status);
        ResponseHead {
            code,
            lines,
            status_end: VERSION.len() + status.len(),
            sets: Added::default(),
        }
    }

    /// The head of a status and of pairs of name and value, which Python code has checked. Its code is
    /// 0 where the status does not begin with three digits.
    pub fn of(status: &Bound<'_, PyString>, fields: &Bound<'_, PyList>) -> PyResult<Self> {
        let status = latin1_bytes(status)?;
        let digits = status.get(..3).unwrap_or(&[]).iter();
        let code = digits.copied().try_fold(0, |code, digit| {
            digit
                .is_ascii_digit()
                .then(|| code * 10 + u16::from(digit - b'0'))
        });
        let mut head = Self::new(status, code.unwrap_or(0));
        for item in fields.iter() {
            let item = item.cast::<PyTuple>()?;
            let (name, value) = (item.get_borrowed_item(0)?, item.get_borrowed_item(1)?);
            let (name, value) = (name.cast::<PyString>()?, value.cast::<PyString>()?);
            head.add(latin1_bytes(name)?, latin1_bytes(value)?);
        }
        Ok(head)
    }

    pub fn add(&mut self, name: &[u8], value: &[u8]) {
        let is = |other: &[u8]| name.eq_ignore_ascii_case(other);
        match name.len() {
            4 => self.sets.date |= is(b"date"),
            6 => self.sets.server |= is(b"server"),
            25 => self.sets.hsts |= is(b"strict-transport-security"),
            _ => {}
        }
        response::encode_field(&mut self.lines, name, value);
    }

    /// Code and reason.
    pub fn status(&self) -> &[u8] {
        let status = VERSION.len()..self.status_end;
        self.lines.get(status).unwrap_or(&[])
    }

    /// Names and values.
    pub fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut left = self
            .lines
            .get(self.status_end + LINE_END.len()..)
            .unwrap_or(&[]);
        std::iter::from_fn(move || {
            let end = memchr::memmem::find(left, LINE_END)?;
            let (line, after) = left.split_at_checked(end)?;
            left = after.get(LINE_END.len()..)?;
            let colon = memchr::memchr(b':', line)?; // a name has none
            Some((line.get(..colon)?, line.get(colon + 2..)?))
        })
    }

    /// How many bytes the lines of the fields have.
    pub fn fields_size(&self) -> usize {
        self.lines.len() - self.status_end - LINE_END.len()
    }

    /// The status, and the fields as Python code gives them.
    pub fn objects<'py>(
        &self,
        py: Python<'py>,
    ) -> PyResult<(Bound<'py, PyString>, Bound<'py, PyList>)> {
        let fields = PyList::empty(py);
        for (name, value) in self.fields() {
            fields.append((latin1(py, name)?, latin1(py, value)?))?;
        }
        Ok((latin1(py, self.status())?, fields))
    }

    /// The value of a field, repeated ones joined (RFC 9110, section 5.3); None where there is none.
    pub fn field(&self, name: &[u8]) -> Option<Vec<u8>> {
        let mut fields = self.fields();
        let mut same = fields
            .by_ref()
            .filter(|(own, _)| own.eq_ignore_ascii_case(name));
        let mut value = same.next()?.1.to_vec();
        for (_, further) in same {
            value.extend_from_slice(b", ");
            value.extend_from_slice(further);
        }
        Some(value)
    }
}
