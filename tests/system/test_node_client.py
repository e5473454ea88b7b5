"""Another language, another client library, the same bus: an agent under Node with its own seed.

What the broker enforces must not need our library. The agent here is some JavaScript in `node/`
that speaks through the npm package of the NATS project.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from support import ADMIN, AGENT, CAPABILITY, OTHER, PUBLISHER, TOPIC, Broker, until
from support.npm import INSTALL_SECONDS, install
from tidegate_bus.broker.topology import Subscription
from tidegate_bus.identity.keyring import Keyring
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.subjects import Verdict

SOURCES = Path(__file__).parent / "node"
SCRIPT_SECONDS = 60

pytestmark = [
    pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed"),
    pytest.mark.timeout(INSTALL_SECONDS + SCRIPT_SECONDS),
]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scripts and, exactly as locked, the package that they use."""
    return install(SOURCES, tmp_path_factory.mktemp("node") / "client")


async def script(
    installed: Path, broker: Broker, name: str, *, seed: Path | None = None, given: Any = None
) -> Any:
    """Run a script to its end; the JSON that it printed.

    It gets the address of the broker and the path of a seed, and nothing else of ours: neither
    our environment nor a password, and no seed in its arguments, which all users can read.
    """
    process = await asyncio.create_subprocess_exec(
        *("node", name, broker.url, seed or broker.keyring.path(AGENT)),
        cwd=installed,
        env={"PATH": os.environ["PATH"], "NODE_NO_WARNINGS": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(SCRIPT_SECONDS):
            output, errors = await process.communicate(json.dumps(given).encode())
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    assert process.returncode == 0, errors.decode()
    assert not errors, errors.decode()
    (line,) = output.splitlines()
    return json.loads(line)


async def nothing_left(broker: Broker) -> bool:
    """Whether the agent's consumer has neither a delivery without an answer nor more to give."""
    info = await (await broker.connect(ADMIN)).api("$JS.API.CONSUMER.INFO.LEDGER_0.team_agent")
    return (info["num_ack_pending"], info["num_pending"]) == (0, 0)


async def hand_over_a_task(broker: Broker) -> int:
    """A task for the agent, with a lease that no test outlasts; its place in the ledger."""
    await broker.converge(Subscription(AGENT, (CAPABILITY,), (), 300.0))
    task = Envelope.new("work", {"number": 21}, id="the-task", kind="task", to=CAPABILITY)
    return (await (await broker.publisher()).publish(task)).seq


async def test_an_agent_under_node_does_its_whole_work(installed: Path, broker: Broker) -> None:
    """It hears its verdicts, pulls and settles its task, and its result stands in the ledger.

    The policies decide about it as about anybody, and the ledger has it as the sender that the
    broker authenticated.
    """
    async with broker.gateway():
        task = await hand_over_a_task(broker)
        told = await script(installed, broker, "work.mjs")
    event, again, secret, result = told["receipts"]
    records = await broker.records()

    assert ("allow", ["everything"], task + 1) == (
        event["verdict"],
        event["policies"],
        event["seq"],
    )
    assert ("duplicate", "allow", event["seq"]) == (again["verdict"], again["was"], again["seq"])
    assert (secret["verdict"], secret["reason"]) == ("deny", "forbidden")
    assert secret["policies"] == ["no-secrets"]
    assert result["verdict"] == "allow"
    assert [["INGRESS_0", seq] for seq in range(task + 1, task + 5)] == told["accepted"]
    assert (task, str(PUBLISHER), 1) == tuple(told["task"][k] for k in ("seq", "by", "delivered"))
    assert told["task"]["confirmed"] == 0  # an empty answer
    assert told["refusals"] == []
    assert [
        (str(PUBLISHER), "task", CAPABILITY, Verdict.ALLOW),
        (str(AGENT), "event", TOPIC, Verdict.ALLOW),
        (str(AGENT), "event", TOPIC, Verdict.DUPLICATE),
        (str(AGENT), "event", "secret", Verdict.DENY),
        (str(AGENT), "result", str(PUBLISHER), Verdict.ALLOW),
    ] == [(record.by, record.kind, record.to, record.verdict) for record in records]
    answer = records[-1].message()
    assert answer
    assert (answer.causationid, answer.payload()) == ("the-task", {"doubled": 42})
    assert result["seq"] == records[-1].seq
    await until(lambda: nothing_left(broker))


async def test_what_an_agent_under_node_gives_back_comes_again(
    installed: Path, broker: Broker
) -> None:
    """The same record, each time counted: at once after a nak, later after one with a delay."""
    async with broker.gateway():
        task = await hand_over_a_task(broker)
        told = await script(installed, broker, "again.mjs")

    assert [["the-task", task, 1], ["the-task", task, 2], ["the-task", task, 3]] == told[
        "deliveries"
    ]
    assert told["waited"]
    assert told["refusals"] == []
    assert len(await broker.records()) == 1
    await until(lambda: nothing_left(broker))


PUBLISH = [
    *("in.team.other", "in.outside.source", "in.team.agent.more", "receipt.team.other", "tail.0"),
    *("ledger.0.allow.task.work.do", "ledger.0.allow.event.thing.happened"),
    *("_INBOX_team_agent.x", "_INBOX_team_other.x", "$SYS.REQ.SERVER.PING"),
    "$JS.API.INFO",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.INFO.INGRESS_0",
    "$JS.API.STREAM.PURGE.LEDGER_0",
    "$JS.API.STREAM.DELETE.LEDGER_0",
    "$JS.API.STREAM.MSG.GET.LEDGER_0",
    "$JS.API.DIRECT.GET.LEDGER_0",
    "$JS.API.CONSUMER.CREATE.LEDGER_0.mine.ledger.0.allow.task.work.do",
    "$JS.API.CONSUMER.INFO.LEDGER_0.team_agent",
    "$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.team_other",
    "$JS.API.CONSUMER.MSG.NEXT.INGRESS_0.team_agent",
    "$JS.ACK.LEDGER_0.team_other.1.1.1.1.0",
]
SUBSCRIBE = [
    *([">"], ["*"], ["*.*.*"], ["in.>"], ["ledger.>"], ["$JS.>"], ["$SYS.>"], ["_INBOX.>"]),
    *(["receipt.>"], ["receipt.team.other"], ["receipt.team.other", "q"], ["tail.0"]),
    *(["_INBOX_team_other.>"], ["_R_.>"]),
]


async def test_an_agent_under_node_is_refused_all_else(installed: Path, broker: Broker) -> None:
    """The broker answers each attempt with a permission error that names it; nothing comes of it.

    The connection lives on, and what is the agent's own still works.
    """
    async with broker.gateway():
        given = {"publish": PUBLISH, "subscribe": SUBSCRIBE}
        told = await script(installed, broker, "refused.mjs", given=given)
    refusals = told["refusals"]
    info = "$JS.API.STREAM.INFO.LEDGER_0"

    assert {"PermissionViolationError"} == {refusal["name"] for refusal in refusals}
    assert [["subscription", *subject] for subject in SUBSCRIBE] + [
        ["publish", subject] for subject in [*PUBLISH, info]
    ] == [
        [refusal[key] for key in ("operation", "subject", "queue") if key in refusal]
        for refusal in refusals
    ]
    assert [["subscription", subject[0]] for subject in SUBSCRIBE] == told["ended"]
    assert told["heard"] == []
    assert told["asked"] == "PermissionViolationError"
    assert (told["after"]["verdict"], told["after"]["seq"]) == ("allow", 1)
    assert [
        (subject, json.loads(payload)["id"])
        for subject, payload in await broker.stored("INGRESS_0")
    ] == [("in.team.agent", "afterwards")]
    assert [record.by for record in await broker.records()] == ["team.agent"]


async def test_it_is_the_key_that_says_who_somebody_is(
    installed: Path, broker: Broker, tmp_path: Path
) -> None:
    """With the key of another agent its subjects are refused; an unknown key does not connect."""
    unknown = Keyring(tmp_path / "unknown")
    unknown.ensure(AGENT)
    async with broker.gateway():
        other = await script(installed, broker, "stranger.mjs", seed=broker.keyring.path(OTHER))
        nobody = await script(installed, broker, "stranger.mjs", seed=unknown.path(AGENT))

    assert (other["connected"], other["outcome"]) == (True, "PermissionViolationError")
    assert [
        (refusal["operation"], refusal["subject"].partition("agent")[0])
        for refusal in other["refusals"]
    ] == [
        ("subscription", "receipt.team."),
        ("subscription", "_INBOX_team_"),
        ("publish", "in.team."),
    ]
    assert (nobody["connected"], nobody["outcome"]) == (False, "AuthorizationError")
    assert await broker.stored("INGRESS_0") == await broker.stored("LEDGER_0") == []
