"""Whether a record is proven to be in the log, in a sentence that says no more than is so."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from tidegate.project import State
from tidegate.proving import NotCovered, prove
from tidegate_evidence.trust import Trust
from tidegate_policy.signing.checkpoints import Checkpoints
from tidegate_schemas.errors import InvalidInput, VerificationError


@dataclass(frozen=True, slots=True)
class Standing:
    """What is shown of it.

    Attributes:
        word: `proven`, `not yet` or `NOT PROVEN`.
        looks: like which verdict.
        says: the sentence.
        hashes: how many lead from the record to the root of the checkpoint.
    """

    word: str
    looks: str
    says: str
    hashes: int = 0


def standing(state: State, seq: int, record: bytes) -> Standing:
    """Check the proof of a record against the newest checkpoint of the notary.

    Args:
        state: of the stack.
        seq: of the record.
        record: its bytes, as the broker has them.
    """
    try:
        found = Checkpoints(state.notary, 0.0).read()
        if found is None:
            return _not_yet("The notary has published no checkpoint yet.")
        note, _ = found
        trust = Trust.parse(state.trust.read_bytes())
        proof = prove(state.notary, note, seq).proof
        checkpoint = proof.check(record, trust)
    except NotCovered as error:
        return _not_yet(
            f"The newest checkpoint covers {error.size:,} records; one that covers this record "
            "usually follows within seconds."
        )
    except (VerificationError, InvalidInput, OSError) as error:
        return Standing("NOT PROVEN", "deny", f"{error}. See `tidegate doctor`.")
    signed = trust.cosigned(note)
    by = "; ".join(f"cosigned by {name} at {_time(when)}" for name, when in signed.items())
    says = (
        f"Its bytes lead to the root of the checkpoint of {checkpoint.size:,} records of "
        f"{checkpoint.origin}, which is signed by whom the trust file of the project names"
    )
    return Standing("proven", "allow", f"{says}{f'; {by}' if by else ''}.", len(proof.hashes))


def _not_yet(says: str) -> Standing:
    return Standing("not yet", "hold", says)


def _time(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, OSError, ValueError):  # a time is any number that somebody has signed
        return f"{seconds} s"
