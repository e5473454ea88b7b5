"""Bearer tokens of an OpenID provider: JWTs (RFC 7519), checked against its keys (RFC 7517)."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import hashlib
import http.client
import re
import threading
import time
import urllib.error
import urllib.request
from collections import OrderedDict
from collections.abc import Callable, Mapping
from io import BufferedIOBase
from pathlib import Path
from typing import Any, TypeVar, cast

import jwt
import msgspec
import structlog

from tidegate_schemas.edge import OidcSettings
from tidegate_schemas.errors import InvalidInput, Unauthenticated, Unavailable

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.edge.oidc")

ALGORITHMS = frozenset(
    f"{kind}{bits}" for kind in ("RS", "PS", "ES") for bits in (256, 384, 512)
) | {"EdDSA"}
"""Asymmetric ones: with the others whoever can check a token can make one (RFC 8725, 3.1)."""

LEEWAY = 30.0
"""Seconds by which the provider's clock may differ."""

_FRESH_SECONDS = 300.0
"""After which keys are asked for again, while those that are there go on."""
_STALE_SECONDS = 3600.0
"""After which keys are not used any more, if none could be had since."""
_PAUSE_SECONDS = 10.0
"""Between two attempts: a token with a key that does not exist costs anybody nothing."""
_FETCH_SECONDS = 5.0
"""For each read; twice as long in all."""
_PIECE_BYTES = 64 * 1024
_MAX_BYTES = 1024 * 1024
_FAILURES = (OSError, ValueError, RecursionError, http.client.HTTPException)
_REMEMBERED = 1024
_JWT = re.compile(r"[\w-]+\.[\w-]+\.[\w-]*", re.ASCII)
"""As RFC 7515, 3.1 writes it: what else can be decoded would be the same token again."""
_LATEST = 253_402_300_800
"""Seconds from 1970 to the end of the year 9999."""

T = TypeVar("T")


class ProviderKeys:
    """The public keys of a provider, by their ids; asked for in a thread.

    Args:
        source: an URL, or a file.
        clock: seconds that never go back.
    """

    def __init__(self, source: str | Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._source = source
        self._clock = clock
        self._keys: Mapping[str | None, jwt.PyJWK] = {}
        self._had = self._tried = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, id: str | None) -> jwt.PyJWK | None:
        """The key of this id; for a token that names none, the only one there is.

        Who asks waits only where no key is known, or not this one.

        Raises:
            Unavailable: there are none, and none can be had.
        """
        now = self._clock()
        if now - self._had >= _STALE_SECONDS:
            self._keys = {}
        if now - self._had >= _FRESH_SECONDS or self._get(id) is None:
            self._begin(now)
            if self._fetching and self._get(id) is None:
                await asyncio.wait({self._fetching}, timeout=2 * _FETCH_SECONDS)
        if not self._keys:
            raise Unavailable("the keys of the OpenID provider cannot be had now")
        return self._get(id)

    async def close(self) -> None:
        """Ask no more."""
        if self._fetching:
            self._fetching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._fetching

    def _get(self, id: str | None) -> jwt.PyJWK | None:
        if id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(id)

    def _begin(self, now: float) -> None:
        if self._fetching is None and now - self._tried >= _PAUSE_SECONDS:
            self._tried = now
            self._fetching = asyncio.create_task(self._fetch())

    async def _fetch(self) -> None:
        try:
            self._keys = await _aside(lambda: _usable(_read(self._source)))
            self._had = self._clock()
        except _FAILURES as error:
            _log.error("keys of the OpenID provider cannot be had", error=str(error))
        finally:
            self._fetching = None


async def _aside(work: Callable[[], T]) -> T:
    """Work in a thread that nobody waits for at the end, and that takes the place of no other.

    A provider may keep it for as long as it likes.
    """
    future: concurrent.futures.Future[T] = concurrent.futures.Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, name="oidc", daemon=True).start()
    return await asyncio.wrap_future(future)


class _Set(msgspec.Struct):
    keys: list[dict[str, Any]]


def _usable(text: bytes) -> dict[str | None, jwt.PyJWK]:
    """The keys that check signatures with an algorithm of ours; others do not matter.

    Raises:
        ValueError: it is no set of keys, or holds none that can be used.
    """
    found: dict[str | None, jwt.PyJWK] = {}
    for parameters in msgspec.json.decode(text, type=_Set).keys:
        try:
            key = jwt.PyJWK(parameters)
        except (jwt.PyJWTError, AttributeError, KeyError, TypeError, ValueError):
            continue
        if key.algorithm_name in ALGORITHMS and key.public_key_use in (None, "sig"):
            found[key.key_id] = key
    if not found:
        raise ValueError("there is no key among them that checks signatures")
    return found


