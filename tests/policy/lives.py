"""Lives of a bus: whatever can happen at an office, at random, and its ledger as one reads it."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

from policy.office import (
    ANN,
    ASKER,
    BOB,
    COORDINATOR,
    CY,
    PAYER,
    SECOND,
    Office,
    answering,
    policies,
)
from tidegate_bus.ledger import StoredRecord
from tidegate_policy.bundle import Bundle
from tidegate_schemas import subjects
from tidegate_schemas.blueprint import Blueprint
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.identity import Role
from tidegate_schemas.record import Record, decode_record
from tidegate_schemas.subjects import Kind

_REST = """
@id("rest") permit (principal, action, resource) unless { context.to == "pay.out" };
@id("pay") %s permit (principal, action, resource) when { context.to == "pay.out" };
"""
APPROVAL = f'@require_approval("2 of {ANN} {BOB} {CY} within 1h")'
WINDOWED = (
    f'{APPROVAL} @rate_limit("40/1h")',
    '@budget("usd:4/1h per team reserve 0.5") @rate_limit("6/10s; 30/30m per bus")',
    r'@budget("usd:2\u{2f}2h reserve 0.5; messages:9/10m per agent")',  # a `/`, written oddly
    f'@require_approval("1 of {BOB} within never") @budget("usd:6/10m per run reserve 1")',
    '@rate_limit("3/1m per run")',
    "",
)
ENDLESS = '@budget("messages:6 per run; usd:3 per run reserve 0.5; seconds:900 per run reserve 60")'
RUNS = ("r1", "r2", "r3")
BLUEPRINT = Blueprint.model_validate(
    {"blueprint": "refund", "version": 1, "steps": {"check": {"task": "pay.check"}}}
)


@cache
def bundle(obligations: str) -> Bundle:
    """Where `pay.out` obliges to this, and everything else to nothing."""
    return policies(_REST % obligations)


class Life:
    """A random one. What was done is done again by the same seed.

    Args:
        seed: of all choices.
        endless: whether some bundle has a budget without a window.

    Attributes:
        office: where it takes place.
        cut: the gateway was killed at the end, in the middle of what it was doing.
    """

    def __init__(self, seed: int, *, endless: bool = False) -> None:
        self.chance = random.Random(seed)
        self.texts = [*WINDOWED, ENDLESS] if endless else list(WINDOWED)
        first = self.texts[self.chance.randrange(len(self.texts))]
        self.office = Office(bundle(first))
        self._commands = 0
        self.cut = False

    def live(self, steps: int) -> None:
        """So many random events, the last of them perhaps cut off in the middle."""
        for _ in range(steps):
            self.step()
            if self.chance.random() < 0.03:
                self._cut()
                self.office.restart()
        self.cut = self.chance.random() < 0.5
        if self.cut:
            self._cut()

    def step(self) -> list[Record]:
        """Anything."""
        by, submitted = self.anything()
        return self.office.submit(by, submitted)

    def _cut(self) -> None:
        """Something with consequences, of which only the first are recorded."""
        by, envelope = self.chance.choice([self.order, self.over, self.tick])()
        self.office.submit(by, envelope, cut=self.chance.choice([1, 1, 2, 3, 4]))

    def anything(self) -> tuple[str, Envelope]:
        """Who sends what; time may pass before."""
        chance = self.chance
        chance.choices([self._no_time, self._time], [8, 1])[0]()
        kinds = [self.task, self.answer, self.order, self.opinion, self.over, self.tick]
        kinds += [self.activate, self.propose, self.identity, self.blueprint, self.event]
        return chance.choices(kinds, [30, 12, 4, 16, 3, 3, 2, 2, 1, 1, 3])[0]()

    def _no_time(self) -> None:
        self.office.now += self.chance.randrange(SECOND)

    def _time(self) -> None:
        seconds = self.chance.choice([1, 9, 10, 61, 300, 600, 1800, 3600, 7200])
        self.office.now += seconds * SECOND

    def _command(self, by: str, to: str, data: Any = None, **more: Any) -> tuple[str, Envelope]:
        self._commands += 1
        more = {"id": f"c{self._commands}"} | more
        return by, Envelope.new(to, data, kind="control", to=to, **more)

    def task(self) -> tuple[str, Envelope]:
        """Some work; ids come again after a while."""
        chance = self.chance
        by = chance.choice([ASKER, ASKER, COORDINATOR, COORDINATOR, PAYER, ANN])
        to = chance.choice(["pay.out", "pay.out", "pay.check", "shop.ask"])
        more: dict[str, Any] = {"id": f"{chance.randrange(60)}"}
        if chance.random() < 0.6:
            more["runid"] = chance.choice(RUNS)
        if chance.random() < 0.3:
            more["costs"] = f"usd:{chance.choice(['0.1', '0.7', '2'])}"
        if chance.random() < 0.1:
            more["onbehalfof"] = chance.choice([ANN, BOB])
        if by == COORDINATOR and to == "pay.check" and chance.random() < 0.5:
            more |= {"blueprint": BLUEPRINT.digest, "stepid": "check"}
        return by, Envelope.new(to, {"n": 1}, kind="task", to=to, **more)

    def event(self) -> tuple[str, Envelope]:
        """Something happened."""
        by = self.chance.choice([ASKER, PAYER])
        return by, Envelope.new("some.thing", id=f"{self.chance.randrange(60)}")

    def answer(self) -> tuple[str, Envelope]:
        """To something that there was, new or old, mostly by who was asked; or to nothing."""
        chance, ledger = self.chance, self.office.ledger
        more: dict[str, Any] = {"id": f"a{chance.randrange(200)}"}
        if chance.random() < 0.7:
            more["costs"] = f"usd:{chance.choice(['0', '0.1', '0.4'])}"
        more["type"] = chance.choice(["tidegate.result", "tidegate.deadletter"])
        by = chance.choice([PAYER, PAYER, PAYER, ASKER, BOB])
        records = [
            decode_record(leaf)
            for leaf in [*ledger[-30:], *chance.sample(ledger, min(len(ledger), 9))]
        ]
        given = [r for r in records if r.kind in (Kind.TASK, Kind.EVENT) and r.message()]
        if given and chance.random() < 0.9:
            return by, answering(chance.choice(given), **more)
        more |= {"answers": f"{chance.randrange(1, 200)}", "causationid": f"{chance.randrange(60)}"}
        return by, Envelope.new(kind="result", to=chance.choice([ASKER, COORDINATOR]), **more)

    def order(self) -> tuple[str, Envelope]:
        """An operator stops something or lets it go on; mostly the latter."""
        chance = self.chance
        targets = ["bus", "team:pay", f"agent:{PAYER}", f"agent:{ASKER}", "capability:pay.out"]
        target = chance.choice([*targets, "run:r1", "run:r2", "blueprint:refund"])
        verb = chance.choice(["pause", "quarantine", "kill"])
        stopped = [str(t) for t in self.office.desk.state.controls.levels]
        if stopped and chance.random() < 0.7:
            target = chance.choice(stopped)
            verb = chance.choice(["resume", "resume", "release", "release", "kill"])
        elif verb == "kill" and chance.random() < 0.8:
            verb = "pause"
        return self._command(ANN, f"control.{verb}", {"target": target})

    def opinion(self) -> tuple[str, Envelope]:
        """About something that waits, or did, or never."""
        chance, state = self.chance, self.office.desk.state
        held = [hold.seq for hold in state.holds if hold.approvals]
        held = held[:3] or [hold.seq for hold in state.holds] or [1]
        seq = chance.choice(held) if chance.random() < 0.9 else chance.randrange(1, 200)
        hold = state.holds.get(seq)
        said = {
            "hold": seq,
            "message": hold.digest if hold else "sha256:" + "0" * 64,
            "bundle": state.library.active,
            "blueprint": (hold.envelope.blueprint or "") if hold else "",
        }
        verb = chance.choice(["grant", "grant", "grant", "grant", "refuse"])
        return self._command(
            chance.choice([ANN, BOB, BOB, CY, CY, PAYER]), f"approval.{verb}", said
        )

    def over(self) -> tuple[str, Envelope]:
        """A run ends."""
        self._commands += 1
        run = self.chance.choice(RUNS)
        return COORDINATOR, Envelope.new("run.finished", id=f"c{self._commands}", runid=run)

    def tick(self) -> tuple[str, Envelope]:
        """Time has passed."""
        return self._command("tidegate.gateway", "clock.tick")

    def propose(self) -> tuple[str, Envelope]:
        """A bundle, perhaps one that is known."""
        files = dict(bundle(self.chance.choice(self.texts)).files)
        return self._command(BOB, "policy.propose", {"files": files})

    def activate(self) -> tuple[str, Envelope]:
        """A bundle that is known, perhaps an old one."""
        digest = bundle(self.chance.choice(self.texts)).digest
        return self._command(BOB, "policy.activate", {"bundle": digest})

    def identity(self) -> tuple[str, Envelope]:
        """Somebody comes or goes."""
        who = self.chance.choice([CY, PAYER])
        if self.chance.random() < 0.3:
            return self._command(ANN, "identity.revoke", {"principal": who})
        data: dict[str, Any] = {"principal": who, "role": Role.OPERATOR, "keys": ["U"]}
        if who == PAYER:
            data |= {"role": Role.AGENT, "capabilities": ["pay.out", "pay.check"]}
            data["subscribes"] = ["some.thing"]
        return self._command(ANN, "identity.register", data)

    def blueprint(self) -> tuple[str, Envelope]:
        """The coordinator says what it runs."""
        document = {"document": BLUEPRINT.canonical}
        return self._command(COORDINATOR, "blueprint.register", document)


class Shelf:
    """The ledger of an office, to be read as the broker lets one read it.

    Args:
        ledger: the leaves.
        ahead: by how much the broker's clock is ahead of the gateway's, in ns.

    Attributes:
        handed: how many records were handed out.
    """

    def __init__(self, ledger: list[bytes], ahead: int = 0) -> None:
        self.stored = [_stored(leaf, ahead) for leaf in ledger]
        self.handed = 0

    async def read(
        self,
        start: int = 1,
        *,
        since: int | None = None,
        filter: str | None = None,
        batch: int = 512,
    ) -> AsyncIterator[StoredRecord]:
        """See `LedgerReader`."""
        if since is not None:
            later = (stored.seq for stored in self.stored if stored.stored >= since)
            start = next(later, len(self.stored) + 1)
        for stored in self.stored[start - 1 :]:
            if filter is None or _matches(stored.subject, filter):
                self.handed += 1
                yield stored


def _stored(leaf: bytes, ahead: int) -> StoredRecord:
    made = decode_record(leaf)
    subject = subjects.ledger(0, made.verdict, made.kind, made.to)
    return StoredRecord(made.seq, subject, leaf, parse_rfc3339(made.time) + ahead)


def _matches(subject: str, pattern: str) -> bool:
    return fnmatchcase(subject, pattern.replace(">", "?*"))
