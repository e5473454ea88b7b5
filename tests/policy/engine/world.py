"""A world that has every type of Cedar, and an oracle: Cedar itself, without a memory."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import cedarpy

from tidegate_policy.engine import Attribute, Contexts, Entities, Record, Scalar, Uid, Verdict

SCHEMA = """
entity Group in [Group];
entity Team in [Team, Group] = { home?: Group, size: Long };
entity Agent in [Team, Group] = {
  role: String, level: Long, limit: decimal, lead?: Agent, teams: Set<Team>,
  tags: Set<String>, profile: { grade: Long, nick?: String },
};
entity Capability in [Team, Group] = { limit: Long, team: Team };
entity Topic in [Group];
type Base = {
  to: String, type: String, in_run: Bool, delegated: Bool, dataclassification?: String,
};
action task, event, all;
action "task:other" in [task, all]
  appliesTo { principal: Agent, resource: Capability, context: Base };
action "event:other" in [event, all]
  appliesTo { principal: Agent, resource: Topic, context: Base };
action "task:pay" in [task, all] appliesTo { principal: Agent, resource: Capability, context: {
  to: String, type: String, in_run: Bool, delegated: Bool, dataclassification?: String,
  data: {
    amount: Long, count: Long, currency: String, urgent: Bool, labels: Set<String>,
    price: decimal, note?: String, tries?: Long, more?: Set<String>,
    inner: { deep: Long, name?: String }, loose?: { kind?: String, weight?: Long },
  },
} };
action "task:odd" in [task, all] appliesTo { principal: Agent, resource: Capability, context: {
  to: String, amount: Long, who: Agent, pals: Set<Agent>, numbers: Set<Long>,
  from: ipaddr, when: datetime, lasts: duration, price?: decimal, rows: Set<Set<Long>>,
} };
"""
"""Groups have no appliesTo, as in the product."""


def _all(**types: Record | Scalar) -> dict[str, Attribute]:
    """Attributes; a name that ends in `_` is optional."""
    return {name.rstrip("_"): Attribute(of, name[-1] != "_") for name, of in types.items()}


_BASE = _all(
    to=Scalar.STRING,
    type=Scalar.STRING,
    in_run=Scalar.BOOL,
    delegated=Scalar.BOOL,
    dataclassification_=Scalar.STRING,
)
CONTEXTS: Contexts = {
    "task:other": Record(_BASE),
    "event:other": Record(_BASE),
    "task:pay": Record(
        _BASE
        | _all(
            data=Record(
                _all(
                    amount=Scalar.LONG,
                    count=Scalar.LONG,
                    currency=Scalar.STRING,
                    urgent=Scalar.BOOL,
                    labels=Scalar.STRINGS,
                    price=Scalar.DECIMAL,
                    note_=Scalar.STRING,
                    tries_=Scalar.LONG,
                    more_=Scalar.STRINGS,
                    inner=Record(_all(deep=Scalar.LONG, name_=Scalar.STRING)),
                    loose_=Record(_all(kind_=Scalar.STRING, weight_=Scalar.LONG)),
                )
            )
        )
    ),
    "task:odd": Record(
        _all(
            to=Scalar.STRING,
            amount=Scalar.LONG,
            who=Scalar.OTHER,
            pals=Scalar.OTHER,
            numbers=Scalar.OTHER,
            **{"from": Scalar.OTHER},
            when=Scalar.OTHER,
            lasts=Scalar.OTHER,
            price_=Scalar.DECIMAL,
            rows=Scalar.OTHER,
        )
    ),
}


def reference(type: str, id: str) -> dict[str, Any]:
    """An entity as a value."""
    return {"__entity": {"type": type, "id": id}}


def extension(function: str, argument: str) -> dict[str, Any]:
    """A decimal, ip address, datetime or duration as a value."""
    return {"__extn": {"fn": function, "arg": argument}}


def _agent(
    role: str, level: int, parents: tuple[Uid, ...], teams: tuple[str, ...], lead: str | None
) -> tuple[dict[str, Any], tuple[Uid, ...]]:
    profile = {"grade": level * 2} | ({"nick": role} if level else {})
    attributes: dict[str, Any] = {
        "role": role,
        "level": level,
        "limit": extension("decimal", f"{level}.5"),
        "teams": [reference("Team", team) for team in teams],
        "tags": [role, "x"][: level + 1],
        "profile": profile,
    }
    return attributes | ({"lead": reference("Agent", lead)} if lead else {}), parents


ENTITIES: Entities = {
    ("Group", "top"): ({}, ()),
    ("Group", "mid"): ({}, (("Group", "top"),)),
    ("Team", "red"): ({"size": 3, "home": reference("Group", "mid")}, (("Group", "mid"),)),
    ("Team", "blue"): ({"size": 0}, (("Team", "red"),)),
    ("Agent", "ann"): _agent("agent", 0, (("Team", "red"),), ("red", "blue"), None),
    ("Agent", "bob"): _agent("operator", 1, (("Team", "blue"),), ("blue",), "ann"),
    ("Agent", "cyd"): _agent("agent", 5, (("Group", "top"), ("Team", "red")), (), "bob"),
    ("Agent", "eve"): _agent("probe", 0, (("Team", "blue"),), (), None),
    ("Capability", "pay"): ({"limit": 10, "team": reference("Team", "red")}, (("Team", "red"),)),
    ("Capability", "see"): (
        {"limit": 0, "team": reference("Team", "blue")},
        (("Group", "mid"), ("Team", "blue")),
    ),
    ("Topic", "news"): ({}, (("Group", "mid"),)),
}
"""Agent `dan` and some resources are asked for, and nowhere here."""

_POSITIONAL = re.compile(r"`policy(\d+)`")


class Oracle:
    """All policies, all entities, no memory; parsed from the text by Cedar alone."""

    def __init__(self, policies: Mapping[str, str], entities: Entities = ENTITIES) -> None:
        """Take policies by id: texts without `@id`."""
        self._ids = list(policies)
        self._policies = cedarpy.PolicySet.from_str("\n".join(policies.values()))
        self._schema = cedarpy.Schema.from_str(SCHEMA)
        self._entities = cedarpy.Entities.from_json_str(
            json.dumps(
                [
                    {
                        "uid": {"type": type, "id": id},
                        "attrs": attributes,
                        "parents": [{"type": of, "id": parent} for of, parent in parents],
                    }
                    for (type, id), (attributes, parents) in entities.items()
                ]
            ),
            self._schema,
        )

    def ask(
        self, principal: str, action: str, resource: Uid, context: Mapping[str, Any]
    ) -> Verdict:
        """The right answer; its error is whole."""
        request = {
            "principal": {"type": "Agent", "id": principal},
            "action": {"type": "Action", "id": action},
            "resource": {"type": resource[0], "id": resource[1]},
            "context": json.dumps(context),
        }
        result = cedarpy.is_authorized_batch(
            [request], self._policies, self._entities, self._schema
        )[0]
        errors = sorted(
            _POSITIONAL.sub(lambda found: f"`{self._ids[int(found[1])]}`", str(error))
            for error in result.diagnostics.errors
        )
        ids = sorted(self._ids[int(name[6:])] for name in result.diagnostics.reasons)
        allowed = result.allowed and not errors
        decided = allowed or result.decision is cedarpy.Decision.Deny
        return Verdict(allowed, tuple(ids) if decided else (), "; ".join(errors))


def same(answer: Verdict, right: Verdict) -> bool:
    """Whether an engine's answer is right: of an error of the input, only that there is one."""
    if right.error and "while evaluating" not in right.error:
        return not answer.allowed and bool(answer.error)
    return answer == right._replace(error=" ".join(right.error.split())[:300])


def identified(policies: Mapping[str, str]) -> str:
    """A text in which each policy has its `@id`."""
    return "\n".join(f'@id("{name}") {policy}' for name, policy in policies.items())
