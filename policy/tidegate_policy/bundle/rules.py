"""Policies with their ids and obligations, and what is wrong with them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, Literal, cast

import cedarpy
from cedarpy import pst

from tidegate_policy.obligations import ANNOTATIONS, NONE, Obligations, parse

from .facts import KINDS, Facts, tokens
from .faults import Fault, meant, one_line
from .source import Statement, statements, too_much

MAX_ID = 128
MAX_IDS = 128 * 1024
"""Of all ids together, in bytes: a record names every policy that decided, and must be stored."""
_MAX_FAULTS = 20
"""Of syntax, in one file, that are told."""

_POSITIONAL = re.compile(r"`(policy(\d+))`")
_FOR_ACTION = re.compile(r' for Action::"[^"]*"')
_PREFIX = re.compile(r"^for policy `[^`]*`, ")


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy.

    Attributes:
        id: its `@id`.
        effect: whether it permits or forbids.
        annotations: as they are written, `id` among them.
        obligations: what it demands, if it is a permit.
        file, line: where its first word stands.
        policy: its syntax tree.
    """

    id: str
    effect: Literal["permit", "forbid"]
    annotations: Mapping[str, str]
    obligations: Obligations
    file: str
    line: int
    policy: pst.Template

    @property
    def shadow(self) -> bool:
        """Decided and recorded, not enforced."""
        return self.obligations.shadow

    @property
    def learn(self) -> bool:
        """What nothing else permits is allowed by it, and marked as learned."""
        return self.obligations.learn

    @property
    def redacts(self) -> Obligations:
        """What it redacts, and nothing else of it."""
        return replace(NONE, redactions=self.obligations.redactions)

    def covers(self, action: str) -> bool:
        """Whether its scope admits an action, e.g. `task:other`."""
        match self.policy.action:
            case pst.ActionEq(entity):
                return entity.id == action
            case pst.ActionIn(entities):
                names = (action, action.partition(":")[0])
                return any(entity.id in names for entity in entities)
            case _:
                return True


def read_rules(
    file: str, text: str, facts: Facts, schema: cedarpy.Schema
) -> tuple[list[Rule], list[Fault]]:
    """The policies of one file, and its faults."""
    if fault := too_much(file, text):
        return [], [fault]
    written = statements(text)
    try:
        tree = cedarpy.PolicySet.from_str(text).to_pst()
    except ValueError as error:
        return [], list(_syntax(file, written, error))
    policies = {int(name.removeprefix("policy")): p for name, p in tree.static_policies.items()}
    templates = [int(name.removeprefix("policy")) for name in tree.templates]
    if sorted([*policies, *templates]) != list(range(len(written))):
        return [], [Fault(file, 0, "cannot tell which policy stands where", "one policy a line")]
    faults = [
        Fault(file, written[number].line, "a template, and nothing fills its slots", "name whom")
        for number in templates
    ]
    rules: list[Rule] = []
    for number in sorted(policies):
        rule, found = _rule(file, written[number], policies[number], facts)
        faults += found
        if rule:
            rules.append(rule)
    told: set[str] = set()
    for invalid in cedarpy.validate_policies(text, schema).errors:
        once = _FOR_ACTION.sub("", invalid.error)  # the same for each action is one fault
        if once not in told:
            told.add(once)
            faults.append(_invalid(file, written, policies, invalid.error, facts))
    return rules, faults


def _syntax(file: str, written: list[Statement], error: ValueError) -> Iterator[Fault]:
    """Which policies do not parse. One whose neighbours are wrong may be right by itself.

    Each is read by itself, and many wrong ones would keep a gateway for long: the first will do.
    """
    found = 0
    for statement in written:
        if found == _MAX_FAULTS:
            break
        try:
            cedarpy.PolicySet.from_str(statement.text).to_pst()
        except ValueError as own:
            found += 1
            message = one_line(own)
            hint = "a policy ends with `;`" if "end of input" in message else ""
            if "invalid token" in message and not statement.text.isascii():
                hint = "perhaps a quote or a dash of a word processor, or a byte order mark"
            yield Fault(file, statement.line, message, hint)
    if not found:
        yield Fault(file, 0, one_line(error))


