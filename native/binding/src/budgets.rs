//! The budgets of a `penstock.transport.config.TransportConfig`.

use penstock_reactor::budgets::Budgets;
use penstock_reactor::sys::{Nanos, SECOND};
use pyo3::prelude::*;

pub fn read_budgets(config: &Bound<'_, PyAny>) -> PyResult<Budgets> {
    let size = |name: &str| config.getattr(name)?.extract::<usize>();
    let large = |name: &str| config.getattr(name)?.extract::<u64>();
    let time = |name: &str| {
        let seconds = config.getattr(name)?.extract::<f64>()?;
        PyResult::Ok((seconds * SECOND as f64) as Nanos)
    };
    Ok(Budgets {
        descriptors: size("max_descriptors")?,
        unfinished_heads: size("max_unfinished_heads")?,
        bodies: large("max_body_memory")?,
        spool: large("max_spool")?,
        responses_spooled: large("max_responses_spooled")?,
        out_spool: large("out_spool")?,
        unsent: large("max_unsent")?,
        connections_per_client: large("max_connections_per_client")?,
        queue: size("queue")?,
        queue_timeout: time("queue_timeout")?,
        overload_ready_after: time("overload_ready_after")?,
        body_window: time("body_window_seconds")?,
        body_time: time("max_body_time")?,
        overload_delay: time("overload_delay_seconds")?,
        overload_services: large("overload_services")?,
        overload: time("overload_seconds")?,
        retry_after: large("retry_after_seconds")?,
    })
}
