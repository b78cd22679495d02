"""How many examples the fuzzers draw: a few by default, the same ones each time.

``PENSTOCK_FUZZ_EXAMPLES`` makes it as many as that, other ones in each run (``make fuzz``).
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "0"))

FUZZ = settings(
    max_examples=EXAMPLES or 200,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
