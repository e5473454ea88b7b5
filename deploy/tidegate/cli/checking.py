"""What commands that check evidence have in common. Nothing here needs the bus."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer

from tidegate_evidence.checkpoint import Checkpoint
from tidegate_evidence.note import Note
from tidegate_evidence.proof import Proof
from tidegate_evidence.trust import Trust
from tidegate_schemas.errors import InvalidInput, VerificationError

KeyOption = Annotated[
    str | None, typer.Option("--key", metavar="VKEY", help="Public key of the log.")
]
TrustOption = Annotated[
    Path | None,
    typer.Option("--trust", metavar="FILE", help="Whose signatures are needed (C2SP tlog-policy)."),
]


def read(path: Path) -> bytes:
    """A small file that somebody names.

    Raises:
        InvalidInput: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from error


def read_trust(key: str | None, file: Path | None, default: Path | None = None) -> Trust:
    """Whom the caller trusts.

    Args:
        key: one key of a log.
        file: or a policy.
        default: the policy of the stack, if it is about that.

    Raises:
        InvalidInput: neither is given, or both are, or it cannot be read.
    """
    if key and file:
        raise InvalidInput("--key and --trust: give one of them")
    where = "--key" if key else file or default
    if where is None:
        raise InvalidInput("say whom you trust: --key VKEY or --trust FILE, from elsewhere")
    try:
        return Trust.of_key(key) if key else Trust.parse(read(Path(where)))
    except VerificationError as error:
        raise InvalidInput(f"{where}: {error}") from error


def read_note(path: Path) -> Note:
    """The checkpoint in a file, or in that of a proof.

    Raises:
        InvalidInput: it cannot be read.
        VerificationError: it is neither.
    """
    data = read(path)
    try:
        return Proof.parse(data).note if data.startswith(b"c2sp.org/") else Note.parse(data)
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from error


def describe(checkpoint: Checkpoint) -> dict[str, object]:
    """A checkpoint, for programs."""
    return {"origin": checkpoint.origin, "size": checkpoint.size, "root": checkpoint.root.hex()}


def times(cosigned: Mapping[str, int]) -> dict[str, str]:
    """When somebody cosigned, for people."""
    return {name: _time(seconds) for name, seconds in cosigned.items()}


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    except (OverflowError, OSError, ValueError):  # a time is any number that somebody has signed
        return f"{seconds} s"
