"""What the fields of a proxy become in the environ, in the logs and in the limits."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from wsgiref.types import StartResponse

import pytest

import penstock
from penstock.edge.forwarded import ForwardedPolicy
from support.serving import TEXT, Environ, Gate, Place, address, connect, eventually, get
from support.transports import serving
from support.wire import Client, exchange

SHOWN = ("REMOTE_ADDR", "REMOTE_PORT", "wsgi.url_scheme", "HTTPS", "HTTP_HOST", "SERVER_PORT",
         "SCRIPT_NAME", "PATH_INFO")  # fmt: skip
FIELDS = ("HTTP_X_FORWARDED_FOR", "HTTP_X_FORWARDED_PROTO", "HTTP_FORWARDED")

EVERY_FIELD = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-proto",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
]


def show(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [json.dumps({name: environ.get(name) for name in SHOWN + FIELDS}).encode()]


@contextmanager
def server_with(transport: str, **settings: object) -> Iterator[Place]:
    with penstock.running(show, transport=transport, **settings) as server:
        yield server


def ask(client: Client, *fields: str, target: str = "/") -> dict[str, str | None]:
    client.send(get(target, *fields))
    response = client.read_response()
    assert response.status == 200, response.body
    shown: dict[str, str | None] = json.loads(response.body)
    return shown


def refusal(server: Place, *fields: str, target: str = "/") -> str:
    answer = exchange(address(server), get(target, *fields))
    assert answer.startswith(b"HTTP/1.1 400 "), answer
    return answer.rpartition(b"\r\n\r\n")[2].decode()


def test_by_default_the_scheme_alone_is_believed_of_this_machine(transport: str) -> None:
    with server_with(transport) as server, connect(server) as client:
        port = str(client.socket.getsockname()[1])
        for _ in range(3):  # from the third time on, the fields are not parsed again
            shown = ask(client, "X-Forwarded-Proto: https", "X-Forwarded-For: 192.0.2.1")
            assert (shown["wsgi.url_scheme"], shown["HTTPS"]) == ("https", "on")
            assert (shown["REMOTE_ADDR"], shown["REMOTE_PORT"]) == ("127.0.0.1", port)
            assert shown["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"  # the application may read it
            assert shown["HTTP_HOST"] == "a"
        shown = ask(client)
        assert (shown["wsgi.url_scheme"], shown["HTTPS"]) == ("http", None)
        shown = ask(client, "X-Forwarded-Proto: http")
        assert (shown["wsgi.url_scheme"], shown["HTTPS"]) == ("http", None)


def test_every_field_that_is_named_is_believed_and_stays_in_the_environ(transport: str) -> None:
    fields = [
        "X-Forwarded-For: 6.6.6.6, 192.0.2.1:4711",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: example.org",
        "X-Forwarded-Port: 8443",
        "X-Forwarded-Prefix: /caf%C3%A9",
    ]
    with server_with(transport, forwarded_headers=EVERY_FIELD) as server, connect(server) as client:
        for _ in range(3):
            assert ask(client, *fields, target="/x?y") == {
                "REMOTE_ADDR": "192.0.2.1",
                "REMOTE_PORT": "4711",
                "wsgi.url_scheme": "https",
                "HTTPS": "on",
                "HTTP_HOST": "example.org",
                "SERVER_PORT": "8443",
                "SCRIPT_NAME": "/caf\xc3\xa9",
                "PATH_INFO": "/x",
                "HTTP_X_FORWARDED_FOR": "6.6.6.6, 192.0.2.1:4711",
                "HTTP_X_FORWARDED_PROTO": "https",
                "HTTP_FORWARDED": None,
            }
            # The next request of the connection is another client's.
            shown = ask(client, 'Forwarded: for="[2001:db8::1]";proto=https;host="b:444"')
            assert shown["REMOTE_ADDR"] == "2001:db8::1"
            assert shown["REMOTE_PORT"] is None
            assert (shown["HTTP_HOST"], shown["SERVER_PORT"]) == ("b:444", "444")
            assert shown["SCRIPT_NAME"] == ""
            shown = ask(client)
            assert shown["REMOTE_ADDR"] == "127.0.0.1"
            assert shown["HTTP_HOST"] == "a"


@pytest.mark.parametrize(
    ("fields", "port"),
    [
        (["X-Forwarded-Host: b"], "80"),
        (["X-Forwarded-Host: b", "X-Forwarded-Proto: https"], "443"),
        (["X-Forwarded-Host: [::1]", "X-Forwarded-Proto: https"], "443"),
        (["X-Forwarded-Host: b:8080", "X-Forwarded-Proto: https"], "8080"),
        (["X-Forwarded-Host: b:8080", "X-Forwarded-Port: 81"], "81"),
    ],
)
def test_the_port_is_that_of_the_host(transport: str, fields: list[str], port: str) -> None:
    with server_with(transport, forwarded_headers=EVERY_FIELD) as server, connect(server) as client:
        assert ask(client, *fields)["SERVER_PORT"] == port


def test_a_client_that_the_proxy_does_not_tell_has_no_address(transport: str) -> None:
    with server_with(transport, forwarded_headers="forwarded") as server, connect(server) as client:
        for node in ("unknown", "_hidden"):
            shown = ask(client, f"Forwarded: for={node}")
            assert (shown["REMOTE_ADDR"], shown["REMOTE_PORT"]) == ("", None)


def test_a_prefix_that_was_removed_is_before_the_mount(transport: str) -> None:
    settings = {"forwarded_headers": ["x-forwarded-prefix"], "script_name": "/shop"}
    with server_with(transport, **settings) as server, connect(server) as client:
        shown = ask(client, "X-Forwarded-Prefix: /api/", target="/shop/x")
        assert (shown["SCRIPT_NAME"], shown["PATH_INFO"]) == ("/api/shop", "/x")


@pytest.mark.parametrize("mount", ["", "/other"])
def test_script_name_is_what_the_path_begins_with_as_under_gunicorn(
    transport: str, mount: str
) -> None:
    settings = {"forwarded_headers": ["script_name"], "script_name": mount, "header_map": "refuse"}
    with server_with(transport, **settings) as server, connect(server) as client:
        shown = ask(client, "SCRIPT_NAME: /a%70p", target="/%61pp/x")
        assert (shown["SCRIPT_NAME"], shown["PATH_INFO"]) == ("/app", "/x")
        client.send(get("/elsewhere", "SCRIPT_NAME: /app"))
        assert client.read_response().status == 404


def test_a_field_whose_value_means_https(transport: str) -> None:
    with server_with(transport, forwarded_headers=["front-end-https=on"]) as server:
        with connect(server) as client:
            assert ask(client, "Front-End-Https: on")["wsgi.url_scheme"] == "https"
            assert ask(client, "Front-End-Https: off")["wsgi.url_scheme"] == "http"
            assert ask(client, "X-Forwarded-Proto: https")["wsgi.url_scheme"] == "http"


def test_rfc9110_section_7_4_an_https_target_is_served_where_the_proxy_says_https(
    transport: str,
) -> None:
    with server_with(transport) as server:
        with connect(server) as client:
            shown = ask(client, "X-Forwarded-Proto: https", target="https://a/")
            assert shown["wsgi.url_scheme"] == "https"
        assert "not secure" in refusal(server, target="https://a/")
        assert "not secure" in refusal(server, "X-Forwarded-Proto: http", target="https://a/")


def test_what_is_malformed_or_contradicts_itself_is_refused(
    transport: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with server_with(transport, forwarded_headers=EVERY_FIELD) as server:
        assert refusal(server, "X-Forwarded-For: 192.0.2.1,") == (
            "The field X-Forwarded-For of the proxy is malformed.\n"
        )
        assert refusal(server, "X-Forwarded-Proto: http", "Forwarded: proto=https") == (
            "The fields Forwarded and X-Forwarded-Proto of the proxy contradict each other.\n"
        )
    assert "setting: forwarded_headers" in capfd.readouterr().err


UNTRUSTED = ["X-Forwarded-For: 192.0.2.1", "X-Forwarded-Proto: https", "Forwarded: nonsense;;,"]


def test_the_fields_of_other_peers_are_passed_on_with_one_warning(
    transport: str, capfd: pytest.CaptureFixture[str]
) -> None:
    settings = {"forwarded_allow_ips": ["192.0.2.0/24", "unix"], "forwarded_headers": EVERY_FIELD}
    with server_with(transport, **settings) as server, connect(server) as client:
        for _ in range(3):
            shown = ask(client, *UNTRUSTED)
            assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == ("127.0.0.1", "http")
            assert shown["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"
            assert shown["HTTP_X_FORWARDED_PROTO"] == "https"
            assert shown["HTTP_FORWARDED"] == "nonsense;;,"
        ask(client, "X-Forwarded-For: 192.0.2.1")
    logged = capfd.readouterr().err.splitlines()
    assert [line.partition("[WARNING] ")[2] for line in logged if "WARNING" in line] == [
        "PEN-4010 the field X-Forwarded-For of 127.0.0.1 is not believed: forwarded_allow_ips does "
        "not name that peer (logged once; setting: forwarded_allow_ips)"
    ]


def test_the_fields_of_other_peers_can_be_dropped(transport: str) -> None:
    settings = {"forwarded_allow_ips": "none", "untrusted_forwarded": "drop"}
    with server_with(transport, **settings) as server, connect(server) as client:
        for _ in range(3):
            shown = ask(client, *UNTRUSTED)
            assert [shown[name] for name in FIELDS] == [None] * 3
    with server_with(transport, untrusted_forwarded="drop") as server, connect(server) as client:
        shown = ask(client, *UNTRUSTED)  # of a trusted peer
        assert None not in [shown[name] for name in FIELDS]


def test_the_peers_of_a_unix_socket_are_trusted_by_name(transport: str, tmp_path: Path) -> None:
    for allowed, scheme in (("unix", "https"), ("127.0.0.1", "http"), ("*", "https")):
        bind = f"unix:{tmp_path / 'socket'}"
        with server_with(transport, bind=bind, forwarded_allow_ips=allowed) as server:
            with connect(server) as client:
                shown = ask(client, "X-Forwarded-Proto: https")
                assert (shown["wsgi.url_scheme"], shown["REMOTE_ADDR"]) == (scheme, "")


def test_the_rate_of_requests_is_the_clients_and_not_the_proxys(transport: str) -> None:
    settings = {"forwarded_headers": EVERY_FIELD, "max_requests_per_client": "1/h,1"}
    with server_with(transport, **settings) as server:
        for client in ("192.0.2.1", "192.0.2.2"):
            answers = [
                exchange(address(server), get("/", f"X-Forwarded-For: {client}",
                                              "Connection: close"))
                for _ in range(2)
            ]  # fmt: skip
            assert [answer[9:12] for answer in answers] == [b"200", b"429"]


def test_the_scoreboard_has_the_client(transport: str) -> None:
    gate = Gate()
    forwarded = ForwardedPolicy.of(["127.0.0.1"], EVERY_FIELD, drops=False)
    with serving(gate, transport, forwarded=forwarded) as server:
        with connect(server) as client, connect(server) as another:
            client.send(get("/wait", "X-Forwarded-For: [2001:db8::1]:80"))
            eventually(lambda: gate.inside == 1)
            (request,) = server.slot.requests()
            assert request.client == "2001:db8::1:80"
            gate.open()
            client.read_response()
            another.send(get())
            another.read_response()


@pytest.mark.parametrize("format_", ["json", "%(h)s %(peer)s %(s)s", "combined"])
def test_the_access_log_has_the_client_and_the_peer(
    transport: str, format_: str, tmp_path: Path
) -> None:
    log = tmp_path / "access.log"
    settings = {
        "forwarded_headers": EVERY_FIELD,
        "access_logfile": str(log),
        "access_logformat": format_,
    }
    with server_with(transport, **settings) as server:
        for number, port in enumerate(("", ":99"), 1):
            field = f"X-Forwarded-For: 192.0.2.1{port}"
            exchange(address(server), get("/", field, "Connection: close"))
            eventually(lambda: log.read_text().count("\n") == number)  # noqa: B023
        exchange(address(server), get("/", "Connection: close"))
        eventually(lambda: log.read_text().count("\n") == 3)
        refusal(server, "X-Forwarded-For: 192.0.2.1", target="https://a/")
        eventually(lambda: log.read_text().count("\n") == 4)
    lines = log.read_text().splitlines()
    if format_ == "json":
        found = [json.loads(line) for line in lines]
        clients = [(line["client.address"], line["client.port"]) for line in found]
        assert {line["network.peer.address"] for line in found} == {"127.0.0.1"}
        assert clients[:2] == [("192.0.2.1", None), ("192.0.2.1", 99)]
        assert clients[2][0] == "127.0.0.1"
        assert clients[3] == ("192.0.2.1", None)
    else:
        if "peer" in format_:
            assert {line.split()[1] for line in lines} == {"127.0.0.1"}
        assert [line.split()[0] for line in lines] == [
            "192.0.2.1",
            "192.0.2.1",
            "127.0.0.1",
            "192.0.2.1",
        ]


def test_a_body_that_comes_later_keeps_what_was_said_of_its_head(transport: str) -> None:
    def application(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
        body = environ["wsgi.input"].read()
        start_response("200 OK", TEXT)
        return [environ["REMOTE_ADDR"].encode() + b" " + body]

    with penstock.running(
        application, transport=transport, forwarded_headers=EVERY_FIELD
    ) as server:
        with connect(server) as client:
            head = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nX-Forwarded-For: {}\r\n\r\n"
            for name in ("192.0.2.1", "192.0.2.2"):
                client.send(head.format(name).encode())
                client.send_bytewise(b"abc")
                assert client.read_response().body == f"{name} abc".encode()


def test_cve_2024_45614_a_name_with_underscores_does_not_stand_in_for_the_proxys(
    transport: str,
) -> None:
    spoofed = ["X_Forwarded_For: 6.6.6.6", "X_FORWARDED_PROTO: https"]
    for header_map in ("drop", "dangerous"):
        settings = {"forwarded_headers": EVERY_FIELD, "header_map": header_map}
        with server_with(transport, **settings) as server, connect(server) as client:
            shown = ask(client, *spoofed, "X-Forwarded-For: 192.0.2.1")
            assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == ("192.0.2.1", "http")
            assert shown["HTTP_X_FORWARDED_FOR"] == "192.0.2.1"
            shown = ask(client, *spoofed)
            assert (shown["REMOTE_ADDR"], shown["wsgi.url_scheme"]) == ("127.0.0.1", "http")


def test_cve_2022_2255_no_field_of_an_untrusted_peer_names_the_client(transport: str) -> None:
    fields = [f"{name}: 6.6.6.6" for name in ("X-Client-IP", "X-Real-IP", "CF-Connecting-IP")]
    fields += ["Forwarded: for=6.6.6.6", "X-Forwarded-For: 6.6.6.6", "SCRIPT_NAME: /evil"]
    settings = {"forwarded_headers": EVERY_FIELD, "forwarded_allow_ips": "192.0.2.1"}
    with server_with(transport, **settings) as server, connect(server) as client:
        for _ in range(3):
            shown = ask(client, *fields)
            assert (shown["REMOTE_ADDR"], shown["SCRIPT_NAME"]) == ("127.0.0.1", "")


def test_no_client_gets_the_address_of_the_request_between_two_that_are_alike(
    transport: str,
) -> None:
    first, large = "192.0.2.1", "X-Padding: " + "x" * 4000
    settings = {"forwarded_headers": EVERY_FIELD}
    with server_with(transport, **settings) as server, connect(server) as client:
        for _ in range(2):
            assert ask(client, f"X-Forwarded-For: {first}")["REMOTE_ADDR"] == first
        assert ask(client, large, "X-Forwarded-For: 192.0.2.2")["REMOTE_ADDR"] == "192.0.2.2"
        assert ask(client, f"X-Forwarded-For: {first}")["REMOTE_ADDR"] == first
