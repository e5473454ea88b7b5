"""Who is logged in: sessions, in memory only, so that they end with the console.

A session ends when it is not used for a while, after half a day in any case, when its person logs
out, and as soon as the token or the person's role is taken away.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.requests import Request

from tidegate.tokens import Token, Tokens
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

from .outcome import Outcome

_SECOND = 1_000_000_000
IDLE = 30 * 60 * _SECOND
LONGEST = 12 * 3600 * _SECOND
BACK = 60 * _SECOND
"""So far a clock may be set back. A session that was used later than that would last too long."""
_MOST = 1_000
"""Sessions at once; the one that was not used for longest goes first."""
_MOST_OF_ONE = 50
"""Of one person, so that nobody logs everybody else out by logging in."""

TRIES = 10
TRIES_WITHIN = 60 * _SECOND
"""So many logins of one address may fail within that time."""
_MOST_ADDRESSES = 10_000

RoleOf = Callable[[Principal, int], Role | None]
"""What somebody is at a time (ns since 1970); None if nothing."""


class NotLetIn(Exception):
    """A token does not log in. The text is for the person."""


@dataclass(slots=True, eq=False)
class Session:
    """One person at one browser. Times are ns since 1970.

    Attributes:
        key: what the cookie holds.
        principal: who.
        token: id of the token that opened it.
        csrf: what every form must hold.
        began: when it was opened.
        used: when a page was asked for last.
        ends: when the token ends, if ever.
        told: what came of actions, to be shown on the next page.
        streams: live views that are open, the oldest first.
    """

    key: str = field(repr=False)
    principal: Principal
    token: str
    csrf: str = field(repr=False)
    began: int
    used: int
    ends: int | None = None
    told: list[Outcome] = field(default_factory=list[Outcome])
    streams: list[object] = field(default_factory=list[object])


class Sessions:
    """All of them.

    Args:
        tokens: with which people log in.
        role_of: tells who may.
    """

    def __init__(self, tokens: Tokens, role_of: RoleOf) -> None:
        self._tokens = tokens
        self._role_of = role_of
        self._sessions: dict[str, Session] = {}

    def open(self, text: str, now: int) -> Session:
        """Log in with a token.

        Raises:
            NotLetIn: there is no such token, or it is not of an operator.
            InvalidInput: the file of tokens, or the register, is damaged.
        """
        token = self._tokens.find(text.strip(), now)
        if token is None:
            raise NotLetIn("This token is not known, or it has ended or was revoked.")
        principal = Principal.parse(token.principal)
        if self._role_of(principal, now) is not Role.OPERATOR:
            raise NotLetIn(
                f"{principal} is not an operator. Only operators may read the ledger, "
                "and so only they can log in here."
            )
        session = Session(
            secrets.token_urlsafe(32),
            principal,
            token.id,
            secrets.token_urlsafe(32),
            now,
            now,
            _end(token),
        )
        own = [s for s in self._sessions.values() if s.principal == principal]
        if len(own) >= _MOST_OF_ONE:
            self.close(min(own, key=lambda s: s.used))
        while len(self._sessions) >= _MOST:
            self.close(min(self._sessions.values(), key=lambda s: s.used))
        self._sessions[session.key] = session
        return session

    def find(self, key: str, now: int) -> Session | None:
        """The session that a cookie names, if it has not ended. This alone is no use of it.

        Raises:
            InvalidInput: see `open`.
        """
        session = self._sessions.get(key)
        if session and not self.alive(session, now):
            self.close(session)
            return None
        return session

    def alive(self, session: Session, now: int) -> bool:
        """Whether it goes on.

        Raises:
            InvalidInput: see `open`.
        """
        return (
            session.key in self._sessions
            and -BACK <= now - session.used < IDLE
            and -BACK <= now - session.began < LONGEST
            and (session.ends is None or now < session.ends)
            and any(token.id == session.token for token in self._tokens.read())
            and self._role_of(session.principal, now) is Role.OPERATOR
        )

    def sweep(self, now: int) -> None:
        """Forget those that have ended.

        Raises:
            InvalidInput: see `open`.
        """
        for session in [s for s in self._sessions.values() if not self.alive(s, now)]:
            self.close(session)

    def close(self, session: Session) -> None:
        """Log out."""
        self._sessions.pop(session.key, None)

    def __len__(self) -> int:
        return len(self._sessions)

    def has(self, principal: Principal) -> bool:
        """Whether somebody is logged in."""
        return any(session.principal == principal for session in self._sessions.values())


class Attempts:
    """Counts logins that failed, by address."""

    def __init__(self) -> None:
        self._failed: dict[str, list[int]] = {}

    def wait(self, address: str, now: int) -> int:
        """After how many seconds an address may try again; 0 if it may now."""
        recent = [t for t in self._failed.get(address, ()) if 0 <= now - t < TRIES_WITHIN]
        if len(recent) < TRIES:
            return 0
        return -(-(recent[-TRIES] + TRIES_WITHIN - now) // _SECOND)

    def failed(self, address: str, now: int) -> None:
        """One more."""
        if len(self._failed) >= _MOST_ADDRESSES:
            self._failed.pop(next(iter(self._failed)))
        self._failed[address] = [*self._failed.get(address, ())[-TRIES:], now]


def session_of(request: Request) -> Session:
    """The session of whoever asks; pages that need none have none."""
    session = request.state.session
    assert isinstance(session, Session), "the guard lets nobody else through"
    return session


def same(given: str, wanted: str) -> bool:
    """Whether two secrets are the same, without telling by time how much of them is."""
    return hmac.compare_digest(given.encode(), wanted.encode())


def _end(token: Token) -> int | None:
    return None if token.expires is None else parse_rfc3339(token.expires)
