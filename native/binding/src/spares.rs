//! Objects of a thread's last request that its next one uses again, where the application has not kept
//! them: to make them anew takes a tenth of what the server does for a small request.

use crate::extend_deadline::ExtendDeadline;
use crate::fast_response::FastResponse;
use crate::ffi::references;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;

/// A response, and those of its methods that the application is given.
pub struct GivenResponse<'py> {
    pub response: Bound<'py, FastResponse>,
    pub start_response: Bound<'py, PyAny>,
    pub early_hints: Bound<'py, PyAny>,
}

impl<'py> GivenResponse<'py> {
    pub fn of(response: Bound<'py, FastResponse>) -> PyResult<Self> {
        let py = response.py();
        Ok(GivenResponse {
            start_response: response.getattr(intern!(py, "start_response"))?,
            early_hints: response.getattr(intern!(py, "early_hints"))?,
            response,
        })
    }

    /// Each method has the response, and there is no other reference to any of the three.
    fn is_unkept(&self) -> bool {
        references(&self.response) == 3
            && references(&self.start_response) == 1
            && references(&self.early_hints) == 1
    }
}

type Unbound = (Py<FastResponse>, Py<PyAny>, Py<PyAny>);

/// What one thread has.
#[derive(Default)]
pub struct Spares {
    response: Option<Unbound>,
    /// An `io.BytesIO` that was the body of a request without one.
    body: Option<Py<PyAny>>,
    extend_deadline: Option<Py<ExtendDeadline>>,
}

impl Spares {
    /// `penstock.extend_deadline` of the last request; it is kept for the next one.
    pub fn extend_deadline(&self) -> Option<&Py<ExtendDeadline>> {
        self.extend_deadline.as_ref()
    }

    pub fn keep_extend_deadline(&mut self, made: Py<ExtendDeadline>) -> &Py<ExtendDeadline> {
        self.extend_deadline.insert(made)
    }

    pub fn keep_response(&mut self, given: GivenResponse<'_>) {
        let GivenResponse {
            response,
            start_response,
            early_hints,
        } = given;
        self.response = Some((
            response.unbind(),
            start_response.unbind(),
            early_hints.unbind(),
        ));
    }

    pub fn keep_body(&mut self, body: Bound<'_, PyAny>) {
        self.body = Some(body.unbind());
    }

    /// Give up what the application has kept, and what the response has of its request. To be called
    /// when the request's environ has ended.
    pub fn tidy(&mut self, py: Python<'_>) {
        if let Some(given) = self.take_response(py) {
            if given.is_unkept() {
                given.response.borrow_mut().clear();
                self.keep_response(given);
            }
        }
        let body = self.body.take();
        self.body = body.filter(|body| is_empty(body.bind(py)));
        let made = self.extend_deadline.take();
        self.extend_deadline = made.filter(|made| references(made.bind(py)) == 1);
    }

    pub fn take_response<'py>(&mut self, py: Python<'py>) -> Option<GivenResponse<'py>> {
        let (response, start_response, early_hints) = self.response.take()?;
        Some(GivenResponse {
            response: response.into_bound(py),
            start_response: start_response.into_bound(py),
            early_hints: early_hints.into_bound(py),
        })
    }

    pub fn take_body(&mut self) -> Option<Py<PyAny>> {
        self.body.take()
    }
}

/// Whether a body is as a new one: the application has not kept it, it is open, and it has nothing in
/// it. Where its position is makes no difference then.
fn is_empty(body: &Bound<'_, PyAny>) -> bool {
    if references(body) != 1 {
        return false;
    }
    match body.call_method0(intern!(body.py(), "getvalue")) {
        Ok(value) => {
            let bytes = value.cast_exact::<PyBytes>();
            bytes.is_ok_and(|bytes| bytes.as_bytes().is_empty())
        }
        Err(_) => false, // it is closed
    }
}
