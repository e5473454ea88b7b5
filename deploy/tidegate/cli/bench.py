"""`tidegate bench`: how fast the bus is on this machine."""

from __future__ import annotations

import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from tidegate.bench import load
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
