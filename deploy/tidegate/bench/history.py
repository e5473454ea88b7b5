"""A ledger with a past: four teams of agents under three bundles, one after the other.

Made by the gateway's own desk, without a broker, so that the same seed gives the same records.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

from tidegate_bus.ingress import Submission
from tidegate_policy.bundle import Bundle
from tidegate_policy.decide import Limits
from tidegate_policy.desk import Desk, Entry
from tidegate_policy.genesis import genesis
from tidegate_policy.state import State
from tidegate_policy.window import Window
from tidegate_schemas import vocabulary
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.envelope import Envelope, encode
from tidegate_schemas.governance import Activation, Opinion, Order, Proposal
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Kind, Verdict

TEAMS = ("billing", "research", "sales", "support")
_AGENTS = 6  # of each team
_BEGIN = parse_rfc3339("2026-03-01T08:00:00Z")
_STEP = 3_000_000  # ns from one submission to the next
_OPERATOR = str(vocabulary.OPERATOR)
_WEB = "outside.web"
_APPROVERS = ("ops.ann", "ops.bob", "ops.cy")
_KEY = "U" + "A" * 55
_OPEN = 1_000

LIMITS = Limits(256 * 1024)
WINDOW = (600.0, 100_000)
"""Length and entries of the dedupe window."""


def bundles() -> list[dict[str, str]]:
    """The files of the three bundles."""
    folder = files(__package__ or "").joinpath("policies")
    texts = {name: folder.joinpath(name).read_text("utf-8") for name in _NAMES}
    return [{n: texts[n] for n in _NAMES[:2]}, {n: texts[n] for n in _NAMES[:3]}, texts]


_NAMES = ("base.cedar", "facts.yaml", "limits.cedar", "approvals.cedar")


class History:
    """Makes a ledger.

    Args:
        seed: of everything random in it.

    Attributes:
        submissions: all that were made so far.
    """

    def __init__(self, seed: int = 1) -> None:
        self._random = random.Random(seed)  # noqa: S311 - nothing secret
        state = State(genesis(), Window(*WINDOW))
        self._desk = Desk(state, LIMITS, "bench/0", 0, 1, 0)
        self._now = _BEGIN
        self._number = 0
        self._open: deque[tuple[str, str, str, str]] = deque(maxlen=_OPEN)
        self._sent: deque[tuple[str, bytes]] = deque(maxlen=100)
        self._held: deque[tuple[int, bytes]] = deque()
        self._agents = [f"{team}.a{n}" for team in TEAMS for n in range(_AGENTS)]

    def entries(self, records: int) -> Iterator[Entry]:
        """At least so many records, in order; a third of them under each bundle."""
        for number, found in enumerate(bundles()):
            yield from self._activate(found)
            if not number:
                yield from self._register()
            while self._desk.seq < records * (number + 1) // 3:
                yield from self._something()

    def _activate(self, texts: dict[str, str]) -> Iterator[Entry]:
        bundle = Bundle.of_files(texts)
        proposal = Proposal(dict(bundle.files))
        yield from self._control(_OPERATOR, vocabulary.POLICY_PROPOSE, proposal)
        activation = Activation(bundle.digest, "so decided")
        yield from self._control(_OPERATOR, vocabulary.POLICY_ACTIVATE, activation)

    def _register(self) -> Iterator[Entry]:
        members = [Registration(_WEB, Role.PUBLISHER, keys=(_KEY,))]
        members += [Registration(name, Role.OPERATOR, keys=(_KEY,)) for name in _APPROVERS]
        for name in self._agents:
            team, _, agent = name.partition(".")
            capabilities = [f"{team}.do-{agent}"]
            if name == "billing.a0":
                capabilities += ["billing.pay", "billing.delete"]
            members.append(Registration(name, Role.AGENT, tuple(capabilities), keys=(_KEY,)))
        for member in members:
            yield from self._control(_OPERATOR, vocabulary.IDENTITY_REGISTER, member)

    def _something(self) -> Iterator[Entry]:
        """One submission more, and what follows from it."""
        draw = self._random.random()
        agent = self._random.choice(self._agents)
        if draw < 0.3:
            to = f"visit.page-{self._random.randrange(30)}"
            yield from self._say(_WEB, Kind.EVENT, to, {"path": "/x" * 40, "by": self._number})
        elif draw < 0.55:
            to = self._random.choice(self._agents).replace(".", ".do-")
            yield from self._ask(agent, to, {"text": "please " * 12, "number": self._number})
        elif draw < 0.62:
            amount = self._random.choices((20, 900, 49_500, 70_000), (60, 30, 5, 5))[0]
            amount += self._random.randrange(400)
            currency = self._random.choice(["EUR"] * 8 + ["USD", "GBP"])
            card = {"number": "4111 1111 1111 1111", "holder": "A. Payer"}
            payer = self._random.choice(self._agents[: _AGENTS + 2])
            data = {"amount": amount, "currency": currency, "card": card}
            yield from self._ask(payer, "billing.pay", data, costs=f"eur:{min(amount, 9000)}")
        elif draw < 0.82:
            yield from self._answer(agent)
        elif draw < 0.93:
            secret = {"dataclassification": "secret"} if self._random.random() < 0.2 else {}
            to = f"note.{agent}" if self._random.random() < 0.9 else "gossip"
            yield from self._say(agent, Kind.EVENT, to, {"note": "n" * 50}, **secret)
        elif draw < 0.95:
            friend = self._random.choice(self._agents)
            to = self._random.choice(self._agents).replace(".", ".do-")
            yield from self._ask(agent, to, {"text": "for a friend"}, onbehalfof=friend)
        elif draw < 0.97:
            yield from self._strange()
        else:
            yield from self._operate()

    def _strange(self) -> Iterator[Entry]:
        """What nobody should send, but somebody does."""
        agent = self._random.choice(self._agents)
        match self._random.randrange(6):
            case 0:
                yield from self._take(agent, b'{"specversion": "1.0"}')
            case 1 if self._sent:
                yield from self._take(*self._random.choice(self._sent))
            case 2:
                old = rfc3339(self._now - 1)
                yield from self._say(agent, Kind.EVENT, "note.late", {}, expirytime=old)
            case 3:
                yield from self._ask("nobody.here", "sales.do-a1", {})
            case 4:
                yield from self._ask(agent, "billing.delete", {"what": "all"})
            case _:
                yield from self._ask("billing.a1", "billing.pay", {"amount": "much"})

    def _operate(self) -> Iterator[Entry]:
        """What people do: agree, stop, let go on."""
        draw, levels = self._random.random(), self._desk.state.controls.levels
        if self._held and draw < 0.7:
            seq, payload = self._held[0]
            hold = self._desk.state.holds.get(seq)
            if hold is None:
                self._held.popleft()
                return
            digest = f"sha256:{hashlib.sha256(payload).hexdigest()}"
            opinion = Opinion(seq, digest, self._desk.state.library.active)
            agreed = self._random.random() < 0.9
            to = vocabulary.APPROVAL_GRANT if agreed else vocabulary.APPROVAL_REFUSE
            yield from self._control(self._random.choice(_APPROVERS), to, opinion)
        elif levels and draw < 0.95:
            target, level = next(iter(levels.items()))
            ends = (
                vocabulary.CONTROL_RESUME,
                vocabulary.CONTROL_RELEASE,
                vocabulary.CONTROL_RELEASE,
            )
            yield from self._control("ops.ann", ends[level - 1], Order(str(target)))
        elif draw < 0.1:
            words = (
                *(vocabulary.CONTROL_PAUSE, vocabulary.CONTROL_QUARANTINE),
                vocabulary.CONTROL_KILL,
            )
            order = Order(f"agent:{self._random.choice(self._agents)}", "let us see")
            yield from self._control("ops.bob", self._random.choice(words), order)
        elif draw < 0.12:
            yield from self._control(str(vocabulary.GATEWAY), vocabulary.CLOCK_TICK, None)

    def _ask(self, by: str, to: str, data: Any, **more: Any) -> Iterator[Entry]:
        for entry in self._say(by, Kind.TASK, to, data, **more):
            record = entry.record
            if record.verdict is Verdict.ALLOW and record.kind is Kind.TASK:
                message = record.message()
                worker = self._desk.state.roster.providers.get(record.to)
                if message and worker:
                    self._open.append((worker, record.by, message.id, str(record.seq)))
            yield entry

    def _answer(self, agent: str) -> Iterator[Entry]:
        if not self._open:
            return
        worker, to, cause, answers = self._open.popleft()
        if self._random.random() < 0.02:
            worker = agent  # somebody who was not asked
        costs = f"eur:{self._random.randrange(3000)}"
        data = {"text": "done " * 10}
        type_ = vocabulary.RESULT if self._random.random() < 0.97 else vocabulary.DEADLETTER
        named = {"causationid": cause, "answers": answers, "costs": costs}
        yield from self._say(worker, Kind.RESULT, to, data, type=type_, **named)

    def _control(self, by: str, to: str, data: Any) -> Iterator[Entry]:
        yield from self._say(by, Kind.CONTROL, to, data)

    def _say(self, by: str, kind: Kind, to: str, data: Any, **more: Any) -> Iterator[Entry]:
        self._number += 1
        type_ = more.pop("type", to)
        name = hashlib.sha256(b"%d" % self._number).hexdigest()[:32]
        envelope = Envelope.new(type_, data, id=name, kind=kind.value, to=to, **more)
        payload = encode(envelope)
        self._sent.append((by, payload))
        yield from self._take(by, payload)

    def _take(self, by: str, payload: bytes) -> Iterator[Entry]:
        self._now += _STEP
        self._desk_number = getattr(self, "_desk_number", 0) + 1
        submission = Submission(self._desk_number, self._now - 1_000_000, by, payload)
        for entry in filter(None, self._desk.take(submission, self._now)):
            if entry.record.why.reason == Reason.APPROVAL_REQUIRED:
                self._held.append((entry.record.seq, bytes(entry.record.envelope)))  # type: ignore[arg-type]
            yield entry
