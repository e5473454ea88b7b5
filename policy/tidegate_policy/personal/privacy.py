"""Whose data is erased, held or past its retention; and what of a message policy gets to see. Pure.

The keys are the vault's. What the ledger says of them is here: a key that is gone by the ledger is
gone, whatever a backup of the vault may still hold.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass, field
from typing import Protocol

import msgspec

from tidegate_schemas import vocabulary
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.envelope import Envelope
from tidegate_schemas.errors import InvalidEnvelope
from tidegate_schemas.governance import DataSubject, Expiry
from tidegate_schemas.personal import NONCE_BYTES, KeyId, is_personal, key_ids, seal, sealed, unseal
from tidegate_schemas.record import Reason

ORDERS = frozenset((vocabulary.PRIVACY_ERASE, vocabulary.PRIVACY_HOLD, vocabulary.PRIVACY_RELEASE))
COMMANDS = ORDERS | {vocabulary.PRIVACY_EXPIRE}


@dataclass(frozen=True, slots=True)
class LegalHold:
    """Who said that data must be kept, and when (ns since 1970).

    `before` is the first month that is kept for this data subject.
    """

    by: str
    time: int
    before: str


@dataclass(slots=True)
class Privacy:
    """A fold of the commands `privacy.*`.

    Attributes:
        erased: pseudonyms.
        holds: by pseudonym.
        before: the first month that is kept; empty keeps all.
    """

    erased: set[str] = field(default_factory=set[str])
    holds: dict[str, LegalHold] = field(default_factory=dict[str, LegalHold])
    before: str = ""

    def gone(self, key: KeyId) -> bool:
        """Whether a key is destroyed, by the ledger."""
        hold = self.holds.get(key.pseudonym)
        return key.pseudonym in self.erased or key.month < (hold.before if hold else self.before)

    def check(self, command: str, order: DataSubject) -> None:
        """Pass if an order can be followed.

        Raises:
            InvalidEnvelope: code `data`; says why not.
        """
        subject = order.subject
        hold, what = self.holds.get(subject), ""
        if command == vocabulary.PRIVACY_RELEASE:
            what = "" if hold else f"{subject} is not held"
        elif hold:
            what = f"{subject} is under legal hold by {hold.by} since {rfc3339(hold.time)}"
        elif command == vocabulary.PRIVACY_HOLD and subject in self.erased:
            what = f"{subject} was erased"
        if what:
            raise InvalidEnvelope("data", what)

    def follow(self, command: str, by: str, envelope: Envelope, time: int) -> None:
        """Take in a command that was admitted."""
        if command == vocabulary.PRIVACY_EXPIRE:
            expiry: Expiry = envelope.payload(Expiry)
            self.before = max(self.before, expiry.before)
            return
        order: DataSubject = envelope.payload(DataSubject)
        match command:
            case vocabulary.PRIVACY_ERASE:
                self.erased.add(order.subject)
            case vocabulary.PRIVACY_HOLD:
                self.holds[order.subject] = LegalHold(by, time, self.before)
            case _:
                del self.holds[order.subject]

    def copy(self) -> Privacy:
        """The same, to go on by itself."""
        return Privacy(set(self.erased), dict(self.holds), self.before)


class Opener(Protocol):
    """What opens sealed data."""

    def key(self, envelope: Envelope) -> bytes | None:
        """The key of a sealed message; None where a key that it needs is not there."""
        ...


class _Nothing:
    def key(self, envelope: Envelope) -> bytes | None:
        return None


NOTHING: Opener = _Nothing()
"""Opens nothing."""


@dataclass(frozen=True, slots=True)
class Contents:
    """A message with personal data, as far as it can be read.

    Attributes:
        seen: what policy sees of it.
        fault: a word of `Reason`, where it cannot be read.
    """

    seen: Envelope
    fault: str
    _by: str
    _submitted: Envelope
    _key: bytes = b""

    def recorded(self, redacted: Envelope) -> tuple[Envelope, bool]:
        """What the record holds, and whether that is less than what was submitted.

        What cannot be read is not kept. What was redacted is sealed again with the key of the
        message, by a nonce that follows from it: an auditor comes to the same bytes.

        Args:
            redacted: `seen`, without what was redacted.
        """
        if self.fault:
            return self.seen, True
        if redacted is self.seen:
            return self._submitted, False
        terms, salt = self._submitted.datasubject or "", sealed(self._submitted).salt
        text = redacted.body or (redacted.data_base64 or "").encode()
        nonce = hmac.digest(self._key, b"redacted " + text, hashlib.sha256)[:NONCE_BYTES]
        again = seal(redacted, self._by, terms, salt=salt, key=self._key, nonce=nonce)
        return again, again != self._submitted


def contents(privacy: Privacy, opener: Opener, by: str, envelope: Envelope) -> Contents | None:
    """What can be read of a message; None where it has no personal data.

    Args:
        privacy: what the ledger says of keys.
        opener: what opens.
        by: who sent it.
        envelope: as it was submitted.
    """
    if not is_personal(envelope):
        return None
    try:
        keys = key_ids(envelope)
        if any(map(privacy.gone, keys)):
            return Contents(_without(envelope), Reason.ERASED, by, envelope)
        key = opener.key(envelope)
        if key is not None:
            return Contents(unseal(envelope, by, key), "", by, envelope, key)
    except InvalidEnvelope:
        pass
    bare = msgspec.structs.replace(_without(envelope), datasubject=None, dataenc=None)
    return Contents(bare, Reason.UNSEALED, by, envelope)


def unreplayable(privacy: Privacy, opener: Opener, envelope: Envelope | None) -> bool:
    """Whether a message is sealed, and nobody can say what the gateway saw of it."""
    if envelope is None or not is_personal(envelope):
        return False
    try:
        gone = any(map(privacy.gone, sealed(envelope).keys))
        return not gone and opener.key(envelope) is None
    except InvalidEnvelope:
        return False


def _without(envelope: Envelope) -> Envelope:
    return msgspec.structs.replace(envelope, data=msgspec.UNSET, data_base64=None)


DETAILS = {
    Reason.UNSEALED: "personal data must be sealed with the key of its data subject",
    Reason.ERASED: "the key of its data subject was destroyed",
}
"""What a denial says for each fault."""
