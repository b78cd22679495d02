"""How many examples a fuzzer draws: a few by default, the same ones each time.

``PENSTOCK_FUZZ_EXAMPLES`` makes it as many as that for each test, others in each run: `make fuzz`.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

from support.batches import WHOLE_MATRIX

EXAMPLES = int(os.environ.get("PENSTOCK_FUZZ_EXAMPLES", "0"))


def fuzz(examples: int) -> settings:
    """Return the settings of a test that draws ``examples`` examples by default.

    With `make test-all` it draws four times as many.
    """
    return settings(
        max_examples=EXAMPLES or examples * (4 if WHOLE_MATRIX else 1),
        derandomize=not EXAMPLES,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
