"""`tidegate.yaml`: the settings of a project."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from .documents import Document, Duration, Name, PrincipalName, misfit
from .edge import EdgeSettings
from .envelope import MAX_ENVELOPE_BYTES

MiB = 1024 * 1024
GiB = 1024 * MiB
_INT64 = 2**63 - 1
"""The broker keeps its limits in 64 signed bits."""
_OVERHEAD = 256
"""Bytes that a message takes in the store besides itself."""


class ServerSettings(Document):
    """The nats-server that `tidegate up` starts."""

    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free one; it is written to the state directory."""
    ledger_bytes: Annotated[int, Field(ge=MiB, le=_INT64)] = 20 * GiB
    """The ledger refuses more: a full ledger stops the bus, it never drops a record."""
    ingress_bytes: Annotated[int, Field(ge=MiB, le=_INT64)] = 16 * GiB
    """Submissions that may wait for the gateway. Room for more than one sender's `backlog` of the
    largest messages (1 MiB), so that nobody can fill it for others."""
    backlog: Annotated[int, Field(ge=1, le=_INT64)] = 10_000
    """Submissions of one sender that may wait for the gateway; more are refused for now."""
    mode: Literal["static", "operator"] = "static"
    """How the broker learns who may connect: from its configuration, or from signed tokens."""
    connections: Annotated[int, Field(ge=2, le=10_000)] = 64
    """Connections that one identity may have; the newest above that are cut."""
    probe: Duration = 60.0
    """How often the bus's own probe tries to get past the gateway; 0s is never."""
    tls: Literal["off", "server", "mutual"] = "off"
    """Whether clients must speak TLS, and with `mutual` show a certificate too."""
    tls_folder: Annotated[str, Field(min_length=1)] | None = None
    """Where the certificates are, relative to the project; `tls` in the state by default."""

    @model_validator(mode="after")
    def _room_for_others(self) -> ServerSettings:
        needed = self.backlog * (MiB + _OVERHEAD) + MiB
        if self.ingress_bytes < needed:
            fault = (
                f"{self.backlog} messages of 1 MiB, which one sender may have waiting, would fill "
                f"it for all others: at least {needed}, or a smaller `backlog`"
            )
            raise misfit(ServerSettings, [(("ingress_bytes",), fault)])
        return self


class GatewaySettings(Document):
    """Limits that the gateway holds."""

    envelope_bytes: Annotated[int, Field(ge=1024, le=512 * 1024)] = MAX_ENVELOPE_BYTES
    dedupe_window: Duration = 600.0
    """How long a repeated envelope id is recognised."""
    dedupe_entries: Annotated[int, Field(ge=1)] = 100_000
    """How many envelope ids of one sender are remembered at most; the oldest go first."""
    policy_report: bool = False
    """Whether policies come into force only with a report of what they change."""


class WitnessSettings(Document):
    """Somebody else who cosigns checkpoints (C2SP tlog-witness)."""

    key: Annotated[str, Field(pattern=r"^[^\s+]{1,255}\+[0-9a-f]{8}\+[A-Za-z0-9+/]+={0,2}$")]
    """Public key, as the witness prints it: `name+8 hex digits+base64`."""
    url: Annotated[str, Field(pattern=r"^https?://[^\s?#]+$")]
    """Where it takes checkpoints: `add-checkpoint` comes after it."""


class EvidenceSettings(Document):
    """Who besides the bus's own notary vouches for the ledger, and what is kept."""

    witnesses: tuple[WitnessSettings, ...] = Field(default=(), strict=False)
    quorum: Literal["any", "all"] | Annotated[int, Field(ge=1)] = "all"
    """How many of the witnesses must have signed what is to be trusted."""
    checkpoints: Duration = 2557 * 86_400.0
    """How long a checkpoint of each day is kept; the newest one always is."""

    @model_validator(mode="after")
    def _can_be_met(self) -> EvidenceSettings:
        if isinstance(self.quorum, int) and self.quorum > len(self.witnesses):
            fault = f"{self.quorum} of {len(self.witnesses)} witnesses can never be met"
            raise misfit(EvidenceSettings, [(("quorum",), fault)])
        return self


class PrivacySettings(Document):
    """What becomes of personal data."""

    retention: Duration | None = None
    """How long after the end of a month the data that was sealed in it can be read; for ever by
    default. A legal hold keeps it longer."""


class ConsoleTlsSettings(Document):
    """Certificate of the web console; paths are relative to the project."""

    certificate: Annotated[str, Field(min_length=1)]
    key: Annotated[str, Field(min_length=1)]


class ConsoleSettings(Document):
    """The web console."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 0
    """0 takes a free one; the URL is written to the state directory."""
    names: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]{1,253}$")], ...] = Field(
        default=(), strict=False
    )
    """Host names under which browsers reach it, besides its address and `localhost`."""
    tls: ConsoleTlsSettings | None = None
    """Without it plain HTTP is spoken, which is for this machine."""


class Settings(Document):
    """A project: a folder with this file, `agents/`, `blueprints/` and `policy/`."""

    project: Name
    publishers: tuple[PrincipalName, ...] = Field(default=(), strict=False)
    """Principals besides the agents that may submit, e.g. outside systems."""
    server: ServerSettings = ServerSettings()
    gateway: GatewaySettings = GatewaySettings()
    evidence: EvidenceSettings = EvidenceSettings()
    privacy: PrivacySettings = PrivacySettings()
    edge: EdgeSettings = EdgeSettings()
    console: ConsoleSettings = ConsoleSettings()
