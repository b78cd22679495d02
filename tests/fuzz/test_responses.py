"""The same application gives the same bytes on the wire, whichever the transport.

The application is drawn: what it says of its response, how it gives the body, and where it
breaks the rules or fails. What its own calls gave it back is compared as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.config.checks import native_built
from support.behaviours import Application, Behaviour, behaviours, requests_for
from support.fuzzing import fuzz
from support.serving import eventually
from support.transcripts import Pair, Transcript, pair, transcript

pytestmark = pytest.mark.skipif(not native_built(), reason="needs the native transport")

Servers = tuple[Pair, Application, Path]

CONFIGURATIONS: dict[str, dict[str, Any]] = {
    # With a health path the stall monitor is there from the start, and does not come with a test.
    "1 thread": {"threads": 1, "health_path": "/healthz"},
    "4 threads, no sendfile": {"threads": 4, "sendfile": False},
    "streamed": {"threads": 2, "stream_requests": True, "server_header": ""},
}


@pytest.fixture(scope="module", params=CONFIGURATIONS.values(), ids=list(CONFIGURATIONS))
def servers(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Servers]:
    application = Application()
    folder = tmp_path_factory.mktemp("sockets")
    with pair(application, folder, **request.param) as both:
        yield both, application, folder


@fuzz(50)
@given(st.data(), st.lists(behaviours(), min_size=1, max_size=3), st.booleans())
def test_an_application_gives_the_same_bytes_on_both_transports(
    servers: Servers, data: st.DataObject, drawn: list[Behaviour], pipelined: bool
) -> None:
    both, application, folder = servers
    blocks = [data.draw(requests_for(number)) for number in range(len(drawn))]
    if pipelined:
        blocks = [b"".join(blocks)]
    application.behaviours = drawn
    outcomes: list[tuple[Transcript, list[str]]] = []
    for name, server in (("python", both.python), ("native", both.native)):
        application.notes, application.bodies = [], []
        sockets = None if pipelined else folder / name
        answer = transcript(server, blocks, paced_by=sockets)
        eventually(application.is_idle)
        outcomes.append((answer, application.notes))
    assert outcomes[1] == outcomes[0]
