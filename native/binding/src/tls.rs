//! `penstock.edge.tls.TlsMaterial` as the reactor has it, and what the environ tells of a session.

use penstock_reactor::stream::Session;
use pyo3::prelude::*;
use pyo3::types::PyDict;

/// The part of the environ that is a TLS connection's own.
pub fn environ_of<'py>(py: Python<'py>, session: &Session) -> PyResult<Bound<'py, PyDict>> {
    let environ = PyDict::new(py);
    environ.set_item("SSL_PROTOCOL", session.protocol)?;
    environ.set_item("SSL_CIPHER", session.cipher)?;
    if let Some(name) = &session.server_name {
        environ.set_item("SSL_SERVER_NAME", name)?;
    }
    if session.asks {
        let edge = py.import("penstock.edge.tls")?;
        let der = session.certificate.as_deref();
        match edge.call_method1("client_certificate_environ", (der,)) {
            Ok(of_client) => environ.update(of_client.cast::<PyDict>()?.as_mapping())?,
            Err(error) => {
                // A certificate that rustls has verified and Python cannot read: its client has no
                // name here, so that it is treated as one that has sent none.
                error.write_unraisable(py, None);
                environ.set_item("SSL_CLIENT_VERIFY", "NONE")?;
            }
        }
    }
    Ok(environ)
}

#[cfg(feature = "tls")]
mod material {
    use penstock_reactor::tls::{ClientCertificates, Material, Pair, TlsServer};
    use pyo3::prelude::*;

    /// What serves with a `penstock.edge.tls.TlsMaterial`; raises `TlsError`.
    pub fn server_of(py: Python<'_>, material: &Bound<'_, PyAny>) -> PyResult<TlsServer> {
        let material = read_material(material)?;
        match py.detach(|| TlsServer::new(&material)) {
            Ok(server) => Ok(server),
            Err(why) => {
                let error = py.import("penstock.edge.tls")?.getattr("TlsError")?;
                Err(PyErr::from_value(error.call1((why,))?))
            }
        }
    }

    /// A `penstock.edge.tls.TlsMaterial`.
    fn read_material(given: &Bound<'_, PyAny>) -> PyResult<Material> {
        let get = |name: &str| given.getattr(name);
        let alpn: Vec<String> = get("alpn")?.extract()?;
        Ok(Material {
            pairs: read_pairs(&get("pairs")?)?,
            client_ca: get("client_ca")?.extract()?,
            client_certificates: match get("client_certificates")?.extract::<String>()?.as_str() {
                "none" => ClientCertificates::None,
                "optional" => ClientCertificates::Optional,
                _ => ClientCertificates::Required,
            },
            only_tls13: get("minimum_version")?.extract::<String>()? == "1.3",
            ciphers: get("ciphers")?.extract()?,
            alpn: alpn.into_iter().map(String::into_bytes).collect(),
            ticket_keys: get("ticket_keys")?.extract()?,
            key_log: get("key_log")?.extract()?,
            alpn_challenges: match given.getattr_opt("alpn_challenges")? {
                Some(pairs) => read_pairs(&pairs)?,
                None => Vec::new(),
            },
        })
    }

    fn read_pairs(given: &Bound<'_, PyAny>) -> PyResult<Vec<Pair>> {
        let mut pairs = Vec::new();
        for pair in given.try_iter()? {
            let pair = pair?;
            pairs.push(Pair {
                certificate: pair.getattr("certificate")?.extract()?,
                key: pair.getattr("key")?.extract()?,
                names: pair.getattr("names")?.extract()?,
            });
        }
        Ok(pairs)
    }
}

#[cfg(feature = "tls")]
pub use material::server_of;
