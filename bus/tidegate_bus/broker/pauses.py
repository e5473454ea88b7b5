"""Deliveries that stand still: consumers of the ledger that are paused (ADR-46).

A paused consumer delivers nothing, new or again, and keeps its place. Pulls stay open and their
heartbeats go on, so who waits notices nothing. The pause outlives the broker, and no update of the
consumer ends it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import msgspec

from tidegate_bus.connection import ApiError, Connection
from tidegate_schemas import subjects
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import InvalidName, Unavailable
from tidegate_schemas.subjects import Principal

_FOR_EVER = "2200-01-01T00:00:00Z"
_NOT_FOUND = 10014
_SECOND = 1_000_000_000
_SOON = _SECOND // 20
"""A pause is ended by letting it run out. nats-server 2.15 takes up the deliveries of one
that runs out at once, of one that is taken back only with the next heartbeat of a pull."""


@dataclass(frozen=True, slots=True)
class Feed:
    """The consumer of a principal, at a moment.

    Attributes:
        paused: whether it stands still, for longer than a moment.
        waiting: admitted messages that were not delivered yet.
        out: delivered ones that are not settled.
    """

    principal: Principal
    paused: bool
    waiting: int
    out: int


class _Consumer(msgspec.Struct):
    name: str
    num_pending: int = 0
    num_ack_pending: int = 0
    pause_remaining: int = 0


class _Page(msgspec.Struct):
    total: int
    consumers: list[_Consumer] | None = None


async def feeds(connection: Connection, partition: int = 0) -> list[Feed]:
    """The consumers of all principals.

    Raises:
        Unavailable: the broker did not answer, or this principal may not ask.
    """
    subject = subjects.consumer_list(subjects.ledger_stream(partition))
    found: dict[Principal, Feed] = {}
    offset = 0
    while True:
        page = msgspec.convert(await connection.api(subject, {"offset": offset}), _Page)
        for consumer in page.consumers or ():
            try:
                principal = subjects.consumer_owner(consumer.name)
            except InvalidName:  # of nobody; the broker lets no agent pull from it
                continue
            found[principal] = Feed(
                principal,
                consumer.pause_remaining > _SECOND,
                consumer.num_pending,
                consumer.num_ack_pending,
            )
        offset += len(page.consumers or ())
        if not page.consumers or offset >= page.total:
            return sorted(found.values(), key=lambda feed: feed.principal)


async def pause(connection: Connection, principal: Principal, partition: int = 0) -> None:
    """Deliver nothing more to a principal. Nothing happens where it has no consumer.

    Raises:
        Unavailable: the broker did not answer, or refused.
    """
    await _until(connection, principal, _FOR_EVER, partition)


async def resume(connection: Connection, principal: Principal, partition: int = 0) -> None:
    """Go on delivering to a principal, at once.

    Raises:
        Unavailable: see `pause`.
    """
    stream = subjects.ledger_stream(partition)
    asked = time.monotonic_ns()
    try:
        info = await connection.api(subjects.consumer_info(stream, subjects.consumer(principal)))
    except ApiError as error:
        if error.code == _NOT_FOUND:
            return
        raise
    now = parse_rfc3339(info["ts"])  # by the clock that will end it
    took = time.monotonic_ns() - asked
    await _until(connection, principal, rfc3339(now + took + _SOON), partition)


async def _until(connection: Connection, principal: Principal, when: str, partition: int) -> None:
    name = subjects.consumer(principal)
    subject = subjects.consumer_pause(subjects.ledger_stream(partition), name)
    try:
        await connection.api(subject, {"pause_until": when})
    except ApiError as error:
        if error.code != _NOT_FOUND:
            raise Unavailable(f"{name}: {error}") from error
