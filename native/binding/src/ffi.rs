//! The C API where PyO3 has no safe and cheap way. The only module that calls it directly.

use pyo3::buffer::PyBuffer;
use pyo3::exceptions::{PyBufferError, PyUnicodeEncodeError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString};
use std::hint::black_box;
use std::{mem, ptr};

/// Text of bytes in Latin-1, which is what an environ holds. Fails where memory runs out.
pub fn latin1<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyString>> {
    let pointer = bytes.as_ptr().cast();
    let size = bytes.len() as ffi::Py_ssize_t;
    // SAFETY: pointer and size are those of a slice, the errors argument may be null, and what is
    // returned is a new reference to a str, or null with an exception set.
    unsafe {
        let text = ffi::PyUnicode_DecodeLatin1(pointer, size, ptr::null());
        Ok(Bound::from_owned_ptr_or_err(py, text)?.cast_into_unchecked())
    }
}

/// A copy in Python's memory. Fails where that runs out.
pub fn bytes_of<'py>(py: Python<'py>, bytes: &[u8]) -> PyResult<Bound<'py, PyBytes>> {
    let pointer = bytes.as_ptr().cast();
    let size = bytes.len() as ffi::Py_ssize_t;
    // SAFETY: pointer and size are those of a slice, and what is returned is a new reference to a
    // bytes object, or null with an exception set.
    unsafe {
        let copy = ffi::PyBytes_FromStringAndSize(pointer, size);
        Ok(Bound::from_owned_ptr_or_err(py, copy)?.cast_into_unchecked())
    }
}

/// Memory of Python's, to be filled.
pub struct WritableBuffer(PyBuffer<u8>);

impl WritableBuffer {
    /// Fails unless `object` offers contiguous bytes that may be written.
    pub fn of(object: &Bound<'_, PyAny>) -> PyResult<Self> {
        let buffer = PyBuffer::<u8>::get(object)?;
        if buffer.readonly() || !buffer.is_c_contiguous() {
            return Err(PyBufferError::new_err(
                "contiguous bytes to write to are needed",
            ));
        }
        Ok(WritableBuffer(buffer))
    }

    pub fn bytes<'a>(&'a mut self, _attached: Python<'a>) -> &'a mut [u8] {
        let size = self.0.len_bytes();
        if size == 0 {
            return &mut []; // its pointer may be null
        }
        // SAFETY: `of` has asked for writable, contiguous bytes, which the export keeps in place.
        // The slice lives no longer than the GIL is held, and no Python code runs meanwhile.
        unsafe { std::slice::from_raw_parts_mut(self.0.buf_ptr().cast(), size) }
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

/// The most arguments of `call` and `call_method`.
const MOST_ARGUMENTS: usize = 5;

type Call = unsafe extern "C-unwind" fn(
    *mut ffi::PyObject,
    *const *mut ffi::PyObject,
    usize,
    *mut ffi::PyObject,
) -> *mut ffi::PyObject;

/// Call what may be the application's code, or call it, and so may never return.
///
/// Before Python 3.14 an interpreter that ends unwinds the stack of each thread that wants to go on
/// with Python code. Rust would drop what its frames hold, without the GIL, or abort the process.
/// So such a thread stays here until the process has ended.
pub fn call<'py, const N: usize>(
    callable: &Bound<'py, PyAny>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(N <= MOST_ARGUMENTS) }
    // The place before the arguments is the callee's, for the object of a method.
    let mut places = [ptr::null_mut(); 1 + MOST_ARGUMENTS];
    for (place, argument) in places[1..].iter_mut().zip(arguments) {
        *place = argument.as_ptr();
    }
    let count = N | ffi::PY_VECTORCALL_ARGUMENTS_OFFSET;
    // SAFETY: the types differ in what they say of unwinding alone. Callable and arguments are
    // alive, and what is returned is a new reference, or null with an exception set.
    unsafe {
        let call: Call = mem::transmute(black_box(ffi::PyObject_Vectorcall as *const ()));
        let returned = never_unwound(|| {
            let first = places.as_ptr().add(1);
            call(callable.as_ptr(), first, count, ptr::null_mut())
        });
        Bound::from_owned_ptr_or_err(callable.py(), returned)
    }
}

/// Call a method that may never return: see `call`.
pub fn call_method<'py, const N: usize>(
    object: &Bound<'py, PyAny>,
    name: &Bound<'py, PyString>,
    arguments: [&Bound<'py, PyAny>; N],
) -> PyResult<Bound<'py, PyAny>> {
    const { assert!(N <= MOST_ARGUMENTS) }
    let mut places = [ptr::null_mut(); 1 + MOST_ARGUMENTS];
    places[0] = object.as_ptr();
    for (place, argument) in places[1..].iter_mut().zip(arguments) {
        *place = argument.as_ptr();
    }
    // SAFETY: as for `call`; the object is the first of the arguments.
    unsafe {
        let call: Call = mem::transmute(black_box(ffi::PyObject_VectorcallMethod as *const ()));
        let first = places.as_ptr();
        let returned = never_unwound(|| call(name.as_ptr(), first, N + 1, ptr::null_mut()));
        Bound::from_owned_ptr_or_err(object.py(), returned)
    }
}

/// `iter()` of what the application has returned. It may never return: see `call`.
pub fn iterator<'py>(object: &Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
    // SAFETY: as for `call`.
    unsafe {
        let iter: Unary = mem::transmute(black_box(ffi::PyObject_GetIter as *const ()));
        let returned = never_unwound(|| iter(object.as_ptr()));
        Bound::from_owned_ptr_or_err(object.py(), returned)
    }
}

/// `next()` of an iterator; None at its end. It may never return: see `call`.
pub fn next<'py>(iterator: &Bound<'py, PyAny>) -> PyResult<Option<Bound<'py, PyAny>>> {
    // SAFETY: as for `call`; null without an exception is the end.
    unsafe {
        let next: Unary = mem::transmute(black_box(ffi::PyIter_Next as *const ()));
        let returned = never_unwound(|| next(iterator.as_ptr()));
        match Bound::from_owned_ptr_or_opt(iterator.py(), returned) {
            Some(item) => Ok(Some(item)),
            None => PyErr::take(iterator.py()).map_or(Ok(None), Err),
        }
    }
}

type Unary = unsafe extern "C-unwind" fn(*mut ffi::PyObject) -> *mut ffi::PyObject;

/// Enter C code, and never leave it by unwinding.
#[inline(always)]
fn never_unwound<R>(enter: impl FnOnce() -> R) -> R {
    struct Stay;
    impl Drop for Stay {
        fn drop(&mut self) {
            loop {
                std::thread::park();
            }
        }
    }
    let stay = Stay;
    let returned = enter();
    mem::forget(stay);
    returned
}
