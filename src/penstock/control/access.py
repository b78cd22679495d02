"""Who may read the dashboard of ``--admin``, and by which names of the host.

Probes and metrics are open to every client of the address; these rules are for all else. On a unix
socket the mode of its path says who may connect, and no token is asked for.

A browser keeps the token in the page's sessionStorage and sends it as ``Authorization: Bearer``.
A cookie would be worse, although scripts cannot read one that is HttpOnly: cookies are not
separated by port (RFC 6265, section 8.5), so that the browser would send the token to the
application, and to any other server, at another port of the same host. Nothing is sent by itself
here, so that a page of another site cannot make requests in the user's name either. What
sessionStorage risks, a foreign script in the page, is ruled out by the page's
Content-Security-Policy; such a script could read the dashboard through the page in any case.
"""

from __future__ import annotations

import re
import socket
from typing import TYPE_CHECKING, Final

from penstock.control.commands import ControlError
from penstock.records import dataclass

if TYPE_CHECKING:
    import logging

    from penstock.config.settings import Settings
    from penstock.http1 import Request

_TOKEN_BYTES: Final = 24
"""Of a token that the server makes."""

_HOST = re.compile(r"(?P<name>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_BEARER = re.compile(r"bearer +(?P<token>[!-~]+)", re.IGNORECASE)
_FROM_ELSEWHERE = ("cross-site", "same-site")
"""Values of Sec-Fetch-Site in a request that a page of another origin makes."""


@dataclass(frozen=True)
class Place:
    """Where the admin address is."""

    is_local: bool
    """Whether it is a unix socket."""
    host: str = ""
    """The host as the setting has it: a name or an address."""
    address: str = ""
    """The numeric address that is bound."""
    port: int = 0

    @classmethod
    def of(cls, sock: socket.socket, host: str | None) -> Place:
        """Return the place of a listening socket; ``host`` is that of the setting."""
        if sock.family not in (socket.AF_INET, socket.AF_INET6):
            return cls(is_local=True)
        address, port = sock.getsockname()[:2]
        return cls(False, (host or address).lower(), address.partition("%")[0], port)

    @property
    def url(self) -> str:
        """The URL of the dashboard for a browser on the same machine; empty for a unix socket."""
        if self.is_local:
            return ""
        from ipaddress import ip_address

        address = ip_address(self.address)
        host = "localhost" if address.is_unspecified else self.address
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}/"


class Access:
    """The token and the names of the host: those of the settings, or a token that was made."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._digest = ""
        """The SHA-256 of the token: a worker, which has a copy of this memory, cannot use it."""
        self._is_made = False
        self._hosts: frozenset[str] = frozenset()

    def use(self, settings: Settings) -> None:
        """Take what the settings say, at the start and at a reload."""
        self._hosts = frozenset(name.strip("[]").lower() for name in settings.admin_hosts)
        if settings.admin_token:
            self._digest, self._is_made = settings.admin_token, False
        elif not self._is_made:
            self._digest = ""

    def make_token(self, place: Place) -> None:
        """Make a token and log it, where one is needed and there is none."""
        if place.is_local or self._digest:
            return
        import secrets

        from penstock.config.token_file import digest_of

        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._digest, self._is_made = digest_of(token), True
        # Behind the # it stays in the browser: no proxy sees it, and no log has it.
        self._logger.info(
            "admin: the dashboard was asked for; this token opens it, until the server ends or "
            "admin_token_file is set: %s#token=%s",
            place.url,
            token,
        )

    def check_host(self, request: Request, place: Place) -> None:
        """Check the name by which a client reaches the dashboard.

        A page of another site, whose name its owner makes lead to this address, has its own name in
        the field Host (DNS rebinding). An address in place of a name cannot come about so. Raises
        `ControlError` with status 403.
        """
        host = _HOST.fullmatch(request.fields.get("host", ""))
        name = host["name"].strip("[]").rstrip(".").lower() if host else ""
        if not name or not self._is_known(name, place):
            raise ControlError(
                "the field Host has a name that is not one of this server's: use its address or "
                "localhost, or add the name to admin_hosts",
                403,
            )

    def check(self, request: Request, place: Place) -> None:
        """Check that the sender of a request may read what the dashboard shows.

        Raises `ControlError` with status 401 or 403.
        """
        self.check_host(request, place)
        if request.fields.get("sec-fetch-site", "").lower() in _FROM_ELSEWHERE:
            raise ControlError("requests of pages of other sites are refused", 403)
        if place.is_local:
            return
        self.make_token(place)
        given = _BEARER.fullmatch(request.fields.get("authorization", ""))
        if given is None:
            raise _unauthorized("this needs the field Authorization: Bearer TOKEN", "")
        from hmac import compare_digest

        from penstock.config.token_file import digest_of

        if not compare_digest(digest_of(given["token"]), self._digest):
            raise _unauthorized("the token is not the one of this server", ' error="invalid_token"')

    def _is_known(self, name: str, place: Place) -> bool:
        if name == "localhost" or name in self._hosts or name == place.host:
            return True
        from ipaddress import ip_address

        try:
            address = ip_address(name)
        except ValueError:
            return False
        if address.is_loopback:  # as through a tunnel of ssh
            return True
        bound = ip_address(place.address) if place.address else None
        return bound is not None and (address == bound or bound.is_unspecified)


def _unauthorized(message: str, parameters: str) -> ControlError:
    challenge = f'Bearer realm="penstock admin"{"," if parameters else ""}{parameters}'
    return ControlError(message, 401, (("WWW-Authenticate", challenge),))
