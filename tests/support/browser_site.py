"""A site that a browser visits, whose script reports by a request what the browser has got.

The variable ``REPORT`` names the file that the report is written to.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment

PAGE = (
    b"""<!doctype html><title>A site</title>
<link rel="icon" href="data:,"><link rel="stylesheet" href="/static/site.css">
<p id="colour">text</p><script src="/static/site.js"></script>
"""
    + b"<p>A paragraph that can be compressed.</p>\n" * 100
)

STYLE = "#colour { color: rgb(1, 2, 3) }\n" + "/* a comment that can be compressed */\n" * 200

SCRIPT = """
async function visit() {
    if (location.pathname === "/first") {
        location.href = "http://shop.test/second";
        return;
    }
    const ports = [], refused = [];
    for (let number = 0; number < 20; number++) {
        const response = await fetch("/echo?" + number);
        const [query, port] = (await response.text()).split(" ");
        if (query !== String(number)) throw new Error("the answer to another request: " + query);
        ports.push(port);
    }
    const body = new Uint8Array(1 << 20).map((_, place) => place * 7);
    const uploaded = await (await fetch("/upload", {method: "POST", body})).text();
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", body));
    const [page] = performance.getEntriesByType("navigation");
    const [style] = performance.getEntriesByName(location.origin + "/static/site.css");
    const compressed = (entry) => entry.encodedBodySize < entry.decodedBodySize / 2;
    return {
        page: location.href,
        protocol: page.nextHopProtocol,
        ports: new Set(ports).size,
        uploaded: uploaded === Array.from(digest, (n) => n.toString(16).padStart(2, "0")).join(""),
        colour: getComputedStyle(document.getElementById("colour")).color,
        compressed: [compressed(page), compressed(style)],
    };
}
visit().catch((error) => ({error: String(error)})).then((found) => {
    if (found) return fetch("/report", {method: "POST", body: JSON.stringify(found)});
});
"""


def write_files(folder: Path) -> None:
    """Write the files that the page refers to as ``/static``."""
    (folder / "site.css").write_text(STYLE)
    (folder / "site.css.gz").write_bytes(gzip.compress(STYLE.encode()))
    (folder / "site.js").write_text(SCRIPT)


def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
    path, body = environ["PATH_INFO"], b""
    kind = "text/plain"
    if path == "/echo":
        body = f"{environ['QUERY_STRING']} {environ['REMOTE_PORT']}".encode()
    elif path == "/upload":
        body = hashlib.sha256(environ["wsgi.input"].read()).hexdigest().encode()
    elif path == "/report":
        report = Path(os.environ["REPORT"])
        report.with_suffix(".new").write_bytes(environ["wsgi.input"].read())
        report.with_suffix(".new").replace(report)
    else:
        body, kind = PAGE, "text/html"
    start_response("200 OK", [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]
