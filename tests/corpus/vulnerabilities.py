"""The input behind each known vulnerability of HTTP/1 servers, named after it."""

from __future__ import annotations

from collections.abc import Callable

from corpus.case import FOLLOWING, Case, chunked, coding, get, head, post, refused

_CHUNKED = b"Transfer-Encoding: chunked"
_SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"


PYTHON_SERVERS = [
    *refused(
        "CVE-2024-1135 (gunicorn)",
        400,
        chunked_then_identity=coding(b"chunked", b"identity"),
        identity_then_chunked=coding(b"identity", b"chunked"),
        chunked_identity_in_one=coding(b"chunked, identity"),
    ),
    *refused(
        "CVE-2024-6827 (gunicorn)",
        400,
        vertical_tab_and_length=post(
            b"Transfer-Encoding: \x0bchunked", b"Content-Length: 5", body=b"0\r\n\r\n"
        ),
        not_final_and_length=post(
            b"Transfer-Encoding: chunked,x", b"Content-Length: 5", body=b"0\r\n\r\n"
        ),
    ),
    Case("Sec-Websocket-Key1 adds no body", "Grenfeldt 2021 (gunicorn)",
         get(b"Sec-Websocket-Key1: x"), fields={"sec-websocket-key1": "x"}),
    *refused(
        "Grenfeldt 2021 (gunicorn)",
        400,
        LF_in_chunk_extension=chunked(b"5;a\nhello\r\n0\r\n\r\n"),
    ),
    *refused(
        "gunicorn 26.2.1",
        400,
        chunk_line_without_end=chunked(b"1;" + b"a" * 100_000),
        trailer_without_end=chunked(b"0\r\na: " + b"a" * 100_000),
    ),
    Case("upgrade does not drop the body", "gunicorn_h1c before 0.6.9",
         post(b"Upgrade: x", b"Connection: upgrade", b"Content-Length: 5", body=b"hello"),
         method="POST", body=b"hello"),
    *refused(
        "CVE-2019-16785 (waitress)",
        400,
        bare_LF_hides_length=get(b"Foo: x\nContent-Length: 5") + b"hello",
    ),
    *refused(
        "CVE-2019-16786 (waitress)",
        501,
        gzip_chunked=coding(b"gzip, chunked"),
        x_chunked=coding(b"x,chunked"),
    ),
    *refused("CVE-2019-16789 (waitress)", 400, vertical_tab=coding(b"\x0bchunked")),
    *refused(
        "CVE-2019-16792 (waitress)",
        400,
        two_lengths=post(b"Content-Length: 5", b"Content-Length: 0", body=b"hello"),
    ),
    *refused("CVE-2020-5236 (waitress)", 431, long_value=get(b"Bad: " + b"x" * 50_000 + b"\x10")),
    *refused(
        "CVE-2020-5236 (waitress)", 400, control_in_value=get(b"Bad: " + b"x" * 8000 + b"\x10")
    ),
    *refused(
        "CVE-2022-24761 (waitress)",
        400,
        signed_size=chunked(b"+5\r\nhello\r\n0\r\n\r\n"),
        prefixed_size=chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
        bad_extension=chunked(b"5;a=b=c\r\nhello\r\n0\r\n\r\n"),
    ),
    *refused("CVE-2024-49768 (waitress)", 400, request_behind_a_bad_one=b"GET /\r\n" + _SMUGGLED),
    *refused(
        "waitress before 3.1",
        400,
        coding_twice=coding(b"chunked", b"chunked"),
        coding_and_length=post(_CHUNKED, b"Content-Length: 5", body=b"0\r\n\r\n"),
        Host_twice=get(b"Host: b"),
        Content_Type_twice=post(b"Content-Type: a/b", b"Content-Type: c/d"),
    ),
    *refused(
        "cheroot 737",
        400,
        last_length_wins=post(b"Content-Length: 50", b"Content-Length: 5", body=b"hello"),
    ),
    *refused(
        "cheroot 714", 400, blank_before_colon=post(b"Content-Length : 5", body=b"hello")
    ),
    *refused(
        "CVE-2025-43859 (h11)",
        400,
        any_two_bytes_end_a_chunk=chunked(b"5\r\nAAAAAXX2\r\n45\r\n0\r\n\r\n" + _SMUGGLED),
    ),
    *refused(
        "CVE-2023-47627 (aiohttp)",
        400,
        signed_length=post(b"Content-Length: +5", body=b"hello"),
        underscore_in_length=post(b"Content-Length: 1_0", body=b"hello"),
        underscore_in_size=chunked(b"1_0\r\nhello\r\n0\r\n\r\n"),
        CR_in_value=get(b"X: a\rY: b"),
        NUL_in_value=get(b"X: a\0b"),
    ),
    Case("many chunks of one byte", "CVE-2025-69229 (aiohttp)",
         chunked(b"1\r\nx\r\n" * 5000 + b"0\r\n\r\n"), method="POST", body=b"x" * 5000),
    *refused(
        "CVE-2026-22815 (aiohttp)",
        400,
        trailers_without_limit=chunked(b"0\r\n" + (b"X: " + b"y" * 100 + b"\r\n") * 50),
    ),
    *refused("CVE-2026-34525 (aiohttp)", 400, two_hosts=get(b"Host: evil.example")),
    *refused(
        "CVE-2024-23829 (aiohttp)",
        400,
        blank_in_name=get(b"X Y: a"),
        blank_first=get(b" X: a"),
        control_in_name=get(b"X\x01: a"),
        version_with_sign=get(version=b"HTTP/1.+1"),
    ),
    *refused(
        "CVE-2025-53643 (aiohttp)",
        400,
        request_in_trailers=chunked(b"0\r\n" + _SMUGGLED),
    ),
    *refused(
        "CVE-2020-10108 (twisted)",
        400,
        two_lengths=post(b"Content-Length: 0", b"Content-Length: 5", body=b"hello"),
    ),
    *refused(
        "CVE-2020-10109 (twisted)",
        400,
        length_and_coding=post(b"Content-Length: 5", _CHUNKED, body=b"0\r\n\r\n"),
    ),
    *refused(
        "CVE-2022-24801 (twisted)",
        400,
        signed_length=post(b"Content-Length: +5", body=b"hello"),
        prefixed_size=chunked(b"0x5\r\nhello\r\n0\r\n\r\n"),
        LF_in_extension=chunked(b"5;\nhello\r\n0\r\n\r\n"),
        other_blanks_around_coding=coding(b"\x0cchunked"),
    ),
    *refused(
        "CVE-2023-41419 (gevent)",
        400,
        request_in_trailer_section=chunked(b"0\r\nX: y\n" + _SMUGGLED),
        request_as_a_trailer_field=chunked(b"0\r\nX: y\r\n" + _SMUGGLED),
    ),
    *refused(
        "CVE-2025-58068 (eventlet)",
        400,
        framing_in_trailer_section=chunked(b"0\r\nContent-Length: 5\r\n\r\nhello"),
        request_in_trailer_section=chunked(b"0\r\nGET /x HTTP/1.1\r\n\r\n"),
    ),
    *refused(
        "GHSA-qppv-j76h-2rpx (tornado)",
        400,
        int_takes_underscores=post(b"Content-Length: 1_0", body=b"0123456789"),
        int_takes_signs=chunked(b"-1\r\n\r\n0\r\n\r\n"),
    ),
    *refused("GHSA-753j-mpmx-qq6g (tornado)", 400, two_codings=coding(b"chunked", b"chunked")),
    *refused(
        "CVE-2026-48710 (Starlette)",
        400,
        path_in_host=head(b"GET / HTTP/1.1", b"Host: a/b?c="),
    ),
    *refused("CVE-2026-54282 (Starlette)", 400, authority_as_target=get(target=b"@evil")),
    Case("field Proxy is a field like any other", "CVE-2016-5388 (httpoxy)",
         get(b"Proxy: http://evil.example"), fields={"proxy": "http://evil.example"}),
]  # fmt: skip

