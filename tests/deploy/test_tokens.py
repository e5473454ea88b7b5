"""Tokens: made once, kept as digests, found in constant time, gone when they are revoked."""

from __future__ import annotations

import json
import stat
import threading
import time
from pathlib import Path

import pytest

from tidegate.project import load_project
from tidegate.tokens import Token, Tokens
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed
from tidegate_schemas.clock import parse_rfc3339, rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.subjects import Principal

from .test_cli_alone import Program, project, tidegate

__all__ = ["project", "tidegate"]  # fixtures

NOW = parse_rfc3339("2026-01-31T12:00:00Z")
SECOND = 1_000_000_000
WEB = Principal("outside", "web")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the tokens are."""
    return tmp_path / "state" / "tokens.json"


def test_a_token_is_found_by_its_text_and_by_nothing_else(path: Path) -> None:
    """Each half of another token, a digit more or less, and a digest are no token."""
    tokens = Tokens(path)
    token, text = tokens.add(WEB, now=NOW, note="shop", rate="5/1m")
    _, other = tokens.add(WEB, now=NOW)

    assert tokens.find(text, NOW) == token
    assert token == Token(token.id, "outside.web", token.digest, rfc3339(NOW), None, "shop", "5/1m")
    wrong = (
        "",
        "tg_",
        f"tg_{token.id}_",
        text[:-1],
        text + "0",
        text.upper(),
        f" {text}",
        text[:16] + other[16:],
        token.digest,
        f"tg_{token.id}_{token.digest}",
        "tg_\udcff",
    )
    assert [tokens.find(one, NOW) for one in wrong] == [None] * len(wrong)


def test_the_file_does_not_hold_what_it_takes_to_use_it(path: Path) -> None:
    """Only its owner may read it, and not even that helps."""
    tokens = Tokens(path)
    _, text = tokens.add(WEB, now=NOW)

    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert text[16:] not in path.read_text()


def test_a_token_ends_at_its_time(path: Path) -> None:
    """To the nanosecond."""
    tokens = Tokens(path)
    token, text = tokens.add(WEB, now=NOW, expires=NOW + SECOND)

    assert tokens.find(text, NOW + SECOND - 1) == token
    assert tokens.find(text, NOW + SECOND) is None


def test_what_others_change_counts_at_once(path: Path) -> None:
    """A running process sees tokens that come and go, without being told."""
    here, there = Tokens(path), Tokens(path)
    assert here.read() == ()
    token, text = there.add(WEB, now=NOW)
    assert here.find(text, NOW) == token

    assert there.revoke(token.id) == token
    assert here.find(text, NOW) is None
    with pytest.raises(InvalidInput, match=f"no token {token.id}"):
        here.revoke(token.id)


def test_none_is_lost_when_many_are_made_at_once(path: Path) -> None:
    """The file is changed under a lock."""

    def add() -> None:
        for _ in range(10):
            Tokens(path).add(WEB, now=NOW)

    threads = [threading.Thread(target=add) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len({token.id for token in Tokens(path).read()}) == 40


DAMAGED: dict[str, str | dict[str, str]] = {
    "no JSON": "{",
    "unknown field": '{"tokens": [], "more": 1}',
    "rate": {"rate": "often"},
    "no rate at all": {"rate": "0/1s"},
    "principal": {"principal": "web"},
    "time": {"expires": "tomorrow"},
    "digest": {"digest": "ab"},
    "note": {"note": "two\nlines"},
}


@pytest.mark.parametrize("fault", DAMAGED)
def test_a_damaged_file_lets_nobody_in(path: Path, fault: str) -> None:
    """It is an error that names the file, for every token."""
    token, text = Tokens(path).add(WEB, now=NOW)
    written = json.loads(path.read_text())
    change = DAMAGED[fault]
    if isinstance(change, dict):
        written["tokens"][0].update(change)
        change = json.dumps(written)
    path.write_text(change)

    with pytest.raises(InvalidInput, match=str(path)):
        Tokens(path).find(text, NOW)
    with pytest.raises(InvalidInput, match=str(path)):
        Tokens(path).revoke(token.id)


def test_looking_up_a_token_costs_microseconds(path: Path) -> None:
    """Every request pays for it, also where there are many tokens."""
    tokens = Tokens(path)
    found = [tokens.add(WEB, now=NOW)[1] for _ in range(100)]
    tokens.find(found[0], NOW)

    begin = time.perf_counter()
    for text in found * 20:
        assert tokens.find(text, NOW)
    assert (time.perf_counter() - begin) / 2000 < 100e-6


def test_the_command_prints_the_token_alone(tidegate: Program, project: Path) -> None:
    """So it can be piped; what else there is to say stands on stderr, and `list` never shows it."""
    made = tidegate(
        "token", "add", "front-desk.greeter", "--note", "[b]shop[/b]", "--expires", "90d"
    )
    text = made.out.rstrip("\n")
    tokens = Tokens(load_project(project).state.tokens)
    token = tokens.find(text, time.time_ns())

    assert made.status == 0
    assert token
    assert token.principal == "front-desk.greeter"
    assert made.err.startswith(f"added {token.id} for front-desk.greeter, until 2")
    listed, shown = tidegate.each(("token", "list"), ("token", "list", "--json"))
    assert token.id in listed.out
    assert "[b]shop[/b]" in listed.out
    assert [one["id"] for one in shown.json] == [token.id]
    assert not [one for one in (listed, shown) if text[16:] in one.out or token.digest in one.out]

    revoked = tidegate("token", "revoke", token.id, "--json")
    assert (revoked.status, revoked.json["state"]) == (0, "revoked")
    assert tokens.read() == ()


REFUSED = {
    "unknown": (("a.b",), "a.b may not connect: unknown, revoked or expired"),
    "no principal": (("ada",), "write it as team.name"),
    "of the bus": (("tidegate.gateway",), "tidegate.gateway is the bus's own"),
    "rate": (("tidegate.operator", "--rate", "often"), "'often' is not a rate; write 100/1s"),
    "no rate": (("tidegate.operator", "--rate", "0/1s"), "lets nothing through"),
    "note": (("tidegate.operator", "--note", "a\nb"), "a note is one line"),
    "over": (("tidegate.operator", "--expires", "0s"), "0s is over already"),
}


@pytest.mark.parametrize("why", REFUSED)
def test_not_everybody_gets_a_token(tidegate: Program, project: Path, why: str) -> None:
    """Nor everything that is asked for; nothing is written then."""
    arguments, said = REFUSED[why]
    done = tidegate("token", "add", *arguments)

    assert (done.status, done.out) == (2, "")
    assert said in done.err
    assert not load_project(project).state.tokens.exists()


def test_a_revoked_principal_gets_no_token(tidegate: Program, project: Path) -> None:
    """And the operator, who acts for people at this machine, does."""
    tidegate("identity", "add", "ops.ann", "--role", "operator")
    tidegate("identity", "revoke", "ops.ann")

    assert tidegate("token", "add", "ops.ann").status == 2
    assert tidegate("token", "add", "tidegate.operator", "--json").json["token"].startswith("tg_")


def test_whose_key_is_kept_elsewhere_cannot_be_spoken_for(tidegate: Program, project: Path) -> None:
    """The token is made all the same, and it is said what it lacks."""
    key = public_key(new_seed())
    assert tidegate("identity", "add", "ops.eve", "--role", "operator", "--key", key).status == 0
    made = tidegate("token", "add", "ops.eve")

    assert made.status == 0
    assert "the key of ops.eve is kept elsewhere" in made.err
