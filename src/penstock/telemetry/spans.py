"""One span for each request, by OpenTelemetry's SDK: what `--otel` does.

A span is begun in the thread that has the request, before the gateway calls the application, so
that it is the current one there. It is ended by the log writer with what the record of the finished
request tells, as the access log is written. A request that the application has not seen gets its
span from the record alone.

Nothing of OpenTelemetry is imported before `Spans.set_up`: with the user's rights, after the fork.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from penstock import __version__, messages
from penstock.errors import SettingsError
from penstock.telemetry.access_log_format import split_target
from penstock.telemetry.request_finished import SPAN_ID, TRACE_ID, Needs, RequestFinished

if TYPE_CHECKING:
    import logging

    from penstock.transport import Exchange, TransportExchange

LAST_EXPORT_SECONDS: Final = 1.0
"""How long a stop waits at most for the collector to take the last spans."""

LOST_SECONDS: Final = 60.0
"""A span whose record is missing, where some were lost, is ended so long after the call."""

MISSING: Final = "otel needs the packages of OpenTelemetry: pip install 'penstock[otel]'"

_SCHEMA: Final = "https://opentelemetry.io/schemas/1.23.1"
"""The version of the semantic conventions in which those for HTTP became stable."""

_EXPORTERS: Final = {"grpc": "otlp_proto_grpc", "http/protobuf": "otlp_proto_http"}
"""The exporters of OTLP by the protocols that OTEL_EXPORTER_OTLP_PROTOCOL may name."""

_METHODS: Final = frozenset(
    {"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"}
)
"""Any other would make spans of endless names: clients choose them."""

_FIELDS: Final = frozenset({"traceparent", "tracestate", "user-agent", "host"})
"""What is needed of a request that the application has not seen."""

Handle = Callable[["Exchange"], None]


class _Open:
    """A span that has begun, and what its end has to know."""

    __slots__ = ("called_at", "error", "offset", "returned_at", "span", "token")

    def __init__(self, span: Any, offset: int) -> None:
        self.span = span
        self.offset = offset  # from the monotonic to the wall clock, in nanoseconds
        self.token: Any = None  # gives the thread's former context back
        self.called_at = 0.0  # monotonic seconds; 0 where the application was not called
        self.returned_at = 0.0  # when the gateway returned
        self.error = ""  # the class of what the application has raised


class Spans:
    """Makes the spans: a `penstock.telemetry.request_finished.Observer`.

    `around` and `note_failure` are for the threads that serve, the observer's methods for the log
    writer.
    """

    needs = Needs(request_fields=_FIELDS, environ=frozenset({SPAN_ID}))
    line_format = None

    def __init__(self, trusts: Callable[[str], bool], logger: logging.Logger) -> None:
        """``trusts`` says of a peer's address whether its trace is gone on with."""
        self.patience = LAST_EXPORT_SECONDS
        """How many seconds `close` may wait for the collector."""
        self._trusts = trusts
        self._logger = logger
        self._failed = False  # an error of ours was reported
        # By the hexadecimal ids of the spans. Threads that serve add, the log writer removes.
        self._open: dict[str, _Open] = {}
        self._lost = 0  # the log writer's: records that are missing, as far as it knows
        self._trace: Any = None
        self._context: Any
        self._extract: Any
        self._provider: Any
        self._tracer: Any

    def set_up(self) -> None:
        """Import the SDK, and set it up by its variables unless the application has done so.

        To be called in the process that serves, after the application was loaded. Raises
        `SettingsError`.
        """
        if self._trace is not None:
            return
        try:
            from opentelemetry import context, propagate, trace
        except ImportError:
            raise SettingsError(MISSING) from None
        provider = trace.get_tracer_provider()
        if isinstance(provider, trace.ProxyTracerProvider):  # none is set
            provider = _new_provider()
            trace.set_tracer_provider(provider)
        self._provider = provider
        self._tracer = provider.get_tracer("penstock", __version__, schema_url=_SCHEMA)
        self._context, self._extract, self._trace = context, propagate.extract, trace

    # -- in the threads that serve ----------------------------------------------------------------

    def around(self, handle: Handle) -> Handle:
        """Return what answers an exchange with ``handle``, within its span."""

        def handle_within_span(exchange: Exchange) -> None:
            opened = None
            try:
                opened = self._begin(exchange)  # type: ignore[arg-type]  # a transport's own
            except Exception:
                self._report()
            try:
                handle(exchange)
            finally:
                if opened is not None:
                    opened.returned_at = time.monotonic()
                    self._context.detach(opened.token)

        return handle_within_span

    def note_failure(self, exchange: Exchange, error: BaseException) -> None:
        """Record an exception that the application has raised. Raises nothing."""
        try:
            opened = self._open.get(str(exchange.environ.get(SPAN_ID)))
            if opened is not None and opened.span.is_recording():
                opened.error = _name_of(type(error))
                opened.span.record_exception(error)
        except Exception:  # its text is the application's
            self._report()

    def _begin(self, exchange: TransportExchange) -> _Open:
        environ = exchange.environ
        offset = time.time_ns() - time.monotonic_ns()
        context, links = self._origin(environ, _FieldsOfEnviron, exchange.peer_addr)
        span = self._start(
            environ["REQUEST_METHOD"],
            _attributes_of_environ(environ, exchange),
            context,
            links,
            int(exchange.began * 1e9) + offset,
        )
        opened = _Open(span, offset)
        ids = span.get_span_context()
        if ids.is_valid:  # none where OTEL_SDK_DISABLED is true
            environ[TRACE_ID] = f"{ids.trace_id:032x}"
            name = environ[SPAN_ID] = f"{ids.span_id:016x}"
            self._open[name] = opened
        opened.called_at = time.monotonic()
        opened.token = self._context.attach(self._trace.set_span_in_context(span, context))
        return opened

    def _origin(self, fields: Mapping[str, Any], getter: Any, peer: str) -> tuple[Any, list[Any]]:
        """Return the context to begin a span in, and its links.

        A trusted peer's span is the parent. Of any other one the span is linked, so that it chooses
        neither the trace nor whether that is sampled; its baggage is left out, too.
        """
        empty = self._context.Context()
        found = self._extract(fields, context=empty, getter=getter())
        if self._trusts(peer):
            return found, []
        theirs = self._trace.get_current_span(found).get_span_context()
        return empty, [self._trace.Link(theirs)] if theirs.is_valid else []

    def _start(
        self, method: str, attributes: dict[str, Any], context: Any, links: list[Any], at: int
    ) -> Any:
        known = method in _METHODS
        attributes["http.request.method"] = method if known else "_OTHER"
        if not known and method != "-":
            attributes["http.request.method_original"] = method
        return self._tracer.start_span(
            method if known else "HTTP",
            context=context,
            kind=self._trace.SpanKind.SERVER,
            attributes={name: value for name, value in attributes.items() if value != ""},
            links=links,
            start_time=at,
        )

    # -- in the log writer ------------------------------------------------------------------------

    def requests_finished(self, batch: Sequence[RequestFinished], patience: float) -> None:
        """End the spans of finished requests."""
        for request in batch:
            try:
                opened = self._opened(request)
                if opened is not None:
                    self._end(opened, request)
            except Exception:
                self._report()
        if self._lost:
            self._end_lost()

    def requests_lost(self, count: int) -> None:
        """Take note that the records of some requests will not come."""
        self._lost += count

    def close(self) -> None:
        """End what is left, and have the collector take it, within `patience` seconds.

        The thread that sends it may hang; it is a daemon, and the process ends without it.
        """
        while self._open:
            self._open.popitem()[1].span.end()
        flush = getattr(self._provider, "force_flush", None) if self._trace is not None else None
        if flush is None:
            return
        flushed = threading.Event()

        def send() -> None:
            try:
                flush(max(1, int(self.patience * 1000)))
            except Exception:
                self._report()
            flushed.set()

        threading.Thread(target=send, name="penstock-last-spans", daemon=True).start()
        if not flushed.wait(self.patience):
            messages.SPANS_NOT_EXPORTED.log(self._logger, seconds=round(self.patience, 1))

    def _opened(self, request: RequestFinished) -> _Open | None:
        """Return the span of a finished request; None where it has been ended as lost."""
        name = request.environ.get(SPAN_ID)
        if name is not None:
            return self._open.pop(name, None)
        offset = time.time_ns() - time.monotonic_ns()
        context, links = self._origin(request.request_fields, _FieldsOfRecord, request.peer_addr)
        begun = int(request.begun_at * 1e9) + offset
        attributes = _attributes_of_record(request)
        return _Open(self._start(request.method, attributes, context, links, begun), offset)

    def _end(self, opened: _Open, request: RequestFinished) -> None:
        span, offset = opened.span, opened.offset
        if span.is_recording():
            for event, moment in (
                ("penstock.request.head_received", request.head_at),
                ("penstock.request.body_received", request.body_at),
                ("penstock.request.taken", request.taken_at),
                ("penstock.application.called", opened.called_at),
                ("penstock.response.first_byte", request.first_byte_at),
            ):
                if moment:
                    span.add_event(event, timestamp=int(moment * 1e9) + offset)
            span.set_attributes(_attributes_of_end(request))
            if error := _error_of(opened.error, request):
                span.set_attribute("error.type", error)
                codes = self._trace.StatusCode
                span.set_status(self._trace.Status(codes.ERROR, request.reason or None))
        span.end(end_time=int(request.finished_at * 1e9) + offset)

    def _end_lost(self) -> None:
        """End spans whose calls returned long ago, as many as there are records missing."""
        before = time.monotonic() - LOST_SECONDS
        waiting = [(name, each) for name, each in list(self._open.items()) if each.returned_at]
        for name, opened in waiting:
            if opened.returned_at < before and self._lost:
                self._lost -= 1
                if self._open.pop(name, None) is not None:
                    opened.span.end()
        if not waiting:
            self._lost = 0  # the rest had no span yet

    def _report(self) -> None:
        """Log an error in all of this, with the exception that is handled; once."""
        if not self._failed:
            self._failed = True
            try:
                messages.SPAN_FAILED.log(self._logger, exc_info=True)
            except Exception:
                pass  # an application's own handler: the request is served all the same


