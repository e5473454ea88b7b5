"""Approvals in a whole stack: given once, for one message, by two others, in time."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Any

import msgspec
import pytest

from system.governed import CLIENT, ELSE, Governed, governed, kill, write_project
from tidegate.policies import put_in_force, shelf
from tidegate_bus.ledger import LedgerReader
from tidegate_bus.publisher import Publisher
from tidegate_policy.bundle import load_bundle
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import Denied
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import OPERATOR

ANN, BOB, CY = "ops.ann", "ops.bob", "ops.cy"
POLICY = """
@id("pay")
@require_approval("2 of ops.ann ops.bob ops.cy within 1h")
permit (principal, action in Action::"task", resource == Capability::"pay.out");

@id("pay-quickly")
@require_approval("2 of ops.ann ops.bob ops.cy within 2s")
permit (principal, action in Action::"task", resource == Capability::"pay.quick");
"""
CODE = """
from pathlib import Path
from tidegate import Agent

agent = Agent()

@agent.task("pay.out")
def pay(data: dict) -> dict:
    with (Path(__file__).parent / "paid").open("a") as file:
        file.write(f"{data['amount']}\\n")
    return {"paid": data["amount"]}

@agent.task("pay.quick")
def quick(data: dict) -> dict:
    return pay(data)
"""
BLUEPRINTS = {
    "refund": """
        blueprint: refund
        version: 1
        on: { event: refund.asked }
        steps: { pay: { task: pay.out, with: { amount: "${ input.amount }" } } }
        """,
    "quick": """
        blueprint: quick
        version: 1
        on: { event: quick.asked }
        steps: { pay: { task: pay.quick, with: { amount: "${ input.amount }" } } }
        """,
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """One that pays when two of three agree."""
    return write_project(
        tmp_path / "project",
        policy=POLICY,
        code=CODE,
        capabilities=["pay.out", "pay.quick"],
        blueprints=BLUEPRINTS,
    )


def opinion(held: Record, **changed: Any) -> Envelope:
    """An approval of what a record holds; with `changed`, of something else."""
    message = held.message()
    assert message and not isinstance(held.envelope, msgspec.UnsetType)
    said = {
        "hold": held.seq,
        "message": f"sha256:{hashlib.sha256(bytes(held.envelope)).hexdigest()}",
        "bundle": held.why.bundle,
        "blueprint": message.blueprint or "",
    }
    to = "approval.grant"
    return Envelope.new(to, said | changed, kind="control", to=to)


async def refused(at: Governed, by: str, held: Record, **changed: Any) -> str:
    """Why somebody's approval is not taken."""
    with pytest.raises(Denied) as denied:
        await at.buses[by].publish(opinion(held, **changed), timeout=120)
    return str(denied.value)


def paid(project: Path) -> list[str]:
    """What the worker has paid, in order."""
    path = project / "paid"
    return path.read_text().split() if path.exists() else []


async def _approve(at: Governed, moment: str, correlation: str) -> Record:
    """Two agree to what a run asks; gateway and coordinator are killed at some moment."""
    both = at.gateway, at.coordinator
    held = await at.held(correlation, "pay.out")
    if moment == "before the first":
        await kill(*both)
    await at.buses[ANN].publish(opinion(held), timeout=120)
    if moment == "between the two":
        await kill(*both)
    if moment == "right after the second":
        await at.buses[BOB].publish(opinion(held), wait="accepted", timeout=120)
        await kill(*both)
    else:
        await at.buses[BOB].publish(opinion(held), timeout=120)
        if moment == "during the release":
            await kill(*both)
    return held


@pytest.mark.timeout(240)
async def test_two_of_three_release_a_task_once_whoever_is_killed(
    project: Path, tmp_path: Path
) -> None:
    """SIGKILL of both at any moment: no agreement is lost, no payment is made twice."""
    moments = (
        "before the first",
        "between the two",
        "right after the second",
        "during the release",
    )
    async with governed(project, tmp_path / "state") as at:
        for amount, moment in enumerate(moments):
            correlation = await at.begin("refund.asked", {"amount": amount})
            held = await _approve(at, moment, correlation)
            ended = await at.ended(correlation)
            assert (ended["status"], ended["output"]) == ("succeeded", {"paid": amount}), moment
            first, *rest = await at.of(correlation, Kind.TASK, "pay.out")
            assert [(made.verdict, made.first) for made in rest] == [(Verdict.ALLOW, held.seq)]
            assert rest[0].why.facts["approved"] == [ANN, BOB]
            assert first.envelope == rest[0].envelope
            assert "holds nothing, or not any more" in await refused(at, CY, held)
        await at.finish()
    assert paid(project) == ["0", "1", "2", "3"]


@pytest.mark.timeout(240)
async def test_an_approval_is_refused_unless_it_is_about_this_by_somebody_else(
    project: Path, tmp_path: Path
) -> None:
    """Not a changed message, not one's own, not a stranger's, not under other policies."""
    async with governed(project, tmp_path / "state") as at:
        correlation = await at.begin("refund.asked", {"amount": 7}, by=ANN)
        held = await at.held(correlation, "pay.out")

        assert "has asked for it, and cannot agree to it too" in await refused(at, ANN, held)
        assert "none of those who are asked" in await refused(at, CLIENT, held)
        changed = {"message": "sha256:" + "0" * 64}
        assert "another message than the one that waits" in await refused(at, BOB, held, **changed)
        assert "another blueprint" in await refused(at, BOB, held, blueprint="sha256:" + "0" * 64)
        await at.buses[BOB].publish(opinion(held), timeout=60)
        assert "has agreed already" in await refused(at, BOB, held)

        (project / "policy" / "main.cedar").write_text(ELSE + POLICY + "\n// the next one\n")
        new = load_bundle(project / "policy")
        async with await at.stack.connect(OPERATOR) as operator:
            known = await shelf(LedgerReader(operator))
            await put_in_force(await Publisher.start(operator), new, known, reason="a test")
        assert "the policies have changed" in await refused(at, CY, held)
        await at.buses[CY].publish(opinion(held, bundle=new.digest), timeout=60)
        assert paid(project) == []  # what bob said was said under the old ones
        await at.buses[BOB].publish(opinion(held, bundle=new.digest), timeout=60)
        assert (await at.ended(correlation))["status"] == "succeeded"
        await at.finish()
    assert paid(project) == ["7"]


@pytest.mark.timeout(240)
async def test_what_nobody_agrees_to_in_time_fails_its_run(project: Path, tmp_path: Path) -> None:
    """One of two is not enough; also where the gateway was away when the time was over."""
    async with governed(project, tmp_path / "state") as at:
        for killed in (False, True):
            correlation = await at.begin("quick.asked", {"amount": 1})
            held = await at.held(correlation, "pay.quick")
            with contextlib.suppress(Denied):  # too late already, on a busy machine
                await at.buses[ANN].publish(opinion(held), timeout=60)
            if killed:
                await kill(at.gateway)
            ended = await at.ended(correlation)
            assert (ended["status"], ended["error"]) == (
                "failed",
                "pay[0]: refused: approval_expired",
            )
            made = await at.of(correlation, Kind.TASK, "pay.quick")
            assert [one.verdict for one in made] == [Verdict.HOLD, Verdict.DENY]
            assert "holds nothing" in await refused(at, BOB, held)
        await at.finish()
    assert paid(project) == []
