//! Exchanges that end without the application's whole response: it was given up by the gateway, or
//! the server ends it, with 504 at a deadline and at the end of a stop.

use crate::exchange::Exchange;
use crate::ffi::latin1_bytes;
use crate::response_head::ResponseHead;
use penstock_protocol::Framing;
use penstock_reactor::refusal::Refusal;
use penstock_reactor::responding;
use penstock_reactor::states::{Fate, ResponseState};
use pyo3::intern;
use pyo3::prelude::*;
use std::sync::Arc;

pub fn abort(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    if let Some(websocket) = relayed(slf)? {
        let reason = std::mem::take(&mut slf.try_borrow_mut()?.reason);
        let reason = match reason.as_str() {
            "" => "response cut off",
            reason => reason,
        };
        return cut(slf, &websocket, reason);
    }
    {
        let mut this = slf.try_borrow_mut()?;
        if this.response.is_over() {
            return Ok(());
        }
        if this.core.shared.closed_in_child.get() {
            this.response.move_to(ResponseState::Ended);
            return Ok(());
        }
        let connection = &this.request_body.connection;
        let mut state = connection.lock();
        responding::uncork(connection, &mut state); // an earlier response, or blocks of this one
        // A body that ends with the connection would look complete; so would a connection
        // that closes in good order before any response, to a client that retries.
        let unseen = this.response.is_waiting() || this.framing == Framing::Close;
        let reset = connection.is_gone() || unseen;
        connection.stream.cut_short();
        state
            .exchange
            .fate
            .worsen(if reset { Fate::Reset } else { Fate::Close });
    }
    let reason = std::mem::take(&mut slf.try_borrow_mut()?.reason);
    if reason.is_empty() {
        return Exchange::end(slf, "response cut off");
    }
    Exchange::end(slf, &reason)
}

/// End an exchange whose thread does not come back; return whether it was still in progress.
pub fn time_out(slf: &Bound<'_, Exchange>, reason: &str) -> PyResult<bool> {
    if let Some(websocket) = relayed(slf)? {
        cut(slf, &websocket, reason)?;
        return Ok(true);
    }
    {
        let mut this = slf.try_borrow_mut()?;
        if this.response.is_over() || this.shared().closed_in_child.get() {
            return Ok(false);
        }
        reason.clone_into(&mut this.reason);
        let connection = Arc::clone(&this.request_body.connection);
        let mut state = connection.lock();
        responding::uncork(&connection, &mut state); // an earlier response, or blocks of this one
        state.exchange.fate.worsen(if this.response.is_waiting() {
            Fate::Close
        } else {
            Fate::Reset
        });
        drop(state);
        if this.response.is_waiting() && answer_given_up(&mut this, slf.py()).is_err() {
            connection.lock().exchange.fate.worsen(Fate::Reset);
        }
    }
    Exchange::end_as(slf, ResponseState::Aborted, reason)?;
    Ok(true)
}

/// The WebSocket that the application has in the place of a response.
fn relayed(slf: &Bound<'_, Exchange>) -> PyResult<Option<Py<PyAny>>> {
    let this = slf.try_borrow()?;
    let relays = this.response.is_relaying() && !this.shared().closed_in_child.get();
    let websocket = this.websocket.as_ref().filter(|_| relays);
    Ok(websocket.map(|websocket| websocket.clone_ref(slf.py())))
}

/// End a WebSocket: its relay gives the stream back first, and ends the exchange.
fn cut(slf: &Bound<'_, Exchange>, websocket: &Py<PyAny>, reason: &str) -> PyResult<()> {
    websocket
        .call_method1(slf.py(), intern!(slf.py(), "cut"), (reason,))
        .map(drop)
}

fn answer_given_up(this: &mut Exchange, py: Python<'_>) -> PyResult<()> {
    let refusal = Refusal::timed_out(&this.shared().options.timed_out);
    let stream = &*this.request_body.connection.stream;
    let id = || {
        String::from_utf8_lossy(latin1_bytes(this.request_id.bind(py)).unwrap_or_default())
            .into_owned()
    };
    let answer = this
        .shared()
        .error_response(&refusal, this.is_head, stream, id);
    this.response.move_to(ResponseState::Sending);
    this.head = Some(Arc::new(ResponseHead::new(b"504 Gateway Timeout", 504)));
    this.transmit(&[&answer.head[..], &answer.body].concat())?;
    this.body_sent += answer.body.len() as u64;
    if let Some(trace) = &mut this.request_body.connection.lock().trace {
        trace.answered(&answer);
    }
    Ok(())
}
