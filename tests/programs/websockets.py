"""WebSocket, judged by the suite of Autobahn."""

from __future__ import annotations

import json
from pathlib import Path

from programs.program import Program, Run, find

REQUIREMENTS = Path(__file__).with_name("autobahn.txt")

# Its packages are in a folder that is no site directory by itself; zope is a namespace of several.
WSTEST = """\
import site, sys
site.addsitedir(sys.argv.pop(1))
from autobahntestsuite.wstest import run
run()
"""

WELL = {"OK", "NON-STRICT", "INFORMATIONAL"}
"""NON-STRICT is the library's: it sees invalid UTF-8 only at the end of a message."""

CASES = 301
ATTEMPTS = 4
"""simple-websocket answers a ping after the messages that came with it: by another thread, so that
the order that some cases ask for is a matter of time."""


def check(run: Run) -> None:
    python = find("python2.7")
    packages = run.path("packages")
    run.command(
        python, "-m", "pip", "install", "--quiet", "--no-deps", "--require-hashes",
        "--target", packages, "-r", REQUIREMENTS,
    )  # fmt: skip
    wstest, specification = run.folder / "wstest.py", run.folder / "specification.json"
    wstest.write_text(WSTEST)
    cases, failed = ["*"], {}
    with run.serve("websocket_echo") as server:
        url = server.url.replace("http://", "ws://")
        for attempt in range(ATTEMPTS):
            asked = {
                "outdir": "reports",
                "servers": [{"agent": "penstock", "url": f"{url}/"}],
                "cases": cases,
                # Compression, which simple-websocket does not offer.
                "exclude-cases": ["12.*", "13.*"],
                "exclude-agent-cases": {},
            }
            specification.write_text(json.dumps(asked))
            run.command(python, wstest, packages, "-m", "fuzzingclient", "-s", specification)
            report = json.loads((run.folder / "reports" / "index.json").read_text())["penstock"]
            assert len(report) == (CASES if attempt == 0 else len(cases))
            failed = {
                case: (found["behavior"], found["behaviorClose"])
                for case, found in report.items()
                if not {found["behavior"], found["behaviorClose"]} <= WELL
            }
            if not failed:
                return
            cases = sorted(failed)
    raise AssertionError(failed)


PROGRAMS = [
    Program(
        "autobahn",
        "simple-websocket",
        check,
        "the suite of Autobahn 0.8.2: 301 cases, all but those of compression",
        packages=("simple-websocket",),
        commands={"python2.7": r"Python (2\.7\.\d+)"},
        note="The suite is written for Python 2.7, and left out where there is none. 10 cases are "
        "`NON-STRICT`: simple-websocket sees invalid UTF-8 only at the end of a message.",
    )
]
