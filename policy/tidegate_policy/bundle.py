"""A policy bundle: loaded as a whole, or refused with every reason.

A bundle is a folder with `*.cedar` files and a `roster.json` that names the principals. Its digest
is SHA-256 over the lines `<sha256 of the file>  <name>`, sorted by name, of all its files and of
the schema: the form that `sha256sum` prints.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import cedarpy
import msgspec

from tidegate_schemas.errors import InvalidName, InvalidPolicy
from tidegate_schemas.subjects import Kind, Principal, check_destination

SCHEMA = files("tidegate_policy").joinpath("tidegate.cedarschema").read_text("utf-8")
ROSTER = "roster.json"

_ANNOTATIONS = {"id"}
_RESOURCES = {
    Kind.TASK: "Capability",
    Kind.EVENT: "Topic",
    Kind.RESULT: "Agent",
    Kind.CONTROL: "Command",
}
_MAX_REMEMBERED = 50_000


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A principal of the roster: who it is, what it is, and which tasks it takes."""

    principal: str
    role: str
    capabilities: tuple[str, ...] = ()


class Question(NamedTuple):
    """Everything that an answer of policy depends on."""

    by: str
    kind: Kind
    to: str
    type: str
    in_run: bool
    dataclassification: str | None


class Answer(NamedTuple):
    """What policy says. `policies` are the ids of those that decided, sorted."""

    allowed: bool
    policies: tuple[str, ...]
    error: str = ""


@dataclass(frozen=True)
class Bundle:
    """Policies, entities and roster of one digest. Never changes; make one with `load_bundle`."""

    digest: str
    senders: frozenset[str]
    capabilities: frozenset[str]
    _policies: cedarpy.PolicySet
    _entities: cedarpy.Entities
    _schema: cedarpy.Schema
    _ids: dict[str, str]
    _answers: dict[Question, Answer] = field(default_factory=dict[Question, Answer])

    def ask(self, question: Question) -> Answer:
        """Authorize. Any error of the engine is a no.

        An answer depends on the question and on this bundle alone, so it is remembered.
        """
        answer = self._answers.get(question)
        if answer is None:
            if len(self._answers) >= _MAX_REMEMBERED:
                self._answers.clear()
            answer = self._answers[question] = self._evaluate(question)
        return answer

    def _evaluate(self, question: Question) -> Answer:
        context: dict[str, Any] = {
            "to": question.to,
            "type": question.type,
            "in_run": question.in_run,
        }
        if question.dataclassification is not None:
            context["dataclassification"] = question.dataclassification
        request = {  # uids as dicts: no text of a sender is ever parsed as Cedar
            "principal": {"type": "Agent", "id": question.by},
            "action": {"type": "Action", "id": str(question.kind)},
            "resource": {"type": _RESOURCES[question.kind], "id": question.to},
            "context": context,
        }
        result = cedarpy.is_authorized(request, self._policies, self._entities, self._schema)
        errors = [str(error) for error in result.diagnostics.errors]
        policies = tuple(sorted(self._ids[reason] for reason in result.diagnostics.reasons))
        return Answer(result.allowed and not errors, policies, "; ".join(errors)[:300])


