//! Records of finished requests: `penstock.telemetry.request_finished.RequestFinished`.

use crate::access_line::address;
use crate::ffi::{latin1, latin1_bytes};
use crate::head_parts::{given_field, request_line};
use crate::record::Record;
use penstock_protocol::HeadCopy;
use penstock_reactor::exchange_trace::Transcript;
use penstock_reactor::log_queue::{Ended, RefusalNote, Times};
use penstock_reactor::sys::{self, Nanos, Peer, SECOND};
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyFloat, PyFrozenSet, PyString, PyTuple};

/// Makes the records, with what the observers need in them.
pub struct RequestMaker {
    class: Py<PyAny>,
    /// `penstock.telemetry.request_finished.Transcript`.
    transcript_class: Py<PyAny>,
    /// `penstock.telemetry.request_finished.wanted_variables`.
    wanted_variables: Py<PyAny>,
    /// Names in lower case.
    request_fields: Vec<String>,
    response_fields: Vec<String>,
    environ: Option<Py<PyFrozenSet>>,
    nothing: Py<PyDict>,
}

/// A record, and about how many bytes of text it has.
pub type Made = (Py<PyAny>, usize);

struct Parts<'a, 'py> {
    peer: Peer,
    socket_peer: Peer,
    request: Option<&'a HeadCopy>,
    /// The request line where there is no head; unchecked.
    line: &'a [u8],
    request_id: Bound<'py, PyString>,
    status: u16,
    bytes_in: u64,
    bytes_out: u64,
    ended: Ended,
    reason: &'a str,
    times: &'a Times,
    /// Where the request's fields are taken from.
    fields: Option<&'a HeadCopy>,
    response_fields: Bound<'py, PyDict>,
    environ: Bound<'py, PyAny>,
    transcript: Option<&'a Transcript>,
}

impl RequestMaker {
    /// `needs` is a `penstock.telemetry.request_finished.Needs`.
    pub fn new(py: Python<'_>, needs: &Bound<'_, PyAny>) -> PyResult<Self> {
        let module = py.import("penstock.telemetry.request_finished")?;
        let names = |kind: &str| -> PyResult<Vec<String>> {
            needs
                .getattr(kind)?
                .try_iter()?
                .map(|name| name?.extract())
                .collect()
        };
        let environ = needs.getattr("environ")?.cast_into::<PyFrozenSet>()?;
        Ok(RequestMaker {
            class: module.getattr("RequestFinished")?.unbind(),
            transcript_class: module.getattr("Transcript")?.unbind(),
            wanted_variables: module.getattr("wanted_variables")?.unbind(),
            request_fields: names("request_fields")?,
            response_fields: names("response_fields")?,
            environ: (!environ.is_empty()).then(|| environ.unbind()),
            nothing: PyDict::new(py).unbind(),
        })
    }

    /// The record of a request that the application has answered.
    pub fn answered(&self, py: Python<'_>, record: &Record) -> PyResult<Made> {
        let mut response_fields = self.nothing.bind(py).clone();
        if let (Some(head), false) = (&record.head, self.response_fields.is_empty()) {
            response_fields = PyDict::new(py);
            for name in &self.response_fields {
                if let Some(value) = head.field(name.as_bytes()) {
                    response_fields.set_item(name, latin1(py, &value)?)?;
                }
            }
        }
        let environ = match &self.environ {
            Some(names) => self
                .wanted_variables
                .bind(py)
                .call1((names, &record.environ))?,
            None => self.nothing.bind(py).clone().into_any(),
        };
        self.make(
            py,
            &Parts {
                peer: record.peer,
                socket_peer: record.socket_peer,
                request: record.request.as_ref(),
                line: &[],
                request_id: record.request_id.bind(py).clone(),
                status: record.code(),
                bytes_in: record.bytes_in,
                bytes_out: record.bytes_out,
                ended: record.ended,
                reason: &record.reason,
                times: &record.times,
                fields: record.request.as_ref(),
                response_fields,
                environ,
                transcript: record.transcript.as_deref(),
            },
        )
    }

    /// The record of a request that was refused, or lost with its client.
    pub fn refused(&self, py: Python<'_>, note: &RefusalNote, ended: Ended) -> PyResult<Made> {
        let refusal = &note.refusal;
        self.make(
            py,
            &Parts {
                peer: note.peer,
                socket_peer: note.socket_peer,
                request: note.request.as_ref(),
                line: &refusal.request_line,
                request_id: PyString::new(py, &note.request_id),
                status: refusal.status,
                bytes_in: note.bytes_in,
                bytes_out: note.bytes_out,
                ended,
                reason: match refusal.logged.as_str() {
                    "" => &refusal.reason,
                    logged => logged,
                },
                times: &note.times,
                fields: note.request.as_ref().or(refusal.head.as_ref()),
                response_fields: self.nothing.bind(py).clone(),
                environ: self.nothing.bind(py).clone().into_any(),
                transcript: note.transcript.as_deref(),
            },
        )
    }

