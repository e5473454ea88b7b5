"""What evidence costs: in the gateway, for who verifies, for who exports."""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import msgspec

from tidegate.evidence_keys import SigningKeys
from tidegate.export.evidence import Evidence
from tidegate.export.packing import Order, pack
from tidegate_bus.appender import FastAppender
from tidegate_bus.broker.accounts import NOTARY
from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.connection import connect
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.telemetry import Health
from tidegate_evidence.audit import audit
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.export import Export
from tidegate_evidence.note import Note, Signer
from tidegate_evidence.tiles import TileReader, TileWriter
from tidegate_evidence.tree import Frontier, inclusion, leaf_hash
from tidegate_evidence.trust import Trust
from tidegate_policy.signing.heads import HEAD_RECORDS, Heads
from tidegate_policy.signing.notary import Notary, NotarySettings
from tidegate_schemas import subjects
from tidegate_schemas.audit import Format
from tidegate_schemas.evidence import EvidenceKeys, KeyRole
from tidegate_schemas.vocabulary import GATEWAY

from .history import History
from .load import Figure, OnProgress
from .replay import ledger
from .sealed import announcement, seal

PROJECT = "bench"
ORIGIN = f"{PROJECT}/0"
ROUNDS = 5

_BATCH = 250
_BATCHES = 40
_RECORD_BYTES = 1024
_PROOFS = 200

_TURNS = 100
"""How many batches a second."""
_LOOK_SECONDS = 0.005
_PATIENCE_SECONDS = 60.0


async def evidence(
    folder: Path,
    records: int,
    leaves: int,
    rate: int,
    seconds: float,
    on_progress: OnProgress,
) -> list[Figure]:
    """All of it, one after the other."""
    places = [folder / name for name in ("cost", "proofs", "lag", "exports")]
    for place in places:
        place.mkdir()
    done = 0

    def further(count: int) -> None:
        on_progress(done + count)

    figures = await cost(places[0])
    figures += proofs(places[1], leaves, further)
    done = leaves
    figures += await lag(places[2], rate, seconds, further)
    done += int(rate * seconds)
    return figures + await exports(places[3], records, further)


async def cost(folder: Path) -> list[Figure]:
    """Processor time for each record in the gateway, in steps, beside a hash of its bytes.

    All in turns, the median of some rounds; writing a head to stay is waited for elsewhere, so its
    waiting is not in it.
    """
    batches = [[os.urandom(_RECORD_BYTES) for _ in range(_BATCH)] for _ in range(_BATCHES)]
    signer = Signer.generate(ORIGIN)
    heads = Heads(folder, ORIGIN, lambda: [signer])
    await heads.sign(0)  # begins the journal

    async def plain() -> None:
        for batch in batches:
            for record in batch:
                hashlib.sha256(record).digest()

    async def leaves() -> None:
        for batch in batches:
            for record in batch:
                leaf_hash(record)

    async def tree() -> None:
        frontier = Frontier()
        for batch in batches:
            frontier.extend([leaf_hash(record) for record in batch])

    async def gateway() -> None:
        for batch in batches:
            found = [leaf_hash(record) for record in batch]
            heads.sending(heads.size + 1, found)
            heads.stored(found)
            if heads.size - heads.signed >= HEAD_RECORDS:
                await heads.sign(0)

    steps = {
        "a hash of its bytes": plain,
        "its leaf": leaves,
        "leaf and tree": tree,
        "leaf, tree, journal, heads": gateway,
    }
    taken: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(ROUNDS):
        for name, step in steps.items():
            begin = time.process_time()
            await step()
            taken[name].append((time.process_time() - begin) / (_BATCH * _BATCHES) * 1e6)
    heads.close()
    middle = {name: statistics.median(values) for name, values in taken.items()}
    base, *_, whole = middle.values()
    figures = [Figure(f"gateway: {name}", value, "µs/record") for name, value in middle.items()]
    return [*figures, Figure("gateway: all of it", whole / base, "hashes of its bytes")]