class _FieldsOfEnviron:
    """How a propagator finds the fields of a request in its environ."""

    def get(self, carrier: Mapping[str, Any], key: str) -> list[str] | None:
        """Return the values of a field; None without it."""
        value = carrier.get(f"HTTP_{key.upper().replace('-', '_')}")
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, Any]) -> list[str]:
        """Return the names of all fields, in lower case."""
        names = [name for name in carrier if name.startswith("HTTP_")]
        return [name[len("HTTP_") :].lower().replace("_", "-") for name in names]


class _FieldsOfRecord:
    """How a propagator finds them in a record's fields."""

    def get(self, carrier: Mapping[str, str], key: str) -> list[str] | None:
        """Return the values of a field; None without it."""
        value = carrier.get(key.lower())
        return None if value is None else [value]

    def keys(self, carrier: Mapping[str, str]) -> list[str]:
        """Return the names of the fields."""
        return list(carrier)


# -- attributes, by the semantic conventions for HTTP ---------------------------------------------


def _attributes_of_environ(environ: Mapping[str, Any], exchange: Exchange) -> dict[str, Any]:
    host = environ.get("HTTP_HOST") or environ["SERVER_NAME"]
    return {
        "url.scheme": environ["wsgi.url_scheme"],
        "url.path": _text(split_target(environ["RAW_URI"])[0]),
        "network.protocol.version": environ["SERVER_PROTOCOL"].removeprefix("HTTP/"),
        "client.address": environ.get("REMOTE_ADDR", ""),
        "user_agent.original": _text(environ.get("HTTP_USER_AGENT", "")),
        "penstock.request_id": exchange.request_id,
        **_server(host),
    }


