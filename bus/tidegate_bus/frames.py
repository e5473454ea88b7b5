"""Messages of the NATS protocol, taken apart in bulk. No I/O: bytes in, messages out.

For readers of hundreds of thousands of messages: nothing is made of a message but its sequence and
its payload.
"""

from __future__ import annotations

from typing import NamedTuple

from tidegate_schemas.errors import Unavailable

_SEQUENCE = b"\r\nNats-Sequence: "
_VERSION = b"NATS/1.0"
_LONGEST_LINE = 64 * 1024


class Entry(NamedTuple):
    """A message of a stream: its sequence and its payload."""

    seq: int
    payload: bytes


class Status(NamedTuple):
    """A message of headers alone, which ends a batch or says why there is none."""

    code: int
    description: str
    pending: int
    """How many messages of the stream come after the batch."""


class Frames:
    """Takes what a broker says in pieces of any size.

    Attributes:
        entries: messages that came; whoever takes them puts an empty list there.
        status: the last status that came; whoever takes it puts None there.
        pings: how many pongs are owed.
        pongs: how many came.
        errors: the texts of `-ERR`.
    """

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self.status: Status | None = None
        self.pings = self.pongs = 0
        self.errors: list[str] = []
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Take the next piece.

        Raises:
            Unavailable: it is not the protocol of a broker.
        """
        if self._rest:
            data = self._rest + data
        try:
            position = self._take(data)
        except ValueError as error:
            raise Unavailable(f"not the protocol of a broker: {error}") from error
        self._rest = data[position:]

    def _take(self, data: bytes) -> int:
        """Take all that is whole; where the rest begins."""
        find, add, size, position = data.find, self.entries.append, len(data), 0
        while (line := find(b"\r\n", position)) >= 0:
            if data.startswith(b"HMSG ", position):
                # HMSG <subject> <sid> [reply] <bytes of headers> <bytes of all>
                fields = data[position:line].split(b" ")
                begin = line + 2
                head, end = begin + int(fields[-2]), begin + int(fields[-1])
                if end + 2 > size:
                    break
                # The broker's own headers come after those that a message was stored with.
                at = data.rfind(_SEQUENCE, line, head)
                if at < 0:
                    self.status = _status(data[begin:head])
                else:
                    at += len(_SEQUENCE)
                    add(Entry(int(data[at : find(b"\r\n", at)]), data[head:end]))
                position = end + 2
            else:
                self._say(data[position:line])
                position = line + 2
        else:
            if size - position > _LONGEST_LINE:
                raise ValueError("a line without end")
        return position

    def _say(self, line: bytes) -> None:
        operation, _, rest = line.partition(b" ")
        match operation.upper():
            case b"PING":
                self.pings += 1
            case b"PONG":
                self.pongs += 1
            case b"-ERR":
                self.errors.append(rest.decode(errors="replace").strip().strip("'"))
            case b"+OK" | b"INFO":
                pass
            case _:
                raise ValueError(f"it says {line[:40]!r}")


def _status(head: bytes) -> Status:
    first, *lines = head.decode(errors="replace").split("\r\n")
    version, _, rest = first.partition(" ")
    code, _, description = rest.partition(" ")
    if version != _VERSION.decode():
        raise ValueError(f"a message begins with {first[:40]!r}")
    named = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Status(
        int(code or 0),
        description or named.get("description", ""),
        int(named.get("nats-num-pending", 0)),
    )
