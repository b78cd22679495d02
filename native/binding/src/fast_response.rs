//! A response that is quick to make, as long as it is plain: the application calls `start_response`
//! once with a valid head, and returns the body in one block. In all other cases a
//! `penstock.wsgi.response.Response`, which is the reference, takes over.

use crate::constant_head::ConstantHead;
use crate::exchange::Exchange;
use crate::ffi;
use crate::response_head::ResponseHead;
use crate::sending;
use crate::validate;
use penstock_protocol::response::has_body;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::PyBytes;
use std::sync::Arc;

/// Makes the responses of one gateway.
#[pyclass(module = "penstock._native", frozen)]
pub struct ResponseMaker {
    make_full: Py<PyAny>,
}

#[pymethods]
impl ResponseMaker {
    /// `make_full` makes a `Response` from an exchange (None once it has ended) and from whether
    /// it answers HEAD.
    #[new]
    fn new(make_full: Py<PyAny>) -> Self {
        ResponseMaker { make_full }
    }

    fn make(&self, py: Python<'_>, exchange: Py<Exchange>, is_head: bool) -> PyResult<Py<PyAny>> {
        let make_full = self.make_full.clone_ref(py);
        let response = FastResponse::new(exchange, is_head, make_full);
        Ok(Py::new(py, response)?.into_any())
    }
}

/// The response that the gateway has, until it needs the full one.
#[pyclass(module = "penstock._native", freelist = 64)]
pub struct FastResponse {
    exchange: Option<Py<Exchange>>,
    make_full: Py<PyAny>,
    is_head: bool,
    head: Option<Arc<ResponseHead>>,
    /// What Content-Length says.
    length: Option<u64>,
    /// Of an earlier request.
    last: Option<ConstantHead>,
    /// Bytes of the body that the exchange has been given. With the first it has the head.
    sent: u64,
    finished: bool,
    full: Option<Py<PyAny>>,
}

impl FastResponse {
    /// See `ResponseMaker` for `make_full`.
    pub fn new(exchange: Py<Exchange>, is_head: bool, make_full: Py<PyAny>) -> Self {
        FastResponse {
            exchange: Some(exchange),
            make_full,
            is_head,
            head: None,
            length: None,
            last: None,
            sent: 0,
            finished: false,
            full: None,
        }
    }

    /// Begin with another exchange, after `clear`.
    pub fn begin(&mut self, exchange: Py<Exchange>, is_head: bool) {
        self.exchange = Some(exchange);
        self.is_head = is_head;
    }

    /// Forget a request, but for a head that the next response may have again.
    pub fn clear(&mut self) {
        self.head = None;
        self.length = None;
        self.sent = 0;
        self.finished = false;
        self.full = None;
    }

    /// Send a block of the body, not empty, and end the response with the last byte of its length,
    /// or where this is the `only` block. False where the full response has to, and nothing has been
    /// sent.
    pub fn send_plain(
        slf: &Bound<'_, Self>,
        block: &Bound<'_, PyBytes>,
        only: bool,
    ) -> PyResult<bool> {
        let py = slf.py();
        let size = block.as_bytes().len() as u64;
        let (exchange, head, last) = {
            let mut response = slf.borrow_mut();
            let this = &mut *response;
            let (None, Some(head), Some(exchange)) = (&this.full, &this.head, &this.exchange)
            else {
                return Ok(false);
            };
            let before = this.sent;
            let sent = before.saturating_add(size);
            let length = this.length;
            let last = only || length == Some(sent);
            if this.finished || length.is_some_and(|it| sent > it || last && it != sent) {
                return Ok(false);
            }
            let given = (before == 0).then(|| {
                let length = if only { Some(size) } else { length };
                (Arc::clone(head), length)
            });
            let exchange = exchange.clone_ref(py);
            this.sent = sent;
            (exchange, given, last)
        };
        let exchange = exchange.bind(py);
        if let Some((head, length)) = head {
            exchange.try_borrow_mut()?.begin_response(head, length)?;
        }
        if last {
            sending::finish(exchange, Some(block))?;
            slf.borrow_mut().finished = true;
        } else {
            sending::send(exchange, block)?;
        }
        Ok(true)
    }

    /// End the response behind its last block; false where the full response has to.
    pub fn end_plain(slf: &Bound<'_, Self>) -> PyResult<bool> {
        let exchange = {
            let this = slf.borrow();
            if this.full.is_some() {
                return Ok(false);
            }
            if this.finished {
                return Ok(true);
            }
            let (Some(_), Some(exchange)) = (&this.head, &this.exchange) else {
                return Ok(false);
            };
            if this.sent == 0 || this.length.is_some() {
                return Ok(false); // there was no block, or not all of the length
            }
            exchange.clone_ref(slf.py())
        };
        sending::finish(exchange.bind(slf.py()), None)?;
        slf.borrow_mut().finished = true;
        Ok(true)
    }
}

