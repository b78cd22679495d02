//! Sending a response through an exchange: blocks, parts of files, and what ends the body.

use crate::exchange::{Exchange, raised};
use crate::held::Held;
use crate::lock_wait::detached;
use crate::scratch::with_scratch;
use crate::write_head::write_head;
use penstock_protocol::{Framing, response};
use penstock_reactor::responding::{self, Failure, Room};
use penstock_reactor::states::ResponseState;
use penstock_reactor::sys::{self, Fd, Nanos};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::PyBytes;
use std::sync::Arc;

pub fn send(slf: &Bound<'_, Exchange>, data: &Bound<'_, PyBytes>) -> PyResult<()> {
    let bytes = data.as_bytes();
    if bytes.is_empty() {
        return Ok(());
    }
    with_scratch(|out| {
        let mut unattended = None;
        {
            let mut this = slf.try_borrow_mut()?;
            this.check_may_send()?;
            if this.response.is_waiting() {
                write_head(&mut this, slf.py(), out)?;
                this.first_byte_at = sys::monotonic();
                let shared = this.shared();
                if !shared.attended.get() && shared.slow_paths.is_fast(this.path) {
                    unattended = Some(Arc::clone(&this.core));
                }
            }
            if this.framing == Framing::None {
                return if out.is_empty() {
                    Ok(())
                } else {
                    this.transmit(out)
                };
            }
        }
        if let Some(core) = unattended {
            core.attend(slf.py()); // blocks may be held then
        }
        write_counted(slf, out, data, None)?;
        slf.try_borrow()?.note_progress(slf.py())?;
        apply_back_pressure(slf)
    })
}

pub fn send_file(
    slf: &Bound<'_, Exchange>,
    descriptor: i32,
    offset: u64,
    count: u64,
) -> PyResult<()> {
    if count == 0 {
        return Ok(());
    }
    let file = match sys::duplicate(descriptor) {
        Ok(file) => file,
        // No descriptor is left for a second one: this one has to do, while it is open.
        Err(_) => return send_by_reading(slf, descriptor, offset, count),
    };
    let outlet = {
        let mut this = slf.try_borrow_mut()?;
        this.check_may_send()?;
        with_scratch(|out| begin_region(&mut this, slf.py(), out, &file, offset, count))?;
        this.note_progress(slf.py())?;
        if this.framing == Framing::None {
            return Ok(());
        }
        this.outlet()
    };
    let chunk_end: &[u8] = if outlet.chunked { b"\r\n" } else { b"" };
    let (sent, done) = detached(slf.py(), || {
        responding::send_region(
            outlet.shared(),
            &outlet.connection,
            file,
            offset,
            count,
            chunk_end,
        )
    });
    note_lock_wait(slf, done);
    sent.map_err(raised)
}

/// Note that the calling thread has waited for the interpreter lock since `done`. Not where another
/// thread of the application uses the exchange at this moment.
fn note_lock_wait(slf: &Bound<'_, Exchange>, done: Nanos) {
    if let Ok(this) = slf.try_borrow() {
        this.lock_wait.add(done);
    }
}

pub fn finish(slf: &Bound<'_, Exchange>, data: Option<&Bound<'_, PyBytes>>) -> PyResult<()> {
    let waiting = {
        let this = slf.try_borrow()?;
        if this.response == ResponseState::Ended {
            return Ok(());
        }
        this.check_may_send()?;
        this.response.is_waiting()
    };
    with_scratch(|out| {
        if waiting {
            finish_whole(slf, out, data)
        } else {
            finish_body(slf, out, data)
        }
    })?;
    Exchange::end(slf, "")
}

