"""Bundles that the ledger knows, and which one is in force. A fold of `policy.*`."""

from __future__ import annotations

import math
from collections import OrderedDict

from tidegate_schemas.errors import InvalidEnvelope, InvalidPolicy
from tidegate_schemas.governance import Activation

from .bundle import Bundle
from .bundle.contents import digest as digest_of

_LOADED = 4
"""Bundles that are kept ready; the others are text until somebody wants them again."""


class Library:
    """Every bundle that was ever proposed, by digest.

    Args:
        genesis: in force while the ledger has activated none.

    Attributes:
        active: digest of the one in force.
    """

    def __init__(self, genesis: Bundle) -> None:
        self._files: dict[str, dict[str, str]] = {}
        self._loaded: OrderedDict[str, Bundle] = OrderedDict()
        self._genesis = genesis
        self.active = genesis.digest
        self._counting: dict[str, float | None] = {genesis.digest: None}

    def __contains__(self, digest: str) -> bool:
        return digest == self._genesis.digest or digest in self._files

    @property
    def begun(self) -> bool:
        """Whether another bundle than the first one is in force."""
        return self.active != self._genesis.digest

    def bundle(self, digest: str) -> Bundle:
        """A bundle, ready to be asked.

        Raises:
            InvalidEnvelope: code `data`; nobody has proposed it.
        """
        if digest == self._genesis.digest:
            return self._genesis
        if digest not in self._loaded:
            if digest not in self._files:
                raise InvalidEnvelope("data", f"no bundle {digest} was proposed")
            self._keep(Bundle.of_files(self._files[digest]))
        self._loaded.move_to_end(digest)
        return self._loaded[digest]

    def check(self, files: dict[str, str]) -> None:
        """Pass if a bundle may be proposed.

        Raises:
            InvalidEnvelope: code `data`; it does not load, and why.
        """
        try:
            bundle = Bundle.of_files(files)
        except InvalidPolicy as error:
            raise InvalidEnvelope("data", "; ".join(error.problems)[:1000]) from None
        if bundle.files != files:
            raise InvalidEnvelope("data", "propose it whole, with the schema that goes with it")
        self._keep(bundle)

    def propose(self, files: dict[str, str]) -> None:
        """The ledger has it from here on."""
        self._files[digest_of(files)] = files

    def activate(self, activation: Activation) -> None:
        """It is in force from here on."""
        self.active = activation.bundle
        self._counting.setdefault(self.active)

    @property
    def counting_seconds(self) -> float | None:
        """The longest window of a limit that was ever in force; None where one has no end."""
        longest = 0.0
        for digest, seconds in self._counting.items():
            if seconds is None:
                seconds = self._counting[digest] = self._longest(digest)
            longest = max(longest, seconds)
        return None if math.isinf(longest) else longest

    def _longest(self, digest: str) -> float:
        """Seconds of the longest window in a bundle; infinite if there is no telling."""
        try:
            rules = self.bundle(digest).rules.values()
        except InvalidPolicy:  # an earlier version took it
            return math.inf
        windows: list[float] = [rate.seconds for r in rules for rate in r.obligations.rates]
        budgets = [budget.seconds for r in rules for budget in r.obligations.budgets]
        windows += (seconds or math.inf for seconds in budgets)
        return max(windows, default=0.0)

    def _keep(self, bundle: Bundle) -> None:
        self._loaded[bundle.digest] = bundle
        while len(self._loaded) > _LOADED:
            self._loaded.popitem(last=False)
