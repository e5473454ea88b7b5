"""The files of one bundle, read and checked, and the digest that stands for them.

The digest is SHA-256 over the lines `<sha256 of the file>  <name>`, sorted by name, of all files
and of the schema that follows from them: the form that `sha256sum` prints.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

import cedarpy
import structlog
from prometheus_client import Counter

from tidegate_policy.engine import Difference, Engine
from tidegate_policy.roster import Roster
from tidegate_schemas.errors import InvalidDocument, InvalidPolicy

from . import facts as facts_file
from . import groups as groups_file
from . import schema as schema_file
from .facts import Facts
from .faults import Fault, one_line
from .groups import Groups, read_groups
from .rules import MAX_IDS, Rule, read_rules
from .snapshot import Snapshot

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.policy")
DIFFERENCES = Counter(
    "tidegate_policy_differences", "Remembered decisions that were wrong: an alarm, never expected"
)

_TESTS = re.compile(r"tests/[^/]+\.yaml")


@dataclass(frozen=True)
class Bundle:
    """Policies of one digest. Never changes; made by `of_files`.

    Attributes:
        digest: of all files; `sha256:` and hex.
        files: name and text of each, the schema among them.
        rules: all policies, by id.
        facts: what policy may see of data.
        groups: who is in which group.
    """

    digest: str
    files: Mapping[str, str]
    rules: Mapping[str, Rule]
    facts: Facts
    groups: Groups

    @classmethod
    def of_files(cls, files: Mapping[str, str]) -> Bundle:
        """A bundle from the texts of its files, by name; the schema may be left out.

        Raises:
            InvalidPolicy: it cannot be enforced; every fault is told with file and line.
        """
        bundle, faults = examine(files)
        if bundle is None:
            raise InvalidPolicy([fault.told() for fault in faults])
        return bundle

    def snapshot(self, roster: Roster) -> Snapshot:
        """The policies, speaking of these."""
        return Snapshot(self, roster)

    @cached_property
    def enforced(self) -> Engine:
        """All policies without `@shadow`, about nobody yet."""
        return self._engine(rule for rule in self.rules.values() if not rule.shadow)

    @cached_property
    def shadowed(self) -> Engine | None:
        """All of them; None where none bears `@shadow`."""
        if not any(rule.shadow for rule in self.rules.values()):
            return None
        return self._engine(self.rules.values())

    @cached_property
    def redacting(self) -> Engine | None:
        """Those in force that redact; None where there are none."""
        return self._engine(self.redactions) if self.redactions else None

    @cached_property
    def redactions(self) -> tuple[Rule, ...]:
        """The rules in force that redact, by id."""
        rules = (rule for _, rule in sorted(self.rules.items()))
        return tuple(rule for rule in rules if rule.obligations.redactions and not rule.shadow)

    def _engine(self, rules: Iterable[Rule]) -> Engine:
        return Engine.build(
            {rule.id: rule.policy for rule in rules},
            self.files[schema_file.NAME],
            schema_file.contexts(self.facts),
            {},
            on_difference=_differs,
        )


def _differs(found: Difference) -> None:
    """A remembered decision was wrong. From here on that engine asks Cedar each time."""
    DIFFERENCES.inc()
    _log.critical(
        "a remembered decision was wrong; nothing is remembered any more",
        principal=found.principal,
        action=found.action,
        resource=found.resource,
        remembered=found.remembered,
        computed=found.computed,
    )


def examine(files: Mapping[str, str]) -> tuple[Bundle | None, list[Fault]]:
    """Read a bundle; None where there are faults, of which all are told."""
    faults = [fault for name in sorted(files) if (fault := _misnamed(name))]
    faults += [
        Fault(name, 0, "holds half of a surrogate pair, which has no bytes")
        for name, text in sorted(files.items())
        if not _encodable(text)
    ]
    if not any(name.endswith(".cedar") for name in files):
        faults.append(Fault("", 0, "no *.cedar file; without policies nothing may move"))
    facts = _facts(files, faults)
    text = schema_file.schema_text(facts)
    if files.get(schema_file.NAME, text) != text:
        faults.append(
            Fault(
                schema_file.NAME,
                0,
                "is not the schema that follows from facts.yaml",
                "leave it out; it is made by itself",
            )
        )
    schema = cedarpy.Schema.from_str(text)
    groups, found = read_groups(files[groups_file.NAME]) if groups_file.NAME in files else _EMPTY
    faults += found or groups.faults(schema)
    rules: dict[str, Rule] = {}
    for name in sorted(files):
        if name.endswith(".cedar") and _encodable(files[name]):
            rules_of_file, found = read_rules(name, files[name], facts, schema)
            faults += found
            for rule in rules_of_file:
                first = rules.setdefault(rule.id, rule)
                if first is not rule:
                    what = f"@id({rule.id!r}) is already in {first.file}:{first.line}"
                    faults.append(Fault(name, rule.line, what, "each policy has its own"))
    size = sum(len(name.encode()) for name in rules)
    if size > MAX_IDS:
        faults.append(Fault("", 0, f"the ids of its policies are {size} bytes, at most {MAX_IDS}"))
    if faults:
        return None, sorted(set(faults))
    complete = {**files, schema_file.NAME: text}
    return Bundle(digest(complete), complete, rules, facts, groups), []


_EMPTY: tuple[Groups, list[Fault]] = (Groups(), [])


def digest(files: Mapping[str, str]) -> str:
    """The digest of files, by name; `sha256:` and hex."""
    lines = (f"{hashlib.sha256(files[n].encode()).hexdigest()}  {n}\n" for n in sorted(files))
    return f"sha256:{hashlib.sha256(''.join(lines).encode()).hexdigest()}"


def _misnamed(name: str) -> Fault | None:
    if not name.isprintable() or "\\" in name:  # sha256sum writes those differently
        return Fault(name, 0, "a name with control characters or backslashes", "rename it")
    own = (facts_file.NAME, groups_file.NAME, schema_file.NAME)
    if name in own or _TESTS.fullmatch(name) or (name.endswith(".cedar") and "/" not in name):
        return None
    return Fault(name, 0, "would be ignored", f"a bundle has *.cedar, {own[0]}, {own[1]}, tests/")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _facts(files: Mapping[str, str], faults: list[Fault]) -> Facts:
    if facts_file.NAME not in files:
        return Facts()
    try:
        return Facts.of_text(files[facts_file.NAME])
    except InvalidDocument as error:
        faults += (
            Fault(facts_file.NAME, p.line, one_line(f"{p.field}: {p.message}".lstrip(": ")))
            for p in error.problems
        )
        return Facts()
