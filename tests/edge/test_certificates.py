"""Reading certificates, and checking them with their keys: each failure has its own message."""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Callable

import pytest

from penstock.config.settings import Settings
from penstock.edge.certificate_files import read_material
from penstock.edge.certificates import der_of, name_text, read_certificate
from penstock.edge.pairs import checked_pair
from penstock.edge.tls import (
    CertificatePair,
    TlsError,
    TlsMaterial,
    client_certificate_environ,
    default_pairs,
    pairs_by_name,
    wildcard_of,
)
from support.certificates import Issued, authority, server_certificate


def checked(certificate: bytes, key: bytes) -> CertificatePair:
    return checked_pair(certificate, key, "a.pem", "a.key")


@pytest.mark.parametrize("key", ["ecdsa", "rsa", "ed25519"])
def test_a_pair_has_the_names_and_the_end_of_its_certificate(key: str) -> None:
    issued = authority().issue("A.example", "*.b.example", "192.0.2.1", "2001:db8::1", key=key)
    pair = checked(issued.certificate + authority().certificate, issued.key)
    assert pair.names == ("a.example", "*.b.example", "192.0.2.1", "2001:db8::1")
    assert pair.not_after == issued.not_after
    assert pair.certificate.count(b"BEGIN CERTIFICATE") == 2


def test_a_certificate_without_alternative_names_has_its_common_name() -> None:
    issued = authority().issue(subject="/CN=Old.Example")
    assert checked(issued.certificate, issued.key).names == ("old.example",)


@pytest.mark.parametrize("year", [2049, 2051])
def test_times_before_and_after_2050_have_two_forms(year: int) -> None:
    end = float(time.mktime((year, 6, 1, 12, 0, 0, 0, 0, 0)))
    issued = authority().issue("a.example", not_after=end)
    assert checked(issued.certificate, issued.key).not_after == end


def test_text_around_the_blocks_and_parameters_are_left_out() -> None:
    issued = server_certificate()
    noise = b"Bag Attributes\n    friendlyName: x\n"
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"
    pair = checked(
        noise + issued.certificate.replace(b"\n", b"\r\n"), parameters + noise + issued.key
    )
    assert pair.certificate.startswith(b"-----BEGIN CERTIFICATE-----")
    assert pair.key.startswith(b"-----BEGIN PRIVATE KEY-----")


FAILURES: dict[str, tuple[Callable[[Issued], tuple[bytes, bytes]], str]] = {
    "no certificate": (lambda good: (good.key, good.key), "a.pem has no certificate in PEM"),
    "empty": (lambda good: (b"", good.key), "a.pem has no certificate in PEM"),
    "DER": (
        lambda good: (der_of(good.certificate), good.key),
        "it is DER, and openssl x509 -inform der",
    ),
    "PKCS#12": (
        lambda good: (b"\x30\x82\x04\x00\x02\x01\x03\x30\x82" + bytes(1000), good.key),
        "it is PKCS#12, and openssl pkcs12 -in FILE -nodes",
    ),
    "a key in DER": (
        lambda good: (good.certificate, der_of(good.key)),
        "a.key has no private key in PEM: it is DER, and openssl pkey -inform der",
    ),
    "cut off": (
        lambda good: (good.certificate[:100] + b"\n-----END CERTIFICATE-----\n", good.key),
        "a.pem has a malformed certificate",
    ),
    "no base64": (
        lambda good: (good.certificate.replace(b"\nM", b"\n!", 1), good.key),
        "a.pem has a malformed certificate: not base64",
    ),
    "no key": (lambda good: (good.certificate, good.certificate), "a.key has no private key"),
    "encrypted": (
        lambda good: (good.certificate, authority().encrypt(good.key)),
        "the key in a.key is encrypted, and the server cannot ask for a password: openssl pkey",
    ),
    "another key": (
        lambda good: (good.certificate, authority().issue("b.example").key),
        "the key in a.key does not belong to the certificate in a.pem (for localhost and 1 more)",
    ),
    "another kind of key": (
        lambda good: (good.certificate, server_certificate("rsa").key),
        "the key in a.key does not belong to the certificate in a.pem",
    ),
    "the chain first": (
        lambda good: (authority().certificate + good.certificate, good.key),
        "the first certificate in a.pem has to be the server's own: the key in a.key belongs to "
        "number 2",
    ),
    "weak": (
        lambda _: (WEAK().certificate, WEAK().key),
        "a.pem has a weak key: RSA of 1024 bits, and clients want 2048",
    ),
    "a key that is none": (
        lambda good: (good.certificate, re.sub(rb"\nM..", b"\nAAA", good.key, count=1)),
        "a.pem with the key in a.key cannot be used: a part of these is damaged",
    ),
}


def WEAK() -> Issued:
    return authority().issue("weak.example", key="weak")


