"""What nats-server says of its connections: its events, and the answer to CONNZ."""

from __future__ import annotations

import base64
import re

import msgspec
import structlog

_log: structlog.stdlib.BoundLogger = structlog.get_logger("tidegate.monitoring")

_ACCOUNT_KEY = re.compile(r"A[A-Z2-7]{55}")


class Server(msgspec.Struct, frozen=True):
    """Which server speaks. It has another id after each start."""

    id: str


class EventClient(msgspec.Struct, frozen=True):
    """The client that an event is about. Other fields are of no use here."""

    id: int
    acc: str = ""
    user: str = ""
    jwt: str = ""

    @property
    def key(self) -> str:
        """The public key that it proved, empty if none."""
        return proven_key(self.acc, self.user, self.jwt)


class Event(msgspec.Struct, frozen=True):
    """`$SYS.ACCOUNT.<account>.CONNECT` or `.DISCONNECT`."""

    client: EventClient
    reason: str = ""
    """Why it disconnected, in the broker's words."""


class PictureClient(msgspec.Struct, frozen=True):
    """A client in CONNZ, asked for with `auth`."""

    cid: int
    account: str = ""
    authorized_user: str = ""
    jwt: str = ""

    @property
    def key(self) -> str:
        """The public key that it proved, empty if none."""
        return proven_key(self.account, self.authorized_user, self.jwt)


class PicturePage(msgspec.Struct, frozen=True):
    """Connections in the order of their numbers."""

    connections: tuple[PictureClient, ...] = ()


class Picture(msgspec.Struct, frozen=True):
    """The answer to `$SYS.REQ.SERVER.PING.CONNZ`, one page."""

    server: Server
    data: PicturePage


class _Claims(msgspec.Struct):
    sub: str = ""


_event = msgspec.json.Decoder(Event)
_claims = msgspec.json.Decoder(_Claims)


def proven_key(account: str, user: str, jwt: str) -> str:
    """The public key that a client proved, from what the broker says of it.

    In operator mode, where the account is a key itself, `user` is whatever the client wrote as
    `nkey` into its CONNECT: it could be another's. What the broker checked is the subject of the
    JWT. With static keys it is `user`, and a JWT beside it means nothing.
    """
    if not _ACCOUNT_KEY.fullmatch(account):
        return user
    try:
        body = jwt.split(".")[1]
        return _claims.decode(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4))).sub
    except (IndexError, ValueError, msgspec.MsgspecError):
        return ""


def read_event(payload: bytes) -> Event | None:
    """An event, or None where it is none that can be read, which is logged."""
    try:
        return _event.decode(payload)
    except msgspec.MsgspecError as error:
        _log.warning("unreadable event of the broker", error=str(error))
        return None
