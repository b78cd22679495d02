"""What the command prints, and what becomes of that where its streams cannot be written.

A standard stream that keeps what it could not write fails once more when the interpreter ends,
and its complaint replaces the exit status. So a stream that failed is turned away from its place.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from penstock.errors import PenstockError


def print_out(text: str) -> None:
    """Print to standard output; raises `PenstockError` where that cannot be written.

    Where it was closed at the start, or its reader has gone (``| head -1``), nobody wants it.
    """
    try:
        _write(sys.stdout, text)
    except BrokenPipeError:
        _give_up(sys.stdout)
    except (OSError, ValueError) as error:
        _give_up(sys.stdout)
        reason = getattr(error, "strerror", None) or error
        raise PenstockError(f"cannot write to standard output: {reason}") from None


def print_error(text: str) -> None:
    """Print to standard error if that can be done; never raises, for the exit status says more."""
    try:
        _write(sys.stderr, text)
    except (OSError, ValueError):
        _give_up(sys.stderr)


def say(kind: str, message: object) -> None:
    """Print one line for the user to standard error: ``penstock: error: ...``."""
    text = str(message).replace("\r", " ").replace("\n", " ")  # one line, whatever it quotes
    print_error(f"penstock: {kind}: {text}\n")


def flush_all() -> None:
    """Write out what an application has printed too, or give it up."""
    for stream in (sys.stdout, sys.stderr):
        try:
            _write(stream, "")
        except Exception:  # of an object that the application has put there, it may be any
            _give_up(stream)


def _write(stream: TextIO | None, text: str) -> None:
    if stream is None:  # its descriptor was closed when Python began
        return
    encoding = getattr(stream, "encoding", None) or "utf-8"
    stream.write(text.encode(encoding, "backslashreplace").decode(encoding))
    stream.flush()


def _give_up(stream: TextIO | None) -> None:
    """Let what a stream still holds go nowhere."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    except Exception:
        pass  # closed, or no file at all: then it holds nothing of ours either
    finally:
        os.close(nowhere)
