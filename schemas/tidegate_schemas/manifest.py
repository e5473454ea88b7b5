"""The manifest of an agent: what it may be asked for, and the limits of its worker."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from .documents import Destination, Document, Duration, Name, misfit
from .documents.location import Location
from .subjects import Principal


class Retry(Document):
    """How often a failed attempt is repeated, and after which pause.

    The pause doubles from `delay` up to `max_delay`; the jitter takes off up to half of it.
    """

    attempts: Annotated[int, Field(ge=1, le=1000)] = 3
    delay: Duration = 1.0
    max_delay: Duration = 60.0


class Manifest(Document):
    """One agent. The worker's handlers must match `capabilities` and `subscribes` exactly."""

    team: Name
    name: Name
    version: str
    owner: str
    run: Annotated[str, Field(pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$")]
    """Where the agent is in code: `module:attribute`."""
    description: str = ""
    capabilities: tuple[Destination, ...] = Field(default=(), strict=False)
    """Tasks it takes. A capability belongs to one agent; more workers of it share the load."""
    subscribes: tuple[Destination, ...] = Field(default=(), strict=False)
    """Events it gets a copy of."""
    concurrency: Annotated[int, Field(ge=1, le=10_000)] = 8
    """Handlers that run at once in one worker."""
    lease: Duration = 30.0
    """A worker that is silent this long loses its message to another; a living one extends it."""
    drain: Duration = 30.0
    """How long running handlers may finish after SIGTERM."""
    retry: Retry = Retry()

    @model_validator(mode="after")
    def _useful(self) -> Manifest:
        if not self.capabilities and not self.subscribes:
            raise ValueError("name at least one entry in `capabilities` or `subscribes`")
        faults: list[tuple[Location, str]] = [
            ((field, index), f"{name!r} is named twice")
            for field, names in (
                ("capabilities", self.capabilities),
                ("subscribes", self.subscribes),
            )
            for index, name in enumerate(names)
            if name in names[:index]
        ]
        if self.lease < 1:
            faults.append((("lease",), "must be at least 1s"))
        if faults:
            raise misfit(Manifest, faults)
        return self

    @property
    def principal(self) -> Principal:
        """Who the agent is on the bus."""
        return Principal(self.team, self.name)
