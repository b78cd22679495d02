"""The parser's states, the end of input, early refusal, limits, and how much it still expects."""

from __future__ import annotations

import pytest

from corpus.case import FOLLOWING, chunked, get, head, post
from penstock.http1 import (
    CONNECTION_CLOSED,
    NEED_DATA,
    Data,
    EndOfMessage,
    ParserLimits,
    ProtocolError,
    Request,
    RequestParser,
    State,
)
from penstock.http1.parser import TRANSITIONS
from support.parsing import WatchedParser, parse


def parser_with(*blocks: bytes, limits: ParserLimits | None = None) -> RequestParser:
    parser = WatchedParser(limits or ParserLimits())
    for block in blocks:
        parser.receive_data(block)
    return parser


def refusal(*blocks: bytes, limits: ParserLimits | None = None) -> ProtocolError:
    """Return the error that the last block causes; none may come before it."""
    parser = WatchedParser(limits or ParserLimits())
    for block in blocks[:-1]:
        parser.receive_data(block)
        while parser.next_event() is not NEED_DATA:
            pass
    parser.receive_data(blocks[-1])
    with pytest.raises(ProtocolError) as caught:
        take_all(parser)
    return caught.value


def take_all(parser: RequestParser) -> None:
    while parser.next_event() is not NEED_DATA:
        pass


def test_a_request_without_a_body_is_a_request_and_its_end() -> None:
    parser = parser_with(get(b"X: y", target=b"/p?q"))
    states = [parser.state]
    assert parser.next_event() == Request(
        method="GET",
        target="/p?q",
        version="HTTP/1.1",
        path="/p",
        query="q",
        fields={"host": "a", "x": "y"},
        content_length=None,
        chunked=False,
        keep_alive=True,
        expect_continue=False,
        body_expected=False,
    )
    states.append(parser.state)
    assert parser.next_event() == EndOfMessage()
    assert parser.next_event() == EndOfMessage(), "until the next request is started"
    states.append(parser.state)
    assert states == [State.IDLE, State.DONE, State.DONE]


def test_states_of_a_request_in_pieces() -> None:
    parser = parser_with()
    states = [parser.state]
    for block in (b"", b"POST / HTTP/1.1\r\nHost: a\r\n", b"Content-Length: 2\r\n\r\n", b"a", b"b"):
        parser.receive_data(block)
        parser.next_event()
        states.append(parser.state)
    parser.next_event()
    states.append(parser.state)
    parser.start_next_request()
    states.append(parser.state)
    parser.receive_eof()
    parser.next_event()
    states.append(parser.state)
    assert states == [
        State.IDLE,
        State.IDLE,
        State.HEAD,
        State.BODY,
        State.BODY,
        State.BODY,
        State.DONE,
        State.IDLE,
        State.CLOSED,
    ]


def test_every_state_is_in_the_table() -> None:
    assert set(TRANSITIONS) == set(State)


def test_a_connection_that_closes_before_a_request_is_closed_for_good() -> None:
    parser = parser_with()
    parser.receive_eof()
    assert parser.next_event() is CONNECTION_CLOSED
    assert parser.next_event() is CONNECTION_CLOSED
    assert parser.state is State.CLOSED


def test_a_connection_may_close_after_the_CRLF_that_old_clients_add_to_a_body() -> None:
    assert parse([post(b"Content-Length: 1", body=b"x") + b"\r\n"], eof=True).closed


def test_an_empty_line_before_a_request_is_not_a_part_of_it() -> None:
    parser = parser_with()
    for byte in (b"\r", b"\n", b"\r"):
        parser.receive_data(byte)
        assert parser.next_event() is NEED_DATA
        assert parser.state is State.IDLE
    parser.receive_eof()
    assert parser.next_event() is CONNECTION_CLOSED


@pytest.mark.parametrize(
    "raw", [get(), post(b"Content-Length: 2", body=b"hi"), chunked(b"2\r\nhi\r\n0\r\n\r\n")]
)
def test_a_client_that_half_closes_after_its_request_is_served(raw: bytes) -> None:
    parser = parser_with(raw)
    parser.receive_eof()
    assert isinstance(parser.next_event(), Request)
    while not isinstance(event := parser.next_event(), EndOfMessage):
        assert event == Data(b"hi")
    parser.start_next_request()
    assert parser.next_event() is CONNECTION_CLOSED