def write_bundle(folder: Path, policies: Iterable[Path], roster: Iterable[Member]) -> None:
    """Put a bundle together: copies of Cedar files, and a roster."""
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    for path in policies:
        (folder / path.name).write_bytes(path.read_bytes())
    members = sorted(roster, key=lambda member: member.principal)
    (folder / ROSTER).write_bytes(msgspec.json.format(msgspec.json.encode(members)) + b"\n")


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle.

    Raises:
        InvalidPolicy: a file is missing or unreadable, does not parse, does not fit the schema, a
            policy has no `@id`, shares one, or bears an annotation that nothing acts on, or the
            roster is wrong. Every fault is named with its file.
    """
    problems: list[str] = []
    texts = _texts(folder)
    if not texts:
        problems.append(f"{folder}: no *.cedar file; without policies nothing may move")
    schema = cedarpy.Schema.from_str(SCHEMA)
    ids: dict[str, str] = {}
    named: dict[str, str] = {}
    sources: list[str] = []
    for path, text in texts.items():
        problems += _faults(path, text, named)
        sources.append(text)
    roster = _roster(folder / ROSTER, problems)
    entities = _entities(roster, schema, problems)
    if problems or entities is None:
        raise InvalidPolicy(problems)
    policies = cedarpy.PolicySet.from_str("\n".join(sources))
    for positional, policy in policies.to_pst().static_policies.items():
        ids[positional] = dict(policy.annotations)["id"]
    capabilities = frozenset(c for member in roster for c in member.capabilities)
    return Bundle(
        digest=_digest([*texts, folder / ROSTER]),
        senders=frozenset(member.principal for member in roster),
        capabilities=capabilities,
        _policies=policies,
        _entities=entities,
        _schema=schema,
        _ids=ids,
    )


def _texts(folder: Path) -> dict[Path, str]:
    try:
        return {path: path.read_text("utf-8") for path in sorted(folder.glob("*.cedar"))}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidPolicy([f"{folder}: {error}"]) from None


def _faults(path: Path, text: str, named: dict[str, str]) -> Iterator[str]:
    """What is wrong with one file; `named` holds the ids of the files before."""
    try:
        policies = cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        yield f"{path}: {_one_line(error)}"
        return
    for positional, policy in sorted(policies.to_pst().static_policies.items()):
        annotations = dict(policy.annotations)
        name = annotations.get("id")
        if not name:
            yield f'{path}: {positional} has no @id; give it one: @id("what-it-is-for")'
        elif name in named:
            yield f"{path}: @id({name!r}) is already in {named[name]}"
        else:
            named[name] = path.name
        for key in sorted(annotations.keys() - _ANNOTATIONS):
            yield f"{path}: @{key} of {name or positional} is unknown and would be ignored"
    result = cedarpy.validate_policies(text, SCHEMA)
    for fault in result.errors:
        yield f"{path}: {_one_line(fault)}"


def _roster(path: Path, problems: list[str]) -> list[Member]:
    try:
        members = msgspec.json.decode(path.read_bytes(), type=list[Member])
    except OSError as error:
        problems.append(f"{path}: {error.strerror}")
        return []
    except msgspec.DecodeError as error:
        problems.append(f"{path}: {error}")
        return []
    providers: dict[str, str] = {}
    for member in members:
        try:
            Principal.parse(member.principal)
            for capability in member.capabilities:
                check_destination(capability)
                other = providers.setdefault(capability, member.principal)
                if other != member.principal:
                    problems.append(
                        f"{path}: {other} and {member.principal} both claim capability "
                        f"{capability!r}; a capability belongs to one agent"
                    )
        except InvalidName as error:
            problems.append(f"{path}: {error}")
    return members


def _entities(
    roster: list[Member], schema: cedarpy.Schema, problems: list[str]
) -> cedarpy.Entities | None:
    def uid(kind: str, name: str) -> dict[str, str]:
        return {"type": kind, "id": name}

    entities: list[dict[str, Any]] = []
    teams: set[str] = set()
    for member in roster:
        team = member.principal.partition(".")[0]
        teams.add(team)
        entities.append(
            {
                "uid": uid("Agent", member.principal),
                "attrs": {"role": member.role},
                "parents": [uid("Team", team)],
            }
        )
        entities += (
            {"uid": uid("Capability", c), "attrs": {}, "parents": [uid("Team", team)]}
            for c in member.capabilities
        )
    entities += ({"uid": uid("Team", t), "attrs": {}, "parents": []} for t in sorted(teams))
    try:
        return cedarpy.Entities.from_json_str(msgspec.json.encode(entities).decode(), schema)
    except ValueError as error:
        problems.append(f"{ROSTER}: {_one_line(error)}")
        return None


def _digest(paths: Iterable[Path]) -> str:
    named = {path.name: path.read_bytes() for path in paths}
    named["tidegate.cedarschema"] = SCHEMA.encode()
    lines = (f"{hashlib.sha256(named[n]).hexdigest()}  {n}\n" for n in sorted(named))
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
