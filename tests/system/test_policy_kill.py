"""No fault, restart and reload ever admits what the bundle in force denies: with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter

import pytest

from policy.rig import check, length, settled
from policy.test_gateway_crash import Gateways
from support import OPERATOR, PUBLISHER, Broker, until
from support.broker import AGENT, OTHER
from tidegate_bus import publisher as publishing
from tidegate_bus.publisher import Publisher
from tidegate_policy.bundle import Bundle
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Principal, Verdict

SENDERS = (AGENT, OTHER, PUBLISHER)
TOPICS = ("t.a", "t.b", "t.c")
OPERATORS = """
@id("operators") permit (principal, action in Action::"control", resource)
when { principal.role == "operator" };
"""
PERMITTED: tuple[set[tuple[Principal, str]], ...] = (
    {(AGENT, "t.a"), (OTHER, "t.b")},
    {(AGENT, "t.b"), (AGENT, "t.c"), (PUBLISHER, "t.a"), (OTHER, "t.b")},
    {(PUBLISHER, "t.a"), (PUBLISHER, "t.b"), (PUBLISHER, "t.c")},
)
"""What each bundle permits, as a table. Where the ledger begins all of it is."""


def bundle(number: int) -> Bundle:
    """A bundle that says in Cedar what the table says."""
    rules = [
        f'@id("{by} {to}") permit (principal == Agent::"{by}", action in Action::"event", '
        f'resource == Topic::"{to}");'
        for by, to in sorted(PERMITTED[number], key=str)
    ]
    return Bundle.of_files({"policy.cedar": OPERATORS + "\n".join(rules)})


TABLES = [{(str(by), to) for by, to in table} for table in PERMITTED]
BUNDLES = {bundle(number).digest: number for number in range(len(PERMITTED))}


async def _send(
    publisher: Publisher,
    by: Principal,
    chance: random.Random,
    number: int,
    changed: asyncio.Event,
) -> None:
    """Say a lot, whatever becomes of it; some of it twice, and half of it after a change."""

    async def say(n: int) -> None:
        envelope = Envelope.new(chance.choice(TOPICS), {"n": n}, id=f"{by}{n}")
        for _ in range(2 if n % 10 == 0 else 1):
            with contextlib.suppress(Denied):
                await publisher.publish(envelope, timeout=120)

    await asyncio.gather(*(say(n) for n in range(number // 2)))
    await changed.wait()
    await asyncio.gather(*(say(n) for n in range(number // 2, number)))


async def _reload(
    operator: Publisher, chance: random.Random, changed: asyncio.Event, done: asyncio.Event
) -> int:
    """Put one bundle in force after the other; how often that succeeded."""
    for number in range(len(PERMITTED)):
        files = {"files": dict(bundle(number).files)}
        propose = Envelope.new("policy.propose", files, kind="control", to="policy.propose")
        await operator.publish(propose, timeout=120)
    activated = 0
    while not done.is_set():
        digest = chance.choice(list(BUNDLES))
        activate = Envelope.new(
            "policy.activate", {"bundle": digest}, kind="control", to="policy.activate"
        )
        try:
            await operator.publish(activate, timeout=120)
            activated += 1
            changed.set()
        except Denied:
            pass  # it is in force already
    return activated


def judge(records: list[Record]) -> tuple[Counter[Verdict], int]:
    """What the table says of every record: verdicts of events, and changes of policy."""
    verdicts: Counter[Verdict] = Counter()
    active, changes = "", 0
    for made in records:
        if not active:
            active = made.why.bundle  # of the beginning
        assert made.why.bundle == active, f"record {made.seq} is under another bundle"
        message = made.message()
        assert message
        if made.kind is Kind.EVENT and made.verdict is not Verdict.DUPLICATE:
            permitted = not changes or (made.by, made.to) in TABLES[BUNDLES[active]]
            assert made.verdict is (Verdict.ALLOW if permitted else Verdict.DENY), made.seq
            verdicts[made.verdict] += 1
        if made.to == "policy.activate" and made.verdict is Verdict.ALLOW:
            active, changes = message.payload()["bundle"], changes + 1
    return verdicts, changes


async def survive(broker: Broker, seed: int, *, messages: int, kills: int) -> None:
    """Kill the gateway while others publish and reload; judge all that it wrote."""
    chance = random.Random(seed)
    gateways = Gateways(broker)
    supervisor = asyncio.create_task(gateways.supervise())
    changed, done = asyncio.Event(), asyncio.Event()
    try:
        operator = await broker.publisher(OPERATOR)
        reloading = asyncio.create_task(_reload(operator, chance, changed, done))
        publishers = [await broker.publisher(by, window=50) for by in SENDERS]
        sending = asyncio.gather(
            *(
                _send(publisher, by, random.Random(f"{seed} {by}"), messages, changed)
                for publisher, by in zip(publishers, SENDERS, strict=True)
            )
        )
        for _ in range(kills):
            begun, target = gateways.begun, await length(broker) + chance.randrange(150)

            async def far_enough(target: int = target) -> bool:
                return supervisor.done() or sending.done() or await length(broker) >= target

            await until(lambda: gateways.begun > 0 or supervisor.done())
            await until(far_enough, seconds=60)
            gateways.kill()
            await until(lambda begun=begun: gateways.begun > begun or supervisor.done())
        await until(lambda: sending.done() or supervisor.done(), seconds=100 + messages / 20)
        assert not supervisor.done(), supervisor.exception()
        await sending
        done.set()
        activated = await reloading
        await until(lambda: settled(broker), seconds=60)
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)

    records = await check(broker)
    verdicts, changes = judge(records)
    assert sum(verdicts.values()) == len(SENDERS) * messages
    assert verdicts[Verdict.ALLOW] > 0 < verdicts[Verdict.DENY]
    assert changes >= activated > 0
    assert gateways.begun > kills


async def test_nothing_is_admitted_that_the_bundle_in_force_denies(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed eight times while operators reload as fast as they can and three senders publish.

    Every record is under the bundle of the last activation before it, its verdict is the one of an
    independent table, and every submission has one.
    """
    monkeypatch.setattr(publishing, "_RESEND_SECONDS", 0.5)
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")

    await survive(broker, seed, messages=500, kills=8)


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_however_often_it_is_killed_and_reloaded(broker: Broker) -> None:
    """The same with more of it."""
    await survive(broker, 1, messages=1_000, kills=15)
