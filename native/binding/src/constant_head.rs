//! The head that the application gave last, where it consists of constants: a literal in a function's
//! code is the same object in each call, and what was checked once is right again.

use crate::ffi::references;
use crate::response_head::ResponseHead;
use pyo3::prelude::*;
use pyo3::types::PyList;
use std::sync::Arc;

/// An object that something else refers to as well, beside the caller or the list that it came in.
const SHARED: isize = 2;

/// A checked head, and the objects that it was made of. None of them can change: they are strings, and
/// tuples of strings, of no other class.
pub struct ConstantHead {
    status: Py<PyAny>,
    fields: Vec<Py<PyAny>>,
    pub head: Arc<ResponseHead>,
    /// What Content-Length says.
    pub length: Option<u64>,
}

impl ConstantHead {
    /// Keep a head that `validate::plain` has made of these, if they look like constants. What the
    /// application has made for this response alone is not kept.
    pub fn of(
        status: &Bound<'_, PyAny>,
        headers: &Bound<'_, PyAny>,
        head: &Arc<ResponseHead>,
        length: Option<u64>,
    ) -> Option<Self> {
        let headers = headers.cast_exact::<PyList>().ok()?;
        let mut fields = Vec::new();
        for item in headers.iter() {
            // One reference is `item`, one is the list's.
            if references(&item) <= SHARED {
                return None;
            }
            fields.push(item.unbind());
        }
        Some(ConstantHead {
            status: status.clone().unbind(),
            fields,
            head: Arc::clone(head),
            length,
        })
    }

    /// Whether it was made of these very objects.
    pub fn is_of(&self, status: &Bound<'_, PyAny>, headers: &Bound<'_, PyAny>) -> bool {
        status.is(&self.status)
            && headers.cast_exact::<PyList>().is_ok_and(|headers| {
                headers.len() == self.fields.len()
                    && headers
                        .iter()
                        .zip(&self.fields)
                        .all(|(item, own)| item.is(own))
            })
    }
}
