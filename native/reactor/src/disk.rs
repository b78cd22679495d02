//! The thread that waits for the disk, so that the leader never does.
//!
//! It opens, writes and closes temporary files. It starts with the first piece of work and does one
//! piece after the other, in their order; when there was none for a while, it ends. What waits is
//! bounded by those who ask: a connection asks for one piece at a time, and for none that holds bytes
//! while `is_full` says so.

use crate::decisions;
use crate::options::Options;
use crate::sync::lock;
use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// The thread calls the kernel and little else.
const STACK_BYTES: usize = 128 * 1024;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct Queue {
    works: VecDeque<(usize, Work)>,
    running: bool,
    /// The thread is with a piece of work.
    busy: bool,
    ended: bool,
}

struct Inner {
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Bytes that the works hold, that of the one in progress included.
    held: AtomicUsize,
    /// How long the thread waits for work until it ends.
    idle: Duration,
}

/// The thread, and the queue of its work.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

impl Disk {
    pub fn new(options: &Options) -> Self {
        Disk(Arc::new(Inner {
            queue: Mutex::default(),
            filled: Condvar::new(),
            held: AtomicUsize::new(0),
            idle: Duration::from_nanos(options.disk_idle),
        }))
    }

    /// Have the thread do `work`, which holds `size` bytes; fails where there can be no thread.
    ///
    /// Never waits. Not for a child that the application forked: there is no such thread there.
    pub fn run(&self, size: usize, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Disk(inner) = self;
        let mut queue = lock(&inner.queue);
        if !queue.running {
            let mine = Arc::clone(inner);
            let builder = thread::Builder::new().name("penstock-disk".to_owned());
            builder.stack_size(STACK_BYTES).spawn(move || mine.work())?;
            queue.running = true;
        }
        inner.held.fetch_add(size, Ordering::Relaxed);
        queue.works.push_back((size, Box::new(work)));
        drop(queue);
        inner.filled.notify_one();
        Ok(())
    }

    /// Whether fewer than `most` pieces of work wait. Those of connections that were closed meanwhile
    /// stay while the disk is stuck, so that their number has a bound.
    pub fn has_room(&self, most: usize) -> bool {
        lock(&self.0.queue).works.len() < most
    }

    /// Whether no more is to be read that would have to be written.
    pub fn is_full(&self, options: &Options) -> bool {
        decisions::disk_is_full(options, self.0.held.load(Ordering::Relaxed))
    }

    /// Let the thread end when it has done what there is to do. A disk that is stuck may keep it for
    /// ever, and keeps neither the caller nor the end of the process.
    pub fn end(&self) {
        lock(&self.0.queue).ended = true;
        self.0.filled.notify_one();
    }

    /// Wait until all is done that there is to do, and what comes of that.
    #[cfg(test)]
    pub fn catch_up(&self) {
        let is_behind = || {
            let queue = lock(&self.0.queue);
            queue.running && !queue.works.is_empty() || queue.busy
        };
        while is_behind() {
            thread::yield_now();
        }
    }
}

impl Inner {
    fn work(&self) {
        while let Some((size, work)) = self.next() {
            // A panic is a defect of ours: it ends this piece of work, and no other.
            let _ = catch_unwind(AssertUnwindSafe(work));
            self.held.fetch_sub(size, Ordering::Relaxed);
        }
    }

    fn next(&self) -> Option<(usize, Work)> {
        let mut queue = lock(&self.queue);
        queue.busy = false;
        let mut idle = false;
        loop {
            if let Some(next) = queue.works.pop_front() {
                queue.busy = true;
                return Some(next);
            }
            if queue.ended || idle {
                queue.running = false; // what may still come starts it once more
                return None;
            }
            let waited = self.filled.wait_timeout(queue, self.idle);
            let (guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
            (queue, idle) = (guard, result.timed_out());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::bench::options;
    use std::sync::mpsc::channel;

    #[test]
    fn work_is_done_in_its_order_after_the_end_as_well() {
        let disk = Disk::new(&options());
        let (tell, told) = channel();
        for number in 0..4 {
            let tell = tell.clone();
            disk.run(0, move || tell.send(number).unwrap()).unwrap();
            if number == 1 {
                disk.end();
            }
        }
        assert_eq!(told.iter().take(4).collect::<Vec<_>>(), [0, 1, 2, 3]);
    }

    #[test]
    fn work_that_waits_takes_room_until_it_is_done() {
        let disk = Disk::new(&options());
        let (go, stopped) = channel::<()>();
        let (begun, begins) = channel();
        disk.run(0, move || {
            begun.send(()).unwrap();
            let _ = stopped.recv();
        })
        .unwrap();
        begins.recv().unwrap();
        assert!(disk.has_room(1));
        disk.run(0, || {}).unwrap();
        assert!(!disk.has_room(1));
        go.send(()).unwrap();
        disk.catch_up();
        assert!(disk.has_room(1));
    }

    #[test]
    fn a_panic_ends_one_piece_of_work_and_its_bytes_are_given_back() {
        let mut options = options();
        let disk = Disk::new(&options);
        (options.store_bytes, options.max_storing) = (10, 100);
        let (go, wait) = channel::<()>();
        disk.run(91, move || {
            wait.recv().unwrap();
            panic!("on purpose");
        })
        .unwrap();
        assert!(disk.is_full(&options));
        go.send(()).unwrap();
        disk.catch_up();
        assert!(!disk.is_full(&options));
    }

    #[test]
    fn a_thread_without_work_ends_and_another_one_starts() {
        let disk = Disk::new(&Options {
            disk_idle: 1,
            ..options()
        });
        for _ in 0..2 {
            disk.run(0, || ()).unwrap();
            while lock(&disk.0.queue).running {
                thread::yield_now();
            }
        }
    }
}
