"""Supervisors that follow one another: the one before this one, and the one after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.control.commands import Answer, ControlError
from penstock.supervisor.upgrade import Predecessor, Upgrade

if TYPE_CHECKING:
    import logging
    from collections.abc import Mapping, Sequence

    from penstock.listeners import Listener
    from penstock.supervisor.launch import Launch
    from penstock.supervisor.loop import Loop


class Succession:
    """What this supervisor has of its predecessor, and of its successor."""

    def __init__(
        self,
        predecessor: Predecessor | None,
        loop: Loop,
        logger: logging.Logger,
        on_end: Callable[[int], None],
        on_successor: Callable[[int], None],
    ) -> None:
        """Watch the line to the predecessor, if there is one.

        ``on_end`` is called with its process id when it has ended, ``on_successor`` with that of a
        successor when that one serves.
        """
        self._predecessor = predecessor
        self._upgrade: Upgrade | None = None
        self._loop = loop
        self._logger = logger
        self._on_end = on_end
        self._on_successor = on_successor
        if predecessor is not None:
            loop.watch(predecessor.channel.fileno(), self._on_predecessor_end)

    @property
    def predecessor(self) -> Predecessor | None:
        """The supervisor that this one replaces, as long as it has not ended."""
        return self._predecessor

    @property
    def is_under_way(self) -> bool:
        """Whether a successor is being started."""
        return self._upgrade is not None

    def _on_predecessor_end(self) -> None:
        """Take note of the predecessor's end: it says nothing before it."""
        if self._predecessor is not None:
            self._loop.forget(self._predecessor.channel.fileno())
            self._predecessor.channel.close()
            pid, self._predecessor = self._predecessor.pid, None
            self._on_end(pid)

    def tell_ready(self) -> None:
        """Let the predecessor leave: this one serves."""
        if self._predecessor is not None:
            self._predecessor.tell_ready()

    def begin(
        self,
        launch: Launch,
        listeners: Sequence[Listener],
        services: Mapping[str, int],
        variables: Callable[[int], dict[str, str]],
        abandon: Callable[[], None],
        answer: Answer | None,
    ) -> None:
        """Start a successor, as `Upgrade.start` does; raises `ControlError` where it cannot."""
        self._logger.info("upgrading: starting a new supervisor")
        upgrade = Upgrade(self._loop, self._logger, self._hand_over)
        if answer is not None:
            upgrade.answers.append(answer)
        try:
            upgrade.start(launch, listeners, services, variables, abandon)
        except OSError as error:
            raise ControlError(f"cannot start a new supervisor: {error.strerror}") from None
        self._upgrade = upgrade

    def _hand_over(self) -> None:
        if self._upgrade is not None:
            self._on_successor(self._upgrade.pid)

    def tick(self) -> None:
        """Give up a successor that takes too long."""
        if self._upgrade is not None:
            self._upgrade.check_deadline()
            if self._upgrade.is_over:
                self._upgrade = None

    def give_up(self, reason: str) -> None:
        """Take an upgrade back that is under way."""
        if self._upgrade is not None:
            self._upgrade.fail(reason)
            self._upgrade = None

    def abandon(self) -> None:
        """Close the lines in a forked child."""
        if self._upgrade is not None:
            self._upgrade.abandon()
        if self._predecessor is not None:
            self._predecessor.channel.close()
