"""How far the evidence of a running stack is, and who vouches for it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

from tidegate_bus.connection import Connection
from tidegate_bus.heads import newest_head
from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note
from tidegate_evidence.trust import Trust
from tidegate_policy.signing.alarms import Alarms
from tidegate_policy.signing.checkpoints import Checkpoints
from tidegate_schemas.errors import TidegateError, VerificationError

from .evidence_keys import trusted_writers, witnesses
from .project import Project

_SECOND = 1_000_000_000
_PATIENCE_SECONDS = 30.0
"""A record that is older than this should be covered."""


class Line(NamedTuple):
    """One thing that was looked at."""

    check: str
    ok: bool
    detail: str


async def evidence_lines(
    project: Project, connection: Connection, last: int, stored: int
) -> list[Line]:
    """What there is to say of writer, notary and witnesses.

    Args:
        project: whose evidence it is.
        connection: of the notary, who may read heads.
        last: how many records the ledger has.
        stored: when the last one came, ns since 1970.

    Raises:
        Unavailable: the broker does not answer.
    """
    old = time.time_ns() - stored > _PATIENCE_SECONDS * _SECOND
    data = await newest_head(connection)
    return [_writer(project, data, last, old), *_notary(project, last, old)]


def _writer(project: Project, data: bytes | None, last: int, old: bool) -> Line:
    if data is None:
        return Line("evidence writer", not old, "nothing is signed yet")
    try:
        note = Note.parse(data)
        if all(key.check(note) is None for key in trusted_writers(project.state)):
            raise VerificationError("the newest head is not signed by a key of the writer")
        size = Checkpoint.parse(note.text).size
    except TidegateError as error:
        return Line("evidence writer", False, str(error))
    fine = size <= last and not (old and size < last)
    return Line("evidence writer", fine, _covered("signed", size, last))


def _notary(project: Project, last: int, old: bool) -> Iterator[Line]:
    folder, name = project.state.notary, "evidence notary"
    alarms = Alarms(folder / "alarms").count()
    lines = [f"{alarms} alarms in {folder / 'alarms'}; remove those that are explained"]
    lines = lines if alarms else []
    try:
        found = Checkpoints(folder, 0.0).read()
        if found is None:
            yield Line(name, not (old or alarms), "\n".join(["nothing is published yet", *lines]))
            return
        note, checkpoint = found
        trust = Trust.parse(project.state.trust.read_bytes())
        signed = {witness.key.name: witness.key.check(note) for witness in trust.witnesses}
    except (TidegateError, OSError) as error:
        yield Line(name, False, "\n".join([str(error), *lines]))
        return
    try:
        trust.check(note)
    except VerificationError as error:
        lines.append(str(error))
    behind = checkpoint.size > last or (old and checkpoint.size < last)
    detail = _covered("cosigned", checkpoint.size, last)
    yield Line(name, not (behind or lines), "\n".join([detail, *lines]))
    for key, url in witnesses(project):
        when = signed.get(key.name)
        yield Line(
            f"evidence witness {key.name}",
            when is not None,
            f"cosigned {checkpoint.size} records"
            if when is not None
            else f"has not cosigned the newest checkpoint; is it there, at {url}?",
        )


def _covered(word: str, size: int, last: int) -> str:
    behind = f", {last - size} are not yet" if size < last else ""
    if size > last:
        behind = f", the ledger has {last}: {size - last} are missing"
    return f"{size} records are {word}{behind}"
