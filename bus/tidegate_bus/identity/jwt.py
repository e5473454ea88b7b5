"""NATS JWTs, version 2 (ADR-14): claims that a key makes about another key, and signs.

    base64url(header) "." base64url(claims) "." base64url(signature of all before its dot)

The header is always the same and the signature is Ed25519, by the nkey named in `iss`. A token
that decodes is what that key has signed; whether that key has a say is for the caller to judge.
Times are nanoseconds since 1970 in the functions here, seconds inside the tokens.
"""

from __future__ import annotations

import base64
import hashlib
from enum import StrEnum
from typing import Generic, Literal, TypeVar, cast

import msgspec
import nkeys
from nacl.exceptions import BadSignatureError
from nacl.signing import VerifyKey

from tidegate_schemas.errors import InvalidInput

from .credentials import Credentials
from .keyring import new_seed

MAX_BYTES = 1024 * 1024
"""Longest token. The broker reads no longer one; it is about 10,000 revocations in an account."""

UNLIMITED = -1
"""As a limit. In these formats 0 is what is left out, and means none."""

_SECOND = 1_000_000_000
_HEADER = base64.urlsafe_b64encode(b'{"typ":"JWT","alg":"ed25519-nkey"}').rstrip(b"=").decode()


class Key(StrEnum):
    """What an nkey is of. The value is the first letter of its public keys."""

    OPERATOR = "O"
    ACCOUNT = "A"
    USER = "U"

    @property
    def prefix(self) -> int:
        """The byte that its public keys begin with (ADR-14)."""
        prefixes: dict[Key, int] = {
            Key.OPERATOR: nkeys.PREFIX_BYTE_OPERATOR,
            Key.ACCOUNT: nkeys.PREFIX_BYTE_ACCOUNT,
            Key.USER: nkeys.PREFIX_BYTE_USER,
        }
        return prefixes[self]

    def new_seed(self) -> str:
        """A fresh private seed: `SO…`, `SA…` or `SU…`."""
        return new_seed(self.prefix)

    def public(self, seed: str) -> str:
        """The public key of a seed.

        Raises:
            InvalidInput: no seed, or one of another kind.
        """
        return self.check(_pair(seed)[1])

    def check(self, public_key: str) -> str:
        """Return a public key if it is one, of this kind.

        Raises:
            InvalidInput: it is not.
        """
        _verifier(public_key, self)
        return public_key


class _Struct(msgspec.Struct, frozen=True, omit_defaults=True):
    pass


class Permission(_Struct, frozen=True, kw_only=True):
    """Subjects. With neither list, everything is allowed; with `allow`, nothing else is."""

    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()


class Permissions(_Struct, frozen=True, kw_only=True):
    """What may be published on and subscribed to."""

    pub: Permission = Permission()
    sub: Permission = Permission()


class Template(Permissions, frozen=True, kw_only=True):
    """What a user of a scope may do.

    `{{tag(x)}}` in a subject, also as a part of a token, stands for the tag `x:…` of the user.
    `subs` is in subscriptions of one connection, `data` and `payload` are in bytes.
    """

    subs: int = UNLIMITED
    data: int = UNLIMITED
    payload: int = UNLIMITED


class Scope(_Struct, frozen=True, kw_only=True):
    """A signing key of an account whose users may do what its template says, and nothing else."""

    key: str
    template: Template
    role: str = ""
    kind: Literal["user_scope"] = msgspec.field(default_factory=lambda: "user_scope")


class Export(_Struct, frozen=True, kw_only=True):
    """What an account offers. With `token_req` only to accounts that hold an activation.

    `response_threshold` is in nanoseconds.
    """

    subject: str
    type: Literal["stream", "service"]
    name: str = ""
    token_req: bool = False
    response_type: Literal["", "Singleton", "Stream", "Chunked"] = ""
    response_threshold: int = 0


class Import(_Struct, frozen=True, kw_only=True):
    """What an account takes from another; `token` is the activation.

    With `allow_trace` (of streams only) the broker goes on tracing messages that come in.
    """

    subject: str
    type: Literal["stream", "service"]
    account: str
    name: str = ""
    token: str = ""
    allow_trace: bool = False


