"""Which thread leads: an inline leader, lazy followers, and a stall monitor.

Leadership is a lock. The thread that holds it runs the loop; when a request is ready, it releases
the lock and runs the application itself, so that a fast application never pays for handing a
request to another thread. When the thread returns, it takes the lock again, if it is free.

Meanwhile the stall monitor, a thread of the transport, looks once a tick whether one call has
lasted a whole tick without a leader. If so, it promotes a parked thread. When every thread that
counts is in the application, the stall monitor itself leads: it reads, writes and enforces
deadlines, and queues the requests that become ready until a thread is free.

With one promotion a tick, few slow calls could overlap. So if many recent calls were slow, the
leader promotes a follower before it calls.

With one thread there is a stall monitor only if health checks are to be answered while the thread
is in the application, or once some calls have lasted for long, or one for a second: then requests
wait in the queue, with its bounds, and not in the kernel. A fast application does not pay for its
ticks.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from penstock import messages
from penstock.telemetry.scoreboard import NUMBER, Slot
from penstock.transport.python.exchange import PythonExchange
from penstock.transport.python.loop import Loop
from penstock.transport.python.thread_count import ThreadCount
from penstock.transport.python.thread_slots import ThreadSlot, ThreadSlots
from penstock.transport.states import ENDED

CALM_TICK_SECONDS = 0.005
"""The stall monitor's interval while calls are fast: each look costs two thread switches. A slow
call delays other clients for up to twice as long, once."""

ALERT_TICK_SECONDS = 0.001
"""Its interval for some time after a slow call: one slow call makes others likely."""

ALERT_SECONDS = 1.0
"""The length of that time."""

LATE_TICK_SECONDS = 0.003
"""A tick that is late by more than this shows that the interpreter lock is busy. Then another
leader gains little, and costs thread switches."""

PATIENCE_TICKS = 4
"""The number of late ticks that one call has to last before another thread is promoted."""


class LeaderFollowers:
    """The threads of one transport and the queue of requests that wait for one of them."""

    def __init__(self, loop: Loop, slot: Slot) -> None:
        self._loop = loop
        self._config = loop.config
        self._slot = slot
        self._thread_slots = loop.thread_slots = ThreadSlots(loop.config, slot, loop.request_log)
        self._count = ThreadCount(loop.config, slot)
        self._local = threading.local()  # holds each thread's slot
        self._leadership = threading.Lock()
        self._queue = loop.queue
        self._requests = loop.queue.requests
        self._parked: deque[threading.Lock] = deque()  # each held; releasing it wakes its thread
        self._handed_out = 0  # counts up; unchanged over a tick means that a call has lasted it
        self._over = False
        self._closed_in_child = False
        self._monitor: threading.Thread | None = None
        self._starting = threading.Lock()
        self._monitor_asleep = False
        self._monitor_alarm = threading.Lock()
        self._monitor_alarm.acquire()
        loop.attend = self._attend
        if not loop.config.has_stall_monitor:
            loop.slow_paths.on_stalls = self._attend

    # -- the application's threads --------------------------------------------------------------

    def next(self) -> PythonExchange | None:
        """Return the next request for the calling thread, or None once there will be no more."""
        return self.next_of(self.thread())

    def thread(self) -> ThreadSlot:
        """Return the slot of the calling thread, which is one of the application's from now on."""
        try:
            thread: ThreadSlot = self._local.thread
        except AttributeError:
            thread = self._local.thread = self._thread_slots.add()
            if self._config.has_stall_monitor:
                # Not before: it would lead, and accept clients before there are certificates.
                self._attend()
            if self._loop.ask_full is not None:
                self._loop.wake()  # it replaces one whose call has left the count
        return thread

    def next_of(self, thread: ThreadSlot) -> PythonExchange | None:
        """Do the same as `next`, for the calling thread's slot: see `thread`."""
        loop = self._loop
        if thread.exchange is not None:
            thread.words[NUMBER] = 0
            if thread.exchange.state is not ENDED:
                # A signal handler raised an exception outside the application's call.
                thread.exchange.abort()
            thread.exchange = None
            if loop.ask_full is not None:
                loop.wake()  # the monitor leads, and accepts only with a free thread
        if thread.place is not None and not self._over:
            self._count.await_place(thread)
            if loop.ask_full is not None:
                loop.wake()
        while not self._over:
            exchange = self._queue.take() if self._requests.size else None
            if exchange is None:
                if not self._leadership.acquire(False):
                    if self._config.when_idle is not None:
                        self._config.when_idle()  # the leader may wait already
                    self._park()
                    continue
                try:
                    exchange = loop.run()
                finally:
                    self._leadership.release()
                if exchange is None:
                    break
            self._handed_out += 1
            # This thread counts as busy first, and looks second whether the monitor leads, which
            # may have to stop accepting now. The monitor does it in the reverse order.
            thread.exchange = exchange
            if self._monitor is not None:
                self._look_after(exchange)
                if loop.ask_full is not None:
                    loop.wake()
            if loop.dropped_names or loop.untrusted_fields:
                loop.log_dropped_fields()
            self._thread_slots.begin(thread, exchange)
            return exchange
        if self._closed_in_child:
            return None
        self._end()
        with self._leadership:
            loop.run()  # for exchanges that ended last, such as this thread's own
        return None

    def current_exchange(self) -> PythonExchange | None:
        """See `penstock.transport.Transport.current_exchange`."""
        thread: ThreadSlot | None = getattr(self._local, "thread", None)
        return None if thread is None else thread.exchange

    def leave_count(self, add_thread: Callable[[], bool], *, websocket: bool) -> bool:
        """See `penstock.transport.Transport.leave_count`; ``add_thread`` starts a thread."""
        thread: ThreadSlot | None = getattr(self._local, "thread", None)
        if thread is None or (exchange := thread.exchange) is None or self._over:
            return False
        left = thread.left_count and not websocket
        if not left and not self._count.leave(thread, add_thread, websocket=websocket):
            return False
        exchange.io_bound = True
        return True

    def _look_after(self, exchange: PythonExchange) -> None:
        """Make sure that a thread watches the sockets while the calling thread is away."""
        slow_paths = self._loop.slow_paths
        if not slow_paths.calm and slow_paths.expects_slow_call(exchange.request.path):
            self._promote()
        elif self._monitor_asleep:
            self._wake_monitor()

    def _park(self) -> None:
        ticket = threading.Lock()
        ticket.acquire()
        self._parked.append(ticket)
        # This thread parks first and looks second. A thread that queues a request, or ends the
        # transport, does it in the reverse order, so that no wake-up is lost. The stall monitor
        # notices that no thread leads. Without one, `lead_briefly` may have led for a moment.
        unled = self._monitor is None and not self._leadership.locked()
        if self._requests.size or self._over or unled:
            try:
                self._parked.remove(ticket)
            except ValueError:
                pass  # another thread is waking this one already
            else:
                return
        ticket.acquire()

    def _wake_parked(self) -> bool:
        try:
            ticket = self._parked.pop()  # the last that was parked: its stack is still warm
        except IndexError:
            return False
        ticket.release()
        return True

    def _promote(self) -> None:
        """Promote a follower, which leads while the calling thread is in the application."""
        if not self._leadership.locked() and not self._wake_parked():
            self._wake_monitor()

    # -- the stall monitor ------------------------------------------------------------------------

    def _attend(self) -> bool:
        """Make sure that there is a stall monitor; return False where no thread can be started."""
        if self._monitor is None:
            try:
                self._start_monitor()
            except RuntimeError:  # no thread is left for this process
                return False
        return True

    def _start_monitor(self) -> None:
        with self._starting:
            if self._monitor is None:
                monitor = threading.Thread(
                    target=self._watch_calls, name="penstock-stall-monitor", daemon=True
                )
                monitor.start()
                self._monitor = monitor

    def look_at_calls(self) -> None:
        """See `penstock.transport.Transport.look_at_calls`."""
        if self._monitor is not None or self._over:
            return
        if self._slot.longest_call() >= self._config.busy_accept_seconds:
            self._attend()

    def _wake_monitor(self) -> None:
        try:
            self._monitor_alarm.release()
        except RuntimeError:
            pass  # released already

    def _watch_calls(self) -> None:
        seen = self._handed_out
        stalled = 0
        changed_at = before = time.monotonic()
        alert_until = 0.0
        while not self._over:
            # Look again after setting the flag: a request that came in between did not see it.
            self._monitor_asleep = before - changed_at > self._config.monitor_idle_seconds
            if self._monitor_asleep and seen == self._handed_out and self._leadership.locked():
                tick = 0.0
                self._monitor_alarm.acquire()
            else:
                tick = ALERT_TICK_SECONDS if before < alert_until else CALM_TICK_SECONDS
                self._monitor_alarm.acquire(timeout=tick)
            self._monitor_asleep = False
            now = time.monotonic()
            late = now - before > tick + LATE_TICK_SECONDS
            before = now
            if self._handed_out != seen:
                seen = self._handed_out
                changed_at = now
                if self._loop.slow_paths.overall <= self._config.slow_share:
                    stalled = 0
                    continue
            if self._leadership.locked():
                stalled = 0
                continue
            stalled += 1 if late else PATIENCE_TICKS
            if stalled >= PATIENCE_TICKS:
                stalled = 0
                alert_until = now + ALERT_SECONDS
                if not self._wake_parked():
                    self._lead_for_busy_threads()

    def _lead_for_busy_threads(self) -> None:
        """Lead while every thread is busy, and queue the requests that become ready."""
        if not self._leadership.acquire(False):
            return
        over = False
        self._loop.ask_full = self._thread_slots.full
        try:
            while not self._parked:
                exchange = self._loop.run()
                if exchange is None:
                    over = True
                    break
                self._loop.queue_up(exchange, taken_at_once=bool(self._parked))
        except Exception:
            # A bug. Without the stall monitor, the transport would hang with its slowest request.
            messages.STALL_MONITOR_DEFECT.log(self._loop.logger, exc_info=True)
        finally:
            self._loop.ask_full = None
            self._loop.full = False
            self._leadership.release()
        if over:
            self._end()
        # The thread that is woken takes the request, and leads when it has answered it.
        elif self._requests.size:
            self._wake_parked()

    # -- the end ----------------------------------------------------------------------------------

    def _end(self) -> None:
        self._over = True
        self._count.end()
        while self._wake_parked():
            pass
        self._wake_monitor()

    def interrupt(self) -> None:
        """Make sure that a thread sees the flags that were set in the loop."""
        self._loop.wake()
        # If no thread leads, one that returns from the application sees the flags, or the stall
        # monitor at its next tick. If none ever returns (one thread, and it hangs), the sockets
        # have to be closed here.
        if self._loop.closed and self._leadership.acquire(timeout=1.0):
            try:
                self._loop.run()
            finally:
                self._leadership.release()
            self._end()

    def lead_briefly(self, work: Callable[[], object]) -> None:
        """Do a leader's work if no thread leads, because all may be in the application."""
        if not self._leadership.acquire(False):
            return  # the leader was woken, and does the work
        try:
            work()
        finally:
            self._leadership.release()
        self._wake_parked()

    def abort_all(self, reason: str) -> int:
        """See `penstock.transport.Transport.abort_all`."""
        exchanges = [thread.exchange for thread in list(self._thread_slots.slots)]
        count = sum(exchange.time_out(reason) for exchange in exchanges if exchange is not None)
        if count:
            self._attend_posted()
        return count

    def expire(self, number: int, reason: str) -> bool:
        """See `penstock.transport.Transport.expire`."""
        exchange = self._thread_slots.find(number)
        if exchange is None or not exchange.time_out(reason):
            return False
        self._attend_posted()
        return True

    def _attend_posted(self) -> None:
        """Make the leader, or the calling thread, process connections whose exchanges ended."""
        self._loop.wake()
        self.lead_briefly(partial(self._loop.run, only_posted=True))

    def close_in_child(self) -> None:
        """End the transport in a forked child, without locks: their holders do not exist there."""
        self._over = self._closed_in_child = True
