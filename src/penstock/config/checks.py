"""Checks of complete settings: impossible combinations, missing directories, the transport."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from penstock.config.settings import OPTIONS, Settings
from penstock.errors import SettingsError
from penstock.system.file_systems import free_bytes, is_in_memory
from penstock.system.temporary_files import temporary_file

if TYPE_CHECKING:
    from penstock.system.as_user import Change, Work
    from penstock.system.privileges import Identity

_PLACES_OF_WORKERS = ("temp_dir", "static", "sendfile_root", "prometheus_multiproc")
"""The settings of directories that the workers use with their own rights."""

_MOST_ACME_NAMES = 100
"""Names for which certificates are ordered, one after the other. With their pairs, what is passed
to a worker has 600 KiB."""


def with_absolute_paths(settings: Settings) -> Settings:
    """Return the settings with absolute paths: the application may change the directory."""
    paths: dict[str, Any] = {}
    for name, option in OPTIONS.items():
        value = getattr(settings, name)
        if option.is_mapping:
            paths[name] = tuple(map(_with_absolute_path, value))
        elif not option.is_file or value in (None, "-"):
            continue
        elif isinstance(value, tuple):
            paths[name] = tuple(map(os.path.abspath, value))
        else:
            paths[name] = os.path.abspath(value)
    return replace(settings, **paths)


def _with_absolute_path(mapping: str) -> str:
    prefix, path = split_mapping(mapping)
    path = os.path.abspath(path)
    return f"{prefix}={path}" if prefix else path


def split_mapping(mapping: str) -> tuple[str, str]:
    """Return prefix and directory of ``/prefix=DIR``; the prefix is empty where there is none."""
    prefix, separator, path = mapping.partition("=")
    return (prefix, path) if separator else ("", mapping)


def check_places(settings: Settings, *, may_wait: bool = True) -> None:
    """Raise `SettingsError` for directories that do not exist. The paths are absolute.

    Without ``may_wait`` what asks a helper process of root's is left out: `work_to_measure`.

    Where root has another user for the workers, it does not look at the directories of logs: what
    is mounted there can make that last for ever. What opens the logs reports the same.
    """
    roots = settings.has_user and os.geteuid() == 0
    if not roots:
        _check_places_of_workers(settings)
        _check_log_directories(settings)
        check_journal(settings)
        _check_pid_directory(settings)
    elif may_wait and has_places_of_workers(settings):
        _check_as_user(settings)


def has_places_of_workers(settings: Settings) -> bool:
    """Return True if there are directories that the workers' user has to be able to use."""
    return any(getattr(settings, name) for name in _PLACES_OF_WORKERS)


def _check_places_of_workers(settings: Settings) -> None:
    for name in ("temp_dir", "prometheus_multiproc"):
        if (place := getattr(settings, name)) is not None:
            _check_writable(settings, name, place)
    for name in ("static", "sendfile_root"):
        for mapping in getattr(settings, name):
            _check_directory(settings, name, split_mapping(mapping)[1])


def _check_directory(settings: Settings, name: str, place: str) -> None:
    try:
        os.close(os.open(place, os.O_RDONLY | os.O_DIRECTORY))
    except OSError as error:
        raise bad_place(settings, name, place, _why_not(settings, error)) from None


def _check_writable(settings: Settings, name: str, place: str) -> None:
    try:
        temporary_file(place).close()
    except OSError as error:
        raise bad_place(settings, name, place, _why_not(settings, error)) from None


def _why_not(settings: Settings, error: OSError) -> str | None:
    """Return the reason, with the user where that is not the one who starts the server."""
    if error.errno == errno.EACCES and settings.has_user:
        return f"{error.strerror} for user {os.geteuid()}, as which the workers run"
    return error.strerror


