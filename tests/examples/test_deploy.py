"""The files of deploy/ do what docs/deployment.md says, with real programs where they are."""

from __future__ import annotations

import configparser
import json
import os
import re
import shlex
import signal
import ssl
import subprocess
import sys
import urllib.request
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from penstock.cli.arguments import parse_command_line
from penstock.config.settings import OPTIONS
from support.certificates import authority, files
from support.invariant import eventually
from support.lifecycle import Supervised, write_app
from support.proxies import found, nginx, running
from support.server_process import ROOT, ServerProcess, checkout_environ
from support.wire import Client

DEPLOY = ROOT / "deploy"
APPLICATION = """
import json
def app(environ, start_response):
    size = len(environ["wsgi.input"].read())
    names = ("wsgi.url_scheme", "HTTP_HOST", "REMOTE_ADDR")
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps({name: environ[name] for name in names} | {"size": size}).encode()]
"""
BEHIND_A_PROXY = ("--forwarded-headers", "x-forwarded-for,x-forwarded-proto")
GRACEFUL_SECONDS = OPTIONS["graceful_timeout"].default
UPLOAD_BYTES = 3 << 20


def text_of(name: str) -> str:
    return (DEPLOY / name).read_text("utf-8")


def replaced(text: str, *pairs: tuple[str, str]) -> str:
    for old, new in pairs:
        assert old in text, old
        text = text.replace(old, new)
    return text


@pytest.fixture
def place(tmp_path: Path) -> Path:
    (tmp_path / "module.py").write_text(APPLICATION)
    return tmp_path


def ask_by_tls(port: int) -> dict[str, Any]:
    """Send an upload that is longer than nginx takes by default, and return what it came to."""
    context = ssl.create_default_context(cafile=str(authority().path))
    context.check_hostname = False
    request = urllib.request.Request(
        f"https://127.0.0.1:{port}/upload",
        data=bytes(UPLOAD_BYTES),
        headers={"Host": "shop.example", "X-Forwarded-For": "203.0.113.9", "Forwarded": "for=_x"},
    )
    with urllib.request.urlopen(request, context=context, timeout=20) as response:
        value: dict[str, Any] = json.loads(response.read())
        return value


SEEN = {
    "wsgi.url_scheme": "https",
    "HTTP_HOST": "shop.example",
    "REMOTE_ADDR": "127.0.0.1",
    "size": UPLOAD_BYTES,
}


def test_nginx_speaks_tls_and_passes_on_what_the_application_needs(
    place: Path, transport: str
) -> None:
    with ServerProcess(
        "module:app", *BEHIND_A_PROXY, "--transport", transport, cwd=place
    ) as server:

        def configuration(ports: list[int]) -> str:
            return replaced(
                text_of("nginx.conf"),
                ("listen 80;", f"listen 127.0.0.1:{ports[0]};"),
                ("listen 443 ssl;", f"listen 127.0.0.1:{ports[1]} ssl;"),
                ("/etc/ssl/shop.example/fullchain.pem", files()["certfile"]),
                ("/etc/ssl/shop.example/privkey.pem", files()["keyfile"]),
                ("server 127.0.0.1:8000;", f"server 127.0.0.1:{server.port};"),
            )

        with nginx(place, configuration, ports=2) as (plain, secure):
            assert ask_by_tls(secure) == SEEN
            with Client(("127.0.0.1", plain)) as client:
                response = client.request("GET", "/a?b=1", {"Host": "shop.example"})
            assert response.status == 301
            assert dict(response.headers)["Location"] == "https://shop.example/a?b=1"


def test_caddy_speaks_tls_and_passes_on_what_the_application_needs(place: Path) -> None:
    program = found("caddy")
    with ServerProcess("module:app", *BEHIND_A_PROXY, cwd=place) as server:

        def command(ports: list[int]) -> list[str]:
            text = replaced(
                text_of("Caddyfile"),
                (
                    "shop.example {\n",
                    f"https://shop.example:{ports[0]} {{\n\tbind 127.0.0.1\n"
                    f"\ttls {files()['certfile']} {files()['keyfile']}\n",
                ),
                ("reverse_proxy 127.0.0.1:8000", f"reverse_proxy 127.0.0.1:{server.port}"),
            )
            path = place / "Caddyfile"
            path.write_text(
                f"{{\n\tadmin off\n\tauto_https off\n\tdefault_sni shop.example\n}}\n{text}"
            )
            return [program, "run", "--config", str(path), "--adapter", "caddyfile"]

        with running(command, 1) as (port,):
            assert ask_by_tls(port) == SEEN | {"HTTP_HOST": "shop.example"}


