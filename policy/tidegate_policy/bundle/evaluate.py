"""The engine, asked directly. It remembers nothing; what it says depends on the request alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import cedarpy
from cedarpy import pst

from .faults import one_line


class Verdict(NamedTuple):
    """What a set of policies says. `policies` are the ids of those that decided, sorted."""

    allowed: bool
    policies: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True)
class Policies:
    """Policies by id, and the engine's handle of them, made when it is needed first."""

    trees: Mapping[str, pst.Template]

    @cached_property
    def handle(self) -> cedarpy.PolicySet:
        """What the engine evaluates."""
        empty: pst.FrozenMap[str, pst.Template] = pst.FrozenMap()
        return cedarpy.PolicySet.from_pst(pst.PolicySet(empty, pst.FrozenMap(self.trees), ()))


@dataclass(frozen=True, slots=True)
class Evaluator:
    """Some policies over some entities."""

    policies: Policies
    schema: cedarpy.Schema
    entities: cedarpy.Entities

    def ask(
        self, principal: str, action: str, resource: tuple[str, str], context: Mapping[str, Any]
    ) -> Verdict:
        """Authorize. Any error of the engine is a no.

        Args:
            principal: id of an Agent.
            action: id of an Action.
            resource: type and id.
            context: in Cedar's JSON form.
        """
        request = {  # uids as dicts: no text of a sender is ever parsed as Cedar
            "principal": {"type": "Agent", "id": principal},
            "action": {"type": "Action", "id": action},
            "resource": {"type": resource[0], "id": resource[1]},
            "context": dict(context),
        }
        try:
            result = cedarpy.is_authorized(
                request, self.policies.handle, self.entities, self.schema
            )
        except Exception as error:  # of foreign code, and whatever it is: nothing was permitted
            return Verdict(False, (), one_line(error) or repr(error))
        errors = one_line("; ".join(sorted(map(str, result.diagnostics.errors))))
        policies = tuple(sorted(result.diagnostics.reasons))
        return Verdict(result.allowed and not errors, policies, errors)