def _check_as_user(settings: Settings) -> None:
    """Do the same with the rights of the workers, and for a bounded time."""
    from penstock.config.identity import identity_of
    from penstock.system.as_user import HelperError, as_user

    def work() -> tuple[int, ...]:
        _check_places_of_workers(settings)
        return ()

    identity = identity_of(settings)
    assert identity is not None  # there is a user
    try:
        as_user(identity, work)
    except HelperError as error:
        raise error_of_places(settings, str(error)) from None


def work_to_measure(settings: Settings, identity: Identity) -> Work:
    """Return what a helper process does to check these directories, as the workers' user.

    It measures ``temp_dir``, too: `measured` takes the result.
    """

    def work(change: Change) -> str:
        change(identity)
        _check_places_of_workers(settings)
        place = settings.temp_dir
        return "" if place is None else json.dumps([free_bytes(place), is_in_memory(place)])

    return work


def measured(text: str) -> tuple[int | None, bool]:
    """Return the free bytes of a directory, and whether it is in memory.

    They come from a process of the workers' user, which may have sent anything: then neither is
    known. Raises nothing.
    """
    try:
        free, in_memory = json.loads(text)
        known = None if free is None else max(0, min(int(free), 1 << 62))
    except (ValueError, TypeError, RecursionError, OverflowError):
        return None, False
    return known, in_memory is True


def error_of_places(settings: Settings, reason: str) -> SettingsError:
    """Return the error of a helper process that was to look at these directories."""
    if reason.startswith("bad value"):  # its own
        return SettingsError(reason)
    name = next(name for name in _PLACES_OF_WORKERS if getattr(settings, name))
    return bad_place(settings, name, OPTIONS[name].kind.show(getattr(settings, name)), reason)


def _check_log_directories(settings: Settings) -> None:
    """Raise `SettingsError` for logs whose directories do not exist."""
    for name in ("access_logfile", "error_logfile"):
        path = getattr(settings, name)
        if path in (None, "-"):
            continue
        if not os.path.isdir(os.path.dirname(path)):
            raise bad_place(settings, name, path, "its directory does not exist")
        if os.path.isdir(path):
            raise bad_place(settings, name, path, "is a directory")


def check_journal(settings: Settings) -> None:
    """Raise `SettingsError` for a journal that does not listen."""
    if settings.log_journal is not None and not os.path.exists(settings.log_journal):
        reason = "the journal does not listen there: systemd has none, or it is out of reach"
        raise bad_place(settings, "log_journal", settings.log_journal, reason)


def _check_pid_directory(settings: Settings) -> None:
    """Raise `SettingsError` for a pid file whose directory does not exist."""
    if settings.pid is not None and not os.path.isdir(os.path.dirname(settings.pid) or "."):
        raise bad_place(settings, "pid", settings.pid, "its directory does not exist")


def bad_place(settings: Settings, name: str, path: str, reason: str | None) -> SettingsError:
    """Return the error for a path that cannot be used for the setting ``name``."""
    source = settings.source_of(name)
    return SettingsError(f"bad value {path!r} for {name} (from {source}): {reason}")


def native_built() -> bool:
    """Return True if this installation has the native transport."""
    from importlib.util import find_spec

    return find_spec("penstock._native") is not None


def native_has_tls() -> bool:
    """Return True if the native transport, which is built, was built with TLS."""
    from penstock import _native

    return hasattr(_native.NativeTransport, "set_tls")


LEAST_ANNOUNCED = 2.0
"""The shortest keep-alive time in seconds that can be announced: a whole second is left of it."""

_PLAIN = ("http", "uwsgi")
"""The schemes of addresses without TLS."""


def with_tls(settings: Settings) -> tuple[bool, ...]:
    """Return for each address of ``bind`` whether clients speak TLS there.

    With certificates that is so at each without a scheme, as gunicorn has it, unless one address
    says that it is https.
    """
    schemes = [text.partition("://")[0] if "://" in text else "" for text in settings.bind]
    by_default = bool(settings.certfile or settings.acme_domain) and "https" not in schemes
    return tuple(scheme == "https" or (by_default and scheme not in _PLAIN) for scheme in schemes)


