"""Does a ledger hold what Tidegate promises of it? A pure fold over all of its records."""

from __future__ import annotations

from collections import Counter

from tidegate_bus.ledger import StoredRecord
from tidegate_schemas import subjects
from tidegate_schemas.errors import InvalidEnvelope, InvalidName, InvalidRecord
from tidegate_schemas.record import Record
from tidegate_schemas.subjects import Kind, Verdict

_MOST = 100


class Checker:
    """Give it every record from the first on, then read the result.

    Checks that sequences are without gap or repeat, that every ingress sequence has exactly one
    record with `n = 0`, in order, that subject, record and envelope agree, that a duplicate refers
    to an earlier record, and that every admitted task ended in a result or a dead letter.

    Attributes:
        violations: one line each; only the first 100 are kept.
        verdicts: number of records by verdict.
    """

    def __init__(self) -> None:
        self.violations: list[str] = []
        self.verdicts: Counter[str] = Counter()
        self.last_ingress = 0
        self._seq = 0
        self._n = 0
        self._epoch = 0
        self._open: dict[tuple[str, str], int] = {}
        self._held: dict[int, str] = {}

    @property
    def open_tasks(self) -> list[int]:
        """Sequences of admitted tasks that have neither result nor dead letter yet."""
        return sorted(self._open.values())

    @property
    def held(self) -> list[int]:
        """Sequences of the records that still hold a message."""
        return sorted(self._held)

    @property
    def records(self) -> int:
        """How many records were given."""
        return self.verdicts.total()

    def add(self, stored: StoredRecord) -> Record | None:
        """Check the next record; returns it, or None if it cannot be read."""
        if stored.seq != self._seq + 1:
            self._violation(stored.seq, f"follows {self._seq}")
        self._seq = stored.seq
        try:
            record = stored.record()
            message = record.message()
            address = subjects.parse_ledger(stored.subject)
        except (InvalidRecord, InvalidEnvelope, InvalidName) as error:
            self._violation(stored.seq, str(error))
            return None
        self.verdicts[record.verdict] += 1
        if record.seq != stored.seq:
            self._violation(stored.seq, f"bears the sequence {record.seq}")
        if (address.verdict, address.kind, address.to) != (record.verdict, record.kind, record.to):
            self._violation(stored.seq, f"is stored under {stored.subject}")
        goes = (Kind.UNKNOWN, subjects.NOWHERE) if message is None else message.destination()
        if goes != (record.kind, record.to):
            self._violation(stored.seq, f"is a {record.kind} to {record.to}, its envelope is not")
        if (message is None) != (record.verdict is Verdict.REJECT):
            self._violation(stored.seq, f"is a {record.verdict}, which its envelope cannot be")
        self._check_ingress(record)
        if record.epoch < self._epoch:
            self._violation(stored.seq, f"epoch {record.epoch} after {self._epoch}")
        self._epoch = record.epoch
        self._check_first(record)
        if message is not None and record.verdict is Verdict.ALLOW:
            if record.kind is Kind.TASK:
                self._open[(record.by, message.id)] = record.seq
            elif record.kind is Kind.RESULT and message.causationsource is None:
                self._open.pop((record.to, message.causationid or ""), None)
        return record

    def finish(self, *, ingress_last: int | None = None, quiet: bool = True) -> list[str]:
        """The violations, including those that only the end shows.

        Args:
            ingress_last: last sequence of the ingress stream; every one must have its record.
            quiet: all work is said to be over, so no task may be open.
        """
        found = list(self.violations)
        if ingress_last is not None and ingress_last != self.last_ingress:
            found.append(f"ingress ends at {ingress_last}, its records at {self.last_ingress}")
        if quiet:
            found += [f"record {seq}: task without result" for seq in self.open_tasks[:_MOST]]
        return found

    def _check_first(self, record: Record) -> None:
        """A duplicate refers to an earlier record, the end of a hold to the hold, once."""
        first, good = record.first, record.first is None
        if record.ingress.n:
            ends = record.verdict in (Verdict.ALLOW, Verdict.DENY)
            good = ends and self._held.pop(first or 0, None) == record.by
        elif record.verdict is Verdict.DUPLICATE:
            good = first is not None and 1 <= first < record.seq
        elif record.verdict is Verdict.HOLD:
            self._held[record.seq] = record.by
        if not good:
            self._violation(record.seq, f"{record.verdict} refers to {first}")

    def _check_ingress(self, record: Record) -> None:
        here = record.ingress
        fresh = here.n == 0 and here.seq == self.last_ingress + 1
        consequence = here.n == self._n + 1 and here.seq == self.last_ingress
        if not (fresh or consequence):
            self._violation(
                record.seq,
                f"answers submission {here.seq}.{here.n} after {self.last_ingress}.{self._n}",
            )
        self.last_ingress, self._n = here.seq, here.n

    def _violation(self, seq: int, what: str) -> None:
        if len(self.violations) < _MOST:
            self.violations.append(f"record {seq}: {what}")
