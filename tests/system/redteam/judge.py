"""What an attack has achieved, seen from outside: streams, consumers, the others, the log."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import structlog.testing

from support import AGENT, TOPIC, until
from support.broker import ROSTER
from tidegate_bus.connection import ApiError, Connection
from tidegate_policy.roster import Roster, follow
from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidRecord
from tidegate_schemas.record import Record, decode_record
from tidegate_schemas.subjects import Verdict, delivery, ledger, submitter

from .attack import Attack, Marks
from .ground import CANARY, Foe, Ground, foe

INGRESS, LEDGER = "INGRESS_0", "LEDGER_0"
_OWN_SUBJECT = re.compile(
    r"_INBOX_team_agent\.|receipt\.team\.agent$|ledger\.0\.allow\.task\.work\.do$"
)
_TO_WORKER = delivery(0, subjects.Kind.EVENT, TOPIC)
_GONE = 10037


class Kind(StrEnum):
    """What has gone wrong."""

    CONFIG = "a stream, a consumer or the roster was changed"
    FOREIGN = "the ledger holds what no gateway wrote"
    FORGED = "a message stands there under another's name"
    LOST = "a message of another is lost, late or refused"
    FOOLED = "our library was fooled"
    SETTLED = "another's work was settled"
    HEARD = "the attacker heard what is not its own"
    MARKS = "it left other marks than it must"


class Breach(NamedTuple):
    """One thing that has gone wrong."""

    kind: Kind
    detail: str


@dataclass
class Judge:
    """Looks at one ground, after one attack after the other.

    Attributes:
        ground: where the others are at work.
        topology: what `_topology` found before any attack.
        seen: the ledger so far, subject and payload.
        records: its records, by the sequence of the submission.
        submissions: last sequence of the ingress so far.
        roster: who takes part, as the ledger says.
    """

    ground: Ground
    topology: dict[str, Any] = field(default_factory=dict[str, Any])
    seen: list[tuple[str, bytes]] = field(default_factory=list[tuple[str, bytes]])
    records: dict[int, Record] = field(default_factory=dict[int, Record])
    submissions: int = 0
    roster: Roster = field(default_factory=lambda: Roster.of(ROSTER))

    async def start(self) -> None:
        """Look at what is there before any attack."""
        self.topology = await self._topology()
        problems = [breach async for breach in self._read_ledger([])]
        assert not problems, problems

    async def breaches(self, attack: Attack) -> list[Breach]:
        """Have an attack tried while the others work; what it has achieved."""
        ground = self.ground
        log = ground.broker.server.log
        offset = log.stat().st_size
        theirs: list[str] = []
        members = self.roster
        with structlog.testing.capture_logs() as events:
            async with foe(ground) as attacker:
                async with ground.others_at_work():
                    marks = await attack.run(attacker)
                for wire in attacker.wires:
                    if not wire.cut:
                        await wire.say()
        found = [breach async for breach in self._read_ledger(theirs)]
        found += [breach async for breach in self._read_ingress()]
        found += await self._others()
        found += [Breach(Kind.CONFIG, what) for what in await self._changes()]
        if self.roster != members:
            found.append(Breach(Kind.CONFIG, "others take part than before"))
        found += _heard(attacker)
        text = log.read_bytes()[offset:].decode(errors="replace")
        if theirs != list(marks.records):
            found.append(Breach(Kind.MARKS, f"records {theirs}, expected {marks.records}"))
        found += _marks(attacker, marks, text, " ".join(str(event) for event in events))
        return found

    async def end(self) -> list[Breach]:
        """Compare the whole ledger with what was read of it, attack after attack."""
        whole = await self.ground.broker.stored(LEDGER)
        if whole[: len(self.seen)] != self.seen:
            return [Breach(Kind.FOREIGN, "a record was changed after it was written")]
        return []

    async def _topology(self) -> dict[str, Any]:
        """Configurations of all streams, and of all consumers of the ledger."""
        api = self.ground.admin.api
        streams = (await api("$JS.API.STREAM.LIST"))["streams"]
        consumers = (await api(f"$JS.API.CONSUMER.LIST.{LEDGER}"))["consumers"]
        readers = (await api(f"$JS.API.CONSUMER.NAMES.{INGRESS}"))["consumers"]
        return {
            **{stream["config"]["name"]: stream["config"] for stream in streams},
            **{consumer["name"]: consumer["config"] for consumer in consumers},
            "readers": all(name.startswith("gateway_") for name in readers),
            "paused": [consumer["name"] for consumer in consumers if consumer.get("paused")],
        }

    async def _changes(self) -> list[str]:
        now = await self._topology()
        return [
            f"{name}: {self.topology.get(name)} became {now.get(name)}"
            for name in sorted({*self.topology, *now})
            if self.topology.get(name) != now.get(name)
        ]

    async def _read_ledger(self, theirs: list[str]) -> AsyncIterator[Breach]:
        """Each new record: a gateway's, in its place, and of whom it says."""
        admin = self.ground.admin
        state = await admin.stream_state(LEDGER)
        if state.last_seq < len(self.seen) or (state.last_seq and state.first_seq != 1):
            yield Breach(Kind.FOREIGN, f"the ledger was cut: {state}")
        new = await messages(admin, LEDGER, len(self.seen) + 1, state.last_seq)
        for seq, subject, payload in new:
            self.seen.append((subject, payload))
            try:
                record = decode_record(payload)
            except InvalidRecord as error:
                yield Breach(Kind.FOREIGN, f"{subject}: {error}")
                continue
            before = self.records.get(max(self.records, default=0))
            follows = record.ingress.seq == (before.ingress.seq + 1 if before else 1)
            place = ledger(0, record.verdict, record.kind, record.to)
            if not follows or record.seq != seq or subject != place:
                yield Breach(Kind.FOREIGN, f"{seq} {subject}: {payload[:200]!r}")
            self.records[record.ingress.seq] = record
            if record.verdict is Verdict.ALLOW and record.kind is subjects.Kind.CONTROL:
                self.roster = follow(self.roster, record)
            if record.by == str(AGENT):
                theirs.append(f"{record.verdict} {record.why.reason}")
                continue
            message = record.message()
            if message is None or message.id not in self.ground.sent:
                yield Breach(Kind.FORGED, f"{record.by}: {payload[:200]!r}")
            elif record.verdict not in (Verdict.ALLOW, Verdict.DUPLICATE):
                yield Breach(Kind.LOST, f"{message.id}: {record.verdict} {record.why}")

    async def _read_ingress(self) -> AsyncIterator[Breach]:
        """What the ingress still holds is what the ledger has recorded, of the same sender."""
        admin = self.ground.admin
        state = await admin.stream_state(INGRESS)
        if state.last_seq != max(self.records):
            yield Breach(Kind.LOST, f"{state.last_seq} submissions, {max(self.records)} recorded")
        first, self.submissions = max(state.first_seq, self.submissions + 1), state.last_seq
        for seq, subject, _ in await messages(admin, INGRESS, first, state.last_seq):
            if seq not in self.records or self.records[seq].by != submitter(subject):
                yield Breach(Kind.FORGED, f"submission {seq} on {subject}")

    async def _others(self) -> list[Breach]:
        """Nothing of theirs was lost, doubled or made up."""
        ground = self.ground
        found = [Breach(Kind.LOST, trouble) for trouble in ground.trouble]
        allowed = {
            message.id: record
            for record in self.records.values()
            if record.verdict is Verdict.ALLOW
            and record.by != str(AGENT)
            and (message := record.message())
        }
        for name, receipt in ground.sent.items():
            if receipt and (name not in allowed or receipt.seq != allowed[name].seq):
                found.append(Breach(Kind.FOOLED, f"{name}: no such record, but {receipt}"))
        for name, deliveries in ground.got.items():
            for seq, payload, delivered in deliveries:
                if seq > len(self.seen) or self.seen[seq - 1] != (_TO_WORKER, payload):
                    found.append(Breach(Kind.FOOLED, f"the worker took {payload[:200]!r}"))
                elif delivered > 1:
                    found.append(Breach(Kind.SETTLED, f"{name} was delivered again"))
        return found + [Breach(Kind.SETTLED, what) for what in await self._held()]

    async def _held(self) -> list[str]:
        """The worker still holds what it held, and nothing else."""
        info: dict[str, Any] = {}

        async def as_it_should_be() -> bool:
            answer = await self.ground.admin.api(f"$JS.API.CONSUMER.INFO.{LEDGER}.team_other")
            info.update(answer)
            return bool(info["num_ack_pending"] == 1 and info["num_redelivered"] == 0)

        try:
            await until(as_it_should_be, seconds=self.ground.patience / 2)
        except (ApiError, TimeoutError):
            return [f"of consumer team_other: {json.dumps(info)[:400]}"]
        return []


