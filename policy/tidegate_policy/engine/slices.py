"""Policies, compiled once, and those of them that a request is within the scope of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import cedarpy
from cedarpy import pst

from . import cedar
from .entities import action_groups, looked_up
from .keys import KeyFunction, key_function
from .reads import Reads, reads, union
from .samples import samples
from .scopes import Scopes
from .tree import NotUnderstood
from .types import Contexts, Record, Scalar, Uid

_MAX_BYTES = 64 * 1024 * 1024
"""Of all slices that are kept for engines to come."""
_POLICY_BYTES = 4000
_KEY_BYTES = 2500


@dataclass(frozen=True, slots=True, eq=False)
class Slice:
    """The policies that decide some requests for one action.

    Attributes:
        policies: at least those, in Cedar's form.
        key: tells contexts apart that they may decide differently.
        bytes: roughly, what both take.
    """

    policies: cedarpy.PolicySet
    key: KeyFunction
    bytes: int


class Slices:
    """Policies and what was made of them; the same for all engines with these policies.

    Attributes:
        schema: in Cedar's form.
        everything: all policies, in Cedar's form.
        looked_up: entities that a decision may depend on, whoever asks for whatever.
    """

    def __init__(
        self, policies: Mapping[str, pst.Template], schema: str, contexts: Contexts
    ) -> None:
        """Compile.

        Raises:
            ValueError: the schema or a policy cannot be read, or a policy has slots.
        """
        self.schema = cedarpy.Schema.from_str(schema)
        self.everything = cedar.policy_set(policies)
        self._all = cedarpy.PolicySet.from_str("permit (principal, action, resource);")
        self._nobody = cedarpy.Entities.from_json_str("[]", self.schema)
        groups = action_groups(self._nobody)
        self._policies = policies
        self._scopes = Scopes(policies, groups)
        self._contexts = {a: c for a, c in contexts.items() if a in groups and not _has_other(c)}
        self.looked_up = frozenset[Uid]()
        try:
            self.looked_up = looked_up(policies.values())
        except NotUnderstood:
            self._contexts.clear()
        self._reads: dict[tuple[str, str], Reads] = {}
        self._agreed: set[tuple[str, str]] = set()
        self._sets: dict[tuple[str, ...], cedarpy.PolicySet] = {}
        self._slices: dict[tuple[str, tuple[str, ...]], Slice] = {}
        self._bytes = 0

    def is_local(self, action: str) -> bool:
        """Whether decisions depend on `looked_up` and on what the request names, at most.

        Otherwise a context, or an expression that is not understood, may name any entity.
        """
        return action in self._contexts

    def slice(
        self, action: str, principals: tuple[Uid, ...], resources: tuple[Uid, ...]
    ) -> Slice | None:
        """The policies in whose scope a request is.

        None if the action is not known, or its contexts are not what the schema says.

        Args:
            action: that is asked for.
            principals: who asks, then all that it is in.
            resources: the same of what it is asked of.
        """
        context = self._contexts.get(action)
        if context is None or not self._agrees(action, context, principals[0], resources[0]):
            return None
        names = self._scopes.matching(action, principals, resources)
        known = self._slices.get((action, names))
        if known is None:
            if self._bytes > _MAX_BYTES:
                self._sets.clear()
                self._slices.clear()
                self._bytes = 0
            known = self._slices[action, names] = self._slice(action, context, names)
            self._bytes += known.bytes
        return known

    def _agrees(self, action: str, context: Record, who: Uid, what: Uid) -> bool:
        """Whether Cedar takes all contexts of the type, for resources of that type."""
        of = (action, what[0])
        if of in self._agreed:
            return True
        agrees = all(
            cedar.decide(who[1], action, what, sample, self._all, self._nobody, self.schema).allowed
            for sample in samples(context)
        )
        if agrees:  # the others may be of any type that somebody makes up
            self._agreed.add(of)
        return agrees

    def _slice(self, action: str, context: Record, names: tuple[str, ...]) -> Slice:
        try:
            key = key_function(context, union(self._read(action, context, n) for n in names))
        except NotUnderstood:
            key = _no_key
        if 2 * len(names) > len(self._policies):
            return Slice(self.everything, key, _KEY_BYTES)  # of its own it would save little
        policies = self._sets.get(names)
        if policies is None:
            policies = cedar.policy_set({name: self._policies[name] for name in names})
            self._sets[names] = policies
        return Slice(policies, key, _KEY_BYTES + _POLICY_BYTES * len(names))

    def _read(self, action: str, context: Record, name: str) -> Reads:
        known = self._reads.get((action, name))
        if known is None:
            known = self._reads[action, name] = reads(self._policies[name], context)
        return known


def _no_key(_: object) -> None:
    """Nothing is remembered."""


def _has_other(type: Record | Scalar) -> bool:
    if isinstance(type, Record):
        return any(_has_other(each.type) for each in type.attributes.values())
    return type is Scalar.OTHER
