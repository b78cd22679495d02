//! Calling the application as `penstock.wsgi.gateway.Gateway.handle` does, which is the reference: for
//! a request whose body has arrived, and a response that is plain. All else is left to the gateway.

use crate::environ::keys;
use crate::exchange::Exchange;
use crate::fast_response::FastResponse;
use crate::ffi::references;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

/// See `penstock.transport.ApplicationCalls`.
pub struct ApplicationCalls {
    application: Py<PyAny>,
    make_full: Py<PyAny>,
    answer: Py<PyAny>,
    fail: Py<PyAny>,
}

impl ApplicationCalls {
    pub fn of(calls: &Bound<'_, PyAny>) -> PyResult<Self> {
        let named = |name| Ok::<_, PyErr>(calls.getattr(name)?.unbind());
        Ok(ApplicationCalls {
            application: named("application")?,
            make_full: named("make_full")?,
            answer: named("answer")?,
            fail: named("fail")?,
        })
    }

    /// Answer an exchange; false where the gateway has to, and nothing has been done.
    pub fn handle(&self, exchange: &Bound<'_, Exchange>) -> PyResult<bool> {
        let py = exchange.py();
        let (environ, body, is_head) = {
            let this = exchange.try_borrow()?;
            let Some(body) = &this.body else {
                return Ok(false); // it is streamed
            };
            let environ = this.environ.bind(py).clone();
            (environ, body.bind(py).clone(), this.is_head)
        };
        let keys = keys(py);
        if environ.contains(&keys.outside_mount)? {
            return Ok(false);
        }
        let make_full = self.make_full.clone_ref(py);
        let response = FastResponse::new(exchange.clone().unbind(), is_head, make_full);
        let response = Bound::new(py, response)?;
        environ.set_item(&keys.input, &body)?;
        environ.set_item(
            &keys.early_hints,
            response.getattr(intern!(py, "early_hints"))?,
        )?;
        let start_response = response.getattr(intern!(py, "start_response"))?;
        let result = self.application.bind(py).call1((&environ, start_response));
        let handled = match result {
            Ok(result) => match only_block(&result) {
                Some(block) => match FastResponse::send_plain(&response, &block) {
                    Ok(true) => {
                        close_body(&environ, &body);
                        Ok(())
                    }
                    Ok(false) => self.answer(exchange, &response, &body, &result),
                    Err(error) => self.fail(exchange, &response, &body, error),
                },
                None => self.answer(exchange, &response, &body, &result),
            },
            Err(error) => self.fail(exchange, &response, &body, error),
        };
        // Whatever has happened: the exchange leads to the environ, and that leads to the response.
        FastResponse::forget_exchange(&response)?;
        handled.map(|()| true)
    }

    fn answer(
        &self,
        exchange: &Bound<'_, Exchange>,
        response: &Bound<'_, FastResponse>,
        body: &Bound<'_, PyAny>,
        result: &Bound<'_, PyAny>,
    ) -> PyResult<()> {
        let answer = self.answer.bind(exchange.py());
        answer.call1((exchange, response, body, result)).map(drop)
    }

    #[cold]
    fn fail(
        &self,
        exchange: &Bound<'_, Exchange>,
        response: &Bound<'_, FastResponse>,
        body: &Bound<'_, PyAny>,
        error: PyErr,
    ) -> PyResult<()> {
        let py = exchange.py();
        let error = error.into_value(py);
        self.fail
            .bind(py)
            .call1((exchange, response, body, error))
            .map(drop)
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
/// exchange, once for the caller, and the body once for the environ.
const ENVIRON_REFERENCES: isize = 2;
const BODY_REFERENCES: isize = 3;

/// Close the body where it does not end with the exchange: the application may have kept it, or have
/// put it into a cycle, which would keep it until it is collected.
fn close_body(environ: &Bound<'_, PyDict>, body: &Bound<'_, PyAny>) {
    if references(environ) > ENVIRON_REFERENCES || references(body) > BODY_REFERENCES {
        // A view of the body that the application has kept is no failure.
        drop(body.call_method0(intern!(body.py(), "close")));
    }
}
