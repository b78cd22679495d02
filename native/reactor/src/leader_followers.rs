//! Which thread leads: an inline leader, followers that wake late, and a stall monitor.
//!
//! Leadership is a lock. The thread that holds it runs the loop; when a request is ready, it
//! releases the lock and runs the application itself, so that a fast application never pays for
//! handing a request to another thread. When it returns, it takes the lock again, if it is free.
//!
//! Meanwhile the stall monitor, a thread of the transport's own that never holds the GIL, looks once a
//! tick whether one call has lasted a whole tick without a leader. If so, it promotes a parked
//! thread. When every thread is in the application, the stall monitor itself leads: it reads, writes
//! and enforces deadlines, and queues the requests that become ready until a thread is free.
//!
//! One such promotion a tick would bound how many calls can overlap, so where calls prove slow,
//! the leader wakes its successor before it calls.
//!
//! With one thread there are no followers: the stall monitor leads once a call has lasted a tick.

use crate::event_loop::{EventLoop, Step};
use crate::leader::{Leader, ReadBuffers};
use crate::request::Waiting;
use crate::scoreboard::STARTED;
use crate::shared::Shared;
use crate::slow_path_estimate::PathHash;
use crate::sync::{Alarm, Flag, lock};
use crate::sys::{self, Nanos};
use crate::thread_count::{Leave, Place, ThreadCount};
use crate::unserved;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};
use std::time::Duration;

/// No thread is expected to return and lead: the next one does.
const NONE_EXPECTED: u64 = 0;

static THREADS: AtomicU64 = AtomicU64::new(1);

thread_local! {
    /// A number of the thread's own.
    static NUMBER: u64 = THREADS.fetch_add(1, Ordering::Relaxed);
}

/// The calling thread's number in this process, from 1.
pub fn thread_number() -> u64 {
    NUMBER.with(|number| *number)
}

/// The threads of one transport, and the queue of requests that wait for one of them.
pub struct LeaderFollowers {
    leadership: Mutex<EventLoop>,
    led: Arc<Flag>,
    // The thread that led last, and leads again after each call. Others leave it to that one until
    // it stalls: two that lead in turn would pass the GIL to and fro, a switch interval each time.
    inline: AtomicU64,
    parked: Mutex<Vec<Arc<Alarm>>>,
    handed_out: AtomicU64, // counts up; unchanged over a tick, the call has lasted it
    thread_count: ThreadCount,
    over: Flag,
    monitor: Alarm,
    monitor_asleep: Flag,
    monitor_leads: Flag,
}

/// Leadership, for as long as this lives, however its holder ends.
struct Leading<'a> {
    led: &'a Flag,
    event_loop: MutexGuard<'a, EventLoop>,
}

impl Drop for Leading<'_> {
    fn drop(&mut self) {
        self.led.set(false);
    }
}

/// What a thread without the GIL found.
pub enum Turn {
    Request(Box<Waiting>),
    /// The stall monitor has found a request, and queued it.
    Queued,
    /// There are entries in the log queue.
    WriteLogs,
    /// Others lead, or have led: look again.
    Again,
    Over,
}

impl LeaderFollowers {
    /// `led` is what says that a thread leads.
    pub fn new(event_loop: EventLoop, led: Arc<Flag>) -> Self {
        LeaderFollowers {
            leadership: Mutex::new(event_loop),
            led,
            inline: AtomicU64::new(NONE_EXPECTED),
            parked: Mutex::default(),
            handed_out: AtomicU64::new(0),
            thread_count: ThreadCount::default(),
            over: Flag::default(),
            monitor: Alarm::default(),
            monitor_asleep: Flag::default(),
            monitor_leads: Flag::default(),
        }
    }

    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Take a request that waits for a thread.
    pub fn take_ready(&self, shared: &Shared) -> Option<Waiting> {
        loop {
            let (waiting, status) = shared.queue.take(&shared.options, &shared.scoreboard)?;
            if status == 0 {
                return Some(waiting);
            }
            unserved::end(shared, waiting, status, sys::monotonic());
        }
    }

