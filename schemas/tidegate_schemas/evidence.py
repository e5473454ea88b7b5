"""What the ledger says of its own evidence: the keys that sign it."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import msgspec


class KeyRole(StrEnum):
    """What a key signs."""

    WRITER = "writer"
    """Heads of the ledger, by the gateway."""
    NOTARY = "notary"
    """Checkpoints that were read back from the broker."""
    EXPORT = "export"
    """Manifests of exports."""
    WITNESS = "witness"
    """Checkpoints that somebody else has seen grow; theirs, not ours."""


class EvidenceKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A public key, as the text of a verifier (C2SP signed-note): `name+8 hex digits+base64`."""

    role: KeyRole
    key: Annotated[str, msgspec.Meta(max_length=512)]


class EvidenceKeys(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Data of `evidence.keys`: all keys in use from here on, those before them among them or not.

    While a key gives way to another, both are listed, the newer one first.
    """

    keys: Annotated[tuple[EvidenceKey, ...], msgspec.Meta(min_length=1, max_length=64)]
