"""Signed heads: what a gateway goes on from, and what it refuses to go on from."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from policy.rig import running
from support import PUBLISHER, Broker, running_broker, until
from support.broker import WRITER, heads
from tidegate_bus.heads import newest_head
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer
from tidegate_evidence.tree import Frontier, leaf_hash
from tidegate_policy.signing.heads import HEAD_RECORDS, Heads
from tidegate_schemas import subjects
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import TidegateError, VerificationError
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import GATEWAY

ADDRESS = subjects.ledger(0, Verdict.ALLOW, Kind.EVENT, "x.y")


async def publish(broker: Broker, *ids: str) -> None:
    """Submit envelopes of these ids, and wait for the verdicts."""
    publisher = await broker.publisher(PUBLISHER)
    for one in ids:
        await publisher.publish(Envelope.new("x.y", id=one))


async def leaves(broker: Broker) -> list[bytes]:
    """Leaf hashes of the ledger as the broker has it."""
    return [leaf_hash(payload) for _, payload in await broker.stored("LEDGER_0")]


async def head(broker: Broker) -> Checkpoint:
    """What was signed last, and verifies."""
    data = await newest_head(await broker.connect(GATEWAY))
    assert data
    note = Note.parse(data)
    assert WRITER.verifier.check(note) == 0
    return Checkpoint.parse(note.text)


async def signed(broker: Broker, size: int) -> Checkpoint:
    """The head, once it covers so many records."""

    async def covered() -> bool:
        found = await newest_head(await broker.connect(GATEWAY))
        return found is not None and (await head(broker)).size >= size

    await until(covered)
    return await head(broker)


async def refusal(broker: Broker) -> str:
    """Why a gateway does not start, or ends."""
    async with running(broker) as gateway, asyncio.timeout(20):
        await asyncio.wait({gateway.task})
    error = gateway.task.exception()
    assert isinstance(error, VerificationError)
    return str(error)


@asynccontextmanager
async def another(broker: Broker, *ids: str) -> AsyncGenerator[Broker]:
    """Another broker with another ledger, of whose gateway this one's files are written down."""
    async with running_broker(broker.folder / "another") as other:
        await other.converge()
        async with running(other):
            await publish(other, *ids)
            if ids:
                await signed(other, len(ids))
        shutil.rmtree(other.folder / "writer", ignore_errors=True)
        shutil.copytree(broker.folder / "writer", other.folder / "writer")
        yield other


async def test_heads_are_of_the_ledgers_tree(broker: Broker) -> None:
    """They verify, name the log, and have the root over the records; also after a new start."""
    for first in (0, 5):
        async with running(broker):
            await publish(broker, *(f"m{first + n}" for n in range(5)))
            newest = await signed(broker, first + 5)
        frontier = Frontier()
        frontier.extend((await leaves(broker))[: newest.size])
        assert newest == Checkpoint("test/0", first + 5, frontier.root())


async def test_a_ledger_that_lost_signed_records_is_not_signed_again(broker: Broker) -> None:
    """The error says how many records were signed, and what can be done."""
    async with running(broker):
        await publish(broker, "m0", "m1")
        await signed(broker, 2)
    async with another(broker) as other:
        why = await refusal(other)

    assert "has signed 2 records: it ends at record 0" in why
    assert "Restore the ledger's streams" in why


async def test_another_ledger_is_not_signed_for(broker: Broker) -> None:
    """One as long, with other records, meets what is written down; nothing is signed."""
    async with running(broker):
        await publish(broker, "m0", "m1")
        await signed(broker, 2)
    async with another(broker, "x0", "x1", "x2") as other:
        before = await head(other)
        why = await refusal(other)

        assert "record 2 is another" in why
        assert await head(other) == before


async def test_what_somebody_put_behind_the_head_is_not_signed(broker: Broker) -> None:
    """A record that no gateway wrote is found by its absence from the leaves written down."""
    async with running(broker):
        await publish(broker, "m0")
        await signed(broker, 1)
    foreign = await broker.connect(GATEWAY)
    _, payload = (await broker.stored("LEDGER_0"))[0]
    await foreign.publish(ADDRESS, payload.replace(b'"seq":1', b'"seq":2', 1))
    await foreign.nats.flush()

    assert "record 2 of test/0 is not the one that this gateway wrote" in await refusal(broker)


async def test_a_record_that_was_altered_before_it_was_signed_is_found(broker: Broker) -> None:
    """Leaves outlive the gateway: the tail that no head covers must be what was sent."""
    made, reader = heads(broker.folder / "writer"), await broker.reader()
    await made.recover(reader, 0, None)
    made.sending(1, [leaf_hash(b"sent")])
    made.close()
    foreign = await broker.connect(GATEWAY)
    await foreign.publish(ADDRESS, b"altered")
    await foreign.nats.flush()

    with pytest.raises(VerificationError, match="record 1"):
        await heads(broker.folder / "writer").recover(reader, 1, None)


