"""The usual text of an IP address.

`ipaddress` knows much more, and takes 0.2 MB in each worker.
"""

from __future__ import annotations

import re
from struct import unpack

_MAPPED = bytes(10) + b"\xff\xff"
"""What an address of IPv4 in the form of IPv6 begins with: ``::ffff:0:0/96``."""

_ZEROS = re.compile(r"(?:\A|:)0(?::0)+(?::|\Z)")
"""Two groups of zeros at least, with the colons around them."""


def shown(packed: bytes) -> str:
    """Return the text of an address of 4 or 16 bytes, as RFC 5952 has it.

    One of IPv4 in the form of IPv6 is shown as IPv4.
    """
    if len(packed) == 4 or packed.startswith(_MAPPED):
        return ".".join(map(str, packed[-4:]))
    text = ":".join(f"{group:x}" for group in unpack("!8H", packed))
    runs = list(_ZEROS.finditer(text))
    if not runs:
        return text
    longest = max(runs, key=lambda run: len(run[0].strip(":")))
    return f"{text[: longest.start()]}::{text[longest.end() :]}"