/// Send head and body at once.
#[inline(always)]
fn finish_whole(
    slf: &Bound<'_, Exchange>,
    out: &mut Vec<u8>,
    data: Option<&Bound<'_, PyBytes>>,
) -> PyResult<()> {
    let py = slf.py();
    let mut this = slf.try_borrow_mut()?;
    let bytes = data.map_or(&[][..], |data| data.as_bytes());
    // Without a body, `data` does not tell what its length would be (RFC 9110, section 8.6).
    if this.content_length.is_none()
        && this
            .head
            .as_ref()
            .is_some_and(|head| response::has_body(this.is_head, head.code))
    {
        this.content_length = Some(bytes.len() as u64);
    }
    write_head(&mut this, py, out)?;
    if this.shared().options.recorded {
        this.first_byte_at = sys::monotonic(); // else it is when all was sent
    }
    match data {
        Some(data) if !bytes.is_empty() && this.framing != Framing::None => {
            if bytes.len() > this.shared().options.join_bytes {
                drop(this);
                write_counted(slf, out, data, Some(b""))?;
            } else {
                out.extend_from_slice(bytes);
                transmit_whole(&this, out)?;
                this.count_body(bytes);
            }
            Ok(())
        }
        _ => transmit_whole(&this, out),
    }
}

/// Send the last block, and what ends the body.
fn finish_body(
    slf: &Bound<'_, Exchange>,
    out: &mut Vec<u8>,
    data: Option<&Bound<'_, PyBytes>>,
) -> PyResult<()> {
    let this = slf.try_borrow()?;
    let end = match this.framing {
        Framing::None => return Ok(()),
        Framing::Chunked => response::LAST_CHUNK,
        _ => b"",
    };
    match data {
        Some(data) if !data.as_bytes().is_empty() => {
            drop(this);
            write_counted(slf, out, data, Some(end))
        }
        _ if end.is_empty() => {
            let connection = &this.request_body.connection;
            responding::send_last(this.shared(), connection, &mut connection.lock()).map_err(raised)
        }
        _ => this.transmit(end),
    }
}

/// Send a block, and count it as far as it has left. `end` is as for `write_block`.
fn write_counted(
    slf: &Bound<'_, Exchange>,
    out: &mut Vec<u8>,
    data: &Bound<'_, PyBytes>,
    end: Option<&'static [u8]>,
) -> PyResult<()> {
    let lost = slf
        .try_borrow()?
        .request_body
        .connection
        .lock()
        .output
        .lost();
    let written = write_block(slf, out, data, end);
    let mut this = slf.try_borrow_mut()?;
    // A part of a large block may have left before the rest was lost, and what was lost is taken
    // off in the end.
    if written.is_ok() || this.request_body.connection.lock().output.lost() > lost {
        this.count_body(data.as_bytes());
    }
    written
}

/// Send `out`, a block in the response's framing, and `end`, which is None where more is to come.
fn write_block(
    slf: &Bound<'_, Exchange>,
    out: &mut Vec<u8>,
    data: &Bound<'_, PyBytes>,
    end: Option<&'static [u8]>,
) -> PyResult<()> {
    let bytes = data.as_bytes();
    let this = slf.try_borrow()?;
    let chunked = this.framing == Framing::Chunked;
    if bytes.len() <= this.shared().options.join_bytes {
        if chunked {
            response::encode_chunk(out, bytes);
        } else {
            out.extend_from_slice(bytes);
        }
        return match end {
            Some(end) => {
                out.extend_from_slice(end);
                this.transmit(out)
            }
            None => this.hold_or_transmit(out),
        };
    }
    if chunked {
        response::encode_chunk_size(out, bytes.len());
    }
    // Only of the type itself: the end of a subclass's instance runs its code, and that must
    // not happen under a lock.
    let exact = match data.cast_exact::<PyBytes>() {
        Ok(exact) => exact.clone(),
        Err(_) => PyBytes::new(slf.py(), bytes),
    };
    let block = Held::new(PyBackedBytes::from(exact));
    let chunk_end: &'static [u8] = if chunked { response::CHUNK_END } else { b"" };
    let outlet = this.outlet();
    drop(this);
    let out = &*out;
    let (sent, done) = detached(slf.py(), || {
        let ends = [chunk_end, end.unwrap_or(b"")];
        responding::send_large(outlet.shared(), &outlet.connection, out, block, ends)
    });
    note_lock_wait(slf, done);
    sent.map_err(raised)
}

