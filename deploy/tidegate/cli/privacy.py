"""`tidegate privacy`: keep personal data against erasure, and let go of it again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tidegate.governance import state_of
from tidegate_schemas import vocabulary
from tidegate_schemas.clock import rfc3339
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.governance import DataSubject
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
)

app = group("Keep personal data against erasure (legal hold), and let go of it again.")

SubjectArgument = Annotated[
    str, typer.Argument(metavar="SUBJECT", help="The person, as in `datasubject` of messages.")
]
ReasonOption = Annotated[str, typer.Option(help="Why; it stands in the ledger, so name nobody.")]


@app.command()
def hold(
    subject: SubjectArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep what there is about SUBJECT: neither `erase` nor the retention destroys its keys."""
    _command(vocabulary.PRIVACY_HOLD, subject, reason, principal, project, state, as_json)


@app.command()
def release(
    subject: SubjectArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """End a legal hold. What the retention would have let go meanwhile is let go now."""
    _command(vocabulary.PRIVACY_RELEASE, subject, reason, principal, project, state, as_json)


@app.command()
def show(
    project: ProjectOption = None, state: StateOption = None, as_json: JsonOption = False
) -> None:
    """Show who is under legal hold, by pseudonym, and how many were erased."""
    found = run(_standing(project, state))
    if as_json:
        print_json(found)
        return
    kept = f", kept from {found['kept_from']} on" if found["kept_from"] else ""
    out.print(f"{found['erased']:,} erased, {len(found['holds']):,} held{kept}", highlight=False)
    if found["holds"]:
        rows = ((h["subject"], h["since"][:19].replace("T", " "), h["by"]) for h in found["holds"])
        out.print(table("", ("held", "since (UTC)", "by"), rows))


def _command(
    to: str,
    subject: str,
    reason: str,
    principal: str,
    project: Path | None,
    state: Path | None,
    as_json: bool,
) -> None:
    done = run(order(to, subject, reason, principal, project, state))
    if done is None:
        raise InvalidInput(f"nothing is kept about {clean(subject)}")
    if as_json:
        print_json(done)
        return
    word = "held" if to == vocabulary.PRIVACY_HOLD else "released"
    pseudonym = done["subject"]
    out.print(f"[green]{word}[/green] {clean(subject)} ({pseudonym}); record {done['record']}")


async def order(
    to: str, subject: str, reason: str, principal: str, project: Path | None, state: Path | None
) -> dict[str, Any] | None:
    """Give a command about a data subject; None where nothing is kept about it.

    Raises:
        InvalidInput: it is not one name, or the reason would bring that into the ledger.
        Denied, Held: see `say`.
        Unopened: who asks is no operator.
    """
    if not subject.strip() or "," in subject:  # of several it would say that nothing is kept
        raise InvalidInput("SUBJECT is one person; give the command once for each")
    if subject.casefold() in reason.casefold():
        raise InvalidInput("the reason names the person, and would stand in the ledger for ever")
    async with buses(principal, project, state) as (operator, sender):
        pseudonym = await operator.pseudonym(subject)
        if pseudonym is None:
            return None
        receipt = await say(sender, to, DataSubject(pseudonym, reason))
    return {
        "record": receipt.seq,
        "command": to,
        "subject": pseudonym,
        "policies": list(receipt.policies),
    }


async def _standing(project: Path | None, state: Path | None) -> dict[str, Any]:
    async with buses(str(OPERATOR), project, state) as (operator, _):
        privacy = (await state_of(operator.ledger)).privacy
    return {
        "erased": len(privacy.erased),
        "kept_from": privacy.before or None,
        "holds": [
            {"subject": subject, "by": hold.by, "since": rfc3339(hold.time)}
            for subject, hold in privacy.holds.items()
        ],
    }
