"""How a process of the stack is, as its `/healthz` says."""

from __future__ import annotations

import http.client
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Vital:
    """What a process says of itself.

    Attributes:
        healthy: whether it is as it should be.
        facts: what it reports; empty where it does not answer.
        trouble: why there are no facts.
    """

    healthy: bool
    facts: Mapping[str, Any] = field(default_factory=dict[str, Any])
    trouble: str = ""

    @property
    def words(self) -> str:
        """In one line; without what is too long for one."""
        told = (f"{key} {value}" for key, value in self.facts.items() if key != "bundle")
        return self.trouble or ", ".join(told)


def ask(port: int) -> Vital:
    """Ask a process on this machine. Blocks for two seconds at most.

    Args:
        port: of its telemetry, see `processes.ProcessInfo`.
    """
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=_SECONDS) as answer:
            return _read(answer.read(), healthy=True)
    except urllib.error.HTTPError as error:
        with error:
            return _read(error.read(), healthy=False)
    except (OSError, http.client.HTTPException) as error:
        return Vital(False, trouble=f"does not answer: {error}")


def _read(body: bytes, *, healthy: bool) -> Vital:
    try:
        return Vital(healthy, msgspec.json.decode(body, type=dict[str, Any]))
    except msgspec.DecodeError:
        return Vital(healthy, trouble="answers what is no health report")
