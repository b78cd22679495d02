"""SipHash-1-3 of one word: a hash whose results a client cannot predict without the key."""

from __future__ import annotations

_WORD = (1 << 64) - 1


def siphash(k0: int, k1: int, word: int) -> int:
    """Return the 64 bits of SipHash-1-3 of eight bytes, the word in little-endian order.

    ``k0`` and ``k1`` are the key. It is what Python itself hashes texts with.
    """
    v = [
        k0 ^ 0x736F6D6570736575,
        k1 ^ 0x646F72616E646F6D,
        k0 ^ 0x6C7967656E657261,
        k1 ^ 0x7465646279746573,
    ]
    for block in (word, 8 << 56):  # the word, and the length above no further bytes
        v[3] ^= block
        _round(v)
        v[0] ^= block
    v[2] ^= 0xFF
    for _ in range(3):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _round(v: list[int]) -> None:
    v0, v1, v2, v3 = v
    v0 = v0 + v1 & _WORD
    v1 = (v1 << 13 & _WORD | v1 >> 51) ^ v0
    v0 = v0 << 32 & _WORD | v0 >> 32
    v2 = v2 + v3 & _WORD
    v3 = (v3 << 16 & _WORD | v3 >> 48) ^ v2
    v0 = v0 + v3 & _WORD
    v3 = (v3 << 21 & _WORD | v3 >> 43) ^ v0
    v2 = v2 + v1 & _WORD
    v1 = (v1 << 17 & _WORD | v1 >> 47) ^ v2
    v2 = v2 << 32 & _WORD | v2 >> 32
    v[:] = v0, v1, v2, v3
