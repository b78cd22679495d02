"""A test CA, its certificates, and contexts of clients: made by the ``openssl`` command."""

from __future__ import annotations

import functools
import os
import shutil
import ssl
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from penstock.edge.tls import CertificatePair, TlsMaterial

_DAY = 86400.0
_KEYS = {
    "ecdsa": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
    "rsa": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"],
    "weak": ["genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"],
    "secp256k1": ["genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:secp256k1"],
    "ed25519": ["genpkey", "-algorithm", "ED25519"],
}
_CONFIG = """
[ca]
default_ca = own
[own]
dir = .
database = index
new_certs_dir = .
serial = serial
private_key = ca.key
certificate = ca.pem
default_md = sha256
policy = any
copy_extensions = copy
unique_subject = no
x509_extensions = leaf
[any]
organizationName = optional
commonName = optional
emailAddress = optional
[leaf]
basicConstraints = critical,CA:FALSE
authorityKeyIdentifier = keyid
subjectKeyIdentifier = hash
keyUsage = critical,digitalSignature,keyEncipherment
extendedKeyUsage = serverAuth,clientAuth
[root]
basicConstraints = critical,CA:TRUE
subjectKeyIdentifier = hash
keyUsage = critical,keyCertSign,cRLSign
[req]
distinguished_name = empty
[empty]
"""


@dataclass(frozen=True)
class Issued:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes
    names: tuple[str, ...]
    not_after: float

    @property
    def pair(self) -> CertificatePair:
        """What a server is given."""
        return CertificatePair(self.certificate, self.key, self.names, self.not_after)

    def write(self, directory: Path, name: str = "server") -> tuple[Path, Path]:
        """Write both into ``directory``; return the paths of certificate and key."""
        paths = directory / f"{name}.pem", directory / f"{name}.key"
        paths[0].write_bytes(self.certificate)
        paths[1].touch(0o600)
        paths[1].write_bytes(self.key)
        return paths


