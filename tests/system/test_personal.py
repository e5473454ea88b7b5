"""Personal data in a whole stack: on no disk, in no log, and gone when it is erased."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import pytest

from support import until
from system.governed import Governed, governed, kill, write_project
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind
from tidegate_schemas.vocabulary import COORDINATOR, OPERATOR, RUN_FINISHED

WHO = "customer-42@shop.invalid"
CARD = "4111-2222-3333-4444"
POLICY = '@id("pay") permit (principal, action in Action::"task", resource);'
CODE = """
import asyncio
from pathlib import Path
from tidegate import Agent, Context, Envelope

agent = Agent()
HERE = Path(__file__).parent

@agent.task("pay.charge")
async def charge(data: dict, context: Context) -> dict:
    (HERE / "seen").write_text(data["card"])
    await context.publish(Envelope.new("card.charged", {"card": data["card"]}))
    return {"charged": data["card"]}

@agent.task("pay.refuse")
def refuse(data: dict) -> dict:
    raise ValueError(f"no good: {data['card']}")

@agent.task("pay.wait")
async def wait(data: dict) -> dict:
    (HERE / "waits").touch()
    while not (HERE / "go").exists():
        await asyncio.sleep(0.02)
    return {"charged": data["card"]}
"""


def _blueprint(name: str, task: str, then: str = "") -> str:
    return f"""
        blueprint: {name}
        version: 1
        on: {{ event: {name}.asked }}
        steps:
          pay: {{ task: {task}, with: {{ card: "${{ input.card }}" }}, retry: {{ attempts: 1 }} }}
          {then}
        """


AGAIN = 'again: { task: pay.charge, needs: [pay], with: { card: "${ steps.pay.output.charged }" } }'
BLUEPRINTS = {
    "charge": _blueprint("charge", "pay.charge", AGAIN),
    "refuse": _blueprint("refuse", "pay.refuse"),
    "wait": _blueprint("wait", "pay.wait"),
}


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Blueprints that charge cards."""
    return write_project(
        tmp_path / "project",
        policy=POLICY,
        code=CODE,
        capabilities=["pay.charge", "pay.refuse", "pay.wait"],
        blueprints=BLUEPRINTS,
    )


async def begin(here: Governed, blueprint: str, who: str = WHO) -> str:
    """Start a run with somebody's card; its correlation."""
    return await here.begin(
        f"{blueprint}.asked", {"card": CARD}, dataclassification="personal", datasubject=who
    )


async def end(here: Governed, correlation: str) -> tuple[Record, Envelope]:
    """The record and message of a run's end, once it is there."""
    found: list[Record] = []

    async def there() -> bool:
        found[:] = await here.of(correlation, Kind.EVENT, RUN_FINISHED)
        return bool(found)

    await until(there, seconds=60)
    (made,) = found
    message = made.message()
    assert message
    return made, message


def found_in(folder: Path, what: str) -> list[str]:
    """Files of a folder that hold a text."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(p.name for p in files if what.encode() in p.read_bytes())


async def tidegate(project: Path, state: Path, *arguments: str) -> tuple[int, str]:
    """The command line, as operators use it: status, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "tidegate", *arguments),
        *("--project", project, "--state", state),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def verified(project: Path, state: Path) -> dict[str, Any]:
    """What conformance finds."""
    status, said = await tidegate(project, state, "replay", "conformance", "--json")
    assert status == 0, said
    found: dict[str, Any] = json.loads(said)
    return found


async def test_a_workflow_about_somebody_leaves_nothing_readable_behind(
    project: Path, tmp_path: Path
) -> None:
    """The agent works with the plaintext; no file of the state has it, before or after erasure.

    Results, events of handlers, dead letters that quote it, tasks and ends of runs: all is sealed.
    After the erasure no byte of the key is left, and every record is still in its place.
    """
    state = tmp_path / "state"
    async with governed(project, state) as here:
        charged, refused = await begin(here, "charge"), await begin(here, "refuse")
        ends = [await end(here, correlation) for correlation in (charged, refused)]
        assert (project / "seen").read_text() == CARD
        ends.append(await end(here, await here.begin("charge.asked", {"card": "not personal"})))
        assert [e.subject for _, e in ends] == ["succeeded", "failed", None]
        assert [e.dataenc for _, e in ends] == ["v1", "v1", None]
        for record in await here.of(charged, Kind.TASK, "pay.charge"):
            message = record.message()
            assert message
            assert message.dataenc == "v1"
        message = (await here.of(charged, Kind.EVENT, "card.charged"))[0].message()
        assert message
        assert (message.dataenc, message.dataclassification) == ("v1", "personal")
        assert found_in(state, CARD) == []
        assert found_in(state, WHO) == ["vault.db"]

        status, said = await tidegate(project, state, "run", "list", "--json")
        assert status == 0, said
        runs = json.loads(said)
        assert sorted(r["status"] for r in runs) == ["failed", "succeeded", "succeeded"]
        sealed = next(r["id"] for r in runs if r["sealed"])
        status, said = await tidegate(project, state, "run", "show", sealed)
        assert (status, "waiting" in said, "personal and sealed" in said) == (0, False, True)
        before = await here.buses[str(OPERATOR)].ledger.last()
        assert before
        assert (await verified(project, state))["unreplayable"] == {"erased": 0}

        keys = _keys(state)
        assert keys
        assert all(found_in_bytes(state, key) == ["vault.db"] for key in keys)
        status, said = await tidegate(project, state, "erase", WHO, "--reason", "they asked")
        assert status == 0, said
        assert said.startswith(f"erased {WHO}")
        assert [found_in_bytes(state, key) for key in keys] == [[]] * len(keys)
        assert found_in(state, WHO) == []
        found = await verified(project, state)
        assert found["unreplayable"]["erased"] > 5
        assert found["differences"] == 0
        status, said = await tidegate(project, state, "erase", WHO)
        assert (status, said) == (0, f"nothing is kept about {WHO}\n")
        await here.finish()


