"""What is told over HTTP of that which went wrong: problem documents (RFC 9457).

Every error of the tree has one place in this table; nothing else turns errors into statuses.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import msgspec

from tidegate_bus.binding import MEDIA_TYPE
from tidegate_schemas.errors import (
    BacklogFull,
    Denied,
    InvalidEnvelope,
    InvalidInput,
    NoReceipt,
    NotAdmitted,
    RateLimited,
    Refused,
    Rejected,
    TidegateError,
    Unauthenticated,
    Unavailable,
    Unopened,
)
from tidegate_schemas.record import Reason

KIND = "application/problem+json"
Place = Literal["pointer", "header", "parameter"]

TYPE = "urn:tidegate:problem:"
"""What the `type` of a problem begins with. The word after it is stable."""

_AGAIN_SECONDS = 2.0
_CODES = {"oversized": 413, MEDIA_TYPE: 415}


class Problem(Exception):
    """An answer that says what is wrong.

    Args:
        status: of HTTP.
        type: a stable word for programs.
        title: what such problems are called.
        detail: what is wrong this time, and the way out.
        at: what is at fault: a `pointer` into the body (RFC 6901), a `header`, or a `parameter` of
            the path or the query.
        retry_after: seconds after which the same request may succeed.
        headers: further ones.
        more: further members of the document.
    """

    def __init__(
        self,
        status: int,
        type: str,
        title: str,
        detail: str = "",
        *,
        at: Mapping[Place, str] = {},
        retry_after: float | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        more: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(f"{status} {title}: {detail}")
        self.status = status
        self.document: dict[str, Any] = {"type": TYPE + type, "title": title, "status": status}
        self.document |= {"detail": detail} if detail else {}
        self.document |= {str(name): value for name, value in at.items()}
        self.document |= more or {}
        self.headers = [*headers]
        if retry_after is not None:
            self.headers.append(("retry-after", str(max(1, math.ceil(retry_after)))))

    def body(self) -> bytes:
        """The document."""
        return msgspec.json.encode(self.document)


def problem_of(error: TidegateError) -> Problem:
    """What is told of an error."""
    match error:
        case InvalidEnvelope():
            return _invalid(error)
        case Denied():
            more = _grounds(error) | {"policies": error.policies}
            return Problem(403, "denied", "Policy says no", _sentence(error), more=more)
        case Rejected(reason=Reason.OVERSIZED):
            return _too_large(_sentence(error), _grounds(error))
        case Refused():
            return Problem(400, "rejected", "No message", _sentence(error), more=_grounds(error))
        case Unauthenticated():
            challenge = 'Bearer realm="tidegate"'
            if error.reason != "missing":
                challenge += ', error="invalid_token"'
            return Problem(
                401,
                "unauthenticated",
                "It is not known who you are",
                error.detail,
                headers=(("www-authenticate", challenge),),
                more={"reason": error.reason},
            )
        case NotAdmitted():
            return Problem(403, "not-admitted", "You may not come in", str(error))
        case RateLimited():
            title = "Too many requests"
            return Problem(429, "rate", title, str(error), retry_after=error.retry_after)
        case BacklogFull():
            title = "Too much of yours waits"
            return Problem(429, "backlog", title, str(error), retry_after=error.retry_after)
        case NoReceipt():
            title = "The bus does not answer"
            detail = f"{error}; send the same event again, it is taken once"
            return Problem(503, "unavailable", title, detail, retry_after=_AGAIN_SECONDS)
        case Unopened(why=Unopened.ERASED):
            return Problem(410, "erased", "The data was erased", str(error))
        case Unopened():
            return Problem(403, "sealed", "The data is not for you", str(error))
        case InvalidInput():
            return Problem(400, "invalid", "Not as it should be", str(error))
        case Unavailable():
            title = "The bus is away"
            return Problem(503, "unavailable", title, str(error), retry_after=_AGAIN_SECONDS)
        case _:
            return Problem(503, "unavailable", "The bus is not as it should be", str(error))


def unfit(detail: str, place: Place, name: str) -> Problem:
    """A header or parameter is not as it should be."""
    return Problem(400, "invalid", "Not as it should be", detail, at={place: name})


def too_large(size: str, limit: int) -> Problem:
    """The body of a request is over the limit."""
    return _too_large(f"{size}, at most {limit} bytes are taken")


def _too_large(detail: str, more: dict[str, Any] | None = None) -> Problem:
    return Problem(413, "too-large", "Too large", detail, more=more)


def _invalid(error: InvalidEnvelope) -> Problem:
    at: dict[Place, str] = {}
    if error.at is not None:
        at = {"pointer" if error.at[:1] in ("", "/") else "header": error.at}
    match _CODES.get(error.code, 400):
        case 413:
            return Problem(413, "too-large", "Too large", error.detail, at=at)
        case 415:
            return Problem(415, "media-type", "Not a type that is read", error.detail, at=at)
        case status:
            return Problem(status, "malformed", "Malformed", error.detail, at=at)


def _grounds(error: Refused) -> dict[str, Any]:
    return {"reason": error.reason, "seq": error.seq}


def _sentence(error: Refused) -> str:
    if isinstance(error, Denied) and error.reason == Reason.FORBIDDEN and not error.detail:
        return f"forbidden by {', '.join(error.policies)}"
    return error.detail or error.reason.replace("_", " ")
