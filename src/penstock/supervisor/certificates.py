"""Where the generations have their certificates from: files, and what is ordered."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.config.checks import has_tls

if TYPE_CHECKING:
    import logging
    from collections.abc import Callable, Sequence

    from penstock.config.settings import Settings
    from penstock.edge.certificate_files import CertificateKeeper, Expiry
    from penstock.edge.tls import OrderedCertificates, TicketKeys
    from penstock.supervisor.acme import Acme
    from penstock.supervisor.generation import Generation
    from penstock.supervisor.loop import Loop


FIRST_SECONDS = 5.0
"""How long the workers of a start wait for what is to be served first: the process imports its
library, and makes keys, which takes a second on a quiet machine. Then they serve without."""


class Source:
    """What one generation has its certificates from."""

    def __init__(
        self, settings: Settings, acme: Acme | None, keeper: CertificateKeeper | None
    ) -> None:
        """``acme`` is None where none are ordered, and ``keeper`` without TLS."""
        self.settings = settings
        self.acme = acme
        self.keeper = keeper
        self.generation: Generation | None = None

    @property
    def is_awaited(self) -> bool:
        """Whether the generation still waits for what it is to serve first."""
        return self.acme is not None and self.acme.is_awaited

    def connect(self, generation: Generation) -> None:
        """Have a generation serve these certificates, now and when they change."""
        self.generation = generation
        generation.tls = self.keeper.material if self.keeper is not None else None
        if self.keeper is not None:
            self.keeper.on_change = generation.renew_tls


class Certificates:
    """The source of the generation that serves, and that of the one that a reload starts.

    The supervisor alone uses it. Both share an ordering process where their settings want the same.
    Else the reload starts one of its own, and when it succeeds the other one ends.
    """

    def __init__(
        self,
        loop: Loop,
        logger: logging.Logger,
        application: str,
        tickets: TicketKeys | None,
        close_in_child: Callable[[], None],
    ) -> None:
        """``application`` is for the title of an ordering process.

        ``tickets`` are the keys of an old supervisor in an upgrade. ``close_in_child`` closes in a
        forked process what is the supervisor's alone.
        """
        self._loop = loop
        self._logger = logger
        self._application = application
        self._tickets = tickets
        self._close_in_child = close_in_child
        self._current: Source | None = None
        self._coming: Source | None = None
        self._leaving: list[Acme] = []
        """Those of settings that are not followed any more, until their processes have ended."""

    # -- a start, or a reload ---------------------------------------------------------------------

    def prepare(self, settings: Settings) -> Source:
        """Return the source of a generation of these settings. Raises `TlsError`.

        Nothing is ordered before `begin`.
        """
        acme = self._current.acme if self._current is not None else None
        if not settings.acme_domain:
            acme = None
        elif acme is None or not acme.is_for(settings):
            acme = self._new_acme()
        return Source(settings, acme, self._new_keeper(settings, acme))

    def begin(self, source: Source, *, patience: float) -> None:
        """Order what a source orders, unless that is ordered already. Raises `SettingsError`.

        ``patience`` is for how many seconds its generation waits for what is to be served first.
        """
        self._coming = source
        if source.acme is not None and source.acme is not self._acme:
            source.acme.begin(source.settings, self._application, patience=patience)

    def use(self, source: Source) -> None:
        """Follow a source from now on: its generation serves, or starts as the first one."""
        former, self._current, self._coming = self._current, source, None
        if former is not None and former.acme is not None and former.acme is not source.acme:
            self._let_leave(former.acme)
        if source.keeper is not None:
            source.keeper.tick()  # what is to be warned of comes before the start-up line

    def give_up(self, source: Source) -> None:
        """Leave the source of a reload that has failed."""
        self._coming = None
        if source.acme is not None and source.acme is not self._acme:
            self._let_leave(source.acme)

    def failure_to_order(self, source: Source) -> str:
        """Return why a reload would have no certificate to serve; empty where it has one."""
        acme = source.acme
        if acme is None or acme is self._acme or not acme.has_nothing:
            return ""
        if acme.is_awaited:
            return acme.start_failure
        limit = source.settings.boot_timeout
        return (
            f"the process that orders has handed over none within {limit:g} s (setting: "
            "boot_timeout)"
        )

    def note_serving(self) -> None:
        """Let the process order: the workers serve, so that challenges can be answered."""
        if self._acme is not None:
            self._acme.note_serving()

    # -- what is served ---------------------------------------------------------------------------

    @property
    def expiries(self) -> list[Expiry]:
        """The certificates that are served."""
        keeper = self._keeper
        return keeper.certificates if keeper is not None else []

    @property
    def has_none(self) -> bool:
        """Whether TLS is spoken, and there is nothing but self-signed certificates."""
        return self._keeper is not None and not self._keeper.material.pairs

    @property
    def tickets(self) -> TicketKeys | None:
        """The keys of session tickets, for the supervisor that takes over; None without TLS."""
        return self._keeper.tickets if self._keeper is not None else None

    @property
    def is_awaited(self) -> bool:
        """Whether the start still waits for what is to be served first."""
        return self._current is not None and self._current.is_awaited

    @property
    def start_failure(self) -> str:
        """Why nothing can be ordered, where the start waits for that; else empty."""
        return self._acme.start_failure if self._acme is not None else ""

    def renewal_of(self, names: Sequence[str]) -> str | None:
        """Return what is done for a certificate that is ordered; None for another one."""
        return self._acme.renewal_of(names) if self._acme is not None else None

    # -- the supervisor's loop --------------------------------------------------------------------

    def tick(self, now: float) -> None:
        """Do what is due; ``now`` is on the monotonic clock."""
        if self._keeper is not None:
            self._keeper.tick()
        for acme in self._acmes:
            acme.tick(now)
        self._leaving = [acme for acme in self._leaving if acme.is_busy]

    @property
    def is_busy(self) -> bool:
        """Whether something is expected soon, so that the loop has to look often."""
        return any(acme.is_busy for acme in self._acmes)

    def note_end(self, pid: int) -> None:
        """Note that a child was reaped that is no worker."""
        for acme in self._acmes:
            acme.note_end(pid)

    def close_in_child(self) -> None:
        """Close the channels of ordering processes, in a forked child."""
        for acme in self._acmes:
            acme.close_in_child()

    def end(self) -> None:
        """End what orders: the server stops, or another supervisor orders from now on."""
        if self._acme is not None:
            self._acme.end()

    def end_at_once(self) -> None:
        """End all processes that order without giving them time."""
        for acme in self._acmes:
            acme.end_at_once()

    # ---------------------------------------------------------------------------------------------

    @property
    def _keeper(self) -> CertificateKeeper | None:
        return self._current.keeper if self._current is not None else None

    @property
    def _acme(self) -> Acme | None:
        return self._current.acme if self._current is not None else None

    @property
    def _acmes(self) -> list[Acme]:
        """Each that may have a process."""
        sources = [each for each in (self._current, self._coming) if each is not None]
        found = [each.acme for each in sources if each.acme is not None]
        return list(dict.fromkeys([*found, *self._leaving]))

    def _let_leave(self, acme: Acme) -> None:
        """End a process that orders: other settings are followed."""
        acme.end()
        self._leaving.append(acme)

    def _new_acme(self) -> Acme:
        from penstock.supervisor.acme import Acme  # where certificates are ordered only

        acme = Acme(
            self._loop,
            self._logger,
            lambda ordered: self._serve_ordered(acme, ordered),
            self._close_in_child,
        )
        return acme

    def _new_keeper(self, settings: Settings, acme: Acme | None) -> CertificateKeeper | None:
        if not has_tls(settings):
            return None
        from penstock.edge.certificate_files import CertificateKeeper

        return CertificateKeeper(
            settings,
            self._logger,
            ordered=acme.material if acme is not None else None,
            before=self._keeper,
            tickets=self._tickets,
        )

    def _serve_ordered(self, acme: Acme, ordered: OrderedCertificates) -> Callable[[], bool]:
        """Have the workers serve what was ordered for them; return a function for `Acme`.

        Older generations leave, and keep what they have.
        """
        waits = []
        for source in (self._current, self._coming):
            if source is not None and source.acme is acme and source.keeper is not None:
                source.keeper.order(ordered)
                if source.generation is not None:
                    waits.append(source.generation.when_served())
        return lambda: all(served() for served in waits)
