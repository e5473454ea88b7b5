"""Messages of a ledger delivered again, to real agents in a sandbox, beside the bus they are of."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support import until
from system.governed import CLIENT, Governed, governed, write_project
from tidegate.bus import Bus
from tidegate.demo import PROJECT
from tidegate.demo.commits import as_event, read_commits
from tidegate.project import load_project
from tidegate.stack import Stack
from tidegate_bus.broker.accounts import REGISTRAR
from tidegate_schemas import subjects
from tidegate_schemas.audit import Replay
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind
from tidegate_schemas.vocabulary import AUDIT_REPLAY, OPERATOR, RUN_FINISHED

ROOT = Path(__file__).parents[2]
COMMITS = 2

CODE = """
import asyncio
import os

from tidegate import Agent, Context, Envelope
from tidegate_schemas.errors import Permanent, Refused

agent = Agent()


@agent.task("work.double")
async def double(n: int, context: Context) -> int:
    await context.publish(Envelope.new("work.done", {"n": n, "word": "hush"}))
    about = {"dataclassification": "personal", "datasubject": "ada"}
    await context.publish(Envelope.new("work.person", {"n": n}, **about))
    if n == 13:
        raise Permanent("unlucky")
    return 2 * n


@agent.event("work.done")
async def done(told: dict, context: Context) -> None:
    try:
        await context.publish(Envelope.new("work.secret", told))
    except Refused as refused:
        await context.publish(Envelope.new("work.refused", {"reason": refused.reason}))
"""
POLICY = """
@id("asked") permit (principal, action in Action::"task", resource);
@id("told") @redact("/word") permit (principal, action in Action::"event", resource)
when { context.to like "work.*" };
@id("no-secrets") forbid (principal, action in Action::"event", resource)
when { context.to == "work.secret" };
"""


class Done(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str


async def tidegate(*arguments: object) -> Done:
    """Run the program beside the stack."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidegate", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return Done(process.returncode, out.decode(), err.decode())


async def redelivery(project: Path, state: Path, *options: object) -> Done:
    """Deliver again what is in the ledger of a stack."""
    where = ("--project", project, "--state", state)
    return await tidegate("replay", "redelivery", *where, "--json", *options)


async def bus(stack: Stack) -> dict[str, Any]:
    """What a broker says of its streams and of where each agent is."""
    found: dict[str, Any] = {}
    ledger = subjects.ledger_stream(0)
    async with await stack.connect(REGISTRAR) as connection:
        for stream in (ledger, subjects.ingress_stream(0)):
            found[stream] = await connection.stream_state(stream)
        for manifest in stack.project.manifests:
            name = subjects.consumer(manifest.principal)
            info = await connection.api(subjects.consumer_info(ledger, name))
            fields = ("num_pending", "num_ack_pending", "num_redelivered", "num_waiting")
            found[name] = (
                info["delivered"]["consumer_seq"],
                info["ack_floor"]["consumer_seq"],
                *(info[field] for field in fields),
            )
    return found


async def test_the_demo_says_the_same_again_and_nothing_moves(tmp_path: Path) -> None:
    """Every agent of it, the rogue too; of production, one record came that tells of it."""
    state = tmp_path / "state"
    async with (
        Stack(load_project(PROJECT, state)) as stack,
        await Bus.of_project("outside.git", PROJECT, state) as outside,
        await Bus.of_project(str(OPERATOR), PROJECT, state) as operator,
    ):
        for commit in read_commits(ROOT, COMMITS):
            await outside.publish(as_event(commit))
        records: list[Record] = []

        async def reviewed() -> bool:
            records[:] = [record async for record in operator.records()]
            denied = any(record.by == "review.rogue" for record in records)
            return denied and sum(record.to == RUN_FINISHED for record in records) == COMMITS

        async def quiet() -> bool:
            at = await bus(stack)
            return not any(pending for *_, pending, taken, _, _ in _agents(at) if pending or taken)

        await until(reviewed, seconds=60)
        await until(quiet)
        before = await bus(stack)
        done = await tidegate(
            "replay", "redelivery", "--project", PROJECT, "--state", state, "--json"
        )
        after = await bus(stack)
        told = [record async for record in operator.records(len(records) + 1)]

    assert done.status == 0, done.out + done.err
    found = json.loads(done.out)
    results = [r for r in records if r.kind is Kind.RESULT]
    assert found["outcomes"]["same"] == len(results) + 1  # what the rogue said, and was denied
    assert sum(found["outcomes"].values()) == len(results) + 1
    assert found["exact"] == len(results) + 1
    assert set(found["agents"]) == {str(m.principal) for m in stack.project.manifests}
    assert found["agents"]["review.rogue"] == {"delivered": COMMITS, "same": 1}
    # Production: one submission, one record of it, and no agent has heard of anything.
    ledger, ingress = subjects.ledger_stream(0), subjects.ingress_stream(0)
    assert [(r.seq, r.by, r.to) for r in told] == [(len(records) + 1, str(OPERATOR), AUDIT_REPLAY)]
    assert after[ingress].last_seq == before[ingress].last_seq + 1 == told[0].ingress.seq
    assert after[ledger].last_seq == before[ledger].last_seq + 1
    assert after[ledger].first_seq == before[ledger].first_seq
    assert _agents(after) == _agents(before)
    message = told[0].message()
    assert message
    replay: Replay = message.payload(Replay)
    assert (replay.report, found["record"]) == (found["digest"], told[0].seq)
    assert replay.counts["same"] == len(results) + 1