def check_keys(path: Path) -> None:
    """Check a file with keys of a provider.

    Raises:
        InvalidInput: it cannot be read, or holds no key that can be used.
    """
    try:
        _usable(_read(path))
    except OSError as error:
        raise InvalidInput(f"{path}: cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{path}: is no set of keys (RFC 7517): {error}") from error


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(
        self, req: Any, fp: Any, code: Any, msg: Any, headers: Any, newurl: Any
    ) -> None:
        """Where keys come from is written in the settings."""


_opener = urllib.request.build_opener(_NoRedirect)


def _read(source: str | Path) -> bytes:
    text, over = bytearray(), time.monotonic() + 2 * _FETCH_SECONDS
    with _opened(source) as file:
        while piece := file.read1(_PIECE_BYTES):
            text += piece
            if len(text) > _MAX_BYTES:
                raise ValueError(f"{source}: over {_MAX_BYTES} bytes")
            if time.monotonic() > over:
                raise TimeoutError(f"{source}: it did not come in {2 * _FETCH_SECONDS:g} s")
    return bytes(text)


def _opened(source: str | Path) -> BufferedIOBase:
    if isinstance(source, Path):
        return source.open("rb")
    try:
        return cast("BufferedIOBase", _opener.open(source, timeout=_FETCH_SECONDS))
    except urllib.error.HTTPError as error:
        with error:  # it holds the connection
            raise OSError(f"{source}: {error.status} {error.reason}") from None


class Oidc:
    """Who shows a token of a provider.

    Args:
        settings: of the provider.
        root: folder that a file with keys is relative to.
        clock: seconds that never go back.
    """

    def __init__(
        self, settings: OidcSettings, root: Path, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._settings = settings
        self.keys = ProviderKeys(settings.keys_file(root) or settings.jwks, clock)
        self._known: OrderedDict[bytes, tuple[jwt.PyJWK, str | None, str, float]] = OrderedDict()

    async def subject(self, text: str, now: float) -> str:
        """The value of the claim that says who it is.

        What was checked once is not computed again as long as the key stays and time does not run
        out.

        Args:
            text: the token.
            now: seconds since 1970.

        Raises:
            Unauthenticated: it is not of this provider, not for us, or of another time.
            Unavailable: its keys cannot be had.
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        if known := self._known.get(digest):
            key, id, value, end = known
            if now < end and await self.keys.find(id) is key:
                return value
            del self._known[digest]
        return await self._checked(text, digest, now)

    async def _checked(self, text: str, digest: bytes, now: float) -> str:
        id, algorithm = _header(text)
        if algorithm not in ALGORITHMS:
            raise Unauthenticated("algorithm", f"tokens signed with {algorithm} are not taken")
        key = await self.keys.find(id)
        if key is None:
            raise Unauthenticated("key", "the token is signed with a key that the provider lacks")
        claims = self._claims(text, key)
        end, begin = claims["exp"] + LEEWAY, claims.get("nbf", 0) - LEEWAY
        if not begin <= now < end:
            raise Unauthenticated("expired", "the token has expired, or is not valid yet")
        value = claims.get(self._settings.claim)
        if not isinstance(value, str):
            raise Unauthenticated("claim", f"the token has no text as `{self._settings.claim}`")
        self._known[digest] = (key, id, value, end)
        if len(self._known) > _REMEMBERED:
            self._known.popitem(last=False)
        return value

    def _claims(self, text: str, key: jwt.PyJWK) -> dict[str, Any]:
        try:
            # Times are compared above: by the clock that is passed in.
            claims = jwt.decode(
                text,
                key,
                algorithms=list(ALGORITHMS),
                audience=self._settings.audience,
                issuer=self._settings.issuer,
                options={
                    "require": ["exp", "iss", "aud"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                    "enforce_minimum_key_length": True,
                },
            )
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError) as error:
            raise Unauthenticated("token", f"the token is not taken: {error}") from None
        for name in ("exp", "nbf"):
            value = claims.get(name, 0)
            if isinstance(value, bool) or not isinstance(value, int | float) or value > _LATEST:
                raise Unauthenticated("token", f"`{name}` of the token is no time")
        return claims


def _header(text: str) -> tuple[str | None, str]:
    """The id of the key and the algorithm that a token names; nobody has checked them."""
    try:
        if not _JWT.fullmatch(text):
            raise ValueError
        header = jwt.get_unverified_header(text)
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise Unauthenticated("token", "no token of ours, and no JWT") from None
    id, algorithm = header.get("kid"), header.get("alg")
    return id if isinstance(id, str) else None, algorithm if isinstance(algorithm, str) else "none"
