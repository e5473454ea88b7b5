"""The subject grammar: the only place that builds subjects and takes them apart.

    in.<team>.<name>                        what a principal submits; its broker permission is
                                            this one literal subject
    ledger.<p>.<verdict>.<kind>.<to…>       a record; <p> is the partition
    receipt.<team>.<name>                   verdicts, back to the sender
    vault.<team>.<name>                     what a principal asks the key service; so too
    tail.<p>                                a hint that the ledger grew; carries the last sequence
    head.<p>                                a signed note: how long the ledger is, and its root

Teams and names: `[a-z0-9-]{1,63}`. Destinations: `[A-Za-z0-9_-]+` tokens joined by dots.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import NamedTuple

from .errors import InvalidName

_NAME = re.compile(r"[a-z0-9-]{1,63}")
_DESTINATION = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_NUMBER = re.compile(r"0|[1-9][0-9]*")
_MAX_DESTINATION = 255

INGRESS_SUBJECTS = "in.*.*"
RECEIPT_SUBJECTS = "receipt.>"
TAIL_SUBJECTS = "tail.>"
VAULT_SUBJECTS = "vault.*.*"
ANSWERS = "_R_.>"
"""Where the broker has what is asked from one account answered in another."""
NOWHERE = "none"
"""The destination of a record whose message had none that could be read."""


class Kind(StrEnum):
    """What a message is for."""

    TASK = "task"
    EVENT = "event"
    RESULT = "result"
    CONTROL = "control"
    UNKNOWN = "unknown"
    """Only in records of messages that could not be read; no sender may write it."""


class Verdict(StrEnum):
    """What the gateway decided."""

    ALLOW = "allow"
    DENY = "deny"
    HOLD = "hold"
    REJECT = "reject"
    DUPLICATE = "duplicate"


@dataclass(frozen=True, slots=True, order=True)
class Principal:
    """Who sends and receives: an agent, a publisher, the coordinator, an operator.

    Raises:
        InvalidName: team or name outside `[a-z0-9-]{1,63}`.
    """

    team: str
    name: str

    def __post_init__(self) -> None:
        for what, value in (("team", self.team), ("name", self.name)):
            if not _NAME.fullmatch(value):
                raise InvalidName(f"{what} {value!r}: 1 to 63 of a-z, 0-9 and -")

    def __str__(self) -> str:
        return f"{self.team}.{self.name}"

    @classmethod
    def parse(cls, text: str) -> Principal:
        """Read `team.name`.

        Raises:
            InvalidName: not two names with a dot between them.
        """
        team, dot, name = text.partition(".")
        if not dot:
            raise InvalidName(f"principal {text!r}: write it as team.name")
        return cls(team, name)


@dataclass(frozen=True, slots=True)
class LedgerAddress:
    """A ledger subject taken apart."""

    partition: int
    verdict: Verdict
    kind: Kind
    to: str


@lru_cache(maxsize=4096)
def check_destination(to: str) -> str:
    """Return `to` if it is a destination.

    Raises:
        InvalidName: outside the grammar, or longer than 255 characters.
    """
    if len(to) > _MAX_DESTINATION or not _DESTINATION.fullmatch(to):
        raise InvalidName(
            f"destination {to[:80]!r}: tokens of A-Z, a-z, 0-9, _ and - joined by dots, "
            f"at most {_MAX_DESTINATION} characters"
        )
    return to


def submission(principal: Principal) -> str:
    """The subject on which a principal submits."""
    return f"in.{principal.team}.{principal.name}"


def submitter(subject: str) -> str:
    """`team.name` of a submission subject, as the broker let it through, names unchecked.

    Raises:
        InvalidName: not a submission subject.
    """
    tokens = subject.split(".")
    if len(tokens) != 3 or tokens[0] != "in":
        raise InvalidName(f"{subject!r} is not a submission subject")
    return f"{tokens[1]}.{tokens[2]}"


def vault(principal: Principal) -> str:
    """The subject on which a principal asks for keys of messages."""
    return f"vault.{principal.team}.{principal.name}"


def asker(subject: str) -> str:
    """`team.name` of who asks for keys, as the broker let it through, names unchecked.

    Raises:
        InvalidName: no such subject.
    """
    tokens = subject.split(".")
    if len(tokens) != 3 or tokens[0] != "vault":
        raise InvalidName(f"{subject!r} asks for no keys")
    return f"{tokens[1]}.{tokens[2]}"


def ledger(partition: int, verdict: Verdict, kind: Kind, to: str) -> str:
    """The subject of a record. `to` must have passed `check_destination` (or be NOWHERE)."""
    return f"ledger.{partition}.{verdict}.{kind}.{to}"


def parse_ledger(subject: str) -> LedgerAddress:
    """Take a ledger subject apart.

    Raises:
        InvalidName: not a ledger subject.
    """
    match subject.split(".", 4):
        case ["ledger", partition, verdict, kind, to] if _NUMBER.fullmatch(partition):
            try:
                return LedgerAddress(
                    int(partition), Verdict(verdict), Kind(kind), check_destination(to)
                )
            except ValueError as error:
                raise InvalidName(f"{subject!r}: {error}") from error
        case _:
            raise InvalidName(f"{subject!r} is not a ledger subject")


def ledger_subjects(partition: int) -> str:
    """All subjects of a partition's ledger."""
    return f"ledger.{partition}.>"


