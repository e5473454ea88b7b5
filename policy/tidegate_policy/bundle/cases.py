"""`tests/*.yaml` of a bundle: messages, and what is to become of them.

    - name: the website may say that a greeting is wanted
      by: outside.website
      event: greeting.requested      # or `task`, `result`, `control`
      data: { name: Ada }
      expect: allow                  # or `deny`, `hold`
      policies: [website-requests-greetings]

Who takes part is said by the project, or by the file: `roster:` beside `cases:`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import Field, model_validator

from tidegate_policy.roster import BUILT_IN, Roster
from tidegate_schemas.documents import Destination, Document, PrincipalName, fitted, misfit
from tidegate_schemas.documents.location import Location, line_of
from tidegate_schemas.documents.yaml import read_yaml
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidDocument, InvalidEnvelope
from tidegate_schemas.identity import Registration, Role
from tidegate_schemas.record import Reason
from tidegate_schemas.subjects import Kind, Verdict
from tidegate_schemas.vocabulary import COORDINATOR

from .facts import KINDS
from .snapshot import Answer, Question, Snapshot


class Case(Document):
    """A message, and what is to become of it."""

    name: Annotated[str, Field(min_length=1, max_length=200)]
    by: PrincipalName
    task: Destination | None = None
    event: Destination | None = None
    result: Destination | None = None
    control: Destination | None = None
    type: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """Of the envelope; the destination by default."""
    data: Any = None
    dataclassification: Annotated[str, Field(min_length=1)] | None = None
    run: bool = False
    """It belongs to a run."""
    blueprint: str = ""
    """Of its run; only the coordinator is believed."""
    onbehalfof: tuple[PrincipalName, ...] = Field(default=(), strict=False)
    expect: Literal["allow", "deny", "hold"]
    reason: str | None = None
    """Why, e.g. `forbidden`, `not_permitted` or `invalid_facts`; any by default."""
    policies: tuple[str, ...] | None = Field(default=None, strict=False)
    """Exactly these decided, in any order; any by default."""
    obligations: tuple[str, ...] | None = Field(default=None, strict=False)
    """Exactly these are in the record, as `redact:/ssn#id`; any by default."""

    @model_validator(mode="after")
    def _one_message(self) -> Case:
        faults: list[tuple[Location, str]] = []
        if sum(getattr(self, kind) is not None for kind in KINDS) != 1:
            faults.append(((), "one of `task`, `event`, `result`, `control` says where it goes"))
        if self.blueprint and self.by != str(COORDINATOR):
            faults.append((("blueprint",), f"only of messages by {COORDINATOR}"))
        if faults:
            raise misfit(Case, faults)
        return self

    @property
    def goes(self) -> tuple[Kind, str]:
        """Kind and destination."""
        return next((kind, to) for kind in KINDS if (to := getattr(self, kind)) is not None)


class Member(Document):
    """Somebody who takes part in the cases of a file."""

    name: PrincipalName
    role: Literal["agent", "publisher", "operator"] = "agent"
    takes: tuple[Destination, ...] = Field(default=(), strict=False)


class CaseFile(Document):
    """A file of cases; a list of cases stands for one without a roster."""

    roster: tuple[Member, ...] | None = Field(default=None, strict=False)
    cases: tuple[Case, ...] = Field(strict=False)


@dataclass(frozen=True, slots=True)
class Placed:
    """A case, where it stands, and who takes part if its file says so."""

    case: Case
    file: str
    line: int
    roster: Roster | None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What becomes of a message, and on which grounds.

    `reached` are the rules that decided, also those that are only watched.
    """

    verdict: Verdict
    reason: str
    policies: tuple[str, ...] = ()
    obligations: tuple[str, ...] = ()
    detail: str = ""
    reached: frozenset[str] = frozenset()


def read_cases(files: Mapping[str, str]) -> tuple[list[Placed], list[InvalidDocument]]:
    """The cases of a bundle, and which files do not hold what they must."""
    found: list[Placed] = []
    faults: list[InvalidDocument] = []
    for name in sorted(files):
        if name.startswith("tests/"):
            try:
                found += _read(name, files[name])
            except InvalidDocument as error:
                faults.append(error)
    return found, faults


