"""The bundles that a ledger holds, and when each was in force. A fold of `policy.*`. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tidegate_policy.bundle import Bundle
from tidegate_policy.bundle.contents import digest
from tidegate_policy.genesis import genesis
from tidegate_schemas import subjects, vocabulary
from tidegate_schemas.errors import InvalidEnvelope, InvalidInput
from tidegate_schemas.governance import Activation, Proposal
from tidegate_schemas.subjects import Kind

from .past import read_record, strange


@dataclass(frozen=True, slots=True)
class Shelf:
    """Bundles by digest, and the changes of which is in force.

    Attributes:
        files: of each bundle.
        activations: sequence and digest, in order; in force from the next record on.
    """

    files: Mapping[str, Mapping[str, str]]
    activations: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, changes: Iterable[tuple[int, bytes]]) -> Shelf:
        """From all records under `policy_filter`: sequence and payload.

        Raises:
            LedgerError: one of them is not of a gateway.
        """
        first = genesis().bundle
        files: dict[str, Mapping[str, str]] = {first.digest: first.files}
        activations = [(0, first.digest)]
        for seq, payload in changes:
            record = read_record(seq, payload)
            try:
                message = record.message()
                assert message
                if record.to == vocabulary.POLICY_PROPOSE:
                    proposal: Proposal = message.payload(Proposal)
                    files[digest(proposal.files)] = proposal.files
                elif record.to == vocabulary.POLICY_ACTIVATE:
                    activation: Activation = message.payload(Activation)
                    activations.append((seq, activation.bundle))
            except InvalidEnvelope as error:
                raise strange(seq, error) from error
        return cls(files, tuple(activations))

    def in_force(self, seq: int) -> tuple[str, int]:
        """Digest of the bundle under which a record was decided, and what put it in force."""
        since, found = next(a for a in reversed(self.activations) if a[0] < seq)
        return found, since

    @property
    def active(self) -> str:
        """Digest of the bundle in force after all of them."""
        return self.activations[-1][1]

    @property
    def previous(self) -> str | None:
        """Digest of what was in force before that, if anything else was."""
        return next((d for _, d in reversed(self.activations[1:]) if d != self.active), None)

    def bundle(self, digest: str) -> Bundle:
        """A bundle; the first digits of its digest will do.

        Raises:
            InvalidInput: the ledger has none of that digest, or several.
            InvalidPolicy: it does not load; this program takes other policies than the gateway.
        """
        return Bundle.of_files(self.files[self.find(digest)])

    def find(self, digest: str) -> str:
        """The whole of a digest, from its first digits.

        Raises:
            InvalidInput: the ledger has none of that digest, or several.
        """
        wanted = f"sha256:{digest.removeprefix('sha256:')}"
        found = [known for known in self.files if known.startswith(wanted)]
        if len(found) != 1:
            many = f"{len(found)} bundles" if found else "no bundle"
            raise InvalidInput(
                f"the ledger has {many} {digest[:80]}; `tidegate policy history` lists all"
            )
        return found[0]


def policy_filter(partition: int = 0) -> str:
    """Subjects of the records that a `Shelf` is a fold of."""
    return subjects.delivery(partition, Kind.CONTROL, "policy.>")
