//! Calling the application as `penstock.wsgi.gateway.Gateway.handle` does, which is the reference: for
//! a request whose body has arrived, and a response that is plain. All else is left to the gateway.

use crate::environ::keys;
use crate::exchange::Exchange;
use crate::fast_response::FastResponse;
use crate::ffi::{self, has_length, has_weak_references, latin1_bytes, references};
use crate::spares::{GivenResponse, Serving};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList, PyString};

/// See `penstock.transport.ApplicationCalls`.
pub struct ApplicationCalls {
    application: Py<PyAny>,
    beginnings: Vec<Vec<u8>>,
    make_full: Py<PyAny>,
    answer: Py<PyAny>,
    fail: Py<PyAny>,
    log_close_failure: Py<PyAny>,
    /// `penstock.wsgi.file_wrapper.FileWrapper`
    file_wrapper: Py<PyAny>,
    /// `itertools.chain`
    chain: Py<PyAny>,
}

impl ApplicationCalls {
    pub fn of(calls: &Bound<'_, PyAny>) -> PyResult<Self> {
        let named = |name| Ok::<_, PyErr>(calls.getattr(name)?.unbind());
        let imported = |module, name| {
            let module = calls.py().import(module)?;
            Ok::<_, PyErr>(module.getattr(name)?.unbind())
        };
        Ok(ApplicationCalls {
            application: named("application")?,
            beginnings: calls
                .getattr("beginnings")?
                .try_iter()?
                .map(|text| Ok(latin1_bytes(text?.cast::<PyString>()?)?.to_vec()))
                .collect::<PyResult<_>>()?,
            make_full: named("make_full")?,
            answer: named("answer")?,
            fail: named("fail")?,
            log_close_failure: named("log_close_failure")?,
            file_wrapper: imported("penstock.wsgi.file_wrapper", "FileWrapper")?,
            chain: imported("itertools", "chain")?,
        })
    }

    /// Answer an exchange; false where the gateway has to, and nothing has been done.
    pub fn handle(&self, exchange: &Bound<'_, Exchange>, serving: &mut Serving) -> PyResult<bool> {
        let py = exchange.py();
        let (environ, body, is_head, may_be_outside) = {
            let this = exchange.try_borrow()?;
            let Some(body) = &this.body else {
                return Ok(false); // it is streamed
            };
            let environ = this.environ.bind(py).clone();
            let body = body.bind(py).clone();
            (environ, body, this.is_head, this.may_be_outside)
        };
        if self.is_gateways(&environ, may_be_outside)? {
            return Ok(false);
        }
        let own = exchange.clone().unbind();
        let given = match serving.spares.take_response(py) {
            Some(given) => {
                given.response.borrow_mut().begin(own, is_head);
                given
            }
            None => {
                let response = FastResponse::new(own, is_head, self.make_full.clone_ref(py));
                GivenResponse::of(Bound::new(py, response)?)?
            }
        };
        let call = Call {
            calls: self,
            exchange,
            response: Forgotten(&given.response),
            body: &body,
        };
        let handled = match self.call(&environ, &body, &given) {
            Ok(result) => call.answer(&result, serving),
            Err(error) => call.fail(error, None),
        };
        // In the main thread the handler of a signal may raise: here, and not in the next request.
        let handled =
            handled.and_then(|()| py.check_signals().or_else(|error| call.fail(error, None)));
        drop(call);
        close_body(&environ, &body);
        serving.spares.keep_response(given);
        handled.map(|()| true)
    }

    fn call<'py>(
        &self,
        environ: &Bound<'py, PyDict>,
        body: &Bound<'py, PyAny>,
        given: &GivenResponse<'py>,
    ) -> PyResult<Bound<'py, PyAny>> {
        let keys = keys(environ.py());
        environ.set_item(&keys.input, body)?;
        environ.set_item(&keys.early_hints, &given.early_hints)?;
        let application = self.application.bind(environ.py());
        ffi::call(application, [environ.as_any(), &given.start_response])
    }

    /// Whether the gateway has to see the request first, for its path: it is not below that of the
    /// application, or may be one of `beginnings`. Below SCRIPT_NAME, PATH_INFO is not the path that was
    /// asked for.
    fn is_gateways(&self, environ: &Bound<'_, PyDict>, may_be_outside: bool) -> PyResult<bool> {
        let keys = keys(environ.py());
        if may_be_outside && environ.contains(&keys.outside_mount)? {
            return Ok(true);
        }
        if self.beginnings.is_empty() {
            return Ok(false);
        }
        let (Some(mount), Some(path)) = (
            environ.get_item(&keys.script_name)?,
            environ.get_item(&keys.path)?,
        ) else {
            return Ok(true);
        };
        let path = latin1_bytes(path.cast::<PyString>()?)?;
        let begins = |beginning: &Vec<u8>| path.starts_with(beginning);
        Ok(mount.is_truthy()? || self.beginnings.iter().any(begins))
    }

    /// Whether the blocks of what the application has returned come from its iteration alone.
    fn iterates(&self, result: &Bound<'_, PyAny>) -> bool {
        !has_length(result) && !result.is_none() && !result.get_type().is(&self.file_wrapper)
    }
}

/// A call of the application, which has returned or raised something.
struct Call<'a, 'py> {
    calls: &'a ApplicationCalls,
    exchange: &'a Bound<'py, Exchange>,
    response: Forgotten<'a, 'py>,
    body: &'a Bound<'py, PyAny>,
}

/// A response that forgets its exchange in any case, also after a defect of ours: the exchange leads
/// to the environ, and that leads to the response.
struct Forgotten<'a, 'py>(&'a Bound<'py, FastResponse>);

