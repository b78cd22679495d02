"""What a request becomes in the environ, on both transports: PEP 3333 and the settings."""

from __future__ import annotations

import json
from wsgiref.types import StartResponse

import pytest

import penstock
from support.serving import TEXT, Environ, connect, get


def show_path(environ: Environ, start_response: StartResponse) -> list[bytes]:
    start_response("200 OK", TEXT)
    return [json.dumps([environ["SCRIPT_NAME"], environ["PATH_INFO"]]).encode()]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("/shop", ["/shop", ""]),
        ("/shop/", ["/shop", "/"]),
        ("/shop/a?b", ["/shop", "/a"]),
        ("/sho%70/a", ["/shop", "/a"]),
        ("/shop%2Fa", ["/shop", "/a"]),
        ("/shopping", None),
        ("/shop-a", None),
        ("/", None),
        ("/a/shop", None),
    ],
)
def test_pep3333_a_mount_ends_where_a_segment_of_the_path_ends(
    transport: str, target: str, expected: list[str] | None
) -> None:
    with penstock.running(show_path, transport=transport, script_name="/shop") as server:
        with connect(server) as client:
            client.send(get(target))
            response = client.read_response()
    if expected is None:
        assert response.status == 404
    else:
        assert (response.status, json.loads(response.body)) == (200, expected)
