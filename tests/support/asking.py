"""A case of the corpus as a client sends it, and what the answer has to be."""

from __future__ import annotations

import json
import string
from urllib.parse import quote

from corpus.case import Case
from support.wire import Client, Response

BYTEWISE = 4096
"""Bytes at each end of a case that are sent one by one; what is between them goes in blocks."""


def send_in_pieces(client: Client, data: bytes) -> None:
    first, middle, last = data[:BYTEWISE], data[BYTEWISE:-BYTEWISE], data[BYTEWISE:][-BYTEWISE:]
    client.send_bytewise(first)
    for start in range(0, len(middle), 997):
        client.send(middle[start : start + 997])
    client.send_bytewise(last)


def send(client: Client, case: Case, data: bytes, *, in_pieces: bool) -> None:
    """Send the bytes of a case, whole or in pieces."""
    try:
        if in_pieces:
            send_in_pieces(client, data)
        else:
            client.send(data)
        if case.ends_early:
            client.end_sending()
    except (BrokenPipeError, ConnectionResetError):
        assert case.status is not None, "the server closed within a valid request"


def final_response(client: Client, case: Case) -> Response:
    response = client.read_response(case.method)
    while response.status == 100:
        assert case.expect_continue
        response = client.read_response(case.method)
    return response


def check_answer(client: Client, case: Case) -> None:
    """Read the answer, and compare it with what the case wants."""
    response = final_response(client, case)
    if case.status is not None:
        check_refusal(client, response, case.status)
        return
    assert response.status == 200
    assert response.header("Connection") == {
        ("HTTP/1.1", False): "close",
        ("HTTP/1.0", False): "close",
        ("HTTP/1.0", True): "keep-alive",
    }.get((case.version, case.keep_alive))
    if case.path == "*":
        assert (response.body, response.header("Content-Length")) == (b"", "0")
    elif case.method != "HEAD":
        assert json.loads(response.body) == {
            "REQUEST_METHOD": case.method,
            "RAW_URI": case.target,
            # Bytes above ASCII, which latin-1 text has as one character each, are percent-encoded.
            "QUERY_STRING": quote(case.query, safe=string.printable, encoding="latin-1"),
            "SERVER_PROTOCOL": case.version,
            "body": case.body.decode("latin-1"),
        }


def check_refusal(client: Client, response: Response, status: int) -> None:
    """RFC 9112, section 9.6: the refusal says that it is the last word, and it is."""
    assert response.status == status
    assert response.header("Connection") == "close"
    assert str(response.header("Content-Type")).startswith("text/plain")
    assert 0 < len(response.body) < 300
    assert response.header("Date")
    assert response.header("Server") == "penstock"
    assert client.read_to_end() == b""