@pytest.mark.parametrize(
    "raw", [b"G", b"GET / HTTP/1.1\r\n", post(b"Content-Length: 2", body=b"h"), chunked(b"2\r\nhi")]
)
def test_a_client_that_closes_within_a_request_never_completes_it(raw: bytes) -> None:
    outcome = parse([raw], eof=True)
    assert outcome.error is not None
    assert outcome.error.status == 400
    assert not any(message.complete for message in outcome.messages)


def test_data_after_the_end_of_input_raises_RuntimeError() -> None:
    parser = parser_with()
    parser.receive_eof()
    with pytest.raises(RuntimeError, match="after the end"):
        parser.receive_data(b"x")


@pytest.mark.parametrize(
    "raw", [b"", b"GET", post(b"Content-Length: 1"), b"\0"], ids=["idle", "head", "body", "failed"]
)
def test_the_next_request_starts_only_after_the_end_of_the_one_before(raw: bytes) -> None:
    parser = parser_with(raw)
    try:
        parser.next_event()
    except ProtocolError:
        assert parser.state is State.FAILED
    with pytest.raises(RuntimeError, match="cannot start a request"):
        parser.start_next_request()


def test_after_an_error_every_call_raises_it_and_no_bytes_are_kept() -> None:
    parser = parser_with(b"GET / HTTP/1.1\r\nHost: a\r\n", b"X : y\r\n" + FOLLOWING)
    errors = []
    for _ in range(3):
        with pytest.raises(ProtocolError) as caught:
            parser.next_event()
        errors.append(caught.value)
        parser.receive_data(FOLLOWING)
    assert errors[0] is errors[1] is errors[2]
    assert parser.buffered == 0
    assert parser.body_remaining is None


def test_pipelined_requests_come_one_by_one_and_in_order() -> None:
    targets = [f"/{n}" for n in range(1000)]
    outcome = parse([b"".join(get(target=target.encode()) for target in targets)])
    assert [message.request.target for message in outcome.messages] == targets


def test_good_bad_good_gives_the_first_and_an_error() -> None:
    outcome = parse([get() + b"GET /\r\n" + get()])
    assert len(outcome.messages) == 1
    assert outcome.error is not None


def test_buffered_counts_what_is_not_consumed_yet() -> None:
    parser = parser_with(get() + b"123")
    assert parser.buffered == len(get()) + 3
    parser.next_event()
    assert parser.buffered == 3
    parser.receive_data(b"4")
    assert parser.buffered == 4


@pytest.mark.parametrize(
    ("target", "host", "https", "replaced"),
    [
        (b"/", b"a", False, ""),
        (b"http://a/", b"b", False, "b"),
        (b"http://a/", b"A", False, ""),
        (b"http://a/", b"a:80", False, ""),
        (b"http://a:/", b"a", False, ""),
        (b"http://a/", b"a:443", False, "a:443"),
        (b"http://a:81/", b"a", False, "a"),
        (b"https://a:443/", b"a", True, ""),
        (b"HttpS://a/", b"b", True, "b"),
        (b"http://s/", b"", False, None),
    ],
)
def test_rfc9112_3_2_2_a_request_tells_its_scheme_and_the_host_that_was_replaced(
    target: bytes, host: bytes, https: bool, replaced: str | None
) -> None:
    fields = [b"Host: " + host] if replaced is not None else []
    raw = head(b"GET " + target + (b" HTTP/1.1" if fields else b" HTTP/1.0"), *fields)
    request = parser_with(raw).next_event()
    assert isinstance(request, Request)
    assert request.https_target is https
    assert request.replaced_host == (replaced or "")


