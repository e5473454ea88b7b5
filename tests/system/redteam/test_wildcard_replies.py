"""An answer aimed at a wildcard: nothing in an account of one's own, a nuisance in a shared one.

Each request across accounts leaves a note at the broker of where its answer goes. When one is
answered, nats-server removes the notes of all requests in the account whose reply the *reply of
this one* matches, and takes wildcards there as such (`Account.checkForReverseEntries`, 2.15.1).
So one submission with the reply `>` ends every pull that waits in that account, of every worker:
the broker counts the next message of each as delivered and drops it on the way. It comes again
when the lease is over; until the worker notices the silence of its pull it hears nothing.

In static mode there is nobody else in the account of the attacker. In operator mode there is, so
there an agent can hold up the deliveries of others. It cannot lose them, reveal them or forge any.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from support import ADMIN, OTHER, TOPIC, until
from tidegate_bus import puller
from tidegate_bus.broker import topology
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.delivery import Delivery, Inbox
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.subjects import consumer_create

from .attack import Attack
from .attacks_wildcards import EFFECTIVE, WILDCARDS
from .ground import POLICIES, Ground, bare, foe, ground
from .judge import Judge, Kind
from .layouts import Layout


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize("attack", WILDCARDS, ids=str)
async def test_an_answer_to_a_wildcard_disturbs_nobody(judge: Judge, attack: Attack) -> None:
    """Others go on as if nothing had happened."""
    assert await judge.breaches(attack) == []


@pytest.mark.parametrize("attack", EFFECTIVE, ids=str)
async def test_in_one_account_it_delays_but_forges_and_reveals_nothing(
    tmp_path: Path, attack: Attack
) -> None:
    """What it does is deny service: nothing is written, heard or settled under a false name."""
    async with ground(tmp_path, layout=Layout.OPERATOR) as made:
        made.patience = 1.0
        judge = Judge(made)
        await judge.start()
        found = await judge.breaches(attack)

    assert {breach.kind for breach in found} <= {Kind.LOST, Kind.SETTLED}
    assert all("took too long" in b.detail or b.kind is Kind.SETTLED for b in found), found


@pytest.mark.parametrize("layout", [Layout.TOGETHER, Layout.OPERATOR])
async def test_in_one_account_what_it_delays_arrives_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    """Once the worker has noticed the silence and asked anew, and the lease is over."""
    monkeypatch.setattr(puller, "_HEARTBEAT_SECONDS", 0.3)  # so that it notices soon
    got: list[str] = []

    def receive(delivery: Delivery) -> None:
        message = delivery.record.message()
        got.append(message.id if message else "")

    async with bare(tmp_path, layout=layout) as broker, broker.gateway(POLICIES):
        made = Ground(broker, await broker.connect(ADMIN))
        consumer = topology.consumer(Subscription(OTHER, (), (TOPIC,), 1.0))
        await made.admin.api(
            f"{consumer_create('LEDGER_0')}.{consumer['durable_name']}",
            {"stream_name": "LEDGER_0", "config": consumer},
        )
        worker = Inbox(await broker.connect(OTHER), receive)
        await worker.start()
        worker.want(100)
        source = await broker.publisher()
        await source.publish(Envelope.new(TOPIC, id="before"))
        await until(lambda: "before" in got)
        async with foe(made) as attacker:
            await EFFECTIVE[0].run(attacker)
        for name in ("1", "2", "3"):
            await source.publish(Envelope.new(TOPIC, id=name))
        await until(lambda: {"1", "2", "3"} <= set(got))
        await worker.close()

    assert set(got) == {"before", "1", "2", "3"}
