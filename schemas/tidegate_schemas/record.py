"""The record: what the ledger stores. Its payload bytes are the leaf of the evidence tree.

Compact JSON in the fixed order of the class. Subject, headers and timestamp of the stream are
conveniences of the broker; everything that must be proven stands in the payload.
"""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from .envelope import Envelope, decode, describe
from .errors import InvalidRecord
from .subjects import Kind, Verdict

VERSION = 1


class Ingress(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which submission caused the record.

    `seq` is the sequence in the ingress stream. `n` counts the records that one submission
    caused: exactly one has `n = 0`. `time` is when the broker stored the submission.
    """

    seq: int
    n: int
    time: str


class Why(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The grounds of a verdict.

    Attributes:
        policies: ids of the policies that decided, sorted.
        reason: a stable word, see `Reason`.
        bundle: digest of the policy bundle in force.
        obligations: what had to be done with the message.
        facts: what the gateway knew and no envelope says.
    """

    policies: tuple[str, ...]
    reason: str
    bundle: str
    obligations: tuple[str, ...] = ()
    facts: dict[str, Any] = {}


class Record(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True
):
    """One line of the ledger.

    Attributes:
        v: version of this format.
        log: name of the log, e.g. `tidegate/0`.
        seq: position in the ledger, from 1; equals the stream sequence.
        time: when the gateway decided.
        epoch: counts the starts of gateways that wrote to this ledger.
        ingress: written as `in`; the submission.
        by: `team.name` of the sender, as the broker authenticated it.
        kind, to: where it goes.
        verdict, why: what was decided, and on which grounds.
        first: of a duplicate, the sequence of the first record; of what was held and is not any
            more, that of the record that holds it.
        envelope: the message, byte for byte; absent when it could not be read.
        raw: base64 of a message that could not be read; absent when it was oversized.
    """

    v: int
    log: str
    seq: Annotated[int, msgspec.Meta(ge=1)]
    time: str
    epoch: int
    ingress: Ingress = msgspec.field(name="in")
    by: str
    kind: Kind
    to: str
    verdict: Verdict
    why: Why
    first: int | None = None
    envelope: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    raw: str | None = None

    def message(self) -> Envelope | None:
        """The envelope, or None where the message could not be read.

        Raises:
            InvalidEnvelope: the record holds none that a gateway would have admitted.
        """
        if isinstance(self.envelope, msgspec.UnsetType):
            return None
        return decode(bytes(self.envelope), limit=None)


class Reason:
    """The words of `Why.reason`. They are part of the format: add, never change."""

    PERMITTED = "permitted"
    FORBIDDEN = "forbidden"
    NOT_PERMITTED = "not_permitted"
    POLICY_ERROR = "policy_error"
    UNKNOWN_SENDER = "unknown_sender"
    UNKNOWN_DESTINATION = "unknown_destination"
    INVALID_COMMAND = "invalid_command"
    EXPIRED = "expired"
    REPEATED = "repeated"
    MALFORMED = "malformed"
    OVERSIZED = "oversized"
    RESERVED_HEADER = "reserved_header"
    LEARNED = "learned"
    INVALID_FACTS = "invalid_facts"
    INVALID_DELEGATION = "invalid_delegation"
    OUTSIDE_BLUEPRINT = "outside_blueprint"
    RATE_LIMITED = "rate_limited"
    OVER_BUDGET = "over_budget"
    APPROVAL_REQUIRED = "approval_required"
    APPROVED = "approved"
    APPROVAL_REFUSED = "approval_refused"
    APPROVAL_EXPIRED = "approval_expired"
    PAUSED = "paused"
    QUARANTINED = "quarantined"
    RELEASED = "released"
    KILLED = "killed"
    TOO_MANY_HELD = "too_many_held"
    RUN_OVER = "run_over"
    TIME_PASSED = "time_passed"
    UNSEALED = "unsealed"
    ERASED = "erased"
    NOT_ASKED = "not_asked"


_decoder = msgspec.json.Decoder(Record)
_encoder = msgspec.json.Encoder()


def encode_record(record: Record) -> bytes:
    """The leaf bytes."""
    return _encoder.encode(record)


def decode_record(payload: bytes) -> Record:
    """Read a record.

    Raises:
        InvalidRecord: the bytes are no record of a known version, or not the ones that
            `encode_record` writes: a field given twice would mean one thing to one reader and
            another to the next.
    """
    try:
        payload.decode()
        record = _decoder.decode(payload)
        canonical = _encoder.encode(record)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecord(f"not a ledger record: {describe(error)}") from error
    if record.v != VERSION:
        raise InvalidRecord(f"record version {record.v}; this program reads version {VERSION}")
    if canonical != payload:
        raise InvalidRecord("not a ledger record: not in the one form in which they are written")
    return record


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What the sender hears of one envelope.

    Attributes:
        id: the envelope.
        verdict: what was decided; `duplicate` comes with the first verdict in `was`.
        seq: sequence of the record (of the first record, for a duplicate).
        reason, detail, policies: the grounds, see `Why`; detail is a sentence for people.
        was: of a duplicate, the verdict of the first record.
        ingress: sequence of the submission, for a message whose id could not be read.
    """

    id: str
    verdict: Verdict
    seq: int
    reason: str
    ingress: int
    detail: str = ""
    policies: tuple[str, ...] = ()
    was: Verdict | None = None


_receipts_decoder = msgspec.json.Decoder(list[Receipt])


def encode_receipts(receipts: list[Receipt]) -> bytes:
    """One message of receipts for one sender."""
    return _encoder.encode(receipts)


def decode_receipts(payload: bytes) -> list[Receipt]:
    """Read receipts, strictly.

    Raises:
        InvalidRecord: anything but a list of receipts.
    """
    try:
        return _receipts_decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise InvalidRecord(f"not receipts: {describe(error)}") from error


class Growth(msgspec.Struct, frozen=True):
    """A hint that the ledger grew. It may be lost, and one that comes is true.

    Attributes:
        first, last: sequences of the records that were added.
        subjects: all that they are stored under; None where these are many.
    """

    first: int
    last: int
    subjects: tuple[str, ...] | None = None


_MANY_SUBJECTS = 32
_growth_decoder = msgspec.json.Decoder(Growth)


def encode_growth(first: int, subjects: list[str]) -> bytes:
    """The hint of the records from `first` on; the subject of each."""
    known = tuple(set(subjects))
    last = first + len(subjects) - 1
    return _encoder.encode(Growth(first, last, known if len(known) <= _MANY_SUBJECTS else None))


def decode_growth(payload: bytes) -> Growth | None:
    """Read a hint; None for anything else, which tells of growth all the same."""
    try:
        return _growth_decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
