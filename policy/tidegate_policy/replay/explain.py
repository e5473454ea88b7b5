"""Which rules decided about one message of the ledger. Pure."""

from __future__ import annotations

from typing import Any

import msgspec

from tidegate_policy.bundle import Bundle, Rule
from tidegate_policy.bundle.source import statements
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.record import Reason, Record


class Told(msgspec.Struct, frozen=True):
    """A rule, as it is written.

    Attributes:
        id: its `@id`.
        effect: permit or forbid.
        place: `file:line` in the bundle; empty if the bundle has no such rule.
        text: from its first annotation to its semicolon.
    """

    id: str
    effect: str
    place: str
    text: str


class Explanation(msgspec.Struct, frozen=True):
    """Why a record says what it says.

    Attributes:
        seq, time, by, kind, to, verdict, reason: of the record.
        on_behalf_of: for whom it was sent; the rules were asked for each of them too.
        detail: a sentence for people; may be empty.
        ground: what decided, if it was not the rules alone.
        bundle: digest of the policies in force.
        in_force: sequence of the record that put them in force; 0 from the beginning.
        rules: that decided.
        obligations: of the record.
        facts: what these rules could see of the data.
        shadow: the verdict if the rules with `@shadow` counted; empty if that changes nothing.
        shadow_rules: all with `@shadow`, each with whether it would have decided.
    """

    seq: int
    time: str
    by: str
    kind: str
    to: str
    on_behalf_of: tuple[str, ...]
    verdict: str
    reason: str
    detail: str
    ground: str
    bundle: str
    in_force: int
    rules: tuple[Told, ...]
    obligations: tuple[str, ...]
    facts: dict[str, Any]
    shadow: str
    shadow_rules: tuple[tuple[Told, bool], ...]


_GROUNDS = {
    Reason.NOT_PERMITTED: "no rule permits it",
    Reason.POLICY_ERROR: "a rule could not be evaluated; what fails is denied",
    Reason.REPEATED: "it repeats an envelope that was decided already",
    Reason.RATE_LIMITED: "the rules permit it; a rate limit of theirs is exhausted",
    Reason.OVER_BUDGET: "the rules permit it; what is left of a budget of theirs is not enough",
    Reason.APPROVAL_REQUIRED: "the rules permit it once somebody agrees",
    Reason.INVALID_FACTS: "the data is not what the policies must be able to see",
    Reason.INVALID_COMMAND: "the rules permit it, and it cannot be followed",
    Reason.NOT_ASKED: "the rules permit it; who sends it was not given what it answers",
    Reason.LEARNED: "nothing permits it but rules that learn",
    Reason.APPROVED: "it was held, and enough people agreed",
    Reason.RELEASED: "it was held, and what it waited for has ended",
}


def explain(record: Record, bundle: Bundle, in_force: int) -> Explanation:
    """Explain a record.

    Args:
        record: what to explain.
        bundle: the policies under which it was decided.
        in_force: sequence of the record that put them in force.
    """
    why = record.why
    shadow: Any = why.facts.get("shadow") or {}
    counted = shadow.get("policies", ())
    alone = "" if why.policies else "the gateway itself decided; no rule was asked"
    return Explanation(
        record.seq,
        record.time,
        record.by,
        record.kind.value,
        record.to,
        _whom(record),
        record.verdict.value,
        why.reason,
        str(why.facts.get("detail", "")),
        _GROUNDS.get(why.reason, alone),
        why.bundle,
        in_force,
        tuple(told(bundle, name) for name in why.policies),
        why.obligations,
        _facts(record, bundle),
        shadow.get("verdict", ""),
        tuple(
            (told(bundle, name), name in counted)
            for name, rule in bundle.rules.items()
            if rule.shadow
        ),
    )


def told(bundle: Bundle, name: str) -> Told:
    """A rule of a bundle, by its id."""
    rule = bundle.rules.get(name)
    if rule is None:
        return Told(name, "", "", "")
    return Told(name, rule.effect, f"{rule.file}:{rule.line}", _text(bundle, rule))


def _text(bundle: Bundle, rule: Rule) -> str:
    written = statements(bundle.files[rule.file])
    return next((s.text for s in written if s.line == rule.line), "")


def _whom(record: Record) -> tuple[str, ...]:
    try:
        message = record.message()
    except InvalidEnvelope:
        return ()
    return message.chain if message else ()


def _facts(record: Record, bundle: Bundle) -> dict[str, Any]:
    try:
        message = record.message()
        found = bundle.facts.of(record.kind, record.to, message) if message else None
    except InvalidEnvelope:
        return {}
    return dict(found or {})
