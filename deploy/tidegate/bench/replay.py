"""How fast the ledger is read again, judged by another bundle, and verified.

The ledger is one with a past (`history`), stored in a broker of its own; the figures are of
records as they come from that broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import multiprocessing
import os
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from tidegate_bus.appender import MAX_BATCH, FastAppender
from tidegate_bus.broker import topology
from tidegate_bus.broker.accounts import NOTARY, REGISTRAR, Identity, configuration
from tidegate_bus.broker.server import Server
from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.connection import connect
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.ledger import LedgerReader
from tidegate_policy.replay import Conformance, Outcome, Stretch, what_if
from tidegate_schemas.identity import Role
from tidegate_schemas.vocabulary import GATEWAY, OPERATOR

from .history import WINDOW, History, bundles
from .load import Figure, OnProgress

_STORE_BYTES = 8 * 2**30
_ROUNDS = 3
_ROLES = {
    GATEWAY: Role.GATEWAY,
    REGISTRAR: Role.REGISTRAR,
    NOTARY: Role.NOTARY,
    OPERATOR: Role.OPERATOR,
}


@contextlib.asynccontextmanager
async def ledger(
    folder: Path, entries: Iterable[tuple[str, bytes]], on_progress: OnProgress
) -> AsyncGenerator[Access]:
    """A broker with a ledger of these subjects and payloads; how to come to it."""
    keyring = Keyring(folder / "keys")
    who = [Identity(name, role, keyring.ensure(name)) for name, role in _ROLES.items()]
    file = folder / "nats.conf"
    file.write_text(configuration(who, store=folder / "store", store_bytes=_STORE_BYTES))
    server = await Server.start(file, folder / "server.log")
    try:
        async with await connect(server.url, REGISTRAR, keyring.seed(REGISTRAR)) as registrar:
            limits = topology.Limits(ledger_bytes=2**32, ingress_bytes=2**28, backlog=1000)
            await topology.converge(registrar, limits, [])
        async with await connect(server.url, GATEWAY, keyring.seed(GATEWAY)) as gateway:
            appender = await FastAppender.open(gateway, last=0)
            done, rest = 0, iter(entries)
            while batch := list(islice(rest, MAX_BATCH)):
                await (await appender.append(batch))
                done += len(batch)
                on_progress(done)
            await appender.close()
        yield Access(server.url, OPERATOR, keyring.seed(OPERATOR))
    finally:
        await server.stop()


async def replay(folder: Path, records: int, on_progress: OnProgress) -> list[Figure]:
    """Read only, with and without a client library; what-if in 1 and 2 processes; verified."""
    made = ((e.subject, e.payload) for e in History().entries(records))
    async with ledger(folder, made, on_progress) as access:
        with BulkReader(access) as reader:
            last = reader.last()
        figures = [
            Figure("read, ledger reader", last / await _with_client(access), "records/s"),
            Figure("read, in bulk", last / _timed(lambda: _read(access, last)), "records/s"),
        ]
        stretch = Stretch(access, bundles()[-1], 1, last)
        for processes, plural in ((1, ""), (2, "es")):
            found = await _apart(stretch, processes)
            name = f"what-if, {processes} process{plural}"
            figures.append(Figure(name, last / found.seconds, "records/s"))
            figures.append(Figure(f"{name}: busy", found.busy / last * 1e6, "µs/record"))
            figures.append(Figure(f"{name}: differ", found.changed, "records"))
        reader = BulkReader(access)
        check = Conformance(WINDOW, reader.one)
        differences = 0

        def verify() -> None:
            nonlocal differences
            with reader:
                for entries in reader.read(1, last):
                    for seq, payload in entries:
                        differences += len(check.add(seq, payload))

        figures.append(Figure("verified", last / _timed(verify), "records/s"))
        figures.append(Figure("bundles in force", len(check.bundles), "bundles"))
        figures.append(Figure("differences", differences, "records"))
        figures.append(Figure("without their message", check.unknown, "records"))
    return figures


class _Found(NamedTuple):
    """What-if, measured: seconds by the clock and of the processors, and records that differ."""

    seconds: float
    busy: float
    changed: int


async def _apart(stretch: Stretch, processes: int) -> _Found:
    """What-if in a process of its own, without the threads and the loop of this one."""
    loop = asyncio.get_running_loop()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as alone:
        return await loop.run_in_executor(alone, _what_if, stretch, processes)


def _what_if(stretch: Stretch, processes: int) -> _Found:
    """The best of three."""
    found: list[_Found] = []
    for _ in range(_ROUNDS):
        begin, busy = time.perf_counter(), _busy()
        tally = what_if(stretch, processes)
        changed = tally.records - tally.outcomes[Outcome.SAME]
        found.append(_Found(time.perf_counter() - begin, _busy() - busy, changed))
    return min(found)


def _busy() -> float:
    """Processor time of this process and of those that it has waited for."""
    return sum(os.times()[:4])


def _timed(work: Callable[[], None]) -> float:
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def _read(access: Access, last: int) -> None:
    with BulkReader(access) as reader:
        for _ in reader.read(1, last):
            pass


async def _with_client(access: Access) -> float:
    async with await connect(access.url, access.principal, access.secret) as connection:
        begin = time.perf_counter()
        async for _ in LedgerReader(connection).read():
            pass
        return time.perf_counter() - begin