async def messages(
    admin: Connection, stream: str, first: int, last: int
) -> list[tuple[int, str, bytes]]:
    """Sequence, subject and payload of what a stream still holds between two sequences."""

    async def one(seq: int) -> tuple[int, str, bytes] | None:
        try:
            answer = await admin.api(f"$JS.API.STREAM.MSG.GET.{stream}", {"seq": seq})
        except ApiError as error:
            if error.code == _GONE:
                return None
            raise
        message = answer["message"]
        return seq, message["subject"], base64.b64decode(message.get("data", ""))

    found = await asyncio.gather(*(one(seq) for seq in range(max(first, 1), last + 1)))
    return [message for message in found if message]


def _heard(attacker: Foe) -> Iterator[Breach]:
    for wire in attacker.wires:
        for heard in wire.heard:
            foreign = not _OWN_SUBJECT.match(heard.subject)
            if foreign or CANARY in heard.payload or CANARY in heard.headers:
                yield Breach(Kind.HEARD, f"{heard.subject}: {heard.payload[:200]!r}")


def _marks(attacker: Foe, marks: Marks, log: str, ours: str) -> Iterator[Breach]:
    refusals = [
        line
        for line in log.splitlines()
        if "Violation" in line and any(key in line for key in attacker.keys)
    ]
    told = [error for wire in attacker.wires for error in wire.errors]
    for subject in marks.refused:
        if not any(f'Subject "{_escaped(subject)}"' in line for line in refusals):
            yield Breach(Kind.MARKS, f"{subject} is not in the broker's log: {log}")
        if not told:
            yield Breach(Kind.MARKS, f"{subject} was not refused")
    for word in marks.logged:
        if word not in log:
            yield Breach(Kind.MARKS, f"{word!r} is not in the broker's log: {log}")
    for word in marks.warned:
        if word not in ours:
            yield Breach(Kind.MARKS, f"{word!r} is not in our log: {ours}")
    answers = " ".join(
        heard.payload.decode(errors="replace") for wire in attacker.wires for heard in wire.heard
    )
    for word in marks.answered:
        if word not in answers:
            yield Breach(Kind.MARKS, f"no answer with {word!r}: {answers}")
    if marks == Marks():
        yield Breach(Kind.MARKS, "it leaves no marks")


def _escaped(text: str) -> str:
    """As the broker's log writes it."""
    short = {"\r": "\\r", "\n": "\\n", "\t": "\\t"}
    return "".join(c if c.isprintable() else short.get(c, f"\\u{ord(c):04x}") for c in text)
