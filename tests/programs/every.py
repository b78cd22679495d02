"""All programs, in the order of the page."""

from __future__ import annotations

from programs import (
    agents,
    books,
    calendars,
    dashboards,
    django_suites,
    http_clients,
    metrics,
    packages,
    repositories,
    trackers,
    webdav,
    websockets,
)

PROGRAMS = [
    *webdav.PROGRAMS,
    *repositories.PROGRAMS,
    *calendars.PROGRAMS,
    *packages.PROGRAMS,
    *books.PROGRAMS,
    *trackers.PROGRAMS,
    *dashboards.PROGRAMS,
    *django_suites.PROGRAMS,
    *http_clients.PROGRAMS,
    *websockets.PROGRAMS,
    *agents.PROGRAMS,
    *metrics.PROGRAMS,
]