def test_supervisord_gives_the_server_time_and_repeats_no_hopeless_start() -> None:
    parser = configparser.RawConfigParser(inline_comment_prefixes=(";",))
    parser.read_string(text_of("supervisord.conf"))
    program = parser["program:app"]
    assert int(program["stopwaitsecs"]) > GRACEFUL_SECONDS
    assert program["exitcodes"] == "0,2,3,4,5,6,7"
    assert program["autorestart"] == "unexpected"
    assert program["stopsignal"] == "TERM"
    command = shlex.split(program["command"])
    assert command[0].endswith("/penstock")
    assert parse_command_line(command[1:]).application == "module:app"


def instructions() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile's last stage."""
    lines = re.sub(r"\\\n", " ", text_of("Dockerfile")).splitlines()
    found = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    last = max(index for index, words in enumerate(found) if words[0] == "FROM")
    return [(words[0], words[1]) for words in found[last:]]


def test_the_image_starts_is_healthy_and_stops(place: Path, transport: str) -> None:
    """Its command and its check, with the variables that it sets, outside of a container."""
    by_name = dict(instructions())
    variables = dict(word.split("=", 1) for word in shlex.split(by_name["ENV"]))
    variables.pop("PATH")
    assert variables.pop("PENSTOCK_BIND") == "0.0.0.0:8000"
    command = json.loads(by_name["CMD"])
    check = json.loads(by_name["HEALTHCHECK"].partition(" CMD ")[2])
    assert (command[0], check[0]) == ("penstock", "python")
    assert by_name["USER"].split(":")[0] not in ("0", "65534")
    arguments = (*command[1:], "--transport", transport)
    with ServerProcess(*arguments, cwd=place, environ=variables) as server:
        program = replaced(check[2], (":8000", f":{server.port}"))
        subprocess.run([sys.executable, *check[1:2], program], check=True, timeout=60)
        assert server.stop() == 0


def test_compose_waits_longer_than_the_server_takes_to_stop() -> None:
    services = yaml.safe_load(text_of("compose.yaml"))["services"]
    app = services["app"]
    assert int(app["stop_grace_period"].removesuffix("s")) > GRACEFUL_SECONDS
    assert app["read_only"] is True
    assert [each.partition(":")[0] for each in app["tmpfs"]] == ["/tmp"]
    assert app["ports"][0].rpartition(":")[2] == dict(instructions())["EXPOSE"]
    assert set(app["depends_on"]) <= set(services)


@pytest.fixture
def releases(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        folder = tmp_path / "releases" / name
        folder.mkdir(parents=True)
        write_app(folder, name)
    broken = tmp_path / "releases" / "broken"
    broken.mkdir()
    write_app(broken, "broken", "raise RuntimeError('on purpose')")
    (tmp_path / "current").symlink_to("releases/one")
    return tmp_path


def test_a_release_is_put_into_service_or_taken_back(releases: Path, transport: str) -> None:
    programs = releases / "bin"
    programs.mkdir()
    ctl = programs / "penstockctl"
    ctl.write_text(f'#!/bin/sh\nexec {sys.executable} -m penstock.control.penstockctl "$@"\n')
    ctl.chmod(0o755)
    control = str(releases / "control")
    environ = checkout_environ() | {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "BASE": str(releases),
        "PENSTOCK_CONTROL": control,
    }

    def release(name: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(DEPLOY / "release"), name],
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    arguments = ("--chdir", str(releases / "current"), "--control", control)
    with Supervised(releases, *arguments, "--transport", transport) as server:
        assert server.served_by()[0] == "one"
        assert release("two").returncode == 0
        assert server.served_by()[0] == "two"
        done = release("broken")
        assert done.returncode == 1
        assert "releases/broken is not in service: releases/two goes on" in done.stderr
        assert os.readlink(releases / "current") == "releases/two"
        assert server.served_by()[0] == "two"
        assert release("missing").returncode == 1
        server.signal(signal.SIGHUP)  # what is in service starts again
        assert eventually(lambda: server.served_by()[0] == "two")
        assert server.stop() == 0
