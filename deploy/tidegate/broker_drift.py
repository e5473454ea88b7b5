"""Whether the broker runs with the configuration that the register asks for, and what differs."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tidegate_bus.broker.generated import read_generated
from tidegate_bus.broker.server import find_server
from tidegate_schemas.subjects import Principal

from .identities import Wanted

_LOADED = re.compile(
    r"\[\d+\] \S+ \S+ \[INF\] "  # a line about a client goes on with its address
    r"(?:Using configuration file: .*|Reloaded server configuration) \((sha256:\w+)\)\n"
)
_DIGEST = re.compile(r"sha256:\w+")


async def broker_drift(
    path: Path, log: Path, body: str, who: Wanted, *, pushed: bool = False
) -> list[str]:
    """What differs, one line each; nothing where all is as it should be.

    Args:
        path: the configuration file.
        log: what the broker says; it names the configuration that it has taken in.
        body: the configuration that is wanted.
        who: names the keys in it.
        pushed: changes are pushed to the broker, as in operator mode; it reads the file when it
            starts only, so that it may have started with an older one.
    """
    try:
        found, intact = read_generated(path)
    except OSError as error:
        return [f"{path}: {error.strerror}"]
    lines: list[str] = []
    if not intact:
        lines.append(f"{path} was changed by hand")
    if found != body:
        names = {user.public_key: user.principal for user in (*who.gone, *who.users())}
        try:
            lines += _differences(body, found, names)
        except (ValueError, KeyError, TypeError, AttributeError):
            lines.append("it is not of the form in which it is generated")
    if pushed:
        return lines
    loaded, written = _loaded(log), await _digest(path)
    if loaded and written and loaded != written:
        lines.append(
            f"the broker runs another configuration ({loaded[:15]}…) than is in {path}; "
            "`tidegate identity` makes it read again what it should"
        )
    return lines


def _differences(wanted: str, found: str, names: dict[str, Principal]) -> Iterator[str]:
    should, actual = json.loads(wanted), json.loads(found)
    theirs, ours = actual.pop("accounts"), should.pop("accounts")
    has, wants = _users(theirs), _users(ours)
    for key in sorted({*should, *actual}):
        if should.get(key) != actual.get(key):
            yield f"{key} is {_short(actual.get(key))}, wanted {_short(should.get(key))}"
    for key in sorted({*has, *wants}):
        who = names.get(key, "nobody")
        if key not in wants:
            yield f"lets in {key[:12]}…, which is of {who}"
        elif key not in has:
            yield f"does not let in {who}"
        elif has[key] != wants[key]:
            for what in ("publish", "subscribe"):
                yield from _rights(who, what, wants[key][1], has[key][1])
            if has[key][0] != wants[key][0]:
                yield f"puts {who} into the account {has[key][0]}, not {wants[key][0]}"
    for name in sorted({*theirs, *ours}):
        for what in ("imports", "exports", "jetstream"):
            if theirs.get(name, {}).get(what) != ours.get(name, {}).get(what):
                yield f"{what} of the account {name} are not as wanted"


def _short(value: Any) -> str:
    """A setting of the broker; a block of them is not shown."""
    if isinstance(value, dict):
        return "another block of settings"
    return "not set" if value is None else repr(value)


def _users(accounts: dict[str, Any]) -> dict[str, tuple[str, Any]]:
    return {
        str(user.get("nkey", user.get("user"))): (name, user.get("permissions"))
        for name, account in accounts.items()
        for user in account.get("users", ())
    }


def _rights(
    who: object, what: str, wanted: dict[str, Any], found: dict[str, Any] | None
) -> Iterator[str]:
    if found is None or what not in found:
        yield f"lets {who} {what} everything"
        return
    may, should = set(found[what].get("allow", ())), set(wanted[what]["allow"])
    for subject in sorted(may - should):
        yield f"lets {who} {what} on {subject}"
    for subject in sorted(should - may):
        yield f"does not let {who} {what} on {subject}"


def _loaded(log: Path) -> str:
    loaded = ""
    try:
        with log.open(encoding="utf-8", errors="replace", newline="\n") as lines:
            for line in lines:
                if found := _LOADED.fullmatch(line):
                    loaded = found[1]
    except OSError:
        return ""
    return loaded


async def _digest(path: Path) -> str:
    """As the broker itself computes it; empty where it does not take the file."""
    process = await asyncio.create_subprocess_exec(
        str(await find_server()),
        *("-t", "-c", str(path)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    found = _DIGEST.search(output.decode(errors="replace"))
    return found[0] if found and process.returncode == 0 else ""