def _attributes_of_record(request: RequestFinished) -> dict[str, Any]:
    version = request.protocol.removeprefix("HTTP/")
    path = split_target(request.target)[0]
    return {
        "url.path": "" if path == "-" else _text(path),
        "network.protocol.version": "" if version == "-" else version,
        "client.address": request.client_addr,
        "user_agent.original": _text(request.request_fields.get("user-agent", "")),
        "penstock.request_id": request.request_id,
        **_server(request.request_fields.get("host", "")),
    }


def _server(host: str) -> dict[str, Any]:
    """Return the attributes for the value of a Host field."""
    name, colon, port = host.rpartition(":")
    if not colon or not port.isdecimal():
        name, port = host, ""
    found: dict[str, Any] = {"server.address": _text(name.strip("[]"))}
    if port and len(port) <= len("65535"):
        found["server.port"] = int(port)
    return found


def _attributes_of_end(request: RequestFinished) -> dict[str, Any]:
    found: dict[str, Any] = {}
    # Nothing was sent to a client that had left before: the status is the log's own.
    if request.ended != "disconnected" or request.first_byte_at is not None:
        found["http.response.status_code"] = request.status
    if request.queue_time:
        found["penstock.queue_time"] = request.queue_time
    if request.ended != "complete":
        found["penstock.ended"] = request.ended
    if request.reason:
        found["penstock.reason"] = request.reason
    return found


