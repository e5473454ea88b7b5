"""What `decide` decides by: an organisation, rules of two sizes, and a stream of requests."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from tidegate_policy.engine import Attribute, Contexts, Entities, Record, Scalar, Uid

_TEAMS = 20
_AGENTS = 200
_CAPABILITIES = 120
_TYPED = 30
"""Capabilities whose tasks have declared facts."""
_TOPICS = 300
_GROUPS = 12
_CURRENCIES = ("EUR", "USD", "GBP")
_LABELS = ("pii", "bulk", "draft", "export")
_TYPES = ("work.asked", "work.checked", "work.done", "note.taken")

_FACTS = {
    "to": Attribute(Scalar.STRING),
    "type": Attribute(Scalar.STRING),
    "in_run": Attribute(Scalar.BOOL),
    "delegated": Attribute(Scalar.BOOL),
    "blueprint": Attribute(Scalar.STRING),
    "dataclassification": Attribute(Scalar.STRING, required=False),
}
_DATA = Record(
    {
        "amount": Attribute(Scalar.LONG),
        "count": Attribute(Scalar.LONG),
        "currency": Attribute(Scalar.STRING),
        "labels": Attribute(Scalar.STRINGS),
    }
)
_PLAIN = Record(_FACTS)
_WITH_DATA = Record(_FACTS | {"data": Attribute(_DATA)})

CONTEXTS: Contexts = {
    "task:other": _PLAIN,
    "event:other": _PLAIN,
    **{f"task:{i}.do": _WITH_DATA for i in range(_TYPED)},
}

_CONTEXT = """to: String, type: String, in_run: Bool, delegated: Bool, blueprint: String,
  dataclassification?: String"""
SCHEMA = f"""
entity Group in [Group];
entity Team in [Team, Group];
entity Agent in [Team, Group] = {{ role: String }};
entity Capability in [Team, Group];
entity Topic in [Group];
action task, event;
action "task:other" in [task]
  appliesTo {{ principal: Agent, resource: Capability, context: {{ {_CONTEXT} }} }};
action "event:other" in [event]
  appliesTo {{ principal: Agent, resource: Topic, context: {{ {_CONTEXT} }} }};
{
    "".join(
        f'''action "task:{i}.do" in [task] appliesTo {{
  principal: Agent, resource: Capability, context: {{ {_CONTEXT},
  data: {{ amount: Long, count: Long, currency: String, labels: Set<String> }} }}
}};'''
        for i in range(_TYPED)
    )
}
"""

_BASE = """
@id("events") permit (principal, action in Action::"event", resource);
@id("own-team") permit (principal in Team::"0", action in Action::"task", resource in Team::"0");
@id("tasks") permit (principal, action in Action::"task", resource)
  when { context.in_run || principal.role == "operator" };
@id("small") permit (principal, action in Action::"task", resource)
  when { context has data && context.data.amount <= 1000 };
@id("group-one") permit (principal, action in Action::"event", resource in Group::"1")
  when { context.type == "work.done" };
@id("operators") permit (principal, action, resource) when { principal.role == "operator" };
@id("large") forbid (principal, action in Action::"task", resource)
  when { context has data && context.data.amount > 9000 && !context.in_run };
@id("many") forbid (principal, action in Action::"task", resource)
  when { context has data && context.data.count >= 90 };
@id("currency") forbid (principal, action == Action::"task:0.do", resource)
  unless { ["EUR", "USD"].contains(context.data.currency) };
@id("pii") forbid (principal, action in Action::"task", resource in Team::"3")
  when { context has data && context.data.labels.contains("pii") };
@id("secret") forbid (principal, action, resource)
  when { context has dataclassification && context.dataclassification == "secret" };
@id("delegated") forbid (principal in Team::"4", action in Action::"task", resource)
  when { context.delegated && context.type == "note.taken" };
@id("no-notes") forbid (principal in Team::"5", action in Action::"event", resource in Group::"2")
  when { context.type == "note.taken" };
@id("export") forbid (principal, action == Action::"task:1.do", resource)
  when { context.data.labels.contains("export") && context.data.amount > 5000 };
@id("team-six") forbid (principal in Team::"6", action in Action::"task", resource in Team::"7");
@id("blueprint") forbid (principal, action == Action::"task:2.do", resource)
  unless { context.blueprint == "pay-invoice" };
@id("both") forbid (principal, action == Action::"task:3.do", resource)
  when { context.data.amount > 100 && context.data.count > 10 };
@id("limit") forbid (principal in Team::"8", action in Action::"task", resource)
  when { context has data && context.data.amount > 7500 };
@id("drafts") forbid (principal, action in Action::"event", resource)
  when { context.type like "draft.*" };
@id("quiet") forbid (principal, action in Action::"event", resource == Topic::"7")
  unless { context.in_run };