class Limits(_Struct, frozen=True, kw_only=True):
    """Of an account: JetStream storage in bytes, connections, and what each of them may do."""

    subs: int = 0
    data: int = 0
    payload: int = 0
    imports: int = 0
    exports: int = 0
    wildcards: bool = False
    disallow_bearer: bool = False
    conn: int = 0
    leaf: int = 0
    mem_storage: int = 0
    disk_storage: int = 0
    streams: int = 0
    consumer: int = 0


class _Body(_Struct, frozen=True, kw_only=True, tag_field="type"):
    version: Literal[2] = msgspec.field(default_factory=lambda: 2)  # written although it is always


class Operator(_Body, tag="operator", frozen=True, kw_only=True):
    """Who signs accounts. `strict`: with its signing keys only, and so accounts with theirs."""

    signing_keys: tuple[str, ...] = ()
    system_account: str = ""
    strict_signing_key_usage: bool = False


class Account(_Body, tag="account", frozen=True, kw_only=True):
    """A space of subjects.

    `revocations` maps a user's public key to a time in seconds since 1970; what was issued to
    that key until then is void.
    """

    imports: tuple[Import, ...] = ()
    exports: tuple[Export, ...] = ()
    limits: Limits = Limits()
    signing_keys: tuple[str | Scope, ...] = ()
    revocations: dict[str, int] = {}
    default_permissions: Permissions = Permissions()


class Activation(_Body, tag="activation", frozen=True, kw_only=True):
    """Leave of the issuing account to import a subject of it."""

    subject: str
    kind: Literal["stream", "service"]
    issuer_account: str = ""


class User(_Body, tag="user", frozen=True, kw_only=True):
    """Who may connect. One that a scope's key has signed may state no permissions and limits."""

    issuer_account: str = ""
    tags: tuple[str, ...] = ()
    pub: Permission = Permission()
    sub: Permission = Permission()
    subs: int = 0
    data: int = 0
    payload: int = 0
    bearer_token: bool = False


Body = TypeVar("Body", bound=_Body)
_ROLES: dict[type[_Body], tuple[Key, Key]] = {  # who signs it, whom it is about
    Operator: (Key.OPERATOR, Key.OPERATOR),
    Account: (Key.OPERATOR, Key.ACCOUNT),
    Activation: (Key.ACCOUNT, Key.ACCOUNT),
    User: (Key.ACCOUNT, Key.USER),
}


class Claims(_Struct, Generic[Body], frozen=True, kw_only=True):
    """What a token says: `iss` says at `iat` of `sub`, until `exp` (0 is for ever), that `nats`.

    Times in seconds since 1970. `jti` is the base32 SHA-512/256 of all the rest. (The library of
    the broker leaves `nats` out there, so that two accounts of one second have one id, and the
    broker takes the second for the first.)
    """

    iss: str
    sub: str
    iat: int
    nats: Body
    name: str = ""
    exp: int = 0
    nbf: int = 0
    jti: str = ""


