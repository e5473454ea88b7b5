"""The protocol in bulk: whatever the pieces, the same messages come out."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tidegate_bus.frames import Entry, Frames, Status
from tidegate_schemas.errors import Unavailable

END = b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 7\r\nNats-Last-Sequence: 3\r\n\r\n"


def frame(head: bytes, payload: bytes = b"", subject: bytes = b"_INBOX.x 1") -> bytes:
    """A message with headers, as the broker writes it."""
    sizes = b"%d %d" % (len(head), len(head) + len(payload))
    return b"HMSG %b %b\r\n%b%b\r\n" % (subject, sizes, head, payload)


def stored(seq: int, payload: bytes, own: bytes = b"") -> bytes:
    """A message of a stream, that was stored with headers of its own."""
    head = b"NATS/1.0\r\n%bNats-Stream: S\r\nNats-Subject: a.b\r\nNats-Sequence: %d\r\n" % (
        own,
        seq,
    )
    return frame(head + b"Nats-Time-Stamp: 2026-01-01T00:00:00Z\r\n\r\n", payload)


def fed(data: bytes, *cuts: int) -> Frames:
    """What came out of the bytes, cut there."""
    frames = Frames()
    for begin, end in pairwise([0, *sorted(cuts), len(data)]):
        frames.feed(data[begin:end])
    return frames


@given(
    st.lists(st.binary() | st.sampled_from([b"\r\nHMSG x 1 2 2\r\n", stored(9, b"x"), END])),
    st.data(),
)
def test_pieces_may_be_cut_anywhere(payloads: list[bytes], data: st.DataObject) -> None:
    """No payload, also one that looks like the protocol, is taken for anything else."""
    said = b"PING\r\n" + b"".join(stored(seq, p) for seq, p in enumerate(payloads, 1)) + frame(END)
    cuts = data.draw(st.lists(st.integers(0, len(said))))
    frames = fed(said, *cuts)

    assert frames.entries == [Entry(seq, p) for seq, p in enumerate(payloads, 1)]
    assert frames.status == Status(204, "EOB", 7)
    assert frames.pings == 1


def test_a_header_that_a_message_was_stored_with_is_not_its_sequence() -> None:
    """The broker appends its own; who stored it cannot have written those."""
    assert fed(stored(5, b"x", b"Nats-Sequence: 4\r\n")).entries == [Entry(5, b"x")]


def test_what_the_broker_says_besides_is_kept() -> None:
    """Pings, pongs and errors; what it says of itself does not matter."""
    frames = fed(b"INFO {\"x\":1}\r\nPING\r\nPONG\r\n+OK\r\n-ERR 'Stale Connection'\r\n")

    assert (frames.pings, frames.pongs, frames.errors) == (1, 1, ["Stale Connection"])
    assert (frames.entries, frames.status) == ([], None)


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"NATS/1.0 404 Message Not Found\r\n\r\n", Status(404, "Message Not Found", 0)),
        (b"NATS/1.0 503\r\n\r\n", Status(503, "", 0)),
        (b"NATS/1.0 408\r\nDescription: Bad Request\r\n\r\n", Status(408, "Bad Request", 0)),
        (END, Status(204, "EOB", 7)),
    ],
)
def test_a_status_is_a_message_without_a_sequence(head: bytes, status: Status) -> None:
    """With or without words, which stand in one of two places."""
    assert fed(frame(head)).status == status


@pytest.mark.parametrize(
    "said",
    [
        b"HTTP/1.1 400 Bad Request\r\n",
        b"HMSG x 1 many 5\r\n",
        b"HMSG\r\n",
        b"HMSG \r\n",
        b"MSG x 1 2\r\nhi\r\n",
        b"\r\n",
        frame(b"HTTP/1.1 404\r\n\r\n"),
        frame(b"NATS/1.0 many\r\n\r\n"),
        frame(b"NATS/1.0\r\nNats-Sequence: many\r\n\r\n"),
        b"x" * 70_000,
    ],
)
def test_anything_else_is_not_a_broker(said: bytes) -> None:
    """Unavailable; no other error comes out of it."""
    with pytest.raises(Unavailable, match="not the protocol"):
        fed(said)
