//! The scoreboard's memory, which Python owns; `penstock_reactor::scoreboard` writes to it.

use penstock_reactor::scoreboard::{Memory, Scoreboard, Shape};
use pyo3::buffer::PyBuffer;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use std::ptr::NonNull;

/// `slot` is a `penstock.telemetry.scoreboard.Slot`.
pub fn open(slot: &Bound<'_, PyAny>) -> PyResult<Scoreboard> {
    let scoreboard = slot.getattr("scoreboard")?;
    let shape = Shape {
        slots: scoreboard.getattr("slots")?.len()?,
        slot_bytes: scoreboard.getattr("slot_bytes")?.extract()?,
        index: slot.getattr("index")?.extract()?,
        threads: scoreboard.getattr("threads")?.extract()?,
        records: scoreboard.getattr("records")?.extract()?,
        rings: scoreboard.getattr("rings")?.extract()?,
        entries: scoreboard.getattr("entries")?.extract()?,
    };
    let buffer = PyBuffer::<u8>::get(&scoreboard.getattr("memory")?)?;
    let other_layout = || PyValueError::new_err("the scoreboard has another layout");
    if buffer.readonly() || !buffer.is_c_contiguous() {
        return Err(other_layout());
    }
    let start = NonNull::new(buffer.buf_ptr().cast::<u8>()).ok_or_else(other_layout)?;
    let bytes = buffer.len_bytes();
    // SAFETY: the buffer stays where it is until it is released, which its end does; it is
    // writable, and nothing in this process refers to what is in it.
    let memory = unsafe { Memory::new(start, bytes, Box::new(buffer)) };
    Scoreboard::new(memory, shape).ok_or_else(other_layout)
}
