"""What an event of a source looks like."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope

from .pump import Item, P


@dataclass(frozen=True, slots=True)
class Shape:
    """The attributes that all events of a source have in common.

    Attributes:
        type: of each.
        source: URI reference of where they come from.
        more: further attributes.
    """

    type: str
    source: str
    more: dict[str, Any] = field(default_factory=dict[str, Any])

    def item(
        self, position: P, id: str, data: Any, *, what: str = "", now: int | None = None
    ) -> Item[P]:
        """An event, or what is wrong with its data.

        Args:
            position: of it in its source.
            id: of the envelope.
            data: JSON values, or `msgspec.Raw` that holds JSON.
            what: how it is called where its data has a fault.
            now: nanoseconds since 1970, becomes `time`.
        """
        try:
            made = Envelope.new(self.type, data, source=self.source, id=id, now=now, **self.more)
        except InvalidEnvelope as error:
            return Item(position, None, f"{what}: {error}" if what else str(error))
        return Item(position, made)
