"""The broker's configuration: what it refuses by itself, whatever client speaks to it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from support import ADMIN, AGENT, INTRUDER, OPERATOR, OTHER, PUBLISHER, Broker, Raw
from tidegate_bus.broker.accounts import (
    NOTARY,
    PROBE,
    REGISTRAR,
    WARDEN,
    Identity,
    configuration,
)
from tidegate_bus.broker.server import find_server
from tidegate_bus.identity.keyring import Keyring
from tidegate_bus.ingress import PulledIngress
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import COORDINATOR, EDGE, GATEWAY

INGRESS, LEDGER, HEADS = "INGRESS_0", "LEDGER_0", "HEADS_0"
OPEN_CONSUMER = json.dumps(
    {"stream_name": LEDGER, "config": {"name": "x", "ack_policy": "none"}}
).encode()
EVENT = encode(Envelope.new("thing.happened", id="1"))

As = Callable[[Principal], Coroutine[Any, Any, Raw]]

EVERYTHING = [
    "in.team.agent",
    "in.team.other",
    "in.team.agent.more",
    "ledger.0.allow.task.work.do",
    "ledger.1.allow.task.work.do",
    "receipt.team.agent",
    "receipt.team.other",
    "tail.0",
    "head.0",
    "_INBOX_team_agent.x",
    "_INBOX_team_other.x",
    "_R_.x.y",
    "vault.team.agent",
    "vault.team.other",
    "$SYS.REQ.SERVER.PING",
    "$SYS.REQ.SERVER.PING.CONNZ",
    "$SYS.REQ.SERVER.ID.KICK",
    "$SYS.REQ.SERVER.ID.RELOAD",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.CLAIMS.DELETE",
    "$SYS.REQ.USER.INFO",
    "$JS.FC.LEDGER_0.team_agent.x",
    "$JS.API.INFO",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.NAMES",
    "$JS.API.STREAM.CREATE.ANOTHER",
    "$JS.API.STREAM.RESTORE.ANOTHER",
    "$JS.API.DIRECT.GET.LEDGER_0",
    "$JS.API.DIRECT.GET.INGRESS_0",
    "$JS.API.DIRECT.GET.HEADS_0",
    "$JS.API.DIRECT.GET.LEDGER_0.ledger.0.allow.task.work.do",
    *(
        f"$JS.API.STREAM.{verb}.{stream}"
        for verb in (
            *("CREATE", "UPDATE", "INFO", "PURGE", "DELETE", "RESTORE", "SNAPSHOT"),
            *("MSG.GET", "MSG.DELETE", "LEADER.STEPDOWN", "PEER.REMOVE"),
        )
        for stream in (INGRESS, LEDGER, HEADS)
    ),
    *(
        f"$JS.API.CONSUMER.{verb}.{stream}.{name}"
        for verb in ("CREATE", "DURABLE.CREATE", "INFO", "DELETE", "MSG.NEXT", "PAUSE", "RESET")
        for stream in (INGRESS, LEDGER, HEADS)
        for name in ("team_agent", "team_other", "x.ledger.0.allow.task.work.do")
    ),
    "$JS.API.CONSUMER.LIST.LEDGER_0",
    "$JS.API.CONSUMER.CREATE.LEDGER_0",
    "$JS.ACK.LEDGER_0.team_agent.1.1.1.1.0",
    "$JS.ACK.LEDGER_0.team_other.1.1.1.1.0",
    "$JS.ACK.INGRESS_0.team_agent.1.1.1.1.0",
]
"""Subjects that mean something to somebody. What is not listed for a role below is refused."""

CONSUMER_NAMES = ("team_agent", "team_other", "x.ledger.0.allow.task.work.do")
ALLOWED: dict[Principal, set[str]] = {
    AGENT: {
        "in.team.agent",
        "vault.team.agent",
        "$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.team_agent",
        "$JS.ACK.LEDGER_0.team_agent.1.1.1.1.0",
    },
    PUBLISHER: set(),
    PROBE: set(),
    WARDEN: {
        "$SYS.REQ.SERVER.PING.CONNZ",
        "$SYS.REQ.SERVER.ID.KICK",
        "$SYS.REQ.CLAIMS.UPDATE",
    },
    NOTARY: {
        "$JS.API.DIRECT.GET.HEADS_0",
        "$JS.API.DIRECT.GET.LEDGER_0",
        "$JS.API.STREAM.INFO.LEDGER_0",
    },
    OPERATOR: {"$JS.API.DIRECT.GET.LEDGER_0"},
    EDGE: {"$JS.API.DIRECT.GET.LEDGER_0"},
    COORDINATOR: {"$JS.API.DIRECT.GET.LEDGER_0"},
    GATEWAY: {
        "ledger.0.allow.task.work.do",
        "in.tidegate.gateway",
        "receipt.team.agent",
        "receipt.team.other",
        "tail.0",
        "head.0",
        "$JS.API.DIRECT.GET.HEADS_0",
        "_R_.x.y",
        "$JS.API.DIRECT.GET.LEDGER_0",
        "$JS.API.STREAM.INFO.INGRESS_0",
        "$JS.API.STREAM.INFO.LEDGER_0",
        "$JS.API.STREAM.PURGE.INGRESS_0",
        *(f"$JS.API.CONSUMER.CREATE.INGRESS_0.{name}" for name in CONSUMER_NAMES),
        *(f"$JS.API.CONSUMER.MSG.NEXT.INGRESS_0.{name}" for name in CONSUMER_NAMES[:2]),
    },
    REGISTRAR: {
        "$JS.API.STREAM.CREATE.INGRESS_0",
        "$JS.API.STREAM.CREATE.LEDGER_0",
        "$JS.API.STREAM.CREATE.HEADS_0",
        "$JS.API.STREAM.INFO.HEADS_0",
        "$JS.API.STREAM.UPDATE.HEADS_0",
        "$JS.API.STREAM.INFO.INGRESS_0",
        "$JS.API.STREAM.INFO.LEDGER_0",
        "$JS.API.STREAM.UPDATE.INGRESS_0",
        *(f"$JS.API.CONSUMER.CREATE.LEDGER_0.{name}" for name in CONSUMER_NAMES),
        *(f"$JS.API.CONSUMER.INFO.LEDGER_0.{name}" for name in CONSUMER_NAMES[:2]),
        "$JS.API.CONSUMER.LIST.LEDGER_0",
        *(f"$JS.API.CONSUMER.PAUSE.LEDGER_0.{name}" for name in CONSUMER_NAMES[:2]),
    },
}

OTHERS_SUBJECTS = [
    *(">", "*", "*.*", "*.*.*", "*.team.agent", "in.>", "in.team.agent", "ledger.>", "$JS.>"),
    *("$SYS.>", "_R_.>", "_INBOX.>", "_INBOX_team_other.>", "_INBOX_team_other.x", "receipt.>"),
    *("receipt.team.*", "receipt.team.other", "receipt.team.other q", "> q", "tail.1"),
    *("vault.>", "vault.team.*", "vault.team.agent", "vault.team.other"),
]


@pytest.fixture
async def speaking_as(broker: Broker) -> AsyncGenerator[As]:
    """Opens connections on which anything may be written."""
    opened: list[Raw] = []

    async def open_(who: Principal) -> Raw:
        opened.append(await Raw.open(broker.url, broker.keyring.seed(who)))
        return opened[-1]

    yield open_
    for raw in opened:
        await raw.close()


def refused(answers: list[bytes]) -> bool:
    """Whether the broker said no to what was asked last."""
    return any(b"Permissions Violation" in line for line in answers)


@pytest.mark.parametrize(
    "name", ["state", "my state", 'a"b', "a\\b", "jóźef", "$HOME", "#1", "a'b", "日本"]
)
async def test_nats_server_accepts_the_configuration(tmp_path: Path, name: str) -> None:
    """With everybody in it, and wherever the streams are: no path means more than itself."""
    keyring = Keyring(tmp_path / "keys")
    everybody = [(Principal("team", role.value), role) for role in Role]
    identities = [Identity(who, role, keyring.ensure(who)) for who, role in everybody]
    path = tmp_path / "nats.conf"
    path.write_text(configuration(identities, store=tmp_path / name, store_bytes=2**30))
    server = await asyncio.create_subprocess_exec(
        *(await find_server(), "-t", "-c", path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await server.communicate()

    assert b"is valid" in output
    assert json.loads(path.read_text())["jetstream"]["store_dir"] == str(tmp_path / name)


@pytest.mark.parametrize("who", ALLOWED, ids=str)
async def test_a_principal_may_publish_what_its_role_names_and_nothing_else(
    speaking_as: As, who: Principal
) -> None:
    """The broker itself refuses every other subject, all of the API among them."""
    raw = await speaking_as(who)
    unheard = (GATEWAY, REGISTRAR, WARDEN, NOTARY, EDGE)
    own: set[str] = set() if who in unheard else {f"in.{who}", f"vault.{who}"}
    allowed = {
        subject
        for subject in {*EVERYTHING, f"in.{who}", f"vault.{who}"}
        if not refused(await raw.publish(subject, b"{}"))
    }

    assert allowed == ALLOWED[who] | own


@pytest.mark.parametrize("who", [AGENT, PUBLISHER, OPERATOR, COORDINATOR, GATEWAY], ids=str)
async def test_a_principal_hears_only_what_is_its_own(speaking_as: As, who: Principal) -> None:
    """No subscription reaches another's inbox or receipts, or all of them."""
    raw = await speaking_as(who)
    heard = [
        subject
        for number, subject in enumerate(OTHERS_SUBJECTS)
        if not refused(await raw.say(f"SUB {subject} {number}".encode()))
    ]
    keys = [subject for subject in OTHERS_SUBJECTS if subject.startswith("vault.team.")]
    assert heard == (keys if who == GATEWAY else [])  # who asks, it must hear

    assert not refused(await raw.say(f"SUB _INBOX_{who.team}_{who.name}.> 100".encode()))
    hears_receipts = not refused(await raw.say(f"SUB receipt.{who} 101".encode()))
    assert hears_receipts == (who != GATEWAY)


