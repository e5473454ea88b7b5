"""Every error that Tidegate raises on purpose.

    TidegateError
    ├── InvalidInput                what was given is wrong; mend it, a retry does not help
    │   ├── InvalidName             a team, agent, kind or destination outside the grammar
    │   ├── InvalidEnvelope         bytes that are no envelope
    │   ├── InvalidRecord           bytes that are no ledger record
    │   ├── InvalidDocument         a file that people write: manifest, blueprint, settings
    │   ├── InvalidPolicy           a policy bundle that does not load
    │   ├── InvalidExpression       a CEL expression that does not parse or evaluate
    │   ├── Unauthenticated         nothing good says who calls over HTTP
    │   ├── NotAdmitted             who calls over HTTP is known, and may not come in
    │   └── NoStack                 nothing runs where it was looked for
    ├── Refused                     the bus answered no; the ledger holds the reason
    │   ├── Denied                  policy, or a rule of the gateway, said no
    │   └── Rejected                the gateway could not read the message as an envelope
    ├── Unavailable                 the way is blocked; the same call may succeed later
    │   ├── ServerMissing           no usable nats-server on this machine (a retry does not help)
    │   ├── ServerFailed            nats-server did not start or stopped
    │   ├── NotConnected            no broker answers at the address
    │   ├── BacklogFull             as much of the sender waits already as the broker takes
    │   ├── RateLimited             who calls over HTTP does so too often
    │   └── NoReceipt               accepted or not is unknown; publish the same envelope again
    ├── Unopened                    sealed data that cannot be had: erased, or not for who asks
    ├── Permanent                   raised by a handler: this message can never be handled
    └── LedgerError                 the evidence is not what it should be; stop and look
        ├── Fenced                  somebody else wrote to the ledger
        ├── LedgerGap               a record or a submission is missing
        ├── TopologyDrift           streams or consumers differ from what the code declares
        └── VerificationError       evidence does not prove what it is given for, or is malformed

The split is by what the caller can do about it. Programming mistakes stand outside the tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, cast


class TidegateError(Exception):
    """The root. `retryable` says whether the same call may succeed later, unchanged."""

    retryable: ClassVar[bool] = False

    def __reduce__(self) -> tuple[Any, ...]:
        # A worker process tells the one that started it: not by calling the class with its message.
        return _again, (type(self), self.args, self.__dict__)


def _again(kind: type[TidegateError], args: tuple[Any, ...], state: dict[str, Any]) -> Any:
    error = kind.__new__(kind)
    error.args = args
    error.__dict__.update(state)
    return error


class InvalidInput(TidegateError):
    """What was given is wrong. Mend the input; nothing was sent or stored."""


class InvalidName(InvalidInput):
    """A name or destination is outside the subject grammar."""


class InvalidEnvelope(InvalidInput):
    """Bytes that are no envelope.

    Attributes:
        code: a stable word for the kind of fault, e.g. `malformed` or `oversized`.
        detail: what is wrong and where.
        at: the attribute that is at fault; of a request over HTTP, where in it. Empty if it is the
            whole, None if that is not known.
    """

    def __init__(self, code: str, detail: str, at: str | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.at = at


class InvalidRecord(InvalidInput):
    """Bytes that are no ledger record."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One fault of a file: line (1-based, 0 when unknown), dotted field, and what is wrong."""

    line: int
    field: str
    message: str


class InvalidDocument(InvalidInput):
    """A file that people write does not hold what it must.

    Attributes:
        path: the file.
        problems: each fault with its line and field.
    """

    def __init__(self, path: Path | str, problems: list[Problem]) -> None:
        self.path = Path(path)
        self.problems = problems
        super().__init__("\n".join(self._lines()))

    def _lines(self) -> list[str]:
        return [
            f"{self.path}{f':{p.line}' if p.line else ''}: "
            f"{f'{p.field}: ' if p.field else ''}{p.message}"
            for p in self.problems
        ]


class InvalidPolicy(InvalidInput):
    """A policy bundle does not load. The gateway does not start on it.

    Attributes:
        problems: one line a fault, each naming the file.
    """

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class InvalidExpression(InvalidInput):
    """A CEL expression does not parse, or does not evaluate over the values at hand.

    Attributes:
        expression: the text.
        detail: what is wrong.
    """

    def __init__(self, expression: str, detail: str) -> None:
        super().__init__(f"`{expression}`: {detail}")
        self.expression = expression
        self.detail = detail


