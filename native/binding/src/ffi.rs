//! The C API where PyO3 has no safe and cheap way. The only module that calls it directly.

use pyo3::exceptions::PyUnicodeEncodeError;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyString;

/// Text of bytes in Latin-1, which is what an environ holds. Fails where memory runs out.
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let pointer = bytes.as_ptr().cast();
    let size = bytes.len() as ffi::Py_ssize_t;
    // SAFETY: pointer and size are those of a slice, the errors argument may be null, and what is
    // returned is a new reference to a str, or null with an exception set.
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(pointer, size, std::ptr::null());
        Ok(Bound::from_owned_ptr_or_err(py, text)?.cast_into_unchecked())
    }
}

/// Whether the calling thread has the GIL.
pub fn is_attached() -> bool {
    // SAFETY: any thread may ask, while there is an interpreter.
    unsafe { ffi::PyGILState_Check() == 1 }
}

/// The bytes of a text that Latin-1 can say; an exception for any other.
pub fn latin1_bytes<'a, 'py: 'a>(
    text: impl Into<Borrowed<'a, 'py, PyString>>,
) -> PyResult<&'a [u8]> {
    let text = text.into();
    let pointer = text.as_ptr();
    // SAFETY: a str is ready (3.12 knows no other, and all that 3.11 makes are), immutable, and
    // lives as long as the borrow; of kind 1 it holds one byte for each character.
    unsafe {
        if ffi::PyUnicode_KIND(pointer) != 1 {
            return Err(PyUnicodeEncodeError::new_err((
                "latin-1",
                text.to_string_lossy().into_owned(),
                0,
                1,
                "ordinal not in range(256)",
            )));
        }
        let data = ffi::PyUnicode_DATA(pointer).cast::<u8>();
        let size = ffi::PyUnicode_GET_LENGTH(pointer) as usize;
        Ok(std::slice::from_raw_parts(data, size))
    }
}

/// How many references there are to an object.
pub fn references(object: &Bound<'_, PyAny>) -> isize {
    // SAFETY: the object is alive while `object` is, and the interpreter is attached.
    unsafe { pyo3::ffi::Py_REFCNT(object.as_ptr()) }
}

/// Whether `len()` knows what to do with an object. What that returns or raises is not asked.
pub fn has_length(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: the type lives as long as its object, and both tables may be missing.
    unsafe {
        let kind = ffi::Py_TYPE(object.as_ptr());
        let (sequence, mapping) = ((*kind).tp_as_sequence, (*kind).tp_as_mapping);
        !sequence.is_null() && (*sequence).sq_length.is_some()
            || !mapping.is_null() && (*mapping).mp_length.is_some()
    }
}

/// Whether there are weak references to an object, other than one whose type keeps them elsewhere.
pub fn has_weak_references(object: &Bound<'_, PyAny>) -> bool {
    // SAFETY: where the offset is positive, the object has a pointer there: null, or the first one.
    unsafe {
        let pointer = object.as_ptr();
        let offset = (*ffi::Py_TYPE(pointer)).tp_weaklistoffset;
        offset > 0
            && !pointer
                .byte_offset(offset)
                .cast::<*mut ffi::PyObject>()
                .read()
                .is_null()
    }
}