async def test_no_reply_subject_leads_into_a_stream(broker: Broker, speaking_as: As) -> None:
    """What an agent asks to be answered on stays in its account.

    Streams in the account of the agents would store the broker's answer there: a record past the
    gateway, a message of another sender.
    """
    raw = await speaking_as(AGENT)
    replies = [
        "ledger.0.allow.task.work.do",
        "in.team.other",
        "in.outside.source",
        "tail.0",
        "$JS.API.STREAM.DELETE.LEDGER_0",
        "x.id.500.fail.1.2.$FI",
    ]
    async with broker.gateway():
        publisher = await broker.publisher()
        await publisher.publish(Envelope.new("work", kind="task", to="work.do"))
        for reply in replies:
            await raw.publish("in.team.agent", EVENT, reply)
            await raw.publish("$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.team_agent", b"1", reply)
            await raw.publish("$JS.ACK.LEDGER_0.team_agent.1.1.1.1.0", b"+NXT 1", reply)
            await raw.publish("vault.team.agent", b'{"ask":"open","records":[1]}', reply)
        last = await publisher.publish(Envelope.new("afterwards"))

    ingress, ledger = await broker.stored(INGRESS), await broker.stored(LEDGER)
    assert [subject for subject, _ in ingress] == [
        "in.outside.source",
        *["in.team.agent"] * (len(replies) - 1),  # the last is a batch, which INGRESS refuses
        "in.outside.source",
    ]
    assert {payload for subject, payload in ingress if subject == "in.team.agent"} == {EVENT}
    assert len(ledger) == len(ingress) == last.seq
    assert {record.by for record in await broker.records()} == {"outside.source", "team.agent"}


