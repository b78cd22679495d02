"""What goes over the wire is the same where several processes answer."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from corpus import requests, vulnerabilities
from support.asking import check_answer, send
from support.lifecycle import Supervised
from support.wire import Client

CASES = [*requests.CASES, *vulnerabilities.CASES]

APP = """\
from support.serving import Recorder

app = Recorder()
"""


@pytest.fixture(scope="module")
def server(transport: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    folder = tmp_path_factory.mktemp("wire")
    (folder / "shop.py").write_text(APP)
    with Supervised(folder, "-w", "2", "--transport", transport) as started:
        yield started


@pytest.mark.parametrize("in_pieces", [False, True], ids=["whole", "in pieces"])
def test_every_case_of_the_corpus_is_answered_by_two_workers(
    server: Supervised, in_pieces: bool
) -> None:
    for case in CASES:
        with Client(server.address) as client:
            send(client, case, case.raw, in_pieces=in_pieces)
            check_answer(client, case)


def test_no_worker_ended_over_it(server: Supervised) -> None:
    assert not [line for line in server.lines if "ended" in line or "Traceback" in line]