def proofs(folder: Path, size: int, on_progress: OnProgress) -> list[Figure]:
    """Proofs for records of a tree that is on disk; each reader has seen nothing before."""
    writer = TileWriter(folder)
    leaves = (hashlib.sha256(b"%d" % number).digest() for number in range(size))
    while part := list(islice(leaves, 10_000)):
        writer.extend(part)
        on_progress(writer.size)
    writer.sync()
    taken: list[float] = []
    for number in range(_PROOFS):
        begin = time.perf_counter()
        inclusion(number * (size - 1) // _PROOFS, size, TileReader(folder, size).node)
        taken.append((time.perf_counter() - begin) * 1000)
    return [
        Figure(f"proof of 1 of {size:,}: p50", statistics.median(taken), "ms"),
        Figure(f"proof of 1 of {size:,}: slowest of {_PROOFS}", max(taken), "ms"),
    ]


class Task(NamedTuple):
    """What a process of its own exports and verifies."""

    access: Access
    evidence: Path
    folder: Path
    formats: tuple[Format, ...]
    signer: Signer
    writer: str


class Done(NamedTuple):
    """How that went: seconds, and the most memory that the process had, in MiB."""

    seconds: float
    memory: float


async def exports(folder: Path, records: int, on_progress: OnProgress) -> list[Figure]:
    """A ledger in a broker, exported and then verified, each in a process of its own."""
    now = time.time_ns()
    keys = SigningKeys(folder / "keys", PROJECT)
    keys.ensure(now)
    writer, notary, exporter = (
        keys.signers(role)[0] for role in (KeyRole.WRITER, KeyRole.NOTARY, KeyRole.EXPORT)
    )
    evidence = folder / "evidence"
    evidence.mkdir()
    (evidence / "trust").write_text(f"log {writer.verifier}\nquorum none\n")
    leaves: list[bytes] = []

    def entries() -> Iterator[tuple[str, bytes]]:
        last = b""
        for made in islice(History().entries(records), records - 1):
            last = made.payload
            leaves.append(leaf_hash(last))
            yield made.subject, last
        subject, payload = announcement(last, EvidenceKeys(tuple(keys.in_use())))
        leaves.append(leaf_hash(payload))
        yield subject, payload

    figures: list[Figure] = []
    async with ledger(folder, entries(), on_progress) as access:
        seal(evidence / "notary", ORIGIN, leaves, [writer, notary], now // 10**9)
        for formats in ((Format.JSONL,), (Format.PARQUET,), (Format.OCSF,)):
            name = formats[0].value
            task = Task(access, evidence, folder / name, formats, exporter, str(writer.verifier))
            done = await _apart(_export, task)
            figures.append(Figure(f"export as {name}", records / done.seconds, "records/s"))
            figures.append(Figure(f"export as {name}: peak memory", done.memory, "MiB"))
            if Format.JSONL in formats:
                verified = await _apart(_verify, task)
                figures.append(
                    Figure("verified, one core", records / verified.seconds, "records/s")
                )
                figures.append(Figure("verified: peak memory", verified.memory, "MiB"))
    return figures


async def lag(folder: Path, rate: int, seconds: float, on_progress: OnProgress) -> list[Figure]:
    """How far checkpoints are behind the records, at a steady rate.

    A writer with the gateway's tree and heads, and a notary in a process of its own. The records
    are made beforehand: what it takes to decide them is not measured here.
    """
    now, total = time.time_ns(), int(rate * seconds)
    keys = SigningKeys(folder / "keys", PROJECT)
    keys.ensure(now)
    made = [(e.subject, e.payload) for e in islice(History().entries(total), total)]
    batch = max(rate // _TURNS, 1)
    checkpoint = folder / "notary" / "checkpoint"
    stored: list[tuple[float, int]] = []  # when the ledger had how many records
    async with ledger(folder, [], on_progress) as access:
        seed = Keyring(folder / "keys").seed
        as_notary = Access(access.url, NOTARY, seed(NOTARY))
        notary = multiprocessing.get_context("spawn").Process(
            target=_notary, args=(as_notary, folder / "notary", folder / "keys"), daemon=True
        )
        notary.start()
        try:
            async with await connect(access.url, GATEWAY, seed(GATEWAY)) as connection:

                async def publish(note: bytes) -> None:
                    await connection.api(subjects.head(0), msgspec.Raw(note))

                heads = Heads(folder / "writer", ORIGIN, lambda: keys.signers(KeyRole.WRITER))
                await heads.recover(LedgerReader(connection), 0, None)
                appender = await FastAppender.open(connection, last=0)
                signing = asyncio.create_task(heads.run(publish))

                async def write(begin: int, end: int) -> None:
                    leaves = [leaf_hash(payload) for _, payload in made[begin:end]]
                    heads.sending(begin + 1, leaves)
                    await (await appender.append(made[begin:end]))
                    heads.stored(leaves)

                await write(0, batch)  # and wait until the notary is there
                await asyncio.wait_for(_seen(checkpoint, batch), _PATIENCE_SECONDS)
                seeing = asyncio.create_task(_seen(checkpoint, total))
                began = time.monotonic()
                for begin in range(batch, total, batch):
                    end = min(begin + batch, total)
                    await write(begin, end)
                    stored.append((time.monotonic(), end))
                    on_progress(end)
                    await asyncio.sleep(max(0.0, began + begin / rate - time.monotonic()))
                seen = await asyncio.wait_for(seeing, _PATIENCE_SECONDS)
                signing.cancel()
                await asyncio.gather(signing, return_exceptions=True)
                heads.close()
                await appender.close()
        finally:
            notary.kill()
            notary.join()
    behind = sorted(next(at for at, size in seen if size >= n) - when for when, n in stored)
    took = stored[-1][0] - began
    return [
        Figure("written", (total - batch) / took, "records/s"),
        Figure("checkpoint behind its record: p50", statistics.median(behind), "s"),
        Figure("checkpoint behind its record: p99", behind[int(len(behind) * 0.99)], "s"),
        Figure("checkpoint behind its record: most", behind[-1], "s"),
        Figure("checkpoints", len(seen), "checkpoints"),
    ]


def _notary(access: Access, folder: Path, keys: Path) -> None:
    """A notary, until it is killed."""
    found = SigningKeys(keys, PROJECT)
    settings = NotarySettings(
        log=ORIGIN,
        writers=lambda: [signer.verifier for signer in found.signers(KeyRole.WRITER)],
        signers=lambda: found.signers(KeyRole.NOTARY),
    )
    asyncio.run(Notary(access, folder, settings, Health()).run())


async def _seen(path: Path, total: int) -> list[tuple[float, int]]:
    """When which checkpoint was there, until one covers all."""
    found = [(0.0, 0)]
    while found[-1][1] < total:
        await asyncio.sleep(_LOOK_SECONDS)
        if (size := _size(path)) > found[-1][1]:
            found.append((time.monotonic(), size))
    return found[1:]


def _size(path: Path) -> int:
    """Of a checkpoint; 0 while there is none."""
    try:
        return Checkpoint.parse(Note.parse(path.read_bytes()).text).size
    except FileNotFoundError:
        return 0


async def _apart(work: Callable[[Task], Done], task: Task) -> Done:
    """In a process of its own, whose memory is its own."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return await loop.run_in_executor(alone, work, task)


def _export(task: Task) -> Done:
    evidence = Evidence(task.evidence)
    order = Order(1, evidence.checkpoint.size, task.formats, {})
    task.folder.mkdir()
    begin = time.perf_counter()
    with BulkReader(task.access) as reader:
        pack(task.folder, order, reader, evidence, [task.signer], time.time_ns(), _nothing)
    return Done(time.perf_counter() - begin, _most_memory())


def _verify(task: Task) -> Done:
    export = Export.open(task.folder, Trust.of_key(task.writer))
    begin = time.perf_counter()
    report = audit(export.records(), export.checkpoint, export.tiles)
    seconds = time.perf_counter() - begin
    assert report.holds, report.findings
    return Done(seconds, _most_memory())


def _nothing(_done: int) -> None:
    """Nobody looks."""


def _most_memory() -> float:
    """Of this process, in MiB: since it runs this program, where the system tells that apart."""
    try:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) / 1024
    except OSError:
        pass  # not Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
