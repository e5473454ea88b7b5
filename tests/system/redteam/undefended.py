"""What is left of the bus without one of its defences: a table of what is taken out.

Each line takes one thing out of the broker's configuration, a stream, a policy or our own library,
and says what the judge must find when an attack of this folder is run then. All are in one account:
whoever has an account of their own would not get that far.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from nats.aio.msg import Msg

from support.broker import PERMIT_ALL
from tidegate_bus.delivery import Inbox
from tidegate_bus.publisher import Publisher
from tidegate_policy.window import First, Window
from tidegate_schemas.identity import Registration, Revocation
from tidegate_schemas.record import Receipt, Record, decode_receipts, decode_record
from tidegate_schemas.subjects import AckAddress, Verdict

from .attacks_wildcards import EFFECTIVE
from .ground import POLICIES
from .judge import Kind
from .layouts import Alter, Layout

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
    layout: Layout = Layout.TOGETHER
    times: int = 1

    def __str__(self) -> str:
        return f"without {self.without}: {self.attack}"


def _user(document: Document, key: str) -> Document:
    users = [user for account in document["accounts"].values() for user in account.get("users", ())]
    (user,) = [user for user in users if user["nkey"] == key]
    return dict[str, Any](user["permissions"])


def _one_account(document: Document, key: str) -> None:
    """Streams and agents in one account; permissions as they are."""
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
        _user(document, key)["publish"]["allow"].extend(subjects)

    return alter


def _may_hear_all(document: Document, key: str) -> None:
    _user(document, key)["subscribe"]["allow"].append(">")


def _may_write_records(document: Document, key: str) -> None:
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
    sent: list[Any] = []
    send = Publisher._send  # pyright: ignore[reportPrivateUsage]

    async def noting(self: Publisher, open_: Any) -> None:
        sent.append(open_)
        await send(self, open_)

    def lenient(payload: bytes) -> list[Receipt]:
        answer = json.loads(payload)
        if isinstance(answer, list):
            return decode_receipts(payload)
        return [
            Receipt(open_.envelope_id, Verdict.ALLOW, answer["seq"], "permitted", ingress)
            for open_ in sent[-3:]
            for ingress in open_.ingress
        ]

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


def _any_header(patch: pytest.MonkeyPatch) -> None:
    def none(headers: Iterable[str]) -> str:
        return ""

    patch.setattr("tidegate_bus.ingress._reserved", none)


def _any_registration(patch: pytest.MonkeyPatch) -> None:
    def checked(registration: Registration) -> Registration:
        return registration

    patch.setattr(Registration, "check", checked)


def _any_revocation(patch: pytest.MonkeyPatch) -> None:
    def checked(revocation: Revocation) -> Revocation:
        return revocation

    patch.setattr(Revocation, "check", checked)


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
        Undefended(without="an account of one's own", attack=attack.name, achieves=Kind.LOST)
        for attack in EFFECTIVE[:2]
    ),
    Undefended(
        without="reserved headers",
        patch=_any_header,
        attack="headers: those of a stored record",
        achieves=Kind.MARKS,
    ),
    *(
        Undefended(
            without="policies on commands", policies=PERMIT_ALL, attack=attack, achieves=Kind.CONFIG
        )
        for attack in ("register a newcomer", "register itself as an operator", "revoke another")
    ),
    Undefended(
        without="policies on alarms",
        policies=PERMIT_ALL,
        attack="raise bus.bypassed",
        achieves=Kind.MARKS,
    ),
    *(
        Undefended(
            without="the bus's own being out of reach",
            policies=PERMIT_ALL,
            patch=patch,
            attack=attack,
            achieves=Kind.CONFIG,
        )
        for attack, patch in (
            ("register coordinator of the bus", _any_registration),
            ("register a second gateway", _any_registration),
            ("revoke coordinator of the bus", _any_revocation),
        )
    ),
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
        patch=_trusting_inbox,
        attack="pull, answer to the exact inbox of a worker",
        achieves=Kind.FOOLED,
    ),
    Undefended(
        without="strict receipts",
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
