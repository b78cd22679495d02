"""The profiles that clients have asked for: at most one of each worker at a time."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from penstock.control.commands import ControlError, Outcome, Profile, Reply
from penstock.records import dataclass
from penstock.supervisor.worker_process import Stage, WorkerProcess

if TYPE_CHECKING:
    from penstock.worker.channel import Message

ANSWER_SECONDS = 10.0
"""How long after its time a profile may come: the worker needs the interpreter lock for it."""


@dataclass
class _Running:
    reply: Reply
    asked: Profile
    deadline: float
    given_up: bool = False
    """The client has gone: the worker was told to end it, and what comes is dropped."""


class Profiles:
    """Passes the orders on, and the profiles back."""

    def __init__(self) -> None:
        self._running: dict[WorkerProcess, _Running] = {}

    @property
    def is_busy(self) -> bool:
        """Whether `tick` is to be called again soon."""
        return bool(self._running)

    def ask(self, worker: WorkerProcess, asked: Profile, reply: Reply) -> None:
        """Have a worker profile itself. Raises `ControlError` where it cannot now."""
        if worker.stage is not Stage.SERVING:
            raise ControlError(f"{worker} does not serve: it is {worker.stage.value}")
        if worker in self._running:
            raise ControlError(f"{worker} is being profiled already")
        deadline = time.monotonic() + asked.seconds + ANSWER_SECONDS
        self._running[worker] = _Running(reply, asked, deadline)
        worker.order("profile", seconds=asked.seconds, rate=asked.rate, idle=asked.idle)

    def give_up(self, worker: WorkerProcess) -> None:
        """End a worker's profile: the client that has asked for it has gone."""
        running = self._running.get(worker)
        if running is not None and not running.given_up:
            running.given_up = True
            running.deadline = time.monotonic() + ANSWER_SECONDS
            worker.order("end profile")

    def on_profile(self, worker: WorkerProcess, message: Message) -> None:
        """Take the profile that a worker has sent; drop one that no client waits for."""
        running = self._running.pop(worker, None)
        if running is None or running.given_up:
            return
        if message["error"]:
            running.reply(Outcome(False, f"{worker} could not be profiled: {message['error']}"))
            return
        names = ("seconds", "samples", "late", "cost", "frames", "stacks")
        running.reply(
            {
                "worker": worker.number,
                "pid": worker.pid,
                "rate": running.asked.rate,
                **{name: message[name] for name in names},
            }
        )

    def tick(self, now: float) -> None:
        """Give up workers that have ended, or do not answer; ``now`` is monotonic."""
        for worker, running in list(self._running.items()):
            ended = worker.stage is Stage.ENDED
            if ended or now > running.deadline:
                del self._running[worker]
                if not running.given_up:
                    why = "has ended" if ended else "has not answered"
                    running.reply(Outcome(False, f"{worker} {why}: there is no profile of it"))
