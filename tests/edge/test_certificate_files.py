"""The keeper of certificates: what it reads, when it renews it, and what it warns of."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

import pytest

from penstock.config.settings import Settings
from penstock.edge.certificate_files import (
    CHECK_SECONDS,
    CertificateKeeper,
    read_material,
)
from penstock.edge.tls import TICKET_KEY_SECONDS, TlsError, TlsMaterial
from support.certificates import Issued, authority, server_certificate

LOGGER = logging.getLogger("penstock.tests.certificates")
DAY = 86400.0


class Kept:
    """A keeper with clocks of its own, over files in a directory."""

    def __init__(self, folder: Path, issued: Issued) -> None:
        self.now = 1000.0
        self.wall = time.time()
        self.changes: list[TlsMaterial] = []
        self.certificate, self.key = issued.write(folder)
        self.settings = Settings(certfile=(str(self.certificate),), keyfile=(str(self.key),))
        self.keeper = self.made()

    def made(self, before: CertificateKeeper | None = None) -> CertificateKeeper:
        return CertificateKeeper(
            self.settings,
            LOGGER,
            self.changes.append,
            before=before,
            clock=lambda: self.now,
            wall_clock=lambda: self.wall,
        )

    def after(self, seconds: float) -> None:
        self.now += seconds
        self.keeper.tick()

    def names(self) -> tuple[str, ...]:
        return self.keeper.material.pairs[0].names


@pytest.fixture
def kept(tmp_path: Path) -> Kept:
    return Kept(tmp_path, server_certificate())


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [getattr(record, "message_id", "") for record in caplog.records]


def test_a_change_that_has_lasted_is_taken_in(kept: Kept, tmp_path: Path) -> None:
    authority().issue("new.example").write(tmp_path)
    kept.after(CHECK_SECONDS)
    assert kept.changes == []  # seen for the first time
    kept.after(CHECK_SECONDS)
    assert [material.pairs[0].names for material in kept.changes] == [("new.example",)]
    assert kept.names() == ("new.example",)
    kept.after(CHECK_SECONDS)
    assert len(kept.changes) == 1


def test_certificate_and_key_that_are_written_one_after_the_other_are_one_change(
    kept: Kept, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fresh = authority().issue("new.example")
    kept.certificate.write_bytes(fresh.certificate)
    kept.after(CHECK_SECONDS)
    kept.key.write_bytes(fresh.key)
    kept.after(CHECK_SECONDS)
    kept.after(CHECK_SECONDS)
    assert kept.names() == ("new.example",)
    assert "PEN-4130" not in messages(caplog)


def test_a_pair_that_cannot_be_used_is_reported_once_and_the_old_one_stays(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    kept.certificate.write_bytes(authority().issue("new.example").certificate)
    for _ in range(5):
        kept.after(CHECK_SECONDS)
    assert kept.names() == ("localhost", "127.0.0.1")
    assert messages(caplog).count("PEN-4130") == 1
    assert "does not belong to the certificate" in caplog.text
    kept.certificate.unlink()
    for _ in range(3):
        kept.after(CHECK_SECONDS)
    assert messages(caplog).count("PEN-4130") == 2
    kept.certificate.write_bytes(server_certificate().certificate)
    for _ in range(3):
        kept.after(CHECK_SECONDS)
    assert kept.changes == []  # the same as before: nothing is to be done


@pytest.mark.parametrize("layout", ["certbot", "kubernetes"])
def test_symbolic_links_that_are_switched_are_a_change(tmp_path: Path, layout: str) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, issued in ((one, server_certificate()), (two, authority().issue("new.example"))):
        folder.mkdir()
        issued.write(folder)
    live = tmp_path / "live"
    if layout == "kubernetes":  # the directory is a link, which is replaced
        live.symlink_to(one)
    else:
        live.mkdir()
        for name in ("server.pem", "server.key"):
            (live / name).symlink_to(one / name)
    settings = Settings(certfile=(str(live / "server.pem"),), keyfile=(str(live / "server.key"),))
    now = [0.0]
    keeper = CertificateKeeper(settings, LOGGER, lambda _: None, clock=lambda: now[0])
    if layout == "kubernetes":
        (tmp_path / "fresh").symlink_to(two)
        (tmp_path / "fresh").replace(live)
    else:
        for name in ("server.pem", "server.key"):
            (live / "fresh").symlink_to(two / name)
            (live / "fresh").replace(live / name)
    for _ in range(2):
        now[0] += CHECK_SECONDS
        keeper.tick()
    assert keeper.material.pairs[0].names == ("new.example",)


def test_ticket_keys_are_rotated_and_the_last_ones_are_kept(kept: Kept) -> None:
    [first] = kept.keeper.material.ticket_keys
    assert len(first) == 32
    for count in range(1, 4):
        kept.after(TICKET_KEY_SECONDS)
        assert len(kept.changes) == count
    keys = kept.keeper.material.ticket_keys
    assert len(keys) == len(set(keys)) == 3
    assert first not in keys
    assert kept.made(before=kept.keeper).material.ticket_keys == keys


def test_expiry_is_warned_of_at_21_7_and_1_days_and_when_it_has_come(
    kept: Kept, caplog: pytest.LogCaptureFixture
) -> None:
    end = kept.keeper.material.pairs[0].not_after
    for left, wanted in (
        (22, []),
        (20.9, ["PEN-4110"]),
        (8, []),
        (6.9, ["PEN-4110"]),
        (2, []),
        (0.9, ["PEN-4110"]),
        (0.5, []),
        (-0.1, ["PEN-4120"]),
        (-5, []),
    ):
        caplog.clear()
        kept.wall = end - left * DAY
        for _ in range(3):
            kept.after(3600)
        assert messages(caplog) == wanted, left
    caplog.clear()
    kept.keeper = kept.made(before=kept.keeper)  # a reload does not repeat it
    kept.after(3600)
    assert messages(caplog) == []


def test_a_start_shortly_before_the_end_has_one_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    kept = Kept(tmp_path, authority().issue("a.example", not_after=time.time() + 3 * DAY))
    kept.after(1)
    assert messages(caplog) == ["PEN-4110"]
    assert "a.example expires in 2 days" in caplog.text


def test_material_that_is_given_is_served_at_once(kept: Kept) -> None:
    other = TlsMaterial((authority().issue("given.example").pair,))
    kept.keeper.replace(other)
    assert kept.changes == [other]
    assert [expiry.names for expiry in kept.keeper.certificates] == [("given.example",)]


# Files


def read(**settings: object) -> str:
    """Return why files are refused."""
    with pytest.raises(TlsError) as error:
        read_material(Settings(**settings), ())  # type: ignore[arg-type]
    return str(error.value)


def test_a_key_that_the_transports_library_does_not_know_is_refused_before_a_worker_gets_it(
    tmp_path: Path, tls_transport: str
) -> None:
    certificate, key = authority().issue("a.example", key="secp256k1").write(tmp_path)
    files = {"certfile": (str(certificate),), "keyfile": (str(key),), "transport": tls_transport}
    if tls_transport == "native":
        assert "the certificate for a.example: " in read(**files)
    else:  # OpenSSL knows it
        assert read_material(Settings(**files), ()).pairs  # type: ignore[arg-type]


def test_files_that_cannot_be_read_are_refused_each_with_its_reason(tmp_path: Path) -> None:
    certificate, key = server_certificate().write(tmp_path)
    missing = str(tmp_path / "missing")
    assert (
        read(certfile=(missing,)) == f"cannot read {missing} (certfile): No such file or directory"
    )
    assert "Is a directory" in read(certfile=(str(tmp_path),))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is not a file" in read(certfile=(str(pipe),))
    said = read(certfile=(str(certificate),))
    assert said.endswith("has no private key: name its file with --keyfile (setting: certfile)")
    large = tmp_path / "large"
    large.write_bytes(b"x" * (1 << 20) + b"y")
    assert "is larger than 1 MiB" in read(certfile=(str(large),))
    ca_certs = str(key)
    paths = {"certfile": (str(certificate),), "keyfile": (str(key),)}
    assert f"{key} has no certificate in PEM" == read(**paths, ca_certs=ca_certs)


def test_a_file_may_have_certificate_and_key(tmp_path: Path) -> None:
    both = tmp_path / "both.pem"
    both.write_bytes(server_certificate().key + server_certificate().certificate)
    material = read_material(Settings(certfile=(str(both),)), ())
    assert material.pairs[0].names == ("localhost", "127.0.0.1")
