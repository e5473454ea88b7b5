"""What nats-server writes to its log when it refuses a client something: reading one line of it.

A line is `[pid] time [level] address - cid:n - "name" - "identity" - what happened`. The broker
quotes what a client chose for itself, except the id of a subscription at the end of a line. So a
line is read from its start, quoted strings first, and nothing of a client ends a string or a line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

_LONGEST = 400
"""Characters of a text that is kept."""

_QUOTED = r'"(?:[^"\\]|\\.)*"'
_LINE = re.compile(
    r"\[\d+\] \d{4}/\d\d/\d\d \d\d:\d\d:\d\d(?:\.\d+)? \[(?P<level>ERR|WRN|INF)\] "
    rf"\S+ - cid:(?P<cid>\d{{1,18}})(?P<strings>(?: - {_QUOTED}){{0,2}}) - (?P<what>.*)",
    re.ASCII | re.DOTALL,
)
_STRING = re.compile(_QUOTED)
_KEY = r"(?P<key>U[A-Z2-7]{55})"
_ACCOUNT = r"A[A-Z2-7]{55}(?:/[^/:]*)?"
"""In operator mode: its key, and its name."""
_STATIC = re.compile(rf"(?!A[A-Z2-7]{{55}}/)[^/:]+/nkey:{_KEY}")
_OPERATOR = re.compile(rf"{_ACCOUNT}/jwt:{_KEY}")
_CLAIMED = re.compile(rf"{_ACCOUNT}/nkey:{_KEY}")
"""In operator mode `nkey` is what the client wrote into its CONNECT; nobody checked it."""
_LOGIN = re.compile(rf'authentication error - Nkey "{_KEY}"')
_SUBJECT = re.compile(rf"Violation(?: Too Many Tokens)? - (?:Subject|Reply) (?P<subject>{_QUOTED})")


class What(StrEnum):
    """Kinds of incidents."""

    PUBLISH = "publish"
    """On a subject that it may not publish on."""
    REPLY = "reply"
    """With a reply subject that nobody may name."""
    SUBSCRIBE = "subscribe"
    """To a subject that it may not hear."""
    LOGIN = "login"
    """With a key that the broker does not know, without one, or without its seed."""
    PAYLOAD = "payload"
    """A message larger than the broker takes."""
    SUBSCRIPTIONS = "subscriptions"
    """More of them than a connection may have."""
    CONNECTIONS = "connections"
    """More of them than there are places."""
    SLOW_CONSUMER = "slow_consumer"
    """It does not read what is sent to it, and was let go."""
    TLS = "tls"
    """No TLS where it is asked for, or without what must be proven by it."""
    PROTOCOL = "protocol"
    """Not the protocol of the broker."""
    OTHER = "other"
    """An error of a client that no other word fits."""


_STARTS = {
    "Publish Violation - Subject ": What.PUBLISH,
    "Publish Violation - Reply ": What.REPLY,
    "Subscription Violation": What.SUBSCRIBE,
    "authentication error": What.LOGIN,
    "maximum payload exceeded": What.PAYLOAD,
    "maximum subscriptions exceeded": What.SUBSCRIPTIONS,
    "maximum connections exceeded": What.CONNECTIONS,
    "maximum account active connections exceeded": What.CONNECTIONS,
    "Slow Consumer Detected": What.SLOW_CONSUMER,
    "TLS handshake error": What.TLS,
    "maximum control line exceeded": What.PROTOCOL,
    "Client parser ERROR": What.PROTOCOL,
    "process": What.PROTOCOL,
}
_START = re.compile("|".join(_STARTS))


@dataclass(frozen=True, slots=True)
class Incident:
    """Something that the broker refused a client.

    Attributes:
        what: the kind.
        cid: the broker's number of the connection.
        key: the public key that the client proved; empty if it proved none, or if the line shows
            what it only said.
        claims: what it says that it is, unproven: a public key, else the name of its connection.
        subject: where it wanted to publish or subscribe, if that is it.
        text: the broker's words, of printable characters only.
    """

    what: What
    cid: int
    key: str
    claims: str
    subject: str
    text: str


def parse(line: bytes) -> Incident | None:
    """Read a line of the broker's log, without its newline.

    Returns:
        None where it tells of no incident; no bytes make it raise.
    """
    found = _LINE.fullmatch(line.decode(errors="replace"))
    if not found:
        return None
    text = found["what"]
    start = _START.match(text)
    what = _STARTS[start[0]] if start else What.OTHER
    if found["level"] != "ERR" and what is not What.SLOW_CONSUMER:
        return None
    strings = [clean(quoted[1:-1]) for quoted in _STRING.findall(found["strings"])]
    identity = strings[-1] if strings else ""
    proven = _STATIC.fullmatch(identity) or _OPERATOR.fullmatch(identity)
    claimed = _CLAIMED.fullmatch(identity) or _LOGIN.fullmatch(text)
    subject = _SUBJECT.match(text.partition(" ")[2])
    return Incident(
        what,
        int(found["cid"]),
        proven["key"] if proven else "",
        claimed["key"] if claimed else "".join(strings[:-1]),
        clean(subject["subject"][1:-1]) if subject else "",
        clean(text),
    )


def clean(text: str) -> str:
    """A text without characters that do something to whoever looks at it, and of bounded length."""
    shown = text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"
    if shown.isprintable():
        return shown
    return "".join(c if c.isprintable() else "?" for c in shown)
