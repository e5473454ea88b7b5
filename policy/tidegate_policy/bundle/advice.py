"""What the author of a bundle should know besides that it can be enforced.

A gateway takes a bundle that speaks of somebody unknown: they may join later. Its author has most
likely made a slip.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
from cedarpy import pst

from tidegate_policy.roster import Roster
from tidegate_schemas import vocabulary
from tidegate_schemas.envelope import MAX_ENVELOPE_BYTES
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Kind

from .contents import Bundle
from .facts import NAME as FACTS
from .faults import Fault, meant
from .reach import World, never
from .rules import Rule, inside
from .source import statements

COMMANDS = (
    vocabulary.IDENTITY_REGISTER,
    vocabulary.IDENTITY_REVOKE,
    vocabulary.POLICY_PROPOSE,
    vocabulary.POLICY_ACTIVATE,
    vocabulary.APPROVAL_GRANT,
    vocabulary.APPROVAL_REFUSE,
    vocabulary.CONTROL_PAUSE,
    vocabulary.CONTROL_RESUME,
    vocabulary.CONTROL_QUARANTINE,
    vocabulary.CONTROL_KILL,
    vocabulary.CONTROL_RELEASE,
    vocabulary.PRIVACY_ERASE,
    vocabulary.PRIVACY_HOLD,
    vocabulary.PRIVACY_RELEASE,
    vocabulary.BLUEPRINT_REGISTER,
    vocabulary.RUN_START,
    vocabulary.RUN_CANCEL,
    vocabulary.RUN_TIMEOUT,
    vocabulary.EVIDENCE_KEYS,
    vocabulary.AUDIT_EXPORT,
    vocabulary.AUDIT_REPLAY,
)
EVENTS = (vocabulary.RUN_FINISHED, vocabulary.PROBED, vocabulary.BYPASSED)


@dataclass(frozen=True, slots=True)
class Known:
    """What a project names.

    Attributes:
        roster: who takes part.
        topics: events that somebody hears, or that start a blueprint.
    """

    roster: Roster
    topics: frozenset[str] = field(default_factory=frozenset[str])


def advise(bundle: Bundle, known: Known) -> list[Fault]:
    """Names that nobody has, and policies that can never apply."""
    world = _world(bundle, known)
    faults = [*_facts(bundle, world), *_size(bundle)]
    for rule in bundle.rules.values():
        unknown = list(_unknown(rule, world, bundle.files[rule.file]))
        faults += unknown
        if not unknown and (why := never(rule, world)):
            faults.append(Fault(rule.file, rule.line, f"{rule.id} can never apply: {why}"))
    return sorted(set(faults))


def _world(bundle: Bundle, known: Known) -> World:
    entities = bundle.groups.entities(known.roster)
    parents = {uid: frozenset(above) for uid, (_, above) in entities.items()}
    for uid, above in bundle.groups.parents.items():  # also who is not there yet
        parents[uid] = parents.get(uid, frozenset()) | frozenset(above)
        for group in above:
            parents.setdefault(group, frozenset())
    for kind, to in bundle.facts.declared:
        if kind is Kind.EVENT:
            parents.setdefault(("Topic", to), frozenset())
    for topic in (*EVENTS, *known.topics):
        parents.setdefault(("Topic", topic), frozenset())
    for command in COMMANDS:
        parents.setdefault(("Command", command), frozenset())
    roles = {name: member.role.value for name, member in known.roster.members.items()}
    return World(parents, roles, bundle.facts)


def _unknown(rule: Rule, world: World, text: str) -> Iterator[Fault]:
    """Entities and roles that the rule names and nobody has."""
    statement = next((s for s in statements(text) if s.line == rule.line), None)

    def fault(what: str, hint: str, written: str) -> Fault:
        line = statement.line_of(written) if statement else rule.line
        return Fault(rule.file, line, f"{rule.id}: {what}", hint)

    for uid in sorted(pst.entity_uids(rule.policy), key=str):
        kind = str(uid.type)
        if kind == "Action" or (kind, uid.id) in world.parents:
            continue
        hint = meant(uid.id, world.names(kind)) or _way_out(kind)
        yield fault(f"there is no {kind} {uid.id!r}", hint, f'{kind}::"{uid.id}"')
    for role in sorted(_roles(rule.policy) - {role.value for role in Role}):
        roles = [role.value for role in Role]
        hint = meant(role, roles) or f"there are {', '.join(roles)}"
        yield fault(f"there is no role {role!r}", hint, f'"{role}"')
    for approval in rule.obligations.approvals:
        match approval.who:
            case ("role", name):
                found = {role.value for role in Role}
            case ("team", name):
                found = set(world.names("Team"))
            case names:
                found = set(world.names("Agent"))
                name = next((one for one in names if one not in found), "")
        if name and name not in found:
            hint = meant(name, found) or _way_out("Team" if approval.who[0] == "team" else "Agent")
            written = rule.annotations["require_approval"]
            yield fault(f"@require_approval: there is no {name!r}", hint, written)


def _way_out(kind: str) -> str:
    match kind:
        case "Group":
            return "entities.json says which groups there are, and who is in them"
        case "Topic":
            return "no agent hears it and no blueprint begins with it; entities.json may name it"
        case _:
            what = f'{{"uid": {{"type": "{kind}", "id": "…"}}, "parents": []}}'
            return (
                f"people and others whom the project does not name stand in entities.json: {what}"
            )


def _roles(policy: pst.Template) -> set[str]:
    """Texts that are compared with the role of somebody."""
    found: set[str] = set()
    todo: list[Any] = [policy]
    while todo:
        match todo.pop():
            case pst.BinaryOp("eq" | "not_eq", pst.GetAttr(_, "role"), pst.StringLit(role)):
                found.add(role)
            case pst.BinaryOp("eq" | "not_eq", pst.StringLit(role), pst.GetAttr(_, "role")):
                found.add(role)
            case pst.BinaryOp("contains", pst.Set(elements), pst.GetAttr(_, "role")):
                found |= {one.value for one in elements if isinstance(one, pst.StringLit)}
            case other:
                todo += inside(other)
    return found


def _facts(bundle: Bundle, world: World) -> Iterator[Fault]:
    text = bundle.files.get(FACTS, "")
    of = {Kind.TASK: "Capability", Kind.RESULT: "Agent", Kind.CONTROL: "Command"}
    for kind, to in bundle.facts.declared:
        names = world.names(of[kind]) if kind in of else [to]
        if to not in names:
            line = text.count("\n", 0, max(text.find(to), 0)) + 1
            hint = meant(to, names) or f"no {kind} goes there"
            yield Fault(FACTS, line, f"there is no {of[kind]} {to!r}", hint)


def _size(bundle: Bundle) -> Iterator[Fault]:
    size = len(msgspec.json.encode({"files": bundle.files})) + 1024
    if size > MAX_ENVELOPE_BYTES:
        what = f"it is {size} bytes as a message, and by default {MAX_ENVELOPE_BYTES} are taken"
        yield Fault("", 0, what, "raise `gateway: {envelope_bytes: …}`, or shorten its tests")
