"""Who leads: an inline leader, lazy followers, and a tender.

Leadership is a lock. The thread that holds it runs the loop; when a request is ready, it lets go
of the lock and runs the application itself, so that a fast application never pays for a
hand-over between threads. Coming back, it takes the lock again, if nobody else has.

Meanwhile the tender, a thread of the transport's own, looks once a tick whether one call has
lasted a whole tick with nobody leading. If so it wakes a parked thread, which then leads; when
every thread is busy with the application, the tender itself leads: it reads, writes and keeps
deadlines, and queues the requests that become ready until a thread is free.

One such promotion a tick would bound how many calls can overlap, so where calls prove slow, the
leader wakes its successor before it calls.

With one thread there is none of this, but for a tender where health checks are to be answered while
the thread is with the application.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial

from penstock import messages
from penstock.telemetry.scoreboard import NUMBER, WAITING, Slot
from penstock.transport.python.exchange import PythonExchange
from penstock.transport.python.loop import Loop
from penstock.transport.python.thread_slots import Hall, Seat

CALM_TICK_SECONDS = 0.005
"""How often the tender looks while calls are fast: each look costs two thread switches. A slow
call holds up its neighbours for up to twice as long, once."""

ALERT_TICK_SECONDS = 0.001
"""How often it looks for some time after a slow call: where there is one, more will come."""

ALERT_SECONDS = 1.0
"""How long that time is."""

LATE_TICK_SECONDS = 0.003
"""A tick that comes so much too late shows that the interpreter lock is busy: then another
thread that leads gains little, and costs switches."""

PATIENCE_TICKS = 4
"""How many late ticks one call has to last before another thread is made to lead."""


class Crew:
    """The threads of one transport and the queue of requests that wait for one of them."""

    def __init__(self, loop: Loop, slot: Slot) -> None:
        self._loop = loop
        self._config = loop.config
        self._hall = loop.hall = Hall(loop.config, slot, loop.logger)
        self._local = threading.local()  # with each thread's own seat
        self._slot_words = slot.words
        self._leadership = threading.Lock()
        self._ready: deque[PythonExchange] = deque()
        self._parked: deque[threading.Lock] = deque()  # each held; releasing it wakes its thread
        self._handed_out = 0  # counts up; unchanged over a tick, the call has lasted it
        self._over = False
        self._abandoned = False
        self._tender: threading.Thread | None = None
        self._tender_asleep = False
        self._tender_alarm = threading.Lock()
        self._tender_alarm.acquire()
        if loop.config.has_stall_monitor:
            self._tender = threading.Thread(target=self._tend, name="penstock-tender", daemon=True)
            self._tender.start()

    # -- the application's threads --------------------------------------------------------------

    def next(self) -> PythonExchange | None:
        """Return the next request for the calling thread; None for good at the end."""
        try:
            seat: Seat = self._local.seat
        except AttributeError:
            seat = self._local.seat = self._hall.new_seat()
        if seat.exchange is not None:
            seat.words[NUMBER] = 0
            if not seat.exchange.done:
                # The handler of a signal raised, outside of the application's call.
                seat.exchange.abort()
            seat.exchange = None
            if self._loop.ask_full is not None:
                self._loop.wake()  # the tender leads, and leaves newcomers alone without a thread
        while not self._over:
            exchange = self._take_ready() if self._ready else None
            if exchange is None:
                if not self._leadership.acquire(blocking=False):
                    self._park()
                    continue
                exchange = self._lead()
                if exchange is None:
                    break
            elif exchange.drop_if_departed():
                continue  # it has waited for a thread, and its client no longer waits for it
            self._handed_out += 1
            if self._tender is not None:
                self._look_after(exchange)
                if self._loop.ask_full is not None:
                    seat.exchange = exchange  # so that it is counted
                    self._loop.wake()  # the tender leads, and may leave newcomers alone from now on
            self._hall.begin(seat, exchange)
            return exchange
        if self._abandoned:
            return None
        self._end()
        while (exchange := self._take_ready()) is not None:  # where the end was not waited for
            exchange.handed_out_at = time.monotonic_ns()
            exchange.abort()
        with self._leadership:
            self._loop.run()  # for what came back last, this thread's own exchange perhaps
        return None

    def _take_ready(self) -> PythonExchange | None:
        try:
            exchange = self._ready.popleft()
        except IndexError:
            return None  # another thread was faster
        self._slot_words[WAITING] = len(self._ready)
        return exchange

    def _lead(self) -> PythonExchange | None:
        try:
            return self._loop.run()
        finally:
            self._leadership.release()

    def _look_after(self, exchange: PythonExchange) -> None:
        """See that somebody watches the sockets while the calling thread is away."""
        if self._loop.expects_slow_call(exchange.request.path):
            self._promote()
        elif self._tender_asleep:
            self._wake_tender()

    def _park(self) -> None:
        ticket = threading.Lock()
        ticket.acquire()
        self._parked.append(ticket)
        # Parked first, looked second: whoever queues a request, or ends it all, does it in the
        # other order, so that no wake-up is lost. That nobody leads is the tender's to notice, but
        # where there is none, leadership may have been taken for a moment (`lead_briefly`).
        unled = self._tender is None and not self._leadership.locked()
        if self._ready or self._over or unled:
            try:
                self._parked.remove(ticket)
            except ValueError:
                pass  # somebody is waking this thread already
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
        """Have somebody lead while the calling thread is in the application."""
        if not self._leadership.locked() and not self._wake_parked():
            self._wake_tender()

    # -- the tender -------------------------------------------------------------------------------

    def _wake_tender(self) -> None:
        try:
            self._tender_alarm.release()
        except RuntimeError:
            pass  # released already

    def _tend(self) -> None:
        seen = self._handed_out
        stalled = 0
        changed_at = before = time.monotonic()
        alert_until = 0.0
        while not self._over:
            # Looked at again after the flag is up: a request that came in between did not see it.
            self._tender_asleep = before - changed_at > self._config.monitor_idle_seconds
            if self._tender_asleep and seen == self._handed_out and self._leadership.locked():
                tick = 0.0
                self._tender_alarm.acquire()
            else:
                tick = ALERT_TICK_SECONDS if before < alert_until else CALM_TICK_SECONDS
                self._tender_alarm.acquire(timeout=tick)
            self._tender_asleep = False
            now = time.monotonic()
            late = now - before > tick + LATE_TICK_SECONDS
            before = now
            if self._handed_out != seen:
                seen = self._handed_out
                changed_at = now
                if self._loop.slow_share <= self._config.slow_share:
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
                    self._tend_loop()

    def _tend_loop(self) -> None:
        """Lead while every thread is busy; queue what becomes ready."""
        if not self._leadership.acquire(blocking=False):
            return
        over = False
        self._loop.ask_full = self._hall.full
        try:
            while not self._parked:
                exchange = self._loop.run()
                if exchange is None:
                    over = True
                    break
                self._ready.append(exchange)
                self._slot_words[WAITING] = len(self._ready)
        except Exception:
            # A defect of ours: without its tender, the crew would hang with its slowest request.
            messages.STALL_MONITOR_DEFECT.log(self._loop.logger, exc_info=True)
        finally:
            self._loop.ask_full = None
            self._loop.full = False
            self._leadership.release()
        if over:
            self._end()
        # The one that is woken takes the request, and leads once it has answered it.
        elif self._ready:
            self._wake_parked()

    # -- the end ----------------------------------------------------------------------------------

    def _end(self) -> None:
        self._over = True
        while self._wake_parked():
            pass
        self._wake_tender()

    def interrupt(self) -> None:
        """Have somebody see the flags that were set in the loop, whoever is busy with what."""
        self._loop.wake()
        # Nobody leads: then a thread that comes back from the application will see them, or the
        # tender at its next tick. Were all that never to come back (one thread, and it hangs),
        # the sockets have to be closed from here.
        if self._loop.closed and self._leadership.acquire(timeout=1.0):
            try:
                self._loop.run()
            finally:
                self._leadership.release()
            self._end()

    def lead_briefly(self, work: Callable[[], object]) -> None:
        """Do work of the leader's where nobody leads: every thread may be with the application."""
        if not self._leadership.acquire(blocking=False):
            return  # the leader was woken, and does it
        try:
            work()
        finally:
            self._leadership.release()
        self._wake_parked()

    def give_up(self, reason: str) -> int:
        """See `penstock.transport.Transport.give_up`."""
        exchanges = [seat.exchange for seat in list(self._hall.seats)]
        count = sum(exchange.give_up(reason) for exchange in exchanges if exchange is not None)
        if count:
            self._attend_posted()
        return count

    def expire(self, number: int, reason: str) -> bool:
        """See `penstock.transport.Transport.expire`."""
        exchange = self._hall.find(number)
        if exchange is None or not exchange.give_up(reason):
            return False
        self._attend_posted()
        return True

    def _attend_posted(self) -> None:
        """Have ended exchanges' connections looked after, where the leader is the one away."""
        self._loop.wake()
        self.lead_briefly(partial(self._loop.run, only_posted=True))

    def abandon(self) -> None:
        """End it all in a forked child, without a lock: whoever held one is not there."""
        self._over = self._abandoned = True