#[pymethods]
impl FastResponse {
    #[pyo3(signature = (status, headers, exc_info = None, /))]
    fn start_response<'py>(
        slf: &Bound<'py, Self>,
        status: Bound<'py, PyAny>,
        headers: Bound<'py, PyAny>,
        exc_info: Option<Bound<'py, PyAny>>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let first = {
            let response = slf.borrow();
            let untouched = response.full.is_none() && response.head.is_none();
            untouched && response.exchange.is_some() && !response.is_head
        };
        if let (true, None) = (first, &exc_info) {
            let mut response = slf.borrow_mut();
            let this = &mut *response;
            if let Some(last) = this.last.as_ref().filter(|it| it.is_of(&status, &headers)) {
                this.head = Some(Arc::clone(&last.head));
                this.length = last.length;
                return Ok(slf.clone().into_any());
            }
            let checked = validate::plain(&status, &headers);
            if let Some((head, length)) = checked.filter(|(head, _)| has_body(false, head.code)) {
                let head = Arc::new(head);
                this.last = ConstantHead::of(&status, &headers, &head, length);
                this.head = Some(head);
                this.length = length;
                return Ok(slf.clone().into_any());
            }
        }
        let full = Self::full_response(slf)?;
        let exc_info = exc_info.unwrap_or_else(|| py.None().into_bound(py));
        let name = intern!(py, "start_response");
        ffi::call_method(&full, name, [&status, &headers, &exc_info])
    }

    /// `write()` of PEP 3333. Each call of `start_response` returns it, and hardly any application
    /// calls it: a bound method would have to be made for each of them.
    fn __call__<'py>(
        slf: &Bound<'py, Self>,
        data: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        ffi::call_method(
            &Self::full_response(slf)?,
            intern!(slf.py(), "write"),
            [&data],
        )
    }

    fn early_hints<'py>(
        slf: &Bound<'py, Self>,
        headers: Bound<'py, PyAny>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let full = Self::full_response(slf)?;
        ffi::call_method(&full, intern!(slf.py(), "early_hints"), [&headers])
    }

    /// Send the body that the application returned in one piece, and end the response. Returns true
    /// if that was all of it, and not more than its Content-Length.
    fn send_whole(slf: &Bound<'_, Self>, block: &Bound<'_, PyBytes>) -> PyResult<bool> {
        if Self::send_plain(slf, block, true)? {
            return Ok(true);
        }
        let full = Self::full_response(slf)?;
        let name = intern!(slf.py(), "send_whole");
        let whole = ffi::call_method(&full, name, [block.as_any()])?;
        whole.extract()
    }

    /// Return the full response, in the same state as this one. It takes over from here.
    fn full_response<'py>(slf: &Bound<'py, Self>) -> PyResult<Bound<'py, PyAny>> {
        let py = slf.py();
        let (make_full, exchange, is_head) = {
            let response = slf.borrow();
            if let Some(full) = &response.full {
                return Ok(full.bind(py).clone());
            }
            let exchange = response
                .exchange
                .as_ref()
                .map(|exchange| exchange.clone_ref(py));
            (response.make_full.clone_ref(py), exchange, response.is_head)
        };
        let over = exchange.is_none();
        let full = make_full.bind(py).call1((exchange, is_head))?;
        // Read together: another thread of the application may have sent a block meanwhile.
        let (head, sent, finished) = {
            let mut response = slf.borrow_mut();
            let head = response.head.take().map(|head| (head, response.length));
            (head, response.sent, response.finished)
        };
        if let Some((head, length)) = head {
            let (status, fields) = head.objects(py)?;
            let arguments = (status, head.code, fields, length, sent);
            full.call_method1(intern!(py, "adopt"), arguments)?;
        }
        if finished || over {
            full.setattr(intern!(py, "finished"), true)?;
        }
        slf.borrow_mut().full = Some(full.clone().unbind());
        Ok(full)
    }

    /// Drop the reference to the exchange: `environ` leads here, and an application may keep it.
    pub fn forget_exchange(slf: &Bound<'_, Self>) -> PyResult<()> {
        let full = {
            let mut response = slf.borrow_mut();
            let Some(exchange) = response.exchange.take() else {
                return Ok(());
            };
            let full = response.full.as_ref().map(|it| it.clone_ref(slf.py()));
            drop(response);
            drop(exchange);
            full
        };
        match full {
            Some(full) => {
                let name = intern!(slf.py(), "forget_exchange");
                full.bind(slf.py()).call_method0(name).map(drop)
            }
            None => Ok(()),
        }
    }
}
