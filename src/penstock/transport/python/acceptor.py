"""Accepting connections, and not accepting them when that would do harm."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING, Any

from penstock import messages
from penstock.telemetry.scoreboard import DENIED
from penstock.transport.decisions import leaves_to_others, steps_back
from penstock.transport.python import handshaking, proxying
from penstock.transport.python.connection import Connection
from penstock.transport.python.stream import Stream

if TYPE_CHECKING:
    from penstock.listeners import Listener
    from penstock.transport.python.accept_balancing import AcceptBalancing
    from penstock.transport.python.loop import Loop
    from penstock.transport.python.tls_stream import AnyStream

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})


class Acceptor:
    """One listening socket in the loop. Only the leader touches it."""

    def __init__(self, loop: Loop, listener: Listener, base_environ: dict[str, Any]) -> None:
        self._loop = loop
        self.listener = listener
        self.base_environ = base_environ
        self.watched = False
        self.able = True
        """Whether there was room for a connection, and a descriptor, when last looked at."""
        self.left_to_others = False
        """Whether new connections are left in the queue for other workers until `_resume_at`."""
        self.refuses_new = False
        """Whether the kernel ignores clients that try to connect now; see `begin_drain`."""
        self._resume_at = 0.0
        self._complained = False
        self._told_peer = False

    def start(self) -> None:
        """Watch the listening socket."""
        if not self.watched and self.is_open():
            self.watched = True
            self.left_to_others = False
            self._register()
            if not self.able:
                self.able = True
                self._loop.tell_accepting()

    def _register(self) -> None:
        balancing = self._loop.balancing
        exclusive = balancing is not None and balancing.exclusive
        self._loop.selector.register_listener(self.listener.socket, self, exclusive=exclusive)
        if balancing is not None:
            balancing.went_behind |= exclusive

    def watch_again(self) -> None:
        """Watch the listening socket from the end of the kernel's queue of workers on."""
        if self.watched:
            self.stop()
            with contextlib.suppress(OSError):  # no memory: the next sweep tries again
                self._register()
                self.watched = True

    def stop(self) -> None:
        """Stop watching the listening socket; it stays open."""
        if self.watched:
            self.watched = False
            self._loop.selector.unregister(self.listener.socket)

    def is_open(self) -> bool:
        """Return True if the listening socket is open."""
        return self.listener.socket.fileno() >= 0

    def pause(self, seconds: float) -> None:
        """Stop watching for a while; the sweep calls `resume`."""
        self._resume_at = self._loop.now + seconds
        self.stop()
        self.able = False
        if self._loop.balancing is not None:
            self._loop.balancing.unable = True
        self._loop.tell_accepting()

    def resume(self) -> None:
        """Watch again if the pause is over.

        Also without room: an connection may be old enough by now to be evicted for a client
        that waits (`Loop.make_room`). If no client waits, there is no event.
        """
        if self._loop.now >= self._resume_at:
            self.start()

    def _leave_to_others(self, seconds: float) -> None:
        """Leave new connections to other workers for a while that is shorter than any sweep."""
        self.left_to_others = True
        self._resume_at = self._loop.now + seconds
        self.stop()
        self._loop.look_again_at = min(self._loop.look_again_at, self._resume_at)

    def reconsider(self, balancing: AcceptBalancing) -> None:
        """Look again at once where this worker no longer has too many connections."""
        own = len(self._loop.connections)
        if self.left_to_others and not self._loop.full and not balancing.has_more_than_others(own):
            self.start()

    def look_again(self) -> None:
        """Watch again if the time is over for which new connections were left to others."""
        if self.left_to_others:
            self.resume()
            if not self.watched and self.is_open():
                self._loop.look_again_at = min(self._loop.look_again_at, self._resume_at)

    def handle_events(self, _mask: int) -> None:
        """Accept what is waiting, up to a batch."""
        balancing = self._loop.balancing
        if balancing is None or self._loop.draining:
            self.accept(self._loop.config.accept_batch)
        else:
            self._accept_share(balancing, owes=False)

    def accept_first(self, balancing: AcceptBalancing) -> None:
        """Accept a client for whom the kernel may have woken no other worker."""
        if self.watched and not self._loop.draining:
            self._accept_share(balancing, owes=True)

    def _accept_share(self, balancing: AcceptBalancing, *, owes: bool) -> None:
        """Accept while this worker has no more than its share; leave the rest to others.

        With ``owes`` the first client is not left to others: they may not know of it.
        """
        connections, insists = self._loop.connections, balancing.insists()
        is_empty, taken = False, 0
        for taken in range(balancing.step()):
            alone = balancing.exclusive and taken > 0 and not insists
            if alone and balancing.has_more_than_others(len(connections)):
                break
            bound = owes and taken == 0
            if not bound and self._leaves_to_others(balancing, insists, taken):
                return
            before = self._loop.accepted
            is_empty = self.accept(1)
            if not self.watched:
                return
            if is_empty:
                break
            if self._loop.accepted > before:
                balancing.accepted(insists)
        else:
            taken += 1
        if taken > 0 and balancing.exclusive:
            self._step_back(balancing, is_empty)

    def _step_back(self, balancing: AcceptBalancing, is_empty: bool) -> None:
        """Go behind the other workers unless they all have more connections.

        Where they have fewer, this worker is out of their way for a moment. Unless the accept queue
        ``is_empty``, the next poll shows whether a client waits that others know of, too.
        """
        config, own = self._loop.config, len(self._loop.connections)
        fewest = balancing.fewest_of_others()
        if leaves_to_others(config, own, fewest, own + 1):
            self._leave_to_others(config.balance_pause_seconds)
        elif steps_back(own, fewest):
            behind = balancing.went_behind
            self.watch_again()
            balancing.went_behind = behind or not is_empty

    def _leaves_to_others(self, balancing: AcceptBalancing, insists: bool, taken: int) -> bool:
        """Return True if new connections are left to others; then the acceptor pauses."""
        config = self._loop.config
        if self._loop.full:
            pause = balancing.pause_while_busy(self._loop.now, taken, insists=insists)
            if pause:
                self._leave_to_others(pause)
            return pause > 0
        if insists or not balancing.has_more_than_others(len(self._loop.connections)):
            return False
        balancing.deferred()
        self._leave_to_others(config.balance_pause_seconds)
        return True

    def accept(self, most: int) -> bool:
        """Accept at most ``most`` connections. Return True if the accept queue is empty."""
        for count in range(most):
            if not self._loop.has_room():
                if count > 0:
                    return False  # the next poll shows whether another client waits
                if not self._loop.make_room():
                    self._complain_of_descriptors()
                    self.pause(0)
                    return False
            try:
                sock, address = self.listener.socket.accept()
            except BlockingIOError:
                self._complained = False  # the queue is empty: the next shortage is a new one
                return True
            except OSError as error:
                if error.errno in _EXHAUSTED:
                    if self._loop.evict():
                        continue
                    self._rest(error)
                    return False
                continue  # that client has disconnected (ECONNABORTED and similar errors)
            self._admit(sock, address)
        return False

    def begin_drain(self) -> None:
        """Keep new connections out of the accept queue, where the system supports that."""
        if self.is_open():
            self.refuses_new = self.listener.ignore_new_connections()
            self.start()

    def close_when_empty(self) -> bool:
        """Accept the connections in the queue, then close it. Return True if it is closed."""
        if not self.is_open():
            return True
        if not self.accept(self._loop.config.max_backlog):
            return False
        self.close()
        return True

    def close(self) -> None:
        """Close the listening socket; clients in its accept queue are reset."""
        self.stop()
        self.listener.close()

    def _admit(self, sock: socket.socket, address: Any) -> None:
        if self.listener.is_unix:
            remote_addr, remote_port = "", ""
        else:
            # A client of IPv4 at [::] is the same client as at 0.0.0.0.
            remote_addr = address[0].removeprefix("::ffff:") if "." in address[0] else address[0]
            remote_port = str(address[1])
        loop, config = self._loop, self._loop.config
        packets = self.listener.uwsgi
        if packets and not config.uwsgi_peers.trusts(remote_addr):
            self._refuse_peer(remote_addr)
            sock.close()
            return
        awaits_proxy = bool(config.proxy_versions) and config.proxy_peers.trusts(remote_addr)
        # Of a proxy's connection, the client is counted that its header or packet names.
        named = awaits_proxy or packets
        admitted, key = (True, None) if named else loop.clients.admit(remote_addr)
        if not admitted:
            sock.close()
            return
        if self.listener.tls:
            assert loop.tls is not None  # set before the first thread leads
            stream: AnyStream = loop.tls.stream(sock, remote_addr, remote_port, loop.traffic)
        else:
            stream = Stream(sock, remote_addr, remote_port, loop.traffic)
        connection = Connection(self._loop, stream, self.base_environ)
        if packets:
            proxying.expect_packet(connection)
        elif awaits_proxy:
            proxying.expect_header(connection)
        elif self.listener.tls:
            handshaking.begin(connection)
        connection.redirects = self.listener.redirects
        connection.client_key = key
        self._loop.add(connection)

    def _refuse_peer(self, address: str) -> None:
        """Count a peer that may not speak the uwsgi protocol; log the first."""
        loop = self._loop
        loop.slot_words[DENIED] += 1
        if not self._told_peer:
            self._told_peer = True  # strangers decide how many there are
            loop.request_log.message(
                messages.UWSGI_PEER_REFUSED,
                listener=self.listener.name,
                peer=address or "a unix socket",
            )

    def _complain_of_descriptors(self) -> None:
        """Log that no connection is accepted because of the descriptors that are open.

        `max_connections` is a limit that was meant, and goes without a word.
        """
        loop = self._loop
        if len(loop.connections) < loop.config.max_connections and not self._complained:
            self._complained = True  # once for each shortage
            loop.request_log.message(
                messages.DESCRIPTORS_USED_UP,
                listener=self.listener.name,
                connections=len(loop.connections),
                files=loop.budget.files,
            )

    def _rest(self, error: OSError) -> None:
        self.pause(self._loop.config.accept_pause_seconds)
        if not self._complained:  # once for each shortage, not twice a second
            self._complained = True
            self._loop.request_log.message(
                messages.ACCEPT_PAUSED, listener=self.listener.name, error=error.strerror
            )
