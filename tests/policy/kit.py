"""What the tests of this folder share: bundles and submissions made by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from hypothesis import HealthCheck, settings

from tidegate_bus.ingress import Submission
from tidegate_policy.bundle import Snapshot, load_bundle
from tidegate_policy.roster import Roster
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.identity import Registration, Role

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
    Registration(SENDER, Role.PUBLISHER),
    Registration(PROVIDER, Role.AGENT, ("work.do",)),
)
PERMIT = '@id("everything") permit (principal, action, resource);'


def write(folder: Path, files: Mapping[str, str | bytes]) -> Path:
    """A folder with these policy files, right or wrong."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        data = content.encode() if isinstance(content, str) else content
        (folder / name).write_bytes(data)
    return folder


def loaded(folder: Path, *texts: str, roster: Iterable[Registration] = MEMBERS) -> Snapshot:
    """A bundle with each text in a file of its own, speaking of these."""
    bundle = load_bundle(write(folder, {f"{n}.cedar": text for n, text in enumerate(texts)}))
    return bundle.snapshot(Roster.of(roster))


def submission(payload: bytes, *, by: str = SENDER, seq: int = 1, time: int = NOW) -> Submission:
    """What the broker has stored."""
    return Submission(seq, time, by, payload)