class Unauthenticated(InvalidInput):
    """Nothing that a caller over HTTP shows says who it is.

    Attributes:
        reason: a stable word for the ground, e.g. `missing`, `unknown` or `expired`.
        detail: the sentence that goes with it; fit for the caller.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason
        self.detail = detail


class NotAdmitted(InvalidInput):
    """Who calls over HTTP is known, and may not come in: nobody of the bus, or revoked."""


class NoStack(InvalidInput):
    """No stack runs with its state in the folder that was given. Start one, or name another."""


class Refused(TidegateError):
    """The bus recorded the message and did not deliver it.

    Attributes:
        reason: the stable word for the ground, e.g. `forbidden` or `expired`.
        detail: the sentence that goes with it.
        seq: the ledger sequence of the record that says so.
    """

    def __init__(self, reason: str, detail: str, seq: int) -> None:
        super().__init__(f"{reason}{f': {detail}' if detail else ''} (ledger record {seq})")
        self.reason = reason
        self.detail = detail
        self.seq = seq


class Denied(Refused):
    """Policy, or a rule of the gateway, said no.

    You do not get this for a message that was held or that repeats an earlier one.

    Attributes:
        policies: the ids of the deciding policies; empty when no policy permitted it.
    """

    def __init__(self, reason: str, detail: str, seq: int, policies: tuple[str, ...]) -> None:
        super().__init__(reason, detail, seq)
        self.policies = policies


class Rejected(Refused):
    """The gateway could not read the message as an envelope."""


class Unavailable(TidegateError):
    """The way is blocked. The same call may succeed later."""

    retryable = True


class ServerMissing(Unavailable):
    """No usable nats-server on this machine. Installing one helps, a retry does not."""

    retryable = False


class ServerFailed(Unavailable):
    """nats-server did not become ready, or stopped.

    Attributes:
        log: the last lines it wrote.
    """

    def __init__(self, message: str, log: str = "") -> None:
        super().__init__(f"{message}\n{log}" if log else message)
        self.log = log


class NotConnected(Unavailable):
    """No broker answers at the address, or it does not know the key."""


class BacklogFull(Unavailable):
    """As much of the sender waits for the gateway already as the broker takes.

    Attributes:
        retry_after: seconds after which it is worth trying again.
    """

    def __init__(self, principal: object, retry_after: float) -> None:
        super().__init__(f"the backlog of {principal} is full; try again in {retry_after:g} s")
        self.retry_after = retry_after


class RateLimited(Unavailable):
    """Who calls over HTTP does so too often.

    Attributes:
        retry_after: seconds after which it may come again.
    """

    def __init__(self, rate: str, retry_after: float) -> None:
        super().__init__(f"more than {rate}; try again in {retry_after:.3g} s")
        self.retry_after = retry_after


class NoReceipt(Unavailable):
    """Nothing came back in time: the message may or may not be recorded.

    Publish the same envelope again; the bus answers with the first verdict.

    Attributes:
        envelope_id: the id to publish again.
        accepted: whether the durable ingress has it, so that only the verdict is missing.
    """

    def __init__(
        self, envelope_id: str, seconds: float, waited_for: str, *, accepted: bool = False
    ) -> None:
        super().__init__(f"no {waited_for} for envelope {envelope_id!r} within {seconds:g} s")
        self.envelope_id = envelope_id
        self.accepted = accepted


class Unopened(TidegateError):
    """Sealed personal data cannot be had.

    You do not get this where the gateway does not answer, which is Unavailable.

    Attributes:
        why: `erased`, its key was destroyed; `forbidden`, it is not for who asks.
    """

    ERASED = "erased"
    FORBIDDEN = "forbidden"

    def __init__(self, why: str, detail: str) -> None:
        super().__init__(f"{why}: {detail}")
        self.why = why


class Permanent(TidegateError):
    """Raise it in a handler: the message can never be handled, dead-letter it now."""


class LedgerError(TidegateError):
    """The evidence is not what it should be. Whoever gets this stops and says so loudly."""


class Fenced(LedgerError):
    """Somebody else wrote to the ledger where this writer was about to.

    Attributes:
        expected: the sequence this writer expected to be the last one.
    """

    def __init__(self, expected: int, answer: str) -> None:
        super().__init__(f"the ledger did not end at sequence {expected}: {answer}")
        self.expected = expected


class LedgerGap(LedgerError):
    """A ledger record or an ingress message is missing.

    Attributes:
        stream: where.
        expected: the sequence that should have come next.
        found: the sequence that came.
    """

    def __init__(self, stream: str, expected: int, found: int) -> None:
        super().__init__(f"{stream}: expected sequence {expected}, found {found}")
        self.stream = stream
        self.expected = expected
        self.found = found


class TopologyDrift(LedgerError):
    """Streams or consumers differ from what the code declares and may not be changed in place.

    Attributes:
        differences: one line a difference.
    """

    def __init__(self, differences: list[str]) -> None:
        super().__init__("\n".join(differences))
        self.differences = differences


class VerificationError(LedgerError):
    """Evidence does not prove what it is given for: malformed, altered, or of something else."""


def first_error(error: BaseException) -> BaseException:
    """The first error of a group of groups; the error itself when it is no group."""
    while isinstance(error, BaseExceptionGroup):
        error = cast("BaseExceptionGroup[BaseException]", error).exceptions[0]
    return error
