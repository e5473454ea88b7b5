"""How many bytes of bodies are in memory, over all requests together. Pure."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import final

from .problems import Problem

_AGAIN_SECONDS = 1.0


def peer(client: tuple[str, int] | None) -> str:
    """Who a client is: everybody has all addresses of a network of IPv6 (/64)."""
    host = client[0] if client else ""
    return str(IPv6Network((host.partition("%")[0], 64), strict=False)) if ":" in host else host


@final
class Bodies:
    """Room that requests share.

    One client gets as much as it leaves to others (dynamic thresholds, Choudhury and Hahne 1998):
    alone half of the room, two a third each, and so on. So nobody can take all of it.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        self._free = limit
        self._held: dict[str, int] = {}

    def take(self, client: str, size: int) -> None:
        """A client has sent so many bytes more.

        Raises:
            Problem: 503; there is no room for them.
        """
        own = self._held.get(client, 0) + size
        if own > self._free - size:
            detail = "the requests of others, and yours, take all memory that there is for them"
            raise Problem(503, "bodies", "Too much at once", detail, retry_after=_AGAIN_SECONDS)
        self._held[client] = own
        self._free -= size

    def give_back(self, client: str, size: int) -> None:
        """So many bytes of a client are not needed any more."""
        self._free += size
        self._held[client] -= size
        if not self._held[client]:
            del self._held[client]
