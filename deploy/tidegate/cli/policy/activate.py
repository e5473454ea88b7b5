"""`tidegate policy activate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from tidegate import policies
from tidegate.audit import NEITHER, is_digest
from tidegate.cli.commands import buses, held
from tidegate.cli.console import (
    AsOption,
    Held,
    JsonOption,
    ProjectOption,
    StateOption,
    out,
    print_json,
)
from tidegate.cli.console import run as run_async
from tidegate.project import find_project
from tidegate_policy.bundle import Bundle, load_bundle
from tidegate_policy.replay import Diff
from tidegate_policy.replay.shelf import Shelf
from tidegate_schemas.errors import InvalidInput
from tidegate_schemas.governance import Report
from tidegate_schemas.record import Receipt
from tidegate_schemas.subjects import Verdict
from tidegate_schemas.vocabulary import OPERATOR

ReasonOption = Annotated[str, typer.Option(help="Why; the ledger keeps it.")]
ReportOption = Annotated[
    Path | None,
    typer.Option(help="What it changes: the file that `tidegate policy diff --report` wrote."),
]


def activate(
    bundle: Annotated[
        str | None,
        typer.Argument(help="Folder of a bundle (by default the project's), or a digest."),
    ] = None,
    report: ReportOption = None,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put policies in force: for every message after the record that says so.

    The bundle goes into the ledger, for ever. One that is broken, or under which you could not
    activate the next one, is refused, and the one before stays in force. Exit status 3 when it is
    refused.
    """
    given = read_report(report)
    receipt, digest = run_async(_activate(bundle, given, reason, principal, project, state))
    say(receipt, digest, as_json)


async def _activate(
    bundle: str | None,
    report: Report | None,
    reason: str,
    principal: str,
    project: Path | None,
    state: Path | None,
) -> tuple[Receipt, str]:
    async with buses(principal, project, state) as (operator, sender):
        known = await policies.shelf(operator.ledger)
        loaded = _loaded(bundle, project, known)
        if loaded.digest == known.active:
            raise InvalidInput(f"{loaded.digest} is in force already")
        done = await policies.put_in_force(sender, loaded, known, reason=reason, report=report)
        return done, loaded.digest


def _loaded(bundle: str | None, project: Path | None, known: Shelf) -> Bundle:
    """The bundle in a folder, or one that the ledger has."""
    if bundle is None:
        return load_bundle(find_project(project or Path.cwd()) / "policy")
    if Path(bundle).is_dir():
        return load_bundle(Path(bundle))
    if not is_digest(bundle):
        raise InvalidInput(NEITHER.format(bundle))
    return known.bundle(bundle)


def read_report(path: Path | None) -> Report | None:
    """What an activation carries of a report, if there is one.

    Raises:
        InvalidInput: the file cannot be read, is no report, or was changed.
    """
    if path is None:
        return None
    try:
        document: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
        said = document.pop("digest", None)
        found = msgspec.convert(document, Diff)
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
    except msgspec.MsgspecError as error:
        raise InvalidInput(f"{path}: not a report of `tidegate policy diff`: {error}") from None
    if said != found.digest:
        raise InvalidInput(f"{path}: it was changed; its digest is {found.digest}, not {said}")
    return found.summary()


def say(receipt: Receipt, digest: str, as_json: bool) -> None:
    """Tell what came of an activation.

    Raises:
        Held: it waits for approval.
    """
    if receipt.verdict is Verdict.HOLD:
        raise Held(held(receipt), receipt.seq)
    if as_json:
        print_json({"bundle": digest, **msgspec.to_builtins(receipt)})
    else:
        out.print(f"{digest} is in force from record {receipt.seq} on", highlight=False)