def encode(
    body: _Body, *, subject: str, seed: str, now: int, name: str = "", expires: int | None = None
) -> str:
    """Sign claims.

    Args:
        body: what is claimed.
        subject: the public key that it is about.
        seed: of the issuer.
        now: when it is issued, in nanoseconds since 1970; cut to the second.
        name: for people.
        expires: when it ends, likewise; None is never.

    Raises:
        InvalidInput: keys of the wrong kind for these claims, times that do not follow each
            other by at least a second, or more than `MAX_BYTES`.
    """
    signs, about = _ROLES[type(body)]
    pair, issuer = _pair(seed)
    signs.check(issuer)
    until = 0 if expires is None else expires // _SECOND
    if now < _SECOND or (expires is not None and until <= now // _SECOND):
        raise InvalidInput("a token ends after it was issued, and both after 1970")
    about.check(subject)
    claims = Claims(iss=issuer, sub=subject, iat=now // _SECOND, nats=body, name=name, exp=until)
    digest = hashlib.new("sha512_256", msgspec.json.encode(claims)).digest()
    claims = msgspec.structs.replace(claims, jti=base64.b32encode(digest).decode().rstrip("="))
    text = f"{_HEADER}.{_base64(msgspec.json.encode(claims))}"
    token = f"{text}.{_base64(pair.sign(text.encode()))}"
    if len(token) > MAX_BYTES:
        raise InvalidInput(f"a token of {len(token)} bytes; the broker reads {MAX_BYTES}")
    return token


def decode(token: str, kind: type[Body], *, now: int | None = None) -> Claims[Body]:
    """Read a token and verify that the key in `iss` has signed it.

    Args:
        token: the three parts.
        kind: the claims that are expected: `Operator`, `Account`, `Activation` or `User`.
        now: nanoseconds since 1970; when given, what has ended or not begun is refused.

    Raises:
        InvalidInput: not such a token, not signed by its issuer, of another kind, or over.
    """
    if len(token) > MAX_BYTES or token.count(".") != 2:
        raise InvalidInput(f"not a JWT: three parts with dots between them, {MAX_BYTES} bytes")
    header, payload, signature = token.split(".")
    if header != _HEADER:
        raise InvalidInput("not a NATS JWT of version 2: another header")
    try:
        claims = msgspec.json.decode(_unbase64(payload), type=Claims[kind])  # type: ignore[valid-type]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInput(f"not a NATS JWT of kind {kind.__name__.lower()}: {error}") from error
    signs, about = _ROLES[kind]
    about.check(claims.sub)
    try:
        signed = f"{header}.{payload}".encode()
        _verifier(claims.iss, signs).verify(signed, _unbase64(signature))
    except (BadSignatureError, ValueError):
        raise InvalidInput(f"the JWT is not signed by its issuer {claims.iss}") from None
    if now is not None and claims.exp and now >= claims.exp * _SECOND:
        raise InvalidInput(f"the JWT of {claims.name or claims.sub} has expired")
    if now is not None and now < claims.nbf * _SECOND:
        raise InvalidInput(f"the JWT of {claims.name or claims.sub} is not yet valid")
    return claims


def credentials_text(credentials: Credentials) -> str:
    """The text of a `.creds` file, which every NATS client reads."""
    return (
        f"-----BEGIN NATS USER JWT-----\n{credentials.jwt}\n------END NATS USER JWT------\n\n"
        "The seed below is private: whoever has it is this user.\n\n"
        "-----BEGIN USER NKEY SEED-----\n"
        f"{credentials.seed}\n------END USER NKEY SEED------\n"
    )


def _pair(seed: str) -> tuple[nkeys.KeyPair, str]:
    try:
        pair = nkeys.from_seed(bytearray(seed.strip().encode()))
        return pair, bytes(pair.public_key).decode()
    except Exception as error:  # nkeys raises bare exceptions of several kinds
        raise InvalidInput("not an nkey seed") from error


def _verifier(public_key: str, kind: Key) -> VerifyKey:
    """The Ed25519 key inside base32(prefix, 32 bytes, checksum)."""
    try:
        raw = base64.b32decode(public_key)
    except ValueError:
        raw = b""
    prefix, key, checksum = raw[:1], raw[1:33], raw[33:]
    if prefix != bytes([kind.prefix]) or checksum != _checksum(prefix + key):
        raise InvalidInput(f"{public_key[:60]!r} is no public key of kind {kind.name.lower()}")
    return VerifyKey(key)


def _checksum(data: bytes) -> bytes:
    return cast("bytes", nkeys.crc16_checksum(bytearray(data)))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def _unbase64(text: str) -> bytes:
    """Only the one spelling of some bytes, so that no two tokens mean the same."""
    try:
        data = base64.b64decode(text + "=" * (-len(text) % 4), altchars="-_", validate=True)
    except ValueError:
        data = b""
    if _base64(data) != text:
        raise InvalidInput("not a JWT: its parts are not base64url")
    return data
