"""The few entities that a decision can depend on.

Who takes part changes one by one, and Cedar's own store of all of them would be made anew each
time. So a store is made for each principal and resource that are asked for, of all that can be
reached from them, and from the entities whose attributes or groups a policy looks up by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import cedarpy
import msgspec
from cedarpy import pst

from .tree import children, uid
from .types import Entities, Uid


def with_ancestors(entities: Entities, who: Uid) -> tuple[Uid, ...]:
    """An entity, then all that it is in, directly or not."""
    found = {who: None}
    stack = [who]
    while stack:
        for parent in _of(entities, stack.pop())[1]:
            if parent not in found:
                found[parent] = None
                stack.append(parent)
    return tuple(found)


def store(entities: Entities, roots: Iterable[Uid], schema: cedarpy.Schema) -> cedarpy.Entities:
    """Cedar's store of those that can be reached from `roots`, by their parents and attributes.

    The groups of the schema's actions are in it too.

    Raises:
        ValueError: one does not fit the schema.
    """
    found: set[Uid] = set()
    stack = list(roots)
    while stack:
        who = stack.pop()
        if who not in found and who in entities:
            found.add(who)
            attributes, parents = entities[who]
            stack += parents
            stack += _references(attributes)
    body = [
        {
            "uid": _json(who),
            "attrs": entities[who][0],
            "parents": [_json(parent) for parent in entities[who][1]],
        }
        for who in sorted(found)
    ]
    return cedarpy.Entities.from_json_str(msgspec.json.encode(body).decode(), schema)


def action_groups(actions: cedarpy.Entities) -> dict[str, frozenset[str]]:
    """Ids of the groups that each action is in, directly or not; of a store that has them."""
    listed = msgspec.json.decode(str(actions))
    entities: Entities = {
        (each["uid"]["type"], each["uid"]["id"]): (
            {},
            tuple((parent["type"], parent["id"]) for parent in each["parents"]),
        )
        for each in listed
    }
    return {
        action: frozenset(id for _, id in with_ancestors(entities, (type, action))[1:])
        for type, action in entities
        if type == "Action"
    }


def looked_up(policies: Iterable[pst.Template]) -> frozenset[Uid]:
    """Entities named in conditions, where Cedar may look up what they have or are in.

    Raises:
        NotUnderstood: it cannot be told.
    """
    return frozenset(
        each for policy in policies for clause in policy.clauses for each in _looked_up(clause.expr)
    )


def _looked_up(expr: pst.Expr) -> Iterator[Uid]:
    if isinstance(expr, pst.EntityLit):
        yield uid(expr.value)
        return
    parts = children(expr)
    if isinstance(expr, pst.Is) or (isinstance(expr, pst.BinaryOp) and expr.op == "in"):
        # What is on the right is sought among the groups of what is on the left, no more. Rules
        # name so many teams there that each store would hold them all.
        left, *right = parts
        sought = right[0].elements if right and isinstance(right[0], pst.Set) else right
        parts = (left, *(each for each in sought if not isinstance(each, pst.EntityLit)))
    for part in parts:
        yield from _looked_up(part)


def _of(entities: Entities, who: Uid) -> tuple[Mapping[str, Any], tuple[Uid, ...]]:
    return entities.get(who, ({}, ()))


def _references(value: object) -> Iterator[Uid]:
    """What looks like a reference to an entity; with a schema, Cedar takes the short form too."""
    if isinstance(value, Mapping):
        fields = cast("Mapping[str, object]", value)
        type, id = fields.get("type"), fields.get("id")
        if isinstance(type, str) and isinstance(id, str):
            yield type, id
        for inner in fields.values():
            yield from _references(inner)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in cast("Iterable[object]", value):
            yield from _references(inner)


def _json(who: Uid) -> dict[str, str]:
    return {"type": who[0], "id": who[1]}
