"""Policies, compiled once, and those of them that a request is within the scope of."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import cedarpy
from cedarpy import pst

from . import cedar
from .entities import action_groups, looked_up
from .keys import KeyFunction, key_function
from .reads import Reads, reads, union
from .scopes import Scopes
from .tree import NotUnderstood
from .types import Contexts, Record, Scalar, Uid

_MAX_HELD = 10_000
"""Policies in all slices together; each takes Cedar about 5 KB."""


class Slice(NamedTuple):
    """The policies that decide some requests for one action.

    Attributes:
        policies: at least those, in Cedar's form.
        key: tells contexts apart that they may decide differently.
    """

    policies: cedarpy.PolicySet
    key: KeyFunction


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
        groups = action_groups(self.schema)
        self._policies = policies
        self._scopes = Scopes(policies, groups)
        self._contexts = {a: context for a, context in contexts.items() if a in groups}
        try:
            self.looked_up = looked_up(policies.values())
            self._small = {a for a, c in self._contexts.items() if not _may_name_entities(c)}
        except NotUnderstood:
            self.looked_up = frozenset[Uid]()
            self._small = set[str]()
        self._reads: dict[tuple[str, str], Reads] = {}
        self._keys: dict[tuple[str, tuple[str, ...]], KeyFunction] = {}
        self._sets: dict[tuple[str, ...], cedarpy.PolicySet] = {}
        self._held = 0

    def is_local(self, action: str) -> bool:
        """Whether decisions depend on `looked_up` and on what the request names, at most.

        Otherwise a context, or an expression that is not understood, may name any entity.
        """
        return action in self._small

    def slice(
        self, action: str, principals: tuple[Uid, ...], resources: tuple[Uid, ...]
    ) -> Slice | None:
        """The policies in whose scope a request is, or None if it is for an unknown action.

        Args:
            action: that is asked for.
            principals: who asks, then all that it is in.
            resources: the same of what it is asked of.
        """
        context = self._contexts.get(action)
        if context is None:
            return None
        names = self._scopes.matching(action, principals, resources)
        return Slice(self._set(names), self._key(action, context, names))

    def _set(self, names: tuple[str, ...]) -> cedarpy.PolicySet:
        if 2 * len(names) > len(self._policies):
            return self.everything  # another set would cost more than it saves
        known = self._sets.get(names)
        if known is None:
            if self._held + len(names) > _MAX_HELD:
                self._sets.clear()
                self._keys.clear()
                self._held = 0
            known = cedar.policy_set({name: self._policies[name] for name in names})
            self._sets[names] = known
            self._held += len(names) + 1
        return known

    def _key(self, action: str, context: Record, names: tuple[str, ...]) -> KeyFunction:
        known = self._keys.get((action, names))
        if known is None:
            try:
                read = union(self._read(action, context, name) for name in names)
                known = key_function(context, read)
            except NotUnderstood:
                known = _no_key
            self._keys[action, names] = known
        return known

    def _read(self, action: str, context: Record, name: str) -> Reads:
        known = self._reads.get((action, name))
        if known is None:
            known = self._reads[action, name] = reads(self._policies[name], context)
        return known


def _no_key(_: object) -> None:
    """Nothing is remembered."""


def _may_name_entities(type: Record | Scalar) -> bool:
    if isinstance(type, Record):
        return any(_may_name_entities(each.type) for each in type.attributes.values())
    return type is Scalar.OTHER
