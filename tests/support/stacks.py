"""The stacks of workers as ``GET /stacks`` has them: of threads that wait in some library.

The frames are those that real libraries had; docs/control.md names them.
"""

from __future__ import annotations

PYTHON = "/usr/lib/python3.11"
PACKAGES = f"{PYTHON}/site-packages"

APPLICATION = (("/srv/shop/views.py", "orders"),)
CONDITION = ((f"{PYTHON}/threading.py", "wait"),)
QUEUE = ((f"{PYTHON}/queue.py", "get"), *CONDITION)
PSYCOPG = (
    (f"{PACKAGES}/psycopg_pool/pool.py", "getconn"),
    (f"{PACKAGES}/psycopg_pool/pool.py", "_getconn_unchecked"),
    (f"{PACKAGES}/psycopg_pool/pool.py", "wait"),
    *CONDITION,
)
DJANGO = (
    (f"{PACKAGES}/django/db/backends/base/base.py", "ensure_connection"),
    (f"{PACKAGES}/django/db/backends/postgresql/base.py", "get_new_connection"),
    *PSYCOPG,
)
SQLALCHEMY = (
    (f"{PACKAGES}/sqlalchemy/pool/impl.py", "_do_get"),
    (f"{PACKAGES}/sqlalchemy/util/queue.py", "get"),
    *CONDITION,
)
DBUTILS = (
    (f"{PACKAGES}/dbutils/pooled_db.py", "connection"),
    (f"{PACKAGES}/dbutils/pooled_db.py", "_wait_lock"),
    *CONDITION,
)
REDIS = ((f"{PACKAGES}/redis/connection.py", "get_connection"), *QUEUE)


def stack(*frames: tuple[str, str], request: bool = True) -> str:
    """Return the stack of a thread, the outermost frame first."""
    note = ": GET /a: b (request 4f2a-1, 0.5 s old, from 192.0.2.1:5)" if request else ""
    lines = [f"thread penstock-2{note}"]
    for number, (file, function) in enumerate((*APPLICATION, *frames)):
        lines += [f'  File "{file}", line {number + 1}, in {function}', "    source()"]
    return "\n".join(lines)


def stacks_of_worker(*stacks: str) -> str:
    """Return what one worker answers."""
    return "\n".join([*stacks, "not shown: 1 idle thread, 2 of the server's"])
