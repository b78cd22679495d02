//! What a thread has between its requests: the objects of its last one that the next one uses again,
//! where the application has not kept them, and how long it may still keep the interpreter lock.

use crate::extend_deadline::ExtendDeadline;
use crate::fast_response::FastResponse;
use crate::ffi::{has_weak_references, references};
use penstock_reactor::event_loop::ATTACHED_TIME;
use penstock_reactor::sys::{self, Nanos};
use pyo3::intern;
use pyo3::prelude::*;

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

    /// Whether the application has kept none of the three: each method has the response, which has no
    /// weak references.
    fn is_unkept(&self) -> bool {
        const RESPONSE_REFERENCES: isize = 3;
        references(&self.response) == RESPONSE_REFERENCES
            && is_unkept(&self.start_response)
            && is_unkept(&self.early_hints)
    }
}

fn is_unkept(object: &Bound<'_, PyAny>) -> bool {
    references(object) == 1 && !has_weak_references(object)
}

/// Objects of the last request. None of them has anything of it.
#[derive(Default)]
pub struct Spares {
    response: Option<(Py<FastResponse>, Py<PyAny>, Py<PyAny>)>,
    extend_deadline: Option<Py<ExtendDeadline>>,
}

impl Spares {
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

    /// Drop what the application has kept, and clear the rest. To be called when the request's environ
    /// has ended.
    pub fn tidy(&mut self, py: Python<'_>) {
        if let Some(given) = self.take_response(py) {
            given.response.borrow_mut().clear();
            self.keep_response(given);
        }
        let made = self.extend_deadline.take();
        self.extend_deadline = made.filter(|made| references(made.bind(py)) == 1);
    }

    /// The response, unless the application has it, or has found it in the meantime.
    pub fn take_response<'py>(&mut self, py: Python<'py>) -> Option<GivenResponse<'py>> {
        let (response, start_response, early_hints) = self.response.take()?;
        let given = GivenResponse {
            response: response.into_bound(py),
            start_response: start_response.into_bound(py),
            early_hints: early_hints.into_bound(py),
        };
        given.is_unkept().then_some(given)
    }

    /// `penstock.extend_deadline` of the last request.
    pub fn extend_deadline(&self) -> Option<&Py<ExtendDeadline>> {
        self.extend_deadline.as_ref()
    }

    pub fn keep_extend_deadline(&mut self, made: Py<ExtendDeadline>) -> &Py<ExtendDeadline> {
        self.extend_deadline.insert(made)
    }
}

/// What one thread has.
#[derive(Default)]
pub struct Serving {
    pub spares: Spares,
    attached_until: Nanos,
}

impl Serving {
    /// Let other threads have the interpreter lock, if this one has kept it for long enough. To be
    /// called wherever native code may go round without running any of Python's, with which the
    /// interpreter does so itself.
    pub fn give_way(&mut self, py: Python<'_>) {
        if sys::monotonic() >= self.attached_until {
            py.detach(|| ());
            self.attached_until = sys::monotonic() + ATTACHED_TIME;
        }
    }
}
