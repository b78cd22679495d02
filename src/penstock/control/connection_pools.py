"""Which threads wait for a connection of a pool, by the stacks that ``GET /stacks`` returns.

A pool of connections, such as to a database, is smaller than the number of threads that use it: the
threads wait in the function of its library that hands out connections.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from penstock.records import dataclass


@dataclass(frozen=True)
class Pool:
    """The pool of a library."""

    name: str
    setting: str
    """What its size is set by in the application."""
    file: str
    """Where a thread waits for a connection: the end of the path of the library's module..."""
    functions: tuple[str, ...]
    """... and its functions in which that is."""
    through: str = ""
    """The end of the path of a module that has to be on the stack as well."""


POOLS: Final = (
    Pool(
        "Django's pool for PostgreSQL",
        'max_size, in OPTIONS["pool"] of DATABASES',
        "psycopg_pool/pool.py",
        ("wait",),
        through="django/db/backends/postgresql/base.py",
    ),
    Pool("psycopg_pool", "max_size of ConnectionPool", "psycopg_pool/pool.py", ("wait",)),
    Pool(
        "SQLAlchemy's QueuePool",
        "pool_size and max_overflow of create_engine, together,",
        "sqlalchemy/util/queue.py",
        ("get",),
        through="sqlalchemy/pool/impl.py",
    ),
    Pool("DBUtils", "maxconnections of PooledDB", "dbutils/pooled_db.py", ("_wait_lock",)),
    Pool(
        "redis-py's BlockingConnectionPool",
        "max_connections of BlockingConnectionPool",
        "redis/connection.py",
        ("get_connection",),
    ),
)
"""The pools that are known, of which the first that fits a stack is the one."""

_WAITS: Final = re.compile(r".*/(?:lib(?:64)?/python3\.\d+t?|[Ll]ib)/(?:threading|queue)\.py")
"""Where a thread of Python code waits for another: a connection is made elsewhere."""

_FRAME: Final = re.compile(r'  File "(.*)", line \d+, in (.*)')
_WITH_REQUEST: Final = re.compile(r"thread .*: .*\(request |(?:current )?thread 0x")
"""The heading of a thread that has a request; where C code wrote it, of any thread."""

Frame = tuple[str, str]
"""A file and a function."""


def waits_by_pool(stacks: Iterable[str]) -> Counter[Pool]:
    """Return how many threads with a request wait for a connection of which pool.

    ``stacks`` has the text of each worker.
    """
    found: Counter[Pool] = Counter()
    for text in stacks:
        for frames in _stacks_in(text):
            pool = _pool_of(frames)
            if pool is not None:
                found[pool] += 1
    return found


def _stacks_in(text: str) -> Iterator[list[Frame]]:
    """Yield the stacks of threads with a request, the innermost frame last."""
    frames: list[Frame] | None = None
    for line in text.splitlines():
        if not line.startswith(" "):
            if frames:
                yield frames
            frames = [] if _WITH_REQUEST.match(line) else None
        elif frames is not None and (frame := _FRAME.fullmatch(line)):
            frames.append((frame[1].replace("\\", "/"), frame[2]))
    if frames:
        yield frames


def _pool_of(frames: Sequence[Frame]) -> Pool | None:
    """Return the pool for which a thread waits; None where it does anything else."""
    last = len(frames) - 1
    while last >= 0 and _WAITS.fullmatch(frames[last][0]):
        last -= 1
    if last == len(frames) - 1 or last < 0:
        return None  # it runs, or waits in no code of a library
    file, function = frames[last]
    for pool in POOLS:
        if (
            file.endswith(f"/{pool.file}")
            and function in pool.functions
            and any(other.endswith(pool.through) for other, _ in frames)
        ):
            return pool
    return None
