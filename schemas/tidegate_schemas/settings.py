"""`tidegate.yaml`: the settings of a project."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from .documents import Document, Duration, Name, PrincipalName
from .envelope import MAX_ENVELOPE_BYTES

MiB = 1024 * 1024
GiB = 1024 * MiB
_INT64 = 2**63 - 1
"""The broker keeps its limits in 64 signed bits."""


class ServerSettings(Document):
    """The nats-server that `tidegate up` starts."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free one; it is written to the state directory."""
    ledger_bytes: Annotated[int, Field(ge=MiB, le=_INT64)] = 20 * GiB
    """The ledger refuses more: a full ledger stops the bus, it never drops a record."""
    ingress_bytes: Annotated[int, Field(ge=MiB, le=_INT64)] = 1 * GiB
    """Submissions that may wait for the gateway."""
    backlog: Annotated[int, Field(ge=1, le=_INT64)] = 100_000
    """Submissions of one sender that may wait for the gateway."""
    mode: Literal["static", "operator"] = "static"
    """How the broker learns who may connect: from its configuration, or from signed tokens."""
    connections: Annotated[int, Field(ge=2, le=10_000)] = 64
    """Connections that one identity may have; the newest above that are cut."""
    tls: Literal["off", "server", "mutual"] = "off"
    """Whether clients must speak TLS, and with `mutual` show a certificate too."""
    tls_folder: Annotated[str, Field(min_length=1)] | None = None
    """Where the certificates are, relative to the project; `tls` in the state by default."""


class GatewaySettings(Document):
    """Limits that the gateway holds."""

    envelope_bytes: Annotated[int, Field(ge=1024, le=512 * 1024)] = MAX_ENVELOPE_BYTES
    dedupe_window: Duration = 600.0
    """How long a repeated envelope id is recognised."""
    dedupe_entries: Annotated[int, Field(ge=1)] = 250_000
    """How many envelope ids are remembered at most; the oldest go first."""


class Settings(Document):
    """A project: a folder with this file, `agents/`, `blueprints/` and `policy/`."""

    project: Name
    publishers: tuple[PrincipalName, ...] = Field(default=(), strict=False)
    """Principals besides the agents that may submit, e.g. outside systems."""
    server: ServerSettings = ServerSettings()
    gateway: GatewaySettings = GatewaySettings()