def verdicts(partition: int, verdict: Verdict) -> str:
    """All subjects of the records with a verdict."""
    return f"ledger.{partition}.{verdict}.>"


def delivery(partition: int, kind: Kind, to: str) -> str:
    """The one subject under which admitted messages for a destination are delivered."""
    return ledger(partition, Verdict.ALLOW, kind, to)


def receipt(principal: Principal) -> str:
    """Where a principal hears verdicts."""
    return f"receipt.{principal.team}.{principal.name}"


def tail(partition: int) -> str:
    """Where growth of the ledger is announced."""
    return f"tail.{partition}"


def head(partition: int) -> str:
    """Where the writer of a ledger publishes what it signs of it."""
    return f"head.{partition}"


def ingress_stream(partition: int) -> str:
    """Name of the stream that buffers submissions."""
    return f"INGRESS_{partition}"


def ledger_stream(partition: int) -> str:
    """Name of the stream that is the ledger."""
    return f"LEDGER_{partition}"


def heads_stream(partition: int) -> str:
    """Name of the stream of the signed heads of a ledger."""
    return f"HEADS_{partition}"


def consumer(principal: Principal) -> str:
    """Name of the durable consumer that feeds a principal. `_` is in no name, so it is unique."""
    return f"{principal.team}_{principal.name}"


def consumer_owner(name: str) -> Principal:
    """Whom a durable consumer feeds.

    Raises:
        InvalidName: no name that `consumer` gives.
    """
    team, underscore, rest = name.partition("_")
    if not underscore:
        raise InvalidName(f"{name!r} is no consumer of a principal")
    return Principal(team, rest)


def inbox(principal: Principal) -> str:
    """The reply prefix that only this principal may subscribe to."""
    return f"_INBOX_{principal.team}_{principal.name}"


def pull(stream: str, consumer_name: str) -> str:
    """API subject of pull requests (ADR-13)."""
    return f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer_name}"


def acks(stream: str, consumer_name: str) -> str:
    """All ack subjects of a consumer (ADR-15, the first form)."""
    return f"$JS.ACK.{stream}.{consumer_name}.>"


def direct_get(stream: str) -> str:
    """API subject that reads a stream without a consumer (ADR-31)."""
    return f"$JS.API.DIRECT.GET.{stream}"


def stream_info(stream: str) -> str:
    """API subject that describes a stream."""
    return f"$JS.API.STREAM.INFO.{stream}"


def stream_purge(stream: str) -> str:
    """API subject that trims a stream."""
    return f"$JS.API.STREAM.PURGE.{stream}"


def consumer_create(stream: str) -> str:
    """Prefix of the API subjects that create consumers; name and filter follow."""
    return f"$JS.API.CONSUMER.CREATE.{stream}"


def consumer_info(stream: str, consumer_name: str) -> str:
    """API subject that describes a consumer."""
    return f"$JS.API.CONSUMER.INFO.{stream}.{consumer_name}"


def consumer_list(stream: str) -> str:
    """API subject that describes the consumers of a stream, page by page."""
    return f"$JS.API.CONSUMER.LIST.{stream}"


def consumer_pause(stream: str, consumer_name: str) -> str:
    """API subject that stops the deliveries of a consumer, or lets them go on."""
    return f"$JS.API.CONSUMER.PAUSE.{stream}.{consumer_name}"


class AckAddress(NamedTuple):
    """What an ack subject `$JS.ACK.…` says of the delivery it belongs to (ADR-15).

    Times are nanoseconds since 1970.
    """

    stream: str
    consumer: str
    delivered: int
    stream_seq: int
    consumer_seq: int
    time: int


def parse_ack(subject: str) -> AckAddress:
    """Take an ack subject apart.

    Raises:
        InvalidName: not an ack subject of the first form.
    """
    tokens = subject.split(".")
    if len(tokens) != 9 or tokens[:2] != ["$JS", "ACK"]:
        raise InvalidName(f"{subject!r} is not an ack subject")
    _, _, stream, consumer_, delivered, stream_seq, consumer_seq, time, _ = tokens
    try:
        return AckAddress(
            stream, consumer_, int(delivered), int(stream_seq), int(consumer_seq), int(time)
        )
    except ValueError as error:
        raise InvalidName(f"{subject!r}: {error}") from error
