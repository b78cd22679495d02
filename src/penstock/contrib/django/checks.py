"""System checks: what of the project does not fit the server's settings.

`manage.py check --deploy` runs them, and those of databases with ``--database NAME``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections
from django.db.utils import DatabaseError

from penstock.contrib.django.server_settings import value_of, variables
from penstock.errors import SettingsError

_MOST_CONNECTIONS = {
    "postgresql": "SHOW max_connections",
    "mysql": "SELECT @@max_connections",
}
"""By the name of a kind of database: how to ask for the number of connections that it takes."""


def register_all() -> None:
    """Register the checks with Django."""
    register(check_settings)
    register(check_debug, Tags.security, deploy=True)
    register(check_proxies, Tags.security, deploy=True)
    register(check_connections, Tags.database)


def check_settings(**_arguments: Any) -> list[CheckMessage]:
    """Report a setting ``PENSTOCK`` that the server would refuse."""
    try:
        variables()
    except SettingsError as error:
        return [Error(str(error), id="penstock.E001")]
    return []


def check_debug(**_arguments: Any) -> list[CheckMessage]:
    """Report a project that is served to others with ``DEBUG``."""
    if check_settings() or not settings.DEBUG or not _serves_others():
        return []
    return [
        Warning(
            "DEBUG is on, and the server listens on addresses that others reach: every client "
            "sees tracebacks and settings, and every file of every app",
            hint="Set DEBUG = False, or bind to 127.0.0.1.",
            id="penstock.W001",
        )
    ]


def check_proxies(**_arguments: Any) -> list[CheckMessage]:
    """Report a project that believes what its clients can say, or redirects for ever."""
    if check_settings():
        return []
    found: list[CheckMessage] = []
    believing = [
        name
        for name in ("SECURE_PROXY_SSL_HEADER", "USE_X_FORWARDED_HOST", "USE_X_FORWARDED_PORT")
        if getattr(settings, name, None)
    ]
    if believing and _serves_others() and value_of("untrusted_forwarded") == "pass":
        found.append(
            Warning(
                f"{' and '.join(believing)}: Django believes fields that any client can send: the "
                "server passes them on from every client",
                hint="Set untrusted_forwarded to 'drop' in PENSTOCK, and name your proxies in "
                "forwarded_allow_ips and what they set in forwarded_headers.",
                id="penstock.W002",
            )
        )
    has_tls = value_of("certfile") or value_of("acme_domain")
    if settings.SECURE_SSL_REDIRECT and not has_tls and not value_of("forwarded_allow_ips"):
        found.append(
            Warning(
                "SECURE_SSL_REDIRECT redirects every request for ever: the server has no TLS, and "
                "believes no proxy that a client came by https",
                hint="Give the server a certificate (certfile, acme_domain), or name your proxies "
                "in forwarded_allow_ips.",
                id="penstock.W003",
            )
        )
    return found


def check_connections(
    databases: Sequence[str] | None = None, **_arguments: Any
) -> list[CheckMessage]:
    """Report a database that takes fewer connections than the threads of all workers keep."""
    if check_settings():
        return []
    workers, threads = value_of("workers"), value_of("threads")
    if not isinstance(workers, int) or not isinstance(threads, int):
        return []  # as many workers as fit, which only the machine knows
    found: list[CheckMessage] = []
    for alias in databases or ():
        connection = connections[alias]
        age = connection.settings_dict.get("CONN_MAX_AGE", 0)
        question = _MOST_CONNECTIONS.get(connection.vendor)
        if age == 0 or question is None:
            continue
        try:
            with connection.cursor() as cursor:
                cursor.execute(question)
                most = int(cursor.fetchone()[0])
        except DatabaseError:
            continue  # Django's own checks report a database that cannot be reached
        # During a reload the workers of both generations are there.
        kept = 2 * workers * threads
        if kept > most:
            found.append(
                Warning(
                    f"the database {alias!r} takes {most} connections, and CONN_MAX_AGE = {age} "
                    f"keeps one for each thread: {workers} workers of {threads} threads, twice "
                    f"during a reload, are {kept}",
                    hint="Set CONN_MAX_AGE = 0, use a pool, or lower workers and threads.",
                    id="penstock.W004",
                )
            )
    return found


def _serves_others() -> bool:
    """Return True if the server listens on an address that other machines may reach."""
    bind = value_of("bind")
    assert isinstance(bind, tuple)
    addresses = [address.rpartition("://")[2] for address in bind]
    local = ("127.", "localhost:", "[::1]:", "unix:")
    return not all(address.startswith(local) for address in addresses)