/// Send a whole response, now or with the next.
fn transmit_whole(this: &Exchange, data: &[u8]) -> PyResult<()> {
    let corked = responding::cork(
        this.shared(),
        &mut this.request_body.connection.lock(),
        this.number,
        data,
    );
    if corked { Ok(()) } else { this.transmit(data) }
}

/// Send what precedes a part of a file.
fn begin_region(
    this: &mut Exchange,
    py: Python<'_>,
    out: &mut Vec<u8>,
    file: &Fd,
    offset: u64,
    count: u64,
) -> PyResult<()> {
    if this.response.is_waiting() {
        write_head(this, py, out)?;
        this.first_byte_at = sys::monotonic();
    }
    if this.framing == Framing::Chunked {
        response::encode_chunk_size(out, usize::try_from(count).unwrap_or(usize::MAX));
    }
    if !out.is_empty() {
        this.transmit(out)?;
    }
    if this.framing == Framing::None {
        return Ok(());
    }
    this.body_sent += count;
    if this.shared().options.trace {
        let mut start = vec![0; this.shared().options.trace_body];
        let size = sys::read_at(file.raw(), &mut start, offset)?;
        let shown = size.min(usize::try_from(count).unwrap_or(size));
        this.trace_body(start.get(..shown).unwrap_or(&[]));
    }
    Ok(())
}

/// Send a file's part block by block.
fn send_by_reading(
    slf: &Bound<'_, Exchange>,
    descriptor: i32,
    mut offset: u64,
    mut count: u64,
) -> PyResult<()> {
    let py = slf.py();
    let join_bytes = slf.try_borrow()?.shared().options.join_bytes;
    let mut buffer = vec![0; join_bytes];
    while count > 0 {
        let most = usize::try_from(count).unwrap_or(join_bytes).min(join_bytes);
        let block = buffer.get_mut(..most).unwrap_or(&mut []);
        let read = py.detach(|| sys::read_at(descriptor, block, offset))?;
        if read == 0 {
            return Err(raised(Failure::FileTruncated));
        }
        let data = PyBytes::new(py, buffer.get(..read).unwrap_or(&[]));
        send(slf, &data)?;
        offset += read as u64;
        count -= read as u64;
    }
    Ok(())
}

fn apply_back_pressure(slf: &Bound<'_, Exchange>) -> PyResult<()> {
    let outlet = {
        let this = slf.try_borrow()?;
        let state = this.request_body.connection.lock();
        if !state.output.busy() || state.output.is_corked() {
            return Ok(());
        }
        drop(state);
        this.outlet()
    };
    let py = slf.py();
    let mut awaited = responding::RoomAwaited::new(outlet.shared(), &outlet.connection);
    let mut call = slf.try_borrow()?.stop_clock();
    let result = loop {
        let (room, done) = detached(py, || awaited.wait());
        note_lock_wait(slf, done);
        match room {
            Ok(Room::Made) => break Ok(()),
            // Where this is the main thread.
            Ok(Room::Awaited) => {
                if let Err(error) = py.check_signals() {
                    break Err(error);
                }
            }
            Ok(Room::Spool) => {
                // The time that a disk takes counts: it is no waiting for the client.
                slf.try_borrow()?.go_on(py, call)?;
                if outlet.attend(py) {
                    py.detach(|| awaited.spool());
                } else {
                    awaited.do_without_spool();
                }
                call = slf.try_borrow()?.stop_clock();
            }
            Err(failure) => break Err(raised(failure)),
        }
    };
    slf.try_borrow()?.go_on(py, call)?;
    result
}
