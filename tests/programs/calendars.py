"""Radicale, with the client that the package caldav is."""

from __future__ import annotations

import datetime
from concurrent.futures import ThreadPoolExecutor

from caldav import DAVClient

from programs.program import Program, Run

EVENTS = 40
CLIENTS = 4
DAY = datetime.datetime(2030, 1, 1, 12, tzinfo=datetime.UTC)

CONFIGURATION = """\
[auth]
type = none
[storage]
filesystem_folder = {folder}
[logging]
level = warning
"""


def check(run: Run) -> None:
    configuration = run.folder / "radicale.conf"
    configuration.write_text(CONFIGURATION.format(folder=run.path("collections")))
    environ = {"RADICALE_CONFIG": str(configuration)}
    with run.serve("radicale:application", "--workers", "2", environ=environ) as server:
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda number: use(server.url, f"user{number}"), range(CLIENTS)))


def use(url: str, user: str) -> None:
    """Make a calendar with events; search, synchronize, change and delete."""
    with DAVClient(f"{url}/", username=user, password="any") as client:
        principal = client.principal()
        calendar = principal.make_calendar(name="Work", cal_id=f"{user}-work")
        for number in range(EVENTS):
            begin = DAY + datetime.timedelta(days=number)
            calendar.save_event(
                dtstart=begin,
                dtend=begin + datetime.timedelta(hours=1),
                summary=f"Ereignis {number} für {user}",
                uid=f"{user}-{number}",
            )
        changes = calendar.objects_by_sync_token(load_objects=True)
        assert len(list(changes)) == EVENTS
        found = calendar.search(
            start=DAY, end=DAY + datetime.timedelta(days=10), event=True, expand=True
        )
        assert len(found) == 10, found
        event = calendar.event_by_uid(f"{user}-7")
        assert str(event.icalendar_component["summary"]) == f"Ereignis 7 für {user}"
        event.icalendar_component["summary"] = "Verschoben"
        event.save()
        calendar.event_by_uid(f"{user}-8").delete()
        changes.sync()
        assert len(list(changes)) == EVENTS - 1
        summary = calendar.event_by_uid(f"{user}-7").icalendar_component["summary"]
        assert str(summary) == "Verschoben"
        calendar.delete()


PROGRAMS = [
    Program(
        "radicale",
        "Radicale",
        check,
        f"{CLIENTS} CalDAV clients at a time: make a calendar and {EVENTS} events, search, "
        "synchronize, change, delete",
        packages=("Radicale", "caldav"),
    )
]
