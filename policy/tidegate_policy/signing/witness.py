"""A witness: cosigns checkpoints of logs that only grow (C2SP tlog-witness, the server's side).

It sees how long a log is and the root of its tree, and no record.
"""

from __future__ import annotations

import contextlib
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note, Signer, Verifier, read_base64
from tidegate_evidence.tree import check_consistency, tree_hash
from tidegate_schemas.errors import Unavailable, VerificationError

MAX_BODY_BYTES = 128 * 1024
_MAX_PROOF = 63
_OLD = re.compile(rb"old (0|[1-9][0-9]{0,18})")
_SCHEMA = "CREATE TABLE IF NOT EXISTS logs (origin TEXT PRIMARY KEY, size INTEGER, root BLOB)"
_PATIENCE_SECONDS = 10.0
_INT64 = 2**63 - 1


@dataclass(frozen=True, slots=True)
class Submission:
    """What somebody asks to be cosigned: the body of `add-checkpoint`."""

    old: int
    proof: tuple[bytes, ...]
    note: Note
    checkpoint: Checkpoint

    @classmethod
    def parse(cls, body: bytes) -> Self:
        """Read a body.

        Raises:
            VerificationError: it is none.
        """
        head, between, rest = body.partition(b"\n\n")
        first, *lines = head.split(b"\n")
        found = _OLD.fullmatch(first)
        if not between or not found:
            raise VerificationError(
                "write: old <size>, lines of proof, an empty line, a checkpoint"
            )
        if len(lines) > _MAX_PROOF:
            raise VerificationError(f"over {_MAX_PROOF} lines of proof")
        try:
            proof = tuple(read_base64(line.decode("ascii")) for line in lines)
        except UnicodeDecodeError:
            raise VerificationError("a line of proof is not base64") from None
        note = Note.parse(rest)
        checkpoint, old = Checkpoint.parse(note.text), int(found[1])
        if max(checkpoint.size, old) > _INT64:
            raise VerificationError("no log is that long")
        return cls(old, proof, note, checkpoint)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is said to it: an HTTP status, and a body."""

    status: int
    body: str
    kind: str = "text/plain; charset=utf-8"


class Seen:
    """The newest checkpoint of each log, in a database that several witnesses may share.

    Raises:
        Unavailable: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._base = sqlite3.connect(
                path, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
            )
            # What is answered is there for good: the disk has it before anybody hears of it.
            self._base.execute("PRAGMA synchronous = EXTRA")
            self._base.execute(_SCHEMA)
        except sqlite3.Error as error:
            raise Unavailable(f"{path}: {error}") from error
        self._lock = threading.Lock()

    def newest(self, origin: str) -> tuple[int, bytes]:
        """Size and root of the newest checkpoint of a log; of an empty tree before the first.

        Raises:
            Unavailable: the database does not answer.
        """
        with self._lock, _told():
            found = self._base.execute(
                "SELECT size, root FROM logs WHERE origin = ?", (origin,)
            ).fetchone()
        return found or (0, tree_hash(0, _no_node))

    def replace(self, old: tuple[int, bytes], new: Checkpoint) -> bool:
        """Put a newer checkpoint in the place of an old one, if that is still there; whether so.

        Raises:
            Unavailable: the database does not take it.
        """
        with self._lock, _told():
            if old[0] == 0:
                done = self._base.execute(
                    "INSERT INTO logs VALUES (?, ?, ?) ON CONFLICT (origin) DO UPDATE "
                    "SET size = excluded.size, root = excluded.root WHERE size = 0",
                    (new.origin, new.size, new.root),
                )
            else:
                done = self._base.execute(
                    "UPDATE logs SET size = ?, root = ? WHERE (origin, size, root) = (?, ?, ?)",
                    (new.size, new.root, new.origin, *old),
                )
            return done.rowcount == 1

    def close(self) -> None:
        """Close the database."""
        self._base.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class Witness:
    """Cosigns what begins with what it has cosigned before.

    Args:
        signer: its own key, of cosignatures.
        logs: keys of those whose checkpoints it takes; the name of each is the origin.
        seen: what it has cosigned.
        clock: seconds since 1970.
    """

    def __init__(
        self,
        signer: Signer,
        logs: Iterable[Verifier],
        seen: Seen,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._signer = signer
        self._seen = seen
        self._clock = clock
        self._logs: dict[str, list[Verifier]] = {}
        for key in logs:
            self._logs.setdefault(key.name, []).append(key)

    def add_checkpoint(self, body: bytes) -> Answer:
        """Answer `add-checkpoint`; the order of the checks is that of the specification.

        Raises:
            Unavailable: what was seen cannot be looked up, or kept.
        """
        try:
            asked = Submission.parse(body)
        except VerificationError as error:
            return Answer(400, f"{error}\n")
        new = asked.checkpoint
        keys = self._logs.get(new.origin)
        if keys is None:
            return Answer(404, "unknown log\n")
        if not any(_signed(key, asked.note) for key in keys):
            return Answer(403, "no signature of a known key verifies\n")
        if asked.old > new.size:
            return Answer(400, "the old size is over that of the checkpoint\n")
        seen = self._seen.newest(new.origin)
        if asked.old != seen[0]:
            return _conflict(seen[0])
        if seen[0] == new.size and seen[1] != new.root:
            return _conflict(seen[0])
        try:
            check_consistency(*seen, new.size, new.root, asked.proof)
        except VerificationError as error:
            return Answer(422, f"{error}\n")
        if not self._seen.replace(seen, new):  # somebody was faster
            return _conflict(self._seen.newest(new.origin)[0])
        return Answer(200, self._signer.sign(asked.note.text, int(self._clock())).line())


def _signed(key: Verifier, note: Note) -> bool:
    with contextlib.suppress(VerificationError):
        return key.check(note) is not None
    return False


def _conflict(size: int) -> Answer:
    return Answer(409, f"{size}\n", "text/x.tlog.size")


@contextlib.contextmanager
def _told() -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise Unavailable(f"what was seen: {error}") from error


def _no_node(_level: int, _index: int) -> bytes:
    raise AssertionError("an empty tree has none")