    fn make(&self, py: Python<'_>, parts: &Parts<'_, '_>) -> PyResult<Made> {
        let line = parts.request.map_or(parts.line.to_vec(), request_line);
        let words: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
        let (method, target, protocol) = match words.as_slice() {
            [method, target, protocol] => (*method, *target, *protocol),
            _ => (&b"-"[..], &b"-"[..], &b"-"[..]),
        };
        let shown: &[u8] = if line.is_empty() { b"-" } else { &line };
        let mut bytes = line.len() + parts.reason.len();
        let mut request_fields = self.nothing.bind(py).clone();
        if let (Some(copy), false) = (parts.fields, self.request_fields.is_empty()) {
            request_fields = PyDict::new(py);
            for name in &self.request_fields {
                if let Some(value) = given_field(copy, name.as_bytes()) {
                    bytes += value.len();
                    request_fields.set_item(name, latin1(py, &value)?)?;
                }
            }
        }
        let ended = match parts.ended {
            Ended::Complete => intern!(py, "complete"),
            Ended::Refused => intern!(py, "refused"),
            Ended::Disconnected => intern!(py, "disconnected"),
            Ended::Aborted => intern!(py, "aborted"),
        };
        let port = parts
            .peer
            .filter(|(_, port)| *port > 0)
            .map_or(String::new(), |(_, port)| port.to_string());
        let times = parts.times;
        let transcript = match parts.transcript {
            Some(transcript) => {
                bytes += transcript.size();
                self.transcript(py, transcript)?
            }
            None => py.None().into_bound(py),
        };
        // In the order of the class's fields.
        let values = [
            parts.request_id.clone().into_any(),
            PyString::new(py, &address(parts.peer)).into_any(),
            PyString::new(py, &port).into_any(),
            latin1(py, method)?.into_any(),
            latin1(py, target)?.into_any(),
            latin1(py, protocol)?.into_any(),
            latin1(py, shown)?.into_any(),
            parts.status.into_pyobject(py)?.into_any(),
            parts.bytes_in.into_pyobject(py)?.into_any(),
            parts.bytes_out.into_pyobject(py)?.into_any(),
            ended.clone().into_any(),
            PyString::new(py, parts.reason).into_any(),
            PyFloat::new(py, sys::wall()).into_any(),
            PyFloat::new(py, seconds(times.finished)).into_any(),
            PyFloat::new(py, seconds(times.begun)).into_any(),
            moment(py, times.accepted),
            moment(py, times.head),
            moment(py, times.body),
            moment(py, times.taken),
            moment(py, times.first_byte),
            request_fields.into_any(),
            parts.response_fields.clone().into_any(),
            parts.environ.clone(),
            transcript,
            PyFloat::new(py, seconds(times.queue)).into_any(),
            PyString::new(py, &address(parts.socket_peer)).into_any(),
        ];
        let request = self.class.bind(py).call1(PyTuple::new(py, values)?)?;
        Ok((request.unbind(), bytes + texts_in(&parts.response_fields)?))
    }

    fn transcript<'py>(
        &self,
        py: Python<'py>,
        transcript: &Transcript,
    ) -> PyResult<Bound<'py, PyAny>> {
        let mut headers = Vec::new();
        for (name, value) in &transcript.headers {
            headers.push((latin1(py, name)?, latin1(py, value)?));
        }
        // In the order of the class's fields.
        self.transcript_class.bind(py).call1((
            transcript.connection,
            transcript.number,
            PyBytes::new(py, &transcript.head),
            PyBytes::new(py, &transcript.request_body),
            latin1(py, &transcript.interim)?,
            latin1(py, &transcript.status)?,
            PyTuple::new(py, headers)?,
            latin1(py, &transcript.added)?,
            PyBytes::new(py, &transcript.response_body),
        ))
    }
}

fn seconds(time: Nanos) -> f64 {
    time as f64 / SECOND as f64
}

/// A time as Python has it; None where it is 0.
fn moment(py: Python<'_>, time: Nanos) -> Bound<'_, PyAny> {
    if time == 0 {
        return py.None().into_bound(py);
    }
    PyFloat::new(py, seconds(time)).into_any()
}

fn texts_in(fields: &Bound<'_, PyDict>) -> PyResult<usize> {
    let mut bytes = 0;
    for (_, value) in fields.iter() {
        bytes += latin1_bytes(value.cast::<PyString>()?)?.len();
    }
    Ok(bytes)
}
