"""The probe: a principal with few rights that keeps trying to get past the gateway.

Configuration that looks right is no proof. The probe speaks to the live bus as an attacker who has
a key would, and takes nothing but the broker's own refusal, or the ledger, for an answer. What gets
through is an alarm: a gauge, a line in the log, and a record in the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import structlog

from tidegate_bus.broker.accounts import PROBE
from tidegate_bus.identity.credentials import Credentials
from tidegate_bus.identity.keyring import new_seed
from tidegate_bus.ledger import LedgerReader
from tidegate_schemas.errors import TidegateError, Unavailable
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import BYPASSED, PROBED

from .bypasses import Attempt, bypasses
from .injection import NAMES, Desk, judge, position, record_of
from .wire import Wire

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.probe")

_TROUBLE = (TidegateError, OSError)  # a timeout is an OSError


@dataclass(frozen=True, slots=True)
class Report:
    """One round.

    Attributes:
        nonce: stands in the round's record, `bus.probed`.
        attempts: what came of each.
        alarm: ledger sequence of the record `bus.bypassed`; 0 where there was no need for one, or
            where it could not be written.
    """

    nonce: str
    attempts: tuple[Attempt, ...]
    alarm: int = 0

    @property
    def through(self) -> tuple[str, ...]:
        """Names of those that worked."""
        return tuple(attempt.name for attempt in self.attempts if attempt.through)

    @property
    def inconclusive(self) -> tuple[str, ...]:
        """Names of those of which nothing is proven."""
        return tuple(attempt.name for attempt in self.attempts if attempt.through is None)


@dataclass(slots=True)
class _Round:
    url: str
    credentials: Credentials
    victim: Principal
    reader: LedgerReader | None
    tls: ssl.SSLContext | None
    timeout: float
    partition: int
    nonce: str = field(default_factory=lambda: secrets.token_hex(8))
    found: list[Attempt] = field(default_factory=list[Attempt])


async def probe(
    url: str,
    credentials: Credentials,
    *,
    victim: Principal,
    reader: LedgerReader | None,
    tls: ssl.SSLContext | None = None,
    timeout: float = 5.0,
    partition: int = 0,
) -> Report:
    """Try every way past the gateway once.

    It makes some five connections and one submission, whose record shows in the ledger that the
    round was; two submissions in an alarm. Nothing that is tried does harm where it works.

    Args:
        url: of one broker, `nats://host:port` or `tls://host:port`.
        credentials: of the principal `tidegate.probe`.
        victim: another principal, best an agent.
        reader: of the ledger, as a principal that may read it; without one what only the ledger
            can prove stays open.
        tls: whom to trust, where the broker wants TLS; then clear text is tried too.
        timeout: seconds for each part of the round.
        partition: of the streams.

    Returns:
        The report. A broker that is away makes attempts inconclusive, and raises nothing.
    """
    this = _Round(url, credentials, victim, reader, tls, timeout, partition)
    await _try_logins(this)
    await _try_bypasses(this)
    alarm = await _try_injection(this)
    return Report(this.nonce, tuple(this.found), alarm)


async def _try_logins(this: _Round) -> None:
    """Log in without what proves a principal.

    Nothing follows a login that works: the connection is closed.
    """
    stranger = Credentials(new_seed())

    def unproven(wire: Wire) -> dict[str, Any]:
        return {**wire.login(this.credentials), "sig": wire.login(stranger)["sig"]}

    await _try_login(this, "login-unknown", lambda wire: wire.login(stranger))
    await _try_login(this, "login-keyless", lambda wire: {})
    await _try_login(this, "login-unproven", unproven)
    if this.tls:
        # What an eavesdropper gets is a signature of a challenge that is never used again.
        await _try_login(this, "clear-text", lambda wire: wire.login(this.credentials), clear=True)


async def _try_login(
    this: _Round, name: str, options: Callable[[Wire], dict[str, Any]], *, clear: bool = False
) -> None:
    try:
        async with (
            asyncio.timeout(this.timeout),
            await Wire.dial(this.url, this.tls, clear=clear) as wire,
        ):
            answer = await wire.connect(options(wire))
    except _TROUBLE as error:
        this.found.append(Attempt(name, None, _words(error)))
        return
    said = "; ".join(answer.errors)
    refused = "Authorization Violation" in said
    if clear:  # to have read a login is to have listened
        through: bool | None = answer.done or refused
    else:
        through = True if answer.done else False if refused else None
    ended = "the broker took it" if answer.done else "the broker ended the connection"
    this.found.append(Attempt(name, through, said or ended))


async def _try_bypasses(this: _Round) -> None:
    wire: Wire | None = None
    away = ""
    try:
        for bypass in bypasses(this.victim, this.nonce, this.partition):
            over = False
            try:
                if wire is None and not away:
                    wire = await _logged_in(this)
                if wire:
                    async with asyncio.timeout(this.timeout):
                        answer = await wire.say(*bypass.lines)
                    over = not answer.done
                    this.found.append(bypass.judge(answer))
                else:
                    this.found.append(Attempt(bypass.name, None, away))
            except _TROUBLE as error:
                away = "" if wire else _words(error)  # who cannot log in need not try again
                over = True
                this.found.append(Attempt(bypass.name, None, _words(error)))
            if wire and over:
                await wire.close()
                wire = None
    finally:
        if wire:
            await wire.close()


async def _logged_in(this: _Round) -> Wire:
    async with asyncio.timeout(this.timeout), contextlib.AsyncExitStack() as stack:
        wire = await stack.enter_async_context(await Wire.dial(this.url, this.tls))
        answer = await wire.connect(wire.login(this.credentials))
        if not answer.done:
            raise Unavailable(f"the broker does not know {PROBE}: {'; '.join(answer.errors)}")
        stack.pop_all()  # it is the caller's to close
        return wire


async def _try_injection(this: _Round) -> int:
    """Have the broker answer to where others submit, and see what the ledger has of it.

    Returns:
        The ledger sequence of the alarm, if there was need for one.
    """
    reader = this.reader
    async with contextlib.AsyncExitStack() as stack:
        try:
            async with asyncio.timeout(this.timeout):
                wire = await stack.enter_async_context(await _logged_in(this))
                desk = Desk(wire, this.nonce)
                start = await position(reader) if reader else 0
                nobody = await desk.inject()
                tried = [{"name": a.name, "through": a.through} for a in this.found]
                envelope = await desk.submit(PROBED, {"attempts": tried})
                if reader:
                    this.found += await judge(reader, start, nobody, envelope, this.nonce)
                else:
                    this.found += [Attempt(name, None, "nobody reads the ledger") for name in NAMES]
        except _TROUBLE as error:
            this.found += [Attempt(name, None, _words(error)) for name in NAMES]
    return await _raise_alarm(this)


async def _raise_alarm(this: _Round) -> int:
    through = [attempt.name for attempt in this.found if attempt.through]
    if not through:
        return 0
    try:
        async with asyncio.timeout(this.timeout), await _logged_in(this) as wire:
            start = await position(this.reader) if this.reader else 0
            envelope = await Desk(wire, this.nonce).submit(BYPASSED, {"attempts": through})
            if this.reader:
                return (await record_of(this.reader, start, envelope)).seq
    except _TROUBLE as error:
        _log.error("cannot record the alarm", error=_words(error))
    return 0


def _words(error: BaseException) -> str:
    return str(error) or "no answer in time"
