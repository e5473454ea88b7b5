"""Whether a policy can ever apply, to anybody and anything that is known.

Its scope and conditions are evaluated with what is known of an agent, an action and a resource;
what is not known could be anything. A policy is told of only if it is false in each and every
case, so nothing is said of one that might apply.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from cedarpy import pst

from tidegate_policy.engine import Uid
from tidegate_schemas.identity import GIVEN
from tidegate_schemas.subjects import Kind

from .facts import KINDS, Facts
from .rules import Rule
from .schema import RESOURCES

_MAX_CASES = 50_000
_STRANGER = "\0"
"""Begins the id of what is there and has no known name: it is in no known group."""


class _Agent(NamedTuple):
    uid: Uid
    role: str


class _Any:
    """A value that could be any."""


@dataclass(frozen=True, slots=True)
class _Entity:
    uid: Uid


@dataclass(frozen=True, slots=True)
class _Set:
    values: tuple[_Value, ...]


_ANY = _Any()
_Value = _Any | _Entity | _Set | bool | int | str


@dataclass(frozen=True)
class World:
    """Everything that policies may speak of.

    Attributes:
        parents: of each entity, direct ones.
        roles: of each agent that takes part; others may be given any.
        facts: what is declared of data.
    """

    parents: Mapping[Uid, frozenset[Uid]]
    roles: Mapping[str, str] = field(default_factory=dict[str, str])
    facts: Facts = field(default_factory=Facts)

    def names(self, type_: str) -> list[str]:
        """Ids of all entities of a type."""
        return [name for of, name in self.parents if of == type_]

    @cached_property
    def ancestors(self) -> dict[Uid, frozenset[Uid]]:
        """Everything that an entity is in, itself among it."""
        found = {uid: self._above(uid) for uid in self.parents}
        for action, kind in self.actions:
            uid = ("Action", action)
            found[uid] = frozenset([uid, ("Action", str(kind))])
        return found

    def _above(self, uid: Uid) -> frozenset[Uid]:
        found, todo = {uid}, [uid]
        while todo:
            new = self.parents.get(todo.pop(), frozenset()) - found
            found |= new
            todo += new
        return frozenset(found)

    @cached_property
    def agents(self) -> list[_Agent]:
        """Everybody with their role, and a stranger.

        Who does not take part yet may be given any role that can be given.
        """
        given = [role.value for role in GIVEN]
        return [
            _Agent(("Agent", name), role)
            for name in (*self.names("Agent"), _STRANGER)
            for role in ([self.roles[name]] if name in self.roles else given)
        ]

    @cached_property
    def actions(self) -> list[tuple[str, Kind]]:
        """All actions, each with its kind."""
        typed = [(self.facts.action(kind, to), kind) for kind, to in self.facts.declared]
        return [(f"{kind}:other", kind) for kind in KINDS] + typed

    def goals(self, action: str, kind: Kind) -> list[Uid]:
        """What a message with an action may go to."""
        type_ = RESOURCES[kind]
        if not action.endswith(":other"):
            return [(type_, action.partition(":")[2])]
        everything = [uid for uid in self.parents if uid[0] == type_]
        if kind in (Kind.EVENT, Kind.RESULT):
            everything.append((type_, _STRANGER))
        return [uid for uid in everything if (kind, uid[1]) not in self.facts.declared]


@dataclass(frozen=True, slots=True)
class _Case:
    """Who does what to what; None could be anybody and anything."""

    world: World
    by: _Agent | None
    action: str
    to: Uid | None

    def refuses(self, policy: pst.Template) -> bool:
        """Whether a policy is surely not satisfied."""
        by = self.by.uid if self.by else None
        if self._outside(policy.principal, by) or self._outside(policy.resource, self.to):
            return True
        for clause in policy.clauses:
            if self.value(clause.expr) is isinstance(clause, pst.Unless):
                return True
        return False

    def _outside(self, scope: pst.PrincipalOrResourceConstraint, uid: Uid | None) -> bool:
        match scope:
            case pst.ScopeEq(pst.EntityUid() as entity):
                return uid is not None and uid != _uid(entity)
            case pst.ScopeIn(pst.EntityUid() as entity):
                return uid is not None and not self._within(uid, [_uid(entity)])
            case pst.ScopeIs(type_):
                return uid is not None and uid[0] != str(type_)
            case pst.ScopeIsIn(type_, pst.EntityUid() as entity):
                return uid is not None and (
                    uid[0] != str(type_) or not self._within(uid, [_uid(entity)])
                )
            case _:
                return False

    def _within(self, uid: Uid, groups: Iterable[Uid]) -> bool:
        return not self.world.ancestors.get(uid, frozenset([uid])).isdisjoint(groups)

    def value(self, expr: pst.Expr) -> _Value:
        """What an expression is; `_ANY` where that is not known."""
        match expr:
            case pst.BoolLit(value) | pst.LongLit(value) | pst.StringLit(value):
                return value
            case pst.EntityLit(uid):
                return _Entity(_uid(uid))
            case pst.Var("principal"):
                return _Entity(self.by.uid) if self.by else _ANY
            case pst.Var("resource"):
                return _Entity(self.to) if self.to else _ANY
            case pst.Var("action"):
                return _Entity(("Action", self.action))
            case pst.Set(elements):
                values = tuple(self.value(element) for element in elements)
                return _ANY if _ANY in values else _Set(values)
            case pst.UnaryOp("not", inner):
                return _not(self.value(inner))
            case pst.BinaryOp(op, left, right):
                return self._binary(op, self.value(left), self.value(right))
            case pst.IfThenElse(cond, then, other):
                return _either(self.value(cond), self.value(then), self.value(other))
            case pst.GetAttr(base, attr):
                return self._attribute(base, attr)
            case pst.HasAttr(pst.Var("context"), attrs) if attrs[0] == "data":
                typed = not self.action.endswith(":other")
                return _ANY if typed else False
            case pst.Is(base, type_, None):
                found = self.value(base)
                return found.uid[0] == str(type_) if isinstance(found, _Entity) else _ANY
            case pst.Like(base, pattern):
                found = self.value(base)
                return _like(found, pattern) if isinstance(found, str) else _ANY
            case _:
                return _ANY

    def _binary(self, op: str, left: _Value, right: _Value) -> _Value:
        match op, left, right:
            case "and", _, _:
                return _and(left, right)
            case "or", _, _:
                return _not(_and(_not(left), _not(right)))
            case (("eq" | "not_eq"), _, _) if _ANY not in (left, right):
                return (left == right) is (op == "eq")
            case "in", _Entity(uid), _Entity(group):
                return self._within(uid, [group])
            case "in", _Entity(uid), _Set(groups):
                return self._within(uid, [one.uid for one in groups if isinstance(one, _Entity)])
            case "contains", _Set(values), _ if right is not _ANY:
                return right in values
            case _:
                return _ANY

    def _attribute(self, base: pst.Expr, attr: str) -> _Value:
        if base == pst.Var("context"):
            named = self.to is not None and not self.to[1].startswith(_STRANGER)
            return self.to[1] if attr == "to" and self.to and named else _ANY
        if attr == "role" and base == pst.Var("principal"):
            return self.by.role if self.by else _ANY
        found = self.value(base)
        if attr == "role" and isinstance(found, _Entity):
            return self.world.roles.get(found.uid[1], _ANY)
        return _ANY


def never(rule: Rule, world: World) -> str:
    """Why a rule can never apply; empty if it may."""
    actions = [each for each in world.actions if rule.covers(each[0])]
    by = [_Case(world, who, action, None) for who in world.agents for action, _ in actions]
    if all(case.refuses(rule.policy) for case in by):
        return "no agent that is known satisfies it"
    goals = [(action, to) for action, kind in actions for to in world.goals(action, kind)]
    if all(_Case(world, None, *goal).refuses(rule.policy) for goal in goals):
        kinds = " or ".join(sorted({RESOURCES[kind] for _, kind in actions}))
        return f"no {kinds} that is known satisfies it"
    if len(goals) * len(world.agents) <= _MAX_CASES and all(
        _Case(world, who, *goal).refuses(rule.policy) for who in world.agents for goal in goals
    ):
        return "nobody who is known satisfies it together with anything to send to"
    return ""


def _and(left: _Value, right: _Value) -> _Value:
    if left is False or right is False:
        return False
    return True if left is True and right is True else _ANY


def _not(value: _Value) -> _Value:
    return not value if isinstance(value, bool) else _ANY


def _either(cond: _Value, then: _Value, other: _Value) -> _Value:
    if isinstance(cond, bool):
        return then if cond else other
    return then if then == other else _ANY


def _uid(uid: pst.EntityUid) -> Uid:
    return str(uid.type), uid.id


def _like(text: str, pattern: tuple[pst.PatternElem, ...]) -> bool:
    parts = (re.escape(p.value) if isinstance(p, pst.Char) else ".*" for p in pattern)
    return re.fullmatch("".join(parts), text, re.DOTALL) is not None