async def test_all_rights_in_the_account_of_the_agents_are_none_over_streams(
    broker: Broker, speaking_as: As
) -> None:
    """Even a user without permissions to check reaches nothing but what is imported."""
    raw = await speaking_as(INTRUDER)
    for subject in EVERYTHING:
        if not subject.startswith("in."):
            await raw.publish(subject, OPEN_CONSUMER)
    consumers = await (await broker.connect(ADMIN)).api("$JS.API.CONSUMER.NAMES.LEDGER_0")

    assert await broker.stored(LEDGER) == await broker.stored(INGRESS) == []
    assert sorted(consumers["consumers"]) == ["team_agent", "team_other"]


HEADERS = [
    b"NATS/1.0\r\nNats-Rollup: all\r\n\r\n",
    b"NATS/1.0\r\nNats-Rollup: sub\r\n\r\n",
    b"NATS/1.0\r\nNats-TTL: 1s\r\n\r\n",
    b"NATS/1.0\r\nNats-Incr: 1\r\n\r\n",
    b"NATS/1.0\r\nNats-Schedule: @at 2000-01-01T00:00:00Z\r\n"
    b"Nats-Schedule-Target: in.team.other\r\n\r\n",
    b"NATS/1.0\r\nNats-Batch-Id: b\r\nNats-Batch-Sequence: 1\r\nNats-Batch-Commit: 1\r\n\r\n",
    b"NATS/1.0\r\nNats-Expected-Last-Sequence: 999\r\n\r\n",
    b"NATS/1.0\r\nNats-Stream-Source: LEDGER_0 1 1\r\n\r\n",
    b"NATS/1.0\r\nNats-Trace-Dest: in.team.other\r\n\r\n",
    b"NATS/1.0 503\r\n\r\n",
    b"NATS/1.0 404 \xff\r\nStatus: 409\r\n\r\n",
    b"NATS/1.0 \xff\xff\xff\r\nA: b\r\n\r\n",
    b"NATS/1.0\r\nStatus: 408\r\nNats-Pending-Messages: 1000000\r\n\r\n",
    b"NATS/1.0\r\n\xff: \xff\r\n \r\nno colon\r\n\r\n",
    b"NATS/1.0\r\n",
    b"NATS/1.0",
    b"x",
]


