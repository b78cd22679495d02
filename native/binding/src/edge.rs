//! What one client may do: the networks and the rate of a `TransportConfig`.

use crate::ffi::latin1;
use penstock_reactor::client::{Networks, Ranges};
use penstock_reactor::forwarded::{ForwardedPolicy, NAMES, Node, Peers, Scheme};
use penstock_reactor::proxy_protocol::{self, Versions};
use penstock_reactor::rate_limit::{RateLimit, RateTable};
use penstock_reactor::uwsgi;
use pyo3::IntoPyObjectExt;
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyString};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::ptr::NonNull;

/// The field `networks`; None where all clients may connect.
pub fn read_networks(config: &Bound<'_, PyAny>) -> PyResult<Option<Networks>> {
    let networks = config.getattr("networks")?;
    if networks.is_none() {
        return Ok(None);
    }
    networks_of(&networks).map(Some)
}

/// A `penstock.edge.client.Networks`.
fn networks_of(networks: &Bound<'_, PyAny>) -> PyResult<Networks> {
    let part = |family: &str, name: &str| networks.getattr(family)?.getattr(name);
    let admitted = |family: &str| part(family, "admitted")?.extract::<Vec<bool>>();
    Ok(Networks {
        ipv4: Ranges::new(
            &part("ipv4", "starts")?.extract::<Vec<u32>>()?,
            &admitted("ipv4")?,
        ),
        ipv6: Ranges::new(
            &part("ipv6", "starts")?.extract::<Vec<u128>>()?,
            &admitted("ipv6")?,
        ),
    })
}

/// The field `forwarded`.
pub fn read_forwarded_policy(config: &Bound<'_, PyAny>) -> PyResult<ForwardedPolicy> {
    let policy = config.getattr("forwarded")?;
    let believed = policy.getattr("fields")?;
    let mut fields = Vec::new();
    for (name, field) in NAMES {
        if believed.contains(name)? {
            fields.push(field);
        }
    }
    let secure = policy
        .getattr("secure")?
        .extract::<Vec<(String, String)>>()?;
    let bytes = |text: String| -> Vec<u8> { text.into_bytes() };
    Ok(ForwardedPolicy {
        peers: read_peers(&policy.getattr("peers")?)?,
        believed: fields,
        secure: secure
            .into_iter()
            .map(|(name, value)| (bytes(name), bytes(value)))
            .collect(),
        drops: policy.getattr("drops")?.extract()?,
        request_id_length: policy.getattr("request_id_length")?.extract()?,
    })
}

/// The field `proxy_versions`.
pub fn read_proxy_versions(config: &Bound<'_, PyAny>) -> PyResult<Versions> {
    let versions = config.getattr("proxy_versions")?;
    Ok(Versions {
        v1: versions.contains(1)?,
        v2: versions.contains(2)?,
    })
}

/// What is read of the beginning of a connection, for the test that compares both languages: how
/// many bytes are the PROXY header's, or the reason for which there is none; and, where it is
/// complete, its client and its variables.
pub fn read_proxy_header<'py>(
    py: Python<'py>,
    config: &Bound<'py, PyAny>,
    data: &[u8],
) -> PyResult<Bound<'py, PyAny>> {
    let most = config.getattr("proxy_header_bytes")?.extract()?;
    let scanned = proxy_protocol::scan(data, read_proxy_versions(config)?, most);
    let header = match scanned {
        Err(reason) => return Ok(PyString::new(py, reason).into_any()),
        Ok((size, false)) => return size.into_bound_py_any(py),
        Ok((size, true)) => data.get(..size).unwrap_or_default(),
    };
    let found = match proxy_protocol::parse(header) {
        Err(reason) => return Ok(PyString::new(py, reason).into_any()),
        Ok(found) => found,
    };
    let client = found
        .client
        .map(|(address, port)| (address.to_string(), port.to_string()));
    let variables = PyDict::new(py);
    for (name, value) in &found.variables {
        variables.set_item(name, latin1(py, value)?)?;
    }
    (header.len(), client, variables).into_bound_py_any(py)
}

/// What is read of a packet of the uwsgi protocol, for the test that compares both languages: the
/// size that it is to have, or status, reason and setting of its refusal, or, where it is complete,
/// head, client, scheme, port, script name, request id and variables.
pub fn read_packet<'py>(
    py: Python<'py>,
    config: &Bound<'py, PyAny>,
    data: &[u8],
) -> PyResult<Bound<'py, PyAny>> {
    let most = config.getattr("parser")?.getattr("head")?.extract()?;
    let id_length = read_forwarded_policy(config)?.request_id_length;
    let found = match uwsgi::scan(data, most) {
        Ok(size) if size > data.len() => return size.into_bound_py_any(py),
        Ok(size) => uwsgi::parse(data.get(..size).unwrap_or_default(), id_length),
        Err(bad) => Err(bad),
    };
    let found = match found {
        Err(bad) => return (bad.status, bad.reason, bad.setting).into_bound_py_any(py),
        Ok(found) => found,
    };
    let shown = |port: u16| match port {
        0 => String::new(),
        port => port.to_string(),
    };
    let client = found
        .client
        .map(|(address, port)| (address.to_string(), shown(port)));
    let variables = PyDict::new(py);
    for (name, value) in &found.variables {
        variables.set_item(name, latin1(py, value)?)?;
    }
    let parts = (
        PyBytes::new(py, &found.head),
        client,
        scheme_name(found.said.scheme),
        shown(found.said.port),
        latin1(py, &found.said.script_name)?,
        latin1(py, &found.said.request_id)?,
        variables,
    );
    parts.into_bound_py_any(py)
}