def has_tls(settings: Settings) -> bool:
    """Return True if the server has an address at which clients speak TLS."""
    return any(with_tls(settings))


def chosen_transport(settings: Settings) -> Literal["native", "python"]:
    """Return the transport to use. Raises `SettingsError` for one that is not built."""
    if settings.transport == "python":
        return "python"
    source = settings.source_of("transport")
    if native_built():
        reason = what_native_lacks(settings)
        if reason and settings.transport == "native":
            raise SettingsError(
                f"transport is native (from {source}), which {reason}: set auto or python"
            )
        return "python" if reason else "native"
    if settings.transport == "native":
        raise SettingsError(
            f"transport is native (from {source}), which this installation lacks: set auto or "
            "python, or reinstall with cargo on PATH and PENSTOCK_NATIVE=require"
        )
    return "python"


def what_native_lacks(settings: Settings) -> str:
    """Return what these settings ask for and the native transport, which is built, does not have.

    It is text such as "has no ssl_context"; empty where nothing is lacking.
    """
    from penstock import _native

    if not has_tls(settings):
        return ""
    if not native_has_tls():
        return "was built without TLS"
    if "ssl_context" in settings.hooks:
        return "has no ssl_context"
    names = settings.ciphers
    if names is not None and (unknown := _native.NativeTransport.unknown_ciphers(names)):
        return f"has no ciphers {unknown} (ciphers from {settings.source_of('ciphers')})"
    return ""


def check_possible(settings: Settings) -> None:
    """Raise `SettingsError` for settings that are allowed alone, but not together."""

    def shown(name: str) -> str:
        value = OPTIONS[name].kind.show(getattr(settings, name))
        return f"{name} ({value} from {settings.source_of(name)})"

    for name, option in OPTIONS.items():
        needs = option.needs_supervisor and getattr(settings, name) != option.default
        if needs and not settings.supervisor:
            raise SettingsError(f"{shown(name)} needs a supervisor, and {shown('supervisor')}")
    for part in ("limit_request_line", "limit_request_field_size"):
        if getattr(settings, part) > settings.limit_request_head:
            raise SettingsError(f"{shown(part)} is more than {shown('limit_request_head')}")
    for part in ("drain_linger", "shutdown_delay"):
        if part in settings.sources and getattr(settings, part) > settings.graceful_timeout:
            raise SettingsError(f"{shown(part)} is more than {shown('graceful_timeout')}")
    if settings.pid is not None and settings.pid.isdigit():
        raise SettingsError(
            f"{shown('pid')} is the name of a file: a port is --bind :{settings.pid}, and a file "
            f"of that name is ./{settings.pid}"
        )
    if settings.send_keep_alive and settings.keep_alive < LEAST_ANNOUNCED:
        raise SettingsError(
            f"{shown('send_keep_alive')} announces a second less than keep_alive, and "
            f"{shown('keep_alive')} is below {LEAST_ANNOUNCED:g} s"
        )
    _check_tls(settings, shown)
    for name in ("static", "sendfile_root"):
        mappings = map(split_mapping, getattr(settings, name))
        prefixes = [prefix.rstrip("/") + "/" for prefix, _ in mappings if prefix]
        for prefix in prefixes:
            if prefixes.count(prefix) > 1:
                raise SettingsError(
                    f"{shown(name)} has the prefix {prefix} twice: one directory answers for it"
                )
    if settings.admin in settings.bind and not str(settings.admin).endswith(":0"):
        raise SettingsError(
            f"{shown('admin')} is an address of {shown('bind')}: the supervisor answers there, and "
            "needs another port; health_path answers at the application's address"
        )
    for name in ("admin_token_file", "admin_hosts"):
        if getattr(settings, name) and settings.admin is None:
            raise SettingsError(f"{shown(name)} needs admin: the address of the dashboard")
    _check_addresses_differ(settings, shown)
    if settings.otel:
        from importlib.util import find_spec

        if find_spec("opentelemetry") is None:  # root imports nothing of it
            raise SettingsError(
                f"{shown('otel')} needs the packages of OpenTelemetry: pip install 'penstock[otel]'"
            )
    elif settings.trust_traceparent:
        raise SettingsError(f"{shown('trust_traceparent')} needs otel, which makes the spans")


