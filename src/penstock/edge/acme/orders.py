"""Speaks with an ACME authority: accounts, orders, certificates, renewal windows.

This is the only module that imports the library ``acme`` (certbot's) and, with it,
``cryptography``: the extra ``penstock[acme]``. Only the ordering process imports this module.

An order is carried on from what the authority says of it, so that a process that was killed, at
whatever point, is followed by one that goes on: see `Authority.obtain`.
"""

from __future__ import annotations

import base64
import datetime
import email.utils
import hashlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeVar

import josepy
import requests
from acme import client, errors, messages
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from penstock.edge.acme.schedule import MOST_CLOCK_ERROR, Cause, Window
from penstock.edge.acme.state import Account, Order, StateDirectory
from penstock.errors import PenstockError

T = TypeVar("T")

ORDER_SECONDS = 600.0
"""How long one attempt may take. Most take ten seconds; an authority may ask to wait."""

REQUEST_SECONDS = 30.0
"""How long one request may take as a whole, and `QUIET_SECONDS` how long nothing may come."""
QUIET_SECONDS = 15

MOST_NONCES = 10
"""How often a request is sent again because its nonce was not accepted (RFC 8555, section 6.5)."""

MOST_CHAIN_BYTES = 32 << 10
"""Of a certificate with its chain; most have 5 KiB."""

_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.5, 10.0
_SELF_SIGNED_LIFE = datetime.timedelta(days=398)
_ACME_IDENTIFIER = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")  # RFC 8737, section 6.1

Publish = Callable[[str, str, str, str], None]
"""Has all workers of all hosts answer a challenge: name, kind, token and key authorization."""


class AttemptFailed(PenstockError):
    """An attempt has failed; the text says why."""

    def __init__(self, cause: Cause, reason: str, retry_after: float = 0.0) -> None:
        """``retry_after`` is how long the authority asks to wait, in seconds."""
        super().__init__(reason)
        self.cause = cause
        self.retry_after = retry_after


class _Gone(Exception):
    """The authority does not know the account or the order any more."""


class _Over(Exception):
    """An order that an earlier attempt has begun cannot be carried on."""


class _Payload(josepy.JSONDeSerializable):
    """The body of a request."""

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content

    def to_partial_json(self) -> Any:
        return dict(self._content)

    @classmethod
    def from_json(cls, jobj: Any) -> _Payload:
        return cls(jobj)


