"""Workers as the supervisor knows them, without processes: scoreboards, lines and stages."""

from __future__ import annotations

import os
import time

from penstock.config.settings import Settings
from penstock.supervisor.worker_process import Stage, WorkerProcess
from penstock.telemetry.scoreboard import BEAT, LIVE, READY, Scoreboard
from penstock.worker.channel import Channel


class Workers:
    """Some workers, on a scoreboard of their own; `lines` are their ends of the channels."""

    def __init__(self) -> None:
        self.scoreboard = Scoreboard(8, 2)
        self.all: list[WorkerProcess] = []
        self.lines: dict[int, Channel] = {}
        self._dumps: list[int] = []

    def add(self, pid: int, stage: Stage = Stage.SERVING, generation: int = 1) -> WorkerProcess:
        """Add one in which all is well."""
        slot, number = self.scoreboard.take(), len(self.all) + 1
        assert slot is not None
        channel, self.lines[pid] = Channel.pair()
        reader, writer = os.pipe()
        os.set_blocking(reader, False)
        self._dumps.append(writer)
        worker = WorkerProcess(number, generation, slot, channel, reader, Settings(), pid=pid)
        worker.stage = stage
        slot.words[READY] = slot.words[LIVE] = 1
        slot.words[BEAT] = time.monotonic_ns()
        self.all.append(worker)
        return worker

    def close(self) -> None:
        """Close everything."""
        for worker in self.all:
            worker.release()
        for line in self.lines.values():
            line.close()
        for writer in self._dumps:
            os.close(writer)


def begin(worker: WorkerProcess, thread: int, age: float, left: float | None, target: str) -> None:
    """Have a thread of a worker be in a request."""
    now = time.monotonic_ns()
    deadline = now + int(left * 1e9) if left is not None else 0
    since = now - int(age * 1e9)
    record = worker.slot.records[thread]
    record.begin(1, since, deadline, "GET", b"203.0.113.7:1", "id-1", target)
