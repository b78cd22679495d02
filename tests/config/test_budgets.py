"""The budgets that are computed, from given facts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from penstock.config.budgets import (
    MOST_RESERVED,
    OWN_DESCRIPTORS,
    Budgets,
    Facts,
    budgets,
    lowering_notice,
)
from penstock.config.settings import Settings
from penstock.config.sources import settings_from_kwargs
from penstock.config.worker_count import SUPERVISOR_BYTES
from penstock.errors import SettingsError
from penstock.system.file_systems import free_bytes, is_in_memory
from penstock.worker.worker import transport_config

MIB, GIB = 1 << 20, 1 << 30


def facts(
    memory: int | None = 4 * GIB,
    descriptors: int = 20_000,
    free: int | None = 100 * GIB,
    in_memory: bool = False,
    workers: int = 1,
) -> Facts:
    return Facts(
        memory=memory,
        descriptors=descriptors,
        spool_dir="/spool",
        spool_free=free,
        spool_in_memory=in_memory,
        workers=workers,
    )


def reason(computed: Budgets, name: str) -> str:
    [because] = [because for known, _, because in computed.reasons if known == name]
    return because


@pytest.mark.parametrize(
    ("descriptors", "left"),
    [(20_000, 20_000 - MOST_RESERVED), (1024, 768), (64, 48), (1 << 20, (1 << 20) - MOST_RESERVED)],
)
def test_a_quarter_of_the_descriptors_and_hundreds_at_most_are_the_applications(
    descriptors: int, left: int
) -> None:
    found = budgets(Settings(), facts(descriptors=descriptors)).max_descriptors
    assert found == left - OWN_DESCRIPTORS - 1  # one listener


def test_each_listener_takes_a_descriptor_that_no_connection_gets() -> None:
    one = settings_from_kwargs(bind=["127.0.0.1:8000"])
    three = settings_from_kwargs(bind=["127.0.0.1:8000", "127.0.0.1:8001", "unix:/run/app.sock"])
    most = [budgets(settings, facts()).max_descriptors for settings in (one, three)]
    assert most[0] - most[1] == 2


def test_a_process_without_descriptors_to_spare_serves_one_connection_at_a_time() -> None:
    assert budgets(Settings(), facts(descriptors=20)).max_descriptors == 1


@pytest.mark.parametrize(
    ("known", "spool", "body"),
    [
        (facts(), 25 * GIB, GIB),
        (facts(free=2 * GIB), 512 * MIB, 512 * MIB),
        (facts(free=0), 0, 64 << 10),  # what fits into memory needs no disk
        (facts(free=None), GIB, GIB),
        # What is in a tmpfs counts as memory, however large that is.
        (facts(memory=1 * GIB, in_memory=True), 256 * MIB, 256 * MIB),
        (facts(memory=1 * GIB, in_memory=True, free=64 * MIB), 64 * MIB, 64 * MIB),
        (facts(memory=None, in_memory=True, free=GIB), 256 * MIB, 256 * MIB),
    ],
)
def test_a_quarter_of_the_space_is_for_bodies_and_no_body_may_be_longer(
    known: Facts, spool: int, body: int
) -> None:
    computed = budgets(Settings(), known)
    assert (computed.max_spool, computed.max_body) == (spool, body)


@pytest.mark.parametrize(
    ("given", "known", "warned"),
    [
        ({}, facts(), False),
        ({}, facts(free=2 * GIB), False),  # lowered to 512 MiB: nothing an operator asked for
        ({}, facts(free=400 * MIB), True),
        ({"max_body": "2GiB"}, facts(free=4 * GIB), True),
        ({"max_body": "50MiB"}, facts(free=4 * GIB), False),
        ({"max_body": "50MiB"}, facts(free=100 * MIB), True),
    ],
)
def test_a_spool_budget_that_lowers_what_was_asked_for_or_is_small_is_reported(
    given: dict[str, object], known: Facts, warned: bool
) -> None:
    settings = settings_from_kwargs(**given)
    notice = lowering_notice(settings, budgets(settings, known))
    assert (notice is not None) is warned
    assert notice is None or "--temp-dir" in notice.render()


@pytest.mark.parametrize(
    ("known", "heads", "bodies", "unsent"),
    [
        (facts(memory=None), 5000, 64 * MIB, 64 * MIB),
        (facts(memory=16 * GIB), 5000, 512 * MIB, 512 * MIB),
        # 512 MiB beside the supervisor
        (facts(memory=576 * MIB), 1024, 64 * MIB, 64 * MIB),
        (facts(memory=576 * MIB, workers=4), 256, 16 * MIB, 16 * MIB),
        (facts(memory=1 * MIB), 1, 4 * MIB, 16 * MIB),
    ],
)
def test_heads_bodies_and_unsent_bytes_take_an_eighth_of_a_workers_memory_each(
    known: Facts, heads: int, bodies: int, unsent: int
) -> None:
    computed = budgets(Settings(), known)
    assert (computed.max_unfinished_heads, computed.max_unsent) == (heads, unsent)
    assert computed.max_body_memory == bodies


@pytest.mark.parametrize(
    ("given", "known", "expected"),
    [
        ({}, facts(free=4 * GIB), 128 * MIB),
        ({}, facts(free=400 * GIB), 1 * GIB),  # no more for one response
        ({"max_spool": "80MiB"}, facts(), 10 * MIB),
        ({"out_spool": "0"}, facts(), 0),
        ({"out_spool": "3MiB"}, facts(), 3 * MIB),
    ],
)
def test_one_response_takes_an_eighth_of_the_spool_budget_at_most(
    given: dict[str, object], known: Facts, expected: int
) -> None:
    settings = settings_from_kwargs(**given)
    computed = budgets(settings, known)
    assert computed.out_spool == expected
    config = transport_config(settings, computed)
    assert (config.out_spool, config.max_responses_spooled) == (expected, computed.max_spool // 2)


def test_a_setting_counts_more_than_what_is_computed_and_is_named_as_the_reason() -> None:
    settings = settings_from_kwargs(
        max_spool="3MiB",
        max_unsent="2MiB",
        max_body_memory="10KiB",
        descriptor_reserve=100,
        max_unfinished_heads="7",
        transport="python",
    )
    computed = budgets(settings, facts())
    assert computed.max_descriptors == 19_900 - OWN_DESCRIPTORS - 1
    assert computed.max_unfinished_heads == 7
    assert computed.max_spool == computed.max_body == 3 * MIB
    assert computed.max_unsent == 2 * MIB
    assert computed.max_body_memory == 10 << 10
    assert reason(computed, "max_spool") == "from argument max_spool"
    # Where there is no room on the disk, no body may be longer than what fits into memory.
    without_room = budgets(settings_from_kwargs(max_body_memory="10KiB"), facts(free=0))
    assert without_room.max_body == 10 << 10
    assert reason(budgets(Settings(), facts()), "max_spool").startswith("a quarter of the free")


@pytest.mark.parametrize(
    ("given", "least", "ample"),
    [({}, 64 << 10, MIB), ({"body_memory": "10KiB"}, 10 << 10, 10 << 10)],
)
def test_a_body_takes_more_memory_while_there_is_ample_unless_a_setting_says_how_much(
    given: dict[str, object], least: int, ample: int
) -> None:
    settings = settings_from_kwargs(**given)
    computed = budgets(settings, facts())
    assert (computed.body_memory, computed.ample_body_memory) == (least, ample)
    config = transport_config(settings, computed)
    assert (config.body_memory, config.ample_body_memory) == (least, ample)


def test_the_budgets_reach_the_transport() -> None:
    settings = settings_from_kwargs(
        max_requests_per_client="600/m", deny=["10.0.0.0/8"], queue=7, log_queue=500
    )
    computed = budgets(settings, facts(free=2 * GIB))
    config = transport_config(settings, computed)
    assert config.parser.body == 512 * MIB
    assert config.max_spool == computed.max_spool
    assert config.max_descriptors == computed.max_descriptors
    assert config.max_body_memory == computed.max_body_memory
    assert config.request_rate is not None
    assert config.rate_table is not None
    assert config.request_rate.horizon == 600 * config.request_rate.interval
    assert config.networks is not None
    assert not config.networks.admits(bytes([10, 0, 0, 1]))
    assert (config.queue, config.log_entries) == (7, 500)


@pytest.mark.parametrize("given", ["100/s", "100/s,200", "600/m", "1/h,1000000", "10000/s"])
def test_a_rate_is_read_and_shown(given: str) -> None:
    if given == "1/h,1000000":  # it would be whole again after a century
        with pytest.raises(SettingsError):
            settings_from_kwargs(max_requests_per_client=given)
        return
    rate = settings_from_kwargs(max_requests_per_client=given).max_requests_per_client
    assert rate is not None
    assert settings_from_kwargs(max_requests_per_client=str(rate)).max_requests_per_client == rate


@pytest.mark.parametrize("given", ["100", "0/s", "100/d", "10001/s", "100/s,0", "-1/s", "1/s, x"])
def test_a_bad_rate_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="allowed is a rate such as 100/s"):
        settings_from_kwargs(max_requests_per_client=given)


@pytest.mark.parametrize("given", ["10.0.0.1/8", "10.0.0/8", "example.org", "::/129"])
def test_a_bad_network_is_refused(given: str) -> None:
    with pytest.raises(SettingsError, match="allowed is an address or a network"):
        settings_from_kwargs(deny=[given])


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("::ffff:192.0.2.1", "192.0.2.1/32"),
        ("::ffff:192.0.2.0/120", "192.0.2.0/24"),
        ("::ffff:0:0/96", "0.0.0.0/0"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("::/0", "::/0"),
    ],
)
def test_a_network_of_mapped_addresses_is_one_of_ipv4(given: str, meant: str) -> None:
    assert settings_from_kwargs(deny=[given], allow=[given]).deny == (meant,)
    if meant.endswith("/0"):
        with pytest.raises(SettingsError, match=r"not 0\.0\.0\.0/0"):
            settings_from_kwargs(forwarded_allow_ips=[given])
    else:
        assert settings_from_kwargs(forwarded_allow_ips=[given]).forwarded_allow_ips == (meant,)


def test_the_file_system_of_a_directory_is_known(tmp_path: Path) -> None:
    free = free_bytes(str(tmp_path))
    assert free is not None
    assert free >= 0
    assert free_bytes(str(tmp_path / "missing")) is None
    assert not is_in_memory(str(tmp_path / "missing"))
    device = os.stat(tmp_path).st_dev
    place = f"{os.major(device)}:{os.minor(device)}"
    proc = tmp_path / "proc" / "self"
    proc.mkdir(parents=True)
    for kind, wanted in (("tmpfs", True), ("ext4", False)):
        (proc / "mountinfo").write_text(
            f"1 1 0:0 / /other rw - tmpfs none rw\n2 1 {place} / / rw shared:1 - {kind} none rw\n"
        )
        assert is_in_memory(str(tmp_path), tmp_path) is wanted


def test_check_prints_each_budget_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "hello.py").write_text("def app(environ, start_response): return []\n")
    run = subprocess.run(
        [sys.executable, "-m", "penstock", "--check", "--max-unsent", "2MiB",
         "--transport", "python", "hello:app"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = run.stdout.partition("budgets of a worker")[2]
    assert "max_unsent                 = 2MiB: from --max-unsent" in lines
    for name in (
        "descriptor_reserve",
        "max_unfinished_heads",
        "max_body_memory",
        "max_spool",
        "out_spool",
        "max_body",
    ):
        assert f"\n  {name} " in lines
    # What is off by default comes with figures to begin with.
    clients = lines.partition("what one client may take:")[2]
    assert "\n  max_connections_per_client = 0: Behind a proxy that" in clients
    assert "On the open internet, 100/s,400 stops a script" in clients


def test_check_names_the_source_of_a_clients_share_and_warns_of_a_small_spool(
    tmp_path: Path,
) -> None:
    (tmp_path / "hello.py").write_text("def app(environ, start_response): return []\n")
    run = subprocess.run(
        [sys.executable, "-m", "penstock", "--check", "--max-requests-per-client", "7/s",
         "--max-spool", "2MiB", "--transport", "python", "hello:app"],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "max_requests_per_client    = 7/s,7: from --max-requests-per-client" in run.stdout
    assert "PEN-1050 request bodies over 2097152 bytes will be answered with 413" in run.stderr


@pytest.mark.parametrize(
    ("known", "given", "expected", "because"),
    [
        (facts(), {}, 10_000, "as many as one worker needs"),
        (facts(memory=None), {}, 10_000, "as many as one worker needs"),
        (facts(memory=64 * GIB, descriptors=1 << 20), {}, 10_000, "as many as one worker needs"),
        (facts(descriptors=4096), {"max_io_bound": 0, "max_websockets": 0}, 4048, "limit on open"),
        (facts(descriptors=256), {}, 128, "limit on open files 256"),
        (facts(memory=SUPERVISOR_BYTES + 64 * MIB), {}, 2048, "quarter of the memory of a worker"),
        (facts(memory=SUPERVISOR_BYTES + 64 * MIB, workers=4), {}, 512, "16MiB, 8KiB for each"),
        (
            facts(memory=SUPERVISOR_BYTES + 64 * MIB),
            {"certfile": "c.pem", "keyfile": "k.pem"},
            512,
            "32KiB for each",
        ),
        (facts(memory=1), {}, 1, "quarter of the memory"),
        (facts(), {"descriptor_reserve": 19_000}, 980, "less descriptor_reserve"),
        (facts(), {"descriptor_reserve": 1_000_000}, 1, "less descriptor_reserve"),
        (facts(descriptors=256), {"max_connections": 50_000}, 50_000, "argument max_connections"),
    ],
)
def test_connections_are_as_many_as_fit_and_ten_thousand_at_most(
    known: Facts, given: dict[str, Any], expected: int, because: str
) -> None:
    computed = budgets(settings_from_kwargs(**given), known)
    assert computed.max_connections == expected
    assert because in reason(computed, "max_connections")
    assert computed.max_unfinished_heads <= max(1, expected // 2)


def test_the_transport_gets_the_computed_limit_on_connections() -> None:
    settings = Settings()
    computed = budgets(settings, facts(descriptors=256))
    assert transport_config(settings, computed).max_connections == 128
