"""Sessions: how they begin, and all the ways in which they end."""

from __future__ import annotations

from pathlib import Path

import pytest

from tidegate.console.security import own_path
from tidegate.console.session import (
    BACK,
    IDLE,
    LONGEST,
    TRIES,
    TRIES_WITHIN,
    Attempts,
    NotLetIn,
    Session,
    Sessions,
)
from tidegate.tokens import Token, Tokens
from tidegate_schemas.identity import Role
from tidegate_schemas.subjects import Principal

ANN = Principal("ops", "ann")
NOW = 1_800_000_000_000_000_000
SECOND = 1_000_000_000


class Door:
    """Sessions, the tokens that open them, and what people are."""

    def __init__(self, folder: Path) -> None:
        self.tokens = Tokens(folder / "tokens.json")
        self.roles: dict[Principal, Role] = {ANN: Role.OPERATOR}
        self.sessions = Sessions(self.tokens, lambda who, now: self.roles.get(who))

    def opened(self, expires: int | None = None) -> tuple[Token, Session]:
        """A new session, with its token."""
        token, text = self.tokens.add(ANN, now=NOW, expires=expires)
        return token, self.sessions.open(text, NOW)


@pytest.fixture
def door(tmp_path: Path) -> Door:
    """Ann is an operator; nobody is logged in."""
    return Door(tmp_path)


@pytest.mark.parametrize(
    ("uses", "lasts"),
    [
        ([], IDLE),
        ([IDLE - 1], 2 * IDLE - 1),
        ([n * (IDLE - SECOND) for n in range(1, 25)], LONGEST),
    ],
    ids=["not used", "used once", "always used"],
)
def test_a_session_ends_by_idleness_and_absolutely(door: Door, uses: list[int], lasts: int) -> None:
    """Each use lets it go on for half an hour, but never beyond twelve."""
    _, session = door.opened()
    for use in uses:
        if door.sessions.find(session.key, NOW + use):
            session.used = NOW + use

    assert door.sessions.alive(session, NOW + lasts - 1)
    assert not door.sessions.alive(session, NOW + lasts)
    assert door.sessions.find(session.key, NOW + lasts) is None
    assert len(door.sessions) == 0


@pytest.mark.parametrize("role", [None, Role.PUBLISHER, Role.AGENT])
def test_a_session_ends_when_its_person_is_no_operator_any_more(
    door: Door, role: Role | None
) -> None:
    """Also by the register: whoever may not read the ledger sees nothing more of it."""
    _, session = door.opened()
    if role:
        door.roles[ANN] = role
    else:
        del door.roles[ANN]

    assert door.sessions.find(session.key, NOW) is None
    with pytest.raises(NotLetIn, match="not an operator"):
        door.opened()


def test_a_session_ends_with_its_token(door: Door) -> None:
    """Revoked, or at its time; nothing of a session is in the token, nor the other way round."""
    token, session = door.opened()
    _, short = door.opened(expires=NOW + SECOND)
    door.tokens.revoke(token.id)

    assert door.sessions.find(session.key, NOW) is None
    assert door.sessions.find(short.key, NOW) is short
    assert door.sessions.find(short.key, NOW + SECOND) is None
    assert session.key != session.csrf
    assert token.digest not in session.key + session.csrf
    assert short.key not in repr(short)


def test_a_clock_that_is_set_back_prolongs_no_session(door: Door) -> None:
    """More than by a minute, nobody can tell for how long it was not used; it ends."""
    _, session = door.opened()

    assert door.sessions.alive(session, NOW - BACK)
    assert door.sessions.find(session.key, NOW - BACK - 1) is None
    assert len(door.sessions) == 0


def test_who_logs_in_again_and_again_logs_nobody_else_out(door: Door) -> None:
    """Of many sessions of one person the oldest ends."""
    bob = Principal("ops", "bob")
    door.roles[bob] = Role.OPERATOR
    _, first = door.opened()
    _, text = door.tokens.add(bob, now=NOW)
    others = [door.sessions.open(text, NOW + n) for n in range(1_100)]
    now = NOW + 1_100

    assert door.sessions.alive(first, now)
    assert [door.sessions.alive(other, now) for other in others].count(True) == 50
    assert door.sessions.alive(others[-1], now)


def test_secrets_are_new_for_each_session(door: Door) -> None:
    """Also of the same person and token; closing one leaves the others."""
    _, text = door.tokens.add(ANN, now=NOW)
    first, second = door.sessions.open(text, NOW), door.sessions.open(f" {text}\n", NOW)
    door.sessions.close(first)

    assert len({first.key, first.csrf, second.key, second.csrf}) == 4
    assert min(map(len, (first.key, first.csrf))) >= 43
    assert door.sessions.find(first.key, NOW) is None
    assert door.sessions.find(second.key, NOW) is second
    assert door.sessions.has(ANN)


def test_attempts_are_counted_within_a_minute() -> None:
    """The limit holds until the first of them is a minute ago, and for that address only."""
    attempts = Attempts()
    for n in range(TRIES):
        assert attempts.wait("a", NOW + n * SECOND) == 0
        attempts.failed("a", NOW + n * SECOND)

    late = NOW + TRIES * SECOND
    assert attempts.wait("a", late) == TRIES_WITHIN // SECOND - TRIES
    assert attempts.wait("b", late) == 0
    assert attempts.wait("a", NOW + TRIES_WITHIN) == 0


def test_a_clock_that_is_set_back_locks_nobody_out() -> None:
    """Attempts of the time to come do not count."""
    attempts = Attempts()
    for _ in range(TRIES):
        attempts.failed("127.0.0.1", NOW)

    assert attempts.wait("127.0.0.1", NOW) > 0
    assert attempts.wait("127.0.0.1", NOW - 3600 * SECOND) == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "https://evil.example/",
        "javascript:alert(1)",
        "/a\r\nSet-Cookie: x=1",
        "evil.example",
        "/\tx",
    ],
)
def test_only_a_path_of_the_console_is_gone_back_to(text: str) -> None:
    """What browsers take for another site, or for a header, is the start page."""
    assert own_path(text) == "/"
    assert own_path("/ledger/5?by=a.b&x=%2F") == "/ledger/5?by=a.b&x=%2F"
