"""What the doctor says when the broker's configuration is not the one that is wanted."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tidegate.broker_drift import (
    _loaded,  # pyright: ignore[reportPrivateUsage]
    broker_drift,
)
from tidegate.cli.init import init
from tidegate.identities import Wanted, current, ensure_keys
from tidegate.project import load_project
from tidegate_bus.broker.accounts import configuration
from tidegate_bus.broker.generated import write_generated
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.keyring import new_seed

Document = dict[str, Any]
STRANGER = public_key(new_seed())


class Written:
    """A configuration as the product writes it, and the log of a broker that has taken it."""

    def __init__(self, folder: Path) -> None:
        init(folder)
        project = load_project(folder)
        ensure_keys(project, 1)
        self.who: Wanted = current(project)
        self.body = configuration(self.who.users(), store=folder / "jetstream", store_bytes=2**30)
        self.path, self.log = folder / "nats.conf", folder / "server.log"
        write_generated(self.path, self.body)

    async def drift(self) -> list[str]:
        """What differs."""
        return await broker_drift(self.path, self.log, self.body, self.who)

    def rewrite(self, change: Callable[[Document], object]) -> None:
        """Change it by hand."""
        document = json.loads(self.body)
        change(document)
        self.path.write_text(json.dumps(document))


@pytest.fixture
def written(tmp_path: Path) -> Written:
    """Nothing changed yet."""
    return Written(tmp_path / "hello")


def website(document: Document) -> Document:
    """The user of a publisher."""
    user: Document = document["accounts"]["outside_website"]["users"][0]
    return user


def _more_rights(document: Document) -> None:
    website(document)["permissions"]["publish"]["allow"].append("ledger.>")


def _fewer_rights(document: Document) -> None:
    website(document)["permissions"]["subscribe"]["allow"].pop()


def _all_rights(document: Document) -> None:
    del website(document)["permissions"]


def _another_user(document: Document) -> None:
    document["accounts"]["BUS"]["users"].append({"nkey": STRANGER})


def _no_user(document: Document) -> None:
    document["accounts"]["outside_website"]["users"].clear()


def _another_account(document: Document) -> None:
    document["accounts"]["BUS"]["users"].append(website(document))
    document["accounts"]["outside_website"]["users"].clear()


def _more_imports(document: Document) -> None:
    imports = document["accounts"]["outside_website"]["imports"]
    imports.append({"service": {"account": "BUS", "subject": "in.front-desk.greeter"}})


def _no_auth(document: Document) -> None:
    document["no_auth_user"] = STRANGER


def _larger(document: Document) -> None:
    document["max_payload"] = 2**26


CHANGES: dict[str, tuple[Callable[[Document], None], str]] = {
    "more rights": (_more_rights, "lets outside.website publish on ledger.>"),
    "fewer rights": (_fewer_rights, "does not let outside.website subscribe on receipt."),
    "all rights": (_all_rights, "lets outside.website publish everything"),
    "another user": (_another_user, f"lets in {STRANGER[:12]}…, which is of nobody"),
    "no user": (_no_user, "does not let in outside.website"),
    "another account": (_another_account, "puts outside.website into the account BUS"),
    "more imports": (_more_imports, "imports of the account outside_website are not as wanted"),
    "a door": (_no_auth, f"no_auth_user is '{STRANGER}', wanted not set"),
    "a limit": (_larger, "max_payload is 67108864, wanted 1048576"),
}


async def test_what_was_generated_does_not_differ(written: Written) -> None:
    """Not by a byte."""
    assert await written.drift() == []


@pytest.mark.parametrize("change", CHANGES)
async def test_what_somebody_changed_is_said_in_words(written: Written, change: str) -> None:
    """That it was changed by hand, and what it lets whom do."""
    by_hand, words = CHANGES[change]
    written.rewrite(by_hand)
    first, *rest = await written.drift()

    assert first == f"{written.path} was changed by hand"
    assert any(line.startswith(words) for line in rest), rest


async def test_who_is_not_wanted_any_more_is_named(written: Written) -> None:
    """The manifest of an agent was removed, and the broker still lets it in."""
    wanted = written.who
    (greeter,) = [user for user in wanted.users() if str(user.principal) == "front-desk.greeter"]
    kept = {name: entry for name, entry in wanted.entries.items() if entry.who != greeter.principal}
    who = replace(wanted, entries=kept, gone=(greeter,))
    body = configuration(who.users(), store=written.path.parent / "jetstream", store_bytes=2**30)

    lines = await broker_drift(written.path, written.log, body, who)
    assert f"lets in {greeter.public_key[:12]}…, which is of front-desk.greeter" in lines


async def test_a_change_of_blanks_is_a_change(written: Written) -> None:
    """It means the same; but somebody was there."""
    written.path.write_text(written.path.read_text() + "\n")

    assert await written.drift() == [f"{written.path} was changed by hand"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{ nonsense",
        "[]",
        '{"accounts": 1}',
        "port: 4222",
        '{"accounts": {"A": {"users": [1]}}}',
    ],
)
async def test_what_is_no_configuration_of_ours_is_said_to_be_none(
    written: Written, text: str
) -> None:
    """Whatever somebody has put there."""
    written.path.write_text(text)

    assert (await written.drift())[:2] == [
        f"{written.path} was changed by hand",
        "it is not of the form in which it is generated",
    ]


async def test_a_missing_file_is_said_to_be_missing(written: Written) -> None:
    """With its path."""
    written.path.unlink()

    assert await written.drift() == [f"{written.path}: No such file or directory"]


async def test_a_broker_that_runs_something_else_is_found_out(written: Written) -> None:
    """By what its log says of the configuration that it took in last."""
    written.log.write_text(
        "[7] 2026/11/22 11:59:47.22 [INF] Using configuration file: x (sha256:00)\n"
        "[7] 2026/11/22 11:59:48.22 [INF] Reloaded server configuration (sha256:0123456789abcdef)\n"
    )

    (line,) = await written.drift()
    assert line.startswith("the broker runs another configuration (sha256:01234567…)")


async def test_a_broker_that_changes_are_pushed_to_need_not_have_read_them(
    written: Written,
) -> None:
    """The file is for its next start."""
    head = "[7] 2026/11/22 11:59:47.22 [INF] "
    written.log.write_text(f"{head}Using configuration file: x (sha256:00)\n")

    found = await broker_drift(written.path, written.log, written.body, written.who, pushed=True)
    assert found == []


HEAD = "[7] 2026/11/22 11:59:47.229140"
START = f"{HEAD} [INF] Using configuration file: /a b/nats.conf (sha256:1a)\n"
TAKEN = "Reloaded server configuration (sha256:ff)"
CLIENT = "127.0.0.1:1 - cid:5"
RELOAD = f"{HEAD} [INF] Reloaded server configuration (sha256:2b)\n"


@pytest.mark.parametrize(
    ("log", "digest"),
    [("", ""), (START, "sha256:1a"), (START + RELOAD, "sha256:2b"), (RELOAD + START, "sha256:1a")],
)
def test_the_last_that_it_took_counts(tmp_path: Path, log: str, digest: str) -> None:
    """From its start or from a reload, whichever was later."""
    path = tmp_path / "server.log"
    path.write_text(log)

    assert _loaded(path) == digest


@pytest.mark.parametrize(
    "line",
    [
        f'{HEAD} [ERR] {CLIENT} - "v1:x:{TAKEN}" - no',
        f'{HEAD} [INF] {CLIENT} - "{TAKEN}',
        f"{HEAD} [INF] {CLIENT} - x \r{HEAD} [INF] {TAKEN}",
    ],
)
def test_what_a_client_calls_itself_does_not_count(tmp_path: Path, line: str) -> None:
    """The log quotes names that clients choose."""
    path = tmp_path / "server.log"
    path.write_text(f"{START}{line}\n", newline="")

    assert _loaded(path) == "sha256:1a"
