"""Which policies a request is within the scope of, without a look at each.

Scopes cannot fail, and a policy whose scope does not match neither decides nor fails: so those
that are left decide as all would.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cedarpy import pst

from .tree import uid
from .types import Uid

_Token = tuple[str, ...]
"""A form of scope and what it names; equal to a token of each entity that it matches."""
_Index = Mapping[_Token, Mapping[_Token, tuple[str, ...]]]
"""Policies by the token of the principal's scope, then by that of the resource's."""

_ANY: _Token = ("any",)


class Scopes:
    """An index of policies by action, made when the action is first asked for."""

    def __init__(
        self, policies: Mapping[str, pst.Template], groups: Mapping[str, frozenset[str]]
    ) -> None:
        """Index policies.

        Args:
            policies: by id; without slots.
            groups: of each action that can be asked for, the ids of those it is in.

        Raises:
            ValueError: a policy has a slot.
        """
        self._groups = groups
        self._scopes = {
            name: (policy.action, _token(policy.principal), _token(policy.resource))
            for name, policy in policies.items()
        }
        self._indexes: dict[str, _Index] = {}

    def matching(
        self, action: str, principals: tuple[Uid, ...], resources: tuple[Uid, ...]
    ) -> tuple[str, ...]:
        """Ids of the policies in whose scope a request is, sorted.

        Args:
            action: one of those given.
            principals: the principal, then all that it is in.
            resources: the same of the resource.
        """
        index = self._indexes.get(action)
        if index is None:
            index = self._indexes[action] = self._index(action)
        found: list[str] = []
        tokens = list(_tokens(resources))
        for token in _tokens(principals):
            if by_resource := index.get(token):
                for each in tokens:
                    found += by_resource.get(each, ())
        return tuple(sorted(found))

    def _index(self, action: str) -> _Index:
        index: dict[_Token, dict[_Token, tuple[str, ...]]] = {}
        within = {action, *self._groups[action]}
        for name, (scope, principal, resource) in self._scopes.items():
            if _names(scope, action, within):
                by_resource = index.setdefault(principal, {})
                by_resource[resource] = (*by_resource.get(resource, ()), name)
        return index


def _names(scope: pst.ActionConstraint, action: str, within: set[str]) -> bool:
    match scope:
        case pst.ScopeAny():
            return True
        case pst.ActionEq(entity=entity):
            return uid(entity) == ("Action", action)
        case pst.ActionIn(entities=entities):
            return any(str(each.type) == "Action" and each.id in within for each in entities)


def _token(scope: pst.PrincipalOrResourceConstraint) -> _Token:
    match scope:
        case pst.ScopeAny():
            return _ANY
        case pst.ScopeIs(entity_type=type):
            return ("is", str(type))
        case pst.ScopeEq(entity=pst.EntityUid() as entity):
            return ("==", *uid(entity))
        case pst.ScopeIn(entity=pst.EntityUid() as entity):
            return ("in", *uid(entity))
        case pst.ScopeIsIn(entity_type=type, entity=pst.EntityUid() as entity):
            return ("is in", str(type), *uid(entity))
        case _:
            raise ValueError("a template decides nothing until its slots are filled")


def _tokens(entities: tuple[Uid, ...]) -> Iterator[_Token]:
    """Of each scope that matches the first of these, which is in the others."""
    type, id = entities[0]
    yield _ANY
    yield ("is", type)
    yield ("==", type, id)
    for entity in entities:
        yield ("in", *entity)
        yield ("is in", type, *entity)
