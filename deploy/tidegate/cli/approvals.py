"""`tidegate approvals`: what waits for people to agree, and what they say."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.approvals import described, opinion, the_one, waiting
from tidegate.bus import Bus
from tidegate.governance import end_of, missing, state_of
from tidegate_policy.state import State
from tidegate_schemas import vocabulary
from tidegate_schemas.clock import parse_rfc3339
from tidegate_schemas.vocabulary import OPERATOR

from .commands import buses, say
from .console import (
    AsOption,
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    group,
    out,
    print_json,
    run,
    table,
    verdict,
)

app = group("See what waits for people to agree, and agree or refuse.")

_END_SECONDS = 10.0
_SECOND = 1_000_000_000

SeqArgument = Annotated[
    int, typer.Argument(metavar="RECORD", min=1, help="Ledger record that holds the message.")
]
ReasonOption = Annotated[str, typer.Option(help="Why; it stands in the ledger.")]


@app.command("list")
def list_(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """List what waits, the oldest first."""
    found = run(_waiting(project, state))
    if as_json:
        print_json([{k: v for k, v in hold.items() if k != "envelope"} for hold in found])
        return
    if not found:
        out.print("nothing waits for an approval")
        return
    rows = (
        (
            hold["record"],
            hold["by"],
            f"{hold['kind']} {hold['to']}",
            "\n".join(f"{rule['says']} ({clean(rule['policy'])})" for rule in hold["rules"]),
            ", ".join(hold["agreed"]) or None,
            _in(hold["expires"]),
        )
        for hold in found
    )
    out.print(table("", ("record", "from", "to", "asks", "agreed", "expires in"), rows))
    out.print("`tidegate approvals show RECORD` shows one whole")


@app.command()
def show(
    seq: SeqArgument,
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what waits whole: the message, who is asked, and the digests that an approval binds."""
    hold = run(_one(seq, project, state))
    if as_json:
        print_json(hold)
        return
    out.print(f"record {seq} holds the {hold['kind']} {hold['to']} from {hold['by']}")
    for rule in hold["rules"]:
        out.print(f"asks       {clean(rule['says'])} ({clean(rule['policy'])})")
    out.print(f"agreed     {', '.join(hold['agreed']) or 'nobody'}")
    if hold["agreed_before"]:
        out.print(f"           {', '.join(hold['agreed_before'])} under policies of before")
    out.print(f"expires    {hold['expires'] or 'never'}")
    _print_digests(hold)
    out.print(clean(json.dumps(hold["envelope"], indent=2, ensure_ascii=False)), highlight=False)


@app.command()
def grant(
    seq: SeqArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Agree that a message goes on: this message, under the policies in force now, once."""
    _speak(vocabulary.APPROVAL_GRANT, seq, reason, principal, project, state, as_json)


@app.command()
def refuse(
    seq: SeqArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Refuse a message for all who are asked: it is denied."""
    _speak(vocabulary.APPROVAL_REFUSE, seq, reason, principal, project, state, as_json)


def _speak(
    command: str,
    seq: int,
    reason: str,
    principal: str,
    project: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    said = run(_opine(command, seq, reason, principal, project, state))
    if as_json:
        print_json(said)
        return
    word = "granted" if command == vocabulary.APPROVAL_GRANT else "refused"
    out.print(
        f"[green]{word}[/green] record {seq}, {said['kind']} {said['to']} from {said['by']}; "
        f"ledger record {said['opinion']}"
    )
    _print_digests(said)
    if end := said["end"]:
        out.print(f"{verdict(end['verdict'])} as record {end['record']}: {clean(end['detail'])}")
    elif said["asked"]:
        agreed = ", ".join(said["agreed"]) or "nobody"
        out.print(f"it waits on: {clean('; '.join(said['asked']))}; agreed so far: {agreed}")
    else:
        out.print("all have agreed; it waits on for something else, see `tidegate control show`")


async def _opine(
    command: str,
    seq: int,
    reason: str,
    principal: str,
    project: Path | None,
    state: Path | None,
) -> dict[str, Any]:
    async with buses(principal, project, state) as (operator, sender):
        now = await state_of(operator.ledger)
        hold = the_one(now, seq)
        receipt = await say(sender, command, opinion(now, hold, reason))
        end = None
        after = await state_of(operator.ledger, receipt.seq)
        asked = missing(after, hold_) if (hold_ := after.holds.get(seq)) else []
        if not asked or command == vocabulary.APPROVAL_REFUSE:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_END_SECONDS):
                    end = await _end(operator, after, seq, receipt.seq)
    return {
        **described(after, after.holds.get(seq) or hold),
        "opinion": receipt.seq,
        "asked": [rule.asks for rule in asked],
        "end": end,
    }


async def _end(operator: Bus, state: State, seq: int, opinion: int) -> dict[str, Any] | None:
    hold = state.holds.get(seq)
    if hold and not hold.refused and state.stopped(hold.by, hold.kind, hold.to, hold.envelope):
        return None
    found = await end_of(operator.ledger, seq, opinion)
    return found and {"record": found[0], "verdict": found[1].value, "detail": found[2]}


async def _waiting(project: Path | None, state: Path | None) -> list[dict[str, Any]]:
    async with await Bus.of_project(str(OPERATOR), project, state) as bus:
        now = await state_of(bus.ledger)
    return [described(now, hold) for hold in waiting(now)]


async def _one(seq: int, project: Path | None, state: Path | None) -> dict[str, Any]:
    async with await Bus.of_project(str(OPERATOR), project, state) as bus:
        now = await state_of(bus.ledger)
    return described(now, the_one(now, seq))


def _print_digests(hold: dict[str, Any]) -> None:
    out.print(f"message    {hold['message']}", highlight=False)
    out.print(f"policies   {hold['bundle']}", highlight=False)
    if hold["blueprint"]:
        out.print(f"blueprint  {hold['blueprint']}", highlight=False)


def _in(expires: str | None) -> str:
    """How long until then, in the largest unit that says enough."""
    if expires is None:
        return "never"
    seconds = max(0, (parse_rfc3339(expires) - time.time_ns()) // _SECOND)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds // length}{unit}"
    return f"{seconds}s"