class Authority:
    """One authority, and the account there."""

    def __init__(
        self,
        url: str,
        state: StateDirectory,
        email_address: str,
        agent: str,
        *,
        before_request: Callable[[], None],
        pause: Callable[[float], None],
        step: Callable[[str], None],
    ) -> None:
        """``url`` is its directory's.

        ``before_request`` is called before each request, and may raise to end the attempt;
        ``pause`` waits for a number of seconds; ``step`` notes what is done next.
        """
        self._url = url
        self._state = state
        self._email = email_address
        self._agent = agent
        self._before_request = before_request
        self._pause = pause
        self._step = step
        self._client: client.ClientV2 | None = None
        self._account_key: josepy.JWK
        self._status = 0
        self._retry_after = 0.0
        self._clock_error = 0.0

    # -- a certificate ----------------------------------------------------------------------------

    def obtain(
        self, name: str, kinds: Sequence[str], replaces: bytes | None, publish: Publish
    ) -> tuple[bytes, bytes]:
        """Return certificate chain and key for a name, in PEM; go on with an order that is open.

        ``kinds`` are the challenges that can be answered, the preferred one first. ``replaces`` is
        the certificate that this one follows. The order stays open: `StateDirectory.remove_order`
        is to be called once the pair is stored. Raises `AttemptFailed`, and OSError of the disk.
        """
        deadline = time.monotonic() + ORDER_SECONDS
        for _ in range(2):
            try:
                with self._failures():
                    return self._obtain(name, kinds, replaces, publish, deadline)
            except _Over:
                self._state.remove_order(name)
            except _Gone:
                # Accounts and orders end, and a test authority has none after a start.
                self._state.remove_order(name)
                self._forget_account()
        reason = "the authority does not know what it has created just now"
        raise AttemptFailed(Cause.AWAY, reason)

    def _obtain(
        self,
        name: str,
        kinds: Sequence[str],
        replaces: bytes | None,
        publish: Publish,
        deadline: float,
    ) -> tuple[bytes, bytes]:
        # The key is on the disk before the order is made: a full disk costs no order.
        order = self._state.read_order(name)
        if order is None:
            order = Order(new_key(), "")
            self._state.write_order(name, order)
        self._connect()
        is_resumed = bool(order.url)
        if not order.url:
            self._step("order")
            order = Order(order.key, self._new_order(name, replaces))
            self._state.write_order(name, order)
        poll = _POLL_SECONDS
        while time.monotonic() < deadline:
            body = self._get(order.url).json()
            status = body["status"]
            if status == "pending":
                is_resumed = False
                for url in body["authorizations"]:
                    self._authorize(url, kinds, publish, deadline)
            elif status == "ready":
                self._step("finalize")
                self._send(body["finalize"], {"csr": _request(name, order.key)})
            elif status == "valid":
                self._step("download")
                chain = self._get(body["certificate"]).content
                return _checked(chain, order.key, name), order.key.encode()
            elif status == "invalid":
                if is_resumed:
                    raise _Over
                self._state.remove_order(name)
                raise AttemptFailed(
                    Cause.REFUSED, _problem(body.get("error"), "the order is invalid")
                )
            if status not in ("pending", "ready"):
                self._pause(max(poll, min(self._retry_after, _LONGEST_POLL_SECONDS)))
                poll = min(poll * 1.5, _LONGEST_POLL_SECONDS)
            elif status == "ready":
                self._pause(_POLL_SECONDS)
        raise _too_long()

    def _new_order(self, name: str, replaces: bytes | None) -> str:
        content: dict[str, Any] = {"identifiers": [{"type": "dns", "value": name}]}
        identifier = window_identifier(replaces) if replaces is not None else None
        directory = self._directory()
        url = directory["newOrder"]
        if identifier is not None and "renewalInfo" in directory:
            # RFC 9773, section 5: an authority counts a renewal less, but may not know this one.
            try:
                answer = self._send(url, content | {"replaces": identifier})
                return str(answer.headers["Location"])
            except errors.ConflictError:
                pass
            except messages.Error as error:
                if error.code not in ("malformed", "alreadyReplaced"):
                    raise
        return str(self._send(url, content).headers["Location"])

    def _authorize(self, url: str, kinds: Sequence[str], publish: Publish, deadline: float) -> None:
        body = self._get(url).json()
        if body["status"] != "pending":
            return  # valid already, or else the order becomes invalid
        offered = {each.get("type"): each for each in body["challenges"]}
        kind = next((each for each in kinds if each in offered), None)
        name = body["identifier"]["value"]
        if kind is None:
            raise AttemptFailed(
                Cause.REFUSED,
                f"the authority offers {', '.join(map(str, offered))}, and this server answers "
                f"{', '.join(kinds)}",
            )
        challenge = offered[kind]
        token = challenge["token"]
        self._step("challenge")
        publish(name, kind, token, f"{token}.{self._thumbprint()}")
        if challenge["status"] == "pending":
            self._step("validation")
            self._send(challenge["url"], {})
        poll = _POLL_SECONDS
        while time.monotonic() < deadline:
            body = self._get(url).json()
            if body["status"] == "valid":
                return
            if body["status"] not in ("pending", "processing"):
                problems = [each["error"] for each in body["challenges"] if each.get("error")]
                reason = _problem(problems[0] if problems else None, f"it is {body['status']}")
                self._state.remove_order(name)
                raise AttemptFailed(Cause.REFUSED, f"{kind} has failed: {reason}")
            self._pause(max(poll, min(self._retry_after, _LONGEST_POLL_SECONDS)))
            poll = min(poll * 1.5, _LONGEST_POLL_SECONDS)
        raise _too_long()

    # -- the renewal window -----------------------------------------------------------------------

    def window(self, certificate: bytes) -> tuple[Window | None, float | None]:
        """Return when to renew a certificate, and in how many seconds to ask again.

        Without a window the authority offers none. Raises `AttemptFailed`.
        """
        try:
            with self._failures():
                return self._window(certificate)
        except _Gone:
            return None, None  # it does not know the certificate

    def _window(self, certificate: bytes) -> tuple[Window | None, float | None]:
        self._connect()
        identifier = window_identifier(certificate)
        directory = self._directory()
        if identifier is None or "renewalInfo" not in directory:
            return None, None
        url = f"{directory['renewalInfo'].rstrip('/')}/{identifier}"
        answer = self._call(lambda: self._network().get(url)).json()
        suggested = answer["suggestedWindow"]
        window = Window(_unix(suggested["start"]), _unix(suggested["end"]))
        return window, self._retry_after or None

    # -- account and requests ---------------------------------------------------------------------

    def _connect(self) -> None:
        """Read the authority's directory, and have an account there."""
        if self._client is None:
            self._step("directory")
            account = self._state.read_account()
            if account is None:
                account = Account(new_key(), "", "")
                self._state.write_account(account)
            self._account_key = josepy.JWK.load(account.key.encode())
            network = client.ClientNetwork(
                self._account_key, alg=josepy.ES256, user_agent=self._agent, timeout=QUIET_SECONDS
            )
            network.session.hooks["response"].append(self._note)
            directory = self._call(lambda: client.ClientV2.get_directory(self._url, network))
            if abs(self._clock_error) > MOST_CLOCK_ERROR:
                days = self._clock_error / 86400
                raise AttemptFailed(
                    Cause.LOCAL,
                    f"the clock of this machine is {abs(days):.1f} days "
                    f"{'slow' if days > 0 else 'fast'}, compared with the authority's: set it",
                )
            self._client = client.ClientV2(directory, network)
        self._register(self._client)

    def _register(self, made: client.ClientV2) -> None:
        account = self._state.read_account()
        if account is None:
            self._client = None
            raise AttemptFailed(Cause.LOCAL, "the file of the account has gone")
        if not account.url:
            self._step("account")
            url = self._new_account(made)
            account = Account(account.key, url, self._email)
            self._state.write_account(account)
        body = messages.Registration()
        made.net.account = messages.RegistrationResource(body=body, uri=account.url)
        if account.email != self._email:
            contact = [f"mailto:{self._email}"] if self._email else []
            self._send(account.url, {"contact": contact})
            self._state.write_account(Account(account.key, account.url, self._email))

    def _new_account(self, made: client.ClientV2) -> str:
        made.net.account = None
        wanted = messages.NewRegistration.from_data(
            email=self._email or None, terms_of_service_agreed=True
        )
        try:
            return str(self._call(lambda: made.new_account(wanted)).uri)
        except errors.ConflictError as error:  # of this key: an earlier process was killed
            return str(error.location)

    def _forget_account(self) -> None:
        account = self._state.read_account()
        if account is not None:
            self._state.write_account(Account(account.key, "", ""))
        self._client = None

    def _thumbprint(self) -> str:
        digest = self._account_key.thumbprint()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")

    def _network(self) -> client.ClientNetwork:
        assert self._client is not None
        return self._client.net

    def _directory(self) -> Mapping[str, Any]:
        assert self._client is not None
        return {
            str(name): value for name, value in self._client.directory.to_partial_json().items()
        }

    def _get(self, url: str) -> requests.Response:
        """Send a POST-as-GET (RFC 8555, section 6.3)."""
        return self._call(lambda: self._post(url, None))

    def _send(self, url: str, content: Mapping[str, Any]) -> requests.Response:
        return self._call(lambda: self._post(url, _Payload(content)))

    def _post(self, url: str, payload: _Payload | None) -> requests.Response:
        return self._network().post(url, payload, new_nonce_url=self._directory()["newNonce"])

    def _call(self, send: Callable[[], T]) -> T:
        """Send a request, once more with each nonce that is not accepted."""
        for _ in range(MOST_NONCES):
            self._before_request()
            self._retry_after = 0.0
            try:
                with _time_limit(REQUEST_SECONDS):
                    return send()
            except messages.Error as error:
                if error.code != "badNonce":
                    raise
            except (requests.exceptions.RequestException, TimeoutError):
                raise
            except OSError as error:  # the file with the certificates that are trusted, as a rule
                raise AttemptFailed(Cause.LOCAL, f"no request can be sent: {error}") from None
        raise AttemptFailed(Cause.AWAY, f"the authority has refused {MOST_NONCES} nonces in a row")

    def _note(self, response: requests.Response, *_: Any, **__: Any) -> None:
        """Note what the library does not pass on."""
        self._status = response.status_code
        now = _http_date(response.headers.get("Date"))
        if now is not None:
            self._clock_error = now - time.time()
        self._retry_after = _seconds(response.headers.get("Retry-After"), now)

    @contextmanager
    def _failures(self) -> Iterator[None]:
        """Turn errors of the library into `AttemptFailed` or `_Gone`."""
        self._status, self._retry_after = 0, 0.0
        try:
            yield
        except messages.Error as error:
            self._raise(error)
        except errors.ClientError:
            reason = f"the authority has answered with status {self._status}"
            raise AttemptFailed(self._cause_of_status(), reason, self._retry_after) from None
        except requests.exceptions.RequestException as error:
            self._client = None
            raise AttemptFailed(
                Cause.AWAY, f"the authority does not answer: {_short(error)}"
            ) from None
        except TimeoutError:
            self._client = None
            raise AttemptFailed(Cause.AWAY, f"a request took {REQUEST_SECONDS:g} s") from None
        except errors.Error as error:
            raise AttemptFailed(Cause.AWAY, f"the authority is not understood: {error}") from None
        except (josepy.Error, ValueError, LookupError, TypeError, AttributeError) as error:
            self._client = None
            reason = f"the authority's answer is not understood: {type(error).__name__} {error}"
            raise AttemptFailed(Cause.AWAY, reason) from None

    def _raise(self, error: messages.Error) -> NoReturn:
        if error.code == "accountDoesNotExist" or self._status == 404:
            raise _Gone from None
        reason = _problem(error.to_partial_json(), "the authority refuses")
        raise AttemptFailed(self._cause_of_status(), reason, self._retry_after) from None

    def _cause_of_status(self) -> Cause:
        return Cause.AWAY if self._status >= 500 or self._status in (0, 200) else Cause.REFUSED


