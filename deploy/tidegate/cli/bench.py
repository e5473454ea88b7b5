"""`tidegate bench`: how fast the bus is on this machine."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tidegate.bench import boundary as account_boundary
from tidegate.bench import control as controls
from tidegate.bench import decide as decisions
from tidegate.bench import edge as edges
from tidegate.bench import evidence as evidences
from tidegate.bench import load
from tidegate.bench import replay as replays
from tidegate.bench.boundary import Plan, Row
from tidegate.bench.load import Figure, OnProgress
from tidegate.bench.machine import machine

from .console import JsonOption, err, group, out, print_json, run, table

app = group("Measure the bus on this machine, on a stack of its own; loopback only.")

Measure = Callable[[Path, OnProgress], Awaitable[list[Figure]]]
SizeOption = Annotated[int, typer.Option(min=16, max=200_000, help="Bytes of data a message.")]
_EVERY = 100


@app.command()
def govern(
    messages: Annotated[int, typer.Option(min=1000, max=1_000_000, help="How many.")] = 50_000,
    size: SizeOption = 512,
    as_json: JsonOption = False,
) -> None:
    """Messages a second through the gateway into the ledger."""
    _bench("govern", messages, lambda state, on: load.govern(state, messages, size, on), as_json)


@app.command()
def latency(
    messages: Annotated[int, typer.Option(min=10, max=100_000, help="How many.")] = 1000,
    rate: Annotated[float, typer.Option(min=1, max=5000, help="Messages a second.")] = 100,
    size: SizeOption = 512,
    as_json: JsonOption = False,
) -> None:
    """Time from publish to the handler of an agent, at a steady rate."""
    _bench(
        "latency",
        messages,
        lambda state, on: load.latency(state, messages, size, rate, on),
        as_json,
    )


@app.command()
def e2e(
    runs: Annotated[int, typer.Option(min=10, max=100_000, help="How many.")] = 1000,
    size: SizeOption = 512,
    as_json: JsonOption = False,
) -> None:
    """Runs of a one-step blueprint a second: event, task, result, end."""
    _bench("e2e", runs, lambda state, on: load.e2e(state, runs, size, on), as_json)


@app.command()
def decide(
    messages: Annotated[
        int, typer.Option(min=30, max=10_000_000, help="Messages of the same flows.")
    ] = 60_000,
    keys: Annotated[
        int, typer.Option(min=1, max=10_000_000, help="Messages that are never alike.")
    ] = 1_000_000,
    as_json: JsonOption = False,
) -> None:
    """What a decision of policy costs, by Cedar and remembered; in one process, without a bus."""

    async def measure(_: Path, on_progress: OnProgress) -> list[Figure]:
        return decisions.decide(messages, keys, on_progress)

    _bench("decide", decisions.requests(messages, keys), measure, as_json)


@app.command()
def replay(
    records: Annotated[int, typer.Option(min=1000, max=10_000_000, help="How many.")] = 100_000,
    as_json: JsonOption = False,
) -> None:
    """Records a second: the ledger read again, judged by another bundle, and verified.

    From a broker that stores them, with all that it takes; what-if is the best of three.
    """
    _bench("replay", records, lambda state, on: replays.replay(state, records, on), as_json)


@app.command()
def control(
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of each command.")] = 20,
    rate: Annotated[float, typer.Option(min=10, max=50_000, help="Messages a second.")] = 5000,
    as_json: JsonOption = False,
) -> None:
    """Time from kill and pause to the last admitted message, in a flow; and what a release does."""

    async def measure(state: Path, on_progress: OnProgress) -> list[Figure]:
        return await controls.control(state, rounds, rate, on_progress)

    _bench("control", 2 * rounds + 1, measure, as_json)


@app.command()
def evidence(
    records: Annotated[
        int, typer.Option(min=1000, max=10_000_000, help="Of the ledger that is exported.")
    ] = 100_000,
    leaves: Annotated[
        int, typer.Option(min=1000, max=100_000_000, help="Of the tree of which proofs are made.")
    ] = 1_000_000,
    rate: Annotated[
        int, typer.Option(min=100, max=100_000, help="Records a second, for the checkpoints.")
    ] = 10_000,
    seconds: Annotated[
        float, typer.Option(min=1, max=600, help="How long they come at that rate.")
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """What evidence costs in the gateway, and what exports, proofs and checkpoints take."""
    flow = int(rate * seconds)

    async def measure(folder: Path, on_progress: OnProgress) -> list[Figure]:
        figures = await evidences.evidence(folder, records, leaves, rate, seconds, on_progress)
        on_progress(records + leaves + flow)
        return figures

    _bench("evidence", records + leaves + flow, measure, as_json)


@app.command()
def edge(
    requests: Annotated[int, typer.Option(min=100, max=1_000_000, help="Of a round.")] = 6000,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Of each of the three.")] = 5,
    clients: Annotated[int, typer.Option(min=1, max=1000, help="That ask at once.")] = 100,
    size: SizeOption = 512,
    as_json: JsonOption = False,
) -> None:
    """Requests a second to the HTTP edge, beside an application of starlette that does nothing.

    The same server, settings and clients; accepted or with the verdict, in turns.
    """

    async def measure(state: Path, on_progress: OnProgress) -> list[Figure]:
        return await edges.edge(state, requests, rounds, clients, size, on_progress)

    _bench("edge", 3 * requests * rounds, measure, as_json)


@app.command()
def boundary(
    deliveries: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="Messages that are delivered.")
    ] = 100_000,
    publishes: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="Messages that are published.")
    ] = 50_000,
    awaited: Annotated[
        int, typer.Option(min=10, max=100_000, help="The same, one after the other.")
    ] = 2_000,
    pulls: Annotated[
        int, typer.Option(min=10, max=1_000_000, help="Pull requests that bring nothing.")
    ] = 20_000,
    hands: Annotated[
        int, typer.Option(min=1, max=10_000, help="Deliveries that are handled at once.")
    ] = 100,
    size: SizeOption = 512,
    expiry: Annotated[
        bool, typer.Option("--expiry", help="Wait, for minutes, until those are forgotten.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """What it costs that agents live in an account of their own: with it and without, in turns."""
    plan = Plan(
        publishes=publishes,
        awaited=awaited,
        deliveries=deliveries,
        pulls=pulls,
        hands=hands,
        size=size,
        expiry=expiry,
    )
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder,
        contextlib.ExitStack() as stack,
    ):
        shown = None
        if err.is_terminal and not as_json:
            shown = stack.enter_context(err.status("boundary"))

        def on_progress(done: int) -> None:
            if shown:
                shown.update(f"boundary {done:,}/{plan.messages:,}")

        rows = run(account_boundary.boundary(Path(folder), plan, on_progress))
    where = run(machine())
    if as_json:
        print_json({"bench": "boundary", "figures": list(map(_row, rows)), "machine": where})
        return
    cells = (
        (
            row.name,
            *(f"{f.value:,.2f}" if f.value < 1000 else f"{f.value:,.0f}" for f in row.figures),
            None if row.ratio is None else f"{row.ratio:.2f}",
            row.unit,
        )
        for row in rows
    )
    columns = ("boundary", "with it", "without (unsafe)", "ratio", "unit")
    out.print(table("", columns, cells))
    out.print(", ".join(f"{key} {value}" for key, value in where.items()))


def _row(row: Row) -> dict[str, Any]:
    with_, without = row.figures
    return {
        "name": row.name,
        "unit": row.unit,
        "boundary": with_.value,
        "one_account": without.value,
        "ratio": row.ratio,
        "rounds": {"boundary": row.boundary, "one_account": row.one_account},
    }


def _bench(name: str, total: int, measure: Measure, as_json: bool) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="tidegate-bench-") as folder,
        Progress(
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            console=err,
            transient=True,
            disable=as_json or not err.is_terminal,
        ) as bar,
    ):
        task = bar.add_task(name, total=total)

        def on_progress(done: int) -> None:
            if done % _EVERY == 0 or done == total:
                bar.update(task, completed=done)

        figures = run(_measured(partial(measure, Path(folder), on_progress)))
    where = run(machine())
    if as_json:
        body = [{"name": f.name, "value": f.value, "unit": f.unit} for f in figures]
        print_json({"bench": name, "figures": body, "machine": where})
        return
    rows = (
        (f.name, f"{f.value:,.2f}" if f.value < 1000 else f"{f.value:,.0f}", f.unit)
        for f in figures
    )
    out.print(table("", (name, "value", "unit"), rows))
    out.print(", ".join(f"{key} {value}" for key, value in where.items()))


async def _measured(measure: Callable[[], Awaitable[list[Figure]]]) -> list[Figure]:
    return await measure()
