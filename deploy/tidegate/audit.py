"""Looking back over the ledger of a project: where it is, and which part of it is meant."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tidegate_bus.bulk import Access, BulkReader
from tidegate_bus.frames import Entry
from tidegate_policy.bundle import Bundle, load_bundle
from tidegate_policy.personal.vault import Vault
from tidegate_policy.replay import Diff, Stretch, diff_of, what_if
from tidegate_policy.replay.past import read_record
from tidegate_policy.replay.shelf import Shelf, policy_filter
from tidegate_schemas.clock import parse_duration, parse_rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import OPERATOR

from .project import State, address, client_tls, find_project

NEITHER = (
    "{!r} is neither a folder nor the digest of a bundle; `tidegate policy history` lists them"
)


@dataclass(frozen=True, slots=True)
class Span:
    """A part of the ledger: sequences, none if `last` is before `first`; and what was asked for."""

    first: int
    last: int
    since: str = ""
    until: str = ""


class Audit:
    """Reads the ledger of a stack that runs. Use it in `with`.

    Args:
        folder: the project, or a folder inside it; the current one by default.
        state: where the stack keeps its state; `.tidegate` in the project by default.
        principal: as whom; of those who may.

    Attributes:
        access: how to come to the ledger.
        reader: of it.
        keys: where the keys of personal data are.

    Raises:
        InvalidInput: no project, no running stack, or no key of the operator.
    """

    def __init__(
        self,
        folder: Path | None = None,
        state: Path | None = None,
        principal: Principal = OPERATOR,
    ) -> None:
        where = State(state or find_project(folder or Path.cwd()) / ".tidegate")
        url, key = address(where), where.keyring.path(principal)
        if not key.exists():
            raise InvalidInput(f"{key}: no key of {principal}; only operators read the ledger")
        self.keys = where.vault
        self.access = Access(url, principal, key, client_tls(where))
        self.reader = BulkReader(self.access)

    def vault(self) -> AbstractContextManager[Vault | None]:
        """The keys of personal data, as far as they are left; None where they are not here.

        Raises:
            InvalidInput: they cannot be read.
        """
        return Vault.read(self.keys) or nullcontext()

    def span(self, since: str | None, until: str | None) -> Span:
        """The records between two moments, by the broker's clock; all of them without.

        Args:
            since: `2h`, so long ago, or an RFC 3339 time.
            until: so too; what was stored then is left out.

        Raises:
            InvalidInput: a moment is neither.
            NotConnected, Unavailable: the broker does not answer.
        """
        now, reader = time.time_ns(), self.reader
        first = reader.since(moment(since, now)) if since else 1
        last = reader.since(moment(until, now)) - 1 if until else reader.last()
        return Span(first, last, since or "", until or "")

    def shelf(self) -> Shelf:
        """The bundles in the ledger.

        Raises:
            LedgerError: a record is not of a gateway.
        """
        return Shelf.of(e for entries in self.reader.read(filter=policy_filter()) for e in entries)

    def bundle(self, named: str, shelf: Shelf) -> Bundle:
        """The bundle in a folder, or of the ledger by its digest.

        Raises:
            InvalidPolicy: it does not load.
            InvalidInput: there is none.
        """
        folder = Path(named)
        if folder.is_dir():
            return load_bundle(folder)
        if is_digest(named):
            return shelf.bundle(named)
        raise InvalidInput(NEITHER.format(named))

    def record(self, seq: int) -> Record:
        """One record.

        Raises:
            InvalidInput: the ledger does not have it yet.
            LedgerError: it is not of a gateway.
        """
        if seq > self.reader.last():
            raise InvalidInput(f"the ledger has no record {seq} yet")
        found: list[Entry] = next(self.reader.read(seq, seq))
        return read_record(*found[0])

    def what_if(
        self,
        bundle: Bundle,
        shelf: Shelf,
        span: Span,
        processes: int | None = None,
        on_progress: Callable[[int], None] = lambda _: None,
    ) -> Diff:
        """What another bundle would have said of a part of the ledger.

        Args:
            bundle: that one.
            shelf: the bundles in the ledger.
            span: the part.
            processes: how many work at once; one for each core by default.
            on_progress: called with the number of records that are done.

        Raises:
            LedgerError: a record is missing, or not of a gateway.
            Unavailable: the broker does not answer, or a process was killed.
        """
        stretch = Stretch(self.access, bundle.files, span.first, span.last, self.keys)
        return diff_of(
            what_if(stretch, processes or os.cpu_count() or 1, on_progress),
            before=shelf.in_force(span.last + 1)[0],
            after=bundle.digest,
            since=span.since,
            until=span.until,
            first=span.first,
            last=span.last,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.reader.close()


def is_digest(text: str) -> bool:
    """Whether a text may be the digest of a bundle, or its first digits."""
    return set(text.removeprefix("sha256:")) <= set("0123456789abcdef") and len(text) >= 4


def moment(text: str, now: int) -> int:
    """Nanoseconds since 1970 of `2h`, so long before `now`, or of an RFC 3339 time.

    Raises:
        InvalidInput: it is neither.
    """
    try:
        return max(now - int(parse_duration(text) * 1_000_000_000), 0)
    except ValueError:
        pass
    try:
        return max(parse_rfc3339(text), 0)
    except ValueError:
        raise InvalidInput(
            f"{text[:40]!r} is no moment; write how long ago (30s, 5m, 2h, 1d), "
            "or a time such as 2026-01-31T12:00:00Z"
        ) from None