    /// Have a request wait for a thread, or refuse one where too many do.
    fn queue(&self, shared: &Shared, waiting: Waiting) {
        let now = waiting.since;
        let taken_at_once = !lock(&self.parked).is_empty();
        let (options, scoreboard) = (&shared.options, &shared.scoreboard);
        let refused = shared
            .queue
            .push(options, scoreboard, waiting, taken_at_once);
        if let Some(refused) = refused {
            unserved::refuse_full(shared, refused, now);
        }
    }

    /// Lead with the GIL held, as [`EventLoop::run`] does; a request that is ready is in `buffers`
    /// then, which the leader's are exchanged for. They are made with the first such request.
    ///
    /// None where another thread leads. Never waits: a thread that waited here with the GIL held
    /// would wait for a leader that waits for the GIL. When this returns, the calling thread no
    /// longer leads: what it makes of the request may run any Python code.
    pub fn lead_attached(
        &self,
        shared: &Shared,
        buffers: &mut Option<Box<ReadBuffers>>,
        until: &mut Nanos,
    ) -> Option<Step> {
        let mut leading = self.take_leadership()?;
        let step = leading.event_loop.run(shared, Leader::Attached, until);
        if matches!(step, Step::Ready(_)) {
            let own = buffers
                .get_or_insert_with(|| Box::new(ReadBuffers::new(shared.options.receive_bytes)));
            std::mem::swap(&mut leading.event_loop.leader.read, own);
        }
        Some(step)
    }

    /// Lead without the GIL, or wait until this thread is needed.
    pub fn lead_or_park(&self, shared: &Shared) -> Turn {
        while !self.is_over() {
            match self.lead(shared, Leader::Detached) {
                Some(Turn::Over) => self.end(shared),
                Some(turn) => return turn,
                None => self.park(shared),
            }
            // The thread that is woken goes on without the GIL, which the call that stalls may keep.
            if let Some(waiting) = self.take_ready(shared) {
                return Turn::Request(Box::new(waiting));
            }
        }
        Turn::Over
    }

    /// Whether a thread leads.
    #[cfg(test)]
    pub fn is_led(&self) -> bool {
        self.led.get()
    }

    /// Lead for as long as `work` takes; None if another thread leads.
    #[cfg(test)]
    pub fn with_leadership<T>(&self, work: impl FnOnce(&mut EventLoop) -> T) -> Option<T> {
        self.try_lead()
            .map(|mut leading| work(&mut leading.event_loop))
    }