FRAMED = ParserLimits(chunk_framing=20, chunk_framing_ratio=3)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("chunks", "fits"),
    [
        # Behind them comes a chunk of three bytes: 40 bytes of framing of 41, then 45 of 44.
        (b"1\r\nx\r\n" * 7, True),
        (b"1\r\nx\r\n" * 8, False),
        (b"0001\r\nx\r\n" * 3, True),
        (b"0001\r\nx\r\n" * 4, False),
        (b"1;a\r\nx\r\n" * 3, True),
        (b"1;a\r\nx\r\n" * 4, False),
        (b"2\r\nxy\r\n" * 500, True),
        (b"000000000000000\r\n", True),
        (b"0000000000000000\r\n", True),  # the last one, with 20 bytes
    ],
)
def test_framing_is_bounded_by_content(chunks: bytes, fits: bool, whole: bool) -> None:
    raw = chunked(chunks + (b"" if chunks.startswith(b"00000") else b"3\r\nabc\r\n"))
    blocks = [raw] if whole else [raw[i : i + 1] for i in range(len(raw))]
    outcome = parse(blocks, limits=FRAMED)
    reason = outcome.error and outcome.error.reason
    assert reason == (None if fits else "The chunks have too much framing for their content.")


def test_body_remaining_is_what_is_still_to_be_received() -> None:
    parser = parser_with(b"POST / HTTP/1.1\r\nHost: a\r\n")
    parser.next_event()
    assert parser.body_remaining is None, "in a head"
    parser.receive_data(b"Content-Length: 10\r\n\r\n123")
    parser.next_event()
    assert parser.body_remaining == 7
    assert parser.next_event() == Data(b"123")
    assert parser.body_remaining == 7
    parser.receive_data(b"4567890" + FOLLOWING)
    assert parser.body_remaining == 0
    assert parser.next_event() == Data(b"4567890")
    parser.next_event()
    assert parser.body_remaining == 0


def test_body_remaining_is_zero_without_a_body_and_unknown_for_a_chunked_one() -> None:
    parser = parser_with(get())
    parser.next_event()
    assert parser.body_remaining == 0
    parser = parser_with(chunked(b""))
    parser.next_event()
    assert parser.body_remaining is None


def test_all_buffered_chunks_are_returned_as_one_piece() -> None:
    parser = parser_with(chunked(b"1\r\nx\r\n" * 1000 + b"5\r\nhe"))
    parser.next_event()
    assert parser.next_event() == Data(b"x" * 1000 + b"he")
    assert parser.next_event() is NEED_DATA


def test_content_before_a_broken_chunk_is_returned_before_the_error() -> None:
    parser = parser_with(chunked(b"1\r\nx\r\nzz\r\n"))
    parser.next_event()
    assert parser.next_event() == Data(b"x")
    for _ in range(2):
        with pytest.raises(ProtocolError):
            parser.next_event()


def test_a_large_block_of_a_body_is_returned_without_a_copy() -> None:
    block = b"x" * 65536
    parser = parser_with(post(b"Content-Length: 65536"))
    parser.next_event()
    parser.receive_data(block)
    event = parser.next_event()
    assert isinstance(event, Data)
    assert event.data is block


