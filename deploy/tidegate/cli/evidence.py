"""`tidegate evidence`: the keys that sign it."""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Annotated

import typer

from tidegate.evidence_keys import OWN_ROLES, SigningKey, signing_keys, witnesses, write_trust
from tidegate.project import open_project
from tidegate_schemas.clock import parse_duration, rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.evidence import KeyRole

from .console import JsonOption, ProjectOption, StateOption, clean, group, out, print_json

app = group("Look at the keys that sign the ledger's evidence, and renew them.")


class _Own(StrEnum):
    """Whose keys are here."""

    WRITER = KeyRole.WRITER.value
    NOTARY = KeyRole.NOTARY.value
    EXPORT = KeyRole.EXPORT.value


@app.command()
def keys(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show the public keys, since when each signs and until when.

    Whoever checks evidence brings the writer's: the ledger names the others.
    """
    here = open_project(project, state)
    store = signing_keys(here)
    rows = [_row(role, key) for role in OWN_ROLES for key in store.read(role)]
    rows += [
        {"role": KeyRole.WITNESS.value, "key": str(key), "since": None, "status": url}
        for key, url in witnesses(here)
    ]
    if not any(row["role"] == KeyRole.WRITER for row in rows):
        raise InvalidInput("there are no keys yet; `tidegate up` makes them")
    if as_json:
        print_json(rows)
        return
    for row in rows:  # no table: a key that is folded cannot be copied
        since = f", since {row['since']} UTC" if row["since"] else ""
        text = f"{row['role']:<7}  {row['key']}\n{'':9}{row['status']}{since}"
        out.print(clean(text), soft_wrap=True, highlight=False)
    out.print(f"trust file: {clean(str(here.state.trust))}", soft_wrap=True, highlight=False)


@app.command()
def rotate(
    role: Annotated[_Own, typer.Argument(help="Which key.")],
    overlap: Annotated[
        str,
        typer.Option(
            metavar="TIME",
            help="How long the old key signs beside the new one, so that whoever knows only that "
            "can follow; 0s where it is not to be trusted any more.",
        ),
    ] = "7d",
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a new key; a running stack takes it at once and announces it on the ledger.

    The old one goes when the overlap is over and the new one has signed what the old one had.
    """
    here = open_project(project, state)
    try:
        seconds = parse_duration(overlap)
    except ValueError as error:
        raise InvalidInput(str(error)) from error
    store = signing_keys(here)
    if not store.read(KeyRole(role)):
        raise InvalidInput("there are no keys yet; `tidegate up` makes them")
    made = store.rotate(KeyRole(role), seconds, time.time_ns())
    write_trust(here)
    if as_json:
        print_json(_row(KeyRole(role), made))
        return
    out.print(f"{made.signer.verifier}", soft_wrap=True, highlight=False)
    out.print(f"the one before {_status(store.read(KeyRole(role))[1])}", highlight=False)


def _row(role: KeyRole, key: SigningKey) -> dict[str, str | None]:
    """One key, for programs."""
    return {
        "role": role.value,
        "key": str(key.signer.verifier),
        "since": rfc3339(key.since)[:19].replace("T", " "),
        "status": _status(key),
    }


def _status(key: SigningKey) -> str:
    if key.until is None:
        return "signs"
    return f"signs until {rfc3339(key.until)[:19].replace('T', ' ')} UTC"
