"""What a replay has found, as a document."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec


def digest(document: dict[str, Any]) -> str:
    """SHA-256 over the canonical JSON: compact, UTF-8, members sorted by name."""
    canonical = msgspec.json.encode(msgspec.to_builtins(document), order="sorted")
    return f"sha256:{hashlib.sha256(canonical).hexdigest()}"