# -- certificates ---------------------------------------------------------------------------------


def new_key() -> str:
    """Return a new private key in PEM: ECDSA with P-256, which every client and authority takes."""
    key = ec.generate_private_key(ec.SECP256R1())
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def self_signed(name: str) -> tuple[bytes, bytes]:
    """Return a certificate that no client trusts, and its key, for the time before the first."""
    key = new_key()
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Penstock, self-signed")])
    certificate = _builder(name, key, subject).sign(_load_key(key), hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), key.encode()


def alpn_certificate(name: str, authorization: str) -> tuple[bytes, bytes]:
    """Return the certificate that answers a tls-alpn-01 challenge, and its key (RFC 8737)."""
    key = new_key()
    subject = x509.Name([])
    digest = hashlib.sha256(authorization.encode()).digest()
    proof = x509.UnrecognizedExtension(_ACME_IDENTIFIER, b"\x04\x20" + digest)
    builder = _builder(name, key, subject).add_extension(proof, critical=True)
    certificate = builder.sign(_load_key(key), hashes.SHA256())
    return certificate.public_bytes(serialization.Encoding.PEM), key.encode()


def fits(certificate: bytes, key: bytes) -> bool:
    """Return True if this is a certificate and its key, both in PEM."""
    try:
        leaf = x509.load_pem_x509_certificates(certificate)[0]
        loaded = _load_key(key.decode())
    except (ValueError, TypeError, IndexError):
        return False
    return bool(leaf.public_key() == loaded.public_key())


