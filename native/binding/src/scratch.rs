//! What heads and small blocks are written into before they leave in one send.

use std::cell::Cell;

/// A buffer that a large block has made larger than this is freed again.
const MOST_KEPT: usize = 256 * 1024;

thread_local! {
    /// What the thread writes heads and small blocks into.
    static SCRATCH: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// Lend the thread's buffer, empty; a block that made it large does not keep it so.
pub fn with_scratch<T>(work: impl FnOnce(&mut Vec<u8>) -> T) -> T {
    let mut out = SCRATCH.take();
    out.clear();
    let result = work(&mut out);
    if out.capacity() <= MOST_KEPT {
        SCRATCH.set(out);
    }
    result
}
