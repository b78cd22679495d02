"""A page in Chromium without a window, which a test drives by the DevTools protocol.

The protocol goes through two pipes (``--remote-debugging-pipe``): messages are JSON, each with a
NUL behind it. https://chromedevtools.github.io/devtools-protocol/ describes them.
"""

from __future__ import annotations

import base64
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from support.chromium import chromium

SECONDS = 60.0
"""For an answer of the browser: it starts slowly on a busy machine."""

# The browser reads from descriptor 3, and writes to descriptor 4.
_START = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 10) for end in sys.argv[1:3]]
for end, number in zip(ends, (3, 4)):
    os.dup2(end, number)
os.execvp(sys.argv[3], sys.argv[3:])
"""


class Page:
    """One page. Used as ``with Page(folder) as page:``."""

    def __init__(self, profile: Path, names: dict[str, int]) -> None:
        """Start the browser; ``profile`` is a folder for it, ``names`` as `chromium` has them."""
        theirs, self._writer = os.pipe()
        self._reader, other = os.pipe()
        command = chromium(profile, names, "--remote-debugging-pipe")
        self._process = subprocess.Popen(
            [sys.executable, "-c", _START, str(theirs), str(other), *command],
            pass_fds=(theirs, other),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        os.close(theirs)
        os.close(other)
        self._buffer = b""
        self._number = 0
        self._session = ""
        self.errors: list[str] = []
        """What a developer would see in red on the console, and dialogs that a script opened."""

    def __enter__(self) -> Self:
        try:
            target = self.call("Target.createTarget", url="about:blank")["targetId"]
            attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
            self._session = attached["sessionId"]
            for domain in ("Page", "Runtime", "Log"):
                self.call(f"{domain}.enable")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the browser and all its processes."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        os.close(self._reader)
        os.close(self._writer)

    def call(self, method: str, **parameters: Any) -> Any:
        """Call a method of the protocol; return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._writer, json.dumps(message).encode() + b"\0")
        end = time.monotonic() + SECONDS
        while True:
            answer = self._receive(end)
            if answer.get("id") == self._number:
                assert "error" not in answer, (method, answer)
                return answer["result"]
            self._note(answer)

    def _receive(self, end: float) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._reader], [], [], max(0.0, end - time.monotonic()))
            assert ready, "the browser does not answer"
            data = os.read(self._reader, 1 << 16)
            assert data, "the browser has ended"
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b"\0")
        answer: dict[str, Any] = json.loads(message)
        return answer

    def _note(self, event: dict[str, Any]) -> None:
        parameters = event.get("params", {})
        match event.get("method"):
            case "Runtime.exceptionThrown":
                self.errors.append(json.dumps(parameters["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if parameters["type"] in ("error", "assert", "warning"):
                self.errors.append(json.dumps(parameters["args"]))
            case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                entry = parameters["entry"]
                self.errors.append(f"{entry['text']} {entry.get('url', '')}")
            case "Page.javascriptDialogOpening":
                self.errors.append(f"a dialog: {parameters['message']}")

    def open(self, url: str) -> None:
        """Go to a page."""
        assert "errorText" not in self.call("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """Return the value of an expression of JavaScript; a promise is waited for."""
        result = self._evaluate(expression)
        assert "exceptionDetails" not in result, (expression, result)
        return result["result"].get("value")

    def _evaluate(self, expression: str) -> Any:
        return self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )

    def wait_for(self, expression: str, timeout: float = SECONDS) -> Any:
        """Wait until an expression is true, and raises no error; return its value."""
        end, pause = time.monotonic() + timeout, threading.Event()
        while True:
            result = self._evaluate(expression)
            if "exceptionDetails" not in result and result["result"].get("value"):
                return result["result"]["value"]
            assert time.monotonic() < end, (expression, result, self.errors)
            pause.wait(0.02)

    def text(self, selector: str) -> str:
        """Return the text that an element shows; empty where there is none."""
        found: str = self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''")
        return found

    def click(self, selector: str) -> None:
        """Click in the middle of an element, as a mouse does."""
        place = self.wait_for(
            f"(() => {{ const found = document.querySelector({selector!r});"
            " if (!found) return null; found.scrollIntoView({block: 'center'});"
            " const box = found.getBoundingClientRect(); if (!box.width) return null;"
            " return {x: box.x + Math.min(box.width / 2, 60), y: box.y + box.height / 2}; })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, button="left", clickCount=1, **place)

    def type(self, text: str) -> None:
        """Type into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def look(self, width: int, height: int, *, dark: bool = False) -> None:
        """Give the page a size in pixels, and a colour scheme."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        feature = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[feature])

    def screenshot(self, path: Path) -> None:
        """Write a picture of the whole page (PNG)."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