@pytest.mark.parametrize(
    ("before", "byte", "status"),
    [
        pytest.param(b"", b"\x16", 400, id="TLS hello"),
        pytest.param(b"", b"\0", 400, id="NUL"),
        pytest.param(b"", b"(", 400, id="not a token"),
        pytest.param(b"", b"\n", 400, id="LF"),
        pytest.param(b"\r\n", b" ", 400, id="blank after the empty line"),
        pytest.param(b"\r\n\r", b"\n", 400, id="second empty line"),
        pytest.param(b"\r", b"G", 400, id="CR alone"),
        pytest.param(b"GET /", b"\n", 400, id="LF in the request line"),
        pytest.param(b"GET /", b"\t", 400, id="HTAB in the request line"),
        pytest.param(b"GET /", b"\x7f", 400, id="DEL in the request line"),
        pytest.param(b"GET / HTTP/1.1\r", b"H", 400, id="CR alone ends the request line"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", b"\n", 400, id="LF in a value"),
        pytest.param(b"GET / HTTP/1.1\r\nX: ", b"\x01", 400, id="control in a value"),
        pytest.param(b"GET / HTTP/1.1\r\nX : y\r", b"\n", 400, id="blank before a colon"),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r", b"\n", 405, id="CONNECT"),
        pytest.param(b"PRI * HTTP/2.0\r", b"\n", 505, id="h2 preface"),
        pytest.param(b"M" * 33 + b" / HTTP/1.1\r", b"\n", 501, id="long method"),
        pytest.param(b"GET /" + b"a" * 8185, b"a", 414, id="request line"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X" * 8190, b"X", 431, id="field"),
        pytest.param(b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 100, b"X", 431, id="101st field"),
    ],
)
def test_a_partial_head_is_refused_by_the_byte_that_breaks_it(
    before: bytes, byte: bytes, status: int
) -> None:
    assert refusal(before, byte).status == status


def test_a_head_is_refused_by_the_byte_after_which_no_end_fits_its_limit() -> None:
    start = b"GET / HTTP/1.0\r\nX: "
    limits = ParserLimits(head=100)
    fits = start + b"y" * (100 - 4 - len(start))
    assert len(fits + b"\r\n\r\n") == 100
    assert len(parse([fits + b"\r\n\r\n"], limits=limits).messages) == 1
    error = refusal(fits, b"y", limits=limits)
    assert (error.status, error.setting) == (431, "limit_request_head")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("limits", "raw", "status", "setting"),
    [
        (ParserLimits(request_line=20), get(target=b"/1234567"), 414, "limit_request_line"),
        (ParserLimits(fields=2), get(b"X: a", b"Y: b"), 431, "limit_request_fields"),
        (ParserLimits(field_size=9), get(b"X: 1234567"), 431, "limit_request_field_size"),
        (ParserLimits(head=36), get(b"X: 12345"), 431, "limit_request_head"),
        (ParserLimits(body=4), post(b"Content-Length: 5"), 413, "max_body"),
        (ParserLimits(body=4), chunked(b"3\r\nabc\r\n2\r\n"), 413, "max_body"),
        (ParserLimits(chunk_overhead=3), chunked(b"1;a\r\nx\r\n1;b"), 400, "limit_chunk_overhead"),
        (ParserLimits(chunk_overhead=3), chunked(b"0\r\nX: y\r\n"), 400, "limit_chunk_overhead"),
        (ParserLimits(fields=2), chunked(b"0\r\nX:\r\nX:\r\nX:"), 431, "limit_request_fields"),
    ],
)
def test_each_limit_has_its_status_and_names_its_setting(
    limits: ParserLimits, raw: bytes, status: int, setting: str, whole: bool
) -> None:
    raw += b"" if b"1;b" not in raw else b"\r\n"
    blocks = [raw] if whole else [raw[i : i + 1] for i in range(len(raw))]
    error = parse(blocks, limits=limits).error
    assert error is not None
    assert (error.status, error.setting) == (status, setting)


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("limits", "raw"),
    [
        (ParserLimits(request_line=21), get(target=b"/1234567")),
        (ParserLimits(request_line=22), get(target=b"/1234567")),
        (ParserLimits(fields=3), get(b"X: a", b"Y: b")),
        (ParserLimits(field_size=10), get(b"X: 1234567")),
        (ParserLimits(head=len(get(b"X: 12345"))), get(b"X: 12345")),
        (ParserLimits(body=5), post(b"Content-Length: 5", body=b"hello")),
        (ParserLimits(body=5), chunked(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")),
        (ParserLimits(chunk_overhead=4), chunked(b"1;a\r\nx\r\n1;b\r\nx\r\n0\r\nX:yz\r\n\r\n")),
        (ParserLimits(fields=2), chunked(b"0\r\nX:\r\nX:\r\n\r\n")),
    ],
)
def test_what_just_fits_a_limit_is_accepted(limits: ParserLimits, raw: bytes, whole: bool) -> None:
    blocks = [raw] if whole else [raw[i : i + 1] for i in range(len(raw))]
    outcome = parse(blocks, limits=limits)
    assert outcome.error is None
    assert outcome.messages[0].complete


def test_a_second_head_is_parsed_like_the_first_when_it_comes_in_pieces() -> None:
    raw = b"\r\n" + get(b"X: y") + b"\r\n" + get(b"X: z")
    outcome = parse([raw[:30], raw[30:60], raw[60:]])
    assert [message.request.fields["x"] for message in outcome.messages] == ["y", "z"]


def test_an_expectation_counts_only_if_a_body_follows() -> None:
    parser = parser_with(head(b"GET / HTTP/1.1", b"Host: a", b"Expect: 100-continue"))
    event = parser.next_event()
    assert isinstance(event, Request)
    assert not event.expect_continue
    assert not event.body_expected
