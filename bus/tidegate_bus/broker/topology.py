"""Streams and consumers as code: created, converged where that is harmless, drift reported."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from tidegate_bus.connection import ApiError, Connection
from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidInput, TopologyDrift
from tidegate_schemas.subjects import Kind, Principal

_NOT_FOUND = {10014, 10059}
_UNORDERED = {"subjects", "filter_subjects"}
_SECOND = 1_000_000_000
_HEADS_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """Sizes of the streams, in bytes; `backlog` in messages of one sender."""

    ledger_bytes: int
    ingress_bytes: int
    backlog: int

    @property
    def store_bytes(self) -> int:
        """Of all streams together."""
        return self.ledger_bytes + self.ingress_bytes + _HEADS_BYTES


@dataclass(frozen=True, slots=True)
class Subscription:
    """What a worker's durable consumer delivers: the tasks and events of one principal."""

    principal: Principal
    capabilities: tuple[str, ...]
    topics: tuple[str, ...]
    lease: float
    """Seconds of silence after which a delivery goes to another worker."""


def streams(limits: Limits, partition: int = 0) -> list[dict[str, Any]]:
    """The streams of a partition, as JetStream configurations."""
    common: dict[str, Any] = {
        "retention": "limits",  # work queues lose dead-lettered messages and forget ids
        "storage": "file",
        "discard": "new",
        "num_replicas": 1,
        # What would let a message vanish, or come to be, in another way. These are the defaults
        # of the broker; here they stand so that it is seen when somebody changes them.
        "max_msgs": -1,
        "max_age": 0,
        "sealed": False,
        "allow_rollup_hdrs": False,
        "allow_msg_ttl": False,
        "allow_atomic": False,
        "allow_msg_schedules": False,
        "allow_msg_counter": False,
        "mirror": None,
        "sources": None,
        "republish": None,
        "subject_transform": None,
    }
    return [
        {
            **common,
            "name": subjects.ingress_stream(partition),
            "subjects": [subjects.INGRESS_SUBJECTS],
            "max_bytes": limits.ingress_bytes,
            "max_msgs_per_subject": limits.backlog,  # one subject a sender, so a quota each
            "discard_new_per_subject": True,
            # Senders choose headers, ids are stream-wide: the shortest memory there is.
            "duplicate_window": _SECOND // 10,
            "allow_direct": False,
            "allow_batched": False,
        },
        {
            **common,
            "name": subjects.ledger_stream(partition),
            "subjects": [subjects.ledger_subjects(partition)],
            "max_bytes": limits.ledger_bytes,
            "max_msgs_per_subject": -1,
            "deny_delete": True,
            "deny_purge": True,
            "allow_direct": True,
            "allow_batched": True,  # fast-ingest publishing, ADR-50
            "duplicate_window": _SECOND // 10,
        },
        {  # for the notary, which needs the newest one and keeps what it has checked
            **common,
            "name": subjects.heads_stream(partition),
            "subjects": [subjects.head(partition)],
            "max_bytes": _HEADS_BYTES,
            "discard": "old",
            "max_msgs_per_subject": -1,
            "allow_direct": True,
            "allow_batched": False,
            "duplicate_window": _SECOND // 10,
        },
    ]


def consumer(subscription: Subscription, partition: int = 0) -> dict[str, Any]:
    """The durable consumer of a worker, as a JetStream configuration.

    Raises:
        InvalidInput: it would take nothing; without a filter the broker would deliver everything.
    """
    filters = [
        *(subjects.delivery(partition, Kind.TASK, c) for c in subscription.capabilities),
        *(subjects.delivery(partition, Kind.EVENT, t) for t in subscription.topics),
    ]
    if not filters:
        raise InvalidInput(f"{subscription.principal} has neither capabilities nor topics")
    return {
        "durable_name": subjects.consumer(subscription.principal),
        "filter_subjects": filters,
        "deliver_policy": "new",
        "ack_policy": "explicit",
        "ack_wait": int(subscription.lease * _SECOND),
        "max_deliver": -1,  # giving up is the worker's decision and leaves a record
        "max_ack_pending": 10_000,
    }


async def converge(
    connection: Connection,
    limits: Limits,
    subscriptions: Iterable[Subscription] = (),
    partition: int = 0,
) -> None:
    """Bring the broker to what is declared here.

    Missing streams and consumers are created. Consumers and the ingress stream are updated in
    place. The ledger is never changed: what differs there is an error.

    Raises:
        TopologyDrift: the ledger stream differs from its declaration; nothing was changed.
        InvalidInput: a subscription takes nothing; nothing was changed.
        Unavailable: the broker did not answer, or refused.
    """
    ledger = subjects.ledger_stream(partition)
    consumers = [consumer(subscription, partition) for subscription in subscriptions]
    there = [
        (wanted, await _config(connection, subjects.stream_info(wanted["name"])))
        for wanted in streams(limits, partition)
    ]
    for wanted, found in there:  # before anything is changed
        differences = list(_differences(wanted["name"], wanted, found)) if found else []
        if differences and wanted["name"] == ledger:
            raise TopologyDrift(differences)
    for wanted, found in there:
        name: str = wanted["name"]
        if found is None:
            await connection.api(f"$JS.API.STREAM.CREATE.{name}", wanted)
        elif any(_differences(name, wanted, found)):
            await connection.api(f"$JS.API.STREAM.UPDATE.{name}", {**found, **wanted})
    for config in consumers:
        name = config["durable_name"]
        found = await _config(connection, subjects.consumer_info(ledger, name))
        if found is None or any(_differences(name, config, found)):
            merged = {**(found or {}), **config}
            merged.pop("filter_subject", None)  # the server writes one filter this way
            await connection.api(
                f"{subjects.consumer_create(ledger)}.{name}",
                {"stream_name": ledger, "config": merged},
            )


async def drift(
    connection: Connection,
    limits: Limits,
    subscriptions: Iterable[Subscription] = (),
    partition: int = 0,
) -> list[str]:
    """What differs between the declaration and the broker; one line a difference."""
    ledger = subjects.ledger_stream(partition)
    wanted = [(s["name"], subjects.stream_info(s["name"]), s) for s in streams(limits, partition)]
    for subscription in subscriptions:
        config = consumer(subscription, partition)
        name = config["durable_name"]
        wanted.append((name, subjects.consumer_info(ledger, name), config))
    lines: list[str] = []
    for name, info, config in wanted:
        found = await _config(connection, info)
        lines += [f"{name}: missing"] if found is None else _differences(name, config, found)
    return lines


async def _config(connection: Connection, info: str) -> dict[str, Any] | None:
    try:
        config: dict[str, Any] = (await connection.api(info))["config"]
    except ApiError as error:
        if error.code in _NOT_FOUND:
            return None
        raise
    return config


def _differences(name: str, wanted: dict[str, Any], found: dict[str, Any]) -> Iterator[str]:
    if "filter_subject" in found:
        found = {**found, "filter_subjects": [found["filter_subject"]]}
    for field, value in wanted.items():
        actual = found.get(field)
        if field in _UNORDERED:
            same = set(value) == set(actual or ())
        else:
            same = value == actual or (value is False and actual is None)
        if not same:
            room = field == "max_bytes" and name.startswith(subjects.ledger_stream(0)[:-1])
            way = " (`tidegate ledger grow` gives it more room)" if room else ""
            yield f"{name}: {field} is {actual!r}, declared {value!r}{way}"