OTHER_SERVERS = [
    *refused(
        "CVE-2022-24790 (Puma)",
        400,
        chunked_not_final=coding(b"chunked, x"),
        length_with_text=post(b"Content-Length: 5 x", body=b"hello"),
    ),
    *refused(
        "CVE-2023-40175 (Puma)",
        400,
        empty_length=post(b"Content-Length:", body=b"hello"),
        bad_trailer=chunked(b"0\r\nX\r\n\r\n"),
    ),
    Case("underscore is no hyphen", "CVE-2024-45614 (Puma)",
         get(b"X-Forwarded-For: 1", b"X_Forwarded_For: 2"),
         fields={"x-forwarded-for": "1", "x_forwarded_for": "2"}),
    *refused(
        "CVE-2024-21647 (Puma)", 400, extension_without_end=chunked(b"1;a=" + b"a" * 10_000)
    ),
    *refused(
        "CVE-2025-22871 (Go)",
        400,
        LF_ends_size=chunked(b"5\nhello\r\n0\r\n\r\n"),
        LF_ends_last_chunk=chunked(b"5\r\nhello\r\n0\n\n"),
    ),
    *refused(
        "CVE-2023-39326 (Go)", 400, extension_flood=chunked(b"1;a=bcdef\r\nx\r\n" * 1000)
    ),
    # 20 bytes of framing for each byte: 16 KiB are free, and four for each byte of content.
    Case("as many tiny chunks as are allowed", "framing flood",
         chunked(b"0000000000000001\r\nx\r\n" * 1023 + b"0\r\n\r\n"), method="POST",
         body=b"x" * 1023),
    *refused(
        "framing flood",
        400,
        tiny_chunks=chunked(b"0000000000000001\r\nx\r\n" * 1024),
    ),
    *refused(
        "CVE-2025-55315 (Kestrel)",
        400,
        line_break_in_extension=chunked(b"2;\nXX\r\n10\r\n\r\n0\r\n\r\n" + _SMUGGLED),
        CR_in_extension=chunked(b"2;\rXX\r\n10\r\n\r\n0\r\n\r\n" + _SMUGGLED),
    ),
    *refused(
        "CVE-2026-33870 (Netty)",
        400,
        CRLF_in_quotes=chunked(b'1;a="\r\nX\r\n0\r\n\r\n' + FOLLOWING),
    ),
    *refused(
        "CVE-2026-2332 (Jetty)",
        400,
        CRLF_in_quotes=chunked(b'1;a="\r\nX\r\n0\r\n\r\n"\r\nX\r\n0\r\n\r\n'),
    ),
    *refused(
        "0.CL (Kettle 2025)",
        417,
        obscured_expectation=post(b"Expect: y 100-continue", b"Content-Length: 5", body=b"hello"),
    ),
    *refused(
        "llhttp trophy 30",
        400,
        CR_and_X_ends_the_head=b"GET / HTTP/1.1\r\nHost: a\r\n\rX: b\r\n\r\n",
    ),
    *refused("llhttp trophy 31", 400, CR_for_CRLF=b"GET / HTTP/1.1\rHost: a\r\r"),
    Case("Range flood is the application's", "CVE-2011-3192 (Apache)",
         get(b"Range: bytes=" + b",".join(b"%d-" % n for n in range(1000))),
         fields={"range": "bytes=" + ",".join(f"{n}-" for n in range(1000))}),
]  # fmt: skip


