"""The attacks are real: take a defence away, and the same attack gets through."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from support import ADMIN, AGENT, LIMITS, OTHER, PUBLISHER, Broker, until
from tidegate_bus.broker.topology import Limits
from tidegate_bus.connection import Connection
from tidegate_bus.identity.keyring import Keyring
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import NoReceipt
from tidegate_schemas.settings import ServerSettings

from .attack import OWN, Attack, Marks, event
from .catalogue import BY_NAME
from .ground import Foe, Ground, bare, foe, ground
from .judge import Judge, messages
from .layouts import Alter, Layout, Listed
from .test_floods import flood, flood_of_large_messages
from .undefended import UNDEFENDED, Document, Undefended
from .wire import Wire


def _repeated(attack: Attack, times: int) -> Attack:
    async def run(foe: Foe) -> Marks:
        marks = [await attack.run(foe) for _ in range(times)]
        return marks[-1]

    return Attack(attack.name, run)


@pytest.mark.parametrize("less", UNDEFENDED, ids=str)
async def test_without_the_defence_the_attack_gets_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, less: Undefended
) -> None:
    """So that the same attack, when it achieves nothing, shows that the defence holds."""
    key = Keyring(tmp_path / "keys").ensure(AGENT)

    def alter(document: Document) -> None:
        if less.alter:
            less.alter(document, key)

    if less.patch:
        less.patch(monkeypatch)
    async with ground(
        tmp_path,
        alter=alter,
        alter_stream=less.alter_stream,
        policies=less.policies,
        layout=less.layout,
    ) as made:
        made.patience = 1.0
        judge = Judge(made)
        await judge.start()
        found = await judge.breaches(_repeated(BY_NAME[less.attack], less.times))

    assert less.achieves in {breach.kind for breach in found}


def _allow(*fields: str) -> Alter:
    def alter(config: Document) -> None:
        if config["name"] == "INGRESS_0":
            config.update(dict.fromkeys(fields, True))
            if "allow_msg_schedules" in fields:  # the broker has them only where old ones go
                config.update({"discard": "old", "discard_new_per_subject": False})

    return alter


def _only_the_attacker_is_left(stored: list[str]) -> bool:
    return stored == ["in.team.agent"]


def _another_has_spoken(stored: list[str]) -> bool:
    return "in.team.other" in stored


def _it_is_taken(stored: list[str]) -> bool:
    return "in.team.agent" in stored


SETTINGS: list[tuple[str, str, Callable[[list[str]], bool]]] = [
    ("allow_rollup_hdrs", "header: rollup of everything", _only_the_attacker_is_left),
    ("allow_msg_schedules", "header: a schedule", _another_has_spoken),
    ("allow_atomic", "header: a batch of one", _it_is_taken),
    ("allow_batched", "a fast batch to another", _it_is_taken),
]


@pytest.mark.parametrize(
    ("setting", "name", "achieved"), SETTINGS, ids=[setting for setting, _, _ in SETTINGS]
)
async def test_with_another_setting_of_the_ingress_the_header_works(
    tmp_path: Path, setting: str, name: str, achieved: Callable[[list[str]], bool]
) -> None:
    """What is stored is gone, or there under another's name, or in a way that nobody wants."""
    async with bare(tmp_path, alter_stream=_allow(setting)) as broker:
        source = await broker.publisher(PUBLISHER)
        for number in range(3):
            await source.publish(Envelope.new("noise", id=f"{number}"), wait="accepted")
        admin = await broker.connect(ADMIN)
        async with foe(Ground(broker, admin)) as attacker:
            await BY_NAME[name].run(attacker)

        async def gets_through() -> bool:
            stored = await messages(admin, "INGRESS_0", 1, await broker.length("INGRESS_0"))
            return achieved([subject for _, subject, _ in stored])

        await until(gets_through)


async def test_without_a_quota_a_flood_fills_the_ingress(tmp_path: Path) -> None:
    """Then nobody is refused until nobody is taken any more."""

    def no_quota(config: Document) -> None:
        config["discard_new_per_subject"] = False
        config["max_msgs_per_subject"] = -1

    limits = Limits(LIMITS.ledger_bytes, LIMITS.ingress_bytes, 50)
    async with bare(tmp_path, alter_stream=no_quota, limits=limits) as broker:
        wire = await Wire.open(broker.url, broker.secret(AGENT))
        answers = await flood(wire, 200)
        await wire.close()

        assert await broker.length("INGRESS_0") == 200
    assert not any(b"error" in answer for answer in answers)


async def test_without_room_for_a_whole_quota_large_messages_fill_the_ingress(
    tmp_path: Path,
) -> None:
    """Limits that settings refuse: others are not taken although the quota is not used up."""
    backlog, room = 40, 32 * 2**20
    with pytest.raises(ValidationError, match="would fill it for all others"):
        ServerSettings(backlog=backlog, ingress_bytes=room)
    limits = Limits(LIMITS.ledger_bytes, room, backlog)
    async with bare(tmp_path, limits=limits) as broker:
        answers = await flood_of_large_messages(broker, backlog)
        source = await broker.publisher(PUBLISHER)
        large = Envelope.new("noise", "x" * 2**18)
        with pytest.raises(NoReceipt, match="maximum bytes exceeded"):
            await source.publish(large, wait="accepted", timeout=1.0)

    assert any(b"maximum bytes exceeded" in answer for answer in answers)


@pytest.mark.parametrize("layout", [Layout.APART, Layout.OPERATOR])
async def test_a_revocation_that_the_broker_does_not_hear_of_keeps_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, layout: Layout
) -> None:
    """A key that is left on the list, or revoked without a push, submits as before."""

    async def nothing(connection: Connection, account: str) -> None:
        pass

    monkeypatch.setattr("tidegate_bus.identity.operator_mode._push", nothing)
    async with ground(tmp_path, layout=layout) as made:
        if isinstance(made.broker, Listed):
            made.broker.forgetful = True
        judge = Judge(made)
        await judge.start()
        found = await judge.breaches(BY_NAME["a revoked key"])

    assert any("records ['allow permitted'], expected ()" in breach.detail for breach in found)


@pytest.mark.parametrize("layout", Layout)
async def test_only_in_an_account_of_its_own_an_answer_reaches_nobody_else(
    tmp_path: Path, layout: Layout
) -> None:
    """An answer that is aimed at another's inbox is heard there by whoever is in the account."""
    async with bare(tmp_path, layout=layout) as broker:
        victim = await Wire.open(broker.url, broker.secret(OTHER))
        await victim.subscribe("_INBOX_team_other.>")
        async with foe(Ground(broker, await broker.connect(ADMIN))) as attacker:
            await attacker.wire.publish(OWN, event("1"), "_INBOX_team_other.from-another")
            await until(lambda: has(broker, 1))
        await victim.publish("in.team.other", event("2"), "_INBOX_team_other.own")
        await victim.until(lambda: any(h.subject.endswith(".own") for h in victim.heard))
        await victim.close()

    heard = [heard.subject for heard in victim.heard]
    assert ("_INBOX_team_other.from-another" in heard) is layout.shared


async def has(broker: Broker, number: int) -> bool:
    """Whether the ingress has so many submissions."""
    return await broker.length("INGRESS_0") == number
