"""What the server needs to know of a certificate: its names, its validity, its key, its subject.

The standard library has no public way to read a certificate that is not a peer's. This reads the
few parts that are needed out of its DER (ITU-T X.690, RFC 5280), and checks no signature: that is
for those who trust the certificate. Everything is bounded by the bytes given, and malformed bytes
raise `ValueError`.
"""

from __future__ import annotations

import binascii
import re
from ipaddress import ip_address
from typing import NamedTuple

from penstock.records import dataclass

_PEM = re.compile(rb"-----BEGIN ([A-Z0-9 ]{1,40})-----[ \t]*\r?\n(.*?)-----END \1-----", re.DOTALL)
_SEQUENCE, _INTEGER, _BIT_STRING, _OID = 0x30, 0x02, 0x03, 0x06
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18
_VERSION, _EXTENSIONS = 0xA0, 0xA3
_DNS_NAME, _IP_ADDRESS = 0x82, 0x87

_SUBJECT_ALT_NAME = "2.5.29.17"
_COMMON_NAME = "2.5.4.3"
_RSA = ("1.2.840.113549.1.1.1", "1.2.840.113549.1.1.10")
_EC = "1.2.840.10045.2.1"
_CURVE_BITS = {
    "1.2.840.10045.3.1.7": 256,
    "1.3.132.0.34": 384,
    "1.3.132.0.35": 521,
    "1.3.132.0.33": 224,
    "1.2.840.10045.3.1.1": 192,
    "1.3.132.0.10": 256,
    "1.3.36.3.3.2.8.1.1.7": 256,
    "1.3.36.3.3.2.8.1.1.11": 384,
    "1.3.36.3.3.2.8.1.1.13": 512,
}
_OTHER_KEYS = {"1.3.101.112": "Ed25519", "1.3.101.113": "Ed448", "1.2.840.10040.4.1": "DSA"}

_ATTRIBUTES = {
    "2.5.4.3": "CN",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.6": "C",
    "2.5.4.9": "STREET",
    "0.9.2342.19200300.100.1.25": "DC",
    "0.9.2342.19200300.100.1.1": "UID",
    "2.5.4.5": "serialNumber",
    "1.2.840.113549.1.9.1": "emailAddress",
}
"""The names of RFC 4514, section 3, and two that OpenSSL has besides."""

_ENCODINGS = {0x0C: "utf-8", 0x13: "ascii", 0x16: "ascii", 0x14: "latin-1", 0x1E: "utf-16-be",
              0x1C: "utf-32-be"}  # fmt: skip
"""The encodings of the string types that a name may have (RFC 5280, section 4.1.2.4)."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The parts of a certificate that the server looks at."""

    names: tuple[str, ...]
    """DNS names and IP addresses, in lower case; the common name where it has none of these."""
    subject: str
    """RFC 4514."""
    issuer: str
    not_before: float
    """Unix time."""
    not_after: float
    """Unix time."""
    key_kind: str
    """``RSA``, ``EC``, ``Ed25519``, or the object identifier of another kind."""
    key_bits: int
    """0 where the kind has one size, or it is unknown."""


def pem_blocks(text: bytes) -> list[tuple[str, bytes]]:
    """Return label and whole text of each PEM block (RFC 7468), in their order."""
    return [(match[1].decode("ascii"), match[0]) for match in _PEM.finditer(text)]


def der_of(block: bytes) -> bytes:
    """Return the DER in a PEM block. Raises `ValueError`."""
    match = _PEM.fullmatch(block.strip())
    if match is None:
        raise ValueError("not PEM")
    try:
        return binascii.a2b_base64(b"".join(match[2].split()), strict_mode=True)
    except binascii.Error as error:
        raise ValueError(f"not base64: {error}") from None


def read_certificate(der: bytes) -> Certificate:
    """Return what is needed of a certificate. Raises `ValueError` where it is malformed."""
    _serial, _algorithm, issuer, validity, subject, key, *rest = _parts(der)
    not_before, not_after = _children(validity.expect(_SEQUENCE))[:2]
    names: list[str] = []
    for part in rest:
        if part.tag == _EXTENSIONS:
            names = _alternative_names(part.content)
    kind, bits = _key(key)
    return Certificate(
        tuple(dict.fromkeys(names)) or _common_names(subject),
        name_text(subject.whole),
        name_text(issuer.whole),
        _time(not_before),
        _time(not_after),
        kind,
        bits,
    )


def read_subject(der: bytes) -> str:
    """Return the subject of a certificate as RFC 4514 has it, whatever else is in it.

    For a certificate that was verified. Raises `ValueError` where it is malformed.
    """
    return name_text(_parts(der)[4].whole)


def name_text(der: bytes) -> str:
    """Return a name (a subject, an issuer) as RFC 4514 has it: ``CN=a,O=b``."""
    [name] = _children(der)
    sets = [
        "+".join(_attribute_text(entry) for entry in _children(each.content))
        for each in _children(name.expect(_SEQUENCE))
    ]
    return ",".join(reversed(sets))


class _Element(NamedTuple):
    """One value of DER."""

    tag: int
    content: bytes
    whole: bytes

    def expect(self, tag: int) -> bytes:
        """Return the content of an element that must have this tag."""
        if self.tag != tag:
            raise ValueError(f"an element of DER has the tag {self.tag:#x}, not {tag:#x}")
        return self.content