_TERMINATORS = {
    "LF": b"\n", "CR": b"\r", "CR X": b"\rX", "CR CR": b"\r\r", "nothing": b"", "XX": b"XX",
}  # fmt: skip


def _funky_chunks() -> list[Case]:
    """Return ambiguous line ends at each of the places where parsers took them."""
    places: dict[str, Callable[[bytes], bytes]] = {
        "TERM.EXT": lambda end: b"5;" + end + b"hello\r\n0\r\n\r\n",
        "EXT.TERM": lambda end: b"5;a" + end + b"\r\nhello\r\n0\r\n\r\n",
        "TERM.SPILL": lambda end: b"5" + end + b"hello\r\n0\r\n\r\n",
        "SPILL.TERM": lambda end: b"5\r\nhello" + end + b"0\r\n\r\n",
        "TERM.TRAIL": lambda end: b"0\r\nX: y" + end + b"\r\n\r\n",
    }
    # These are no ambiguity: an extension or a trailer field is the same or longer by XX.
    harmless = {"EXT.TERM nothing", "EXT.TERM XX", "TERM.TRAIL nothing", "TERM.TRAIL XX"}
    cases = [
        Case(f"{place} {name}", "Funky chunks 2025", chunked(build(end) + _SMUGGLED), status=400)
        for place, build in places.items()
        for name, end in _TERMINATORS.items()
        if f"{place} {name}" not in harmless
    ]
    return [
        *cases,
        Case(
            "one byte more", "Funky chunks 2025", chunked(b"5\r\nhelloX\r\n0\r\n\r\n"), status=400
        ),
        Case(
            "two bytes more", "Funky chunks 2025", chunked(b"5\r\nhelloXX\r\n0\r\n\r\n"), status=400
        ),
        Case("one byte less", "Funky chunks 2025", chunked(b"5\r\nhell\r\n0\r\n\r\n"), status=400),
    ]


CASES: list[Case] = [*PYTHON_SERVERS, *OTHER_SERVERS, *_funky_chunks()]
"""Every case of this module."""
