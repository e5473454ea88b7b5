"""`tidegate token`: what callers over HTTP show, and whom it stands for."""

from __future__ import annotations

import sys
import time
from typing import Annotated, Any

import typer

from tidegate.identities import ensure_keys, role_of
from tidegate.project import open_project
from tidegate.tokens import Token, Tokens, check_holder
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.subjects import Principal

from .console import JsonOption, ProjectOption, StateOption, clean, err, group, out, print_json
from .console import table as made_table
from .expiry import end_of

app = group("Make the tokens that outside systems and people show to the HTTP edge and console.")


@app.command()
def add(
    principal: Annotated[
        str, typer.Argument(metavar="TEAM.NAME", help="Whom the token stands for.")
    ],
    note: Annotated[str, typer.Option(help="What it is for; `list` shows it.")] = "",
    expires: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="When it ends: 12h, 90d, or an RFC 3339 time."),
    ] = None,
    rate: Annotated[
        str | None,
        typer.Option(
            metavar="N/TIME", help="How often it may be used, e.g. 100/1s; `edge.rate` by default."
        ),
    ] = None,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make a token and print it, this once: only its SHA-256 is kept.

    It is good at once, also where a stack runs. Whoever shows it acts as the principal.
    """
    here = open_project(project, state)
    who = Principal.parse(principal)
    now = time.time_ns()
    end = end_of(expires, now)
    ensure_keys(here, now)
    check_holder(who, role_of(here.state, who))
    token, text = Tokens(here.state.tokens).add(who, now=now, note=note, expires=end, rate=rate)
    if as_json:
        print_json({**_shown(token), "token": text})
        return
    sys.stdout.write(text + "\n")
    until = f", until {token.expires}" if token.expires else ""
    err.print(
        f"[green]added[/green] {token.id} for {clean(principal)}{until}; it is shown only now",
        highlight=False,
    )
    if not here.state.keyring.path(who).exists():
        err.print(
            f"[yellow]note:[/yellow] the key of {clean(principal)} is kept elsewhere; "
            "the edge cannot speak for it until it is here",
        )


@app.command("list")
def list_(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """List the tokens: whom each stands for, and until when. No text of one is shown again."""
    here = open_project(project, state)
    rows = [_shown(token) for token in Tokens(here.state.tokens).read()]
    if as_json:
        print_json(rows)
        return
    columns = ("id", "principal", "state", "created", "expires", "rate", "note")
    out.print(
        made_table(
            "",
            columns,
            (
                (
                    one["id"],
                    one["principal"],
                    "[yellow]expired[/]" if one["state"] == "expired" else "[green]active[/]",
                    _minute(one["created"]),
                    _minute(one["expires"]),
                    one["rate"],
                    clean(one["note"]) or None,
                )
                for one in rows
            ),
        )
    )


@app.command()
def revoke(
    id: Annotated[str, typer.Argument(metavar="ID", help="Of the token, as `list` shows it.")],
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Take a token away. From the next request on nobody is let in with it."""
    here = open_project(project, state)
    token = Tokens(here.state.tokens).revoke(id)
    if as_json:
        print_json({**_shown(token), "state": "revoked"})
        return
    err.print(f"[green]revoked[/green] {token.id} of {token.principal}", highlight=False)


def _shown(token: Token) -> dict[str, Any]:
    """A token for programs, without its digest."""
    over = token.expires is not None and parse_rfc3339(token.expires) <= time.time_ns()
    return {
        "id": token.id,
        "principal": token.principal,
        "state": "expired" if over else "active",
        "created": token.created,
        "expires": token.expires,
        "rate": token.rate,
        "note": token.note,
    }


def _minute(moment: str | None) -> str | None:
    return moment and moment[:16].replace("T", " ")
