"""Who calls: what a request shows, as a principal of the bus."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import structlog
from prometheus_client import Counter

from tidegate.identities import Roles
from tidegate.project import Project
from tidegate.tokens import Tokens, check_holder
from tidegate_bus.identity.guarded import Stamp
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.distinguished import normal_name
from tidegate_schemas.errors import (
    InvalidEnvelope,
    InvalidInput,
    NotAdmitted,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from tidegate_schemas.identity import Role
from tidegate_schemas.rate import Rate
from tidegate_schemas.subjects import Principal

from .bucket import Bucket
from .oidc import Oidc

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.edge")

Stamps = tuple[Stamp | None, Stamp | None]
"""Of the tokens and of the register."""

A = TypeVar("A")
B = TypeVar("B")

REFUSED = Counter("tidegate_edge_refused", "Callers that were not let in, by the ground", ["why"])

_SECOND = 1_000_000_000
_REMEMBERED = _SECOND
"""How long nobody asks again whether a principal has expired."""
_OWN = "tg_"
_BEARER = "bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """Somebody who may come in.

    Attributes:
        principal: for whom it is taken.
        role: what that is.
        via: how it is known, `token <id>`, `certificate <subject>`, `oidc <value>`,
            `webhook <name>`.
        rate: how often it may come.
    """

    principal: Principal
    role: Role
    via: str
    rate: Rate | None


class _Known(NamedTuple):
    end: int
    caller: Caller


class Callers:
    """Tells who calls, and how often each may.

    Args:
        project: whose principals, tokens and settings.
        clock: ns since 1970.
        ticks: ns that never go back.
    """

    def __init__(
        self,
        project: Project,
        clock: Callable[[], int] = time.time_ns,
        ticks: Callable[[], int] = time.monotonic_ns,
    ) -> None:
        settings = project.settings.edge
        self._clock, self._ticks = clock, ticks
        self._tokens = Tokens(project.state.tokens)
        self._roles = Roles(project.state)
        self._rate = Rate.parse(settings.rate) if settings.rate else None
        self._oidc_principals = settings.oidc.principals if settings.oidc else {}
        self._oidc = Oidc(settings.oidc, project.root) if settings.oidc else None
        self._certificates = {normal_name(n): p for n, p in settings.certificates.items()}
        self._known: dict[bytes, _Known] = {}
        self._known_stamps: Stamps | None = None
        self._seen_stamps: Stamps | None = None
        self._buckets: dict[str, tuple[Rate, Bucket]] = {}

    async def of(self, authorization: str | None, certificate: str | None) -> Caller:
        """Who shows this. A token goes before a certificate, which may be that of a proxy.

        Args:
            authorization: the header of that name (RFC 6750).
            certificate: subject of what the client showed in the TLS handshake, see `tls`.

        Raises:
            Unauthenticated: neither says who it is.
            NotAdmitted: it is nobody who may come in.
            RateLimited: it comes too often.
            Unavailable: who it is cannot be found out now.
        """
        try:
            caller = self._remembered(authorization or "")
            if caller is None:
                caller = await self._who(authorization, certificate)
            self._count(caller)
        except Unauthenticated as error:
            REFUSED.labels(error.reason).inc()
            raise
        except NotAdmitted:
            REFUSED.labels("not admitted").inc()
            raise
        except RateLimited:
            REFUSED.labels("rate").inc()
            raise
        return caller

    def named(self, principal: str, via: str, rate: Rate | None = None) -> Caller:
        """A caller who is taken for somebody.

        Raises:
            NotAdmitted: that is nobody who may come in.
            Unavailable: the register cannot be read.
        """
        who = Principal.parse(principal)
        role = _readable(self._roles.of, who, self._clock())
        try:
            return Caller(who, check_holder(who, role), via, rate)
        except InvalidInput as error:
            raise NotAdmitted(str(error)) from None

    def charge(self, caller: Caller, events: int) -> None:
        """Count the events of a request, of which `of` has counted one.

        Raises:
            InvalidEnvelope: code `oversized`; there are more than may ever come at once.
            RateLimited: they are too many now.
        """
        rate = caller.rate
        if rate is None or events <= 1:
            return
        if events > rate.count:
            detail = f"{events} events at once, where you may send {_words(rate)}"
            raise InvalidEnvelope("oversized", f"{detail}; nothing of the batch is taken", "")
        try:
            self._count(caller, events - 1)
        except RateLimited as error:
            REFUSED.labels("rate").inc()
            again = error.retry_after + rate.seconds / rate.count  # the request counts again
            raise RateLimited(_words(rate), again) from None

    async def close(self) -> None:
        """Ask nobody any more."""
        if self._oidc:
            await self._oidc.keys.close()

    async def _who(self, authorization: str | None, certificate: str | None) -> Caller:
        if authorization is not None:
            if authorization[: len(_BEARER)].lower() != _BEARER:
                raise Unauthenticated("scheme", "write `Authorization: Bearer TOKEN`")
            text = authorization[len(_BEARER) :].strip(" ")
            return self._by_token(text) if text.startswith(_OWN) else await self._by_oidc(text)
        if certificate is not None:
            principal = self._certificates.get(certificate)
            if principal is None:
                raise NotAdmitted(f"the certificate of {certificate} stands for nobody here")
            return self.named(principal, f"certificate {certificate}", self._rate)
        raise Unauthenticated("missing", "show a token: `Authorization: Bearer TOKEN`")

    def _by_token(self, text: str) -> Caller:
        now, stamps = self._clock(), self._stamps()
        token = _readable(self._tokens.find, text, now)
        if token is None:
            raise Unauthenticated("unknown", "no such token; it was revoked, or has expired")
        rate = Rate.parse(token.rate) if token.rate else self._rate
        caller = self.named(token.principal, f"token {token.id}", rate)
        end = now + _REMEMBERED
        if token.expires is not None:
            end = min(end, parse_rfc3339(token.expires))
        if stamps != self._known_stamps:
            self._known, self._known_stamps = {}, stamps
        self._known[_key(f"Bearer {text}")] = _Known(end, caller)
        return caller

    def _remembered(self, authorization: str) -> Caller | None:
        """Who showed this before, as long as no file was changed since: the way of most calls."""
        known = self._known.get(_key(authorization))
        if known and self._clock() < known.end and self._known_stamps == self._stamps():
            return known.caller
        return None

    def _stamps(self) -> Stamps:
        """Of the files now; looked at once for all requests of a turn of the event loop."""
        if self._seen_stamps is None:
            self._seen_stamps = self._tokens.stamp(), self._roles.stamp()
            asyncio.get_running_loop().call_soon(self._look_again)
        return self._seen_stamps

    def _look_again(self) -> None:
        self._seen_stamps = None

    async def _by_oidc(self, text: str) -> Caller:
        if self._oidc is None:
            raise Unauthenticated("unknown", "no token of ours; they begin with tg_")
        value = await self._oidc.subject(text, self._clock() / _SECOND)
        principal = self._oidc_principals.get(value)
        if principal is None:
            raise NotAdmitted(f"{value[:80]!r} of the OpenID provider stands for nobody here")
        return self.named(principal, f"oidc {value}", self._rate)

    def _count(self, caller: Caller, events: int = 1) -> None:
        if caller.rate is None:
            return
        rate, bucket = self._buckets.get(caller.via, (None, None))
        if bucket is None or (rate is not caller.rate and rate != caller.rate):
            bucket = Bucket(caller.rate)
            self._buckets[caller.via] = caller.rate, bucket
        if seconds := bucket.take(self._ticks(), events):
            raise RateLimited(_words(caller.rate), seconds)


def _words(rate: Rate) -> str:
    return f"{rate.count} in {rate.seconds:g} s"


def _key(authorization: str) -> bytes:
    return hashlib.sha256(authorization.encode("utf-8", "surrogatepass")).digest()


def _readable(look: Callable[[A, int], B], what: A, now: int) -> B:
    """What a file says; nobody is let in who may have been locked out by what cannot be read."""
    try:
        return look(what, now)
    except InvalidInput as error:
        _log.error("nobody can be let in", error=str(error))
        raise Unavailable("who may come in cannot be found out now") from None
