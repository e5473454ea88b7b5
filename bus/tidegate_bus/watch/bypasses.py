"""Ways past the gateway that the broker must refuse, each as the lines that try it.

Each is harmless also where it works: what it would do is nothing. A comment says why.
"""

from __future__ import annotations

from dataclasses import dataclass

from tidegate_schemas import subjects
from tidegate_schemas.subjects import Kind, Principal

from .wire import Answer


@dataclass(frozen=True, slots=True)
class Attempt:
    """What came of one attempt.

    Attributes:
        name: which.
        through: True if it worked, False if it was refused, None if neither is proven.
        detail: the broker's answer, or what was found.
    """

    name: str
    through: bool | None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Bypass:
    """Something to say to the broker, and the refusal that must be its answer."""

    name: str
    lines: tuple[bytes, ...]
    refusal: str

    def judge(self, answer: Answer) -> Attempt:
        """What the answer proves.

        The broker answers in order, so with the pong and no refusal before it it was let through.
        """
        if any(error.startswith(self.refusal) for error in answer.errors):
            return Attempt(self.name, False, self.refusal)
        if answer.done and not answer.errors:
            return Attempt(self.name, True, "the broker did not refuse it")
        said = "; ".join(answer.errors) or "nothing"
        return Attempt(self.name, None, f"the broker said {said}")


def not_stored(nonce: str) -> bytes:
    """Headers of a message that no stream stores: it asks for a stream that is not there.

    The stream that gets it answers with an error (10060).
    """
    return f"NATS/1.0\r\nNats-Expected-Stream: PROBE_{nonce}\r\n\r\n".encode()


def publish(subject: str, payload: bytes, *, headers: bytes = b"", reply: str = "") -> list[bytes]:
    """The lines that publish a message."""
    total = len(headers) + len(payload)
    if headers:
        return [f"HPUB {subject} {reply} {len(headers)} {total}".encode(), headers + payload]
    return [f"PUB {subject} {reply} {total}".encode(), payload]


def bypasses(victim: Principal, nonce: str, partition: int = 0) -> list[Bypass]:
    """What to try.

    Args:
        victim: whose subjects, inbox, receipts and consumer to try.
        nonce: hexadecimal, part of the names of what is not there.
        partition: of the streams.
    """
    ledger = subjects.ledger_stream(partition)
    consumer = subjects.consumer(victim)
    nowhere = f"PROBE_{nonce}"
    unstored = not_stored(nonce)

    def pub(name: str, subject: str, payload: bytes = b"", headers: bytes = b"") -> Bypass:
        lines = publish(subject, payload, headers=headers)
        return Bypass(name, tuple(lines), f'Permissions Violation for Publish to "{subject}"')

    def sub(name: str, subject: str) -> Bypass:
        # No queue group, so nobody misses what is heard here; and it is over in the same breath.
        lines = f"SUB {subject} {name}".encode(), f"UNSUB {name}".encode()
        return Bypass(name, lines, f'Permissions Violation for Subscription to "{subject}"')

    return [
        # No stream stores it, see `not_stored`.
        pub("submit-as-other", subjects.submission(victim), b"{}", unstored),
        # The same.
        pub(
            "write-ledger",
            subjects.delivery(partition, Kind.EVENT, f"bus.probe.{nonce}"),
            b"{}",
            unstored,
        ),
        # An empty list of receipts: the victim reads it and has heard nothing.
        pub("forge-receipt", subjects.receipt(victim), b"[]"),
        # The body names no stream, which the API answers with an error; and the name is free.
        pub("create-stream", f"$JS.API.STREAM.CREATE.{nowhere}", b"{}"),
        # There is no such stream to update, delete or trim.
        pub("update-stream", f"$JS.API.STREAM.UPDATE.{nowhere}", b"{}"),
        pub("delete-stream", f"$JS.API.STREAM.DELETE.{nowhere}"),
        pub("purge-stream", subjects.stream_purge(nowhere)),
        # The body names no stream and no consumer, which the API answers with an error.
        pub("create-consumer", f"{subjects.consumer_create(ledger)}.{nowhere}.ledger.>", b"{}"),
        # A read, without a subject for the answer.
        pub("read-ledger", subjects.direct_get(ledger), b'{"seq":1}'),
        # "Still working" on a delivery that never was.
        pub("ack-as-other", f"$JS.ACK.{ledger}.{consumer}.1.999999999999.1.1.0", b"+WPI"),
        # No JSON, which the broker answers with an error; and no subject to deliver to.
        pub("pull-as-other", subjects.pull(ledger, consumer), b"{"),
        # A question, without a subject for the answer.
        pub("ask-system", "$SYS.REQ.SERVER.PING"),
        sub("hear-everything", ">"),
        sub("hear-submissions", "in.>"),
        sub("hear-ledger", subjects.ledger_subjects(partition)),
        sub("hear-inbox", f"{subjects.inbox(victim)}.>"),
        sub("hear-receipts", subjects.receipt(victim)),
    ]
