"""What the server does with the application's responses before they are sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock.edge.sent_files import FIELDS

if TYPE_CHECKING:
    from penstock.edge.compression import Compression
    from penstock.edge.sent_files import SentFiles
    from penstock.transport import Exchange, HeaderList, Outlet
    from penstock.wsgi.headers import CheckHead


class ResponseFilters:
    """`penstock.wsgi.gateway.Filters`: files that responses name, and compression of others."""

    def __init__(self, files: SentFiles | None, compression: Compression | None) -> None:
        """Set what is done; None leaves it out."""
        self._files = files
        self._compression = compression

    def outlet(self, exchange: Exchange, is_head: bool) -> Outlet:
        """Return what the response to a request is sent through."""
        outlet: Outlet = exchange
        if self._compression is not None:
            outlet = self._compression.outlet(exchange, is_head)
        if self._files is not None:
            outlet = self._files.outlet(exchange, outlet, is_head)
        return outlet

    def check_head(self, check: CheckHead) -> CheckHead:
        """Return ``check``, or one that drops the length of what a file replaces."""
        if self._files is None:
            return check

        def checked(status: str, headers: HeaderList) -> tuple[int, HeaderList, int | None, bool]:
            code, fields, length, close = check(status, headers)
            if any(name.lower() in FIELDS for name, _ in fields):
                length = None
            return code, fields, length, close

        return checked