"""


def rules(count: int) -> str:
    """Twenty rules that concern all, and more that each concern one team and what it may do."""
    more: list[str] = []
    for i in range(20, count):
        effect = ("permit", "forbid")[i % 2]
        typed = f'action == Action::"task:{i % _TYPED}.do"'
        what, when = (
            (typed, f"context.data.amount > {1000 + i * 10}"),
            (typed, f"context.data.count > {i % 90 + 5} && context.in_run"),
            ('action in Action::"task"', f'context.type == "{_TYPES[i % 4]}"'),
            ('action in Action::"event"', f'context.type == "{_TYPES[i % 4]}" && context.in_run'),
        )[i // 2 % 4]
        who = f'principal in Team::"{i % _TEAMS}"'
        more.append(f'@id("rule-{i}") {effect} ({who}, {what}, resource) when {{ {when} }};')
    return "\n".join([_BASE, *more])


def rules_of_others(count: int) -> str:
    """The same twenty, and more that concern none of those who send."""
    more = (
        f'@id("other-{i}") forbid (principal == Agent::"elsewhere.{i}", action, resource) '
        f'when {{ context.type == "{_TYPES[i % 4]}" }};'
        for i in range(20, count)
    )
    return "\n".join([_BASE, *more])


def organisation() -> Entities:
    """Who takes part: agents and capabilities in teams, topics in groups."""
    roles = ("agent", "agent", "agent", "publisher", "operator")
    found: dict[Uid, tuple[dict[str, Any], tuple[Uid, ...]]] = {}
    found |= {("Group", str(i)): ({}, ()) for i in range(_GROUPS)}
    found |= {("Team", str(i)): ({}, (("Group", str(i % _GROUPS)),)) for i in range(_TEAMS)}
    for i in range(_AGENTS):
        team = ("Team", str(i % _TEAMS))
        found["Agent", f"{i % _TEAMS}.{i}"] = ({"role": roles[i % len(roles)]}, (team,))
    for i in range(_CAPABILITIES):
        found["Capability", f"{i}.do"] = ({}, (("Team", str(i % _TEAMS)),))
    for i in range(_TOPICS):
        found["Topic", str(i)] = ({}, (("Group", str(i % _GROUPS)),))
    return found


class Request(NamedTuple):
    """What is asked of an engine."""

    principal: str
    action: str
    resource: Uid
    context: dict[str, Any]


class Stream:
    """Requests of some flows: who sends what kind of message to whom."""

    def __init__(self, flows: int, seed: int = 1) -> None:
        self._random = random = Random(seed)  # noqa: S311  # the same stream each time
        self._flows = [self._flow() for _ in range(flows)]
        self._weights = [random.paretovariate(1.2) for _ in self._flows]

    def requests(self, count: int) -> list[Request]:
        """Some flows send more than others; numbers and labels are anything."""
        flows = self._random.choices(self._flows, self._weights, k=count)
        return [self._request(*flow) for flow in flows]

    def each(self) -> list[Request]:
        """One request of each flow."""
        return [self._request(*flow) for flow in self._flows]

    def _flow(self) -> tuple[str, str, Uid]:
        random = self._random
        agent = random.randrange(_AGENTS)
        who = f"{agent % _TEAMS}.{agent}"
        if random.random() < 0.5:
            return who, "event:other", ("Topic", str(random.randrange(_TOPICS)))
        capability = random.randrange(_CAPABILITIES)
        action = f"task:{capability}.do" if capability < _TYPED else "task:other"
        return who, action, ("Capability", f"{capability}.do")

    def _request(self, principal: str, action: str, resource: Uid) -> Request:
        random = self._random
        context: dict[str, Any] = {
            "to": resource[1],
            "type": random.choice(_TYPES),
            "in_run": random.random() < 0.7,
            "delegated": random.random() < 0.1,
            "blueprint": random.choice(("", "pay-invoice")),
        }
        if random.random() < 0.3:
            context["dataclassification"] = random.choice(("public", "internal", "secret"))
        if CONTEXTS[action] is _WITH_DATA:
            context["data"] = {
                "amount": random.randrange(10_000),
                "count": random.randrange(100),
                "currency": random.choice(_CURRENCIES),
                "labels": random.sample(_LABELS, random.randrange(3)),
            }
        return Request(principal, action, resource, context)


def distinct(count: int) -> Iterator[Request]:
    """Requests of which no two are alike to the rules: somebody makes up types and topics."""
    principal = Stream(1).each()[0].principal
    for number in range(count):
        resource = ("Topic", f"made.up.{number // 10}")
        context: dict[str, Any] = {
            "to": resource[1],
            "type": f"made.up.{number}",
            "in_run": True,
            "delegated": False,
            "blueprint": "",
        }
        yield Request(principal, "event:other", resource, context)