fn scheme_name(scheme: Option<Scheme>) -> &'static str {
    match scheme {
        None => "",
        Some(Scheme::Http) => "http",
        Some(Scheme::Https) => "https",
    }
}

/// A `penstock.edge.forwarded.Peers`.
pub fn read_peers(peers: &Bound<'_, PyAny>) -> PyResult<Peers> {
    Ok(Peers {
        networks: networks_of(&peers.getattr("networks")?)?,
        any_peer: peers.getattr("any_peer")?.extract()?,
        unix: peers.getattr("unix")?.extract()?,
    })
}

/// What a policy reads in the head of a request, for the test that compares both languages: None
/// for nothing, or the reason for which the request is refused, or client, port, scheme, host,
/// port, prefix, script name and request id.
pub fn read_forwarded<'py>(
    py: Python<'py>,
    config: &Bound<'py, PyAny>,
    head: &[u8],
) -> PyResult<Bound<'py, PyAny>> {
    let policy = read_forwarded_policy(config)?;
    let mut input = penstock_protocol::Input::new(head);
    let mut parsed = penstock_protocol::Head::default();
    let limits = penstock_protocol::Limits::default();
    let event = penstock_protocol::Parser::new().next_event(&mut input, &limits, &mut parsed);
    let Ok(penstock_protocol::Event::Request(bytes)) = event else {
        return Err(PyValueError::new_err("no request"));
    };
    let read = match (parsed.forwarding || policy.reads_all()).then(|| policy.read(&parsed, bytes))
    {
        None => return Ok(py.None().into_bound(py)),
        Some(Err(reason)) => return Ok(PyString::new(py, &reason).into_any()),
        Some(Ok(read)) => read,
    };
    let Some(read) = read else {
        return Ok(py.None().into_bound(py));
    };
    let text = |bytes: &[u8]| latin1(py, bytes);
    let client = match read.client {
        None => py.None().into_bound(py),
        Some(Node::Unix) => PyString::new(py, "unix").into_any(),
        Some(Node::Hidden) => PyString::new(py, "").into_any(),
        Some(Node::Address(address, 0)) => PyString::new(py, &address.to_string()).into_any(),
        Some(Node::Address(address, port)) => {
            PyString::new(py, &format!("{address} {port}")).into_any()
        }
    };
    let port = match read.port {
        0 => String::new(),
        port => port.to_string(),
    };
    let parts = (
        client,
        scheme_name(read.scheme),
        text(&read.host)?,
        port,
        text(&read.prefix)?,
        text(&read.script_name)?,
        text(&read.request_id)?,
    );
    parts.into_bound_py_any(py)
}

/// The fields `request_rate` and `rate_table`; None where any number of requests may come.
pub fn open_rate_limit(config: &Bound<'_, PyAny>) -> PyResult<Option<(RateTable, RateLimit)>> {
    let (rate, table) = (
        config.getattr("request_rate")?,
        config.getattr("rate_table")?,
    );
    if rate.is_none() || table.is_none() {
        return Ok(None);
    }
    let ticks = |name: &str| rate.getattr(name)?.extract::<u64>();
    let limit = RateLimit {
        interval: ticks("interval")?,
        horizon: ticks("horizon")?,
    };
    let other = || PyValueError::new_err("the table of rates has another layout");
    let (k0, k1) = table.getattr("keys")?.extract::<(u64, u64)>()?;
    let buffer = PyBuffer::<u8>::get(&table.getattr("memory")?)?;
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(other());
    }
    let start = NonNull::new(buffer.buf_ptr().cast::<u8>()).ok_or_else(other)?;
    let bytes = buffer.len_bytes();
    // SAFETY: the buffer stays where it is until it is released, which its end does; it is
    // writable, and nothing in this process refers to what is in it.
    let table = unsafe { RateTable::new(start, bytes, (k0, k1), Box::new(buffer)) };
    Ok(Some((table.ok_or_else(other)?, limit)))
}

/// What these make of numbers, for the test; None for any other name. An address is its bits in
/// words of 32, four for IPv6 and one for IPv4.
pub fn decide(
    config: &Bound<'_, PyAny>,
    name: &str,
    given: &[Option<f64>],
) -> PyResult<Option<f64>> {
    let words: Vec<u64> = given
        .iter()
        .map(|word| word.unwrap_or(0.0) as u64)
        .collect();
    Ok(match (name, words.as_slice()) {
        ("networks_admit", address) => {
            let networks = read_networks(config)?.unwrap_or_default();
            Some(f64::from(u8::from(networks.admits(address_of(address)))))
        }
        ("take_request", [now, address @ ..]) => {
            let key = penstock_reactor::client::key_of(address_of(address));
            let limit = open_rate_limit(config)?;
            Some(limit.map_or(0.0, |(table, limit)| table.take(&limit, key, *now) as f64))
        }
        ("key_of", [half, address @ ..]) => {
            let key = penstock_reactor::client::key_of(address_of(address));
            Some(
                (if *half == 0 {
                    key >> 32
                } else {
                    key & 0xffff_ffff
                }) as f64,
            )
        }
        _ => None,
    })
}

fn address_of(words: &[u64]) -> IpAddr {
    let bits = words
        .iter()
        .fold(0_u128, |bits, word| bits << 32 | u128::from(*word));
    if words.len() == 1 {
        IpAddr::V4(Ipv4Addr::from_bits(bits as u32))
    } else {
        IpAddr::V6(Ipv6Addr::from_bits(bits))
    }
}
