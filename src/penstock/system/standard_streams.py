"""Printing to the standard streams, also where they are closed or cannot be written.

A standard stream that could not write its buffer fails once more when the interpreter ends, and
that error replaces the exit status. So a stream that failed is redirected to the null device.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from penstock.errors import PenstockError


def print_out(text: str) -> None:
    """Print to standard output. Raises `PenstockError` if it cannot be written.

    If it was closed at the start, or its reader has ended (``| head -1``), print nothing.
    """
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        _discard(sys.stdout)
    except (OSError, ValueError) as error:
        _discard(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        raise PenstockError(f"cannot write to standard output: {reason}") from None


def print_error(text: str) -> None:
    """Print to standard error if possible. Never raises: the exit status matters more."""
    try:
        _write(sys.stderr, text)
    except (OSError, ValueError):
        _discard(sys.stderr)


def say(kind: str, message: object) -> None:
    """Print one line for the user to standard error: ``penstock: error: ...``."""
    text = str(message).replace("\r", " ").replace("\n", " ")  # one line, also with quoted text
    print_error(f"penstock: {kind}: {text}\n")


def flush_all() -> None:
    """Flush both streams, with what the application has printed, or discard their buffers."""
    for stream in (sys.stdout, sys.stderr):
        try:
            _write(stream, "")
        except Exception:  # the application may have replaced the stream by any object
            _discard(stream)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # its descriptor was closed when Python began
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _discard(stream: TextIO | None) -> None:
    """Redirect a stream to the null device, so that its buffer is discarded."""
    null = os.open(os.devnull, os.O_WRONLY)
    try:
        if stream is not None:
            os.dup2(null, stream.fileno())
    except Exception:
        pass  # closed, or not a file: then its buffer holds nothing of the server's either
    finally:
        os.close(null)


def is_terminal(descriptor: int) -> bool:
    """Return True if a descriptor is open, and leads to a terminal."""
    try:
        return os.isatty(descriptor)
    except OSError:
        return False


def has_terminal() -> bool:
    """Return True if the process has a controlling terminal, whose size may change."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC))
    except OSError:
        return False
    return True
