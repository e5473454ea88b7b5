"""What is sent, and the figures that the ledger gives for it."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tidegate.bus import Bus
from tidegate.figures import percentile
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import OPERATOR, RUN_FINISHED

from . import PROJECT

LOAD = "bench.load"
OnProgress = Callable[[int], None]

_SILENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    unit: str


@contextlib.asynccontextmanager
async def _stack(state: Path, agents: set[str]) -> AsyncGenerator[tuple[Bus, Bus]]:
    """The load's bus and the operator's, on a stack with these agents."""
    async with (
        Stack(load_project(PROJECT, state), agents=agents),
        await Bus.of_project(LOAD, PROJECT, state, window=1000) as load,
        await Bus.of_project(str(OPERATOR), PROJECT, state) as operator,
    ):
        yield load, operator


async def govern(state: Path, messages: int, size: int, on_progress: OnProgress) -> list[Figure]:
    """Publish as fast as verdicts come, one publisher, 1,000 on their way; count the ledger."""
    async with _stack(state, set()) as (load, operator):
        start = await _end(operator)
        envelopes = iter([_event("bench.event", size) for _ in range(messages)])
        done = 0

        async def publish() -> None:
            nonlocal done
            for envelope in envelopes:
                await load.publish(envelope)
                done += 1
                on_progress(done)

        await asyncio.gather(*(publish() for _ in range(1000)))
        records = [r async for r in operator.records(start + 1) if r.to == "bench.event"]
    first, last = (parse_rfc3339(records[i].ingress.time) for i in (0, -1))
    decided = [_seconds(r.ingress.time, r.time) for r in records]
    return [
        Figure("governed", len(records) / ((last - first) / 1e9), "messages/s"),
        Figure("submission to verdict p50", _ms(decided, 50), "ms"),
        Figure("submission to verdict p99", _ms(decided, 99), "ms"),
    ]


async def latency(
    state: Path, messages: int, size: int, rate: float, on_progress: OnProgress
) -> list[Figure]:
    """Publish tasks at a steady rate; from just before `publish` to the handler's first line."""
    async with _stack(state, {"bench.echo"}) as (load, operator):
        start = await _end(operator)
        sent: dict[str, int] = {}
        told: list[float] = []
        loop = asyncio.get_running_loop()

        async def publish(envelope: Envelope) -> None:
            sent[envelope.id] = time.time_ns()
            await load.publish(envelope)
            told.append((time.time_ns() - sent[envelope.id]) / 1e9)

        began = loop.time()
        async with asyncio.TaskGroup() as tasks:
            for number in range(messages):
                await asyncio.sleep(began + number / rate - loop.time())
                task = _event("bench.echo", size, kind="task", to="bench.echo")
                tasks.create_task(publish(task))
                on_progress(number + 1)
        reached: dict[str, int] = {}
        async for record in _until_silent(operator, start):
            message = record.message()
            if record.kind is Kind.RESULT and message and message.causationid in sent:
                reached[message.causationid] = message.payload()["reached"]
                if len(reached) == messages:
                    break
    handled = [(reached[i] - sent[i]) / 1e9 for i in reached]
    return [
        Figure("publish to handler p50", _ms(handled, 50), "ms"),
        Figure("publish to handler p99", _ms(handled, 99), "ms"),
        Figure("publish to receipt p50", _ms(told, 50), "ms"),
        Figure("publish to receipt p99", _ms(told, 99), "ms"),
        Figure("lost", messages - len(reached), "messages"),
    ]


async def e2e(state: Path, runs: int, size: int, on_progress: OnProgress) -> list[Figure]:
    """Start runs of a one-step blueprint by event, all at once: event, task, result, end."""
    async with _stack(state, {"bench.echo"}) as (load, operator):
        start = await _end(operator)
        envelopes = [_event("bench.started", size) for _ in range(runs)]
        publishing = asyncio.gather(*(load.publish(envelope) for envelope in envelopes))
        begun: dict[str, Record] = {}
        ended: dict[str, Record] = {}
        async for record in _until_silent(operator, start):
            if record.kind is Kind.EVENT and record.verdict is Verdict.ALLOW:
                message = record.message()
                assert message
                if record.to == RUN_FINISHED:
                    ended[message.correlationid or ""] = record
                    on_progress(len(ended))
                elif record.to == "bench.started":
                    begun[message.id] = record
            if len(ended) == runs:
                break
        await publishing
    first = min(parse_rfc3339(r.ingress.time) for r in begun.values())
    last = max(parse_rfc3339(r.time) for r in ended.values())
    took = [_seconds(begun[i].time, ended[i].time) for i in ended]
    return [
        Figure("runs", len(ended) / ((last - first) / 1e9), "runs/s"),
        Figure("event to end p50", _ms(took, 50), "ms"),
        Figure("event to end p99", _ms(took, 99), "ms"),
        Figure("lost", runs - len(ended), "runs"),
    ]


def _event(type: str, size: int, **attributes: Any) -> Envelope:
    data = {"payload": "x" * max(0, size - len('{"payload":""}'))}
    return Envelope.new(type, data, source="tidegate:bench", **attributes)


async def _end(operator: Bus) -> int:
    last = await operator.ledger.last()
    return last.seq if last else 0


async def _until_silent(operator: Bus, start: int) -> AsyncGenerator[Record]:
    """Records as they come, until none came for a while."""
    reading = operator.records(start + 1, follow=True)
    while True:
        try:
            async with asyncio.timeout(_SILENCE_SECONDS):
                yield await anext(reading)
        except TimeoutError:
            return


def _seconds(earlier: str, later: str) -> float:
    return (parse_rfc3339(later) - parse_rfc3339(earlier)) / 1e9


def _ms(seconds: list[float], percent: int) -> float:
    value = percentile(seconds, percent)
    return float("nan") if value is None else value * 1000
