"""What a replay has found, as a document."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import msgspec

from tidegate_schemas.audit import Mode, Replay

from .answers import Finding, Outcome
from .redelivery import Played
from .script import Script

MOST = 1_000
"""Findings in a report; those where nothing differs are counted only."""

ALWAYS = (
    "Time, randomness and whatever handlers read outside of the bus are those of now.",
    "How often a message was delivered then, to which worker and beside which others, is in no "
    "ledger; here each is delivered once, to one worker of its agent.",
    "What agents say goes to nobody: each message comes from the ledger, whatever is answered to "
    "the one before.",
)
"""What no redelivery captures."""


class Gap(msgspec.Struct, frozen=True):
    """Something about these messages that was not captured. `why` is a sentence for people."""

    what: str
    count: int
    why: str


class Redelivery(msgspec.Struct, frozen=True):
    """The report of a redelivery.

    Attributes:
        first, last: ledger sequences of the part.
        query: what was asked for.
        versions: of the agents, as their manifests say.
        delivered: messages, one for each agent that got it.
        unsettled: of these, how many were not handled to their end.
        outcomes: of what was said, then or now.
        exact: of what is the same, how much is so byte for byte.
        agents: the same by agent, with `delivered`.
        findings: those where something differs, at most `MOST`; `left_out` is how many more.
        not_captured: what there is of these messages that could not be done again.
        never_captured: what there never is.
    """

    mode: Mode
    first: int
    last: int
    query: dict[str, str]
    versions: dict[str, str]
    delivered: int
    unsettled: int
    outcomes: dict[Outcome, int]
    exact: int
    agents: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    left_out: int
    not_captured: tuple[Gap, ...]
    never_captured: tuple[str, ...] = ALWAYS

    @property
    def same(self) -> bool:
        """Everything that can be compared is as it was, and all of it was handled."""
        good = self.outcomes[Outcome.SAME] + self.outcomes[Outcome.SEALED]
        return not self.unsettled and good == sum(self.outcomes.values())

    def summary(self) -> Replay:
        """What the ledger is told."""
        counts = {"delivered": self.delivered, "unsettled": self.unsettled}
        counts |= {outcome.value: count for outcome, count in self.outcomes.items()}
        document: dict[str, Any] = msgspec.to_builtins(self)
        return Replay(self.first, self.last, self.mode, digest(document), self.query, counts)


def redelivery_of(
    script: Script, played: Played, *, first: int, query: dict[str, str]
) -> Redelivery:
    """The report of a script that was played; `first` is where its part began."""
    outcomes, agents = Counter[Outcome](), dict[str, Counter[str]]()
    for each in script.deliveries:
        for name in each.agents:
            agents.setdefault(name, Counter())["delivered"] += 1
    for finding in played.findings:
        outcomes[finding.outcome] += 1
        agents.setdefault(finding.agent, Counter())[finding.outcome.value] += 1
    told = [f for f in played.findings if f.outcome not in (Outcome.SAME, Outcome.SEALED)]
    return Redelivery(
        Mode.REDELIVERY,
        first,
        script.last,
        query,
        {str(m.principal): m.version for m in script.agents if str(m.principal) in agents},
        sum(len(each.agents) for each in script.deliveries),
        played.unsettled,
        {outcome: outcomes[outcome] for outcome in Outcome},
        sum(finding.exact for finding in played.findings if finding.outcome is Outcome.SAME),
        {name: dict(counted) for name, counted in sorted(agents.items())},
        tuple(told[:MOST]),
        max(len(told) - MOST, 0),
        tuple(_gaps(script, outcomes)),
    )


def _gaps(script: Script, outcomes: Counter[Outcome]) -> list[Gap]:
    found = [
        Gap(
            "unreplayable: sealed",
            len(script.sealed) - script.erased,
            "personal data is encrypted in the ledger; these messages were not delivered",
        ),
        Gap(
            "unreplayable: erased",
            script.erased,
            "there is no key any more to the personal data of these messages",
        ),
        Gap(
            "sealed answers",
            outcomes[Outcome.SEALED],
            "what was said then is encrypted in the ledger; it was not compared",
        ),
        Gap(
            "redacted",
            script.redacted,
            "the ledger holds these messages without some fields; agents got them like this then "
            "too",
        ),
        Gap(
            "unanswered",
            script.open,
            "tasks without an answer in the ledger; what is said to them now is extra",
        ),
        Gap(
            "answered later",
            script.late,
            "answers that came after this part of the ledger; they were looked for there",
        ),
        Gap(
            "not governed",
            outcomes[Outcome.EXTRA],
            "what was not said then was let through; no policy was asked",
        ),
        Gap(
            "for others",
            script.others,
            "tasks and events of this part that no agent under test takes",
        ),
    ]
    return [gap for gap in found if gap.count]


def digest(document: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON: compact, UTF-8, members sorted by name."""
    canonical = msgspec.json.encode(msgspec.to_builtins(document), order="sorted")
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"
