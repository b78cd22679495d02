//! The threads that wait for the disk, so that the leader never does.
//!
//! One opens, writes and closes temporary files, and closes files that were sent. A few others send
//! from files. They start with the first pieces of work and begin them in their order; one that had
//! none for a while ends. What waits is bounded by those who ask: a connection asks for one piece at
//! a time, and for none that holds bytes while `is_full` says so.

use crate::decisions;
use crate::options::Options;
use crate::sync::lock;
use crate::sys::Fd;
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
    /// How many threads there are, and how many of them are with a piece of work.
    running: usize,
    busy: usize,
    ended: bool,
}

struct Inner {
    queue: Mutex<Queue>,
    filled: Condvar,
    /// Bytes that the works hold, that of the one in progress included.
    held: AtomicUsize,
    name: &'static str,
    /// The most threads.
    threads: usize,
    /// How long a thread waits for work until it ends.
    idle: Duration,
}

/// Why a piece of work is not taken, as in the Python transport: [`Disk::has_room`].
pub fn fallen_behind() -> io::Error {
    io::Error::other("the disk has fallen behind")
}

/// The threads, and the queue of their work.
#[derive(Clone)]
pub struct Disk(Arc<Inner>);

impl Disk {
    /// The thread for temporary files, and for what is to be closed.
    pub fn new(options: &Options) -> Self {
        Disk::of("penstock-disk", 1, options)
    }

    /// The threads that send from files.
    pub fn senders(options: &Options) -> Self {
        Disk::of("penstock-send", options.send_threads, options)
    }

    fn of(name: &'static str, threads: usize, options: &Options) -> Self {
        Disk(Arc::new(Inner {
            name,
            threads,
            queue: Mutex::default(),
            filled: Condvar::new(),
            held: AtomicUsize::new(0),
            idle: Duration::from_nanos(options.disk_idle),
        }))
    }

    /// Have a thread do `work`, which holds `size` bytes; fails where there can be no thread.
    ///
    /// Never waits. Not for a child that the application forked: there is no such thread there.
    pub fn run(&self, size: usize, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let Disk(inner) = self;
        let mut queue = lock(&inner.queue);
        let idle = queue.running.saturating_sub(queue.busy);
        if queue.works.len() >= idle && queue.running < inner.threads {
            let mine = Arc::clone(inner);
            let builder = thread::Builder::new().name(inner.name.to_owned());
            match builder.stack_size(STACK_BYTES).spawn(move || mine.work()) {
                Ok(_) => queue.running += 1,
                Err(error) if queue.running == 0 => return Err(error),
                Err(_) => {} // those that run do it later
            }
        }
        inner.held.fetch_add(size, Ordering::Relaxed);
        queue.works.push_back((size, Box::new(work)));
        drop(queue);
        inner.filled.notify_one();
        Ok(())
    }

    /// Have the thread close a file, and drop what is given back then: closing frees what the file
    /// takes of the disk, and waits for that.
    pub fn close(&self, file: Fd, given_back: impl Send + 'static) {
        // A child that the application forked has no such thread, and has closed the file.
        if file.is_ours() {
            // Where there can be no thread, the work is dropped, and with it the file.
            let _ = self.run(0, move || drop((file, given_back)));
        }
    }

    /// Whether fewer than `most` pieces of work wait. Those of connections that were closed meanwhile
    /// stay while the disk is stuck, so that their number has a bound.
    pub fn has_room(&self, most: usize) -> bool {
        lock(&self.0.queue).works.len() < most
    }

    /// Whether no more is to be read that would have to be written.
    pub fn is_full(&self, options: &Options) -> bool {
        decisions::disk_is_full(options, self.held())
    }

    /// How many bytes wait for the threads.
    pub fn held(&self) -> usize {
        self.0.held.load(Ordering::Relaxed)
    }

    /// Let the threads end when they have done what there is to do. A disk that is stuck may keep
    /// them for ever, and keeps neither the caller nor the end of the process.
    pub fn end(&self) {
        lock(&self.0.queue).ended = true;
        self.0.filled.notify_all();
    }

