"""The sequences that set the colour of what follows on a terminal (ECMA-48, SGR)."""

from __future__ import annotations

from typing import Final

RED: Final = "\x1b[31m"
GREEN: Final = "\x1b[32m"
YELLOW: Final = "\x1b[33m"
CYAN: Final = "\x1b[36m"
BOLD: Final = "\x1b[1m"
FAINT: Final = "\x1b[2m"
PLAIN: Final = "\x1b[0m"