def window_identifier(certificate: bytes) -> str | None:
    """Return how renewal information names a certificate (RFC 9773, section 4.1)."""
    try:
        leaf = x509.load_pem_x509_certificates(certificate)[0]
        extension = leaf.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (ValueError, IndexError, x509.ExtensionNotFound):
        return None
    issuer = extension.value.key_identifier
    if issuer is None:
        return None
    serial = leaf.serial_number
    parts = (issuer, serial.to_bytes(serial.bit_length() // 8 + 1, "big"))
    return ".".join(base64.urlsafe_b64encode(each).rstrip(b"=").decode() for each in parts)


def _builder(name: str, key: str, subject: x509.Name) -> x509.CertificateBuilder:
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(_load_key(key).public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + _SELF_SIGNED_LIFE)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )


def _load_key(key: str) -> ec.EllipticCurvePrivateKey:
    loaded = serialization.load_pem_private_key(key.encode(), None)
    if not isinstance(loaded, ec.EllipticCurvePrivateKey):
        raise ValueError("the key is of another kind")
    return loaded


def _request(name: str, key: str) -> str:
    """Return the request for a certificate as RFC 8555, section 7.4, has it."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    names = x509.SubjectAlternativeName([x509.DNSName(name)])
    request = builder.add_extension(names, critical=False).sign(_load_key(key), hashes.SHA256())
    der = request.public_bytes(serialization.Encoding.DER)
    return base64.urlsafe_b64encode(der).rstrip(b"=").decode("ascii")


def _checked(chain: bytes, key: str, name: str) -> bytes:
    """Return a chain that has come, if it is what was ordered. Raises `AttemptFailed`."""
    if len(chain) > MOST_CHAIN_BYTES:
        raise AttemptFailed(Cause.REFUSED, f"the certificate has {len(chain)} bytes")
    leaf = x509.load_pem_x509_certificates(chain)[0]
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    if name not in names.get_values_for_type(x509.DNSName) or not fits(chain, key.encode()):
        raise AttemptFailed(Cause.REFUSED, "the certificate is not the one that was ordered")
    return chain


# -- texts and times ------------------------------------------------------------------------------


def _problem(problem: Any, otherwise: str) -> str:
    """Return the text of a problem document (RFC 8555, section 6.7)."""
    if not isinstance(problem, Mapping):
        return otherwise
    code = str(problem.get("type", "")).rpartition(":")[2]
    detail = str(problem.get("detail") or problem.get("title") or otherwise)
    return f"{detail} ({code})" if code else detail


def _short(error: BaseException) -> str:
    """Return the innermost reason of an error of ``requests``, which wraps several."""
    inner: Any = error
    for _ in range(5):
        following = getattr(inner, "reason", None) or (inner.args[0] if inner.args else None)
        if not isinstance(following, BaseException):
            break
        inner = following
    return str(inner) or type(inner).__name__


def _too_long() -> AttemptFailed:
    return AttemptFailed(Cause.AWAY, f"the order took longer than {ORDER_SECONDS:g} s")


def _unix(text: str) -> float:
    return datetime.datetime.fromisoformat(text).timestamp()


def _http_date(text: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(text).timestamp() if text else None
    except (ValueError, TypeError, OverflowError):
        return None


def _seconds(retry_after: str | None, now: float | None) -> float:
    """Return what Retry-After says in seconds; 0 for nothing (RFC 9110, section 10.2.3)."""
    if retry_after is None:
        return 0.0
    if retry_after.isascii() and retry_after.isdigit() and len(retry_after) < 10:
        return float(retry_after)
    until = _http_date(retry_after)
    return max(0.0, until - (now if now is not None else time.time())) if until else 0.0


@contextmanager
def _time_limit(seconds: float) -> Iterator[None]:
    """Raise TimeoutError in what takes longer; in the main thread alone.

    A timeout of ``requests`` holds for each piece that comes, not for all.
    """

    def stop(_number: int, _frame: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
