//! One response in the making, as long as it is plain: `start_response` called once with a valid
//! head, and the body in one block. `penstock.wsgi.response.Response` is the reference, and takes over
//! as soon as anything else is asked for.

use crate::exchange::Exchange;
use crate::validate;
use penstock_protocol::response::has_body;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

/// Makes the responses of one gateway.
#[pyclass(module = "penstock._native", frozen)]
pub struct ResponseMaker {
    reference: Py<PyAny>,
}

#[pymethods]
impl ResponseMaker {
    /// `reference` makes a `Response` of an exchange (None once it is over) and of whether the
    /// client asked for the head alone.
    #[new]
    fn new(reference: Py<PyAny>) -> Self {
        ResponseMaker { reference }
    }

    fn make(&self, py: Python<'_>, exchange: Py<Exchange>, is_head: bool) -> PyResult<Py<PyAny>> {
        let front = ResponseFront {
            exchange: Some(exchange),
            make: self.reference.clone_ref(py),
            is_head,
            head: None,
            finished: false,
            reference: None,
        };
        Ok(Py::new(py, front)?.into_any())
    }
}

/// A head that was found valid.
struct Head {
    status: Py<PyString>,
    code: u16,
    fields: Py<PyList>,
    length: Option<u64>,
}

/// What a gateway knows as a response.
#[pyclass(module = "penstock._native", freelist = 64)]
pub struct ResponseFront {
    exchange: Option<Py<Exchange>>,
    make: Py<PyAny>,
    is_head: bool,
    head: Option<Head>,
    finished: bool,
    reference: Option<Py<PyAny>>,
}

#[pymethods]
impl ResponseFront {
    #[pyo3(signature = (status, headers, exc_info = None, /))]
    fn start_response<'py>(
        slf: &Bound<'py, Self>,
        status: Bound<'py, PyAny>,
        headers: Bound<'py, PyAny>,
        exc_info: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let first = {
            let front = slf.borrow();
            let untouched = front.reference.is_none() && front.head.is_none();
            untouched && front.exchange.is_some() && !front.is_head
        };
        if let (true, None) = (first, &exc_info) {
            let checked = validate::plain(py, &status, &headers);
            if let Some((code, fields, length, _)) = checked.filter(|head| has_body(false, head.0))
            {
                slf.borrow_mut().head = Some(Head {
                    status: status.cast_into::<PyString>()?.unbind(),
                    code,
                    fields: fields.unbind(),
                    length,
                });
                return slf.getattr(intern!(py, "write"));
            }
        }
        let reference = Self::reference(slf)?;
        reference.call_method1(intern!(py, "start_response"), (status, headers, exc_info))
    }

    fn write<'py>(slf: &Bound<'py, Self>, data: Bound<'py, PyAny>) -> PyResult<Bound<'py, PyAny>> {
        Self::reference(slf)?.call_method1(intern!(slf.py(), "write"), (data,))
    }

    fn early_hints<'py>(
        slf: &Bound<'py, Self>,
        headers: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        Self::reference(slf)?.call_method1(intern!(slf.py(), "early_hints"), (headers,))
    }

    /// Send the body that the application returned in one piece, and end the response; tell whether
    /// that was all of it.
    fn send_whole(slf: &Bound<'_, Self>, block: &Bound<'_, PyBytes>) -> PyResult<bool> {
        let py = slf.py();
        let size = block.as_bytes().len() as u64;
        let plain = {
            let front = slf.borrow();
            match (&front.reference, &front.head, &front.exchange) {
                (None, Some(head), Some(exchange)) if head.length.is_none_or(|it| it == size) => {
                    let (status, fields) = (head.status.clone_ref(py), head.fields.clone_ref(py));
                    Some((exchange.clone_ref(py), status, fields))
                }
                _ => None,
            }
        };
        let Some((exchange, status, fields)) = plain else {
            let reference = Self::reference(slf)?;
            let whole = reference.call_method1(intern!(py, "send_whole"), (block,))?;
            return whole.extract();
        };
        let exchange = exchange.bind(py);
        exchange
            .try_borrow_mut()?
            .respond(status, fields, Some(size))?;
        Exchange::finish(exchange, Some(block))?;
        slf.borrow_mut().finished = true;
        Ok(true)
    }

    /// The reference, in the state that this response has come to; it takes over from here.
    fn reference<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let (make, exchange, is_head, finished) = {
            let front = slf.borrow();
            if let Some(reference) = &front.reference {
                return Ok(reference.bind(py).clone());
            }
            let exchange = front
                .exchange
                .as_ref()
                .map(|exchange| exchange.clone_ref(py));
            (
                front.make.clone_ref(py),
                exchange,
                front.is_head,
                front.finished,
            )
        };
        let over = exchange.is_none();
        let reference = make.bind(py).call1((exchange, is_head))?;
        let head = slf.borrow_mut().head.take();
        if let Some(head) = head {
            let fields = head.fields.bind(py).as_sequence().to_list()?;
            let arguments = (head.status, head.code, fields, head.length);
            reference.call_method1(intern!(py, "adopt"), arguments)?;
        }
        if finished || over {
            reference.setattr(intern!(py, "finished"), true)?;
        }
        slf.borrow_mut().reference = Some(reference.clone().unbind());
        Ok(reference)
    }

    /// Let go of the exchange: `environ` leads here, and an application may keep that.
    fn forget_exchange(slf: &Bound<'_, Self>) -> PyResult<()> {
        let (exchange, reference) = {
            let mut front = slf.borrow_mut();
            let reference = front.reference.as_ref().map(|it| it.clone_ref(slf.py()));
            (front.exchange.take(), reference)
        };
        drop(exchange);
        match reference {
            Some(reference) => {
                let name = intern!(slf.py(), "forget_exchange");
                reference.bind(slf.py()).call_method0(name).map(drop)
            }
            None => Ok(()),
        }
    }
}
