"""A notary at work beside a gateway: it follows, and it may be killed."""

from __future__ import annotations

import asyncio
import random
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from policy.signing.writer import access, tiles_hold, tree
from support import PUBLISHER, Broker, until
from support.broker import WRITER
from tidegate_bus.broker import lifeline
from tidegate_bus.broker.accounts import NOTARY
from tidegate_bus.telemetry import Health
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Algorithm, Note, Signer
from tidegate_policy.signing.notary import Notary, NotarySettings
from tidegate_schemas.envelope import Envelope

SCRIPT = Path(__file__).with_name("notary_process.py")
SIGNER = Signer.generate("test/notary", Algorithm.COSIGNATURE)


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint, which both have signed."""
    try:
        note = Note.parse((folder / "checkpoint").read_bytes())
    except FileNotFoundError:
        return None
    assert WRITER.verifier.check(note) is not None
    assert SIGNER.verifier.check(note) is not None
    return Checkpoint.parse(note.text)


def covers(folder: Path, size: int) -> bool:
    """Whether the newest checkpoint covers so many records."""
    found = newest(folder)
    return found is not None and found.size >= size


async def payloads(broker: Broker) -> list[bytes]:
    """The ledger as the broker has it."""
    return [stored.payload async for stored in (await broker.reader()).read()]


@asynccontextmanager
async def working(broker: Broker, folder: Path) -> AsyncGenerator[Health]:
    """A notary at work in this process."""
    health = Health()
    settings = NotarySettings("test/0", lambda: [WRITER.verifier], lambda: [SIGNER])
    notary = Notary(access(broker, NOTARY), folder, settings, health)
    task = asyncio.create_task(notary.run())
    try:
        yield health
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.get_running_loop().shutdown_default_executor()
        notary.close()


async def publish(broker: Broker, first: int, count: int) -> None:
    """Submit messages and wait for the verdicts."""
    publisher = await broker.publisher(PUBLISHER)
    messages = (Envelope.new("x.y", {"n": n}, id=f"m{n}") for n in range(first, first + count))
    await asyncio.gather(*(publisher.publish(one) for one in messages))


async def test_a_record_on_a_bus_at_rest_is_cosigned_soon(broker: Broker) -> None:
    """Long before the cadence under load: nobody waits for a second record."""
    folder = broker.folder / "notary"
    async with broker.gateway(), working(broker, folder) as health:
        for number in range(3):
            await publish(broker, number, 1)
            await until(lambda number=number: covers(folder, number + 1), seconds=10)
        assert health.report()[0]

    assert newest(folder) == Checkpoint("test/0", 3, tree(await payloads(broker)).root())


async def test_the_bus_goes_on_without_it(broker: Broker) -> None:
    """And when it comes it has caught up at once."""
    folder = broker.folder / "notary"
    async with broker.gateway():
        await publish(broker, 0, 500)
        async with working(broker, folder):
            await until(lambda: covers(folder, 500))

    assert tiles_hold(folder, await payloads(broker))


async def start(broker: Broker, folder: Path) -> Process:
    """A notary in a process of its own."""
    with (broker.folder / "notary.log").open("ab") as log:
        return await asyncio.create_subprocess_exec(
            *lifeline.command(
                sys.executable,
                str(SCRIPT),
                broker.url,
                broker.keyring.seed(NOTARY),
                str(folder),
                str(WRITER.verifier),
                SIGNER.secret(),
            ),
            stderr=log,
        )


async def survive(broker: Broker, messages: int, kills: int, chance: random.Random) -> None:
    """Kill a notary again and again under load; what it leaves is what one would have left."""
    folder, other = broker.folder / "notary", broker.folder / "other"
    async with broker.gateway():
        load = asyncio.create_task(publish(broker, 0, messages))
        for number in range(kills):
            notary = await start(broker, folder)
            before = newest(folder)
            size = before.size if before else 0
            if number % 2:  # in the middle of something, not before it has begun
                await until(lambda size=size: load.done() or covers(folder, size + 1))
            target = await broker.length("LEDGER_0") + chance.randrange(messages // kills)

            async def far_enough(target: int = target) -> bool:
                return load.done() or await broker.length("LEDGER_0") >= target

            await until(far_enough)
            notary.kill()
            await notary.wait()
            after = newest(folder)
            assert after is None or after.size >= size
        await load
        notary = await start(broker, folder)
        await until(lambda: covers(folder, messages), seconds=60)
        notary.kill()
        await notary.wait()
        async with working(broker, other):
            await until(lambda: covers(other, messages), seconds=60)

    records = await payloads(broker)
    assert newest(folder) == newest(other)
    assert newest(folder) == Checkpoint("test/0", len(records), tree(records).root())
    assert tiles_hold(folder, records)
    assert not (folder / "alarms").exists()
    log = (broker.folder / "notary.log").read_text()
    assert "ALARM" not in log


async def test_a_notary_that_is_killed_catches_up(broker: Broker) -> None:
    """At any moment: its tree is that of one that was never killed, and nothing is an alarm."""
    await survive(broker, 3_000, 4, random.Random(3))


@pytest.mark.long
@pytest.mark.timeout(300)
async def test_a_notary_that_is_killed_twenty_times_catches_up(broker: Broker) -> None:
    """The same for longer."""
    await survive(broker, 20_000, 20, random.Random(4))
