"""Penstock as it is counted: `python counted.py ARGUMENTS...` is the command.

The tools that count make a server up to fifty times as slow, and it may not act on that: it keeps
account of slow calls, counts requests that are not short in another way, sends what a slow call
would hold back, and shares turns that last long. Nor is what a worker does once a second, however
many requests it has, to be counted fifty times as often. So these times are out of reach here.
"""

from __future__ import annotations

import sys

from penstock.telemetry import histograms

vars(histograms)["SHORT_SECONDS"] = 60.0  # first of all: others import its value

from penstock.cli.command import main  # noqa: E402
from penstock.records import compile_now  # noqa: E402
from penstock.transport.config import TransportConfig  # noqa: E402
from penstock.worker import deadlines  # noqa: E402

deadlines.LONGEST_LOOK_SECONDS = 3600.0
compile_now(TransportConfig)
defaults = TransportConfig.__init__.__kwdefaults__
assert defaults is not None
defaults.update(slow_call_seconds=60.0, few_events_turn_seconds=60.0, monitor_tick_seconds=60.0)
for name in ("held_call_seconds", "longest_held_call_seconds"):
    defaults[name] *= 50  # a framework's call is between them, as at full speed
sys.exit(main())