impl Drop for Forgotten<'_, '_> {
    fn drop(&mut self) {
        if let Err(error) = FastResponse::forget_exchange(self.0) {
            error.write_unraisable(self.0.py(), None);
        }
    }
}

impl<'py> Call<'_, 'py> {
    /// Send and close what the application has returned.
    fn answer(&self, result: &Bound<'py, PyAny>, serving: &mut Serving) -> PyResult<()> {
        if let Some(block) = only_block(result) {
            return match FastResponse::send_plain(self.response.0, &block, true) {
                Ok(true) => Ok(()),
                Ok(false) => self.leave_all(result),
                Err(error) => self.fail(error, Some(result)),
            };
        }
        if self.calls.iterates(result) {
            return self.iterate(result, serving);
        }
        self.leave_all(result)
    }

    fn iterate(&self, result: &Bound<'py, PyAny>, serving: &mut Serving) -> PyResult<()> {
        let blocks = match ffi::iterator(result) {
            Ok(blocks) => blocks,
            Err(error) => return self.fail(error, Some(result)),
        };
        loop {
            let block = match ffi::next(&blocks) {
                Ok(Some(block)) => block,
                Ok(None) => break,
                Err(error) => return self.fail(error, Some(result)),
            };
            match self.send(&block, serving) {
                Ok(true) => {}
                Ok(false) => {
                    let left = self.calls.chain.bind(result.py()).call1(((block,), blocks));
                    return self.leave(result, left);
                }
                Err(error) => return self.fail(error, Some(result)),
            }
        }
        match FastResponse::end_plain(self.response.0) {
            Ok(true) => self.close(result),
            // Nothing is left. The iterator has ended, and may not be asked again.
            Ok(false) => self.leave(result, self.calls.chain.bind(result.py()).call0()),
            Err(error) => self.fail(error, Some(result)),
        }
    }

    /// Send one block of several; false where it, or the response, is not plain.
    fn send(&self, block: &Bound<'py, PyAny>, serving: &mut Serving) -> PyResult<bool> {
        let Ok(bytes) = block.cast_exact::<PyBytes>() else {
            return Ok(false);
        };
        if bytes.as_bytes().is_empty() || !FastResponse::send_plain(self.response.0, bytes, false)?
        {
            return Ok(false);
        }
        // The iterator may be native code, too.
        serving.give_way(block.py());
        block.py().check_signals()?;
        Ok(true)
    }

    /// Have the gateway send and close a result whose iteration has not begun.
    fn leave_all(&self, result: &Bound<'py, PyAny>) -> PyResult<()> {
        self.leave(result, Ok(result.py().None().into_bound(result.py())))
    }

    /// Have the gateway send what is left of a result, and close it.
    fn leave(&self, result: &Bound<'py, PyAny>, left: PyResult<Bound<'py, PyAny>>) -> PyResult<()> {
        match left {
            Ok(left) => {
                let (exchange, response) = (self.exchange.as_any(), self.response.0.as_any());
                let arguments = [exchange, response, self.body, result, &left];
                ffi::call(self.calls.answer.bind(result.py()), arguments).map(drop)
            }
            Err(error) => self.fail(error, Some(result)), // memory ran out
        }
    }

    #[cold]
    fn fail(&self, error: PyErr, result: Option<&Bound<'py, PyAny>>) -> PyResult<()> {
        let py = self.exchange.py();
        let error = error.into_value(py).into_bound(py).into_any();
        let none = py.None().into_bound(py);
        let (exchange, response) = (self.exchange.as_any(), self.response.0.as_any());
        let arguments = [
            exchange,
            response,
            self.body,
            &error,
            result.unwrap_or(&none),
        ];
        ffi::call(self.calls.fail.bind(py), arguments).map(drop)
    }

    fn close(&self, result: &Bound<'py, PyAny>) -> PyResult<()> {
        let py = result.py();
        let closed = match result.getattr_opt(intern!(py, "close")) {
            Ok(Some(close)) if !close.is_none() => ffi::call(&close, []).map(drop),
            Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        match closed {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = error.into_value(py).into_bound(py).into_any();
                let log = self.calls.log_close_failure.bind(py);
                ffi::call(log, [self.exchange.as_any(), &error]).map(drop)
            }
        }
    }
}

/// The body of most responses: a list of one block.
fn only_block<'py>(result: &Bound<'py, PyAny>) -> Option<Bound<'py, PyBytes>> {
    let blocks = result.cast_exact::<PyList>().ok()?;
    if blocks.len() != 1 {
        return None;
    }
    blocks.get_item(0).ok()?.cast_into_exact().ok()
}

/// How often `close_body` sees an environ and a body that the application has not kept: once for the
/// exchange, once for the caller, and the body once for the environ, where that has it still.
const ENVIRON_REFERENCES: isize = 2;
const BODY_REFERENCES: isize = 3;

/// Close the body where it does not end with the exchange: the application may have kept it, or have
/// put it into a cycle, which would keep it until it is collected.
fn close_body(environ: &Bound<'_, PyDict>, body: &Bound<'_, PyAny>) {
    let own = environ.get_item(&keys(environ.py()).input);
    let is_own = matches!(own, Ok(Some(own)) if own.is(body));
    let is_unkept = is_own
        && references(environ) == ENVIRON_REFERENCES
        && references(body) == BODY_REFERENCES
        && !has_weak_references(body);
    if !is_unkept {
        // A view of the body that the application has kept is no failure.
        drop(body.call_method0(intern!(body.py(), "close")));
    }
}
