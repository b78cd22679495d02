"""The logs of several processes: syslog, the journal, rotation, and what is left out."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
from contextlib import closing
from pathlib import Path

import pytest

from support.invariant import eventually
from support.journal import FakeJournal
from support.lifecycle import Supervised
from support.load import Load, plain


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()


def test_the_journal_has_both_logs_of_every_process(tmp_path: Path, transport: str) -> None:
    with closing(FakeJournal(tmp_path / "journal")) as journal:
        arguments = (f"--log-journal={journal.path}", "--access-logfile", "-", "--name", "shop")
        server = Supervised(tmp_path, "--transport", transport, "--pid", "pid", *arguments)
        try:
            entries: list[dict[str, str]] = []
            while not any(" serving " in each["MESSAGE"] for each in entries):
                entries.append(journal.receive())
            port = re.search(r"http://127.0.0.1:([0-9]+)", entries[-1]["MESSAGE"])
            assert port is not None
            server.host, server.port = "127.0.0.1", int(port[1])
            server.ask("/echo?7")
            while entries[-1]["PENSTOCK_LOG"] != "access":
                entries.append(journal.receive())
            line = entries[-1]
            assert '"GET /echo?7 HTTP/1.1" 200' in line["MESSAGE"]
            assert (line["HTTP_STATUS"], line["WORKER"]) == ("200", "1")
            assert line["REQUEST_ID"]
            assert {each["SYSLOG_IDENTIFIER"] for each in entries} == {"shop"}
            [worker] = server.workers()
            os.kill(worker, signal.SIGKILL)
            while not any("PENSTOCK_ID" in each for each in entries):
                entries.append(journal.receive())
            assert "WORKER" not in entries[-1]  # the supervisor's
            server.wait_for_serving(1, {worker})
            assert server.stop() == 0
            assert not any("[INFO]" in text for text in server.lines_so_far())
        finally:
            server.kill()


@pytest.mark.parametrize("kind", ["tcp", "udp", "unix"])
def test_syslog_has_both_logs_over_each_kind_of_socket(
    tmp_path: Path, transport: str, kind: str
) -> None:
    with closing(Receiver(kind, tmp_path)) as receiver:
        arguments = ["--log-syslog", "--log-syslog-to", receiver.address]
        if kind == "tcp":
            arguments += ["--log-syslog-format", "rfc5424", "-w", "2"]
        with Supervised(tmp_path, "--transport", transport, *arguments) as server:
            for number in range(5):
                assert server.ask(f"/echo?{number}").status == 200
            assert server.stop() == 0
        text = receiver.text(r"stopped")
    assert "penstock.error" in text
    assert " serving " in text
    for number in range(5):
        assert text.count(f'"GET /echo?{number} HTTP/1.1" 200') == 1
    assert "penstock.access" in text


class Receiver:
    """Takes what is sent to an address of syslog."""

    def __init__(self, kind: str, folder: Path) -> None:
        stream = kind == "tcp"
        family = socket.AF_UNIX if kind == "unix" else socket.AF_INET
        self._socket = socket.socket(family, socket.SOCK_STREAM if stream else socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "log") if kind == "unix" else ("127.0.0.1", 0))
        self._streams: list[socket.socket] = []
        self.address = f"unix://{folder}/log"
        if stream:
            self._socket.listen()
        if kind != "unix":
            self.address = f"{kind}://127.0.0.1:{self._socket.getsockname()[1]}"
        self._is_stream = stream
        self._text = ""

    def text(self, pattern: str) -> str:
        """Return what has come, once the supervisor has said the last."""
        assert eventually(lambda: re.search(pattern, self._take()))
        return self._text

    def _take(self) -> str:
        self._socket.setblocking(False)
        try:
            while True:
                if self._is_stream:
                    self._streams.append(self._socket.accept()[0])
                else:
                    self._text += self._socket.recv(65536).decode() + "\n"
        except BlockingIOError:
            pass
        for each in self._streams:
            each.setblocking(False)
            try:
                while data := each.recv(65536):
                    self._text += data.decode()
            except BlockingIOError:
                pass
        return self._text

    def close(self) -> None:
        for each in (self._socket, *self._streams):
            each.close()


def test_gunicorns_flags_and_file_send_to_syslog(tmp_path: Path) -> None:
    with closing(Receiver("unix", tmp_path)) as receiver:
        (tmp_path / "gunicorn.conf.py").write_text(
            f"syslog = True\nsyslog_addr = {receiver.address!r}\nsyslog_prefix = 'shop'\n"
            "syslog_facility = 'local1'\n"
        )
        with Supervised(tmp_path, "--disable-redirect-access-to-syslog") as server:
            assert server.ask("/echo?1").status == 200
            assert server.stop() == 0
        text = receiver.text(r"stopped")
    assert re.search(r"^<142>.* penstock\.shop\.error\[\d+\]: penstock .* serving ", text, re.M)
    assert "/echo" not in text


def test_after_copytruncate_the_file_begins_anew(tmp_path: Path, transport: str) -> None:
    access = tmp_path / "access.log"
    arguments = ["--access-logfile", str(access), "--transport", transport]
    arguments += ["--access-logformat", "%(s)s %(U)s"]
    with Supervised(tmp_path, "-w", "2", *arguments) as server:
        with Load(server.address, keep_alive=4, closing=4, ask=plain) as load:
            for turn in range(3):
                load.wait_for(100)
                assert eventually(lambda: access.stat().st_size > 500)
                shutil.copy(access, tmp_path / f"access.log.{turn}")
                os.truncate(access, 0)
            load.wait_for(100)
        asked = load.counts.answered
        assert server.stop() == 0
    parts = [path.read_text() for path in tmp_path.glob("access.log*")]
    assert len(parts) == 4
    lines = "".join(parts).splitlines()
    assert set(lines) == {"200 /echo"}
    # What was written between a copy and its truncation is lost.
    assert asked * 0.5 < len(lines) <= asked


def test_lines_of_lost_requests_follow_the_same_rules(tmp_path: Path, transport: str) -> None:
    access = tmp_path / "access.log"
    arguments = ["--access-logfile", str(access), "--access-logformat", "json"]
    arguments += ["--access-log-hide", "query", "--access-log-sample", "1/1000"]
    arguments += ["--access-log-skip", "/hold 2xx", "--transport", transport]
    with Supervised(tmp_path, *arguments) as server:
        client = server.begin("/hold?0&", "held")
        [worker] = server.serving()
        os.kill(worker, signal.SIGKILL)
        assert eventually(access.read_text)
        client.close()
        server.wait_for_serving(1, {worker})
        assert server.stop() == 0
    [line] = map(json.loads, access.read_text().splitlines())
    assert line["http.response.status_code"] == 502
    assert line["url.query"] == "REDACTED"
    assert line["sample"] == 1
    assert "held" not in json.dumps(line)


@pytest.mark.skipif(not Path("/proc/self/cmdline").exists(), reason="needs Linux")
def test_the_command_line_of_a_worker_shows_its_load(tmp_path: Path, transport: str) -> None:
    arguments = ("--name", "shop", "--threads", "2", "--transport", transport)
    with Supervised(tmp_path, *arguments) as server:
        before = command_line(server.supervisor)
        [worker] = server.serving()
        idle = "penstock: worker 1 [shop] [0/2 busy, 0/s]"
        assert eventually(lambda: command_line(worker) == idle)
        client = server.begin("/hold?0&", "held")
        assert eventually(lambda: "[1/2 busy, " in command_line(worker))
        server.let_go("held")
        assert client.read_response("GET").status == 200
        client.close()
        assert eventually(lambda: command_line(worker) == idle)
        with Load(server.address, keep_alive=2, ask=plain):
            assert eventually(lambda: re.search(r" [1-9][0-9,]*/s\]$", command_line(worker)))
        if "setproctitle" not in before:
            assert command_line(server.supervisor) == before
        assert server.stop() == 0


def test_a_reload_sends_the_logs_of_all_processes_to_another_address(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    with closing(Receiver("tcp", first)) as old, closing(Receiver("unix", second)) as new:
        file = tmp_path / "penstock.toml"
        file.write_text(f"log_syslog = true\nlog_syslog_to = '{old.address}'\n")
        with Supervised(tmp_path) as server:
            before = server.serving()
            assert server.ask("/echo?1").status == 200
            file.write_text(f"log_syslog = true\nlog_syslog_to = '{new.address}'\n")
            server.signal(signal.SIGHUP)
            server.wait_for_workers(1, before)
            assert server.ask("/echo?2").status == 200
            assert server.stop() == 0
        assert "/echo?1" in old.text("reloading settings")
        text = new.text("stopped")
    assert "/echo?2" in text
    assert "/echo?1" not in text
