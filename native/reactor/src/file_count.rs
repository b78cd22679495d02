//! How many descriptors spooled bodies and files to send take.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The count, of one transport.
#[derive(Clone, Default)]
pub struct FileCount(Arc<AtomicUsize>);

impl FileCount {
    pub fn get(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }

    /// Count a descriptor for as long as what is returned exists.
    pub fn take(&self) -> FileCounted {
        self.0.fetch_add(1, Ordering::Relaxed);
        FileCounted(self.clone())
    }
}

/// A descriptor that is counted.
pub struct FileCounted(FileCount);

impl Drop for FileCounted {
    fn drop(&mut self) {
        let FileCount(count) = &self.0;
        count.fetch_sub(1, Ordering::Relaxed);
    }
}