async def test_leaves_of_a_batch_that_never_arrived_do_not_count(broker: Broker) -> None:
    """What was decided again may be stored in either form, and nothing needs to be stored."""
    folder, reader = broker.folder / "writer", await broker.reader()
    for attempt in (b"first", b"second"):
        made = heads(folder)
        await made.recover(reader, 0, None)
        made.sending(1, [leaf_hash(attempt), leaf_hash(b"more")])
        made.close()
    journal = folder / "leaves"
    journal.write_bytes(journal.read_bytes() + b"\0\0\0\0\0\0\0\1\0\0\0\2torn")
    foreign = await broker.connect(GATEWAY)
    await foreign.publish(ADDRESS, b"first")
    await foreign.nats.flush()

    made = heads(folder)
    await made.recover(reader, 1, None)
    made.close()
    assert made.size == 1


async def test_half_a_batch_of_leaves_is_none(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the disk takes a part only, the batch is not sent, and nothing is written behind it."""
    made = heads(broker.folder / "writer")
    await made.recover(await broker.reader(), 0, None)
    with monkeypatch.context() as full:
        write = os.write

        def half(file: int, data: bytes) -> int:
            return write(file, data[:20])

        full.setattr(os, "write", half)
        with pytest.raises(OSError, match="No space left"):
            made.sending(1, [leaf_hash(b"sent")])
    made.close()


async def test_whoever_lost_what_was_written_down_goes_on_from_what_was_published(
    broker: Broker,
) -> None:
    """The tree is built again, and must pass through the newest head that anybody has seen."""
    async with running(broker):
        await publish(broker, "m0", "m1", "m2")
        await signed(broker, 3)
    shutil.rmtree(broker.folder / "writer")
    async with running(broker):
        await publish(broker, "m3")
        newest = await signed(broker, 4)
    frontier = Frontier()
    frontier.extend(await leaves(broker))
    assert newest.root == frontier.root()

    async with another(broker, "x0", "x1", "x2", "x3") as other:
        shutil.rmtree(other.folder / "writer")
        data = await newest_head(await broker.connect(GATEWAY))
        assert data
        forged = await other.connect(GATEWAY)
        await forged.publish(subjects.head(0), data)
        await forged.nats.flush()

        assert "has signed 4 records: its records are others" in await refusal(other)


async def test_a_head_is_written_down_before_anybody_sees_it(broker: Broker) -> None:
    """Who fails to publish it has signed it all the same, and publishes it next time."""
    folder, reader = broker.folder / "writer", await broker.reader()
    seen: list[bytes] = []

    async def fail(note: bytes) -> None:
        seen.append(note)
        raise TidegateError("nobody is there")

    made = heads(folder)
    await made.recover(reader, 0, None)
    made.sending(1, [leaf_hash(b"sent")])
    made.stored([leaf_hash(b"sent")])
    foreign = await broker.connect(GATEWAY)
    await foreign.publish(ADDRESS, b"sent")
    await foreign.nats.flush()
    for _ in range(2):
        with pytest.raises(TidegateError, match="nobody"):
            await made.run(fail)
        made.close()
        made = heads(folder)
        await made.recover(reader, 1, None)
    made.close()

    assert len(seen) == 2
    assert seen[0] == seen[1]


async def test_a_head_that_is_still_being_written_is_waited_for(
    broker: Broker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A start in the same process goes on from what a slow disk writes, not from the one before."""
    reader, foreign = await broker.reader(), await broker.connect(GATEWAY)
    made = heads(broker.folder / "writer")
    await made.recover(reader, 0, None)
    made.sending(1, [leaf_hash(b"sent")])
    await foreign.publish(ADDRESS, b"sent")
    await foreign.nats.flush()
    made.stored([leaf_hash(b"sent")])
    begun, slow, fsync = threading.Event(), threading.Event(), os.fsync

    def wait(file: int) -> None:
        begun.set()
        slow.wait(10)
        fsync(file)

    monkeypatch.setattr(os, "fsync", wait)
    signing = asyncio.create_task(made.sign(0))
    await asyncio.to_thread(begun.wait, 10)
    signing.cancel()
    again = asyncio.create_task(made.recover(reader, 1, None))
    await asyncio.wait({signing, again}, timeout=0.3)
    assert (signing.cancelled(), again.done()) == (True, False)
    slow.set()
    await again
    made.close()

    assert made.signed == 1


async def test_a_gateway_may_be_killed_right_after_the_machine_was(broker: Broker) -> None:
    """Records without leaves, of before a power failure, are taken by each start after it.

    Also by one that follows a start which came no further than to look at them.
    """
    folder, reader = broker.folder / "writer", await broker.reader()
    foreign = await broker.connect(GATEWAY)
    await foreign.publish(ADDRESS, b"before")
    await foreign.nats.flush()
    for _ in range(3):
        made = heads(folder)
        await made.recover(reader, 1, None)
        made.close()
        assert made.size == 1


async def test_many_records_do_not_wait_for_the_clock(broker: Broker) -> None:
    """A head is due after so many records; both keys sign while one replaces the other."""
    old, new = WRITER, Signer.generate("test/0")
    made = Heads(broker.folder / "writer", "test/0", lambda: [new, old])
    await made.recover(await broker.reader(), 0, None)
    published = asyncio.Queue[bytes]()
    task = asyncio.create_task(made.run(published.put))
    many = [leaf_hash(b"%d" % n) for n in range(HEAD_RECORDS)]
    made.sending(1, many)
    made.stored(many)
    note = Note.parse(await published.get())
    task.cancel()
    made.close()

    assert Checkpoint.parse(note.text).size == made.signed == HEAD_RECORDS
    assert [key.verifier.check(note) for key in (old, new)] == [0, 0]