def _rule(
    file: str, statement: Statement, policy: pst.Template, facts: Facts
) -> tuple[Rule | None, list[Fault]]:
    annotations = dict(policy.annotations)
    faults: list[Fault] = []

    def fault(key: str, what: str, hint: str = "") -> None:
        faults.append(Fault(file, statement.line_of_annotation(key), what, hint))

    name = annotations.get("id", "")
    if not name:
        fault("id", "a policy without @id", 'give it one: @id("what-it-is-for")')
    elif len(name) > MAX_ID or not name.isprintable():
        fault("id", f"@id({name[:40]!r}) is not 1 to {MAX_ID} printable characters")
    for key in sorted(annotations.keys() - set(ANNOTATIONS)):
        hint = meant(key, ANNOTATIONS) or f"there are @{', @'.join(ANNOTATIONS)}"
        fault(key, f"@{key} is unknown and would be ignored", hint.replace("mean ", "mean @"))
    obligations = NONE
    for key in ANNOTATIONS[1:]:
        if key in annotations:  # one by one: each fault has its own line
            try:
                parse(policy.effect, {"id": name, key: annotations[key]})
            except ValueError as error:
                what, _, hint = str(error).partition("; ")
                fault(key, what, hint)
    for what, action in _misread(policy):
        faults.append(
            Fault(
                file,
                statement.line_of(f'Action::"{action}"'),
                what,
                f'write `action in Action::"{action.partition(":")[0]}"`',
            )
        )
    if not faults:
        obligations = parse(policy.effect, annotations)
        rule = Rule(
            name,
            policy.effect,
            annotations,
            obligations,
            file,
            statement.line,
            replace(policy, id=name),
        )
        for pointer, kind, to in _redacted_facts(rule, facts):
            fault(
                "redact",
                f"@redact: {pointer} is a fact of {kind} {to}, which the ledger must keep",
                "take it from facts.yaml, or let the policy be for other messages",
            )
        return rule, faults
    return None, faults


def _misread(policy: pst.Template) -> Iterator[tuple[str, str]]:
    """Actions that mean something else than they seem to: what is wrong, and the action's id."""
    for uid in sorted(pst.entity_uids(policy), key=str):
        if str(uid.type) == "Action" and uid.id.endswith(":other"):
            what = (
                f"{uid} is every {uid.id.partition(':')[0]} without facts, until it is given some"
            )
            yield what, uid.id
    groups = {pst.EntityLit(pst.EntityUid(pst.EntityType("Action"), kind)) for kind in KINDS}
    todo: list[Any] = [clause.expr for clause in policy.clauses]
    while todo:
        match todo.pop():
            case pst.BinaryOp("in", left, pst.Set(elements)):
                todo += [left, *(one for one in elements if one not in groups)]
            case pst.BinaryOp("in", left, right):
                todo += [left] if right in groups else [left, right]
            case pst.EntityLit(uid) as found if found in groups:
                yield f"no message is {uid} itself: it stands for several actions", uid.id
            case node:
                todo += inside(node)


def inside(node: Any) -> Iterable[Any]:
    """The parts of a node of a syntax tree."""
    if isinstance(node, Mapping):
        return cast("Mapping[str, Any]", node).values()
    if isinstance(node, tuple):
        return cast("Iterable[Any]", node)
    return (getattr(node, part.name) for part in fields(node)) if is_dataclass(node) else ()


def _redacted_facts(rule: Rule, facts: Facts) -> Iterator[tuple[str, str, str]]:
    for pointer in rule.obligations.pointers:
        gone = tokens(pointer)
        for (kind, to), declared in facts.declared.items():
            if rule.covers(facts.action(kind, to)):
                for fact in declared.values():
                    at = tokens(fact.at)
                    if at[: len(gone)] == gone or gone[: len(at)] == at:
                        yield pointer, kind, to


def _invalid(
    file: str,
    written: list[Statement],
    policies: Mapping[int, pst.Template],
    message: str,
    facts: Facts,
) -> Fault:
    """A fault that the engine has found against the schema."""
    place = _POSITIONAL.search(message)
    if not place:
        return Fault(file, 0, one_line(message))
    number = int(place[2])
    statement, policy = written[number], policies[number]
    what = _PREFIX.sub("", one_line(message))
    quoted = next((q for q in re.findall(r"`([^`]+)`", what) if q in statement.text), "")
    line = statement.line_of(quoted) if quoted else statement.line
    name = dict(policy.annotations).get("id")
    return Fault(file, line, f"{f'{name}: ' if name else ''}{what}", _hint(what, policy, facts))


def _hint(what: str, policy: pst.Template, facts: Facts) -> str:
    if "attribute `data`" in what:
        return (
            "only messages with facts in facts.yaml have `data`: "
            'write e.g. `action == Action::"task:payments.pay"`'
        )
    if "attribute `team`" in what:
        return 'write e.g. `principal in Team::"ops"`'
    if "failed to parse as a decimal" in what:
        return 'a decimal has a point and one to four digits after it: `decimal("1000.0")`'
    if "unrecognized action" in what:
        wrong = re.search(r'Action::"([^"]*)"', what)
        known = [*KINDS, *(facts.action(*key) for key in facts.declared)]
        return (meant(wrong[1], known) if wrong else "") or (
            f"there are {', '.join(KINDS)}, and what facts.yaml declares"
        )
    if "applicable action" in what:
        match policy.action:
            case pst.ActionEq(entity) if entity.id in set(KINDS):
                return f'write `action in Action::"{entity.id}"`: it stands for several actions'
            case _:
                return (
                    "a task goes to a Capability, an event to a Topic, a result to an Agent, "
                    "a control to a Command"
                )
    return "`tidegate policy show --schema` prints what policies can speak of"