def _keys(state: Path) -> list[bytes]:
    connection = sqlite3.connect(state / "vault.db")
    keys = [key for (key,) in connection.execute("SELECT key FROM keys")]
    connection.close()
    return keys


def found_in_bytes(folder: Path, what: bytes) -> list[str]:
    """Files of a folder that hold some bytes."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sorted(p.name for p in files if what in p.read_bytes())


async def test_erased_in_the_middle_of_a_run_the_run_fails_and_says_so(
    project: Path, tmp_path: Path
) -> None:
    """For everybody to read; the agent's late answer changes nothing, and a restart folds it."""
    state = tmp_path / "state"
    async with governed(project, state) as here:
        correlation = await begin(here, "wait")
        await until(lambda: (project / "waits").exists(), seconds=60)
        status, said = await tidegate(project, state, "erase", WHO, "--reason", f"for {WHO}")
        assert status == 2, said
        status, said = await tidegate(project, state, "privacy", "hold", WHO, "--json")
        assert status == 0, said
        held = json.loads(said)
        status, said = await tidegate(project, state, "erase", WHO)
        assert status == 3, said
        assert f"{held['subject']} is under legal hold by {OPERATOR} since" in " ".join(
            said.split()
        )
        status, said = await tidegate(project, state, "privacy", "show", "--json")
        assert [h["subject"] for h in json.loads(said)["holds"]] == [held["subject"]]
        status, said = await tidegate(project, state, "privacy", "release", WHO)
        assert status == 0, said
        status, said = await tidegate(project, state, "erase", WHO)
        assert status == 0, said
        _, message = await end(here, correlation)
        assert message.dataenc is None
        assert message.payload()["status"] == "failed"
        assert message.payload()["error"] == "the personal data that it is about was erased"
        await kill(here.coordinator)
        (project / "go").touch()

        async def answered() -> bool:
            return bool(await here.of(correlation, Kind.RESULT, str(COORDINATOR)))

        await until(answered, seconds=60)
        again = await begin(here, "charge", "customer-43")
        assert (await end(here, again))[1].subject == "succeeded"
        assert found_in(state, CARD) == []
        await here.finish()


async def test_killed_between_record_and_destruction_the_key_is_destroyed_at_the_start(
    project: Path, tmp_path: Path
) -> None:
    """The record is what counts: whoever starts next does what it says."""
    state = tmp_path / "state"
    async with governed(project, state) as here:
        await end(here, await begin(here, "charge"))
        operator = here.buses[str(OPERATOR)]
        pseudonym = await operator.pseudonym(WHO)
        keys = _keys(state)
        lock = sqlite3.connect(state / "vault.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")  # so the gateway cannot destroy it yet
        erase = Envelope.new(
            "privacy.erase", {"subject": pseudonym}, kind="control", to="privacy.erase"
        )
        publishing = asyncio.create_task(operator.publish(erase, timeout=120))

        async def recorded() -> bool:
            last = await operator.ledger.last()
            return last is not None and last.record().to == "privacy.erase"

        await until(recorded, seconds=60)
        assert found_in_bytes(state, keys[0]) == ["vault.db"]
        await kill(here.gateway)
        lock.close()
        await publishing
        assert await operator.pseudonym(WHO) is None
        assert found_in_bytes(state, keys[0]) == []
        order = ("run", "start", "charge", json.dumps({"card": CARD}), "--about", "customer-44")
        status, said = await tidegate(project, state, *order, "--wait", "--json")
        assert status == 0, said
        assert json.loads(said)["status"] == "succeeded"
        assert found_in(state, CARD) == []
        await here.finish()
