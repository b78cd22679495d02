//! Until when a call of the application must make progress: kept in the record of its thread, where
//! `penstock.worker.deadlines` reads it. `ending.rs` sends the 504,
//! `extend_deadline.rs` puts it off.
//! `penstock.transport.python.call_deadline` is the reference.

use crate::environ::keys;
use penstock_reactor::scoreboard::{
    AWAITING_CLIENT, DEADLINE, NUMBER, PROGRESS, Record, SINCE, Scoreboard,
};
use penstock_reactor::sys::{self, Nanos, SECOND};
use pyo3::prelude::*;
use pyo3::types::{PyDict, PyFloat};
use std::sync::atomic::Ordering;

/// The deadline of one call. The thread that answers writes it.
pub struct CallDeadline {
    /// Where it is kept; None for a thread that has no record.
    pub record: Option<Record>,
    /// How long the call may go on without progress; 0 is for ever.
    allowed: Nanos,
}

impl CallDeadline {
    pub fn new(record: Option<Record>, allowed: Nanos) -> Self {
        CallDeadline { record, allowed }
    }

    /// The record where calls have a deadline.
    fn limited(&self) -> Option<&Record> {
        self.record.as_ref().filter(|_| self.allowed > 0)
    }

    /// Restart the clock: the application has handed over a block.
    pub fn progress(&self, scoreboard: &Scoreboard, environ: &Bound<'_, PyDict>) -> PyResult<()> {
        let Some(record) = self.limited() else {
            return Ok(());
        };
        let now = sys::monotonic();
        put_off(
            scoreboard,
            record,
            now.saturating_add(self.allowed),
            environ,
        )?;
        set(scoreboard, record, PROGRESS, now);
        Ok(())
    }

    /// Note that the thread begins to wait for its client; return what names the call.
    pub fn stop_clock(&self, scoreboard: &Scoreboard) -> u64 {
        let Some(record) = self.limited() else {
            return 0;
        };
        set(scoreboard, record, AWAITING_CLIENT, sys::monotonic());
        get(scoreboard, record, NUMBER)
    }

    /// The wait is over: move the deadline by its length, unless the call has ended.
    pub fn go_on(
        &self,
        scoreboard: &Scoreboard,
        number: u64,
        environ: &Bound<'_, PyDict>,
    ) -> PyResult<()> {
        let Some(record) = self.limited() else {
            return Ok(());
        };
        let since = get(scoreboard, record, AWAITING_CLIENT);
        if since == 0 || get(scoreboard, record, NUMBER) != number {
            return Ok(());
        }
        let waited = sys::monotonic().saturating_sub(since);
        let deadline = get(scoreboard, record, DEADLINE).saturating_add(waited);
        put_off(scoreboard, record, deadline, environ)?;
        let last = last_progress(scoreboard, record);
        set(scoreboard, record, PROGRESS, last.saturating_add(waited));
        set(scoreboard, record, AWAITING_CLIENT, 0);
        Ok(())
    }

    /// Set the deadline to `time` from now, at the latest `most` after the last progress; return it.
    pub fn extend(
        &self,
        scoreboard: &Scoreboard,
        time: Nanos,
        most: Nanos,
        environ: &Bound<'_, PyDict>,
    ) -> PyResult<f64> {
        let Some(record) = self.limited() else {
            return Ok(seconds(sys::monotonic()));
        };
        if get(scoreboard, record, DEADLINE) == 0 {
            return Ok(f64::INFINITY);
        }
        let latest = last_progress(scoreboard, record).saturating_add(most);
        let deadline = sys::monotonic().saturating_add(time).min(latest);
        put_off(scoreboard, record, deadline, environ)?;
        Ok(seconds(get(scoreboard, record, DEADLINE)))
    }
}

fn get(scoreboard: &Scoreboard, record: &Record, word: usize) -> u64 {
    scoreboard.record_word(record, word).load(Ordering::Relaxed)
}

fn set(scoreboard: &Scoreboard, record: &Record, word: usize, value: u64) {
    scoreboard
        .record_word(record, word)
        .store(value, Ordering::Relaxed);
}

fn last_progress(scoreboard: &Scoreboard, record: &Record) -> Nanos {
    match get(scoreboard, record, PROGRESS) {
        0 => get(scoreboard, record, SINCE),
        progress => progress,
    }
}

fn put_off(
    scoreboard: &Scoreboard,
    record: &Record,
    deadline: Nanos,
    environ: &Bound<'_, PyDict>,
) -> PyResult<()> {
    let before = get(scoreboard, record, DEADLINE);
    if before == 0 || deadline <= before {
        return Ok(()); // 0 is never: a WebSocket has none
    }
    set(scoreboard, record, DEADLINE, deadline);
    let py = environ.py();
    environ.set_item(&keys(py).deadline, PyFloat::new(py, seconds(deadline)))
}

pub fn seconds(time: Nanos) -> f64 {
    time as f64 / SECOND as f64
}
