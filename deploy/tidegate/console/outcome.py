"""What came of an action, in words for the person who took it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tidegate_schemas.errors import Denied, InvalidInput, NoReceipt, Refused, TidegateError
from tidegate_schemas.record import Reason, Receipt
from tidegate_schemas.subjects import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """What is shown of it.

    Attributes:
        title: what was done, or was to be.
        verdict: of the bus; empty where it was not heard.
        seq: of the record; 0 where there is none.
        says: why, one sentence.
        todo: what to do, where there is something to do.
        link: page where that is done, with its name; empty without.
    """

    title: str
    verdict: str
    seq: int = 0
    says: str = ""
    todo: str = ""
    link: tuple[str, str] = ("", "")

    @property
    def done(self) -> bool:
        """Whether it is in force."""
        return self.verdict == Verdict.ALLOW

    def with_words(self, says: str) -> Outcome:
        """The same, saying something else."""
        return replace(self, says=says)


def of_receipt(title: str, receipt: Receipt) -> Outcome:
    """Of an action that was admitted, or waits.

    Args:
        title: what was done, or is to be.
        receipt: of its envelope.
    """
    by = f"By {', '.join(receipt.policies)}." if receipt.policies else ""
    if receipt.verdict is not Verdict.HOLD:
        return Outcome(title, Verdict.ALLOW, receipt.seq, by)
    asked = f"{receipt.detail[:1].upper()}{receipt.detail[1:]}." if receipt.detail else by
    if receipt.reason == Reason.APPROVAL_REQUIRED or not receipt.detail:
        todo = "It comes into force once it is approved."
        link = (f"/approvals/{receipt.seq}", "See who must agree")
    else:
        todo = "It goes on once what stops it is resumed or released."
        link = ("/controls", "See what is stopped")
    return Outcome(title, Verdict.HOLD, receipt.seq, asked, todo, link)


def of_error(title: str, who: object, error: TidegateError) -> Outcome:
    """Of an action that was refused, or of which nothing was heard.

    Args:
        title: what was to be done.
        who: wanted it.
        error: that came instead.
    """
    if isinstance(error, Refused):
        policies = error.policies if isinstance(error, Denied) else ()
        by = f" ({', '.join(policies)})" if policies else ""
        why = error.detail or error.reason.replace("_", " ")
        says = f"{why[:1].upper()}{why[1:]}{by}."
        verdict = Verdict.DENY if isinstance(error, Denied) else Verdict.REJECT
        todo, link = "", ("", "")
        if error.reason in (Reason.NOT_PERMITTED, Reason.FORBIDDEN):
            todo = f"A policy must let {who} do this, or somebody whom one lets must do it."
            link = ("/policies", "See the policies in force")
        return Outcome(title, verdict, error.seq, says, todo, link)
    if isinstance(error, NoReceipt):
        todo = "It may be in force or not. Look at the newest records before you repeat it."
        return Outcome(title, "", 0, f"{error}.", todo, ("/ledger", "Newest records"))
    todo = "" if isinstance(error, InvalidInput) else "Try again; nothing was recorded."
    return Outcome(title, "", 0, f"{error}.", todo)
