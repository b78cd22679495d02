#!/usr/bin/env python3
"""Show what AddressSanitizer and memcheck found that has to do with the native module.

scripts/memory_reports.py FOLDER    prints the reports in its files; fails where there are any

CPython reads the digit of the int 0, which has none, and memcheck reports each place that the
result then comes to. It is of no use to suppress these by the function, since what the module
made badly would show in the same ones. So a report counts where a frame of the module is in it:
of the access, or of the allocation or the release that it reports.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

MODULE = re.compile(r"_native\.|penstock_protocol::|penstock_reactor::|lib_native")
SEPARATOR = re.compile(r"^==[0-9]+== *\n", re.MULTILINE)


def reports(path: Path) -> Iterator[str]:
    """Yield what one process had to say, report by report."""
    text = path.read_text("utf-8", "replace")
    if "AddressSanitizer" in text:
        yield text  # one, since it ends the process
        return
    yield from SEPARATOR.split(text)


def main() -> int:
    """Print the reports, and return the exit status."""
    files = sorted(Path(sys.argv[1]).iterdir())
    found = [report for path in files for report in reports(path) if MODULE.search(report)]
    for report in found:
        print(report, end="\n\n")
    print(f"{len(found)} reports of the native module, in the logs of {len(files)} processes")
    return bool(found)


sys.exit(main())
