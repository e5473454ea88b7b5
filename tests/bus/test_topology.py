"""Streams and consumers: created, converged where that is harmless, drift reported."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from support import ADMIN, AGENT, CAPABILITY, LIMITS, OTHER, TOPIC, Broker, running_broker
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_bus.broker.topology import Subscription, converge, drift
from tidegate_bus.connection import ApiError
from tidegate_schemas.errors import InvalidInput, TopologyDrift

SUBSCRIPTIONS = [
    Subscription(AGENT, (CAPABILITY,), (), 2.0),
    Subscription(OTHER, (), (TOPIC,), 2.0),
]
MORE = Subscription(AGENT, (CAPABILITY, "work.more"), (TOPIC,), 5.0)
INFO = "$JS.API.STREAM.INFO"


async def everything(broker: Broker) -> dict[str, Any]:
    """The configuration of every stream and consumer, as the broker has it."""
    admin = await broker.connect(ADMIN)
    found: dict[str, Any] = {}
    streams: list[str] = (await admin.api("$JS.API.STREAM.NAMES"))["streams"] or []
    for stream in streams:
        found[stream] = (await admin.api(f"{INFO}.{stream}"))["config"]
        answer = await admin.api(f"$JS.API.CONSUMER.NAMES.{stream}")
        consumers: list[str] = answer["consumers"] or []
        for name in consumers:
            info = await admin.api(f"$JS.API.CONSUMER.INFO.{stream}.{name}")
            found[f"{stream} {name}"] = info["config"]
    return found


async def update(broker: Broker, stream: str, **fields: Any) -> None:
    """Change a stream as somebody with all rights could."""
    admin = await broker.connect(ADMIN)
    config = (await admin.api(f"{INFO}.{stream}"))["config"]
    await admin.api(f"$JS.API.STREAM.UPDATE.{stream}", {**config, **fields})


async def test_an_empty_broker_gets_everything_that_is_declared(tmp_path: Path) -> None:
    """Drift names all that is missing, converge makes it, and no drift is left."""
    async with running_broker(tmp_path, streams=False) as broker:
        registrar = await broker.connect(REGISTRAR)
        assert await drift(registrar, LIMITS, SUBSCRIPTIONS) == [
            "INGRESS_0: missing",
            "LEDGER_0: missing",
            "HEADS_0: missing",
            "team_agent: missing",
            "team_other: missing",
        ]

        await converge(registrar, LIMITS, SUBSCRIPTIONS)
        assert await drift(registrar, LIMITS, SUBSCRIPTIONS) == []
        assert sorted(await everything(broker)) == [
            "HEADS_0",
            "INGRESS_0",
            "LEDGER_0",
            "LEDGER_0 team_agent",
            "LEDGER_0 team_other",
        ]


async def test_to_converge_again_changes_nothing(broker: Broker) -> None:
    """It may run at each start."""
    before = await everything(broker)
    await converge(await broker.connect(REGISTRAR), LIMITS, SUBSCRIPTIONS)

    assert await everything(broker) == before


async def test_what_an_agent_takes_may_change(broker: Broker) -> None:
    """More and fewer subjects and another lease reach the consumer; one subject or several."""
    registrar = await broker.connect(REGISTRAR)
    for wanted in (MORE, SUBSCRIPTIONS[0], MORE):
        assert await drift(registrar, LIMITS, [wanted]) != []
        await converge(registrar, LIMITS, [wanted])
        assert await drift(registrar, LIMITS, [wanted]) == []

    config = (await everything(broker))["LEDGER_0 team_agent"]
    assert sorted(config["filter_subjects"]) == [
        "ledger.0.allow.event.thing.happened",
        "ledger.0.allow.task.work.do",
        "ledger.0.allow.task.work.more",
    ]
    assert config["ack_wait"] == 5_000_000_000


async def test_an_agent_that_takes_nothing_gets_no_consumer(broker: Broker) -> None:
    """Without a filter the broker would deliver the whole ledger, denied messages and all."""
    before = await everything(broker)
    nothing = Subscription(OTHER, (), (), 2.0)
    with pytest.raises(InvalidInput, match=r"team\.other"):
        await converge(await broker.connect(REGISTRAR), replace(LIMITS, backlog=7), [nothing])

    assert await everything(broker) == before


async def test_the_ingress_stream_is_brought_in_line(broker: Broker) -> None:
    """Its limits may change while messages are in it."""
    registrar, source = await broker.connect(REGISTRAR), await broker.connect(AGENT)
    await source.publish("in.team.agent", b"kept")
    wanted = replace(LIMITS, ingress_bytes=2**27, backlog=7)
    assert await drift(registrar, wanted) == [
        f"INGRESS_0: max_bytes is {2**28}, declared {2**27}",
        "INGRESS_0: max_msgs_per_subject is 100000, declared 7",
    ]

    await converge(registrar, wanted)
    assert await drift(registrar, wanted) == []
    assert await broker.stored("INGRESS_0") == [("in.team.agent", b"kept")]


CHANGES: dict[str, dict[str, Any]] = {
    "INGRESS_0": {
        "subjects": ["in.*.*", "x"],
        "discard": "old",
        "discard_new_per_subject": False,
        "max_age": 10**9,
        "max_msgs": 1,
        "allow_direct": True,
        "allow_msg_ttl": True,
        "allow_atomic": True,
        "allow_batched": True,
        "allow_rollup_hdrs": True,
        "republish": {"src": ">", "dest": "x.>"},
        "subject_transform": {"src": "in.*.*", "dest": "in.a.b"},
    },
    "LEDGER_0": {
        "max_bytes": 2**29,
        "max_age": 10**9,
        "max_msgs": 1,
        "max_msgs_per_subject": 1,
        "duplicate_window": 10**9,
        "allow_direct": False,
        "allow_batched": False,
        "allow_msg_ttl": True,
        "republish": {"src": ">", "dest": "x.>"},
    },
}


@pytest.mark.parametrize("stream", CHANGES)
async def test_each_field_that_somebody_changed_is_reported(broker: Broker, stream: str) -> None:
    """One line a difference: stream, field, what it is and what it should be.

    Also what is not used at all is declared: an age or a republishing would make messages vanish
    or appear.
    """
    changes = CHANGES[stream]
    await update(broker, stream, **changes)
    lines = await drift(await broker.connect(REGISTRAR), LIMITS, SUBSCRIPTIONS)
    fields = [line.split(" is ")[0] for line in lines]

    assert sorted(fields) == sorted(f"{stream}: {field}" for field in changes)
    assert all(", declared " in line for line in lines)


async def test_a_consumer_that_somebody_changed_is_reported_and_mended(broker: Broker) -> None:
    """How often and how long the broker waits is declared too."""
    admin, registrar = await broker.connect(ADMIN), await broker.connect(REGISTRAR)
    config = (await everything(broker))["LEDGER_0 team_agent"]
    await admin.api(
        "$JS.API.CONSUMER.CREATE.LEDGER_0.team_agent",
        {"stream_name": "LEDGER_0", "config": {**config, "max_deliver": 3, "ack_wait": 10**9}},
    )
    assert await drift(registrar, LIMITS, SUBSCRIPTIONS) == [
        "team_agent: ack_wait is 1000000000, declared 2000000000",
        "team_agent: max_deliver is 3, declared -1",
    ]

    await converge(registrar, LIMITS, SUBSCRIPTIONS)
    assert await drift(registrar, LIMITS, SUBSCRIPTIONS) == []


async def test_a_ledger_that_differs_is_an_error_and_nothing_is_touched(broker: Broker) -> None:
    """TopologyDrift says what differs; ingress and consumers stay as they are as well."""
    await update(broker, "LEDGER_0", max_bytes=2**29, duplicate_window=10**9)
    before = await everything(broker)
    with pytest.raises(TopologyDrift) as caught:
        await converge(await broker.connect(REGISTRAR), replace(LIMITS, backlog=7), [MORE])

    assert caught.value.differences == [
        f"LEDGER_0: max_bytes is {2**29}, declared {2**30} "
        "(`tidegate ledger grow` gives it more room)",
        "LEDGER_0: duplicate_window is 1000000000, declared 100000000",
    ]
    assert await everything(broker) == before


@pytest.mark.parametrize(
    "call", ["STREAM.PURGE.LEDGER_0", "STREAM.MSG.DELETE.LEDGER_0"], ids=["purge", "delete"]
)
async def test_the_ledger_stream_refuses_to_forget(broker: Broker, call: str) -> None:
    """Its configuration says so even to somebody with all rights."""
    admin = await broker.connect(ADMIN)
    await admin.api("ledger.0.allow.event.x", "a record")
    with pytest.raises(ApiError):
        await admin.api(f"$JS.API.{call}", {"seq": 1})

    assert await broker.length("LEDGER_0") == 1