class Authority:
    """A certificate authority in a directory of its own."""

    def __init__(self, name: str = "Penstock tests") -> None:
        self._directory = Path(tempfile.mkdtemp(prefix="penstock-ca-"))
        (self._directory / "openssl.cnf").write_text(_CONFIG)
        (self._directory / "index").touch()
        (self._directory / "serial").write_text(f"{int.from_bytes(os.urandom(8), 'big') | 1:016X}")
        self._write_key("ca.key", "ecdsa")
        self._run(
            *("req", "-new", "-x509", "-config", "openssl.cnf", "-extensions", "root"),
            *("-key", "ca.key", "-out", "ca.pem", "-days", "3650", "-subj", f"/CN={name}"),
        )
        self.certificate = (self._directory / "ca.pem").read_bytes()
        self.path = self._directory / "ca.pem"

    def issue(
        self,
        *names: str,
        key: str = "ecdsa",
        subject: str = "",
        not_after: float | None = None,
        not_before: float | None = None,
    ) -> Issued:
        """Return a certificate for DNS names and IP addresses, valid for a year by default.

        ``subject`` is as ``/O=a/CN=b``; ``not_after`` and ``not_before`` are Unix times.
        """
        now = time.time()
        not_after = now + 365 * _DAY if not_after is None else not_after
        not_before = min(now, not_after) - _DAY if not_before is None else not_before
        self._write_key("leaf.key", key)
        listed = ",".join(
            f"IP:{name}" if name.replace(".", "").isdigit() or ":" in name else f"DNS:{name}"
            for name in names
        )
        extensions = ["-addext", f"subjectAltName={listed}"] if names else []
        self._run(
            *("req", "-new", "-utf8", "-config", "openssl.cnf", "-key", "leaf.key"),
            *("-out", "leaf.csr", "-subj", subject or "/O=Penstock tests", *extensions),
        )
        self._run(
            *("ca", "-batch", "-notext", "-utf8", "-config", "openssl.cnf", "-in", "leaf.csr"),
            *("-out", "leaf.pem", "-startdate", _asn1(not_before), "-enddate", _asn1(not_after)),
            *("-preserveDN",),
        )
        return Issued(
            (self._directory / "leaf.pem").read_bytes(),
            (self._directory / "leaf.key").read_bytes(),
            names,
            float(int(not_after)),
        )

    def issue_as_version_1(self, subject: str) -> Issued | None:
        """Return a certificate without extensions; None where ``openssl`` makes no such ones."""
        self._write_key("leaf.key", "ecdsa")
        self._run(
            *("req", "-new", "-config", "openssl.cnf", "-key", "leaf.key", "-out", "leaf.csr"),
            *("-subj", subject),
        )
        self._run(
            *("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key"),
            *("-set_serial", str(int.from_bytes(os.urandom(8), "big")), "-days", "30"),
            *("-out", "leaf.pem"),
        )
        made = (self._directory / "leaf.pem").read_bytes()
        # From version 3.2 on it makes version 3, whose field the certificate begins with.
        if b"\xa0\x03\x02\x01\x02" in ssl.PEM_cert_to_DER_cert(made.decode())[:20]:
            return None
        key = (self._directory / "leaf.key").read_bytes()
        return Issued(made, key, (), time.time() + 30 * _DAY)

    def subordinate(self, name: str) -> Authority:
        """Return an authority whose certificate this one has issued."""
        made = Authority(name)
        request = str(made._directory / "ca.csr")
        made._run(
            *("req", "-new", "-config", "openssl.cnf", "-key", "ca.key", "-out", request),
            *("-subj", f"/CN={name}"),
        )
        self._run(
            *("ca", "-batch", "-notext", "-config", "openssl.cnf", "-extensions", "root"),
            *("-in", request, "-out", str(made.path), "-days", "3650", "-preserveDN"),
        )
        made.certificate = made.path.read_bytes()
        return made

    def encrypt(self, key: bytes) -> bytes:
        """Return the same key, encrypted with a password."""
        (self._directory / "plain.key").write_bytes(key)
        self._run(
            *("pkey", "-in", "plain.key", "-aes256", "-passout", "pass:secret"),
            *("-out", "encrypted.key"),
        )
        return (self._directory / "encrypted.key").read_bytes()

    def client_context(self, certificate: Issued | None = None) -> ssl.SSLContext:
        """Return a context that trusts this authority alone; with a client certificate, if any."""
        context = ssl.create_default_context(cadata=self.certificate.decode())
        if certificate is not None:
            own = self._directory / "client.pem"
            own.write_bytes(certificate.certificate + certificate.key)
            context.load_cert_chain(own)
        return context

    def remove(self) -> None:
        """Remove its directory."""
        shutil.rmtree(self._directory)

    def _write_key(self, path: str, kind: str) -> None:
        self._run(*_KEYS[kind], "-out", path)

    def _run(self, *arguments: str) -> None:
        done = subprocess.run(
            ["openssl", *arguments],
            cwd=self._directory,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr.decode()


def _asn1(seconds: float) -> str:
    return time.strftime("%Y%m%d%H%M%SZ", time.gmtime(seconds))


@functools.cache
def authority() -> Authority:
    """Return the authority of this process; its directory stays until the process ends."""
    import atexit

    made = Authority()
    atexit.register(made.remove)
    return made


@functools.cache
def server_certificate(key: str = "ecdsa") -> Issued:
    """Return a certificate for localhost and 127.0.0.1."""
    return authority().issue("localhost", "127.0.0.1", key=key)


def material(*issued: Issued, **fields: object) -> TlsMaterial:
    """Return what a transport is given: by default, the certificate for localhost."""
    pairs = tuple(each.pair for each in issued or (server_certificate(),))
    return TlsMaterial(pairs, **fields)  # type: ignore[arg-type]


@functools.cache
def files(key: str = "ecdsa") -> dict[str, str]:
    """Return the settings ``certfile`` and ``keyfile`` for the certificate of localhost."""
    certificate, own_key = server_certificate(key).write(authority().path.parent, key)
    return {"certfile": str(certificate), "keyfile": str(own_key)}