def _error_of(raised: str, request: RequestFinished) -> str:
    """Return what kind of error a request has ended with; empty for none.

    A client that leaves is none: the server has not failed.
    """
    if raised:
        return raised
    if request.reason.startswith("timeout"):
        return "timeout"
    if request.ended == "disconnected":
        return ""
    if request.status >= 500:
        return str(request.status)
    return "aborted" if request.ended == "aborted" else ""


def _name_of(kind: type[BaseException]) -> str:
    module = kind.__module__
    return kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"


def _text(value: str) -> str:
    """Return text whose characters are bytes, as an environ has it, as the text that it encodes."""
    if value.isascii():
        return value
    return value.encode("latin-1", "replace").decode("utf-8", "replace")


# -- the SDK --------------------------------------------------------------------------------------


def _new_provider() -> Any:
    """Return what makes spans, as the SDK's variables say. Raises `SettingsError`."""
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise SettingsError(MISSING) from None
    try:
        # At exit it would wait for the collector for as long as its own deadlines are.
        provider = TracerProvider(
            resource=Resource.create({"process.pid": os.getpid()}), shutdown_on_exit=False
        )
        for name in _wanted_exporters():
            provider.add_span_processor(BatchSpanProcessor(_exporter(name)))
    except SettingsError:
        raise
    except Exception as error:  # what the variables say is wrong
        raise SettingsError(
            f"otel: the SDK cannot be set up by its variables (OTEL_...): {error}"
        ) from None
    return provider


def _wanted_exporters() -> list[str]:
    """Return the names of the exporters that OTEL_TRACES_EXPORTER wants, as entry points."""
    environ = os.environ
    protocol = (
        environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
        or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL")
        or "http/protobuf"
    ).strip()
    found = []
    for name in (environ.get("OTEL_TRACES_EXPORTER") or "otlp").split(","):
        name = name.strip()
        if name == "otlp":
            if protocol not in _EXPORTERS:
                raise SettingsError(
                    f"otel: OTEL_EXPORTER_OTLP_PROTOCOL is {protocol!r}: "
                    f"allowed are {' and '.join(sorted(_EXPORTERS))}"
                )
            name = _EXPORTERS[protocol]
        if name not in ("", "none"):
            found.append(name)
    return found


def _exporter(name: str) -> Any:
    """Return a new exporter by the name of its entry point. Raises `SettingsError`."""
    from importlib.metadata import entry_points

    for entry in entry_points(group="opentelemetry_traces_exporter", name=name):
        return entry.load()()
    package = f"opentelemetry-exporter-{name.replace('_', '-')}"
    hint = f" (pip install {package})" if name in _EXPORTERS.values() else ""
    raise SettingsError(f"otel: no package has the exporter {name!r} (OTEL_TRACES_EXPORTER){hint}")