async def test_no_header_of_a_sender_moves_others_or_stops_the_gateway(
    broker: Broker, speaking_as: As
) -> None:
    """Whatever stands in front of a payload, nothing is lost and the next message is read."""
    raw, source = await speaking_as(AGENT), await speaking_as(PUBLISHER)
    reader = await PulledIngress.open(await broker.connect(GATEWAY), after=0)
    for headers in HEADERS:
        await raw.publish_with(headers, "in.team.agent", EVENT)
        await source.publish("in.outside.source", EVENT)
    got = [await anext_(reader) for _ in range(await broker.length(INGRESS))]
    await reader.close()

    assert [submission.seq for submission in got] == list(range(1, len(got) + 1))
    assert [s.payload for s in got if s.by == "outside.source"] == [EVENT] * len(HEADERS)
    assert {submission.by for submission in got} == {"team.agent", "outside.source"}


async def anext_(reader: PulledIngress) -> Any:
    """The next submission."""
    (submission,) = await reader.next(1)
    return submission


async def test_nobody_makes_a_message_of_another_vanish_by_its_id(
    broker: Broker, speaking_as: As
) -> None:
    """The broker's own memory of ids is one for all senders, so nobody relies on it."""
    raw = await speaking_as(AGENT)
    async with broker.gateway():
        publisher = await broker.publisher(OTHER)
        for number in range(20):
            headers = b"NATS/1.0\r\nNats-Msg-Id: %d\r\n\r\n" % number
            await raw.publish_with(headers, "in.team.agent", b"squatting")
            receipt = await publisher.publish(Envelope.new("thing", id=str(number)))
            assert receipt.verdict == "allow"
