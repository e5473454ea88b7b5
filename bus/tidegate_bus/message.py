"""A message as the broker hands it out."""

from __future__ import annotations

_VERSION = b"NATS/1.0"


class Message:
    """One message. Made by the hundred thousand, so its headers are taken apart when asked for.

    Attributes:
        subject: where it was published.
        reply: where to answer; empty where nobody waits.
        data: the payload.
        head: the headers as they came, with their first line; empty where there are none.
    """

    __slots__ = ("data", "head", "reply", "subject")

    def __init__(self, subject: str, reply: str, data: bytes, head: bytes = b"") -> None:
        self.subject = subject
        self.reply = reply
        self.data = data
        self.head = head

    @property
    def headers(self) -> dict[str, str]:
        """The headers (ADR-4); of one that is given twice, the last.

        What stands in the first line is `Status` and `Description`.
        """
        first, _, rest = self.head.partition(b"\r\n")
        found: dict[str, str] = {}
        status, _, description = first[len(_VERSION) :].strip().partition(b" ")
        if status:
            found["Status"] = status.decode(errors="replace")
        if description:
            found["Description"] = description.decode(errors="replace")
        for line in rest.split(b"\r\n"):
            name, colon, value = line.partition(b":")
            if colon:
                found[name.strip().decode(errors="replace")] = value.strip().decode(
                    errors="replace"
                )
        return found
