"""Decisions of Cedar, remembered for as long as they cannot change.

A decision is a function of the principal, the action, the resource, the context, the policies and
the entities. An engine has the last two fixed. For each (principal, action, resource) it keeps the
policies in whose scope that is (`slices`), and for those tells contexts apart only by what they
read of them (`reads`, `keys`). Cedar decides one context of each kind, and that is remembered.

This is where a defect would permit what policy forbids. So errors are never remembered, what is
not understood is decided by Cedar each time, and of the remembered decisions one in some is
decided again by all policies: if it differs nothing is remembered any more.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import cedarpy
from cedarpy import pst

from . import cedar
from .entities import store, with_ancestors
from .keys import Key, KeyFunction
from .slices import Slice, Slices
from .types import (
    PRINCIPAL,
    Contexts,
    Counters,
    Difference,
    Entities,
    OnDifference,
    Uid,
    Verdict,
)

_MAX_KEY_BYTES = 1024
"""Of one decision: senders choose texts, and long ones do not come again."""
_MAX_STORED = 50_000
"""Entities in all stores together; each takes Cedar about 400 bytes."""
_PLAN_BYTES = 400
_ENTRY_BYTES = 100
"""Of a place in a dictionary that grows."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What an engine may take, and how far it trusts itself.

    Attributes:
        entries: remembered decisions, and who asked for what, at most; then all are forgotten.
        bytes: of memory that those take, roughly, at most; the same.
        check_every: one in so many remembered decisions is decided again. 1: each.
    """

    entries: int = 200_000
    bytes: int = 128 * 1024 * 1024
    check_every: int = 1000


DEFAULT_LIMITS = Limits()


class _Tally:
    """Counts on while the entities change."""

    __slots__ = ("checked", "differences", "hits", "misses", "uncached", "until_check")

    def __init__(self, check_every: int) -> None:
        self.hits = self.misses = self.uncached = self.checked = self.differences = 0
        self.until_check = check_every


class _Plan:
    """How requests of one principal, action and resource are decided."""

    __slots__ = ("answers", "key", "policies")

    def __init__(self, policies: cedarpy.PolicySet, key: KeyFunction) -> None:
        self.policies = policies
        self.key = key
        self.answers: dict[Key, Verdict] = {}


class Engine:
    """Decides by policies and entities that never change. See `Engine.build`.

    Not for several threads at once.
    """

    def __init__(
        self,
        slices: Slices,
        entities: Entities,
        limits: Limits,
        on_difference: OnDifference,
        tally: _Tally,
    ) -> None:
        self._slices = slices
        self._entities = entities
        self._limits = limits
        self._on_difference = on_difference
        self._tally = tally
        self._plans: dict[tuple[str, str, Uid], _Plan] = {}
        self._slices_held: set[Slice] = set()
        self._stores: dict[tuple[str, Uid], cedarpy.Entities] = {}
        self._everyone: cedarpy.Entities | None = None
        self._verdicts: dict[Verdict, Verdict] = {}
        self._stored = 0
        self._entries = 0
        self._bytes = 0

    @classmethod
    def build(
        cls,
        policies: str | Mapping[str, pst.Template],
        schema: str,
        contexts: Contexts,
        entities: Entities,
        *,
        on_difference: OnDifference,
        limits: Limits = DEFAULT_LIMITS,
    ) -> Engine:
        """Compile policies. They should have been validated: what fails is denied, not mended.

        Args:
            policies: Cedar text in which each policy has its `@id`, or syntax trees by id.
            schema: Cedar's text. Actions are called `Action`, without a namespace.
            contexts: of each action; the same as in the schema.
            entities: that take part.
            on_difference: told of a remembered decision that was wrong; raises an alarm.
            limits: of memory and trust.

        Raises:
            ValueError: the schema or a policy cannot be read, or is not one that decides.
        """
        parsed = cedar.parse(policies) if isinstance(policies, str) else policies
        slices = Slices(dict(parsed), schema, contexts)
        return cls(slices, entities, limits, on_difference, _Tally(limits.check_every))

    def of(self, entities: Entities) -> Engine:
        """The same policies, for other entities. Costs nothing until it is asked."""
        return Engine(self._slices, entities, self._limits, self._on_difference, self._tally)

    @property
    def counters(self) -> Counters:
        """What was done so far."""
        tally = self._tally
        return Counters(
            hits=tally.hits,
            misses=tally.misses,
            uncached=tally.uncached,
            checked=tally.checked,
            differences=tally.differences,
            entries=self._entries,
            bytes=self._bytes,
        )

    def ask(
        self, principal: str, action: str, resource: Uid, context: Mapping[str, Any]
    ) -> Verdict:
        """Decide one request. Whatever fails is denied.

        Whether principal and resource are known to anyone is for the caller to find out first:
        a policy may permit all.

        Args:
            principal: id of an entity of type `PRINCIPAL`.
            action: id of an action.
            resource: type and id; need not be among the entities.
            context: JSON values in `dict`, `list` and `str`; a decimal as in `Scalar.DECIMAL`.
        """
        try:
            plan = self._plans.get((principal, action, resource))
            if plan is None:
                plan = self._new_plan(principal, action, resource)
                if plan is None:
                    return self._uncached(principal, action, resource, context)
            key = plan.key(context)
            if key is None:
                return self._uncached(principal, action, resource, context)
            known = plan.answers.get(key)
            if known is None:
                return self._miss(plan, key, principal, action, resource, context)
        except Exception as error:  # of a value that no caller should send: still, a no
            return cedar.denied(error)
        tally = self._tally
        tally.hits += 1
        tally.until_check -= 1
        if tally.until_check <= 0:
            return self._check(known, principal, action, resource, context)
        return known

    def _new_plan(self, principal: str, action: str, resource: Uid) -> _Plan | None:
        """None: such requests are not remembered."""
        if self._tally.differences:
            return None
        who = (PRINCIPAL, principal)
        found = self._slices.slice(
            action,
            with_ancestors(self._entities, who),
            with_ancestors(self._entities, resource),
        )
        name = (principal, action, resource)
        size = _size(name) + _size(resource)
        if found is None or size > _MAX_KEY_BYTES:
            return None
        size += _PLAN_BYTES + (0 if found in self._slices_held else found.bytes)
        if not self._make_room(size):
            return None
        plan = self._plans[name] = _Plan(found.policies, found.key)
        self._slices_held.add(found)
        self._entries += 1
        self._bytes += size
        return plan

    def _miss(
        self,
        plan: _Plan,
        key: Key,
        principal: str,
        action: str,
        resource: Uid,
        context: Mapping[str, Any],
    ) -> Verdict:
        size = _ENTRY_BYTES + _size(key)
        if size > _MAX_KEY_BYTES:
            return self._uncached(principal, action, resource, context)
        entities = self._store(principal, action, resource)
        verdict = cedar.decide(
            principal, action, resource, context, plan.policies, entities, self._slices.schema
        )
        if verdict.error or not self._make_room(size):
            self._tally.uncached += 1
            return verdict
        self._tally.misses += 1
        plan.answers[key] = self._verdicts.setdefault(verdict, verdict)
        self._entries += 1
        self._bytes += size
        return verdict

    def _uncached(
        self, principal: str, action: str, resource: Uid, context: Mapping[str, Any]
    ) -> Verdict:
        self._tally.uncached += 1
        return self._decide(principal, action, resource, context)

    def _check(
        self,
        remembered: Verdict,
        principal: str,
        action: str,
        resource: Uid,
        context: Mapping[str, Any],
    ) -> Verdict:
        tally = self._tally
        tally.until_check = self._limits.check_every
        tally.checked += 1
        computed = self._decide(principal, action, resource, context)
        if computed != remembered:
            tally.differences += 1  # which ends all remembering, see _new_plan
            self._forget()
            self._on_difference(
                Difference(principal, action, resource, context, remembered, computed)
            )
        return computed

    def _decide(
        self, principal: str, action: str, resource: Uid, context: Mapping[str, Any]
    ) -> Verdict:
        """By all policies, and nothing that was remembered of them."""
        try:
            entities = self._store(principal, action, resource)
        except Exception as error:  # they do not fit the schema, or are not what they should be
            return cedar.denied(error)
        slices = self._slices
        return cedar.decide(
            principal, action, resource, context, slices.everything, entities, slices.schema
        )

    def _store(self, principal: str, action: str, resource: Uid) -> cedarpy.Entities:
        slices = self._slices
        if not slices.is_local(action):
            if self._everyone is None:
                self._everyone = store(self._entities, self._entities, slices.schema)
            return self._everyone
        known = self._stores.get((principal, resource))
        if known is None:
            roots = ((PRINCIPAL, principal), resource, *slices.looked_up)
            known = store(self._entities, roots, slices.schema)
            self._stored += len(known)
            if self._stored > _MAX_STORED:
                self._stores.clear()
                self._stored = len(known)
            self._stores[principal, resource] = known
        return known

    def _make_room(self, size: int) -> bool:
        """Whether that much more fits; if not, all is forgotten, and it may come again."""
        limits = self._limits
        if self._entries < limits.entries and self._bytes + size <= limits.bytes:
            return True
        self._forget()
        return False

    def _forget(self) -> None:
        self._plans.clear()
        self._slices_held.clear()
        self._verdicts.clear()
        self._entries = self._bytes = 0


def _size(key: Key) -> int:
    """Bytes that a key takes, at most: parts of others' are counted again."""
    size = sys.getsizeof(key)
    for part in key:
        size += sys.getsizeof(part)
        if isinstance(part, frozenset):
            size += sum(map(sys.getsizeof, cast("frozenset[str]", part)))
    return size