    /// Wait until all is done that there is to do, and what comes of that.
    #[cfg(test)]
    pub fn catch_up(&self) {
        let is_behind = || {
            let queue = lock(&self.0.queue);
            queue.running > 0 && !queue.works.is_empty() || queue.busy > 0
        };
        while is_behind() {
            thread::yield_now();
        }
    }
}

impl Inner {
    fn work(&self) {
        let mut worked = false;
        while let Some((size, work)) = self.next(worked) {
            worked = true;
            // A panic is a defect of ours: it ends this piece of work, and no other.
            let _ = catch_unwind(AssertUnwindSafe(work));
            self.held.fetch_sub(size, Ordering::Relaxed);
        }
    }

    /// Wait for the next piece of work; `worked` is whether the thread was with one until now.
    fn next(&self, worked: bool) -> Option<(usize, Work)> {
        let mut queue = lock(&self.queue);
        queue.busy -= usize::from(worked);
        let mut idle = false;
        loop {
            if let Some(next) = queue.works.pop_front() {
                queue.busy += 1;
                return Some(next);
            }
            if queue.ended || idle {
                queue.running -= 1; // what may still come starts one once more
                return None;
            }
            let waited = self.filled.wait_timeout(queue, self.idle);
            let (guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
            (queue, idle) = (guard, result.timed_out());
        }
    }
}

/// A file that the disk's thread closes, with what its end gives back.
pub struct DiskFile<S: Send + 'static> {
    held: Option<(Fd, S)>,
    disk: Disk,
}

impl<S: Send + 'static> DiskFile<S> {
    pub fn new(file: Fd, given_back: S, disk: &Disk) -> Self {
        DiskFile {
            held: Some((file, given_back)),
            disk: disk.clone(),
        }
    }

    /// The file; fails after [`DiskFile::close_here`].
    pub fn file(&self) -> io::Result<&Fd> {
        let held = self.held.as_ref().map(|(file, _)| file);
        held.ok_or_else(|| io::Error::from_raw_os_error(libc::EBADF))
    }

    /// What its end gives back.
    pub fn given_back(&self) -> Option<&S> {
        self.held.as_ref().map(|(_, given_back)| given_back)
    }

    /// Close it in the calling thread, which may wait for the disk.
    pub fn close_here(&mut self) {
        self.held = None;
    }
}

impl<S: Send + 'static> Drop for DiskFile<S> {
    fn drop(&mut self) {
        if let Some((file, given_back)) = self.held.take() {
            self.disk.close(file, given_back);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::bench::options;
    use std::sync::mpsc::channel;

    #[test]
    fn a_file_is_closed_by_the_disks_thread_but_where_another_one_may_wait() {
        let disk = Disk::new(&options());
        let made = || {
            let file = crate::sys::temporary_file(&std::env::temp_dir()).unwrap();
            let count = crate::file_count::FileCount::default();
            (DiskFile::new(file, count.take(), &disk), count)
        };
        let (go, wait) = channel::<()>();
        disk.run(0, move || wait.recv().unwrap()).unwrap();
        let (dropped, later) = made();
        drop(dropped);
        let (mut closed, now) = made();
        closed.close_here();
        assert!(closed.file().is_err());
        assert_eq!((later.get(), now.get()), (1, 0));
        go.send(()).unwrap();
        disk.catch_up();
        assert_eq!(later.get(), 0);
    }

    #[test]
    fn several_threads_do_what_waits_up_to_their_number() {
        let disk = Disk::senders(&Options {
            send_threads: 2,
            ..options()
        });
        let (begun, begins) = channel();
        let mut goes = Vec::new();
        for number in 0..3 {
            let (go, wait) = channel::<()>();
            goes.push(go);
            let begun = begun.clone();
            disk.run(0, move || {
                begun.send(number).unwrap();
                let _ = wait.recv();
            })
            .unwrap();
        }
        let mut first: Vec<_> = begins.iter().take(2).collect();
        first.sort_unstable();
        assert_eq!(first, [0, 1]);
        assert!(!disk.has_room(1));
        goes.remove(1); // one of them comes free
        assert_eq!(begins.recv().unwrap(), 2);
        goes.clear();
        disk.catch_up();
    }

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
            while lock(&disk.0.queue).running > 0 {
                thread::yield_now();
            }
        }
    }
}
