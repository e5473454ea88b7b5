"""What another bundle would have changed, as a document that an activation can name. Pure."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from tidegate_schemas import governance

from .outcome import Outcome
from .tally import Tally, sums

VERSION = 1
MOST = 1_000
"""Groups that are listed; of more, the largest. The sums are of all."""
_NOBODY = "(no policy permits it)"


class Group(msgspec.Struct, frozen=True, omit_defaults=True):
    """Records that differ in the same way.

    Attributes:
        outcome: in which way.
        policies: of the new bundle, that decide now; for a hold or a limit, that oblige to it.
        agent: who sends.
        subject: kind and destination.
        why: what else there is to say.
        records: how many.
        examples: the first of them.
    """

    outcome: Outcome
    policies: tuple[str, ...]
    agent: str
    subject: str
    records: int
    examples: tuple[int, ...]
    why: str = ""


class Diff(msgspec.Struct, frozen=True, rename={"before": "from", "after": "to"}):
    """What becomes of a stretch of the ledger.

    Attributes:
        v: version of this format.
        before: digest of the bundle in force at its end.
        after: digest of the bundle that is looked at.
        since, until: what was asked for, RFC 3339; empty for the whole ledger.
        first, last: ledger sequences.
        records: how many there are.
        outcomes: records by outcome; the sum is `records`.
        policies, agents, subjects: the same, by each of them; what stays the same is left out.
        groups: the largest first.
        left_out: groups that are not listed.
    """

    v: int
    before: str
    after: str
    since: str
    until: str
    first: int
    last: int
    records: int
    outcomes: dict[Outcome, int]
    policies: dict[str, dict[Outcome, int]]
    agents: dict[str, dict[Outcome, int]]
    subjects: dict[str, dict[Outcome, int]]
    groups: tuple[Group, ...]
    left_out: int

    @property
    def digest(self) -> str:
        """SHA-256 over the canonical JSON: compact, UTF-8, members sorted by name."""
        return f"sha256:{hashlib.sha256(_canonical(self)).hexdigest()}"

    def document(self) -> dict[str, Any]:
        """As plain values, with `digest` first, which is not part of what it is the digest of."""
        return {"digest": self.digest, **msgspec.to_builtins(self)}

    def summary(self) -> governance.Report:
        """As much of it as an activation carries."""
        counts = self.outcomes
        return governance.Report(
            digest=self.digest,
            before=self.before,
            after=self.after,
            first=self.first,
            last=self.last,
            newly_allowed=counts[Outcome.NEWLY_ALLOWED],
            newly_denied=counts[Outcome.NEWLY_DENIED],
            newly_held=counts[Outcome.NEWLY_HELD],
            indeterminate=counts[Outcome.INDETERMINATE],
        )


def diff_of(
    tally: Tally, *, before: str, after: str, since: str, until: str, first: int, last: int
) -> Diff:
    """The report of a tally; see `Diff` for the rest."""
    ordered = sorted(tally.groups.items(), key=lambda item: (-item[1].records, item[0]))
    groups = tuple(
        Group(
            key.outcome,
            key.policies,
            key.agent,
            key.subject,
            found.records,
            tuple(found.examples),
            key.why,
        )
        for key, found in ordered
    )
    return Diff(
        VERSION,
        before,
        after,
        since,
        until,
        first,
        last,
        tally.records,
        dict(tally.outcomes),
        sums((g.policies or (_NOBODY,), g.outcome, g.records) for g in groups),
        sums(((g.agent,), g.outcome, g.records) for g in groups),
        sums(((g.subject,), g.outcome, g.records) for g in groups),
        groups[:MOST],
        max(len(groups) - MOST, 0),
    )


def _canonical(diff: Diff) -> bytes:
    return msgspec.json.encode(msgspec.to_builtins(diff), order="sorted")
