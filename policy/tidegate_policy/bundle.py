"""A policy bundle: loaded as a whole, or refused with every reason.

A bundle is a folder with `*.cedar` files. Its digest is SHA-256 over the lines
`<sha256 of the file>  <name>`, sorted by name, of all its files and of the schema: the form that
`sha256sum` prints. Every file is read once, so what is loaded is what the digest stands for.
Who the policies speak of stands in the ledger: see `roster`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import cedarpy
import msgspec

from tidegate_schemas.errors import InvalidPolicy
from tidegate_schemas.subjects import Kind

from .roster import BUILT_IN, Roster

SCHEMA = files("tidegate_policy").joinpath("tidegate.cedarschema").read_text("utf-8")

_ANNOTATIONS = {"id"}
_MAX_ID = 128
_MAX_IDS = 128 * 1024
"""Of all ids together, in bytes: a record names every policy that decided, and must be stored."""
_RESOURCES = {
    Kind.TASK: "Capability",
    Kind.EVENT: "Topic",
    Kind.RESULT: "Agent",
    Kind.CONTROL: "Command",
}
_MAX_REMEMBERED = 50_000
_MAX_REMEMBERED_TEXT = 512
"""Longest `type` and classification of a question that is remembered: a sender chooses them."""

# The engine dies of its own recursion, without an error, between 500 and 1,500 of these.
_MAX_DEPTH = 100
_MAX_OPERATORS = 1000
_WORD = re.compile(r'"(?:\\.|[^"\\])*"|//[^\n]*|[()\[\]{};]|&&|\|\||[-+*!.]|\bif\b')
_POSITIONAL = re.compile(r"`(policy\d+)`")


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
    """Policies of one digest, and whom they speak of. Never changes; see `load_bundle`.

    Attributes:
        digest: of the policies and the schema; `sha256:` and hex.
        roster: who takes part.
    """

    digest: str
    roster: Roster
    _policies: cedarpy.PolicySet
    _entities: cedarpy.Entities
    _schema: cedarpy.Schema
    _ids: dict[str, str]
    _answers: dict[Question, Answer] = field(default_factory=dict[Question, Answer])

    def of(self, roster: Roster) -> Bundle:
        """The same policies, speaking of others."""
        entities = _entities(roster, self._schema)
        return replace(self, roster=roster, _entities=entities, _answers={})

    def ask(self, question: Question) -> Answer:
        """Authorize. Any error of the engine is a no.

        An answer depends on the question, the policies and the roster alone, so it is remembered.
        """
        answer = self._answers.get(question)
        if answer is None:
            answer = self._evaluate(question)
            if len(question.type) + len(question.dataclassification or "") <= _MAX_REMEMBERED_TEXT:
                if len(self._answers) >= _MAX_REMEMBERED:
                    self._answers.clear()
                self._answers[question] = answer
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
        try:
            result = cedarpy.is_authorized(request, self._policies, self._entities, self._schema)
        except Exception as error:  # of foreign code, and whatever it is: nothing was permitted
            return Answer(False, (), _one_line(error) or repr(error))
        errors = sorted(_by_id(str(error), self._ids) for error in result.diagnostics.errors)
        policies = tuple(sorted(self._ids[reason] for reason in result.diagnostics.reasons))
        return Answer(result.allowed and not errors, policies, _one_line("; ".join(errors)))


def write_bundle(folder: Path, policies: Iterable[Path]) -> None:
    """Put a bundle together: copies of Cedar files.

    Raises:
        InvalidPolicy: a file would be left out of the bundle, because of its name.
    """
    contents: dict[str, bytes] = {}
    for path in policies:
        if path.suffix != ".cedar":
            raise InvalidPolicy([f"{path}: not a *.cedar file; it would be ignored"])
        if path.name in contents:
            raise InvalidPolicy([f"{path}: another file of that name is in the bundle already"])
        contents[path.name] = path.read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    for stale in folder.iterdir():
        stale.unlink()
    for name, content in contents.items():
        (folder / name).write_bytes(content)


def load_bundle(folder: Path) -> Bundle:
    """Load a bundle.

    Raises:
        InvalidPolicy: a file is missing or unreadable, does not parse, does not fit the schema, a
            policy has no `@id`, shares one, is a template, or bears an annotation that nothing
            acts on. Every fault is named with its file.
    """
    problems: list[str] = []
    paths = sorted(folder.glob("*.cedar"))
    if not paths:
        problems.append(f"{folder}: no *.cedar file; without policies nothing may move")
    contents = _contents(paths, problems)
    schema = cedarpy.Schema.from_str(SCHEMA)
    named: dict[str, str] = {}
    for path, content in contents.items():
        problems += _faults(path, content, named)
    size = sum(len(name.encode()) for name in named)
    if size > _MAX_IDS:
        problems.append(f"{folder}: the ids of its policies are {size} bytes, at most {_MAX_IDS}")
    if problems:
        raise InvalidPolicy(problems)
    policies = cedarpy.PolicySet.from_str("\n".join(c.decode() for c in contents.values()))
    ids = {
        positional: dict(policy.annotations)["id"]
        for positional, policy in policies.to_pst().static_policies.items()
    }
    return Bundle(
        digest=_digest({path.name: content for path, content in contents.items()}),
        roster=BUILT_IN,
        _policies=policies,
        _entities=_entities(BUILT_IN, schema),
        _schema=schema,
        _ids=ids,
    )


def _contents(paths: Iterable[Path], problems: list[str]) -> dict[Path, bytes]:
    found: dict[Path, bytes] = {}
    for path in paths:
        if not path.name.isprintable() or "\\" in path.name:  # sha256sum writes those differently
            problems.append(f"{str(path)!r}: a name without control characters and backslashes")
            continue
        try:
            found[path] = path.read_bytes()
        except OSError as error:
            problems.append(f"{path}: {error.strerror}")
    return found


def _faults(path: Path, content: bytes, named: dict[str, str]) -> Iterator[str]:
    """What is wrong with one file; `named` holds the ids of the files before."""
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        yield f"{path}: not UTF-8 at byte {error.start}"
        return
    if too_much := _too_much(text):
        yield f"{path}: {too_much}"
        return
    try:
        tree = cedarpy.PolicySet.from_str(text).to_pst()
    except ValueError as error:
        yield f"{path}: {_one_line(error)}"
        return
    for positional in tree.templates:
        yield f"{path}: {positional} is a template, and nothing fills its slots"
    for positional, policy in tree.static_policies.items():
        annotations = dict(policy.annotations)
        name = annotations.get("id")
        if not name:
            yield f'{path}: {positional} has no @id; give it one: @id("what-it-is-for")'
        elif len(name) > _MAX_ID or not name.isprintable():
            yield f"{path}: @id({name[:40]!r}) is not 1 to {_MAX_ID} printable characters"
        elif name in named:
            yield f"{path}: @id({name!r}) is already in {named[name]}"
        else:
            named[name] = path.name
        for key in sorted(annotations.keys() - _ANNOTATIONS):
            yield f"{path}: @{key} of {name or positional} is unknown and would be ignored"
    ids = {n: dict(p.annotations).get("id") or n for n, p in tree.static_policies.items()}
    for fault in cedarpy.validate_policies(text, SCHEMA).errors:
        yield f"{path}: {_one_line(_by_id(fault.error, ids))}"


def _too_much(text: str) -> str | None:
    """Whether a policy is nested or chained so that reading it would end this process."""
    depth = operators = 0
    for word in _WORD.findall(text):
        if word == ";":
            depth = operators = 0
        elif word in ")]}":
            depth -= 1
        elif word[0] != '"' and word[:2] != "//":
            operators += 1
            depth += word in "([{"
        if depth > _MAX_DEPTH:
            return f"a policy is nested more than {_MAX_DEPTH} deep"
        if operators > _MAX_OPERATORS:
            return f"a policy has more than {_MAX_OPERATORS} operators; a set may say it shorter"
    return None


def _entities(roster: Roster, schema: cedarpy.Schema) -> cedarpy.Entities:
    def uid(kind: str, name: str) -> dict[str, str]:
        return {"type": kind, "id": name}

    entities: list[dict[str, Any]] = []
    teams: set[str] = set()
    for member in roster.members.values():
        team = member.principal.partition(".")[0]
        teams.add(team)
        entities.append(
            {
                "uid": uid("Agent", member.principal),
                "attrs": {"role": member.role.value},
                "parents": [uid("Team", team)],
            }
        )
        entities += (
            {"uid": uid("Capability", c), "attrs": {}, "parents": [uid("Team", team)]}
            for c in member.capabilities
        )
    entities += ({"uid": uid("Team", t), "attrs": {}, "parents": []} for t in sorted(teams))
    return cedarpy.Entities.from_json_str(msgspec.json.encode(entities).decode(), schema)


def _digest(policies: Mapping[str, bytes]) -> str:
    named = {**policies, "tidegate.cedarschema": SCHEMA.encode()}
    lines = (f"{hashlib.sha256(named[n]).hexdigest()}  {n}\n" for n in sorted(named))
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _by_id(message: str, ids: Mapping[str, str]) -> str:
    """A message of the engine, which knows policies by their place, with their ids instead."""
    return _POSITIONAL.sub(lambda found: f"`{ids.get(found[1], found[1])}`", message)


def _one_line(error: object) -> str:
    return " ".join(str(error).split())[:300]