def _read(name: str, text: str) -> Iterator[Placed]:
    path = Path(name)
    data, lines = read_yaml(text.removeprefix("\ufeff"), path)
    bare = isinstance(data, list)
    if bare:
        data = {"cases": cast("list[object]", data)}
        lines = {(): 1, **{("cases", *at): line for at, line in lines.items()}}
    try:
        file = fitted(data, lines, CaseFile, path)
    except InvalidDocument as error:
        if bare:
            told = [replace(p, field=p.field.removeprefix("cases")) for p in error.problems]
            raise InvalidDocument(path, told) from None
        raise
    roster = None
    if file.roster is not None:
        members = [Registration(m.name, Role(m.role), m.takes) for m in file.roster]
        roster = Roster.of([*BUILT_IN.members.values(), *members])
    for index, case in enumerate(file.cases):
        yield Placed(case, name, line_of(lines, ("cases", index)), roster)


def judge(snapshot: Snapshot, case: Case) -> Outcome:
    """What becomes of the message of a case. Limits are not counted: each message is the first."""
    kind, to = case.goes
    for name in (case.by, *case.onbehalfof):
        if name not in snapshot.roster.members:
            return _denied("unknown_sender", f"{name} is not in the roster")
    if kind is Kind.TASK and to not in snapshot.roster.providers:
        return _denied("unknown_destination", f"no agent provides {to}")
    if kind is Kind.RESULT and to not in snapshot.roster.members:
        return _denied("unknown_destination", f"{to} is not in the roster")
    try:
        envelope = Envelope.new(
            case.type or to,
            case.data,
            id="case",
            kind=str(kind),
            to=to,
            runid="run" if case.run or case.blueprint else None,
            dataclassification=case.dataclassification,
            onbehalfof=",".join(case.onbehalfof) or None,
        )
        data = snapshot.bundle.facts.of(kind, to, envelope)
    except InvalidEnvelope as error:
        return _denied(error.code, error.detail)
    question = Question(
        case.by,
        kind,
        to,
        envelope.type,
        envelope.runid is not None,
        False,
        case.blueprint,
        case.dataclassification,
        data,
    )
    return _outcome(snapshot.ask_for(question, case.onbehalfof))


def unmet(case: Case, outcome: Outcome) -> list[str]:
    """What a case expects and is not so; empty if all is."""
    found: list[str] = []
    if case.expect != outcome.verdict:
        found.append(f"expected {case.expect}, is {outcome.verdict}")
    if case.reason is not None and case.reason != outcome.reason:
        found.append(f"expected the reason {case.reason}, is {outcome.reason}")
    for what, expected, is_ in (
        ("decided by", case.policies, outcome.policies),
        ("obligations", case.obligations, outcome.obligations),
    ):
        if expected is not None and sorted(expected) != sorted(is_):
            found.append(f"expected {what} {_listed(expected)}, is {_listed(is_)}")
    return found


def _listed(texts: tuple[str, ...]) -> str:
    return ", ".join(sorted(texts)) or "nothing"


def _outcome(answer: Answer) -> Outcome:
    verdict, reason = Verdict.ALLOW, Reason.LEARNED if answer.learned else Reason.PERMITTED
    if answer.error:
        verdict, reason = Verdict.DENY, Reason.POLICY_ERROR
    elif not answer.allowed:
        verdict = Verdict.DENY
        reason = Reason.FORBIDDEN if answer.policies else Reason.NOT_PERMITTED
    elif answer.obligations.approvals:
        verdict, reason = Verdict.HOLD, Reason.APPROVAL_REQUIRED
    watched = answer.shadow[1] if answer.shadow else ()
    return Outcome(
        verdict,
        reason,
        answer.policies,
        answer.obligations.texts(),
        answer.error,
        frozenset(answer.policies).union(watched),
    )


def _denied(reason: str, detail: str) -> Outcome:
    return Outcome(Verdict.DENY, reason, detail=detail)