def _check_addresses_differ(settings: Settings, shown: Callable[[str], str]) -> None:
    """Raise `SettingsError` for an address twice; the kernel would say that another has it."""
    bound = [_without_scheme(text) for text in settings.bind]
    redirecting = [_without_scheme(text) for text in settings.redirect_http]
    for name, places in (("bind", bound), ("redirect_http", redirecting)):
        for place in places:
            if places.count(place) > 1 and not place.endswith(":0"):
                raise SettingsError(f"{shown(name)} has {place} twice")
    for place in redirecting:
        if place in bound and not place.endswith(":0"):
            raise SettingsError(
                f"{shown('redirect_http')} has {place}, which is an address of {shown('bind')}: "
                "redirects need another port"
            )


def _without_scheme(address: str) -> str:
    """Return an address without its scheme, unless that gives it its port."""
    scheme, separator, place = address.partition("://")
    if not separator or scheme not in ("http", "https"):
        return address
    has_port = place.startswith(("unix:", "fd://")) or place.rpartition(":")[2].isdigit()
    return place if has_port else address


def _check_tls(settings: Settings, shown: Callable[[str], str]) -> None:
    secure = has_tls(settings)
    if secure and not (settings.certfile or settings.acme_domain):
        raise SettingsError(
            f"{shown('bind')} has an address with TLS: set certfile, or acme_domain"
        )
    for name in ("certfile", "keyfile", "ca_certs", "acme_domain", "redirect_http", "hsts"):
        if getattr(settings, name) != OPTIONS[name].default and not secure:
            raise SettingsError(
                f"{shown(name)} needs an address with TLS, and {shown('bind')} has none"
            )
    keys, certificates = len(settings.keyfile), len(settings.certfile)
    if keys not in (0, certificates):
        raise SettingsError(
            f"{shown('keyfile')} names {keys} keys for {certificates} certificates: the n-th key "
            "belongs to the n-th certificate"
        )
    if settings.cert_reqs != "none" and settings.ca_certs is None:
        raise SettingsError(
            f"{shown('cert_reqs')} needs ca_certs: the authorities whose certificates are accepted"
        )
    if settings.ca_certs is not None and settings.cert_reqs == "none":
        raise SettingsError(
            f"{shown('ca_certs')} has the authorities of client certificates, and no client is "
            f"asked for one: {shown('cert_reqs')}. The chain of the server's own certificate "
            "belongs into the file of certfile, behind that certificate"
        )
    if settings.acme_domain:
        _check_acme(settings, shown)


def _check_acme(settings: Settings, shown: Callable[[str], str]) -> None:
    from importlib.util import find_spec

    names = settings.acme_domain
    if len(names) > _MOST_ACME_NAMES or len(set(names)) < len(names):
        raise SettingsError(
            f"{shown('acme_domain')} names a domain twice, or more than {_MOST_ACME_NAMES}"
        )
    if settings.acme_dir is None:
        raise SettingsError(
            f"{shown('acme_domain')} needs acme_dir: a directory that belongs to the user of the "
            "workers, for the account and the certificates"
        )
    if not settings.redirect_http and chosen_transport(settings) == "python":
        raise SettingsError(
            f"{shown('acme_domain')} needs redirect_http (an address on port 80): the Python "
            "transport answers the challenges of the authority there alone (http-01); the native "
            "one answers them at its address with TLS, too (tls-alpn-01)"
        )
    if find_spec("acme") is None or find_spec("cryptography") is None:
        raise SettingsError(
            f"{shown('acme_domain')} needs the package acme: pip install 'penstock[acme]'"
        )