def _parts(der: bytes) -> list[_Element]:
    """Return the parts of a certificate from the serial number on (RFC 5280, section 4.1)."""
    [outer] = _children(der)
    signed, *_ = _children(outer.expect(_SEQUENCE))
    parts = _children(signed.expect(_SEQUENCE))
    if parts and parts[0].tag == _VERSION:
        del parts[0]
    if len(parts) < 6:
        raise ValueError("a part of the certificate is missing")
    return parts


def _children(data: bytes) -> list[_Element]:
    """Return the elements that follow each other in ``data``."""
    found = []
    at = 0
    while at < len(data):
        begin = at
        head = data[at : at + 2]
        if len(head) < 2 or head[0] & 0x1F == 0x1F:
            raise ValueError("an element of DER is cut off, or of an unknown kind")
        at += 2
        length = head[1]
        if length & 0x80:
            count = length & 0x7F
            if not 1 <= count <= 4 or at + count > len(data):
                raise ValueError("the length of an element of DER is malformed")
            length = int.from_bytes(data[at : at + count], "big")
            at += count
        if at + length > len(data):
            raise ValueError("an element of DER is cut off")
        found.append(_Element(head[0], data[at : at + length], data[begin : at + length]))
        at += length
    return found


def _oid(content: bytes) -> str:
    """Return the text of an object identifier."""
    if not content or content[-1] & 0x80:
        raise ValueError("an object identifier is cut off")
    arcs, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, [first, arcs[0] - 40 * first, *arcs[1:]]))


def _time(element: _Element) -> float:
    """Return Unix time (RFC 5280, section 4.1.2.5)."""
    text = element.content.decode("ascii")
    if element.tag == _UTC_TIME:
        text = ("19" if text[:2] >= "50" else "20") + text
    elif element.tag != _GENERALIZED_TIME:
        raise ValueError("a time of the certificate has another type")
    if re.fullmatch(r"[0-9]{14}Z", text) is None:
        raise ValueError("a time of the certificate is malformed")
    fields = (int(text[:4]), *(int(text[at : at + 2]) for at in range(4, 14, 2)))
    from calendar import timegm  # loads datetime, which a server without TLS does without

    return float(timegm(fields))


def _alternative_names(extensions: bytes) -> list[str]:
    [listed] = _children(extensions)
    for extension in _children(listed.expect(_SEQUENCE)):
        identifier, *_, value = _children(extension.expect(_SEQUENCE))
        if _oid(identifier.expect(_OID)) != _SUBJECT_ALT_NAME:
            continue
        [names] = _children(value.content)
        found = []
        for name in _children(names.expect(_SEQUENCE)):
            if name.tag == _DNS_NAME:
                found.append(name.content.decode("ascii", "replace").lower())
            elif name.tag == _IP_ADDRESS:
                found.append(str(ip_address(name.content)))
        return found
    return []


def _common_names(subject: _Element) -> tuple[str, ...]:
    found = []
    for each in _children(subject.expect(_SEQUENCE)):
        for entry in _children(each.content):
            identifier, value = _children(entry.expect(_SEQUENCE))
            encoding = _ENCODINGS.get(value.tag)
            if _oid(identifier.expect(_OID)) == _COMMON_NAME and encoding is not None:
                found.append(value.content.decode(encoding).lower())
    return tuple(found)


def _key(element: _Element) -> tuple[str, int]:
    """Return the kind of a public key, and its size in bits."""
    algorithm, value = _children(element.expect(_SEQUENCE))
    identifier, *parameters = _children(algorithm.expect(_SEQUENCE))
    kind = _oid(identifier.expect(_OID))
    if kind in _RSA:
        [key] = _children(value.expect(_BIT_STRING)[1:])
        modulus = _children(key.expect(_SEQUENCE))[0].expect(_INTEGER)
        return "RSA", int.from_bytes(modulus, "big").bit_length()
    if kind == _EC:
        curve = _oid(parameters[0].content) if parameters and parameters[0].tag == _OID else ""
        return "EC", _CURVE_BITS.get(curve, 0)
    return _OTHER_KEYS.get(kind, kind), 0


def _attribute_text(entry: _Element) -> str:
    identifier, value = _children(entry.expect(_SEQUENCE))
    kind = _oid(identifier.expect(_OID))
    encoding = _ENCODINGS.get(value.tag)
    name = _ATTRIBUTES.get(kind)
    if name is not None and encoding is not None:
        try:
            return f"{name}={_escaped(value.content.decode(encoding))}"
        except UnicodeDecodeError:
            pass  # authorities put other characters into these types than they are for
    return f"{name or kind}=#{value.whole.hex()}"


def _escaped(value: str) -> str:
    """Return a value as RFC 4514, section 2.4, has it, with control characters in hexadecimal."""
    escaped = re.sub(r'[\\"+,;<>]', r"\\\g<0>", value)
    escaped = re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\{ord(match[0]):02X}", escaped)
    if escaped.startswith((" ", "#")):
        escaped = "\\" + escaped
    if value.endswith(" ") and len(value) > 1:
        escaped = escaped[:-1] + "\\ "
    return escaped
