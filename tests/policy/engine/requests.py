"""Random requests that meet the literals of random policies, and each other."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any, NamedTuple

from policy.engine.grammar import ADDRESSES, DECIMALS, DURATIONS, LONGS, TEXTS, TIMES
from policy.engine.world import extension, reference
from tidegate_policy.engine import Uid

_PRINCIPALS = ("ann", "bob", "bob", "cyd", "cyd", "dan", "eve")
_ACTIONS = ("task:pay", "task:pay", "task:pay", "task:odd", "task:other", "event:other")
_RESOURCES = {"task": ("pay", "see", "new"), "event": ("news", "new")}
_WRONG: tuple[Any, ...] = (
    None,
    True,
    1,
    1.0,
    2**63,
    -(2**63) - 1,
    "1",
    "\ud800",
    [],
    [1],
    ["a", None],
    {},
    {"amount": 1},
    extension("decimal", "1.23456"),
    extension("ip", "::1"),
)


class Request(NamedTuple):
    """What is asked."""

    principal: str
    action: str
    resource: Uid
    context: dict[str, Any]


class Requests:
    """Requests of few kinds, so that many are alike.

    They differ mostly in what a text names, such as that of a policy, if there is one.
    """

    def __init__(self, random: Random, about: str = "") -> None:
        self._random = random
        self._about = about

    def stream(self, count: int, action: str = "") -> list[Request]:
        """Requests, of which many differ from one before in one value, and some in none.

        Args:
            count: how many.
            action: if not any.
        """
        stream: list[Request] = []
        kinds = [self._request(action or self._one(_ACTIONS)) for _ in range(self._one((1, 2, 3)))]
        for _ in range(count):
            request = self._one(kinds)
            for _ in range(self._one((0, 1, 1, 1, 2, 4))):
                request = self._changed(request)
            if self._one(range(20)) == 0:
                request = self._spoiled(request)
            stream.append(request)
        return stream

    def _request(self, action: str) -> Request:
        kind = action.partition(":")[0]
        type = "Capability" if kind == "task" else "Topic"
        resource = (type, self._one(_RESOURCES[kind]))
        return Request(self._one(_PRINCIPALS), action, resource, self._context(action))

    def _changed(self, request: Request) -> Request:
        """Another value of one attribute, or one more, or one less."""
        other = self._context(request.action)
        context = dict(request.context)
        name = self._name(context.keys() | other.keys())
        if name == "data":
            inner: dict[str, Any] = context[name]
            new: dict[str, Any] = other[name]
            deep = self._name(inner.keys() | new.keys())
            return request._replace(context=context | {name: _with(inner, deep, new)})
        return request._replace(context=_with(context, name, other))

    def _name(self, names: set[str]) -> str:
        named = sorted(name for name in names if name in self._about)
        if "data" in named and self._one((True, True, True, False)):
            return "data"
        name: str = self._one(named if named and self._one((True, False)) else sorted(names))
        return name

    def _spoiled(self, request: Request) -> Request:
        """Something that the schema does not have."""
        context = dict(request.context)
        inside = context
        if "data" in context and self._one((True, False)):
            inside = context["data"] = dict(context["data"])
        name = self._one(sorted(inside))
        match self._one(("wrong", "wrong", "wrong", "more", "less")):
            case "wrong":
                inside[name] = self._one(_WRONG)
            case "more":
                inside["more than there is"] = 1
            case _:
                del inside[name]
        return request._replace(context=context)

    def _context(self, action: str) -> dict[str, Any]:
        one = self._one
        if action == "task:odd":
            context = {
                "to": one(TEXTS),
                "amount": one(LONGS),
                "who": reference("Agent", one(_PRINCIPALS)),
                "pals": [reference("Agent", one(_PRINCIPALS)) for _ in range(one((0, 1, 2)))],
                "numbers": [one((1, 2, 5)) for _ in range(one((0, 1, 2)))],
                "from": extension("ip", one(ADDRESSES)),
                "when": extension("datetime", one(TIMES)),
                "lasts": extension("duration", one(DURATIONS)),
                "rows": one(([], [[1]], [[1], []], [[], [1]])),
            }
            return context | self._maybe("price", extension("decimal", one(DECIMALS)))
        context = {
            "to": one(TEXTS),
            "type": one(TEXTS),
            "in_run": one((True, False)),
            "delegated": one((True, False)),
        } | self._maybe("dataclassification", one(TEXTS))
        if action == "task:pay":
            context["data"] = self._data()
        return context

    def _data(self) -> dict[str, Any]:
        one = self._one
        return {
            "amount": one(LONGS),
            "count": one(LONGS),
            "currency": one(TEXTS),
            "urgent": one((True, False)),
            "labels": self._texts(),
            "price": extension("decimal", one(DECIMALS)),
            "inner": {"deep": one((0, 1, 5))} | self._maybe("name", one(TEXTS)),
            **self._maybe("note", one(TEXTS)),
            **self._maybe("tries", one(LONGS)),
            **self._maybe("more", self._texts()),
            **self._maybe(
                "loose", self._maybe("kind", one(TEXTS)) | self._maybe("weight", one(LONGS))
            ),
        }

    def _loose(self) -> dict[str, Any]:
        return self._maybe("kind", self._one(TEXTS)) | self._maybe("weight", self._one(LONGS))

    def _texts(self) -> list[str]:
        return [self._one(TEXTS) for _ in range(self._one((0, 1, 2, 3)))]

    def _maybe(self, name: str, value: object) -> dict[str, Any]:
        return {name: value} if self._one((True, False)) else {}

    def _one(self, of: Sequence[Any]) -> Any:
        return of[self._random.randrange(len(of))]


def _with(record: dict[str, Any], name: str, other: dict[str, Any]) -> dict[str, Any]:
    """The record with this one attribute as the other has it, or has it not."""
    rest = {each: value for each, value in record.items() if each != name}
    return rest | ({name: other[name]} if name in other else {})
