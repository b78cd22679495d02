//! The configuration that a transport gets from Python.

use crate::environ::whole_path;
use crate::ffi::latin1;
use crate::log_writer::LogWriter;
use penstock_protocol::Head;
use penstock_reactor::sys::{Nanos, SECOND};
use pyo3::exceptions::PyOverflowError;
use pyo3::prelude::*;

/// What there is of it in Python.
pub struct Policy {
    timeout: Nanos,
    /// The longest timeout, in seconds: deadlines are words of 64 bits.
    longest: f64,
    timeout_for: Option<Py<PyAny>>,
    /// How long without progress an application may make the deadline of its call.
    pub timeout_max: Nanos,
}

impl Policy {
    /// `config` is a `penstock.transport.config.TransportConfig`.
    pub fn new(config: &Bound<'_, PyAny>) -> PyResult<Self> {
        let optional = |name: &str| -> PyResult<Option<Py<PyAny>>> {
            let value = config.getattr(name)?;
            Ok((!value.is_none()).then(|| value.unbind()))
        };
        let longest = config.getattr("longest_timeout_seconds")?.extract()?;
        Ok(Policy {
            timeout: nanos(config.getattr("timeout")?.extract()?, longest),
            longest,
            timeout_for: optional("timeout_for")?,
            timeout_max: nanos(config.getattr("timeout_max")?.extract()?, longest),
        })
    }

    /// Nanoseconds of seconds; 0 for less than 0, and for NaN.
    pub fn nanos(&self, seconds: &Bound<'_, PyAny>) -> PyResult<Nanos> {
        match seconds.extract() {
            Ok(seconds) => Ok(nanos(seconds, self.longest)),
            // An int beyond every float is as good as infinity.
            Err(error) if error.is_instance_of::<PyOverflowError>(seconds.py()) => {
                Ok(if seconds.gt(0)? {
                    nanos(self.longest, self.longest)
                } else {
                    0
                })
            }
            Err(error) => Err(error),
        }
    }

    /// Whether calls have deadlines, as far as one can tell beforehand.
    pub fn limits_calls(&self) -> bool {
        self.timeout > 0 || self.timeout_for.is_some()
    }

    /// How long a call may last for a path, decoded; 0 is for ever.
    #[inline(always)]
    pub fn timeout(
        &self,
        py: Python<'_>,
        log_writer: &LogWriter,
        head: &Head,
        bytes: &[u8],
    ) -> Nanos {
        match &self.timeout_for {
            None => self.timeout,
            Some(ask) => self.ask(py, log_writer, ask, head, bytes),
        }
    }

    #[cold]
    fn ask(
        &self,
        py: Python<'_>,
        log_writer: &LogWriter,
        timeout_for: &Py<PyAny>,
        head: &Head,
        bytes: &[u8],
    ) -> Nanos {
        let asked = latin1(py, &whole_path(head, bytes))
            .and_then(|path| timeout_for.bind(py).call1((path,)))
            .and_then(|seconds| self.nanos(&seconds));
        match asked {
            Ok(nanos) => nanos,
            Err(error) => {
                let path = String::from_utf8_lossy(head.path(bytes));
                log_writer.log_timeout_for_failed(py, &path, &error);
                self.timeout
            }
        }
    }
}

/// Nanoseconds of seconds; 0 for less than 0, and for NaN, which `min` would make the longest.
fn nanos(seconds: f64, longest: f64) -> Nanos {
    if seconds > 0.0 {
        (seconds.min(longest) * SECOND as f64) as Nanos
    } else {
        0
    }
}