    /// Lead, unless another thread does. A thread that panicked as the leader leads no more.
    fn try_lead(&self) -> Option<Leading<'_>> {
        let event_loop = match self.leadership.try_lock() {
            Ok(event_loop) => event_loop,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return None,
        };
        self.led.set(true);
        Some(Leading {
            led: &self.led,
            event_loop,
        })
    }

    fn take_leadership(&self) -> Option<Leading<'_>> {
        let me = thread_number();
        let inline = self.inline.load(Ordering::SeqCst);
        if inline != me && inline != NONE_EXPECTED {
            return None;
        }
        let leading = self.try_lead()?;
        self.inline.store(me, Ordering::SeqCst);
        Some(leading)
    }

    fn lead(&self, shared: &Shared, leader: Leader) -> Option<Turn> {
        let mut leading = self.take_leadership()?;
        let event_loop = &mut *leading.event_loop;
        let turn = match event_loop.run(shared, leader, &mut 0) {
            Step::Ready(ready) if leader == Leader::StallMonitor => {
                // While it leads: a thread that closes everything next finds it in the queue.
                self.queue(shared, ready.own(&event_loop.leader));
                Turn::Queued
            }
            Step::Ready(ready) => Turn::Request(Box::new(ready.own(&event_loop.leader))),
            Step::WriteLogs => Turn::WriteLogs,
            Step::Over => Turn::Over,
            Step::Blocked | Step::Idle | Step::Relieved => Turn::Again,
        };
        drop(leading);
        if matches!(turn, Turn::Request(_)) && self.monitor_asleep.get() {
            // It waits for the GIL now, which some call may keep, and is not handed out before.
            self.monitor.ring();
        }
        Some(turn)
    }

    /// Count a request that goes to the application; return which one it is, from 1.
    pub fn count(&self, shared: &Shared) -> u64 {
        let number = self.handed_out.fetch_add(1, Ordering::SeqCst) + 1;
        shared.scoreboard.set(STARTED, number);
        number
    }

    /// Promote a follower, which watches the sockets meanwhile, if the call is likely to be slow.
    pub fn look_after(&self, shared: &Shared, path: PathHash) {
        if !shared.attended.get() {
            return;
        }
        // With one thread there is no follower, and the stall monitor would lead for each slow call.
        if shared.options.threads > 1 && shared.slow_paths.is_slow(path) {
            self.promote();
        } else if self.monitor_asleep.get() {
            self.monitor.ring();
        }
    }

    // -- the count of threads -------------------------------------------------------------------

    /// Have the calling thread's call leave the count.
    pub fn leave_count(&self, shared: &Shared, place: &Place, websocket: bool) -> Leave {
        let left = self.thread_count.leave(shared, place, websocket);
        if left != Leave::Refused && place.has_left() {
            // It does not lead again after this call. The thread that replaces it may lead at once.
            let (me, relaxed) = (thread_number(), Ordering::Relaxed);
            let _ = self
                .inline
                .compare_exchange(me, NONE_EXPECTED, Ordering::SeqCst, relaxed);
        }
        left
    }

    /// See [`ThreadCount::replace_otherwise`].
    pub fn replace_otherwise(&self, shared: &Shared, place: &Place) -> bool {
        self.thread_count.replace_otherwise(shared, place)
    }

    /// See [`ThreadCount::come_back`].
    pub fn come_back(&self, shared: &Shared, place: &Place) {
        self.thread_count.come_back(shared, place);
    }

    /// See [`ThreadCount::await_place`]. Without the GIL.
    pub fn await_place(&self, shared: &Shared, place: &Place) {
        self.thread_count.await_place(shared, place);
    }

    // -- parking --------------------------------------------------------------------------------

    fn park(&self, shared: &Shared) {
        let alarm = Arc::new(Alarm::default());
        lock(&self.parked).push(Arc::clone(&alarm));
        // This thread parks first and looks second. A thread that queues a request, or ends the
        // transport, does it in the reverse order, so that no wake-up is lost. The stall monitor
        // notices that no thread leads; without one, another thread may have led for a moment
        // (`attend`).
        let unled = !shared.attended.get() && !self.someone_leads();
        if !shared.queue.is_empty() || self.is_over() || unled {
            let mut parked = lock(&self.parked);
            let before = parked.len();
            parked.retain(|other| !Arc::ptr_eq(other, &alarm));
            if parked.len() < before {
                return;
            }
            // Another thread is waking this one already.
        } else if self.monitor_leads.get() {
            shared.relieve.set(true);
            shared.poller.wake();
        }
        alarm.wait();
    }

    fn wake_parked(&self) -> bool {
        // The last that was parked: its stack is still warm.
        let alarm = lock(&self.parked).pop();
        alarm.map(|alarm| alarm.ring()).is_some()
    }

    fn someone_leads(&self) -> bool {
        self.led.get()
    }

    /// Have a thread lead while the calling thread is in the application.
    fn promote(&self) {
        if !self.someone_leads() {
            self.inline.store(NONE_EXPECTED, Ordering::SeqCst);
            if !self.wake_parked() {
                self.monitor.ring();
            }
        }
    }

    // -- the stall monitor ---------------------------------------------------------------------------

    /// Watch until the end.
    pub fn watch(&self, shared: &Shared) {
        let mut seen = self.handed_out.load(Ordering::SeqCst);
        let mut quiet = 0;
        let tick = shared.options.monitor_tick;
        let idle_ticks = shared.options.monitor_idle / tick;
        while !self.is_over() {
            // Looked at again after the flag is up: a request that came in between did not see it.
            self.monitor_asleep.set(quiet > idle_ticks);
            let unchanged = seen == self.handed_out.load(Ordering::SeqCst);
            if self.monitor_asleep.get() && unchanged && self.someone_leads() {
                self.monitor.wait();
                quiet = 0;
            }
            self.monitor.wait_for(Duration::from_nanos(tick));
            self.monitor_asleep.set(false);
            let now_seen = self.handed_out.load(Ordering::SeqCst);
            let changed = std::mem::replace(&mut seen, now_seen) != now_seen;
            quiet = if changed { 0 } else { quiet + 1 };
            let vacant = self.inline.load(Ordering::SeqCst) == NONE_EXPECTED;
            if (changed && !vacant) || self.is_over() || self.someone_leads() {
                continue;
            }
            self.inline.store(NONE_EXPECTED, Ordering::SeqCst);
            if !self.wake_parked() {
                self.lead_for_all(shared);
            }
        }
    }

    /// Lead while every thread is busy; queue what becomes ready.
    fn lead_for_all(&self, shared: &Shared) {
        self.monitor_leads.set(true);
        let mut over = false;
        while lock(&self.parked).is_empty() && !over {
            match self.lead(shared, Leader::StallMonitor) {
                Some(Turn::Queued) => {}
                Some(Turn::Over) => over = true,
                Some(Turn::Request(_) | Turn::WriteLogs | Turn::Again) | None => break,
            }
        }
        self.monitor_leads.set(false);
        self.inline.store(NONE_EXPECTED, Ordering::SeqCst);
        if over {
            self.end(shared);
        } else {
            // The one that is woken leads, or takes a request, and leads once it has answered it.
            self.wake_parked();
        }
    }

    // -- the end --------------------------------------------------------------------------------

    /// Wake all threads: there is nothing left to do.
    pub fn end(&self, shared: &Shared) {
        self.over.set(true);
        self.thread_count.end();
        while self.wake_parked() {}
        self.monitor.ring();
        shared.log_writer.ring();
    }

    /// Run the loop once more, for what came back last. Waits for leadership.
    pub fn lead_last(&self, shared: &Shared) {
        let mut event_loop = lock(&self.leadership);
        event_loop.run(shared, Leader::Detached, &mut 0);
    }

    /// Make sure that a thread sees the flags that were set in the shared state.
    pub fn interrupt(&self, shared: &Shared) {
        shared.poller.wake();
        self.monitor.ring();
        if shared.handing_over.get() && !shared.closed.get() {
            // The leader is awake by now. Where no thread leads, others need not wait for the thread
            // that comes back: it might never.
            if let Some(mut leading) = self.try_lead() {
                leading.event_loop.hand_over(shared);
                drop(leading);
                self.wake_parked(); // one that came back meanwhile, and found leadership taken
            }
        }
        if !shared.closed.get() {
            return;
        }
        // If no thread leads, one that returns from the application sees the flags, or the stall
        // monitor at its next tick. If none ever returns (one thread, and it hangs), the sockets
        // have to be closed here.
        for _ in 0..1000 {
            self.inline.store(NONE_EXPECTED, Ordering::SeqCst);
            if let Some(Turn::Over) = self.lead(shared, Leader::Detached) {
                self.end(shared);
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Go on with what was given up, where the thread that would do it is the one that hangs.
    pub fn attend(&self, shared: &Shared) {
        let Some(mut leading) = self.try_lead() else {
            return; // another thread leads, and has been told to hurry
        };
        for waiting in leading.event_loop.attend(shared) {
            self.queue(shared, waiting);
        }
        drop(leading);
        self.wake_parked(); // as above
    }

    /// End the transport in a forked child, without locks: their holders do not exist there.
    pub fn close_in_child(&self) {
        self.over.set(true);
    }
}
