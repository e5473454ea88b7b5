"""What the ledger is told of those who look back over it.

audit.export   control: a part of the ledger was copied out of it
audit.replay   control: a part of it was gone through again

Nothing follows from them: they are there to be found.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec

from .errors import InvalidEnvelope
from .governance import Digest, Sequence

_End = Annotated[int, msgspec.Meta(ge=0)]
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=40)]
_Value = Annotated[str, msgspec.Meta(max_length=1000)]

Query = Annotated[dict[_Name, _Value], msgspec.Meta(max_length=20)]
"""What was asked for, by the names of the options, as it was written."""
Counts = Annotated[dict[_Name, Annotated[int, msgspec.Meta(ge=0)]], msgspec.Meta(max_length=20)]


class Format(StrEnum):
    """In what form records leave the ledger."""

    JSONL = "jsonl"
    PARQUET = "parquet"
    OCSF = "ocsf"


Formats = Annotated[tuple[Format, ...], msgspec.Meta(min_length=1, max_length=3)]


class Mode(StrEnum):
    """In what way the ledger is gone through again."""

    CONFORMANCE = "conformance"
    """Every verdict is decided again."""
    REDELIVERY = "redelivery"
    """Agents get again, in a sandbox, what they got then."""


class _Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What is said of a part of the ledger.

    Attributes:
        first, last: ledger sequences; `last` is `first - 1` where there were no records.
    """

    first: Sequence
    last: _End

    def check(self) -> None:
        """Pass if there can be such a part.

        Raises:
            InvalidEnvelope: code `data`; it ends before it begins.
        """
        if self.last < self.first - 1:
            raise InvalidEnvelope("data", f"records {self.first} to {self.last} are no part")


class Export(_Part, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data of `audit.export`.

    Attributes:
        size: of the checkpoint that came with it, in records.
        formats: of the records, each once.
        manifest: digest of the signed manifest.
        query: what was asked for.
    """

    size: _End
    formats: Formats
    manifest: Digest
    query: Query = {}


class Replay(_Part, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """Data of `audit.replay`.

    Attributes:
        mode: what was done.
        report: digest of the report, as canonical JSON.
        query: what was asked for.
        counts: what was found, by the words of the report.
    """

    mode: Mode
    report: Digest
    query: Query = {}
    counts: Counts = {}
