//! What is kept of a connection for the environ of its requests.

use crate::ffi::latin1;
use crate::held::Held;
use crate::tls;
use penstock_reactor::connection::Connection;
use penstock_reactor::disconnect::find_gone;
use pyo3::exceptions::PyRuntimeError;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyString};
use std::any::Any;
use std::sync::{Arc, Weak};

/// `penstock.client_gone` of an environ: a connection's own, whichever of its requests asks.
#[pyclass(module = "penstock._native", frozen)]
pub struct ClientGone {
    connection: Weak<Connection>,
}

#[pymethods]
impl ClientGone {
    /// Return whether the client is known to have left. Any thread may ask, at any time.
    fn __call__(&self) -> bool {
        match self.connection.upgrade() {
            Some(connection) => find_gone(&connection),
            None => true,
        }
    }
}

/// What the requests of a connection have in their environ that is the connection's own.
pub struct Companion {
    pub client_gone: Py<ClientGone>,
    /// REMOTE_ADDR; empty for a unix socket.
    pub address: Py<PyString>,
    /// What the PROXY header says of the client's TLS.
    pub proxied: Option<Py<PyDict>>,
    /// REMOTE_PORT; a unix socket has none.
    pub port: Option<Py<PyString>>,
    /// What only TLS connections have.
    pub tls: Option<Py<PyDict>>,
}

impl Companion {
    /// The connection's, made for its first request.
    pub fn of<'a>(py: Python<'_>, connection: &'a Arc<Connection>) -> PyResult<&'a Self> {
        let known = connection.companion.get();
        if let Some(known) = known.and_then(|made| made.downcast_ref::<Held<Self>>()?.get()) {
            return Ok(known);
        }
        let client_gone = ClientGone {
            connection: Arc::downgrade(connection),
        };
        let (address, port) = connection.peer().unzip();
        // A packet of the uwsgi protocol may name a client without its port.
        let port = port.filter(|port| *port > 0 || connection.said().is_none());
        let mut proxied = None;
        if !connection.stream.is_secure() && !connection.proxied_variables().is_empty() {
            let variables = PyDict::new(py);
            for (name, value) in connection.proxied_variables() {
                variables.set_item(name, latin1(py, value)?)?;
            }
            proxied = Some(variables.unbind());
        }
        let address = address.map_or(String::new(), |ip| ip.to_string());
        let session = connection.stream.session();
        let tls = session.map(|session| tls::environ_of(py, &session));
        let made: Box<dyn Any + Send + Sync> = Box::new(Held::new(Companion {
            client_gone: Py::new(py, client_gone)?,
            proxied,
            address: PyString::new(py, &address).unbind(),
            port: port.map(|port| PyString::new(py, &port.to_string()).unbind()),
            tls: tls.transpose()?.map(Bound::unbind),
        }));
        let made = connection.companion.get_or_init(|| made);
        let companion = made.downcast_ref::<Held<Self>>().and_then(Held::get);
        companion.ok_or_else(|| {
            PyRuntimeError::new_err("the connection belongs to another kind of transport")
        })
    }
}
