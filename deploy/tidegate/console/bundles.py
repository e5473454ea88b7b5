"""The policies that the ledger has, kept ready for pages that quote them."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Self

from tidegate.index import Batch
from tidegate_bus.frames import Entry
from tidegate_policy.bundle import Bundle
from tidegate_policy.replay.shelf import Shelf
from tidegate_schemas.subjects import Kind, Verdict

_READY = 8
"""Bundles that are kept parsed."""


class Bundles:
    """Hears of every change of the policies; a listener of `index.IndexKeeper`."""

    def __init__(self) -> None:
        self._changes: list[tuple[int, bytes]] = []
        self._shelf = Shelf.of(())
        self._until = 0
        self._parsed = lru_cache(_READY)(self._parse)

    @classmethod
    def of(cls, changes: Iterable[Entry]) -> Self:
        """One that has heard of these records.

        Raises:
            LedgerError: one of them is not of a gateway.
        """
        made = cls()
        made._changes = [(entry.seq, entry.payload) for entry in changes]
        _ = made.shelf
        return made

    def seqs(self) -> tuple[int, ...]:
        """Sequences of the records that it must have heard of."""
        return tuple(seq for seq, _ in self._changes)

    def __call__(self, batch: Batch) -> None:
        """Take in the next records."""
        self._changes += (
            (entry.seq, entry.payload)
            for entry, row in zip(*batch, strict=True)
            if row.kind is Kind.CONTROL
            and row.verdict is Verdict.ALLOW
            and row.to.startswith("policy.")
        )

    @property
    def shelf(self) -> Shelf:
        """All bundles.

        Raises:
            LedgerError: a record is not of a gateway.
        """
        changes = list(self._changes)
        if len(changes) != self._until:
            self._shelf, self._until = Shelf.of(changes), len(changes)
        return self._shelf

    def bundle(self, digest: str) -> Bundle:
        """A bundle, parsed.

        Raises:
            InvalidInput: see `Shelf.bundle`.
        """
        return self._parsed(digest)

    def _parse(self, digest: str) -> Bundle:
        return self.shelf.bundle(digest)
