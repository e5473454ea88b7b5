"""Who is connected to the broker, and which connections are too many. No I/O, no clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Mapping

from tidegate_bus.broker.accounts import REGISTRAR, WARDEN
from tidegate_schemas.subjects import Principal
from tidegate_schemas.vocabulary import GATEWAY

CONNECTIONS = 64
"""Of one identity. A worker has one, `tidegate publish` one while it runs."""

SPARED = frozenset({GATEWAY, REGISTRAR, WARDEN})
"""Told of, but not cut: they are the bus. With too many connections of the gateway's key either we
have a fault or somebody has the key; cutting the newest would keep out a gateway that comes back
and let the bus stand still, which is the greater harm. Coordinator and operator are cut: they live
among the agents, and the ledger goes on without them."""

UNKNOWN = "unknown"
"""Label of what belongs to no known principal, so that nobody makes up labels."""

Owner = Principal | str
"""Whose a connection is: a principal, or the public key where nobody is known by it."""


class Roll:
    """Who is connected. Pure: it knows what it was told.

    Args:
        principals: by public key; a live mapping that may change. All keys of a principal count
            together, so a rotation gives nobody twice its share. A change takes effect for new
            connections at once, for others with the next `replace`.
        limit: most connections of an owner.
        spared: who may have more.
    """

    def __init__(
        self,
        principals: Mapping[str, Principal],
        limit: int = CONNECTIONS,
        spared: Collection[Principal] = SPARED,
    ) -> None:
        self._principals = principals
        self._limit = limit
        self._spared = spared
        self._owners: dict[int, Owner] = {}
        self._cids: dict[Owner, set[int]] = {}
        self._kept: dict[Owner, set[int]] = {}
        """Those that are not to be cut: never more than the limit, so a flood costs no more."""
        self._due: list[int] = []

    def add(self, cid: int, key: str) -> None:
        """A connection was made with this key. The broker numbers them in order."""
        self.remove(cid)
        owner: Owner = self._principals.get(key, key)
        self._owners[cid] = owner
        self._cids.setdefault(owner, set()).add(cid)
        if owner not in self._spared:
            kept = self._kept.setdefault(owner, set())
            kept.add(cid)
            if len(kept) > self._limit:
                newest = max(kept)
                kept.remove(newest)
                self._due.append(newest)

    def remove(self, cid: int) -> Owner | None:
        """A connection has ended; whose it was, None for one that never was on the roll."""
        owner = self._owners.pop(cid, None)
        if owner is not None:
            for sets in (self._cids, self._kept):
                cids = sets.get(owner, set())
                cids.discard(cid)
                if not cids:
                    sets.pop(owner, None)
        return owner

    def replace(self, keys: Mapping[int, str]) -> None:
        """The whole picture: these connections and no others.

        What should be cut and is still there is to be cut again.
        """
        for known in (self._owners, self._cids, self._kept, self._due):
            known.clear()
        for cid, key in keys.items():
            self.add(cid, key)

    def excess(self) -> list[tuple[int, Owner]]:
        """Which connections to cut, and whose they are: the newest, each named once."""
        due = [(cid, self._owners[cid]) for cid in self._due if cid in self._owners]
        self._due.clear()
        return due

    def of(self, chosen: Callable[[Principal], bool]) -> list[tuple[int, Owner]]:
        """The connections of some principals, and whose they are."""
        owners = [o for o in self._cids if isinstance(o, Principal) and chosen(o)]
        return [(cid, owner) for owner in owners for cid in sorted(self._cids[owner])]

    def crowded(self) -> list[Principal]:
        """Who has too many, but is spared."""
        return [who for who in self._spared if len(self._cids.get(who, ())) > self._limit]

    def owner(self, cid: int) -> Owner | None:
        """Whose a connection is."""
        return self._owners.get(cid)

    def counts(self) -> Counter[str]:
        """Connections by principal; those of unknown keys together."""
        counts: Counter[str] = Counter()
        for owner, cids in self._cids.items():
            counts[label(owner)] += len(cids)
        return counts


def label(owner: Owner | None) -> str:
    """An owner as a label of metrics, of which there are no more than principals."""
    return str(owner) if isinstance(owner, Principal) else UNKNOWN
