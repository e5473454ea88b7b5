"""A gateway that is killed again and again, and the ledger that it leaves."""

from __future__ import annotations

import asyncio
import random
import signal
import sys
from asyncio.subprocess import PIPE, Process
from pathlib import Path

import msgspec
import pytest

from policy.kit import write
from policy.rig import check, length, settled
from support import Broker, until
from support.broker import PERMIT_ALL, ROSTER
from tidegate_bus import publisher as publishing
from tidegate_bus.broker import lifeline
from tidegate_bus.publisher import Publisher
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import GATEWAY

SCRIPT = Path(__file__).with_name("gateway_process.py")
FENCED = 3


class Gateways:
    """Gateway processes, one after the other: when one ends, another that is loaded follows it."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._bundle = write(broker.folder / "bundle", {"policy.cedar": PERMIT_ALL})
        self._roster = broker.folder / "roster.json"
        self._roster.write_bytes(msgspec.json.encode(ROSTER))
        self._log = broker.folder / "gateways.log"
        self._begun: list[Process] = []

    @property
    def begun(self) -> int:
        """How many have begun."""
        return len(self._begun)

    async def supervise(self) -> None:
        """See that one works, until cancelled; then kill it and the one that waits."""
        spare = await self._load()
        try:
            while True:
                assert spare.stdin
                spare.stdin.write(b"begin\n")
                self._begun.append(spare)
                spare = await self._load()
                status = await self._begun[-1].wait()
                assert status in (-signal.SIGKILL, FENCED), self._log.read_text()
        finally:
            await end(spare)
            for process in self._begun:
                await end(process)

    def kill(self) -> None:
        """Kill the one that works."""
        if self._begun[-1].returncode is None:
            self._begun[-1].kill()

    async def _load(self) -> Process:
        with self._log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                *lifeline.command(
                    sys.executable,
                    str(SCRIPT),
                    self._broker.url,
                    self._broker.keyring.seed(GATEWAY),
                    str(self._bundle),
                    str(self._roster),
                ),
                stdin=PIPE,
                stdout=log,
                stderr=log,
            )


async def end(process: Process) -> None:
    """Kill a process if it is there."""
    if process.returncode is None:
        process.kill()
    await process.wait()
    if process.stdin:
        process.stdin.close()


async def publish(publisher: Publisher, number: int) -> list[Receipt]:
    """Publish so many messages, each until its verdict is heard."""
    envelopes = [Envelope.new("x.y", {"n": n}, id=f"m{n}") for n in range(number)]
    return await asyncio.gather(*(publisher.publish(one, timeout=300) for one in envelopes))


async def survive(broker: Broker, messages: int, kills: int, chance: random.Random) -> None:
    """Kill the gateway `kills` times while messages are sent; check all that was written."""
    gateways = Gateways(broker)
    supervisor = asyncio.create_task(gateways.supervise())
    try:
        load = asyncio.create_task(publish(await broker.publisher(window=100), messages))
        for _ in range(kills):
            begun = gateways.begun
            target = await length(broker) + chance.choice([0, 1, chance.randrange(200)])

            async def far_enough(target: int = target) -> bool:
                return supervisor.done() or load.done() or await length(broker) >= target

            await until(lambda begun=begun: gateways.begun > 0 or supervisor.done())
            await until(far_enough, seconds=60)
            gateways.kill()
            await until(lambda begun=begun: gateways.begun > begun or supervisor.done())
        await asyncio.wait([load, supervisor], return_when=asyncio.FIRST_COMPLETED)
        assert not supervisor.done(), supervisor.exception()
        receipts = await load
        await until(lambda: settled(broker))
    finally:
        supervisor.cancel()
        await asyncio.gather(supervisor, return_exceptions=True)

    records = await check(broker)
    firsts = [made for made in records if made.verdict is not Verdict.DUPLICATE]
    assert len(firsts) == messages
    assert {receipt.was or receipt.verdict for receipt in receipts} == {Verdict.ALLOW}
    assert gateways.begun > kills


async def test_a_gateway_that_is_killed_ten_times_loses_and_repeats_nothing(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 2,000 messages each has exactly one first record, in the order of arrival."""
    monkeypatch.setattr(publishing, "_RESEND_SECONDS", 0.5)

    await survive(broker, 2_000, 10, random.Random(1))


@pytest.mark.long
@pytest.mark.timeout(600)
async def test_a_gateway_may_be_killed_very_often(broker: Broker) -> None:
    """The same with 6,000 messages and thirty kills, at other moments."""
    await survive(broker, 6_000, 30, random.Random(0))
