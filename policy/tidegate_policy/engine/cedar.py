"""One decision of Cedar's own, and nothing but a decision: whatever fails is a no."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import cedarpy
import msgspec
from cedarpy import pst

from .types import PRINCIPAL, Uid, Verdict

_MAX_ERROR = 300


def parse(text: str) -> dict[str, pst.Template]:
    """Policies of a Cedar text by their `@id`.

    Raises:
        ValueError: it does not parse, or a policy has slots, no `@id` or that of another.
    """
    tree = cedarpy.policies_to_pst(text)
    if tree.templates:
        raise ValueError(f"a template decides nothing: {', '.join(sorted(tree.templates))}")
    found: dict[str, pst.Template] = {}
    for place, policy in tree.static_policies.items():
        name = policy.annotations.get("id")
        if not name or name in found:
            raise ValueError(f"{place} has {'the @id of another' if name else 'no @id'}")
        found[name] = policy
    return found


def policy_set(policies: Mapping[str, pst.Template]) -> cedarpy.PolicySet:
    """Cedar's form of these policies. It names them by the key they stand under, also in errors.

    Raises:
        ValueError: one cannot be evaluated.
    """
    named = {
        name: pst.Template(
            id=name,
            effect=policy.effect,
            principal=policy.principal,
            action=policy.action,
            resource=policy.resource,
            clauses=policy.clauses,
            annotations=pst.FrozenMap(),
        )
        for name, policy in policies.items()
    }
    return cedarpy.PolicySet.from_pst(
        pst.PolicySet(
            templates=pst.FrozenMap(), static_policies=pst.FrozenMap(named), template_links=()
        )
    )


def decide(
    principal: str,
    action: str,
    resource: Uid,
    context: Mapping[str, Any],
    policies: cedarpy.PolicySet,
    entities: cedarpy.Entities,
    schema: cedarpy.Schema,
) -> Verdict:
    """Authorize. Raises nothing of Cedar's, and nothing that a context can cause."""
    request: dict[str, Any] = {  # uids as dicts: no text of a sender is ever parsed as Cedar
        "principal": {"type": PRINCIPAL, "id": principal},
        "action": {"type": "Action", "id": action},
        "resource": {"type": resource[0], "id": resource[1]},
    }
    try:
        request["context"] = msgspec.json.encode(context).decode()
        result = cedarpy.is_authorized_batch([request], policies, entities, schema)[0]
        errors = "; ".join(sorted(map(str, result.diagnostics.errors)))
        reasons = tuple(sorted(result.diagnostics.reasons))
        decision = result.decision
    except Exception as error:  # of foreign code, and whatever it is: nothing was permitted
        return denied(error)
    except BaseException as error:  # a panic of Cedar's own code is not an Exception
        if type(error).__name__ == "PanicException":
            return denied(error)
        raise
    if decision is cedarpy.Decision.Allow and not errors:
        return Verdict(True, reasons)
    if decision is cedarpy.Decision.Deny:
        return Verdict(False, reasons, _one_line(errors))
    return Verdict(False, (), _one_line(errors) or "Cedar made no decision")


def denied(error: BaseException) -> Verdict:
    """What is said if nothing could be decided."""
    return Verdict(False, (), _one_line(error) or repr(error))


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:_MAX_ERROR]