@pytest.mark.parametrize("failure", FAILURES)
def test_a_pair_that_cannot_be_used_is_refused_with_its_reason(failure: str) -> None:
    make, said = FAILURES[failure]
    with pytest.raises(TlsError) as error:
        checked(*make(server_certificate()))
    assert said in str(error.value)


def test_malformed_der_is_refused_and_never_another_error() -> None:
    der = der_of(server_certificate().certificate)
    for cut in range(0, len(der), 3):
        with pytest.raises(ValueError, match=r".+"):
            read_certificate(der[:cut])
    for at in range(len(der)):
        for byte in (0x00, 0x7F, 0x80, 0xFF):
            changed = der[:at] + bytes([byte]) + der[at + 1 :]
            try:
                read_certificate(changed)
            except ValueError:
                pass


@pytest.mark.parametrize(
    ("subject", "text"),
    [
        ("/CN=Ada/O=Example", "O=Example,CN=Ada"),
        ("/O=Müller, \\+ Söhne/CN=a=b", "CN=a=b,O=Müller\\, \\+ Söhne"),
        ("/CN= #lead and trail ", "CN=\\ #lead and trail\\ "),
        ("/CN=#hash", "CN=\\#hash"),
        ('/CN=<quoted "x">;y', 'CN=\\<quoted \\"x\\"\\>\\;y'),
        ("/CN=two\\\nlines", "CN=two\\0Alines"),
        ("/CN=Ada/emailAddress=ada@example.org", "emailAddress=ada@example.org,CN=Ada"),
    ],
)
def test_rfc4514_names_are_text_from_which_no_value_can_break_out(subject: str, text: str) -> None:
    issued = authority().issue(subject=subject)
    assert read_certificate(der_of(issued.certificate)).subject == text


def test_rfc4514_an_unknown_attribute_is_shown_in_hexadecimal() -> None:
    name = bytes.fromhex("300f310d300b06032a030413046e61 6d65".replace(" ", ""))
    assert name_text(name) == "1.2.3.4=#13046e616d65"


def test_the_environ_of_a_client_certificate() -> None:
    issued = authority().issue(subject="/CN=Zoë")
    found = client_certificate_environ(der_of(issued.certificate))
    assert found == {
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": "CN=Zoë".encode().decode("latin-1"),
        "SSL_CLIENT_CERT": issued.certificate.decode(),
    }
    assert client_certificate_environ(None) == {"SSL_CLIENT_VERIFY": "NONE"}


# Which pairs a client may get


def pair(*names: str) -> CertificatePair:
    return CertificatePair(b"", b"", names, 0.0)


def test_a_verified_client_certificate_is_taken_whatever_an_authority_has_put_into_it() -> None:
    der = der_of(authority().issue("192.0.2.1", subject="/O=Söhne/CN=Ada").certificate)
    odd = der.replace(b"\x87\x04\xc0\x00\x02\x01", b"\x87\x01\xc0\x82\x01a")  # no IP address
    odd = odd.replace("\x0c\x06Söhne".encode(), "\x13\x06Söhne".encode())  # no PrintableString
    assert odd != der
    found = client_certificate_environ(odd)
    assert found["SSL_CLIENT_VERIFY"] == "SUCCESS"
    assert found["SSL_CLIENT_S_DN"] == "CN=Ada,O=#130653c3b6686e65"


def test_pairs_of_one_name_stand_side_by_side() -> None:
    first, second, third = pair("a", "b"), pair("a", "b", "c"), pair("c", "*.d")
    assert pairs_by_name([first, second, third]) == {
        "a": (first, second),
        "b": (first, second),
        "c": (second, third),
        "*.d": (third,),
    }
    assert default_pairs([first, second, third]) == (first, second)
    assert default_pairs([third, second, first]) == (third,)
    assert wildcard_of("x.d") == "*.d"
    assert wildcard_of("x.y.d") == "*.y.d"


def test_material_crosses_the_channel_unchanged() -> None:
    material = TlsMaterial(
        (server_certificate().pair,),
        client_ca=authority().certificate,
        client_certificates="optional",
        minimum_version="1.3",
        ciphers="X",
        ticket_keys=(b"1" * 32, b"2" * 32),
        key_log="/tmp/x",
    )
    assert TlsMaterial.from_message(material.to_message()) == material
    plain = dataclasses.replace(material, client_ca=None, ciphers=None, key_log=None)
    assert TlsMaterial.from_message(plain.to_message()) == plain


def test_ciphers_that_openssl_does_not_know_are_refused_with_their_source() -> None:
    from support.certificates import files

    paths = files()
    settings = Settings(
        certfile=(paths["certfile"],), keyfile=(paths["keyfile"],), ciphers="NONE",
        sources={"ciphers": "--ciphers"},
    )  # fmt: skip
    with pytest.raises(TlsError, match=r"none of the ciphers 'NONE' \(from --ciphers\)"):
        read_material(settings, ())