def _agents(at: dict[str, Any]) -> list[tuple[int, ...]]:
    return [found for found in at.values() if isinstance(found, tuple)]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """An agent that answers, tells, is refused and gives up."""
    root = write_project(
        tmp_path / "project",
        policy=POLICY,
        code=CODE,
        capabilities=["work.double"],
        blueprints={},
    )
    with (root / "agents" / "worker.yaml").open("a") as manifest:
        manifest.write("subscribes: [work.done]\n")
    return root


def changed(project: Path, name: str, *changes: tuple[str, str]) -> Path:
    """A checkout of it with other code."""
    root = project.with_name(name)
    shutil.copytree(project, root)
    file = root / "governed_handlers.py"
    text = file.read_text()
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    file.write_text(text)
    return root


async def ask(world: Governed, *numbers: int, personal: int | None = None) -> None:
    """Ask for some doubles, and wait until all that follows has been said."""
    about: dict[str, Any] = {"dataclassification": "personal", "datasubject": "bob"}
    every = [(n, dict[str, Any]()) for n in numbers]
    every += [] if personal is None else [(personal, about)]
    for n, more in every:
        where: dict[str, Any] = {"kind": "task", "to": "work.double", "correlationid": f"n{n}"}
        await world.buses[CLIENT].publish(Envelope.new("work.double", n, **where, **more))

    async def all_said() -> bool:
        records = await world.records()
        ends = sum(r.kind is Kind.RESULT for r in records)
        return ends == sum(r.to == "work.refused" for r in records) == len(every)

    await until(all_said, seconds=30)


@pytest.mark.timeout(180)
async def test_a_changed_checkout_is_asked_what_it_would_have_said(
    project: Path, tmp_path: Path
) -> None:
    """Unchanged, everything is the same, refusals too; changed, each difference has its word."""
    state = tmp_path / "state"
    other = changed(
        project,
        "other",
        ("if n == 13:", "if n == 5:"),
        ("return 2 * n", 'return {"n": 2 * n, "sandbox": os.environ["TIDEGATE_SANDBOX"]}'),
        ("except Refused as refused:", "except ZeroDivisionError as refused:"),
    )
    broken = changed(project, "broken", ("agent = Agent()", "agent = unknown"))
    async with governed(project, state) as world:
        await ask(world, 1, 5, 13, personal=7)
        same, differs, cannot = await asyncio.gather(
            redelivery(project, state),
            redelivery(other, state, "--last", len(await world.records())),
            redelivery(broken, state),
        )
        one = await redelivery(project, state, "--correlation", "n5", "--pace", "1000x")

    assert (same.status, differs.status, one.status, cannot.status) == (0, 1, 0, 2), same.err
    assert _said(same) == {"same": 12, "sealed": 3}
    assert json.loads(same.out)["exact"] == 8  # a dead letter tells of times, the rest is redacted
    gaps = {gap["what"]: gap["count"] for gap in json.loads(same.out)["not_captured"]}
    assert (gaps["unreplayable: sealed"], gaps["redacted"], gaps["sealed answers"]) == (2, 3, 3)
    assert (json.loads(one.out)["delivered"], _said(one)) == (2, {"same": 4, "sealed": 1})
    expected = {
        "same": 6,
        "sealed": 3,
        "different": 1,
        "failed": 1,
        "mended": 1,
        "missing": 3,
        "extra": 3,
    }
    assert _said(differs) == expected
    found = {f["outcome"]: f for f in json.loads(differs.out)["findings"]}
    assert found["different"]["what"] == ['the data is {"n": 2, "sandbox": "1"}, was 2']
    assert found["failed"]["what"] == ["Permanent: unlucky"]
    assert (found["missing"]["to"], found["extra"]["to"]) == ("work.refused", "pay.worker")
    assert "unknown" in json.loads(cannot.out)["error"]["message"]


def _said(done: Done) -> dict[str, int]:
    return {word: n for word, n in json.loads(done.out)["outcomes"].items() if n}


@pytest.mark.timeout(180)
async def test_what_hangs_is_given_up_and_an_interrupt_leaves_nothing(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unsettled deliveries are told; on SIGINT processes and folder go, and nothing is recorded."""
    state, place = tmp_path / "state", tmp_path / "tmp"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    hanging = changed(project, "hanging", ("if n == 13:", "if await asyncio.sleep(1000):"))
    async with governed(project, state) as world:
        await ask(world, 1)
        done = await redelivery(hanging, state, "--timeout", "1s", "--keep", tmp_path / "kept")
        before = len(await world.records())
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "tidegate", "replay", "redelivery"),
            *("--project", hanging, "--state", state),
        )
        ready = "tidegate-replay-*/run/pay.worker.*.json"
        await until(lambda: any(place.glob(ready)), seconds=60)
        (worker,) = place.glob(ready)
        pid = json.loads(worker.read_text())["pid"]
        process.send_signal(signal.SIGINT)
        status = await process.wait()
        after = len(await world.records())

    assert done.status == 1
    assert (json.loads(done.out)["unsettled"], _said(done)["missing"]) == (1, 1)
    assert (tmp_path / "kept" / "logs" / "pay.worker.log").exists()
    assert (status, after) == (130, before)
    assert not os.path.exists(f"/proc/{pid}")  # noqa: ASYNC240, PTH110 - of the kernel
    assert list(place.iterdir()) == []
