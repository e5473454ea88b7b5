"""What became of a change of an identity: said once it is in force, or why it is not."""

from __future__ import annotations

import fcntl
import sys
import time
from typing import Any

import typer

from tidegate.identities import current
from tidegate.project import Project, State
from tidegate.reconciler import Applied, applied
from tidegate_bus.identity.credentials import public_key
from tidegate_bus.identity.register import Entry
from tidegate_schemas.errors import InvalidInput, Unavailable
from tidegate_schemas.identity import is_built_in
from tidegate_schemas.subjects import Principal

from .console import clean, err, print_json

_APPLY_SECONDS = 15.0
_POLL_SECONDS = 0.05


def row(here: Project, entry: Entry) -> dict[str, Any]:
    """One identity, for programs."""
    now = time.time_ns()
    done = applied(here.state)
    state = entry.state(now)
    reason = entry.reason
    if done and state == "active" and entry.principal in done.refused:
        state, reason = "refused", done.refused[entry.principal]
    source = "the bus" if is_built_in(entry.principal) else "the register"
    if not is_built_in(entry.principal) and entry.declared:
        source = "the project"
    return {
        "principal": entry.principal,
        "role": entry.role.value,
        "state": state,
        "reason": reason,
        "keys": list(entry.good(now)),
        "seed_here": seed_is_here(here.state, entry),
        "since": entry.keys[-1].since,
        "expires": entry.expires,
        "capabilities": list(entry.capabilities),
        "subscribes": list(entry.subscribes),
        "from": source,
    }


def seed_is_here(state: State, entry: Entry) -> bool:
    """Whether the seed of its newest key is kept in the state."""
    try:
        seed = state.keyring.find_seed(entry.who)
    except InvalidInput:  # whoever needs it will be told
        return False
    return seed is not None and public_key(seed) == entry.keys[-1].public


def report(
    here: Project, name: str, what: str, as_json: bool, *, seed: str = "", keyed: bool = True
) -> None:
    """Say what was done, once it is in force where a stack runs.

    Args:
        here: whose register was changed.
        name: whose identity.
        what: was done to it.
        as_json: for programs.
        seed: to be shown, because nobody else has it.
        keyed: whether it has a new key.

    Raises:
        Exit: it is not in force; this has been said.
    """
    if seed and not as_json:
        sys.stdout.write(seed + "\n")  # before anything can fail: nobody else has it
        sys.stdout.flush()
    in_force: Applied | None = None
    failed: tuple[str, str, int] | None = None
    try:
        in_force = _until_applied(here)
        if in_force and name in in_force.refused:
            failed = ("Refused", f"{name} is not let in: {in_force.refused[name]}", 3)
    except Unavailable as error:
        failed = ("Unavailable", str(error), 4)
    except KeyboardInterrupt:
        failed = ("Interrupted", "written; `tidegate identity list` tells what is in force", 130)
    if as_json:
        register = here.state.register.read()
        found = row(here, current(here).entries.get(name, register[name]))
        said: dict[str, Any] = {**found, "in_force": in_force is not None and failed is None}
        if seed:
            said["seed"] = seed
        if failed:
            said["error"] = {
                "type": failed[0],
                "message": failed[1],
                "retryable": failed[0] == "Unavailable",
            }
        print_json(said)
    elif failed:
        err.print(f"[red]{'denied:' if in_force else 'error'}[/red] {clean(failed[1])}")
    if failed:
        raise typer.Exit(failed[2])
    if as_json:
        return
    where = "in force" if in_force else "in force when the stack starts"
    err.print(f"[green]{what}[/green] {clean(name)}; {where}", highlight=False)
    keyring, who = here.state.keyring, Principal.parse(name)
    if keyed and seed_is_here(here.state, current(here).entries[name]):
        err.print(f"its key is in {clean(str(keyring.path(who)))}", highlight=False)
    elif keyed and keyring.token_path(who).exists():
        err.print(f"its token is in {clean(str(keyring.token_path(who)))}", highlight=False)


def _until_applied(here: Project) -> Applied | None:
    """Wait for the running stack; None where none runs.

    Raises:
        Unavailable: it does not apply what the register says; its output says why.
    """
    version = here.state.register.version()
    deadline = time.monotonic() + _APPLY_SECONDS
    while _stack_runs(here.state):
        done = applied(here.state)
        if done and done.register >= version:  # others may have changed it since
            return done
        if time.monotonic() > deadline:
            raise Unavailable(
                f"written to {here.state.register.path}, but the running stack has not applied it "
                f"after {_APPLY_SECONDS:g} s; the output of `tidegate up` says why"
            )
        time.sleep(_POLL_SECONDS)
    return None


def _stack_runs(state: State) -> bool:
    """Not by its address alone, which one that was killed leaves behind."""
    if not state.address.exists():
        return False
    try:
        with (state.folder / "lock").open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
