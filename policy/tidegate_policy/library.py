"""Bundles that the ledger knows, and which one is in force. A fold of `policy.*`."""

from __future__ import annotations

import contextlib
import re
from collections import OrderedDict

from tidegate_schemas.errors import InvalidEnvelope, InvalidInput, InvalidPolicy
from tidegate_schemas.governance import Activation

from .bundle import Bundle
from .bundle.contents import digest as digest_of
from .obligations import parse

_LIMITS = re.compile(r'@(rate_limit|budget)\s*\(\s*"([^"\\]*)"')
_SHORTEST = 8
_LOADED = 4
"""Bundles that are kept ready; the others are text until somebody wants them again."""


class Library:
    """Every bundle that was ever proposed, by digest.

    Args:
        genesis: in force while the ledger has activated none.

    Attributes:
        active: digest of the one in force.
        activated: of all that ever were, in order, from the first on.
    """

    def __init__(self, genesis: Bundle) -> None:
        self._files: dict[str, dict[str, str]] = {}
        self._loaded: OrderedDict[str, Bundle] = OrderedDict()
        self._genesis = genesis
        self.active = genesis.digest
        self.activated = [self.active]
        self._counting: float | None = 0.0

    def __contains__(self, digest: str) -> bool:
        return digest == self._genesis.digest or digest in self._files

    def find(self, start: str) -> str:
        """The digest that begins so, with or without `sha256:`; at least 8 digits.

        Raises:
            InvalidInput: none does, or several do.
        """
        hexadecimal = start.removeprefix("sha256:")
        known = (self._genesis.digest, *self._files)
        found = [d for d in known if d.removeprefix("sha256:").startswith(hexadecimal)]
        if len(hexadecimal) < _SHORTEST or len(found) != 1:
            several = f"{len(found)} bundles" if len(found) > 1 else "no bundle in the ledger"
            raise InvalidInput(f"{start!r}: {several}; see tidegate policy history")
        return found[0]

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
        self.activated.append(activation.bundle)
        for text in self._files.get(activation.bundle, {}).values():
            self._count(text)

    @property
    def counting_seconds(self) -> float | None:
        """The longest window of a limit that was ever in force; None where one has no end."""
        return self._counting

    def _count(self, text: str) -> None:
        for key, written in _LIMITS.findall(text):  # also in a comment: that costs time only
            with contextlib.suppress(ValueError):
                found = parse("permit", {"id": "any", key: written})
                windows: list[float] = [rate.seconds for rate in found.rates]
                windows += (budget.seconds for budget in found.budgets)
                longest = max(windows, default=0.0)
                if self._counting is not None:
                    self._counting = max(self._counting, longest) if all(windows) else None

    def _keep(self, bundle: Bundle) -> None:
        self._loaded[bundle.digest] = bundle
        while len(self._loaded) > _LOADED:
            self._loaded.popitem(last=False)
