"""Guarantees G3 and G4 together: whoever signs or keeps the ledger may be killed at any moment."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import sys
import time
from pathlib import Path

import pytest

from support import until
from tidegate.bench import PROJECT
from tidegate.bus import Bus
from tidegate.child import Child
from tidegate.evidence_keys import signing_keys
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_evidence.note import Note
from tidegate_evidence.tiles import TileReader
from tidegate_evidence.tree import Frontier, leaf_hash
from tidegate_evidence.trust import Trust
from tidegate_policy.invariants import Checker
from tidegate_schemas import Envelope, subjects
from tidegate_schemas.evidence import KeyRole
from tidegate_schemas.vocabulary import OPERATOR

KILLS = 20
RATE = 400  # events a second


def free_port() -> int:
    """A port on loopback that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port: int = listening.getsockname()[1]
        return port


async def kill(child: Child) -> None:
    """SIGKILL, and wait until it runs again."""
    before = child.pid
    assert before
    os.kill(before, signal.SIGKILL)
    await until(lambda: child.pid not in (None, before), seconds=30)


@pytest.mark.long
@pytest.mark.timeout(240)
async def test_killing_whoever_signs_and_keeps_the_ledger_leaves_no_gap_and_no_fork(
    tmp_path: Path,
) -> None:
    """Twenty SIGKILLs of gateway, notary, witness and broker under load; evidence catches up."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance, folder, state = random.Random(seed), tmp_path / "bench", tmp_path / "state"
    lines: list[str] = []
    shutil.copytree(PROJECT, folder)
    keys = signing_keys(load_project(folder, state))
    keys.ensure(time.time_ns())
    writer = keys.signers(KeyRole.WRITER)[0].verifier
    port = free_port()
    arguments = ["witness", "--state", str(tmp_path / "witness"), "--name", "test/witness"]
    arguments += ["--log", str(writer), "--listen", f"127.0.0.1:{port}"]
    witness = Child(
        "witness",
        [sys.executable, "-m", "tidegate", *arguments],
        tmp_path,
        tmp_path / "witness.log",
        lambda name, line: lines.append(line),
    )
    witness.start()
    try:
        await until(lambda: any(line.startswith("url") for line in lines), seconds=30)
        key = next(line.removeprefix("key").strip() for line in lines if line.startswith("key"))
        with (folder / "tidegate.yaml").open("a") as settings:
            settings.write(
                f"evidence: {{witnesses: [{{key: '{key}', url: 'http://127.0.0.1:{port}'}}]}}\n"
            )
        project = load_project(folder, state)
        async with (
            Stack(project) as stack,
            await Bus.of_project("bench.load", folder, state, window=500) as load,
            await Bus.of_project(str(OPERATOR), folder, state) as operator,
        ):
            signers = [c for c in stack.children if c.name in ("gateway", "notary")]
            whom = [*signers, witness, None] * (KILLS // 4)
            chance.shuffle(whom)

            async def disturb() -> None:
                for child in whom:
                    await asyncio.sleep(chance.uniform(0.2, 1.5))
                    if child is None:
                        os.kill(stack.server.pid, signal.SIGKILL)
                    else:
                        await kill(child)

            sending = asyncio.create_task(disturb())
            envelopes: list[Envelope] = []
            async with asyncio.TaskGroup() as tasks:
                while not sending.done() or len(envelopes) < 500:
                    envelopes.append(Envelope.new("bench.event", {"payload": "x" * 256}))
                    tasks.create_task(load.publish(envelopes[-1], timeout=120))
                    await asyncio.sleep(1 / RATE)
            await sending
            last = await operator.ledger.last()
            assert last
            trust = Trust.parse(project.state.trust.read_bytes())

            def caught_up() -> bool:
                note = Note.parse((project.state.notary / "checkpoint").read_bytes())
                return int(note.text.split("\n")[1]) >= last.seq and len(trust.cosigned(note)) == 2

            await until(caught_up, seconds=60)
            checker, tree, ids = Checker(), Frontier(), list[str]()
            async for stored in operator.ledger.read(1):
                record = checker.add(stored)
                assert record
                tree.append(leaf_hash(stored.payload))
                if record.by == "bench.load" and record.verdict == "allow":
                    message = record.message()
                    assert message
                    ids.append(message.id)
                if stored.seq == last.seq:
                    break
            async with await stack.connect(REGISTRAR) as connection:
                ingress = await connection.stream_state(subjects.ingress_stream(0))
    finally:
        await witness.stop(5)

    assert checker.finish(ingress_last=ingress.last_seq) == []
    assert sorted(ids) == sorted(envelope.id for envelope in envelopes)
    checkpoint = trust.check(Note.parse((project.state.notary / "checkpoint").read_bytes()))
    assert checkpoint.size >= last.seq
    assert TileReader(project.state.notary, last.seq).frontier().root() == tree.root()
    assert not list(project.state.notary.glob("alarms/*"))
