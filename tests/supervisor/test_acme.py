"""Certificates are ordered from a real authority (pebble), whatever happens in between.

The supervisor's part is the real `Acme`; instead of workers, its process answers the challenges.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import ssl
import subprocess
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from penstock.edge.acme.handed_over import NameStatus
from penstock.edge.acme.schedule import DAY, HOUR
from penstock.edge.certificates import der_of, pem_blocks, read_certificate
from penstock.supervisor.acme import Acme
from penstock.supervisor.acme_settings import AcmeSettings
from penstock.supervisor.loop import Loop
from support.acme_authority import Front, Pebble, build, free_port, running
from support.acme_supervisor import Ordering, ordering

NAME = "one.example"
DAY_LONG = 86400
"""Seconds for which the certificates of these tests are valid."""


@pytest.fixture(scope="module")
def pebble(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pebble]:
    with running(tmp_path_factory.mktemp("pebble"), validity=DAY_LONG) as found:
        yield found


@pytest.fixture
def settings(pebble: Pebble, tmp_path: Path) -> AcmeSettings:
    return AcmeSettings((NAME,), "", pebble.url, str(tmp_path / "acme"), ("http-01",))


def with_url(settings: AcmeSettings, url: str) -> AcmeSettings:
    return AcmeSettings(settings.names, settings.email, url, settings.path, settings.kinds)


def child_of(process: subprocess.Popen[str]) -> int:
    """Return the process id of the ordering process; 0 where there is none now."""
    with suppress(OSError, ValueError):
        path = f"/proc/{process.pid}/task/{process.pid}/children"
        return int(Path(path).read_text().split()[0])
    return 0


def is_verified_by(certificate: str, root: str) -> None:
    """Raise an error unless a chain leads to a root: with the `ssl` module, as a client has it."""
    context = ssl.create_default_context(cadata=root)
    assert context.cert_store_stats()["x509_ca"] == 1
    issuers = [read_certificate(der_of(block)) for _, block in pem_blocks(certificate.encode())]
    assert len(issuers) >= 2
    assert issuers[0].issuer == issuers[1].subject


def test_a_self_signed_certificate_is_served_until_the_ordered_one_has_come(
    pebble: Pebble, tmp_path: Path
) -> None:
    settings = AcmeSettings(
        (NAME, "two.example"), "a@example.org", pebble.url, str(tmp_path / "acme"), ("http-01",)
    )
    with ordering(settings, pebble.bundle, pebble.http_port) as server:
        warning = server.message("PEN-4210")
        assert f"self-signed certificate is served for {NAME}, two.example" in warning
        assert server.wait_for(lambda event: event["event"] == "serve")["trusted"] == {}
        found = server.certificate(NAME)["trusted"]
        is_verified_by(found[NAME], pebble.root())
        found = server.certificate("two.example")["trusted"]
        assert found.keys() == {NAME, "two.example"}
        status = server.state(NAME, lambda each: each["state"] == "valid" and each["next_at"] > 0)
        leaf = read_certificate(der_of(pem_blocks(found[NAME].encode())[0][1]))
        assert status["not_after"] == leaf.not_after
        # After its first answer no challenge is answered any more.
        assert server.wait_for(lambda event: event["event"] == "serve")["challenges"] == []
    account = json.loads(next(Path(settings.path).glob("*/account.json")).read_text())
    assert account["url"].startswith("https://localhost:")
    assert not list(Path(settings.path).glob("*/*/order.json"))


def test_a_certificate_that_is_stored_is_served_at_once_after_a_start(
    pebble: Pebble, settings: AcmeSettings
) -> None:
    with ordering(settings, pebble.bundle, pebble.http_port) as server:
        first = server.certificate(NAME)["trusted"][NAME]
        server.stored(NAME)
    with ordering(settings, pebble.bundle, pebble.http_port) as server:
        event = server.wait_for(lambda event: event["event"] == "serve")
        assert event["trusted"] == {NAME: first}
        server.stored(NAME)
        assert not [event for event in server.seen if event.get("id")]


def test_it_is_renewed_after_two_thirds_of_its_life(pebble: Pebble, settings: AcmeSettings) -> None:
    with ordering(settings, pebble.bundle, pebble.http_port) as server:
        first = server.certificate(NAME)["trusted"][NAME]
        server.stored(NAME)
    with ordering(settings, pebble.bundle, pebble.http_port, clock=23 * HOUR) as server:
        renewed = server.wait_for(
            lambda event: event["event"] == "serve" and event["trusted"].get(NAME, first) != first
        )
        is_verified_by(renewed["trusted"][NAME], pebble.root())
        # By a clock that is 23 hours fast it is due again: not ordered again all the same.
        server.stored(NAME)


def test_it_is_renewed_when_the_authority_asks_for_it(
    pebble: Pebble, settings: AcmeSettings
) -> None:
    """RFC 9773: an authority that has to revoke certificates moves their windows."""
    if not pebble.has_windows:
        pytest.skip(f"this pebble has no renewal information, which came with 2.5: {build()}")
    with ordering(settings, pebble.bundle, pebble.http_port) as server:
        first = server.certificate(NAME)["trusted"][NAME]
        server.stored(NAME)
    leaf = first[: first.index("-----END") + 25] + "\n"
    answer = json.dumps(
        {"suggestedWindow": {"start": "2020-01-01T00:00:00Z", "end": "2020-01-02T00:00:00Z"}}
    )
    urllib.request.urlopen(
        urllib.request.Request(
            pebble.management + "/set-renewal-info/",
            json.dumps({"certificate": leaf, "ariResponse": answer}).encode(),
            {"Content-Type": "application/json"},
        ),
        context=pebble.context,
        timeout=10,
    ).close()
    with ordering(settings, pebble.bundle, pebble.http_port, clock=7 * HOUR) as server:
        server.wait_for(
            lambda event: event["event"] == "serve" and event["trusted"].get(NAME, first) != first
        )


def test_an_authority_that_refuses_half_of_all_nonces(tmp_path: Path) -> None:
    """RFC 8555, section 6.5."""
    with running(tmp_path, PEBBLE_WFE_NONCEREJECT="50") as pebble:
        settings = AcmeSettings((NAME,), "", pebble.url, str(tmp_path / "acme"), ("http-01",))
        with ordering(settings, pebble.bundle, pebble.http_port) as server:
            server.certificate(NAME)
            assert not [event for event in server.seen if event.get("id") == "PEN-4220"]


@pytest.mark.parametrize(
    ("path", "status"), [("/dir", 503), ("/sign-me-up", 429), ("/order-plz", 429)]
)
def test_a_pause_that_the_authority_asks_for_is_kept(
    pebble: Pebble, settings: AcmeSettings, path: str, status: int
) -> None:
    """RFC 8555, section 6.6."""

    def act(_number: int, asked: str) -> str:
        return f"{status} 4000" if path in asked else ""

    with (
        Front(pebble, act).serving() as front,
        ordering(with_url(settings, front.url), pebble.bundle, pebble.http_port) as server,
    ):
        warning = server.message("PEN-4220")
        kind = "rateLimited" if status == 429 else "serverInternal"
        assert f"too much ({kind})" in warning
        assert "the next attempt is in 67 min, and a self-signed certificate is" in warning
        status_now = server.state(NAME, lambda each: "failed" in each["detail"])
        assert status_now["state"] == "self-signed"


def test_an_authority_that_is_away_is_asked_again(pebble: Pebble, settings: AcmeSettings) -> None:
    lost = 3

    def act(number: int, _path: str) -> str:
        return "lose" if number <= lost else ""

    with (
        Front(pebble, act).serving() as front,
        ordering(
            with_url(settings, front.url), pebble.bundle, pebble.http_port, back_off=0.01
        ) as server,
    ):
        warning = server.message("PEN-4220")
        assert "the authority does not answer" in warning
        server.certificate(NAME)


def test_an_authority_with_an_unknown_certificate_is_not_believed(
    pebble: Pebble, settings: AcmeSettings, tmp_path: Path
) -> None:
    other = tmp_path / "other.pem"
    other.write_text(pebble.root())
    with ordering(settings, str(other), pebble.http_port) as server:
        assert "certificate verify failed" in server.message("PEN-4220")


def test_a_name_that_the_authority_cannot_reach_is_reported_with_its_reason(
    pebble: Pebble, settings: AcmeSettings
) -> None:
    with ordering(settings, pebble.bundle, pebble.http_port, answers=False) as server:
        warning = server.message("PEN-4220")
        assert f"no certificate for {NAME} for now: http-01 has failed: " in warning
        assert "the next attempt is in" in warning


def test_a_clock_that_is_wrong_by_days_orders_nothing(
    pebble: Pebble, settings: AcmeSettings
) -> None:
    with ordering(settings, pebble.bundle, pebble.http_port, clock=-3 * DAY) as server:
        warning = server.message("PEN-4220")
        assert "the clock of this machine is 3.0 days slow" in warning


def test_a_clock_that_was_set_back_does_not_keep_it_waiting(
    pebble: Pebble, settings: AcmeSettings
) -> None:
    with ordering(
        settings, pebble.bundle, pebble.http_port, clock=20 * HOUR, answers=False
    ) as server:
        server.message("PEN-4220")
        server.state(NAME, lambda each: "failed" in each["detail"])
    with ordering(settings, pebble.bundle, pebble.http_port) as server:
        server.certificate(NAME)


class Killer:
    """Kills the ordering process once at each kind of request, before or after it is passed on."""

    def __init__(self, act: str) -> None:
        self.act = act
        self.server: Ordering | None = None
        self.killed: list[str] = []

    def __call__(self, _number: int, path: str) -> str:
        kind = path.split("/")[1]
        count = sum(each == kind for each in self.killed)
        # Of authorizations and orders the second request is another step: its state has changed.
        if self.server is None or count >= (2 if kind in ("authZ", "my-order") else 1):
            return ""
        self.killed.append(kind)
        if self.act == "lose":
            self._kill()
            return "lose"
        return "lose answer"

    def _kill(self) -> None:
        assert self.server is not None
        if pid := child_of(self.server.process):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("act", [pytest.param("lose", marks=pytest.mark.costly), "lose answer"])
def test_a_kill_at_any_request_costs_no_certificate(
    pebble: Pebble, settings: AcmeSettings, act: str
) -> None:
    """What is on the disk is enough to go on: one certificate is issued, however often."""
    killer = Killer(act)
    front = Front(pebble, killer, after=killer._kill if act == "lose answer" else None)
    with (
        front.serving(),
        ordering(
            with_url(settings, front.url), pebble.bundle, pebble.http_port, pause=0.01
        ) as server,
    ):
        killer.server = server
        server.certificate(NAME, 120)
        server.stored(NAME)
    wanted = {"dir", "nonce-plz", "sign-me-up", "order-plz", "authZ", "chalZ", "my-order",
              "finalize-order", "certZ"}  # fmt: skip
    assert set(killer.killed) >= wanted
    paths = [path for _, path in front.passed]
    orders = {path for path in paths if path.startswith("/finalize-order/")}
    assert len(orders) == 1
    # Where the answer to a new order is lost, its address is, too.
    assert paths.count("/order-plz") == (2 if act == "lose answer" else 1)


def test_the_process_is_started_again_after_a_crash(pebble: Pebble, settings: AcmeSettings) -> None:
    with ordering(settings, pebble.bundle, pebble.http_port, pause=0.01) as server:
        server.certificate(NAME)
        server.stored(NAME)
        os.kill(child_of(server.process), signal.SIGKILL)
        assert "has ended, and is started again" in server.message("PEN-4230")
        server.wait_for(lambda event: event["event"] == "process" and event["pid"] != 0)


def test_of_two_hosts_that_share_the_directory_one_orders_and_both_serve(
    pebble: Pebble, settings: AcmeSettings
) -> None:
    """The authority connects to any of the hosts: to port 80 of all addresses of the name."""
    both_run = threading.Event()

    def act(_number: int, path: str) -> str:
        return "" if path != "/order-plz" or both_run.wait(30) else "lose"

    with Front(pebble, act).serving() as front:
        shared = with_url(settings, front.url)
        with ordering(shared, pebble.bundle, free_port(), host="one") as one:
            one.wait_for(lambda event: "ordering: order" in str(event))
            with ordering(shared, pebble.bundle, pebble.http_port, host="two") as two:
                two.state(NAME, lambda each: each["detail"] == "another process orders")
                both_run.set()
                two.wait_for(lambda event: event["event"] == "serve" and event["challenges"])
                found = two.certificate(NAME)["trusted"]
                assert found == one.certificate(NAME)["trusted"]
        assert [path for _, path in front.passed].count("/order-plz") == 1


def test_when_the_host_that_orders_ends_another_one_takes_over(
    pebble: Pebble, tmp_path: Path
) -> None:
    settings = AcmeSettings((NAME,), "", pebble.url, str(tmp_path / "acme"), ("http-01",))
    with ordering(settings, pebble.bundle, pebble.http_port, answers=False, host="one") as one:
        one.message("PEN-4220")
        with ordering(settings, pebble.bundle, pebble.http_port, host="two") as two:
            two.state(NAME, lambda each: each["detail"] == "another process orders")
            one.end()
            two.state(NAME, lambda each: "failed" in each["detail"])


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a small disk")
def test_a_full_disk_is_reported_and_the_certificate_is_served_all_the_same(
    pebble: Pebble, settings: AcmeSettings
) -> None:
    os.mkdir(settings.path)
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k,mode=700", "none", settings.path]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    filler = Path(settings.path) / "filler"
    try:

        def act(_number: int, path: str) -> str:
            if "/finalize-order/" in path:
                with suppress(OSError), filler.open("wb") as file:
                    while True:
                        file.write(b"x" * 4096)
                        file.flush()
            return ""

        with (
            Front(pebble, act).serving() as front,
            ordering(
                with_url(settings, front.url), pebble.bundle, pebble.http_port, back_off=0.01
            ) as server,
        ):
            server.certificate(NAME)
            assert "cannot be written: No space left" in server.message("PEN-4220")
            filler.unlink()
            server.state(NAME, lambda each: each["detail"] == "the certificate is new")
            assert len(list(Path(settings.path).glob(f"*/{NAME}/pair.pem"))) == 1
    finally:
        subprocess.run(["umount", "-l", settings.path], check=True)


def test_an_authority_that_has_forgotten_everything_gets_a_new_account(
    pebble: Pebble, settings: AcmeSettings, tmp_path: Path
) -> None:
    """As a test authority does when it is started again, and as accounts end."""
    port = free_port()

    with running(tmp_path, listen=port) as first:
        with ordering(
            with_url(settings, first.url), first.bundle, first.http_port, answers=False
        ) as server:
            server.message("PEN-4220")
    for path in Path(settings.path).glob("*/*/schedule.json"):
        path.unlink()
    with running(tmp_path, listen=port) as second:
        assert second.url == first.url
        with ordering(with_url(settings, second.url), second.bundle, second.http_port) as server:
            server.certificate(NAME)


def test_a_directory_that_cannot_be_used_ends_the_start(
    pebble: Pebble, settings: AcmeSettings, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    broken = AcmeSettings((NAME,), "", pebble.url, str(tmp_path / "file" / "acme"), ("http-01",))
    with ordering(broken, pebble.bundle, pebble.http_port) as server:
        event = server.wait_for(lambda event: event["event"] == "refused")
    assert "cannot be used by user" in event["text"]
    assert "setting: acme_dir" in event["text"]


def test_the_status_of_a_name_says_what_is_served_and_what_is_done() -> None:
    logger = logging.getLogger("penstock.tests.acme")
    loop = Loop(logger)
    acme = Acme(loop, logger, lambda ordered: lambda: True, lambda: None)
    for state, detail, next_at, shown in (
        ("self-signed", "", 0.0, "self-signed"),
        ("self-signed", "ordering: challenge", 0.0, "self-signed: ordering: challenge"),
        (
            "valid",
            "the certificate is valid",
            4e9,
            "the certificate is valid; next step: 2096-10-02 07:06 UTC",
        ),
    ):
        acme.statuses = {NAME: NameStatus(state, detail, next_at, 0.0)}
        assert acme.renewal_of([NAME]) == shown
    loop.close()
