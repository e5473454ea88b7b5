"""Random policies, from a grammar of the whole language of Cedar.

Numbers and texts come from small pools, so that requests meet the literals of policies, and each
other. Most expressions have the right types. Some have not, or read what may not be there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from random import Random
from typing import TypeVar

T = TypeVar("T")
Written = Callable[[], str]

LONGS = (0, 1, -1, 2, 5, 9, 10, 11, 100, 2**63 - 1, -(2**63))
TEXTS = ("", "a", "b", "pii", "agent", "EUR", "é", "a*b", "\U0001f600", 'q"\\')
DECIMALS = ("0.0", "1.5", "1.50", "-2.25", "10.0001")
ADDRESSES = ("10.0.0.1", "10.0.0.0/8", "::1", "224.0.0.1")
TIMES = ("2024-01-01", "2024-06-01T12:00:00Z", "1970-01-01")
DURATIONS = ("1h", "90m", "-2d", "0ms")
ENTITIES = (
    'Agent::"ann"',
    'Agent::"bob"',
    'Agent::"dan"',
    'Team::"red"',
    'Team::"blue"',
    'Group::"mid"',
    'Group::"top"',
    'Capability::"pay"',
    'Team::"none"',
)
TYPES = ("Agent", "Team", "Group", "Capability", "Topic")
ACTIONS = ("task:pay", "task:odd", "task:other", "event:other")


def text(value: str) -> str:
    """A literal of Cedar."""
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class Grammar:
    """Policies, each of which is meant for one action."""

    def __init__(self, random: Random) -> None:
        self._random = random
        self._home = "task:pay"

    def policies(self, most: int) -> dict[str, str]:
        """Some policies by id, of which one at least is a permit. Most sets are small."""
        count = self._one((1, 1, 1, 2, 2, 3, most - 1))
        drawn = [self.policy() for _ in range(count)]
        first = self._one((*["permit (principal, action, resource);"] * 4, self.policy()))
        return {f"rule-{i}": each for i, each in enumerate([first, *drawn])}

    def policy(self) -> str:
        """One policy without `@id`."""
        self._home = self._one(("task:pay", "task:pay", "task:pay", "task:odd", "task:other"))
        effect = self._one(("permit", "forbid", "forbid"))
        scope = f"{self._scope('principal')}, {self._action()}, {self._scope('resource')}"
        clauses = "".join(
            f" {self._one(('when', 'when', 'unless'))} {{ {self.bool(self._depth())} }}"
            for _ in range(self._one((0, 1, 1, 1, 1, 1, 1, 2)))
        )
        return f"{effect} ({scope}){clauses};"

    def bool(self, depth: int) -> str:
        """A condition."""
        if depth <= 0:
            return self._one(self._atoms())()
        d = depth - 1
        left = self.bool(d)
        forms: tuple[Written, ...] = (
            lambda: f"({left} && {self.bool(d)})",
            lambda: f"({left} && {self.bool(d)})",
            lambda: f"({left} || {self.bool(d)})",
            lambda: f"({left} || {self.bool(d)})",
            lambda: f"!({left})",
            lambda: f"(if {left} then {self.bool(d)} else {self.bool(d)})",
            lambda: f"(({left}) == ({self.bool(d)}))",
            lambda: left,
        )
        return self._one(forms)()

    def _atoms(self) -> Sequence[Written]:
        one = self._one
        common: tuple[Written, ...] = (
            lambda: f"{self._text_attribute()} {one(('==', '!='))} {text(one(TEXTS))}",
            lambda: f"{text(one(TEXTS))} == {self._text_attribute()}",
            lambda: f"{self._text()} == {self._text()}",
            lambda: f"{self._text()} like {one(_PATTERNS)}",
            lambda: f"[{text(one(TEXTS))}, {text(one(TEXTS))}].contains({self._text_attribute()})",
            lambda: f"[{text(one(TEXTS))}, context.to].contains({self._text_attribute()})",
            lambda: f"{self._texts()}.contains({self._text()})",
            lambda: f"{self._texts()}.containsAll({self._texts()})",
            lambda: f"{self._texts()}.containsAny({self._texts()})",
            self._has,
            self._flag,
            lambda: f"{self._entity()} in {self._entity()}",
            lambda: f"{self._entity()} in [{self._entity()}, {self._entity()}]",
            lambda: f"{self._entity()} in principal.teams",
            lambda: f"principal in {one(ENTITIES)}",
            lambda: f"(resource in {one(ENTITIES)} && context.in_run)",
            lambda: f"{self._entity()} == {self._entity()}",
            lambda: f"{self._entity()} is {one(TYPES)}",
            lambda: f"{self._entity()} is {one(TYPES)} in {self._entity()}",
            lambda: f"principal.teams.contains({self._entity()})",
            lambda: f"action in Action::{text(one(('task', 'event', 'all')))}",
            lambda: f"action == Action::{text(one(ACTIONS))}",
            lambda: f"{self._decimal()}.{one(_DECIMAL_TESTS)}({self._decimal()})",
            lambda: f"{self._decimal()} == {self._decimal()}",
            self._record,
            *((self._ill_typed,) if one(range(4)) == 0 else ()),
        )
        numbers: tuple[Written, ...] = (
            lambda: f"{self._long_attribute()} {one(_COMPARE)} {self._literal()}",
            lambda: f"{self._literal()} {one(_COMPARE)} {self._long_attribute()}",
            lambda: f"{self.long(1)} {one(_COMPARE)} {self.long(1)}",
            lambda: f"[{self._literal()}, {self._literal()}].contains({self._long_attribute()})",
            lambda: f"[{self._literal()}, {self.long(0)}].contains({self._long_attribute()})",
        )
        pay: tuple[Written, ...] = (
            self._guarded,
            self._guarded,
            self._guarded,
            lambda: f"context.data.labels.contains({text(one(TEXTS))})",
            lambda: f"{self._texts()}.isEmpty()",
            lambda: f"{self._texts()} == {self._texts()}",
        )
        match self._home:
            case "task:pay":
                return (*common, *numbers, *numbers, *pay, *pay)
            case "task:odd":
                return (*common, *numbers, *[self._odd] * 16)
            case _:
                return common

    def _guarded(self) -> str:
        """What may not be there, read if it is."""
        one = self._one
        return one(
            (
                f"(context.data has tries && context.data.tries {one(_COMPARE)} {self._literal()})",
                f"(context.data has note && context.data.note == {text(one(TEXTS))})",
                f"!(context.data has note && context.data.note != {text(one(TEXTS))})",
                f"(context.data has note && context.data.note like {one(_PATTERNS)})",
                f"(context.data has more && context.data.more.contains({text(one(TEXTS))}))",
                "(context.data has more && context.data.more == context.data.labels)",
                "(context has data.loose.weight && context.data.loose.weight "
                f"{one(_COMPARE)} {self._literal()})",
                "(context has data.loose && context.data.loose has kind "
                f"&& context.data.loose.kind == {text(one(TEXTS))})",
                "(context has data.loose && context.data.loose == {weight: 1})",
                "(context has data.loose && {kind: context.to} == context.data.loose)",
                "(context.data.inner has name && context.data.inner.name == context.to)",
                "(if context.data has tries then context.data.tries else context.data.amount) "
                f"{one(_COMPARE)} {self._literal()}",
            )
        )

    def long(self, depth: int) -> str:
        """A number."""
        if depth <= 0:
            return self._one((self._long_attribute, self._literal))()
        forms: tuple[Written, ...] = (
            lambda: f"({self.long(depth - 1)} {self._one(('+', '-', '*'))} {self.long(0)})",
            lambda: f"-({self.long(depth - 1)})",
            lambda: f"(if {self.bool(0)} then {self.long(0)} else {self.long(0)})",
            lambda: self.long(0),
        )
        return self._one(forms)()

    def _long_attribute(self) -> str:
        named = ('Team::"red".size', 'Agent::"cyd".level')
        fixed = ("resource.limit", "principal.level", "principal.profile.grade", *named)
        if self._home == "task:odd":
            return self._one(("context.amount",) * 6 + fixed)
        data = ("amount", "amount", "amount", "count", "inner.deep") * 4 + ("tries", "loose.weight")
        attributes = tuple(f"context.data.{each}" for each in data)
        return self._one((*attributes, 'context["data"]["amount"]', *fixed))

    def _text_attribute(self) -> str:
        fixed = ("principal.role", "principal.profile.nick", "principal.lead.role")
        if self._home == "task:odd":
            return self._one(("context.to",) * 6 + fixed)
        common = ("context.to", "context.type") * 2 + ("context.dataclassification",)
        if self._home == "task:pay":
            return self._one(common + ("context.data.currency",) * 8 + fixed)
        return self._one(common + fixed)

    def _texts(self) -> str:
        one = self._one
        literals = (
            "principal.tags",
            f"[{text(one(TEXTS))}, {text(one(TEXTS))}]",
            f"[{text(one(TEXTS))}]",
            f"[{self._text_attribute()}]",
            "[]",
        )
        if self._home == "task:pay":
            return one(("context.data.labels",) * 6 + ("context.data.more", *literals))
        return one(literals)

    def _has(self) -> str:
        return self._one(
            (
                "context has dataclassification",
                "context has data",
                "context has data.note",
                "context.data has note",
                'context.data has "tries"',
                "context.data has more",
                "context.data has loose",
                "context has data.loose.weight",
                "context.data.inner has name",
                "context has data.loose && context.data.loose has weight",
                "context.data.loose has weight",
                "context has nothing",
                "principal has lead",
                "principal has profile.nick",
                "(context has dataclassification && context.dataclassification == "
                f"{text(self._one(TEXTS))})",
            )
        )

    def _flag(self) -> str:
        if self._home == "task:odd":
            return self._one(("true", "false", "(context.amount > 5)"))
        flags = ["context.in_run", "context.delegated", "!context.in_run", "true"]
        if self._home == "task:pay":
            flags.append("context.data.urgent")
        return self._one((*flags, "(context.delegated == true)"))

    def _entity(self) -> str:
        odd = ["context.who"] * 8 if self._home == "task:odd" else []
        flag = "context.in_run" if self._home != "task:odd" else "(context.amount > 9)"
        return self._one(
            (
                *("principal", "principal", "resource", "resource", "action", "resource.team"),
                *("principal.lead", "principal.lead.lead", 'Team::"red".home'),
                'Agent::"bob".lead',
                f"(if {flag} then principal else resource)",
                f'(if {flag} then Agent::"ann" else Agent::"bob")',
                f'(if {flag} then Agent::"bob" else Agent::"cyd").lead',
                *ENTITIES,
                *odd,
            )
        )

    def _decimal(self) -> str:
        literal = f'decimal("{self._one(DECIMALS)}")'
        price = "context.data.price" if self._home == "task:pay" else "context.price"
        return self._one((price, price, "principal.limit", literal))

    def _odd(self) -> str:
        one = self._one
        return one(
            (
                f'context.from.isInRange(ip("{one(ADDRESSES)}"))',
                f"context.from.{one(('isIpv4', 'isIpv6', 'isLoopback', 'isMulticast'))}()",
                f'context.from == ip("{one(ADDRESSES)}")',
                f'context.when {one(_ORDER)} datetime("{one(TIMES)}")',
                f'context.when.offset(context.lasts) > datetime("{one(TIMES)}")',
                f'context.when.durationSince(datetime("{one(TIMES)}")).toDays() > 1',
                f'context.when.toDate() == datetime("{one(TIMES)}")',
                f'context.when.toTime() < duration("{one(DURATIONS)}")',
                f'context.lasts <= duration("{one(DURATIONS)}")',
                f"context.lasts.{one(_DURATION_PARTS)}() > {self._literal()}",
                "context.who == principal",
                "context.who.level < context.amount",
                "context.who in principal.lead",
                'context.who in Team::"red"',
                "context.who.lead.role == principal.role",
                "context.pals.contains(principal)",
                "context.pals.containsAny([principal, context.who])",
                f"context.numbers.contains({self.long(0)})",
                "context.numbers == [1, 2]",
                "context.numbers.isEmpty()",
                "context.rows.contains([1])",
                "context.rows == [[1], []]",
                "context.amount <= resource.limit",
                "context has price",
            )
        )

    def _record(self) -> str:
        if self._home != "task:pay":
            return self._one(
                (
                    "{a: context.to, b: principal}.a == " + text(self._one(TEXTS)),
                    "{to: context.to} == {to: principal.role}",
                    "context == {to: context.to}",
                    "(if context.in_run then context else context).to == context.to",
                )
            )
        return self._one(
            (
                f"{{a: {self.long(0)}, b: principal}}.a == {self._literal()}",
                "{to: context.to} == {to: context.type}",
                "{a: context.data.amount} has b",
                "{a: context.data.amount} == {a: 10}",
                "context.data.inner == {deep: 5}",
                "context == context",
                f"(if {self._flag()} then context else context).data.amount > 5",
                f"(if {self._flag()} then context.data else context.data).amount > 5",
                f"(if {self._flag()} then context.data.inner else {{deep: 1}}).deep == 1",
                "(if context.in_run then context else {to: context.type}).to == context.to",
                "[context.data.inner].contains({deep: 5})",
                "[context.data.amount, context.data.count].contains(10)",
            )
        )

    def _ill_typed(self) -> str:
        return self._one(
            (
                "context.to < 5",
                'context.data.amount == "5"',
                "context.in_run == 1",
                "context.data.urgent == 0",
                "context.data.currency",
                "context.data.amount.deep == 1",
                "context.to has foo",
                "context.nothing == 1",
                "context.data.nothing.more",
                "context.data.labels.contains(1)",
                "context.data.amount.contains(1)",
                "[1, true].contains(context.data.urgent)",
                '[1, "a"].contains(context.data.amount)',
                "context.data.labels in principal",
                'ip(context.to) == ip("::1")',
                'decimal(context.to) == decimal("1.0")',
                "principal.nothing == 1",
                "context.data.labels < 4",
            )
        )

    def _literal(self) -> str:
        return str(self._one(LONGS))

    def _text(self) -> str:
        return self._one((self._text_attribute(), text(self._one(TEXTS))))

    def _scope(self, of: str) -> str:
        entity = self._one(ENTITIES)
        type = self._one(TYPES)
        forms = (f"{of} is {type}", f"{of} in {entity}", f"{of} == {entity}")
        return self._one((*[of] * 6, *forms, f"{of} is {type} in {entity}"))

    def _action(self) -> str:
        action = text(self._one(ACTIONS))
        home = text(self._home)
        wide = (
            "action",
            'action in Action::"task"',
            'action in Action::"all"',
            'action in [Action::"event", Action::"task:pay"]',
            f"action == Action::{action}",
            f"action in Action::{action}",
            'action == Action::"task"',
        )
        exact = (f"action == Action::{home}", f"action in [Action::{home}]")
        return self._one(exact * 4 + wide if home != '"task:other"' else wide)

    def _depth(self) -> int:
        return self._one((0, 0, 0, 0, 1, 1, 2, 3))

    def _one(self, of: Sequence[T]) -> T:
        return of[self._random.randrange(len(of))]


_COMPARE = ("<", "<=", ">", ">=", "==", "!=")
_ORDER = ("<", ">=", "==")
_PATTERNS = ('"a*"', '"*"', '"*i*"', '"a\\*b"', '""')
_DECIMAL_TESTS = ("lessThan", "lessThanOrEqual", "greaterThan", "greaterThanOrEqual")
_DURATION_PARTS = ("toMilliseconds", "toSeconds", "toMinutes", "toHours", "toDays")
