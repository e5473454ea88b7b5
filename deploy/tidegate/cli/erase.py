"""`tidegate erase`: make everything about a person unreadable."""

from __future__ import annotations

from tidegate_schemas.vocabulary import OPERATOR, PRIVACY_ERASE

from .console import (
    AsOption,
    JsonOption,
    ProjectOption,
    StateOption,
    clean,
    err,
    out,
    print_json,
    run,
)
from .privacy import ReasonOption, SubjectArgument, order


def erase(
    subject: SubjectArgument,
    reason: ReasonOption = "",
    principal: AsOption = str(OPERATOR),
    project: ProjectOption = None,
    state: StateOption = None,
    as_json: JsonOption = False,
) -> None:
    """Destroy the keys of SUBJECT: what the ledger holds about them nobody can read again.

    The ledger stays as it is, and so do its proofs. A legal hold stands in the way (exit status 3).
    Of what is under several people's keys, one is enough. Where nothing is kept about SUBJECT, or
    not any more, that is said, and nothing is recorded.
    """
    done = run(order(PRIVACY_ERASE, subject, reason, principal, project, state))
    if as_json:
        print_json(done or {"record": None, "command": PRIVACY_ERASE, "subject": None})
    elif done is None:
        err.print(f"nothing is kept about {clean(subject)}")
    else:
        pseudonym = done["subject"]
        out.print(f"[green]erased[/green] {clean(subject)} ({pseudonym}); record {done['record']}")
