"""What the tests of this folder share: bundles and submissions made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import msgspec
from hypothesis import HealthCheck, settings

from tidegate_bus.ingress import Submission
from tidegate_policy.bundle import ROSTER, Bundle, Member, load_bundle
from tidegate_schemas.clock import parse_rfc3339

EXAMPLES = settings(
    database=None,
    deadline=None,  # a busy machine is no bug
    derandomize=True,  # a test that fails here fails everywhere
    max_examples=120,
    suppress_health_check=[HealthCheck.too_slow],
)
NOW = parse_rfc3339("2026-01-31T12:00:00Z")
SENDER = "team.sender"
PROVIDER = "team.provider"
MEMBERS = (
    Member(SENDER, "publisher"),
    Member(PROVIDER, "agent", ("work.do",)),
)
PERMIT = '@id("everything") permit (principal, action, resource);'


def write(
    folder: Path, files: Mapping[str, str | bytes], roster: Iterable[Member] | bytes = MEMBERS
) -> Path:
    """A folder with these policy files and this roster, right or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    if not isinstance(roster, bytes):
        roster = msgspec.json.encode(list(roster))
    (folder / ROSTER).write_bytes(roster)
    return folder


def loaded(folder: Path, *texts: str, roster: Iterable[Member] = MEMBERS) -> Bundle:
    """A bundle with each text in a file of its own."""
    return load_bundle(write(folder, {f"{n}.cedar": text for n, text in enumerate(texts)}, roster))


def submission(payload: bytes, *, by: str = SENDER, seq: int = 1, time: int = NOW) -> Submission:
    """What the broker has stored."""
    return Submission(seq, time, by, payload)
