"""The attacks are real: take a defence away, and the same attack gets through.

Each line of the table takes one thing out of the broker's configuration, a stream, a policy or our
own library, runs an attack of this folder and says what the judge must find then.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from nats.aio.msg import Msg

from support import ADMIN, AGENT, PUBLISHER, until
from support.broker import LIMITS
from tidegate_bus.delivery import Inbox
from tidegate_bus.keyring import Keyring
from tidegate_bus.publisher import Publisher
from tidegate_bus.topology import Limits
from tidegate_policy.window import First, Window
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.record import Receipt, Record, decode_receipts, decode_record
from tidegate_schemas.subjects import AckAddress, Verdict

from .attack import Attack, Marks
from .attacks_connections import CONNECTIONS
from .attacks_messages import MESSAGES
from .attacks_permissions import PUBLISHING, SUBSCRIBING
from .attacks_replies import ANSWERS
from .attacks_work import WORK
from .ground import POLICIES, Alter, Foe, Ground, bare, foe, ground
from .judge import Judge, Kind, messages
from .test_floods import flood
from .wire import Wire

BY_NAME = {a.name: a for a in (*ANSWERS, *CONNECTIONS, *MESSAGES, *PUBLISHING, *SUBSCRIBING, *WORK)}
Patch = Callable[[pytest.MonkeyPatch], None]
Document = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Undefended:
    """One defence less, an attack, and what it achieves then."""

    without: str
    attack: str
    achieves: Kind
    alter: Callable[[Document, str], None] | None = None
    alter_stream: Alter | None = None
    patch: Patch | None = None
    policies: str = POLICIES
    times: int = 1

    def __str__(self) -> str:
        return f"without {self.without}: {self.attack}"


def _user(document: Document, key: str) -> Document:
    users = [user for account in document["accounts"].values() for user in account.get("users", ())]
    (user,) = [user for user in users if user["nkey"] == key]
    return dict[str, Any](user["permissions"])


def _together(document: Document, key: str) -> None:
    """All who are not of the bus itself in one account."""
    accounts = document["accounts"]
    for name in set(accounts) - {"SYS", "BUS", "AGENTS"}:
        accounts["AGENTS"]["users"] += accounts.pop(name)["users"]
    for export in accounts["BUS"]["exports"]:
        export["accounts"] = ["AGENTS"]


def _one_account(document: Document, key: str) -> None:
    """Streams and agents in one account; permissions as they are."""
    _together(document, key)
    accounts = document["accounts"]
    accounts["BUS"]["users"] += accounts.pop("AGENTS")["users"]
    del accounts["BUS"]["exports"]


def _one_account_without_permissions(document: Document, key: str) -> None:
    _one_account(document, key)
    for user in document["accounts"]["BUS"]["users"]:
        if user["nkey"] == key:
            del user["permissions"]


def _may_publish(*subjects: str) -> Callable[[Document, str], None]:
    def alter(document: Document, key: str) -> None:
        _together(document, key)
        _user(document, key)["publish"]["allow"].extend(subjects)

    return alter


def _may_hear_all(document: Document, key: str) -> None:
    _together(document, key)
    _user(document, key)["subscribe"]["allow"].append(">")


def _may_write_records(document: Document, key: str) -> None:
    _together(document, key)
    _may_publish("ledger.>")(document, key)
    accounts = document["accounts"]
    accounts["BUS"]["exports"].append({"service": "ledger.0.>", "accounts": ["AGENTS"]})
    imported = {"service": {"account": "BUS", "subject": "ledger.0.>"}}
    accounts["AGENTS"]["imports"].append(imported)


def _welcomes_strangers(document: Document, key: str) -> None:
    document["accounts"]["BUS"]["users"].append({"user": "anybody", "password": "any"})
    document["no_auth_user"] = "anybody"


def _takes_more(document: Document, key: str) -> None:
    document["max_payload"] = 8 * 2**20


def _remembers_ids(config: Document) -> None:
    config["duplicate_window"] = 60 * 10**9


def _trusting_inbox(patch: pytest.MonkeyPatch) -> None:
    def checked(inbox: Inbox, address: AckAddress, message: Msg) -> Record:
        return decode_record(message.data)

    patch.setattr(Inbox, "_checked", checked)


def _trusting_receipts(patch: pytest.MonkeyPatch) -> None:
    """A reader for whom what comes to it is an answer to what it has sent last."""
    sent = list[str]()
    send = Publisher._send  # pyright: ignore[reportPrivateUsage]

    async def noting(self: Publisher, open_: Any) -> None:
        sent.append(open_.envelope_id)
        await send(self, open_)

    def lenient(payload: bytes) -> list[Receipt]:
        answer = json.loads(payload)
        if isinstance(answer, list):
            return decode_receipts(payload)
        return [Receipt(id_, Verdict.ALLOW, answer["seq"], "permitted", 0) for id_ in sent[-3:]]

    patch.setattr(Publisher, "_send", noting)
    patch.setattr("tidegate_bus.publisher.decode_receipts", lenient)


def _ids_at_the_broker(patch: pytest.MonkeyPatch) -> None:
    """A publisher that leaves it to the broker to find what comes twice."""

    async def send(self: Publisher, open_: Any) -> None:
        await self._connection.publish(  # pyright: ignore[reportPrivateUsage]
            self._subject,  # pyright: ignore[reportPrivateUsage]
            open_.payload,
            reply=f"{self._inbox}.{open_.token}",  # pyright: ignore[reportPrivateUsage]
            headers={"Nats-Msg-Id": open_.envelope_id},
        )

    patch.setattr(Publisher, "_send", send)


def _ids_of_all_senders(patch: pytest.MonkeyPatch) -> None:
    find, add = Window.find, Window.add

    def find_any(self: Window, by: str, envelope_id: str, now: int) -> First | None:
        return find(self, "", envelope_id, now)

    def add_any(self: Window, by: str, envelope_id: str, first: First) -> None:
        add(self, "", envelope_id, first)

    patch.setattr(Window, "find", find_any)
    patch.setattr(Window, "add", add_any)


UNDEFENDED = [
    *(
        Undefended(without="accounts apart", alter=_one_account, attack=attack, achieves=achieves)
        for attack, achieves in (
            ("publish, answer to a record", Kind.FOREIGN),
            ("pull nothing, answer to a record", Kind.FOREIGN),
            ("publish, answer to a submission of another", Kind.FORGED),
            ("pull nothing, answer to a submission of another", Kind.FORGED),
        )
    ),
    *(
        Undefended(
            without="permissions and accounts apart",
            alter=_one_account_without_permissions,
            attack=f"ask {verb}",
            achieves=Kind.CONFIG,
        )
        for verb in ("CONSUMER.DELETE.LEDGER_0.team_other", "CONSUMER.CREATE.LEDGER_0.x")
    ),
    Undefended(
        without="permissions to publish",
        alter=_may_publish(">"),
        attack="as another of the team",
        achieves=Kind.FORGED,
    ),
    *(
        Undefended(
            without="permissions to subscribe",
            alter=_may_hear_all,
            attack=f"subscribe to {subject}",
            achieves=Kind.HEARD,
        )
        for subject in ("receipt.team.other", "the exact inbox of a worker", ">")
    ),
    *(
        Undefended(
            without="the scope of acks",
            alter=_may_publish("$JS.ACK.LEDGER_0.>"),
            attack=f"{what} another's work",
            achieves=Kind.SETTLED,
        )
        for what in ("ack", "nak", "term")
    ),
    Undefended(
        without="the scope of pulls",
        alter=_may_publish("$JS.API.CONSUMER.MSG.NEXT.LEDGER_0.*"),
        attack="ask CONSUMER.MSG.NEXT.LEDGER_0.team_other",
        achieves=Kind.HEARD,
    ),
    Undefended(
        without="one writer of the ledger",
        alter=_may_write_records,
        attack="on a record",
        achieves=Kind.FOREIGN,
    ),
    Undefended(
        without="keys",
        alter=_welcomes_strangers,
        attack="connect with no key",
        achieves=Kind.FOREIGN,
    ),
    Undefended(
        without="a largest message",
        alter=_takes_more,
        attack="a payload that is too large",
        achieves=Kind.MARKS,
    ),
    Undefended(
        without="policies",
        policies='@id("everything") permit (principal, action, resource);',
        attack="lie: a task to oneself",
        achieves=Kind.MARKS,
    ),
    Undefended(
        without="the worker's check of the ack subject",
        alter=_together,
        patch=_trusting_inbox,
        attack="pull, answer to the exact inbox of a worker",
        achieves=Kind.FOOLED,
    ),
    Undefended(
        without="strict receipts",
        alter=_together,
        patch=_trusting_receipts,
        attack="publish, answer to a receipt of another",
        achieves=Kind.FOOLED,
        times=100,
    ),
    Undefended(
        without="ids kept by the gateway",
        patch=_ids_at_the_broker,
        alter_stream=_remembers_ids,
        attack="header: ids of another",
        achieves=Kind.LOST,
    ),
    Undefended(
        without="ids kept by sender",
        patch=_ids_of_all_senders,
        attack="envelope ids of another",
        achieves=Kind.FOOLED,
    ),
]


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
        tmp_path, alter=alter, alter_stream=less.alter_stream, policies=less.policies
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
        wire = await Wire.open(broker.url, broker.keyring.seed(AGENT))
        answers = await flood(wire, 200)
        await wire.close()

        assert await broker.length("INGRESS_0") == 200
    assert not any(b"error" in answer for answer in answers)
